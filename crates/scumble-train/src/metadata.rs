//! What an adapter file says about its making: `ss_*` as kohya's trainer writes it, `modelspec.*`, and the configuration.
//!
//! Values are strings; booleans are `True` and `False`, absent values `None`. Paths are cut to their last part. There are
//! no times in it: the same run gives the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scumble_model::base::Family;
use scumble_model::schedule::PredictionType;
use serde_json::{Value, json};

use crate::config::{
    AdapterKind, Crop, LossShape, MaskSource, Part, Precision, Targets, TrainConfig, Unreadable,
};
use crate::error::Result;

/// What the configuration does not know.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Architecture of the base.
    pub family: Family,
    /// What the base predicts.
    pub prediction: PredictionType,
    /// Name of the base without folders.
    pub base_name: String,
    /// Finished updates.
    pub step: u64,
    /// Pictures.
    pub pictures: usize,
    /// Visits in a round through them.
    pub round: usize,
    /// Name, repeats and pictures of each folder, where there are several.
    pub folders: Vec<(String, usize, usize)>,
    /// Class pictures.
    pub class_pictures: usize,
    /// How often each text is used in a round through the pictures.
    pub captions: BTreeMap<String, usize>,
}

/// The metadata of an adapter file.
pub fn describe(config: &TrainConfig, facts: &Facts) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let mut put = |key: &str, value: String| all.insert(key.to_owned(), value);
    let boolean = |value: bool| if value { "True" } else { "False" }.to_owned();
    let option = |value: Option<f64>| value.map_or("None".to_owned(), |value| value.to_string());
    let (train, data, unet, text) =
        (&config.train, &config.data, &config.lora.unet, &config.lora.text_encoder);
    let velocity = facts.prediction == PredictionType::VPrediction;
    let second = facts.family == Family::Sd2;
    let version = match (second, velocity) {
        (false, false) => "sd_v1",
        (false, true) => "sd_v1_v",
        (true, false) => "sd_v2",
        (true, true) => "sd_v2_v",
    };
    put("ss_v2", boolean(second));
    put("ss_base_model_version", version.to_owned());
    put("ss_sd_model_name", facts.base_name.clone());
    put("ss_output_name", config.save.name.clone());
    let (module, arguments) = network(config);
    put("ss_network_module", module.to_owned());
    put("ss_network_dim", unet.rank.to_string());
    put("ss_network_alpha", unet.alpha.unwrap_or(unet.rank as f64).to_string());
    put("ss_network_args", arguments.to_string());
    put("ss_network_dropout", if unet.dropout > 0.0 { unet.dropout.to_string() } else { "None".to_owned() });
    put("ss_learning_rate", train.lr.to_string());
    put("ss_unet_lr", config.rate(Part::Unet).to_string());
    put("ss_text_encoder_lr", option(text.train.then_some(config.rate(Part::TextEncoder))));
    put("ss_optimizer", train.optimizer.name().to_owned());
    put("ss_lr_scheduler", serde_json::to_value(train.schedule).map_or(String::new(), |name| plain(&name)));
    put("ss_lr_warmup_steps", train.warmup.to_string());
    put("ss_max_train_steps", train.steps.to_string());
    put("ss_steps", facts.step.to_string());
    let round = facts.round.max(1);
    let batches = round.div_ceil(train.batch);
    put("ss_num_batches_per_epoch", batches.to_string());
    let epochs = |steps: u64| (steps as usize * train.accumulate).div_ceil(batches).to_string();
    put("ss_num_epochs", epochs(train.steps));
    put("ss_epoch", epochs(facts.step));
    put("ss_batch_size_per_device", train.batch.to_string());
    put("ss_total_batch_size", (train.batch * train.accumulate).to_string());
    put("ss_gradient_accumulation_steps", train.accumulate.to_string());
    put("ss_gradient_checkpointing", boolean(train.checkpointing));
    let mixed = if train.precision == Precision::Bf16 { "bf16" } else { "no" };
    put("ss_mixed_precision", mixed.to_owned());
    put("ss_full_fp16", "False".to_owned());
    put("ss_seed", train.seed.to_string());
    put("ss_clip_skip", "None".to_owned());
    put(
        "ss_max_token_length",
        if data.chunks() > 1 { (data.chunks() * 75).to_string() } else { "None".to_owned() },
    );
    put("ss_max_grad_norm", train.max_grad_norm.to_string());
    put("ss_min_snr_gamma", option(train.min_snr_gamma));
    put("ss_noise_offset", option((train.noise_offset != 0.0).then_some(train.noise_offset)));
    let aims = &config.objective;
    put("ss_loss_type", aims.loss.name().to_owned());
    if aims.loss != LossShape::L2 {
        put("ss_huber_schedule", aims.huber_schedule.name().to_owned());
        put("ss_huber_c", aims.huber_c.to_string());
    }
    let some = |used: bool, value: String| if used { value } else { "None".to_owned() };
    let multires = aims.multires_levels > 0;
    put("ss_multires_noise_iterations", some(multires, aims.multires_levels.to_string()));
    put("ss_multires_noise_discount", some(multires, aims.multires_discount.to_string()));
    put("ss_ip_noise_gamma", some(aims.input_perturbation != 0.0, aims.input_perturbation.to_string()));
    put("ss_zero_terminal_snr", boolean(aims.zero_terminal_snr));
    put("ss_debiased_estimation", boolean(aims.debiased));
    put("ss_min_timestep", some(aims.timestep_min > 0, aims.timestep_min.to_string()));
    put("ss_max_timestep", aims.timestep_max.map_or("None".to_owned(), |max| max.to_string()));
    put("ss_masked_loss", boolean(config.mask.source != MaskSource::None));
    put("ss_prior_loss_weight", data.prior_weight.to_string());
    put("ss_num_train_images", round.to_string());
    put("ss_num_reg_images", facts.class_pictures.to_string());
    put("ss_resolution", format!("({}, {})", data.width, data.height));
    put("ss_enable_bucket", boolean(data.buckets));
    put("ss_shuffle_caption", boolean(data.shuffle_tags));
    put("ss_keep_tokens", data.keep_tags.to_string());
    put("ss_caption_dropout_rate", data.caption_dropout.to_string());
    put("ss_caption_tag_dropout_rate", data.tag_dropout.to_string());
    put("ss_random_crop", boolean(data.crop == Crop::Random));
    put("ss_flip_aug", boolean(data.flip));
    let folder = data.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let whole = [(folder.clone(), data.repeats, facts.pictures)];
    let folders = if facts.folders.is_empty() { &whole[..] } else { facts.folders.as_slice() };
    let entry = |(name, repeats, pictures): &(String, usize, usize)| {
        (name.clone(), json!({"n_repeats": repeats, "img_count": pictures}))
    };
    put("ss_dataset_dirs", Value::Object(folders.iter().map(entry).collect()).to_string());
    put("ss_tag_frequency", json!({ &folder: facts.captions }).to_string());
    put("ss_training_comment", "trained with scumble".to_owned());

    let architecture = match (second, velocity) {
        (false, _) => "stable-diffusion-v1/lora",
        (true, false) => "stable-diffusion-v2-512/lora",
        (true, true) => "stable-diffusion-v2-768-v/lora",
    };
    put("modelspec.sai_model_spec", "1.0.1".to_owned());
    put("modelspec.architecture", architecture.to_owned());
    put("modelspec.implementation", "diffusers".to_owned());
    put("modelspec.title", config.save.name.clone());
    put("modelspec.resolution", format!("{}x{}", data.width, data.height));
    put("modelspec.prediction_type", if velocity { "v" } else { "epsilon" }.to_owned());
    if let Some(trigger) = config.trigger() {
        put("modelspec.trigger_phrase", trigger);
    }
    put("scumble.config", what_concerns_others(config).to_toml()?);
    Ok(all)
}

