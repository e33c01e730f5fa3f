//! What the machine can do at best, measured: the yardstick for `scumble bench ops`.

use std::time::Instant;

use half::bf16;
use scumble_tensor::Result;

use crate::CpuBackend;
use crate::engine::Scratch;
use crate::pool::SharedMut;
use crate::simd::{Kernel, Simd};
use crate::tiles::{Ahead, DEPTH, SIDE, SUMS, Strips, TILE, TileKernel, TileUnit};

/// Measured limits of a backend's tier and threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Multiply-adds in registers, 10^9 operations (two each) a second.
    pub gflops: f64,
    /// Copying memory, 10^9 bytes read and written a second.
    pub gbytes_per_s: f64,
    /// Products of bf16 on the tier's matrix unit, if it has one, from the first-level cache.
    pub gflops_bf16: Option<f64>,
}

/// Rounds of [`Busy`]: some 10 ms.
const ROUNDS: usize = 5_000_000;
/// Floats of the copy: far beyond any cache.
const COPY_FLOATS: usize = 32 << 20;
/// The best of this many measurements counts: others may be using the machine.
const TRIES: usize = 3;

/// Chains of multiply-adds that never leave the registers; gives the operations done.
struct Busy;

impl Kernel for Busy {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        // Units times latency is 8 to 16: enough chains for that, few enough for the register file.
        if S::PANEL == 4 { chains::<S, 20>(s) } else { chains::<S, 12>(s) }
    }
}

#[inline(always)]
fn chains<S: Simd, const COUNT: usize>(s: S) -> f64 {
    let mut chains = [s.splat(1.0); COUNT];
    let (factor, addend) = (std::hint::black_box(0.999f32), std::hint::black_box(0.001f32));
    let (factor, addend) = (s.splat(factor), s.splat(addend));
    for _ in 0..ROUNDS {
        for chain in &mut chains {
            *chain = s.fma(*chain, factor, addend);
        }
    }
    for chain in chains {
        std::hint::black_box(s.sum(chain));
    }
    (ROUNDS * COUNT * S::LANES * 2) as f64
}

/// Tiles of a strip in [`BusyTiles`]: four strips fill 40 KiB.
const TILE_STEPS: usize = 10;
/// Rounds of [`BusyTiles`]: some 10 ms on a unit, much longer in the emulation, which runs fewer.
const TILE_ROUNDS: usize = 20_000;

/// Numbers that begin with a line of the cache.
#[repr(align(64))]
struct Lines<E, const N: usize>([E; N]);

/// Multiplies the same strips again and again; gives the operations done.
struct BusyTiles {
    rounds: usize,
}

impl TileKernel for BusyTiles {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd, U: TileUnit>(self, _: S, unit: U) -> f64 {
        // Rows of tiles that lie across lines of the cache are read at a third of the rate.
        let operands = [Lines([bf16::ONE; 2 * TILE_STEPS * TILE]), Lines([bf16::ONE; 2 * TILE_STEPS * TILE])];
        let [Lines(operand), Lines(other)] = &operands;
        let mut sums = Lines([0.0f32; 4 * SUMS]);
        for _ in 0..self.rounds {
            let at = Strips {
                a: operand.as_ptr(),
                a_strip: TILE_STEPS * TILE,
                a_row: None,
                a_rows: 2 * SIDE,
                b: other.as_ptr(),
                b_strip: TILE_STEPS * TILE,
                depth: TILE_STEPS * DEPTH,
                c: sums.0.as_mut_ptr(),
                c_row: 2 * SUMS,
                c_column: SUMS,
                begins: true,
                ahead: Ahead::NONE,
            };
            // SAFETY: two strips of each operand and four tiles of sums; the unit was made ready for this kernel.
            unsafe { unit.block(2, 2, &at) };
        }
        std::hint::black_box(sums.0);
        (self.rounds * TILE_STEPS * 4 * 2 * SUMS * DEPTH) as f64
    }
}

/// Measures for about a second.
pub fn measure_peak(backend: &CpuBackend) -> Result<Peak> {
    let engine = backend.engine();
    let threads = engine.pool.threads();
    let mut peak = Peak { gflops: 0.0, gbytes_per_s: 0.0, gflops_bf16: None };
    let mut source = Scratch::new(1, COPY_FLOATS)?;
    let mut target = Scratch::new(1, COPY_FLOATS)?;
    let source = source.all();
    source.fill(1.0);
    for _ in 0..TRIES {
        let mut operations = vec![0.0f64; threads];
        let begin = Instant::now();
        engine.pool.run_pieces(&mut operations, 1, |_, done| done[0] = engine.tier.run(Busy));
        let seconds = begin.elapsed().as_secs_f64();
        peak.gflops = peak.gflops.max(operations.iter().sum::<f64>() / seconds / 1e9);
        if let Some(unit) = engine.tier.unit() {
            let rounds = if engine.tier.multiplies_bf16() { TILE_ROUNDS } else { TILE_ROUNDS / 200 };
            let begin = Instant::now();
            engine.pool.run_pieces(&mut operations, 1, |_, done| done[0] = unit.run(BusyTiles { rounds }));
            let rate = operations.iter().sum::<f64>() / begin.elapsed().as_secs_f64() / 1e9;
            peak.gflops_bf16 = Some(peak.gflops_bf16.unwrap_or(0.0).max(rate));
        }
        let to = SharedMut::new(target.all());
        let piece = 1 << 18;
        let begin = Instant::now();
        engine.pool.run(COPY_FLOATS / piece, |index, _| {
            // SAFETY: every task has a piece of its own.
            unsafe { to.slice(index * piece, piece) }.copy_from_slice(&source[index * piece..][..piece]);
        });
        let seconds = begin.elapsed().as_secs_f64();
        peak.gbytes_per_s = peak.gbytes_per_s.max((COPY_FLOATS * 8) as f64 / seconds / 1e9);
    }
    Ok(peak)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tier;

    #[test]
    fn peaks_are_measured_on_every_tier() {
        for tier in Tier::available() {
            let peak = measure_peak(&CpuBackend::with_tier(tier, Some(1)).unwrap()).unwrap();
            // Slower than any machine this runs on, even a busy one; an empty loop would be out of bounds above.
            assert!((0.05..1e4).contains(&peak.gflops), "{}: {peak:?}", tier.name());
            assert!((0.05..1e4).contains(&peak.gbytes_per_s), "{}: {peak:?}", tier.name());
            let tiles = peak.gflops_bf16.is_none_or(|rate| (0.01..1e5).contains(&rate));
            assert!(
                tiles && peak.gflops_bf16.is_some() == tier.unit().is_some(),
                "{}: {peak:?}",
                tier.name()
            );
        }
    }
}
