//! Which family a checkpoint is of, and what its UNet takes beside the latents.

use crate::files::{FileError, Result, TensorSource};

use super::Part;

pub(super) const UNET: &str = "model.diffusion_model.";
pub(super) const VAE: &str = "first_stage_model.";

/// Families that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x.
    Sd2,
    /// Stable Diffusion XL.
    Sdxl,
    /// The refiner of Stable Diffusion XL.
    SdxlRefiner,
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sd1 => "Stable Diffusion 1.x",
            Self::Sd2 => "Stable Diffusion 2.x",
            Self::Sdxl => "Stable Diffusion XL",
            Self::SdxlRefiner => "Stable Diffusion XL refiner",
        })
    }
}

/// Whose names a text encoder has in a single file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tower {
    /// Hugging Face's.
    Clip,
    /// OpenCLIP's; `projects` if the projection is used.
    OpenClip { projects: bool },
}

impl Architecture {
    /// The text encoders, with their prefix in single files.
    pub(super) fn towers(self) -> &'static [(Part, &'static str, Tower)] {
        match self {
            Self::Sd1 => &[(Part::TextEncoder, "cond_stage_model.transformer.", Tower::Clip)],
            Self::Sd2 => {
                &[(Part::TextEncoder, "cond_stage_model.model.", Tower::OpenClip { projects: false })]
            }
            Self::Sdxl => &[
                (Part::TextEncoder, "conditioner.embedders.0.transformer.", Tower::Clip),
                (Part::TextEncoder2, "conditioner.embedders.1.model.", Tower::OpenClip { projects: true }),
            ],
            Self::SdxlRefiner => {
                &[(Part::TextEncoder2, "conditioner.embedders.0.model.", Tower::OpenClip { projects: true })]
            }
        }
    }

    /// Every part it has.
    pub fn parts(self) -> Vec<Part> {
        let towers = self.towers().iter().map(|(part, _, _)| *part);
        [Part::Unet].into_iter().chain(towers).chain([Part::Vae]).collect()
    }

    /// By a single file's names, without any wrapper; what it is instead, if it is no such checkpoint.
    pub(super) fn of_single_file(base: &str, names: &[&str]) -> Result<Self> {
        let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        let refuse = |reason: String, hint: &str| {
            Err(FileError::Unsupported { base: base.into(), reason, hint: hint.into() })
        };
        if has("model.diffusion_model.double_blocks.") || has("model.diffusion_model.joint_blocks.") {
            return refuse(
                "it is a transformer model".into(),
                "use a checkpoint of Stable Diffusion 1.x, 2.x or XL",
            );
        }
        let all = [Self::Sdxl, Self::SdxlRefiner, Self::Sd1, Self::Sd2];
        let found = all.into_iter().find(|family| family.towers().iter().all(|(_, prefix, _)| has(prefix)));
        match (found, has(UNET), has(VAE)) {
            (Some(family), true, true) => Ok(family),
            (_, false, _) if has("control_model.") => {
                refuse("it is a ControlNet".into(), "use a checkpoint of Stable Diffusion 1.x, 2.x or XL")
            }
            (_, unet, vae) => {
                let mut absent = Vec::new();
                if !unet {
                    absent.push("the UNet (`model.diffusion_model.`)");
                }
                if found.is_none() {
                    absent.push("the text encoder (`cond_stage_model.` or `conditioner.embedders.`)");
                }
                if !vae {
                    absent.push("the VAE (`first_stage_model.`)");
                }
                refuse(
                    format!("it is no complete checkpoint: {} missing", absent.join(", ")),
                    "use a full checkpoint, or a folder in diffusers' layout",
                )
            }
        }
    }
}

/// What a UNet's inputs are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Latents and text.
    TextToImage,
    /// Also a mask and the masked picture.
    Inpainting,
    /// Also the picture to change.
    Instruction,
    /// Also a depth map.
    Depth,
    /// Also the small picture, and its noise level.
    Upscaling,
    /// Also the embedding of a picture.
    ImageVariation,
    /// Something else of so many channels.
    Other(usize),
}

impl Purpose {
    /// By a UNet's input channels, and whether it has a class embedding.
    pub(super) fn of(unet: &dyn TensorSource) -> Self {
        let channels = unet.info("conv_in.weight").and_then(|info| info.shape.get(1).copied()).unwrap_or(0);
        let class_embedding = unet.names().iter().any(|name| name.starts_with("class_embedding."));
        match (channels, class_embedding) {
            (4, false) => Self::TextToImage,
            (4, true) => Self::ImageVariation,
            (9, _) => Self::Inpainting,
            (8, _) => Self::Instruction,
            (7, _) => Self::Upscaling,
            (5, _) => Self::Depth,
            _ => Self::Other(channels),
        }
    }

    /// diffusers' pipeline.
    pub(super) fn pipeline(self, family: Architecture) -> &'static str {
        let xl = matches!(family, Architecture::Sdxl | Architecture::SdxlRefiner);
        match self {
            Self::Inpainting if xl => "StableDiffusionXLInpaintPipeline",
            Self::Instruction if xl => "StableDiffusionXLInstructPix2PixPipeline",
            _ if family == Architecture::SdxlRefiner => "StableDiffusionXLImg2ImgPipeline",
            _ if xl => "StableDiffusionXLPipeline",
            Self::Inpainting => "StableDiffusionInpaintPipeline",
            Self::Instruction => "StableDiffusionInstructPix2PixPipeline",
            Self::Depth => "StableDiffusionDepth2ImgPipeline",
            Self::Upscaling => "StableDiffusionUpscalePipeline",
            Self::ImageVariation => "StableUnCLIPImg2ImgPipeline",
            Self::TextToImage | Self::Other(_) => "StableDiffusionPipeline",
        }
    }
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TextToImage => f.write_str("text to image"),
            Self::Inpainting => f.write_str("inpainting"),
            Self::Instruction => f.write_str("changing pictures by instruction"),
            Self::Depth => f.write_str("depth to image"),
            Self::Upscaling => f.write_str("upscaling"),
            Self::ImageVariation => f.write_str("variations of a picture"),
            Self::Other(channels) => write!(f, "unknown, {channels} input channels"),
        }
    }
}
