//! scumble-adapter: the LoRA family in memory and on disk.
//!
//! An [`Adapter`] holds low-rank factors by diffusers module path, prefixed with the tower they belong to:
//! `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q`. A [`ModuleTable`] says which modules a base
//! has and how every dialect spells their names; [`dialect`] reads and writes the files. The factors keep the
//! files' layout (`[r, in]`, `[out, r]`, convolutions OIHW); only the door to the model converts.
//!
//! # What the original program calls it
//!
//! | original | here |
//! |---|---|
//! | `inject_trainable_lora` | [`select`] chooses modules, [`create`] makes factors that learn |
//! | `load_safeloras_embeds`, `save_safeloras_with_embeds`, `convert_loras_to_safeloras` | [`dialect::load_adapter`], [`dialect::save_adapter`] |
//! | `patch_pipe`, `monkeypatch_or_replace_lora` | [`attach::attach`] |
//! | `tune_lora_scale` | [`attach::Attached::set_strength`] |
//! | `monkeypatch_remove_lora` | [`attach::Attached::detach`] |
//! | `collapse_lora` | [`attach::fold`] on a loaded model, [`bake::bake`] on its files |
//! | `lora_add` in modes `lpl`, `ljl` | [`merge::merge`] |
//! | `lora_add` in modes `upl`, `upl-ckpt-v2` | [`bake::bake`] |
//! | `svd_distill` | [`extract::extract`] |
//!
//! # Load, look, convert, merge
//!
//! ```
//! use scumble_adapter::dialect::{ReadOptions, WriteOptions, TokenPolicy, by_name, load_adapter, save_adapter};
//! use scumble_adapter::merge::{Input, MergeOptions, Weights, merge};
//! use scumble_adapter::rank::RankRule;
//! use scumble_adapter::{Tower, architecture::table_of};
//! use scumble_tensor::reference::ReferenceBackend;
//!
//! # let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
//! # let folder = tempfile::tempdir()?;
//! # let config = |part: &str| -> Result<serde_json::Value, Box<dyn std::error::Error>> {
//! #     Ok(serde_json::from_str(&std::fs::read_to_string(fixtures.join(format!("tiny-sd1/{part}/config.json")))?)?)
//! # };
//! # let (unet, text_encoder) = (config("unet")?, config("text_encoder")?);
//! # let (style, cat) = (fixtures.join("lora/kohya.safetensors"), fixtures.join("lora/cloneofsimo.safetensors"));
//! # let out = folder.path().join("mix.safetensors");
//! // Which modules there are: by configuration here; `Architecture::Sd1.table()` knows the published models.
//! let table = table_of(Some(&unet), Some(&text_encoder))?;
//!
//! // Whatever dialect a file has: every tensor finds its place, or this is an error that lists the others.
//! let style = load_adapter(&style, &table, ReadOptions::default())?;
//! let cat = load_adapter(&cat, &table, ReadOptions::default())?;
//! assert_eq!((style.report.dialect, cat.report.dialect), ("kohya", "original"));
//! assert_eq!(cat.adapter.ranks(), [4]);
//! assert_eq!(cat.adapter.paths_of(Tower::UNet).count(), 144);
//! assert!(cat.adapter.tokens.contains_key("<s1>"));
//!
//! // The weighted sum of the changes, as well as rank 6 can hold it.
//! let inputs = [
//!     Input { name: "style".into(), adapter: &style.adapter, weights: Weights::all(0.7) },
//!     Input { name: "cat".into(), adapter: &cat.adapter, weights: Weights::all(0.4) },
//! ];
//! let options = MergeOptions { rank: RankRule::Fixed(6), ..MergeOptions::default() };
//! let merged = merge(&inputs, &table, &options, &ReferenceBackend, &|_| ())?;
//! assert!(merged.report.kept() > 0.99);
//!
//! // In the words of another program. What it has no place for is refused unless the options say otherwise.
//! let kohya = by_name("kohya").ok_or("a dialect")?;
//! let options = WriteOptions { tokens: TokenPolicy::Bundle, ..WriteOptions::default() };
//! save_adapter(&out, &merged.adapter, &table, kohya, &options)?;
//! assert_eq!(load_adapter(&out, &table, ReadOptions::default())?.adapter.modules.len(), 156);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # On a loaded model: attach, tune, remove, fold
//!
//! ```
//! use scumble_adapter::attach::{Strength, Towers, attach, fold};
//! use scumble_adapter::dialect::{ReadOptions, load_adapter};
//! # use std::{path::Path, sync::Arc};
//! # use scumble_model::{files::open_any, text_encoder::TextEncoder};
//! # use scumble_tensor::{Backend, DType, reference::ReferenceBackend};
//! # let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
//! # let backend: Arc<dyn Backend> = Arc::new(ReferenceBackend);
//! # let config = std::fs::read_to_string(fixtures.join("tiny-sd1/text_encoder/config.json"))?;
//! # let weights = open_any(&fixtures.join("tiny-sd1/text_encoder/model.safetensors"))?;
//! # let text_encoder = TextEncoder::load(&serde_json::from_str(&config)?, &*weights, &*backend, DType::F32)?;
//! # let (style, cat) = (fixtures.join("lora/cloneofsimo.text_encoder.pt"), fixtures.join("lora/cloneofsimo.text_encoder.pt"));
//! let towers = Towers { text_encoder: Some(text_encoder.modules()), ..Towers::default() };
//! let load = |file: &Path| load_adapter(file, &towers.table(), ReadOptions::default());
//!
//! // Several sit side by side; each keeps its own strength.
//! let style = attach(&load(&style)?.adapter, towers, Strength::default(), &*backend)?;
//! let cat = load(&cat)?.adapter;
//! let worn = attach(&cat, towers, Strength { unet: 0.8, text_encoder: 0.5 }, &*backend)?;
//! assert_eq!(worn.paths().len(), 12);
//! style.set_strength(Strength { unet: 0.0, text_encoder: 0.0 });
//! style.detach();
//! worn.detach();
//!
//! // For good, at no cost afterwards.
//! fold(&cat, towers, Strength::default(), &*backend)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Into a model's files: see [`bake`]; models into a model: see [`mix`].

pub mod adapter;
pub mod architecture;
pub mod attach;
mod attach_rows;
pub mod bake;
pub mod create;
pub mod dialect;
pub mod diff;
pub mod error;
pub mod extract;
pub mod inspect;
pub mod linalg;
pub mod merge;
pub mod mix;
pub mod names;
pub mod parallel;
pub mod positional;
pub mod rank;
pub mod resize;
mod rounding;
pub mod select;
pub mod table;

pub use adapter::{
    Adapter, Axis, Change, HadamardFactors, HadamardSide, KroneckerFactor, KroneckerFactors, LowRankFactors,
    Magnitude, ModuleFactors, TuckerFactors,
};
pub use error::{AdapterError, Result};
pub use table::{Module, ModuleKind, ModuleTable, Tower};
