//! Every optimizer on a small problem: the trajectory of its reference implementation, and going on from a checkpoint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

use scumble_tensor::reference::ReferenceBackend;
use scumble_tensor::{Param, Tensor};
use scumble_train::config::{OptimizerKind, Train};
use scumble_train::optimizer::{self, Optimizer};
use serde_json::Value;

/// See `tools/goldens/optimizers.py`.
fn params() -> [Param; 2] {
    [("w", vec![64, 80]), ("b", vec![10])].map(|(name, dims)| {
        let values: Vec<f32> =
            (0..dims.iter().product()).map(|i| ((0.3 * i as f64).cos() / 2.0) as f32).collect();
        Param::trainable(name, Tensor::from_slice(&values, &dims).unwrap())
    })
}

fn gradient(param: &Param) -> Tensor {
    let value = param.value();
    let each = value.as_slice::<f32>().unwrap().iter().enumerate();
    let gradient: Vec<f32> =
        each.map(|(i, &p)| ((1 + i % 7) as f64 * (f64::from(p) - (0.7 * i as f64).sin())) as f32).collect();
    Tensor::from_slice(&gradient, value.dims()).unwrap()
}

fn update(optimizer: &mut dyn Optimizer, params: &[Param], lr: f64) {
    optimizer.begin();
    for param in params {
        optimizer.update(&ReferenceBackend, param, &gradient(param), lr, 1.0).unwrap();
    }
    optimizer.end(&ReferenceBackend).unwrap();
}

/// Each optimizer with its rate, weight decay, and how far from the reference an element may be: rounding, where codes or
/// signs may tip over.
const CASES: [(OptimizerKind, f64, f64, f64); 6] = [
    (OptimizerKind::AdamW, 1e-2, 0.1, 1e-6),
    (OptimizerKind::AdamW8, 1e-2, 0.1, 1e-5),
    (OptimizerKind::Adafactor, 1e-2, 0.1, 1e-6),
    (OptimizerKind::Lion, 1e-2, 0.1, 1e-6),
    (OptimizerKind::Prodigy, 1.0, 0.01, 1e-6),
    (OptimizerKind::Sgd, 1e-2, 0.1, 1e-6),
];

fn build(kind: OptimizerKind, decay: f64) -> Box<dyn Optimizer> {
    optimizer::build(&Train { optimizer: kind, ..Train::default() }, decay)
}

#[test]
fn trajectories_of_the_reference_implementations() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/optimizers.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(CASES.len(), OptimizerKind::NAMES.len());
    for (kind, lr, decay, bound) in CASES {
        let (mut optimizer, params) = (build(kind, decay), params());
        let steps = golden[kind.name()].as_array().unwrap();
        assert_eq!(steps.len(), 12);
        for (step, expected) in steps.iter().enumerate() {
            update(optimizer.as_mut(), &params, lr);
            for param in &params {
                let found = param.value().to_vec::<f64>().unwrap();
                let expected = &expected[param.name()];
                for (i, value) in expected["first"].as_array().unwrap().iter().enumerate() {
                    let value = value.as_f64().unwrap();
                    assert!(
                        (found[i] - value).abs() <= bound * value.abs().max(1.0),
                        "{kind} step {step} {}[{i}]: {} instead of {value}",
                        param.name(),
                        found[i]
                    );
                }
                let squares: f64 = found.iter().map(|v| v * v).sum();
                let golden = expected["squares"].as_f64().unwrap();
                assert!((squares / golden - 1.0).abs() < 1e-5, "{kind} step {step}: {squares} {golden}");
            }
        }
    }
}

#[test]
fn going_on_from_a_checkpoint_gives_the_same_bytes() {
    for (kind, lr, decay, _) in CASES {
        for stop in [0, 1, 4] {
            let (mut optimizer, through) = (build(kind, decay), params());
            let mut point = None;
            for step in 0..7 {
                if step == stop {
                    let values = through.each_ref().map(|param| param.value());
                    point = Some((values, optimizer.state(&ReferenceBackend).unwrap()));
                }
                update(optimizer.as_mut(), &through, lr);
            }
            let (mut again, resumed) = (build(kind, decay), params());
            let (values, state) = point.unwrap();
            resumed.iter().zip(values).for_each(|(param, value)| {
                param.set(Tensor::from_slice(value.as_slice::<f32>().unwrap(), value.dims()).unwrap());
            });
            again.restore(&ReferenceBackend, &resumed, &state).unwrap();
            (stop..7).for_each(|_| update(again.as_mut(), &resumed, lr));
            let bytes = |params: &[Param; 2]| params.each_ref().map(|p| p.value().bytes().unwrap().to_vec());
            assert_eq!(bytes(&through), bytes(&resumed), "{kind} stopped after {stop}");
        }
    }
}

