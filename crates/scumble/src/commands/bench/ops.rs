//! `scumble bench ops`: the operations of an SD1.5 training step at 64x64 latents, one by one, against the peak that is
//! measured in the same run: arithmetic for products, memory traffic for everything else.

use std::time::Instant;

use serde_json::json;

use scumble_cpu::{CpuBackend, Tier, measure_peak};
use scumble_tensor::backend::{
    Activation, AttentionSpec, Conv2dSpec, GroupNormSpec, MatMul, NormWanted, Padding,
};
use scumble_tensor::rng::stream;
use scumble_tensor::{Backend, DType, Tensor};
use scumble_train::config::Precision;

use super::{OpsArgs, median};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// A row is repeated until it took this long.
const SECONDS_PER_ROW: f64 = 0.5;

/// Names of the rows, group by group.
const LINEAR: [&str; 2] = ["linear", "linear, input gradient"];
const CONVOLUTION: [&str; 3] = ["conv", "conv, input gradient", "conv, weight gradient"];
const ATTENTION: [&str; 2] = ["attention", "attention, gradient"];
const MEMORY_BOUND: [&str; 6] =
    ["group norm + silu", "group norm, gradient", "layer norm", "geglu", "silu", "add"];

/// What a row's time is held against.
#[derive(Clone, Copy)]
enum Work {
    /// Floating-point operations.
    Flops(f64),
    /// Bytes read and written.
    Bytes(f64),
}

type Run = Box<dyn Fn(&dyn Backend) -> scumble_tensor::Result<()>>;

struct Row {
    name: &'static str,
    shape: String,
    work: Work,
    run: Run,
}

/// Measures and prints the table.
pub fn run(context: &Context, args: &OpsArgs) -> Result {
    let backend = CpuBackend::new(context.global.threads.map(std::num::NonZeroUsize::get))?;
    let rows = rows(args.precision.dtype(), args.only.as_deref().unwrap_or_default())?;
    if rows.is_empty() {
        return Err(Failure::new("no operation has such a name").hint("leave --only away to see all"));
    }
    for tier in Tier::distrusted() {
        context.terminal.warning(&format!(
            "the processor's {} multiplies otherwise than its manual says and is not used",
            tier.name()
        ));
    }
    let peak = measure_peak(&backend)?;
    // Without a unit of its own bf16 is widened and multiplied as f32.
    let half = args.precision == Precision::Bf16;
    let flops = if half { peak.gflops_bf16.unwrap_or(peak.gflops) } else { peak.gflops };
    if !args.json {
        context.terminal.result(&format!(
            "{}, {}: peak {:.0} GFLOP/s, {:.1} GB/s\n{:<24} {:<34} {:>9} {:>12} {:>9}",
            backend.name(),
            args.precision,
            flops,
            peak.gbytes_per_s,
            "operation",
            "shape",
            "ms",
            "rate",
            "of peak"
        ));
    }
    let mut lines = Vec::new();
    for row in rows {
        let seconds = time(&row, &backend)?;
        let (rate, unit, share) = rate(row.work, seconds, flops, peak.gbytes_per_s);
        if !args.json {
            context.terminal.result(&format!(
                "{:<24} {:<34} {:>9.2} {:>6.1} {unit} {:>7.0} %",
                row.name,
                row.shape,
                seconds * 1e3,
                rate,
                share * 100.0
            ));
        }
        lines.push(json!({
            "op": row.name, "shape": row.shape, "ms": seconds * 1e3, "rate": rate, "unit": unit, "of_peak": share,
        }));
    }
    if !args.json && lines.iter().any(|line| line["of_peak"].as_f64() > Some(1.0)) {
        context
            .terminal
            .result("above 100 %: operands that stay in the caches are not bound by the memory's rate");
    }
    if args.json {
        let peak = json!({
            "gflops": peak.gflops, "gflops_bf16": peak.gflops_bf16, "gbytes_per_s": peak.gbytes_per_s,
        });
        let distrusted: Vec<&str> = Tier::distrusted().into_iter().map(Tier::name).collect();
        let line = json!({
            "backend": backend.name(), "precision": args.precision.name(), "peak": peak, "distrusted": distrusted,
            "ops": lines,
        });
        context.terminal.result(&line.to_string());
    }
    Ok(Outcome::Done)
}

