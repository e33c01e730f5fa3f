//! Image to image and inpainting against diffusers' pipelines, with the goldens of `tools/goldens/painting.py`.

use std::ops::ControlFlow;

use scumble_model::files::{SafetensorsFile, TensorInfo, TensorSource};
use scumble_model::pipeline::{
    Contrast, Denoising, Extras, Guidance, Inpaint, TextToImage, Tiling, first_call, latent_mask,
};
use scumble_model::sampler::{SamplerKind, SamplerOptions};
use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::UNet;
use scumble_model::vae::Vae;
use scumble_tensor::Tensor;
use scumble_tensor::rng::Generator;
use serde_json::json;

use crate::common::{DTYPE, Fixture, backend};

const BOUND: f32 = 5e-4;

/// tiny-sd1's UNet with five more channels on its first convolution.
struct Widened(SafetensorsFile);

impl TensorSource for Widened {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let mut info = self.0.info(name)?;
        if name == "conv_in.weight" {
            info.shape[1] = 9;
        }
        Some(info)
    }

    fn read(&self, name: &str) -> scumble_model::files::Result<Tensor> {
        let tensor = self.0.read(name)?;
        if name != "conv_in.weight" {
            return Ok(tensor);
        }
        let (dims, values) = (tensor.dims().to_vec(), tensor.to_vec::<f32>().unwrap());
        let plane = dims[2] * dims[3];
        let wide = |out: &[f32]| -> Vec<f32> {
            let half = out[..plane].iter().map(|w| 0.5 * w);
            out.iter().copied().chain(half).chain(out.iter().map(|w| 0.25 * w)).collect()
        };
        let wide: Vec<f32> = values.chunks_exact(4 * plane).flat_map(wide).collect();
        Ok(Tensor::from_slice(&wide, &[dims[0], 9, dims[2], dims[3]]).unwrap())
    }

    fn metadata(&self) -> &std::collections::BTreeMap<String, String> {
        self.0.metadata()
    }
}

struct Models {
    golden: SafetensorsFile,
    text_encoder: TextEncoder,
    unet: UNet,
    inpainting: UNet,
    vae: Vae,
}

impl Models {
    fn load() -> Self {
        let (fixture, backend) = (Fixture::new("tiny-sd1"), backend());
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures"));
        let file = |path: &str| SafetensorsFile::open(&folder.join(path)).unwrap();
        let (text, unet, vae) = (
            fixture.json("text_encoder/config.json"),
            fixture.json("unet/config.json"),
            fixture.json("vae/config.json"),
        );
        let mut wide = unet.clone();
        wide["in_channels"] = json!(9);
        let weights = |part: &str| file(&format!("tiny-sd1/{part}.safetensors"));
        let unet_file = "unet/diffusion_pytorch_model";
        Self {
            golden: file("painting.safetensors"),
            text_encoder: TextEncoder::load(&text, &weights("text_encoder/model"), backend.as_ref(), DTYPE)
                .unwrap(),
            unet: UNet::load(&unet, &weights(unet_file), backend.as_ref(), DTYPE).unwrap(),
            inpainting: UNet::load(&wide, &Widened(weights(unet_file)), backend.as_ref(), DTYPE).unwrap(),
            vae: Vae::load(&vae, &weights("vae/diffusion_pytorch_model"), backend.as_ref(), DTYPE).unwrap(),
        }
    }

