//! Models with unusual configurations, made by `tools/goldens/configurations.py`.

use scumble_model::text_encoder::TextEncoder;
use scumble_model::unet::UNet;
use scumble_model::vae::Vae;
use scumble_tensor::Tape;

use crate::common::{DTYPE, Fixture, backend, backends};
use crate::unet::{cases, check_case, load};

fn check_unet(name: &str) {
    let fixture = Fixture::new(&format!("configurations/{name}"));
    let golden = fixture.golden("expected.safetensors");
    for backend in backends() {
        let unet = load(backend.as_ref(), &fixture, "config.json", "weights.safetensors");
        // Full fine-tuning: a gradient for every parameter, with and without recomputed blocks.
        unet.params().iter().for_each(|param| param.set_trainable(true));
        for case in cases(&golden) {
            check_case(&backend, &unet, &golden, &case, false);
            check_case(&backend, &unet, &golden, &case, true);
        }
    }
}

#[test]
fn two_levels() {
    check_unet("unet-two-levels");
}

#[test]
fn three_levels() {
    check_unet("unet-three-levels");
}

#[test]
fn text_and_sizes() {
    check_unet("unet-text-time");
}

#[test]
fn fresh_weights_have_the_shapes_of_the_file() {
    let fixture = Fixture::new("configurations/unet-three-levels");
    let loaded = load(backend().as_ref(), &fixture, "config.json", "weights.safetensors");
    let fresh = UNet::fresh(&fixture.json("config.json"), 5, backend().as_ref(), DTYPE).unwrap();
    assert_eq!(loaded.params().len(), fresh.params().len());
    for (loaded, fresh) in loaded.params().iter().zip(fresh.params()) {
        assert_eq!((loaded.name(), loaded.value().dims()), (fresh.name(), fresh.value().dims()));
    }
}

#[test]
fn text_encoder() {
    let fixture = Fixture::new("configurations/text-encoder");
    let weights = fixture.weights("weights.safetensors");
    let encoder =
        TextEncoder::load(&fixture.json("config.json"), &weights, backend().as_ref(), DTYPE).unwrap();
    let golden = fixture.golden("expected.safetensors");
    let ids = golden.tensor("input_ids");
    let tape = Tape::inference(backend());
    let output = encoder.forward(&tape, &ids).unwrap();
    golden.compare("embeddings", output.embeddings.value(), 5e-5);
    golden.compare("penultimate", output.penultimate.value(), 5e-5);
    golden.compare("last_hidden_state", output.last_hidden_state.value(), 5e-5);
    golden.compare("text_embeds", output.projected.unwrap().value(), 5e-5);
    for skip in [1, 2] {
        let states = encoder.states(&tape, &ids, skip).unwrap();
        golden.compare(&format!("clip_skip_{skip}"), states.value(), 5e-5);
    }
}

#[test]
fn vae() {
    let fixture = Fixture::new("configurations/vae");
    let weights = fixture.weights("weights.safetensors");
    let vae = Vae::load(&fixture.json("config.json"), &weights, backend().as_ref(), DTYPE).unwrap();
    let golden = fixture.golden("expected.safetensors");
    let tape = Tape::inference(backend());
    let moments = vae.encode(&tape, &golden.var("image")).unwrap();
    golden.compare("mean", &moments.mean, 1e-4);
    golden.compare("logvar", &moments.logvar, 1e-4);
    let decoded = vae.decode(&tape, &golden.var("latent")).unwrap();
    golden.compare("decoded", decoded.value(), 1e-4);
    assert_eq!((vae.downscale(), vae.scaling_factor()), (2, 0.5));
}
