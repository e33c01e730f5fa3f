//! `scumble bench generate`: seconds of what a picture is painted with. A picture takes one text encoding for each of the
//! two prompts, a guided step for each of the sampler's calls, and one decoding.

use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::{Conditioning, UNet};
use scumble_model::vae::Vae;
use scumble_tensor::rng::stream;
use scumble_tensor::{Tape, Var};
use serde_json::json;

use super::architecture::{TOKENS, context_width, text_config, token_ids, unet_config, vae_config};
use super::{GenerateArgs, peak_rss_gb, rounded, timed};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

const SEED: u64 = 0;

/// Measures and prints.
pub fn run(context: &Context, args: &GenerateArgs) -> Result {
    if args.batch == 0 || args.latent == 0 || args.repeats == 0 {
        return Err(Failure::usage("--batch, --latent and --repeats are at least 1"));
    }
    let backend = context.backend()?;
    let dtype = args.precision.dtype();
    context.terminal.status("making up the weights");
    let unet = UNet::fresh(&unet_config(args.arch), SEED, backend.as_ref(), dtype)?;
    let text = TextEncoder::fresh(&text_config(args.arch), SEED, backend.as_ref(), dtype)?;
    let vae = Vae::fresh(&vae_config(args.arch), SEED, backend.as_ref(), dtype)?;
    let random = |name: &str, dims: &[usize]| -> Result<Var> {
        let host = stream(SEED, name).randn_tensor(dims)?;
        Ok(Var::constant(backend.cast(&backend.upload(&host)?, dtype)?))
    };
    let tape = || Tape::inference(backend.clone());
    let ids = token_ids(args.arch, 2 * args.batch)?;
    let text_s = timed(context, "encoding texts", args.repeats, || {
        text.states(&tape(), &ids, 0)?;
        Ok(())
    })?;
    // With guidance every picture is seen with its prompt and with the negative one.
    let latents = random("bench latents", &[2 * args.batch, args.latent, args.latent, 4])?;
    let states = random("bench text", &[2 * args.batch, TOKENS, context_width(args.arch)])?;
    let timesteps = vec![500.0; 2 * args.batch];
    let guided_step_s = timed(context, "guided step", args.repeats, || {
        let conditioning = Conditioning { states: &states, text_time: None };
        unet.forward(&tape(), &latents, &timesteps, conditioning)?;
        Ok(())
    })?;
    let pictures = random("bench pictures", &[args.batch, args.latent, args.latent, 4])?;
    let decode_s = timed(context, "decoding", args.repeats, || {
        vae.decode(&tape(), &pictures)?;
        Ok(())
    })?;
    let (arch, name) = (args.arch.name(), backend.name());
    if args.json {
        let line = json!({
            "program": "scumble", "version": env!("CARGO_PKG_VERSION"), "backend": name, "arch": arch,
            "precision": args.precision.name(), "batch": args.batch, "latent": args.latent, "threads": context.threads(),
            "text_s": rounded(text_s, 4), "guided_step_s": rounded(guided_step_s, 4), "decode_s": rounded(decode_s, 4),
            "peak_rss_gb": peak_rss_gb(),
        });
        context.terminal.result(&line.to_string());
    } else {
        context.terminal.result(&format!(
            "{arch} {} on {name}: {text_s:.2} s for the texts, {guided_step_s:.2} s a guided step, {decode_s:.2} s to decode, \
             {:.2} GB",
            args.precision,
            peak_rss_gb()
        ));
    }
    Ok(Outcome::Done)
}
