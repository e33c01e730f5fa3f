//! `scumble extract`: what tuning changed in a model, as an adapter.

use std::path::PathBuf;

use clap::Args;
use scumble_adapter::extract::{ExtractOptions, Extracted, TowerPair, extract, table_of};
use scumble_adapter::linalg::sketch::Keep;
use scumble_adapter::select::{Preset, Targets, TowerTargets};
use scumble_adapter::{Module, ModuleTable, Tower};
use scumble_model::base::{BaseOptions, Component, TowerFiles};
use serde_json::json;

use crate::commands::adapter_files::{self, OutputOptions, TokenChoice};
use crate::commands::{losses, model};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Most rank that an energy asks for, if nothing else is said.
const MAX_RANK: usize = 128;

/// Options of `extract`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble extract --base sd15.safetensors --tuned my-dreambooth.ckpt --rank 16 -o me.safetensors\n  \
    scumble extract --base ./sd15 --tuned ./tuned --energy 0.9 --max-rank 64 --conv -o style.safetensors")]
pub struct ExtractArgs {
    /// The model before tuning: a diffusers folder, a .safetensors or .ckpt file, or a name on the Hub
    #[arg(long, value_name = "MODEL")]
    base: String,
    /// The model after tuning
    #[arg(long, value_name = "MODEL")]
    tuned: String,
    /// The adapter to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    how: HowOptions,
    #[command(flatten)]
    what: WhatOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Args)]
#[command(next_help_heading = "Approximation")]
struct HowOptions {
    /// Rank of every module [default: 4]
    #[arg(short, long, value_name = "N", conflicts_with = "energy")]
    rank: Option<usize>,
    /// Instead of a rank: the fraction of each module's energy to keep, such as 0.95
    #[arg(long, value_name = "FRACTION")]
    energy: Option<f64>,
    /// With --energy: the most rank a module gets [default: 128]
    #[arg(long, value_name = "N", requires = "energy")]
    max_rank: Option<usize>,
    /// Limit the factors to this quantile of their values, as the original tool does with 0.99
    #[arg(long, value_name = "FRACTION")]
    clamp_quantile: Option<f64>,
    /// Seed of the random start; the result hardly depends on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Args)]
#[command(next_help_heading = "Modules")]
struct WhatOptions {
    /// attention, attention+ff, all-linear or all
    #[arg(long, value_name = "PRESET", default_value = "attention+ff")]
    targets: String,
    /// Also the convolutions and time projections of the resnets
    #[arg(long)]
    conv: bool,
    /// Add modules by a pattern over their paths, such as 'unet.mid_block.*'; may be repeated
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Take modules away by a pattern; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
}

/// Extracts.
pub fn run(context: &Context, args: &ExtractArgs) -> Result {
    args.output.check_target(&args.out)?;
    let dialect = adapter_files::dialect(args.output.format.as_deref(), &[])?;
    let dtype = adapter_files::dtype(args.output.dtype.as_deref())?;
    let options = BaseOptions::from_env();
    let base = TowerFiles::open(&args.base, &options)?;
    let tuned = TowerFiles::open(&args.tuned, &options)?;
    let pairs = pairs(args, &base, &tuned)?;
    let table = table_of(&pairs);
    let modules = choose(&args.what, &table)?;
    let backend = context.backend_with(Some(1))?;
    let how = ExtractOptions {
        keep: match args.how.energy {
            Some(fraction) => Keep::Energy { fraction, at_most: args.how.max_rank.unwrap_or(MAX_RANK) },
            None => Keep::Rank(args.how.rank.unwrap_or(4)),
        },
        clamp_quantile: args.how.clamp_quantile,
        dtype,
        seed: args.how.seed,
        threads: context.threads(),
    };
    let progress = losses::Meter::new(context, modules.len());
    let mut extracted = extract(&pairs, &modules, &how, backend.as_ref(), &|done| progress.show(done))?;
    if extracted.adapter.modules.is_empty() {
        return Err(Failure::new(format!(
            "`{}` and `{}` are equal in all {} modules that were compared",
            args.base,
            args.tuned,
            modules.len()
        ))
        .hint("--targets all --conv compares more of them"));
    }
    let names = format!("{} - {}", model::short_name(&args.tuned), model::short_name(&args.base));
    extracted.adapter.metadata.insert("scumble_extracted".into(), names);
    args.output.write(context, &args.out, &extracted.adapter, &table, dialect, TokenChoice::Refuse)?;
    tell(context, args, &extracted);
    Ok(Outcome::Done)
}

/// The towers that both models have; one that only the tuned model has is a mistake.
fn pairs<'f>(args: &ExtractArgs, base: &'f TowerFiles, tuned: &'f TowerFiles) -> Result<Vec<TowerPair<'f>>> {
    let towers: [(Tower, &'f Option<Component>, &'f Option<Component>); 2] = [
        (Tower::UNet, &base.unet, &tuned.unet),
        (Tower::TextEncoder, &base.text_encoder, &tuned.text_encoder),
    ];
    let mut pairs = Vec::new();
    for (tower, base, tuned) in towers {
        match (base, tuned) {
            (Some(base), Some(tuned)) => {
                pairs.push(TowerPair { tower, base: base.weights.as_ref(), tuned: tuned.weights.as_ref() });
            }
            (None, Some(_)) => {
                return Err(Failure::new(format!(
                    "`{}` has no {} to compare with",
                    args.base,
                    tower.prefix()
                )));
            }
            (_, None) => {}
        }
    }
    if pairs.is_empty() {
        return Err(Failure::new(format!("`{}` has nothing that the base has", args.tuned)));
    }
    Ok(pairs)
}

/// The modules of the preset and the patterns.
fn choose<'t>(what: &WhatOptions, table: &'t ModuleTable) -> Result<Vec<&'t Module>> {
    let preset: Preset = what.targets.parse()?;
    let towers = Tower::ALL
        .into_iter()
        .filter(|&tower| table.tower(tower).next().is_some())
        .map(|tower| TowerTargets::new(tower, preset, 1, 1.0))
        .collect();
    let mut include = what.include.clone();
    if what.conv && table.modules().iter().any(|module| module.path.contains(".resnets.")) {
        include.push("unet.*.resnets.*".into());
    }
    let targets = Targets { towers, include, exclude: what.exclude.clone() };
    Ok(targets.choose(table)?.into_iter().map(|chosen| chosen.module).collect())
}

fn tell(context: &Context, args: &ExtractArgs, extracted: &Extracted) {
    losses::tell(context, &extracted.report);
    if extracted.unchanged > 0 {
        context.terminal.status(&format!("{} modules are equal in both models", extracted.unchanged));
    }
    if let Some(first) = extracted.left_out.first() {
        context.terminal.status(&format!(
            "{} other tensors differ too and are not in the adapter, such as {first}; --conv and --targets take more",
            extracted.left_out.len()
        ));
    }
    if args.output.json {
        let mut result = losses::to_json(&extracted.report);
        result["file"] = json!(args.out);
        result["unchanged_modules"] = json!(extracted.unchanged);
        result["left_out"] = json!(extracted.left_out);
        context.terminal.result(&result.to_string());
    } else {
        context.terminal.result(&args.out.display().to_string());
    }
}
