//! Both encoders of CLIP and what they say of a picture and a text; made by `tools/goldens/clip.py`.

use scumble_model::clip::{Clip, cosine};
use scumble_model::nn::to_memory_layout;
use scumble_tensor::{Tape, Tensor};

use crate::common::{DTYPE, Fixture, backend};

const BOUND: f64 = 5e-5;

#[test]
fn embeddings_and_logits_equal_transformers() {
    let fixture = Fixture::new("tiny-clip");
    let weights = fixture.weights("model.safetensors");
    let clip = Clip::load(&fixture.json("config.json"), &weights, backend().as_ref(), DTYPE).unwrap();
    let golden = fixture.golden("expected.safetensors");
    let tape = Tape::inference(backend());
    let texts = clip.embed_texts(&tape, &golden.tensor("input_ids")).unwrap();
    golden.compare("text", texts.value(), BOUND);
    let pictures = to_memory_layout(&golden.tensor("pixel_values")).unwrap();
    let pictures = clip.embed_pictures(&tape, &pictures).unwrap();
    golden.compare("vision", pictures.value(), BOUND);
    let rows = |tensor: &Tensor| -> Vec<Vec<f32>> {
        tensor.to_vec::<f32>().unwrap().chunks(12).map(<[f32]>::to_vec).collect()
    };
    let (texts, pictures) = (rows(texts.value()), rows(pictures.value()));
    let logit = |picture: &Vec<f32>, text: &Vec<f32>| cosine(picture, text) as f32 * clip.scale().unwrap();
    let logits: Vec<f32> =
        pictures.iter().flat_map(|picture| texts.iter().map(move |text| logit(picture, text))).collect();
    golden.compare("logits_per_image", &Tensor::from_slice(&logits, &[3, 2]).unwrap(), BOUND);
}

#[test]
fn a_picture_of_another_size_and_a_missing_scale_are_refused() {
    let fixture = Fixture::new("tiny-clip");
    let (weights, config) = (fixture.weights("model.safetensors"), fixture.json("config.json"));
    let clip = Clip::load(&config, &weights, backend().as_ref(), DTYPE).unwrap();
    let picture = Tensor::zeros(DTYPE, &[1, 16, 12, 3]).unwrap();
    let error = clip.embed_pictures(&Tape::inference(backend()), &picture).unwrap_err().to_string();
    assert!(error.contains("[n, 12, 12, 3]"), "{error}");
    let other = Fixture::new("tiny-sd1").weights("text_encoder/model.safetensors");
    let error = Clip::load(&config, &other, backend().as_ref(), DTYPE).err().unwrap().to_string();
    assert!(error.contains("logit_scale"), "{error}");
}
