//! Adapter files in and out, for the commands that make one adapter of others: which base they are for, which dialect
//! and element type the result has.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use scumble_adapter::architecture::{Architecture, table_of, table_of_all};
use scumble_adapter::dialect::family::guess_family;
use scumble_adapter::dialect::{
    self, Dialect, Loaded, ReadOptions, Rounding, TokenPolicy, WriteOptions, by_name, load_adapter,
    save_and_measure,
};
use scumble_adapter::{Adapter, AdapterError, ModuleTable};
use scumble_tensor::DType;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::commands::model;
use crate::context::Context;
use crate::failure::{Failure, Result};

/// The base that adapters were made for.
#[derive(Args)]
#[command(next_help_heading = "Adapters")]
pub struct WhichBase {
    /// The base they were made for: sd1, sd2, sdxl, or a model's folder, file or name on the Hub [default: looked up in the files]
    #[arg(id = "for", long = "for", value_name = "BASE")]
    pub base: Option<String>,
    /// Use what fits of a file that does not fit whole
    #[arg(long)]
    pub allow_partial: bool,
}

/// How the result is written.
#[derive(Args)]
#[command(next_help_heading = "Result")]
pub struct OutputOptions {
    /// kohya, peft or original [default: as the input, else kohya]
    #[arg(long, value_name = "DIALECT")]
    pub format: Option<String>,
    /// Element type of the factors: f32, f16 or bf16 [default: as the input]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<String>,
    /// Replace the file if it is there already
    #[arg(long)]
    pub force: bool,
    /// Print what was done to every module as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// What happens to learned tokens.
#[derive(Args)]
#[command(next_help_heading = "Result")]
pub struct TokenOptions {
    /// Learned tokens where the dialect has no usual place for them: refuse, bundle (some readers understand) or omit
    #[arg(long, value_name = "WHAT", default_value = "refuse")]
    pub tokens: TokenChoice,
}

/// What to do with tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TokenChoice {
    /// Refuse to write.
    Refuse,
    /// Into the file, as some readers understand.
    Bundle,
    /// Leave them out.
    Omit,
}

impl TokenChoice {
    /// As the dialects take it.
    pub fn policy(self) -> TokenPolicy {
        match self {
            TokenChoice::Refuse => TokenPolicy::Refuse,
            TokenChoice::Bundle => TokenPolicy::Bundle,
            TokenChoice::Omit => TokenPolicy::Omit,
        }
    }
}

/// Warns of factors that took up an alpha and were rounded by it, and says how far.
pub fn tell_rounding(context: &Context, dialect: &dyn Dialect, rounding: Rounding) {
    let Rounding { modules, largest } = rounding;
    if modules > 0 {
        context.terminal.warning(&format!(
            "{} has no place for alpha: it was multiplied into the factors of {modules} modules, which rounds their \
             numbers by up to {largest:.1e} of each; kohya and peft keep it as it is",
            dialect.name()
        ));
    }
}

/// A loaded file.
pub struct LoadedFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub loaded: Loaded,
    /// Of the whole file.
    pub sha256: String,
}

