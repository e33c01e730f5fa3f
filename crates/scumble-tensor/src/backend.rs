//! What a device must be able to do: one method an op or a gradient, coarse enough to be fused.
//!
//! Rules that hold for every method:
//! * Tensors are contiguous and on the backend's device; pictures are channels-last.
//! * The result has the element type of the first operand unless the method says otherwise; where it says "f32", f64
//!   operands give f64 (see [`grad_dtype`]). Sums, statistics and softmax are accumulated in f32 or better.
//! * Sums are taken in an order that does not depend on thread scheduling: same inputs, same bytes.
//! * A method never changes an operand, except those that take `&mut` or consume it.
//! * Types or sizes without a kernel are [`Error::Unsupported`](crate::Error::Unsupported), never a wrong result.

use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Device, Tensor};

/// The type that gradients of parameters, statistics and losses have: f32, but f64 for the judge's f64.
pub fn grad_dtype(operand: DType) -> DType {
    if operand == DType::F64 { DType::F64 } else { DType::F32 }
}

/// `alpha * op(a) @ op(b) + low_rank + bias + add`, where `op` transposes on request.
///
/// An operand is a matrix of its last size and the product of all outer ones; `op(a)` is `[m, k]`, `op(b)` `[k, n]`.
#[derive(Clone, Copy)]
pub struct MatMul<'a> {
    /// Left operand: `[m, k]`, or `[k, m]` when transposed. Activations or gradients.
    pub a: &'a Tensor,
    /// Whether to use `a` transposed.
    pub a_transposed: bool,
    /// Right operand: `[k, n]`, or `[n, k]` when transposed. Weights (`[out, in]`, so transposed forward).
    pub b: &'a Tensor,
    /// Whether to use `b` transposed.
    pub b_transposed: bool,
    /// Factor of the product (not of bias and add).
    pub alpha: f32,
    /// `[n]`, added to every row.
    pub bias: Option<&'a Tensor>,
    /// `[m, n]`, added.
    pub add: Option<&'a Tensor>,
    /// Added, and summed with the product before anything is rounded.
    pub low_rank: Option<LowRank<'a>>,
    /// Element type of the result.
    pub out: DType,
}

/// A second product of little depth: what a low-rank branch adds to a layer's product. Its operands have the element type
/// of the first one's.
#[derive(Clone, Copy)]
pub struct LowRank<'a> {
    /// `[m, r]`.
    pub left: &'a Tensor,
    /// `[r, n]`, or `[n, r]` when transposed.
    pub right: &'a Tensor,
    /// Whether to use `right` transposed.
    pub right_transposed: bool,
    /// Factor of this product.
    pub factor: f32,
}

impl<'a> LowRank<'a> {
    /// As a product of its own.
    pub fn product(self) -> MatMul<'a> {
        let Self { left, right, right_transposed, factor } = self;
        MatMul { alpha: factor, b_transposed: right_transposed, ..MatMul::nt(left, right) }
    }
}

impl<'a> MatMul<'a> {
    /// `a @ b^T`: a linear layer with weight `b` `[n, k]`.
    pub fn nt(a: &'a Tensor, b: &'a Tensor) -> Self {
        Self {
            a,
            a_transposed: false,
            b,
            b_transposed: true,
            alpha: 1.0,
            bias: None,
            add: None,
            low_rank: None,
            out: a.dtype(),
        }
    }

    /// `a @ b`: a linear layer's input gradient with weight `b` `[k, n]`.
    pub fn nn(a: &'a Tensor, b: &'a Tensor) -> Self {
        Self { b_transposed: false, ..Self::nt(a, b) }
    }

    /// `a^T @ b`: a linear layer's weight gradient from `a` `[k, m]` and `b` `[k, n]`, in [`grad_dtype`].
    pub fn tn(a: &'a Tensor, b: &'a Tensor) -> Self {
        Self { a_transposed: true, b_transposed: false, out: grad_dtype(a.dtype()), ..Self::nt(a, b) }
    }

