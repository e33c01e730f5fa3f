//! The text of a picture.
//!
//! A caption file is `<name>.txt` beside `<name>.<ending>`: UTF-8 (a byte-order mark is dropped; UTF-16 with one is
//! understood). Its first line that is not blank is the caption, as in other trainers; further lines are reported and not
//! used. Runs of blanks become one blank; NUL and other control characters are taken out. An empty file is an empty
//! caption, reported.
//!
//! The trigger word is put in front (`trigger, caption`) unless the caption contains it as a word. With a template the text
//! is the template filled with the trigger, and captions are not looked at. A prefix and a suffix are put around all of
//! them first. What a visit does to the text is in [`super::tags`].

use std::path::Path;

use scumble_tensor::rng::Generator;

use super::templates;
use super::{DataError, Result, TagRules, shown_name};
use crate::config::{CaptionSource, Template};
use crate::picture::read_bounded;

/// Longest caption file in bytes; the text encoder reads 75 tokens.
const LONGEST_FILE: u64 = 64 << 10;

/// Where texts come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptionRules {
    /// Files, names or one prompt.
    pub source: CaptionSource,
    /// The text of pictures that bring none.
    pub prompt: Option<String>,
    /// A word that every text contains.
    pub trigger: Option<String>,
    /// Sentences around the trigger, instead of captions.
    pub template: Template,
    /// In front of every text.
    pub prefix: Option<String>,
    /// Behind every text.
    pub suffix: Option<String>,
    /// What a visit does to the text.
    pub tags: TagRules,
}

/// Which rule a text came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// `<name>.txt`.
    TextFile,
    /// The one prompt.
    Prompt,
    /// The picture's name.
    FileName,
    /// A template filled with the trigger.
    Template,
}

/// What is said about a picture: one text, or a set from which every visit draws one.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    texts: Vec<String>,
    /// What a visit does to the text.
    pub tags: TagRules,
    /// Where the texts came from.
    pub origin: Origin,
}

impl Caption {
    /// Every text that a visit may see, in the order of the draw; one that is there twice is drawn twice as often.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The text for a visit; `at` is uniform in 0 .. 1.
    pub fn choose(&self, at: f64) -> &str {
        let i = (at * self.texts.len() as f64) as usize;
        self.texts.get(i).or(self.texts.last()).map_or("", String::as_str)
    }
}

impl Caption {
    /// The text as a visit sees it; `at` is uniform in 0 .. 1, `stream` the visit's own.
    pub fn at_visit(&self, at: f64, stream: &mut Generator) -> String {
        self.tags.apply(self.choose(at), stream)
    }

    /// Every text that visits see, where they can be listed.
    pub fn variants(&self) -> Option<Vec<String>> {
        let mut all = self.texts.clone();
        all.extend((self.tags.caption_dropout > 0.0).then(String::new));
        (!self.tags.varies()).then_some(all)
    }
}

impl CaptionRules {
    /// One prompt for all.
    pub fn prompt(prompt: &str) -> Self {
        Self { source: CaptionSource::Prompt, prompt: Some(prompt.into()), ..Self::default() }
    }

    /// Whether the rules can give a text to every picture.
    pub fn check(&self) -> Result<()> {
        if self.template != Template::None {
            let setting = "a template";
            return filled(&self.trigger)
                .map(drop)
                .ok_or(DataError::MissingSetting { setting, missing: "trigger" });
        }
        if self.source == CaptionSource::Prompt && filled(&self.prompt).is_none() {
            let setting = "one prompt for all pictures";
            return Err(DataError::MissingSetting { setting, missing: "prompt" });
        }
        Ok(())
    }

    /// The text of a picture, and notices about what had to be changed or left out.
    pub fn caption(&self, picture: &Path) -> Result<(Caption, Vec<String>)> {
        let trigger = filled(&self.trigger);
        let sentences = templates::sentences(self.template);
        if let (Some(trigger), false) = (&trigger, sentences.is_empty()) {
            let texts = sentences.iter().map(|s| self.framed(&s.replace("{}", trigger))).collect();
            return Ok((Caption { texts, tags: self.tags, origin: Origin::Template }, Vec::new()));
        }
        let (text, origin, notices) = self.source_text(picture)?;
        let text = self.framed(&text);
        let text = match trigger {
            Some(trigger) => with_trigger(&text, &trigger),
            None => text,
        };
        Ok((Caption { texts: vec![text], tags: self.tags, origin }, notices))
    }

    /// With prefix and suffix, blanks between.
    fn framed(&self, text: &str) -> String {
        let parts = [filled(&self.prefix), Some(text.to_owned()), filled(&self.suffix)];
        let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        // A suffix that begins with a comma goes on right behind the text.
        parts.join(" ").replace(" ,", ",")
    }

