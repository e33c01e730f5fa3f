//! `scumble merge models`: models into one model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use scumble_adapter::bake::table_of;
use scumble_adapter::merge::recipe::{METADATA_KEY, Recipe, RecipeModel};
use scumble_adapter::merge::weights::parse_blocks;
use scumble_adapter::mix::{MixInput, MixOptions, mix};
use scumble_model::base::BaseOptions;
use scumble_model::base::checkpoint::{Checkpoint, Ema, OpenOptions, Part};
use scumble_tensor::{Backend, DType};
use serde_json::json;

use super::{EmaChoice, MergeArgs, inputs};
use crate::commands::adapter_files;
use crate::commands::convert::checkpoint::{check_target, layout, save};
use crate::context::Context;
use crate::failure::{Failure, Result};

/// Options of `merge models`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble merge models painter.safetensors photograph.safetensors:0.4 -o mix.safetensors\n  \
    scumble merge models inpainting.safetensors --add painter.safetensors --subtract sd15.safetensors -o painter-inpainting.safetensors\n  \
    scumble merge models a.ckpt b.ckpt:1 --blocks 2:down=0.2,mid=0.5,up=0.8,BASE=0 --vae 1 -o blocks.safetensors")]
pub struct ModelsArgs {
    /// Models with their weights: folders, .safetensors or .ckpt files, names on the Hub. Those without a weight share what
    /// the others leave to 1
    #[arg(value_name = "MODEL[:WEIGHT]")]
    inputs: Vec<String>,
    /// Result: a folder, or a .safetensors or .ckpt file
    #[arg(short, long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// A merge of models written as TOML, or a model made by merging, whose merge is repeated
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Add the difference of this model from the one of --subtract
    #[arg(long, value_name = "MODEL[:WEIGHT]", requires = "subtract")]
    add: Option<String>,
    /// What the model of --add was made from
    #[arg(long, value_name = "MODEL", requires = "add")]
    subtract: Option<String>,
    /// Weights of blocks, NAME=WEIGHT with commas between or a list of 17 or 26 numbers; with N: for the Nth model only
    /// (that of --add is the last); may be repeated
    #[arg(long, value_name = "[N:]WEIGHTS")]
    blocks: Vec<String>,
    /// Take the VAE whole from the Nth model [default: summed as everything is]
    #[arg(long, value_name = "N")]
    vae: Option<usize>,
    /// Take the text encoder whole from the Nth model
    #[arg(long, value_name = "N")]
    text_encoder: Option<usize>,
    #[command(flatten)]
    output: OutputOptions,
}

/// How the models are read and the result is written.
#[derive(Args, Default)]
#[command(next_help_heading = "Models")]
pub struct OutputOptions {
    /// Layout of the result: folder, safetensors or ckpt [default: what the ending of --out says]
    #[arg(long, value_name = "LAYOUT")]
    format: Option<String>,
    /// Element type to store: f32, f16 or bf16 [default: that of the first model]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    /// Averaged weights that training left in single files: use them instead, or drop them [default: drop]
    #[arg(long, value_name = "WHAT")]
    ema: Option<EmaChoice>,
    /// Weight files of folders to take where there are several kinds, such as fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Replace what is already there
    #[arg(long)]
    force: bool,
    /// Print what was done as JSON on standard output
    #[arg(long)]
    json: bool,
}

impl OutputOptions {
    /// Where a recipe says the rest.
    pub fn of_recipe(force: bool, json: bool) -> Self {
        Self { force, json, ..Self::default() }
    }
}

/// Options of adapters beside a recipe of models.
pub fn refuse_adapter_options(args: &MergeArgs) -> Result<()> {
    let how = &args.how;
    let given = [
        how.mode.is_some(),
        how.rank.is_some(),
        how.energy.is_some(),
        how.alpha.is_some(),
        how.density.is_some(),
        how.seed.is_some(),
        !how.blocks.is_empty(),
        args.model.base.is_some(),
        args.model.config.is_some(),
        args.base.base.is_some(),
    ];
    match given.contains(&true) {
        true => Err(Failure::usage("this recipe mixes models, and the options are for adapters")
            .hint("`scumble merge models --recipe FILE` takes the options that models have")),
        false => Ok(()),
    }
}

