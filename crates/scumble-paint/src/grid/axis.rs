//! One axis of a grid: a setting and its values.
//!
//! ```text
//! strength=0,0.5,1        seed=1..4         guidance=3..12:4        prompt=a dog, red|a cat
//! adapter=none,runs/dog/dog-step*.safetensors,style.safetensors:0.7
//! ```
//!
//! Values stand between commas, or between `|` where there is one; prompts between `|` only, since they hold commas.
//! `A..B` are the whole numbers from A to B, `A..B:N` are N numbers evenly spaced. Adapters may be patterns of paths, or
//! `none`.

use std::path::{Path, PathBuf};

use crate::adapters::AdapterUse;
use crate::error::{PaintError, Result};
use crate::request::Request;

use super::MOST_PICTURES;

/// What an axis changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// One more adapter, before those that every picture wears.
    Adapter,
    /// Strength of the axis' adapter, or of all where there is no such axis, on both networks.
    Strength,
    /// As [`Setting::Strength`], on the UNet.
    UnetStrength,
    /// As [`Setting::Strength`], on the text encoder.
    TextStrength,
    /// What to paint.
    Prompt,
    /// What not to paint.
    Negative,
    /// The noise to start from.
    Seed,
    /// Steps of the sampler.
    Steps,
    /// Guidance scale.
    Guidance,
    /// The sampler.
    Sampler,
    /// Layers left out of the text encoder.
    ClipSkip,
    /// How far beyond the adapters' change to go.
    AdapterGuidance,
    /// How much of the first picture is repainted.
    InitStrength,
}

/// Names as they are typed, and as AUTOMATIC1111's script for such grids has them.
const SETTINGS: [(&str, &str, Setting); 13] = [
    ("adapter", "Adapter", Setting::Adapter),
    ("strength", "Adapter strength", Setting::Strength),
    ("unet-strength", "Adapter strength on the UNet", Setting::UnetStrength),
    ("text-strength", "Adapter strength on the text encoder", Setting::TextStrength),
    ("prompt", "Prompt", Setting::Prompt),
    ("negative", "Negative prompt", Setting::Negative),
    ("seed", "Seed", Setting::Seed),
    ("steps", "Steps", Setting::Steps),
    ("guidance", "CFG Scale", Setting::Guidance),
    ("sampler", "Sampler", Setting::Sampler),
    ("clip-skip", "Clip skip", Setting::ClipSkip),
    ("adapter-guidance", "Adapter guidance", Setting::AdapterGuidance),
    ("init-strength", "Denoising", Setting::InitStrength),
];

/// Strengths that an axis sets whatever they were.
pub(super) struct Replaced {
    /// That on the UNet.
    pub unet: bool,
    /// That on the text encoder.
    pub text: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    Whole(u64),
    Number(f64),
    Adapter(Option<AdapterUse>),
}

/// One axis: a setting and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    setting: Setting,
    name: &'static str,
    label: &'static str,
    values: Vec<Value>,
}

impl Axis {
    /// The settings that can be an axis, for messages.
    pub fn names() -> String {
        SETTINGS.map(|(name, _, _)| name).join(", ")
    }

    /// Reads `SETTING=VALUES`; adapters are looked for in `folders` too.
    pub fn parse(text: &str, folders: &[PathBuf]) -> Result<Self> {
        let shown: String = text.chars().take(80).collect();
        let wrong = |reason: String| {
            PaintError::setting(
                format!("axis `{shown}`"),
                reason,
                format!(
                    "write SETTING=VALUE,VALUE such as strength=0,0.5,1 or seed=1..4; settings: {}",
                    Self::names()
                ),
            )
        };
        let (name, list) = text.split_once('=').ok_or_else(|| wrong("it has no `=`".to_owned()))?;
        let name = name.trim();
        let found = SETTINGS.iter().find(|(known, _, _)| *known == name);
        let &(name, label, setting) = found.ok_or_else(|| wrong(format!("there is no setting `{name}`")))?;
        let is_text = matches!(setting, Setting::Prompt | Setting::Negative);
        let separator = if is_text || list.contains('|') { '|' } else { ',' };
        let mut values = Vec::new();
        for value in list.split(separator).map(str::trim) {
            match setting {
                // An empty negative prompt is one.
                Setting::Prompt | Setting::Negative => values.push(Value::Text(value.to_owned())),
                _ if value.is_empty() => {}
                Setting::Sampler => values.push(Value::Text(value.to_owned())),
                Setting::Adapter => values.extend(adapters(value, folders)?.into_iter().map(Value::Adapter)),
                Setting::Seed | Setting::Steps | Setting::ClipSkip => {
                    values.extend(wholes(value).map_err(&wrong)?.into_iter().map(Value::Whole));
                }
                _ => values.extend(numbers(value).map_err(&wrong)?.into_iter().map(Value::Number)),
            }
            if values.len() > MOST_PICTURES {
                return Err(wrong(format!("it has more than {MOST_PICTURES} values")));
            }
        }
        if values.is_empty() || values.iter().all(|value| *value == Value::Text(String::new())) {
            return Err(wrong("it has no values".to_owned()));
        }
        Ok(Self { setting, name, label, values })
    }

