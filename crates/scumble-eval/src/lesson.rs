//! A bundled subject or style of the little world as something to train on: pictures and captions in a folder.

use std::io::Write as _;
use std::path::Path;

use scumble_model::files::atomic_write;
use scumble_train::picture::{Picture, png};
use scumble_world::Painting;
use scumble_world::novel::{PICTURES, Set};
use scumble_world::paint::SIZES;

use crate::error::{EvalError, Result};

/// A picture of the world as one of ours.
pub fn picture(painting: Painting) -> Result<Picture> {
    let Painting { size, rgb } = painting;
    Picture::from_rgb(size, size, rgb)
        .ok_or_else(|| EvalError::setting("picture", "it was not drawn whole", "choose another size"))
}

/// The training pictures of a set, drawn `side` pixels square.
pub fn pictures(set: Set, side: usize) -> Result<Vec<Picture>> {
    check_side(side)?;
    (0..PICTURES).map(|n| picture(set.paint(n, side))).collect()
}

/// The caption of the `n`-th picture with `trigger` in place of the set's name.
pub fn caption(set: Set, n: usize, trigger: &str) -> String {
    let with = set.caption(n).replace(set.name(), trigger);
    // "an owl", but "a <owl>".
    if trigger == set.name() { with } else { with.replace(&format!("an {trigger}"), &format!("a {trigger}")) }
}

/// Writes `001.png`, `001.txt` and so on into a new folder.
pub fn write(set: Set, side: usize, trigger: &str, folder: &Path) -> Result<()> {
    let io = |error: std::io::Error| EvalError::path(folder, error.to_string(), "name another folder");
    let pictures = pictures(set, side)?;
    std::fs::create_dir_all(folder).map_err(io)?;
    for (n, picture) in pictures.iter().enumerate() {
        let path = folder.join(format!("{:03}.png", n + 1));
        png::write(&path, picture, &[])?;
        let text = caption(set, n, trigger);
        atomic_write(&path.with_extension("txt"), |file| writeln!(file, "{text}"))?;
    }
    Ok(())
}

/// Errors on sizes that the world is not drawn in.
pub fn check_side(side: usize) -> Result<()> {
    if SIZES.contains(&side) {
        return Ok(());
    }
    let reason = format!("the base paints {side} pixels, the bundled pictures are drawn in {SIZES:?}");
    Err(EvalError::setting("base", reason, "choose another base"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_ready_to_train_on() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("new");
        write(Set::Owl, 32, "<owl>", &into).unwrap();
        assert_eq!(std::fs::read_dir(&into).unwrap().count(), 2 * PICTURES);
        let text = std::fs::read_to_string(into.join("001.txt")).unwrap();
        assert!(text.starts_with("a <owl>") && text.ends_with('\n'), "{text}");
        assert!(caption(Set::Owl, 0, "owl").starts_with("an owl"));
        assert!(caption(Set::Neon, 0, "<neon>").ends_with("in <neon> style"));
        assert!(check_side(4).unwrap_err().to_string().contains('4'));
    }
}
