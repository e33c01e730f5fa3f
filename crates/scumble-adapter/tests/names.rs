//! Module tables and spellings against the published index tables and key maps.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;

use common::{fixture, json, shared, table};
use scumble_adapter::architecture::Architecture;
use scumble_adapter::positional::{Generation, Target, order};
use scumble_adapter::{Module, ModuleKind, ModuleTable, Tower};
use serde_json::Value;

fn slots(table: &ModuleTable, tower: Tower, targets: &[Target], generation: Generation) -> Vec<Module> {
    let targets: BTreeSet<Target> = targets.iter().copied().collect();
    order(table, tower, &targets, generation).into_iter().cloned().collect()
}

const FULL: [Target; 2] = [Target::Attention, Target::Geglu];
const EXTENDED: [Target; 3] = [Target::Attention, Target::Geglu, Target::Resnet];

#[test]
fn slots_of_the_tiny_base_are_the_recorded_ones() {
    let (table, lora) = (table("tiny-sd1"), json(&fixture("lora/lora.json")));
    for (key, tower, targets, generation) in [
        ("unet_order_le_0.14", Tower::UNet, &FULL[..], Generation::UpTo014),
        ("unet_order_ge_0.15", Tower::UNet, &FULL, Generation::From015),
        ("unet_order_extended_le_0.14", Tower::UNet, &EXTENDED, Generation::UpTo014),
        ("text_order", Tower::TextEncoder, &[Target::TextAttention], Generation::UpTo014),
    ] {
        let expected: Vec<&str> = lora[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        let ours = slots(&table, tower, targets, generation);
        assert_eq!(ours.iter().map(Module::local_path).collect::<Vec<_>>(), expected, "{key}");
    }
}

#[test]
fn slots_of_the_published_bases_are_the_tabulated_ones() {
    let Some(path) = shared("reference/lora_index_maps.json") else { return };
    let maps = json(&path);
    let (sd1, sd2) = (Architecture::Sd1.table().unwrap(), Architecture::Sd2.table().unwrap());
    for (key, table, tower, targets, generation) in [
        ("sd15_unet_default_diffusers_le_0.14", &sd1, Tower::UNet, &FULL[..], Generation::UpTo014),
        ("sd15_unet_default_diffusers_ge_0.15", &sd1, Tower::UNet, &FULL, Generation::From015),
        ("sd15_unet_legacy_no_geglu", &sd1, Tower::UNet, &[Target::Attention], Generation::UpTo014),
        ("sd15_unet_extended_diffusers_le_0.14", &sd1, Tower::UNet, &EXTENDED, Generation::UpTo014),
        ("sd2_unet_default_diffusers_le_0.14", &sd2, Tower::UNet, &FULL, Generation::UpTo014),
        ("sd2_unet_legacy_no_geglu", &sd2, Tower::UNet, &[Target::Attention], Generation::UpTo014),
        ("sd15_text", &sd1, Tower::TextEncoder, &[Target::TextAttention], Generation::UpTo014),
        ("sd2_text", &sd2, Tower::TextEncoder, &[Target::TextAttention], Generation::UpTo014),
    ] {
        let ours: Vec<Value> = slots(table, tower, targets, generation).iter().map(row).collect();
        let expected: Vec<Value> = maps[key].as_array().unwrap().iter().map(without_index).collect();
        assert_eq!(ours, expected, "{key}");
    }
}

fn row(module: &Module) -> Value {
    let kind = match module.kind {
        ModuleKind::Linear => "linear".to_owned(),
        ModuleKind::Conv { kernel: [h, w] } => format!("conv{h}x{w}"),
        ModuleKind::Norm => "norm".to_owned(),
    };
    serde_json::json!({ "module": module.local_path(), "in": module.inputs, "out": module.outputs, "kind": kind })
}

fn without_index(entry: &Value) -> Value {
    serde_json::json!({ "module": entry["module"], "in": entry["in"], "out": entry["out"], "kind": entry["kind"] })
}

#[test]
fn flattened_names_in_every_spelling() {
    let table = Architecture::Sd1.table().unwrap();
    for (name, path) in [
        (
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
        ),
        (
            "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        ("lora_unet_input_blocks_8_1_proj_in", "unet.down_blocks.2.attentions.1.proj_in"),
        ("lora_unet_input_blocks_3_0_op", "unet.down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_input_blocks_4_0_skip_connection", "unet.down_blocks.1.resnets.0.conv_shortcut"),
        ("lora_unet_input_blocks_11_0_emb_layers_1", "unet.down_blocks.3.resnets.1.time_emb_proj"),
        (
            "lora_unet_middle_block_1_transformer_blocks_0_ff_net_2",
            "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.2",
        ),
        ("lora_unet_middle_block_2_in_layers_2", "unet.mid_block.resnets.1.conv1"),
        ("lora_unet_output_blocks_2_1_conv", "unet.up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_output_blocks_5_2_conv", "unet.up_blocks.1.upsamplers.0.conv"),
        ("lora_unet_output_blocks_11_1_proj_out", "unet.up_blocks.3.attentions.2.proj_out"),
        ("lora_unet_output_blocks_3_0_out_layers_3", "unet.up_blocks.1.resnets.0.conv2"),
        ("lora_unet_time_embed_2", "unet.time_embedding.linear_2"),
        (
            "lora_te_text_model_encoder_layers_11_self_attn_out_proj",
            "text_encoder.text_model.encoder.layers.11.self_attn.out_proj",
        ),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"),
    ] {
        assert_eq!(table.by_flattened_name(name).map(|m| m.path.as_str()), Some(path), "{name}");
    }
    assert!(table.by_flattened_name("lora_unet_down_blocks_0_attentions_2_proj_in").is_none());
    assert!(table.by_flattened_name("lora_te2_text_model_encoder_layers_0_mlp_fc1").is_none());
}
