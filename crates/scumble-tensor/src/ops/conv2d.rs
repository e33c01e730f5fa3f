//! Convolution of channels-last pictures: `y[n,i,j,o] = b[o] + sum over u,v,c of x[n, s i + u - top, s j + v - left, c] w[o,u,v,c]`.
//!
//! ```text
//! dx[n, s i + u - top, s j + v - left, c] += dy[n,i,j,o] w[o,u,v,c]        db = sum over n,i,j of dy
//! dw[o,u,v,c] = sum over n,i,j of dy[n,i,j,o] x[n, s i + u - top, s j + v - left, c]        d_add = dy
//! ```
//!
//! Pixels outside the picture are zeros. The low-rank branch is a convolution to `r` channels and a 1x1 one back.

use crate::backend::Conv2dSpec;
use crate::error::{Result, shape_error};
use crate::ops::cast::matching;
use crate::ops::{check_dims, check_numel, linear, upsample};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

const OP: &str = "conv2d";

/// `x [n, h, w, c]`, `w [out, kh, kw, c]`, `bias [out]`, `add` as the result -> `[n, oh, ow, out]`.
pub fn conv2d(
    tape: &Tape<'_>,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    add: Option<&Var>,
    spec: Conv2dSpec,
) -> Result<Var> {
    layer(tape, x, None, w, bias, add, spec)
}

/// [`conv2d`] of `x` enlarged to `size` by its nearest neighbours: the gradient of `x` never takes the enlarged size.
pub fn conv2d_of_enlarged(
    tape: &Tape<'_>,
    x: &Var,
    size: [usize; 2],
    w: &Var,
    bias: Option<&Var>,
    spec: Conv2dSpec,
) -> Result<Var> {
    upsample::check(x.value(), size)?;
    let enlarged = tape.backend().upsample_nearest(x.value(), size)?;
    layer(tape, x, Some(enlarged), w, bias, None, spec)
}

/// The convolution of `x`, or of what it was enlarged to.
fn layer(
    tape: &Tape<'_>,
    x: &Var,
    enlarged: Option<Tensor>,
    w: &Var,
    bias: Option<&Var>,
    add: Option<&Var>,
    spec: Conv2dSpec,
) -> Result<Var> {
    let picture = enlarged.as_ref().unwrap_or(x.value());
    let output = output_dims(picture, w.value(), spec)?;
    if let Some(bias) = bias {
        check_numel(OP, "bias", output[3], bias.value())?;
    }
    if let Some(add) = add {
        check_dims(OP, "add", &output, add.value())?;
    }
    let w = &matching(tape, w, x)?;
    let bias = bias.map(|bias| matching(tape, bias, x)).transpose()?;
    let bias = bias.as_ref();
    let y = tape.backend().conv2d(picture, w.value(), bias.map(Var::value), add.map(Var::value), spec)?;
    let operands: Vec<&Var> = [Some(x), Some(w), bias, add].into_iter().flatten().collect();
    Ok(tape.record(&operands, y, || {
        let [small, input] = [x.value(), picture].map(|x| [x.dims()[1], x.dims()[2]]);
        let is_enlarged = enlarged.is_some();
        let kernel = [w.dims()[1], w.dims()[2]];
        let has_add = add.map(Var::needs_grad);
        let has_bias = bias.map(Var::needs_grad);
        // Each operand is saved only for the other's gradient.
        let saved_w = x.needs_grad().then(|| w.value().clone());
        let saved_x = w.needs_grad().then(|| picture.clone());
        move |backend, d_y, _| {
            let d_x = match &saved_w {
                Some(w) if is_enlarged => Some(backend.conv2d_grad_enlarged(d_y, w, small, input, spec)?),
                Some(w) => Some(backend.conv2d_grad_input(d_y, w, input, spec)?),
                None => None,
            };
            let d_w = match &saved_x {
                Some(x) => Some(backend.conv2d_grad_weight(d_y, x, kernel, spec)?),
                None => None,
            };
            let mut grads = vec![d_x, d_w];
            if let Some(needed) = has_bias {
                grads.push(if needed { Some(backend.sum_rows(d_y)?) } else { None });
            }
            if let Some(needed) = has_add {
                grads.push(needed.then(|| d_y.clone()));
            }
            Ok(grads)
        }
    }))
}

/// `add + scale * conv1x1(conv2d(x, down), up)` with `down [r, kh, kw, c]`, `up [out, r]`: an adapter's branch.
pub fn low_rank_conv(
    tape: &Tape<'_>,
    x: &Var,
    down: &Var,
    up: &Var,
    scale: f32,
    spec: Conv2dSpec,
    add: &Var,
) -> Result<Var> {
    let hidden = conv2d(tape, x, down, None, None, spec)?;
    linear::scaled(tape, &hidden, up, None, Some(add), scale)
}

