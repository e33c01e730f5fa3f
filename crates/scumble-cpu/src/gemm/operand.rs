//! What a product reads: matrices and pictures of f32 or bf16, seen as contiguous runs.
//!
//! An operand has an outer index (a row or column of the result) and the depth that is summed over. The depth comes in
//! segments: one for a matrix, one a kernel tap for a convolution. Memory is contiguous along the depth
//! (activations `[row, k]`, weights `[out, k]`) or along the outer index (anything transposed); a *run* is one such
//! contiguous piece. A convolution is a product whose runs are looked up in the picture, or are zeros beside it, so
//! its unfolded matrix never exists.

use crate::tiles::DEPTH;

/// Along which index neighbouring numbers lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Along {
    /// The summed index: a run is one outer index' part of a segment.
    Depth,
    /// The outer index: a run is all of it at one depth.
    Outer,
}

/// Where runs are.
#[derive(Clone)]
pub(crate) enum Runs<'a, E> {
    /// At `offsets[segment] + major * stride`.
    Matrix { data: &'a [E], stride: usize, offsets: Vec<usize> },
    /// Pixels of a picture.
    Pixels(Pixels<'a, E>),
}

/// Pixels `[h, w, c]` of a batch: run `major = (image, y, x)` of a grid reads the pixel at
/// `step * (y, x) + offsets[segment]`, or zeros when that is outside.
#[derive(Clone)]
pub(crate) struct Pixels<'a, E> {
    pub data: &'a [E],
    /// At least `channels` zeros.
    pub zeros: &'a [E],
    pub size: [usize; 2],
    pub channels: usize,
    pub grid: [usize; 2],
    pub step: usize,
    pub offsets: Vec<[isize; 2]>,
}

impl<'a, E> Pixels<'a, E> {
    fn run(&self, major: usize, segment: usize) -> &'a [E] {
        self.run_at(self.place(major), segment)
    }

    /// Image, line and column of a run.
    #[inline(always)]
    fn place(&self, major: usize) -> [usize; 3] {
        let [grid_h, grid_w] = self.grid;
        let (line, x) = (major / grid_w, major % grid_w);
        [line / grid_h, line % grid_h, x]
    }

    /// The place after one.
    #[inline(always)]
    fn after(&self, [image, y, x]: [usize; 3]) -> [usize; 3] {
        match (x + 1 < self.grid[1], y + 1 < self.grid[0]) {
            (true, _) => [image, y, x + 1],
            (false, true) => [image, y + 1, 0],
            (false, false) => [image + 1, 0, 0],
        }
    }

    #[inline(always)]
    fn run_at(&self, [image, y, x]: [usize; 3], segment: usize) -> &'a [E] {
        let [offset_y, offset_x] = self.offsets[segment];
        self.pixel(image, [(y * self.step) as isize + offset_y, (x * self.step) as isize + offset_x])
    }

    /// The pixel at `[y, x]`, zeros outside.
    #[inline(always)]
    pub(crate) fn pixel(&self, image: usize, [y, x]: [isize; 2]) -> &'a [E] {
        let inside = |at: isize, size: usize| usize::try_from(at).ok().filter(|&at| at < size);
        match (inside(y, self.size[0]), inside(x, self.size[1])) {
            (Some(y), Some(x)) => {
                let pixel = (image * self.size[0] + y) * self.size[1] + x;
                &self.data[pixel * self.channels..(pixel + 1) * self.channels]
            }
            _ => &self.zeros[..self.channels],
        }
    }
}

/// One side of a product.
#[derive(Clone)]
pub(crate) struct Operand<'a, E> {
    pub runs: Runs<'a, E>,
    pub along: Along,
    /// Size of the outer index.
    pub outer: usize,
    pub segments: usize,
    /// Depth of one segment.
    pub segment_len: usize,
}

impl<'a, E> Operand<'a, E> {
    /// Pixels, one segment an offset. Where each is read once and in order, that is a matrix.
    pub(crate) fn pixels(pixels: Pixels<'a, E>, images: usize) -> Self {
        let Pixels { data, size, channels, grid, step, .. } = pixels;
        let (outer, segments) = (images * grid[0] * grid[1], pixels.offsets.len());
        if step == 1 && size == grid && pixels.offsets[..] == [[0, 0]] {
            return Self::rows(data, outer, channels);
        }
        Self { runs: Runs::Pixels(pixels), along: Along::Depth, outer, segments, segment_len: channels }
    }

