//! Convolutions: the layers of UNet and VAE in small, strides, one-sided padding, odd sizes and kernels.

use super::{Case, Tolerance, Trial};
use crate::backend::{Conv2dSpec, Padding};
use crate::error::Result;

#[derive(Clone, Copy, Debug)]
struct Layer {
    /// `[n, h, w, c]`.
    x: [usize; 4],
    out: usize,
    kernel: [usize; 2],
    spec: Conv2dSpec,
}

fn layer(x: [usize; 4], out: usize, kernel: usize, stride: usize, padding: Padding) -> Layer {
    Layer { x, out, kernel: [kernel, kernel], spec: Conv2dSpec { stride, padding } }
}

fn layers() -> Vec<Layer> {
    let [none, one] = [0, 1].map(Padding::same);
    let right_and_below = Padding { bottom: 1, right: 1, ..none };
    let uneven = Padding { top: 2, bottom: 0, left: 1, right: 3 };
    vec![
        layer([1, 1, 1, 1], 1, 1, 1, none),
        layer([1, 1, 1, 5], 3, 3, 1, one),
        layer([1, 5, 7, 3], 8, 3, 1, one),
        layer([2, 8, 8, 16], 32, 3, 1, one),
        layer([1, 9, 6, 4], 320, 3, 1, one),
        layer([1, 6, 9, 320], 4, 3, 1, one),
        layer([3, 7, 5, 33], 17, 3, 1, one),
        layer([1, 16, 16, 64], 64, 3, 1, one),
        layer([1, 13, 11, 96], 80, 3, 1, one),
        layer([1, 8, 9, 128], 136, 3, 1, one),
        layer([1, 7, 9, 136], 130, 3, 1, uneven),
        layer([2, 8, 8, 32], 32, 3, 2, one),
        layer([1, 9, 7, 24], 40, 3, 2, one),
        layer([2, 8, 8, 16], 16, 3, 2, right_and_below),
        layer([1, 9, 11, 7], 9, 3, 2, right_and_below),
        layer([2, 7, 5, 20], 12, 1, 1, none),
        layer([1, 16, 17, 64], 96, 1, 1, none),
        layer([1, 9, 8, 16], 8, 1, 2, none),
        layer([1, 8, 12, 3], 32, 4, 4, none),
        layer([1, 6, 6, 5], 6, 3, 1, uneven),
        layer([1, 6, 6, 5], 6, 3, 1, none),
        Layer { kernel: [5, 2], ..layer([2, 7, 8, 6], 10, 1, 1, Padding::same(2)) },
        Layer { kernel: [1, 3], ..layer([1, 7, 8, 16], 16, 1, 3, one) },
    ]
}

fn check(trial: &mut Trial<'_>, layer: Layer) -> Result<()> {
    let Layer { x: [n, h, w, c], out, kernel: [kh, kw], spec } = layer;
    let [oh, ow] = spec.output_size([h, w], [kh, kw])?;
    let x = trial.input(&[n, h, w, c])?;
    let weight = trial.input(&[out, kh, kw, c])?;
    let (bias, add) = (trial.input(&[out])?, trial.input(&[n, oh, ow, out])?);
    let backend = trial.backend();
    // Backends may compute large ones by minimal filtering, which rounds what it multiplies.
    let filtered = [kh, kw, spec.stride] == [3, 3, 1] && c.min(out) >= 128;
    let tolerance = if filtered { Tolerance::Transformed } else { Tolerance::Sum };
    for (name, bias, add) in
        [("y", None, None), ("y with bias", Some(&bias), None), ("y with both", Some(&bias), Some(&add))]
    {
        trial.output(name, &backend.conv2d(&x, &weight, bias, add, spec)?, tolerance)?;
    }
    let dy = trial.input(&[n, oh, ow, out])?;
    trial.output("dx", &backend.conv2d_grad_input(&dy, &weight, [h, w], spec)?, tolerance)?;
    trial.gradient("dw", &backend.conv2d_grad_weight(&dy, &x, [kh, kw], spec)?, Tolerance::Sum)?;
    // Once more: the input gradient may have prepared the weight in another form.
    trial.output("y again", &backend.conv2d(&x, &weight, None, None, spec)?, tolerance)
}

/// The gradient of a picture `x [n, h, w, c]` that was enlarged to `size` before a convolution of 3 x 3.
fn enlarged(
    trial: &mut Trial<'_>,
    x: [usize; 4],
    size: [usize; 2],
    out: usize,
    padding: Padding,
) -> Result<()> {
    let [n, h, w, c] = x;
    let spec = Conv2dSpec { stride: 1, padding };
    let [oh, ow] = spec.output_size(size, [3, 3])?;
    let (dy, weight) = (trial.input(&[n, oh, ow, out])?, trial.input(&[out, 3, 3, c])?);
    let backend = trial.backend();
    let d_x = backend.conv2d_grad_enlarged(&dy, &weight, [h, w], size, spec)?;
    // The enlarged picture's gradient may have been rounded before its pixels are summed.
    trial.output("dx", &d_x, Tolerance::Transformed)?;
    let other = trial.input(&[out + 1, 3, 3, c])?;
    let backend = trial.backend();
    trial.refused("other channels", backend.conv2d_grad_enlarged(&dy, &other, [h, w], size, spec))
}

fn misfits(trial: &mut Trial<'_>) -> Result<()> {
    let spec = Conv2dSpec { stride: 1, padding: Padding::same(0) };
    let (x, w) = (trial.input(&[1, 2, 2, 3])?, trial.input(&[4, 3, 3, 3])?);
    let other = trial.input(&[4, 1, 1, 2])?;
    let backend = trial.backend();
    trial.refused("a kernel larger than the picture", backend.conv2d(&x, &w, None, None, spec))?;
    trial.refused("other channels", backend.conv2d(&x, &other, None, None, spec))?;
    let still = Conv2dSpec { stride: 0, ..spec };
    trial.refused("stride 0", backend.conv2d(&x, &x, None, None, still))
}

pub(super) fn cases() -> Vec<Case> {
    let case = |layer: Layer| {
        let Layer { x, out, kernel, spec: Conv2dSpec { stride, padding: p } } = layer;
        let label = format!(
            "{x:?} to {out}, kernel {kernel:?}, stride {stride}, padding {:?}",
            [p.top, p.bottom, p.left, p.right]
        );
        Case::new("conv2d", label, move |trial| check(trial, layer))
    };
    let misfits = Case::new("conv2d", "misfits", misfits);
    let [none, one] = [0, 1].map(Padding::same);
    let uneven = Padding { top: 2, bottom: 0, left: 1, right: 3 };
    let enlargements = [
        ([1, 1, 1, 1], [2, 2], 1, one),
        ([2, 3, 4, 16], [6, 8], 8, one),
        ([1, 3, 2, 9], [7, 5], 12, one),
        ([1, 4, 5, 128], [8, 10], 136, one),
        ([1, 7, 5, 130], [14, 10], 131, one),
        ([2, 5, 6, 136], [10, 12], 128, uneven),
        ([1, 6, 6, 128], [12, 12], 128, none),
        ([1, 4, 4, 128], [9, 8], 128, one),
    ];
    let enlarged = enlargements.map(|(x, size, out, padding)| {
        let label = format!("{x:?} enlarged to {size:?}, to {out}");
        Case::new("conv2d", label, move |trial| enlarged(trial, x, size, out, padding))
    });
    layers().into_iter().map(case).chain(enlarged).chain([misfits]).collect()
}
