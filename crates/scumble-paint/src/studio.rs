//! A base with its three networks, which wears adapters and paints requests.
//!
//! A picture's noise comes from one generator in diffusers' order: the first picture's latents, the starting noise, the
//! masked picture's latents, then what the sampler draws. The second pass of [`crate::request::Hires`] begins with a
//! generator of the same seed anew.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use scumble_adapter::attach::{Attached, Strength, Towers, attach, fold};
use scumble_adapter::dialect::{ReadOptions, load_adapter};
use scumble_model::base::BaseFiles;
use scumble_model::pipeline::{
    Contrast, Denoising, Extras, Guidance, Inpaint, TextToImage, first_call, latent_mask, to_rgb8,
};
use scumble_model::prompt::{chunks, level, parse};
use scumble_model::sampler::{Sampler, SamplerKind, SamplerOptions};
use scumble_model::text_encoder::TextEncoder;
use scumble_model::tokenizer::Tokenizer;
use scumble_model::unet::UNet;
use scumble_model::vae::Vae;
use scumble_tensor::rng::Generator;
use scumble_tensor::{Backend, DType, Param, Tensor};
use scumble_train::picture::{Filter, Picture, resize};
use serde_json::Value;

use crate::adapters::AdapterUse;
use crate::error::{PaintError, Result};
use crate::library::Library;
use crate::request::{EmbeddingUse, LONGEST_SIDE, Request, Upscaler};
use crate::start::{self, Start};
use crate::words::{self, Learned, Words};
use crate::{adapters, tags};

/// See the module's text.
pub struct Studio {
    backend: Arc<dyn Backend>,
    dtype: DType,
    scheduler_config: Value,
    is_inpainting: bool,
    own_side: usize,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    unet: UNet,
    vae: Vae,
}

/// How adapters are put on.
#[derive(Clone, Copy, Debug, Default)]
pub struct WearOptions {
    /// Add them to the weights for good instead of computing them beside.
    pub fold: bool,
    /// Use what fits of one that does not fit whole.
    pub partial: bool,
}

/// Where files named in prompts are looked for.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// Adapters of `<lora:...>`.
    pub adapters: Vec<PathBuf>,
    /// Learned words that prompts name by their files.
    pub embeddings: Vec<PathBuf>,
}

/// Adapters and learned words on a base. Dropped, the base is as before, but for folded ones.
pub struct Worn<'s> {
    studio: &'s Studio,
    adapters: On,
    words: Words,
}

/// Adapters that come off again when this is dropped, however far it came.
struct On(Vec<(AdapterUse, Option<Attached>)>);

/// What a watcher is told after each call of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Calls made of this pass.
    pub done: usize,
    /// Calls of this pass.
    pub total: usize,
    /// Whether this is the pass at the higher resolution.
    pub is_second_pass: bool,
}

/// A watcher; a break ends the painting.
pub type Watch<'a> = dyn FnMut(Step) -> ControlFlow<()> + 'a;

impl Studio {
    /// Loads the networks of a base.
    pub fn open(files: &BaseFiles, backend: Arc<dyn Backend>, dtype: DType) -> Result<Self> {
        let b = backend.as_ref();
        let unet = UNet::load(&files.unet.config, files.unet.weights.as_ref(), b, dtype)?;
        let vae = Vae::load(&files.vae.config, files.vae.weights.as_ref(), b, dtype)?;
        let text = &files.text_encoder;
        let text_encoder = TextEncoder::load(&text.config, text.weights.as_ref(), b, dtype)?;
        let latents = files.unet.config.get("sample_size").and_then(Value::as_u64);
        let own_side = latents.and_then(|side| usize::try_from(side).ok()).unwrap_or(64) * vae.downscale();
        Ok(Self {
            dtype,
            scheduler_config: files.scheduler_config.clone(),
            is_inpainting: files.is_inpainting(),
            own_side,
            tokenizer: files.tokenizer.open()?,
            text_encoder,
            unet,
            vae,
            backend,
        })
    }

