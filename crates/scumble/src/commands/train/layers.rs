//! The layers of a run's settings, weakest first: defaults (of the precision, what suits the machine), the run file (of
//! a resumed run: its own), the environment (`SCUMBLE_<SECTION>_<KEY>`), the command line.

use std::path::{Path, PathBuf};

use toml::Table;

use scumble_model::base::embedded;
use scumble_train::TrainConfig;
use scumble_train::config::{all_fields, merge_tables, set_from_text};
use scumble_train::run::folder::RunFolder;

use super::TrainArgs;
use crate::failure::{Failure, Result};
use crate::precision;

/// The settings of the run that the command line means.
pub fn config(args: &TrainArgs, threads: Option<usize>, resume: Option<&Path>) -> Result<TrainConfig> {
    let typed = args.settings(threads)?;
    let mut above = environment()?;
    merge_tables(&mut above, typed);
    let mut table = match (&args.config, &args.resume) {
        (Some(path), _) => read(path)?,
        (None, Some(_)) => read(&run_file(resume, &above)?)?,
        (None, None) => Table::new(),
    };
    merge_tables(&mut table, above);
    if value(&table, "train", "precision").is_none() {
        set_from_text(&mut table, "train.precision", precision::asked_or_usual()?.name())?;
    }
    if args.resume.is_none() {
        embedded_base(&mut table)?;
    }
    Ok(TrainConfig::from_table(table)?)
}

/// Without a base the embedded one learns, and at the size of its pictures.
fn embedded_base(table: &mut Table) -> Result<()> {
    let model = value(table, "base", "model").and_then(toml::Value::as_str).unwrap_or(embedded::NAME);
    if model != embedded::NAME {
        return Ok(());
    }
    set_from_text(table, "base.model", embedded::NAME)?;
    let side = embedded::SIDE.to_string();
    for key in ["width", "height"] {
        if value(table, "data", key).is_none() {
            set_from_text(table, &format!("data.{key}"), &side)?;
        }
    }
    Ok(())
}

fn value<'t>(table: &'t Table, section: &str, key: &str) -> Option<&'t toml::Value> {
    table.get(section)?.as_table()?.get(key)
}

fn environment() -> Result<Table> {
    let mut table = Table::new();
    for (key, _) in all_fields() {
        let name = format!("SCUMBLE_{}", key.replace('.', "_").to_uppercase());
        if let Some(text) = std::env::var_os(&name) {
            set_from_text(&mut table, &key, &text.to_string_lossy())?;
        }
    }
    Ok(table)
}

/// The resolved settings that the run wrote when it began.
fn run_file(resume: Option<&Path>, above: &Table) -> Result<PathBuf> {
    let run = match resume {
        Some(path) if path.is_dir() => path.to_owned(),
        // A checkpoint lies in the `checkpoints` folder of its run.
        Some(path) => path.parent().and_then(Path::parent).map(Path::to_owned).unwrap_or_default(),
        None => RunFolder::newest(&TrainConfig::from_table(above.clone())?.save)?,
    };
    let file = run.join("config.toml");
    if !file.is_file() {
        let given = resume.unwrap_or(&run).display();
        return Err(Failure::new(format!("`{given}` is no training run and no checkpoint of one"))
            .hint("give a run's folder, a file of its `checkpoints` folder, or `last`"));
    }
    Ok(file)
}

fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read the run file `{}`: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| {
        Failure::new(format!("`{}` is no TOML: {}", path.display(), error.to_string().trim()))
    })
}
