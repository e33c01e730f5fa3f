//! Copies operands into the order the inner loop reads them in.
//!
//! * A panel of the vector side is `[depth][width]`, `width` the panel's columns rounded up to whole vectors.
//! * Strips of the broadcast side are `[strip][depth][6]`; only needed when its memory runs along the outer index,
//!   otherwise its rows are read where they are.

use super::kernel::ROWS;
use super::operand::{Along, Block, Operand};

/// Packs columns `first..first + width` of `b` for one block; columns behind the end are zeros.
pub(crate) fn panel(b: &Operand<'_>, block: &Block, first: usize, width: usize, to: &mut [f32]) {
    let present = width.min(b.outer - first);
    let mut depth = 0;
    for chunk in &block.chunks {
        let to = &mut to[depth * width..(depth + chunk.len) * width];
        depth += chunk.len;
        match b.along {
            Along::Outer => {
                for (k, line) in to.chunks_exact_mut(width).enumerate() {
                    let run = &b.run(chunk.start + k, chunk.segment)[first..first + present];
                    line[..present].copy_from_slice(run);
                    line[present..].fill(0.0);
                }
            }
            Along::Depth => {
                for column in 0..width {
                    if column < present {
                        let run = &b.run(first + column, chunk.segment)[chunk.start..chunk.start + chunk.len];
                        for (line, &value) in to.chunks_exact_mut(width).zip(run) {
                            line[column] = value;
                        }
                    } else {
                        to.chunks_exact_mut(width).for_each(|line| line[column] = 0.0);
                    }
                }
            }
        }
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
