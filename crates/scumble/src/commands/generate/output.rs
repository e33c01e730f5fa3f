//! Where pictures go: checked before anything is computed, and nothing is replaced unasked.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The files of `count` pictures: `out` itself for one, numbered files beside it or inside it for several.
pub fn targets(out: &Path, count: usize, force: bool) -> Result<Vec<PathBuf>> {
    let is_folder = out.is_dir() || out.extension().is_none();
    if !is_folder && !out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png")) {
        return Err(Failure::new(format!("`{}` does not end in .png", out.display()))
            .hint("pictures are written as PNG; name a .png file or a folder"));
    }
    let folder = if is_folder { out } else { out.parent().unwrap_or(Path::new("")) };
    if !folder.as_os_str().is_empty() {
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::new(format!("cannot make the folder `{}`: {error}", folder.display()))
        })?;
    }
    let stem =
        if is_folder { "scumble".into() } else { out.file_stem().unwrap_or_default().to_string_lossy() };
    let target = |index: usize| match (count, is_folder) {
        (1, false) => out.to_owned(),
        (1, true) => folder.join("scumble.png"),
        _ => folder.join(format!("{stem}-{index:03}.png")),
    };
    let targets: Vec<PathBuf> = (0..count).map(target).collect();
    match targets.iter().find(|target| target.exists()) {
        Some(taken) if !force => Err(Failure::new(format!("`{}` is there already", taken.display()))
            .hint("choose another --out, or pass --force to replace it")),
        _ => Ok(targets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_several_and_taken() {
        let folder = tempfile::tempdir().unwrap();
        let picture = folder.path().join("a.png");
        assert_eq!(targets(&picture, 1, false).unwrap(), std::slice::from_ref(&picture));
        assert_eq!(targets(&picture, 2, false).unwrap()[1], folder.path().join("a-001.png"));
        assert_eq!(targets(folder.path(), 1, false).unwrap(), [folder.path().join("scumble.png")]);
        std::fs::write(&picture, "x").unwrap();
        assert!(targets(&picture, 1, false).is_err());
        assert!(targets(&picture, 1, true).is_ok());
        assert!(targets(&folder.path().join("a.jpg"), 1, false).is_err());
    }
}