/// `[n, oh, ow, out]`; errors when input and weight do not fit.
pub(crate) fn output_dims(x: &Tensor, w: &Tensor, spec: Conv2dSpec) -> Result<[usize; 4]> {
    let [n, height, width, c] = x.nhwc(OP)?;
    let &[out, kh, kw, c_w] = w.dims() else {
        return Err(shape_error(OP, "weight", "[out, kh, kw, in]", w.shape()));
    };
    if c != c_w {
        return Err(shape_error(OP, "input channels of the weight", c, w.shape()));
    }
    let [oh, ow] = spec.output_size([height, width], [kh, kw])?;
    Ok([n, oh, ow, out])
}

/// The sizes of one convolution; walks over which input pixel meets which kernel tap.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    /// Images.
    pub n: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Input channels.
    pub c: usize,
    /// Output channels.
    pub out: usize,
    /// Stride and padding.
    pub spec: Conv2dSpec,
}

impl Geometry {
    /// Calls `visit(output pixel, input pixel, tap)` for all that meet inside the picture.
    fn walk(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let ([h, w], [oh, ow], [kh, kw]) = (self.input, self.output, self.kernel);
        let (stride, pad) = (self.spec.stride, self.spec.padding);
        for image in 0..self.n {
            for (i, j) in (0..oh).flat_map(|i| (0..ow).map(move |j| (i, j))) {
                for (u, v) in (0..kh).flat_map(|u| (0..kw).map(move |v| (u, v))) {
                    let row = (stride * i + u).checked_sub(pad.top).filter(|&row| row < h);
                    let col = (stride * j + v).checked_sub(pad.left).filter(|&col| col < w);
                    if let (Some(row), Some(col)) = (row, col) {
                        visit((image * oh + i) * ow + j, (image * h + row) * w + col, u * kw + v);
                    }
                }
            }
        }
    }

    /// Where weight `[o, tap, 0]` lies.
    fn weight(&self, o: usize, tap: usize) -> usize {
        (o * self.kernel[0] * self.kernel[1] + tap) * self.c
    }
}

/// The convolution without bias, in plain loops.
pub(crate) fn plain(x: &[f64], w: &[f64], at: &Geometry) -> Vec<f64> {
    let mut y = vec![0.0; at.n * at.output[0] * at.output[1] * at.out];
    at.walk(|to, from, tap| {
        for o in 0..at.out {
            for ch in 0..at.c {
                y[to * at.out + o] += x[from * at.c + ch] * w[at.weight(o, tap) + ch];
            }
        }
    });
    y
}

/// Gradient for the input.
pub(crate) fn plain_grad_input(d_y: &[f64], w: &[f64], at: &Geometry) -> Vec<f64> {
    let mut d_x = vec![0.0; at.n * at.input[0] * at.input[1] * at.c];
    at.walk(|to, from, tap| {
        for o in 0..at.out {
            for ch in 0..at.c {
                d_x[from * at.c + ch] += d_y[to * at.out + o] * w[at.weight(o, tap) + ch];
            }
        }
    });
    d_x
}

/// Gradient for the weight.
pub(crate) fn plain_grad_weight(d_y: &[f64], x: &[f64], at: &Geometry) -> Vec<f64> {
    let mut d_w = vec![0.0; at.out * at.kernel[0] * at.kernel[1] * at.c];
    at.walk(|to, from, tap| {
        for o in 0..at.out {
            for ch in 0..at.c {
                d_w[at.weight(o, tap) + ch] += d_y[to * at.out + o] * x[from * at.c + ch];
            }
        }
    });
    d_w
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Padding;
    use crate::ops::testing::check_gradients;

    #[test]
    fn gradients() {
        let same = Conv2dSpec { stride: 1, padding: Padding::same(1) };
        let right_and_below = Padding { bottom: 1, right: 1, ..Padding::default() };
        let down = Conv2dSpec { stride: 2, padding: right_and_below };
        check_gradients(&[&[2, 3, 4, 2], &[3, 3, 3, 2], &[3], &[2, 3, 4, 3]], |tape, v| {
            conv2d(tape, &v[0], &v[1], Some(&v[2]), Some(&v[3]), same)
        });
        check_gradients(&[&[1, 5, 4, 2], &[2, 3, 3, 2]], |tape, v| {
            conv2d(tape, &v[0], &v[1], None, None, down)
        });
        check_gradients(&[&[1, 4, 3, 2], &[2, 3, 3, 2], &[3, 2], &[1, 4, 3, 3]], |tape, v| {
            low_rank_conv(tape, &v[0], &v[1], &v[2], 1.5, same, &v[3])
        });
        for size in [[4, 6], [3, 5]] {
            check_gradients(&[&[1, 2, 3, 2], &[3, 3, 3, 2], &[3]], |tape, v| {
                conv2d_of_enlarged(tape, &v[0], size, &v[1], Some(&v[2]), same)
            });
        }
    }
}
