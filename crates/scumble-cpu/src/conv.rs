//! Convolutions as products whose operands are looked up in the picture; the unfolded matrix never exists, but for the few
//! channels of first layers on a matrix unit. There, large convolutions of 3 x 3 are filtered ([`crate::winograd`]).
//!
//! ```text
//! y[p, o]       = sum over tap, c of  x[stride p + tap - pad, c]  w[o, tap, c]
//! dx[p, c]      = sum over tap, o of  dy[(p + pad - tap) / stride, o]  w[o, tap, c]   where that is whole
//! dw[o, tap, c] = sum over p of       dy[p, o]  x[stride p + tap - pad, c]
//! ```
//!
//! With a stride the input gradient falls into stride^2 phases, one for each remainder of the pixel's position; each is
//! a product over the taps that reach it. The weight gradient is one product a tap.

use scumble_tensor::backend::Conv2dSpec;
use scumble_tensor::{Result, Tensor, shape_error};

use crate::engine::Engine;
use crate::gemm::operand::{Along, Operand, Pixels, Runs};
use crate::gemm::{Output, RowMap, gemm};
use crate::layout::upsample_grad;
use crate::operands::{channels, elements, elements_of, optional};
use crate::simd::{Scalar, with_scalar};
use crate::tiles::DEPTH;
use crate::winograd::Winograd;

/// Sizes of a convolution.
struct Sizes {
    n: usize,
    input: [usize; 2],
    c: usize,
    out: usize,
    kernel: [usize; 2],
    output: [usize; 2],
}

impl Sizes {
    fn taps(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        (0..self.kernel[0]).flat_map(|y| (0..self.kernel[1]).map(move |x| [y, x]))
    }

    /// Where in the input tap `[y, x]` of output pixel 0 lies.
    fn offset(tap: [usize; 2], spec: &Conv2dSpec) -> [isize; 2] {
        [tap[0] as isize - spec.padding.top as isize, tap[1] as isize - spec.padding.left as isize]
    }
}

/// `[out, kh, kw, c]`.
fn weight_sizes(op: &'static str, w: &Tensor) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(w.dims()).map_err(|_| shape_error(op, "weight", "[out, kh, kw, c]", w.shape()))
}

/// `x [n, h, w, c]`, `w [out, kh, kw, c]` -> `[n, oh, ow, out]`.
pub(crate) fn forward(
    engine: &Engine,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    add: Option<&Tensor>,
    spec: Conv2dSpec,
) -> Result<Tensor> {
    with_scalar!("conv2d", x.dtype(), E => forward_typed::<E>(engine, x, w, bias, add, spec))
}

fn forward_typed<E: Scalar>(
    engine: &Engine,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    add: Option<&Tensor>,
    spec: Conv2dSpec,
) -> Result<Tensor> {
    const OP: &str = "conv2d";
    let [n, height, width, c] = x.nhwc(OP)?;
    let [out, kh, kw, weight_c] = weight_sizes(OP, w)?;
    if weight_c != c {
        return Err(shape_error(OP, "input channels", weight_c, c));
    }
    let output = spec.output_size([height, width], [kh, kw])?;
    let s = Sizes { n, input: [height, width], c, out, kernel: [kh, kw], output };
    let rows = n * output[0] * output[1];
    let (x, w) = (elements::<E>(OP, "the input", x)?, elements::<E>(OP, "the weight", w)?);
    let bias = bias.map(|bias| channels(OP, "bias", bias, out)).transpose()?;
    let add = optional(OP, "the addend", add, rows * out)?;
    let zeros = vec![E::ZERO; c];
    let pixels = Pixels {
        data: x,
        zeros: &zeros,
        size: s.input,
        channels: c,
        grid: output,
        step: spec.stride,
        offsets: s.taps().map(|tap| Sizes::offset(tap, &spec)).collect(),
    };
    let taps = kh * kw;
    let a = Operand::pixels(pixels, n);
    let offsets = (0..taps).map(|tap| tap * c).collect();
    let runs = Runs::Matrix { data: w, stride: taps * c, offsets };
    let b = Operand { runs, along: Along::Depth, outer: out, segments: taps, segment_len: c };
    Tensor::try_build(&[n, output[0], output[1], out], |y: &mut [E]| {
        multiply(engine, &a, &b, Output { bias: bias.as_deref(), add, ..Output::plain(y, out) })
    })
}

