//! From a file of any of five formats to a [`Picture`].
//!
//! JPEG (baseline, progressive, grey, CMYK), PNG (1 to 16 bits, grey, palette, transparency, interlaced), WebP, BMP,
//! GIF (first frame). The content decides the format, never the file's name. Steps:
//!
//! 1. bytes in, bounded;
//! 2. format by signature;
//! 3. declared size read and checked against [`Limits`] before any pixel memory is taken;
//! 4. whole-file checks: checksums, cut files;
//! 5. decoding to 8-bit RGB(A);
//! 6. EXIF orientation;
//! 7. alpha laid over [`DecodeOptions::background`].
//!
//! 16-bit samples keep their high byte, as Pillow does. Colour under transparency is blended as
//! `round((c * a + background * (255 - a)) / 255)`.

use std::fmt;
use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{ColorType, ImageDecoder, ImageError};

use super::structure::{self, PngFlaw};
use super::{Picture, PictureError, Result};

/// Formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JPEG / JFIF / Exif.
    Jpeg,
    /// PNG (of an animated one the still picture).
    Png,
    /// WebP, lossy or lossless (of an animated one the first frame).
    WebP,
    /// Windows bitmap.
    Bmp,
    /// GIF, first frame.
    Gif,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
        })
    }
}

impl Format {
    /// The format whose signature `bytes` begin with (12 bytes are enough).
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            // "BM" alone begins many a text; the two reserved words behind the size are zero in every bitmap.
            [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Some(Self::Bmp),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            _ => None,
        }
    }
}

/// What a picture file may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest file, in bytes.
    pub file_bytes: u64,
    /// Most pixels.
    pub pixels: u64,
    /// Most memory for decoding, in bytes, by an estimate from the header.
    pub decoder_bytes: u64,
}

impl Default for Limits {
    /// 512 MiB of file, 200 million pixels (the largest phone cameras), 2 GiB while decoding.
    fn default() -> Self {
        Self { file_bytes: 512 << 20, pixels: 200_000_000, decoder_bytes: 2 << 30 }
    }
}

/// How to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// The colour behind transparent pixels; white unless chosen.
    pub background: [u8; 3],
    /// Bounds on hostile or absurd files.
    pub limits: Limits,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { background: [255; 3], limits: Limits::default() }
    }
}

/// Reads and decodes a picture file.
pub fn read(path: &Path, options: &DecodeOptions) -> Result<Picture> {
    let bytes = read_bounded(path, options.limits.file_bytes)?;
    decode(&bytes, &path.display().to_string(), options)
}

