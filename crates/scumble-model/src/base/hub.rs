//! Repositories of the Hub, through its standard cache, only the files that are needed.
//!
//! One listing tells commit and files; everything is then taken from that commit, so that a repository that changes
//! meanwhile cannot be mixed. Without a network, what the cache has of the revision is used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::BaseOptions;
use super::weights::{Part, check_variant, choose};
use crate::files::{FileError, Result, shard_names};

/// Where the Hub and its cache are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubOptions {
    /// Use the cache only, never the network.
    pub offline: bool,
    /// Address of the Hub or of a mirror.
    pub endpoint: Option<String>,
    /// The cache's `hub` folder.
    pub cache: Option<PathBuf>,
    /// Access token for private and gated repositories.
    pub token: Option<String>,
    /// Show a bar for each download on stderr.
    pub progress: bool,
}

impl HubOptions {
    /// The environment's choices: `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`HubOptions::from_env`], from any set of variables.
    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let yes = |value: String| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on");
        Self {
            offline: text("HF_HUB_OFFLINE").is_some_and(yes),
            endpoint: text("HF_ENDPOINT").map(|address| address.trim_end_matches('/').to_string()),
            cache: text("HF_HUB_CACHE")
                .map(PathBuf::from)
                .or_else(|| text("HF_HOME").map(|home| Path::new(&home).join("hub"))),
            token: text("HF_TOKEN").map(|token| token.trim().to_string()),
            progress: false,
        }
    }

    fn cache(&self) -> Cache {
        // The crate compares paths, which must both be absolute.
        let absolute = self.cache.as_ref().and_then(|path| std::path::absolute(path).ok());
        absolute.map_or_else(Cache::from_env, Cache::new)
    }
}

/// A repository and a revision of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubId {
    repo: String,
    revision: String,
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.repo, self.revision)
    }
}

/// Reads `org/name[@revision]`; `None` for what can only be a path.
pub(super) fn parse_id(spec: &str) -> Option<HubId> {
    let (repo, revision) = spec.split_once('@').unwrap_or((spec, "main"));
    let (owner, name) = repo.split_once('/')?;
    let plain = |part: &str| {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(allowed)
            && !part.starts_with('.')
            && !part.contains("..")
    };
    let is_file = [".safetensors", ".ckpt", ".pt", ".bin", ".pth"]
        .iter()
        .any(|end| name.to_ascii_lowercase().ends_with(end));
    let good_revision = revision.split('/').all(plain);
    (plain(owner) && plain(name) && !is_file && good_revision)
        .then(|| HubId { repo: repo.into(), revision: revision.into() })
}

/// Brings a base's files into the cache and returns the folder that has them in diffusers' layout.
pub(super) fn fetch(id: &HubId, options: &BaseOptions) -> Result<PathBuf> {
    let hub = &options.hub;
    let cache = hub.cache();
    if hub.offline {
        return cached(&cache, id, "the network is switched off");
    }
    let api = client(hub, &cache).map_err(|error| failure(id, "", &error))?;
    let revision = |name: &str| Repo::with_revision(id.repo.clone(), RepoType::Model, name.into());
    let info = match api.repo(revision(&id.revision)).info() {
        Ok(info) => info,
        // Nobody answers: what was fetched earlier still serves.
        Err(error) if status(&error).is_none() => {
            return cached(&cache, id, &error.to_string());
        }
        Err(error) => return Err(failure(id, "model_index.json", &error)),
    };
    if !is_commit(&info.sha) {
        return Err(hub_error(id, "", "the answer names no commit".into(), String::new()));
    }
    let listing: BTreeSet<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    let files = needed(id, &listing, options)?;
    let download = Download {
        id,
        repo: api.repo(revision(&info.sha)),
        snapshot: cache.repo(revision(&info.sha)).pointer_path(&info.sha),
    };
    for file in &files {
        let path = download.get(file)?;
        if file.contains(".index.") {
            let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
            for shard in shard_names(&path)? {
                download.get(&format!("{folder}/{shard}"))?;
            }
        }
    }
    // So that the same name is found without the network.
    cache
        .repo(revision(&id.revision))
        .create_ref(&info.sha)
        .map_err(|source| FileError::Write { file: cache.path().clone(), source })?;
    Ok(download.snapshot)
}

fn client(hub: &HubOptions, cache: &Cache) -> std::result::Result<Api, ApiError> {
    let mut builder = ApiBuilder::from_cache(cache.clone()).with_progress(hub.progress).with_retries(2);
    if let Some(endpoint) = &hub.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if hub.token.is_some() {
        builder = builder.with_token(hub.token.clone());
    }
    builder.build()
}

struct Download<'a> {
    id: &'a HubId,
    repo: ApiRepo,
    snapshot: PathBuf,
}

impl Download<'_> {
    fn get(&self, file: &str) -> Result<PathBuf> {
        let path = self.snapshot.join(file);
        if path.exists() {
            return Ok(path);
        }
        // The crate asserts what it expects of answers; a server that answers otherwise must not end the program.
        let downloaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.repo.download(file)));
        match downloaded {
            Ok(result) => result.map_err(|error| failure(self.id, file, &error)),
            Err(_) => {
                Err(hub_error(self.id, file, "the server's answer makes no sense".into(), String::new()))
            }
        }
    }
}

