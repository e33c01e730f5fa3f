//! Grids: many pictures that differ along one, two or three settings.
//!
//! x runs to the right, y down, z over sheets of their own. Sheets that would be too large are cut into pages of at most
//! [`PAGE`] columns and rows, as even as they can be.

mod axis;
mod strengths;

use std::ops::Range;

pub use axis::{Axis, Setting};

use crate::error::{PaintError, Result};
use crate::request::Request;

/// Most pictures of one grid.
pub const MOST_PICTURES: usize = 1000;
/// Most columns and rows of a page.
pub const PAGE: usize = 16;

/// The axes of a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// x, y, z; at least one.
    axes: Vec<Axis>,
}

/// A part of a grid on one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Which values of x.
    pub columns: Range<usize>,
    /// Which values of y.
    pub rows: Range<usize>,
    /// Which value of z.
    pub sheet: usize,
}

impl Grid {
    /// A grid along up to three axes.
    pub fn new(axes: Vec<Axis>) -> Result<Self> {
        let wrong = |reason: String, hint: &str| PaintError::setting("grid", reason, hint);
        if axes.is_empty() {
            return Err(wrong("it has no axis".to_owned(), "add --x, such as --x strength=0,0.5,1"));
        }
        if axes.len() > 3 {
            return Err(wrong("it has more than three axes".to_owned(), "give at most --x, --y and --z"));
        }
        for (number, axis) in axes.iter().enumerate() {
            if axes[..number].iter().any(|before| before.setting() == axis.setting()) {
                return Err(wrong(format!("two axes are `{}`", axis.name()), "give different settings"));
            }
        }
        let strengths = |wanted: &[Setting]| axes.iter().any(|axis| wanted.contains(&axis.setting()));
        if strengths(&[Setting::Strength]) && strengths(&[Setting::UnetStrength, Setting::TextStrength]) {
            let hint = "leave strength out where unet-strength or text-strength is there";
            return Err(wrong("an axis `strength` would undo that of one network".to_owned(), hint));
        }
        let count = axes.iter().try_fold(1usize, |count, axis| count.checked_mul(axis.len()));
        if count.is_none_or(|count| count > MOST_PICTURES) {
            let sides: Vec<String> = axes.iter().map(|axis| axis.len().to_string()).collect();
            let reason = format!("{} pictures are more than {MOST_PICTURES}", sides.join(" x "));
            return Err(wrong(reason, "give fewer values"));
        }
        let grid = Self { axes };
        grid.check_own_strengths()?;
        Ok(grid)
    }

    /// The axes: x, then y, then z.
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// Columns, rows and sheets.
    pub fn shape(&self) -> [usize; 3] {
        [0, 1, 2].map(|number| self.axes.get(number).map_or(1, Axis::len))
    }

    /// Whether a setting is an axis.
    pub fn has(&self, setting: Setting) -> bool {
        self.axes.iter().any(|axis| axis.setting() == setting)
    }

    /// The request of the cell in column, row and sheet `at`.
    pub fn request(&self, common: &Request, at: [usize; 3]) -> Result<Request> {
        let mut request = common.clone();
        // The adapter first: a strength is about it.
        let order = |axis: &Axis| axis.setting() != Setting::Adapter;
        let mut changes: Vec<(&Axis, usize)> = self.axes.iter().zip(at).collect();
        changes.sort_by_key(|(axis, _)| order(axis));
        let of_axis = |(axis, _): &&(&Axis, usize)| axis.setting() == Setting::Adapter;
        let axis_adapter = changes.iter().find(of_axis).map(|(axis, index)| axis.is_adapter(*index));
        for (axis, index) in changes {
            let is_strength =
                matches!(axis.setting(), Setting::Strength | Setting::UnetStrength | Setting::TextStrength);
            // In a cell without the axis' adapter there is nothing for its strength to act on.
            if is_strength && axis_adapter == Some(false) {
                continue;
            }
            axis.apply(index, &mut request, axis_adapter.is_some())?;
        }
        request.check()?;
        Ok(request)
    }

    /// The pages: sheet by sheet, from left to right, then down.
    pub fn pages(&self) -> Vec<Page> {
        let [columns, rows, sheets] = self.shape();
        let mut pages = Vec::new();
        for sheet in 0..sheets {
            for rows in even_parts(rows) {
                for columns in even_parts(columns) {
                    pages.push(Page { columns, rows: rows.clone(), sheet });
                }
            }
        }
        pages
    }
}