/// The bytes of a regular file, at most `limit` of them.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = || path.display().to_string();
    let failed = |source| PictureError::Read { file: file(), source };
    // Looked at before opening: opening a pipe would wait for its writer.
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(PictureError::NotAFile { file: file() });
    }
    let too_large = |bytes| PictureError::FileTooLarge { file: file(), bytes, limit };
    if found.len() > limit {
        return Err(too_large(found.len()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// Decodes a file's bytes; `name` is for messages.
pub fn decode(bytes: &[u8], name: &str, options: &DecodeOptions) -> Result<Picture> {
    let file = || name.to_owned();
    if bytes.is_empty() {
        return Err(PictureError::Empty { file: file() });
    }
    let format = Format::of(bytes)
        .ok_or_else(|| PictureError::UnknownFormat { file: file(), found: describe(bytes) })?;
    let source = Source { bytes, name, format, limits: options.limits };
    // The decoders are other people's code fed with other people's files: should one of them panic, that is this
    // file's fault and not the end of a training run. They hold no state of ours.
    let raw = catch_unwind(AssertUnwindSafe(|| source.decode()))
        .unwrap_or_else(|_| Err(source.damaged("the decoder gave up on it")))?;
    Ok(raw.into_picture(options.background))
}

/// What unknown content looks like, to finish the sentence "it ...".
fn describe(bytes: &[u8]) -> &'static str {
    match bytes {
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => "is a TIFF (or camera raw) file",
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => "is an AVIF file",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => "is a HEIC file",
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', ..] => "is a JPEG XL file",
        [b'%', b'P', b'D', b'F', ..] => "is a PDF file",
        _ if bytes.iter().take(512).all(|b| matches!(b, 9 | 10 | 13 | 32..=126)) => "holds text",
        _ => "begins like none of them",
    }
}

/// Decoded samples before orientation and background.
struct Raw {
    width: usize,
    height: usize,
    /// 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    channels: usize,
    samples: Vec<u8>,
    /// EXIF orientation, 1 to 8.
    orientation: u32,
}

struct Source<'a> {
    bytes: &'a [u8],
    name: &'a str,
    format: Format,
    limits: Limits,
}

impl Source<'_> {
    fn damaged(&self, reason: impl ToString) -> PictureError {
        PictureError::Damaged { file: self.name.into(), format: self.format, reason: reason.to_string() }
    }

    fn truncated(&self, reason: impl ToString) -> PictureError {
        PictureError::Truncated { file: self.name.into(), reason: reason.to_string() }
    }

    fn decode(&self) -> Result<Raw> {
        match self.format {
            Format::Png => self.png(),
            Format::Jpeg => {
                let shape = structure::jpeg(self.bytes).map_err(|e| self.truncated(e))?;
                // Progressive files keep all coefficients (i16) until the last scan.
                let per_pixel = 4 + if shape.progressive { 2 * shape.components } else { 0 };
                self.admit(shape.width, shape.height, per_pixel)?;
                let decoder = image::codecs::jpeg::JpegDecoder::new(Cursor::new(self.bytes));
                self.through(decoder.map_err(|e| self.refused(e))?)
            }
            Format::WebP => {
                structure::webp(self.bytes).map_err(|e| self.truncated(e))?;
                let decoder = image::codecs::webp::WebPDecoder::new(Cursor::new(self.bytes));
                self.through(decoder.map_err(|e| self.refused(e))?)
            }
            Format::Bmp => {
                let decoder = image::codecs::bmp::BmpDecoder::new(Cursor::new(self.bytes));
                self.through(decoder.map_err(|e| self.refused(e))?)
            }
            Format::Gif => {
                let decoder = image::codecs::gif::GifDecoder::new(Cursor::new(self.bytes));
                self.through(decoder.map_err(|e| self.refused(e))?)
            }
        }
    }

    /// Refuses sizes that are zero or beyond the limits. `per_pixel`: estimated bytes a pixel while decoding.
    fn admit(&self, width: u64, height: u64, per_pixel: u64) -> Result<()> {
        let file = || self.name.to_owned();
        if width == 0 || height == 0 {
            return Err(PictureError::NoPixels { file: file(), width, height });
        }
        let pixels = width.saturating_mul(height);
        if pixels > self.limits.pixels {
            return Err(PictureError::TooManyPixels {
                file: file(),
                width,
                height,
                limit: self.limits.pixels,
            });
        }
        let (bytes, limit) = (pixels.saturating_mul(per_pixel), self.limits.decoder_bytes);
        if bytes > limit {
            return Err(PictureError::TooMuchMemory { file: file(), width, height, bytes, limit });
        }
        Ok(())
    }

    /// The way of everything but PNG.
    fn through(&self, mut decoder: impl ImageDecoder) -> Result<Raw> {
        let (width, height) = decoder.dimensions();
        let colour = decoder.color_type();
        // One decoded copy, one of ours, and as much again for the decoder's own planes.
        self.admit(u64::from(width), u64::from(height), u64::from(colour.bytes_per_pixel()) * 2 + 4)?;
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(self.limits.decoder_bytes);
        decoder.set_limits(limits).map_err(|e| self.refused(e))?;
        let orientation = decoder.exif_metadata().ok().flatten().map_or(1, |exif| orientation(&exif));
        let channels = match colour {
            ColorType::L8 => 1,
            ColorType::La8 => 2,
            ColorType::Rgb8 => 3,
            ColorType::Rgba8 => 4,
            other => {
                return Err(PictureError::Unsupported {
                    file: self.name.into(),
                    format: self.format,
                    reason: format!("{other:?} samples"),
                });
            }
        };
        let (width, height) = (width as usize, height as usize);
        let mut samples = vec![0; width * height * channels];
        decoder.read_image(&mut samples).map_err(|e| self.refused(e))?;
        Ok(Raw { width, height, channels, samples, orientation })
    }

    fn refused(&self, error: ImageError) -> PictureError {
        match error {
            ImageError::Unsupported(e) => PictureError::Unsupported {
                file: self.name.into(),
                format: self.format,
                reason: e.to_string(),
            },
            ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.truncated("the file ends inside the picture data")
            }
            other => self.damaged(other),
        }
    }

    /// PNG directly: 16 bits are cut to 8 while decoding, and an EXIF block behind the pixels is found too.
    fn png(&self) -> Result<Raw> {
        // IHDR is the first chunk by law: signature 8, length 4, name 4, width 4, height 4.
        if let Some(&[w3, w2, w1, w0, h3, h2, h1, h0]) = self.bytes.get(16..24) {
            let (width, height) =
                (u32::from_be_bytes([w3, w2, w1, w0]), u32::from_be_bytes([h3, h2, h1, h0]));
            self.admit(u64::from(width), u64::from(height), 8)?;
        }
        structure::png(self.bytes).map_err(|flaw| match flaw {
            PngFlaw::Cut(reason) => self.truncated(reason),
            PngFlaw::Checksum(reason) => self.damaged(reason),
        })?;
        let refused = |e| match e {
            png::DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.truncated("the file ends before the picture's last row or the end chunk")
            }
            other => self.damaged(other),
        };
        let limits = png::Limits { bytes: usize::try_from(self.limits.decoder_bytes).unwrap_or(usize::MAX) };
        let mut decoder = png::Decoder::new_with_limits(Cursor::new(self.bytes), limits);
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let mut reader = decoder.read_info().map_err(refused)?;
        let size = reader.output_buffer_size().ok_or_else(|| self.damaged("its size overflows"))?;
        let mut samples = vec![0; size];
        let frame = reader.next_frame(&mut samples).map_err(refused)?;
        samples.truncate(frame.buffer_size());
        reader.finish().map_err(refused)?;
        let orientation = reader.info().exif_metadata.as_deref().map_or(1, orientation);
        let (width, height) = (frame.width as usize, frame.height as usize);
        Ok(Raw { width, height, channels: frame.color_type.samples(), samples, orientation })
    }
}

