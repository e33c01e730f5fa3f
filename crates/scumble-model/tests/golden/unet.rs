//! The UNet: outputs, the outputs of modules inside, and gradients for its inputs.

use std::sync::Arc;

use scumble_model::nn::Recorder;
use scumble_model::unet::{Conditioning, UNet};
use scumble_tensor::Tape;

use crate::common::{DTYPE, Fixture, Golden, backend};

const OUT: f64 = 1e-4;
const GRADIENT: f64 = 1e-3;

fn load(fixture: &Fixture) -> UNet {
    let weights = fixture.weights("unet/diffusion_pytorch_model.safetensors");
    UNet::load(&fixture.json("unet/config.json"), &weights, backend().as_ref(), DTYPE)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn cases(golden: &Golden) -> Vec<String> {
    golden.names().iter().filter_map(|name| name.strip_suffix(".sample").map(str::to_owned)).collect()
}

/// Runs one case; `checkpointing` recomputes blocks in backward.
fn check_case(unet: &UNet, golden: &Golden, case: &str, checkpointing: bool) {
    let key = |name: &str| format!("{case}.{name}");
    let tape = Tape::recording(backend()).with_checkpointing(checkpointing);
    let (sample, sample_id) = tape.watch(golden.input(&key("sample")));
    let (states, states_id) = tape.watch(golden.input(&key("encoder_hidden_states")));
    let timesteps = golden.tensor(&key("timesteps")).to_vec::<f32>().unwrap();
    let conditioning = Conditioning { states: &states, text_time: None };
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
}

fn check_model(name: &str) {
    let fixture = Fixture::new(name);
    let (unet, golden) = (load(&fixture), fixture.expected("unet.safetensors"));
    let cases = cases(&golden);
    assert!(!cases.is_empty());
    for (index, case) in cases.iter().enumerate() {
        check_case(&unet, &golden, case, index % 2 == 1);
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
