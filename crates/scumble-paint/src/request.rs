//! Everything that decides a picture beside the base: what a picture keeps of how it was made, and what reproduces it.

use std::path::PathBuf;

use scumble_model::pipeline::Tiling;
use serde::{Deserialize, Serialize};

use crate::adapters::AdapterUse;
use crate::error::{PaintError, Result};

/// Longest side of a picture in pixels.
pub const LONGEST_SIDE: usize = 8192;

/// A picture to paint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// What to paint; may hold weights, `BREAK` and `<lora:...>`.
    pub prompt: String,
    /// What not to paint.
    pub negative: String,
    /// Where the noise starts.
    pub seed: u64,
    /// Steps of the sampler.
    pub steps: usize,
    /// Guidance scale; 1 and less is without guidance.
    pub guidance: f64,
    /// The sampler by name; the base's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// DDIM's share of fresh noise.
    #[serde(skip_serializing_if = "is_zero")]
    pub eta: f64,
    /// Width and height in pixels; the base's own, or the first picture's, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// Layers of the text encoder left out at its end.
    #[serde(skip_serializing_if = "is_none_left_out")]
    pub clip_skip: usize,
    /// Adapters, beside those in the prompt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterUse>,
    /// How far beyond the adapters' change to go; 1 is the change itself.
    #[serde(skip_serializing_if = "is_one")]
    pub adapter_guidance: f64,
    /// Files of learned words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<EmbeddingUse>,
    /// A picture to begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// A second pass at a higher resolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hires: Option<Hires>,
    /// Whether the autoencoder works in tiles.
    #[serde(with = "tiling", skip_serializing_if = "is_auto")]
    pub vae_tiling: Tiling,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative: String::new(),
            seed: 0,
            steps: 25,
            guidance: 7.5,
            sampler: None,
            eta: 0.0,
            size: None,
            clip_skip: 0,
            adapters: Vec::new(),
            adapter_guidance: 1.0,
            embeddings: Vec::new(),
            init: None,
            hires: None,
            vae_tiling: Tiling::Auto,
        }
    }
}

/// A file of learned words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingUse {
    /// The file.
    pub file: PathBuf,
    /// The word in prompts; what the file says, or the file's name, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A picture to begin with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// The picture's file.
    pub image: PathBuf,
    /// How much of it to repaint: 0 keeps it, 1 forgets it.
    pub strength: f64,
    /// Which part of it to repaint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
}

/// Which part of a picture to repaint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    /// The mask's file: white is repainted, black kept.
    pub image: PathBuf,
    /// White is kept, black repainted.
    #[serde(default)]
    pub invert: bool,
    /// Standard deviation of a blur of its edge, in pixels of the painted picture.
    #[serde(default)]
    pub blur: f64,
    /// Kept pixels are exactly those of the first picture.
    #[serde(default)]
    pub keep_unmasked: bool,
}

/// A second pass at a higher resolution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hires {
    /// By how much both sides grow.
    pub scale: f64,
    /// What is enlarged.
    pub upscaler: Upscaler,
    /// How much to repaint.
    pub strength: f64,
    /// Steps of the second pass; those of the first when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
}

/// What is enlarged between the passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upscaler {
    /// The latents, linearly: soft, and needs a strength above 0.5.
    Latent,
    /// The picture, by Lanczos' windowed sinc.
    #[default]
    Image,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

fn is_none_left_out(layers: &usize) -> bool {
    *layers == 0
}

fn is_auto(tiling: &Tiling) -> bool {
    *tiling == Tiling::Auto
}

/// `auto`, `on` and `off`.
mod tiling {
    use scumble_model::pipeline::Tiling;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(tiling: &Tiling, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match tiling {
            Tiling::Auto => "auto",
            Tiling::On => "on",
            Tiling::Off => "off",
        })
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Tiling, D::Error> {
        match String::deserialize(from)?.as_str() {
            "auto" => Ok(Tiling::Auto),
            "on" => Ok(Tiling::On),
            "off" => Ok(Tiling::Off),
            other => Err(serde::de::Error::custom(format!("tiling `{other}` is not auto, on or off"))),
        }
    }
}