/// The orientation entry (1 to 8) of an EXIF block; 1 if there is none or it makes no sense.
fn orientation(exif: &[u8]) -> u32 {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let block = exif::Reader::new().read_raw(tiff.to_vec());
    let value =
        block.ok().and_then(|b| b.get_field(exif::Tag::Orientation, exif::In::PRIMARY)?.value.get_uint(0));
    value.filter(|v| (1..=8).contains(v)).unwrap_or(1)
}

impl Raw {
    /// Turns it upright and lays it over the background.
    fn into_picture(self, background: [u8; 3]) -> Picture {
        let transposed = self.orientation >= 5;
        let (width, height) = if transposed { (self.height, self.width) } else { (self.width, self.height) };
        let has_alpha = self.channels.is_multiple_of(2);
        let mut rgb = Vec::with_capacity(width * height * 3);
        let mut alpha = Vec::with_capacity(if has_alpha { width * height } else { 0 });
        for y in 0..height {
            for x in 0..width {
                let (sx, sy) = self.stored_position(x, y);
                let at = (sy * self.width + sx) * self.channels;
                let sample = &self.samples[at..at + self.channels];
                let colour =
                    if self.channels < 3 { [sample[0]; 3] } else { [sample[0], sample[1], sample[2]] };
                if has_alpha {
                    let a = sample[self.channels - 1];
                    rgb.extend((0..3).map(|c| over(colour[c], a, background[c])));
                    alpha.push(a);
                } else {
                    rgb.extend(colour);
                }
            }
        }
        Picture { width, height, rgb, alpha: has_alpha.then_some(alpha) }
    }

    /// Where the upright pixel (x, y) is stored, by the EXIF orientation.
    fn stored_position(&self, x: usize, y: usize) -> (usize, usize) {
        let (right, bottom) = (self.width - 1, self.height - 1);
        match self.orientation {
            2 => (right - x, y),
            3 => (right - x, bottom - y),
            4 => (x, bottom - y),
            5 => (y, x),
            6 => (y, bottom - x),
            7 => (right - y, bottom - x),
            8 => (right - y, x),
            _ => (x, y),
        }
    }
}

