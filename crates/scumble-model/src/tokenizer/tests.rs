//! Ids against those that `transformers` gives, for the full vocabulary and for folders of every kind; hostile folders
//! and captions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::files::{SafetensorsFile, TensorSource as _};

fn workspace(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

fn clip() -> Tokenizer {
    Tokenizer::clip(Pad::End).unwrap()
}

fn integers(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

#[test]
fn published_captions() {
    let cases: &[(&str, &[i64])] = &[
        (
            "a photo of an astronaut riding a horse on mars",
            &[320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496],
        ),
        (
            "Apple CoreML developer tools on a Macbook Air are fast",
            &[3055, 19622, 5780, 10929, 5771, 525, 320, 20617, 1922, 631, 1953],
        ),
        ("a photo of a cat", &[320, 1125, 539, 320, 2368]),
        ("the black dog", &[518, 1449, 1929]),
        ("Hi there", &[1883, 997]),
        ("I'm fine, thanks!", &[328, 880, 3797, 267, 1085, 256]),
        ("hello world!!!", &[3306, 1002, 995]),
        ("i've seen it", &[328, 1200, 2041, 585]),
        ("Hello Båstad", &[3306, 65, 23176, 16485]),
        ("A person riding a motorcycle", &[320, 2533, 6765, 320, 10297]),
        (
            "donaudampfschifffahrtsgesellschaftskapitänsmütze",
            &[
                1067, 627, 1880, 16680, 13731, 1021, 778, 4810, 2290, 619, 10279, 45588, 83, 909, 688, 529,
                42787, 978, 6522, 83, 1298,
            ],
        ),
        ("People applauding at a conference", &[1047, 24713, 796, 536, 320, 2230]),
        ("keynote speaker at a podium", &[7556, 4914, 536, 320, 14093]),
    ];
    for (text, ids) in cases {
        assert_eq!(clip().tokenize_all(text), *ids, "{text}");
    }
}

#[test]
fn odd_captions_as_the_peer_tokenizes_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/tokenizer.json");
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (end, mark) = (clip(), Tokenizer::clip(Pad::ExclamationMark).unwrap());
    let mut learned = clip();
    assert_eq!(learned.add_tokens(&["<s1>", "dog house", "S\u{301}x"]).unwrap(), [49408, 49409, 49410]);
    for case in cases.as_array().unwrap() {
        let text = case["prompt"].as_str().unwrap();
        assert_eq!(end.tokenize_all(text), integers(&case["pad_end"]), "{text:?}");
        assert_eq!(mark.tokenize_all(text), integers(&case["pad_mark"]), "{text:?}");
        assert_eq!(learned.tokenize_all(text), integers(&case["learned"]), "{text:?}");
    }
}

#[test]
fn golden_captions_of_the_full_vocabulary() {
    let shared = std::env::var_os("SCUMBLE_SHARED").map_or_else(|| workspace("../shared"), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(shared.join("clip/tokens.json")) else { return };
    let golden: Value = serde_json::from_str(&text).unwrap();
    let tokenizer = clip();
    for case in golden["prompts"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        assert_eq!(tokenizer.encode(prompt), integers(&case["ids_77"]), "{prompt:?}");
        let ids = integers(&case["ids"]);
        assert_eq!(tokenizer.tokenize_all(prompt), ids[1..ids.len() - 1], "{prompt:?}");
    }
}

#[test]
fn ids_of_the_tiny_models() {
    for model in ["tiny-sd1", "tiny-sd2"] {
        let folder = workspace("tests/fixtures").join(model);
        let tokenizer = Tokenizer::from_folder(&folder.join("tokenizer")).unwrap();
        let spec = std::fs::read_to_string(folder.join("expected/expected.json")).unwrap();
        let spec: Value = serde_json::from_str(&spec).unwrap();
        let file = SafetensorsFile::open(&folder.join("expected/text.safetensors")).unwrap();
        let expected = file.read("input_ids").unwrap();
        let prompts = spec["prompts"].as_array().unwrap();
        let ids: Vec<i64> = prompts.iter().flat_map(|p| tokenizer.encode(p.as_str().unwrap())).collect();
        assert_eq!(ids, expected.as_slice::<i64>().unwrap(), "{model}");
        // The same from the vocabulary in the program, cut to the model's size.
        let pad = if model == "tiny-sd1" { Pad::End } else { Pad::ExclamationMark };
        let embedded = Tokenizer::clip_with_vocabulary(2014, pad).unwrap();
        let same: Vec<i64> = prompts.iter().flat_map(|p| embedded.encode(p.as_str().unwrap())).collect();
        assert_eq!(same, ids, "{model}");
        assert_eq!((tokenizer.vocab_size(), tokenizer.start_id(), tokenizer.end_id()), (2014, 2012, 2013));
    }
}

#[test]
fn a_caption_is_framed_cut_and_padded() {
    let tokenizer = clip();
    let short = tokenizer.encode("a cat");
    assert_eq!(short[..5], [49406, 320, 2368, 49407, 49407]);
    assert_eq!(Tokenizer::clip(Pad::ExclamationMark).unwrap().encode("a cat")[3..6], [49407, 0, 0]);
    let long = tokenizer.encode(&"cat ".repeat(200));
    assert_eq!((short.len(), long.len(), long[75], long[76]), (77, 77, 2368, 49407));
    assert_eq!(tokenizer.count(&"cat ".repeat(200)), 200);
    assert_eq!((tokenizer.vocab_size(), tokenizer.max_length()), (49408, 77));
    for size in [0, 513, 49409] {
        assert!(Tokenizer::clip_with_vocabulary(size, Pad::End).is_err());
    }
}

#[test]
fn learned_tokens_get_the_next_ids_and_known_ones_are_refused() {
    let mut tokenizer = clip();
    assert_eq!(tokenizer.add_tokens(&["<s1>", "<S2>"]).unwrap(), [49408, 49409]);
    assert_eq!(tokenizer.tokenize_all("a <s1><S1> <s2>x"), [320, 49408, 49408, 49409, 343]);
    assert_eq!((tokenizer.id_of("<S2>"), tokenizer.vocab_size()), (Some(49409), 49410));
    assert_eq!(tokenizer.add_tokens(&["<s3>"]).unwrap(), [49410]);
    for refused in [&["<s1>"][..], &["cat</w>"], &[" "], &["<x>", "<x>"]] {
        let error = tokenizer.add_tokens(refused).unwrap_err().to_string();
        assert!(error.contains(refused[0]), "{error}");
    }
    assert_eq!(tokenizer.vocab_size(), 49411);
}

/// A folder with the tiny vocabulary and the given other files.
fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        let source = workspace("tests/fixtures/tiny-sd1/tokenizer").join(name);
        std::fs::copy(source, folder.path().join(name)).unwrap();
    }
    for (name, value) in files {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    }
    folder
}