    /// The sampler of a request.
    pub fn sampler_kind(&self, request: &Request) -> Result<&'static SamplerKind> {
        sampler_kind(&self.scheduler_config, request)
    }

    /// Pixels of a side that the base was made for.
    pub fn own_side(&self) -> usize {
        self.own_side
    }

    fn towers(&self) -> Towers<'_> {
        Towers { unet: Some(self.unet.modules()), text_encoder: Some(self.text_encoder.modules()) }
    }

    /// Puts adapters and learned words on; `note` hears what is odd about them.
    pub fn wear(
        &self,
        adapters: &[AdapterUse],
        embeddings: &[EmbeddingUse],
        options: WearOptions,
        note: &mut dyn FnMut(String),
    ) -> Result<Worn<'_>> {
        let table = self.towers().table();
        let embedding = self.text_encoder.token_embedding();
        let mut learned: Vec<Learned> = Vec::new();
        for file in embeddings {
            learned.extend(words::read(&file.file, file.token.as_deref())?);
        }
        let mut on = On(Vec::new());
        for adapter in adapters {
            let loaded = load_adapter(&adapter.file, &table, ReadOptions { partial: options.partial })?;
            if !loaded.report.is_complete() {
                note(format!("{}: {}", adapter.file.display(), loaded.report));
            }
            let tokens = loaded.adapter.tokens.iter();
            for (word, rows) in tokens {
                learned.push(Learned { word: word.clone(), rows: rows.to_dtype(DType::F32)? });
            }
            let strength = Strength { unet: adapter.unet, text_encoder: adapter.text };
            if options.fold {
                fold(&loaded.adapter, self.towers(), strength, self.backend.as_ref())?;
                on.0.push((adapter.clone(), None));
            } else {
                let attached = attach(&loaded.adapter, self.towers(), strength, self.backend.as_ref())?;
                let paths = attached.paths();
                // Pushed first, so that it comes off again where a block is wrong.
                on.0.push((adapter.clone(), Some(attached)));
                adapter.check_blocks(&paths)?;
            }
        }
        let rows = embedding.base_rows();
        let width = embedding.base().value().shape().last();
        let (words, hidden) = Words::new(&self.tokenizer, [rows, width], &learned)?;
        for word in hidden {
            note(format!("the word `{word}` comes from several files; the first counts"));
        }
        let added = words.rows.as_ref().map(|rows| -> Result<Param> {
            let rows = self.backend.upload(&rows.to_dtype(self.dtype)?)?;
            Ok(Param::frozen("learned words", rows))
        });
        embedding.set_added(added.transpose()?)?;
        let worn = Worn { studio: self, adapters: on, words };
        worn.set_place(START);
        Ok(worn)
    }

    fn pipeline(&self) -> TextToImage<'_> {
        TextToImage::new(Arc::clone(&self.backend), self.dtype, &self.text_encoder, &self.unet, &self.vae)
    }

    fn build_sampler(&self, request: &Request, steps: usize) -> Result<Box<dyn Sampler>> {
        let options = SamplerOptions { steps, eta: request.eta };
        Ok(self.sampler_kind(request)?.build(&self.scheduler_config, options)?)
    }
}

/// The sampler of a request on a base with this configuration.
pub fn sampler_kind(scheduler_config: &Value, request: &Request) -> Result<&'static SamplerKind> {
    Ok(match &request.sampler {
        Some(name) => SamplerKind::find(name)?,
        None => SamplerKind::of_config(scheduler_config)?,
    })
}

/// Checks what can be checked of a request before the networks are loaded.
pub fn check(files: &BaseFiles, request: &Request) -> Result<()> {
    request.check()?;
    check_files(request)?;
    let kind = sampler_kind(&files.scheduler_config, request)?;
    let second = request.hires.and_then(|hires| hires.steps);
    for steps in [Some(request.steps), second].into_iter().flatten() {
        kind.build(&files.scheduler_config, SamplerOptions { steps, eta: request.eta })?;
    }
    if request.eta > 0.0 && kind.name != "ddim" {
        let reason = format!("the sampler {} has no such setting", kind.name);
        return Err(PaintError::setting("--eta", reason, "use --sampler ddim"));
    }
    Ok(())
}

