//! The branches of all kinds on single layers: live as folded, strength 0 as the base, gradients as differences.

use std::sync::Arc;

use scumble_tensor::backend::{Conv2dSpec, Padding};
use scumble_tensor::reference::ReferenceBackend;
use scumble_tensor::rng::stream;
use scumble_tensor::{DType, Param, Tape, Tensor, Var};

use super::{Branch, Decomposed, Factor, Hadamard, Kind, Kronecker, LowRank, Projection, Tap, Tunable};

fn random(name: &str, dims: &[usize]) -> Param {
    let value = stream(3, name).randn_tensor(dims).unwrap().to_dtype(DType::F64).unwrap();
    Param::trainable(name, value)
}

/// A layer, the sizes of its weight and of its input.
struct Layer {
    kind: Kind,
    weight: &'static [usize],
    x: &'static [usize],
}

fn layers() -> [Layer; 4] {
    let conv = |stride, pad| Kind::Conv2d(Conv2dSpec { stride, padding: Padding::same(pad) });
    [
        Layer { kind: Kind::Linear, weight: &[6, 4], x: &[2, 3, 4] },
        Layer { kind: conv(1, 1), weight: &[6, 3, 3, 4], x: &[2, 3, 5, 4] },
        Layer { kind: conv(2, 1), weight: &[6, 3, 3, 4], x: &[1, 5, 4, 4] },
        Layer { kind: conv(1, 0), weight: &[6, 1, 1, 4], x: &[1, 2, 2, 4] },
    ]
}

impl Layer {
    fn projection(&self) -> Projection {
        let frozen = |name, dims: &[usize]| {
            let param = random(name, dims);
            param.set_trainable(false);
            param
        };
        let bias = Some(frozen("bias", &self.weight[..1]));
        Projection::new(Tap::loose("p"), self.kind, frozen("weight", self.weight), bias).unwrap()
    }

    fn with_first(&self, first: usize) -> Vec<usize> {
        [&[first], &self.weight[1..]].concat()
    }

    /// Every kind, with the scale that stands for strength 1.
    fn branches(&self, on: &Projection) -> Vec<(&'static str, Arc<dyn Tunable>, f32)> {
        let pair = |name: &str, rank| {
            let [down, up] = ["down", "up"].map(|part| format!("{name} {part}"));
            [random(&down, &self.with_first(rank)), random(&up, &[6, rank])]
        };
        let side = |name: &str, rank| {
            let [b, a] = pair(name, rank);
            [a, b]
        };
        let small = |first| [&[first], &self.weight[1..self.weight.len() - 1], &[2]].concat();
        let [down, up] = pair("lora", 2);
        let [down0, up0] = pair("start", 2);
        let from_start = LowRank::new(down.clone(), up.clone(), 0.7).counted_from(down0, up0);
        let decomposed = Decomposed::new(on, [down, up], random("m", &[6]), 0.7, &ReferenceBackend).unwrap();
        let kronecker = |w1, w2, scale| Arc::new(Kronecker::new(w1, w2, scale));
        let whole = |name, dims: &[usize]| Factor::Whole(random(name, dims));
        let halves = |name: &str, a: &[usize], b: &[usize]| {
            let [a_name, b_name] = ["a", "b"].map(|part| format!("{name} {part}"));
            Factor::Pair { a: random(&a_name, a), b: random(&b_name, b) }
        };
        vec![
            ("from a start", Arc::new(from_start), 0.7),
            ("dora", Arc::new(decomposed), 1.0),
            ("loha of rank 1", Arc::new(Hadamard::new([side("1", 1), side("2", 1)], 0.7)), 0.7),
            ("loha, dense", Arc::new(Hadamard::new([side("3", 5), side("4", 5)], 0.7)), 0.7),
            ("lokr, whole", kronecker(whole("w1", &[3, 2]), whole("w2", &small(2)), 1.0), 1.0),
            ("lokr, second", kronecker(whole("w1", &[3, 2]), halves("w2", &[2, 1], &small(1)), 0.7), 0.7),
            (
                "lokr, both",
                kronecker(halves("w1", &[3, 1], &[1, 2]), halves("w2", &[2, 1], &small(1)), 0.7),
                0.7,
            ),
        ]
    }
}

fn forward(projection: &Projection, tape: &Tape<'_>, layer: &Layer) -> Var {
    let x = Var::constant(random("x", layer.x).value());
    let alone = projection.forward(tape, &x).unwrap();
    let residual = Var::constant(random("residual", alone.dims()).value());
    projection.forward_add(tape, &x, Some(&residual)).unwrap()
}

fn output(projection: &Projection, layer: &Layer) -> Vec<f64> {
    let tape = Tape::inference(Arc::new(ReferenceBackend));
    forward(projection, &tape, layer).value().to_vec().unwrap()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |worst, (a, b)| worst.max((a - b).abs()))
}