impl LoadedFile {
    /// Its name without folder.
    pub fn name(&self) -> String {
        self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

impl WhichBase {
    /// All the files, and the modules of the base that all of them are for.
    pub fn load_all(&self, context: &Context, paths: &[PathBuf]) -> Result<(ModuleTable, Vec<LoadedFile>)> {
        let table = match (self.base.as_deref(), paths.first()) {
            (Some(base), _) => table_for(base)?,
            (None, Some(first)) => guess_family(first)?.table,
            (None, None) => return Err(Failure::usage("there is no adapter to read")),
        };
        let files = self.load_for(context, &table, paths)?;
        Ok((table, files))
    }

    /// All the files, for a base of which the modules are known.
    pub fn load_for(
        &self,
        context: &Context,
        table: &ModuleTable,
        paths: &[PathBuf],
    ) -> Result<Vec<LoadedFile>> {
        let options = ReadOptions { partial: self.allow_partial };
        let files = paths.iter().map(|path| {
            let loaded = load_adapter(path, table, options).map_err(|error| self.explain(error))?;
            if !loaded.report.is_complete() {
                context.terminal.warning(&format!("{}: {}", path.display(), loaded.report));
            }
            Ok(LoadedFile { path: path.clone(), loaded, sha256: sha256(path)? })
        });
        files.collect()
    }

    /// A file that fits none of the published bases may be for another one.
    fn explain(&self, error: AdapterError) -> Failure {
        let fits_nowhere = matches!(error, AdapterError::Unmatched { .. }) && self.base.is_none();
        let failure = Failure::from(error);
        match fits_nowhere {
            true => failure.hint("for adapters of a base of another size, name it with --for"),
            false => failure,
        }
    }
}

/// The modules of a base by name of its family, or by its files.
pub fn table_for(base: &str) -> Result<ModuleTable> {
    match base.to_ascii_lowercase().as_str() {
        "sd1" | "sd15" | "sd1.5" => return Ok(Architecture::Sd1.table()?),
        "sd2" | "sd21" | "sd2.1" => return Ok(Architecture::Sd2.table()?),
        "sdxl" | "xl" => return Ok(Architecture::Sdxl.table()?),
        _ => {}
    }
    let folder = Path::new(base);
    if folder.is_dir() {
        let config = |part: &str| -> Result<Option<Value>> {
            let path = folder.join(part).join("config.json");
            if !path.exists() {
                return Ok(None);
            }
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Failure::new(format!("cannot read `{}`: {error}", path.display())))?;
            let value = serde_json::from_str(&text)
                .map_err(|error| Failure::new(format!("`{}` is no JSON: {error}", path.display())))?;
            Ok(Some(value))
        };
        let (unet, text, second) = (config("unet")?, config("text_encoder")?, config("text_encoder_2")?);
        if unet.is_none() && text.is_none() {
            return Err(Failure::new(format!(
                "`{base}` has neither unet/config.json nor text_encoder/config.json"
            ))
            .hint("name a diffusers folder, a single file, or a family: sd1, sd2, sdxl"));
        }
        return Ok(table_of_all(unet.as_ref(), text.as_ref(), second.as_ref())?);
    }
    let files = model::open(base)?;
    Ok(table_of(Some(&files.unet.config), Some(&files.text_encoder.config))?)
}

/// The dialect asked for, or that of the files if they agree and it is written, else kohya.
pub fn dialect(name: Option<&str>, files: &[LoadedFile]) -> Result<&'static dyn Dialect> {
    let names = || dialect::writable().iter().map(|dialect| dialect.name()).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        let dialect = by_name(name).filter(|dialect| dialect.is_writable());
        return dialect
            .ok_or_else(|| Failure::usage(format!("no dialect `{name}` is written; there are {}", names())));
    }
    let found: BTreeSet<&str> = files.iter().map(|file| file.loaded.report.dialect).collect();
    let common = found.first().filter(|_| found.len() == 1).and_then(|name| by_name(name));
    let chosen = common.filter(|dialect| dialect.is_writable()).or_else(|| by_name("kohya"));
    chosen.ok_or_else(|| Failure::new("no dialect can be written"))
}

/// The element type of a name.
pub fn dtype(name: Option<&str>) -> Result<Option<DType>> {
    match name.map(str::to_ascii_lowercase).as_deref() {
        None => Ok(None),
        Some("f32" | "fp32" | "float32") => Ok(Some(DType::F32)),
        Some("f16" | "fp16" | "float16") => Ok(Some(DType::F16)),
        Some("bf16" | "bfloat16") => Ok(Some(DType::BF16)),
        Some(other) => Err(Failure::usage(format!(
            "`{other}` is no element type of adapters; there are f32, f16 and bf16"
        ))),
    }
}

/// How many modules several adapters have together.
pub fn count_modules<'a>(adapters: impl Iterator<Item = &'a Adapter>) -> usize {
    adapters.flat_map(|adapter| adapter.modules.keys()).collect::<BTreeSet<_>>().len()
}

impl OutputOptions {
    /// Errors if the result has no place.
    pub fn check_target(&self, out: &Path) -> Result<()> {
        if out.is_dir() {
            return Err(Failure::new(format!("`{}` is a folder", out.display())).hint("name a file"));
        }
        if !out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors")) {
            return Err(Failure::new(format!("`{}` does not end in .safetensors", out.display()))
                .hint("adapters are written as safetensors; name such a file"));
        }
        if out.exists() && !self.force {
            return Err(Failure::new(format!("`{}` is there already", out.display()))
                .hint("choose another --out, or pass --force to replace it"));
        }
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) {
            return Err(Failure::new(format!("there is no folder for `{}`", out.display())));
        }
        Ok(())
    }

    /// Writes an adapter.
    pub fn write(
        &self,
        context: &Context,
        out: &Path,
        adapter: &Adapter,
        table: &ModuleTable,
        dialect: &dyn Dialect,
        choice: TokenChoice,
    ) -> Result<()> {
        let options = WriteOptions { tokens: choice.policy(), ..WriteOptions::default() };
        let rounding = save_and_measure(out, adapter, table, dialect, &options).map_err(|error| {
            let about_tokens = matches!(error, AdapterError::CannotHold { .. }) && !adapter.tokens.is_empty();
            let failure = Failure::from(error);
            match about_tokens && choice == TokenChoice::Refuse {
                true => failure.hint(
                    "--format original keeps tokens in the file; --tokens bundle or omit says what to do otherwise",
                ),
                false => failure,
            }
        })?;
        tell_rounding(context, dialect, rounding);
        Ok(())
    }
}

/// SHA-256 of a whole file, as hexadecimal digits.
pub fn sha256(path: &Path) -> Result<String> {
    let fail = |error: std::io::Error| Failure::new(format!("cannot read `{}`: {error}", path.display()));
    let mut file = File::open(path).map_err(fail)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hash.update(&buffer[..read]),
        }
    }
}
