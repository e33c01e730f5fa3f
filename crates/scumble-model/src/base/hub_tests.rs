//! Tests of Hub repositories against a loopback server that stands in for the Hub.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::hub::{HubId, parse_id};
use super::*;
use crate::files::safetensors_tests::fixtures;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One repository, `painter/tiny`, over HTTP.
struct Hub {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Default)]
struct Repository {
    files: BTreeMap<String, Vec<u8>>,
    /// Refuse requests without this token.
    token: Option<&'static str>,
    /// Promise more bytes than are sent.
    cut_short: bool,
}

impl Repository {
    /// tiny-sd1 with files that a base does not need.
    fn tiny_sd1() -> Self {
        let mut files = BTreeMap::new();
        let root = fixtures().join("tiny-sd1");
        let mut take = |name: String| files.insert(name.clone(), std::fs::read(root.join(name)).unwrap());
        take("model_index.json".into());
        for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
            for entry in std::fs::read_dir(root.join(part)).unwrap() {
                take(format!("{part}/{}", entry.unwrap().file_name().to_str().unwrap()));
            }
        }
        for surplus in [
            "README.md",
            "v1-5-pruned.ckpt",
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "safety_checker/model.safetensors",
            "tokenizer/tokenizer.json",
        ] {
            files.insert(surplus.into(), b"not needed".to_vec());
        }
        Self { files, ..Self::default() }
    }

    fn serve(self) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        // Lives as long as the test process; each test has its own.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (repository, seen) = (self.clone(), Arc::clone(&seen));
                std::thread::spawn(move || while repository.answer(&stream, &seen).is_some() {});
            }
        });
        Hub { address, requests }
    }

    /// Answers one request; `None` when the connection is done.
    fn answer(&self, mut stream: &TcpStream, seen: &Mutex<Vec<String>>) -> Option<()> {
        let mut lines = BufReader::new(stream).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_string();
        let mut range_start = 0;
        let mut token = None;
        for line in lines {
            let line = line.ok()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(range) = line.strip_prefix("range: bytes=") {
                range_start = range.split('-').next()?.parse().ok()?;
            }
            token = token.or(line.strip_prefix("authorization: bearer ").map(str::to_string));
        }
        seen.lock().unwrap().push(path.clone());
        let refused = self.token.is_some_and(|wanted| token.as_deref() != Some(wanted));
        let (status, headers, body) = match self.content(&path) {
            _ if refused => ("401 Unauthorized", String::new(), Vec::new()),
            None => ("404 Not Found", String::new(), Vec::new()),
            Some(content) => {
                let range =
                    format!("content-range: bytes {range_start}-{}/{}\r\n", content.len() - 1, content.len());
                let tag =
                    path.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
                let headers = format!("{range}etag: \"{tag:x}\"\r\nx-repo-commit: {COMMIT}\r\n");
                ("206 Partial Content", headers, content[range_start..].to_vec())
            }
        };
        let sent = if self.cut_short && body.len() > 100_000 { body.len() / 2 } else { body.len() };
        let head = format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&body[..sent]).ok()?;
        None
    }

    fn content(&self, path: &str) -> Option<Vec<u8>> {
        if path
            .strip_prefix("/api/models/painter/tiny/revision/")
            .is_some_and(|revision| revision == "main" || revision == COMMIT)
        {
            let siblings: Vec<_> =
                self.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
            return Some(serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes());
        }
        self.files.get(path.strip_prefix(&format!("/painter/tiny/resolve/{COMMIT}/"))?).cloned()
    }
}

impl Hub {
    fn options(&self, cache: &Path) -> BaseOptions {
        let hub = HubOptions {
            endpoint: Some(self.address.clone()),
            cache: Some(cache.join("hub")),
            ..HubOptions::default()
        };
        BaseOptions { hub, ..BaseOptions::default() }
    }

    /// Files asked for since the last call, without repetition.
    fn asked(&self) -> Vec<String> {
        let mut paths: Vec<String> = std::mem::take(&mut *self.requests.lock().unwrap());
        paths.sort();
        paths.dedup();
        paths
            .iter()
            .map(|path| path.rsplit("resolve/").next().unwrap().replacen(&format!("{COMMIT}/"), "", 1))
            .collect()
    }
}

fn failure(repository: Repository, spec: &str, change: impl FnOnce(&mut BaseOptions)) -> FileError {
    let cache = tempfile::tempdir().unwrap();
    let hub = repository.serve();
    let mut options = hub.options(cache.path());
    change(&mut options);
    BaseFiles::open(spec, &options).err().unwrap_or_else(|| panic!("{spec} was opened"))
}

