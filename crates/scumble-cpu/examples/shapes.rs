//! Times the ops of a Stable Diffusion 1.5 step at 64 x 64 latents, one by one, against the measured peak.
//!
//! `cargo run --release -p scumble-cpu --example shapes [part of a name] [threads]`
//!
//! With one thread, processor time is measured instead of wall time: good on a machine that others use too.

use std::time::Instant;

use scumble_cpu::{CpuBackend, measure_peak};
use scumble_tensor::backend::{
    Activation, AttentionSpec, Conv2dSpec, GroupNormSpec, MatMul, NormWanted, Padding,
};
use scumble_tensor::rng::Generator;
use scumble_tensor::{Backend, Result, Tensor};

struct Bench<'a> {
    backend: &'a CpuBackend,
    wanted: String,
    peak: f64,
}

impl Bench<'_> {
    /// The best of some runs; `work` in 10^9 operations, or 10^9 bytes where the name says so.
    fn time(&self, name: &str, work: f64, op: impl Fn(&CpuBackend) -> Result<()>) -> Result<()> {
        if !name.contains(&self.wanted) {
            return Ok(());
        }
        op(self.backend)?;
        let begin = Instant::now();
        let mut best = f64::INFINITY;
        let mut runs = 0;
        while runs < 3 || (begin.elapsed().as_secs_f64() < 0.4 && runs < 100) {
            let one = seconds(self.backend.threads());
            op(self.backend)?;
            best = best.min(seconds(self.backend.threads()) - one);
            runs += 1;
        }
        let (rate, share) = (work / best, work / best / self.peak * 100.0);
        println!("{name:<44} {:>9.3} ms {rate:>8.1} G/s {share:>5.1} %", best * 1e3);
        Ok(())
    }
}

/// Seconds on a clock of the process' own: its processor time with one thread, wall time with more.
fn seconds(threads: usize) -> f64 {
    #[cfg(unix)]
    if threads == 1 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to `now` alone.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) };
        return now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9;
    }
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    BEGIN.get_or_init(Instant::now).elapsed().as_secs_f64()
}

fn random(dims: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(&Generator::new(1).randn(dims.iter().product()), dims)
}

fn main() -> Result<()> {
    let threads = std::env::args().nth(2).and_then(|threads| threads.parse().ok());
    let backend = CpuBackend::new(threads)?;
    let peak = measure_peak(&backend)?;
    println!("{}, {} threads: {peak:?}", backend.name(), backend.threads());
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let bench = Bench { backend: &backend, wanted, peak: peak.gflops };
    convolutions(&bench)?;
    linears(&bench)?;
    attentions(&bench)?;
    memory_bound(&bench)
}

fn convolutions(bench: &Bench<'_>) -> Result<()> {
    let spec = Conv2dSpec { stride: 1, padding: Padding::same(1) };
    let down = Conv2dSpec { stride: 2, ..spec };
    for (size, c, out, spec) in [
        (64, 4, 320, spec),
        (64, 320, 4, spec),
        (64, 320, 320, spec),
        (64, 960, 320, spec),
        (64, 320, 320, down),
        (32, 640, 640, spec),
        (32, 1920, 640, spec),
        (16, 1280, 1280, spec),
        (16, 2560, 1280, spec),
        (8, 1280, 1280, spec),
    ] {
        let (x, w) = (random(&[1, size, size, c])?, random(&[out, 3, 3, c])?);
        let [oh, ow] = spec.output_size([size, size], [3, 3])?;
        let y = random(&[1, oh, ow, out])?;
        let work = (2 * oh * ow * 9 * c * out) as f64 / 1e9;
        let name = |what| format!("conv {size}x{size} {c}->{out} /{} {what}", spec.stride);
        bench.time(&name("forward"), work, |b| b.conv2d(&x, &w, None, None, spec).map(drop))?;
        bench.time(&name("dx"), work, |b| b.conv2d_grad_input(&y, &w, [size, size], spec).map(drop))?;
        bench.time(&name("dw"), work, |b| b.conv2d_grad_weight(&y, &x, [3, 3], spec).map(drop))?;
    }
    Ok(())
}

