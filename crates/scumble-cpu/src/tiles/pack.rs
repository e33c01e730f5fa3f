//! Copies operands into tiles; see [`super`] for their order.
//!
//! Memory runs along the depth or along the outer index ([`Along`]), and a tile wants rows (left) or pairs (right):
//!
//! | | memory along the depth | memory along the outer index |
//! |---|---|---|
//! | left | rows are copied | two runs are interleaved, then a square of pairs is turned |
//! | right | a square of pairs is turned | two runs are interleaved |
//!
//! What an operand does not have is zero: rows and columns up to the end of a strip, and depths up to the end of a tile.
//! Each chunk of a block (one kernel tap of a convolution, say) begins a tile of its own.

use half::bf16;

use super::{DEPTH, SIDE, TILE};
use crate::gemm::operand::{Along, Block, Chunk, Operand};
use crate::simd::{Kernel, Simd};

/// Which operand of a product is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Tiles of 16 rows.
    Left,
    /// Tiles of 16 columns, in pairs of depths.
    Right,
}

/// Cuts a depth into blocks of at most `most` tiles, as even as they come. [`Block::depth`] counts whole tiles.
pub(crate) fn tile_blocks(segments: usize, segment_len: usize, most: usize) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let tiles = segment_len.div_ceil(DEPTH);
    let pieces = tiles.div_ceil(most);
    for segment in 0..segments {
        for piece in 0..pieces {
            let (first, last) = (piece * tiles / pieces, (piece + 1) * tiles / pieces);
            let start = first * DEPTH;
            let chunk = Chunk { segment, start, len: (last * DEPTH).min(segment_len) - start };
            let depth = (last - first) * DEPTH;
            match blocks.last_mut() {
                Some(block) if block.depth + depth <= most * DEPTH => {
                    block.depth += depth;
                    block.chunks.push(chunk);
                }
                _ => blocks.push(Block { chunks: vec![chunk], depth }),
            }
        }
    }
    if blocks.is_empty() {
        blocks.push(Block { chunks: Vec::new(), depth: 0 });
    }
    blocks
}

/// Packs `count` rows or columns from `first` on for one block, strip after strip, into `to`.
pub(crate) struct Pack<'a> {
    pub operand: &'a Operand<'a, bf16>,
    pub block: &'a Block,
    pub first: usize,
    pub count: usize,
    pub side: Side,
    pub to: &'a mut [bf16],
}

impl Kernel for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        debug_assert!(self.to.len() >= self.count.div_ceil(SIDE) * self.strip());
        let mut tiles_before = 0;
        for (index, chunk) in self.block.chunks.iter().enumerate() {
            match self.operand.along {
                Along::Depth => self.along_depth(s, chunk, self.block.chunks.get(index + 1), tiles_before),
                Along::Outer => self.along_outer(s, chunk, tiles_before),
            }
            tiles_before += chunk.len.div_ceil(DEPTH);
        }
    }
}

impl<'a> Pack<'a> {
    /// Numbers in a strip.
    fn strip(&self) -> usize {
        self.block.depth * SIDE
    }

    /// A tile of the result.
    #[inline(always)]
    fn tile(&mut self, strip: usize, tile: usize) -> &mut [bf16] {
        let start = strip * self.strip() + tile * TILE;
        &mut self.to[start..start + TILE]
    }

    /// The part of a chunk of a strip's runs, empty ones behind the last.
    #[inline(always)]
    fn depth_runs(&self, chunk: &Chunk, strip: usize) -> [&'a [bf16]; SIDE] {
        let present = self.count.saturating_sub(strip * SIDE).min(SIDE);
        let mut runs: [&[bf16]; SIDE] = [&[]; SIDE];
        self.operand.run_many(self.first + strip * SIDE, chunk.segment, &mut runs[..present]);
        for run in &mut runs[..present] {
            *run = &run[chunk.start..chunk.start + chunk.len];
        }
        runs
    }

