//! What counts as a picture in a folder.
//!
//! Regular files (also behind links) that have a picture's ending or begin like a picture, in the order of their names' bytes,
//! the same on every machine. Left out: hidden files (names that begin with a dot), folders (not entered), masks
//! (`name.mask.png` beside a picture `name.*`; they are listed apart), and everything else, which is named.
//! Whether a picture is sound is not decided here: a broken file with a picture's ending is listed, and reported when opened.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::report::LeftOut;
use super::{DataError, Result, shown_name};
use crate::picture::Format;

/// Endings that make a file a picture whatever is in it: those that are read, and those that people expect to be read and
/// who must be told that they are not.
const ENDINGS: [&str; 18] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "gif", "tif", "tiff", "heic", "heif",
    "avif", "jxl", "jp2", "psd",
];

/// The contents of a folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// Candidates, in order.
    pub pictures: Vec<PathBuf>,
    /// Masks by the name (without ending) of the picture that they belong to.
    pub masks: BTreeMap<OsString, PathBuf>,
    /// Everything else that is not hidden and no caption of a picture.
    pub left_out: Vec<LeftOut>,
}

/// Lists a folder.
pub fn list(folder: &Path) -> Result<Listing> {
    let failed = |source| DataError::List { folder: folder.into(), source };
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => return Err(DataError::NotAFolder { folder: folder.into() }),
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
    names.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
    let (mut listing, mut texts) = (Listing::default(), Vec::new());
    for path in names.into_iter().map(|name| folder.join(name)) {
        match kind(&path) {
            Kind::Picture => listing.pictures.push(path),
            Kind::Text => texts.push(path),
            Kind::Other(reason) => listing.left_out.push(LeftOut::new(&path, reason)),
        }
    }
    let stems: BTreeSet<OsString> =
        listing.pictures.iter().filter_map(|p| p.file_stem()).map(OsString::from).collect();
    let (masks, pictures): (Vec<_>, Vec<_>) =
        listing.pictures.into_iter().partition(|path| mask_of(path, &stems).is_some());
    listing.pictures = pictures;
    listing.masks = masks.into_iter().filter_map(|path| Some((mask_of(&path, &stems)?, path))).collect();
    let orphans = texts.iter().filter(|path| path.file_stem().is_none_or(|stem| !stems.contains(stem)));
    listing.left_out.extend(orphans.map(|path| LeftOut::new(path, "a text without a picture of that name")));
    Ok(listing)
}

enum Kind {
    Picture,
    Text,
    Other(&'static str),
}

fn kind(path: &Path) -> Kind {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Kind::Other("a folder; folders inside are not entered"),
        Ok(found) if !found.is_file() => return Kind::Other("not a regular file"),
        // What cannot be looked at is a candidate if it is named like a picture, so that it is reported.
        _ => {}
    }
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if ending == "txt" {
        Kind::Text
    } else if ENDINGS.contains(&ending.as_str()) || begins_like_a_picture(path) {
        Kind::Picture
    } else {
        Kind::Other("not a picture")
    }
}

fn begins_like_a_picture(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut start));
    read.is_ok() && Format::of(&start).is_some()
}

/// The picture's name, for a `name.mask.*` where there is a picture `name.*`.
fn mask_of(path: &Path, stems: &BTreeSet<OsString>) -> Option<OsString> {
    let stem = Path::new(path.file_stem()?);
    let name = stem.file_stem().filter(|_| stem.extension() == Some(OsStr::new("mask")))?;
    stems.contains(name).then(|| name.to_owned())
}

impl LeftOut {
    pub(super) fn new(path: &Path, reason: &str) -> Self {
        Self { file: shown_name(path), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_found_by_ending_or_content_in_byte_order() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &[u8]| std::fs::write(dir.path().join(name), content).unwrap();
        for name in ["b.png", "B.JPG", "a10.webp", "a2.webp", "é.gif", "z.heic", ".hidden.png", "a2.mask.png"]
        {
            put(name, b"");
        }
        put("content only", b"\x89PNG\r\n\x1a\n....");
        put("notes.md", b"text");
        put("b.txt", b"a caption");
        put("lonely.txt", b"a caption");
        std::fs::create_dir(dir.path().join("sub.png")).unwrap();
        let listing = list(dir.path()).unwrap();
        let names: Vec<String> = listing.pictures.iter().map(|p| shown_name(p)).collect();
        assert_eq!(names, ["B.JPG", "a10.webp", "a2.webp", "b.png", "content only", "z.heic", "é.gif"]);
        let left: Vec<&str> = listing.left_out.iter().map(|l| l.file.as_str()).collect();
        assert_eq!(left, ["notes.md", "sub.png", "lonely.txt"]);
        let masks: Vec<String> = listing.masks.values().map(|path| shown_name(path)).collect();
        assert_eq!((masks, listing.masks.contains_key(OsStr::new("a2"))), (vec!["a2.mask.png".into()], true));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_are_not_opened_and_odd_names_are_kept() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join(OsStr::from_bytes(b"bad\xff.png"));
        if std::fs::write(&odd, b"").is_ok() {
            assert_eq!(list(dir.path()).unwrap().pictures, [odd]);
        }
        std::os::unix::fs::symlink(dir.path().join("nowhere"), dir.path().join("link.png")).unwrap();
        assert!(
            list(dir.path()).unwrap().pictures.iter().any(|p| p.ends_with("link.png")),
            "reported when opened"
        );
    }
}