#[test]
fn a_damaged_state_is_refused() {
    for (kind, lr, decay, _) in CASES {
        let (mut optimizer, params) = (build(kind, decay), params());
        update(optimizer.as_mut(), &params, lr);
        let state = optimizer.state(&ReferenceBackend).unwrap();
        for key in state.keys() {
            let mut damaged = state.clone();
            damaged.insert(key.clone(), Tensor::from_slice(&[1f32; 3], &[3]).unwrap());
            let result = build(kind, decay).restore(&ReferenceBackend, &params, &damaged);
            assert!(result.is_err(), "{kind}: {key}");
        }
    }
}

#[test]
fn every_number_is_heard_by_those_that_have_it() {
    use OptimizerKind::{AdamW, AdamW8, Lion, Prodigy};
    let end = |train: &Train, lr, decay| {
        let (mut optimizer, params) = (optimizer::build(train, decay), params());
        (0..12).for_each(|_| update(optimizer.as_mut(), &params, lr));
        params.map(|param| param.value().bytes().unwrap().to_vec())
    };
    type Setting = (&'static str, fn(&mut Train), &'static [OptimizerKind]);
    let settings: [Setting; 3] = [
        ("beta1", |t| t.beta1 = 0.6, &[AdamW, AdamW8, Lion, Prodigy]),
        ("beta2", |t| t.beta2 = Some(0.7), &[AdamW, AdamW8, Lion, Prodigy]),
        ("eps", |t| t.eps = 0.5, &[AdamW, AdamW8, Prodigy]),
    ];
    for (kind, lr, decay, _) in CASES {
        let train = Train { optimizer: kind, ..Train::default() };
        let usual = end(&train, lr, decay);
        assert_ne!(usual, end(&train, 0.5 * lr, decay), "{kind}: rate");
        // Prodigy begins with steps so small that a usual decay does not show.
        assert_ne!(usual, end(&train, lr, 100.0 * decay), "{kind}: decay");
        for (name, change, who) in &settings {
            let mut changed = train.clone();
            change(&mut changed);
            assert_eq!(usual != end(&changed, lr, decay), who.contains(&kind), "{kind}: {name}");
        }
    }
}

/// Clipping is a factor of the gradient, whatever the optimizer makes of it.
#[test]
fn the_factor_of_the_gradient_is_one_of_the_gradient() {
    for (kind, lr, decay, _) in CASES {
        let end = |factor: f32, scale: f64| {
            let (mut optimizer, params) = (build(kind, decay), params());
            for _ in 0..3 {
                optimizer.begin();
                for param in &params {
                    let values: Vec<f32> =
                        gradient(param).to_vec::<f32>().unwrap().iter().map(|g| factor * g).collect();
                    let gradient = Tensor::from_slice(&values, param.value().dims()).unwrap();
                    optimizer.update(&ReferenceBackend, param, &gradient, lr, scale).unwrap();
                }
                optimizer.end(&ReferenceBackend).unwrap();
            }
            params.map(|param| param.value().bytes().unwrap().to_vec())
        };
        // A quarter, so that nothing is rounded on the way.
        assert_eq!(end(0.25, 1.0), end(1.0, 0.25), "{kind}");
    }
}

#[test]
fn prodigys_factor_is_heard() {
    let end = |d_coef| {
        let train = Train { optimizer: OptimizerKind::Prodigy, d_coef, ..Train::default() };
        let (mut optimizer, params) = (optimizer::build(&train, 0.0), params());
        (0..12).for_each(|_| update(optimizer.as_mut(), &params, 1.0));
        params[0].value().to_vec::<f32>().unwrap()
    };
    assert_ne!(end(1.0), end(2.0));
}

#[test]
fn prodigy_does_not_count_updates_at_a_rate_of_zero() {
    let run = |rates: &[f64]| {
        let (mut optimizer, params) = (build(OptimizerKind::Prodigy, 0.01), params());
        rates.iter().for_each(|&rate| update(optimizer.as_mut(), &params, rate));
        let state = optimizer.state(&ReferenceBackend).unwrap();
        let numbers = ["prodigy.step", "prodigy.numbers"].map(|key| state[key].bytes().unwrap().to_vec());
        (params.map(|param| param.value().bytes().unwrap().to_vec()), numbers)
    };
    assert_eq!(run(&[0.0, 0.5, 1.0, 1.0]), run(&[0.5, 1.0, 1.0]));
    assert_eq!(run(&[0.5, 1.0, 0.0, 1.0]), run(&[0.5, 1.0, 1.0]));
    assert_ne!(run(&[0.5, 1.0, 1.0]), run(&[0.5, 1.0]));
}