/// `count` cut into as few parts of at most [`PAGE`] as there can be, none more than one larger than another.
fn even_parts(count: usize) -> Vec<Range<usize>> {
    let parts = count.div_ceil(PAGE).max(1);
    (0..parts).map(|part| part * count / parts..(part + 1) * count / parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::AdapterUse;
    use crate::request::Init;

    fn axis(text: &str) -> Axis {
        Axis::parse(text, &[]).unwrap()
    }

    fn grid(axes: &[&str]) -> Result<Grid> {
        Grid::new(axes.iter().map(|text| axis(text)).collect())
    }

    #[test]
    fn cells_differ_as_their_axes_say() {
        let common = Request { adapters: vec![AdapterUse::new("x".into(), 1.0, 1.0)], ..Request::default() };
        let three = grid(&["strength=0,2", "seed=5..7", "prompt=a|b"]).unwrap();
        assert_eq!(three.shape(), [2, 3, 2]);
        let cell = three.request(&common, [1, 2, 1]).unwrap();
        assert_eq!((cell.seed, cell.adapters[0].unet, cell.adapters[0].text), (7, 2.0, 2.0));
        assert_eq!(cell.prompt, "b");
        let one = grid(&["unet-strength=0.5"]).unwrap().request(&common, [0; 3]).unwrap();
        assert_eq!((one.adapters[0].unet, one.adapters[0].text), (0.5, 1.0));
        let all =
            grid(&["sampler=ddim", "steps=7", "clip-skip=1"]).unwrap().request(&common, [0; 3]).unwrap();
        assert_eq!((all.sampler.as_deref(), all.steps, all.clip_skip), (Some("ddim"), 7, 1));
        let all = grid(&["guidance=3", "negative=n", "adapter-guidance=2"]).unwrap();
        let all = all.request(&common, [0; 3]).unwrap();
        assert_eq!((all.guidance, all.negative.as_str(), all.adapter_guidance), (3.0, "n", 2.0));
        let start = Request { init: Some(Init { image: "i".into(), strength: 0.5, mask: None }), ..common };
        let both = grid(&["init-strength=0.25", "text-strength=3"]).unwrap().request(&start, [0; 3]).unwrap();
        assert_eq!(both.init.map(|init| init.strength), Some(0.25));
        assert_eq!((both.adapters[0].unet, both.adapters[0].text), (1.0, 3.0));
    }

    #[test]
    fn a_strength_is_about_the_axis_adapter_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let common =
            Request { adapters: vec![AdapterUse::new("kept".into(), 0.7, 0.7)], ..Request::default() };
        let grid = grid(&["strength=0,2", &format!("adapter=none,{path}")]).unwrap();
        let with = grid.request(&common, [1, 1, 0]).unwrap();
        assert_eq!(with.adapters.iter().map(|a| a.unet).collect::<Vec<_>>(), [2.0, 0.7]);
        let without = grid.request(&common, [1, 0, 0]).unwrap();
        assert_eq!(without, common);
    }

    #[test]
    fn grids_that_cannot_be() {
        let refused = |axes: &[&str], word: &str| {
            let error = grid(axes).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(word), "{error}");
        };
        refused(&[], "no axis");
        refused(&["seed=1", "seed=2"], "two axes");
        refused(&["strength=1", "unet-strength=1"], "one network");
        refused(&["seed=1..600", "steps=1,2"], "600 x 2 pictures are more than 1000");
        refused(&["seed=1", "steps=1", "guidance=1", "clip-skip=1"], "three");
        let cell = |axis: &str| grid(&[axis]).unwrap().request(&Request::default(), [0; 3]).unwrap_err();
        assert!(cell("strength=1").to_string().contains("no --adapter"));
        assert!(cell("init-strength=1").to_string().contains("no picture"));
        assert!(cell("guidance=-1").to_string().contains("guidance"));
    }

    #[test]
    fn large_grids_have_pages() {
        let shape = |axes: &[&str]| -> Vec<[usize; 3]> {
            let pages = grid(axes).unwrap().pages();
            pages.iter().map(|page| [page.columns.len(), page.rows.len(), page.sheet]).collect()
        };
        assert_eq!(shape(&["seed=1..16", "steps=1..3"]), [[16, 3, 0]]);
        assert_eq!(
            shape(&["seed=1..17", "steps=1,2", "guidance=1,2"]),
            [[8, 2, 0], [9, 2, 0], [8, 2, 1], [9, 2, 1]]
        );
        assert_eq!(shape(&["seed=1..1000"]).iter().map(|[columns, ..]| columns).sum::<usize>(), 1000);
    }
}
