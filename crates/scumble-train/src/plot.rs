//! The loss of a run as a picture: every value thin, their running mean thick, round numbers at the axes.
//!
//! The smooth line is an exponential mean without the start's bias, `m_i = s_i / c_i` with `s_i = d s_(i-1) + (1-d) y_i` and
//! `c_i = 1 - d^i`; the half-life is 1/25 of the run, at least two steps. The vertical range leaves out the outermost 1 % of raw values, so that
//! one spike does not flatten the rest. The validation loss, where there is one, is a second line with a dot at each test. Values that are no numbers break the lines and are marked in red at the bottom.

pub mod overlay;

use crate::picture::Picture;
use crate::picture::canvas::{Align, Canvas, Colour};
use crate::picture::font::Size;

const WIDTH: usize = 1600;
const HEIGHT: usize = 900;
/// The area between the axes: left, top, right, bottom.
const AREA: [f32; 4] = [136.0, 112.0, 1552.0, 800.0];

const PAPER: Colour = [253, 253, 252];
const INK: Colour = [32, 33, 36];
const QUIET: Colour = [104, 106, 112];
const GRID: Colour = [231, 231, 228];
const AXIS: Colour = [168, 169, 172];
const RAW: Colour = [104, 152, 214];
const SMOOTH: Colour = [22, 74, 148];
const TESTED: Colour = [222, 124, 20];
const ALARM: Colour = [205, 52, 44];

/// What is plotted.
#[derive(Clone, Copy, Debug)]
pub struct LossPlot<'a> {
    /// On top, left.
    pub title: &'a str,
    /// Under the horizontal axis.
    pub x_label: &'a str,
    /// Step and value, steps ascending.
    pub points: &'a [(u64, f64)],
    /// Values of pictures that are not trained on, likewise; may be empty.
    pub tests: &'a [(u64, f64)],
}

impl LossPlot<'_> {
    /// Paints the plot, 1600 x 900.
    pub fn render(&self) -> Picture {
        let finite: Vec<[f64; 2]> =
            self.points.iter().filter(|p| p.1.is_finite()).map(|&(x, y)| [x as f64, y]).collect();
        let smooth = smoothed(&finite);
        let x_axis = Axis::steps(self.points);
        let tests: Vec<[f64; 2]> =
            self.tests.iter().filter(|p| p.1.is_finite()).map(|&(x, y)| [x as f64, y]).collect();
        let y_axis = Axis::values(&finite, &[smooth.as_slice(), &tests].concat());
        let mut canvas = Canvas::new(WIDTH, HEIGHT, PAPER);
        paint_axes(&mut canvas, &x_axis, &y_axis, self.x_label);
        let at = |p: [f64; 2]| [x_axis.place(p[0], AREA[0], AREA[2]), y_axis.place(p[1], AREA[3], AREA[1])];
        for run in self.runs() {
            let points: Vec<[f32; 2]> = thinned(&run).into_iter().map(at).collect();
            canvas.polyline(&points, if points.len() == 1 { 7.0 } else { 1.6 }, RAW, 0.62, AREA);
        }
        if smooth.len() > 1 {
            let points: Vec<[f32; 2]> = thinned(&smooth).into_iter().map(at).collect();
            canvas.polyline(&points, 4.0, SMOOTH, 1.0, AREA);
        }
        let places: Vec<[f32; 2]> = tests.iter().copied().map(at).collect();
        canvas.polyline(&places, 4.0, TESTED, 1.0, AREA);
        for place in &places {
            canvas.polyline(&[*place], 11.0, TESTED, 1.0, AREA);
        }
        for &(step, _) in self.points.iter().filter(|p| !p.1.is_finite()) {
            let x = x_axis.place(step as f64, AREA[0], AREA[2]);
            canvas.rectangle(x as i64 - 2, AREA[3] as i64 - 16, 4, 16, ALARM);
        }
        self.paint_header(&mut canvas, finite.len(), smooth.last().map(|p| p[1]));
        canvas.into_picture()
    }

    /// The stretches of consecutive finite values.
    fn runs(&self) -> Vec<Vec<[f64; 2]>> {
        self.points
            .split(|p| !p.1.is_finite())
            .filter(|run| !run.is_empty())
            .map(|run| run.iter().map(|&(x, y)| [x as f64, y]).collect())
            .collect()
    }

    fn paint_header(&self, canvas: &mut Canvas, finite: usize, last: Option<f64>) {
        let room = if self.tests.is_empty() { 720.0 } else { 400.0 };
        let title = Size::Large.font().shorten(self.title, room);
        canvas.text(AREA[0], 40, &title, Size::Large, Align::Left, INK);
        let bad = self.points.len() - finite;
        let mut entries = Vec::new();
        if bad > 0 {
            entries.push((format!("not a number ({bad})"), ALARM, 4.0));
        }
        if let Some(&(_, value)) = self.tests.last() {
            entries.push((format!("not trained on, now {}", short(value)), TESTED, 4.0));
        }
        if let Some(last) = last {
            entries.push((format!("smoothed, now {}", short(last)), SMOOTH, 4.0));
            entries.push(("each step".into(), RAW, 1.6));
        }
        let mut right = AREA[2];
        for (text, colour, thickness) in entries {
            canvas.text(right, 46, &text, Size::Small, Align::Right, QUIET);
            let end = right - Size::Small.font().measure(&text) - 14.0;
            let sample = [[end - 44.0, 60.0], [end, 60.0]];
            canvas.polyline(&sample, thickness, colour, 1.0, [0.0, 0.0, WIDTH as f32, HEIGHT as f32]);
            right = end - 84.0;
        }
        if finite == 0 {
            let (x, y) = ((AREA[0] + AREA[2]) / 2.0, ((AREA[1] + AREA[3]) / 2.0) as i64);
            let text = if bad == 0 { "no values yet" } else { "no finite values" };
            canvas.text(x, y, text, Size::Small, Align::Centre, QUIET);
        }
    }
}