/// Errors on words, pictures and masks that are not there. Pictures keep only the names of those that were given by
/// absolute paths, so a request that one brought may lack them.
fn check_files(request: &Request) -> Result<()> {
    let init = request.init.as_ref();
    let embeddings = request.embeddings.iter().map(|file| ("embedding", &file.file, "--embedding"));
    let picture = init.map(|init| ("picture", &init.image, "--init-image"));
    let mask = init.and_then(|init| init.mask.as_ref()).map(|mask| ("mask", &mask.image, "--mask"));
    for (what, path, option) in embeddings.chain(picture).chain(mask) {
        if !path.exists() {
            let hint = format!("say with {option} where it is");
            return Err(PaintError::file(what, path.display().to_string(), "there is no such file", hint));
        }
    }
    Ok(())
}

/// Finds the adapters of many requests; each file's hash is computed once.
#[derive(Debug, Default)]
pub struct Resolver {
    folders: Folders,
    hashes: BTreeMap<PathBuf, String>,
    /// The files of learned words, once they were looked for.
    library: Option<Library>,
}

impl Resolver {
    /// One that looks in these folders.
    pub fn new(folders: Folders) -> Self {
        Self { folders, hashes: BTreeMap::new(), library: None }
    }

    /// Adds the files of learned words that a request's prompts name and that it does not have yet.
    pub fn add_words(&mut self, request: &mut Request) -> Result<()> {
        if self.folders.embeddings.is_empty() {
            return Ok(());
        }
        if self.library.is_none() {
            self.library = Some(Library::open(&self.folders.embeddings)?);
        }
        let Some(library) = &self.library else { return Ok(()) };
        for found in library.named_in(&[&request.prompt, &request.negative])? {
            if !request.embeddings.iter().any(|known| known.file == found.file || known.token == found.token)
            {
                request.embeddings.push(found);
            }
        }
        Ok(())
    }

    /// All adapters of a request: those of its own, then those of its prompts' tags; and the prompts without tags.
    /// Tags in the negative prompt act as those in the prompt do.
    pub fn resolve(&mut self, request: &Request) -> Result<(Vec<AdapterUse>, [String; 2])> {
        let (prompt, mut found) = tags::extract(&request.prompt)?;
        let (negative, more) = tags::extract(&request.negative)?;
        found.extend(more);
        let mut all = request.adapters.clone();
        for tag in &found {
            all.push(AdapterUse::of_tag(tag, &self.folders.adapters)?);
        }
        for adapter in &mut all {
            let hash = match self.hashes.get(&adapter.file) {
                Some(hash) => hash.clone(),
                None => adapters::short_hash(&adapter.file)?,
            };
            self.hashes.insert(adapter.file.clone(), hash.clone());
            if let Some(expected) = adapter.hash.as_ref().filter(|expected| **expected != hash) {
                return Err(PaintError::file(
                    "adapter",
                    adapter.file.display().to_string(),
                    format!("its hash is {hash}, the picture was painted with {expected}"),
                    "find the file it was painted with, or pass it with --adapter",
                ));
            }
            adapter.hash = Some(hash);
        }
        Ok((all, [prompt, negative]))
    }
}

/// Where in a run strengths are set.
#[derive(Clone, Copy)]
struct Place {
    call: usize,
    calls: usize,
    timestep: f64,
}

/// Where texts are encoded. The text encoder's strengths have no schedule.
const START: Place = Place { call: 0, calls: 1, timestep: 0.0 };

/// Text states with and without adapters.
struct States {
    prompt: Tensor,
    negative: Tensor,
}

