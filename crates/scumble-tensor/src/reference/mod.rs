//! The judge: every [`Backend`] method in plain loops over f64, rounded once to the result's type.
//!
//! The loops stand beside their ops in [`ops`](crate::ops); here operands are widened, shapes checked and results
//! rounded. Slow on purpose: nothing is blocked, reordered or fused, so each loop can be read against its formula.

use crate::backend::{
    Activation, AdamWStep, AttentionGrads, AttentionSpec, Backend, Conv2dSpec, GroupNormSpec, LossKind,
    MatMul, NormGrads, NormWanted, grad_dtype,
};
use crate::dtype::DType;
use crate::error::{Error, Result, shape_error};
use crate::ops::linear::{Strides, plain_matmul, plain_sum_rows};
use crate::ops::{
    adamw, add, attention, channels, check_dims, check_numel, check_range, concat, conv2d, embedding, geglu,
    group_norm, layer_norm, loss, outer, per_image, swap, upsample,
};
use crate::tensor::{Device, Tensor};

/// Computes in f64, whatever the element types, on host tensors.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceBackend;

fn wide(x: &Tensor) -> Result<Vec<f64>> {
    x.to_vec::<f64>()
}

fn rounded(values: &[f64], dtype: DType, dims: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(values, dims)?.to_dtype(dtype)
}

/// As `x`, from new values.
fn like(x: &Tensor, values: &[f64]) -> Result<Tensor> {
    rounded(values, x.dtype(), x.dims())
}

fn map2(a: &Tensor, b: &Tensor, op: &'static str, f: impl Fn(f64, f64) -> f64) -> Result<Tensor> {
    check_dims(op, "second operand", a.dims(), b)?;
    let values: Vec<f64> = wide(a)?.into_iter().zip(wide(b)?).map(|(a, b)| f(a, b)).collect();
    like(a, &values)
}

fn norm_grads(
    x: &Tensor,
    c: usize,
    wanted: NormWanted,
    (d_x, d_gamma, d_beta): (Vec<f64>, Vec<f64>, Vec<f64>),
) -> Result<NormGrads> {
    let affine = |values: &[f64]| rounded(values, grad_dtype(x.dtype()), &[c]);
    Ok(NormGrads {
        x: if wanted.x { Some(like(x, &d_x)?) } else { None },
        affine: if wanted.affine { Some((affine(&d_gamma)?, affine(&d_beta)?)) } else { None },
    })
}

fn conv_geometry(n: usize, input: [usize; 2], w: [usize; 4], spec: Conv2dSpec) -> Result<conv2d::Geometry> {
    let [out, kh, kw, c] = w;
    let output = spec.output_size(input, [kh, kw])?;
    Ok(conv2d::Geometry { n, input, output, kernel: [kh, kw], c, out, spec })
}

fn add_all(mut y: Vec<f64>, other: Option<&Tensor>) -> Result<Vec<f64>> {
    let Some(other) = other else { return Ok(y) };
    let other = wide(other)?;
    let len = other.len();
    // A bias repeats along the rows.
    y.iter_mut().enumerate().for_each(|(i, y)| *y += other[i % len]);
    Ok(y)
}

