//! What can be asked of `scumble eval`, and what follows from it.

use std::path::{Path, PathBuf};

use clap::Args;
use scumble_eval::prompts::{self, Prompt};
use scumble_paint::request::Request;
use scumble_train::config::Precision;
use scumble_train::picture::read_bounded;

use super::usage;
use crate::commands::generate::BaseOptions;
use crate::commands::generate::options::{AdapterOptions, PaintingOptions};
use crate::failure::{Failure, Result};

/// Largest file of prompts, in bytes.
const LARGEST: u64 = 4 << 20;
/// Most pictures that are painted: seeds times prompts.
const MOST: usize = 100_000;

/// Options of `eval`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble eval --clip clip-vit-large-patch14 --pictures painted --references photos\n  \
    scumble eval --clip clip-vit-large-patch14 --references photos --base sd15.safetensors \\\n    \
        --adapter dog.safetensors --trigger 'sks dog' --class 'a dog' --seeds 4\n  \
    scumble eval --clip clip-vit-large-patch14 --base tuned --original sd15.safetensors -p 'a cat' --json")]
pub struct EvalArgs {
    /// The CLIP model that judges: a folder in transformers' layout, with its tokenizer and preprocessor_config.json
    /// [default for the little world: embedded]
    #[arg(long, value_name = "FOLDER")]
    pub clip: Option<PathBuf>,
    /// Judge the pictures of this folder; their texts stand beside them as .txt or inside them
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["base", "prompts", "original"])]
    pub pictures: Option<PathBuf>,
    /// Pictures of the subject or style: image alignment is the likeness to them
    #[arg(long, value_name = "FOLDER")]
    pub references: Option<PathBuf>,
    /// What to paint; may be repeated. With --pictures: the text of pictures that have none
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Paint each line of a file as well
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// The word that was learned; without --prompt ten fixed prompts with it are painted
    #[arg(long, value_name = "WORDS")]
    pub trigger: Option<String>,
    /// What the judge reads in its place, such as 'a dog' [default: nothing]
    #[arg(long, value_name = "WORDS", requires = "trigger", default_value = "", hide_default_value = true)]
    pub class: String,
    /// The trigger is a style: the fixed prompts are of other things
    #[arg(long, requires = "trigger")]
    pub style: bool,
    /// Pictures for each prompt, with seeds from --seed on
    #[arg(long, value_name = "N", default_value = "1")]
    pub seeds: std::num::NonZeroUsize,
    /// Paint this with and without the adapters, to measure drift; may be repeated [default: the prompts with the class
    /// in place of the trigger]
    #[arg(long, value_name = "TEXT")]
    pub drift_prompt: Vec<String>,
    /// Measure no drift
    #[arg(long, conflicts_with = "drift_prompt")]
    pub no_drift: bool,
    /// The model that --base was tuned from: drift is measured against it
    #[arg(long, value_name = "MODEL", requires = "base")]
    pub original: Option<String>,
    /// Little world: among 20 others, how often is the true caption of a held-out scene found in its picture?
    #[arg(long, value_name = "N")]
    pub held_out: Option<usize>,
    /// Keep the painted pictures, a contact sheet and the report in this folder
    #[arg(short, long, value_name = "FOLDER", requires = "base")]
    pub out: Option<PathBuf>,
    /// Print the report as JSON, picture by picture
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub base: PaintedBase,
    #[command(flatten)]
    pub painting: PaintingOptions,
    #[command(flatten)]
    pub adapters: AdapterOptions,
}

/// Which base paints, if any does.
#[derive(Args)]
#[command(next_help_heading = "Base model")]
pub struct PaintedBase {
    /// Paint with this base: a diffusers folder, a .safetensors or .ckpt file, or a model's name on the Hub
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Weight files of a folder to take where there are several kinds, such as fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// What the model predicts, where its files don't say: epsilon or v_prediction
    #[arg(long, value_name = "KIND")]
    prediction: Option<String>,
    /// Never use the network
    #[arg(long)]
    offline: bool,
    /// Numbers to paint in; the judge computes in f32
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: Precision,
}

impl PaintedBase {
    /// As the options of `generate`.
    pub fn options(&self) -> BaseOptions {
        BaseOptions {
            base: self.base.clone(),
            variant: self.variant.clone(),
            prediction: self.prediction.clone(),
            offline: self.offline,
            precision: self.precision,
        }
    }
}

