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
        let mut value = s.splat(0.0);
        if let Some(bias) = self.bias {
            value = s.read(&bias[first..][..count]);
        }
        value = s.fma(sums, s.splat(self.alpha), value);
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
            let bias = self.two_biases(s, column + first);
            for index in 0..rows {
                let mut values = [bias[0]; 2];
                for ((value, bias), at) in values.iter_mut().zip(bias).zip(halves) {
                    let sums = &tiles[at / SIDE][index * SIDE + at % SIDE..][..S::LANES];
                    *value = s.fma(s.read(sums), alpha, bias);
                }
                self.write_values(s, self.line(row + index), column + first, values);
            }
        }
    }

    /// Scales two registers of sums, brings bias and addend, and writes them to a line of the result, from `column` on.
    #[inline(always)]
    pub(crate) fn write_two<S: Simd>(&self, s: S, line: usize, column: usize, sums: [S::V; 2]) {
        let mut values = self.two_biases(s, column);
        for (value, sums) in values.iter_mut().zip(sums) {
            *value = s.fma(sums, s.splat(self.alpha), *value);
        }
        self.write_values(s, line, column, values);
    }

    /// Two registers of the bias, from `column` on.
    #[inline(always)]
    fn two_biases<S: Simd>(&self, s: S, column: usize) -> [S::V; 2] {
        let mut two = [s.splat(0.0); 2];
        if let Some(bias) = self.bias {
            let (low, high) = bias[column..][..2 * S::LANES].split_at(S::LANES);
            two = [s.read(low), s.read(high)];
        }
        two
    }

    /// Brings the addends to two registers of a line and writes them.
    #[inline(always)]
    fn write_values<S: Simd>(&self, s: S, line: usize, column: usize, mut values: [S::V; 2]) {
        let start = line * self.stride + column;
        if let Some(low_rank) = self.low_rank {
            for (half, value) in values.iter_mut().enumerate() {
                *value = low_rank.add_to(s, *value, line, [column + half * S::LANES, S::LANES]);
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
