//! Every recorded diffusers run of the samplers here, the sums of the published test recipe, and the edges: one step,
//! as many steps as timesteps, step counts that divide nothing, runs that begin part way.

use scumble_tensor::rng::Generator;
use serde_json::{Value, json};

use super::*;
use crate::files::{SafetensorsFile, TensorSource as _};
use crate::scheduler_config::read_json;

fn fixture_path(name: &str) -> std::path::PathBuf {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}

/// `config` with the fields of `more`.
fn with(mut config: Value, more: &Value) -> Value {
    for (field, value) in more.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

fn stable_diffusion(more: Value) -> Value {
    let config = json!({
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "leading",
        "steps_offset": 1, "clip_sample": false, "set_alpha_to_one": false, "skip_prk_steps": true
    });
    with(config, &more)
}

fn sampler(name: &str, config: &Value, steps: usize) -> Box<dyn Sampler> {
    SamplerKind::find(name).unwrap().build(config, SamplerOptions::new(steps)).unwrap()
}

fn no_noise(_: usize) -> Vec<f32> {
    unreachable!("a deterministic sampler draws nothing")
}

/// Drives a sampler from `latents` with `model(input, timestep)`; returns the latents before each call and the last.
fn run(
    sampler: &mut dyn Sampler,
    first: usize,
    latents: Vec<f32>,
    model: impl Fn(&[f32], f64) -> Vec<f32>,
    noise: &mut NoiseSource<'_>,
) -> Vec<Vec<f32>> {
    let mut trajectory = vec![latents];
    for call in first..sampler.timesteps().len() {
        let latents = trajectory.last().unwrap();
        let input = sampler.scale_model_input(call, latents).unwrap();
        let output = model(&input, sampler.timesteps()[call]);
        let next = sampler.step(call, &output, latents, noise).unwrap();
        trajectory.push(next);
    }
    trajectory
}

#[test]
fn every_recorded_run_of_these_samplers() {
    let spec = read_json(&std::fs::read_to_string(fixture_path("schedulers.json")).unwrap()).unwrap();
    let file = SafetensorsFile::open(&fixture_path("schedulers.safetensors")).unwrap();
    let floats = |name: &str| -> Option<Vec<f32>> {
        file.info(name)?;
        let tensor = file.read(name).unwrap();
        Some(match tensor.as_slice::<i64>() {
            Ok(integers) => integers.iter().map(|&v| v as f32).collect(),
            Err(_) => tensor.as_slice::<f32>().unwrap().to_vec(),
        })
    };
    let fixed = floats("fixed").unwrap();
    let model = |input: &[f32], t: f64| -> Vec<f32> {
        let factor = 0.3 + 0.2 * t / 1000.0;
        let term = |(x, f): (&f32, &f32)| (0.1 * f64::from(*x) + factor * f64::from(*f)) as f32;
        input.iter().zip(&fixed).map(term).collect()
    };
    let mut tested = 0;
    for (name, recorded) in spec["runs"].as_object().unwrap() {
        let (class, config) = (recorded["class"].as_str().unwrap(), &recorded["config"]);
        let kind = SamplerKind::of_class(class, config).unwrap();
        let steps = recorded["num_inference_steps"].as_u64().unwrap() as usize;
        let eta = recorded["step_args"]["eta"].as_f64().unwrap_or(0.0);
        let mut sampler = kind.build(config, SamplerOptions { steps, eta }).unwrap();

        let timesteps: Vec<f32> = sampler.timesteps().iter().map(|&t| t as f32).collect();
        let expected = floats(&format!("{name}.timesteps")).unwrap();
        assert_eq!(timesteps.len(), expected.len(), "{name}");
        for (ours, theirs) in timesteps.iter().zip(&expected) {
            // Karras' fractional timesteps divide differences of f32 logarithms.
            let tolerance = if kind.levels == Levels::Karras { 2e-3 } else { 0.0 };
            assert!((ours - theirs).abs() <= tolerance, "{name}: timestep {ours} {theirs}");
        }
        if let (Some(expected), Some(sigmas)) = (floats(&format!("{name}.sigmas")), sampler.sigmas()) {
            assert_eq!(sigmas.len(), expected.len(), "{name}");
            for (ours, theirs) in sigmas.iter().zip(&expected) {
                let tolerance = 1e-6 * f64::from(theirs.abs());
                assert!((ours - f64::from(*theirs)).abs() <= tolerance, "{name}: sigma {ours} {theirs}");
            }
        }
        let init = recorded["init_noise_sigma"].as_f64().unwrap();
        assert!((sampler.init_noise_sigma() - init).abs() <= 1e-6 * init, "{name}");

        let noises = floats(&format!("{name}.noises")).unwrap_or_default();
        let mut drawn = 0;
        let mut noise = |n: usize| {
            drawn += n;
            noises[drawn - n..drawn].to_vec()
        };
        let expected = floats(&format!("{name}.trajectory")).unwrap();
        let start = expected[..fixed.len()].to_vec();
        let trajectory = run(sampler.as_mut(), 0, start, model, &mut noise).concat();
        assert_eq!((trajectory.len(), drawn), (expected.len(), noises.len()), "{name}");
        let worst = trajectory.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 5e-5, "{name}: {worst}");
        tested += 1;
    }
    assert_eq!(tested, 72);
}