impl Request {
    /// Errors on what no base could paint.
    pub fn check(&self) -> Result<()> {
        let range = |setting: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(PaintError::setting(
                setting,
                format!("{value} is not from {low} to {high}"),
                String::new(),
            )),
        };
        range("--guidance", self.guidance, 0.0, 1e6)?;
        range("--eta", self.eta, 0.0, 1.0)?;
        range("--adapter-guidance", self.adapter_guidance, -100.0, 100.0)?;
        if let Some(size) = self.size {
            check_size(size)?;
        }
        if let Some(init) = &self.init {
            range("--strength", init.strength, 0.0, 1.0)?;
            if let Some(mask) = &init.mask {
                range("--mask-blur", mask.blur, 0.0, 256.0)?;
            }
        }
        if let Some(hires) = &self.hires {
            range("--hires", hires.scale, 1.0, 8.0)?;
            range("--hires-strength", hires.strength, 0.0, 1.0)?;
            if self.init.as_ref().is_some_and(|init| init.mask.is_some()) {
                return Err(PaintError::setting(
                    "--hires",
                    "it can't be together with --mask",
                    "repaint first, and enlarge the result with --init-image and --hires",
                ));
            }
        }
        Ok(())
    }
}

/// Errors on sizes that no base can paint.
pub fn check_size(size: [usize; 2]) -> Result<()> {
    for side in size {
        if side == 0 || side % 8 != 0 || side > LONGEST_SIDE {
            let near = (side.clamp(8, LONGEST_SIDE) + 4) / 8 * 8;
            return Err(PaintError::setting(
                format!("{side} pixels can't be painted"),
                format!("sizes are multiples of 8 up to {LONGEST_SIDE}"),
                format!("the nearest is {near}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read_again_is_the_same() {
        let mut request = Request { prompt: "a".into(), seed: u64::MAX, guidance: 4.5, ..Request::default() };
        assert!(!serde_json::to_string(&request).unwrap().contains("hires"));
        request.hires = Some(Hires { scale: 1.5, upscaler: Upscaler::Latent, strength: 0.6, steps: Some(7) });
        let mask = Mask { image: "m.png".into(), invert: true, blur: 2.0, keep_unmasked: true };
        request.init = Some(Init { image: "i.png".into(), strength: 0.3, mask: Some(mask) });
        request.vae_tiling = Tiling::On;
        let mut adapter = AdapterUse::new("x.safetensors".into(), 0.3, 1.0);
        adapter.schedule = crate::schedule::Schedule::Linear(1.0, 0.0);
        adapter.blocks = vec![("mid".into(), 0.1)];
        request.adapters = vec![adapter];
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        assert!(
            serde_json::from_str::<Request>(r#"{"promt": "x"}"#).unwrap_err().to_string().contains("promt")
        );
    }

    #[test]
    fn each_impossible_value_is_named() {
        let refused = |change: &dyn Fn(&mut Request), word: &str| {
            let mut request = Request::default();
            change(&mut request);
            let error = request.check().unwrap_err();
            assert!(error.to_string().contains(word) && error.is_usage(), "{error}");
        };
        let init = |strength, mask| Init { image: "x".into(), strength, mask };
        refused(&|r| r.guidance = f64::NAN, "guidance");
        refused(&|r| r.guidance = -1.0, "guidance");
        refused(&|r| r.eta = 1.5, "eta");
        refused(&|r| r.adapter_guidance = f64::INFINITY, "adapter-guidance");
        refused(&|r| r.size = Some([64, 100]), "100");
        refused(&|r| r.init = Some(init(1.5, None)), "--strength");
        let mask = Mask { image: "m".into(), invert: false, blur: -1.0, keep_unmasked: false };
        refused(&|r| r.init = Some(init(0.5, Some(mask.clone()))), "--mask-blur");
        let hires = Hires { scale: 2.0, upscaler: Upscaler::Image, strength: 0.5, steps: None };
        refused(&|r| r.hires = Some(Hires { scale: 0.5, ..hires }), "--hires");
        refused(&|r| r.hires = Some(Hires { strength: 2.0, ..hires }), "--hires-strength");
        let both = |r: &mut Request| {
            r.hires = Some(hires);
            r.init = Some(init(0.5, Some(Mask { blur: 0.0, ..mask.clone() })));
        };
        refused(&both, "--mask");
        assert!(Request::default().check().is_ok());
    }
}
