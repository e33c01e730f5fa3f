//! A merge as a TOML file: what went in, how, and where to. It is kept in the result's metadata, so that a merge can be
//! repeated from its own result.
//!
//! ```toml
//! mode = "exact"
//! rank = 16
//! out = "mix.safetensors"
//!
//! [[inputs]]
//! file = "style.safetensors"
//! weight = 0.7
//!
//! [[inputs]]
//! file = "character.safetensors"
//! unet = 0.4
//! text_encoder = 0.2
//! blocks = "down=0.5,attn2=1"
//! ```
//!
//! With `base = "model.safetensors"` the adapters go into that model. Models that are mixed stand in a list of their own:
//!
//! ```toml
//! out = "mix.safetensors"
//! vae = 1
//!
//! [[models]]
//! file = "painter.safetensors"
//!
//! [[models]]
//! file = "photograph.safetensors"
//! minus = "sd15.safetensors"
//! weight = 0.6
//! blocks = "up=0.5"
//! ```
//!
//! Paths are relative to the recipe's folder. In metadata only file names are kept, with the files' SHA-256.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Weights;
use crate::attach::Strength;
use crate::error::{AdapterError, Result};
use crate::rank::RankRule;
use crate::table::ModuleTable;

/// The metadata key of a result's recipe.
pub const METADATA_KEY: &str = "scumble_recipe";

/// A merge in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// A name of [`super::Mode`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The one alpha of lpl: `alpha` of the first adapter and `1 - alpha` of the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f32>,
    /// Rank of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Fraction of each module's energy to keep, instead of a rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy: Option<f64>,
    /// Fraction of the entries that the sparse modes keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    /// Seed of what is drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Dialect of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Element type of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// A model that the adapters are added to; without it adapters make an adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Take the adapters out of the model instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmerge: Option<bool>,
    /// Where the result goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// Of models: the number of the one whose VAE is taken whole, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<usize>,
    /// Of models: the same for the text encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<usize>,
    /// Models that are mixed, instead of adapters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<RecipeModel>,
    /// What goes in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<RecipeInput>,
}

/// One adapter of a recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeInput {
    /// The file.
    pub file: String,
    /// Its weight, 1 if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
    /// Its weight on the UNet, if another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unet: Option<f32>,
    /// Its weight on the text encoders, if another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<f32>,
    /// Block weights, see [`super::weights`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<String>,
    /// SHA-256 of the file, if it must be that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A model of a mix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeModel {
    /// The model: a path, or a name on the Hub.
    pub file: String,
    /// Its weight; without one it has a share of what the others leave to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Its difference from this model is meant, not the model itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minus: Option<String>,
    /// Block weights, see [`super::weights`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<String>,
}

impl Recipe {
    /// Reads TOML; `name` is the file's, for messages.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let malformed = |what: String| AdapterError::Malformed { file: name.into(), what };
        let recipe: Recipe = toml::from_str(text)
            .map_err(|error| malformed(format!("no merge recipe: {}", error.to_string().trim_end())))?;
        if recipe.rank.is_some() && recipe.energy.is_some() {
            return Err(malformed("`rank` and `energy` exclude each other".into()));
        }
        if !recipe.models.is_empty() && (!recipe.inputs.is_empty() || recipe.base.is_some()) {
            return Err(malformed("models are mixed with models: leave `inputs` and `base` out".into()));
        }
        Ok(recipe)
    }

    /// As TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|error| AdapterError::Malformed { file: "the recipe".into(), what: error.to_string() })
    }

    /// The recipe of a file made by merging, if it carries one.
    pub fn of_metadata(name: &str, metadata: &BTreeMap<String, String>) -> Result<Option<Self>> {
        metadata.get(METADATA_KEY).map(|text| Self::parse(name, text)).transpose()
    }

    /// The rule for ranks.
    pub fn rank_rule(&self) -> RankRule {
        match (self.rank, self.energy) {
            (Some(rank), _) => RankRule::Fixed(rank),
            (None, Some(energy)) => RankRule::Energy(energy),
            (None, None) => RankRule::Lossless,
        }
    }
}

impl RecipeInput {
    /// Its weights on the modules of a base.
    pub fn weights(&self, table: &ModuleTable) -> Result<Weights> {
        let weight = self.weight.unwrap_or(1.0);
        let strength =
            Strength { unet: self.unet.unwrap_or(weight), text_encoder: self.text_encoder.unwrap_or(weight) };
        let blocks =
            self.blocks.as_deref().map(|text| super::weights::parse_blocks(text, table)).transpose()?;
        Ok(Weights { strength, blocks: blocks.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_survives_its_own_words() {
        let recipe = Recipe {
            mode: Some("exact".into()),
            rank: Some(8),
            out: Some("mix \"a\".safetensors".into()),
            inputs: vec![
                RecipeInput { file: "a.safetensors".into(), weight: Some(0.1), ..RecipeInput::default() },
                RecipeInput {
                    file: "b.pt".into(),
                    unet: Some(0.3),
                    text_encoder: Some(-1.5),
                    blocks: Some("down=0.5".into()),
                    ..RecipeInput::default()
                },
            ],
            ..Recipe::default()
        };
        let text = recipe.to_toml().unwrap();
        assert_eq!(Recipe::parse("r", &text).unwrap(), recipe, "{text}");
        let table = ModuleTable::default();
        let second = RecipeInput { blocks: None, ..recipe.inputs[1].clone() };
        assert_eq!(second.weights(&table).unwrap().of("text_encoder.x"), -1.5);
        assert_eq!(recipe.rank_rule(), RankRule::Fixed(8));
        let model = RecipeModel { file: "m".into(), minus: Some("n".into()), ..RecipeModel::default() };
        let models = Recipe { vae: Some(1), models: vec![model], ..Recipe::default() };
        let text = models.to_toml().unwrap();
        assert_eq!(Recipe::parse("r", &text).unwrap(), models, "{text}");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("mood = \"exact\"", "mood"),
            ("rank = 4\nenergy = 0.9", "exclude"),
            ("[[inputs]]\nweight = 1", "file"),
            ("rank = -1", "rank"),
            ("base = \"b\"\n[[models]]\nfile = \"a\"", "leave `inputs`"),
        ] {
            let error = Recipe::parse("r.toml", text).unwrap_err().to_string();
            assert!(error.contains("r.toml") && error.contains(word), "{error}");
        }
    }
}
