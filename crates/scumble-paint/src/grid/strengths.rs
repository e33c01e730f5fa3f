//! Strengths that are written down and that an axis would replace. They are refused: nobody could say which counts.
//!
//! A strength of 1 says no more than what holds where nothing is said, and goes with every axis.

use super::axis::Replaced;
use super::{Grid, Setting};
use crate::adapters::AdapterUse;
use crate::error::{PaintError, Result};

impl Grid {
    /// Errors where an axis would replace the strength of one of the adapters that are typed beside the axes. Where the
    /// adapter is an axis too, a strength is about that one, and the others keep theirs.
    pub fn check_strengths(&self, typed: &[AdapterUse]) -> Result<()> {
        if self.has(Setting::Adapter) { Ok(()) } else { self.check_all(typed.iter()) }
    }

    /// As [`Grid::check_strengths`], for the adapters that are values of an axis.
    pub(super) fn check_own_strengths(&self) -> Result<()> {
        self.check_all(self.axes().iter().flat_map(|axis| axis.adapters()))
    }

    fn check_all<'a>(&self, adapters: impl Iterator<Item = &'a AdapterUse>) -> Result<()> {
        for adapter in adapters {
            for axis in self.axes() {
                let Some(Replaced { unet, text }) = axis.replaces() else { continue };
                if (unet && adapter.unet != 1.0) || (text && adapter.text != 1.0) {
                    let written = adapter.written();
                    return Err(PaintError::setting(
                        format!("adapter `{written}`"),
                        format!("the axis `{}` would replace its strength", axis.name()),
                        format!("leave the strength behind `{}` out, or the axis", adapter.name()),
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Axis;

    fn grid(axes: &[&str]) -> Result<Grid> {
        Grid::new(axes.iter().map(|text| Axis::parse(text, &[])).collect::<Result<_>>()?)
    }

    #[test]
    fn a_written_strength_and_an_axis_of_it_contradict_each_other() {
        let refused = |axis: &str, unet: f32, text: f32| {
            let typed = [AdapterUse::new("dog.pt".into(), unet, text)];
            match grid(&[axis]).unwrap().check_strengths(&typed) {
                Ok(()) => false,
                Err(error) => {
                    let name = axis.split('=').next().unwrap();
                    assert!(
                        error.is_usage() && error.to_string().contains(&format!("axis `{name}`")),
                        "{error}"
                    );
                    assert!(error.to_string().contains("`dog.pt:") && !error.hints().is_empty(), "{error}");
                    true
                }
            }
        };
        for (axis, unet, text) in [
            ("strength=0,1", true, true),
            ("unet-strength=1", true, false),
            ("text-strength=1", false, true),
            ("seed=1", false, false),
        ] {
            assert_eq!(refused(axis, 0.7, 1.0), unet, "{axis}");
            assert_eq!(refused(axis, 1.0, 0.5), text, "{axis}");
            assert!(!refused(axis, 1.0, 1.0), "{axis}");
        }
    }

    #[test]
    fn the_axis_adapter_has_no_strength_beside_an_axis_of_strengths() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let of = |ending: &str| format!("adapter=none,{}{ending}", file.path().display());
        let error = grid(&[&of(":0.5"), "strength=1,2"]).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("axis `strength`"), "{error}");
        let both = grid(&[&of(""), "strength=1,2"]).unwrap();
        // A strength is about the axis' adapter then.
        both.check_strengths(&[AdapterUse::new("dog.pt".into(), 0.7, 0.7)]).unwrap();
        assert!(
            grid(&[&of(":0.5"), "seed=1,2"]).is_ok() && grid(&[&of(":1:0.5"), "unet-strength=1"]).is_ok()
        );
    }
}