/// A number for reading: three or four significant digits.
fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) {
        return format!("{value:.2e}");
    }
    let decimals = if size >= 100.0 {
        1
    } else if size >= 1.0 {
        3
    } else {
        4
    };
    format!("{value:.decimals$}")
}

/// The running mean at every point.
fn smoothed(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let half_life = (points.len() as f64 / 25.0).max(2.0);
    let keep = 0.5f64.powf(1.0 / half_life);
    let (mut sum, mut share) = (0.0, 0.0);
    let mean = |&[x, y]: &[f64; 2]| {
        sum = keep * sum + (1.0 - keep) * y;
        share = keep * share + (1.0 - keep);
        [x, sum / share]
    };
    points.iter().map(mean).collect()
}

/// Long series cut to what can be seen: per group of points its first, lowest, highest and last.
fn thinned(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let group = points.len() / WIDTH;
    if group < 4 {
        return points.to_vec();
    }
    let keep = |chunk: &[[f64; 2]]| {
        let by_value = |a: &usize, b: &usize| chunk[*a][1].total_cmp(&chunk[*b][1]);
        let low = (0..chunk.len()).min_by(by_value).unwrap_or(0);
        let high = (0..chunk.len()).max_by(by_value).unwrap_or(0);
        let mut kept = vec![0, low, high, chunk.len() - 1];
        kept.sort_unstable();
        kept.dedup();
        kept.into_iter().map(|i| chunk[i]).collect::<Vec<_>>()
    };
    points.chunks(group).flat_map(keep).collect()
}

