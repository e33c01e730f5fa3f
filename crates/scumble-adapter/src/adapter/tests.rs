use super::*;
use crate::table::{Module, ModuleKind};

fn ones(dims: &[usize]) -> Tensor {
    numbers(dims, |_| 1.0)
}

fn numbers(dims: &[usize], value: impl Fn(usize) -> f32) -> Tensor {
    let values: Vec<f32> = (0..dims.iter().product()).map(value).collect();
    Tensor::from_slice(&values, dims).unwrap()
}

fn waves(dims: &[usize], seed: f32) -> Tensor {
    numbers(dims, |i| ((i as f32 + 1.0) * seed).sin())
}

fn conv(inputs: usize, outputs: usize) -> Module {
    Module { path: "unet.m".into(), kind: ModuleKind::Conv { kernel: [3, 3] }, inputs, outputs }
}

fn linear(inputs: usize, outputs: usize) -> Module {
    Module { path: "unet.m".into(), kind: ModuleKind::Linear, inputs, outputs }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

#[test]
fn not_finite_values_are_named() {
    let mut adapter = Adapter::default();
    let up = Tensor::from_slice(&[1.0f32, f32::NAN], &[2, 1]).unwrap();
    adapter.insert("unet.m", ones(&[1, 3]), up, 1.0).unwrap();
    let message = adapter.check_finite().unwrap_err().to_string();
    assert!(message.contains("unet.m") && message.contains("up"), "{message}");
}

#[test]
fn a_core_of_one_pixel_is_a_matrix_between_the_factors() {
    let (down, mid, up) = (waves(&[2, 4, 1, 1], 0.3), waves(&[2, 2, 1, 1], 0.7), waves(&[5, 2, 1, 1], 1.1));
    let tucker = TuckerFactors::new("m", down.clone(), mid.clone(), up.clone(), 1.0).unwrap();
    // up @ mid as one factor.
    let (u, m) = (values(&up), values(&mid));
    let joined: Vec<f32> = (0..5)
        .flat_map(|o| {
            let (u, m) = (&u, &m);
            (0..2).map(move |j| u[2 * o] * m[j] + u[2 * o + 1] * m[2 + j])
        })
        .collect();
    let plain =
        LowRankFactors::new("m", down, Tensor::from_slice(&joined, &[5, 2, 1, 1]).unwrap(), 1.0).unwrap();
    for (a, b) in values(&tucker.delta().unwrap()).iter().zip(values(&plain.delta().unwrap())) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn hadamard_of_ones_is_the_square_of_the_rank() {
    let side = || HadamardSide { a: ones(&[6, 3]), b: ones(&[3, 4 * 9]), core: None };
    let factors = HadamardFactors::new("m", [side(), side()], 6.0).unwrap();
    let factors = ModuleFactors::from(Change::Hadamard(factors)).shaped_for(&conv(4, 6)).unwrap();
    let delta = factors.delta("m").unwrap().unwrap();
    assert_eq!(delta.dims(), [6, 36]);
    assert!(values(&delta).iter().all(|&value| value == 2.0 * 9.0));
    let core = HadamardSide { a: ones(&[3, 6]), b: ones(&[3, 4]), core: Some(ones(&[3, 3, 3, 3])) };
    let factors = HadamardFactors::new("m", [core.clone(), core], 3.0).unwrap();
    let factors = ModuleFactors::from(Change::Hadamard(factors)).shaped_for(&conv(4, 6)).unwrap();
    let delta = factors.delta("m").unwrap().unwrap();
    assert_eq!(delta.dims(), [6, 36]);
    assert!(values(&delta).iter().all(|&value| value == 81.0));
}

#[test]
fn kronecker_scale_is_one_for_whole_matrices() {
    let whole = |dims: &[usize]| KroneckerFactor::Whole(ones(dims));
    let factors = KroneckerFactors::new("m", whole(&[2, 2]), whole(&[3, 4]), 100.0).unwrap();
    assert_eq!((factors.scale(), factors.rank()), (1.0, None));
    let delta = ModuleFactors::from(Change::Kronecker(factors)).shaped_for(&linear(8, 6)).unwrap();
    assert_eq!(delta.delta("m").unwrap().unwrap().dims(), [6, 8]);
    let pair = KroneckerFactor::Pair { a: ones(&[3, 2]), b: ones(&[2, 4]) };
    let factors = KroneckerFactors::new("m", whole(&[2, 2]), pair, 1.0).unwrap();
    assert_eq!((factors.scale(), factors.rank()), (0.5, Some(2)));
    assert!(values(&factors.delta().unwrap()).iter().all(|&value| value == 1.0));
}

/// `kron` with the kernel behind: `dW[a * o2 + b, c * i2 + d, k] = w1[a, c] w2[b, d, k]`.
#[test]
fn kronecker_of_a_convolution_is_its_definition() {
    let (w1, w2) = (waves(&[2, 3], 0.9), waves(&[2, 2, 3, 3], 0.37));
    let factors = KroneckerFactors::new(
        "m",
        KroneckerFactor::Whole(w1.clone()),
        KroneckerFactor::Whole(w2.clone()),
        1.0,
    )
    .unwrap();
    let shaped = ModuleFactors::from(Change::Kronecker(factors)).shaped_for(&conv(6, 4)).unwrap();
    let delta = values(&shaped.delta("m").unwrap().unwrap());
    let (w1, w2) = (values(&w1), values(&w2));
    for row in 0..4 {
        for column in 0..6 {
            for k in 0..9 {
                let expected = w1[row / 2 * 3 + column / 2] * w2[(row % 2 * 2 + column % 2) * 9 + k];
                assert!((delta[(row * 6 + column) * 9 + k] - expected).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn a_magnitude_sets_the_length_of_rows_or_columns() {
    let base = waves(&[3, 4], 0.8);
    let pair = LowRankFactors::new("m", waves(&[2, 4], 0.5), waves(&[3, 2], 1.7), 2.0).unwrap();
    for (axis, count) in [(Axis::Output, 3), (Axis::Input, 4)] {
        let lengths = numbers(&[count], |i| 1.0 + i as f32);
        let magnitude = Magnitude::new("m", &lengths, axis).unwrap();
        let factors =
            ModuleFactors::new("m", Some(Change::LowRank(pair.clone())), None, Some(magnitude)).unwrap();
        assert!(factors.low_rank().is_none() && factors.delta("m").is_err());
        let delta = values(&factors.delta_on("m", &base).unwrap().unwrap());
        let changed: Vec<f32> = values(&base).iter().zip(delta).map(|(w, d)| w + d).collect();
        for index in 0..count {
            let squares: f32 = match axis {
                Axis::Output => changed[index * 4..index * 4 + 4].iter().map(|v| v * v).sum(),
                Axis::Input => (0..3).map(|row| changed[row * 4 + index].powi(2)).sum(),
            };
            assert!((squares.sqrt() - (1.0 + index as f32)).abs() < 1e-5, "{axis:?} {index}");
        }
    }
    let magnitude = Magnitude::new("m", &ones(&[5]), Axis::Output).unwrap();
    let factors = ModuleFactors::new("m", Some(Change::LowRank(pair)), None, Some(magnitude)).unwrap();
    assert!(factors.shaped_for(&linear(4, 3)).unwrap_err().contains("DoRA"));
}

#[test]
fn differences_fit_weights_biases_and_norms() {
    let full = ModuleFactors::new("m", Some(Change::Full(ones(&[3, 4]))), Some(ones(&[3])), None).unwrap();
    assert_eq!(full.kind(), "full difference with bias");
    assert_eq!(full.shaped_for(&linear(4, 3)).unwrap().delta("m").unwrap().unwrap().dims(), [3, 4]);
    assert!(full.shaped_for(&linear(3, 4)).is_err());
    let norm = Module { path: "unet.n".into(), kind: ModuleKind::Norm, inputs: 5, outputs: 5 };
    let change = ModuleFactors::new("n", Some(Change::Full(ones(&[5]))), Some(ones(&[5])), None).unwrap();
    assert!(change.shaped_for(&norm).is_ok() && full.shaped_for(&norm).is_err());
    assert!(ModuleFactors::new("m", None, None, None).is_err());
    let bias = ModuleFactors::new("m", None, Some(ones(&[5])), None).unwrap();
    assert!(bias.delta("m").unwrap().is_none());
    assert_eq!((bias.kind().as_str(), bias.elements()), ("bias difference", 5));
}

#[test]
fn what_serves_pairs_only_refuses_the_rest_by_name() {
    let mut adapter = Adapter::default();
    adapter.insert("unet.a", ones(&[1, 3]), ones(&[2, 1]), 1.0).unwrap();
    adapter.require_low_rank("trained on").unwrap();
    adapter.modules.insert("unet.b".into(), Change::Full(ones(&[2, 3])).into());
    let message = adapter.require_low_rank("trained on").unwrap_err().to_string();
    assert_eq!(message, "unet.b: a full difference cannot be trained on; only plain low-rank factors can");
    assert_eq!(adapter.low_rank().count(), 1);
}