    fn pipeline(&self, unet: &'static str) -> TextToImage<'_> {
        let unet = if unet == "channels" { &self.inpainting } else { &self.unet };
        TextToImage::new(backend(), DTYPE, &self.text_encoder, unet, &self.vae)
    }

    fn states(&self, name: &str) -> Tensor {
        backend().upload(&self.golden.read(name).unwrap()).unwrap()
    }
}

fn picture() -> Tensor {
    let value = |c: usize, y: usize, x: usize| {
        let byte = [5 * x + 3 * y, x * x + y, y * y + 2 * x][c] % 256;
        byte as f32 / 255.0 * 2.0 - 1.0
    };
    let values: Vec<f32> = (0..3 * 64 * 64).map(|i| value(i / 4096, i / 64 % 64, i % 64)).collect();
    Tensor::from_slice(&values, &[1, 3, 64, 64]).unwrap()
}

fn mask() -> Vec<f32> {
    (0..64 * 64).map(|i| if i % 64 >= 20 && i / 64 >= 12 { 1.0 } else { 0.0 }).collect()
}

/// What a run is made with: as `run` in the script.
struct Run {
    name: &'static str,
    sampler: &'static str,
    strength: f64,
    guidance: f32,
}

impl Run {
    const fn new(name: &'static str, sampler: &'static str) -> Self {
        Self { name, sampler, strength: 0.6, guidance: 4.0 }
    }
}

fn paint(models: &Models, run: &Run, extras: impl FnOnce(&TextToImage<'_>) -> bool) -> Tensor {
    let kind = run.name.split('.').next().unwrap();
    let pipeline = models.pipeline(if kind == "channels" { "channels" } else { "plain" });
    let config = json!({
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
        "clip_sample": false, "set_alpha_to_one": false, "skip_prk_steps": true, "timestep_spacing": "leading"
    });
    let options = SamplerOptions::new(7);
    let mut sampler = SamplerKind::find(run.sampler).unwrap().build(&config, options).unwrap();
    let first = first_call(sampler.as_ref(), 7, run.strength);
    let mut generator = Generator::new(11);
    let encode = |picture: &Tensor, generator: &mut Generator| {
        pipeline.encode(picture, generator, Tiling::Auto).unwrap()
    };
    // In diffusers' order: the picture where it is needed, the noise, then the masked picture.
    let needed = kind != "channels" || run.strength < 1.0;
    let original = needed.then(|| encode(&picture(), &mut generator));
    let noise = generator.randn_tensor(&[1, 4, 8, 8]).unwrap();
    let latents = match &original {
        Some(original) if run.strength < 1.0 => {
            let noisy =
                sampler.add_noise(first, original.as_slice().unwrap(), noise.as_slice().unwrap()).unwrap();
            Tensor::from_slice(&noisy, &[1, 4, 8, 8]).unwrap()
        }
        _ => pipeline.start_from(&noise, sampler.as_ref()).unwrap(),
    };
    let small = latent_mask(&mask(), 64, 64, 8).unwrap();
    let masked = |generator: &mut Generator| {
        let (picture, mask) = (picture(), mask());
        let pixels = picture.as_slice::<f32>().unwrap().iter().enumerate();
        let blanked: Vec<f32> =
            pixels.map(|(i, value)| if mask[i % 4096] < 0.5 { *value } else { 0.0 }).collect();
        encode(&Tensor::from_slice(&blanked, picture.dims()).unwrap(), generator)
    };
    // diffusers draws for the masked picture even where nothing looks at it.
    let inpaint = match kind {
        "img2img" => None,
        "inpaint" => {
            masked(&mut generator);
            Some(Inpaint::blending(&small, original.as_ref().unwrap(), &noise).unwrap())
        }
        _ => Some(Inpaint::channels(&small, &masked(&mut generator)).unwrap()),
    };
    let (states, negative) = (models.states("prompt"), models.states("negative"));
    let denoising = Denoising {
        states: &states,
        guidance: Some(Guidance { scale: run.guidance, negative: &negative }),
        latents,
        first_call: first,
        sampler: sampler.as_mut(),
        generator: &mut generator,
    };
    let contrast = extras(&pipeline);
    let mut switched = Vec::new();
    let mut switch = |on| switched.push(on);
    let contrast = contrast.then_some(Contrast {
        scale: 3.0,
        states: &states,
        negative: &negative,
        switch: &mut switch,
    });
    let mut prepared = Vec::new();
    let mut prepare = |call, calls| prepared.push((call, calls));
    let extras = Extras { inpaint: inpaint.as_ref(), contrast, prepare: Some(&mut prepare) };
    let latents = pipeline.denoise_with(denoising, extras, |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!(prepared.first().map(|(call, _)| *call), Some(first));
    assert!(prepared.iter().all(|(call, calls)| call < calls));
    assert!(switched.chunks(2).all(|pair| pair == [false, true]));
    latents
}

#[test]
fn image_to_image_and_inpainting_are_those_of_diffusers() {
    let models = Models::load();
    let runs = [
        Run::new("img2img.ddim", "ddim"),
        Run::new("img2img.euler", "euler"),
        Run::new("img2img.pndm", "pndm"),
        Run::new("img2img.heun", "heun"),
        Run::new("img2img.dpmpp_2m_sde", "dpmpp_2m_sde"),
        Run { strength: 0.3, ..Run::new("img2img.ddim.weak", "ddim") },
        Run::new("inpaint.ddim", "ddim"),
        Run::new("inpaint.euler", "euler"),
        Run::new("inpaint.heun", "heun"),
        Run::new("inpaint.dpmpp_2m_sde", "dpmpp_2m_sde"),
        Run { strength: 1.0, ..Run::new("inpaint.euler.full", "euler") },
        Run { guidance: 1.0, ..Run::new("inpaint.euler.unguided", "euler") },
        Run::new("channels.ddim", "ddim"),
        Run { strength: 1.0, ..Run::new("channels.euler.full", "euler") },
    ];
    for run in &runs {
        let latents = paint(&models, run, |_| false);
        let expected = models.golden.read(run.name).unwrap();
        let (ours, theirs) = (latents.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
        let rms = (theirs.iter().map(|v| v * v).sum::<f32>() / theirs.len() as f32).sqrt();
        let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= BOUND * rms, "{}: {worst} of {rms}", run.name);
    }
    assert_eq!(models.golden.names().len(), runs.len() + 2, "a recorded run is not tested");
    // Without a difference there is nothing to amplify.
    let run = &runs[1];
    let (plain, contrasted) = (paint(&models, run, |_| false), paint(&models, run, |_| true));
    let pairs = plain.as_slice::<f32>().unwrap().iter().zip(contrasted.as_slice::<f32>().unwrap());
    assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-4);
}

/// What tiles give is near the whole picture, and without tiles it is the whole picture's.
#[test]
fn tiles_through_the_vae() {
    let models = Models::load();
    let pipeline = models.pipeline("plain");
    let latents = Generator::new(1).randn_tensor(&[1, 4, 80, 72]).unwrap();
    let whole = pipeline.decode(&latents).unwrap();
    let automatic = pipeline.decode_tiled(&latents, Tiling::Auto).unwrap();
    assert_eq!(automatic.to_vec::<f32>().unwrap(), whole.to_vec::<f32>().unwrap());
    let tiled = pipeline.decode_tiled(&latents, Tiling::On).unwrap();
    assert_eq!(tiled.dims(), [1, 3, 640, 576]);
    let (a, b) = (tiled.as_slice::<f32>().unwrap(), whole.as_slice::<f32>().unwrap());
    let rms = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    let apart = rms(&mut a.iter().zip(b).map(|(a, b)| a - b)) / rms(&mut b.iter().copied());
    assert!(apart > 0.0 && apart < 0.2, "{apart}");
    let moments = |tiling| pipeline.encode(&whole, &mut Generator::new(2), tiling).unwrap();
    let (a, b) = (moments(Tiling::On), moments(Tiling::Off));
    assert_eq!(a.dims(), [1, 4, 80, 72]);
    assert!(a.to_vec::<f32>().unwrap() != b.to_vec::<f32>().unwrap());
}
