//! Ctrl-C: the first asks the work to stop at a good place, the second ends the program at once. Files are always
//! written whole, so nothing breaks either way.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Failure, Result};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The flag that says somebody wants the work to stop.
pub fn flag() -> Arc<AtomicBool> {
    Arc::clone(STOP.get_or_init(Arc::default))
}

/// Whether the work should stop.
pub fn is_wanted() -> bool {
    flag().load(Ordering::Relaxed)
}

/// Starts listening.
pub fn listen() -> Result<()> {
    let flag = flag();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|error| Failure::new(format!("cannot listen for Ctrl-C: {error}")))
}
