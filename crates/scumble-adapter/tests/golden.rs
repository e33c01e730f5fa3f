//! Adapted models against the outputs recorded in `lora_expected.safetensors`, live and folded.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use common::{fixture, json, load};
use scumble_adapter::attach::{Strength, Towers, attach, fold, folded_weights};
use scumble_adapter::create::{Init, TrainableLora, fresh};
use scumble_adapter::select::{Preset, Targets, TowerTargets};
use scumble_adapter::{Adapter, AdapterError, ModuleTable, Tower};
use scumble_model::files::{SafetensorsFile, TensorSource};
use scumble_model::nn::{to_file_layout, to_memory_layout};
use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::{Conditioning, UNet};
use scumble_tensor::reference::ReferenceBackend;
use scumble_tensor::{Backend, DType, Tape, Tensor, Var};

struct Base {
    unet: UNet,
    text: TextEncoder,
    backend: Arc<dyn Backend>,
    golden: SafetensorsFile,
}

impl Base {
    fn load(name: &str) -> Self {
        let backend: Arc<dyn Backend> = Arc::new(ReferenceBackend);
        let config = |folder: &str| json(&fixture(&format!("{name}/{folder}/config.json")));
        let weights = |file: &str| SafetensorsFile::open(&fixture(&format!("{name}/{file}"))).unwrap();
        let unet = weights("unet/diffusion_pytorch_model.safetensors");
        let text = weights("text_encoder/model.safetensors");
        Self {
            unet: UNet::load(&config("unet"), &unet, backend.as_ref(), DType::F32).unwrap(),
            text: TextEncoder::load(&config("text_encoder"), &text, backend.as_ref(), DType::F32).unwrap(),
            golden: SafetensorsFile::open(&fixture("lora/lora_expected.safetensors")).unwrap(),
            backend,
        }
    }

    fn towers(&self) -> Towers<'_> {
        Towers { unet: Some(self.unet.modules()), text_encoder: Some(self.text.modules()) }
    }

    fn tensor(&self, key: &str) -> Tensor {
        self.golden.read(key).unwrap()
    }

    fn text_states(&self) -> Tensor {
        let tape = Tape::inference(self.backend.clone());
        self.text.states(&tape, &self.tensor("input_ids"), 0).unwrap().into_value()
    }

    fn noise(&self, states: &Tensor) -> Tensor {
        let tape = Tape::inference(self.backend.clone());
        let sample = Var::constant(to_memory_layout(&self.tensor("sample")).unwrap());
        let timesteps = self.tensor("timesteps").to_vec::<f32>().unwrap();
        let states = Var::constant(states.clone());
        let conditioning = Conditioning { states: &states, text_time: None };
        let out = self.unet.forward(&tape, &sample, &timesteps, conditioning).unwrap();
        to_file_layout(out.value()).unwrap()
    }

    fn compare(&self, key: &str, found: &Tensor, bound: f64) {
        let error = relative_error(&self.tensor(key), found);
        assert!(error <= bound, "{key}: off by {error:.2e} of the rms, bound {bound:.0e}");
    }

    /// Text states and prediction at one strength of what is attached now, against the recorded ones.
    fn check(&self, scale: &str) {
        let states = self.text_states();
        self.compare(&format!("scale{scale}.text"), &states, 5e-5);
        self.compare(&format!("scale{scale}.unet_lora_text"), &self.noise(&states), 1e-4);
    }
}

fn relative_error(expected: &Tensor, found: &Tensor) -> f64 {
    assert_eq!(expected.dims(), found.dims());
    let (expected, found) = (expected.to_vec::<f64>().unwrap(), found.to_vec::<f64>().unwrap());
    let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
    expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / rms
}

fn strength(value: f32) -> Strength {
    Strength { unet: value, text_encoder: value }
}

