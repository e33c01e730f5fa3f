//! Which of a component folder's files hold the weights.
//!
//! One rule for folders on disk and listings of the Hub: the variant asked for, else the plain files, else the only
//! variant there is; among those safetensors before torch, one file before an index of several.

use std::collections::BTreeSet;

use crate::files::{FileError, Result};

/// The parts of a base that have weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The denoiser.
    Unet,
    /// The text encoder, or SDXL's first.
    TextEncoder,
    /// SDXL's second text encoder.
    TextEncoder2,
    /// The autoencoder.
    Vae,
}

impl Part {
    /// The parts of a base of the 1.x and 2.x families.
    pub(super) const ALL: [Part; 3] = [Part::Unet, Part::TextEncoder, Part::Vae];

    /// Its folder's name, which is also the first part of its modules' paths.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::Vae => "vae",
        }
    }

    /// Name of the weight file that is written.
    pub(super) fn weight_file(self) -> String {
        let [(stem, extension), _] = self.stems();
        format!("{stem}.{extension}")
    }

    /// Stem and extension of its weight files, best first.
    fn stems(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::TextEncoder | Self::TextEncoder2 => [("model", "safetensors"), ("pytorch_model", "bin")],
            _ => [("diffusion_pytorch_model", "safetensors"), ("diffusion_pytorch_model", "bin")],
        }
    }
}

/// The file to open among `files`, the plain names in the part's folder; it may be an index of several.
pub(crate) fn choose(part: Part, files: &BTreeSet<String>, variant: Option<&str>) -> Option<String> {
    let of = |variant: Option<&str>| {
        let infix = variant.map_or(String::new(), |variant| format!(".{variant}"));
        part.stems().into_iter().find_map(|(stem, extension)| {
            let names = [
                format!("{stem}{infix}.{extension}"),
                format!("{stem}.{extension}.index{infix}.json"),
                format!("{stem}{infix}.{extension}.index.json"),
            ];
            names.into_iter().find(|name| files.contains(name))
        })
    };
    let asked = variant.and_then(|variant| of(Some(variant)));
    asked.or_else(|| of(None)).or_else(|| variants(part, files).iter().find_map(|variant| of(Some(variant))))
}

/// The variants a folder has, `fp16` first and those without averaged weights last.
pub(super) fn variants(part: Part, files: &BTreeSet<String>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for (stem, extension) in part.stems() {
        for name in files {
            let inner = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.'));
            let single = inner.and_then(|rest| rest.strip_suffix(extension)?.strip_suffix('.'));
            let index = inner
                .and_then(|rest| rest.strip_prefix(extension)?.strip_prefix(".index."))
                .and_then(|rest| rest.strip_suffix(".json"));
            let variant = single.or(index).filter(|variant| !variant.is_empty() && !variant.contains("-of-"));
            found.extend(variant.map(str::to_string));
        }
    }
    let mut found: Vec<String> = found.into_iter().collect();
    found.sort_by_key(|variant| (variant.contains("non_ema"), variant != "fp16"));
    found
}

/// Whether any part has the variant; an error that lists what there is if none has.
pub(super) fn check_variant(
    base: &str,
    listings: &[(Part, BTreeSet<String>)],
    variant: Option<&str>,
) -> Result<()> {
    let Some(variant) = variant else { return Ok(()) };
    let all: BTreeSet<String> = listings.iter().flat_map(|(part, files)| variants(*part, files)).collect();
    if all.contains(variant) {
        return Ok(());
    }
    let there = if all.is_empty() {
        "it has none".to_string()
    } else {
        format!("it has {}", Vec::from_iter(all).join(", "))
    };
    Err(FileError::Unsupported {
        base: base.into(),
        reason: format!("there are no weights of variant `{variant}`; {there}"),
        hint: "leave the variant out to use what there is".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn the_best_file_is_chosen() {
        let cases: [(&[&str], Option<&str>, Option<&str>); 8] = [
            (
                &[
                    "diffusion_pytorch_model.bin",
                    "diffusion_pytorch_model.safetensors",
                    "diffusion_pytorch_model.fp16.safetensors",
                ],
                None,
                Some("diffusion_pytorch_model.safetensors"),
            ),
            (
                &["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.bin"],
                Some("fp16"),
                Some("diffusion_pytorch_model.fp16.bin"),
            ),
            (
                &["diffusion_pytorch_model.safetensors"],
                Some("fp16"),
                Some("diffusion_pytorch_model.safetensors"),
            ),
            (
                &["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.fp16.safetensors"],
                None,
                Some("diffusion_pytorch_model.fp16.safetensors"),
            ),
            (&["diffusion_pytorch_model.bin"], None, Some("diffusion_pytorch_model.bin")),
            (
                &[
                    "diffusion_pytorch_model.safetensors.index.json",
                    "diffusion_pytorch_model-00001-of-00002.safetensors",
                ],
                None,
                Some("diffusion_pytorch_model.safetensors.index.json"),
            ),
            (
                &[
                    "diffusion_pytorch_model.safetensors.index.fp16.json",
                    "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
                ],
                None,
                Some("diffusion_pytorch_model.safetensors.index.fp16.json"),
            ),
            (&["config.json"], None, None),
        ];
        for (files, variant, wanted) in cases {
            assert_eq!(
                choose(Part::Unet, &listing(files), variant).as_deref(),
                wanted,
                "{files:?} {variant:?}"
            );
        }
        let text = listing(&["pytorch_model.bin", "model.fp16.safetensors"]);
        assert_eq!(choose(Part::TextEncoder, &text, None).unwrap(), "pytorch_model.bin");
        assert_eq!(choose(Part::TextEncoder, &text, Some("fp16")).unwrap(), "model.fp16.safetensors");
    }

    #[test]
    fn an_absent_variant_lists_the_others() {
        let listings = [(Part::Vae, listing(&["diffusion_pytorch_model.fp16.safetensors"]))];
        assert!(check_variant("b", &listings, None).is_ok());
        assert!(check_variant("b", &listings, Some("fp16")).is_ok());
        let error = check_variant("b", &listings, Some("ema")).unwrap_err().to_string();
        assert!(error.contains("`ema`; it has fp16"), "{error}");
    }
}
