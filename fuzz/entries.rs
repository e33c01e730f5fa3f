//! Where bytes from outside come in: one function an entry, shared by the fuzz targets and the bounded mutation test.
//!
//! A function takes any bytes and must return: no panic, no endless loop, no memory beyond what the bytes can honestly
//! ask for. Errors are fine and are made into text, because messages are made from the same bytes.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use scumble_adapter::ModuleTable;
use scumble_adapter::architecture::table_of;
use scumble_adapter::dialect::{ReadOptions, TokenPolicy, WriteOptions, load_adapter, writable};
use scumble_adapter::inspect::{InspectOptions, inspect};
use scumble_adapter::merge::recipe::Recipe;
use scumble_model::files::{PickleFile, SafetensorsFile, TensorSource};
use scumble_model::tokenizer::{Pad, Tokenizer};
use scumble_train::TrainConfig;
use scumble_train::data::CaptionRules;
use scumble_train::picture::{DecodeOptions, Infotext, decode, png};

/// What a target does with its bytes.
pub type Entry = fn(&[u8]);

/// Every entry by name.
pub const ENTRIES: [(&str, Entry); 9] = [
    ("safetensors", safetensors),
    ("torch", torch),
    ("adapter", adapter),
    ("inspection", inspection),
    ("tokenizer", tokenizer),
    ("vocabulary", vocabulary),
    ("caption", caption),
    ("run_file", run_file),
    ("picture", picture),
];

/// A folder of this thread's own for readers that want a path; it goes when the thread ends.
fn with_file<T>(name: &str, bytes: &[u8], work: impl FnOnce(&Path) -> T) -> T {
    struct Folder(PathBuf);
    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }
    thread_local!(static FOLDER: OnceCell<Folder> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| {
            static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            // Memory rather than a disk, where there is such a place: files are written by the million.
            let shm = Path::new("/dev/shm");
            let root = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
            let path = root.join(format!("scumble-fuzz-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&path).ok();
            Folder(path)
        });
        let path = folder.0.join(name);
        std::fs::write(&path, bytes).ok();
        let result = work(&path);
        std::fs::remove_file(&path).ok();
        result
    })
}

fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| error.to_string()).ok()
}

fn read_all(source: &dyn TensorSource) {
    for name in source.names() {
        said(source.read(&name));
    }
}

/// A safetensors file: header, metadata, tensors.
pub fn safetensors(bytes: &[u8]) {
    with_file("x.safetensors", bytes, |path| {
        if let Some(file) = said(SafetensorsFile::open(path)) {
            read_all(&file);
        }
    });
}

/// A torch file in any of its containers.
pub fn torch(bytes: &[u8]) {
    with_file("x.pt", bytes, |path| {
        if let Some(file) = said(PickleFile::open(path)) {
            read_all(&file);
        }
    });
}

/// The modules of a small base.
fn table() -> Option<&'static ModuleTable> {
    static TABLE: OnceLock<Option<ModuleTable>> = OnceLock::new();
    TABLE
        .get_or_init(|| {
            let unet = include_str!("../tests/fixtures/tiny-sd1/unet/config.json");
            let text = include_str!("../tests/fixtures/tiny-sd1/text_encoder/config.json");
            let unet = serde_json::from_str(unet).ok()?;
            let text = serde_json::from_str(text).ok()?;
            table_of(Some(&unet), Some(&text)).ok()
        })
        .as_ref()
}

/// An adapter of any dialect, and what is left of it in every other.
pub fn adapter(bytes: &[u8]) {
    let Some(table) = table() else { return };
    with_file("x.pt", bytes, |path| {
        let Some(loaded) = said(load_adapter(path, table, ReadOptions { partial: true })) else { return };
        let _ = loaded.report.to_string();
        let options = WriteOptions { tokens: TokenPolicy::Bundle, ..WriteOptions::default() };
        for dialect in writable() {
            said(dialect.write(&loaded.adapter, table, &options));
        }
    });
}

/// Whatever it is, described.
pub fn inspection(bytes: &[u8]) {
    with_file("x.bin", bytes, |path| {
        said(inspect(path, &InspectOptions { base: table(), ..InspectOptions::default() }));
    });
}

/// A prompt: weights, adapter tags, tokens.
pub fn tokenizer(bytes: &[u8]) {
    static TOKENIZER: OnceLock<Option<Tokenizer>> = OnceLock::new();
    let text = String::from_utf8_lossy(bytes);
    let plain = said(scumble_paint::tags::extract(&text)).map_or(text.to_string(), |(plain, _)| plain);
    let parts = scumble_model::prompt::parse(&plain);
    let _ = scumble_model::prompt::plain(&plain);
    let Some(tokenizer) = TOKENIZER.get_or_init(|| Tokenizer::clip_with_vocabulary(2014, Pad::End).ok())
    else {
        return;
    };
    let _ = (tokenizer.encode(&text), tokenizer.count(&text), parts.len());
}

/// A tokenizer's folder: the bytes are `vocab.json` and `merges.txt`, parted by a zero byte, or `tokenizer.json`.
pub fn vocabulary(bytes: &[u8]) {
    let parted = bytes.iter().position(|&byte| byte == 0);
    let files: Vec<(&str, &[u8])> = match parted {
        Some(at) => vec![("vocab.json", &bytes[..at]), ("merges.txt", &bytes[at + 1..])],
        None => vec![("tokenizer.json", bytes)],
    };
    with_file("place", b"", |path| {
        let folder = path.with_file_name("tokenizer");
        std::fs::create_dir_all(&folder).ok();
        for (name, content) in &files {
            std::fs::write(folder.join(name), content).ok();
        }
        if let Some(tokenizer) = said(Tokenizer::from_folder(&folder)) {
            let _ = tokenizer.encode("a photo of <s1> café, 日本 'twas 123!");
        }
        std::fs::remove_dir_all(&folder).ok();
    });
}

/// The caption beside a picture.
pub fn caption(bytes: &[u8]) {
    with_file("x.txt", bytes, |path| {
        let rules = CaptionRules { trigger: Some("sks dog".into()), ..CaptionRules::default() };
        if let Some((caption, _)) = said(rules.caption(&path.with_extension("png"))) {
            let _ = caption.choose(0.5).len();
        }
    });
}

/// A run file, and a merge recipe: both TOML.
pub fn run_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(config) = said(TrainConfig::from_toml(&text)) {
        said(config.resolved().to_toml());
        said(config.identity());
    }
    if let Some(recipe) = said(Recipe::parse("x.toml", &text)) {
        said(recipe.to_toml());
        if let Some(table) = table() {
            for input in &recipe.inputs {
                said(input.weights(table));
            }
        }
    }
}

/// A picture: its pixels, and the texts inside PNG.
pub fn picture(bytes: &[u8]) {
    let mut options = DecodeOptions::default();
    // A picture of many pixels from few bytes is honest, and slow.
    options.limits.pixels = 1 << 20;
    said(decode(bytes, "x.png", &options));
    if let Some(texts) = said(png::texts(bytes, "x.png")) {
        for text in texts.values() {
            let _ = Infotext::parse(text).to_string();
        }
    }
    let _ = Infotext::parse(&String::from_utf8_lossy(bytes)).to_string();
}