/// What is to be painted.
pub struct Plan {
    /// How everything is painted.
    pub common: Request,
    /// What is judged.
    pub prompts: Vec<Prompt>,
    /// What is painted with and without adapters.
    pub drift: Vec<String>,
}

impl EvalArgs {
    /// What the options come to, before anything is loaded.
    pub fn plan(&self) -> Result<Plan> {
        let mut common = Request::default();
        self.painting.apply(&mut common);
        self.painting.check(&common)?;
        self.adapters.apply(&mut common)?;
        common.check()?;
        let mut texts = self.prompt.clone();
        if let Some(path) = &self.prompts {
            texts.extend(lines(path)?);
        }
        let prompts = match (&self.trigger, self.base.base.is_some()) {
            (_, false) => Vec::new(),
            (Some(trigger), true) if texts.is_empty() && self.held_out.is_none() => {
                let templates = if self.style { &prompts::STYLE } else { &prompts::SUBJECT };
                prompts::filled(templates, trigger, &self.class)
            }
            _ => {
                texts.iter().map(|text| Prompt { painted: text.clone(), judged: self.judged(text) }).collect()
            }
        };
        self.check(&prompts)?;
        let is_tuned = !common.adapters.is_empty()
            || !common.embeddings.is_empty()
            || prompts.iter().any(|prompt| prompt.painted.contains("<lora:"))
            || self.original.is_some();
        let drift = match (self.no_drift || !is_tuned, self.drift_prompt.is_empty()) {
            (true, _) => Vec::new(),
            (false, false) => self.drift_prompt.clone(),
            (false, true) if self.trigger.is_some() || self.original.is_some() => {
                let text = |prompt: &Prompt| {
                    prompts::replaced(&prompt.painted, self.trigger.as_deref(), &self.class)
                };
                prompts.iter().map(text).collect()
            }
            (false, true) => Vec::new(),
        };
        let most = self.seeds.get().saturating_mul(prompts.len().max(drift.len()));
        if most > MOST || self.held_out.is_some_and(|count| count > MOST) {
            return Err(usage(&format!("that is more than {MOST} pictures"), "lower --seeds or --held-out"));
        }
        Ok(Plan { common, prompts, drift })
    }

    fn check(&self, prompts: &[Prompt]) -> Result<()> {
        if self.base.base.is_none() {
            let given = [
                ("--adapter", !self.adapters.adapter.is_empty()),
                ("--embedding", !self.adapters.embedding.is_empty()),
                ("--drift-prompt", !self.drift_prompt.is_empty()),
            ];
            if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
                return Err(usage(
                    &format!("{option} means nothing without --base"),
                    "add --base, or judge pictures that are there with --pictures FOLDER",
                ));
            }
            if self.pictures.is_none() && self.held_out.is_none() {
                return Err(usage(
                    "there is nothing to judge",
                    "name a folder with --pictures, or a model to paint with by --base",
                ));
            }
        } else if prompts.is_empty() && self.held_out.is_none() {
            return Err(usage(
                "there is nothing to paint",
                "say it with --prompt TEXT, or name the learned word with --trigger for ten fixed prompts",
            ));
        }
        if self.adapters.fold {
            return Err(usage(
                "--fold changes the weights, and drift needs the base as it was",
                "leave --fold out",
            ));
        }
        Ok(())
    }

    /// What the judge reads for a text.
    pub fn judged(&self, text: &str) -> String {
        let text = scumble_paint::tags::extract(text).map_or_else(|_| text.to_owned(), |(text, _)| text);
        prompts::replaced(&text, self.trigger.as_deref(), &self.class)
    }

    /// The seeds of each prompt.
    pub fn seeds(&self) -> Vec<u64> {
        let first = self.painting.seed.unwrap_or(0);
        (0..self.seeds.get() as u64).map(|n| first.wrapping_add(n)).collect()
    }
}

/// The lines of a file that hold a prompt.
fn lines(path: &Path) -> Result<Vec<String>> {
    let bytes = read_bounded(path, LARGEST)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(format!("`{}` is no text in UTF-8", path.display())))?;
    let lines: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if lines.is_empty() {
        return Err(Failure::new(format!("`{}` has no prompts", path.display())));
    }
    Ok(lines)
}
