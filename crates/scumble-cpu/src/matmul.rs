//! Matrix products between tensors.

use scumble_tensor::backend::{LowRank, MatMul};
use scumble_tensor::{DType, Result, Tensor};

use crate::engine::Engine;
use crate::gemm::operand::Operand;
use crate::gemm::{self, Output, gemm};
use crate::operands::{channels, elements, optional, unsupported};
use crate::simd::{Scalar, with_scalar};

const OP: &str = "matmul";

/// `alpha * op(a) @ op(b) + low_rank + bias + add`, `[m, n]`.
pub(crate) fn matmul(engine: &Engine, product: MatMul<'_>) -> Result<Tensor> {
    let dtype = product.a.dtype();
    with_scalar!(OP, dtype, E => {
        match product.out {
            DType::F32 => typed::<E, f32>(engine, product),
            out if out == dtype => typed::<E, E>(engine, product),
            out => Err(unsupported(OP, format!("a result of type {out} from operands of type {dtype}"))),
        }
    })
}

fn typed<E: Scalar, Y: Scalar>(engine: &Engine, product: MatMul<'_>) -> Result<Tensor> {
    let [m, k, n] = product.sizes()?;
    let a = elements::<E>(OP, "the left operand", product.a)?;
    let b = elements::<E>(OP, "the right operand", product.b)?;
    let bias = product.bias.map(|bias| channels(OP, "bias", bias, n)).transpose()?;
    let add = optional::<Y>(OP, "the addend", product.add, m * n)?;
    let low_rank = product.low_rank.map(|low_rank| Widened::new::<E>(low_rank, n)).transpose()?;
    let a = if product.a_transposed { Operand::columns(a, m, k) } else { Operand::rows(a, m, k) };
    let b = if product.b_transposed { Operand::rows(b, n, k) } else { Operand::columns(b, n, k) };
    Tensor::try_build(&[m, n], |y: &mut [Y]| {
        let low_rank = low_rank.as_ref().map(Widened::borrow);
        let (alpha, bias) = (product.alpha, bias.as_deref());
        gemm(engine, &a, &b, Output { alpha, bias, add, low_rank, ..Output::plain(y, n) })
    })
}

/// The operands of a second product as [`gemm::LowRank`] has them.
struct Widened {
    rank: usize,
    columns: usize,
    left: Vec<f32>,
    right: Vec<f32>,
}

impl Widened {
    fn new<E: Scalar>(low_rank: LowRank<'_>, n: usize) -> Result<Self> {
        let LowRank { left, right, right_transposed, factor } = low_rank;
        let rank = left.shape().last();
        let right = elements::<E>(OP, "the low-rank right operand", right)?;
        let left = elements::<E>(OP, "the low-rank left operand", left)?;
        let (row, column) = if right_transposed { (1, rank) } else { (n, 1) };
        let right = (0..rank * n).map(|at| factor * right[at / n * row + at % n * column].widen()).collect();
        Ok(Self { rank, columns: n, left: left.iter().map(|number| number.widen()).collect(), right })
    }

    fn borrow(&self) -> gemm::LowRank<'_> {
        gemm::LowRank { rank: self.rank, columns: self.columns, left: &self.left, right: &self.right }
    }
}
