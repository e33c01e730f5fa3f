//! The course of a run as TensorBoard reads it: one event file beside `metrics.jsonl`.
//!
//! ```text
//! file     records, one after the other
//! record   u64 length | u32 masked crc of these 8 bytes | data | u32 masked crc of the data     little-endian (TFRecord)
//! crc      CRC-32C (Castagnoli); masked = (crc >> 15 | crc << 17) + 0xa282ead8
//! data     protobuf Event { 1 wall_time f64, 2 step i64, 3 file_version text | 5 Summary { 1 Value* } }
//!          Value { 1 tag text, 2 simple_value f32 | 4 Image { 1 height, 2 width, 3 colorspace, 4 PNG bytes } }
//! ```
//!
//! Layouts after tensorflow's `record_writer` and `event.proto`. Files of a run hold no time of day, so the wall time is the
//! time that the updates took since the run began. The file is made anew from the metrics whenever a run starts or goes on,
//! and so never tells a step twice.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use scumble_model::files::atomic_write;

use crate::error::{Result, TrainError};
use crate::metrics::StepRecord;

/// Changes of the mask are not foreseen: it is part of the format.
const MASK: u32 = 0xa282_ead8;

/// An open event file.
pub struct EventFile {
    path: PathBuf,
    file: File,
    wall_time: f64,
}

/// A picture that was painted after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Finished updates.
    pub step: u64,
    /// Which of the validation prompts.
    pub prompt: usize,
    /// The PNG file.
    pub path: PathBuf,
}

impl EventFile {
    /// Makes the file from what has happened so far. Pictures that can't be read any more are left out.
    pub fn create(path: &Path, records: &[StepRecord], samples: &[Sample]) -> Result<Self> {
        let mut bytes = record(&version());
        let mut wall_time = 0.0;
        let mut samples = samples.iter().peekable();
        let images =
            |until: u64, wall_time: f64, samples: &mut std::iter::Peekable<std::slice::Iter<'_, Sample>>| {
                let mut bytes = Vec::new();
                while let Some(sample) = samples.next_if(|sample| sample.step < until) {
                    bytes.extend(
                        std::fs::read(&sample.path)
                            .ok()
                            .and_then(|png| image(sample, wall_time, &png))
                            .unwrap_or_default(),
                    );
                }
                bytes
            };
        for entry in records {
            bytes.extend(images(entry.step, wall_time, &mut samples));
            wall_time += entry.seconds;
            bytes.extend(record(&scalars(entry, wall_time)));
        }
        bytes.extend(images(u64::MAX, wall_time, &mut samples));
        atomic_write(path, |file| file.write_all(&bytes))?;
        let file = OpenOptions::new().append(true).open(path).map_err(TrainError::io("opening", path))?;
        Ok(Self { path: path.to_owned(), file, wall_time })
    }

    /// Adds an update.
    pub fn append(&mut self, entry: &StepRecord) -> Result<()> {
        self.wall_time += entry.seconds;
        self.write(&record(&scalars(entry, self.wall_time)))
    }

    /// Adds a picture.
    pub fn append_sample(&mut self, sample: &Sample, png: &[u8]) -> Result<()> {
        match image(sample, self.wall_time, png) {
            Some(bytes) => self.write(&bytes),
            None => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(TrainError::io("writing", &self.path))
    }
}

/// The first event of every file.
fn version() -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, 0.0);
    bytes_field(&mut event, 3, b"brain.Event:2");
    event
}