#[test]
fn only_what_is_needed_is_fetched_and_only_once() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Repository::tiny_sd1().serve();
    let mut options = hub.options(cache.path());
    let base = BaseFiles::open("painter/tiny", &options).unwrap();
    assert_eq!((base.name.as_str(), base.family), ("painter/tiny", Family::Sd1));
    assert_eq!(
        hub.asked(),
        [
            "/api/models/painter/tiny/revision/main",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    );
    let local = BaseFiles::open(fixtures().join("tiny-sd1").to_str().unwrap(), &options).unwrap();
    assert_eq!(base.unet.weights.names(), local.unet.weights.names());

    BaseFiles::open("painter/tiny", &options).unwrap();
    assert_eq!(hub.asked(), ["/api/models/painter/tiny/revision/main"]);
    let layout = cache.path().join("hub/models--painter--tiny/snapshots").join(COMMIT);
    assert!(layout.join("unet/config.json").exists(), "the cache is laid out as the Hub's own tools do");

    options.hub.offline = true;
    BaseFiles::open("painter/tiny", &options).unwrap();
    BaseFiles::open(&format!("painter/tiny@{COMMIT}"), &options).unwrap();
    assert!(hub.asked().is_empty());
    // A Hub that does not answer: the cache serves.
    options.hub.offline = false;
    options.hub.endpoint = Some("http://127.0.0.1:9".into());
    BaseFiles::open("painter/tiny", &options).unwrap();
}

#[test]
fn the_variant_and_the_token_are_used() {
    let cache = tempfile::tempdir().unwrap();
    let mut repository = Repository::tiny_sd1();
    for file in ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"] {
        let content = repository.files[&format!("{file}.safetensors")].clone();
        repository.files.insert(format!("{file}.fp16.safetensors"), content);
    }
    repository.token = Some("hf_secret");
    let hub = repository.clone().serve();
    let mut options = hub.options(cache.path());
    options.variant = Some("fp16".into());
    let error = BaseFiles::open("painter/tiny", &options).err().unwrap();
    assert!(error.to_string().contains("denied"), "{error}");
    assert!(error.hints()[0].contains("HF_TOKEN") && !error.to_string().contains("hf_secret"));
    options.hub.token = Some("hf_secret".into());
    BaseFiles::open("painter/tiny", &options).unwrap();
    let weights: Vec<String> =
        hub.asked().into_iter().filter(|file| file.ends_with(".safetensors")).collect();
    assert_eq!(weights.len(), 3);
    assert!(weights.iter().all(|file| file.ends_with(".fp16.safetensors")), "{weights:?}");
}

#[test]
fn shards_are_fetched_with_their_index() {
    let cache = tempfile::tempdir().unwrap();
    let mut repository = Repository::tiny_sd1();
    let whole = repository.files.remove("unet/diffusion_pytorch_model.safetensors").unwrap();
    let local =
        BaseFiles::open(fixtures().join("tiny-sd1").to_str().unwrap(), &BaseOptions::default()).unwrap();
    let shard = "diffusion_pytorch_model-00001-of-00001.safetensors";
    let map: BTreeMap<String, &str> =
        local.unet.weights.names().into_iter().map(|name| (name, shard)).collect();
    repository.files.insert(format!("unet/{shard}"), whole);
    let index = serde_json::json!({ "weight_map": map }).to_string().into_bytes();
    repository.files.insert("unet/diffusion_pytorch_model.safetensors.index.json".into(), index);
    let hub = repository.serve();
    let base = BaseFiles::open("painter/tiny", &hub.options(cache.path())).unwrap();
    assert_eq!(base.unet.weights.names(), local.unet.weights.names());
}

#[test]
fn what_cannot_be_fetched_is_named() {
    let error = failure(Repository::tiny_sd1(), "painter/tinny", |_| {});
    assert!(error.to_string().contains("painter/tinny@main"), "{error}");
    assert!(error.hints()[0].contains("typing mistake"), "{error:?}");
    let error = failure(Repository::tiny_sd1(), "painter/tiny@nowhere", |_| {});
    assert!(error.to_string().contains("painter/tiny@nowhere"), "{error}");
    let error =
        failure(Repository::tiny_sd1(), "painter/tiny", |options| options.variant = Some("bf16".into()));
    assert!(error.to_string().contains("variant `bf16`"), "{error}");
    let error = failure(Repository::tiny_sd1(), "painter/tiny", |options| options.hub.offline = true);
    assert!(error.to_string().contains("not in the cache"), "{error}");

    let mut repository = Repository::tiny_sd1();
    repository.files.remove("vae/config.json");
    let error = failure(repository, "painter/tiny", |_| {});
    assert!(error.to_string().contains("vae/config.json"), "{error}");
    let mut repository = Repository::tiny_sd1();
    repository.files.remove("model_index.json");
    let error = failure(repository, "painter/tiny", |_| {});
    assert!(error.hints()[0].contains("v1-5-pruned.ckpt"), "{error:?}");
    let error = failure(Repository { cut_short: true, ..Repository::tiny_sd1() }, "painter/tiny", |_| {});
    assert!(error.to_string().contains(".safetensors"), "{error}");
}

#[test]
fn ids_and_paths_are_told_apart() {
    for spec in ["runwayml/stable-diffusion-v1-5", "a/b_c.d@fp16", "a/b@refs/pr/1"] {
        assert_eq!(parse_id(spec).map(|id: HubId| id.to_string().starts_with(spec)), Some(true), "{spec}");
    }
    for spec in [
        "model",
        "./a/b",
        "/a/b",
        "a/b/c",
        "a/b.safetensors",
        "a/b.ckpt",
        "../b/c",
        "a/..",
        "a b/c",
        "a/b@../x",
        "C:\\a\\b",
        "",
    ] {
        assert_eq!(parse_id(spec), None, "{spec}");
    }
}
