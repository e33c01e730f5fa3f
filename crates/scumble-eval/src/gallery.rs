//! Painting many requests on one base: what a comparison looks at.

use std::ops::ControlFlow;

use scumble_paint::adapters::AdapterUse;
use scumble_paint::request::{EmbeddingUse, Request};
use scumble_paint::studio::{Folders, Resolver, Step, Studio, WearOptions, Worn};
use scumble_train::picture::Picture;

use crate::error::Result;

/// How adapters are found and put on.
#[derive(Clone, Debug, Default)]
pub struct Wear {
    /// Where adapters and words named in prompts are looked for.
    pub folders: Folders,
    /// Use what fits of an adapter that does not fit whole.
    pub partial: bool,
}

/// How far a gallery is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Finished pictures.
    pub done: usize,
    /// Pictures in all.
    pub total: usize,
    /// Within the picture that is being painted.
    pub step: Step,
}

/// The adapters and words that are on.
type On = (Vec<AdapterUse>, Vec<EmbeddingUse>);

/// Who is told how far it is; a break ends the painting.
pub type Watch<'a> = dyn FnMut(Place) -> ControlFlow<()> + 'a;

/// Paints all requests in order; `None` when `watch` broke it off. Adapters stay on as long as requests want the same
/// ones. `note` hears what is odd about them.
pub fn paint(
    studio: &Studio,
    requests: &[Request],
    wear: &Wear,
    note: &mut dyn FnMut(String),
    watch: &mut Watch<'_>,
) -> Result<Option<Vec<Picture>>> {
    let mut resolver = Resolver::new(wear.folders.clone());
    let mut worn: Option<(On, Worn<'_>)> = None;
    let mut pictures = Vec::with_capacity(requests.len());
    for request in requests {
        let mut request = request.clone();
        resolver.add_words(&mut request)?;
        let (adapters, texts) = resolver.resolve(&request)?;
        let wanted = (adapters, request.embeddings.clone());
        if worn.as_ref().is_none_or(|(on, _)| *on != wanted) {
            drop(worn.take());
            let options = WearOptions { fold: false, partial: wear.partial };
            let on = studio.wear(&wanted.0, &wanted.1, options, note)?;
            worn = Some((wanted, on));
        }
        let Some((_, on)) = &worn else { continue };
        let (done, total) = (pictures.len(), requests.len());
        let mut told = |step: Step| watch(Place { done, total, step });
        match on.paint(&request, &texts, &mut told)? {
            Some(picture) => pictures.push(picture),
            None => return Ok(None),
        }
    }
    Ok(Some(pictures))
}

/// The same request without any adapter or learned word: what the base alone makes of its text.
pub fn bare(request: &Request) -> Result<Request> {
    let strip = |text: &str| scumble_paint::tags::extract(text).map(|(text, _)| text);
    Ok(Request {
        prompt: strip(&request.prompt)?,
        negative: strip(&request.negative)?,
        adapters: Vec::new(),
        embeddings: Vec::new(),
        ..request.clone()
    })
}

/// One request for each prompt and seed: prompts outside, seeds inside.
pub fn requests(prompts: &[String], seeds: &[u64], common: &Request) -> Vec<Request> {
    let with =
        |prompt: &String, seed: &u64| Request { prompt: prompt.clone(), seed: *seed, ..common.clone() };
    prompts.iter().flat_map(|prompt| seeds.iter().map(move |seed| with(prompt, seed))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_with_every_seed_and_without_adapters() {
        let common = Request {
            adapters: vec![AdapterUse::new("x.safetensors".into(), 1.0, 1.0)],
            steps: 3,
            ..Request::default()
        };
        let all = requests(&["a <lora:y:1>".into(), "b".into()], &[5, 6], &common);
        let seen: Vec<(&str, u64)> = all.iter().map(|r| (r.prompt.as_str(), r.seed)).collect();
        assert_eq!(seen, [("a <lora:y:1>", 5), ("a <lora:y:1>", 6), ("b", 5), ("b", 6)]);
        let bare = bare(&all[0]).unwrap();
        assert!(bare.adapters.is_empty() && !bare.prompt.contains("lora") && bare.steps == 3);
    }
}