impl Worn<'_> {
    /// Sets every strength for a place in the run.
    fn set_place(&self, Place { call, calls, timestep }: Place) {
        for (adapter, attached) in &self.adapters.0 {
            let factor = adapter.schedule.factor(call, calls, timestep);
            if let Some(attached) = attached {
                attached.set_strengths(|path| adapter.strength(path, factor));
            }
        }
    }

    fn take_off(&self) {
        for attached in self.adapters.0.iter().filter_map(|(_, attached)| attached.as_ref()) {
            attached.set_strengths(|_| 0.0);
        }
    }

    fn states(&self, texts: &[String; 2], clip_skip: usize) -> Result<States> {
        let layers = self.studio.text_encoder.config().layers;
        if clip_skip >= layers {
            return Err(PaintError::setting(
                "--clip-skip",
                format!("{clip_skip} of the text encoder's {layers} layers can't be left out"),
                "2 layers are the most that people leave out",
            ));
        }
        let pipeline = self.studio.pipeline();
        let tokenizer = self.words.tokenizer();
        let [mut prompt, mut negative] =
            texts.each_ref().map(|text| chunks(tokenizer, &parse(text), |text| self.words.tokenize(text)));
        level(tokenizer, &mut prompt, &mut negative);
        Ok(States {
            prompt: pipeline.prompt_states(&prompt, clip_skip)?,
            negative: pipeline.prompt_states(&negative, clip_skip)?,
        })
    }

    /// Paints one picture with `texts` as prompt and negative prompt; `None` when `watch` broke it off.
    pub fn paint(
        &self,
        request: &Request,
        texts: &[String; 2],
        watch: &mut Watch<'_>,
    ) -> Result<Option<Picture>> {
        request.check()?;
        let start = request.init.as_ref().map(|init| start::load(init, request.size)).transpose()?;
        let states = self.states(texts, request.clip_skip)?;
        let without = match request.adapter_guidance {
            1.0 => None,
            _ => {
                self.take_off();
                let states = self.states(texts, request.clip_skip);
                self.set_place(START);
                Some(states?)
            }
        };
        let Some(latents) = self.first_pass(request, start.as_ref(), (&states, without.as_ref()), watch)?
        else {
            return Ok(None);
        };
        let latents = match request.hires {
            None => Some(latents),
            Some(_) => self.second_pass(request, latents, (&states, without.as_ref()), watch)?,
        };
        let Some(latents) = latents else { return Ok(None) };
        let mut picture = self.decode(request, &latents)?;
        if let (Some(start), Some(init)) = (&start, &request.init)
            && let (Some(mask), true) =
                (&start.mask, init.mask.as_ref().is_some_and(|mask| mask.keep_unmasked))
        {
            start::compose(&mut picture, &start.picture, mask);
        }
        Ok(Some(picture))
    }

    fn decode(&self, request: &Request, latents: &Tensor) -> Result<Picture> {
        let rgb = to_rgb8(&self.studio.pipeline().decode_tiled(latents, request.vae_tiling)?)?.pop();
        let picture = rgb.and_then(|rgb| Picture::from_rgb(rgb.width, rgb.height, rgb.pixels));
        picture.ok_or_else(|| PaintError::setting("picture", "the decoder gave none", ""))
    }

    fn first_pass(
        &self,
        request: &Request,
        start: Option<&Start>,
        states: (&States, Option<&States>),
        watch: &mut Watch<'_>,
    ) -> Result<Option<Tensor>> {
        let (studio, pipeline) = (self.studio, self.studio.pipeline());
        let mut sampler = studio.build_sampler(request, request.steps)?;
        let own = [studio.own_side; 2];
        let [width, height] = match start {
            Some(start) => [start.picture.width, start.picture.height],
            None => request.size.unwrap_or(own),
        };
        let dims = pipeline.latent_dims(1, height, width)?;
        let mut generator = Generator::new(request.seed);
        let strength = request.init.as_ref().map_or(1.0, |init| init.strength);
        let first = match start {
            Some(_) => first_call(sampler.as_ref(), request.steps, strength),
            None => 0,
        };
        let mask = start.and_then(|start| start.mask.as_deref());
        let is_blended = mask.is_some() && !studio.is_inpainting;
        // A picture that starts at full strength with its mask alone is pure noise, as diffusers has it.
        let is_noise = start.is_none() || (strength == 1.0 && mask.is_some());
        let original = match start {
            Some(start) if !is_noise || is_blended => {
                let picture = start::tensor(&start.picture, None)?;
                Some(pipeline.encode(&picture, &mut generator, request.vae_tiling)?)
            }
            _ => None,
        };
        let noise = generator.randn_tensor(&dims)?;
        let latents = match &original {
            Some(original) if !is_noise => noised(sampler.as_ref(), first, original, &noise)?,
            _ => pipeline.start_from(&noise, sampler.as_ref())?,
        };
        let step = studio.vae.downscale();
        let inpaint = if studio.is_inpainting {
            // Without a mask everything is painted, and the masked picture is blank.
            let all = vec![1.0; width * height];
            let mask = mask.unwrap_or(&all);
            let hard: Vec<f32> = mask.iter().map(|&value| if value < 0.5 { 0.0 } else { 1.0 }).collect();
            let blank = Picture::filled(width, height, [0; 3]);
            let picture = start.map_or(&blank, |start| &start.picture);
            let masked =
                pipeline.encode(&start::tensor(picture, Some(mask))?, &mut generator, request.vae_tiling)?;
            Some(Inpaint::channels(&latent_mask(&hard, height, width, step)?, &masked)?)
        } else {
            match (mask, &original) {
                (Some(mask), Some(original)) => {
                    // diffusers draws for the masked picture here too, though nothing looks at it.
                    let picture = start.map(|start| start::tensor(&start.picture, Some(mask)));
                    if let Some(picture) = picture.filter(|_| sampler_draws(studio, request)) {
                        pipeline.encode(&picture?, &mut generator, request.vae_tiling)?;
                    }
                    let small = latent_mask(mask, height, width, step)?;
                    Some(Inpaint::blending(&small, original, &noise)?)
                }
                _ => None,
            }
        };
        let run = Run { latents, first, inpaint: inpaint.as_ref(), is_second_pass: false };
        self.denoise(request, run, states, (sampler.as_mut(), &mut generator), watch)
    }

    fn second_pass(
        &self,
        request: &Request,
        latents: Tensor,
        states: (&States, Option<&States>),
        watch: &mut Watch<'_>,
    ) -> Result<Option<Tensor>> {
        let Some(hires) = request.hires else { return Ok(Some(latents)) };
        let (studio, pipeline) = (self.studio, self.studio.pipeline());
        let step = studio.vae.downscale();
        let grown =
            |side: usize| ((side as f64 * hires.scale).round() as usize).clamp(1, LONGEST_SIDE / step);
        let (h, w) = (grown(latents.dims()[2]), grown(latents.dims()[3]));
        let steps = hires.steps.unwrap_or(request.steps);
        let mut sampler = studio.build_sampler(request, steps)?;
        let first = first_call(sampler.as_ref(), steps, hires.strength);
        let mut generator = Generator::new(request.seed);
        let original = match hires.upscaler {
            Upscaler::Latent => enlarged(&latents, h, w)?,
            Upscaler::Image => {
                let picture = self.decode(request, &latents)?;
                let picture = resize(&picture, w * step, h * step, Filter::Lanczos);
                pipeline.encode(&start::tensor(&picture, None)?, &mut generator, request.vae_tiling)?
            }
        };
        drop(latents);
        let noise = generator.randn_tensor(original.dims())?;
        let latents = noised(sampler.as_ref(), first, &original, &noise)?;
        let inpaint = match studio.is_inpainting {
            true => {
                let blank = Picture::filled(w * step, h * step, [0; 3]);
                let all = vec![1.0; w * step * h * step];
                let masked = start::tensor(&blank, Some(&all))?;
                let masked = pipeline.encode(&masked, &mut generator, request.vae_tiling)?;
                Some(Inpaint::channels(&latent_mask(&all, h * step, w * step, step)?, &masked)?)
            }
            false => None,
        };
        let run = Run { latents, first, inpaint: inpaint.as_ref(), is_second_pass: true };
        self.denoise(request, run, states, (sampler.as_mut(), &mut generator), watch)
    }

    fn denoise(
        &self,
        request: &Request,
        run: Run<'_>,
        (states, without): (&States, Option<&States>),
        (sampler, generator): (&mut dyn Sampler, &mut Generator),
        watch: &mut Watch<'_>,
    ) -> Result<Option<Tensor>> {
        // Both closures below need the place in the run.
        let place = Cell::new(START);
        let timesteps = sampler.timesteps().to_vec();
        let mut prepare = |call: usize, calls: usize| {
            place.set(Place { call, calls, timestep: timesteps.get(call).copied().unwrap_or(0.0) });
            self.set_place(place.get());
        };
        let mut switch = |on: bool| match on {
            true => self.set_place(place.get()),
            false => self.take_off(),
        };
        let contrast = without.map(|without| Contrast {
            scale: request.adapter_guidance as f32,
            states: &without.prompt,
            negative: &without.negative,
            switch: &mut switch,
        });
        let first = run.first;
        let is_second_pass = run.is_second_pass;
        let denoising = Denoising {
            states: &states.prompt,
            guidance: Some(Guidance { scale: request.guidance as f32, negative: &states.negative }),
            latents: run.latents,
            first_call: first,
            sampler,
            generator,
        };
        let extras = Extras { inpaint: run.inpaint, contrast, prepare: Some(&mut prepare) };
        let result = self.studio.pipeline().denoise_with(denoising, extras, |progress| {
            watch(Step { done: progress.call + 1 - first, total: progress.calls - first, is_second_pass })
        });
        self.set_place(START);
        Ok(result?)
    }
}

