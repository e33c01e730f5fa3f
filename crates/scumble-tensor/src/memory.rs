//! Host memory for tensors: 64-byte aligned blocks that go back to a pool instead of to the system.
//!
//! A training step asks for the same few hundred sizes again and again. Handing a fresh large block back to the
//! system costs a page fault per 4 KiB at the next step; the pool keeps blocks and hands them out again.
//! Every byte of a block was written at least once (fresh blocks come zeroed), so handing out a used block as
//! plain data is sound; its content is whatever the last user left.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// One cache line, and one AVX-512 register.
pub const ALIGNMENT: usize = 64;

/// Blocks below this size are not pooled: the system allocator keeps them cheap.
const SMALLEST_POOLED: usize = 16 << 10;

/// A huge page of the usual systems.
const HUGE_PAGE: usize = 2 << 20;

/// Blocks from this size on are aligned to huge pages and ask for them.
const SMALLEST_HUGE: usize = 2 * HUGE_PAGE;

static POOL: Mutex<BTreeMap<usize, Vec<Block>>> = Mutex::new(BTreeMap::new());
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static POOLED: AtomicUsize = AtomicUsize::new(0);

/// How much memory tensors use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStats {
    /// Held by tensors now.
    pub live_bytes: usize,
    /// The most that was ever held by tensors.
    pub peak_bytes: usize,
    /// Kept for reuse.
    pub pooled_bytes: usize,
}

/// Memory in use by tensors of this process.
pub fn stats() -> MemoryStats {
    MemoryStats {
        live_bytes: LIVE.load(Ordering::Relaxed),
        peak_bytes: PEAK.load(Ordering::Relaxed),
        pooled_bytes: POOLED.load(Ordering::Relaxed),
    }
}

/// Gives every block kept for reuse back to the system; call it between phases.
pub fn trim() {
    let blocks = std::mem::take(&mut *pool());
    for block in blocks.into_values().flatten() {
        POOLED.fetch_sub(block.capacity, Ordering::Relaxed);
        block.free();
    }
}

fn pool() -> MutexGuard<'static, BTreeMap<usize, Vec<Block>>> {
    // The map is valid between any two statements that could panic, so a poisoned lock is still good.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Block {
    pointer: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a block is uniquely owned memory without thread affinity.
unsafe impl Send for Block {}
// SAFETY: shared access is read-only; writing needs `&mut`.
unsafe impl Sync for Block {}

impl Block {
    fn layout(capacity: usize) -> Option<Layout> {
        let alignment = if capacity >= SMALLEST_HUGE { HUGE_PAGE } else { ALIGNMENT };
        Layout::from_size_align(capacity, alignment).ok()
    }

    fn allocate(capacity: usize) -> Result<Self> {
        let out_of_memory = Error::OutOfMemory { bytes: capacity };
        let Some(layout) = Self::layout(capacity) else { return Err(out_of_memory) };
        if capacity < SMALLEST_HUGE {
            // SAFETY: `capacity` is at least ALIGNMENT (see `capacity_for`), so the layout is not empty.
            let Some(pointer) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
                return Err(out_of_memory);
            };
            return Ok(Self { pointer, capacity });
        }
        // SAFETY: as above.
        let Some(pointer) = NonNull::new(unsafe { alloc(layout) }) else { return Err(out_of_memory) };
        ask_for_huge_pages(pointer.as_ptr(), capacity);
        // SAFETY: the block was just allocated with this size.
        unsafe { pointer.as_ptr().write_bytes(0, capacity) };
        Ok(Self { pointer, capacity })
    }

    fn free(self) {
        let Some(layout) = Self::layout(self.capacity) else { return };
        // SAFETY: allocated in `allocate` with exactly this layout, and owned by `self`.
        unsafe { dealloc(self.pointer.as_ptr(), layout) }
    }
}

/// Lets the system back a fresh block with huge pages: kernels that walk large pictures and weights otherwise spend a
/// good part of their time looking up addresses. It is a wish; without it everything works as well, slower.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(start: *mut u8, bytes: usize) {
    // SAFETY: advice about a range of this process' own memory that changes no content.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: *mut u8, _: usize) {}

/// Rounds up so that nearby sizes share blocks: to an eighth of the size's power of two, at most 12.5 % waste.
fn capacity_for(bytes: usize) -> Option<usize> {
    let step = (bytes.checked_next_power_of_two()? / 16).max(ALIGNMENT);
    bytes.max(1).checked_next_multiple_of(step)
}

/// An owned, aligned block of initialised host memory.
pub struct HostBuffer {
    block: Option<Block>,
    len: usize,
}

impl HostBuffer {
    /// A buffer of `len` bytes with arbitrary (but initialised) content: the caller overwrites it.
    pub fn for_overwrite(len: usize) -> Result<Self> {
        let capacity = capacity_for(len).ok_or(Error::OutOfMemory { bytes: len })?;
        let reused =
            if capacity >= SMALLEST_POOLED { pool().get_mut(&capacity).and_then(Vec::pop) } else { None };
        let block = match reused {
            Some(block) => {
                POOLED.fetch_sub(capacity, Ordering::Relaxed);
                block
            }
            None => Block::allocate(capacity)?,
        };
        let live = LIVE.fetch_add(capacity, Ordering::Relaxed) + capacity;
        PEAK.fetch_max(live, Ordering::Relaxed);
        Ok(Self { block: Some(block), len })
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Result<Self> {
        let mut buffer = Self::for_overwrite(len)?;
        buffer.as_mut_bytes().fill(0);
        Ok(buffer)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.block {
            // SAFETY: the block holds at least `len` initialised bytes, owned by `self`.
            Some(block) => unsafe { std::slice::from_raw_parts(block.pointer.as_ptr(), self.len) },
            None => &[],
        }
    }

    /// The bytes, writable.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        match &mut self.block {
            // SAFETY: the block holds at least `len` initialised bytes and `self` is borrowed uniquely.
            Some(block) => unsafe { std::slice::from_raw_parts_mut(block.pointer.as_ptr(), self.len) },
            None => &mut [],
        }
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else { return };
        LIVE.fetch_sub(block.capacity, Ordering::Relaxed);
        if block.capacity >= SMALLEST_POOLED {
            POOLED.fetch_add(block.capacity, Ordering::Relaxed);
            pool().entry(block.capacity).or_default().push(block);
        } else {
            block.free();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_aligned_and_comes_back() {
        let odd = 1_234_567;
        let mut first = HostBuffer::for_overwrite(odd).unwrap();
        first.as_mut_bytes().fill(7);
        let address = first.as_bytes().as_ptr();
        assert_eq!(address as usize % ALIGNMENT, 0);
        drop(first);
        let second = HostBuffer::for_overwrite(odd - 1).unwrap();
        assert_eq!(second.as_bytes().len(), odd - 1);
        assert!(HostBuffer::zeroed(odd).unwrap().as_bytes().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn capacities_waste_little() {
        for bytes in [1, 63, 64, 65, 1000, 4096, 5000, 1 << 20, (1 << 20) + 1, 3_276_800] {
            let capacity = capacity_for(bytes).unwrap();
            assert!(
                capacity >= bytes && capacity - bytes <= (bytes / 8).max(ALIGNMENT),
                "{bytes} -> {capacity}"
            );
        }
        assert_eq!(capacity_for(usize::MAX), None);
    }

    #[test]
    fn an_absurd_size_is_an_error() {
        assert!(matches!(HostBuffer::for_overwrite(isize::MAX as usize), Err(Error::OutOfMemory { .. })));
    }
}
