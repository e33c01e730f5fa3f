//! Reads an adapter of any dialect and writes it in another:
//!
//! ```text
//! cargo run -p scumble-adapter --example rewrite -- BASE_FOLDER IN DIALECT OUT
//! ```
//!
//! `BASE_FOLDER` is a diffusers folder; of it only the configurations are read. `tools/compat/adapters.py` holds
//! what comes out against diffusers' own reader.

use std::error::Error;
use std::path::Path;

use scumble_adapter::architecture::table_of;
use scumble_adapter::dialect::{ReadOptions, TokenPolicy, WriteOptions, by_name, load_adapter, save_adapter};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, input, dialect, output] = &arguments[..] else {
        return Err("usage: rewrite BASE_FOLDER IN DIALECT OUT".into());
    };
    let config = |folder: &str| -> Result<serde_json::Value, Box<dyn Error>> {
        let text = std::fs::read_to_string(Path::new(base).join(folder).join("config.json"))?;
        Ok(serde_json::from_str(&text)?)
    };
    let table = table_of(Some(&config("unet")?), Some(&config("text_encoder")?))?;
    let loaded = load_adapter(Path::new(input), &table, ReadOptions::default())?;
    let dialect = by_name(dialect).ok_or("no dialect of that name")?;
    let options = WriteOptions { tokens: TokenPolicy::Omit, ..WriteOptions::default() };
    save_adapter(Path::new(output), &loaded.adapter, &table, dialect, &options)?;
    println!("{}", loaded.report);
    Ok(())
}
