//! What a matrix unit does, in plain Rust: slow, on every machine, and the judge of the others.
//!
//! It sums as AMX does. Of each tile the even and the odd depths are two chains of their own, whose sum is added to C:
//! products of two bf16 are exact in f32, so a multiplication and an addition round like the fused one of the unit.
//! Only denormal numbers differ, which the unit takes for zero.

use half::bf16;

use super::{DEPTH, SIDE, SUMS, Strips, TILE, TileUnit};
use crate::simd::Scalar;

/// Needs no proof.
#[derive(Clone, Copy)]
pub(crate) struct Emulated;

// SAFETY: each tile reads `steps` tiles of its two strips and touches its own sums.
unsafe impl TileUnit for Emulated {
    type Session = ();

    fn enter(self) {}

    unsafe fn block(self, rows: usize, columns: usize, at: &Strips) {
        for row in 0..rows {
            for column in 0..columns {
                let at = at.from(row, column);
                // SAFETY: the caller's promise for these strips; sums do not overlap operands.
                let (a, b, c) = unsafe {
                    (
                        std::slice::from_raw_parts(at.a, at.steps() * TILE),
                        std::slice::from_raw_parts(at.b, at.steps() * TILE),
                        std::slice::from_raw_parts_mut(at.c, SUMS),
                    )
                };
                if at.begins {
                    c.fill(0.0);
                }
                a.chunks_exact(TILE).zip(b.chunks_exact(TILE)).for_each(|(a, b)| multiply(a, b, c));
            }
        }
    }
}

/// `c [row][column] += a b` for one tile of each.
fn multiply(a: &[bf16], b: &[bf16], c: &mut [f32]) {
    // Even and odd depths of the right tile, [pair][column].
    let mut halves = [[[0.0f32; SIDE]; SIDE]; 2];
    for (pair, line) in b.chunks_exact(DEPTH).enumerate() {
        for (column, values) in line.chunks_exact(2).enumerate() {
            halves[0][pair][column] = values[0].widen();
            halves[1][pair][column] = values[1].widen();
        }
    }
    for (row, sums) in a.chunks_exact(DEPTH).zip(c.chunks_exact_mut(SIDE)) {
        let mut chains = [[0.0f32; SIDE]; 2];
        for (pair, values) in row.chunks_exact(2).enumerate() {
            for (half, chain) in chains.iter_mut().enumerate() {
                let factor = values[half].widen();
                for (sum, value) in chain.iter_mut().zip(&halves[half][pair]) {
                    *sum += factor * value;
                }
            }
        }
        for (column, sum) in sums.iter_mut().enumerate() {
            *sum += chains[0][column] + chains[1][column];
        }
    }
}
