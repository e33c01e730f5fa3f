//! Key maps between single files (CompVis, SGM, OpenCLIP, older diffusers) and today's diffusers names, both ways.
//!
//! Each file has one network with its two directions side by side, made of the same tables. A name that no rule covers
//! is no part of the network: readers then report it, instead of it vanishing here.

pub(crate) mod text;
pub(crate) mod unet;
pub(crate) mod vae;

/// `name` with the first prefix of `pairs` that it has replaced by that prefix's partner.
fn swapped(name: &str, pairs: &[(&str, &str)]) -> Option<String> {
    pairs.iter().find_map(|(old, new)| Some(format!("{new}{}", name.strip_prefix(old)?)))
}

/// As [`swapped`], from the second of each pair to the first.
fn swapped_back(name: &str, pairs: &[(&str, &str)]) -> Option<String> {
    pairs.iter().find_map(|(old, new)| Some(format!("{old}{}", name.strip_prefix(new)?)))
}

/// `3.rest` as a number and what follows.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    Some((number.parse().ok()?, rest))
}
