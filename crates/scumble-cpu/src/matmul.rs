//! Matrix products between tensors.

use scumble_tensor::backend::MatMul;
use scumble_tensor::{DType, Result, Tensor};

use crate::engine::Engine;
use crate::gemm::operand::Operand;
use crate::gemm::{Output, gemm};
use crate::operands::{floats, optional, unsupported};

/// `alpha * op(a) @ op(b) + bias + add`, `[m, n]`.
pub(crate) fn matmul(engine: &Engine, product: MatMul<'_>) -> Result<Tensor> {
    const OP: &str = "matmul";
    let [m, k, n] = product.sizes()?;
    if product.out != DType::F32 {
        return Err(unsupported(OP, format!("a result of type {}", product.out)));
    }
    let (a, b) = (floats(OP, "the left operand", product.a)?, floats(OP, "the right operand", product.b)?);
    let bias = optional(OP, "bias", product.bias, n)?;
    let add = optional(OP, "the addend", product.add, m * n)?;
    let a = if product.a_transposed { Operand::columns(a, m, k) } else { Operand::rows(a, m, k) };
    let b = if product.b_transposed { Operand::rows(b, n, k) } else { Operand::columns(b, n, k) };
    Tensor::try_build(&[m, n], |y: &mut [f32]| {
        gemm(engine, &a, &b, Output { bias, add, alpha: product.alpha, ..Output::plain(y, n) })
    })
}