    fn source_text(&self, picture: &Path) -> Result<(String, Origin, Vec<String>)> {
        if matches!(self.source, CaptionSource::Auto | CaptionSource::Text) {
            let file = picture.with_extension("txt");
            // Also a broken link is there: it is reported rather than passed over.
            if file.symlink_metadata().is_ok() {
                let (text, notices) = read_caption(&file)?;
                return Ok((text, Origin::TextFile, notices));
            }
            if self.source == CaptionSource::Text {
                let picture = picture.display().to_string();
                return Err(DataError::MissingCaption { picture, expected: shown_name(&file) });
            }
        }
        match filled(&self.prompt) {
            Some(prompt) if self.source != CaptionSource::FileName => {
                Ok((prompt, Origin::Prompt, Vec::new()))
            }
            _ => Ok((from_file_name(picture), Origin::FileName, Vec::new())),
        }
    }
}

/// The cleaned setting, if anything is left of it.
fn filled(setting: &Option<String>) -> Option<String> {
    setting.as_deref().map(|text| clean(text).0).filter(|text| !text.is_empty())
}

/// `trigger, caption`, or the caption alone if the trigger is in it as a word (upper and lower case are the same to the
/// text encoder).
fn with_trigger(caption: &str, trigger: &str) -> String {
    let (low, word) = (caption.to_lowercase(), trigger.to_lowercase());
    let is_word = |(at, found): (usize, &str)| {
        let before = low[..at].chars().next_back();
        let after = low[at + found.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    };
    if low.match_indices(word.as_str()).any(is_word) {
        caption.to_owned()
    } else if caption.is_empty() {
        trigger.to_owned()
    } else {
        format!("{trigger}, {caption}")
    }
}

/// The name without ending; `_` and `-` become blanks, the number of a copy (`dog (2).jpg`) is dropped.
pub(super) fn from_file_name(picture: &Path) -> String {
    let stem = picture.file_stem().unwrap_or_default().to_string_lossy();
    let text = clean(&stem.replace(['_', '-'], " ")).0;
    let is_number = |back: &str| back.strip_suffix(')').is_some_and(|n| n.parse::<u32>().is_ok());
    match text.rsplit_once('(') {
        Some((front, back)) if is_number(back) && !front.is_empty() => front.trim_end().to_owned(),
        _ => text,
    }
}

/// Reads a caption file; also returns what is worth a notice.
fn read_caption(file: &Path) -> Result<(String, Vec<String>)> {
    let shown = file.display().to_string();
    let unusable = |reason: String| DataError::Caption { file: shown.clone(), reason };
    let bytes = read_bounded(file, LONGEST_FILE).map_err(|e| unusable(e.to_string()))?;
    let content = decode_text(&bytes).map_err(unusable)?;
    let name = shown_name(file);
    let mut notices = Vec::new();
    let mut lines = content.lines().map(clean).filter(|(text, _)| !text.is_empty());
    let (text, removed) = lines.next().unwrap_or_default();
    if text.is_empty() {
        notices.push(format!("`{name}` is empty: its picture is trained without a caption"));
    }
    if removed > 0 {
        notices.push(format!("`{name}`: {removed} control characters were taken out"));
    }
    let more = lines.count();
    if more > 0 {
        notices.push(format!("`{name}` has {} lines of text: only the first is used", more + 1));
    }
    Ok((text, notices))
}

/// The characters of a text file, or what is wrong with it.
fn decode_text(bytes: &[u8]) -> Result<String, String> {
    let utf16 = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = rest.chunks_exact(2).map(|b| unit([b[0], b[1]])).collect();
        String::from_utf16(&units).map_err(|_| "it begins like UTF-16 but is not".to_owned())
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => std::str::from_utf8(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes))
            .map(str::to_owned)
            .map_err(|_| {
                let at = std::str::from_utf8(bytes).err().map_or(0, |e| e.valid_up_to());
                format!(
                    "byte {at} (hex {:02x}) is not UTF-8 text",
                    bytes.get(at).copied().unwrap_or_default()
                )
            }),
    }
}