/// Whether the generator is needed after the start.
fn sampler_draws(studio: &Studio, request: &Request) -> bool {
    studio.sampler_kind(request).is_ok_and(|kind| kind.draws_noise) || request.eta > 0.0
}

struct Run<'a> {
    latents: Tensor,
    first: usize,
    inpaint: Option<&'a Inpaint>,
    is_second_pass: bool,
}

/// The latents of a picture at the noise level of the first call; without a call, as they are.
fn noised(sampler: &dyn Sampler, first: usize, original: &Tensor, noise: &Tensor) -> Result<Tensor> {
    if first >= sampler.timesteps().len() {
        return Ok(original.clone());
    }
    let noisy = sampler.add_noise(first, original.as_slice()?, noise.as_slice()?)?;
    Ok(Tensor::from_slice(&noisy, original.dims())?)
}

/// Latents `[n, c, h, w]` at another size, linearly between pixel centres.
fn enlarged(latents: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let &[n, c, h, w] = latents.dims() else {
        return Err(scumble_tensor::shape_error("enlarge", "latents", "[n, c, h, w]", latents.shape()).into());
    };
    let values = latents.as_slice::<f32>()?;
    let source = |i: usize, from: usize, to: usize| {
        let place = ((i as f32 + 0.5) * from as f32 / to as f32 - 0.5).max(0.0);
        let low = (place as usize).min(from - 1);
        (low, (low + 1).min(from - 1), place - low as f32)
    };
    let mut out = Vec::with_capacity(n * c * height * width);
    for plane in values.chunks_exact((h * w).max(1)) {
        for y in 0..height {
            let (y0, y1, fy) = source(y, h, height);
            for x in 0..width {
                let (x0, x1, fx) = source(x, w, width);
                let row = |y: usize| plane[y * w + x0] * (1.0 - fx) + plane[y * w + x1] * fx;
                out.push(row(y0) * (1.0 - fy) + row(y1) * fy);
            }
        }
    }
    Ok(Tensor::from_slice(&out, &[n, c, height, width])?)
}

