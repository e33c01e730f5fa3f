//! Nearest-neighbour enlargement: `y[n,i,j] = x[n, floor(i h / H), floor(j w / W)]`; the gradient of a pixel is the
//! sum over its copies.

use crate::error::{Result, shape_error};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x [n, h, w, c]` -> `[n, size[0], size[1], c]`.
pub fn upsample_nearest(tape: &Tape<'_>, x: &Var, size: [usize; 2]) -> Result<Var> {
    let [_, h, w, _] = check(x.value(), size)?;
    let y = tape.backend().upsample_nearest(x.value(), size)?;
    Ok(tape.record(&[x], y, || {
        move |backend, d_y, _| Ok(vec![Some(backend.upsample_nearest_grad(d_y, [h, w])?)])
    }))
}

/// Sizes of `x`; errors when there is nothing to enlarge.
pub(crate) fn check(x: &Tensor, size: [usize; 2]) -> Result<[usize; 4]> {
    let dims = x.nhwc("upsample_nearest")?;
    if (dims[1] == 0 || dims[2] == 0) && size[0] * size[1] > 0 {
        return Err(shape_error("upsample_nearest", "input", "at least one pixel", x.shape()));
    }
    Ok(dims)
}

/// Calls `visit(large pixel, small pixel)` for `n` pictures.
fn walk(n: usize, small: [usize; 2], large: [usize; 2], mut visit: impl FnMut(usize, usize)) {
    for image in 0..n {
        for i in 0..large[0] {
            for j in 0..large[1] {
                let (row, col) = (i * small[0] / large[0], j * small[1] / large[1]);
                visit((image * large[0] + i) * large[1] + j, (image * small[0] + row) * small[1] + col);
            }
        }
    }
}

/// `x [n, h, w, c]` enlarged, in plain loops.
pub(crate) fn plain(x: &[f64], [n, h, w, c]: [usize; 4], size: [usize; 2]) -> Vec<f64> {
    let mut y = vec![0.0; n * size[0] * size[1] * c];
    walk(n, [h, w], size, |large, small| {
        y[large * c..(large + 1) * c].copy_from_slice(&x[small * c..(small + 1) * c]);
    });
    y
}

/// Gradient `[n, size[0], size[1], c]` from `d_y [n, h, w, c]`.
pub(crate) fn plain_grad(d_y: &[f64], [n, h, w, c]: [usize; 4], size: [usize; 2]) -> Vec<f64> {
    let mut d_x = vec![0.0; n * size[0] * size[1] * c];
    walk(n, size, [h, w], |large, small| {
        for ch in 0..c {
            d_x[small * c + ch] += d_y[large * c + ch];
        }
    });
    d_x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        for size in [[4, 6], [5, 7], [2, 3]] {
            check_gradients(&[&[2, 2, 3, 2]], |tape, v| upsample_nearest(tape, &v[0], size));
        }
    }
}