    /// `[m, k, n]`; errors when the operands do not fit.
    pub fn sizes(&self) -> Result<[usize; 3]> {
        let matrix = |t: &Tensor, transposed: bool| {
            let (rows, cols) = (t.shape().rows(), t.shape().last());
            if transposed { (cols, rows) } else { (rows, cols) }
        };
        let (m, k) = matrix(self.a, self.a_transposed);
        let (k_b, n) = matrix(self.b, self.b_transposed);
        let fits = |what, ok: bool, expected: String, found: &Tensor| {
            if ok { Ok(()) } else { Err(crate::shape_error("matmul", what, expected, found.shape())) }
        };
        fits("the shared size of b", k == k_b, format!("{k}"), self.b)?;
        if let Some(bias) = self.bias {
            fits("bias", bias.numel() == n, format!("[{n}]"), bias)?;
        }
        if let Some(add) = self.add {
            fits("add", add.numel() == m * n, format!("[{m}, {n}]"), add)?;
        }
        if let Some(low_rank) = self.low_rank {
            let [rows, _, columns] = low_rank.product().sizes()?;
            fits("the low-rank left operand", rows == m, format!("[{m}, r]"), low_rank.left)?;
            fits("the low-rank right operand", columns == n, format!("r times {n}"), low_rank.right)?;
        }
        Ok([m, k, n])
    }
}

/// Rows and columns of zeros around a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Padding {
    /// Above.
    pub top: usize,
    /// Below.
    pub bottom: usize,
    /// Before.
    pub left: usize,
    /// After.
    pub right: usize,
}

impl Padding {
    /// The same on all four sides.
    pub fn same(size: usize) -> Self {
        Self { top: size, bottom: size, left: size, right: size }
    }
}

/// Stride and padding of a convolution; the kernel's size is the weight's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dSpec {
    /// Step in both directions.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: Padding,
}

impl Conv2dSpec {
    /// `[out_h, out_w]` for an input and kernel size; errors when the kernel does not fit.
    pub fn output_size(&self, input: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2]> {
        let p = self.padding;
        let size = |input: usize, pad: usize, kernel: usize| {
            if self.stride == 0 || kernel == 0 || input + pad < kernel {
                return Err(crate::shape_error(
                    "conv2d",
                    "kernel",
                    format!("at most {}", input + pad),
                    kernel,
                ));
            }
            Ok((input + pad - kernel) / self.stride + 1)
        };
        Ok([size(input[0], p.top + p.bottom, kernel[0])?, size(input[1], p.left + p.right, kernel[1])?])
    }
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormSpec {
    /// Number of channel groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Gradients of a normalisation.
pub struct NormGrads {
    /// For the input, as the input.
    pub x: Option<Tensor>,
    /// For scale and shift, f32 `[channels]` each.
    pub affine: Option<(Tensor, Tensor)>,
}

/// Which gradients of a normalisation are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormWanted {
    /// For the input.
    pub x: bool,
    /// For scale and shift.
    pub affine: bool,
}

/// Heads, scale and mask of an attention; the head width is the last size divided by the heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Number of heads, side by side in the last dimension.
    pub heads: usize,
    /// Factor of the scores, usually `1 / sqrt(head width)`.
    pub scale: f32,
    /// Whether a query sees only keys at its own position and before.
    pub causal: bool,
}

/// Gradients of an attention.
pub struct AttentionGrads {
    /// For the queries.
    pub q: Option<Tensor>,
    /// For the keys.
    pub k: Option<Tensor>,
    /// For the values.
    pub v: Option<Tensor>,
}

/// Element-wise nonlinearities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)`, with the exact error function.
    Gelu,
    /// `x * sigmoid(1.702 x)`: CLIP's.
    QuickGelu,
}

/// The penalty of one element's difference `d = pred - target`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossKind {
    /// `d^2`.
    Mse,
    /// `2 c (sqrt(d^2 + c^2) - c)`.
    PseudoHuber {
        /// Where the parabola turns into a line.
        c: f32,
    },
    /// `2 (sqrt(d^2 + c^2) - c)`.
    PseudoSmoothL1 {
        /// Where the parabola turns into a line.
        c: f32,
    },
}

/// One AdamW update (Loshchilov & Hutter 2019, algorithm 2), as `torch.optim.AdamW` does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// How many updates were made, this one included; for the bias corrections.
    pub step: u64,
    /// Factor of the gradient, for clipping and averaging.
    pub grad_scale: f64,
}

