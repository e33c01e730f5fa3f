//! The module table of a base from its configuration files alone: no weight is read.
//!
//! This lets `inspect` and `convert` work on an adapter without its base. Widths follow diffusers' constructors: block
//! `i` of the way up takes the previous block's width plus the skip connection's, GEGLU projects to `2 * 4 * width`,
//! the time embedding is `4 * block_out_channels[0]` wide.

use serde_json::{Value, json};

use crate::error::{AdapterError, Result};
use crate::table::{Module, ModuleKind, ModuleTable, Tower};

/// More layers, blocks or channels than this is no Stable Diffusion but a damaged or hostile configuration.
const MAX_LAYERS: u64 = 256;
const MAX_WIDTH: u64 = 1 << 20;

/// Families whose configuration is known without any file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Stable Diffusion 1.x: 768-wide text, convolutions around the transformers.
    Sd1,
    /// Stable Diffusion 2.x: 1024-wide text, linear layers around the transformers.
    Sd2,
    /// Stable Diffusion XL: two text encoders, 768 and 1280 wide, and three levels.
    Sdxl,
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Architecture::Sd1 => "Stable Diffusion 1.x",
            Architecture::Sd2 => "Stable Diffusion 2.x",
            Architecture::Sdxl => "Stable Diffusion XL",
        })
    }
}

impl Architecture {
    /// Every family.
    pub const ALL: [Architecture; 3] = [Architecture::Sd1, Architecture::Sd2, Architecture::Sdxl];

    /// The name users type.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::Sd1 => "sd1",
            Architecture::Sd2 => "sd2",
            Architecture::Sdxl => "sdxl",
        }
    }

    /// The table of the full-size published base.
    pub fn table(self) -> Result<ModuleTable> {
        let (cross, linear, hidden, layers) = match self {
            Architecture::Sd1 => (768, false, 768, 12),
            Architecture::Sd2 => (1024, true, 1024, 23),
            Architecture::Sdxl => return sdxl_table(),
        };
        let unet = json!({
            "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": cross,
            "use_linear_projection": linear, "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        });
        let text =
            json!({ "hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers });
        table_of(Some(&unet), Some(&text))
    }
}

fn sdxl_table() -> Result<ModuleTable> {
    let unet = json!({
        "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 2048,
        "use_linear_projection": true, "block_out_channels": [320, 640, 1280],
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 2816,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    });
    let text = |hidden: usize, layers: usize| {
        json!({
            "hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers,
            "projection_dim": hidden,
        })
    };
    table_of_all(Some(&unet), Some(&text(768, 12)), Some(&text(1280, 32)))
}

/// The table of a UNet's and a text encoder's `config.json`.
pub fn table_of(unet: Option<&Value>, text_encoder: Option<&Value>) -> Result<ModuleTable> {
    table_of_all(unet, text_encoder, None)
}

/// As [`table_of`], with SDXL's second text encoder.
pub fn table_of_all(
    unet: Option<&Value>,
    text_encoder: Option<&Value>,
    text_encoder_2: Option<&Value>,
) -> Result<ModuleTable> {
    let mut modules = Vec::new();
    if let Some(config) = unet {
        unet_modules(config, &mut modules)?;
    }
    if let Some(config) = text_encoder {
        text_modules(Tower::TextEncoder, config, &mut modules)?;
    }
    if let Some(config) = text_encoder_2 {
        text_modules(Tower::TextEncoder2, config, &mut modules)?;
    }
    Ok(ModuleTable::new(modules))
}

struct Reader<'c> {
    file: &'static str,
    config: &'c Value,
}

impl Reader<'_> {
    fn fault(&self, what: String) -> AdapterError {
        AdapterError::Config { file: self.file.into(), what }
    }

    fn size(&self, key: &str, max: u64) -> Result<usize> {
        self.size_of(key, &self.config[key], max)
    }

    fn size_of(&self, key: &str, value: &Value, max: u64) -> Result<usize> {
        match value.as_u64() {
            Some(size) if (1..=max).contains(&size) => Ok(size as usize),
            _ => Err(self.fault(format!("{key} is {value}, expected a whole number from 1 to {max}"))),
        }
    }

    /// One number for all blocks, or a list with one number a block.
    fn per_block(&self, key: &str, blocks: usize, default: Option<usize>, max: u64) -> Result<Vec<usize>> {
        match (&self.config[key], default) {
            (Value::Null, Some(default)) => Ok(vec![default; blocks]),
            (Value::Array(list), _) if list.len() == blocks => {
                list.iter().map(|value| self.size_of(key, value, max)).collect()
            }
            (Value::Array(list), _) => {
                Err(self.fault(format!("{key} has {} entries, expected {blocks}", list.len())))
            }
            (value, _) => Ok(vec![self.size_of(key, value, max)?; blocks]),
        }
    }

    fn names(&self, key: &str, blocks: usize) -> Result<Vec<&str>> {
        let list: Option<Vec<&str>> =
            self.config[key].as_array().map(|l| l.iter().map(|v| v.as_str().unwrap_or_default()).collect());
        list.filter(|list| list.len() == blocks)
            .ok_or_else(|| self.fault(format!("{key} is not a list of {blocks} block names")))
    }
}

struct Builder<'o> {
    tower: Tower,
    out: &'o mut Vec<Module>,
}

