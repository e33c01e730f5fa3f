//! Where the time of a training step or of an autoencoder goes: a backend that passes every operation on to another and
//! adds up how long each took.
//!
//! Operations are told apart by their name and the sizes of their first operands, so that one line is one shape of one
//! layer. What the program does between operations (the tape, the optimizer's bookkeeping) is in none of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use scumble_tensor::backend::{
    Activation, AdamWStep, AttentionGrads, AttentionSpec, Conv2dSpec, GroupNormSpec, LossKind, MatMul,
    NormGrads, NormWanted,
};
use scumble_tensor::{Backend, DType, Device, Result, Tensor};
use serde_json::{Value, json};

/// Lines of the printed table.
const LINES: usize = 40;

/// A backend that keeps the time of each operation of another.
pub struct Profiled {
    inner: Arc<dyn Backend>,
    spent: Mutex<BTreeMap<(&'static str, String), Spent>>,
}

/// How often something was done, and how long that took in all.
#[derive(Clone, Copy, Default)]
struct Spent {
    calls: u64,
    time: Duration,
}

impl Profiled {
    /// Nothing spent so far.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, spent: Mutex::default() }
    }

    /// The backend to work with: `inner`, or one around it that keeps the time.
    pub fn around(inner: Arc<dyn Backend>, wanted: bool) -> (Arc<dyn Backend>, Option<Arc<Self>>) {
        if !wanted {
            return (inner, None);
        }
        let profiled = Arc::new(Self::new(inner));
        (profiled.clone(), Some(profiled))
    }