/// A range with round tick positions.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// From the first to the last step.
    fn steps(points: &[(u64, f64)]) -> Self {
        let low = points.first().map_or(0.0, |p| p.0 as f64);
        let high = points.last().map_or(1.0, |p| p.0 as f64);
        if high > low {
            Self { low, high, step: round_step(high - low, 8.0).max(1.0) }
        } else {
            Self { low: (low - 1.0).max(0.0), high: low + 1.0, step: 1.0 }
        }
    }

    /// Around nearly all raw and all smooth values, a little wider; 0 is the bottom when it is near.
    fn values(raw: &[[f64; 2]], smooth: &[[f64; 2]]) -> Self {
        let mut sorted: Vec<f64> = raw.iter().map(|p| p[1]).collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(first), Some(last)) = (
            sorted.get(sorted.len() / 100),
            sorted.get((sorted.len() * 99 / 100).min(sorted.len().max(1) - 1)),
        ) else {
            return Self { low: 0.0, high: 1.0, step: 0.2 };
        };
        let low = smooth.iter().map(|p| p[1]).fold(*first, f64::min);
        let high = smooth.iter().map(|p| p[1]).fold(*last, f64::max);
        // Halves first: the difference of two huge values may be no number.
        let span = ((high / 2.0 - low / 2.0) * 2.0).min(f64::MAX);
        let pad =
            if span > low.abs().max(high.abs()) * 1e-9 { span * 0.06 } else { low.abs().max(1e-3) * 0.5 };
        let bottom = if low >= 0.0 && low - pad < 0.25 * high { 0.0 } else { low - pad };
        let (low, high) = (bottom.max(f64::MIN / 4.0), (high + pad).min(f64::MAX / 4.0));
        Self { low, high, step: round_step(high - low, 6.0) }
    }

    /// The pixel of a value, between pixels `from` (at the low end) and `to`; values outside stay a little outside.
    fn place(&self, value: f64, from: f32, to: f32) -> f32 {
        let t = ((value - self.low) / (self.high - self.low)).clamp(-0.05, 1.05) as f32;
        from + (to - from) * t
    }

    /// Multiples of the step inside the range.
    fn ticks(&self) -> Vec<f64> {
        let (first, last) = ((self.low / self.step).ceil(), (self.high / self.step + 1e-9).floor());
        if !(last - first).is_finite() || last - first > 50.0 {
            return vec![self.low, self.high];
        }
        (0..=(last - first) as i64).map(|i| (first + i as f64) * self.step).collect()
    }

    /// As many decimals as the step needs.
    fn label(&self, tick: f64) -> String {
        let decimals = (-self.step.log10().floor()).max(0.0);
        if decimals > 6.0 || self.low.abs().max(self.high.abs()) >= 1e7 {
            return format!("{tick:.3e}");
        }
        // No "-0".
        format!("{:.*}", decimals as usize, tick + 0.0)
    }
}

/// 1, 2 or 5 times a power of ten that cuts `span` into about `parts`.
fn round_step(span: f64, parts: f64) -> f64 {
    let rough = (span / parts).clamp(f64::MIN_POSITIVE, f64::MAX);
    let power = 10f64.powf(rough.log10().floor());
    let lead = rough / power;
    power
        * if lead < 1.5 {
            1.0
        } else if lead < 3.5 {
            2.0
        } else if lead < 7.5 {
            5.0
        } else {
            10.0
        }
}