/// The published recipe: a ramp as latents, `x t / (t + 1)` as model, on the Stable Diffusion schedule.
fn table_b(name: &str, eta: f64, prediction: &str, steps: usize) -> (f64, f64) {
    let config = stable_diffusion(json!({"prediction_type": prediction}));
    let options = SamplerOptions { steps, eta };
    let mut sampler = SamplerKind::find(name).unwrap().build(&config, options).unwrap();
    // arange(768) / 768 of shape (3, 8, 8, 4), permuted to (4, 3, 8, 8).
    let ramp = (0..4).flat_map(|c| (0..192).map(move |i| (i * 4 + c) as f32 / 768.0));
    let start = ramp.map(|x| x * sampler.init_noise_sigma() as f32).collect();
    let model = |x: &[f32], t: f64| x.iter().map(|&x| (f64::from(x) * t / (t + 1.0)) as f32).collect();
    let mut generator = Generator::new(0);
    let mut noise = |n: usize| generator.randn(n);
    let last = run(sampler.as_mut(), 0, start, model, &mut noise).pop().unwrap();
    (last.iter().map(|&x| f64::from(x.abs())).sum(), f64::from(last[last.len() - 1]))
}

#[test]
fn sums_of_the_published_recipe() {
    let cases: &[(&str, f64, [f64; 4])] = &[
        ("ddim", 0.0, [192.08294, 0.50022, 79.22951, 0.20633]),
        ("ddim", 1.0, [265.27694, 0.44618, 181.00725, 0.31656]),
        ("pndm", 0.0, [202.45872, 0.52724, 85.66452, 0.22308]),
        ("euler", 0.0, [189.34745, 0.49309, 78.00560, 0.20314]),
        ("euler_karras", 0.0, [190.99295, 0.49738, 77.51702, 0.20187]),
        ("euler_a", 0.0, [261.89399, 0.49300, 178.99052, 0.36436]),
        ("ddpm", 0.0, [261.89403, 0.49300, 178.99053, 0.36436]),
        ("heun", 0.0, [208.12400, 0.54199, 95.10627, 0.24767]),
        ("lms", 0.0, [199.95731, 0.52072, 90.39365, 0.23540]),
        ("unipc", 0.0, [190.69105, 0.49659, 84.64508, 0.22043]),
        ("dpmpp_2m", 0.0, [190.83723, 0.49697, 85.20079, 0.22188]),
        ("dpmpp_2m_karras", 0.0, [205.58881, 0.53539, 94.58449, 0.24631]),
    ];
    for &(name, eta, [eps_sum, eps_last, v_sum, v_last]) in cases {
        for (prediction, sum, last) in [("epsilon", eps_sum, eps_last), ("v_prediction", v_sum, v_last)] {
            let (our_sum, our_last) = table_b(name, eta, prediction, 20);
            assert!((our_sum - sum).abs() < 2e-3, "{name} {eta} {prediction}: {our_sum} {sum}");
            assert!((our_last - last).abs() < 2e-5, "{name} {eta} {prediction}: {our_last} {last}");
        }
    }
}