/// Merges as the options and the recipe say.
pub fn run(context: &Context, args: &ModelsArgs) -> Result<()> {
    let (mut recipe, folder) = match &args.recipe {
        Some(file) => (inputs::read(file)?, file.parent().map(Path::to_owned).unwrap_or_default()),
        None => (Recipe::default(), PathBuf::new()),
    };
    if recipe.base.is_some() || !recipe.inputs.is_empty() {
        return Err(
            Failure::usage("this recipe merges adapters").hint("use it with `scumble merge --recipe`")
        );
    }
    let typed = args.inputs.iter().chain(&args.add);
    if typed.clone().next().is_some() && !recipe.models.is_empty() {
        return Err(Failure::usage("the recipe names the models already")
            .hint("give models on the command line or in the recipe, not both"));
    }
    for text in typed {
        recipe.models.push(model(text)?);
    }
    if let (Some(minus), Some(last)) = (&args.subtract, recipe.models.last_mut()) {
        last.minus = Some(minus.clone());
    }
    for text in &args.blocks {
        set_blocks(&mut recipe.models, text)?;
    }
    recipe.vae = args.vae.or(recipe.vae);
    recipe.text_encoder = args.text_encoder.or(recipe.text_encoder);
    recipe.dtype = args.output.dtype.clone().or(recipe.dtype);
    recipe.format = args.output.format.clone().or(recipe.format);
    match (&args.out, &recipe.out) {
        (Some(out), _) => recipe.out = Some(out.display().to_string()),
        (None, Some(out)) => recipe.out = Some(folder.join(out).display().to_string()),
        (None, None) => {}
    }
    mix_as(context, &args.output, &recipe, &folder)
}

/// `MODEL[:WEIGHT]`, taken apart from the right because paths may hold colons; a path that exists is taken whole.
fn model(text: &str) -> Result<RecipeModel> {
    let whole = RecipeModel { file: text.to_owned(), ..RecipeModel::default() };
    if Path::new(text).exists() {
        return Ok(whole);
    }
    match text.rsplit_once(':').and_then(|(file, weight)| Some((file, weight.parse::<f64>().ok()?))) {
        Some((_, weight)) if !weight.is_finite() => {
            Err(Failure::usage(format!("`{text}`: {weight} is no weight")))
        }
        Some((file, weight)) => Ok(RecipeModel { file: file.to_owned(), weight: Some(weight), ..whole }),
        None => Ok(whole),
    }
}

/// `[N:]WEIGHTS`: block weights of one model, or of all that have a weight of their own.
fn set_blocks(models: &mut [RecipeModel], text: &str) -> Result<()> {
    let numbered =
        text.split_once(':').and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
    let count = models.len();
    let is_weighted = |model: &RecipeModel| model.weight.is_some() || model.minus.is_some();
    let (mut chosen, weights): (Vec<&mut RecipeModel>, &str) = match numbered {
        Some((number, weights)) => {
            let model = number.checked_sub(1).and_then(|index| models.get_mut(index)).ok_or_else(|| {
                Failure::usage(format!(
                    "`--blocks {text}`: there is no model number {number}; there are {count}"
                ))
                .hint("models are counted from 1")
            })?;
            (vec![model], weights)
        }
        None => (models.iter_mut().filter(|model| is_weighted(model)).collect(), text),
    };
    if chosen.is_empty() || !chosen.iter().all(|model| is_weighted(model)) {
        return Err(Failure::usage(format!("`--blocks {text}` multiplies a weight, and the model has none"))
            .hint("give it one: `b.safetensors:1` with blocks, and the others share what is left"));
    }
    chosen.iter_mut().for_each(|model| model.blocks = Some(weights.to_owned()));
    Ok(())
}