    /// `data [outer, depth]`.
    pub(crate) fn rows(data: &'a [E], outer: usize, depth: usize) -> Self {
        Self::strided(data, outer, depth, depth)
    }

    /// As [`Operand::rows`], with `stride` numbers from one row to the next.
    pub(crate) fn strided(data: &'a [E], outer: usize, depth: usize, stride: usize) -> Self {
        let runs = Runs::Matrix { data, stride, offsets: vec![0] };
        Self { runs, along: Along::Depth, outer, segments: 1, segment_len: depth }
    }

    /// `data [depth, outer]`.
    pub(crate) fn columns(data: &'a [E], outer: usize, depth: usize) -> Self {
        let runs = Runs::Matrix { data, stride: outer, offsets: vec![0] };
        Self { runs, along: Along::Outer, outer, segments: 1, segment_len: depth }
    }

    /// Some outer indices' part of a chunk as it lies, if that is a matrix of their depths: the numbers from the first one
    /// on, and how many there are from one to the next.
    pub(crate) fn in_place(&self, outer: &std::ops::Range<usize>, chunk: &Chunk) -> Option<(&'a [E], usize)> {
        let (Along::Depth, Runs::Matrix { data, stride, offsets }) = (self.along, &self.runs) else {
            return None;
        };
        let first = offsets[chunk.segment] + outer.start * stride + chunk.start;
        let last = offsets[chunk.segment] + outer.end.checked_sub(1)? * stride + chunk.start + chunk.len;
        Some((&data[first..last], *stride))
    }

    /// Total depth.
    pub(crate) fn depth(&self) -> usize {
        self.segments * self.segment_len
    }

    /// The run of `major` (an outer index, or a depth within the segment) in `segment`.
    #[inline]
    pub(crate) fn run(&self, major: usize, segment: usize) -> &'a [E] {
        let len = match self.along {
            Along::Depth => self.segment_len,
            Along::Outer => self.outer,
        };
        match &self.runs {
            Runs::Matrix { data, stride, offsets } => &data[offsets[segment] + major * stride..][..len],
            Runs::Pixels(pixels) => &pixels.run(major, segment)[..len],
        }
    }

    /// The runs of `runs.len()` indices from `major` on, as [`Operand::run`] finds them one by one: places of a picture
    /// are counted on, because a division for each run would take longer than copying it.
    #[inline(always)]
    pub(crate) fn run_many(&self, major: usize, segment: usize, runs: &mut [&'a [E]]) {
        match &self.runs {
            Runs::Matrix { .. } => {
                for (index, run) in runs.iter_mut().enumerate() {
                    *run = self.run(major + index, segment);
                }
            }
            Runs::Pixels(pixels) => {
                let mut place = pixels.place(major);
                for run in runs {
                    *run = pixels.run_at(place, segment);
                    place = pixels.after(place);
                }
            }
        }
    }
}

/// A part of one segment's depth.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    pub segment: usize,
    pub start: usize,
    pub len: usize,
}

/// Chunks that are summed in registers before they meet memory.
pub(crate) struct Block {
    pub chunks: Vec<Chunk>,
    pub depth: usize,
}

impl Block {
    /// Depth up to the last chunk's end, where chunks begin with tiles: less than `depth` if the last tile is not full.
    pub(crate) fn filled(&self) -> usize {
        let beside = |chunk: &Chunk| chunk.len.next_multiple_of(DEPTH) - chunk.len;
        self.depth - self.chunks.last().map_or(0, beside)
    }
}

/// Cuts a depth into blocks of at most `most` (as even as they come). A product without depth is one empty block.
pub(crate) fn blocks(segments: usize, segment_len: usize, most: usize) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let pieces = segment_len.div_ceil(most);
    for segment in 0..segments {
        for piece in 0..pieces {
            let (start, end) = (piece * segment_len / pieces, (piece + 1) * segment_len / pieces);
            let chunk = Chunk { segment, start, len: end - start };
            match blocks.last_mut() {
                Some(block) if block.depth + chunk.len <= most => {
                    block.depth += chunk.len;
                    block.chunks.push(chunk);
                }
                _ => blocks.push(Block { chunks: vec![chunk], depth: chunk.len }),
            }
        }
    }
    if blocks.is_empty() {
        blocks.push(Block { chunks: Vec::new(), depth: 0 });
    }
    blocks
}