#[test]
fn live_equals_folded_at_every_strength() {
    for layer in layers() {
        let live = layer.projection();
        let base = output(&live, &layer);
        for (name, branch, scale) in layer.branches(&live) {
            let as_branch: Arc<dyn Branch> = branch.clone();
            live.attach(Arc::clone(&as_branch)).unwrap();
            branch.set_scale(0.0);
            assert_eq!(output(&live, &layer), base, "{name}: strength 0 is the base, bit for bit");
            for strength in [1.0, 0.4] {
                branch.set_scale(strength * scale);
                let expected = output(&live, &layer);
                let folded = layer.projection();
                folded
                    .add_delta(&ReferenceBackend, &branch.delta(&ReferenceBackend, &live).unwrap())
                    .unwrap();
                let off = distance(&expected, &output(&folded, &layer));
                assert!(off < 2e-5, "{name} on {:?}: off by {off}", layer.weight);
                assert!(distance(&expected, &base) > 0.05, "{name} does something");
            }
            assert!(live.detach(&as_branch));
        }
    }
}

/// Differences see the whole function, so the magnitude's norm must not move with what is varied: DoRA's factors are left
/// out here and compared with PEFT elsewhere.
#[test]
fn gradients_are_differences() {
    const STEP: f64 = 1e-5;
    for layer in layers() {
        let projection = layer.projection();
        for (name, branch, scale) in layer.branches(&projection) {
            branch.set_scale(scale);
            let as_branch: Arc<dyn Branch> = branch.clone();
            projection.attach(Arc::clone(&as_branch)).unwrap();
            let tape = Tape::recording(Arc::new(ReferenceBackend));
            let y = forward(&projection, &tape, &layer);
            let seed = random("seed", y.dims()).value();
            let seeded = |y: Vec<f64>| -> f64 {
                y.iter().zip(seed.as_slice::<f64>().unwrap()).map(|(y, seed)| y * seed).sum()
            };
            let gradients = tape.backward(&y, seed.clone()).unwrap();
            let params = branch.params();
            assert!(params.len() >= 2);
            for param in params.iter().filter(|param| name != "dora" || param.name() == "m") {
                let found = gradients.get(param.id()).unwrap().to_vec::<f64>().unwrap();
                let value = param.value();
                for at in [0, value.numel() / 2, value.numel() - 1] {
                    let shifted = |by: f64| {
                        let mut values = value.to_vec::<f64>().unwrap();
                        values[at] += by;
                        param.set(Tensor::from_slice(&values, value.dims()).unwrap());
                        seeded(output(&projection, &layer))
                    };
                    let expected = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
                    param.set(value.clone());
                    let error = (found[at] - expected).abs() / expected.abs().max(1.0);
                    assert!(error < 1e-6, "{name} {}[{at}]: {} and {expected}", param.name(), found[at]);
                }
            }
            projection.detach(&as_branch);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let layer = &layers()[0];
    let projection = layer.projection();
    let refused = |branch: Arc<dyn Branch>| {
        let error = projection.attach(branch).unwrap_err().to_string();
        assert!(error.contains("for p"), "{error}");
    };
    let pair = |rank, input| [random("d", &[rank, input]), random("u", &[6, rank])];
    let side = |rank, input| [random("a", &[6, rank]), random("b", &[rank, input])];
    refused(Arc::new(Hadamard::new([side(2, 4), side(2, 5)], 1.0)));
    let [down, up] = pair(2, 4);
    let short = random("m", &[5]);
    refused(Arc::new(Decomposed::new(&projection, [down, up], short, 1.0, &ReferenceBackend).unwrap()));
    let whole = |dims: &[usize]| Factor::Whole(random("w", dims));
    refused(Arc::new(Kronecker::new(whole(&[3, 2]), whole(&[2, 3]), 1.0)));
    refused(Arc::new(Kronecker::new(whole(&[2, 2]), whole(&[2, 2]), 1.0)));
    let [down, up] = pair(2, 4);
    let [down0, up0] = pair(2, 3);
    refused(Arc::new(LowRank::new(down, up, 1.0).counted_from(down0, up0)));
}

#[test]
fn one_layer_takes_one_branch_that_rescales() {
    let layer = &layers()[0];
    let projection = layer.projection();
    let decomposed = || {
        let factors = [random("d", &[2, 4]), random("u", &[6, 2])];
        Arc::new(Decomposed::new(&projection, factors, random("m", &[6]), 1.0, &ReferenceBackend).unwrap())
    };
    projection.attach(decomposed()).unwrap();
    let error = projection.attach(decomposed()).unwrap_err().to_string();
    assert!(error.contains("rescales p"), "{error}");
    // An additive branch beside it adds what it adds to the base.
    let with_one = output(&projection, layer);
    let added = Arc::new(LowRank::new(random("d2", &[1, 4]), random("u2", &[6, 1]), 0.5));
    projection.attach(added.clone()).unwrap();
    let with_both = output(&projection, layer);
    projection.detach_all();
    let base = output(&projection, layer);
    projection.attach(added).unwrap();
    let alone = output(&projection, layer);
    for i in 0..base.len() {
        assert!((with_both[i] - with_one[i] - (alone[i] - base[i])).abs() < 1e-9);
    }
}