fn linears(bench: &Bench<'_>) -> Result<()> {
    for (m, k, n) in [
        (4096, 320, 320),
        (4096, 320, 2560),
        (4096, 1280, 320),
        (1024, 640, 640),
        (1024, 640, 5120),
        (1024, 2560, 640),
        (256, 1280, 1280),
        (256, 1280, 10240),
        (256, 5120, 1280),
        (64, 1280, 1280),
        (77, 768, 320),
        (77, 768, 1280),
        (1, 1280, 1280),
        (4096, 320, 4),
        (4096, 4, 320),
        (256, 1280, 4),
        (256, 4, 1280),
    ] {
        let (x, w, y) = (random(&[m, k])?, random(&[n, k])?, random(&[m, n])?);
        let work = (2 * m * k * n) as f64 / 1e9;
        let name = |what| format!("linear {m} x {k}->{n} {what}");
        bench.time(&name("forward"), work, |b| {
            b.matmul(MatMul { add: Some(&y), ..MatMul::nt(&x, &w) }).map(drop)
        })?;
        bench.time(&name("dx"), work, |b| b.matmul(MatMul::nn(&y, &w)).map(drop))?;
        bench.time(&name("dw"), work, |b| b.matmul(MatMul::tn(&y, &x)).map(drop))?;
    }
    Ok(())
}

fn attentions(bench: &Bench<'_>) -> Result<()> {
    for (queries, keys, heads, d) in [
        (4096, 4096, 8, 40),
        (1024, 1024, 8, 80),
        (256, 256, 8, 160),
        (64, 64, 8, 160),
        (4096, 77, 8, 40),
        (1024, 77, 8, 80),
        (256, 77, 8, 160),
        (1024, 1024, 10, 64),
        (1024, 1024, 1, 512),
    ] {
        let spec = AttentionSpec { heads, scale: 1.0 / (d as f32).sqrt(), causal: false };
        let q = random(&[1, queries, heads * d])?;
        let (k, v) = (random(&[1, keys, heads * d])?, random(&[1, keys, heads * d])?);
        let (o, lse) = bench.backend.attention(&q, &k, &v, spec)?;
        let work = (4 * queries * keys * heads * d) as f64 / 1e9;
        let name = |what| format!("attention {queries} x {keys}, {heads} x {d} {what}");
        bench.time(&name("forward"), work, |b| b.attention(&q, &k, &v, spec).map(drop))?;
        bench.time(&name("backward"), work * 2.5, |b| {
            b.attention_grad(&q, &q, &k, &v, &o, &lse, spec, [true; 3]).map(drop)
        })?;
    }
    Ok(())
}

fn memory_bound(bench: &Bench<'_>) -> Result<()> {
    let wanted = NormWanted { x: true, affine: false };
    for (size, c) in [(64, 320), (32, 640), (16, 1280)] {
        let x = random(&[1, size, size, c])?;
        let (gamma, beta) = (random(&[c])?, random(&[c])?);
        let bytes = (x.numel() * 8) as f64 / 1e9;
        let name = |what| format!("{what} {size}x{size} {c} (bytes)");
        let spec = GroupNormSpec { groups: 32, eps: 1e-5, silu: true };
        let (_, stats) = bench.backend.group_norm(&x, &gamma, &beta, spec)?;
        bench
            .time(&name("group norm forward"), bytes, |b| b.group_norm(&x, &gamma, &beta, spec).map(drop))?;
        bench.time(&name("group norm dx"), bytes * 1.5, |b| {
            b.group_norm_grad(&x, &x, &gamma, &beta, &stats, spec, wanted).map(drop)
        })?;
        let (_, stats) = bench.backend.layer_norm(&x, &gamma, &beta, 1e-5)?;
        bench
            .time(&name("layer norm forward"), bytes, |b| b.layer_norm(&x, &gamma, &beta, 1e-5).map(drop))?;
        bench.time(&name("layer norm dx"), bytes * 1.5, |b| {
            b.layer_norm_grad(&x, &x, &gamma, &stats, wanted).map(drop)
        })?;
        bench.time(&name("add"), bytes * 1.5, |b| b.add_scaled(&x, &x, 1.0).map(drop))?;
        bench.time(&name("silu"), bytes, |b| b.activation(Activation::Silu, &x).map(drop))?;
        let wide = random(&[size * size, c * 8])?;
        let y = random(&[size * size, c * 4])?;
        let bytes = (wide.numel() * 6) as f64 / 1e9;
        bench.time(&name("geglu forward"), bytes, |b| b.geglu(&wide).map(drop))?;
        bench.time(&name("geglu dx"), bytes * 10.0 / 6.0, |b| b.geglu_grad(&y, &wide).map(drop))?;
    }
    Ok(())
}
