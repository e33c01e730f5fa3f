//! The backend: each op's method, passed on to the file of that op.

use scumble_tensor::backend::{
    Activation, AdamWStep, AttentionGrads, AttentionSpec, Conv2dSpec, GroupNormSpec, LossKind, MatMul,
    NormGrads, NormWanted,
};
use scumble_tensor::{Backend, DType, Device, Result, Tensor};

use crate::engine::Engine;
use crate::pool::Pool;
use crate::tier::Tier;
use crate::{
    activation, adamw, attention, channels, conv, elementwise, embedding, group_norm, layer_norm, layout,
    loss, matmul, outer, reduce, swap,
};

/// The CPU: an instruction tier and a pool of threads. Cheap to share, dear to make (it starts its threads).
pub struct CpuBackend {
    engine: Engine,
}

impl CpuBackend {
    /// The best tier of the machine, or the one that `SCUMBLE_CPU_TIER` forces; as many threads as the system
    /// offers when `threads` is `None`.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        Self::with_tier(Tier::choose()?, threads)
    }

    /// A tier of one's own choice; errors when the machine lacks it.
    pub fn with_tier(tier: Tier, threads: Option<usize>) -> Result<Self> {
        let offered = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pool = Pool::new(threads.unwrap_or_else(offered));
        Ok(Self { engine: Engine { tier: tier.checked()?, pool } })
    }

    /// The instructions in use.
    pub fn tier(&self) -> Tier {
        self.engine.tier
    }

    /// The threads in use.
    pub fn threads(&self) -> usize {
        self.engine.pool.threads()
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> String {
        format!("cpu {}", self.engine.tier.name())
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn upload(&self, host: &Tensor) -> Result<Tensor> {
        host.bytes()?;
        Ok(host.clone())
    }

    fn download(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.bytes()?;
        Ok(tensor.clone())
    }

    fn cast(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        elementwise::cast(&self.engine, x, dtype)
    }

    fn matmul(&self, product: MatMul<'_>) -> Result<Tensor> {
        matmul::matmul(&self.engine, product)
    }

    fn conv2d(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        add: Option<&Tensor>,
        spec: Conv2dSpec,
    ) -> Result<Tensor> {
        conv::forward(&self.engine, x, w, bias, add, spec)
    }

    fn conv2d_grad_input(
        &self,
        dy: &Tensor,
        w: &Tensor,
        input: [usize; 2],
        spec: Conv2dSpec,
    ) -> Result<Tensor> {
        conv::grad_input(&self.engine, dy, w, input, spec)
    }

    fn conv2d_grad_enlarged(
        &self,
        dy: &Tensor,
        w: &Tensor,
        small: [usize; 2],
        input: [usize; 2],
        spec: Conv2dSpec,
    ) -> Result<Tensor> {
        conv::grad_enlarged(&self.engine, dy, w, small, input, spec)
    }

    fn conv2d_grad_weight(
        &self,
        dy: &Tensor,
        x: &Tensor,
        kernel: [usize; 2],
        spec: Conv2dSpec,
    ) -> Result<Tensor> {
        conv::grad_weight(&self.engine, dy, x, kernel, spec)
    }

    fn group_norm(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        spec: GroupNormSpec,
    ) -> Result<(Tensor, Tensor)> {
        group_norm::group_norm(&self.engine, x, gamma, beta, spec)
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
        group_norm::group_norm_grad(&self.engine, dy, x, gamma, beta, stats, spec, wanted)
    }

    fn layer_norm(&self, x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
        layer_norm::layer_norm(&self.engine, x, gamma, beta, eps)
    }

    fn layer_norm_grad(
        &self,
        dy: &Tensor,
        x: &Tensor,
        gamma: &Tensor,
        stats: &Tensor,
        wanted: NormWanted,
    ) -> Result<NormGrads> {
        layer_norm::layer_norm_grad(&self.engine, dy, x, gamma, stats, wanted)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, spec: AttentionSpec) -> Result<(Tensor, Tensor)> {
        attention::forward::attention(&self.engine, q, k, v, spec)
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
        attention::backward::attention_grad(&self.engine, d_o, q, k, v, o, lse, spec, wanted)
    }

    fn activation(&self, kind: Activation, x: &Tensor) -> Result<Tensor> {
        activation::activation(&self.engine, kind, x)
    }

    fn activation_grad(&self, kind: Activation, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        activation::activation_grad(&self.engine, kind, dy, x)
    }

    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        activation::geglu(&self.engine, x)
    }

    fn geglu_grad(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        activation::geglu_grad(&self.engine, dy, x)
    }

    fn add_scaled(&self, a: &Tensor, b: &Tensor, beta: f32) -> Result<Tensor> {
        elementwise::add_scaled(&self.engine, a, b, beta)
    }

    fn accumulate(&self, into: Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise::accumulate(&self.engine, into, b)
    }

    fn scale(&self, x: &Tensor, alpha: f32) -> Result<Tensor> {
        elementwise::scale(&self.engine, x, alpha)
    }

    fn mul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise::mul(&self.engine, a, b)
    }

    fn scale_channels(
        &self,
        x: &Tensor,
        s: &Tensor,
        bias: Option<&Tensor>,
        add: Option<&Tensor>,
    ) -> Result<Tensor> {
        channels::scale_channels(&self.engine, x, s, bias, add)
    }

    fn dot_rows(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        channels::dot_rows(&self.engine, a, b)
    }

    fn outer(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        outer::outer(&self.engine, a, b)
    }

    fn outer_grad(&self, dy: &Tensor, a: &Tensor, b: &Tensor) -> Result<[Tensor; 2]> {
        outer::outer_grad(&self.engine, dy, a, b)
    }

    fn swap_middle(&self, x: &Tensor) -> Result<Tensor> {
        swap::swap_middle(&self.engine, x)
    }

    fn add_per_image(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        reduce::add_per_image(&self.engine, x, t)
    }

    fn sum_per_image(&self, x: &Tensor) -> Result<Tensor> {
        reduce::sum_per_image(&self.engine, x)
    }

    fn sum_rows(&self, x: &Tensor) -> Result<Tensor> {
        reduce::sum_rows(&self.engine, x)
    }

    fn sum_squares(&self, x: &Tensor) -> Result<f64> {
        reduce::sum_squares(&self.engine, x)
    }

    fn concat_channels(&self, parts: &[&Tensor]) -> Result<Tensor> {
        layout::concat_channels(&self.engine, parts)
    }

    fn slice_channels(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        layout::slice_channels(&self.engine, x, start, len)
    }

    fn concat_rows(&self, parts: &[&Tensor]) -> Result<Tensor> {
        layout::concat_rows(parts)
    }

    fn slice_rows(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        layout::slice_rows(x, start, len)
    }

    fn upsample_nearest(&self, x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
        layout::upsample(&self.engine, x, size)
    }

    fn upsample_nearest_grad(&self, dy: &Tensor, size: [usize; 2]) -> Result<Tensor> {
        layout::upsample_grad(&self.engine, dy, size)
    }

    fn embedding(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
        embedding::embedding(table, ids)
    }

    fn embedding_grad(&self, dy: &Tensor, ids: &Tensor, rows: usize) -> Result<Tensor> {
        embedding::embedding_grad(dy, ids, rows)
    }

    fn loss(
        &self,
        kind: LossKind,
        pred: &Tensor,
        target: &Tensor,
        weight: Option<&Tensor>,
    ) -> Result<Tensor> {
        loss::loss(&self.engine, kind, pred, target, weight)
    }

    fn loss_grad(
        &self,
        kind: LossKind,
        pred: &Tensor,
        target: &Tensor,
        weight: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<Tensor> {
        loss::loss_grad(&self.engine, kind, pred, target, weight, upstream)
    }

    fn adamw(
        &self,
        param: &mut Tensor,
        grad: &Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        step: &AdamWStep,
    ) -> Result<()> {
        adamw::adamw(&self.engine, param, grad, m, v, step)
    }
}