const PROBE: &str = "a photo!! of <|startoftext|> a <|ENDOFTEXT|> b <S1> <s1>";

#[test]
fn folders_of_every_age_as_the_peer_reads_them() {
    let object = |content: &str| json!({"content": content, "normalized": true, "lstrip": false});
    let config = json!({
        "bos_token": object("<|startoftext|>"), "eos_token": object("<|endoftext|>"),
        "unk_token": object("<|endoftext|>"), "pad_token": "<|endoftext|>", "model_max_length": 1e30
    });
    let ids = |files: &[(&str, Value)]| {
        let tokenizer = Tokenizer::from_folder(folder(files).path()).unwrap();
        assert_eq!(tokenizer.max_length(), 77);
        (tokenizer.pad_id(), tokenizer.tokenize_all(PROBE))
    };
    let s1 = [283, 338, 272, 285];
    let s1_twice = [&[321][..], &s1, &s1].concat();
    let spelled = [27, 347, 524, 639, 69, 600, 1052, 91, 285];
    // The padding, a plain string, makes the end token one that is found as written only.
    let plain = [&[320, 1125, 748, 539, 2012, 320][..], &spelled, &s1_twice].concat();
    assert_eq!(ids(&[("tokenizer_config.json", config.clone())]), (2013, plain));
    // The map names another padding than the configuration: the map wins, and `!` is a special token.
    let mut map = config.clone();
    map["pad_token"] = json!("!");
    let marked = [&[320, 1125, 0, 0, 539, 2012, 320, 2013][..], &s1_twice].concat();
    let both = [("tokenizer_config.json", config.clone()), ("special_tokens_map.json", map.clone())];
    assert_eq!(ids(&both), (0, marked.clone()));
    // Learned tokens of an older folder.
    let added = ("added_tokens.json", json!({"<s1>": 2014, "<S2>": 2015}));
    let learned = [320, 1125, 0, 0, 539, 2012, 320, 2013, 321, 2014, 2014];
    assert_eq!(ids(&[both[0].clone(), both[1].clone(), added]), (0, learned.to_vec()));
    // A complete list in the configuration: then the map is not read, but `!` stays special.
    let mut listed = config;
    listed["added_tokens_decoder"] = json!({
        "0": {"content": "!", "normalized": false, "special": true},
        "2012": {"content": "<|startoftext|>", "normalized": true, "special": true},
        "2013": {"content": "<|endoftext|>", "normalized": true, "special": true}
    });
    let files = [("tokenizer_config.json", listed), ("special_tokens_map.json", map)];
    assert_eq!(ids(&files), (2013, marked));
}