#[test]
fn live_adapters_give_the_recorded_outputs() {
    let base = Base::load("tiny-sd1");
    let base_text = base.tensor("base_text");
    let untouched = base.noise(&base_text);
    base.compare("base_text", &base.text_states(), 5e-5);
    for name in ["cloneofsimo.safetensors", "kohya.safetensors", "peft.safetensors"] {
        let attached =
            attach(&load(name).unwrap().adapter, base.towers(), strength(1.0), base.backend.as_ref())
                .unwrap();
        assert_eq!((attached.modules(Tower::UNet), attached.modules(Tower::TextEncoder)), (144, 12));
        base.check("1.0");
        base.compare("scale1.0.unet_base_text", &base.noise(&base_text), 1e-4);
        attached.set_strength(strength(0.5));
        base.check("0.5");
        base.compare("scale0.5.unet_base_text", &base.noise(&base_text), 1e-4);
        attached.set_strength(strength(0.0));
        assert_eq!(
            base.noise(&base_text).bytes().unwrap(),
            untouched.bytes().unwrap(),
            "strength 0 is the base"
        );
        base.compare("scale0.unet", &base.noise(&base_text), 1e-4);
        attached.set_strength(Strength { unet: 1.0, text_encoder: 0.0 });
        base.compare("base_text", &base.text_states(), 5e-5);
        attached.detach();
        assert!(base.unet.projections().values().all(|projection| projection.branches().is_empty()));
    }
}

#[test]
fn attention_only_and_extended_adapters() {
    let base = Base::load("tiny-sd1");
    let base_text = base.tensor("base_text");
    for (name, key) in [
        ("diffusers_attn_procs.safetensors", "attn_only_scale1.0.unet_base_text"),
        ("cloneofsimo_noff_legacy.pt", "attn_only_scale1.0.unet_base_text"),
        ("cloneofsimo_extended.safetensors", "extended_scale1.0.unet_base_text"),
    ] {
        let adapter = load(name).unwrap().adapter;
        let attached = attach(&adapter, base.towers(), strength(1.0), base.backend.as_ref()).unwrap();
        base.compare(key, &base.noise(&base_text), 1e-4);
        attached.detach();
    }
    let extended = load("cloneofsimo_extended.safetensors").unwrap().adapter;
    fold(&extended, base.towers(), strength(1.0), base.backend.as_ref()).unwrap();
    base.compare("extended_scale1.0.unet_base_text", &base.noise(&base_text), 1e-4);
}

#[test]
fn folded_weights_are_the_recorded_ones() {
    for scale in ["1.0", "0.5"] {
        let base = Base::load("tiny-sd1");
        let adapter = load("kohya.safetensors").unwrap().adapter;
        let strength = strength(scale.parse().unwrap());
        let weights = folded_weights(&adapter, base.towers(), strength, base.backend.as_ref()).unwrap();
        let prefix = format!("fused.scale{scale}.");
        let keys: Vec<String> = base.golden.names().into_iter().filter(|k| k.starts_with(&prefix)).collect();
        assert_eq!(keys.len(), 3);
        for key in &keys {
            base.compare(key, &weights[&key[prefix.len()..]], 1e-6);
        }
        fold(&adapter, base.towers(), strength, base.backend.as_ref()).unwrap();
        for (path, weight) in &weights {
            let projection = base.towers().get(Tower::of(path).unwrap()).unwrap().projections();
            let folded =
                to_file_layout(&projection[path.split_once('.').unwrap().1].weight().value()).unwrap();
            assert!(relative_error(weight, &folded) < 1e-6, "{path}");
        }
        base.check(scale);
    }
}

#[test]
fn several_adapters_add_up() {
    let base = Base::load("tiny-sd1");
    let adapter = load("cloneofsimo.safetensors").unwrap().adapter;
    let on = |value| attach(&adapter, base.towers(), strength(value), base.backend.as_ref()).unwrap();
    let (first, second) = (on(0.25), on(0.75));
    base.check("1.0");
    second.detach();
    first.set_strength(strength(0.5));
    base.check("0.5");
    let (third, fourth) = (on(1.0), on(-1.0));
    base.check("0.5");
    [first, third, fourth].into_iter().for_each(|attached| attached.detach());
}

