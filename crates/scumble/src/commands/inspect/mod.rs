//! `scumble inspect`: what is this file, and what will it do on that base?

mod adapter;
mod model;
pub(super) mod page;

use std::path::{Path, PathBuf};

use clap::Args;
use scumble_adapter::ModuleTable;
use scumble_adapter::inspect::{BaseView, Content, Fit, InspectOptions, Inspection, fit, inspect};
use scumble_model::files::{TensorSource, open_any};
use scumble_model::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::commands::adapter_files::table_for;
use crate::commands::model as bases;
use crate::context::Context;
use crate::failure::{Failure, Outcome, Result};
use page::Page;

/// Options of `inspect`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    scumble inspect cat.safetensors\n  \
    scumble inspect cat.safetensors --base ./sd15\n  \
    scumble inspect old.pt model.ckpt embedding.pt --json")]
pub struct InspectArgs {
    /// Adapters, embeddings, checkpoints, or folders of models
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Say what would happen on this base: a folder, a file, a name on the Hub, or sd1, sd2, sdxl
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// Print one JSON object a file, each on a line of its own
    #[arg(long)]
    json: bool,
    /// A line for every module of an adapter
    #[arg(long, conflicts_with = "json")]
    modules: bool,
    /// A line for every tensor
    #[arg(long, conflicts_with = "json")]
    tensors: bool,
    /// All metadata, word for word
    #[arg(long, conflicts_with = "json")]
    metadata: bool,
    /// Leave out hashes and the look at a model's numbers, which need the whole file to be read
    #[arg(long)]
    quick: bool,
}

/// A base to try adapters on.
struct Base<'a> {
    name: &'a str,
    table: ModuleTable,
    tokenizer: Option<Tokenizer>,
}

/// Describes every file; one that cannot be read does not keep the others from being described.
pub fn run(context: &Context, args: &InspectArgs) -> Result {
    let base = args.base.as_deref().map(open_base).transpose()?;
    let mut failed = 0;
    for (index, path) in args.files.iter().enumerate() {
        match one(context, args, path, base.as_ref()) {
            Ok(text) if index == 0 || args.json => context.terminal.result(&text),
            Ok(text) => context.terminal.result(&format!("\n{text}")),
            Err(failure) if args.files.len() == 1 => return Err(failure),
            Err(failure) => {
                failure.report(&context.terminal);
                failed += 1;
            }
        }
    }
    match failed {
        0 => Ok(Outcome::Done),
        _ => Err(Failure::new(format!("{failed} of {} files could not be described", args.files.len()))),
    }
}

fn open_base(name: &str) -> Result<Base<'_>> {
    let table = table_for(name)?;
    let is_family = ["sd1", "sd15", "sd1.5", "sd2", "sd21", "sd2.1", "sdxl", "xl"]
        .contains(&name.to_ascii_lowercase().as_str());
    let folder = Path::new(name).join("tokenizer");
    let tokenizer = if is_family {
        None
    } else if Path::new(name).is_dir() {
        folder.is_dir().then(|| Tokenizer::from_folder(&folder)).transpose()?
    } else {
        Some(bases::tokenizer(&bases::open(name)?)?)
    };
    Ok(Base { name, table, tokenizer })
}

fn one(context: &Context, args: &InspectArgs, path: &Path, base: Option<&Base<'_>>) -> Result<String> {
    let options =
        InspectOptions { base: base.map(|base| &base.table), quick: args.quick, threads: context.threads() };
    let found = inspect(path, &options)?;
    let fit = match (base, &found.content) {
        (Some(base), Content::Adapter(_) | Content::Embedding(_)) => {
            let knows = |token: &str| {
                base.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.id_of(token).is_some())
            };
            Some(fit(path, &BaseView { name: base.name, table: &base.table, knows_token: &knows })?)
        }
        _ => None,
    };
    if args.json {
        return Ok(to_json(&found, fit.as_ref()).to_string());
    }
    let mut page = Page::new();
    page.head(&path.display().to_string());
    match &found.content {
        Content::Adapter(content) | Content::Embedding(content) => {
            adapter::describe(&mut page, &found, content);
            if let Some(fit) = &fit {
                adapter::fit(&mut page, fit);
            }
        }
        Content::Model(content) => model::describe(&mut page, &found, content),
        Content::Tensors(content) => model::tensors(&mut page, &found, content),
    }
    closing(&mut page, &found);
    if let (true, Content::Adapter(content) | Content::Embedding(content)) = (args.modules, &found.content) {
        adapter::modules(&mut page, content);
    }
    if args.tensors {
        list_tensors(&mut page, path)?;
    }
    if args.metadata {
        page.text("all metadata", &format!("{} entries", found.metadata.len()));
        for (key, value) in &found.metadata {
            page.line(&format!("{} = {}", page::clean(key), page::clean(value)));
        }
    }
    Ok(page.finish())
}

fn to_json(found: &Inspection, fit: Option<&Fit>) -> Value {
    let mut value = serde_json::to_value(found).unwrap_or_default();
    if let Some(fit) = fit {
        value["on_base"] = json!(fit);
    }
    value
}

/// What every kind of file has: words about its making, and hashes.
fn closing(page: &mut Page, found: &Inspection) {
    let training = &found.training;
    if !training.trigger_words.is_empty() {
        page.text("trigger", &training.trigger_words.join(", "));
    }
    if !training.facts.is_empty() {
        let facts: Vec<String> =
            training.facts.iter().map(|(word, value)| format!("{word} {}", page::clean(value))).collect();
        page.text("made with", &facts.join("; "));
    }
    if !training.tags.is_empty() {
        let tags: Vec<String> =
            training.tags.iter().map(|(tag, count)| format!("{} ({count})", page::clean(tag))).collect();
        page.text("captions", &tags.join(", "));
    }
    if let Some(hashes) = &found.hashes {
        page.text("sha256", &hashes.sha256);
        let mut names = format!("AutoV2 {}, AutoV1 {}", hashes.auto_v2, hashes.auto_v1);
        if let Some(hash) = &hashes.auto_v3 {
            names.push_str(&format!(", AutoV3 {hash}"));
        }
        page.text("known as", &names);
        if hashes.stated_is_right == Some(false) {
            page.text("", "the hash in its metadata (sshs_model_hash) is not that of its tensors: they were changed or written in another order since");
        }
    }
}

fn list_tensors(page: &mut Page, path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Failure::usage("--tensors is for single files").hint("name a file of the folder"));
    }
    let source = open_any(path)?;
    page.text("tensors", &source.names().len().to_string());
    for name in source.names() {
        if let Some(info) = source.info(&name) {
            let (dtype, shape) = (info.dtype.to_string(), format!("{:?}", info.shape));
            page.line(&format!("{dtype:5} {shape:18} {}", page::clean(&name)));
        }
    }
    Ok(())
}
