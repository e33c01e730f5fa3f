//! Where a product on a matrix unit is written: sums are scaled, meet bias and addend, and are rounded.

use std::ops::Range;

use super::{LowRank, Output, RowMap};
use crate::pool::SharedMut;
use crate::simd::{Scalar, Simd};
use crate::tiles::SIDE;

/// Where all tasks write, each its own rows and columns.
pub(crate) struct Target<'a, Y> {
    data: SharedMut<'a, Y>,
    stride: usize,
    map: RowMap,
    alpha: f32,
    bias: Option<&'a [f32]>,
    add: Option<&'a [Y]>,
    low_rank: Option<LowRank<'a>>,
}

impl<'a, Y> Target<'a, Y> {
    pub(crate) fn new(out: Output<'a, Y>) -> Self {
        let Output { data, stride, rows, alpha, bias, add, low_rank } = out;
        Self { data: SharedMut::new(data), stride, map: rows, alpha, bias, add, low_rank }
    }

    /// Line of the result that a row of the product is.
    #[inline(always)]
    pub(super) fn line(&self, row: usize) -> usize {
        self.map.line(row)
    }
}

impl<Y: Scalar> Target<'_, Y> {
    /// Scales a register of sums, brings bias and addend, and writes it to a line of the result: columns
    /// `first, count`, no more than a register has lanes.
    #[inline(always)]
    pub(crate) fn write<S: Simd>(&self, s: S, line: usize, [first, count]: [usize; 2], sums: S::V) {
        let bias = self.bias.map_or(s.splat(0.0), |bias| s.read(&bias[first..][..count]));
        let mut value = s.fma(sums, s.splat(self.alpha), bias);
        let start = line * self.stride + first;
        if let Some(low_rank) = self.low_rank {
            value = low_rank.add_to(s, value, line, [first, count]);
        }
        if let Some(add) = self.add {
            value = s.add(value, Y::read(s, &add[start..][..count]));
        }
        // SAFETY: tasks have rows and columns of their own.
        Y::write(s, unsafe { self.data.slice(start, count) }, value);
    }

    /// Asks for the memory of two tiles side by side.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(&self, s: S, rows: Range<usize>, column: usize) {
        for row in rows {
            s.prefetch(self.data.at(self.line(row) * self.stride + column));
        }
    }

    /// Writes two tiles side by side, `[row][column]`, whole lines of them at a time: `rows` from `row` on.
    #[inline(always)]
    pub(super) fn write_two_tiles<S: Simd>(
        &self,
        s: S,
        tiles: [&[f32]; 2],
        [row, rows]: [usize; 2],
        column: usize,
    ) {
        let alpha = s.splat(self.alpha);
        for first in (0..2 * SIDE).step_by(2 * S::LANES) {
            let halves = [first, first + S::LANES];
            let bias = halves.map(|at| match self.bias {
                Some(bias) => s.read(&bias[column + at..][..S::LANES]),
                None => s.splat(0.0),
            });
            for index in 0..rows {
                let line = self.line(row + index);
                let start = line * self.stride + column + first;
                let mut values = [bias[0]; 2];
                for ((value, bias), at) in values.iter_mut().zip(bias).zip(halves) {
                    let sums = &tiles[at / SIDE][index * SIDE + at % SIDE..][..S::LANES];
                    *value = s.fma(s.read(sums), alpha, bias);
                }
                if let Some(low_rank) = self.low_rank {
                    for (value, at) in values.iter_mut().zip(halves) {
                        *value = low_rank.add_to(s, *value, line, [column + at, S::LANES]);
                    }
                }
                if let Some(add) = self.add {
                    let (low, high) = add[start..][..2 * S::LANES].split_at(S::LANES);
                    values = [s.add(values[0], Y::read(s, low)), s.add(values[1], Y::read(s, high))];
                }
                // SAFETY: tasks have rows and columns of their own.
                let to = unsafe { self.data.slice(start, 2 * S::LANES) };
                Y::write_two(s, to, values[0], values[1]);
            }
        }
    }
}
