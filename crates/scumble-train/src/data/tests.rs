//! A data set from the fixtures and from folders of rubbish.

use super::*;
use crate::config::{CaptionSource, Template};
use crate::picture::png;

const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/images");

fn options() -> DatasetOptions {
    DatasetOptions {
        captions: CaptionRules::default(),
        unreadable: Unreadable::Skip,
        decode: DecodeOptions::default(),
        size: TargetSize::new(64, 64).unwrap(),
    }
}

/// A folder with the named fixtures.
fn folder(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::copy(Path::new(IMAGES).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

#[test]
fn the_fixture_folder_is_read_and_its_broken_files_named() {
    let dataset = Dataset::open(Path::new(IMAGES), &options()).unwrap();
    let skipped: Vec<&str> = dataset.report.skipped.iter().map(|s| s.file.as_str()).collect();
    assert_eq!(
        skipped,
        [
            "bomb_60000.png",
            "crc_error.png",
            "one_pixel.png",
            "text.png",
            "truncated.jpg",
            "truncated.png",
            "zero.jpg",
            "zero_size.png"
        ]
    );
    assert!(dataset.report.skipped.iter().all(|s| s.reason.contains(&s.file) && !s.hints.is_empty()));
    assert_eq!(dataset.items.len(), 32);
    assert!(dataset.items.is_sorted_by_key(|item| item.file.as_bytes().to_vec()));
    assert_eq!(dataset.report.left_out.len(), 1, "expected.json");
    let copies = dataset.report.duplicates.iter().find(|files| files.contains(&"plain.png".into())).unwrap();
    assert_eq!(copies.len(), 6, "{copies:?}");
    assert_eq!(dataset.report.enlarged.len(), 2, "{:?}", dataset.report.enlarged);
    assert_eq!(dataset.report.cropped[0].file, "extreme_aspect.png");
    let text = dataset.report.warnings().join("\n");
    assert!(text.contains("bomb_60000.png") && text.contains("several times"), "{text}");
    let json = serde_json::to_value(&dataset.report).unwrap();
    assert_eq!((&json["pictures"], &json["captions"]["file-name"]), (&32.into(), &32.into()));
}

#[test]
fn a_broken_file_ends_it_all_by_choice() {
    let dir = folder(&["plain.png", "truncated.jpg"]);
    let strict = DatasetOptions { unreadable: Unreadable::Error, ..options() };
    let error = Dataset::open(dir.path(), &strict).unwrap_err();
    assert!(error.to_string().contains("truncated.jpg") && !error.hints().is_empty(), "{error}");
    std::fs::remove_file(dir.path().join("truncated.jpg")).unwrap();
    assert_eq!(Dataset::open(dir.path(), &strict).unwrap().items.len(), 1);
}

#[test]
fn folders_without_a_usable_picture_say_so() {
    let fails = |path: &Path| {
        let error = Dataset::open(path, &options()).unwrap_err();
        assert!(!error.hints().is_empty(), "{error}");
        error
    };
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(fails(empty.path()), DataError::NoPictures { others: 0, .. }));
    std::fs::write(empty.path().join("notes.doc"), "x").unwrap();
    std::fs::create_dir(empty.path().join("pictures")).unwrap();
    assert!(matches!(fails(empty.path()), DataError::NoPictures { others: 2, .. }));
    assert!(matches!(fails(&empty.path().join("nowhere")), DataError::NotAFolder { .. }));
    assert!(matches!(fails(&empty.path().join("notes.doc")), DataError::NotAFolder { .. }));
    let rubbish = folder(&["zero.jpg", "text.png", "one_pixel.png"]);
    let error = fails(rubbish.path());
    assert!(matches!(&error, DataError::NothingUsable { skipped, .. } if skipped.len() == 3));
    assert!(error.to_string().contains("zero.jpg"), "{error}");
}

#[test]
fn picture_and_text_stay_together() {
    // Pictures of one colour each, with a text that says which; names in an order that differs from creation.
    let dir = tempfile::tempdir().unwrap();
    for i in [7usize, 2, 9, 0, 5] {
        let picture = Picture::filled(64, 64, [i as u8 * 20; 3]);
        png::write(&dir.path().join(format!("{i}.png")), &picture, &[]).unwrap();
        std::fs::write(dir.path().join(format!("{i}.txt")), format!("number {i}")).unwrap();
    }
    let dataset = Dataset::open(dir.path(), &options()).unwrap();
    let order = Order::new(
        3,
        Role::Instance,
        dataset.items.len(),
        1,
        2,
        Augmentation { random_crop: true, flip: true },
    );
    for draw in (0..10).flat_map(|step| order.batch_at(step)) {
        let sample = dataset.sample(&draw).unwrap();
        let number: u8 = sample.caption.strip_prefix("number ").unwrap().parse().unwrap();
        assert_eq!(sample.picture.pixel(30, 30), [number * 20; 3]);
        assert_eq!(sample.item.file, format!("{number}.png"));
    }
    let beyond = Draw { item: 5, ..order.batch_at(0)[0] };
    assert!(matches!(dataset.sample(&beyond), Err(DataError::NoSuchItem { index: 5, items: 5 })));
}

#[test]
fn captions_of_rubbish_are_skipped_or_fatal_and_missing_ones_fatal() {
    let dir = folder(&["plain.png", "rgba.png"]);
    std::fs::write(dir.path().join("plain.txt"), b"\xff\x00\xfe rubbish").unwrap();
    let dataset = Dataset::open(dir.path(), &options()).unwrap();
    assert_eq!((dataset.items.len(), dataset.report.skipped[0].file.as_str()), (1, "plain.png"));
    assert!(dataset.report.skipped[0].reason.contains("plain.txt"));
    let strict = DatasetOptions { unreadable: Unreadable::Error, ..options() };
    assert!(matches!(Dataset::open(dir.path(), &strict), Err(DataError::Caption { .. })));
    std::fs::write(dir.path().join("plain.txt"), "fine").unwrap();
    let captions = CaptionRules { source: CaptionSource::Text, ..CaptionRules::default() };
    let error = Dataset::open(dir.path(), &DatasetOptions { captions, ..options() }).unwrap_err();
    assert!(matches!(error, DataError::MissingCaption { .. }) && error.to_string().contains("rgba.txt"));
}

#[test]
fn settings_without_a_text_are_refused_before_the_folder_is_read() {
    let captions = CaptionRules { template: Template::Object, ..CaptionRules::default() };
    let error = Dataset::open(Path::new("nowhere"), &DatasetOptions { captions, ..options() }).unwrap_err();
    assert!(error.to_string().contains("trigger"), "{error}");
}

#[test]
fn class_folders_may_be_missing_and_have_one_prompt() {
    let dir = folder(&["plain.png"]);
    std::fs::write(dir.path().join("plain.txt"), "not this").unwrap();
    let class = Dataset::open_class(dir.path(), "a photo of a cat", &options()).unwrap();
    assert_eq!(class.items[0].caption.texts(), ["a photo of a cat"]);
    let missing = Dataset::open_class(&dir.path().join("none"), "a photo of a cat", &options()).unwrap();
    assert_eq!((missing.items.len(), missing.report.pictures), (0, 0));
    assert!(Dataset::open_class(&dir.path().join("none"), " ", &options()).is_err());
}

#[test]
fn a_picture_replaced_while_training_is_noticed() {
    let dir = folder(&["plain.png"]);
    let dataset = Dataset::open(dir.path(), &options()).unwrap();
    let item = &dataset.items[0];
    let fitted = dataset.fitted(item, [0.5; 2], false).unwrap();
    assert_eq!((fitted.width, fitted.height), (64, 64));
    assert_ne!(dataset.latents_key(item, false, "vae"), dataset.latents_key(item, true, "vae"));
    std::fs::copy(Path::new(IMAGES).join("rgba.png"), dir.path().join("plain.png")).unwrap();
    assert!(matches!(dataset.picture(item), Err(DataError::Changed { .. })));
}

#[cfg(unix)]
#[test]
fn a_file_without_permission_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder(&["plain.png", "rgba.png"]);
    let path = dir.path().join("plain.png");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        return; // Whoever may read everything cannot make this happen.
    }
    let dataset = Dataset::open(dir.path(), &options()).unwrap();
    assert!(dataset.report.skipped[0].reason.contains("plain.png"));
}