/// `dy [n, oh, ow, out]`, `w [out, kh, kw, c]` -> `[n, h, w, c]`.
pub(crate) fn grad_input(
    engine: &Engine,
    d_y: &Tensor,
    w: &Tensor,
    input: [usize; 2],
    spec: Conv2dSpec,
) -> Result<Tensor> {
    with_scalar!("conv2d_grad_input", d_y.dtype(), E => grad_input_typed::<E>(engine, d_y, w, input, spec))
}

fn grad_input_typed<E: Scalar>(
    engine: &Engine,
    d_y: &Tensor,
    w: &Tensor,
    input: [usize; 2],
    spec: Conv2dSpec,
) -> Result<Tensor> {
    GradInput::<E>::new(d_y, w, input, spec)?.compute(engine)
}

/// As [`grad_input`] for a picture that was enlarged from `small`, for the small one.
pub(crate) fn grad_enlarged(
    engine: &Engine,
    d_y: &Tensor,
    w: &Tensor,
    small: [usize; 2],
    input: [usize; 2],
    spec: Conv2dSpec,
) -> Result<Tensor> {
    with_scalar!("conv2d_grad_enlarged", d_y.dtype(), E => {
        GradInput::<E>::new(d_y, w, input, spec)?.compute_small(engine, small)
    })
}

/// The operation's name in errors.
const GRAD_INPUT: &str = "conv2d_grad_input";

/// What the gradient of an input is computed from.
struct GradInput<'a, E> {
    s: Sizes,
    spec: Conv2dSpec,
    d_y: &'a [E],
    w: &'a [E],
    /// A pixel outside of the upstream gradient.
    zeros: Vec<E>,
}

impl<'a, E: Scalar> GradInput<'a, E> {
    /// Errors when the upstream gradient is not that of such an input and weight.
    fn new(d_y: &'a Tensor, w: &'a Tensor, input: [usize; 2], spec: Conv2dSpec) -> Result<Self> {
        let [n, oh, ow, out] = d_y.nhwc(GRAD_INPUT)?;
        let [weight_out, kh, kw, c] = weight_sizes(GRAD_INPUT, w)?;
        let output = spec.output_size(input, [kh, kw])?;
        if [oh, ow, out] != [output[0], output[1], weight_out] {
            let expected = format!("[{n}, {}, {}, {weight_out}]", output[0], output[1]);
            return Err(shape_error(GRAD_INPUT, "upstream gradient", expected, d_y.shape()));
        }
        let s = Sizes { n, input, c, out, kernel: [kh, kw], output };
        let d_y = elements::<E>(GRAD_INPUT, "the upstream gradient", d_y)?;
        let w = elements::<E>(GRAD_INPUT, "the weight", w)?;
        Ok(Self { zeros: vec![E::ZERO; out], s, spec, d_y, w })
    }

    /// `[n, h, w, c]`.
    fn compute(&self, engine: &Engine) -> Result<Tensor> {
        let ([height, width], stride) = (self.s.input, self.spec.stride);
        Tensor::try_build(&[self.s.n, height, width, self.s.c], |d_x: &mut [E]| {
            let phases = (0..stride).flat_map(|y| (0..stride).map(move |x| [y, x]));
            phases.into_iter().try_for_each(|phase| self.compute_phase(engine, phase, d_x))
        })
    }