/// The network as kohya's trainer names it, and its arguments: its own for plain factors, LyCORIS for the rest.
fn network(config: &TrainConfig) -> (&'static str, serde_json::Value) {
    let (lora, unet) = (&config.lora, &config.lora.unet);
    let mut arguments = json!({});
    let mut set = |key: &str, value: serde_json::Value| arguments[key] = value;
    if unet.targets == Targets::All {
        let rank = unet.conv_rank.unwrap_or(unet.rank);
        let alpha = if unet.conv_rank.is_some() { unet.conv_alpha } else { unet.alpha };
        set("conv_dim", json!(rank));
        set("conv_alpha", json!(alpha.unwrap_or(rank as f64)));
    }
    if let Some(ratio) = config.learn.lora_plus {
        set("loraplus_lr_ratio", json!(ratio));
    }
    if lora.rank_stabilized {
        set("rs_lora", json!("True"));
    }
    match lora.kind {
        AdapterKind::Lora => return ("networks.lora", arguments),
        AdapterKind::Dora => {
            set("algo", json!("locon"));
            set("dora_wd", json!("True"));
        }
        AdapterKind::Loha => set("algo", json!("loha")),
        AdapterKind::Lokr => {
            set("algo", json!("lokr"));
            set("factor", lora.lokr_factor.map_or(json!(-1), |factor| json!(factor)));
            set("full_matrix", json!(if lora.lokr_whole { "True" } else { "False" }));
            set("decompose_both", json!(if lora.lokr_both { "True" } else { "False" }));
        }
    }
    ("lycoris.kohya", arguments)
}

