//! Convolutions of 3 x 3 with fewer multiplications: Winograd's minimal filtering, F(2 x 2, 3 x 3).
//!
//! Two by two pixels of the result need four by four of the picture. Both the picture's square `d` and the weights `g` are
//! brought to sixteen *positions*, multiplied there, and the sums over the channels brought back:
//!
//! ```text
//!   y = A' [ sum over channels of (G g G') * (B' d B) ] A          16 multiplications instead of 36
//!
//!        1  0 -1  0           1  0  0
//!   B' = 0  1  1  0     G  =  1  1  1     A' = 1 1/2 1/2 0
//!        0 -1  1  0           1 -1  1          0 1/2-1/2 1
//!        0 -1  0  1           0  0  1
//! ```
//!
//! Against the usual form, the halves of `G` are in `A'`, which has fewer numbers to bring there, and the last position has the
//! other sign on both sides. A power of two rounds nothing.
//!
//! So each position is a product of matrices: squares x channels times channels x outputs. Sources: S. Winograd,
//! "Arithmetic complexity of computations", 1980; A. Lavin and S. Gray, "Fast algorithms for convolutional neural
//! networks", arXiv:1509.09308.
//!
//! ```text
//! for columns of the result:                     at most SHARED_NUMBERS of weights
//!   bring the weights to the positions           tasks: strips x depths
//!   for squares x columns:                       tasks
//!     bring the picture to the positions         second- or third-level cache; once before, if tasks share squares
//!     for SUB_STRIPS of columns:
//!       for position:
//!         unit                                   the whole depth, sums of 16 positions in the second-level cache
//!       bring the sums back, bias, addend
//! ```
//!
//! Where there are few squares, one task has them all and is the only reader of its weights: it brings those to the
//! positions itself, some depth at a time, and they never leave its second-level cache. While it multiplies, it asks for the
//! memory of the next ones.
//!
//! What is rounded: weights and pictures at the positions are bf16, as the unit wants them, and sums are f32. The
//! rounding of a result is then about twice that of weights that were rounded once (`docs/performance.md` has what that
//! is for a whole model); operands of f32 never come here. Each element's sums run over the depth in order: neither
//! threads nor tasks show in the result.

mod picture;
mod room;
mod task;
mod transforms;
mod weights;

use half::bf16;
use scumble_tensor::Result;

use crate::engine::{Engine, Scratch};
use crate::gemm::Output;
use crate::gemm::operand::{Along, Chunk, Operand, Pixels, Runs};
use crate::gemm::target::Target;
use crate::pool::SharedMut;
use crate::simd::Scalar;
use crate::tiles::{DEPTH, SIDE, TILE, Unit};
use room::{Room, SHARED_PICTURE};
use task::{Task, Weights};
use weights::{Layout, Taps, TransformWeights};

/// Products of a square: four by four.
pub(crate) const POSITIONS: usize = 16;
/// Strips of squares of a task.
const TASK_STRIPS: usize = 4;
/// Strips of columns whose sums are kept at once: 64 x 64 sums of 16 positions are 256 KiB.
const SUB_STRIPS: usize = 4;
/// Numbers of weights at the positions that tasks share: 8 MiB, which a last-level cache holds.
const SHARED_NUMBERS: usize = 4 << 20;
/// Tiles of depth whose weights are brought to the positions together: for [`SUB_STRIPS`] that is 320 KiB.
const DEPTH_TILES: usize = 5;
/// The two where one task has all squares and runs of weights are a depth's outputs: as wide as the memory likes it, and
/// not so deep that lines which lie as far apart as layers have channels push each other out of the cache.
const OUTER_STRIPS_AND_TILES: (usize, usize) = (6, 3);
/// Fewest columns of a task, if there are more: each task brings its part of the picture to the positions.
const FEWEST_COLUMNS: usize = 320;

/// Fewest channels on either side. Autoencoders of full-size models have 128 and their UNets 320; models much smaller than
/// that are fast anyway, and their results are not rounded more than they need be.
const FEWEST_CHANNELS: usize = 128;
/// Most strips of squares that one task has alone.
const OWN_STRIPS: usize = 4;

