//! Checks a tape function's gradients against central differences, in f64 on the reference backend:
//! `d/dx sum(seed f(x)) = (sum(seed f(x + h)) - sum(seed f(x - h))) / 2h` for every element `x` of every operand.
//!
//! Each operand is also watched alone: its gradient must not depend on which others are asked for.

use std::sync::Arc;

use crate::error::Result;
use crate::reference::ReferenceBackend;
use crate::rng;
use crate::tape::{DropoutKey, Gradients, LeafId, Tape, Var};
use crate::tensor::Tensor;

/// Truncation costs about h^2, rounding about 1e-16 / h.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-7;

fn random(name: &str, index: usize, dims: &[usize]) -> Tensor {
    let values = rng::stream_at(0, name, index as u64).randn(dims.iter().product());
    Tensor::from_slice(&values, dims).unwrap().to_dtype(crate::DType::F64).unwrap()
}

/// Runs `f` and backward with those operands watched that `watched` names.
fn gradients(
    f: &dyn Fn(&Tape<'_>, &[Var]) -> Result<Var>,
    operands: &[Tensor],
    watched: &dyn Fn(usize) -> bool,
) -> Vec<Option<Tensor>> {
    let tape = Tape::recording(Arc::new(ReferenceBackend)).with_dropout(DropoutKey(1));
    let watch = |(i, operand): (usize, &Tensor)| -> (Var, Option<LeafId>) {
        if !watched(i) {
            return (Var::constant(operand.clone()), None);
        }
        let (var, leaf) = tape.watch(operand.clone());
        (var, Some(leaf))
    };
    let (vars, leaves): (Vec<Var>, Vec<Option<LeafId>>) = operands.iter().enumerate().map(watch).unzip();
    let y = f(&tape, &vars).unwrap();
    let seed = random("seed", 0, y.dims());
    let mut found: Gradients = tape.backward(&y, seed).unwrap();
    leaves.into_iter().map(|leaf| found.take(leaf?)).collect()
}

fn seeded_sum(f: &dyn Fn(&Tape<'_>, &[Var]) -> Result<Var>, operands: &[Tensor]) -> f64 {
    let tape = Tape::inference(Arc::new(ReferenceBackend)).with_dropout(DropoutKey(1));
    let vars: Vec<Var> = operands.iter().cloned().map(Var::constant).collect();
    let y = f(&tape, &vars).unwrap();
    let (y, seed) = (y.value().to_vec::<f64>().unwrap(), random("seed", 0, y.dims()));
    y.iter().zip(seed.as_slice::<f64>().unwrap()).map(|(y, seed)| y * seed).sum()
}

/// Panics unless all gradients of `f` for operands of these sizes are the finite differences.
pub(crate) fn check_gradients(shapes: &[&[usize]], f: impl Fn(&Tape<'_>, &[Var]) -> Result<Var>) {
    let operands: Vec<Tensor> =
        shapes.iter().enumerate().map(|(i, dims)| random("operand", i, dims)).collect();
    let together = gradients(&f, &operands, &|_| true);
    for (i, (operand, found)) in operands.iter().zip(&together).enumerate() {
        let found = found.as_ref().unwrap();
        assert_eq!(found.dims(), operand.dims(), "operand {i}");
        let alone = gradients(&f, &operands, &|watched| watched == i).swap_remove(i).unwrap();
        assert_eq!(found.bytes().unwrap(), alone.bytes().unwrap(), "operand {i} watched alone");
        for (at, &found) in found.as_slice::<f64>().unwrap().iter().enumerate() {
            let shifted = |by: f64| {
                let mut values = operand.to_vec::<f64>().unwrap();
                values[at] += by;
                let mut operands = operands.clone();
                operands[i] = Tensor::from_slice(&values, operand.dims()).unwrap();
                seeded_sum(&f, &operands)
            };
            let expected = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
            let error = (found - expected).abs() / expected.abs().max(1.0);
            assert!(error < TOLERANCE, "operand {i}, element {at}: {found}, differences say {expected}");
        }
    }
}
