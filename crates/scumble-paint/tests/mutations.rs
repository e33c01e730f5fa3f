//! A bounded run of damaged inputs through every door that bytes from outside come in by.
//!
//! Small valid files are damaged by a seeded generator, the same on every machine, and given to the entries that the
//! fuzz targets share (`fuzz/entries.rs`). Nothing may panic; that memory stays bounded is looked at once, at the end.
//! `SCUMBLE_MUTATIONS=200000` makes the run longer, `SCUMBLE_MUTATION_SEED` another one, `SCUMBLE_MUTATION_ENTRY`
//! keeps it to one entry. What fails is left in the system's temporary folder and named.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../../fuzz/entries.rs"]
mod entries;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use scumble_adapter::inspect::{Content, InspectOptions, inspect};
use scumble_tensor::rng::{Generator, stream};

/// Damaged inputs for each seed file of an entry, in the normal tests.
const USUAL: usize = 150;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// The valid inputs of an entry.
fn seeds(entry: &str) -> Vec<Vec<u8>> {
    let read = |names: &[&str]| -> Vec<Vec<u8>> {
        names.iter().map(|name| std::fs::read(fixtures().join(name)).unwrap()).collect()
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match entry {
        "safetensors" => read(&["pickles/expected.safetensors", "hostile/ok_padded_header.safetensors"]),
        "torch" => read(&[
            "pickles/dtypes_legacy.pt",
            "pickles/dtypes_zip.pt",
            "pickles/lightning_zip.ckpt",
            "pickles/list_cuda_zip.pt",
            "pickles/tar.pt",
        ]),
        "adapter" | "inspection" => {
            let mut seeds = vec![kohya(), numbered()];
            let files = ["lora/cloneofsimo.ti.pt", "pickles/list_legacy.pt", "pickles/lightning_legacy.ckpt"];
            seeds.extend(read(&files));
            seeds
        }
        "tokenizer" => texts(&[
            "a (photo:1.3) of [a|b] <lora:cat:0.7> \\(cat\\), 日本 café <s1> 's 123 BREAK ((x)) [y]",
            "((((((((((a))))))))))",
            "",
        ]),
        "vocabulary" => {
            let vocabulary = r#"{"a": 0, "b": 1, "ab</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}"#;
            let both = format!("{vocabulary}\0#version: 0.2\na b</w>\n");
            vec![both.into_bytes(), tokenizer_json()]
        }
        "caption" => texts(&["a photo of sks dog, sitting\n", "\u{feff}one\r\ntwo\t\u{0}", ""]),
        "run_file" => texts(&[
            "kind = \"object\"\n[base]\nmodel = \"sd15\"\n[train]\nsteps = 400\nlr = 1e-4\n[lora.unet]\nrank = 8\n",
            "mode = \"exact\"\nrank = 8\n[[input]]\nfile = \"a.safetensors\"\nweight = 0.5\nblocks = \"mid=0.5\"\n",
        ]),
        "picture" => {
            read(&["images/text.png", "images/onebit.png", "images/exif_6.jpg", "images/lossy.webp"])
        }
        other => panic!("no seeds for {other}"),
    }
}

/// A safetensors file by hand: header and data.
fn safetensors(header: &serde_json::Value, bytes: usize) -> Vec<u8> {
    let text = header.to_string();
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.as_bytes());
    file.resize(file.len() + bytes, 0x3c);
    file
}

/// A module with DoRA, a token and metadata.
fn kohya() -> Vec<u8> {
    let name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
    let mut tensors = serde_json::Map::new();
    let mut end = 0;
    for (key, shape) in [
        (format!("{name}.lora_down.weight"), vec![2, 32]),
        (format!("{name}.lora_up.weight"), vec![32, 2]),
        (format!("{name}.alpha"), vec![]),
        (format!("{name}.dora_scale"), vec![32, 1]),
        ("bundle_emb.<s1>.string_to_param.*".into(), vec![1, 48]),
    ] {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let info = serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        tensors.insert(key, info);
    }
    let metadata = serde_json::json!({"ss_network_dim": "2", "ss_tag_frequency": "{\"a\": {\"b\": 1}}"});
    tensors.insert("__metadata__".into(), metadata);
    safetensors(&serde_json::Value::Object(tensors), end)
}

/// The original's numbers.
fn numbered() -> Vec<u8> {
    let header = serde_json::json!({
        "__metadata__": {"text_encoder": "[\"CLIPAttention\"]", "text_encoder:0:rank": "1", "<s1>": "<embed>"},
        "text_encoder:0:up": {"dtype": "F32", "shape": [48, 1], "data_offsets": [0, 192]},
        "text_encoder:0:down": {"dtype": "F32", "shape": [1, 48], "data_offsets": [192, 384]},
        "<s1>": {"dtype": "F32", "shape": [48], "data_offsets": [384, 576]},
    });
    safetensors(&header, 576)
}

fn tokenizer_json() -> Vec<u8> {
    let special = |id: u32, content: &str| serde_json::json!({"id": id, "content": content, "special": true});
    let text = serde_json::json!({
        "version": "1.0",
        "added_tokens": [special(3, "<|startoftext|>"), special(4, "<|endoftext|>")],
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "ab</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4},
            "merges": ["a b</w>"],
            "end_of_word_suffix": "</w>",
        },
    });
    text.to_string().into_bytes()
}

