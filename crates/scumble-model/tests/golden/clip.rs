//! Both encoders of CLIP and what they say of a picture and a text; made by `tools/goldens/clip.py` and
//! `clip_pictures.py` there.

use scumble_model::clip::{Clip, ClipFiles, ImageProcessor, cosine};
use scumble_model::files::TensorSource as _;
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

#[test]
fn pictures_are_processed_as_transformers_does() {
    let golden = Fixture::new("tiny-clip").golden("pictures.safetensors");
    let file = Fixture::new("tiny-clip").weights("pictures.safetensors");
    let names = golden.names();
    let pictures: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("picture.")).collect();
    let mut compared = 0;
    for (setting, text) in file.metadata() {
        let processor = ImageProcessor::parse(&serde_json::from_str(text).unwrap()).unwrap();
        for name in &pictures {
            let picture = golden.tensor(&format!("picture.{name}"));
            let (height, width) = (picture.dims()[0], picture.dims()[1]);
            let found = processor.process(picture.as_slice::<u8>().unwrap(), width, height).unwrap();
            let expected = golden.tensor(&format!("{setting}.{name}"));
            assert_eq!([found.height, found.width, 3], expected.dims(), "{setting} {name}");
            let off =
                expected.as_slice::<f32>().unwrap().iter().zip(&found.values).map(|(a, b)| (a - b).abs());
            let off = off.fold(0.0, f32::max);
            // Bytes are equal; what is left is the rounding of the normalisation.
            assert!(off < 1e-5, "{setting} {name}: {off:e}");
            compared += 1;
        }
    }
    assert_eq!(compared, 16);
}

#[test]
fn a_folder_is_a_model() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-clip"));
    let files = ClipFiles::open(root).unwrap();
    let clip = files.load(backend().as_ref(), DTYPE).unwrap();
    assert_eq!(files.tokenizer.encode("dog"), [38, 3, 14, 31, 39, 39, 39, 39, 39]);
    assert_eq!((files.processor.output_size(), clip.vision.config().side), (Some([12, 12]), 12));
    let other = ClipFiles { processor: ImageProcessor::clip(224), ..files };
    let error = other.load(backend().as_ref(), DTYPE).err().unwrap().to_string();
    assert!(error.contains("224 x 224") && error.contains("12 x 12"), "{error}");
}
