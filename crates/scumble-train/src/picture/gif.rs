//! Animated GIF: pictures of one size, one after the other, for ever.
//!
//! ```text
//! GIF89a | screen size | NETSCAPE2.0 repeat 0 | comments | frame: delay, own palette of 256 colours, LZW data | ...
//! ```
//!
//! Frames are written as they come; the file is there when the last is. A frame of up to 256 colours is exact, others
//! get a palette by NeuQuant, which draws no random numbers: the same pictures give the same bytes.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use scumble_model::files::AtomicFile;

use super::{Picture, PictureError, Result};

/// How carefully palettes are chosen: 1 is the best, 30 the fastest.
const CARE: i32 = 10;

/// A GIF being written.
pub struct Animation {
    path: PathBuf,
    size: [usize; 2],
    encoder: gif::Encoder<BufWriter<File>>,
    file: AtomicFile,
}

impl Animation {
    /// Begins a file for frames of `width` x `height` pixels with texts that viewers do not show.
    pub fn create(path: &Path, [width, height]: [usize; 2], comments: &[&str]) -> Result<Self> {
        let shown = || path.display().to_string();
        let failed = |reason: String| PictureError::Encode { file: shown(), reason };
        let [w, h] = [width, height].map(|side| u16::try_from(side).ok().filter(|&side| side > 0));
        let (Some(w), Some(h)) = (w, h) else {
            return Err(failed(format!("{width} x {height} pixels; a GIF has 1 to {} a side", u16::MAX)));
        };
        let mut file = AtomicFile::create(path).map_err(|error| write_error(path, error.to_string()))?;
        let out = file.file().try_clone().map_err(|error| write_error(path, error.to_string()))?;
        let wrong = |error: gif::EncodingError| failed(error.to_string());
        let mut encoder = gif::Encoder::new(BufWriter::new(out), w, h, &[]).map_err(wrong)?;
        encoder.set_repeat(gif::Repeat::Infinite).map_err(wrong)?;
        for comment in comments {
            let kind = gif::AnyExtension(gif::Extension::Comment as u8);
            encoder.write_raw_extension(kind, &[comment.as_bytes()]).map_err(wrong)?;
        }
        Ok(Self { path: path.to_owned(), size: [width, height], encoder, file })
    }

    /// Adds a picture that stands for `milliseconds` (in steps of 10).
    pub fn push(&mut self, picture: &Picture, milliseconds: u32) -> Result<()> {
        let failed = |reason: String| PictureError::Encode { file: self.path.display().to_string(), reason };
        let [width, height] = self.size;
        if (picture.width, picture.height) != (width, height) || picture.rgb.len() != width * height * 3 {
            let found = format!("{} x {}", picture.width, picture.height);
            return Err(failed(format!("a frame has {found} pixels, the first one {width} x {height}")));
        }
        let mut frame = gif::Frame::from_rgb_speed(width as u16, height as u16, &picture.rgb, CARE);
        frame.delay = u16::try_from(milliseconds / 10).unwrap_or(u16::MAX);
        self.encoder.write_frame(&frame).map_err(|error| failed(error.to_string()))
    }

    /// Completes the file, replacing what was there.
    pub fn finish(self) -> Result<()> {
        let Self { path, encoder, file, .. } = self;
        let mut out = encoder.into_inner().map_err(|error| write_error(&path, error.to_string()))?;
        std::io::Write::flush(&mut out).map_err(|error| write_error(&path, error.to_string()))?;
        drop(out);
        file.commit().map_err(|error| write_error(&path, error.to_string()))
    }
}

fn write_error(path: &Path, reason: String) -> PictureError {
    PictureError::Write { file: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use image::AnimationDecoder as _;

    use super::*;

    #[test]
    fn every_picture_is_a_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        let rgb = |i: usize| (0..48 * 32 * 3).map(|at| ((at * 7 + i * 50) % 251) as u8).collect();
        let pictures: Vec<Picture> = (0..3).map(|i| Picture::from_rgb(48, 32, rgb(i)).unwrap()).collect();
        let write = || {
            let long = "x".repeat(600);
            let mut animation = Animation::create(&path, [48, 32], &[&long]).unwrap();
            for (picture, stands) in pictures.iter().zip([100, 200, 1000]) {
                animation.push(picture, stands).unwrap();
            }
            animation.push(&Picture::filled(48, 32, [1, 2, 3]), 50).unwrap();
            assert!(animation.push(&Picture::filled(47, 32, [0; 3]), 50).is_err());
            animation.finish().unwrap();
            std::fs::read(&path).unwrap()
        };
        let bytes = write();
        assert_eq!(bytes, write());
        let frames = image::codecs::gif::GifDecoder::new(std::io::Cursor::new(bytes)).unwrap().into_frames();
        let frames = frames.collect_frames().unwrap();
        let stands: Vec<u32> = frames.iter().map(|frame| frame.delay().numer_denom_ms().0).collect();
        assert_eq!(stands, [100, 200, 1000, 50]);
        assert_eq!(frames[3].buffer().get_pixel(5, 5).0, [1, 2, 3, 255]);
        let far = |i: usize| {
            let shown = frames[i].buffer().pixels().flat_map(|pixel| pixel.0[..3].to_vec());
            shown.zip(&pictures[i].rgb).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>() / (48 * 32 * 3)
        };
        assert!(far(0) < 24 && far(2) < 24, "{} {}", far(0), far(2));
    }

    #[test]
    fn what_is_given_up_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        drop(Animation::create(&path, [8, 8], &[]).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Animation::create(&path, [0, 8], &[]).is_err());
        assert!(Animation::create(&path, [8, 70_000], &[]).is_err());
        assert!(Animation::create(&folder.path().join("none/a.gif"), [8, 8], &[]).is_err());
    }
}