    /// What it changes.
    pub fn setting(&self) -> Setting {
        self.setting
    }

    /// The setting's name as it is typed.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The setting's name in AUTOMATIC1111's texts.
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Never: an axis has values.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What stands beside each value on the sheet.
    pub fn labels(&self) -> Vec<String> {
        let same_names = {
            let mut names: Vec<String> = self.values.iter().map(name_of).collect();
            names.sort();
            names.windows(2).any(|pair| pair[0] == pair[1])
        };
        let label = |value: &Value| match value {
            Value::Text(text) if text.is_empty() => format!("{}: none", self.name),
            Value::Text(text) => text.clone(),
            Value::Adapter(None) => "no adapter".to_owned(),
            Value::Adapter(Some(adapter)) => {
                let folder = adapter.file.parent().and_then(Path::file_name);
                let folder = folder.filter(|_| same_names).map(|name| format!("{}/", name.to_string_lossy()));
                format!("{}{}", folder.unwrap_or_default(), name_of(value))
            }
            Value::Whole(_) | Value::Number(_) => format!("{} {}", self.name, text_of(value)),
        };
        self.values.iter().map(label).collect()
    }

    /// The axis as it can be typed again; paths are kept where they are relative, else files by their names.
    pub fn text(&self) -> String {
        format!("{}={}", self.name, self.values_text())
    }

    /// Its values alone, see [`Axis::text`].
    pub fn values_text(&self) -> String {
        let texts: Vec<String> = self.values.iter().map(text_of).collect();
        let is_text = matches!(self.setting, Setting::Prompt | Setting::Negative);
        if is_text || texts.iter().any(|text| text.contains(',')) {
            // A lone value with a comma needs a separator to be read as one.
            let end = if texts.len() == 1 && !is_text { "|" } else { "" };
            return texts.join("|") + end;
        }
        texts.join(",")
    }

    /// Puts value `index` into a request. `has_adapter_axis` tells whose strength a strength is.
    pub(super) fn apply(&self, index: usize, request: &mut Request, has_adapter_axis: bool) -> Result<()> {
        let Some(value) = self.values.get(index) else { return Ok(()) };
        match (self.setting, value) {
            (Setting::Prompt, Value::Text(text)) => request.prompt.clone_from(text),
            (Setting::Negative, Value::Text(text)) => request.negative.clone_from(text),
            (Setting::Sampler, Value::Text(text)) => request.sampler = Some(text.clone()),
            (Setting::Seed, Value::Whole(seed)) => request.seed = *seed,
            (Setting::Steps, Value::Whole(steps)) => {
                request.steps = usize::try_from(*steps).unwrap_or(usize::MAX)
            }
            (Setting::ClipSkip, Value::Whole(skip)) => {
                request.clip_skip = usize::try_from(*skip).unwrap_or(usize::MAX);
            }
            (Setting::Guidance, Value::Number(scale)) => request.guidance = *scale,
            (Setting::AdapterGuidance, Value::Number(scale)) => request.adapter_guidance = *scale,
            (Setting::Adapter, Value::Adapter(Some(adapter))) => request.adapters.insert(0, adapter.clone()),
            (Setting::Strength | Setting::UnetStrength | Setting::TextStrength, Value::Number(strength)) => {
                self.set_strength(*strength as f32, request, has_adapter_axis)?;
            }
            (Setting::InitStrength, Value::Number(strength)) => match &mut request.init {
                Some(init) => init.strength = *strength,
                None => return Err(self.idle("there is no picture to begin with", "add --init-image FILE")),
            },
            _ => {}
        }
        Ok(())
    }

    fn set_strength(&self, strength: f32, request: &mut Request, has_adapter_axis: bool) -> Result<()> {
        if request.adapters.is_empty() && !has_adapter_axis {
            let hint = "add --adapter FILE, or an axis adapter=FILE,FILE";
            return Err(self.idle("there is no --adapter whose strength it could be", hint));
        }
        // The axis' adapter is the first; a cell without one has no mark of it.
        let whose = if has_adapter_axis { 1 } else { request.adapters.len() };
        let Some(Replaced { unet, text }) = self.replaces() else { return Ok(()) };
        for adapter in request.adapters.iter_mut().take(whose) {
            if unet {
                adapter.unet = strength;
            }
            if text {
                adapter.text = strength;
            }
        }
        Ok(())
    }

