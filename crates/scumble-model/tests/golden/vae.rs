//! The VAE: both directions, and both namings of its attention.

use scumble_model::files::TensorSource;
use scumble_model::vae::Vae;
use scumble_tensor::Tape;

use crate::common::{DTYPE, Fixture, backend};

const BOUND: f64 = 1e-4;

fn check(fixture: &Fixture, weights: &dyn TensorSource) {
    let vae = Vae::load(&fixture.json("vae/config.json"), weights, backend().as_ref(), DTYPE)
        .unwrap_or_else(|error| panic!("{error}"));
    let golden = fixture.golden("expected/vae.safetensors");
    let tape = Tape::inference(backend());
    let moments = vae.encode(&tape, &golden.var("image")).unwrap();
    golden.compare("mean", &moments.mean, BOUND);
    golden.compare("logvar", &moments.logvar, BOUND);
    let decoded = vae.decode(&tape, &golden.var("latent")).unwrap();
    golden.compare("decoded", decoded.value(), BOUND);
}

#[test]
fn sd1() {
    let fixture = Fixture::new("tiny-sd1");
    check(&fixture, &fixture.weights("vae/diffusion_pytorch_model.safetensors"));
}

#[test]
fn sd2() {
    let fixture = Fixture::new("tiny-sd2");
    check(&fixture, &fixture.weights("vae/diffusion_pytorch_model.safetensors"));
}

#[test]
fn old_attention_names() {
    let fixture = Fixture::new("tiny-sd1");
    let old = fixture.weights("../single_file/tiny-sd1-vae-old-attention-names.safetensors");
    check(&fixture, &old);
}
