//! Progress of work that several commands do.

use std::time::Instant;

use scumble_eval::gallery::Place;

use crate::context::Context;
use crate::terminal::Progress;

/// A line over all pictures of a phase, counted in model calls, of which every picture has about as many.
pub fn pictures(context: &Context, unit: &str, place: &Place, start: &Instant) {
    let calls = place.step.total.max(1) as u64;
    let done = place.done as u64 * calls + place.step.done as u64;
    context.terminal.progress(&Progress {
        unit,
        done,
        total: place.total as u64 * calls,
        done_here: done,
        elapsed: start.elapsed(),
        extra: &format!("picture {}/{}", place.done + 1, place.total),
    });
}