fn rate(work: Work, seconds: f64, gflops: f64, gbytes_per_s: f64) -> (f64, &'static str, f64) {
    match work {
        Work::Flops(flops) => (flops / seconds / 1e9, "GF/s", flops / seconds / 1e9 / gflops),
        Work::Bytes(bytes) => (bytes / seconds / 1e9, "GB/s", bytes / seconds / 1e9 / gbytes_per_s),
    }
}

fn time(row: &Row, backend: &CpuBackend) -> Result<f64> {
    (row.run)(backend)?;
    let (begin, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < 3 || begin.elapsed().as_secs_f64() < SECONDS_PER_ROW {
        let start = Instant::now();
        (row.run)(backend)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(seconds))
}

fn random(dtype: DType, dims: &[usize]) -> scumble_tensor::Result<Tensor> {
    stream(dims.iter().sum::<usize>() as u64, "bench ops").randn_tensor(dims)?.to_dtype(dtype)
}

/// The rows whose names contain `only`; operands of the others are not even made.
fn rows(dtype: DType, only: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let wanted = |names: &[&str]| names.iter().any(|name| name.contains(only));
    for (m, k, n) in [
        (4096, 320, 320),
        (4096, 320, 2560),
        (4096, 1280, 320),
        (1024, 640, 640),
        (1024, 640, 5120),
        (256, 1280, 1280),
        (256, 1280, 10240),
        (77, 768, 320),
        (4096, 320, 4),
    ]
    .into_iter()
    .filter(|_| wanted(&LINEAR))
    {
        linear(&mut rows, dtype, m, k, n)?;
    }
    for (side, c, out, stride) in [
        (64, 320, 320, 1),
        (64, 960, 320, 1),
        (64, 320, 320, 2),
        (32, 640, 640, 1),
        (32, 1920, 640, 1),
        (16, 1280, 1280, 1),
        (16, 2560, 1280, 1),
        (8, 1280, 1280, 1),
    ]
    .into_iter()
    .filter(|_| wanted(&CONVOLUTION))
    {
        convolution(&mut rows, dtype, side, c, out, stride)?;
    }
    for (tokens, keys, width) in
        [(4096, 4096, 40), (1024, 1024, 80), (256, 256, 160), (4096, 77, 40), (1024, 77, 80)]
            .into_iter()
            .filter(|_| wanted(&ATTENTION))
    {
        attention(&mut rows, dtype, tokens, keys, width)?;
    }
    for (side, c) in [(64, 320), (32, 640), (16, 1280)].into_iter().filter(|_| wanted(&MEMORY_BOUND)) {
        memory_bound(&mut rows, dtype, side, c)?;
    }
    rows.retain(|row| row.name.contains(only));
    Ok(rows)
}

fn linear(rows: &mut Vec<Row>, dtype: DType, m: usize, k: usize, n: usize) -> Result<()> {
    let (x, w, dy) = (random(dtype, &[m, k])?, random(dtype, &[n, k])?, random(dtype, &[m, n])?);
    let work = Work::Flops(2.0 * (m * k * n) as f64);
    let shape = format!("[{m}, {k}] -> {n}");
    let weight = w.clone();
    rows.push(Row {
        name: LINEAR[0],
        shape: shape.clone(),
        work,
        run: Box::new(move |backend| backend.matmul(MatMul::nt(&x, &w)).map(drop)),
    });
    rows.push(Row {
        name: LINEAR[1],
        shape,
        work,
        run: Box::new(move |backend| backend.matmul(MatMul::nn(&dy, &weight)).map(drop)),
    });
    Ok(())
}

fn convolution(
    rows: &mut Vec<Row>,
    dtype: DType,
    side: usize,
    c: usize,
    out: usize,
    stride: usize,
) -> Result<()> {
    let spec = Conv2dSpec { stride, padding: Padding::same(1) };
    let [oh, ow] = spec.output_size([side, side], [3, 3])?;
    let (x, w, dy) = (
        random(dtype, &[1, side, side, c])?,
        random(dtype, &[out, 3, 3, c])?,
        random(dtype, &[1, oh, ow, out])?,
    );
    let work = Work::Flops(2.0 * (oh * ow * 9 * c * out) as f64);
    let shape = format!("{side}x{side} {c} -> {out} 3x3/{stride}");
    let (x2, w2, dy2) = (x.clone(), w.clone(), dy.clone());
    rows.push(Row {
        name: CONVOLUTION[0],
        shape: shape.clone(),
        work,
        run: Box::new(move |backend| backend.conv2d(&x, &w, None, None, spec).map(drop)),
    });
    rows.push(Row {
        name: CONVOLUTION[1],
        shape: shape.clone(),
        work,
        run: Box::new(move |backend| backend.conv2d_grad_input(&dy, &w2, [side, side], spec).map(drop)),
    });
    rows.push(Row {
        name: CONVOLUTION[2],
        shape,
        work,
        run: Box::new(move |backend| backend.conv2d_grad_weight(&dy2, &x2, [3, 3], spec).map(drop)),
    });
    Ok(())
}

fn attention(rows: &mut Vec<Row>, dtype: DType, tokens: usize, keys: usize, width: usize) -> Result<()> {
    const HEADS: usize = 8;
    let (q, k) = (random(dtype, &[1, tokens, HEADS * width])?, random(dtype, &[1, keys, HEADS * width])?);
    let (v, d_o) = (random(dtype, &[1, keys, HEADS * width])?, random(dtype, &[1, tokens, HEADS * width])?);
    let spec = AttentionSpec { heads: HEADS, scale: 1.0 / (width as f32).sqrt(), causal: false };
    let product = 2.0 * (HEADS * tokens * keys * width) as f64;
    let shape = format!("{tokens} x {keys}, {HEADS} heads of {width}");
    let operands = (q.clone(), k.clone(), v.clone());
    rows.push(Row {
        name: ATTENTION[0],
        shape: shape.clone(),
        work: Work::Flops(2.0 * product),
        run: Box::new(move |backend| backend.attention(&q, &k, &v, spec).map(drop)),
    });
    let (q, k, v) = operands;
    let reference = CpuBackend::new(None)?.attention(&q, &k, &v, spec)?;
    rows.push(Row {
        name: ATTENTION[1],
        shape,
        work: Work::Flops(5.0 * product),
        run: Box::new(move |backend| {
            let (o, lse) = &reference;
            backend.attention_grad(&d_o, &q, &k, &v, o, lse, spec, [true; 3]).map(drop)
        }),
    });
    Ok(())
}

fn memory_bound(rows: &mut Vec<Row>, dtype: DType, side: usize, c: usize) -> Result<()> {
    let x = random(dtype, &[1, side, side, c])?;
    let other = random(dtype, &[1, side, side, c])?;
    let wide = random(dtype, &[1, side, side, 8 * c])?;
    let (gamma, beta) = (random(dtype, &[c])?, random(dtype, &[c])?);
    let bytes = (dtype.size() * side * side * c) as f64;
    let shape = format!("{side}x{side} {c}");
    let mut push = |name, traffic: f64, run: Run| {
        rows.push(Row { name, shape: shape.clone(), work: Work::Bytes(traffic * bytes), run });
    };
    let spec = GroupNormSpec { groups: 32, eps: 1e-5, silu: true };
    let wanted = NormWanted { x: true, affine: false };
    let stats = CpuBackend::new(None)?.group_norm(&x, &gamma, &beta, spec)?.1;
    let (x1, gamma1, beta1) = (x.clone(), gamma.clone(), beta.clone());
    push(
        MEMORY_BOUND[0],
        2.0,
        Box::new(move |backend| backend.group_norm(&x1, &gamma1, &beta1, spec).map(drop)),
    );
    let (x1, gamma1, beta1) = (x.clone(), gamma.clone(), beta.clone());
    push(
        MEMORY_BOUND[1],
        3.0,
        Box::new(move |backend| {
            backend.group_norm_grad(&x1, &x1, &gamma1, &beta1, &stats, spec, wanted).map(drop)
        }),
    );
    let x1 = x.clone();
    push(
        MEMORY_BOUND[2],
        2.0,
        Box::new(move |backend| backend.layer_norm(&x1, &gamma, &beta, 1e-5).map(drop)),
    );
    push(MEMORY_BOUND[3], 12.0, Box::new(move |backend| backend.geglu(&wide).map(drop)));
    let x1 = x.clone();
    push(MEMORY_BOUND[4], 2.0, Box::new(move |backend| backend.activation(Activation::Silu, &x1).map(drop)));
    push(MEMORY_BOUND[5], 3.0, Box::new(move |backend| backend.add_scaled(&x, &other, 1.0).map(drop)));
    Ok(())
}