/// The kernels of one device. See the module's text for the rules.
pub trait Backend: Send + Sync {
    /// Name and tier, such as `cpu avx512`.
    fn name(&self) -> String;
    /// The device whose tensors it computes on.
    fn device(&self) -> Device;
    /// Moves a host tensor here.
    fn upload(&self, host: &Tensor) -> Result<Tensor>;
    /// Moves a tensor to the host.
    fn download(&self, tensor: &Tensor) -> Result<Tensor>;
    /// Another element type, rounding to nearest.
    fn cast(&self, x: &Tensor, dtype: DType) -> Result<Tensor>;

    /// [`MatMul`]; the result is `[m, n]` of `a`'s type.
    fn matmul(&self, product: MatMul<'_>) -> Result<Tensor>;

    /// `x [n, h, w, c]`, `w [out, kh, kw, c]`, `bias [out]`, `add` as the result -> `[n, oh, ow, out]`.
    fn conv2d(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        add: Option<&Tensor>,
        spec: Conv2dSpec,
    ) -> Result<Tensor>;
    /// `dy [n, oh, ow, out]`, `w` as above -> `dx [n, h, w, c]` with `input = [h, w]`.
    fn conv2d_grad_input(
        &self,
        dy: &Tensor,
        w: &Tensor,
        input: [usize; 2],
        spec: Conv2dSpec,
    ) -> Result<Tensor>;
    /// As [`Backend::conv2d_grad_input`] for an `input` that was enlarged from `small = [h, w]` ([`Backend::upsample_nearest`]):
    /// the gradient of the small one, `[n, h, w, c]`.
    fn conv2d_grad_enlarged(
        &self,
        dy: &Tensor,
        w: &Tensor,
        small: [usize; 2],
        input: [usize; 2],
        spec: Conv2dSpec,
    ) -> Result<Tensor> {
        self.upsample_nearest_grad(&self.conv2d_grad_input(dy, w, input, spec)?, small)
    }
    /// f32 `dw [out, kh, kw, c]` for `kernel = [kh, kw]`.
    fn conv2d_grad_weight(
        &self,
        dy: &Tensor,
        x: &Tensor,
        kernel: [usize; 2],
        spec: Conv2dSpec,
    ) -> Result<Tensor>;

    /// `x [n, ..., c]` -> result and f32 statistics `[n, groups, 2]` (mean, reciprocal deviation).
    fn group_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        spec: GroupNormSpec,
    ) -> Result<(Tensor, Tensor)>;
    /// Gradients of [`Backend::group_norm`] (SiLU included when the spec has it).
    fn group_norm_grad(
        &self,
        dy: &Tensor,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        stats: &Tensor,
        spec: GroupNormSpec,
        wanted: NormWanted,
    ) -> Result<NormGrads>;

    /// `x [..., c]` -> result and f32 statistics `[rows, 2]` (mean, reciprocal deviation).
    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<(Tensor, Tensor)>;
    /// Gradients of [`Backend::layer_norm`].
    fn layer_norm_grad(
        &self,
        dy: &Tensor,
        x: &Tensor,
        gamma: &Tensor,
        stats: &Tensor,
        wanted: NormWanted,
    ) -> Result<NormGrads>;

