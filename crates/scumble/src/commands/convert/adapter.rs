//! `scumble convert` for adapters and embeddings.

use clap::{Args, ValueEnum};
use scumble_adapter::ModuleTable;
use scumble_adapter::dialect::family::guess_family;
use scumble_adapter::dialect::{
    Dialect, Loaded, ReadOptions, WriteOptions, companions, is_pickled_name, load_adapter, pickled_ending,
    save_and_measure,
};
use scumble_adapter::names::Naming;
use scumble_adapter::positional::Generation;

use super::ConvertArgs;
use crate::commands::adapter_files::{self, TokenChoice, table_for, tell_rounding};
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};

/// Options that concern adapters only.
#[derive(Args)]
#[command(next_help_heading = "Adapters and embeddings")]
pub struct AdapterOptions {
    /// The base they were made for: sd1, sd2, sdxl, or a model's folder (for SD 1 and 2 also a file or a name on the Hub) [default: told by names and sizes]
    #[arg(long = "for", alias = "base", value_name = "BASE")]
    pub base: Option<String>,
    /// Take what fits when some tensors of the input have no place, and say what was left
    #[arg(long)]
    pub allow_partial: bool,
    /// Learned tokens where the dialect has no usual place for them
    #[arg(long, value_name = "WHAT", default_value = "refuse")]
    pub tokens: TokenChoice,
    /// Take one learned token out of the file, and nothing else
    #[arg(long, value_name = "NAME", conflicts_with = "tokens")]
    pub token: Option<String>,
    /// Call the token this in the result
    #[arg(long, value_name = "NAME")]
    pub rename_token: Option<String>,
    /// For kohya: names of the UNet's modules [default: as the input, else compvis for SDXL]
    #[arg(long, value_name = "NAMES")]
    pub names: Option<NamesChoice>,
    /// For original: the order of modules in diffusers up to 0.14, or from 0.15 on [default: as the input, else 0.14]
    #[arg(long, value_name = "ORDER")]
    pub order: Option<OrderChoice>,
}

impl AdapterOptions {
    /// One of the options that was used.
    pub fn given(&self) -> Option<&'static str> {
        let used = [
            ("--for", self.base.is_some()),
            ("--allow-partial", self.allow_partial),
            ("--tokens", self.tokens != TokenChoice::Refuse),
            ("--token", self.token.is_some()),
            ("--rename-token", self.rename_token.is_some()),
            ("--names", self.names.is_some()),
            ("--order", self.order.is_some()),
        ];
        used.into_iter().find_map(|(option, is_used)| is_used.then_some(option))
    }
}

/// Names in kohya files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NamesChoice {
    /// `down_blocks_0_attentions_0`.
    Diffusers,
    /// `input_blocks_1_1`.
    Compvis,
}

/// Order of numbered modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OrderChoice {
    /// The feed-forward between the attentions.
    #[value(name = "0.14")]
    UpTo014,
    /// The feed-forward behind them.
    #[value(name = "0.15")]
    From015,
}

