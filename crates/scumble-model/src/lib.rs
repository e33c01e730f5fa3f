//! Floor 2 of scumble: weight files, tokenizer, text encoder, UNet, VAE, noise schedules, samplers, pipelines.

pub mod files;
