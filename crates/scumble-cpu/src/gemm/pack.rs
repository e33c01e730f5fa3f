//! Copies operands into the order the inner loop reads them in, widened to f32 on the way.
//!
//! * A panel of the vector side is `[depth][width]`, `width` the panel's columns rounded up to whole vectors.
//! * The broadcast side is `[strip][6][depth]` where its memory runs along the depth, else `[strip][depth][6]`: either
//!   way whole runs are copied, and a block of it lies within a few pages however long the operand's rows are.

use super::kernel::ROWS;
use super::operand::{Along, Block, Operand};
use crate::simd::{Kernel, Scalar, Simd};

/// Packs columns of `b` from `first` on for one block, as panels of `width` columns (the last may be narrower) one
/// after the other; `to` is as long as they are. Columns behind the end are zeros.
pub(crate) struct Panels<'a, E> {
    pub b: &'a Operand<'a, E>,
    pub block: &'a Block,
    pub first: usize,
    pub width: usize,
    pub to: &'a mut [f32],
}

impl<E: Scalar> Kernel for Panels<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (b, block, first, width) = (self.b, self.block, self.first, self.width);
        if block.depth == 0 {
            return;
        }
        match b.along {
            Along::Outer => rows_to_panels(s, b, block, first, width, self.to),
            Along::Depth => {
                for (index, to) in self.to.chunks_mut(width * block.depth).enumerate() {
                    columns_to_panel(s, b, block, first + index * width, to);
                }
            }
        }
    }
}

/// Copies a run, widened; what `to` has beyond it becomes zeros. Plain loops: this is inlined into hot ones, where
/// chains of iterators are not always.
#[inline(always)]
fn copy<E: Scalar, S: Simd>(s: S, from: &[E], to: &mut [f32]) {
    let len = from.len();
    debug_assert!(len <= to.len());
    let mut at = 0;
    while at + S::LANES <= len {
        s.write(&mut to[at..at + S::LANES], E::read(s, &from[at..at + S::LANES]));
        at += S::LANES;
    }
    if at < len {
        s.write(&mut to[at..len], E::read(s, &from[at..]));
    }
    let mut at = len;
    while at < to.len() {
        to[at] = 0.0;
        at += 1;
    }
}

/// Depth outermost: each run is read once, in order, and dealt out to the panels.
#[inline(always)]
fn rows_to_panels<E: Scalar, S: Simd>(
    s: S,
    b: &Operand<'_, E>,
    block: &Block,
    first: usize,
    width: usize,
    to: &mut [f32],
) {
    let columns = to.len() / block.depth;
    let present = columns.min(b.outer - first);
    let panel = width * block.depth;
    let mut depth = 0;
    for chunk in &block.chunks {
        for k in 0..chunk.len {
            let run = &b.run(chunk.start + k, chunk.segment)[first..first + present];
            let (mut at, mut start) = (0, 0);
            while at < present {
                let width = width.min(columns - at);
                let line = start + (depth + k) * width;
                copy(s, &run[at..present.min(at + width)], &mut to[line..line + width]);
                at += width;
                start += panel;
            }
        }
        depth += chunk.len;
    }
}

/// One panel from runs along the depth: a transposition, square by square.
#[inline(always)]
fn columns_to_panel<E: Scalar, S: Simd>(
    s: S,
    b: &Operand<'_, E>,
    block: &Block,
    first: usize,
    to: &mut [f32],
) {
    let width = to.len() / block.depth;
    let present = width.min(b.outer - first);
    let mut depth = 0;
    for chunk in &block.chunks {
        let to = &mut to[depth * width..(depth + chunk.len) * width];
        depth += chunk.len;
        for column in (0..width).step_by(S::LANES) {
            let there = present.saturating_sub(column).min(S::LANES);
            let run = |lane: usize| &b.run(first + column + lane, chunk.segment)[chunk.start..][..chunk.len];
            if there == S::LANES {
                turn_columns(s, run, chunk.len, &mut to[column..], width);
                continue;
            }
            for line in to.chunks_exact_mut(width) {
                line[column..column + S::LANES].fill(0.0);
            }
            for lane in 0..there {
                for (line, &value) in to.chunks_exact_mut(width).zip(run(lane)) {
                    line[column + lane] = value.widen();
                }
            }
        }
    }
}

