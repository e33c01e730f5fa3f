//! `scumble resize`: another rank for an adapter.

use std::path::PathBuf;

use clap::Args;
use scumble_adapter::rank::RankRule;
use scumble_adapter::resize::{ResizeOptions, resize};
use serde_json::json;

use crate::commands::adapter_files::{self, OutputOptions, TokenOptions, WhichBase};
use crate::commands::losses;
use crate::context::Context;
use crate::failure::{Outcome, Result};

/// Options of `resize`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble resize big.safetensors --rank 16 -o small.safetensors\n  \
    scumble resize big.safetensors --energy 0.95 --per-module --dtype f16 -o small.safetensors")]
pub struct ResizeArgs {
    /// The adapter
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Result
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    rule: RuleOptions,
    #[command(flatten)]
    base: WhichBase,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    tokens: TokenOptions,
}

#[derive(Args)]
#[command(next_help_heading = "Rank")]
struct RuleOptions {
    #[command(flatten)]
    kind: RuleKind,
    /// Give every module the rank it needs by itself; else all get the one rank at which the whole keeps as much
    #[arg(long)]
    per_module: bool,
    /// Most rank, beside --energy, --norm, --sum or --ratio
    #[arg(long, value_name = "N", conflicts_with = "rank")]
    max_rank: Option<usize>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct RuleKind {
    /// This rank
    #[arg(short, long, value_name = "N")]
    rank: Option<usize>,
    /// Keep this fraction of the energy (squared singular values)
    #[arg(long, value_name = "FRACTION")]
    energy: Option<f64>,
    /// Keep this fraction of the Frobenius norm (elsewhere: sv_fro)
    #[arg(long, value_name = "FRACTION")]
    norm: Option<f64>,
    /// Keep this fraction of the sum of singular values (elsewhere: sv_cumulative)
    #[arg(long, value_name = "FRACTION")]
    sum: Option<f64>,
    /// Keep singular values down to the largest divided by this (elsewhere: sv_ratio)
    #[arg(long, value_name = "NUMBER")]
    ratio: Option<f64>,
}

impl RuleKind {
    fn rule(&self) -> RankRule {
        match (self.rank, self.energy, self.norm, self.sum, self.ratio) {
            (Some(rank), ..) => RankRule::Fixed(rank),
            (_, Some(energy), ..) => RankRule::Energy(energy),
            (_, _, Some(norm), ..) => RankRule::Norm(norm),
            (_, _, _, Some(sum), _) => RankRule::Sum(sum),
            (.., ratio) => RankRule::Ratio(ratio.unwrap_or(f64::INFINITY)),
        }
    }
}

/// Resizes.
pub fn run(context: &Context, args: &ResizeArgs) -> Result {
    args.output.check_target(&args.out)?;
    let dtype = adapter_files::dtype(args.output.dtype.as_deref())?;
    let (table, files) = args.base.load_all(context, std::slice::from_ref(&args.input))?;
    let dialect = adapter_files::dialect(args.output.format.as_deref(), &files)?;
    let adapter = &files[0].loaded.adapter;
    let backend = context.backend_with(Some(1))?;
    let options = ResizeOptions {
        rule: args.rule.kind.rule(),
        per_module: args.rule.per_module,
        max_rank: args.rule.max_rank,
        dtype,
        seed: 0,
        threads: context.threads(),
    };
    let progress = losses::Meter::new(context, adapter.modules.len());
    let (resized, report) = resize(adapter, &table, &options, backend.as_ref(), &|done| progress.show(done))?;
    resized.check_finite()?;
    let bytes = |path: &PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let before = bytes(&args.input);
    args.output.write(context, &args.out, &resized, &table, dialect, args.tokens.tokens)?;
    losses::tell(context, &report);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let after = bytes(&args.out);
    context.terminal.status(&format!("{} -> {}", megabytes(before), megabytes(after)));
    if args.output.json {
        let mut result = losses::to_json(&report);
        result["rounding"] = json!(report.rounding);
        result["file"] = json!(args.out);
        result["bytes_before"] = json!(before);
        result["bytes"] = json!(after);
        context.terminal.result(&result.to_string());
    } else {
        context.terminal.result(&args.out.display().to_string());
    }
    Ok(Outcome::Done)
}
