//! Changing the size of 8-bit pictures exactly as Pillow's `Image.resize` does: what training pictures and CLIP's eyes share.
//!
//! Each output pixel is a weighted mean of the input under a filter stretched by the scale when shrinking, so that
//! nothing aliases (with a Lanczos or bicubic filter weights may be negative):
//!
//! ```text
//! out[i] = sum_j w_ij in[j],   w_ij = f((j + 0.5 - centre_i) / max(scale, 1)),  normalised to sum 1
//! centre_i = start + (i + 0.5) * scale,   scale = source length / output length
//! ```
//!
//! first along rows, then along columns. Pillow keeps bytes between the two passes and computes with weights of
//! 22 fractional bits; so do we, and results are equal byte for byte (its `src/libImaging/Resample.c`). Pillow 13 begins
//! with the columns where that is cheaper, and then differs by one step of 255 now and then.

/// The shape of the resampling window.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle, 2 pixels wide: soft; what torchvision's `Resize` does by default.
    Bilinear,
    /// Cubic with a = -0.5, 4 pixels wide.
    Bicubic,
    /// Windowed sinc, 6 pixels wide: the sharpest.
    #[default]
    Lanczos,
}

impl Filter {
    /// Half the width of the window, in source pixels at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        let sinc = |x: f64| {
            let px = std::f64::consts::PI * x;
            if x == 0.0 { 1.0 } else { px.sin() / px }
        };
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

/// Rows of interleaved 8-bit samples from the top.
#[derive(Clone, Copy)]
pub struct Samples<'a> {
    /// `height * width * channels` bytes.
    pub bytes: &'a [u8],
    /// Pixels in a row, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// Bytes of a pixel.
    pub channels: usize,
}

/// Resamples the rectangle `source` (left, top, width, height; fractions allowed) to `width` x `height` pixels (at least
/// one). The part of the picture that is not looked at costs nothing.
pub fn resample(
    samples: Samples<'_>,
    source: [f64; 4],
    [width, height]: [usize; 2],
    filter: Filter,
) -> Vec<u8> {
    let whole = [0.0, 0.0, width as f64, height as f64];
    if (samples.width, samples.height) == (width, height) && source == whole {
        return samples.bytes.to_vec();
    }
    let across = Windows::new(samples.width, source[0], source[2], width.max(1), filter);
    let down = Windows::new(samples.height, source[1], source[3], height.max(1), filter);
    both_passes(samples, &across, &down)
}

/// Fractional bits of a weight.
const BITS: u32 = 22;

/// For each output pixel along one axis, the first source pixel and its neighbours' weights.
struct Windows {
    starts: Vec<usize>,
    weights: Vec<Vec<i64>>,
}

impl Windows {
    fn new(length: usize, start: f64, span: f64, outputs: usize, filter: Filter) -> Self {
        let scale = span / outputs as f64;
        let stretch = scale.max(1.0);
        let reach = filter.support() * stretch;
        let mut windows = Self { starts: Vec::with_capacity(outputs), weights: Vec::with_capacity(outputs) };
        for i in 0..outputs {
            let centre = start + (i as f64 + 0.5) * scale;
            // Pixels whose centres are within reach; the borders rounded as Pillow does.
            let first = ((centre - reach + 0.5).floor().max(0.0) as usize).min(length - 1);
            let end = ((centre + reach + 0.5).floor().max(0.0) as usize).clamp(first + 1, length);
            let raw: Vec<f64> =
                (first..end).map(|j| filter.weight((j as f64 - centre + 0.5) * (1.0 / stretch))).collect();
            let sum: f64 = raw.iter().sum();
            // Halves away from zero.
            let fixed = |w: &f64| (w / sum * f64::from(1u32 << BITS)).round() as i64;
            windows.starts.push(first);
            windows.weights.push(raw.iter().map(fixed).collect());
        }
        windows
    }

    /// The source range that any output looks at.
    fn extent(&self) -> std::ops::Range<usize> {
        let end = self.starts.iter().zip(&self.weights).map(|(s, w)| s + w.len()).max().unwrap_or(0);
        self.starts.iter().copied().min().unwrap_or(0)..end
    }
}

/// A sum of weighted samples, begun at [`HALF`], as a byte.
fn to_byte(sum: i64) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

const HALF: i64 = 1 << (BITS - 1);

fn both_passes(samples: Samples<'_>, across: &Windows, down: &Windows) -> Vec<u8> {
    let Samples { bytes, width, channels, .. } = samples;
    let rows = down.extent();
    let row_length = across.starts.len() * channels;
    let mut sums = vec![HALF; row_length];
    // [rows seen, output width, channels]
    let mut narrowed = Vec::with_capacity(rows.len() * row_length);
    for y in rows.clone() {
        let row = &bytes[y * width * channels..(y + 1) * width * channels];
        sums.fill(HALF);
        for (pixel, (start, weights)) in
            sums.chunks_exact_mut(channels).zip(across.starts.iter().zip(&across.weights))
        {
            for (source, weight) in row[start * channels..].chunks_exact(channels).zip(weights) {
                for (sum, &value) in pixel.iter_mut().zip(source) {
                    *sum += weight * i64::from(value);
                }
            }
        }
        narrowed.extend(sums.iter().copied().map(to_byte));
    }
    let mut out = Vec::with_capacity(down.starts.len() * row_length);
    for (start, weights) in down.starts.iter().zip(&down.weights) {
        sums.fill(HALF);
        for (row, weight) in
            narrowed[(start - rows.start) * row_length..].chunks_exact(row_length).zip(weights)
        {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += weight * i64::from(value);
            }
        }
        out.extend(sums.iter().copied().map(to_byte));
    }
    out
}
