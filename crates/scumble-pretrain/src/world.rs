//! Scenes of the little world as tensors, and the tokenizer that knows its words.

use scumble_model::tokenizer::{Pad, TokenizerFiles, reduced_clip_files};
use scumble_tensor::Tensor;
use scumble_train::Result;
use scumble_world::{Scene, words};

/// Seed of the scenes that a base is trained with.
pub const TRAINING_SCENES: u64 = 1;

/// The `index`-th scene to train with.
pub fn training_scene(index: u64) -> Scene {
    scumble_world::scene(TRAINING_SCENES, index)
}

/// Scenes as `[n, side, side, 3]` in -1..1.
pub fn pictures(scenes: &[Scene], side: usize) -> Result<Tensor> {
    let mut values = Vec::with_capacity(scenes.len() * side * side * 3);
    for scene in scenes {
        values.extend(scene.paint(side).rgb.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0));
    }
    Ok(Tensor::from_slice(&values, &[scenes.len(), side, side, 3])?)
}

/// The files of a tokenizer with CLIP's first `merges`, to which every word of the world is one id.
pub fn tokenizer_files(merges: usize) -> Result<TokenizerFiles> {
    let words = words();
    Ok(reduced_clip_files(merges, words.iter().map(String::as_str), Pad::End)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scumble_model::tokenizer::Tokenizer;

    #[test]
    fn words_of_the_world_are_the_pieces_that_they_are_in_clip() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in tokenizer_files(300).unwrap() {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let (small, clip) =
            (Tokenizer::from_folder(folder.path()).unwrap(), Tokenizer::clip(Pad::End).unwrap());
        assert!(small.vocab_size() < 1600, "{}", small.vocab_size());
        for word in words() {
            assert_eq!(small.count(&word), clip.count(&word), "{word}");
        }
        assert!(small.count("zebra") > clip.count("zebra"), "what it does not know it spells");
    }

    #[test]
    fn pictures_have_the_range_of_the_autoencoder() {
        let scenes: Vec<_> = (0..3).map(training_scene).collect();
        let tensor = pictures(&scenes, 32).unwrap();
        assert_eq!(tensor.dims(), [3, 32, 32, 3]);
        let values = tensor.as_slice::<f32>().unwrap();
        assert!(values.iter().all(|v| (-1.0..=1.0).contains(v)) && values.iter().any(|&v| v > 0.3));
    }
}