    /// Which strengths it sets; `None` where it is about something else.
    pub(super) fn replaces(&self) -> Option<Replaced> {
        match self.setting {
            Setting::Strength => Some(Replaced { unet: true, text: true }),
            Setting::UnetStrength => Some(Replaced { unet: true, text: false }),
            Setting::TextStrength => Some(Replaced { unet: false, text: true }),
            _ => None,
        }
    }

    /// Its values that are adapters.
    pub(super) fn adapters(&self) -> impl Iterator<Item = &AdapterUse> {
        self.values.iter().filter_map(|value| match value {
            Value::Adapter(adapter) => adapter.as_ref(),
            _ => None,
        })
    }

    fn idle(&self, reason: &str, hint: &str) -> PaintError {
        PaintError::setting(format!("axis `{}`", self.name), reason, hint)
    }

    /// Whether value `index` is an adapter.
    pub(super) fn is_adapter(&self, index: usize) -> bool {
        matches!(self.values.get(index), Some(Value::Adapter(Some(_))))
    }
}

/// A value for its label.
fn name_of(value: &Value) -> String {
    match value {
        Value::Adapter(Some(adapter)) => {
            let strength = match (adapter.unet, adapter.text) {
                (1.0, 1.0) => String::new(),
                (unet, text) if unet == text => format!(" {unet}"),
                (unet, text) => format!(" {unet}, text {text}"),
            };
            format!("{}{strength}", adapter.name())
        }
        other => text_of(other),
    }
}

/// A value as it is typed.
fn text_of(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Whole(number) => number.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Adapter(None) => NONE.to_owned(),
        Value::Adapter(Some(adapter)) => adapter.written(),
    }
}

/// The value of an adapter axis that stands for none.
const NONE: &str = "none";

/// One value of an adapter axis: none, a file with strengths, or the files of a pattern in the order of their names.
fn adapters(text: &str, folders: &[PathBuf]) -> Result<Vec<Option<AdapterUse>>> {
    if text == NONE && !Path::new(text).exists() {
        return Ok(vec![None]);
    }
    let is_pattern = text.contains(['*', '?', '[']) && !Path::new(text).exists();
    if !is_pattern {
        return Ok(vec![Some(AdapterUse::parse(text, folders)?)]);
    }
    let wrong = |reason: String| {
        PaintError::file("adapter", text, reason, "write a pattern such as runs/*/dog.safetensors")
    };
    let found = glob::glob(text).map_err(|error| wrong(format!("it is no pattern: {error}")))?;
    let files: Vec<PathBuf> = found.flatten().filter(|path| path.is_file()).take(MOST_PICTURES + 1).collect();
    if files.is_empty() {
        return Err(wrong("no file has such a name".to_owned()));
    }
    Ok(files.into_iter().map(|file| Some(AdapterUse::new(file, 1.0, 1.0))).collect())
}

/// The ends of a range and, where it is given, its count.
type Ends<'t> = (&'t str, &'t str, Option<usize>);

/// Reads `A..B` or `A..B:N`; `None` where the text is no range.
fn range(text: &str) -> std::result::Result<Option<Ends<'_>>, String> {
    let Some((from, rest)) = text.split_once("..") else { return Ok(None) };
    let (to, count) = rest.split_once(':').map_or((rest, None), |(to, count)| (to, Some(count)));
    let count = count.map(|count| count.trim().parse::<usize>()).transpose();
    let count = count.map_err(|_| format!("`{text}` is no range: write A..B or A..B:N"))?;
    match count {
        Some(count) if !(2..=MOST_PICTURES).contains(&count) => {
            Err(format!("`{text}` asks for {count} values; a range has 2 to {MOST_PICTURES}"))
        }
        _ => Ok(Some((from.trim(), to.trim(), count))),
    }
}

fn too_many(text: &str) -> String {
    format!("`{text}` has more than {MOST_PICTURES} values")
}

fn wholes(text: &str) -> std::result::Result<Vec<u64>, String> {
    let whole =
        |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no whole number from 0 on"));
    let Some((from, to, count)) = range(text)? else { return Ok(vec![whole(text)?]) };
    let (from, to) = (whole(from)?, whole(to)?);
    let span = to.checked_sub(from).ok_or_else(|| format!("`{text}` runs backwards"))?;
    let count = match count {
        Some(count) => count as u64,
        None if span < MOST_PICTURES as u64 => span + 1,
        None => return Err(too_many(text)),
    };
    let gaps = (count - 1).max(1);
    if span % gaps != 0 {
        return Err(format!("`{text}` can't be cut into {gaps} equal whole steps"));
    }
    Ok((0..count).map(|i| from + span / gaps * i).collect())
}