/// `round((colour * alpha + background * (255 - alpha)) / 255)`.
fn over(colour: u8, alpha: u8, background: u8) -> u8 {
    let (c, a, b) = (u32::from(colour), u32::from(alpha), u32::from(background));
    ((c * a + b * (255 - a) + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/images");

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(Path::new(FOLDER).join(name)).unwrap()
    }

    fn decode_fixture(name: &str) -> Result<Picture> {
        read(&Path::new(FOLDER).join(name), &DecodeOptions::default())
    }

    /// Means per channel of a rectangle of the picture.
    fn mean(p: &Picture, x: std::ops::Range<usize>, y: std::ops::Range<usize>) -> [f64; 3] {
        let n = (x.len() * y.len()) as f64;
        let mut sum = [0.0; 3];
        for (row, column) in y.flat_map(|row| x.clone().map(move |column| (row, column))) {
            let pixel = p.pixel(column, row);
            (0..3).for_each(|c| sum[c] += f64::from(pixel[c]));
        }
        sum.map(|s| s / n)
    }

    fn close(found: [f64; 3], expected: &serde_json::Value, tolerance: f64, what: &str) {
        for (c, value) in found.iter().enumerate() {
            let wanted = expected[c].as_f64().unwrap();
            assert!((value - wanted).abs() <= tolerance, "{what}, channel {c}: {value} against {wanted}");
        }
    }

    #[test]
    fn every_fixture_decodes_or_is_refused_as_pillow_says() {
        let expected: serde_json::Value = serde_json::from_slice(&fixture("expected.json")).unwrap();
        let files = expected["files"].as_object().unwrap();
        assert_eq!(files.len(), std::fs::read_dir(FOLDER).unwrap().count() - 1);
        for (name, wanted) in files {
            let result = decode_fixture(name);
            if wanted["expect"] == "error" {
                let message = result.expect_err(name).to_string();
                assert!(message.contains(name), "{name}: not named in {message}");
                continue;
            }
            let p = result.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(p.width as u64, wanted["width"].as_u64().unwrap(), "{name}");
            assert_eq!(p.height as u64, wanted["height"].as_u64().unwrap(), "{name}");
            // JPEG and lossy WebP may differ between decoders by the stated tolerance.
            let tolerance = wanted["tolerance"].as_f64().unwrap().max(0.001);
            let composited = &wanted["composited_on_white_mean_rgb"];
            let whole = if composited.is_null() { &wanted["mean_rgb"] } else { composited };
            close(mean(&p, 0..p.width, 0..p.height), whole, tolerance, name);
            if composited.is_null() && !wanted["quadrant_mean_rgb"].is_null() {
                let (w, h) = (p.width / 2, p.height / 2);
                let quadrants =
                    [(0..w, 0..h), (w..p.width, 0..h), (0..w, h..p.height), (w..p.width, h..p.height)];
                for (i, (x, y)) in quadrants.into_iter().enumerate() {
                    close(mean(&p, x, y), &wanted["quadrant_mean_rgb"][i], tolerance, &format!("{name} {i}"));
                }
            }
        }
    }

    #[test]
    fn transparency_lies_over_the_stated_colour() {
        let black = DecodeOptions { background: [0; 3], ..Default::default() };
        let p = decode(&fixture("rgba.png"), "rgba.png", &black).unwrap();
        close(mean(&p, 0..96, 0..64), &serde_json::json!([108.015, 77.685, 52.926]), 0.01, "rgba on black");
        assert_eq!(p.alpha.map(|a| a.len()), Some(96 * 64));
        assert!(decode_fixture("plain.png").unwrap().alpha.is_none());
    }

    #[test]
    fn reasons_are_told_apart() {
        use PictureError as E;
        assert!(matches!(decode_fixture("zero.jpg"), Err(E::Empty { .. })));
        assert!(matches!(decode_fixture("text.png"), Err(E::UnknownFormat { found: "holds text", .. })));
        assert!(matches!(decode_fixture("bomb_60000.png"), Err(E::TooManyPixels { width: 60000, .. })));
        assert!(matches!(decode_fixture("zero_size.png"), Err(E::NoPixels { .. })));
        assert!(matches!(decode_fixture("truncated.png"), Err(E::Truncated { .. })));
        assert!(matches!(decode_fixture("truncated.jpg"), Err(E::Truncated { .. })));
        assert!(matches!(decode_fixture("crc_error.png"), Err(E::Damaged { format: Format::Png, .. })));
        assert!(matches!(decode_fixture("no such file"), Err(E::Read { .. })));
        assert!(matches!(read(Path::new(FOLDER), &DecodeOptions::default()), Err(E::NotAFile { .. })));
    }

    #[test]
    fn limits_are_checked_before_decoding() {
        let with = |limits| DecodeOptions { limits, ..Default::default() };
        let path = Path::new(FOLDER).join("progressive.jpg");
        let base = Limits::default();
        let error = |limits| read(&path, &with(limits)).unwrap_err();
        assert!(matches!(
            error(Limits { file_bytes: 100, ..base }),
            PictureError::FileTooLarge { limit: 100, .. }
        ));
        assert!(matches!(error(Limits { pixels: 6143, ..base }), PictureError::TooManyPixels { .. }));
        // 96 x 64 pixels of 3 components, progressive: 4 + 2 * 3 bytes each.
        let exact = Limits { decoder_bytes: 61440, ..base };
        assert!(read(&path, &with(exact)).is_ok());
        let tight = Limits { decoder_bytes: 61439, ..base };
        assert!(matches!(error(tight), PictureError::TooMuchMemory { bytes: 61440, .. }));
    }

    const WHOLE: [&str; 8] = [
        "baseline420.jpg",
        "progressive.jpg",
        "plain.png",
        "rgb16.png",
        "lossless.webp",
        "lossy.webp",
        "image.bmp",
        "animated.gif",
    ];

    #[test]
    fn a_file_cut_anywhere_in_its_picture_data_is_refused() {
        for name in WHOLE {
            let bytes = fixture(name);
            // A GIF's first frame is whole long before the file is.
            let picture_end = if name == "animated.gif" { bytes.len() / 3 } else { bytes.len() - 4 };
            for end in (0..picture_end).step_by(picture_end / 40) {
                let result = decode(&bytes[..end], name, &DecodeOptions::default());
                assert!(result.is_err(), "{name} cut to {end} of {} bytes passed", bytes.len());
            }
        }
    }

    #[test]
    fn damaged_bytes_give_a_picture_or_an_error() {
        let small = DecodeOptions {
            limits: Limits { pixels: 1 << 20, decoder_bytes: 64 << 20, ..Default::default() },
            ..Default::default()
        };
        for name in WHOLE {
            let bytes = fixture(name);
            for i in 0..200usize {
                let mut damaged = bytes.clone();
                let at = if i < 100 { i.min(bytes.len() - 1) } else { (i * 7919) % bytes.len() };
                damaged[at] ^= 1 << (i % 8);
                if let Ok(p) = decode(&damaged, name, &small) {
                    assert_eq!(p.rgb.len(), p.width * p.height * 3, "{name}, byte {at}");
                }
            }
        }
    }

    #[test]
    fn other_formats_are_called_by_name() {
        let told = |bytes: &[u8]| decode(bytes, "x", &DecodeOptions::default()).unwrap_err().to_string();
        assert!(told(b"\0\0\0\x18ftypheic").contains("HEIC"));
        assert!(told(b"\0\0\0\x18ftypavif").contains("AVIF"));
        assert!(told(b"II*\0").contains("TIFF"));
        assert!(told(b"BMX is a text").contains("text"));
    }

    #[test]
    fn orientation_needs_a_sound_block() {
        let tiff = |value: u8| {
            let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
            block.extend([value, 0, 0, 0, 0, 0, 0, 0]);
            block
        };
        assert_eq!(orientation(&tiff(6)), 6);
        assert_eq!(orientation(&[b"Exif\0\0".to_vec(), tiff(3)].concat()), 3);
        assert_eq!((orientation(&tiff(9)), orientation(b"rubbish"), orientation(b"")), (1, 1, 1));
    }
}