/// Numbers at the edges of what fields hold.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
    100_000_000,
    1 << 40,
];

struct Damage {
    random: Generator,
}

impl Damage {
    fn below(&mut self, count: usize) -> usize {
        ((f64::from(self.random.rand(1)[0]) * count as f64) as usize).min(count.saturating_sub(1))
    }

    /// A place, near the beginning more often than not: headers are there.
    fn place(&mut self, length: usize) -> usize {
        let within = [16, 256, 2048, usize::MAX][self.below(4)].min(length);
        self.below(within.max(1))
    }

    fn apply(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..1 + self.below(4) {
            if bytes.is_empty() {
                bytes.push(self.below(256) as u8);
            }
            let at = self.place(bytes.len());
            let span = 1 + self.below(32);
            let end = (at + span).min(bytes.len());
            match self.below(10) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => {
                    bytes[at] = [0, 0xff, 0x80, b'0', b'9', b'-', b'"', b'{', b'[', b'\n'][self.below(10)];
                }
                2 => bytes[at] = self.below(256) as u8,
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                5 => bytes.truncate(at),
                6 => {
                    let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                    let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                    bytes[at..at + width].copy_from_slice(&edge[..width]);
                }
                7 => {
                    let digits = EDGES[self.below(EDGES.len())].to_string();
                    bytes.splice(at..end.min(at + 2), digits.into_bytes());
                }
                8 if !other.is_empty() => {
                    let from = self.below(other.len());
                    let part = &other[from..(from + span).min(other.len())];
                    bytes.splice(at..end, part.iter().copied());
                }
                _ => {
                    let copied = bytes[at..end].to_vec();
                    let to = self.place(bytes.len());
                    let to_end = (to + copied.len()).min(bytes.len());
                    bytes.splice(to..to_end, copied);
                }
            }
        }
    }
}

/// Right checksums for PNG chunks, so that damage reaches what lies behind them.
fn mend_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(end) = at.checked_add(8 + length).filter(|end| end + 4 <= bytes.len()) else { return };
        let sum = crc(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&sum.to_be_bytes());
        at = end + 4;
    }
}

/// CRC-32 of PNG and zip.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(sum & 1)))
    })
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The largest resident size of this process in MiB, where the system tells.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? >> 10)
}

#[test]
fn damaged_inputs_end_in_errors() {
    let count = setting("SCUMBLE_MUTATIONS").map_or(USUAL, |count| count.parse().unwrap());
    let seed = setting("SCUMBLE_MUTATION_SEED").map_or(0, |seed| seed.parse().unwrap());
    let only = setting("SCUMBLE_MUTATION_ENTRY");
    let chosen = |name: &str| only.as_deref().is_none_or(|only| only == name);
    for (name, entry) in entries::ENTRIES.into_iter().filter(|(name, _)| chosen(name)) {
        let seeds = seeds(name);
        for valid in &seeds {
            entry(valid);
        }
        // To guess a family is slow: it looks at three large tables.
        let count = if name == "inspection" { count.div_ceil(10) } else { count };
        for (index, valid) in seeds.iter().enumerate() {
            for number in 0..count {
                let mut damage = Damage { random: stream(seed, &format!("{name} {index} {number}")) };
                let mut bytes = valid.clone();
                let other = damage.below(seeds.len());
                damage.apply(&mut bytes, &seeds[other]);
                if name == "picture" && number % 2 == 0 {
                    mend_png(&mut bytes);
                }
                let outcome = catch_unwind(AssertUnwindSafe(|| entry(&bytes)));
                if outcome.is_err() {
                    let file = format!("scumble-mutation-{name}-{seed}-{index}-{number}");
                    let kept = std::env::temp_dir().join(file);
                    std::fs::write(&kept, &bytes).unwrap();
                    panic!(
                        "{name} panicked (seed {seed}, file {index}, number {number}): {}",
                        kept.display()
                    );
                }
            }
        }
        if let Some(peak) = peak_mib().filter(|_| count > USUAL) {
            println!("{name}: {count} of each of {} files, peak {peak} MiB", seeds.len());
        }
    }
    // Pictures and expanded tensors may honestly take a few hundred.
    if let Some(peak) = peak_mib() {
        assert!(peak < 1536, "{peak} MiB at the peak");
    }
}

/// What earlier runs found.
#[test]
fn found_inputs_stay_mended() {
    let folder = fixtures().join("mutations");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let (_, run) = entries::ENTRIES.into_iter().find(|(known, _)| name.starts_with(known)).unwrap();
        run(&std::fs::read(entry.path()).unwrap());
    }
}

/// The seeds are what their entries are for: they get through.
#[test]
fn seeds_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let described = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let found = inspect(&path, &InspectOptions::default()).unwrap();
        let Content::Adapter(content) = found.content else { panic!("{found:?}") };
        (content.dialect, content.modules.len(), content.tokens.len())
    };
    assert_eq!(described("a.safetensors", &kohya()), ("kohya", 1, 1));
    assert_eq!(described("b.safetensors", &numbered()), ("original", 1, 1));
    assert_eq!(crc(b"IEND"), 0xae42_6082);
}
