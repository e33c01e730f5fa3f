//! `scumble bench vae`: seconds of encoding and decoding pictures with the full-size autoencoder.

use scumble_model::vae::Vae;
use scumble_tensor::rng::stream;
use scumble_tensor::{Tape, Var};
use serde_json::json;

use super::Arch;
use super::architecture::vae_config;
use super::profile::Profiled;
use super::{VaeArgs, peak_rss_gb, rounded, timed};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

const SEED: u64 = 0;

/// Measures and prints.
pub fn run(context: &Context, args: &VaeArgs) -> Result {
    if args.batch == 0 || args.repeats == 0 {
        return Err(Failure::usage("--batch and --repeats are at least 1"));
    }
    if args.size == 0 || !args.size.is_multiple_of(8) {
        return Err(Failure::usage(format!("--size is a multiple of 8, not {}", args.size)));
    }
    let backend = context.backend()?;
    let (backend, profiled) = Profiled::around(backend, args.profile);
    let dtype = args.precision.dtype();
    context.terminal.status("making up the weights");
    let vae = Vae::fresh(&vae_config(Arch::Sd15), SEED, backend.as_ref(), dtype)?;
    let random = |name: &str, dims: &[usize]| -> Result<Var> {
        let host = stream(SEED, name).randn_tensor(dims)?;
        Ok(Var::constant(backend.cast(&backend.upload(&host)?, dtype)?))
    };
    let picture = random("bench picture", &[args.batch, args.size, args.size, 3])?;
    let latents = random("bench latents", &[args.batch, args.size / 8, args.size / 8, 4])?;
    if let Some(profiled) = &profiled {
        profiled.forget();
    }
    let encode_s = timed(context, "encoding", args.repeats, || {
        vae.encode(&Tape::inference(backend.clone()), &picture)?;
        Ok(())
    })?;
    let decode_s = timed(context, "decoding", args.repeats, || {
        vae.decode(&Tape::inference(backend.clone()), &latents)?;
        Ok(())
    })?;
    let name = backend.name();
    let runs = args.repeats + 1;
    if args.json {
        let mut line = json!({
            "program": "scumble", "version": env!("CARGO_PKG_VERSION"), "backend": name,
            "precision": args.precision.name(), "batch": args.batch, "size": args.size, "threads": context.threads(),
            "encode_s": rounded(encode_s, 4), "decode_s": rounded(decode_s, 4), "peak_rss_gb": peak_rss_gb(),
        });
        if let Some(profiled) = &profiled {
            line["profile"] = profiled.json(runs);
        }
        context.terminal.result(&line.to_string());
    } else {
        context.terminal.result(&format!(
            "autoencoder {} on {name}: {encode_s:.2} s to encode, {decode_s:.2} s to decode, {:.2} GB",
            args.precision,
            peak_rss_gb()
        ));
        if let Some(profiled) = &profiled {
            context.terminal.result(&profiled.table(runs));
        }
    }
    Ok(Outcome::Done)
}