impl Backend for ReferenceBackend {
    fn name(&self) -> String {
        "reference".into()
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn upload(&self, host: &Tensor) -> Result<Tensor> {
        host.bytes().map(|_| host.clone())
    }

    fn download(&self, tensor: &Tensor) -> Result<Tensor> {
        self.upload(tensor)
    }

    fn cast(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        x.to_dtype(dtype)
    }

    fn matmul(&self, product: MatMul<'_>) -> Result<Tensor> {
        let [m, k, n] = product.sizes()?;
        let (a, b) = (wide(product.a)?, wide(product.b)?);
        let a_at = Strides::new([m, k], product.a_transposed);
        let b_at = Strides::new([k, n], product.b_transposed);
        let mut y = plain_matmul((&a, a_at), (&b, b_at), [m, k, n], f64::from(product.alpha));
        if let Some(low_rank) = product.low_rank {
            let (left, right, r) =
                (wide(low_rank.left)?, wide(low_rank.right)?, low_rank.left.shape().last());
            let left_at = Strides::new([m, r], false);
            let right_at = Strides::new([r, n], low_rank.right_transposed);
            let factor = f64::from(low_rank.factor);
            let more = plain_matmul((&left, left_at), (&right, right_at), [m, r, n], factor);
            y.iter_mut().zip(more).for_each(|(y, more)| *y += more);
        }
        let y = add_all(add_all(y, product.bias)?, product.add)?;
        rounded(&y, product.out, &[m, n])
    }

    fn conv2d(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        add: Option<&Tensor>,
        spec: Conv2dSpec,
    ) -> Result<Tensor> {
        let dims = conv2d::output_dims(x, w, spec)?;
        let [n, h, width, _] = x.nhwc("conv2d")?;
        let at = conv_geometry(n, [h, width], w.nhwc("conv2d")?, spec)?;
        if let Some(bias) = bias {
            check_numel("conv2d", "bias", at.out, bias)?;
        }
        if let Some(add) = add {
            check_dims("conv2d", "add", &dims, add)?;
        }
        let y = conv2d::plain(&wide(x)?, &wide(w)?, &at);
        rounded(&add_all(add_all(y, bias)?, add)?, x.dtype(), &dims)
    }

    fn conv2d_grad_input(
        &self,
        dy: &Tensor,
        w: &Tensor,
        input: [usize; 2],
        spec: Conv2dSpec,
    ) -> Result<Tensor> {
        let n = dy.nhwc("conv2d_grad_input")?[0];
        let at = conv_geometry(n, input, w.nhwc("conv2d_grad_input")?, spec)?;
        check_dims("conv2d_grad_input", "dy", &[n, at.output[0], at.output[1], at.out], dy)?;
        let d_x = conv2d::plain_grad_input(&wide(dy)?, &wide(w)?, &at);
        rounded(&d_x, dy.dtype(), &[n, input[0], input[1], at.c])
    }

    fn conv2d_grad_weight(
        &self,
        dy: &Tensor,
        x: &Tensor,
        kernel: [usize; 2],
        spec: Conv2dSpec,
    ) -> Result<Tensor> {
        let [n, h, width, c] = x.nhwc("conv2d_grad_weight")?;
        let out = dy.shape().last();
        let w = [out, kernel[0], kernel[1], c];
        let at = conv_geometry(n, [h, width], w, spec)?;
        check_dims("conv2d_grad_weight", "dy", &[n, at.output[0], at.output[1], out], dy)?;
        let d_w = conv2d::plain_grad_weight(&wide(dy)?, &wide(x)?, &at);
        rounded(&d_w, grad_dtype(dy.dtype()), &w)
    }

    fn group_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        spec: GroupNormSpec,
    ) -> Result<(Tensor, Tensor)> {
        let sizes = per_image("group_norm", x.shape())?;
        group_norm::check_groups(sizes[2], spec.groups)?;
        let at = group_norm::Geometry { sizes, spec };
        let (y, stats) = group_norm::plain(&wide(x)?, &wide(gamma)?, &wide(beta)?, &at);
        Ok((like(x, &y)?, rounded(&stats, grad_dtype(x.dtype()), &[sizes[0], spec.groups, 2])?))
    }