    /// Sixteen runs at a time, tile by tile.
    #[inline(always)]
    fn along_depth<S: Simd>(&mut self, s: S, chunk: &Chunk, following: Option<&Chunk>, tiles_before: usize) {
        let mut next = self.depth_runs(chunk, 0);
        let strips = self.count.div_ceil(SIDE);
        for strip in 0..strips {
            let present = (self.count - strip * SIDE).min(SIDE);
            let runs = next;
            next = match following {
                Some(following) if strip + 1 == strips => self.depth_runs(following, 0),
                _ => self.depth_runs(chunk, strip + 1),
            };
            for tile in 0..chunk.len.div_ceil(DEPTH) {
                let depths = tile * DEPTH..chunk.len.min((tile + 1) * DEPTH);
                let whole = present == SIDE && depths.len() == DEPTH;
                // Runs are short and far apart, so the processor does not foresee the next ones; a tile's are a line.
                next.iter().filter_map(|run| run.get(depths.start)).for_each(|at| s.prefetch(at));
                let side = self.side;
                let to = self.tile(strip, tiles_before + tile);
                match side {
                    Side::Left if whole => {
                        for (to, run) in to.chunks_exact_mut(DEPTH).zip(&runs) {
                            to.copy_from_slice(&run[depths.clone()][..DEPTH]);
                        }
                    }
                    Side::Left => rows_of(&runs[..present], depths, to),
                    Side::Right if whole => {
                        let mut rows = [std::ptr::null(); SIDE];
                        for (row, run) in rows.iter_mut().zip(&runs) {
                            *row = run[depths.clone()].as_ptr();
                        }
                        // SAFETY: each row has a tile's depth, `to` is a tile.
                        unsafe { s.turn_pairs(&rows, to.as_mut_ptr()) };
                    }
                    Side::Right => {
                        let mut rows = [bf16::ZERO; TILE];
                        rows_of(&runs[..present], depths, &mut rows);
                        turn(s, &rows, to);
                    }
                }
            }
        }
    }

    /// The runs of a tile's depths, empty ones behind the last.
    #[inline(always)]
    fn outer_runs(&self, chunk: &Chunk, tile: usize) -> [&'a [bf16]; DEPTH] {
        let present = (chunk.len - tile * DEPTH).min(DEPTH);
        let mut runs: [&[bf16]; DEPTH] = [&[]; DEPTH];
        self.operand.run_many(chunk.start + tile * DEPTH, chunk.segment, &mut runs[..present]);
        for run in &mut runs[..present] {
            *run = &run[self.first..self.first + self.count];
        }
        runs
    }

    /// Thirty-two runs at a time, strip by strip: each run is read in order.
    #[inline(always)]
    fn along_outer<S: Simd>(&mut self, s: S, chunk: &Chunk, tiles_before: usize) {
        let tiles = chunk.len.div_ceil(DEPTH);
        let mut next = self.outer_runs(chunk, 0);
        for tile in 0..tiles {
            let present = (chunk.len - tile * DEPTH).min(DEPTH);
            let runs = next;
            next = if tile + 1 < tiles { self.outer_runs(chunk, tile + 1) } else { [&[]; DEPTH] };
            for strip in 0..self.count.div_ceil(SIDE) {
                let columns = strip * SIDE..self.count.min((strip + 1) * SIDE);
                // Runs are short and far apart, so the processor does not foresee the next ones; a line is two strips.
                if strip % 2 == 0 {
                    next.iter().filter_map(|run| run.get(columns.start)).for_each(|at| s.prefetch(at));
                }
                let whole = present == DEPTH && columns.len() == SIDE;
                let side = self.side;
                let to = self.tile(strip, tiles_before + tile);
                let mut pairs = [bf16::ZERO; TILE];
                {
                    let pairs = if side == Side::Right { &mut *to } else { &mut pairs };
                    if whole {
                        interleave(s, &runs, columns.start, pairs);
                    } else {
                        let mut lines = [bf16::ZERO; TILE];
                        for (line, run) in lines.chunks_exact_mut(SIDE).zip(&runs[..present]) {
                            line[..columns.len()].copy_from_slice(&run[columns.clone()]);
                        }
                        let lines: [&[bf16]; DEPTH] = std::array::from_fn(|k| &lines[k * SIDE..][..SIDE]);
                        interleave(s, &lines, 0, pairs);
                    }
                }
                if side == Side::Left {
                    turn(s, &pairs, to);
                }
            }
        }
    }
}

/// Parts of runs as the first rows of a tile, zeros behind and below.
#[inline(always)]
fn rows_of(runs: &[&[bf16]], depths: std::ops::Range<usize>, to: &mut [bf16]) {
    to.fill(bf16::ZERO);
    for (to, run) in to.chunks_exact_mut(DEPTH).zip(runs) {
        to[..depths.len()].copy_from_slice(&run[depths.clone()]);
    }
}

