//! Weights at the positions, in tiles.
//!
//! The taps are packed in tiles first, as for any product; the transform then goes number by number, so their order
//! within a tile does not matter to it.

use std::ops::Range;

use half::bf16;

use super::{POSITIONS, transforms};
use crate::gemm::operand::{Block, Chunk, Operand};
use crate::pool::SharedMut;
use crate::simd::{Kernel, Scalar, Simd};
use crate::tiles::pack::{Pack, Side};
use crate::tiles::{DEPTH, SIDE, TILE};

/// Taps of 3 x 3.
const TAPS: usize = 9;

/// Numbers from one position to the next, and from one strip to the next.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub position: usize,
    pub strip: usize,
}

/// Brings some columns' weights of some depth to the positions.
pub(super) struct TransformWeights<'a> {
    pub weights: &'a Operand<'a, bf16>,
    pub block: &'a Chunk,
    pub columns: Range<usize>,
    /// Room for the taps.
    pub raw: &'a mut [bf16],
    pub to: SharedMut<'a, bf16>,
    /// Where the first tile of the first position goes.
    pub start: usize,
    pub layout: Layout,
}

impl Kernel for TransformWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (columns, raw) = (self.columns, self.raw);
        let tiles = self.block.len.div_ceil(DEPTH);
        let chunks = (0..TAPS).map(|segment| Chunk { segment, ..*self.block }).collect();
        let block = Block { chunks, depth: TAPS * tiles * DEPTH };
        let (first, count) = (columns.start, columns.len());
        Pack { operand: self.weights, block: &block, first, count, side: Side::Right, to: &mut *raw }.run(s);
        let tap = tiles * TILE;
        for (strip, taps) in raw.chunks_exact(TAPS * tap).enumerate().take(count.div_ceil(SIDE)) {
            let start = self.start + strip * self.layout.strip;
            let mut to = [std::ptr::null_mut(); POSITIONS];
            for (position, to) in to.iter_mut().enumerate() {
                // SAFETY: every task has columns and depths of its own, and positions lie apart.
                let tiles = unsafe { self.to.slice(start + position * self.layout.position, tap) };
                assert_eq!(tiles.len(), tap);
                *to = tiles.as_mut_ptr();
            }
            for at in (0..tap).step_by(S::LANES) {
                let mut values = [s.splat(0.0); TAPS];
                for (index, value) in values.iter_mut().enumerate() {
                    *value = bf16::read(s, &taps[index * tap + at..][..S::LANES]);
                }
                for (to, value) in to.iter().zip(transforms::weights(s, &values)) {
                    // SAFETY: both `tap` and `at` are multiples of a register's lanes.
                    unsafe { s.store_bf16(to.add(at), value) };
                }
            }
        }
    }
}
