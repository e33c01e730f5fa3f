//! What every kernel needs: the instruction tier, the threads, and memory for intermediate results.

use scumble_tensor::Result;
use scumble_tensor::memory::HostBuffer;

use crate::pool::Pool;
use crate::simd::{Kernel, Simd};
use crate::tier::Tier;

/// Tier and threads.
pub(crate) struct Engine {
    pub tier: Tier,
    pub pool: Pool,
}

/// Width of the GEMM's panels, in floats.
#[derive(Clone, Copy)]
pub(crate) struct PanelShape {
    pub width: usize,
    pub lanes: usize,
}

impl PanelShape {
    /// `n` columns rounded up to whole vectors.
    pub(crate) fn padded(&self, n: usize) -> usize {
        n.next_multiple_of(self.lanes)
    }
}

impl Engine {
    pub(crate) fn panel_shape(&self) -> PanelShape {
        struct Ask;
        impl Kernel for Ask {
            type Output = PanelShape;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> PanelShape {
                PanelShape { width: S::PANEL * S::LANES, lanes: S::LANES }
            }
        }
        self.tier.run(Ask)
    }
}

/// Aligned memory for intermediate results, one part for each worker.
pub(crate) struct Scratch {
    /// Owns the memory that `start` points to.
    _buffer: HostBuffer,
    start: *mut f32,
    part: usize,
    len: usize,
}

// SAFETY: the memory is only reached through `all`, which borrows uniquely, and `of`, whose caller keeps parts apart.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// `parts` times `floats` (rounded up so that parts do not share cache lines), of arbitrary content.
    pub(crate) fn new(parts: usize, floats: usize) -> Result<Self> {
        let part = floats.next_multiple_of(16);
        let len = parts.checked_mul(part).filter(|&len| len <= isize::MAX as usize / 4);
        let len = len.ok_or(scumble_tensor::Error::OutOfMemory { bytes: usize::MAX })?;
        let mut buffer = HostBuffer::for_overwrite(len * 4)?;
        let start = buffer.as_mut_bytes().as_mut_ptr().cast();
        Ok(Self { _buffer: buffer, start, part, len })
    }

    /// All of it.
    pub(crate) fn all(&mut self) -> &mut [f32] {
        // SAFETY: the buffer holds `len` initialised floats, 64-byte aligned, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// All of it, to read.
    pub(crate) fn whole(&self) -> &[f32] {
        // SAFETY: the buffer holds `len` initialised floats; who writes borrows uniquely or by `of`'s contract.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The part of one worker.
    ///
    /// # Safety
    /// A part must not be in use twice at the same time, nor together with [`Scratch::all`] and [`Scratch::whole`].
    #[allow(clippy::mut_from_ref)] // each worker has its own part
    pub(crate) unsafe fn of(&self, worker: usize) -> &mut [f32] {
        assert!((worker + 1) * self.part <= self.len, "a worker beyond those the memory was made for");
        // SAFETY: within the buffer by the line above; by the caller's promise nobody else uses this part meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(worker * self.part), self.part) }
    }
}