impl Drop for On {
    fn drop(&mut self) {
        for (_, attached) in self.0.drain(..) {
            if let Some(attached) = attached {
                attached.detach();
            }
        }
    }
}

impl Drop for Worn<'_> {
    fn drop(&mut self) {
        // Taking rows away cannot fail.
        self.studio.text_encoder.token_embedding().set_added(None).ok();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
mod tests {
    use std::path::Path;

    use scumble_model::base::BaseOptions;
    use scumble_model::nn::Modules;
    use scumble_tensor::reference::ReferenceBackend;

    use super::*;
    use crate::request::{Init, Mask};

    /// The weights of both networks, and how many branches act beside them.
    fn weights_and_branches(studio: &Studio) -> (Vec<f32>, usize) {
        let (mut weights, mut branches) = (Vec::new(), 0);
        for modules in [studio.unet.modules(), studio.text_encoder.modules()] {
            for projection in modules.projections().values() {
                let weight = Modules::export(studio.backend.as_ref(), projection.weight()).unwrap();
                weights.extend(weight.to_vec::<f32>().unwrap());
                branches += projection.branches().len();
            }
        }
        (weights, branches)
    }

    #[test]
    fn what_is_folded_is_in_the_weights_and_nothing_acts_beside_them() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let base = fixtures.join("tiny-sd1").display().to_string();
        let files = BaseFiles::open(&base, &BaseOptions::default()).unwrap();
        let studio = Studio::open(&files, Arc::new(ReferenceBackend), DType::F32).unwrap();
        let adapters = [AdapterUse::new(fixtures.join("lora/kohya.safetensors"), 1.0, 1.0)];
        let wear = |fold| {
            studio.wear(&adapters, &[], WearOptions { fold, partial: false }, &mut |note| panic!("{note}"))
        };
        let (plain, none) = weights_and_branches(&studio);
        assert_eq!(none, 0);
        let live = wear(false).unwrap();
        let (weights, branches) = weights_and_branches(&studio);
        assert!(weights == plain && branches > 100, "{branches} branches");
        drop(live);
        assert_eq!(weights_and_branches(&studio).1, 0, "taken off");
        let folded = wear(true).unwrap();
        let (weights, branches) = weights_and_branches(&studio);
        assert!(weights != plain && branches == 0, "{branches} branches");
        drop(folded);
        assert!(weights_and_branches(&studio).0 == weights, "for good");
    }

    #[test]
    fn files_that_are_not_there_are_named_with_their_option() {
        let there = tempfile::NamedTempFile::new().unwrap();
        let mask = |image: PathBuf| Mask { image, invert: false, blur: 0.0, keep_unmasked: false };
        let init = |image: PathBuf, mask| Some(Init { image, strength: 0.5, mask });
        let mut request = Request::default();
        let refused = |request: &Request, name: &str, option: &str| {
            let error = check_files(request).unwrap_err();
            assert!(error.to_string().contains(name) && error.hints()[0].contains(option), "{error}");
        };
        request.init = init("gone.png".into(), None);
        refused(&request, "gone.png", "--init-image");
        request.init = init(there.path().into(), Some(mask("gone-mask.png".into())));
        refused(&request, "gone-mask.png", "--mask");
        request.init = init(there.path().into(), Some(mask(there.path().into())));
        check_files(&request).unwrap();
        request.embeddings = vec![EmbeddingUse { file: "gone.pt".into(), token: None }];
        refused(&request, "gone.pt", "--embedding");
    }

    #[test]
    fn latents_grow_linearly() {
        let latents = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0], &[1, 1, 2, 2]).unwrap();
        let large = enlarged(&latents, 4, 4).unwrap();
        // As torch's bilinear interpolation without aligned corners.
        let expected =
            [0.0, 0.25, 0.75, 1.0, 0.5, 0.75, 1.25, 1.5, 1.5, 1.75, 2.25, 2.5, 2.0, 2.25, 2.75, 3.0];
        assert_eq!(large.as_slice::<f32>().unwrap(), expected);
    }
}
