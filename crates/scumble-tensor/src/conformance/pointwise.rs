//! Element-wise ops, sums over rows, casts; lengths around and between vector widths, arguments deep in the tails.

use super::{Case, Tolerance, Trial};
use crate::backend::Activation;
use crate::dtype::DType;
use crate::error::Result;

const LENGTHS: [usize; 6] = [1, 7, 16, 33, 1000, 40_003];

fn activation(trial: &mut Trial<'_>, kind: Activation, len: usize, deviation: f32) -> Result<()> {
    let (x, dy) = (trial.input_of(&[len], 0.0, deviation)?, trial.input(&[len])?);
    let backend = trial.backend();
    trial.output("y", &backend.activation(kind, &x)?, Tolerance::Pointwise)?;
    trial.output("dx", &backend.activation_grad(kind, &dy, &x)?, Tolerance::Pointwise)
}

fn geglu(trial: &mut Trial<'_>, rows: usize, d: usize, deviation: f32) -> Result<()> {
    let x = trial.input_of(&[rows, 2 * d], 0.0, deviation)?;
    let dy = trial.input(&[rows, d])?;
    let backend = trial.backend();
    trial.output("y", &backend.geglu(&x)?, Tolerance::Pointwise)?;
    trial.output("dx", &backend.geglu_grad(&dy, &x)?, Tolerance::Pointwise)
}

fn arithmetic(trial: &mut Trial<'_>, len: usize) -> Result<()> {
    let (a, b) = (trial.input(&[len])?, trial.input(&[len])?);
    let backend = trial.backend();
    trial.output("a + b", &backend.add_scaled(&a, &b, 1.0)?, Tolerance::Pointwise)?;
    trial.output("a - b / 4", &backend.add_scaled(&a, &b, -0.25)?, Tolerance::Pointwise)?;
    trial.output("1.7 a", &backend.scale(&a, 1.7)?, Tolerance::Pointwise)?;
    trial.output("0 a", &backend.scale(&a, 0.0)?, Tolerance::Exact)?;
    trial.output("a b", &backend.mul(&a, &b)?, Tolerance::Pointwise)?;
    let wide = f64::from(trial.backend().sum_squares(&a)? as f32);
    trial.number("sum of squares", wide, Tolerance::Sum);
    // Shared, so it must be copied; unshared, so it may be changed.
    trial.output("shared a + b", &backend.accumulate(a.clone(), &b)?, Tolerance::Pointwise)?;
    let own = backend.scale(&a, 1.0)?;
    trial.output("own a + b", &backend.accumulate(own, &b)?, Tolerance::Pointwise)
}

fn images(trial: &mut Trial<'_>, x: &[usize]) -> Result<()> {
    let (n, c) = (x[0], x[x.len() - 1]);
    let (x, t) = (trial.input(x)?, trial.input(&[n, c])?);
    let backend = trial.backend();
    trial.output("x + t", &backend.add_per_image(&x, &t)?, Tolerance::Pointwise)?;
    trial.output("sum per image", &backend.sum_per_image(&x)?, Tolerance::Sum)?;
    trial.gradient("sum of rows", &backend.sum_rows(&x)?, Tolerance::Sum)
}

/// Casts are judged bit by bit: rounding to nearest, ties to even, is the only right answer.
fn cast(trial: &mut Trial<'_>, len: usize) -> Result<()> {
    let x = trial.input_of(&[len], 0.0, 3.0)?;
    for dtype in [DType::F32, DType::BF16] {
        let y = trial.backend().cast(&x, dtype)?;
        trial.output_as(dtype, dtype.name(), &y, Tolerance::Exact)?;
    }
    Ok(())
}

fn misfits(trial: &mut Trial<'_>) -> Result<()> {
    let (a, b) = (trial.input(&[2, 3])?, trial.input(&[7])?);
    let backend = trial.backend();
    trial.refused("a sum of different sizes", backend.add_scaled(&a, &b, 1.0))?;
    trial.refused("a product of different sizes", backend.mul(&a, &b))?;
    trial.refused("an accumulation of different sizes", backend.accumulate(a.clone(), &b))?;
    trial.refused("rows for other images", backend.add_per_image(&a, &a.reshape(&[3, 2])?))?;
    trial.refused("halves of an odd size", backend.geglu(&a))
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for len in LENGTHS {
        for kind in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
            for deviation in [1.0, 10.0] {
                let label = format!("{kind:?} of {len}, deviation {deviation}");
                cases.push(Case::new("activation", label, move |t| activation(t, kind, len, deviation)));
            }
        }
        cases.push(Case::new("arithmetic", format!("{len}"), move |trial| arithmetic(trial, len)));
        cases.push(Case::new("cast", format!("{len}"), move |trial| cast(trial, len)));
    }
    for (rows, d, deviation) in [(1, 1, 1.0), (3, 5, 1.0), (7, 64, 4.0), (2, 1283, 1.0), (64, 320, 1.0)] {
        let label = format!("{rows} rows to {d}, deviation {deviation}");
        cases.push(Case::new("geglu", label, move |trial| geglu(trial, rows, d, deviation)));
    }
    let shapes: [&'static [usize]; 6] =
        [&[1, 1], &[2, 3, 5, 33], &[3, 1, 64], &[1, 40, 30, 16], &[2, 77, 100], &[1, 2000, 3]];
    for x in shapes {
        cases.push(Case::new("images and rows", format!("{x:?}"), move |trial| images(trial, x)));
    }
    cases.push(Case::new("arithmetic", "misfits", misfits));
    cases
}
