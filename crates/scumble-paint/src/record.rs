//! What a picture says of itself, written into it and read back.
//!
//! Two texts: `scumble`, the exact request as JSON, and `parameters`, which AUTOMATIC1111 and its relatives read and
//! write. Reading prefers the first. Paths are kept only where they are relative: a picture does not tell where on a
//! machine it was made.

use std::path::{Path, PathBuf};

use scumble_model::sampler::SamplerKind;
use scumble_train::picture::{Infotext, png};
use serde_json::{Value, json};

use crate::adapters::AdapterUse;
use crate::error::{PaintError, Result};
use crate::grid::{Axis, Grid};
use crate::request::{Hires, Request, Upscaler};
use crate::tags;

/// What AUTOMATIC1111 calls its script for grids.
const GRID_SCRIPT: &str = "X/Y/Z plot";

/// What a picture was made from, as far as it says.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The request.
    pub request: Request,
    /// The base, where it is named in a way that can be opened or looked for.
    pub base: Option<String>,
    /// What could not be taken over, one sentence each.
    pub notes: Vec<String>,
    /// The axes where it is a grid, as they are typed.
    pub axes: Vec<String>,
}

/// The two texts of a picture: keyword, content. `adapters` are all that acted, those of the prompt's tags too.
pub fn texts(
    request: &Request,
    base: &str,
    sampler: &SamplerKind,
    adapters: &[AdapterUse],
    size: [usize; 2],
    program: &str,
) -> [(&'static str, String); 2] {
    let info = infotext(request, base, sampler, adapters, size, program);
    [
        (png::PARAMETERS, info.to_string()),
        (png::SCUMBLE, exact(request, base, sampler, adapters, size, program).to_string()),
    ]
}

/// The two texts of a page of a grid; `request` is what its cells have in common. The readable one has the axes as
/// AUTOMATIC1111's script for such grids writes them.
pub fn grid_texts(
    request: &Request,
    grid: &Grid,
    base: &str,
    sampler: &SamplerKind,
    size: [usize; 2],
    program: &str,
) -> [(&'static str, String); 2] {
    let mut info =
        infotext(request, base, sampler, &request.adapters, size, program).with("Script", GRID_SCRIPT);
    let mut value = exact(request, base, sampler, &request.adapters, size, program);
    for (axis, letter) in grid.axes().iter().zip(["X", "Y", "Z"]) {
        info = info
            .with(&format!("{letter} Type"), axis.label())
            .with(&format!("{letter} Values"), axis.values_text());
    }
    if let Some(fields) = value.as_object_mut() {
        let axes: Vec<String> = grid.axes().iter().map(Axis::text).collect();
        fields.insert("grid".to_owned(), json!(axes));
    }
    [(png::PARAMETERS, info.to_string()), (png::SCUMBLE, value.to_string())]
}

/// The path where it tells nothing of the machine, else the file's name.
pub(crate) fn portable(path: &Path) -> PathBuf {
    if path.is_absolute() { path.file_name().unwrap_or_default().into() } else { path.to_owned() }
}

/// A base's name without a machine's folders: a Hub id or relative path as it is, else the last part.
fn portable_base(base: &str) -> String {
    let path = Path::new(base);
    if path.is_absolute() {
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    } else {
        base.into()
    }
}

fn exact(
    request: &Request,
    base: &str,
    sampler: &SamplerKind,
    adapters: &[AdapterUse],
    size: [usize; 2],
    program: &str,
) -> Value {
    let mut request = request.clone();
    // Those that acted have their hashes; the request's own come first among them.
    request.adapters.iter_mut().zip(adapters).for_each(|(own, acted)| own.hash.clone_from(&acted.hash));
    request.sampler = Some(sampler.name.to_owned());
    request.size = Some(size);
    for adapter in &mut request.adapters {
        adapter.file = portable(&adapter.file);
    }
    for embedding in &mut request.embeddings {
        embedding.file = portable(&embedding.file);
    }
    if let Some(init) = &mut request.init {
        init.image = portable(&init.image);
        if let Some(mask) = &mut init.mask {
            mask.image = portable(&mask.image);
        }
    }
    let mut value = json!({"program": program, "base": portable_base(base)});
    if let (Some(all), Ok(Value::Object(fields))) = (value.as_object_mut(), serde_json::to_value(&request)) {
        all.extend(fields);
    }
    value
}

fn infotext(
    request: &Request,
    base: &str,
    sampler: &SamplerKind,
    adapters: &[AdapterUse],
    size: [usize; 2],
    program: &str,
) -> Infotext {
    let labels = request.adapters.iter().map(AdapterUse::label);
    let prompt = std::iter::once(request.prompt.clone()).chain(labels).collect::<Vec<_>>().join(" ");
    let mut text =
        Infotext::new(&prompt, &request.negative).with("Steps", request.steps).with("Sampler", sampler.label);
    if let Some(schedule) = sampler.schedule_label {
        text = text.with("Schedule type", schedule);
    }
    text = text
        .with("CFG scale", request.guidance)
        .with("Seed", request.seed)
        .with_size(size[0], size[1])
        .with("Model", Path::new(base).file_stem().unwrap_or_default().to_string_lossy());
    if request.eta > 0.0 {
        text = text.with("Eta", request.eta);
    }
    if request.clip_skip > 0 {
        // That program counts from 1.
        text = text.with("Clip skip", request.clip_skip + 1);
    }
    if let Some(init) = &request.init {
        text = text.with("Denoising strength", init.strength);
        if let Some(mask) = &init.mask {
            text = text.with("Mask blur", mask.blur);
        }
    }
    if let Some(hires) = &request.hires {
        text = text.with("Hires upscale", hires.scale).with(
            "Hires upscaler",
            match hires.upscaler {
                Upscaler::Latent => "Latent",
                Upscaler::Image => "Lanczos",
            },
        );
        if let Some(steps) = hires.steps {
            text = text.with("Hires steps", steps);
        }
        if request.init.is_none() {
            text = text.with("Denoising strength", hires.strength);
        }
    }
    text = text.with("RNG", "CPU");
    if !adapters.is_empty() {
        let hash =
            |adapter: &AdapterUse| format!("{}: {}", adapter.name(), adapter.hash.as_deref().unwrap_or("?"));
        text = text.with("Lora hashes", adapters.iter().map(hash).collect::<Vec<_>>().join(", "));
    }
    text.with("Version", program)
}

/// Reads what a PNG says of how it was made.
pub fn read(path: &Path) -> Result<Recorded> {
    let shown = path.display().to_string();
    let texts = png::read_texts(path)?;
    let recorded = match (texts.get(png::SCUMBLE), texts.get(png::PARAMETERS)) {
        (Some(exact), _) => from_exact(exact),
        (None, Some(parameters)) => Ok(from_infotext(&Infotext::parse(parameters))),
        (None, None) => Err("it has no text that says how it was made".to_owned()),
    };
    recorded.map_err(|reason| {
        let hint = "pictures lose their texts when other programs save them; use the file as it was painted";
        PaintError::file("picture", shown, reason, hint)
    })
}

fn from_exact(text: &str) -> std::result::Result<Recorded, String> {
    let mut value: Value =
        serde_json::from_str(text).map_err(|error| format!("its text is no JSON: {error}"))?;
    let fields = value.as_object_mut().ok_or("its text is no JSON object")?;
    fields.remove("program");
    let base = fields.remove("base").and_then(|base| base.as_str().map(str::to_owned));
    let axes = fields.remove("grid").map(serde_json::from_value).transpose();
    let axes = axes.map_err(|error| format!("its axes can't be read: {error}"))?.unwrap_or_default();
    let request =
        serde_json::from_value(value).map_err(|error| format!("its request can't be read: {error}"))?;
    Ok(Recorded { request, base, notes: Vec::new(), axes })
}

/// As far as a text of other programs goes. What it leaves out has that program's defaults.
fn from_infotext(info: &Infotext) -> Recorded {
    let mut recorded = Recorded::default();
    let request = &mut recorded.request;
    // Our own texts name both strengths where they differ, so they stay as they are.
    let texts = [&info.prompt, &info.negative].map(|text| tags::from_other_programs(text));
    [request.prompt, request.negative] = texts;
    let (mut hires, mut strength) = (None, None);
    let mut cpu = false;
    for (key, value) in &info.fields {
        let known = match key.as_str() {
            "Steps" => value.parse().map(|steps| request.steps = steps).is_ok(),
            "CFG scale" => value.parse().map(|scale| request.guidance = scale).is_ok(),
            "Seed" => value.parse().map(|seed| request.seed = seed).is_ok(),
            "Eta" => value.parse().map(|eta| request.eta = eta).is_ok(),
            "Clip skip" => {
                value.parse().map(|skip: usize| request.clip_skip = skip.saturating_sub(1)).is_ok()
            }
            "Size" => {
                request.size = info.size(key).map(|(width, height)| [width, height]);
                request.size.is_some()
            }
            "Sampler" => {
                let schedule = info.get("Schedule type").filter(|name| *name != "Automatic").unwrap_or("");
                // Older versions have the schedule in the sampler's name, "Automatic" leaves it to the sampler.
                let found =
                    SamplerKind::find(&format!("{value} {schedule}")).or_else(|_| SamplerKind::find(value));
                found.map(|kind| request.sampler = Some(kind.name.to_owned())).is_ok()
            }
            "Denoising strength" => value.parse().map(|value: f64| strength = Some(value)).is_ok(),
            "Hires upscale" => {
                let scale = value.parse().ok();
                hires =
                    scale.map(|scale| Hires { scale, upscaler: Upscaler::Image, strength: 0.6, steps: None });
                hires.is_some()
            }
            "RNG" => {
                cpu = value == "CPU";
                true
            }
            "Schedule type" | "Hires upscaler" | "Hires steps" | "Model" | "Model hash" | "Lora hashes"
            | "Version" | "VAE" | "VAE hash" => true,
            _ => false,
        };
        if !known {
            recorded.notes.push(format!("`{key}: {value}` is not taken over"));
        }
    }
    if let Some(hires) = &mut hires {
        hires.strength = strength.unwrap_or(hires.strength);
        let latent = info.get("Hires upscaler").is_some_and(|name| name.starts_with("Latent"));
        hires.upscaler = if latent { Upscaler::Latent } else { Upscaler::Image };
        hires.steps = info.get("Hires steps").and_then(|steps| steps.parse().ok()).filter(|steps| *steps > 0);
    } else if let Some(strength) = strength {
        recorded.notes.push(format!(
            "it was painted from another picture with strength {strength}; pass that one with --init-image"
        ));
    }
    recorded.request.hires = hires;
    if !cpu {
        recorded.notes.push("its noise was drawn by a GPU, so the picture will be another one".to_owned());
    }
    if let Some(model) = info.get("Model") {
        recorded.notes.push(format!("it was painted with the base `{model}`"));
    }
    recorded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let sampler = SamplerKind::find("euler_karras").unwrap();
        let mut request =
            Request { prompt: "ein Bär, <lora:a:0.5>".into(), seed: u64::MAX, ..Request::default() };
        request.adapters = vec![AdapterUse::new(folder.path().join("secret/dog.safetensors"), 0.5, 0.25)];
        request.clip_skip = 1;
        let texts = texts(&request, "models/base", sampler, &request.adapters, [64, 32], "scumble x");
        let texts: Vec<(&str, &str)> = texts.iter().map(|(key, text)| (*key, text.as_str())).collect();
        assert!(texts.iter().all(|(_, text)| !text.contains("secret")));
        let picture = scumble_train::picture::Picture::filled(8, 8, [0; 3]);
        png::write(&path, &picture, &texts).unwrap();
        let recorded = read(&path).unwrap();
        let mut expected = request.clone();
        expected.sampler = Some("euler_karras".into());
        expected.size = Some([64, 32]);
        expected.adapters[0].file = "dog.safetensors".into();
        assert_eq!((recorded.request, recorded.base.as_deref()), (expected, Some("models/base")));
        let info = Infotext::parse(texts[0].1);
        assert_eq!(info.prompt, "ein Bär, <lora:a:0.5> <lora:dog:te=0.25:unet=0.5>");
        assert_eq!((info.get("Clip skip"), info.get("Schedule type")), (Some("2"), Some("Karras")));
    }

    #[test]
    fn texts_of_other_programs_as_far_as_they_go() {
        let text = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 965400086, \
            Size: 512x768, Model: foo, Denoising strength: 0.4, Clip skip: 2, Hires upscale: 2, Hires steps: 8, \
            Hires upscaler: Latent, ENSD: 31337, Version: v1.6.0";
        let recorded = from_infotext(&Infotext::parse(text));
        let request = recorded.request;
        assert_eq!((request.prompt.as_str(), request.negative.as_str()), ("a cat", "dog"));
        assert_eq!((request.steps, request.guidance, request.seed), (20, 7.0, 965_400_086));
        assert_eq!((request.sampler.as_deref(), request.size), (Some("dpmpp_2m_karras"), Some([512, 768])));
        assert_eq!(request.clip_skip, 1);
        let hires = Hires { scale: 2.0, upscaler: Upscaler::Latent, strength: 0.4, steps: Some(8) };
        assert_eq!(request.hires, Some(hires));
        let notes = recorded.notes.join("\n");
        assert!(notes.contains("ENSD") && notes.contains("GPU") && notes.contains("`foo`"), "{notes}");
        let plain = from_infotext(&Infotext::parse(
            "x\nSteps: 5, Sampler: Euler a, Schedule type: Automatic, RNG: CPU",
        ));
        assert_eq!((plain.request.sampler.as_deref(), plain.notes.len()), (Some("euler_a"), 0));
    }

    #[test]
    fn grids_of_other_programs_and_our_own() {
        let text = "a <lora:x:0.5:1> cat\nSteps: 20, Sampler: DPM++ SDE, Schedule type: Karras, CFG scale: 7, Seed: 1, \
            Size: 512x512, Model: foo, RNG: CPU, TI hashes: \"moody: 123\", Script: X/Y/Z plot, X Type: Seed, \
            X Values: \"1,2\", Fixed X Values: \"1, 2\"";
        let recorded = from_infotext(&Infotext::parse(text));
        assert_eq!(recorded.request.prompt, "a <lora:x:te=0.5:unet=1> cat");
        assert_eq!(recorded.request.sampler.as_deref(), Some("dpmpp_sde_karras"));
        let notes = recorded.notes.join("\n");
        assert!(notes.contains("X/Y/Z plot") && notes.contains("TI hashes"), "{notes}");
        let axes = ["strength=0,1", "prompt=a, b|c"].map(|text| Axis::parse(text, &[]).unwrap());
        let grid = Grid::new(axes.to_vec()).unwrap();
        let request =
            Request { adapters: vec![AdapterUse::new("x.pt".into(), 1.0, 1.0)], ..Request::default() };
        let sampler = SamplerKind::find("ddim").unwrap();
        let [(_, plain), (_, exact)] = grid_texts(&request, &grid, "base", sampler, [64, 64], "scumble x");
        let info = Infotext::parse(&plain);
        assert_eq!((info.get("Y Type"), info.get("Y Values")), (Some("Prompt"), Some("a, b|c")));
        assert_eq!(from_exact(&exact).unwrap().axes, ["strength=0,1", "prompt=a, b|c"]);
        assert!(from_exact(r#"{"grid": "x"}"#).is_err());
    }

    #[test]
    fn rubbish_is_refused() {
        for text in ["{", "[]", r#"{"steps": "x"}"#, r#"{"colour": 1}"#] {
            assert!(from_exact(text).is_err(), "{text}");
        }
    }
}