#[test]
fn a_folder_with_one_file_for_all() {
    let source = folder(&[]);
    let read = |name: &str| std::fs::read_to_string(source.path().join(name)).unwrap();
    let vocabulary: Value = serde_json::from_str(&read("vocab.json")).unwrap();
    let merges = read("merges.txt");
    let lines: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version")).collect();
    let pairs: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    for merges in [json!(lines), json!(pairs)] {
        let folder = tempfile::tempdir().unwrap();
        let whole = json!({
            "model": {"vocab": vocabulary, "merges": merges},
            "added_tokens": [{"id": 2014, "content": "<s1>", "normalized": true, "special": false}]
        });
        std::fs::write(folder.path().join("tokenizer.json"), whole.to_string()).unwrap();
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        assert_eq!(tokenizer.tokenize_all("a photo of <s1>"), [320, 1125, 539, 2014]);
    }
}

#[test]
fn hostile_folders_are_refused_by_name() {
    let refused = |files: &[(&str, Value)], part: &str| {
        let message = Tokenizer::from_folder(folder(files).path()).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(&[("vocab.json", json!([]))], "vocab.json");
    refused(&[("vocab.json", json!({"a": -1}))], "id of `a`");
    refused(&[("vocab.json", json!({"a": 4_294_967_295u32}))], "id of `a`");
    refused(&[("vocab.json", json!({"a": 1}))], "the start token");
    refused(&[("tokenizer_config.json", json!({"pad_token": "[PAD]"}))], "[PAD]");
    refused(&[("tokenizer_config.json", json!({"pad_token": 3}))], "pad_token");
    refused(&[("tokenizer_config.json", json!({"model_max_length": -3}))], "model_max_length");
    refused(&[("tokenizer_config.json", json!({"added_tokens_decoder": []}))], "added_tokens_decoder");
    refused(&[("tokenizer_config.json", json!({"added_tokens_decoder": {"x": {"content": "a"}}}))], "`x`");
    refused(&[("added_tokens.json", json!({"": 5}))], "empty");
    let with_merges = |merges: &[u8]| {
        let folder = folder(&[]);
        std::fs::write(folder.path().join("merges.txt"), merges).unwrap();
        Tokenizer::from_folder(folder.path()).unwrap_err().to_string()
    };
    assert!(with_merges(b"#version: 0.2\ni n\noops\n").contains("line 3"));
    assert!(with_merges(b"i n\nq \xc3\xb1zz\n").contains("merges, line 2"));
    assert!(with_merges(b"\xff\xfe").contains("merges.txt"));
    assert!(
        Tokenizer::from_folder(Path::new("/nowhere/at/all")).unwrap_err().to_string().contains("vocab.json")
    );
    let huge = folder(&[]);
    let file = std::fs::File::create(huge.path().join("vocab.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(Tokenizer::from_folder(huge.path()).unwrap_err().to_string().contains("no tokenizer file"));
}

#[test]
fn the_toy_vocabulary_merges_in_order() {
    let tokens = [
        "l", "o", "w", "e", "r", "s", "t", "n", "lo", "l</w>", "w</w>", "r</w>", "t</w>", "low</w>",
        "er</w>", "<s>",
    ];
    let vocabulary: HashMap<String, u32> = tokens.iter().map(|token| (*token).to_owned()).zip(0..).collect();
    let merges = [("l", "o"), ("lo", "w</w>"), ("e", "r</w>")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let special = AddedToken::exact("<s>");
    let special = SpecialTokens {
        start: special.clone(),
        end: special.clone(),
        unknown: special.clone(),
        pad: special,
    };
    let tokenizer = Tokenizer::from_parts(vocabulary, &merges, &special, &[], 8).unwrap();
    assert_eq!(tokenizer.tokenize_all("lower newer low x"), [8, 2, 14, 7, 3, 2, 14, 13, 15]);
}

#[test]
fn a_caption_of_a_megabyte_is_no_trouble() {
    let tokenizer = clip();
    let started = Instant::now();
    for text in
        ["a".repeat(1 << 20), "!?".repeat(1 << 19), "a cat, ".repeat(150_000), "e\u{301}".repeat(350_000)]
    {
        assert_eq!(tokenizer.encode(&text).len(), 77);
        assert!(tokenizer.count(&text) > 1000);
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn words_may_have_several_ids() {
    let mut tokenizer = clip();
    assert_eq!(tokenizer.add_words(&[("<cat>", 3), ("<s1>", 1)], 0).unwrap(), 49408);
    assert_eq!(tokenizer.tokenize_all("a <CAT> <s1>"), [320, 49408, 49409, 49410, 49411]);
    assert_eq!((tokenizer.count("<cat>"), tokenizer.vocab_size()), (3, 49412));
    assert_eq!(tokenizer.encode("<cat>")[..5], [49406, 49408, 49409, 49410, 49407]);
    assert_eq!(tokenizer.add_words(&[("<x>", 2)], 50_000).unwrap(), 50_000);
    assert_eq!(tokenizer.vocab_size(), 50_002);
    for (word, rows, part) in [
        ("dog", 1, "exists"),
        ("<s1>", 1, "exists"),
        (" ", 1, "empty"),
        ("<y>", 0, "0 ids"),
        ("<y>", 99, "room"),
    ] {
        let error = tokenizer.add_words(&[(word, rows)], 0).unwrap_err().to_string();
        assert!(error.contains(part), "{word}: {error}");
    }
    let twice = tokenizer.add_words(&[("<y>", 1), ("<Y>", 1)], 0).unwrap_err().to_string();
    assert!(twice.contains("twice"), "{twice}");
}

#[test]
fn the_tokenizer_in_the_program_can_be_written_as_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    for pad in [Pad::End, Pad::ExclamationMark] {
        for (name, content) in clip_files(2014, pad).unwrap() {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let written = Tokenizer::from_folder(folder.path()).unwrap();
        let inside = Tokenizer::clip_with_vocabulary(2014, pad).unwrap();
        for text in ["a photo of a dog! 42", "<|endoftext|> é"] {
            assert_eq!(written.encode(text), inside.encode(text), "{text}");
        }
    }
    assert!(clip_files(7, Pad::End).is_err());
}