    /// The gradient of the picture of size `small` that the input was enlarged from. At twice the size, minimal filtering
    /// sums the four copies of a pixel before they leave its positions.
    fn compute_small(&self, engine: &Engine, small: [usize; 2]) -> Result<Tensor> {
        let (a, b, _) = self.operands([0, 0]);
        let doubled = self.spec.stride == 1 && self.s.input == small.map(|size| 2 * size);
        match Winograd::of(engine, &a, &b) {
            Some(winograd) if doubled => {
                Tensor::try_build(&[self.s.n, small[0], small[1], self.s.c], |d_x: &mut [E]| {
                    winograd.summing_squares().run(engine, Output::plain(d_x, self.s.c))
                })
            }
            _ => upsample_grad(engine, &self.compute(engine)?, small),
        }
    }

    /// The input pixels whose position leaves the remainder `phase`.
    fn compute_phase(&self, engine: &Engine, phase: [usize; 2], d_x: &mut [E]) -> Result<()> {
        let (a, b, grid) = self.operands(phase);
        let rows = match self.spec.stride {
            1 => RowMap::Identity,
            step => RowMap::Phase { grid, size: self.s.input, start: phase, step },
        };
        multiply(engine, &a, &b, Output { rows, ..Output::plain(d_x, self.s.c) })
    }

    /// Pixels of the upstream gradient and weights that meet the input pixels whose position leaves the remainder `phase`,
    /// and how many of those there are, down and across.
    fn operands(&self, phase: [usize; 2]) -> (Operand<'_, E>, Operand<'_, E>, [usize; 2]) {
        let (s, stride) = (&self.s, self.spec.stride);
        let grid = [0, 1].map(|axis| s.input[axis].saturating_sub(phase[axis]).div_ceil(stride));
        // Taps that reach the phase, with the output pixel that its first pixel meets.
        let mut reaching = Vec::new();
        for tap in s.taps() {
            let [y, x] = Sizes::offset(tap, &self.spec);
            let (y, x) = (phase[0] as isize - y, phase[1] as isize - x);
            let step = stride as isize;
            if y.rem_euclid(step) == 0 && x.rem_euclid(step) == 0 {
                reaching.push((tap, [y.div_euclid(step), x.div_euclid(step)]));
            }
        }
        let pixels = Pixels {
            data: self.d_y,
            zeros: &self.zeros,
            size: s.output,
            channels: s.out,
            grid,
            step: 1,
            offsets: reaching.iter().map(|&(_, offset)| offset).collect(),
        };
        let segments = reaching.len();
        let offsets = reaching.iter().map(|&([y, x], _)| (y * s.kernel[1] + x) * s.c).collect();
        let runs = Runs::Matrix { data: self.w, stride: s.kernel[0] * s.kernel[1] * s.c, offsets };
        let b = Operand { runs, along: Along::Outer, outer: s.c, segments, segment_len: s.out };
        (Operand::pixels(pixels, s.n), b, grid)
    }
}

/// The product of a picture's pixels with weights, with fewer multiplications where that is possible.
fn multiply<E: Scalar>(
    engine: &Engine,
    a: &Operand<'_, E>,
    b: &Operand<'_, E>,
    out: Output<'_, E>,
) -> Result<()> {
    match Winograd::of(engine, a, b) {
        Some(winograd) if winograd.pays() && matches!(out.rows, RowMap::Identity) => {
            winograd.run(engine, out)
        }
        _ if unfolding_pays(engine, a, b) => unfolded(engine, a, b, out),
        _ => gemm(engine, a, b, out),
    }
}

/// Whether the taps of all channels fit a tile's depth or two where each tap would fill a tile of its own with zeros: the
/// first layers, of three or four channels. With few outputs the copy would cost as much as it saves.
fn unfolding_pays<E: Scalar>(engine: &Engine, a: &Operand<'_, E>, b: &Operand<'_, E>) -> bool {
    const FEWEST_OUTPUTS: usize = 128;
    let has_tiles = engine.tier.unit().is_some() && E::halves(a).is_some();
    has_tiles && a.segments > 2 && a.depth() <= 2 * DEPTH && b.outer >= FEWEST_OUTPUTS
}