    fn group_norm_grad(
        &self,
        dy: &Tensor,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        stats: &Tensor,
        spec: GroupNormSpec,
        wanted: NormWanted,
    ) -> Result<NormGrads> {
        let sizes = per_image("group_norm", x.shape())?;
        group_norm::check_groups(sizes[2], spec.groups)?;
        check_dims("group_norm_grad", "dy", x.dims(), dy)?;
        let at = group_norm::Geometry { sizes, spec };
        let (dy, gamma, beta, stats) = (wide(dy)?, wide(gamma)?, wide(beta)?, wide(stats)?);
        let grads = group_norm::plain_grad(&dy, &wide(x)?, &gamma, &beta, &stats, &at);
        norm_grads(x, sizes[2], wanted, grads)
    }

    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
        check_numel("layer_norm", "gamma", x.shape().last(), gamma)?;
        check_numel("layer_norm", "beta", x.shape().last(), beta)?;
        let (y, stats) = layer_norm::plain(&wide(x)?, &wide(gamma)?, &wide(beta)?, f64::from(eps));
        Ok((like(x, &y)?, rounded(&stats, grad_dtype(x.dtype()), &[x.shape().rows(), 2])?))
    }

    fn layer_norm_grad(
        &self,
        dy: &Tensor,
        x: &Tensor,
        gamma: &Tensor,
        stats: &Tensor,
        wanted: NormWanted,
    ) -> Result<NormGrads> {
        check_dims("layer_norm_grad", "dy", x.dims(), dy)?;
        let grads = layer_norm::plain_grad(&wide(dy)?, &wide(x)?, &wide(gamma)?, &wide(stats)?);
        norm_grads(x, gamma.numel(), wanted, grads)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, spec: AttentionSpec) -> Result<(Tensor, Tensor)> {
        let at = attention::Geometry { sizes: attention::sizes(q, k, v, spec)?, spec };
        let (o, lse) = attention::plain(&wide(q)?, &wide(k)?, &wide(v)?, &at);
        let stats = [at.sizes[0], spec.heads, at.sizes[1]];
        Ok((like(q, &o)?, rounded(&lse, grad_dtype(q.dtype()), &stats)?))
    }

    fn attention_grad(
        &self,
        d_o: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        o: &Tensor,
        lse: &Tensor,
        spec: AttentionSpec,
        wanted: [bool; 3],
    ) -> Result<AttentionGrads> {
        let at = attention::Geometry { sizes: attention::sizes(q, k, v, spec)?, spec };
        check_dims("attention_grad", "gradient", q.dims(), d_o)?;
        let operands = [&wide(q)?[..], &wide(k)?[..], &wide(v)?[..]];
        let grads = attention::plain_grad(&wide(d_o)?, operands, &wide(o)?, &wide(lse)?, &at);
        let grad = |i: usize, of: &Tensor| wanted[i].then(|| like(of, &grads[i])).transpose();
        Ok(AttentionGrads { q: grad(0, q)?, k: grad(1, k)?, v: grad(2, v)? })
    }

    fn activation(&self, kind: Activation, x: &Tensor) -> Result<Tensor> {
        let y: Vec<f64> = wide(x)?.into_iter().map(|x| kind.plain(x)).collect();
        like(x, &y)
    }

    fn activation_grad(&self, kind: Activation, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        map2(dy, x, "activation_grad", |dy, x| dy * kind.plain_slope(x))
    }

    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        let d = geglu::half(x)?;
        let mut dims = x.dims().to_vec();
        dims[x.dims().len() - 1] = d;
        rounded(&geglu::plain(&wide(x)?, d), x.dtype(), &dims)
    }

    fn geglu_grad(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        let d = geglu::half(x)?;
        check_numel("geglu_grad", "dy", x.numel() / 2, dy)?;
        like(x, &geglu::plain_grad(&wide(dy)?, &wide(x)?, d))
    }

    fn add_scaled(&self, a: &Tensor, b: &Tensor, beta: f32) -> Result<Tensor> {
        map2(a, b, "add_scaled", |a, b| a + f64::from(beta) * b)
    }

    fn accumulate(&self, into: Tensor, b: &Tensor) -> Result<Tensor> {
        map2(&into, b, "accumulate", |a, b| a + b)
    }

    fn scale(&self, x: &Tensor, alpha: f32) -> Result<Tensor> {
        let y: Vec<f64> = wide(x)?.into_iter().map(|x| f64::from(alpha) * x).collect();
        like(x, &y)
    }

    fn mul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        map2(a, b, "mul", |a, b| a * b)
    }

    fn scale_channels(
        &self,
        x: &Tensor,
        s: &Tensor,
        bias: Option<&Tensor>,
        add: Option<&Tensor>,
    ) -> Result<Tensor> {
        channels::check(x, s, bias, add)?;
        let y = channels::plain(&wide(x)?, &wide(s)?);
        like(x, &add_all(add_all(y, bias)?, add)?)
    }

    fn dot_rows(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        check_dims("dot_rows", "second operand", a.dims(), b)?;
        let c = a.shape().last();
        rounded(&channels::plain_dot_rows(&wide(a)?, &wide(b)?, c), grad_dtype(a.dtype()), &[c])
    }

    fn outer(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let sizes = outer::sizes(a, b)?;
        rounded(&outer::plain(&wide(a)?, &wide(b)?, sizes), a.dtype(), &sizes)
    }

    fn outer_grad(&self, dy: &Tensor, a: &Tensor, b: &Tensor) -> Result<[Tensor; 2]> {
        let sizes = outer::sizes(a, b)?;
        check_dims("outer_grad", "dy", &sizes, dy)?;
        let [d_a, d_b] = outer::plain_grad(&wide(dy)?, &wide(a)?, &wide(b)?, sizes);
        Ok([like(a, &d_a)?, like(b, &d_b)?])
    }

    fn swap_middle(&self, x: &Tensor) -> Result<Tensor> {
        let [n, a, b, c] = swap::sizes(x)?;
        rounded(&swap::plain(&wide(x)?, [n, a, b, c]), x.dtype(), &[n, b, a, c])
    }

    fn add_per_image(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let sizes = per_image("add_per_image", x.shape())?;
        check_dims("add_per_image", "row per image", &[sizes[0], sizes[2]], t)?;
        like(x, &add::plain_per_image(&wide(x)?, &wide(t)?, sizes))
    }

    fn sum_per_image(&self, x: &Tensor) -> Result<Tensor> {
        let sizes = per_image("sum_per_image", x.shape())?;
        rounded(&add::plain_sum_per_image(&wide(x)?, sizes), x.dtype(), &[sizes[0], sizes[2]])
    }

    fn sum_rows(&self, x: &Tensor) -> Result<Tensor> {
        let c = x.shape().last();
        rounded(&plain_sum_rows(&wide(x)?, c), grad_dtype(x.dtype()), &[c])
    }

    fn sum_squares(&self, x: &Tensor) -> Result<f64> {
        Ok(wide(x)?.iter().map(|x| x * x).sum())
    }

    fn concat_channels(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let dims = concat::channels_dims(parts)?;
        let matrix = |part: &&Tensor| Ok((wide(part)?, part.shape().last()));
        let matrices: Vec<_> = parts.iter().map(matrix).collect::<Result<_>>()?;
        let y = concat::plain_concat_channels(&matrices, parts[0].shape().rows());
        rounded(&y, parts[0].dtype(), &dims)
    }

    fn slice_channels(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        let width = x.shape().last();
        check_range("slice_channels", start, len, width)?;
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = len;
        }
        rounded(&concat::plain_slice_channels(&wide(x)?, width, start, len), x.dtype(), &dims)
    }

    fn concat_rows(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let dims = concat::rows_dims(parts)?;
        let y: Vec<Vec<f64>> = parts.iter().map(|part| wide(part)).collect::<Result<_>>()?;
        rounded(&y.concat(), parts[0].dtype(), &dims)
    }

    fn slice_rows(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        let rows = x.shape().first();
        check_range("slice_rows", start, len, rows)?;
        let mut dims = x.dims().to_vec();
        if let Some(first) = dims.first_mut() {
            *first = len;
        }
        let row = x.numel() / rows.max(1);
        rounded(&wide(x)?[start * row..(start + len) * row], x.dtype(), &dims)
    }

    fn upsample_nearest(&self, x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
        let dims = upsample::check(x, size)?;
        let y = upsample::plain(&wide(x)?, dims, size);
        rounded(&y, x.dtype(), &[dims[0], size[0], size[1], dims[3]])
    }

    fn upsample_nearest_grad(&self, dy: &Tensor, size: [usize; 2]) -> Result<Tensor> {
        let dims = dy.nhwc("upsample_nearest_grad")?;
        let d_x = upsample::plain_grad(&wide(dy)?, dims, size);
        rounded(&d_x, dy.dtype(), &[dims[0], size[0], size[1], dims[3]])
    }

    fn embedding(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
        let &[rows, c] = table.dims() else {
            return Err(shape_error("embedding", "table", "[rows, channels]", table.shape()));
        };
        let y = embedding::plain(&wide(table)?, &embedding::rows_of(ids, rows)?, c);
        rounded(&y, table.dtype(), &[ids.dims(), &[c]].concat())
    }

    fn embedding_grad(&self, dy: &Tensor, ids: &Tensor, rows: usize) -> Result<Tensor> {
        let c = dy.shape().last();
        check_numel("embedding_grad", "dy", ids.numel() * c, dy)?;
        let d_table = embedding::plain_grad(&wide(dy)?, &embedding::rows_of(ids, rows)?, rows, c);
        rounded(&d_table, grad_dtype(dy.dtype()), &[rows, c])
    }

    fn loss(
        &self,
        kind: LossKind,
        pred: &Tensor,
        target: &Tensor,
        weight: Option<&Tensor>,
    ) -> Result<Tensor> {
        let sizes = loss::check(pred, target, weight)?;
        let weight = weight.map(wide).transpose()?;
        let y = loss::plain(kind, &wide(pred)?, &wide(target)?, weight.as_deref(), sizes);
        rounded(&y, grad_dtype(pred.dtype()), &[sizes[0]])
    }

    fn loss_grad(
        &self,
        kind: LossKind,
        pred: &Tensor,
        target: &Tensor,
        weight: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<Tensor> {
        let sizes = loss::check(pred, target, weight)?;
        check_numel("loss_grad", "upstream", sizes[0], upstream)?;
        let weight = weight.map(wide).transpose()?;
        let operands = (&wide(pred)?[..], &wide(target)?[..]);
        like(pred, &loss::plain_grad(kind, operands, weight.as_deref(), &wide(upstream)?, sizes))
    }

    fn adamw(
        &self,
        param: &mut Tensor,
        grad: &Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        step: &AdamWStep,
    ) -> Result<()> {
        for other in [grad, &*m, &*v] {
            check_numel("adamw", "gradient or moment", param.numel(), other)?;
        }
        if step.step == 0 {
            return Err(Error::Unsupported {
                backend: self.name(),
                op: "adamw",
                what: "step 0: updates count from 1".into(),
            });
        }
        let (mut p, mut first, mut second) = (wide(param)?, wide(m)?, wide(v)?);
        adamw::plain(&mut p, &wide(grad)?, &mut first, &mut second, step);
        (*param, *m, *v) = (like(param, &p)?, like(m, &first)?, like(v, &second)?);
        Ok(())
    }
}