/// A convolution that can be computed so.
pub(crate) struct Winograd<'a> {
    unit: Unit,
    /// The first offset is that of a square's first pixel.
    picture: Pixels<'a, bf16>,
    taps: Taps<'a>,
    images: usize,
    /// Squares of an image, down and across.
    squares: [usize; 2],
    /// Whether the four pixels of a square are summed to one.
    sums_squares: bool,
    /// Most numbers of weights at the positions that tasks share.
    most_shared: usize,
    /// Most numbers of a picture at the positions that they share.
    most_picture: usize,
}

impl<'a> Winograd<'a> {
    /// The product of a picture's pixels with weights, if it is such a convolution, the machine has a unit for it, and it
    /// is large enough to gain.
    pub(crate) fn of<E: Scalar>(engine: &Engine, a: &Operand<'a, E>, b: &Operand<'a, E>) -> Option<Self> {
        let (unit, a, b) = (engine.tier.unit()?, E::halves(a)?, E::halves(b)?);
        let (Runs::Pixels(pixels), Runs::Matrix { data, stride, offsets }) = (&a.runs, &b.runs) else {
            return None;
        };
        let mut order: Vec<usize> = (0..a.segments).collect();
        order.sort_by_key(|&segment| pixels.offsets[segment]);
        let first = pixels.offsets[*order.first()?];
        let of_tap = |tap: usize| [first[0] + (tap / 3) as isize, first[1] + (tap % 3) as isize];
        let three_by_three =
            a.segments == 9 && order.iter().enumerate().all(|(tap, &at)| pixels.offsets[at] == of_tap(tap));
        let squares = pixels.grid.map(|size| size.div_ceil(2));
        let images = a.outer / (pixels.grid[0] * pixels.grid[1]).max(1);
        let deep_and_wide = a.segment_len >= FEWEST_CHANNELS && b.outer >= FEWEST_CHANNELS;
        if !three_by_three || pixels.step != 1 || !deep_and_wide || images * squares[0] * squares[1] < SIDE {
            return None;
        }
        let taps = Taps {
            data,
            stride: *stride,
            offsets: std::array::from_fn(|tap| offsets[order[tap]]),
            along: b.along,
            outputs: b.outer,
            depth: b.segment_len,
        };
        Some(Self {
            unit,
            picture: Pixels { offsets: vec![first], ..pixels.clone() },
            taps,
            images,
            squares,
            sums_squares: false,
            most_shared: SHARED_NUMBERS,
            most_picture: SHARED_PICTURE,
        })
    }

    /// The same with the four pixels of every square summed to one, for a result of half the size: the gradient of a picture
    /// that was enlarged to twice its size. A sum has no part of seven positions, as
    ///
    /// ```text
    ///   (1 1) A' = (1 1 0 1)
    /// ```
    pub(crate) fn summing_squares(self) -> Self {
        assert!(self.picture.grid.iter().all(|size| size.is_multiple_of(2)), "squares that are not whole");
        Self { sums_squares: true, ..self }
    }

    /// Whether a position has a part in the result.
    #[inline(always)]
    fn needs(&self, position: usize) -> bool {
        !self.sums_squares || (position / 4 != 2 && position % 4 != 2)
    }

    /// Whether it is faster than the plain product: a unit that multiplies very fast has done all multiplications before the
    /// weights of a few squares have been brought to the positions. Not to be asked where [squares are
    /// summed](Self::summing_squares): nine positions instead of sixteen were faster wherever they were timed.
    pub(crate) fn pays(&self) -> bool {
        !self.unit.outruns_transforms() || self.squares() > OWN_STRIPS * SIDE
    }

    fn squares(&self) -> usize {
        self.images * self.squares[0] * self.squares[1]
    }

    /// Where the pixels of a square of the result are: image, line and column of the first one.
    #[inline(always)]
    fn square(&self, index: usize) -> [usize; 3] {
        let [down, across] = self.squares;
        let line = index / across;
        [line / down, line % down * 2, index % across * 2]
    }

    fn depth_tiles(&self) -> usize {
        self.taps.depth.div_ceil(DEPTH)
    }

    /// Computes what [`crate::gemm::gemm`] would, but for rounding.
    pub(crate) fn run<Y: Scalar>(&self, engine: &Engine, out: Output<'_, Y>) -> Result<()> {
        let columns = self.taps.outputs;
        let lines = match self.sums_squares {
            true => self.squares(),
            false => self.images * self.picture.grid[0] * self.picture.grid[1],
        };
        let last_line = (lines - 1) * out.stride + columns;
        assert!(last_line <= out.data.len() && out.add.is_none_or(|add| add.len() >= last_line));
        assert!(out.bias.is_none_or(|bias| bias.len() >= columns));
        let target = Target::new(out);
        if self.squares() <= OWN_STRIPS * SIDE {
            self.own_weights(engine, &target)
        } else {
            self.shared_weights(engine, &target)
        }
    }