fn paint_axes(canvas: &mut Canvas, x_axis: &Axis, y_axis: &Axis, x_label: &str) {
    let [left, top, right, bottom] = AREA.map(|v| v as i64);
    let half_line = Size::Small.line_height() as i64 / 2;
    for tick in y_axis.ticks() {
        let y = y_axis.place(tick, AREA[3], AREA[1]).round() as i64;
        canvas.rectangle(left, y - 1, (right - left) as usize, 2, GRID);
        canvas.text(AREA[0] - 16.0, y - half_line, &y_axis.label(tick), Size::Small, Align::Right, QUIET);
    }
    for tick in x_axis.ticks() {
        let x = x_axis.place(tick, AREA[0], AREA[2]);
        canvas.rectangle(x.round() as i64 - 1, top, 2, (bottom - top) as usize, GRID);
        canvas.text(x, bottom + 14, &x_axis.label(tick), Size::Small, Align::Centre, QUIET);
    }
    canvas.rectangle(left - 1, bottom - 1, (right - left) as usize + 2, 2, AXIS);
    canvas.text((AREA[0] + AREA[2]) / 2.0, bottom + 48, x_label, Size::Small, Align::Centre, QUIET);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(points: &[(u64, f64)]) -> Picture {
        LossPlot { title: "loss", x_label: "step", points, tests: &[] }.render()
    }

    fn has(picture: &Picture, colour: Colour) -> bool {
        picture.rgb.chunks_exact(3).any(|p| p == colour)
    }

    #[test]
    fn the_smooth_line_is_where_the_values_are() {
        let falling: Vec<(u64, f64)> = (0..500).map(|i| (i, 1.0 / (1.0 + i as f64 / 50.0))).collect();
        let p = render(&falling);
        let rows = |x: usize| (112..799).filter(|&y| p.pixel(x, y) == SMOOTH).collect::<Vec<_>>();
        assert!(!rows(200).is_empty() && rows(200)[0] + 100 < rows(1400)[0], "it falls");
        assert!(!has(&p, ALARM));
        assert_eq!(p, render(&falling));
    }

    #[test]
    fn tests_are_a_line_of_their_own_within_the_picture() {
        let points: Vec<(u64, f64)> = (1..=100).map(|step| (step, 0.1)).collect();
        let tests = [(20, 0.3), (60, 0.25), (100, 0.2)];
        let p = LossPlot { title: "loss", x_label: "step", points: &points, tests: &tests }.render();
        let rows: Vec<usize> = (112..799).filter(|&y| (140..1550).any(|x| p.pixel(x, y) == TESTED)).collect();
        assert!(
            rows.len() > 20 && rows[0] > 112,
            "the highest test is within the picture: {:?}",
            rows.first()
        );
    }

    #[test]
    fn odd_series_are_plotted_or_said_to_be_empty() {
        let nan = f64::NAN;
        let huge: Vec<(u64, f64)> = (0..100_000).map(|i| (i, (i as f64).sin())).collect();
        let cases: &[&[(u64, f64)]] = &[
            &[],
            &[(0, 0.5)],
            &[(u64::MAX, 0.5), (u64::MAX, 0.5)],
            &[(0, 0.0), (1, 0.0), (2, 0.0)],
            &[(0, 0.25), (1, 0.25)],
            &[(0, 1e-30), (1, 2e-30)],
            &[(0, f64::MAX), (1, f64::MIN)],
            &[(0, 1e300), (5, -3.0), (9, 1e-300)],
            &huge,
        ];
        for points in cases {
            let p = render(points);
            assert!(!has(&p, ALARM), "{points:?}");
            assert_eq!(has(&p, SMOOTH), !points.is_empty(), "a line or its legend: {:?}", points.first());
        }
        assert!(has(&render(&[(0, nan), (1, f64::INFINITY)]), ALARM));
        assert!(has(&render(&[(0, 1.0), (1, nan), (2, 0.5), (3, 0.4)]), SMOOTH));
    }

    #[test]
    fn ticks_are_round() {
        let axis = |low, high| Axis { low, high, step: round_step(high - low, 6.0) };
        assert_eq!(
            axis(0.0, 1.06).ticks().iter().map(|&t| axis(0.0, 1.06).label(t)).collect::<Vec<_>>(),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(axis(0.0, 0.13).ticks().len(), 7);
        assert_eq!(Axis::steps(&[(0, 0.0), (1000, 0.0)]).label(200.0), "200");
    }

    #[test]
    fn the_running_mean_starts_without_bias() {
        let constant: Vec<[f64; 2]> = (0..100).map(|i| [f64::from(i), 3.0]).collect();
        assert!(smoothed(&constant).iter().all(|p| (p[1] - 3.0).abs() < 1e-12));
    }
}