/// `LANES` runs of `len` numbers as `LANES` neighbouring columns of lines `step` floats apart.
#[inline(always)]
fn turn_columns<'r, E: Scalar, S: Simd>(
    s: S,
    run: impl Fn(usize) -> &'r [E],
    len: usize,
    to: &mut [f32],
    step: usize,
) {
    let mut rows = [std::ptr::null(); 16];
    for (lane, row) in rows[..S::LANES].iter_mut().enumerate() {
        *row = run(lane).as_ptr();
    }
    let whole = len / S::LANES * S::LANES;
    debug_assert!(len == 0 || to.len() >= (len - 1) * step + S::LANES);
    for k in (0..whole).step_by(S::LANES) {
        // SAFETY: each run has `len` numbers, and `to` lines for all of them.
        unsafe {
            let mut rows = rows;
            for row in &mut rows {
                *row = row.wrapping_add(k);
            }
            s.turn(&rows, to.as_mut_ptr().add(k * step), step);
        }
    }
    for lane in 0..if whole < len { S::LANES } else { 0 } {
        for (k, value) in run(lane)[whole..].iter().enumerate() {
            to[(whole + k) * step + lane] = value.widen();
        }
    }
}

/// Packs rows `first..first + count` of `a` for one block. Rows behind the end, up to a whole strip, are zeros.
#[inline(always)]
pub(crate) fn strips<E: Scalar, S: Simd>(
    s: S,
    a: &Operand<'_, E>,
    block: &Block,
    first: usize,
    count: usize,
    to: &mut [f32],
) {
    match a.along {
        Along::Depth => rows_to_strips(s, a, block, first, count, to),
        Along::Outer => columns_to_strips(s, a, block, first, count, to),
    }
}

#[inline(always)]
fn rows_to_strips<E: Scalar, S: Simd>(
    s: S,
    a: &Operand<'_, E>,
    block: &Block,
    first: usize,
    count: usize,
    to: &mut [f32],
) {
    let mut at = 0;
    for row in 0..count {
        for chunk in &block.chunks {
            let run = &a.run(first + row, chunk.segment)[chunk.start..chunk.start + chunk.len];
            copy(s, run, &mut to[at..at + chunk.len]);
            at += chunk.len;
        }
    }
    to[at..count.next_multiple_of(ROWS) * block.depth].fill(0.0);
}

/// Each line takes six neighbours of a run. Where a whole vector of the run is there it is written whole: the next lines
/// overwrite what does not belong, and storing a part of a vector takes some processors several times as long.
#[inline(always)]
fn columns_to_strips<E: Scalar, S: Simd>(
    s: S,
    a: &Operand<'_, E>,
    block: &Block,
    first: usize,
    count: usize,
    to: &mut [f32],
) {
    let strip = block.depth * ROWS;
    let mut depth = 0;
    for chunk in &block.chunks {
        for k in chunk.start..chunk.start + chunk.len {
            let run = &a.run(k, chunk.segment)[first..];
            let (mut at, mut line) = (0, depth * ROWS);
            let is_followed = S::LANES > ROWS && depth * ROWS + S::LANES <= strip;
            while at < count {
                if is_followed && at + ROWS <= count && at + S::LANES <= run.len() {
                    s.write(&mut to[line..line + S::LANES], E::read(s, &run[at..at + S::LANES]));
                } else {
                    copy(s, &run[at..count.min(at + ROWS)], &mut to[line..line + ROWS]);
                }
                at += ROWS;
                line += strip;
            }
            depth += 1;
        }
    }
}