#[test]
fn four_steps_of_lcm() {
    let (sum, last) = table_b("lcm", 0.0, "epsilon", 4);
    assert!((sum - 189.00720).abs() < 2e-3 && (last + 0.21517).abs() < 2e-5, "{sum} {last}");
    let config = stable_diffusion(json!({}));
    assert_eq!(sampler("lcm", &config, 1).timesteps(), [999.]);
    assert_eq!(sampler("lcm", &config, 2).timesteps(), [999., 499.]);
    assert_eq!(sampler("lcm", &config, 4).timesteps(), [999., 759., 499., 259.]);
    assert_eq!(sampler("lcm", &config, 8).timesteps(), [999., 879., 759., 639., 499., 379., 259., 139.]);
    let error = SamplerKind::find("lcm").unwrap().build(&config, SamplerOptions::new(51)).err().unwrap();
    assert_eq!(error.to_string(), "LCM: 51 steps; it takes 1 to 50");
}

#[test]
fn euler_a_and_ddpm_are_one_process() {
    let [a, b] = ["euler_a", "ddpm"].map(|name| table_b(name, 0.0, "epsilon", 20));
    assert!((a.0 - b.0).abs() < 1e-3 && (a.1 - b.1).abs() < 1e-5, "{a:?} {b:?}");
}

#[test]
fn timestep_grids_of_ten_steps() {
    let grid = |name: &str, spacing: &str| {
        let config = stable_diffusion(json!({"timestep_spacing": spacing}));
        sampler(name, &config, 10).timesteps().to_vec()
    };
    let descending =
        |from: i32, step: i32| -> Vec<f64> { (0..10).map(|i| f64::from(from - i * step)).collect() };
    assert_eq!(grid("ddim", "leading"), descending(901, 100));
    assert_eq!(grid("ddim", "trailing"), descending(999, 100));
    assert_eq!(grid("ddim", "linspace"), descending(999, 111));
    assert_eq!(grid("euler", "trailing"), descending(999, 100));
    assert_eq!(grid("dpmpp_2m", "leading"), descending(901, 90));
    assert_eq!(grid("dpmpp_2m", "linspace"), [999., 899., 799., 699., 599., 500., 400., 300., 200., 100.]);
    assert_eq!(grid("dpmpp_2m_karras", "leading"), [999., 916., 815., 687., 523., 327., 146., 41., 7., 0.]);
    assert_eq!(grid("pndm", "leading")[..4], [901., 801., 801., 701.]);
    let warm_up = stable_diffusion(json!({"skip_prk_steps": false}));
    let expected = [
        901., 851., 851., 801., 801., 751., 751., 701., 701., 651., 651., 601., 601., 501., 401., 301., 201.,
        101., 1.,
    ];
    assert_eq!(sampler("pndm", &warm_up, 10).timesteps(), expected);
}

