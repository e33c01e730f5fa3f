//! Adapters into one adapter.

use std::path::{Path, PathBuf};

use scumble_adapter::merge::recipe::{METADATA_KEY, Recipe};
use scumble_adapter::merge::{Input, MergeOptions, Merged, Mode, merge};
use serde_json::json;

use super::MergeArgs;
use crate::commands::adapter_files::{self, LoadedFile};
use crate::commands::losses;
use crate::context::Context;
use crate::failure::{Failure, Result};

/// Merges as the recipe says; paths in it start at `folder`.
pub fn run(context: &Context, args: &MergeArgs, recipe: &Recipe, folder: &Path) -> Result<()> {
    let out = recipe.out.as_deref().map(PathBuf::from).ok_or_else(|| {
        Failure::usage("there is no name for the result").hint("pass --out, such as -o mix.safetensors")
    })?;
    args.output.check_target(&out)?;
    let mode = recipe.mode.as_deref().map_or(Ok(Mode::Exact), Mode::from_name)?;
    check(recipe, mode)?;
    let paths: Vec<PathBuf> = recipe.inputs.iter().map(|input| folder.join(&input.file)).collect();
    let (table, files) = args.base.load_all(context, &paths)?;
    check_hashes(recipe, &files)?;
    let alphas = alphas(recipe, mode)?;
    let inputs = recipe
        .inputs
        .iter()
        .zip(&files)
        .enumerate()
        .map(|(index, (input, file))| {
            let mut weights = input.weights(&table)?;
            if let Some(alphas) = alphas {
                (weights.strength.unet, weights.strength.text_encoder) = (alphas[index], alphas[index]);
            }
            Ok(Input { name: file.name(), adapter: &file.loaded.adapter, weights })
        })
        .collect::<Result<Vec<_>>>()?;
    let options = MergeOptions {
        mode,
        rank: recipe.rank_rule(),
        density: recipe.density.unwrap_or(0.5),
        seed: recipe.seed.unwrap_or(0),
        dtype: adapter_files::dtype(recipe.dtype.as_deref())?,
        threads: context.threads(),
    };
    let dialect = adapter_files::dialect(recipe.format.as_deref(), &files)?;
    let backend = context.backend_with(Some(1))?;
    let modules = adapter_files::count_modules(files.iter().map(|file| &file.loaded.adapter));
    let progress = losses::Meter::new(context, modules);
    let mut merged = merge(&inputs, &table, &options, backend.as_ref(), &|done| progress.show(done))?;
    merged.adapter.metadata.insert(METADATA_KEY.into(), described(recipe, &out, &files).to_toml()?);
    args.output.write(context, &out, &merged.adapter, &table, dialect, args.tokens.tokens)?;
    tell(context, args, &out, &merged, &files);
    Ok(())
}

/// Options that would be ignored are mistakes.
fn check(recipe: &Recipe, mode: Mode) -> Result<()> {
    let refuse = |option: &str, whose: &str| {
        Err(Failure::usage(format!("{option} is for {whose}; the mode is {}", mode.name())))
    };
    if recipe.alpha.is_some() && mode != Mode::Lpl {
        return refuse("an alpha", "lpl");
    }
    if recipe.density.is_some() && !mode.is_sparse() {
        return refuse("a density", "ties, dare, dare-ties and magnitude");
    }
    Ok(())
}

/// The weights of lpl with one alpha.
fn alphas(recipe: &Recipe, mode: Mode) -> Result<Option<[f32; 2]>> {
    let Some(alpha) = recipe.alpha.filter(|_| mode == Mode::Lpl) else { return Ok(None) };
    let weighted = |input: &&scumble_adapter::merge::recipe::RecipeInput| {
        input.weight.is_some() || input.unet.is_some() || input.text_encoder.is_some()
    };
    if recipe.inputs.len() != 2 || recipe.inputs.iter().any(|input| weighted(&input)) {
        return Err(Failure::usage("--alpha stands for the weights of two files").hint(
            "give two files without weights and --alpha, or weights after the files: `a.safetensors:2 b.safetensors:0.7`",
        ));
    }
    Ok(Some([alpha, 1.0 - alpha]))
}

pub fn check_hashes(recipe: &Recipe, files: &[LoadedFile]) -> Result<()> {
    for (input, file) in recipe.inputs.iter().zip(files) {
        if input.sha256.as_ref().is_some_and(|wanted| !wanted.eq_ignore_ascii_case(&file.sha256)) {
            return Err(Failure::new(format!(
                "`{}` is not the file of the recipe: its SHA-256 is {}",
                file.path.display(),
                file.sha256
            ))
            .hint("find the file of that time, or remove `sha256` from the recipe"));
        }
    }
    Ok(())
}

/// The recipe as the result carries it: no folders, and with the files' hashes.
pub fn described(recipe: &Recipe, out: &Path, files: &[LoadedFile]) -> Recipe {
    let mut recipe = recipe.clone();
    recipe.out = out.file_name().map(|name| name.to_string_lossy().into_owned());
    for (input, file) in recipe.inputs.iter_mut().zip(files) {
        input.file = file.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        input.sha256 = Some(file.sha256.clone());
    }
    recipe
}

fn tell(context: &Context, args: &MergeArgs, out: &Path, merged: &Merged, files: &[LoadedFile]) {
    for renamed in &merged.renamed {
        let file = &files[renamed.input];
        context.terminal.status(&format!("{} of {} is now {}", renamed.from, file.name(), renamed.to));
    }
    losses::tell(context, &merged.report);
    if args.output.json {
        let renamed: Vec<_> = merged
            .renamed
            .iter()
            .map(|r| json!({ "file": files[r.input].path, "was": r.from, "is": r.to }))
            .collect();
        let mut result = losses::to_json(&merged.report);
        result["rounding"] = json!(merged.report.rounding);
        result["file"] = json!(out);
        result["renamed_tokens"] = json!(renamed);
        context.terminal.result(&result.to_string());
    } else {
        context.terminal.result(&out.display().to_string());
    }
}