    /// `q [b, nq, heads * d]`, `k` and `v` `[b, nk, heads * d]` -> `o` as `q`, and the f32 log-sum-exp of the scaled
    /// scores `[b, heads, nq]`. The score matrix is never formed.
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, spec: AttentionSpec) -> Result<(Tensor, Tensor)>;
    /// Gradients of [`Backend::attention`]; `wanted` is for q, k, v. The score matrix is never formed.
    #[allow(clippy::too_many_arguments)] // the op has this many operands
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
    ) -> Result<AttentionGrads>;

    /// Element-wise nonlinearity.
    fn activation(&self, kind: Activation, x: &Tensor) -> Result<Tensor>;
    /// `dy * kind'(x)`.
    fn activation_grad(&self, kind: Activation, dy: &Tensor, x: &Tensor) -> Result<Tensor>;
    /// `x [..., 2 d]` -> `[..., d]`: first half times exact GELU of the second.
    fn geglu(&self, x: &Tensor) -> Result<Tensor>;
    /// Gradient of [`Backend::geglu`], as `x`.
    fn geglu_grad(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor>;

    /// `a + beta * b`, same shapes.
    fn add_scaled(&self, a: &Tensor, b: &Tensor, beta: f32) -> Result<Tensor>;
    /// `into + b`, in place when nobody else holds `into`.
    fn accumulate(&self, into: Tensor, b: &Tensor) -> Result<Tensor>;
    /// `alpha * x`.
    fn scale(&self, x: &Tensor, alpha: f32) -> Result<Tensor>;
    /// Element-wise product, same shapes.
    fn mul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;
    /// `x [..., c] s [c] + bias [c] + add`, `s` f32 beside every element type, `add` as `x`.
    fn scale_channels(
        &self,
        x: &Tensor,
        s: &Tensor,
        bias: Option<&Tensor>,
        add: Option<&Tensor>,
    ) -> Result<Tensor>;
    /// `a`, `b` `[..., c]` -> f32 `[c]`: the sum over all rows of `a b`.
    fn dot_rows(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;
    /// f32 `a [n, p, c]`, `b [n, q, c]` -> f32 `[n, p, q, c]`: the products of all pairs of rows.
    fn outer(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;
    /// Gradients of [`Backend::outer`] for `a` and `b`, f32.
    fn outer_grad(&self, dy: &Tensor, a: &Tensor, b: &Tensor) -> Result<[Tensor; 2]>;

    /// `x [n, ..., c] + t [n, c]`, `t` repeated over everything between.
    fn add_per_image(&self, x: &Tensor, t: &Tensor) -> Result<Tensor>;
    /// `x [n, ..., c]` -> `[n, c]`: the sum over everything between.
    fn sum_per_image(&self, x: &Tensor) -> Result<Tensor>;
    /// `x [..., c]` -> f32 `[c]`: the sum over all rows.
    fn sum_rows(&self, x: &Tensor) -> Result<Tensor>;
    /// Sum of squares of all elements, in f64.
    fn sum_squares(&self, x: &Tensor) -> Result<f64>;

    /// `x [n, a, b, c]` -> `[n, b, a, c]`.
    fn swap_middle(&self, x: &Tensor) -> Result<Tensor>;
    /// Side by side along the last dimension.
    fn concat_channels(&self, parts: &[&Tensor]) -> Result<Tensor>;
    /// `len` channels from `start` on.
    fn slice_channels(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor>;
    /// One after the other along the first dimension.
    fn concat_rows(&self, parts: &[&Tensor]) -> Result<Tensor>;
    /// `len` entries of the first dimension from `start` on.
    fn slice_rows(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor>;
    /// `x [n, h, w, c]` -> `[n, size[0], size[1], c]`; source index `floor(i * h / size)`.
    fn upsample_nearest(&self, x: &Tensor, size: [usize; 2]) -> Result<Tensor>;
    /// Gradient of [`Backend::upsample_nearest`] for an input of `size`.
    fn upsample_nearest_grad(&self, dy: &Tensor, size: [usize; 2]) -> Result<Tensor>;

    /// `table [rows, c]`, i64 `ids [...]` -> `[..., c]`.
    fn embedding(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor>;
    /// f32 `[rows, c]`: rows of `dy` summed by id, in the order of `ids`.
    fn embedding_grad(&self, dy: &Tensor, ids: &Tensor, rows: usize) -> Result<Tensor>;

    /// Per sample the mean over its elements of `weight * kind(pred - target)`, f32 `[n]`. `weight` is f32 `[n]`, or
    /// `[n, h, w]` (one per pixel), or absent (1).
    fn loss(&self, kind: LossKind, pred: &Tensor, target: &Tensor, weight: Option<&Tensor>)
    -> Result<Tensor>;
    /// Gradient for `pred` of `sum(upstream * loss)`, `upstream` f32 `[n]`.
    fn loss_grad(
        &self,
        kind: LossKind,
        pred: &Tensor,
        target: &Tensor,
        weight: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<Tensor>;

    /// Updates f32 `param`, `m` and `v` in place.
    fn adamw(
        &self,
        param: &mut Tensor,
        grad: &Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        step: &AdamWStep,
    ) -> Result<()>;
}