    /// One task has all squares.
    fn own_weights<Y: Scalar>(&self, engine: &Engine, target: &Target<'_, Y>) -> Result<()> {
        let (columns, threads) = (self.taps.outputs, engine.pool.threads());
        let wide = task_columns(columns, threads, threads * 4);
        let (sub_strips, tiles) = match self.taps.along {
            Along::Depth => (SUB_STRIPS, DEPTH_TILES),
            Along::Outer => OUTER_STRIPS_AND_TILES,
        };
        let blocks = self.depths(tiles);
        let tiles = tiles.min(self.depth_tiles());
        let layout = Layout { position: position_len(sub_strips, tiles), strip: tiles * TILE };
        let strips = self.squares().div_ceil(SIDE);
        let tasks = columns.div_ceil(wide);
        let room = Room::new(self, engine, strips, sub_strips, tasks)?;
        let own = Scratch::new(threads, POSITIONS * layout.position / 2)?;
        engine.pool.run(tasks, |index, worker| {
            let columns = index * wide..((index + 1) * wide).min(columns);
            // SAFETY: no two tasks run as the same worker at once.
            let (picture, sums, own) =
                unsafe { (room.picture(worker), room.sums.of(worker), own.of(worker)) };
            self.unit.run(Task {
                of: self,
                squares: 0..self.squares(),
                columns,
                sub: sub_strips * SIDE,
                blocks: &blocks,
                weights: Weights::Own { packed: bytemuck::cast_slice_mut(own), layout },
                picture,
                sums,
                target,
            });
        });
        Ok(())
    }

    /// Tasks share the weights.
    fn shared_weights<Y: Scalar>(&self, engine: &Engine, target: &Target<'_, Y>) -> Result<()> {
        let (columns, threads) = (self.taps.outputs, engine.pool.threads());
        let depth_tiles = self.depth_tiles();
        let sub = SUB_STRIPS * SIDE;
        let chunks = columns.div_ceil((self.most_shared / (POSITIONS * depth_tiles * DEPTH)).max(sub));
        let chunk = columns.div_ceil(chunks).next_multiple_of(sub);
        let blocks = self.depths(DEPTH_TILES);
        let whole = self.depths(depth_tiles);
        let square_tasks = self.squares().div_ceil(TASK_STRIPS * SIDE);
        let task_strips = self.squares().div_ceil(square_tasks).div_ceil(SIDE);
        let [needed, wanted] = [threads, threads * 4].map(|tasks| tasks.div_ceil(square_tasks));
        let wide = task_columns(chunk.min(columns), needed, wanted);
        let room = Room::new(self, engine, task_strips, SUB_STRIPS, columns.div_ceil(wide))?;
        let layout = Layout {
            position: position_len(chunk.min(columns).div_ceil(SIDE), depth_tiles),
            strip: depth_tiles * TILE,
        };
        let mut shared = Scratch::new(1, POSITIONS * layout.position / 2)?;
        for first in (0..columns).step_by(chunk) {
            let chunk = first..(first + chunk).min(columns);
            let packed: &mut [bf16] = bytemuck::cast_slice_mut(shared.all());
            let to = SharedMut::new(packed);
            let packers = chunk.len().div_ceil(sub);
            engine.pool.run(packers * blocks.len(), |index, _| {
                let (block, strip) = (&blocks[index / packers], index % packers * SUB_STRIPS);
                let from = first + strip * SIDE;
                engine.tier.run_rounding(TransformWeights {
                    taps: &self.taps,
                    block,
                    columns: from..(from + sub).min(chunk.end),
                    to,
                    start: strip * layout.strip + block.start / DEPTH * TILE,
                    layout,
                });
            });
            let packed: &[bf16] = packed;
            let column_tasks = chunk.len().div_ceil(wide);
            engine.pool.run(square_tasks * column_tasks, |index, worker| {
                let (squares, columns) = (index % square_tasks, index / square_tasks);
                let squares = squares * task_strips * SIDE..(squares + 1) * task_strips * SIDE;
                let columns = first + columns * wide..(first + (columns + 1) * wide).min(chunk.end);
                // SAFETY: no two tasks run as the same worker at once.
                let (picture, sums) = unsafe { (room.picture(worker), room.sums.of(worker)) };
                self.unit.run(Task {
                    of: self,
                    squares: squares.start..squares.end.min(self.squares()),
                    columns,
                    sub,
                    blocks: &whole,
                    weights: Weights::Shared { packed, first, layout },
                    picture,
                    sums,
                    target,
                });
            });
        }
        Ok(())
    }

