//! Reports: what was asked of which pictures, and the numbers that came out.

use scumble_train::picture::Picture;
use serde::Serialize;

use crate::error::Result;
use crate::judge::{Embedding, Judge};
use crate::measure::{self, Mean};
use crate::retrieval::{Retrieval, rank};

/// A picture that has been looked at.
#[derive(Clone, Debug)]
pub struct Judged {
    /// File name, or prompt and seed.
    pub name: String,
    /// What the judge is asked about it.
    pub text: Option<String>,
    /// What the judge saw.
    pub embedding: Embedding,
}

/// The numbers of one picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PictureReport {
    /// File name, or prompt and seed.
    pub name: String,
    /// What the judge was asked about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Cosine to that text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_alignment: Option<f64>,
    /// Mean cosine to the references.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_alignment: Option<f64>,
}

/// The numbers of some pictures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alignment {
    /// Mean over the pictures that have a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_alignment: Option<Mean>,
    /// Mean over all, where there are references.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_alignment: Option<Mean>,
    /// How often a picture's own text came first among the other pictures' texts, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
    /// How many references there were.
    pub references: usize,
    /// One by one.
    pub pictures: Vec<PictureReport>,
}

/// Alignments of pictures with their texts and with references.
pub fn alignment(judge: &Judge, pictures: &[Judged], references: &[Embedding]) -> Result<Alignment> {
    let mut texts: Vec<&str> = pictures.iter().filter_map(|picture| picture.text.as_deref()).collect();
    texts.sort_unstable();
    texts.dedup();
    let directions = judge.texts(&texts)?;
    let index = |text: &str| texts.binary_search(&text).ok();
    let (mut reports, mut ranks) = (Vec::with_capacity(pictures.len()), Vec::new());
    for picture in pictures {
        let own = picture.text.as_deref().and_then(index);
        let seen = std::slice::from_ref(&picture.embedding);
        if let Some(own) = own.filter(|_| texts.len() > 1) {
            let others: Vec<&Embedding> =
                directions.iter().enumerate().filter(|(n, _)| *n != own).map(|(_, text)| text).collect();
            ranks.push(rank(&picture.embedding, &directions[own], &others));
        }
        reports.push(PictureReport {
            name: picture.name.clone(),
            text: picture.text.clone(),
            text_alignment: own.map(|own| picture.embedding.cosine(&directions[own])),
            image_alignment: measure::image_alignment(seen, references).pop(),
        });
    }
    let mean = |value: fn(&PictureReport) -> Option<f64>| {
        Mean::of(&reports.iter().filter_map(value).collect::<Vec<_>>())
    };
    Ok(Alignment {
        text_alignment: mean(|report| report.text_alignment),
        image_alignment: mean(|report| report.image_alignment),
        retrieval: Retrieval::of(&ranks, texts.len().saturating_sub(1)),
        references: references.len(),
        pictures: reports,
    })
}

/// What tuning did to prompts that do not ask for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// `1 - cosine` of the tuned model's picture and the base's.
    pub drift: Mean,
    /// Mean absolute difference of their pixels, 0 to 1.
    pub pixels: Mean,
    /// Text alignment of the base's pictures.
    pub text_alignment_before: Mean,
    /// Text alignment of the tuned model's.
    pub text_alignment_after: Mean,
}

/// Drift of pairs of pictures painted from the same `texts` and noise; `None` without any.
pub fn drift(judge: &Judge, texts: &[String], base: &[Picture], tuned: &[Picture]) -> Result<Option<Drift>> {
    let directions = judge.texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    let before = judge.pictures(&base.iter().collect::<Vec<_>>())?;
    let after = judge.pictures(&tuned.iter().collect::<Vec<_>>())?;
    let pixels: Vec<f64> =
        base.iter().zip(tuned).map(|(base, tuned)| measure::pixel_difference(base, tuned)).collect();
    let means = (
        Mean::of(&measure::drift(&before, &after)),
        Mean::of(&pixels),
        Mean::of(&measure::text_alignment(&before, &directions)),
        Mean::of(&measure::text_alignment(&after, &directions)),
    );
    Ok(match means {
        (Some(drift), Some(pixels), Some(text_alignment_before), Some(text_alignment_after)) => {
            Some(Drift { drift, pixels, text_alignment_before, text_alignment_after })
        }
        _ => None,
    })
}

/// Painted pictures as [`Judged`] ones.
pub fn judged(
    judge: &Judge,
    names: impl IntoIterator<Item = String>,
    texts: impl IntoIterator<Item = Option<String>>,
    pictures: &[Picture],
) -> Result<Vec<Judged>> {
    let embeddings = judge.pictures(&pictures.iter().collect::<Vec<_>>())?;
    let named = names.into_iter().zip(texts).zip(embeddings);
    Ok(named.map(|((name, text), embedding)| Judged { name, text, embedding }).collect())
}
