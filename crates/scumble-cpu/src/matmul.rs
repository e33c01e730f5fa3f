//! Matrix products between tensors.

use scumble_tensor::backend::MatMul;
use scumble_tensor::{DType, Result, Tensor};

use crate::engine::Engine;
use crate::gemm::operand::Operand;
use crate::gemm::{Output, gemm};
use crate::operands::{channels, elements, optional, unsupported};
use crate::simd::{Scalar, with_scalar};

const OP: &str = "matmul";

/// `alpha * op(a) @ op(b) + bias + add`, `[m, n]`.
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
    let a = if product.a_transposed { Operand::columns(a, m, k) } else { Operand::rows(a, m, k) };
    let b = if product.b_transposed { Operand::rows(b, n, k) } else { Operand::columns(b, n, k) };
    Tensor::try_build(&[m, n], |y: &mut [Y]| {
        let out = Output { bias: bias.as_deref(), add, alpha: product.alpha, ..Output::plain(y, n) };
        gemm(engine, &a, &b, out)
    })
}
