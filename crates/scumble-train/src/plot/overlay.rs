//! The losses of several runs over each other: running means as lines of their own colours, single values faint behind them.

use super::{AREA, Axis, HEIGHT, INK, PAPER, QUIET, WIDTH, paint_axes, short, smoothed, thinned};
use crate::picture::Picture;
use crate::picture::canvas::{Align, Canvas, Colour};
use crate::picture::font::Size;

/// Told apart by people who see colours differently, too (after Okabe and Ito).
const COLOURS: [Colour; 8] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [86, 180, 233],
    [230, 159, 0],
    [90, 90, 90],
    [148, 103, 60],
];

/// Most runs in one plot: as many as there are colours.
pub const MOST_SERIES: usize = COLOURS.len();

/// One run.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Step and value, steps ascending.
    pub points: Vec<(u64, f64)>,
}

/// Paints up to [`MOST_SERIES`] runs, 1600 x 900.
pub fn render(title: &str, x_label: &str, series: &[Series]) -> Picture {
    let series = &series[..series.len().min(MOST_SERIES)];
    let finite = |series: &Series| -> Vec<[f64; 2]> {
        series.points.iter().filter(|point| point.1.is_finite()).map(|&(x, y)| [x as f64, y]).collect()
    };
    let raw: Vec<Vec<[f64; 2]>> = series.iter().map(finite).collect();
    let means: Vec<Vec<[f64; 2]>> = raw.iter().map(|points| smoothed(points)).collect();
    let mut steps: Vec<(u64, f64)> = series.iter().flat_map(|series| series.points.iter().copied()).collect();
    steps.sort_by_key(|point| point.0);
    let all = means.concat();
    let (x_axis, y_axis) = (Axis::steps(&steps), Axis::values(&all, &all));
    let mut canvas = Canvas::new(WIDTH, HEIGHT, PAPER);
    paint_axes(&mut canvas, &x_axis, &y_axis, x_label);
    let at = |p: [f64; 2]| [x_axis.place(p[0], AREA[0], AREA[2]), y_axis.place(p[1], AREA[3], AREA[1])];
    let mut line = |points: &[[f64; 2]], thickness: f32, colour: Colour, opacity: f32| {
        let points: Vec<[f32; 2]> = thinned(points).into_iter().map(at).collect();
        let thickness = if points.len() == 1 { 9.0 } else { thickness };
        canvas.polyline(&points, thickness, colour, opacity, AREA);
    };
    for (points, colour) in raw.iter().zip(COLOURS) {
        line(points, 1.2, colour, 0.18);
    }
    for (points, colour) in means.iter().zip(COLOURS) {
        line(points, 4.0, colour, 1.0);
    }
    let shown = Size::Large.font().shorten(title, AREA[2] - AREA[0]);
    canvas.text(AREA[0], 40, &shown, Size::Large, Align::Left, INK);
    legend(&mut canvas, series, &means);
    if all.is_empty() {
        let (x, y) = ((AREA[0] + AREA[2]) / 2.0, ((AREA[1] + AREA[3]) / 2.0) as i64);
        canvas.text(x, y, "no values yet", Size::Small, Align::Centre, QUIET);
    }
    canvas.into_picture()
}

/// Name and last mean of every run, in the corner where losses are seldom: top right.
fn legend(canvas: &mut Canvas, series: &[Series], means: &[Vec<[f64; 2]>]) {
    let line = Size::Small.line_height();
    for (index, ((series, means), colour)) in series.iter().zip(means).zip(COLOURS).enumerate() {
        let last = means.last().map_or("no values".to_owned(), |last| format!("now {}", short(last[1])));
        let name = Size::Small.font().shorten(&series.name, 480.0);
        let text = format!("{name}, {last}");
        let top = AREA[1] as i64 + 8 + (index * line) as i64;
        let right = AREA[2] - 16.0;
        canvas.text(right, top, &text, Size::Small, Align::Right, INK);
        let end = right - Size::Small.font().measure(&text) - 14.0;
        let middle = top as f32 + line as f32 / 2.0;
        canvas.polyline(&[[end - 44.0, middle], [end, middle]], 5.0, colour, 1.0, AREA);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn falling(name: &str, from: f64) -> Series {
        let points = (0..400).map(|i| (i, from / (1.0 + i as f64 / 50.0))).collect();
        Series { name: name.into(), points }
    }

    #[test]
    fn every_run_has_a_line_of_its_own() {
        let picture = render("t", "step", &[falling("one", 1.0), falling("two", 0.3)]);
        let first = |colour: Colour, x: usize| (112..799).find(|&y| picture.pixel(x, y) == colour);
        // In the middle, below the legend's corner: the higher loss is higher up.
        let rows = [0, 1].map(|index| first(COLOURS[index], 500).unwrap());
        assert!(rows[0] + 20 < rows[1], "{rows:?}");
        assert!(picture.rgb.chunks_exact(3).all(|pixel| pixel != COLOURS[2]));
        assert_eq!(picture, render("t", "step", &[falling("one", 1.0), falling("two", 0.3)]));
    }

    #[test]
    fn odd_runs_do_no_harm() {
        let odd = |points: &[(u64, f64)]| Series { name: "x".repeat(300), points: points.to_vec() };
        for series in [
            vec![],
            vec![odd(&[])],
            vec![odd(&[(3, 1.0)]), odd(&[(1, f64::NAN)])],
            vec![odd(&[(0, f64::MAX), (1, f64::MIN)]); 20],
        ] {
            assert_eq!(render(&"日".repeat(200), "step", &series).width, WIDTH);
        }
    }
}