/// The files of a listing that a base consists of.
fn needed(id: &HubId, listing: &BTreeSet<String>, options: &BaseOptions) -> Result<Vec<String>> {
    let missing = |file: &str| {
        let singles: Vec<&str> = listing
            .iter()
            .map(String::as_str)
            .filter(|file| !file.contains('/') && (file.ends_with(".safetensors") || file.ends_with(".ckpt")))
            .take(3)
            .collect();
        let hint = if singles.is_empty() {
            "choose a repository in diffusers' layout, with `unet`, `vae` and `text_encoder`".to_string()
        } else {
            format!("download one of its single files ({}) and give its path", singles.join(", "))
        };
        hub_error(id, file, "the repository does not have it".into(), hint)
    };
    let mut files = Vec::new();
    let mut require = |file: String| {
        if listing.contains(&file) {
            files.push(file);
            Ok(())
        } else {
            Err(missing(&file))
        }
    };
    require("model_index.json".into())?;
    require("scheduler/scheduler_config.json".into())?;
    let folders: BTreeMap<&str, BTreeSet<String>> = folders(listing);
    let files_in = |folder: &str| folders.get(folder).cloned().unwrap_or_default();
    let listings: Vec<_> = Part::ALL.into_iter().map(|part| (part, files_in(part.folder()))).collect();
    check_variant(&id.to_string(), &listings, options.variant.as_deref())?;
    for (part, files) in &listings {
        let folder = part.folder();
        require(format!("{folder}/config.json"))?;
        let weights = choose(*part, files, options.variant.as_deref());
        require(weights.map_or(format!("{folder}/weights"), |file| format!("{folder}/{file}")))?;
    }
    let tokenizer = files_in("tokenizer");
    if tokenizer.contains("vocab.json") || !tokenizer.contains("tokenizer.json") {
        require("tokenizer/vocab.json".into())?;
        require("tokenizer/merges.txt".into())?;
    } else {
        require("tokenizer/tokenizer.json".into())?;
    }
    for optional in ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"] {
        if tokenizer.contains(optional) {
            require(format!("tokenizer/{optional}"))?;
        }
    }
    Ok(files)
}

/// File names by the folder they are in, one level deep.
fn folders(listing: &BTreeSet<String>) -> BTreeMap<&str, BTreeSet<String>> {
    let mut folders: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (folder, file) in
        listing.iter().filter_map(|path| path.split_once('/')).filter(|(_, file)| !file.contains(['/', '\\']))
    {
        folders.entry(folder).or_default().insert(file.into());
    }
    folders
}

/// The newest snapshot that the cache has for the revision.
fn cached(cache: &Cache, id: &HubId, reason: &str) -> Result<PathBuf> {
    let repo = cache.repo(Repo::with_revision(id.repo.clone(), RepoType::Model, id.revision.clone()));
    if let Some(index) = repo.get("model_index.json") {
        return Ok(index.parent().map(Path::to_path_buf).unwrap_or_default());
    }
    if is_commit(&id.revision) && repo.pointer_path(&id.revision).is_dir() {
        return Ok(repo.pointer_path(&id.revision));
    }
    Err(hub_error(
        id,
        "model_index.json",
        format!("{reason}, and it is not in the cache `{}`", cache.path().display()),
        format!(
            "no file or folder `{}` exists either; check the name, or fetch it once with the network",
            id.repo
        ),
    ))
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match error.as_ref() {
            ureq::Error::StatusCode(code) => Some(*code),
            _ => None,
        },
        ApiError::TooManyRetries(inner) => status(inner),
        _ => None,
    }
}

fn failure(id: &HubId, file: &str, error: &ApiError) -> FileError {
    let (reason, hint) = match status(error) {
        Some(401 | 403) => (
            "access is denied, or there is no such repository".to_string(),
            format!(
                "no file or folder `{}` exists; if the repository is private or gated, accept its terms and set HF_TOKEN",
                id.repo
            ),
        ),
        Some(404) => (
            "there is no such repository, revision or file".to_string(),
            format!("no file or folder `{}` exists either; check the name for a typing mistake", id.repo),
        ),
        _ => (error.to_string(), "check the network, or set HF_ENDPOINT to a mirror".to_string()),
    };
    hub_error(id, file, reason, hint)
}

fn hub_error(id: &HubId, file: &str, reason: String, hint: String) -> FileError {
    FileError::Hub { repo: id.to_string(), file: file.into(), reason, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read() {
        let set = BTreeMap::from([
            ("HF_HOME", "/data/hf"),
            ("HF_TOKEN", " secret\n"),
            ("HF_ENDPOINT", "https://mirror.example/"),
            ("HF_HUB_OFFLINE", "1"),
        ]);
        let options = HubOptions::from_variables(|name| set.get(name).map(|value| value.to_string()));
        assert_eq!(options.cache.as_deref(), Some(Path::new("/data/hf/hub")));
        assert_eq!(options.token.as_deref(), Some("secret"));
        assert_eq!(options.endpoint.as_deref(), Some("https://mirror.example"));
        assert!(options.offline);
        let empty = HubOptions::from_variables(|name| (name == "HF_TOKEN").then(String::new));
        assert_eq!(empty, HubOptions::default());
    }
}
