//! `scumble bench text`: seconds of encoding texts, alone and together with the gradients of a LoRA on the encoder's
//! attention layers. Random weights of the full size.

use scumble_adapter::Tower;
use scumble_adapter::attach::Towers;
use scumble_adapter::create::{Init, Kind};
use scumble_adapter::select::{Preset, TowerTargets};
use scumble_model::text_encoder::TextEncoder;
use scumble_tensor::Tape;
use scumble_tensor::rng::stream;
use serde_json::json;

use super::architecture::{TOKENS, context_width, text_config, token_ids};
use super::step::attached;
use super::{TextArgs, peak_rss_gb, rounded, timed};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

const SEED: u64 = 0;

/// Measures and prints.
pub fn run(context: &Context, args: &TextArgs) -> Result {
    if args.batch == 0 || args.repeats == 0 {
        return Err(Failure::usage("--batch and --repeats are at least 1"));
    }
    let backend = context.backend()?;
    let dtype = args.precision.dtype();
    context.terminal.status("making up the weights");
    let encoder = TextEncoder::fresh(&text_config(args.arch), SEED, backend.as_ref(), dtype)?;
    let ids = token_ids(args.arch, args.batch)?;
    let forward_s = timed(context, "encoding", args.repeats, || {
        encoder.states(&Tape::inference(backend.clone()), &ids, 0)?;
        Ok(())
    })?;
    let towers = Towers { unet: None, text_encoder: Some(encoder.modules()) };
    let tower = TowerTargets::new(Tower::TextEncoder, Preset::Attention, args.rank, args.rank as f32);
    let params = attached(towers, tower, Kind::LowRank(Init::Normal), backend.as_ref())?;
    let d_states =
        stream(SEED, "bench gradient").randn_tensor(&[args.batch, TOKENS, context_width(args.arch)])?;
    let d_states = backend.cast(&backend.upload(&d_states)?, dtype)?;
    let gradients_s = timed(context, "encoding and gradients", args.repeats, || {
        let tape = Tape::recording(backend.clone());
        let states = encoder.states(&tape, &ids, 0)?;
        if tape.backward(&states, d_states.clone())?.len() != params.len() {
            return Err(Failure::new("some factors got no gradient"));
        }
        Ok(())
    })?;
    let (arch, name) = (args.arch.name(), backend.name());
    if args.json {
        let line = json!({
            "program": "scumble", "version": env!("CARGO_PKG_VERSION"), "backend": name, "arch": arch,
            "precision": args.precision.name(), "rank": args.rank, "batch": args.batch, "threads": context.threads(),
            "forward_s": rounded(forward_s, 4), "gradients_s": rounded(gradients_s, 4), "peak_rss_gb": peak_rss_gb(),
        });
        context.terminal.result(&line.to_string());
    } else {
        context.terminal.result(&format!(
            "text encoder of {arch} {} on {name}: {forward_s:.3} s to encode, {gradients_s:.3} s with gradients, {:.2} GB",
            args.precision,
            peak_rss_gb()
        ));
    }
    Ok(Outcome::Done)
}
