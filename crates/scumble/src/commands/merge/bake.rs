//! Adapters into a model, or out of it again.

use std::path::{Path, PathBuf};

use scumble_adapter::bake::{BakeOptions, BakeReport, bake, table_of};
use scumble_adapter::merge::recipe::{METADATA_KEY, Recipe};
use scumble_adapter::merge::{Input, Mode};
use scumble_model::base::BaseOptions;
use scumble_model::base::checkpoint::{Checkpoint, Ema, Layout, OpenOptions, Saved};
use scumble_tensor::DType;
use serde_json::json;

use super::adapters::{check_hashes, described};
use super::{EmaChoice, MergeArgs};
use crate::commands::adapter_files::{self, LoadedFile, TokenChoice};
use crate::commands::convert::checkpoint::{check_target, layout, save, tell_left_out};
use crate::context::Context;
use crate::failure::{Failure, Result};

/// The original tool's names of this: into a model, and into a `.ckpt`.
const MODES: [&str; 2] = ["upl", "upl-ckpt-v2"];

/// Bakes as the recipe says; paths in it start at `folder`.
pub fn run(context: &Context, args: &MergeArgs, recipe: &Recipe, folder: &Path, base: &str) -> Result<()> {
    let out = recipe.out.as_deref().map(PathBuf::from).ok_or_else(|| {
        Failure::usage("there is no name for the result").hint("pass --out, such as -o baked.safetensors")
    })?;
    let layout = layout("--format", recipe.format.as_deref(), &out)?;
    check(args, recipe, &out, layout)?;
    let mut checkpoint = open(context, args, base, layout)?;
    check_target(&checkpoint, Path::new(base), &out, layout, args.output.force)?;

    let table = table_of(&checkpoint)?;
    let paths: Vec<PathBuf> = recipe.inputs.iter().map(|input| folder.join(&input.file)).collect();
    let files = args.base.load_for(context, &table, &paths)?;
    check_hashes(recipe, &files)?;
    let inputs = recipe.inputs.iter().zip(&files).map(|(input, file)| {
        Ok(Input { name: file.name(), adapter: &file.loaded.adapter, weights: input.weights(&table)? })
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;

    let dtype = adapter_files::dtype(recipe.dtype.as_deref())?;
    if dtype.is_some() {
        // What is stored otherwise than it was is summed wide and rounded once.
        checkpoint.cast(DType::F32);
    }
    let subtract = recipe.unmerge.unwrap_or(false);
    let options =
        BakeOptions { subtract, tokens: args.tokens.tokens != TokenChoice::Omit, threads: context.threads() };
    let report = bake(&mut checkpoint, &inputs, &options, context.backend_with(Some(1))?)?;
    if let Some(dtype) = dtype {
        checkpoint.cast(dtype);
    }
    describe(&mut checkpoint, base, recipe, &out, &files)?;
    // Now that the tokens are known.
    check_target(&checkpoint, Path::new(base), &out, layout, args.output.force)?;
    let saved = save(context, &checkpoint, &out, layout)?;
    tell(context, args, &out, &report, &saved, &files, subtract);
    Ok(())
}

/// Options that would be ignored are mistakes.
fn check(args: &MergeArgs, recipe: &Recipe, out: &Path, layout: Layout) -> Result<()> {
    if out.exists() && !args.output.force {
        return Err(Failure::new(format!("`{}` is there already", out.display()))
            .hint("choose another --out, or pass --force to replace it"));
    }
    let given = [
        ("a rank", recipe.rank.is_some()),
        ("an energy", recipe.energy.is_some()),
        ("a density", recipe.density.is_some()),
        ("a seed", recipe.seed.is_some()),
        ("--for", args.base.base.is_some()),
    ];
    if let Some((option, _)) = given.iter().find(|(_, is_given)| *is_given) {
        return Err(Failure::usage(format!("{option} means nothing where adapters are added to a model"))
            .hint("leave it out; or leave --base out to make an adapter"));
    }
    if recipe.alpha.is_some() {
        return Err(Failure::usage("an alpha is for lpl").hint(
            "weights follow the files: `style.safetensors:0.8`, or `:0.8:0.5` with the text encoder's",
        ));
    }
    match recipe.mode.as_deref() {
        Some(mode) if !MODES.contains(&mode) && mode != Mode::Exact.name() => {
            Err(Failure::usage(format!("mode {mode} makes adapters; with a base, changes are added"))
                .hint("leave the mode out; or merge the adapters first, and bake the result"))
        }
        Some("upl-ckpt-v2") if layout != Layout::Ckpt => {
            Err(Failure::usage(format!("upl-ckpt-v2 makes a .ckpt, not `{}`", out.display()))
                .hint("end the name in .ckpt, or leave the mode out"))
        }
        _ => Ok(()),
    }
}

fn open(context: &Context, args: &MergeArgs, base: &str, layout: Layout) -> Result<Checkpoint> {
    let mut options = OpenOptions { base: BaseOptions::from_env(), ..OpenOptions::default() };
    options.base.config.clone_from(&args.model.config);
    options.base.variant.clone_from(&args.model.variant);
    options.ema = match args.model.ema {
        Some(EmaChoice::Use) => Ema::Use,
        Some(EmaChoice::Drop) | None => Ema::Drop,
    };
    let checkpoint = Checkpoint::open(base, &options)?;
    context.terminal.status(&format!("{}, {}", checkpoint.architecture, checkpoint.purpose));
    if checkpoint.averages_dropped > 0 && options.ema == Ema::Drop {
        context.terminal.status(&format!(
            "{} averaged weights are left out, as they would lack the change; --ema use adds to them",
            checkpoint.averages_dropped
        ));
    }
    tell_left_out(context, &checkpoint, layout);
    Ok(checkpoint)
}

/// Says in the metadata what the model is made of; hashes of what it was are no longer true.
fn describe(
    checkpoint: &mut Checkpoint,
    base: &str,
    recipe: &Recipe,
    out: &Path,
    files: &[LoadedFile],
) -> Result<()> {
    let name = |path: &str| {
        let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        if Path::new(path).exists() { name.unwrap_or_default() } else { path.to_owned() }
    };
    let mut recipe = described(recipe, out, files);
    recipe.base = Some(name(base));
    let metadata = &mut checkpoint.metadata;
    metadata.retain(|key, _| !key.starts_with("sshs_") && key != "modelspec.hash_sha256");
    let names: Vec<String> = std::iter::once(name(base)).chain(files.iter().map(LoadedFile::name)).collect();
    metadata.insert("modelspec.merged_from".into(), names.join(", "));
    metadata.insert(METADATA_KEY.into(), recipe.to_toml()?);
    Ok(())
}

fn tell(
    context: &Context,
    args: &MergeArgs,
    out: &Path,
    report: &BakeReport,
    saved: &Saved,
    files: &[LoadedFile],
    subtract: bool,
) {
    for renamed in &report.renamed {
        let file = &files[renamed.input];
        context.terminal.status(&format!("{} of {} is now {}", renamed.from, file.name(), renamed.to));
    }
    if !report.tokens.is_empty() {
        context.terminal.status(&format!("learned tokens: {}", report.tokens.join(", ")));
    }
    if !report.staying.is_empty() {
        context.terminal.status(&format!("learned tokens stay in the model: {}", report.staying.join(", ")));
    }
    let done = if subtract { "taken out of" } else { "added to" };
    context.terminal.status(&format!("changes of {} modules {done} the model", report.modules));
    if args.output.json {
        let renamed: Vec<_> = report
            .renamed
            .iter()
            .map(|r| json!({ "file": files[r.input].path, "was": r.from, "is": r.to }))
            .collect();
        let result = json!({
            "file": out, "modules": report.modules, "tokens": report.tokens, "renamed_tokens": renamed,
            "embeddings": saved.embeddings,
        });
        context.terminal.result(&result.to_string());
    } else {
        context.terminal.result(&out.display().to_string());
    }
}
