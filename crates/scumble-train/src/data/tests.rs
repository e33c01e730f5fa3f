//! A data set from the fixtures and from folders of rubbish.

use super::*;
use crate::config::{CaptionSource, Template};
use crate::picture::png;

const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/images");

fn options() -> DatasetOptions {
    DatasetOptions {
        captions: CaptionRules::default(),
        unreadable: Unreadable::Skip,
        mask: MaskSource::None,
        decode: DecodeOptions::default(),
        buckets: Buckets::one(TargetSize::new(64, 64).unwrap()),
        augmentation: Augmentation::default(),
        repeats: 1,
        weight: 1.0,
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

#[test]
fn masks_are_found_checked_and_fitted_with_their_picture() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, picture: &Picture| png::write(&dir.path().join(name), picture, &[]).unwrap();
    put("a.png", &Picture::filled(128, 64, [50; 3]));
    put("b.png", &Picture::filled(64, 64, [90; 3]));
    let with = |mask| DatasetOptions { mask, ..options() };
    let error = Dataset::open(dir.path(), &with(MaskSource::File)).unwrap_err();
    assert!(matches!(error, DataError::NoMasks { .. }) && !error.hints().is_empty(), "{error}");

    // White on the left half of the picture; the crop sees the middle.
    let mut mask = Picture::filled(128, 64, [0; 3]);
    mask.rgb.chunks_exact_mut(128 * 3).for_each(|row| row[..64 * 3].fill(255));
    put("a.mask.png", &mask);
    let dataset = Dataset::open(dir.path(), &with(MaskSource::File)).unwrap();
    assert_eq!((dataset.items.len(), dataset.report.masks), (2, 1));
    assert_eq!(dataset.report.unmasked, ["b.png"]);
    assert!(dataset.report.warnings().iter().any(|text| text.contains("without a mask, all of them")));
    let seen = dataset.fitted_mask(&dataset.items[0], [0.5; 2], false).unwrap().unwrap();
    assert_eq!((seen.len(), seen[8], seen[56]), (64 * 64, 1.0, 0.0));
    let mirrored = dataset.fitted_mask(&dataset.items[0], [0.5; 2], true).unwrap().unwrap();
    assert_eq!((mirrored[8], mirrored[56]), (0.0, 1.0));
    assert!(dataset.fitted_mask(&dataset.items[1], [0.5; 2], false).unwrap().is_none());
    let ignored = Dataset::open(dir.path(), &options()).unwrap();
    assert!(ignored.items.iter().all(|item| item.mask.is_none()));
    assert!(ignored.report.left_out[0].reason.contains("mask.source"), "{:?}", ignored.report.left_out);

    put("a.mask.png", &Picture::filled(64, 128, [0; 3]));
    let error = Dataset::open(dir.path(), &with(MaskSource::Auto)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("a.mask.png") && text.contains("64 x 128") && text.contains("128 x 64"), "{text}");
    assert!(!error.hints().is_empty());
    std::fs::write(dir.path().join("a.mask.png"), b"no picture").unwrap();
    let dataset = Dataset::open(dir.path(), &with(MaskSource::File));
    assert!(matches!(dataset, Err(DataError::NoMasks { .. })), "the broken one is skipped with its picture");
}

#[test]
fn transparency_is_a_mask_too() {
    let dir = folder(&["rgba.png", "plain.png"]);
    let dataset =
        Dataset::open(dir.path(), &DatasetOptions { mask: MaskSource::Alpha, ..options() }).unwrap();
    let masked: Vec<bool> = dataset.items.iter().map(|item| item.mask.is_some()).collect();
    assert_eq!(masked, [false, true], "plain.png, rgba.png");
    let mask = dataset.fitted_mask(&dataset.items[1], [0.5; 2], false).unwrap().unwrap();
    assert!(mask.iter().any(|&value| value < 1.0) && mask.iter().all(|value| (0.0..=1.0).contains(value)));
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

/// Pictures of one colour by name.
fn painted(pictures: &[(&str, usize, usize, u8)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, width, height, grey) in pictures {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        png::write(&path, &Picture::filled(*width, *height, [*grey; 3]), &[]).unwrap();
    }
    dir
}

#[test]
fn buckets_give_each_picture_its_size() {
    let dir = painted(&[("wide.png", 128, 64, 1), ("tall.png", 64, 128, 2), ("square.png", 100, 100, 3)]);
    let size = TargetSize::new(64, 64).unwrap();
    let buckets = Buckets::new(size, BucketRules::usual(size)).unwrap();
    let dataset = Dataset::open(dir.path(), &DatasetOptions { buckets, ..options() }).unwrap();
    let sizes: Vec<(usize, usize)> =
        dataset.items.iter().map(|item| (item.size.width(), item.size.height())).collect();
    assert_eq!(sizes, [(64, 64), (40, 88), (88, 40)], "square, tall, wide");
    assert_eq!(dataset.report.buckets.len(), 3);
    let fitted = dataset.fitted(&dataset.items[2], [0.5; 2], false).unwrap();
    assert_eq!((fitted.width, fitted.height), (88, 40));
}

#[test]
fn a_dataset_file_joins_its_folders() {
    let dir = painted(&[
        ("dog/1.png", 64, 64, 10),
        ("dog/2.png", 64, 64, 20),
        ("cat/1.png", 64, 64, 30),
        ("cat/2.png", 64, 64, 10),
    ]);
    std::fs::write(dir.path().join("cat/notes.md"), "x").unwrap();
    let file = dir.path().join("set.toml");
    let text = "[[concept]]\nfolder = \"dog\"\nrepeats = 3\ntrigger = \"sks\"\n[[concept]]\nfolder = \"cat\"\nweight = 0.5";
    std::fs::write(&file, text).unwrap();
    let mut config = crate::TrainConfig::default();
    (config.data.width, config.data.height, config.data.dataset) = (64, 64, Some(file.clone()));
    let dataset = gather::pictures(&config).unwrap();
    let files: Vec<&str> = dataset.items.iter().map(|item| item.file.as_str()).collect();
    assert_eq!(files, ["dog/1.png", "dog/2.png", "cat/1.png", "cat/2.png"]);
    let terms: Vec<(usize, f64)> = dataset.items.iter().map(|item| (item.repeats, item.weight)).collect();
    assert_eq!(terms, [(3, 1.0), (3, 1.0), (1, 0.5), (1, 0.5)]);
    assert_eq!(dataset.items[0].caption.choose(0.0), "sks, 1");
    assert_eq!(dataset.report.pictures, 4);
    assert_eq!(
        dataset.report.duplicates,
        [["dog/1.png".to_owned(), "cat/2.png".to_owned()]],
        "across folders"
    );
    assert_eq!(dataset.report.left_out[0].file, "cat/notes.md");
    assert_eq!((dataset.report.concepts.len(), dataset.report.concepts[0].repeats), (2, 3));
    let order = Order::of(1, Role::Instance, &dataset.items, 2);
    assert_eq!(order.round_length(), 8);
    let mut seen = [0; 4];
    (0..4).flat_map(|step| order.batch_at(step)).for_each(|draw| seen[draw.item] += 1);
    assert_eq!(seen, [3, 3, 1, 1]);

    std::fs::create_dir(dir.path().join("empty")).unwrap();
    std::fs::write(&file, text.to_owned() + "\n[[concept]]\nfolder = \"empty\"").unwrap();
    let error = gather::pictures(&config).unwrap_err();
    assert!(matches!(&error, DataError::NoPictures { folder, .. } if folder.ends_with("empty")), "{error}");
    config.data.dataset = Some(dir.path().join("none.toml"));
    assert!(gather::pictures(&config).unwrap_err().to_string().contains("none.toml"));
}

#[test]
fn what_is_held_out_depends_on_content_alone() {
    let pictures: Vec<(String, u8)> = (0..10u8).map(|i| (format!("{i}.png"), i * 20)).collect();
    let list: Vec<(&str, usize, usize, u8)> =
        pictures.iter().map(|(name, grey)| (name.as_str(), 64, 64, *grey)).collect();
    let dir = painted(&list);
    std::fs::copy(dir.path().join("3.png"), dir.path().join("copy.png")).unwrap();
    let held = |share| {
        let mut dataset = Dataset::open(dir.path(), &options()).unwrap();
        let held = dataset.hold_out(share).unwrap();
        let names =
            |dataset: &Dataset| dataset.items.iter().map(|item| item.file.clone()).collect::<Vec<_>>();
        (names(&held), names(&dataset))
    };
    let (out, left) = held(0.3);
    assert_eq!(out.len() + left.len(), 11);
    assert!((3..=4).contains(&out.len()), "{out:?}");
    for side in [&out, &left] {
        assert_eq!(side.contains(&"3.png".to_owned()), side.contains(&"copy.png".to_owned()));
    }
    let (more, _) = held(0.6);
    assert!(out.iter().all(|name| more.contains(name)));
    assert_eq!(held(0.0).0.len().min(2), held(0.0).0.len(), "at least one content");
    let mut dataset = Dataset::open(dir.path(), &options()).unwrap();
    assert!(matches!(dataset.hold_out(1.0), Err(DataError::HoldOut { left: 0, .. })));
}
