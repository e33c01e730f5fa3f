//! Every tier of this machine passes the engine's suite, with one thread and with several, and the number of threads
//! never shows in a result.

#![allow(clippy::unwrap_used)] // the helpers of tests may stop at the first surprise, as tests may

use scumble_cpu::{CpuBackend, Tier};
use scumble_tensor::backend::{AttentionSpec, Conv2dSpec, GroupNormSpec, MatMul, NormWanted, Padding};
use scumble_tensor::rng::Generator;
use scumble_tensor::{Backend, DType, Tensor, conformance};

/// Tiers with the types in which they compute in a way of their own: of the emulated one only the matrix unit is.
fn tiers() -> Vec<(Tier, DType)> {
    let all = Tier::available().into_iter().flat_map(|tier| [(tier, DType::F32), (tier, DType::BF16)]);
    all.filter(|pair| *pair != (Tier::Emulated, DType::F32)).collect()
}

#[test]
fn every_tier_passes_the_suite() {
    for (tier, dtype) in tiers() {
        for threads in [1, 2] {
            let backend = CpuBackend::with_tier(tier, Some(threads)).unwrap();
            let report = conformance::run(&backend, dtype);
            assert!(report.is_clean(), "{threads} threads: {report}");
        }
    }
}

/// What a matrix unit computes differs from what widening computes by the order of sums, in attention by the rounding of
/// the weights, and in large convolutions by that of what minimal filtering multiplies.
#[test]
fn matrix_units_compute_what_widening_computes() {
    let wide = results(&CpuBackend::with_tier(Tier::Portable, Some(2)).unwrap(), DType::BF16);
    for tier in [Tier::Amx, Tier::Avx512Bf16, Tier::Emulated].into_iter().filter(|tier| tier.is_available()) {
        let tiles = results(&CpuBackend::with_tier(tier, Some(2)).unwrap(), DType::BF16);
        for (index, (wide, tiles)) in wide.iter().zip(&tiles).enumerate() {
            let [wide, tiles] = [wide, tiles].map(|tensor| tensor.to_vec::<f64>().unwrap());
            let power = wide.iter().map(|x| x * x).sum::<f64>();
            let error = wide.iter().zip(&tiles).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            assert!(error <= 1e-4 * power, "{} result {index}: {error:e} of {power:e}", tier.name());
        }
    }
}

fn random(generator: &mut Generator, dims: &[usize], dtype: DType) -> Tensor {
    Tensor::from_slice(&generator.randn(dims.iter().product()), dims).unwrap().to_dtype(dtype).unwrap()
}

/// Results of ops that cut their work for threads, at sizes with several tasks and with tails.
fn results(backend: &dyn Backend, dtype: DType) -> Vec<Tensor> {
    let mut generator = Generator::new(7);
    let mut tensor = |dims: &[usize]| random(&mut generator, dims, dtype);
    let (x, w, bias) = (tensor(&[1, 19, 23, 37]), tensor(&[71, 3, 3, 37]), tensor(&[71]));
    let spec = Conv2dSpec { stride: 2, padding: Padding::same(1) };
    let y = backend.conv2d(&x, &w, Some(&bias), None, spec).unwrap();
    let d_x = backend.conv2d_grad_input(&y, &w, [19, 23], spec).unwrap();
    let d_w = backend.conv2d_grad_weight(&y, &x, [3, 3], spec).unwrap();
    let (picture, filters) = (tensor(&[1, 13, 17, 130]), tensor(&[136, 3, 3, 130]));
    let spec = Conv2dSpec { stride: 1, padding: Padding::same(1) };
    let filtered = backend.conv2d(&picture, &filters, None, None, spec).unwrap();
    let d_filtered = backend.conv2d_grad_input(&filtered, &filters, [13, 17], spec).unwrap();
    let upstream = tensor(&[1, 26, 34, 136]);
    let d_small = backend.conv2d_grad_enlarged(&upstream, &filters, [13, 17], [26, 34], spec).unwrap();
    let (small, many) = (tensor(&[1, 7, 8, 130]), tensor(&[201, 3, 3, 130]));
    let small = backend.conv2d(&small, &many, None, None, spec).unwrap();
    let (a, b) = (tensor(&[501, 1000]), tensor(&[333, 1000]));
    let wide = backend.matmul(MatMul::nt(&b, &a)).unwrap();
    let tall = backend.matmul(MatMul::nt(&a, &b)).unwrap();
    let (q, k) = (tensor(&[1, 301, 80]), tensor(&[1, 177, 80]));
    let spec = AttentionSpec { heads: 2, scale: 0.15, causal: false };
    let (o, lse) = backend.attention(&q, &k, &k, spec).unwrap();
    let grads = backend.attention_grad(&q, &q, &k, &k, &o, &lse, spec, [true; 3]).unwrap();
    let (gamma, beta) = (tensor(&[64]), tensor(&[64]));
    let picture = tensor(&[2, 31, 29, 64]);
    let spec = GroupNormSpec { groups: 32, eps: 1e-5, silu: true };
    let (norm, stats) = backend.group_norm(&picture, &gamma, &beta, spec).unwrap();
    let wanted = NormWanted { x: true, affine: true };
    let norm_grads =
        backend.group_norm_grad(&picture, &picture, &gamma, &beta, &stats, spec, wanted).unwrap();
    let (d_gamma, d_beta) = norm_grads.affine.unwrap();
    let sums = backend.sum_rows(&picture).unwrap();
    let (rows, others) = (random(&mut Generator::new(8), &[3, 4, 701], DType::F32), d_gamma.clone());
    let pairs = backend.outer(&rows, &rows).unwrap();
    let [d_rows, _] = backend.outer_grad(&pairs, &rows, &rows).unwrap();
    let scaled = backend.scale_channels(&picture, &others, None, Some(&picture)).unwrap();
    let products = backend.dot_rows(&picture, &scaled).unwrap();
    let swapped = backend.swap_middle(&picture).unwrap();
    let adapters = [pairs, d_rows, scaled, products, swapped];
    let grads = [grads.q, grads.k, grads.v, norm_grads.x].into_iter().map(Option::unwrap);
    [
        y, d_x, d_w, filtered, d_filtered, d_small, small, wide, tall, o, lse, norm, stats, d_gamma, d_beta,
        sums,
    ]
    .into_iter()
    .chain(grads)
    .chain(adapters)
    .collect()
}

#[test]
fn threads_do_not_show() {
    for (tier, dtype) in tiers() {
        let alone = results(&CpuBackend::with_tier(tier, Some(1)).unwrap(), dtype);
        for threads in [2, 3, 7] {
            let together = results(&CpuBackend::with_tier(tier, Some(threads)).unwrap(), dtype);
            for (index, (alone, together)) in alone.iter().zip(&together).enumerate() {
                let same = alone.bytes().unwrap() == together.bytes().unwrap();
                assert!(same, "{} {dtype}: result {index} differs with {threads} threads", tier.name());
            }
        }
    }
}

#[test]
fn what_has_no_kernel_is_refused() {
    let backend = CpuBackend::new(Some(1)).unwrap();
    let half = Tensor::zeros(DType::F16, &[4, 4]).unwrap();
    let error = backend.matmul(MatMul::nt(&half, &half)).unwrap_err();
    assert!(matches!(error, scumble_tensor::Error::Unsupported { .. }), "{error}");
    let odd = Tensor::zeros(DType::F32, &[1, 4, 6]).unwrap();
    let spec = AttentionSpec { heads: 4, scale: 1.0, causal: false };
    assert!(backend.attention(&odd, &odd, &odd, spec).is_err());
}
