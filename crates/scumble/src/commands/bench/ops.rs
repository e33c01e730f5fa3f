//! `scumble bench ops`: the operations of an SD1.5 training step at 64x64 latents, one by one, against the peak that is
//! measured in the same run: arithmetic for products, memory traffic for everything else.

use std::time::Instant;

use serde_json::json;

use scumble_cpu::{CpuBackend, Peak, measure_peak};
use scumble_tensor::backend::{
    Activation, AttentionSpec, Conv2dSpec, GroupNormSpec, MatMul, NormWanted, Padding,
};
use scumble_tensor::rng::stream;
use scumble_tensor::{Backend, Tensor};

use super::{OpsArgs, median};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// A row is repeated until it took this long.
const SECONDS_PER_ROW: f64 = 0.5;

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
    let mut rows = rows()?;
    rows.retain(|row| args.only.as_ref().is_none_or(|only| row.name.contains(only)));
    if rows.is_empty() {
        return Err(Failure::new("no operation has such a name").hint("leave --only away to see all"));
    }
    let peak = measure_peak(&backend)?;
    if !args.json {
        context.terminal.result(&format!(
            "{}: peak {:.0} GFLOP/s, {:.1} GB/s\n{:<24} {:<34} {:>9} {:>12} {:>9}",
            backend.name(),
            peak.gflops,
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
        let (rate, unit, share) = rate(row.work, seconds, &peak);
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
        let peak = json!({ "gflops": peak.gflops, "gbytes_per_s": peak.gbytes_per_s });
        context
            .terminal
            .result(&json!({ "backend": backend.name(), "peak": peak, "ops": lines }).to_string());
    }
    Ok(Outcome::Done)
}

fn rate(work: Work, seconds: f64, peak: &Peak) -> (f64, &'static str, f64) {
    match work {
        Work::Flops(flops) => (flops / seconds / 1e9, "GF/s", flops / seconds / 1e9 / peak.gflops),
        Work::Bytes(bytes) => (bytes / seconds / 1e9, "GB/s", bytes / seconds / 1e9 / peak.gbytes_per_s),
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

fn random(dims: &[usize]) -> scumble_tensor::Result<Tensor> {
    stream(dims.iter().sum::<usize>() as u64, "bench ops").randn_tensor(dims)
}

fn rows() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
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
    ] {
        linear(&mut rows, m, k, n)?;
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
    ] {
        convolution(&mut rows, side, c, out, stride)?;
    }
    for (tokens, keys, width) in
        [(4096, 4096, 40), (1024, 1024, 80), (256, 256, 160), (4096, 77, 40), (1024, 77, 80)]
    {
        attention(&mut rows, tokens, keys, width)?;
    }
    for (side, c) in [(64, 320), (32, 640), (16, 1280)] {
        memory_bound(&mut rows, side, c)?;
    }
    Ok(rows)
}

fn linear(rows: &mut Vec<Row>, m: usize, k: usize, n: usize) -> Result<()> {
    let (x, w, dy) = (random(&[m, k])?, random(&[n, k])?, random(&[m, n])?);
    let work = Work::Flops(2.0 * (m * k * n) as f64);
    let shape = format!("[{m}, {k}] -> {n}");
    let weight = w.clone();
    rows.push(Row {
        name: "linear",
        shape: shape.clone(),
        work,
        run: Box::new(move |backend| backend.matmul(MatMul::nt(&x, &w)).map(drop)),
    });
    rows.push(Row {
        name: "linear, input gradient",
        shape,
        work,
        run: Box::new(move |backend| backend.matmul(MatMul::nn(&dy, &weight)).map(drop)),
    });
    Ok(())
}

fn convolution(rows: &mut Vec<Row>, side: usize, c: usize, out: usize, stride: usize) -> Result<()> {
    let spec = Conv2dSpec { stride, padding: Padding::same(1) };
    let [oh, ow] = spec.output_size([side, side], [3, 3])?;
    let (x, w, dy) = (random(&[1, side, side, c])?, random(&[out, 3, 3, c])?, random(&[1, oh, ow, out])?);
    let work = Work::Flops(2.0 * (oh * ow * 9 * c * out) as f64);
    let shape = format!("{side}x{side} {c} -> {out} 3x3/{stride}");
    let (x2, w2, dy2) = (x.clone(), w.clone(), dy.clone());
    rows.push(Row {
        name: "conv",
        shape: shape.clone(),
        work,
        run: Box::new(move |backend| backend.conv2d(&x, &w, None, None, spec).map(drop)),
    });
    rows.push(Row {
        name: "conv, input gradient",
        shape: shape.clone(),
        work,
        run: Box::new(move |backend| backend.conv2d_grad_input(&dy, &w2, [side, side], spec).map(drop)),
    });
    rows.push(Row {
        name: "conv, weight gradient",
        shape,
        work,
        run: Box::new(move |backend| backend.conv2d_grad_weight(&dy2, &x2, [3, 3], spec).map(drop)),
    });
    Ok(())
}

fn attention(rows: &mut Vec<Row>, tokens: usize, keys: usize, width: usize) -> Result<()> {
    const HEADS: usize = 8;
    let (q, k) = (random(&[1, tokens, HEADS * width])?, random(&[1, keys, HEADS * width])?);
    let (v, d_o) = (random(&[1, keys, HEADS * width])?, random(&[1, tokens, HEADS * width])?);
    let spec = AttentionSpec { heads: HEADS, scale: 1.0 / (width as f32).sqrt(), causal: false };
    let product = 2.0 * (HEADS * tokens * keys * width) as f64;
    let shape = format!("{tokens} x {keys}, {HEADS} heads of {width}");
    let operands = (q.clone(), k.clone(), v.clone());
    rows.push(Row {
        name: "attention",
        shape: shape.clone(),
        work: Work::Flops(2.0 * product),
        run: Box::new(move |backend| backend.attention(&q, &k, &v, spec).map(drop)),
    });
    let (q, k, v) = operands;
    let reference = CpuBackend::new(None)?.attention(&q, &k, &v, spec)?;
    rows.push(Row {
        name: "attention, gradient",
        shape,
        work: Work::Flops(5.0 * product),
        run: Box::new(move |backend| {
            let (o, lse) = &reference;
            backend.attention_grad(&d_o, &q, &k, &v, o, lse, spec, [true; 3]).map(drop)
        }),
    });
    Ok(())
}

fn memory_bound(rows: &mut Vec<Row>, side: usize, c: usize) -> Result<()> {
    let x = random(&[1, side, side, c])?;
    let other = random(&[1, side, side, c])?;
    let wide = random(&[1, side, side, 8 * c])?;
    let (gamma, beta) = (random(&[c])?, random(&[c])?);
    let bytes = (4 * side * side * c) as f64;
    let shape = format!("{side}x{side} {c}");
    let mut push = |name, traffic: f64, run: Run| {
        rows.push(Row { name, shape: shape.clone(), work: Work::Bytes(traffic * bytes), run });
    };
    let spec = GroupNormSpec { groups: 32, eps: 1e-5, silu: true };
    let wanted = NormWanted { x: true, affine: false };
    let stats = CpuBackend::new(None)?.group_norm(&x, &gamma, &beta, spec)?.1;
    let (x1, gamma1, beta1) = (x.clone(), gamma.clone(), beta.clone());
    push(
        "group norm + silu",
        2.0,
        Box::new(move |backend| backend.group_norm(&x1, &gamma1, &beta1, spec).map(drop)),
    );
    let (x1, gamma1, beta1) = (x.clone(), gamma.clone(), beta.clone());
    push(
        "group norm, gradient",
        3.0,
        Box::new(move |backend| {
            backend.group_norm_grad(&x1, &x1, &gamma1, &beta1, &stats, spec, wanted).map(drop)
        }),
    );
    let x1 = x.clone();
    push("layer norm", 2.0, Box::new(move |backend| backend.layer_norm(&x1, &gamma, &beta, 1e-5).map(drop)));
    push("geglu", 12.0, Box::new(move |backend| backend.geglu(&wide).map(drop)));
    let x1 = x.clone();
    push("silu", 2.0, Box::new(move |backend| backend.activation(Activation::Silu, &x1).map(drop)));
    push("add", 3.0, Box::new(move |backend| backend.add_scaled(&x, &other, 1.0).map(drop)));
    Ok(())
}