#[test]
fn zero_terminal_snr_starts_from_sigma_4096() {
    let config = stable_diffusion(json!({
        "rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "prediction_type": "v_prediction"
    }));
    let euler = sampler("euler", &config, 10);
    let expected = [4095.9998, 18.1301, 7.4107, 4.1142, 2.6049, 1.7681, 1.2414, 0.8747, 0.5948, 0.3550, 0.0];
    for (ours, theirs) in euler.sigmas().unwrap().iter().zip(expected) {
        assert!((ours - theirs).abs() < 1e-4 * theirs.max(0.5), "{ours} {theirs}");
    }
    let mut ddim = sampler("ddim", &config, 10);
    let out = run(ddim.as_mut(), 0, vec![0.5; 4], |x, _| x.to_vec(), &mut no_noise);
    assert!(out.concat().iter().all(|x| x.is_finite()));
    let mut epsilon = config;
    epsilon["prediction_type"] = json!("epsilon");
    let refused = SamplerKind::find("ddim").unwrap().build(&epsilon, SamplerOptions::new(10));
    assert!(refused.err().unwrap().to_string().contains("prediction_type"));
}

#[test]
fn any_number_of_steps_stays_in_range_and_finite() {
    for kind in SAMPLERS {
        for spacing in ["leading", "trailing", "linspace"] {
            for skip in [true, false] {
                let config = stable_diffusion(json!({
                    "timestep_spacing": spacing, "skip_prk_steps": skip, "num_train_timesteps": 100
                }));
                for steps in 1..=100 {
                    let Ok(mut sampler) = kind.build(&config, SamplerOptions::new(steps)) else {
                        let warm_up = kind.name == "pndm" && !skip && steps < 4;
                        assert!(warm_up || kind.name == "lcm" && steps > 50, "{} {steps}", kind.name);
                        continue;
                    };
                    let timesteps = sampler.timesteps().to_vec();
                    // Euler interpolates its table, so an offset past the end is harmless and kept as diffusers has it.
                    assert!(
                        timesteps.iter().all(|t| (0.0..=100.0).contains(t)),
                        "{} {timesteps:?}",
                        kind.name
                    );
                    assert!(timesteps.windows(2).all(|t| t[0] >= t[1]), "{} {timesteps:?}", kind.name);
                    let mut noise = |n: usize| vec![0.5; n];
                    let out = run(sampler.as_mut(), 0, vec![1.0; 2], |x, _| x.to_vec(), &mut noise);
                    assert!(out.concat().iter().all(|x| x.is_finite()), "{} {spacing} {steps}", kind.name);
                    let past = timesteps.len();
                    assert!(sampler.step(past, &[0.0; 2], &[0.0; 2], &mut noise).is_err());
                    assert!(sampler.scale_model_input(past, &[0.0; 2]).is_err());
                    assert!(sampler.add_noise(past, &[0.0; 2], &[0.0; 2]).is_err());
                }
                for steps in [0, 101, usize::MAX] {
                    assert!(kind.build(&config, SamplerOptions::new(steps)).is_err());
                }
            }
        }
    }
}

#[test]
fn the_exact_noise_as_prediction_returns_the_clean_latent() {
    let clean = [0.3f32, -1.2, 0.8, 0.05];
    let noise = [1.1f32, -0.4, -0.9, 0.6];
    for kind in SAMPLERS.iter().filter(|kind| !kind.draws_noise) {
        let config = stable_diffusion(json!({"set_alpha_to_one": true}));
        // Started part way, PNDM repeats the wrong step, in diffusers as here: the doubled timestep is not in its list.
        let later = 3 * SamplerKind::build(kind, &config, SamplerOptions::new(7)).unwrap().calls_per_step();
        for first in if kind.name == "pndm" { vec![0] } else { vec![0, later] } {
            let mut sampler = kind.build(&config, SamplerOptions::new(7)).unwrap();
            let start = sampler.add_noise(first, &clean, &noise).unwrap();
            let last =
                run(sampler.as_mut(), first, start, |_, _| noise.to_vec(), &mut no_noise).pop().unwrap();
            for (ours, clean) in last.iter().zip(clean) {
                assert!((ours - clean).abs() < 2e-4, "{} from {first}: {ours} {clean}", kind.name);
            }
        }
    }
}