impl Builder<'_> {
    fn push(&mut self, local: String, kind: ModuleKind, inputs: usize, outputs: usize) {
        self.out.push(Module { path: format!("{}.{local}", self.tower.prefix()), kind, inputs, outputs });
    }

    fn linear(&mut self, local: String, inputs: usize, outputs: usize) {
        self.push(local, ModuleKind::Linear, inputs, outputs);
    }

    fn norm(&mut self, local: String, width: usize) {
        self.push(local, ModuleKind::Norm, width, width);
    }

    fn conv(&mut self, local: String, kernel: usize, inputs: usize, outputs: usize) {
        self.push(local, ModuleKind::Conv { kernel: [kernel, kernel] }, inputs, outputs);
    }

    fn resnet(&mut self, path: &str, inputs: usize, outputs: usize, time: usize) {
        self.norm(format!("{path}.norm1"), inputs);
        self.norm(format!("{path}.norm2"), outputs);
        self.conv(format!("{path}.conv1"), 3, inputs, outputs);
        self.linear(format!("{path}.time_emb_proj"), time, outputs);
        self.conv(format!("{path}.conv2"), 3, outputs, outputs);
        if inputs != outputs {
            self.conv(format!("{path}.conv_shortcut"), 1, inputs, outputs);
        }
    }

    fn transformer(&mut self, path: &str, width: usize, context: usize, layers: usize, linear: bool) {
        self.norm(format!("{path}.norm"), width);
        let mut around = |name: &str| match linear {
            true => self.linear(format!("{path}.{name}"), width, width),
            false => self.conv(format!("{path}.{name}"), 1, width, width),
        };
        around("proj_in");
        around("proj_out");
        for layer in 0..layers {
            let block = format!("{path}.transformer_blocks.{layer}");
            for (attention, context) in [("attn1", width), ("attn2", context)] {
                self.linear(format!("{block}.{attention}.to_q"), width, width);
                self.linear(format!("{block}.{attention}.to_k"), context, width);
                self.linear(format!("{block}.{attention}.to_v"), context, width);
                self.linear(format!("{block}.{attention}.to_out.0"), width, width);
            }
            for norm in ["norm1", "norm2", "norm3"] {
                self.norm(format!("{block}.{norm}"), width);
            }
            self.linear(format!("{block}.ff.net.0.proj"), width, 8 * width);
            self.linear(format!("{block}.ff.net.2"), 4 * width, width);
        }
    }
}

