//! Text to image: the latents after every step, for each of the recorded schedulers, and the decoded picture.

use std::ops::ControlFlow;

use scumble_model::pipeline::{Denoising, Guidance, TextToImage, to_rgb8};
use scumble_model::sampler::{Sampler, SamplerKind, SamplerOptions};
use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::UNet;
use scumble_model::vae::Vae;
use scumble_tensor::Tensor;
use scumble_tensor::rng::Generator;
use serde_json::Value;

use crate::common::{DTYPE, Fixture, Golden, backend};

const BOUND: f64 = 5e-4;

/// Ids of the fixtures' prompt and negative prompt between start and end; the tokenizer has tests of its own.
const PROMPT: [i64; 13] = [320, 765, 512, 694, 539, 518, 896, 915, 65, 581, 267, 1119, 1395];
const NEGATIVE: [i64; 7] = [833, 565, 913, 267, 1042, 666, 1694];

struct Models {
    fixture: Fixture,
    text_encoder: TextEncoder,
    unet: UNet,
    vae: Vae,
    /// What a prompt is filled up with.
    pad: i64,
}

impl Models {
    fn load(name: &str, pad: i64) -> Self {
        let (fixture, backend) = (Fixture::new(name), backend());
        let part = |folder: &str, file: &str| {
            (
                fixture.json(&format!("{folder}/config.json")),
                fixture.weights(&format!("{folder}/{file}.safetensors")),
            )
        };
        let (config, weights) = part("text_encoder", "model");
        let text_encoder = TextEncoder::load(&config, &weights, backend.as_ref(), DTYPE).unwrap();
        let (config, weights) = part("unet", "diffusion_pytorch_model");
        let unet = UNet::load(&config, &weights, backend.as_ref(), DTYPE).unwrap();
        let (config, weights) = part("vae", "diffusion_pytorch_model");
        let vae = Vae::load(&config, &weights, backend.as_ref(), DTYPE).unwrap();
        Self { fixture, text_encoder, unet, vae, pad }
    }

    fn pipeline(&self) -> TextToImage<'_> {
        TextToImage::new(backend(), DTYPE, &self.text_encoder, &self.unet, &self.vae)
    }

    fn states(&self, words: &[i64]) -> Tensor {
        let mut ids = [&[2012], words, &[2013]].concat();
        ids.resize(77, self.pad);
        self.pipeline().states(&Tensor::from_slice(&ids, &[1, 77]).unwrap(), 0).unwrap()
    }
}

fn build_sampler(spec: &Value, run: &str) -> Box<dyn Sampler> {
    let (class, config) = (spec["runs"][run]["scheduler"].as_str().unwrap(), &spec["runs"][run]["config"]);
    let options = SamplerOptions::new(spec["steps"].as_u64().unwrap() as usize);
    SamplerKind::of_class(class, config).unwrap().build(config, options).unwrap()
}

fn check_run(models: &Models, golden: &Golden, spec: &Value, run: &str) {
    let pipeline = models.pipeline();
    let mut sampler = build_sampler(spec, run);
    assert_eq!(
        sampler.timesteps(),
        golden.tensor(&format!("{run}.timesteps")).to_vec::<f64>().unwrap(),
        "{run}"
    );
    let (states, negative) = (models.states(&PROMPT), models.states(&NEGATIVE));
    let scale = spec["guidance_scale"].as_f64().unwrap() as f32;
    let denoising = Denoising {
        states: &states,
        guidance: Some(Guidance { scale, negative: &negative }),
        latents: pipeline.start_from(&golden.tensor("initial_noise"), sampler.as_ref()).unwrap(),
        first_call: 0,
        sampler: sampler.as_mut(),
        generator: &mut Generator::new(0),
    };
    let mut per_step = Vec::new();
    let latents = pipeline.denoise(denoising, |progress| {
        per_step.extend(progress.latents.to_vec::<f32>().unwrap());
        ControlFlow::Continue(())
    });
    let latents = latents.unwrap().unwrap();
    let per_step_dims = [&[sampler.timesteps().len()], latents.dims()].concat();
    let per_step = Tensor::from_slice(&per_step, &per_step_dims).unwrap();
    golden.compare_as_filed(&format!("{run}.latents_per_step"), &per_step, BOUND);
    golden.compare_as_filed(&format!("{run}.final_latents"), &latents, BOUND);
    if run == "default" {
        let decoded = pipeline.decode(&latents).unwrap();
        golden.compare_as_filed("default.decoded", &decoded, BOUND);
        let pictures = to_rgb8(&decoded).unwrap();
        assert_eq!((pictures.len(), pictures[0].height), (1, decoded.dims()[2]));
    }
}

fn check_model(models: &Models) {
    let spec = &models.fixture.json("expected/expected.json")["pipeline"];
    let golden = models.fixture.golden("expected/pipeline.safetensors");
    for run in ["default", "ddim", "euler"] {
        check_run(models, &golden, spec, run);
    }
}

#[test]
fn sd1() {
    let models = Models::load("tiny-sd1", 2013);
    check_model(&models);
    guidance_of_one_is_none_and_a_run_can_be_broken_off(&models);
}

#[test]
fn sd2() {
    check_model(&Models::load("tiny-sd2", 0));
}

fn guidance_of_one_is_none_and_a_run_can_be_broken_off(models: &Models) {
    let spec = &models.fixture.json("expected/expected.json")["pipeline"];
    let (pipeline, states, negative) = (models.pipeline(), models.states(&PROMPT), models.states(&NEGATIVE));
    let dims = pipeline.latent_dims(1, 64, 64).unwrap();
    let run = |guidance, calls: usize| {
        let mut sampler = build_sampler(spec, "ddim");
        let generator = &mut Generator::new(7);
        let latents = pipeline.initial_latents(generator, dims, sampler.as_ref()).unwrap();
        let sampler = sampler.as_mut();
        let denoising = Denoising { states: &states, guidance, latents, first_call: 0, sampler, generator };
        let stop = |call| if call + 1 < calls { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        pipeline.denoise(denoising, |progress| stop(progress.call)).unwrap()
    };
    let with = run(Some(Guidance { scale: 1.0, negative: &negative }), 99).unwrap();
    let without = run(None, 99).unwrap();
    assert_eq!(with.as_slice::<f32>().unwrap(), without.as_slice::<f32>().unwrap());
    assert!(run(None, 2).is_none());
    let error = pipeline.latent_dims(1, 64, 65).unwrap_err();
    assert_eq!(error.to_string(), "the width is 65 pixels, expected a multiple of 8");
    assert_eq!(error.hints(), ["try 64 or 72"]);
}
