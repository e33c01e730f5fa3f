//! Matrix products: all transpositions, fused terms, sizes around and between kernel tiles.

use super::{Case, Tolerance, Trial};
use crate::backend::{LowRank, MatMul};
use crate::error::Result;

/// `[m, k, n]`.
const SIZES: [[usize; 3]; 14] = [
    [1, 1, 1],
    [1, 7, 5],
    [1, 320, 64],
    [3, 64, 17],
    [16, 32, 16],
    [77, 320, 31],
    [33, 77, 48],
    [64, 64, 64],
    [130, 96, 200],
    [5, 16, 1003],
    [17, 2311, 19],
    [154, 40, 1],
    [257, 3, 129],
    [300, 129, 260],
];

fn matrix(trial: &mut Trial<'_>, [rows, cols]: [usize; 2], transposed: bool) -> Result<crate::Tensor> {
    trial.input(&if transposed { [cols, rows] } else { [rows, cols] })
}

fn product(trial: &mut Trial<'_>, [m, k, n]: [usize; 3], transposed: [bool; 2], fused: bool) -> Result<()> {
    let a = matrix(trial, [m, k], transposed[0])?;
    let b = matrix(trial, [k, n], transposed[1])?;
    let (bias, add) = (trial.input(&[n])?, trial.input(&[m, n])?);
    let plain = MatMul { a_transposed: transposed[0], b_transposed: transposed[1], ..MatMul::nt(&a, &b) };
    if !fused {
        let wide = MatMul { out: trial.grad_dtype(), ..plain };
        trial.output("y", &trial.backend().matmul(plain)?, Tolerance::Sum)?;
        return trial.gradient("unrounded y", &trial.backend().matmul(wide)?, Tolerance::Sum);
    }
    let alpha = MatMul { alpha: 0.37, ..plain };
    let variants = [
        ("bias", MatMul { bias: Some(&bias), ..plain }),
        ("add", MatMul { add: Some(&add), ..alpha }),
        ("bias and add", MatMul { bias: Some(&bias), add: Some(&add), ..alpha }),
    ];
    for (name, product) in variants {
        trial.output(name, &trial.backend().matmul(product)?, Tolerance::Sum)?;
    }
    Ok(())
}

/// A product and one of `rank` columns' depth, with everything that can be fused or alone.
fn with_low_rank(trial: &mut Trial<'_>, [m, k, n]: [usize; 3], rank: usize, transposed: bool) -> Result<()> {
    let (a, b) = (trial.input(&[m, k])?, matrix(trial, [k, n], transposed)?);
    let (left, right) = (trial.input(&[m, rank])?, matrix(trial, [rank, n], transposed)?);
    let (bias, add) = (trial.input(&[n])?, trial.input(&[m, n])?);
    let low_rank = Some(LowRank { left: &left, right: &right, right_transposed: transposed, factor: -1.3 });
    let alone = MatMul { b_transposed: transposed, low_rank, ..MatMul::nt(&a, &b) };
    let all = MatMul { alpha: 0.37, bias: Some(&bias), add: Some(&add), ..alone };
    let wide = MatMul { out: trial.grad_dtype(), ..alone };
    trial.output("y", &trial.backend().matmul(alone)?, Tolerance::Sum)?;
    trial.output("y with bias and add", &trial.backend().matmul(all)?, Tolerance::Sum)?;
    trial.gradient("unrounded y", &trial.backend().matmul(wide)?, Tolerance::Sum)
}

/// A linear layer's three products with one weight, twice each: prepared forms must not be mixed up.
fn linear_layer(trial: &mut Trial<'_>, rows: usize, input: usize, output: usize) -> Result<()> {
    let x = trial.input(&[2, rows, input])?;
    let w = trial.input(&[output, input])?;
    let dy = trial.input(&[2, rows, output])?;
    for _ in 0..2 {
        let backend = trial.backend();
        trial.output("y", &backend.matmul(MatMul::nt(&x, &w))?, Tolerance::Sum)?;
        trial.output("dx", &backend.matmul(MatMul::nn(&dy, &w))?, Tolerance::Sum)?;
        trial.gradient("dw", &backend.matmul(MatMul::tn(&dy, &x))?, Tolerance::Sum)?;
    }
    Ok(())
}

fn misfits(trial: &mut Trial<'_>) -> Result<()> {
    let (a, b) = (trial.input(&[3, 4])?, trial.input(&[5, 6])?);
    trial.refused("matrices that do not fit", trial.backend().matmul(MatMul::nt(&a, &b)))?;
    let short_bias = MatMul { bias: Some(&b), ..MatMul::nt(&a, &a) };
    trial.refused("a bias that does not fit", trial.backend().matmul(short_bias))?;
    // [3, 4] and [4, 3] suit a product of [3, 3]; [5, 6] and [6, 5] would be one of [5, 5].
    let others = LowRank { left: &b, right: &b, right_transposed: true, factor: 1.0 };
    let more_rows = MatMul { low_rank: Some(others), ..MatMul::nt(&a, &a) };
    trial.refused("a low-rank product that does not fit", trial.backend().matmul(more_rows))?;
    let deeper = LowRank { left: &a, right: &b, right_transposed: false, factor: 1.0 };
    let deeper = MatMul { low_rank: Some(deeper), ..MatMul::nt(&a, &a) };
    trial.refused("low-rank operands that do not fit", trial.backend().matmul(deeper))
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in SIZES {
        for transposed in [[false, true], [false, false], [true, false], [true, true]] {
            for fused in [false, true] {
                let label = format!("{size:?}, transposed {transposed:?}, fused {fused}");
                cases.push(Case::new("matmul", label, move |t| product(t, size, transposed, fused)));
            }
        }
    }
    for size in SIZES {
        for (rank, transposed) in [(1, true), (4, true), (5, false), (16, true), (33, false)] {
            let label = format!("{size:?} and rank {rank}, transposed {transposed}");
            cases.push(Case::new("matmul", label, move |t| with_low_rank(t, size, rank, transposed)));
        }
    }
    for [rows, input, output] in [[1, 5, 3], [9, 64, 96], [39, 100, 30], [8, 768, 4], [8, 4, 320]] {
        let label = format!("one weight, 2 x {rows} rows, {input} to {output}");
        cases.push(Case::new("matmul", label, move |t| linear_layer(t, rows, input, output)));
    }
    cases.push(Case::new("matmul", "misfits", misfits));
    cases
}