/// The product with picture and weights unfolded, in one segment.
fn unfolded<E: Scalar>(
    engine: &Engine,
    a: &Operand<'_, E>,
    b: &Operand<'_, E>,
    out: Output<'_, E>,
) -> Result<()> {
    let (picture, weights) = (unfold(engine, a)?, unfold(engine, b)?);
    let rows = |x| Operand::rows(x, a.outer, a.depth());
    let columns = |x| Operand::rows(x, b.outer, b.depth());
    gemm(engine, &rows(picture.as_slice::<E>()?), &columns(weights.as_slice::<E>()?), out)
}

/// `[outer, segment, depth within it]`.
fn unfold<E: Scalar>(engine: &Engine, operand: &Operand<'_, E>) -> Result<Tensor> {
    const LINES: usize = 256;
    let depth = operand.depth();
    Tensor::build(&[operand.outer, depth], |lines: &mut [E]| {
        engine.pool.run_pieces(lines, LINES * depth, |piece, lines| {
            for (index, line) in lines.chunks_exact_mut(depth).enumerate() {
                let outer = piece * LINES + index;
                for (segment, to) in line.chunks_exact_mut(operand.segment_len).enumerate() {
                    match operand.along {
                        Along::Depth => to.copy_from_slice(operand.run(outer, segment)),
                        Along::Outer => {
                            to.iter_mut()
                                .enumerate()
                                .for_each(|(k, to)| *to = operand.run(k, segment)[outer]);
                        }
                    }
                }
            }
        });
    })
}

/// f32 `[out, kh, kw, c]`.
pub(crate) fn grad_weight(
    engine: &Engine,
    d_y: &Tensor,
    x: &Tensor,
    kernel: [usize; 2],
    spec: Conv2dSpec,
) -> Result<Tensor> {
    with_scalar!("conv2d_grad_weight", d_y.dtype(), E => grad_weight_typed::<E>(engine, d_y, x, kernel, spec))
}

fn grad_weight_typed<E: Scalar>(
    engine: &Engine,
    d_y: &Tensor,
    x: &Tensor,
    kernel: [usize; 2],
    spec: Conv2dSpec,
) -> Result<Tensor> {
    const OP: &str = "conv2d_grad_weight";
    let [n, height, width, c] = x.nhwc(OP)?;
    let output = spec.output_size([height, width], kernel)?;
    let out = d_y.shape().last();
    let rows = n * output[0] * output[1];
    if d_y.dims() != [n, output[0], output[1], out] {
        let expected = format!("[{n}, {}, {}, out]", output[0], output[1]);
        return Err(shape_error(OP, "upstream gradient", expected, d_y.shape()));
    }
    let d_y = elements_of::<E>(OP, "the upstream gradient", d_y, rows * out)?;
    let x = elements::<E>(OP, "the input", x)?;
    let s = Sizes { n, input: [height, width], c, out, kernel, output };
    let zeros = vec![E::ZERO; c];
    let taps = kernel[0] * kernel[1];
    Tensor::try_build(&[out, kernel[0], kernel[1], c], |d_w: &mut [f32]| {
        for (index, tap) in s.taps().enumerate() {
            let pixels = Pixels {
                data: x,
                zeros: &zeros,
                size: s.input,
                channels: s.c,
                grid: s.output,
                step: spec.stride,
                offsets: vec![Sizes::offset(tap, &spec)],
            };
            let runs = Runs::Pixels(pixels);
            let b = Operand { runs, along: Along::Outer, outer: c, segments: 1, segment_len: rows };
            let a = Operand::columns(d_y, s.out, rows);
            gemm(engine, &a, &b, Output::plain(&mut d_w[index * c..], taps * c))?;
        }
        debug_assert_eq!(s.n * s.output[0] * s.output[1], rows);
        Ok(())
    })
}
