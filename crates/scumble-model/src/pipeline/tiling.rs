//! Large pictures through the VAE in overlapping tiles, so that memory does not grow with the picture.
//!
//! Tiles are laid so that the outermost end at the picture's edges. Where tiles overlap, each counts by a ramp that
//! falls towards its own edge, in both directions:
//!
//! ```text
//! out = sum_t w_t(y) w_t(x) tile_t / sum_t w_t(y) w_t(x),    w = 1 inside, (i + 1) / (overlap + 1) at the i-th place
//! ```
//!
//! No seam shows, because a tile's weight has vanished where the tile ends. The group norms see one tile at a time, so
//! that the result is near to, but not the same as, that of the whole picture.

use scumble_tensor::{Tensor, shape_error};

use crate::error::Result;

/// Side of a tile and overlap of neighbours, in latents: 512 and 128 pixels.
const TILE: usize = 64;
const OVERLAP: usize = 16;

/// Latents up to which the automatic choice takes a picture whole: 768 x 768 pixels.
const WHOLE: usize = 96 * 96;

/// When to use tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// For pictures of more than 768 x 768 pixels.
    #[default]
    Auto,
    /// For all that are larger than one tile.
    On,
    /// Never.
    Off,
}

impl Tiling {
    /// Maps `[n, c, h, w]` with `f`, whole or in tiles. `steps` are the input's and the output's places for one latent.
    pub(super) fn map(
        self,
        input: &Tensor,
        steps: (usize, usize),
        f: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let &[_, _, height, width] = input.dims() else {
            return Err(shape_error("tiling", "input", "[n, c, h, w]", input.shape()).into());
        };
        let step = steps.0.max(1);
        let (h, w) = (height / step, width / step);
        let tiled = match self {
            Self::Off => false,
            Self::On => true,
            Self::Auto => h * w > WHOLE,
        };
        // The encoder rounds up what does not divide; such pictures are taken whole.
        if !tiled || (h <= TILE && w <= TILE) || !height.is_multiple_of(step) || !width.is_multiple_of(step) {
            return f(input);
        }
        in_tiles(input, steps, (TILE, OVERLAP), f)
    }
}

fn in_tiles(
    input: &Tensor,
    (step_in, step_out): (usize, usize),
    (tile, overlap): (usize, usize),
    f: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (height, width) = (input.dims()[2] / step_in, input.dims()[3] / step_in);
    let (rows, columns) = (spans(height, tile, overlap), spans(width, tile, overlap));
    let mut sum = Sum::default();
    for (y, wy) in rows.iter().map(|&(start, length)| (start, ramp(start, length, height, overlap, step_out)))
    {
        for (x, wx) in
            columns.iter().map(|&(start, length)| (start, ramp(start, length, width, overlap, step_out)))
        {
            let size = (wy.len() / step_out * step_in, wx.len() / step_out * step_in);
            let part = f(&cut(input, (y * step_in, x * step_in), size)?)?;
            sum.add(&part, (y * step_out, x * step_out), (&wy, &wx), (height * step_out, width * step_out))?;
        }
    }
    sum.finish()
}

/// Start and length of each tile along a side: as few as cover it, the last ending at the end.
fn spans(length: usize, tile: usize, overlap: usize) -> Vec<(usize, usize)> {
    if length <= tile {
        return vec![(0, length)];
    }
    let count = (length - overlap).div_ceil(tile - overlap);
    (0..count).map(|i| (i * (length - tile) / (count - 1), tile)).collect()
}

/// The weights of a tile along a side, in places of the output. There is no ramp at the picture's own edges.
fn ramp(start: usize, length: usize, whole: usize, overlap: usize, step: usize) -> Vec<f32> {
    let (places, overlap) = (length * step, overlap * step);
    let slope = |from_edge: usize| ((from_edge + 1) as f32 / (overlap + 1) as f32).min(1.0);
    let weight = |i: usize| {
        let low = if start > 0 { slope(i) } else { 1.0 };
        let high = if start + length < whole { slope(places - 1 - i) } else { 1.0 };
        low.min(high)
    };
    (0..places).map(weight).collect()
}

/// The rectangle at `(y, x)` of `size`.
fn cut(input: &Tensor, (y, x): (usize, usize), (h, w): (usize, usize)) -> Result<Tensor> {
    let &[n, c, height, width] = input.dims() else {
        return Err(shape_error("tiling", "input", "[n, c, h, w]", input.shape()).into());
    };
    let values = input.as_slice::<f32>()?;
    let mut part = Vec::with_capacity(n * c * h * w);
    for plane in values.chunks_exact((height * width).max(1)) {
        for row in y..y + h {
            part.extend_from_slice(&plane[row * width + x..row * width + x + w]);
        }
    }
    Ok(Tensor::from_slice(&part, &[n, c, h, w])?)
}

/// The weighted sum of all tiles so far.
#[derive(Default)]
struct Sum {
    dims: Vec<usize>,
    values: Vec<f32>,
    weights: Vec<f32>,
}