/// Mixes as the recipe says; paths in it start at `folder`.
pub fn mix_as(context: &Context, output: &OutputOptions, recipe: &Recipe, folder: &Path) -> Result<()> {
    if recipe.models.is_empty() {
        return Err(Failure::usage("nothing to merge").hint(
            "name models, such as `scumble merge models a.safetensors b.safetensors:0.4 -o mix.safetensors`",
        ));
    }
    let out = recipe.out.as_deref().map(PathBuf::from).ok_or_else(|| {
        Failure::usage("there is no name for the result").hint("pass --out, such as -o mix.safetensors")
    })?;
    let layout = layout("--format", recipe.format.as_deref(), &out)?;
    if out.exists() && !output.force {
        return Err(Failure::new(format!("`{}` is there already", out.display()))
            .hint("choose another --out, or pass --force to replace it"));
    }
    let dtype = adapter_files::dtype(recipe.dtype.as_deref())?;
    check_kinds(output, recipe, folder)?;
    let inputs = recipe.models.iter().map(|model| open(output, model, folder));
    let mut inputs = inputs.collect::<Result<Vec<MixInput>>>()?;
    set_table_weights(recipe, &mut inputs)?;
    if let (Some(_), Some(first)) = (dtype, inputs.first_mut()) {
        // What is stored otherwise than it was is summed wide and rounded once.
        first.checkpoint.cast(DType::F32);
    }
    let backend: Arc<dyn Backend> = context.backend_with(Some(1))?;
    let mut mixed = mix(&inputs, &options(context, recipe)?, &backend)?;
    if let Some(dtype) = dtype {
        mixed.cast(dtype);
    }
    describe(&mut mixed, recipe, folder, &out)?;
    for (model, input) in recipe.models.iter().zip(&inputs) {
        let paths = std::iter::once(&model.file).chain(&model.minus);
        for path in paths {
            check_target(&mixed, &folder.join(path), &out, layout, output.force)?;
        }
        tell_tokens(context, input);
    }
    context.terminal.status(&format!("{}, {}", mixed.architecture, mixed.purpose));
    warn_of_sum(context, &recipe.models);
    let saved = save(context, &mixed, &out, layout)?;
    if output.json {
        let models: Vec<_> = recipe
            .models
            .iter()
            .map(|model| json!({ "file": model.file, "weight": model.weight, "minus": model.minus }))
            .collect();
        let result = json!({ "file": out, "models": models, "embeddings": saved.embeddings });
        context.terminal.result(&result.to_string());
    } else {
        context.terminal.result(&out.display().to_string());
    }
    Ok(())
}

/// Folders (and models on the Hub) have variants, single files averaged weights: an option that none of the models has
/// use for is a mistake.
fn check_kinds(output: &OutputOptions, recipe: &Recipe, folder: &Path) -> Result<()> {
    let specs = || recipe.models.iter().flat_map(|model| std::iter::once(&model.file).chain(&model.minus));
    let is_file = |spec: &String| folder.join(spec).is_file();
    if output.variant.is_some() && specs().all(is_file) {
        return Err(Failure::usage(
            "--variant chooses among the weight files of folders, and all models are single files",
        )
        .hint("leave --variant out"));
    }
    if output.ema == Some(EmaChoice::Use) && !specs().any(is_file) {
        return Err(Failure::usage(
            "--ema use is for averaged weights in single files, and no model is a single file",
        )
        .hint("leave --ema out, or name the single file that has them"));
    }
    Ok(())
}

