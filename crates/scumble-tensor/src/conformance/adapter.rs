//! What adapters of other kinds than the plain pair need: scaled channels, products of all pairs, sizes that trade places.

use super::{Case, Tolerance, Trial};
use crate::error::Result;

fn channels(trial: &mut Trial<'_>, dims: &[usize]) -> Result<()> {
    let c = dims[dims.len() - 1];
    let (x, add, dy) = (trial.input(dims)?, trial.input(dims)?, trial.input(dims)?);
    let (s, bias) = (trial.statistic(&[c], 1.0, 0.5)?, trial.input(&[c])?);
    let backend = trial.backend();
    let pointwise = Tolerance::Pointwise;
    trial.output("x s", &backend.scale_channels(&x, &s, None, None)?, pointwise)?;
    trial.output("x s + bias", &backend.scale_channels(&x, &s, Some(&bias), None)?, pointwise)?;
    trial.output("x s + add", &backend.scale_channels(&x, &s, None, Some(&add))?, pointwise)?;
    trial.output("x s + both", &backend.scale_channels(&x, &s, Some(&bias), Some(&add))?, pointwise)?;
    trial.gradient("ds", &backend.dot_rows(&dy, &x)?, Tolerance::Sum)
}

fn outer(trial: &mut Trial<'_>, [n, p, q, c]: [usize; 4]) -> Result<()> {
    let (a, b) = (trial.statistic(&[n, p, c], 0.0, 1.0)?, trial.statistic(&[n, q, c], 0.0, 1.0)?);
    let dy = trial.statistic(&[n, p, q, c], 0.0, 1.0)?;
    let backend = trial.backend();
    trial.gradient("y", &backend.outer(&a, &b)?, Tolerance::Pointwise)?;
    let [d_a, d_b] = backend.outer_grad(&dy, &a, &b)?;
    trial.gradient("da", &d_a, Tolerance::Sum)?;
    trial.gradient("db", &d_b, Tolerance::Sum)
}

fn swap(trial: &mut Trial<'_>, dims: &[usize]) -> Result<()> {
    let x = trial.input(dims)?;
    trial.output("y", &trial.backend().swap_middle(&x)?, Tolerance::Exact)
}

fn misfits(trial: &mut Trial<'_>) -> Result<()> {
    let (a, b) = (trial.input(&[2, 3])?, trial.input(&[3, 2])?);
    let s = trial.statistic(&[2], 0.0, 1.0)?;
    let backend = trial.backend();
    trial.refused("numbers for other channels", backend.scale_channels(&a, &s, None, None))?;
    trial.refused("a bias for other channels", backend.scale_channels(&b, &s, Some(&a), None))?;
    trial.refused("an addend of other sizes", backend.scale_channels(&b, &s, None, Some(&a)))?;
    trial.refused("rows of other sizes", backend.dot_rows(&a, &b))?;
    trial.refused("three sizes to swap", backend.swap_middle(&a.reshape(&[1, 2, 3])?))?;
    let (p, q) = (trial.statistic(&[2, 3, 4], 0.0, 1.0)?, trial.statistic(&[2, 5, 3], 0.0, 1.0)?);
    trial.refused("pairs of other channels", backend.outer(&p, &q))
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [&'static [usize]; 6] = [&[1], &[7, 1], &[2, 3, 5, 33], &[77, 320], &[1, 64, 48], &[1500, 3]];
    for dims in shapes {
        cases.push(Case::new("scale_channels", format!("{dims:?}"), move |trial| channels(trial, dims)));
    }
    let pairs =
        [[1, 1, 1, 1], [1, 4, 4, 320], [320, 4, 4, 1], [3, 2, 5, 17], [1, 8, 3, 2881], [1003, 3, 2, 1]];
    for sizes in pairs {
        cases.push(Case::new("outer", format!("{sizes:?}"), move |trial| outer(trial, sizes)));
    }
    let blocks: [&'static [usize]; 7] = [
        &[1, 1, 1, 1],
        &[77, 16, 20, 1],
        &[3, 5, 7, 1],
        &[2, 64, 8, 10],
        &[1, 3, 1000, 1],
        &[5, 1, 9, 3],
        &[1, 130, 40, 33],
    ];
    for dims in blocks {
        cases.push(Case::new("swap_middle", format!("{dims:?}"), move |trial| swap(trial, dims)));
    }
    cases.push(Case::new("scale_channels", "misfits", misfits));
    cases
}