/// All numbers of an update.
fn scalars(entry: &StepRecord, wall_time: f64) -> Vec<u8> {
    let mut tags = vec![
        ("loss".to_owned(), entry.loss),
        ("grad_norm".to_owned(), entry.grad_norm),
        ("seconds".to_owned(), entry.seconds),
    ];
    tags.extend(entry.validation_loss.map(|loss| ("validation_loss".to_owned(), loss)));
    tags.extend(entry.lr.iter().map(|(group, rate)| (format!("lr/{group}"), *rate)));
    let mut summary = Vec::new();
    for (tag, number) in tags {
        let mut value = Vec::new();
        bytes_field(&mut value, 1, tag.as_bytes());
        key(&mut value, 2, 5);
        value.extend((number as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &value);
    }
    event(entry.step, wall_time, &summary)
}

/// The record of a picture; `None` for bytes that are no PNG.
fn image(sample: &Sample, wall_time: f64, png: &[u8]) -> Option<Vec<u8>> {
    // Signature, length and name of the first chunk, then width and height, big-endian.
    if !png.starts_with(b"\x89PNG\r\n\x1a\n") {
        return None;
    }
    let side = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    let (width, height) = (side(16)?, side(20)?);
    let mut picture = Vec::new();
    for (field, number) in [(1, height), (2, width), (3, 3)] {
        key(&mut picture, field, 0);
        varint(&mut picture, u64::from(number));
    }
    bytes_field(&mut picture, 4, png);
    let mut value = Vec::new();
    bytes_field(&mut value, 1, format!("samples/{}", sample.prompt).as_bytes());
    bytes_field(&mut value, 4, &picture);
    let mut summary = Vec::new();
    bytes_field(&mut summary, 1, &value);
    Some(record(&event(sample.step, wall_time, &summary)))
}

fn event(step: u64, wall_time: f64, summary: &[u8]) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    key(&mut event, 2, 0);
    varint(&mut event, step);
    bytes_field(&mut event, 5, summary);
    event
}

/// A protobuf field's number and wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn double(out: &mut Vec<u8>, field: u64, number: f64) {
    key(out, field, 1);
    out.extend(number.to_le_bytes());
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Data with its length and checksums.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(data.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(data);
    bytes.extend(masked_crc(data).to_le_bytes());
    bytes
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(MASK)
}

/// CRC-32C: polynomial 0x1edc6f41, bits reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let (mut crc, mut bit) = (index as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, &byte| TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::picture::{Picture, png};

    fn entry(step: u64) -> StepRecord {
        let lr = BTreeMap::from([("unet".to_owned(), 1e-4)]);
        StepRecord { step, loss: 1.0 / step as f64, lr, grad_norm: 0.5, seconds: 0.25, validation_loss: None }
    }

    /// Lengths and checksums of all records are right; their data.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut rest, mut found) = (bytes, Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc(&rest[..8]));
            assert_eq!(crc(12 + length), masked_crc(&rest[12..12 + length]));
            found.push(rest[12..12 + length].to_vec());
            rest = &rest[16 + length..];
        }
        found
    }

    #[test]
    fn checksums_are_the_published_ones() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn an_update_is_the_bytes_that_tensorboard_writes() {
        let entry = StepRecord { lr: BTreeMap::new(), validation_loss: Some(0.125), ..entry(300) };
        let value = |tag: &str, number: f32| {
            let inner = [&[0x0a, tag.len() as u8], tag.as_bytes(), &[0x15], &number.to_le_bytes()].concat();
            [&[0x0a, inner.len() as u8], inner.as_slice()].concat()
        };
        let numbers =
            [("loss", 1.0 / 300.0), ("grad_norm", 0.5), ("seconds", 0.25), ("validation_loss", 0.125)];
        let summary = numbers.map(|(tag, number)| value(tag, number)).concat();
        let expected = [
            [0x09].as_slice(),
            &2.5f64.to_le_bytes(),
            [0x10, 0xac, 0x02, 0x2a, summary.len() as u8].as_slice(),
            summary.as_slice(),
        ]
        .concat();
        assert_eq!(scalars(&entry, 2.5), expected);
    }

    #[test]
    fn a_run_that_goes_on_tells_no_step_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let sample = |step| Sample { step, prompt: 0, path: folder.path().join(format!("{step}.png")) };
        for step in [0, 2] {
            png::write(&sample(step).path, &Picture::filled(3, 2, [9; 3]), &[]).unwrap();
        }
        let bytes = std::fs::read(sample(0).path).unwrap();
        let mut file = EventFile::create(&path, &[], &[]).unwrap();
        file.append_sample(&sample(0), &bytes).unwrap();
        for step in 1..=2 {
            file.append(&entry(step)).unwrap();
        }
        file.append_sample(&sample(2), &bytes).unwrap();
        file.append(&entry(3)).unwrap();
        file.append_sample(&sample(3), b"no picture").unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(records(&whole).len(), 1 + 3 + 2);
        // Made anew from the metrics it is the same file.
        let known: Vec<_> = (1..=3).map(entry).collect();
        EventFile::create(&path, &known, &[sample(0), sample(2), sample(7)]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let shorter = EventFile::create(&path, &known[..1], &[sample(0)]).unwrap();
        drop(shorter);
        assert_eq!(records(&std::fs::read(&path).unwrap()).len(), 3);
    }
}