fn open(output: &OutputOptions, model: &RecipeModel, folder: &Path) -> Result<MixInput> {
    let open = |spec: &str| -> Result<Checkpoint> {
        let path = folder.join(spec);
        let spec = if path.exists() { path.display().to_string() } else { spec.to_owned() };
        let is_file = path.is_file();
        let mut options = OpenOptions { base: BaseOptions::from_env(), ..OpenOptions::default() };
        options.base.variant = output.variant.clone().filter(|_| !is_file);
        // Folders have no averaged weights beside the others.
        options.ema = match output.ema {
            Some(EmaChoice::Use) if is_file => Ema::Use,
            _ => Ema::Drop,
        };
        Ok(Checkpoint::open(&spec, &options)?)
    };
    let minus = model.minus.as_deref().map(|spec| Ok::<_, Failure>((spec.to_owned(), open(spec)?)));
    Ok(MixInput {
        weight: model.weight,
        minus: minus.transpose()?,
        ..MixInput::new(model.file.clone(), open(&model.file)?)
    })
}

/// Block weights, for the modules of the first model.
fn set_table_weights(recipe: &Recipe, inputs: &mut [MixInput]) -> Result<()> {
    let Some(first) = inputs.first() else { return Ok(()) };
    let table = table_of(&first.checkpoint)?;
    for (model, input) in recipe.models.iter().zip(inputs) {
        if let Some(blocks) = &model.blocks {
            input.blocks = parse_blocks(blocks, &table)?;
        }
    }
    Ok(())
}

fn options(context: &Context, recipe: &Recipe) -> Result<MixOptions> {
    let mut whole = BTreeMap::new();
    for (option, number, parts) in [
        ("--vae", recipe.vae, &[Part::Vae][..]),
        ("--text-encoder", recipe.text_encoder, &[Part::TextEncoder, Part::TextEncoder2][..]),
    ] {
        let Some(number) = number else { continue };
        let index = number.checked_sub(1).filter(|index| *index < recipe.models.len()).ok_or_else(|| {
            let count = recipe.models.len();
            Failure::usage(format!("{option} {number}: there is no model of that number; there are {count}"))
                .hint("models are counted from 1")
        })?;
        whole.extend(parts.iter().map(|part| (*part, index)));
    }
    Ok(MixOptions { whole, threads: context.threads() })
}

fn file_name(spec: &str, folder: &Path) -> String {
    let path = folder.join(spec);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    if path.exists() { name.unwrap_or_default() } else { spec.to_owned() }
}

/// Says in the metadata what the model is made of, without folders.
fn describe(mixed: &mut Checkpoint, recipe: &Recipe, folder: &Path, out: &Path) -> Result<()> {
    let mut recipe = recipe.clone();
    recipe.out = out.file_name().map(|name| name.to_string_lossy().into_owned());
    for model in &mut recipe.models {
        model.file = file_name(&model.file, folder);
        model.minus = model.minus.as_deref().map(|minus| file_name(minus, folder));
    }
    let metadata = &mut mixed.metadata;
    metadata.retain(|key, _| !key.starts_with("sshs_") && key != "modelspec.hash_sha256");
    let names = recipe.models.iter().flat_map(|model| std::iter::once(&model.file).chain(&model.minus));
    metadata.insert("modelspec.merged_from".into(), names.cloned().collect::<Vec<_>>().join(", "));
    metadata.insert(METADATA_KEY.into(), recipe.to_toml()?);
    Ok(())
}

fn tell_tokens(context: &Context, input: &MixInput) {
    let tokens = input.checkpoint.learned_tokens();
    if !tokens.is_empty() {
        context.terminal.detail(&format!("{} has learned tokens: {}", input.name, tokens.join(", ")));
    }
}

/// Weights that do not make a mean are rarely meant.
fn warn_of_sum(context: &Context, models: &[RecipeModel]) {
    let of_models = || models.iter().filter(|model| model.minus.is_none());
    let sum: f64 = of_models().filter_map(|model| model.weight).sum();
    if of_models().all(|model| model.weight.is_some()) && (sum - 1.0).abs() > 1e-6 {
        context.terminal.warning(&format!(
            "the weights add up to {sum}, so the result is no mean; leave one out to have it take up the rest"
        ));
    }
}
