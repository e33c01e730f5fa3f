//! The UNet: outputs, the outputs of modules inside, and gradients for its inputs.

use std::sync::Arc;

use scumble_model::nn::Recorder;
use scumble_model::unet::{Conditioning, TextTime, UNet};
use scumble_tensor::{Backend, Tape, Var};

use crate::common::{DTYPE, Fixture, Golden, backend};

const OUT: f64 = 1e-4;
const GRADIENT: f64 = 1e-3;

pub fn load(backend: &dyn Backend, fixture: &Fixture, config: &str, weights: &str) -> UNet {
    UNet::load(&fixture.json(config), &fixture.weights(weights), backend, DTYPE)
        .unwrap_or_else(|error| panic!("{error}"))
}

pub fn cases(golden: &Golden) -> Vec<String> {
    golden.names().iter().filter_map(|name| name.strip_suffix(".sample").map(str::to_owned)).collect()
}

/// Runs one case; `checkpointing` recomputes blocks in backward.
pub fn check_case(backend: &Arc<dyn Backend>, unet: &UNet, golden: &Golden, case: &str, checkpointing: bool) {
    let key = |name: &str| format!("{case}.{name}");
    let tape = Tape::recording(Arc::clone(backend)).with_checkpointing(checkpointing);
    let (sample, sample_id) = tape.watch(golden.input(&key("sample")));
    let (states, states_id) = tape.watch(golden.input(&key("encoder_hidden_states")));
    let timesteps = golden.tensor(&key("timesteps")).to_vec::<f32>().unwrap();
    let added = added_conditioning(golden, &key("text_embeds"), &key("time_ids"));
    let text_time = added.as_ref().map(|(text_embeds, time_ids)| TextTime { text_embeds, time_ids });
    let conditioning = Conditioning { states: &states, text_time };
    let prefix = key("tap.");
    let taps: Vec<String> =
        golden.names().iter().filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned)).collect();
    let recorder = Arc::new(Recorder::new(taps.clone()));
    unet.modules().set_observer(Some(recorder.clone()));
    let out = unet.forward(&tape, &sample, &timesteps, conditioning).unwrap();
    unet.modules().set_observer(None);
    golden.compare(&key("out"), out.value(), OUT);
    let seen = recorder.take();
    for tap in &taps {
        let seen = seen.get(tap).unwrap_or_else(|| panic!("nothing was seen at `{tap}`"));
        golden.compare(&format!("{prefix}{tap}"), seen, OUT);
    }
    let gradients = tape.backward(&out, golden.input(&key("g"))).unwrap();
    golden.compare(&key("grad_sample"), gradients.get(sample_id).unwrap(), GRADIENT);
    golden.compare(&key("grad_encoder_hidden_states"), gradients.get(states_id).unwrap(), GRADIENT);
    for param in unet.params().iter().filter(|param| param.is_trainable()) {
        let expected = golden.tensor(&key(&format!("grad_norm.{}", param.name()))).item::<f64>().unwrap();
        let found = gradients.get(param.id()).unwrap();
        let found = backend.sum_squares(found).unwrap().sqrt();
        assert!((found - expected).abs() < GRADIENT * expected, "{}: {found} and {expected}", param.name());
    }
}

/// Pooled text and picture sizes, where the file has them.
fn added_conditioning(golden: &Golden, text: &str, sizes: &str) -> Option<(Var, Vec<[f32; 6]>)> {
    if !golden.names().iter().any(|name| name == text) {
        return None;
    }
    let sizes = golden.tensor(sizes).to_vec::<f32>().unwrap();
    let rows = sizes.chunks_exact(6).map(|row| row.try_into().unwrap()).collect();
    Some((golden.var(text), rows))
}

fn check_model(name: &str) {
    let fixture = Fixture::new(name);
    let backend = backend();
    let unet =
        load(backend.as_ref(), &fixture, "unet/config.json", "unet/diffusion_pytorch_model.safetensors");
    let golden = fixture.golden("expected/unet.safetensors");
    let cases = cases(&golden);
    assert!(!cases.is_empty());
    for (index, case) in cases.iter().enumerate() {
        check_case(&backend, &unet, &golden, case, index % 2 == 1);
    }
}

#[test]
fn sd1() {
    check_model("tiny-sd1");
}

#[test]
fn sd2() {
    check_model("tiny-sd2");
}