    /// Forgets what was spent so far.
    pub fn forget(&self) {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn time<T>(&self, name: &'static str, sizes: String, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let time = start.elapsed();
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = spent.entry((name, sizes)).or_default();
        entry.calls += 1;
        entry.time += time;
        result
    }

    /// What took longest first: operation, sizes, calls and milliseconds, both of one of `runs` runs.
    pub fn rows(&self, runs: usize) -> Vec<(&'static str, String, f64, f64)> {
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let share = |(&(name, ref sizes), of): (&(&'static str, String), &Spent)| {
            let (calls, ms) = (of.calls as f64 / runs as f64, of.time.as_secs_f64() * 1e3 / runs as f64);
            (name, sizes.clone(), calls, ms)
        };
        let mut rows: Vec<_> = spent.iter().map(share).collect();
        rows.sort_by(|a, b| b.3.total_cmp(&a.3));
        rows
    }

    /// [`Profiled::rows`] as JSON.
    pub fn json(&self, runs: usize) -> Value {
        let row = |(op, sizes, calls, ms)| json!({ "op": op, "sizes": sizes, "calls": calls, "ms": ms });
        Value::Array(self.rows(runs).into_iter().map(row).collect())
    }

    /// [`Profiled::rows`] as a table: first by operation, then the shapes that took longest.
    pub fn table(&self, runs: usize) -> String {
        let rows = self.rows(runs);
        let total: f64 = rows.iter().map(|row| row.3).sum();
        let mut ops: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for (op, _, calls, ms) in &rows {
            let sum = ops.entry(op).or_default();
            *sum = (sum.0 + calls, sum.1 + ms);
        }
        let mut ops: Vec<_> = ops.into_iter().collect();
        ops.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        let line = |op: &str, sizes: &str, calls: f64, ms: f64| {
            format!("{op:<22} {sizes:<34} {calls:>6.0} {ms:>10.2} {:>5.1} %\n", ms / total * 100.0)
        };
        let mut text = format!("{:<22} {:<34} {:>6} {:>10}\n", "operation", "sizes", "calls", "ms a run");
        text.extend(ops.iter().map(|(op, (calls, ms))| line(op, "", *calls, *ms)));
        text.push('\n');
        text.extend(rows.iter().take(LINES).map(|(op, sizes, calls, ms)| line(op, sizes, *calls, *ms)));
        text
    }
}

fn dims(tensor: &Tensor) -> String {
    tensor.shape().to_string()
}

fn matrices(product: &MatMul<'_>) -> String {
    let sizes = product.sizes().map(|[m, k, n]| format!("[{m}, {k}] x [{k}, {n}]"));
    let turned = match (product.a_transposed, product.b_transposed) {
        (false, true) => "nt",
        (false, false) => "nn",
        (true, false) => "tn",
        (true, true) => "tt",
    };
    format!("{} {turned}", sizes.unwrap_or_default())
}

fn pair(a: &Tensor, b: &Tensor) -> String {
    format!("{} {}", dims(a), dims(b))
}

/// Methods that pass on their arguments and keep the time under what the last expression says.
macro_rules! pass_on {
    ($($name:ident($($argument:ident: $type:ty),*) -> $output:ty, $sizes:expr;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> Result<$output> {
            self.time(stringify!($name), $sizes, || self.inner.$name($($argument),*))
        })*
    };
}

impl Backend for Profiled {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn device(&self) -> Device {
        self.inner.device()
    }

    pass_on! {
        upload(host: &Tensor) -> Tensor, dims(host);
        download(tensor: &Tensor) -> Tensor, dims(tensor);
        cast(x: &Tensor, dtype: DType) -> Tensor, format!("{} {dtype}", dims(x));
        matmul(product: MatMul<'_>) -> Tensor, matrices(&product);
        conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, add: Option<&Tensor>, spec: Conv2dSpec) -> Tensor,
            pair(x, w);
        conv2d_grad_input(dy: &Tensor, w: &Tensor, input: [usize; 2], spec: Conv2dSpec) -> Tensor, pair(dy, w);
        conv2d_grad_enlarged(
            dy: &Tensor, w: &Tensor, small: [usize; 2], input: [usize; 2], spec: Conv2dSpec
        ) -> Tensor, pair(dy, w);
        conv2d_grad_weight(dy: &Tensor, x: &Tensor, kernel: [usize; 2], spec: Conv2dSpec) -> Tensor, pair(dy, x);
        group_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, spec: GroupNormSpec) -> (Tensor, Tensor), dims(x);
        group_norm_grad(
            dy: &Tensor, x: &Tensor, gamma: &Tensor, beta: &Tensor, stats: &Tensor, spec: GroupNormSpec,
            wanted: NormWanted
        ) -> NormGrads, dims(x);
        layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> (Tensor, Tensor), dims(x);
        layer_norm_grad(dy: &Tensor, x: &Tensor, gamma: &Tensor, stats: &Tensor, wanted: NormWanted) -> NormGrads,
            dims(x);
        attention(q: &Tensor, k: &Tensor, v: &Tensor, spec: AttentionSpec) -> (Tensor, Tensor), pair(q, k);
        attention_grad(
            d_o: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, o: &Tensor, lse: &Tensor, spec: AttentionSpec,
            wanted: [bool; 3]
        ) -> AttentionGrads, pair(q, k);
        activation(kind: Activation, x: &Tensor) -> Tensor, dims(x);
        activation_grad(kind: Activation, dy: &Tensor, x: &Tensor) -> Tensor, dims(x);
        geglu(x: &Tensor) -> Tensor, dims(x);
        geglu_grad(dy: &Tensor, x: &Tensor) -> Tensor, dims(x);
        add_scaled(a: &Tensor, b: &Tensor, beta: f32) -> Tensor, dims(a);
        accumulate(into: Tensor, b: &Tensor) -> Tensor, dims(b);
        scale(x: &Tensor, alpha: f32) -> Tensor, dims(x);
        mul(a: &Tensor, b: &Tensor) -> Tensor, dims(a);
        scale_channels(x: &Tensor, s: &Tensor, bias: Option<&Tensor>, add: Option<&Tensor>) -> Tensor, dims(x);
        dot_rows(a: &Tensor, b: &Tensor) -> Tensor, dims(a);
        outer(a: &Tensor, b: &Tensor) -> Tensor, pair(a, b);
        outer_grad(dy: &Tensor, a: &Tensor, b: &Tensor) -> [Tensor; 2], dims(dy);
        add_per_image(x: &Tensor, t: &Tensor) -> Tensor, dims(x);
        sum_per_image(x: &Tensor) -> Tensor, dims(x);
        sum_rows(x: &Tensor) -> Tensor, dims(x);
        sum_squares(x: &Tensor) -> f64, dims(x);
        swap_middle(x: &Tensor) -> Tensor, dims(x);
        concat_channels(parts: &[&Tensor]) -> Tensor, String::new();
        slice_channels(x: &Tensor, start: usize, len: usize) -> Tensor, dims(x);
        concat_rows(parts: &[&Tensor]) -> Tensor, String::new();
        slice_rows(x: &Tensor, start: usize, len: usize) -> Tensor, dims(x);
        upsample_nearest(x: &Tensor, size: [usize; 2]) -> Tensor, dims(x);
        upsample_nearest_grad(dy: &Tensor, size: [usize; 2]) -> Tensor, dims(dy);
        embedding(table: &Tensor, ids: &Tensor) -> Tensor, dims(table);
        embedding_grad(dy: &Tensor, ids: &Tensor, rows: usize) -> Tensor, dims(dy);
        loss(kind: LossKind, pred: &Tensor, target: &Tensor, weight: Option<&Tensor>) -> Tensor, dims(pred);
        loss_grad(
            kind: LossKind, pred: &Tensor, target: &Tensor, weight: Option<&Tensor>, upstream: &Tensor
        ) -> Tensor, dims(pred);
        adamw(param: &mut Tensor, grad: &Tensor, m: &mut Tensor, v: &mut Tensor, step: &AdamWStep) -> (), dims(grad);
    }
}

#[cfg(test)]
mod tests {
    use scumble_cpu::CpuBackend;

    use super::*;

    #[test]
    fn operations_are_counted_by_name_and_sizes() {
        let inner: Arc<dyn Backend> = Arc::new(CpuBackend::new(Some(1)).unwrap());
        let profiled = Profiled::new(inner.clone());
        let (a, b) =
            (Tensor::zeros(DType::F32, &[3, 5]).unwrap(), Tensor::zeros(DType::F32, &[7, 5]).unwrap());
        for _ in 0..2 {
            let product = profiled.matmul(MatMul::nt(&a, &b)).unwrap();
            assert_eq!(product.bytes().unwrap(), inner.matmul(MatMul::nt(&a, &b)).unwrap().bytes().unwrap());
        }
        profiled.matmul(MatMul::nt(&b, &a)).unwrap();
        profiled.scale(&a, 2.0).unwrap();
        let mut counted: Vec<_> =
            profiled.rows(1).into_iter().map(|(op, sizes, calls, _)| (op, sizes, calls)).collect();
        counted.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let row = |op: &'static str, sizes: &str, calls: f64| (op, sizes.to_owned(), calls);
        let expected = [
            row("matmul", "[3, 5] x [5, 7] nt", 2.0),
            row("matmul", "[7, 5] x [5, 3] nt", 1.0),
            row("scale", "[3, 5]", 1.0),
        ];
        assert_eq!(counted, expected);
        assert!(profiled.table(1).contains("matmul"));
        profiled.forget();
        assert!(profiled.rows(1).is_empty());
    }
}
