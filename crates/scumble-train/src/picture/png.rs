//! PNG with texts inside: how pictures leave the program, and what can be read back from them.
//!
//! Two texts matter. `parameters` is what A1111 and its relatives write and read ([`super::Infotext`]). `scumble` is the
//! exact request as JSON, preferred when present because the other form rounds and drops things.
//! A text goes into a `tEXt` chunk when it is Latin-1 and into an `iTXt` chunk (UTF-8) otherwise. Files are written whole
//! or not at all, and the same picture and texts give the same bytes.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;

use scumble_model::files::{FileError, atomic_write};

use super::decode::read_bounded;
use super::{Picture, PictureError, Result};

/// Keyword of the A1111 text.
pub const PARAMETERS: &str = "parameters";
/// Keyword of our own JSON.
pub const SCUMBLE: &str = "scumble";

/// Longest text that is unpacked from a file, in bytes.
const TEXT_LIMIT: usize = 1 << 20;

/// The picture as PNG bytes (8-bit RGB) with texts: keyword, content.
pub fn encode(picture: &Picture, texts: &[(&str, &str)]) -> Result<Vec<u8>> {
    compose(picture, texts)
        .map_err(|e| PictureError::Encode { file: "a picture".into(), reason: e.to_string() })
}

/// Writes the picture to `path`, whole or not at all, replacing what was there.
pub fn write(path: &Path, picture: &Picture, texts: &[(&str, &str)]) -> Result<()> {
    let file = || path.display().to_string();
    let bytes =
        compose(picture, texts).map_err(|e| PictureError::Encode { file: file(), reason: e.to_string() })?;
    atomic_write(path, |out| out.write_all(&bytes)).map_err(|error| PictureError::Write {
        file: file(),
        reason: match error {
            FileError::Write { source, .. } => source.to_string(),
            other => other.to_string(),
        },
    })
}

fn compose(picture: &Picture, texts: &[(&str, &str)]) -> Result<Vec<u8>, png::EncodingError> {
    let side = |length: usize| u32::try_from(length).unwrap_or(0); // 0 is refused by the encoder
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(picture.width), side(picture.height));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in texts {
        if text.chars().all(|c| u32::from(c) < 256 && c != '\0') {
            encoder.add_text_chunk((*keyword).into(), (*text).into())?;
        } else {
            encoder.add_itxt_chunk((*keyword).into(), text.replace('\0', ""))?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&picture.rgb)?;
    writer.finish()?;
    Ok(bytes)
}

/// The texts in a PNG file by keyword; of several with one keyword the first.
pub fn read_texts(path: &Path) -> Result<BTreeMap<String, String>> {
    let name = path.display().to_string();
    texts(&read_bounded(path, super::Limits::default().file_bytes)?, &name)
}

/// As [`read_texts`], from a PNG file's bytes; `name` is for messages. The pixels are not decoded.
pub fn texts(bytes: &[u8], name: &str) -> Result<BTreeMap<String, String>> {
    let damaged = |e: png::DecodingError| PictureError::Damaged {
        file: name.into(),
        format: super::Format::Png,
        reason: e.to_string(),
    };
    let limits = png::Limits { bytes: 64 << 20 };
    let mut reader =
        png::Decoder::new_with_limits(Cursor::new(bytes), limits).read_info().map_err(damaged)?;
    reader.finish().map_err(damaged)?;
    let info = reader.info();
    let mut found = BTreeMap::new();
    let mut keep = |keyword: &str, text: String| {
        found.entry(keyword.to_owned()).or_insert(text);
    };
    for chunk in &info.uncompressed_latin1_text {
        keep(&chunk.keyword, chunk.text.clone());
    }
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(TEXT_LIMIT).map_err(damaged)?;
        keep(&chunk.keyword, chunk.get_text().map_err(damaged)?);
    }
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(TEXT_LIMIT).map_err(damaged)?;
        keep(&chunk.keyword, chunk.get_text().map_err(damaged)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{DecodeOptions, decode, read};

    fn sample() -> Picture {
        Picture::from_rgb(5, 3, (0..45).map(|i| (i * 11 % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn pixels_and_texts_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ünïcode 日本.png");
        let parameters = "a café\nNegative prompt: x\nSteps: 1, Sampler: Euler, Seed: 2";
        let request = "{\"prompt\": \"日本 😀\"}";
        write(&path, &sample(), &[(PARAMETERS, parameters), (SCUMBLE, request)]).unwrap();
        assert_eq!(read(&path, &DecodeOptions::default()).unwrap(), sample());
        let texts = read_texts(&path).unwrap();
        assert_eq!((texts[PARAMETERS].as_str(), texts[SCUMBLE].as_str()), (parameters, request));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left behind");
    }

    #[test]
    fn latin1_goes_into_plain_chunks_and_the_rest_into_utf8_ones() {
        let has = |bytes: &[u8], name: &[u8]| bytes.windows(4).any(|w| w == name);
        let plain = encode(&sample(), &[(PARAMETERS, "café")]).unwrap();
        assert!(has(&plain, b"tEXt") && !has(&plain, b"iTXt"));
        let wide = encode(&sample(), &[(PARAMETERS, "日本")]).unwrap();
        assert!(has(&wide, b"iTXt") && !has(&wide, b"tEXt"));
        assert_eq!(plain, encode(&sample(), &[(PARAMETERS, "café")]).unwrap());
    }

    #[test]
    fn no_half_written_file_where_nothing_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("x.png");
        let message = write(&path, &sample(), &[]).unwrap_err().to_string();
        assert!(message.contains("x.png") && !path.exists(), "{message}");
    }

    #[test]
    fn texts_of_rubbish_are_an_error() {
        let bytes = encode(&sample(), &[(PARAMETERS, "x")]).unwrap();
        assert!(texts(b"rubbish", "r").is_err());
        assert!(texts(&bytes[..bytes.len() / 2], "r").is_err());
        assert!(decode(&bytes, "whole", &DecodeOptions::default()).is_ok());
    }
}
