//! Copies operands into the order the inner loop reads them in.
//!
//! * A panel of the vector side is `[depth][width]`, `width` the panel's columns rounded up to whole vectors.
//! * Strips of the broadcast side are `[strip][depth][6]`; only needed when its memory runs along the outer index,
//!   otherwise its rows are read where they are.

use super::kernel::ROWS;
use super::operand::{Along, Block, Operand};

/// Packs columns of `b` from `first` on for one block, as panels of `width` columns (the last may be narrower) one
/// after the other; `to` is as long as they are. Columns behind the end are zeros.
pub(crate) fn panels(b: &Operand<'_>, block: &Block, first: usize, width: usize, to: &mut [f32]) {
    if block.depth == 0 {
        return;
    }
    match b.along {
        Along::Outer => rows_to_panels(b, block, first, width, to),
        Along::Depth => {
            for (index, to) in to.chunks_mut(width * block.depth).enumerate() {
                columns_to_panel(b, block, first + index * width, to);
            }
        }
    }
}

/// Depth outermost: each run is read once, in order, and dealt out to the panels.
fn rows_to_panels(b: &Operand<'_>, block: &Block, first: usize, width: usize, to: &mut [f32]) {
    let columns = to.len() / block.depth;
    let present = columns.min(b.outer - first);
    let panel = width * block.depth;
    let mut depth = 0;
    for chunk in &block.chunks {
        for k in 0..chunk.len {
            let run = &b.run(chunk.start + k, chunk.segment)[first..first + present];
            for (index, values) in run.chunks(width).enumerate() {
                let width = width.min(columns - index * width);
                let start = index * panel + (depth + k) * width;
                let line = &mut to[start..start + width];
                line[..values.len()].copy_from_slice(values);
                line[values.len()..].fill(0.0);
            }
        }
        depth += chunk.len;
    }
}

/// One panel from runs along the depth: a transposition.
fn columns_to_panel(b: &Operand<'_>, block: &Block, first: usize, to: &mut [f32]) {
    let width = to.len() / block.depth;
    let present = width.min(b.outer - first);
    let mut depth = 0;
    for chunk in &block.chunks {
        let to = &mut to[depth * width..(depth + chunk.len) * width];
        depth += chunk.len;
        for column in 0..present {
            let run = &b.run(first + column, chunk.segment)[chunk.start..chunk.start + chunk.len];
            for (line, &value) in to.chunks_exact_mut(width).zip(run) {
                line[column] = value;
            }
        }
        to.chunks_exact_mut(width).for_each(|line| line[present..].fill(0.0));
    }
}

/// Packs rows `first..first + count` of `a` (memory along the outer index) for one block; rows behind the end are
/// zeros.
pub(crate) fn strips(a: &Operand<'_>, block: &Block, first: usize, count: usize, to: &mut [f32]) {
    let mut depth = 0;
    for chunk in &block.chunks {
        for k in 0..chunk.len {
            let run = &a.run(chunk.start + k, chunk.segment)[first..first + count];
            let (whole, rest) = run.as_chunks::<ROWS>();
            for (strip, values) in whole.iter().enumerate() {
                let at = (strip * block.depth + depth + k) * ROWS;
                to[at..at + ROWS].copy_from_slice(values);
            }
            if !rest.is_empty() {
                let at = (whole.len() * block.depth + depth + k) * ROWS;
                to[at..at + rest.len()].copy_from_slice(rest);
                to[at + rest.len()..at + ROWS].fill(0.0);
            }
        }
        depth += chunk.len;
    }
}