/// The configuration as far as it decides the result; paths are cut to their last part. So runs that differ in where
/// and how often they save write the same bytes.
fn what_concerns_others(config: &TrainConfig) -> TrainConfig {
    let last = |path: &Path| path.file_name().map(PathBuf::from).unwrap_or_default();
    let mut config = config.clone();
    if Path::new(&config.base.model).exists() {
        config.base.model = last(Path::new(&config.base.model)).display().to_string();
    }
    config.base.offline = false;
    config.base.config = config.base.config.as_deref().map(last);
    config.data.folder = last(&config.data.folder);
    config.data.dataset = config.data.dataset.as_deref().map(last);
    config.data.class_folder = config.data.class_folder.as_deref().map(last);
    config.data.unreadable = Unreadable::default();
    config.holdout.folder = config.holdout.folder.as_deref().map(last);
    config.train.threads = None;
    config.train.memory = None;
    (config.cache, config.save, config.validate) = Default::default();
    config
}

/// A JSON string's content.
fn plain(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            family: Family::Sd2,
            prediction: PredictionType::VPrediction,
            base_name: "tiny".into(),
            step: 10,
            pictures: 5,
            round: 5,
            folders: Vec::new(),
            class_pictures: 0,
            captions: BTreeMap::from([("a \"dog\"".to_owned(), 5)]),
        }
    }

    #[test]
    fn no_path_of_the_machine_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = TrainConfig::default();
        config.base.model = folder.path().display().to_string();
        config.base.config = Some(folder.path().into());
        config.data.folder = folder.path().join("dog");
        config.data.class_folder = Some(folder.path().join("dogs"));
        config.data.dataset = Some(folder.path().join("set.toml"));
        config.holdout.folder = Some(folder.path().join("tests"));
        config.save.folder = folder.path().into();
        let parent = folder.path().parent().unwrap().display().to_string();
        for (key, value) in describe(&config.resolved(), &facts()).unwrap() {
            assert!(!value.contains(&parent), "{key}: {value}");
        }
    }

    #[test]
    fn other_tools_find_what_they_look_for() {
        let mut config = TrainConfig::default();
        config.data.folder = "pictures/dog".into();
        config.lora.unet.rank = 8;
        let all = describe(&config, &facts()).unwrap();
        let expected = [
            ("ss_v2", "True"),
            ("ss_base_model_version", "sd_v2_v"),
            ("ss_network_dim", "8"),
            ("ss_network_alpha", "8"),
            ("ss_lr_scheduler", "constant"),
            ("ss_tag_frequency", r#"{"dog":{"a \"dog\"":5}}"#),
            ("modelspec.architecture", "stable-diffusion-v2-768-v/lora"),
            ("modelspec.prediction_type", "v"),
            ("modelspec.resolution", "512x512"),
        ];
        for (key, value) in expected {
            assert_eq!(all.get(key).map(String::as_str), Some(value), "{key}");
        }
        let again = TrainConfig::from_toml(&all["scumble.config"]).unwrap();
        assert_eq!(again.lora, config.lora);
        config.save.folder = "elsewhere".into();
        config.save.every = 1;
        config.validate.prompts.push("a dog".into());
        config.train.threads = Some(3);
        assert_eq!(describe(&config, &facts()).unwrap(), all);
        let several = Facts { folders: vec![("a".into(), 2, 1), ("b".into(), 1, 3)], ..facts() };
        let dirs = &describe(&config, &several).unwrap()["ss_dataset_dirs"];
        assert_eq!(dirs, r#"{"a":{"n_repeats":2,"img_count":1},"b":{"n_repeats":1,"img_count":3}}"#);
    }
}
