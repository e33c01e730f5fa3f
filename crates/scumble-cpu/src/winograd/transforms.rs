//! The three transforms, one register of channels at a time; see [`super`] for their matrices.
//!
//! Loops instead of closures: a closure that the compiler does not inline is compiled without the tier's instructions.

use super::POSITIONS;
use crate::simd::Simd;

/// `B'` times four numbers. All of `B' d B` is that for each column of the picture's square and then for each line.
#[inline(always)]
pub(super) fn picture_line<S: Simd>(s: S, [a, b, c, d]: [S::V; 4]) -> [S::V; 4] {
    [s.sub(a, c), s.add(b, c), s.sub(c, b), s.sub(d, b)]
}

/// `G` times three numbers.
#[inline(always)]
fn weights_line<S: Simd>(s: S, [a, b, c]: [S::V; 3]) -> [S::V; 4] {
    let ends = s.add(a, c);
    [a, s.add(ends, b), s.sub(ends, b), c]
}

/// `G g`: for each of four lines its three numbers.
#[inline(always)]
fn weights_down<S: Simd>(s: S, g: &[S::V; 9]) -> [[S::V; 3]; 4] {
    let mut to = [[s.splat(0.0); 3]; 4];
    for x in 0..3 {
        let line = weights_line(s, [g[x], g[3 + x], g[6 + x]]);
        for (to, value) in to.iter_mut().zip(line) {
            to[x] = value;
        }
    }
    to
}

/// `G g G'`, row after row.
#[inline(always)]
pub(super) fn weights<S: Simd>(s: S, g: &[S::V; 9]) -> [S::V; POSITIONS] {
    let mut to = [s.splat(0.0); POSITIONS];
    for (to, line) in to.chunks_exact_mut(4).zip(weights_down(s, g)) {
        to.copy_from_slice(&weights_line(s, line));
    }
    to
}

/// `A'` times four numbers.
#[inline(always)]
fn sums_line<S: Simd>(s: S, [a, b, c, d]: [S::V; 4]) -> [S::V; 2] {
    let half = s.splat(0.5);
    [s.fma(s.add(b, c), half, a), s.fma(s.sub(b, c), half, d)]
}

/// `A' m A`, row after row.
#[inline(always)]
pub(super) fn sums<S: Simd>(s: S, m: &[S::V; POSITIONS]) -> [[S::V; 2]; 2] {
    let mut down = [[s.splat(0.0); 4]; 2];
    for x in 0..4 {
        [down[0][x], down[1][x]] = sums_line(s, [m[x], m[4 + x], m[8 + x], m[12 + x]]);
    }
    [sums_line(s, down[0]), sums_line(s, down[1])]
}

/// The sum of all that [`sums`] gives: positions of the third line and column have no part in it.
#[inline(always)]
pub(super) fn whole_sum<S: Simd>(s: S, m: &[S::V; POSITIONS]) -> S::V {
    let mut lines = [s.splat(0.0); 3];
    for (line, y) in lines.iter_mut().zip([0, 1, 3]) {
        *line = s.add(s.add(m[4 * y], m[4 * y + 1]), m[4 * y + 3]);
    }
    s.add(s.add(lines[0], lines[1]), lines[2])
}