fn numbers(text: &str) -> std::result::Result<Vec<f64>, String> {
    let number = |text: &str| {
        let parsed = text.parse::<f64>().ok().filter(|number| number.is_finite());
        parsed.ok_or_else(|| format!("`{text}` is no number"))
    };
    let Some((from, to, count)) = range(text)? else { return Ok(vec![number(text)?]) };
    let (from, to) = (number(from)?, number(to)?);
    let count = match count {
        Some(count) => count,
        None if from.fract() != 0.0 || to.fract() != 0.0 || to < from => {
            return Err(format!("`{text}` has no number of values: write A..B:N"));
        }
        None if to - from >= MOST_PICTURES as f64 => return Err(too_many(text)),
        None => (to - from) as usize + 1,
    };
    let gaps = (count - 1).max(1) as f64;
    // Rounded, so that labels have no tails such as 0.30000000000000004.
    let value = |i: usize| ((from + (to - from) * i as f64 / gaps) * 1e6).round() / 1e6;
    Ok((0..count).map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Axis {
        Axis::parse(text, &[]).unwrap()
    }

    #[test]
    fn values_are_read_and_written() {
        let check = |text: &str, values: &str| {
            let axis = parse(text);
            assert_eq!(axis.values_text(), values);
            assert_eq!(parse(&axis.text()), axis, "{text}");
        };
        check("strength=0, 0.5,1", "0,0.5,1");
        check("seed=1..3,9", "1,2,3,9");
        check("seed=18446744073709551614..18446744073709551615", "18446744073709551614,18446744073709551615");
        check("steps=10..50:5", "10,20,30,40,50");
        check("guidance=0..1:5", "0,0.25,0.5,0.75,1");
        check("guidance=3..5", "3,4,5");
        check("strength=1..-1:3", "1,0,-1");
        check("strength=0..0.3:4", "0,0.1,0.2,0.3");
        check("prompt=a dog, red|a cat", "a dog, red|a cat");
        check("prompt=a dog, red", "a dog, red");
        check("negative=|dark", "|dark");
        check("sampler=euler|ddim|", "euler,ddim");
    }

    #[test]
    fn adapters_by_name_pattern_and_none() {
        let folder = tempfile::tempdir().unwrap();
        for run in ["b", "a"] {
            std::fs::create_dir(folder.path().join(run)).unwrap();
            std::fs::write(folder.path().join(run).join("x.safetensors"), run).unwrap();
            std::fs::write(folder.path().join(run).join(format!("{run},1.safetensors")), run).unwrap();
        }
        let folders = [folder.path().to_owned()];
        let pattern = format!("adapter=none|{}/*/x.safetensors", folder.path().display());
        let axis = Axis::parse(&pattern, &[]).unwrap();
        assert_eq!(axis.labels(), ["no adapter", "a/x", "b/x"]);
        assert_eq!(axis.text(), "adapter=none,x.safetensors,x.safetensors");
        let axis = Axis::parse("adapter=a/x:0.5,b/x:1:0", &folders).unwrap();
        assert_eq!(axis.labels(), ["x 0.5", "x 1, text 0"]);
        let axis = Axis::parse("adapter=a,1|", &folders).unwrap();
        assert_eq!(axis.text(), "adapter=a,1.safetensors|");
        for text in ["adapter=none-there*.pt", "adapter=a/y", "adapter=[", "adapter=a/***"] {
            assert!(Axis::parse(text, &folders).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_axis() {
        for text in [
            "",
            "strength",
            "strength=",
            "prompt=",
            "prompt=|",
            "adapter=,",
            "colour=red",
            "seed=1..",
            "seed=-1",
            "seed=3..1",
            "seed=0..10:4",
            "seed=1..1000000",
            "seed=0..18446744073709551615",
            "steps=x",
            "guidance=1..2:1",
            "guidance=1..2:100000",
            "guidance=0..1e9",
            "guidance=0.5..3",
            "guidance=nan",
            "strength=inf..1:3",
        ] {
            assert!(Axis::parse(text, &[]).unwrap_err().is_usage(), "{text}");
        }
        let long = format!("seed={}", "1,".repeat(5000));
        assert!(Axis::parse(&long, &[]).unwrap_err().to_string().len() < 300);
    }
}
