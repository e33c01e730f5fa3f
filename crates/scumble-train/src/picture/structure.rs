//! Checks of a file's skeleton, before a decoder takes memory and where decoders are too forgiving.
//!
//! JPEG decoders fill the missing part of a cut file with grey and call it a picture; people train on that. A JPEG is
//! `FFD8`, then segments `FF marker length payload`, then per scan entropy-coded bytes in which `FF` is followed by
//! `00` or a restart marker `D0`-`D7`, then `FFD9`. Walking it finds the true size and whether the end is there.
//! A WebP is a RIFF container: `RIFF length WEBP`, then chunks `fourcc length payload` padded to even length.
//! A PNG is a signature, then chunks `length name payload crc32(name, payload)` until `IEND`; decoders stop reading when
//! they have their last row, so the checksum of the last `IDAT` goes unread, and forgive those of lesser chunks.

/// What the walk over a JPEG found.
pub(super) struct JpegShape {
    pub width: u64,
    pub height: u64,
    pub progressive: bool,
    pub components: u64,
}

/// Walks all markers of a JPEG to its end. The error says what is missing.
pub(super) fn jpeg(bytes: &[u8]) -> Result<JpegShape, String> {
    let cut = |what: &str| format!("the file ends {what}");
    let mut shape = None;
    let mut seen_scan = false;
    let mut at = 2;
    loop {
        let marker = next_marker(bytes, &mut at).ok_or_else(|| {
            cut(if seen_scan {
                "inside the compressed data, before the end marker"
            } else {
                "inside the header"
            })
        })?;
        match marker {
            0xD9 if seen_scan => break,
            0xD9 => return Err("it has an end marker but no picture data".into()),
            0x01 | 0xD0..=0xD8 => continue,
            _ => {}
        }
        let length = bytes
            .get(at..at + 2)
            .map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])))
            .ok_or_else(|| cut("inside a segment's length"))?;
        let payload = bytes.get(at + 2..at + length.max(2)).ok_or_else(|| cut("inside a header segment"))?;
        at += length.max(2);
        match marker {
            // Start of frame, all but the table markers DHT (C4), JPG (C8), DAC (CC).
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) && shape.is_none() => {
                let &[_, h1, h0, w1, w0, components, ..] = payload else {
                    return Err(cut("inside the frame header"));
                };
                shape = Some(JpegShape {
                    width: u64::from(u16::from_be_bytes([w1, w0])),
                    height: u64::from(u16::from_be_bytes([h1, h0])),
                    progressive: marker == 0xC2,
                    components: u64::from(components),
                });
            }
            0xDA => {
                seen_scan = true;
                skip_entropy_coded(bytes, &mut at);
            }
            _ => {}
        }
    }
    shape.ok_or_else(|| "it has no frame header".into())
}

/// Moves past the next `FF marker`, skipping fill bytes and stray bytes as decoders do.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    while *bytes.get(*at)? != 0xFF {
        *at += 1;
    }
    while *bytes.get(*at)? == 0xFF {
        *at += 1;
    }
    *at += 1;
    bytes.get(*at - 1).copied()
}

/// Moves to the `FF` of the first marker that ends a scan.
fn skip_entropy_coded(bytes: &[u8], at: &mut usize) {
    while let Some(&byte) = bytes.get(*at) {
        if byte == 0xFF && !matches!(bytes.get(*at + 1), Some(0x00 | 0xD0..=0xD7) | None) {
            return;
        }
        *at += 1;
    }
}

/// What is wrong with a PNG's chunks.
pub(super) enum PngFlaw {
    Cut(String),
    Checksum(String),
}

/// Checks that a PNG is complete and that all its checksums hold, those of chunks that do not touch the pixels
/// (colour profile, texts) too, as Pillow does: a file damaged there is damaged.
pub(super) fn png(bytes: &[u8]) -> Result<(), PngFlaw> {
    let cut = |what: &str| PngFlaw::Cut(format!("the file ends {what}"));
    let mut rest = bytes.get(8..).unwrap_or_default();
    loop {
        let Some((&[l3, l2, l1, l0, name @ ..], _)) = rest.split_first_chunk::<8>() else {
            return Err(cut("before the end chunk"));
        };
        let length = u32::from_be_bytes([l3, l2, l1, l0]) as usize;
        let shown = name.escape_ascii();
        let in_chunk = || cut(&format!("inside a {shown} chunk"));
        let checked = rest.get(4..length.saturating_add(8)).ok_or_else(in_chunk)?;
        let (stored, next) = rest[4 + checked.len()..].split_first_chunk::<4>().ok_or_else(in_chunk)?;
        if crc32(checked) != u32::from_be_bytes(*stored) {
            return Err(PngFlaw::Checksum(format!(
                "the checksum of a {shown} chunk does not match its content"
            )));
        }
        if &name == b"IEND" {
            return Ok(());
        }
        rest = next;
    }
}

/// The CRC of PNG and zip: reflected polynomial 0xEDB88320, inverted at both ends.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut n = 0;
        while n < 256 {
            let (mut c, mut bit) = (n as u32, 0);
            while bit < 8 {
                c = if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
                bit += 1;
            }
            table[n] = c;
            n += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, &byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// Checks that every chunk of a WebP lies within the file.
pub(super) fn webp(bytes: &[u8]) -> Result<(), String> {
    let length =
        |at: usize| bytes.get(at..at + 4).map(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    let declared = length(4).ok_or("the file ends inside the header")? + 8;
    if declared > bytes.len() as u64 {
        return Err(format!("it declares {declared} bytes but has {}", bytes.len()));
    }
    let mut at = 12u64;
    while at + 8 <= declared {
        let size = length(at as usize + 4).ok_or("the file ends inside a chunk header")?;
        at += 8 + size;
        if at > declared {
            return Err(format!("a chunk of {size} bytes reaches past the end"));
        }
        at += size & 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start, frame header of 3 x 2 pixels, one scan with stuffing, a restart marker and a fill byte, end.
    const SMALL: &[u8] = &[
        0xFF, 0xD8, 0xFF, 0xC2, 0, 8, 8, 0, 2, 0, 3, 1, 0xFF, 0xDA, 0, 2, 7, 0xFF, 0, 7, 0xFF, 0xD0, 7, 0xFF,
        0xFF, 0xD9,
    ];

    #[test]
    fn jpeg_walk_finds_size_and_end() {
        let shape = jpeg(SMALL).unwrap();
        assert_eq!((shape.width, shape.height, shape.progressive, shape.components), (3, 2, true, 1));
        for end in 2..SMALL.len() {
            assert!(jpeg(&SMALL[..end]).is_err(), "cut at {end} passed");
        }
    }

    #[test]
    fn an_end_marker_inside_a_segment_does_not_count() {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xDA, 0xFF, 0xD9];
        assert!(jpeg(&bytes).is_err());
        bytes.extend_from_slice(&SMALL[2..]);
        assert!(jpeg(&bytes).is_ok());
    }

    #[test]
    fn crc_of_the_standard_check_string() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        // The IEND chunk that ends every PNG.
        assert_eq!(crc32(b"IEND"), 0xAE42_6082);
    }

    #[test]
    fn webp_chunks_must_fit() {
        let whole = b"RIFF\x0e\0\0\0WEBPVP8 \x01\0\0\0z\0";
        assert_eq!(webp(whole), Ok(()));
        assert!(webp(&whole[..20]).is_err());
        let liar = b"RIFF\x0e\0\0\0WEBPVP8 \xff\xff\xff\xffz\0";
        assert!(webp(liar).unwrap_err().contains("4294967295"));
    }
}
