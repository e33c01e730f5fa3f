//! The text encoder: all hidden states that anything uses.

use scumble_model::text_encoder::TextEncoder;
use scumble_tensor::Tape;

use crate::common::{DTYPE, Fixture, backend};

const BOUND: f64 = 5e-5;

fn check_model(name: &str) {
    let fixture = Fixture::new(name);
    let weights = fixture.weights("text_encoder/model.safetensors");
    let config = fixture.json("text_encoder/config.json");
    let encoder = TextEncoder::load(&config, &weights, backend().as_ref(), DTYPE).unwrap();
    let golden = fixture.golden("expected/text.safetensors");
    let ids = golden.tensor("input_ids");
    let tape = Tape::inference(backend());
    let output = encoder.forward(&tape, &ids).unwrap();
    golden.compare("embeddings", output.embeddings.value(), BOUND);
    golden.compare("penultimate", output.penultimate.value(), BOUND);
    golden.compare("last_hidden_state", output.last_hidden_state.value(), BOUND);
    golden.compare("pooled", output.pooled.value(), BOUND);
    let states = encoder.states(&tape, &ids, 0).unwrap();
    golden.compare("last_hidden_state", states.value(), BOUND);
    assert!(encoder.states(&tape, &ids, encoder.config().layers + 1).is_err());
}

#[test]
fn sd1() {
    check_model("tiny-sd1");
}

#[test]
fn sd2() {
    check_model("tiny-sd2");
}
