//! A real unit multiplies a few strips before it is used, and must agree with the emulation.
//!
//! The instructions cannot be tried on every machine where this program is built. A processor, a hypervisor or a system
//! that does something else than the manual says is found here, and the program goes on without the unit.

use half::bf16;

use super::emulated::Emulated;
use super::{Ahead, DEPTH, SIDE, SUMS, Strips, TILE, TileUnit};

/// Tiles of a strip.
const STEPS: usize = 3;

/// Whether the unit multiplies as the emulation does: all block shapes, fresh and continued sums, no depth and some.
pub(crate) fn agrees<U: TileUnit>(unit: U) -> bool {
    let _ready = unit.enter();
    let (a, b) = (numbers(7), numbers(11));
    let shapes = [(1, 1), (1, 2), (2, 1), (2, 2)];
    shapes.into_iter().all(|(rows, columns)| {
        [(0, true), (1, true), (STEPS, true), (STEPS, false)].into_iter().all(|(steps, begins)| {
            let start: Vec<f32> = (0..4 * SUMS).map(|i| (i % 19) as f32 - 9.0).collect();
            let (mut expected, mut found) = (start.clone(), start);
            let at = |c: &mut [f32]| Strips {
                a: a.as_ptr(),
                a_strip: STEPS * TILE,
                a_row: None,
                a_rows: rows * SIDE,
                b: b.as_ptr(),
                b_strip: STEPS * TILE,
                depth: steps * DEPTH,
                c: c.as_mut_ptr(),
                c_row: 2 * SUMS,
                c_column: SUMS,
                begins,
                ahead: Ahead::NONE,
            };
            // SAFETY: two strips of `STEPS` tiles each and four tiles of sums; the unit was made ready above.
            unsafe {
                Emulated.block(rows, columns, &at(&mut expected));
                unit.block(rows, columns, &at(&mut found));
            }
            // Sums of 96 products up to 4 in any order; a wrong element or a wrong place is off by far more.
            expected.iter().zip(&found).all(|(expected, found)| (expected - found).abs() < 1e-3)
        })
    })
}

/// Two strips of numbers up to 2, without a pattern that tiles or pairs could share.
fn numbers(seed: u32) -> Vec<bf16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32((state >> 16) as f32 / 16384.0 - 2.0)
    };
    (0..2 * STEPS * TILE).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The emulation with one thing wrong.
    #[derive(Clone, Copy)]
    enum Wrong {
        /// Ignores the second right strip.
        Column,
        /// Forgets what was summed before.
        Begins,
        /// Stops a tile early.
        Steps,
    }

    // SAFETY: hands on less than it is given.
    unsafe impl TileUnit for Wrong {
        type Session = ();
        fn enter(self) {}
        unsafe fn block(self, rows: usize, columns: usize, at: &Strips) {
            let mut at = *at;
            let mut columns = columns;
            match self {
                Wrong::Column => columns = 1,
                Wrong::Begins => at.begins = true,
                Wrong::Steps => at.depth = at.depth.saturating_sub(DEPTH),
            }
            // SAFETY: the caller's promise.
            unsafe { Emulated.block(rows, columns, &at) };
        }
    }

    #[test]
    fn units_that_compute_something_else_are_found() {
        assert!(agrees(Emulated));
        for wrong in [Wrong::Column, Wrong::Begins, Wrong::Steps] {
            assert!(!agrees(wrong));
        }
    }
}