/// Blanks merged, control characters out; also how many were taken out.
fn clean(text: &str) -> (String, usize) {
    let is_rubbish = |c: &char| (c.is_control() && !c.is_whitespace()) || *c == '\u{feff}';
    let removed = text.chars().filter(is_rubbish).count();
    let kept: String = text.chars().filter(|c| !is_rubbish(c)).collect();
    (kept.split_whitespace().collect::<Vec<_>>().join(" "), removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8]) -> Result<(String, Vec<String>)> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        std::fs::write(&file, content).unwrap();
        read_caption(&file)
    }

    #[test]
    fn caption_files_are_cleaned() {
        let text = |content: &[u8]| written(content).unwrap().0;
        assert_eq!(text(b"a dog"), "a dog");
        assert_eq!(text(b"\xEF\xBB\xBFa  \tdog\r\n"), "a dog");
        assert_eq!(text(b"\r\n\n  a dog \r\nsecond"), "a dog");
        assert_eq!(text(b"a\0 d\x07og"), "a dog");
        assert_eq!(text("ein Süßer 😀".as_bytes()), "ein Süßer 😀");
        assert_eq!(text(b"\xFF\xFEd\0o\0g\0"), "dog");
        assert_eq!(text(b"\xFE\xFF\0d\0o\0g"), "dog");
        assert_eq!(text(b" \n \n"), "");
    }

    #[test]
    fn what_was_changed_is_said() {
        let notices = |content: &[u8]| written(content).unwrap().1.join("; ");
        assert_eq!(notices(b"a dog\n"), "");
        assert!(notices(b"").contains("`a.txt` is empty"));
        assert!(notices(b"x\ny\n\nz").contains("3 lines"));
        assert!(notices(b"x\0\x01").contains("2 control characters"));
    }

    #[test]
    fn rubbish_is_an_error_that_names_file_and_byte() {
        let message = |content: &[u8]| written(content).unwrap_err().to_string();
        assert!(message(b"a dog \xff\xfe").contains("byte 6 (hex ff)"));
        assert!(message(b"\xEF\xBB\xBFa\xff").contains("byte 4 (hex ff)"));
        assert!(message(b"a dog \xff\xfe").contains("a.txt"));
        assert!(message(b"\xFF\xFE\x00\xD8").contains("UTF-16"));
        assert!(message(&vec![b'x'; 70_000]).contains("65536"));
    }

    #[test]
    fn triggers_are_put_in_front_unless_there() {
        assert_eq!(with_trigger("a dog", "sks"), "sks, a dog");
        assert_eq!(with_trigger("a SKS dog", "sks"), "a SKS dog");
        assert_eq!(with_trigger("a sksy dog", "sks"), "sks, a sksy dog");
        assert_eq!(with_trigger("a <s1><s2> dog", "<s1><s2>"), "a <s1><s2> dog");
        assert_eq!(with_trigger("", "sks"), "sks");
    }

    #[test]
    fn names_become_texts() {
        let name = |n: &str| from_file_name(Path::new(n));
        assert_eq!(name("x/a_red-dog (12).jpg"), "a red dog");
        assert_eq!(name("dots.in.name.v2.png"), "dots.in.name.v2");
        assert_eq!(name("(3).png"), "(3)");
    }

    #[test]
    fn rules_choose_between_file_prompt_and_name() {
        let folder = tempfile::tempdir().unwrap();
        let picture = folder.path().join("my_dog.png");
        let mut rules = CaptionRules { trigger: Some("sks".into()), ..CaptionRules::default() };
        let text = |rules: &CaptionRules| {
            let caption = rules.caption(&picture).unwrap().0;
            (caption.choose(0.3).to_owned(), caption.origin)
        };
        assert_eq!(text(&rules), ("sks, my dog".into(), Origin::FileName));
        rules.prompt = Some("a photo of sks dog".into());
        assert_eq!(text(&rules), ("a photo of sks dog".into(), Origin::Prompt));
        rules.source = CaptionSource::Text;
        assert!(matches!(rules.caption(&picture), Err(DataError::MissingCaption { .. })));
        std::fs::write(folder.path().join("my_dog.txt"), "on a beach").unwrap();
        assert_eq!(text(&rules), ("sks, on a beach".into(), Origin::TextFile));
        rules.source = CaptionSource::FileName;
        assert_eq!(text(&rules).1, Origin::FileName);
    }

    #[test]
    fn prefix_and_suffix_stand_around_every_text() {
        let rules = CaptionRules {
            prefix: Some("photo of".into()),
            suffix: Some(", film grain".into()),
            trigger: Some("sks".into()),
            ..CaptionRules::default()
        };
        let text =
            |rules: &CaptionRules| rules.caption(Path::new("a_dog.png")).unwrap().0.choose(0.0).to_owned();
        assert_eq!(text(&rules), "sks, photo of a dog, film grain");
        let in_prefix = CaptionRules { prefix: Some("photo of sks".into()), ..rules.clone() };
        assert_eq!(text(&in_prefix), "photo of sks a dog, film grain");
        let template = CaptionRules { template: Template::Object, ..rules };
        assert_eq!(text(&template), "photo of a photo of a sks, film grain");
    }

    #[test]
    fn variants_are_listed_where_they_can_be() {
        let caption = |tags| {
            let rules = CaptionRules { tags, ..CaptionRules::prompt("a, b") };
            rules.caption(Path::new("x.png")).unwrap().0
        };
        assert_eq!(caption(TagRules::default()).variants().unwrap(), ["a, b"]);
        let dropped = TagRules { caption_dropout: 0.5, ..TagRules::default() };
        assert_eq!(caption(dropped).variants().unwrap(), ["a, b", ""]);
        assert_eq!(caption(TagRules { shuffle: true, ..TagRules::default() }).variants(), None);
    }

    #[test]
    fn a_template_is_drawn_anew_at_every_visit() {
        let rules = CaptionRules {
            template: Template::Style,
            trigger: Some("sks".into()),
            ..CaptionRules::default()
        };
        let (caption, _) = rules.caption(Path::new("x.png")).unwrap();
        assert_eq!(caption.texts().len(), 19);
        assert_eq!(caption.choose(0.0), "a painting in the style of sks");
        assert_eq!(caption.choose(0.999_999), "a large painting in the style of sks");
        assert_eq!(caption.choose(1.0), caption.choose(0.999_999));
        assert!(CaptionRules { trigger: None, ..rules.clone() }.check().is_err());
        assert!(CaptionRules::prompt(" \0").check().is_err());
        assert!(rules.check().is_ok());
    }
}
