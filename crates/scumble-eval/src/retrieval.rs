//! Retrieval: does the judge find the text that a picture was made from among others?
//!
//! ```text
//! rank = 1 + number of distractors that fit the picture at least as well as the true text
//! ```
//!
//! A tie counts against the picture, so that a model which tells nothing apart does not win. For the little world the
//! distractors are captions of other held-out scenes; drawn pictures of the same scenes tell how good the judge itself is.

use scumble_train::picture::Picture;
use scumble_world::{Dice, Scene, held_out_scene};
use serde::Serialize;

use crate::error::{EvalError, Result};
use crate::judge::{Embedding, Judge};

/// Other captions that each picture is compared with.
pub const DISTRACTORS: usize = 20;

/// How often the true text came first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    /// Pictures that were judged.
    pub pictures: usize,
    /// Other texts that each was compared with.
    pub distractors: usize,
    /// Share of pictures whose text came first.
    pub first: f64,
    /// Share whose text was among the first five.
    pub first_five: f64,
    /// Mean rank, from 1.
    pub mean_rank: f64,
}

impl Retrieval {
    /// From ranks; `None` without any.
    pub fn of(ranks: &[usize], distractors: usize) -> Option<Self> {
        let n = ranks.len() as f64;
        let share = |most: usize| ranks.iter().filter(|&&rank| rank <= most).count() as f64 / n;
        (!ranks.is_empty()).then(|| Self {
            pictures: ranks.len(),
            distractors,
            first: share(1),
            first_five: share(5),
            mean_rank: ranks.iter().sum::<usize>() as f64 / n,
        })
    }
}

/// The rank of the true text.
pub fn rank(picture: &Embedding, truth: &Embedding, distractors: &[&Embedding]) -> usize {
    let true_fit = picture.cosine(truth);
    1 + distractors.iter().filter(|other| picture.cosine(other) >= true_fit).count()
}

/// Held-out scenes of the little world, with their captions and each caption's distractors.
pub struct HeldOut {
    scenes: Vec<Scene>,
    captions: Vec<String>,
    distractors: Vec<Vec<usize>>,
}

impl HeldOut {
    /// The first `count` scenes of a seed; there must be more than [`DISTRACTORS`].
    pub fn new(seed: u64, count: usize) -> Result<Self> {
        let scenes: Vec<Scene> = (0..count as u64).map(|index| held_out_scene(seed, index)).collect();
        let captions: Vec<String> = scenes.iter().map(Scene::full_caption).collect();
        let mut distractors = Vec::with_capacity(count);
        for (index, caption) in captions.iter().enumerate() {
            let mut others: Vec<usize> = Vec::new();
            // Each caption once, in a random order.
            let mut dice = Dice::new(seed, "distractors", index as u64);
            let mut candidates: Vec<usize> = (0..count).collect();
            while others.len() < DISTRACTORS && !candidates.is_empty() {
                let candidate = candidates.swap_remove(dice.below(candidates.len()));
                let is_new = captions[candidate] != *caption
                    && others.iter().all(|&other| captions[other] != captions[candidate]);
                if is_new {
                    others.push(candidate);
                }
            }
            if others.len() < DISTRACTORS {
                let reason = format!("{count} scenes do not have {DISTRACTORS} other captions for each");
                return Err(EvalError::setting("--held-out", reason, "ask for 30 scenes or more"));
            }
            distractors.push(others);
        }
        Ok(Self { scenes, captions, distractors })
    }

    /// What to paint.
    pub fn captions(&self) -> &[String] {
        &self.captions
    }

    /// The true pictures, `side` pixels square.
    pub fn drawn(&self, side: usize) -> Vec<Picture> {
        let paint = |scene: &Scene| {
            let painting = scene.paint(side);
            Picture::from_rgb(painting.size, painting.size, painting.rgb)
        };
        self.scenes.iter().filter_map(paint).collect()
    }

    /// How often the judge finds the captions of `pictures`, one for each scene.
    pub fn judge(&self, judge: &Judge, pictures: &[&Picture]) -> Result<Option<Retrieval>> {
        let captions: Vec<&str> = self.captions.iter().map(String::as_str).collect();
        let texts = judge.texts(&captions)?;
        let seen = judge.pictures(pictures)?;
        let rank_of = |(index, picture): (usize, &Embedding)| {
            let others: Vec<&Embedding> =
                self.distractors[index].iter().map(|&other| &texts[other]).collect();
            rank(picture, &texts[index], &others)
        };
        let ranks: Vec<usize> = seen.iter().take(texts.len()).enumerate().map(rank_of).collect();
        Ok(Retrieval::of(&ranks, DISTRACTORS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_ties_against_the_picture() {
        let at = |x: f32, y: f32| Embedding::new(&[x, y]).unwrap();
        let (picture, truth) = (at(1.0, 0.0), at(1.0, 0.5));
        assert_eq!(rank(&picture, &truth, &[&at(0.0, 1.0), &at(1.0, 2.0)]), 1);
        assert_eq!(rank(&picture, &truth, &[&at(1.0, 0.1), &at(1.0, -0.5), &at(0.0, 1.0)]), 3);
        let found = Retrieval::of(&[1, 1, 6, 4], 20).unwrap();
        assert_eq!((found.first, found.first_five, found.mean_rank), (0.5, 0.75, 3.0));
        assert_eq!(Retrieval::of(&[], 20), None);
    }

    #[test]
    fn distractors_are_other_captions_and_the_same_each_time() {
        let (a, b) = (HeldOut::new(3, 60).unwrap(), HeldOut::new(3, 60).unwrap());
        assert_eq!(a.distractors, b.distractors);
        for (index, others) in a.distractors.iter().enumerate() {
            assert_eq!(others.len(), DISTRACTORS);
            let mut captions: Vec<&String> = others.iter().map(|&other| &a.captions[other]).collect();
            captions.push(&a.captions[index]);
            captions.sort();
            captions.dedup();
            assert_eq!(captions.len(), DISTRACTORS + 1);
        }
        assert_eq!(a.drawn(16).len(), 60);
        assert!(HeldOut::new(0, 20).err().unwrap().is_usage());
    }
}
