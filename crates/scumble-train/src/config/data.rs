//! `[data]`: the pictures and their texts.

use std::path::PathBuf;

use super::choice::choice;
use super::section::section;

choice! {
    /// Where the text of a picture comes from.
    CaptionSource = Auto {
        /// `<name>.txt` beside the picture where there is one, otherwise `prompt`, otherwise the file's name.
        Auto = "auto",
        /// `<name>.txt` beside the picture; a missing one is an error.
        Text = "text",
        /// The file's name without ending; `_` and `-` become spaces.
        FileName = "file-name",
        /// `prompt` for every picture.
        Prompt = "prompt",
    }
}
choice! {
    /// Sentences that a trigger word is put into, a new one each time a picture is seen.
    Template = None {
        /// No template: captions are used as they are.
        None = "none",
        /// "a photo of a ..." and alike: for a subject.
        Object = "object",
        /// "a painting in the style of ..." and alike: for a style.
        Style = "style",
        /// "a selfie of ..." and alike: for a person.
        Person = "person",
    }
}
choice! {
    /// Which part of a picture is used when its shape is not the training shape.
    Crop = Center {
        /// The middle.
        Center = "center",
        /// A new place each time the picture is seen.
        Random = "random",
    }
}
choice! {
    /// What to do with a file that can't be decoded.
    Unreadable = Skip {
        /// Name it in a warning and go on without it.
        Skip = "skip",
        /// Stop.
        Error = "error",
    }
}

section! {
    /// `[data]`: the pictures and their texts.
    Data {
        /// The folder of pictures to learn from.
        folder: PathBuf = PathBuf::new(),
        /// A dataset file (TOML) with several folders instead, each with settings of its own; see docs/datasets.md.
        dataset: Option<PathBuf> = None,
        /// Width of the training pictures in pixels, a multiple of 8. Larger shows more detail, takes more time and memory.
        width: usize = 512,
        /// Height of the training pictures in pixels, a multiple of 8.
        height: usize = 512,
        /// Where the texts come from: `auto`, `text` (`<name>.txt` beside each picture), `file-name` or `prompt`.
        captions: CaptionSource = CaptionSource::Auto,
        /// The text for all pictures that bring none, such as `a photo of sks dog`.
        prompt: Option<String> = None,
        /// A word put in front of every text that does not contain it; with a template, the word the template is filled with. Left out, the new words are.
        trigger: Option<String> = None,
        /// Sentences drawn anew each time a picture is seen: `none`, `object`, `style` or `person`. Needs `trigger` or new words.
        template: Template = Template::None,
        /// Put in front of every text.
        prefix: Option<String> = None,
        /// Put behind every text.
        suffix: Option<String> = None,
        /// Put the parts of a text between commas in another order each time a picture is seen.
        shuffle_tags: bool = false,
        /// How many parts at the front stay where they are when others are shuffled or left out.
        keep_tags: usize = 0,
        /// Share of the parts left out each time, 0 to 1.
        tag_dropout: f64 = 0.0,
        /// Share of the times that a picture is shown without any text, 0 to 1; 0.05 to 0.1 is usual for a style.
        caption_dropout: f64 = 0.0,
        /// How much of a text is read: 75, 150 or 225 tokens. Longer texts go on in chunks of 75, as when painting.
        max_tokens: usize = 75,
        /// Train each picture at the size whose shape is nearest to its own, of the same area, instead of cutting all to one.
        buckets: bool = false,
        /// Sides of the sizes are multiples of this. Left out, 64, or 8 for small pictures.
        bucket_step: Option<usize> = None,
        /// Shortest side. Left out, half of the usual.
        bucket_min: Option<usize> = None,
        /// Longest side. Left out, twice the usual.
        bucket_max: Option<usize> = None,
        /// Which part to use of pictures with another shape: `center` or `random`.
        crop: Crop = Crop::Center,
        /// Show each picture mirrored half of the time. Not for faces with a parting, letters or anything with a side.
        flip: bool = false,
        /// How often each picture counts within one round through the folder.
        repeats: usize = 1,
        /// What to do with files that can't be decoded: `skip` them with a warning, or `error`.
        unreadable: Unreadable = Unreadable::Skip,
        /// Folder of pictures of the same kind of thing in general, used with `class_prompt`. Left out, one beside the runs.
        class_folder: Option<PathBuf> = None,
        /// Text of pictures of the same kind of thing in general, such as `a photo of a dog`. They are trained on as well, so
        /// that the model does not forget what others look like (prior preservation).
        class_prompt: Option<String> = None,
        /// How many class pictures are wanted; missing ones are painted by the base model before training.
        class_count: usize = 100,
        /// Steps of the painting of missing class pictures.
        class_steps: usize = 50,
        /// How much the class pictures count against yours. Higher forgets less and learns slower.
        prior_weight: f64 = 1.0,
    }
}

impl Data {
    /// Chunks of 75 tokens that are read of a text.
    pub fn chunks(&self) -> usize {
        self.max_tokens.div_ceil(75).max(1)
    }
}
