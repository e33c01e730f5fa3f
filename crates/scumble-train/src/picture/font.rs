//! Letters from two bundled glyph pictures (DejaVu Sans at 22 and 32 pixels); `font/README.md` has the layout.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::OnceLock;

/// The two sizes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 22 pixels: axis numbers, captions.
    Small,
    /// 32 pixels: titles.
    Large,
}

/// A glyph's rectangle in the picture, its offset from the pen, and how far it moves the pen.
pub(crate) struct Glyph {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
    pub left: i32,
    pub top: i32,
    pub advance: f32,
}

/// One size of the font.
pub(crate) struct Font {
    /// Coverage, 0 to 255, one byte a pixel.
    pub coverage: Vec<u8>,
    pub width: usize,
    /// Distance of two lines.
    pub line: usize,
    glyphs: BTreeMap<char, Glyph>,
}

impl Font {
    /// The glyph of `c`, or an empty box; `None` only for a font without glyphs.
    pub fn glyph(&self, c: char) -> Option<&Glyph> {
        self.glyphs.get(&c).or_else(|| self.glyphs.get(&'□'))
    }

    /// How far the pen moves over `text`, in pixels.
    pub fn measure(&self, text: &str) -> f32 {
        text.chars().filter_map(|c| self.glyph(c)).map(|g| g.advance).sum()
    }

    /// As many characters of `text` as fit into `width` pixels, with an ellipsis if some did not.
    pub fn shorten(&self, text: &str, width: f32) -> String {
        if self.measure(text) <= width {
            return text.to_owned();
        }
        let kept: String = self.fitting(text.chars(), width - self.measure("…")).collect();
        format!("{}…", kept.trim_end())
    }

    /// As many of the first characters as fit into `room` pixels.
    fn fitting(&self, chars: impl Iterator<Item = char>, room: f32) -> impl Iterator<Item = char> {
        let mut used = 0.0;
        chars.take_while(move |&c| {
            used += self.glyph(c).map_or(0.0, |glyph| glyph.advance);
            used <= room
        })
    }

    /// Start and end of a word with an ellipsis between them, where the whole is wider than `width` pixels: names of files
    /// often differ at their end only.
    fn squeeze(&self, word: &str, width: f32) -> String {
        /// Share of the room that goes to the start.
        const START: f32 = 0.3;
        if self.measure(word) <= width {
            return word.to_owned();
        }
        let room = width - self.measure("…");
        let start: String = self.fitting(word.chars(), START * room).collect();
        let end: Vec<char> = self.fitting(word.chars().rev(), room - self.measure(&start)).collect();
        format!("{start}…{}", end.into_iter().rev().collect::<String>())
    }

    /// Breaks `text` at spaces into at most `lines` lines of `width` pixels; the last is shortened.
    pub fn wrap(&self, text: &str, width: f32, lines: usize) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let joined = out.last().map(|line| format!("{line} {word}"));
            match joined.filter(|line| self.measure(line) <= width) {
                Some(line) => {
                    out.pop();
                    out.push(line);
                }
                None if out.len() < lines => out.push(self.squeeze(word, width)),
                None => {
                    let rest: Vec<&str> = std::iter::once(word).chain(words.by_ref()).collect();
                    if let Some(last) = out.pop() {
                        out.push(self.shorten(&format!("{last} {}", rest.join(" ")), width));
                    }
                }
            }
        }
        out
    }
}

impl Size {
    /// The font of this size, unpacked on first use.
    pub(crate) fn font(self) -> &'static Font {
        static SMALL: OnceLock<Font> = OnceLock::new();
        static LARGE: OnceLock<Font> = OnceLock::new();
        match self {
            Self::Small => SMALL
                .get_or_init(|| unpack(include_bytes!("font/sans_22.png"), include_str!("font/sans_22.txt"))),
            Self::Large => LARGE
                .get_or_init(|| unpack(include_bytes!("font/sans_32.png"), include_str!("font/sans_32.txt"))),
        }
    }

    /// Distance of two lines in pixels.
    pub fn line_height(self) -> usize {
        self.font().line
    }
}

/// Reads a glyph picture and its list. Both are part of the program; were one broken, text would be left out rather than a
/// training run ended, and the tests would say so.
fn unpack(picture: &[u8], list: &str) -> Font {
    let (coverage, width) = coverage(picture).unwrap_or_default();
    let mut lines = list.lines().filter(|line| !line.starts_with('#'));
    let numbers = |line: &str| -> Vec<i32> { line.split(' ').filter_map(|n| n.parse().ok()).collect() };
    let line = match lines.next().map(numbers).as_deref() {
        Some(&[_, line]) => line as usize,
        _ => 1,
    };
    let glyph = |line: &str| match numbers(line)[..] {
        [code, x, y, w, h, left, top, advance] => Some((
            char::from_u32(code as u32)?,
            Glyph {
                x: x as usize,
                y: y as usize,
                width: w as usize,
                height: h as usize,
                left,
                top,
                advance: advance as f32 / 64.0,
            },
        )),
        _ => None,
    };
    Font { coverage, width, line, glyphs: lines.filter_map(glyph).collect() }
}

/// The grey values and width of a palette PNG.
fn coverage(picture: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut decoder = png::Decoder::new(Cursor::new(picture));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().ok()?;
    let mut samples = vec![0; reader.output_buffer_size()?];
    let frame = reader.next_frame(&mut samples).ok()?;
    let grey = samples.chunks_exact(frame.color_type.samples()).map(|s| s[0]).collect();
    Some((grey, frame.width as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_glyph_lies_in_its_picture() {
        for size in [Size::Small, Size::Large] {
            let font = size.font();
            assert_eq!(font.glyphs.len(), 492);
            for (c, g) in &font.glyphs {
                assert!(g.x + g.width <= font.width, "{c}");
                assert!((g.y + g.height) * font.width <= font.coverage.len(), "{c}");
            }
            assert!((20..48).contains(&font.line));
            let ink = |c| {
                let g = font.glyph(c).unwrap();
                let rows = (g.y..g.y + g.height).map(|y| &font.coverage[y * font.width + g.x..][..g.width]);
                rows.flatten().map(|&v| u32::from(v)).sum::<u32>()
            };
            assert!(ink('M') > ink('i') && ink('.') > 0 && ink(' ') == 0);
        }
    }

    #[test]
    fn text_is_measured_shortened_and_wrapped() {
        let font = Size::Small.font();
        assert!(font.measure("mmm") > 2.0 * font.measure("iii"));
        assert_eq!(font.shorten("short", 500.0), "short");
        let cut = font.shorten("a very long line of text", 100.0);
        assert!(cut.ends_with('…') && font.measure(&cut) <= 100.0, "{cut}");
        let lines = font.wrap("one two three four five six seven eight", 110.0, 2);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|l| font.measure(l) <= 110.0) && lines[1].ends_with('…'), "{lines:?}");
        assert_eq!(font.wrap("", 100.0, 2).len(), 0);
        for word in ["portrait-of-a-dog-step000300", "日日日日日日日日日日日日日日日日日日日日"]
        {
            let squeezed = font.wrap(word, 150.0, 2);
            assert_eq!(squeezed.len(), 1);
            assert!(font.measure(&squeezed[0]) <= 150.0 && squeezed[0].contains('…'), "{squeezed:?}");
        }
        assert!(font.wrap("portrait-of-a-dog-step000300", 190.0, 2)[0].ends_with("000300"));
        assert!(font.glyph('日').is_some(), "unknown letters have a stand-in");
    }
}