    /// The depth in parts of at most so many tiles, even as they come.
    fn depths(&self, most: usize) -> Vec<Chunk> {
        let (depth, tiles) = (self.taps.depth, self.depth_tiles());
        let parts = tiles.div_ceil(most);
        let cut = |part: usize| part * tiles / parts * DEPTH;
        let part =
            |part: usize| Chunk { segment: 0, start: cut(part), len: cut(part + 1).min(depth) - cut(part) };
        (0..parts).map(part).collect()
    }
}

/// Numbers from one position of `strips` to the next: an odd number of tiles, so that positions do not fall on the same
/// lines of a cache.
fn position_len(strips: usize, depth_tiles: usize) -> usize {
    ((strips * depth_tiles) | 1) * TILE
}

/// Columns of a task, as even as whole pairs of strips come. `needed` tasks are for every thread to have one, `wanted` for
/// threads to end together.
fn task_columns(columns: usize, needed: usize, wanted: usize) -> usize {
    let sub = SUB_STRIPS * SIDE;
    let tasks = wanted.min(columns / FEWEST_COLUMNS).max(needed.min(columns.div_ceil(sub)));
    columns.div_ceil(tasks.max(1)).next_multiple_of(2 * SIDE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{RowMap, gemm};
    use crate::pool::Pool;
    use crate::tier::Tier;

    /// Whole numbers that all transforms leave whole and that bf16 holds.
    fn numbers(len: usize, seed: usize, scale: f32) -> Vec<bf16> {
        let number = |i: usize| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 7) % 5;
        (0..len).map(|i| bf16::from_f32((number(i) as f32 - 2.0) * scale)).collect()
    }

    /// Images, picture's size, channels, outputs, first offset of the taps, grid of the result.
    type Sizes = (usize, [usize; 2], usize, usize, [isize; 2], [usize; 2]);

    /// `step` neighbours down and across are equal.
    fn enlarged(images: usize, [height, width]: [usize; 2], channels: usize, step: usize) -> Vec<bf16> {
        let all = numbers(images * height * width * channels, 1, 1.0);
        let pixel = |at: usize| {
            let (line, x) = (at / width, at % width / step * step);
            let line = line / height * height + line % height / step * step;
            &all[(line * width + x) * channels..][..channels]
        };
        (0..images * height * width).flat_map(pixel).copied().collect()
    }

    /// Picture and weights of a convolution of 3 x 3.
    fn operands<'a>(
        [picture, weights, zeros]: [&'a [bf16]; 3],
        (images, size, channels, outputs, first, grid): Sizes,
        along: Along,
    ) -> [Operand<'a, bf16>; 2] {
        // As input gradients have them: last tap first.
        let tap = |at: usize| if along == Along::Depth { at } else { 8 - at };
        let offset = |at: usize| [first[0] + (tap(at) / 3) as isize, first[1] + (tap(at) % 3) as isize];
        let offsets = (0..9).map(offset).collect();
        let runs = Runs::Pixels(Pixels { data: picture, zeros, size, channels, grid, step: 1, offsets });
        let rows = images * grid[0] * grid[1];
        let a = Operand { runs, along: Along::Depth, outer: rows, segments: 9, segment_len: channels };
        let row = if along == Along::Depth { channels } else { outputs };
        let offsets = (0..9).map(|at| at * row).collect();
        let runs = Runs::Matrix { data: weights, stride: 9 * row, offsets };
        [a, Operand { runs, along, outer: outputs, segments: 9, segment_len: channels }]
    }

    fn check(tier: Tier, sizes: Sizes, along: Along, shared: usize) {
        let (images, size, channels, ..) = sizes;
        for step in [1, 2] {
            check_picture(tier, sizes, along, shared, &enlarged(images, size, channels, step));
        }
    }

    fn check_picture(tier: Tier, sizes: Sizes, along: Along, shared: usize, picture: &[bf16]) {
        let engine = Engine { tier, pool: Pool::new(3) };
        let (_, size, channels, outputs, ..) = sizes;
        let weights = numbers(outputs * 9 * channels, 2, 4.0);
        let zeros = vec![bf16::ZERO; channels];
        let [a, b] = operands([picture, &weights, &zeros], sizes, along);
        let rows = a.outer;
        let bias: Vec<f32> = (0..outputs).map(|i| i as f32).collect();
        let add: Vec<f32> = (0..rows * outputs).map(|i| (i % 7) as f32).collect();
        let run = |winograd: Option<&Winograd<'_>>| {
            let mut data = vec![f32::NAN; rows * outputs];
            let out = Output {
                data: &mut data,
                stride: outputs,
                rows: RowMap::Identity,
                alpha: 0.5,
                bias: Some(&bias),
                add: Some(&add),
                low_rank: None,
            };
            match winograd {
                Some(winograd) => winograd.run(&engine, out),
                None => gemm(&engine, &a, &b, out),
            }
            .expect("sizes that belong together");
            data
        };
        let mut winograd = Winograd::of(&engine, &a, &b).expect("a large convolution of 3 x 3");
        winograd.most_shared = shared;
        let plain = run(None);
        // The picture shared where that gains, and each task with squares of its own.
        for most_picture in [SHARED_PICTURE, 0] {
            winograd.most_picture = most_picture;
            assert_eq!(run(Some(&winograd)), plain, "{} {size:?} {channels} {outputs}", tier.name());
        }
    }

    #[test]
    fn whole_numbers_come_out_as_the_plain_product_has_them() {
        let tiers = [Tier::Amx, Tier::Avx512Bf16, Tier::Emulated];
        for tier in tiers.into_iter().filter(|tier| tier.is_available()) {
            for along in [Along::Depth, Along::Outer] {
                // One task has all squares: several parts of the depth, tails on every side.
                check(tier, (1, [8, 8], 128, 128, [-1, -1], [8, 8]), along, SHARED_NUMBERS);
                check(tier, (1, [8, 8], 160, 144, [-1, -1], [8, 8]), along, SHARED_NUMBERS);
                check(tier, (1, [9, 7], 200, 131, [-1, -1], [9, 7]), along, SHARED_NUMBERS);
                check(tier, (3, [3, 5], 353, 140, [0, -2], [4, 6]), along, SHARED_NUMBERS);
                // Several tasks, with all weights at once and in pieces.
                check(tier, (2, [13, 18], 136, 300, [-1, -1], [13, 18]), along, SHARED_NUMBERS);
                check(tier, (1, [21, 22], 190, 129, [-2, 0], [22, 21]), along, 1);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn few_pixels_are_filtered_only_where_multiplying_is_slower_than_bringing_weights() {
        let engine = Engine { tier: Tier::Emulated, pool: Pool::new(1) };
        for (side, with_amx) in [(8, false), (16, false), (18, true), (32, true)] {
            let (picture, weights) = (numbers(side * side * 128, 1, 1.0), numbers(128 * 9 * 128, 2, 1.0));
            let zeros = [bf16::ZERO; 128];
            let sizes = (1, [side, side], 128, 128, [-1, -1], [side, side]);
            let [a, b] = operands([&picture, &weights, &zeros], sizes, Along::Depth);
            let mut winograd = Winograd::of(&engine, &a, &b).expect("a large convolution of 3 x 3");
            for (unit, pays) in [(Unit::Emulated, true), (Unit::Dot, true), (Unit::Amx, with_amx)] {
                winograd.unit = unit;
                assert_eq!(winograd.pays(), pays, "{side} pixels, {unit:?}");
            }
        }
    }

    #[test]
    fn columns_are_cut_for_all_threads_and_not_too_small() {
        assert_eq!(task_columns(1280, 2, 8), 320);
        assert_eq!(task_columns(96, 2, 8), 64);
        assert_eq!(task_columns(130, 1, 4), 160);
        for (columns, threads) in (1..700).step_by(13).flat_map(|c| (1..20).map(move |t| (c, t))) {
            let wide = task_columns(columns, threads, 4 * threads);
            assert!(wide > 0 && wide.is_multiple_of(2 * SIDE), "{columns} {threads}: {wide}");
        }
    }
}