#[test]
fn calls_out_of_turn_and_wrong_lengths_are_errors_not_panics() {
    for kind in SAMPLERS {
        let mut sampler = kind.build(&stable_diffusion(json!({})), SamplerOptions::new(5)).unwrap();
        let mut noise = |n: usize| vec![0.0; n];
        for call in [0, 0, 4, 2, 0] {
            sampler.step(call, &[0.1; 4], &[0.2; 4], &mut noise).unwrap();
        }
        assert!(sampler.step(1, &[0.1; 3], &[0.2; 4], &mut noise).is_err());
        assert!(sampler.add_noise(1, &[0.1; 3], &[0.2; 4]).is_err());
    }
    let mut ancestral = sampler("euler_a", &stable_diffusion(json!({})), 5);
    let mut short = |n: usize| vec![0.0; n - 1];
    assert!(ancestral.step(0, &[0.1; 4], &[0.2; 4], &mut short).is_err());
}

#[test]
fn names_labels_and_classes_find_their_sampler() {
    let name = |typed: &str| SamplerKind::find(typed).unwrap().name;
    assert_eq!(name("DPM++ 2M Karras"), "dpmpp_2m_karras");
    assert_eq!(name("DPM++ 2M"), "dpmpp_2m");
    assert_eq!(name("Euler a"), "euler_a");
    assert_eq!(name("euler-ancestral"), "euler_a");
    assert_eq!(name("PLMS"), "pndm");
    let error = SamplerKind::find("ddin").err().unwrap().to_string();
    assert!(error.contains("`ddin`") && error.contains("did you mean `ddim`?") && error.contains("euler_a"));
    let config = json!({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": true});
    assert_eq!(SamplerKind::of_config(&config).unwrap().name, "dpmpp_2m_karras");
    let sde = json!({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"});
    assert_eq!(SamplerKind::of_config(&sde).unwrap().name, "dpmpp_2m_sde");
    assert_eq!(name("DPM++ 2M SDE Karras"), "dpmpp_2m_sde_karras");
    assert_eq!(name("LMS Karras"), "lms_karras");
    let exponential = json!({"_class_name": "HeunDiscreteScheduler", "use_exponential_sigmas": true});
    assert_eq!(SamplerKind::of_config(&exponential).unwrap().name, "heun_exponential");
    let config = json!({"_class_name": "PNDMScheduler", "use_karras_sigmas": true});
    assert_eq!(SamplerKind::of_config(&config).unwrap().name, "pndm");
    assert!(SamplerKind::of_config(&json!({"_class_name": "FlowMatchEulerDiscreteScheduler"})).is_err());
}

#[test]
fn settings_that_nothing_here_does_are_refused_by_name() {
    let refused = |name: &str, more: Value, field: &str| {
        let built = SamplerKind::find(name).unwrap().build(&stable_diffusion(more), SamplerOptions::new(5));
        let message = built.err().unwrap().to_string();
        assert!(message.contains(field), "{message}");
    };
    refused("ddim", json!({"thresholding": true}), "thresholding");
    refused("ddim", json!({"timestep_spacing": "even"}), "timestep_spacing");
    refused("ddim", json!({"steps_offset": -1}), "steps_offset");
    refused("pndm", json!({"prediction_type": "sample"}), "prediction_type");
    refused("euler", json!({"use_beta_sigmas": true}), "use_beta_sigmas");
    refused("euler", json!({"interpolation_type": "log_linear"}), "interpolation_type");
    refused("dpmpp_2m", json!({"algorithm_type": "dpmsolver+"}), "algorithm_type");
    refused("dpmpp_2m", json!({"algorithm_type": "dpmsolver"}), "final_sigmas_type");
    refused("dpmpp_2m", json!({"use_flow_sigmas": true}), "use_flow_sigmas");
    let deep =
        json!({"algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"});
    refused("dpmpp_2m_sde", deep, "solver_order");
    refused("unipc", json!({"predict_x0": false}), "final_sigmas_type");
    refused("unipc", json!({"solver_p": {}}), "solver_p");
    refused("unipc", json!({"solver_type": "bh3"}), "solver_type");
    refused("unipc_karras", json!({"sigma_min": -1.0}), "sigma_min");
    refused("ddpm", json!({"variance_type": "learned_range"}), "variance_type");
    refused("ddpm", json!({"thresholding": true}), "thresholding");
    refused("lcm", json!({"original_inference_steps": 2000}), "original_inference_steps");
    refused("lcm", json!({"prediction_type": "flow"}), "prediction_type");
    let both = json!({"use_karras_sigmas": true, "use_exponential_sigmas": true});
    refused("heun", both, "use_exponential_sigmas");
    refused("heun", json!({"beta_schedule": "exp"}), "beta_schedule");
    refused("lms", json!({"use_beta_sigmas": true}), "use_beta_sigmas");
    for name in ["ddpm", "lcm", "ddim"] {
        let empty = json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"});
        refused(name, empty, "prediction_type");
    }
    refused("dpmpp_2m", json!({"solver_order": 4}), "solver_order");
    refused("dpmpp_2m", json!({"variance_type": "learned_range"}), "variance_type");
    refused("dpmpp_2m", json!({"final_sigmas_type": "one"}), "final_sigmas_type");
}

#[test]
fn many_configurations_end_where_diffusers_ends() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/samplers.json");
    let runs: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut off = Vec::new();
    for recorded in runs.as_array().unwrap() {
        let integer = |field: &str| recorded[field].as_u64().unwrap() as usize;
        let numbers = |field: &str| -> Vec<f64> {
            recorded[field].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let options = SamplerOptions { steps: integer("steps"), eta: recorded["eta"].as_f64().unwrap() };
        let kind = SamplerKind::find(recorded["name"].as_str().unwrap()).unwrap();
        let betas = json!({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012});
        let mut sampler = kind.build(&with(betas, &recorded["config"]), options).unwrap();
        let timesteps = numbers("timesteps");
        assert_eq!(sampler.timesteps().len(), timesteps.len(), "{recorded}");
        for (ours, theirs) in sampler.timesteps().iter().zip(timesteps) {
            assert!((ours - theirs).abs() < 5e-3, "{ours} {theirs} {recorded}");
        }
        let first = integer("start");
        let ramp: Vec<f32> = (0..64).map(|i| i as f32 / 64.0 - 0.5).collect();
        let scale = sampler.init_noise_sigma() as f32;
        let start = match first {
            0 => ramp.iter().map(|x| x * scale).collect(),
            _ => sampler.add_noise(first, &ramp, &[1.0; 64]).unwrap(),
        };
        let model = |x: &[f32], t: f64| -> Vec<f32> {
            let factor = (0.3 + 0.2 * t / 1000.0) as f32;
            x.iter().enumerate().map(|(i, x)| 0.1 * x + factor * (i as f32).sin()).collect()
        };
        let mut generator = Generator::new(7);
        let mut noise = |n: usize| generator.randn(n);
        let trajectory = run(sampler.as_mut(), first, start, model, &mut noise);
        let last = &trajectory[trajectory.len() - 1];
        // f32 rounds relative to the largest latents on the way, which start at sigma_max; diffusers rounds
        // every intermediate result.
        let largest = trajectory.concat().iter().fold(1.0f32, |largest, x| largest.max(x.abs()));
        for (theirs, index) in numbers("final").into_iter().zip([0, 21, 42, 63]) {
            let difference = (f64::from(last[index]) - theirs).abs();
            // diffusers' Heun gets its derivative from the picture and divides the rounding by sigma, down to 0.03.
            let tolerance = if kind.name.starts_with("heun") { 1e-5 } else { 2e-6 };
            if difference > tolerance * f64::from(largest) {
                off.push(format!("{difference} of {largest}: {recorded}"));
            }
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}

/// The noise comes from a Brownian path of a seed; a level that f32 rounds otherwise is another place on it.
#[test]
fn dpmpp_sde_ends_where_diffusers_ends() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/dpmpp_sde.json");
    let runs: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut off = Vec::new();
    for recorded in runs.as_array().unwrap() {
        let numbers = |field: &str| -> Vec<f64> {
            recorded[field].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let class = SamplerKind::of_class("DPMSolverSDEScheduler", &recorded["config"]).unwrap();
        let steps = recorded["steps"].as_u64().unwrap() as usize;
        let first = recorded["start"].as_u64().unwrap() as usize;
        let mut sampler = class.build(&recorded["config"], SamplerOptions::new(steps)).unwrap();
        let timesteps = numbers("timesteps");
        assert_eq!(sampler.timesteps().len(), timesteps.len(), "{recorded}");
        for (ours, theirs) in sampler.timesteps().iter().zip(timesteps) {
            assert!((ours - theirs).abs() < 5e-3, "{ours} {theirs} {recorded}");
        }
        let ramp: Vec<f32> = (0..64).map(|i| i as f32 / 64.0 - 0.5).collect();
        let scale = sampler.init_noise_sigma() as f32;
        let start = match first {
            0 => ramp.iter().map(|x| x * scale).collect(),
            _ => sampler.add_noise(first, &ramp, &[1.0; 64]).unwrap(),
        };
        let model = |x: &[f32], t: f64| -> Vec<f32> {
            let factor = (0.3 + 0.2 * t / 1000.0) as f32;
            x.iter().enumerate().map(|(i, x)| 0.1 * x + factor * (i as f32).sin()).collect()
        };
        let trajectory = run(sampler.as_mut(), first, start, model, &mut no_noise);
        let (mut call, mut largest) = (first, 1.0f32);
        for (latents, theirs) in trajectory.iter().zip(recorded["trajectory"].as_array().unwrap()) {
            largest = latents.iter().fold(largest, |largest, x| largest.max(x.abs()));
            for (index, theirs) in [0, 21, 42, 63].into_iter().zip(theirs.as_array().unwrap()) {
                let difference = (f64::from(latents[index]) - theirs.as_f64().unwrap()).abs();
                if difference > 3e-4 * f64::from(largest) {
                    off.push(format!("call {call}: {difference} of {largest}: {}", recorded["config"]));
                }
            }
            call += 1;
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}

#[test]
fn dpmpp_sde_takes_its_seed_from_the_noise() {
    let config = stable_diffusion(json!({}));
    let last = |noise: [f32; 2], config: &Value| {
        let mut sampler = sampler("dpmpp_sde", config, 4);
        let mut drawn = 0;
        let mut source = |n: usize| {
            drawn += n;
            noise[..n].to_vec()
        };
        let last = run(sampler.as_mut(), 0, vec![1.0; 20], |x, _| x.to_vec(), &mut source).pop().unwrap();
        (last, drawn)
    };
    let one = last([0.1, 0.2], &config);
    assert_eq!(one, last([0.1, 0.2], &config));
    assert!(one.0 != last([0.1, 0.3], &config).0 && one.1 == 2);
    let seeded = stable_diffusion(json!({"noise_sampler_seed": 5}));
    assert_eq!(last([0.1, 0.2], &seeded).0, last([0.3, 0.2], &seeded).0);
    let sample = stable_diffusion(json!({"prediction_type": "sample"}));
    let built = SamplerKind::find("dpmpp_sde").unwrap().build(&sample, SamplerOptions::new(5));
    assert!(built.err().unwrap().to_string().contains("prediction_type"));
    assert_eq!(SamplerKind::find("DPM++ SDE Karras").unwrap().name, "dpmpp_sde_karras");
}
