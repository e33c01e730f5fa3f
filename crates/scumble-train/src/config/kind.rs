//! What is usual for a subject, an object, a style or a face: settings that a beginner need not know.
//!
//! A kind is a layer under everything that is written down. Rates, rank and steps hang together, so each kind states
//! these; batch size and warm-up are the usual ones. Where they come from: the published presets for SD 1.5 of the original tool and of those that came after it.

use toml::Table;

use super::choice::choice;
use crate::error::{Result, TrainError};

choice! {
    /// What the pictures show, and so which settings are usual.
    Kind = Subject {
        /// A person, an animal: something with a name.
        Subject = "subject",
        /// A thing.
        Object = "object",
        /// A way of painting.
        Style = "style",
        /// A face.
        Face = "face",
    }
}

const SUBJECT: &str = r#"
[lora.unet]
rank = 16
alpha = 8.0
[lora.text_encoder]
train = true
rank = 8
alpha = 8.0
[train]
steps = 1500
lr = 1e-4
lr_text_encoder = 5e-5
lr_tokens = 5e-4
schedule = "cosine"
min_snr_gamma = 5.0
"#;

const OBJECT: &str = r#"
[lora.unet]
rank = 8
alpha = 8.0
[lora.text_encoder]
train = true
rank = 8
alpha = 8.0
[train]
steps = 1400
lr = 2e-4
lr_text_encoder = 1e-5
lr_tokens = 5e-4
weight_decay = 0.001
schedule = "linear"
"#;

const STYLE: &str = r#"
[data]
flip = true
[lora.unet]
rank = 16
alpha = 8.0
[lora.text_encoder]
train = true
rank = 8
alpha = 8.0
[train]
steps = 2000
lr = 1e-4
lr_text_encoder = 2e-5
lr_tokens = 5e-4
schedule = "cosine"
min_snr_gamma = 5.0
"#;

const FACE: &str = r#"
[lora.unet]
rank = 16
alpha = 16.0
[lora.text_encoder]
train = true
rank = 16
alpha = 16.0
[train]
steps = 1400
lr = 2e-4
lr_text_encoder = 1e-5
lr_tokens = 5e-4
weight_decay = 0.001
schedule = "linear"
"#;

/// The settings of a kind.
pub fn preset(kind: Kind) -> Result<Table> {
    let text = match kind {
        Kind::Subject => SUBJECT,
        Kind::Object => OBJECT,
        Kind::Style => STYLE,
        Kind::Face => FACE,
    };
    toml::from_str(text).map_err(|error| TrainError::Toml { message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainConfig;

    #[test]
    fn every_kind_is_a_run_and_what_is_written_wins() {
        for kind in [Kind::Subject, Kind::Object, Kind::Style, Kind::Face] {
            let text = format!(
                "kind = \"{kind}\"\n[base]\nmodel = \"b\"\n[data]\nfolder = \"f\"\n[train]\nlr = 7e-4"
            );
            let config = TrainConfig::from_toml(&text).unwrap();
            config.check().unwrap();
            assert_eq!(config.train.lr, 7e-4);
            assert!(config.lora.unet.rank > 4 && config.lora.text_encoder.train, "{kind}");
            // Each is the only one with this.
            let marks = [
                (Kind::Subject, config.train.steps == 1500),
                (Kind::Object, config.lora.unet.rank == 8),
                (Kind::Style, config.data.flip),
                (Kind::Face, config.lora.text_encoder.rank == 16),
            ];
            for (other, mark) in marks {
                assert_eq!(mark, other == kind, "{kind}: the mark of {other}");
            }
            let again = TrainConfig::from_toml(&config.to_toml().unwrap()).unwrap();
            assert_eq!(again, config);
        }
    }
}
