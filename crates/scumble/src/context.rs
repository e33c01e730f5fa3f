//! What every command works with: the global options, the two output streams, and the backend on demand.

use std::sync::Arc;

use scumble_cpu::CpuBackend;
use scumble_tensor::Backend;

use crate::args::{DeviceChoice, GlobalArgs};
use crate::failure::Result;
use crate::terminal::Terminal;

/// Shared by all commands.
pub struct Context {
    /// The global options as typed.
    pub global: GlobalArgs,
    /// The output streams.
    pub terminal: Terminal,
}

impl Context {
    /// Bundles the two.
    pub fn new(global: GlobalArgs, terminal: Terminal) -> Self {
        Self { global, terminal }
    }

    /// How many threads to use for work that is cut up by hand.
    pub fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        self.global.threads.map_or_else(all, std::num::NonZeroUsize::get)
    }

    /// The backend for the chosen device and threads.
    pub fn backend(&self) -> Result<Arc<dyn Backend>> {
        self.backend_with(self.global.threads.map(std::num::NonZeroUsize::get))
    }

    /// The backend for the chosen device and a number of threads.
    pub fn backend_with(&self, threads: Option<usize>) -> Result<Arc<dyn Backend>> {
        let backend: Arc<dyn Backend> = match self.global.device {
            DeviceChoice::Auto | DeviceChoice::Cpu => Arc::new(CpuBackend::new(threads)?),
        };
        self.terminal.detail(&format!("computing on {}", backend.name()));
        Ok(backend)
    }
}