fn unet_modules(config: &Value, out: &mut Vec<Module>) -> Result<()> {
    let reader = Reader { file: "unet/config.json", config };
    let blocks = config["block_out_channels"].as_array().map_or(0, Vec::len);
    if !(1..=16).contains(&blocks) {
        return Err(reader.fault("block_out_channels is not a list of 1 to 16 widths".into()));
    }
    let widths = reader.per_block("block_out_channels", blocks, None, MAX_WIDTH)?;
    let layers = reader.per_block("layers_per_block", blocks, Some(2), MAX_LAYERS)?;
    let depths = reader.per_block("transformer_layers_per_block", blocks, Some(1), MAX_LAYERS)?;
    let contexts = reader.per_block("cross_attention_dim", blocks, Some(1280), MAX_WIDTH)?;
    let down_types = reader.names("down_block_types", blocks)?;
    let up_types = reader.names("up_block_types", blocks)?;
    let linear = config["use_linear_projection"].as_bool().unwrap_or(false);
    let time = 4 * widths[0];
    let last = blocks - 1;

    let mut unet = Builder { tower: Tower::UNet, out };
    unet.conv("conv_in".into(), 3, reader.size("in_channels", MAX_WIDTH)?, widths[0]);
    unet.linear("time_embedding.linear_1".into(), widths[0], time);
    unet.linear("time_embedding.linear_2".into(), time, time);
    if config["addition_embed_type"].as_str() == Some("text_time") {
        let inputs = reader.size("projection_class_embeddings_input_dim", MAX_WIDTH)?;
        unet.linear("add_embedding.linear_1".into(), inputs, time);
        unet.linear("add_embedding.linear_2".into(), time, time);
    }
    for i in 0..blocks {
        let inputs = widths[i.saturating_sub(1)];
        for j in 0..layers[i] {
            if down_types[i].starts_with("CrossAttn") {
                let path = format!("down_blocks.{i}.attentions.{j}");
                unet.transformer(&path, widths[i], contexts[i], depths[i], linear);
            }
            let inputs = if j == 0 { inputs } else { widths[i] };
            unet.resnet(&format!("down_blocks.{i}.resnets.{j}"), inputs, widths[i], time);
        }
        if i < last {
            unet.conv(format!("down_blocks.{i}.downsamplers.0.conv"), 3, widths[i], widths[i]);
        }
    }
    for (i, kind) in up_types.into_iter().enumerate() {
        let mirrored = last - i;
        let width = widths[mirrored];
        let previous = widths[(mirrored + 1).min(last)];
        let skip_below = widths[mirrored.saturating_sub(1)];
        for j in 0..=layers[mirrored] {
            if kind.starts_with("CrossAttn") {
                let path = format!("up_blocks.{i}.attentions.{j}");
                unet.transformer(&path, width, contexts[mirrored], depths[mirrored], linear);
            }
            let before = if j == 0 { previous } else { width };
            let skip = if j == layers[mirrored] { skip_below } else { width };
            unet.resnet(&format!("up_blocks.{i}.resnets.{j}"), before + skip, width, time);
        }
        if i < last {
            unet.conv(format!("up_blocks.{i}.upsamplers.0.conv"), 3, width, width);
        }
    }
    if !config["mid_block_type"].is_null() || config.get("mid_block_type").is_none() {
        unet.transformer("mid_block.attentions.0", widths[last], contexts[last], depths[last], linear);
        unet.resnet("mid_block.resnets.0", widths[last], widths[last], time);
        unet.resnet("mid_block.resnets.1", widths[last], widths[last], time);
    }
    unet.norm("conv_norm_out".into(), widths[0]);
    unet.conv("conv_out".into(), 3, widths[0], reader.size("out_channels", MAX_WIDTH)?);
    Ok(())
}

fn text_modules(tower: Tower, config: &Value, out: &mut Vec<Module>) -> Result<()> {
    let file =
        if tower == Tower::TextEncoder { "text_encoder/config.json" } else { "text_encoder_2/config.json" };
    let reader = Reader { file, config };
    let hidden = reader.size("hidden_size", MAX_WIDTH)?;
    let inner = reader.size("intermediate_size", MAX_WIDTH)?;
    let mut text = Builder { tower, out };
    for layer in 0..reader.size("num_hidden_layers", MAX_LAYERS)? {
        let path = format!("text_model.encoder.layers.{layer}");
        for projection in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            text.linear(format!("{path}.self_attn.{projection}"), hidden, hidden);
        }
        text.linear(format!("{path}.mlp.fc1"), hidden, inner);
        text.linear(format!("{path}.mlp.fc2"), inner, hidden);
        text.norm(format!("{path}.layer_norm1"), hidden);
        text.norm(format!("{path}.layer_norm2"), hidden);
    }
    text.norm("text_model.final_layer_norm".into(), hidden);
    if tower == Tower::TextEncoder2 {
        text.linear("text_projection".into(), hidden, reader.size("projection_dim", MAX_WIDTH)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_counts() {
        for (architecture, text_modules) in [(Architecture::Sd1, 72), (Architecture::Sd2, 138)] {
            let table = architecture.table().unwrap();
            let in_transformers = |m: &&Module| m.path.contains(".attentions.");
            assert_eq!(table.tower(Tower::UNet).filter(in_transformers).count(), 192);
            let in_resnets =
                |m: &&Module| [".resnets.", "samplers."].iter().any(|part| m.path.contains(part));
            assert_eq!(192 + table.tower(Tower::UNet).filter(in_resnets).count(), 278);
            assert_eq!(table.tower(Tower::TextEncoder).count(), text_modules);
        }
    }

    #[test]
    fn published_counts_of_sdxl() {
        let table = Architecture::Sdxl.table().unwrap();
        let count = |tower, part: &str| table.tower(tower).filter(|m| m.path.contains(part)).count();
        assert_eq!(count(Tower::UNet, ".attentions."), 722);
        assert_eq!(count(Tower::UNet, ".attn2.to_k"), 70);
        assert_eq!(count(Tower::TextEncoder, ".layers."), 72);
        assert_eq!(count(Tower::TextEncoder2, ".layers."), 192);
        assert!(table.is_sdxl() && !Architecture::Sd2.table().unwrap().is_sdxl());
    }

    #[test]
    fn absurd_configurations_are_refused() {
        let text = json!({ "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 4_000_000_000u64 });
        assert!(matches!(table_of(None, Some(&text)), Err(AdapterError::Config { .. })));
        assert!(table_of(Some(&json!({ "block_out_channels": [] })), None).is_err());
        assert!(table_of(Some(&json!("no object")), None).is_err());
    }
}