impl Sum {
    fn add(
        &mut self,
        part: &Tensor,
        (y, x): (usize, usize),
        (wy, wx): (&[f32], &[f32]),
        (height, width): (usize, usize),
    ) -> Result<()> {
        let &[n, c, h, w] = part.dims() else {
            return Err(shape_error("tiling", "a tile", "[n, c, h, w]", part.shape()).into());
        };
        if (h, w) != (wy.len(), wx.len()) {
            return Err(shape_error(
                "tiling",
                "a tile",
                format!("{} x {}", wy.len(), wx.len()),
                part.shape(),
            )
            .into());
        }
        if self.dims.is_empty() {
            self.dims = vec![n, c, height, width];
            self.values = vec![0.0; n * c * height * width];
            self.weights = vec![0.0; height * width];
        }
        let tile = part.as_slice::<f32>()?.chunks_exact((h * w).max(1));
        for (plane, tile) in self.values.chunks_exact_mut(height * width).zip(tile) {
            for (row, &row_weight) in wy.iter().enumerate() {
                let start = (y + row) * width + x;
                let out = plane[start..start + w].iter_mut().zip(&tile[row * w..(row + 1) * w]);
                out.zip(wx).for_each(|((out, value), weight)| *out += row_weight * weight * value);
            }
        }
        for (row, &row_weight) in wy.iter().enumerate() {
            let start = (y + row) * width + x;
            let out = self.weights[start..start + w].iter_mut();
            out.zip(wx).for_each(|(out, weight)| *out += row_weight * weight);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Tensor> {
        for plane in self.values.chunks_exact_mut(self.weights.len().max(1)) {
            plane.iter_mut().zip(&self.weights).for_each(|(value, weight)| *value /= weight);
        }
        Ok(Tensor::from_slice(&self.values, &self.dims)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_side_with_at_least_the_overlap() {
        for length in 1..300 {
            let spans = spans(length, 16, 4);
            assert_eq!((spans[0].0, spans[spans.len() - 1].0 + spans[spans.len() - 1].1), (0, length));
            assert!(
                spans.windows(2).all(|pair| pair[0].0 + pair[0].1 >= pair[1].0 + 4),
                "{length}: {spans:?}"
            );
            assert!(spans.iter().all(|span| span.1 <= 16));
        }
    }

    /// A local map gives the same in tiles as whole, also where it changes the resolution.
    #[test]
    fn a_local_map_does_not_show_its_tiles() {
        let values: Vec<f32> = (0..2 * 3 * 37 * 23).map(|i| (i as f32 * 0.7).sin()).collect();
        let input = Tensor::from_slice(&values, &[2, 3, 37, 23]).unwrap();
        let doubled = |part: &Tensor| -> Result<Tensor> {
            let &[n, c, h, w] = part.dims() else { unreachable!() };
            let x = part.as_slice::<f32>().unwrap();
            let at = |i: usize| {
                let (plane, rest) = (i / (4 * h * w), i % (4 * h * w));
                x[plane * h * w + rest / (2 * w) / 2 * w + rest % (2 * w) / 2] * 3.0
            };
            Ok(Tensor::from_slice(
                &(0..n * c * 4 * h * w).map(at).collect::<Vec<_>>(),
                &[n, c, 2 * h, 2 * w],
            )?)
        };
        let whole = doubled(&input).unwrap();
        let tiled = in_tiles(&input, (1, 2), (8, 3), doubled).unwrap();
        assert_eq!(tiled.dims(), whole.dims());
        let pairs = whole.as_slice::<f32>().unwrap().iter().zip(tiled.as_slice::<f32>().unwrap());
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-5);
    }

    #[test]
    fn a_tile_that_differs_fades_in_without_a_step() {
        let input = Tensor::from_slice(&[0.0f32; 40], &[1, 1, 1, 40]).unwrap();
        let count = std::cell::Cell::new(0.0);
        let constant = |part: &Tensor| -> Result<Tensor> {
            count.set(count.get() + 1.0);
            Ok(Tensor::from_slice(&vec![count.get(); part.numel()], part.dims())?)
        };
        let out = in_tiles(&input, (1, 1), (16, 8), constant).unwrap();
        let out = out.as_slice::<f32>().unwrap();
        let steepest = out.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
        assert!(out[0] == 1.0 && out[39] == count.get() && steepest < 0.25, "{out:?}");
    }

    #[test]
    fn small_pictures_are_taken_whole() {
        let input = Tensor::from_slice(&vec![0f32; 97 * 96], &[1, 1, 97, 96]).unwrap();
        let parts = |tiling: Tiling, input: &Tensor| {
            let count = std::cell::Cell::new(0);
            let identity = |part: &Tensor| -> Result<Tensor> {
                count.set(count.get() + 1);
                Ok(part.clone())
            };
            tiling.map(input, (1, 1), identity).unwrap();
            count.get()
        };
        assert_eq!(parts(Tiling::Off, &input), 1);
        assert_eq!(parts(Tiling::Auto, &input), 4);
        let small = Tensor::from_slice(&vec![0f32; 96 * 96], &[1, 1, 96, 96]).unwrap();
        assert_eq!((parts(Tiling::Auto, &small), parts(Tiling::On, &small)), (1, 4));
    }
}