/// Reads in any dialect, writes in the one asked for.
pub fn run(context: &Context, args: &ConvertArgs) -> Result {
    let to = args.to.as_deref().ok_or_else(|| Failure::usage("adapters need a dialect: pass --to"))?;
    let dialect = adapter_files::dialect(Some(to), &[])?;
    check_target(args, dialect)?;
    let (mut loaded, table) = load(args)?;
    if !loaded.report.is_complete() {
        context.terminal.warning(&format!("{}: {}", args.input.display(), loaded.report));
    }
    select_token(args, &mut loaded)?;
    let choice = &args.adapter;
    if choice.tokens == TokenChoice::Omit && loaded.adapter.modules.is_empty() {
        return Err(Failure::new(format!("`{}` holds learned tokens alone", args.input.display()))
            .hint("without them nothing is left; convert it to a1111-embedding or diffusers-embedding"));
    }
    let options = WriteOptions {
        dtype: adapter_files::dtype(args.dtype.as_deref())?,
        tokens: choice.tokens.policy(),
        generation: choice.order.map(|order| match order {
            OrderChoice::UpTo014 => Generation::UpTo014,
            OrderChoice::From015 => Generation::From015,
        }),
        naming: choice.names.map(|names| match names {
            NamesChoice::Diffusers => Naming::Diffusers,
            NamesChoice::Compvis => Naming::CompVis,
        }),
    };
    let rounding = save_and_measure(&args.output, &loaded.adapter, &table, dialect, &options)?;
    tell_rounding(context, dialect, rounding);
    let adapter = &loaded.adapter;
    if is_pickled_name(&args.output) && !adapter.metadata.is_empty() {
        context.terminal.status(&format!(
            "its metadata is left out: {} has no place for it",
            pickled_ending(dialect).unwrap_or_default()
        ));
    }
    context.terminal.status(&format!(
        "{} -> {}: {} modules, {} tokens",
        loaded.report.dialect,
        dialect.name(),
        adapter.modules.len(),
        if choice.tokens == TokenChoice::Omit { 0 } else { adapter.tokens.len().max(adapter.tokens_2.len()) }
    ));
    context.terminal.result(&args.output.display().to_string());
    Ok(Outcome::Done)
}

/// A name that promises another container than the dialect's would mislead every reader.
fn check_target(args: &ConvertArgs, dialect: &dyn Dialect) -> Result<()> {
    let out = &args.output;
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let is_safetensors = out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"));
    let pickled = pickled_ending(dialect);
    if !is_safetensors && !pickled.is_some_and(|ending| name.ends_with(ending)) {
        let failure = match pickled {
            Some(ending) => format!("`{}` ends neither in .safetensors nor in {ending}", out.display()),
            None => format!("`{}` does not end in .safetensors", out.display()),
        };
        return Err(Failure::usage(failure).hint(
            "all readers of adapters take safetensors; original and a1111-embedding can also be .pt, \
             diffusers-embedding .bin",
        ));
    }
    let there = companions(out, dialect).into_iter().find(|file| file.exists());
    match there {
        Some(file) if !args.force => {
            Err(Failure::new(format!("`{}`, which goes with it, is already there", file.display()))
                .hint("choose another name, or pass --force to replace it"))
        }
        _ => Ok(()),
    }
}

/// For the base named, or for the family that the file's tensors agree with.
fn load(args: &ConvertArgs) -> Result<(Loaded, ModuleTable)> {
    let table = match &args.adapter.base {
        Some(base) => table_for(base)?,
        None => guess_family(&args.input)?.table,
    };
    let options = ReadOptions { partial: args.adapter.allow_partial };
    Ok((load_adapter(&args.input, &table, options)?, table))
}

fn select_token(args: &ConvertArgs, loaded: &mut Loaded) -> Result<()> {
    let adapter = &mut loaded.adapter;
    if let Some(token) = &args.adapter.token {
        let known = adapter.tokens.contains_key(token) || adapter.tokens_2.contains_key(token);
        if !known {
            let names: Vec<&str> = adapter.tokens.keys().map(String::as_str).collect();
            let hint =
                if names.is_empty() { "it has none".into() } else { format!("it has {}", names.join(", ")) };
            return Err(Failure::new(format!("`{}` has no token {token}", args.input.display())).hint(hint));
        }
        adapter.modules.clear();
        adapter.tokens.retain(|name, _| name == token);
        adapter.tokens_2.retain(|name, _| name == token);
    }
    if let Some(name) = &args.adapter.rename_token {
        if adapter.tokens.len() > 1 || adapter.tokens_2.len() > 1 || name.is_empty() {
            return Err(Failure::usage("--rename-token is for a file with one token")
                .hint("choose it with --token, and give it a name"));
        }
        for tokens in [&mut adapter.tokens, &mut adapter.tokens_2] {
            if let Some((_, rows)) = tokens.pop_first() {
                tokens.insert(name.clone(), rows);
            }
        }
    }
    Ok(())
}