/// Pairs of 32 runs, 16 columns from `first` on.
#[inline(always)]
fn interleave<S: Simd>(s: S, runs: &[&[bf16]; DEPTH], first: usize, to: &mut [bf16]) {
    for (to, pair) in to.chunks_exact_mut(DEPTH).zip(runs.chunks_exact(2)) {
        let (even, odd) = (&pair[0][first..first + SIDE], &pair[1][first..first + SIDE]);
        // SAFETY: two runs of 16 and room for 32.
        unsafe { s.interleave(even.as_ptr(), odd.as_ptr(), to.as_mut_ptr()) };
    }
}

/// Turns a tile of 16 rows of 16 pairs.
#[inline(always)]
fn turn<S: Simd>(s: S, tile: &[bf16], to: &mut [bf16]) {
    let mut rows = [std::ptr::null(); SIDE];
    for (row, line) in rows.iter_mut().zip(tile[..TILE].chunks_exact(DEPTH)) {
        *row = line.as_ptr();
    }
    debug_assert!(to.len() >= TILE);
    // SAFETY: each row has a tile's depth, `to` is a tile of its own.
    unsafe { s.turn_pairs(&rows, to.as_mut_ptr()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::Tier;

    /// `[outer][depth]` of an operand, read as the product would.
    fn element(operand: &Operand<'_, bf16>, outer: usize, chunk: &Chunk, k: usize) -> bf16 {
        match operand.along {
            Along::Depth => operand.run(outer, chunk.segment)[chunk.start + k],
            Along::Outer => operand.run(chunk.start + k, chunk.segment)[outer],
        }
    }

    fn check(operand: &Operand<'_, bf16>, side: Side, first: usize, count: usize) {
        for (block, tier) in tile_blocks(operand.segments, operand.segment_len, 3)
            .iter()
            .flat_map(|block| Tier::available().into_iter().map(move |tier| (block, tier)))
        {
            let mut packed = vec![bf16::NAN; count.div_ceil(SIDE) * block.depth * SIDE];
            tier.run(Pack { operand, block, first, count, side, to: &mut packed });
            let mut expected = vec![bf16::ZERO; packed.len()];
            let mut tiles_before = 0;
            for chunk in &block.chunks {
                for (index, k) in (0..count).flat_map(|index| (0..chunk.len).map(move |k| (index, k))) {
                    let tile = index / SIDE * (block.depth / DEPTH) + tiles_before + k / DEPTH;
                    let (line, k_in_tile) = (index % SIDE, k % DEPTH);
                    let at = match side {
                        Side::Left => line * DEPTH + k_in_tile,
                        Side::Right => k_in_tile / 2 * DEPTH + 2 * line + k_in_tile % 2,
                    };
                    expected[tile * TILE + at] = element(operand, first + index, chunk, k);
                }
                tiles_before += chunk.len.div_ceil(DEPTH);
            }
            assert_eq!(
                packed,
                expected,
                "{} depth {} from {first}, {count}",
                tier.name(),
                operand.segment_len
            );
        }
    }

    #[test]
    fn every_side_of_every_layout_is_packed_on_every_tier() {
        let values: Vec<bf16> = (0..120 * 150).map(|i| bf16::from_f32(((i * 37) % 251 + 1) as f32)).collect();
        for side in [Side::Left, Side::Right] {
            for (outer, depth) in [(1, 1), (16, 32), (35, 70), (50, 4), (120, 150)] {
                for operand in [Operand::rows(&values, outer, depth), Operand::columns(&values, outer, depth)]
                {
                    check(&operand, side, 0, outer);
                    if outer > 34 {
                        check(&operand, side, 16, outer - 17);
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_cover_the_depth_once() {
        for (segments, len, most) in
            [(9, 320, 10), (1, 1280, 10), (9, 4, 10), (1, 77, 2), (4, 0, 10), (1, 321, 10)]
        {
            let blocks = tile_blocks(segments, len, most);
            let mut next = (0, 0);
            for chunk in blocks.iter().flat_map(|block| &block.chunks) {
                assert_eq!((chunk.segment, chunk.start), next);
                next = if chunk.start + chunk.len == len {
                    (chunk.segment + 1, 0)
                } else {
                    (chunk.segment, chunk.start + chunk.len)
                };
            }
            assert!(blocks.iter().all(|block| block.depth <= most * DEPTH));
            assert_eq!(next, if len == 0 { (0, 0) } else { (segments, 0) });
        }
    }
}