#[test]
fn an_adapter_of_another_base_is_named_and_nothing_is_touched() {
    let base = Base::load("tiny-sd2");
    let adapter = load("peft.safetensors").unwrap().adapter;
    let before = base.unet.projections()["conv_in"].weight().value();
    for error in [
        attach(&adapter, base.towers(), strength(1.0), base.backend.as_ref()).err().unwrap(),
        fold(&adapter, base.towers(), strength(1.0), base.backend.as_ref()).unwrap_err(),
    ] {
        let message = error.to_string();
        assert!(matches!(error, AdapterError::WrongBase { .. }));
        assert!(message.contains("attn2.to_k takes 48, the base wants 64"), "{message}");
    }
    assert!(base.unet.projections().values().all(|projection| projection.branches().is_empty()));
    assert!(base.unet.projections()["conv_in"].weight().value().shares_memory_with(&before));
}

#[test]
fn tables_from_models_and_from_configurations_agree() {
    for name in ["tiny-sd1", "tiny-sd2"] {
        let (base, from_config) = (Base::load(name), common::table(name));
        let from_model = base.towers().table();
        let sorted = |table: &ModuleTable| {
            let mut modules = table.modules().to_vec();
            modules.sort_by(|a, b| a.path.cmp(&b.path));
            modules
        };
        assert_eq!(sorted(&from_model), sorted(&from_config), "{name}");
    }
}

fn targets(preset: Preset) -> Targets {
    let tower = |tower, rank| TowerTargets::new(tower, preset, rank, 1.0);
    Targets { towers: vec![tower(Tower::UNet, 4), tower(Tower::TextEncoder, 2)], ..Targets::default() }
}

#[test]
fn a_fresh_adapter_trains_goes_out_and_comes_back() {
    let base = Base::load("tiny-sd1");
    let (table, backend) = (base.towers().table(), base.backend.as_ref());
    let start = fresh(&targets(Preset::All), &table, Init::Kaiming, 3).unwrap();
    let lora = TrainableLora::new(&start, &table, backend).unwrap();
    assert_eq!(
        lora.params().len(),
        lora.params_of(Tower::UNet).len() + lora.params_of(Tower::TextEncoder).len()
    );
    common::assert_same(&start, &lora.to_adapter(backend).unwrap());
    let attached = lora.attach(base.towers(), 0.0, backend).unwrap();
    // The up factors are zero: the base's own picture, but the tape sees the factors.
    let states = base.tensor("base_text");
    base.compare("scale0.unet", &base.noise(&states), 1e-4);
    let tape = Tape::recording(base.backend.clone());
    let text = base.text.states(&tape, &base.tensor("input_ids"), 0).unwrap();
    let sample = Var::constant(to_memory_layout(&base.tensor("sample")).unwrap());
    let out = base
        .unet
        .forward(&tape, &sample, &[1.0, 500.0], Conditioning { states: &text, text_time: None })
        .unwrap();
    let gradients = tape.backward(&out, out.value().clone()).unwrap();
    assert!(lora.params().iter().all(|param| gradients.get(param.id()).is_some()));
    let up = lora.params().into_iter().find(|param| param.name().ends_with("attn2.to_k.up")).unwrap();
    up.set(gradients.get(up.id()).unwrap().clone());
    let trained = lora.to_adapter(backend).unwrap();
    lora.load(&start, backend).unwrap();
    common::assert_same(&start, &lora.to_adapter(backend).unwrap());
    lora.load(&trained, backend).unwrap();
    common::assert_same(&trained, &lora.to_adapter(backend).unwrap());
    attached.detach();
}

#[test]
fn resuming_from_another_choice_is_refused() {
    let (table, backend) = (common::table("tiny-sd1"), ReferenceBackend);
    let adapter = |preset| fresh(&targets(preset), &table, Init::Normal, 1).unwrap();
    let lora = TrainableLora::new(&adapter(Preset::AttentionFf), &table, &backend).unwrap();
    let refused = |other: &Adapter| lora.load(other, &backend).unwrap_err().to_string();
    assert!(refused(&adapter(Preset::Attention)).contains("ff.net.0.proj"));
    assert!(refused(&adapter(Preset::AllLinear)).contains("not chosen now"));
    let mut ranks = targets(Preset::AttentionFf);
    ranks.towers[0].rank = 3;
    assert!(refused(&fresh(&ranks, &table, Init::Normal, 1).unwrap()).contains("rank 3"));
}
