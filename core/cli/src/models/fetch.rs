//! Files of the Hugging Face Hub, into the cache that its own library uses and in the same layout: a file's contents are in `blobs`, under
//! the digest that the Hub gives for them, and a commit's folder under `snapshots` links to them. A file is linked once its digest is
//! right, so that what is there is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dtta_base::{listed, sha256_file};
use dtta_models::{HubCache, HubModel, Lora, ModelFiles};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use sha1::{Digest as _, Sha1};
use ureq::Agent;
use ureq::http::{Response, header};

use crate::say::say;

/// What says how images and texts are prepared for a model, where it has that.
const BESIDE: [&str; 11] = [
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

/// What a part of a pipeline of diffusers takes from a folder beside its own: a denoiser which noise it denoises, a text encoder its
/// tokenizer. A ControlNet has the noise of its U-Net, an autoencoder none.
const TAKEN_ALONG: [(&str, &str); 5] = [
    ("unet", "scheduler"),
    ("transformer", "scheduler"),
    ("text_encoder", "tokenizer"),
    ("text_encoder_2", "tokenizer_2"),
    ("text_encoder_3", "tokenizer_3"),
];
/// What is taken of such a folder, so far as it is there.
const ALONG: [&str; 6] = [
    "scheduler_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
];

/// Where the Hub is, unless `HF_ENDPOINT` says otherwise.
const HUB: &str = "https://huggingface.co";
/// The most names that a message lists.
const LISTED: usize = 16;
/// Answers that only point elsewhere, within the Hub.
const MOST_HOPS: usize = 5;

/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// The Hub, as one program speaks to it.
struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What the Hub says of a file.
struct About {
    /// SHA-256 of large files, git's digest of others.
    digest: String,
    bytes: Option<u64>,
}

/// Fetches the files of a model or an adapter that are not in the cache yet: those that are named, or else its configuration and weights, with
/// what it takes from the folders of its pipeline. Says first which.
pub fn fetch(model: &HubModel, files: &[String], cache: &HubCache) -> Result<()> {
    let hub = Hub::new();
    let about = hub.json(&format!(
        "api/models/{}/revision/{}",
        model.repository, model.revision
    ))?;
    let commit = about["sha"]
        .as_str()
        .filter(|commit| is_digest(commit))
        .context("the Hub names no commit")?;
    let siblings = about["siblings"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let all: Vec<&str> = siblings
        .iter()
        .filter_map(|file| file["rfilename"].as_str())
        .collect();
    let prefix = model
        .folder
        .as_ref()
        .map_or(String::new(), |folder| format!("{folder}/"));
    let there: Vec<&str> = all
        .iter()
        .filter_map(|name| name.strip_prefix(&prefix))
        .collect();
    let repository = cache.repository(model);
    let snapshot = repository.join("snapshots").join(commit);
    let get = |name: &str| hub.file(model, commit, &format!("{prefix}{name}"), &repository);
    let tell = |names: &[&str]| say!("`{model}`: {}", quoted(names));
    let adapter = match there.contains(&"config.json") {
        true => Vec::new(),
        false => Lora::files_among(|name| there.contains(&name)),
    };
    if files.is_empty() && !adapter.is_empty() {
        tell(&adapter);
        adapter.iter().try_for_each(|name| get(name))?;
    }
    if files.is_empty() && adapter.is_empty() {
        let weights = ModelFiles::weights_among(|name| there.contains(&name));
        let (true, Some(weights)) = (there.contains(&"config.json"), weights) else {
            let folders = all
                .iter()
                .filter_map(|name| name.strip_suffix("/config.json"));
            let folders: Vec<String> = folders
                .map(|folder| format!("`{}/{folder}`", model.repository))
                .collect();
            match folders.is_empty() || !prefix.is_empty() {
                true => bail!(
                    "`{model}` is no model or adapter that is known by its files, which are {}; name some with `--file`",
                    quoted(&there)
                ),
                false => bail!(
                    "`{model}` is a pipeline; name one of its models: {}",
                    listed(folders, LISTED)
                ),
            }
        };
        let beside = BESIDE.into_iter().filter(|name| there.contains(name));
        let own: Vec<&str> = ["config.json", weights].into_iter().chain(beside).collect();
        tell(&own);
        let along = along(model.folder.as_deref(), &all);
        if !along.is_empty() {
            say!("with what it takes from its pipeline: {}", quoted(&along));
        }
        // Weights last: what is small tells soonest that something is wrong.
        for name in along {
            hub.file(model, commit, name, &repository)?;
        }
        for name in own.iter().filter(|name| **name != weights) {
            get(name)?;
        }
        get(weights)?;
        if weights.ends_with(".json") {
            let index = ModelFiles::find(&snapshot.join(&prefix), None)?;
            for shard in &index.shards {
                let name = shard
                    .file_name()
                    .and_then(|name| name.to_str())
                    .context("a file has no name")?;
                get(name)?;
            }
        }
    }
    for name in files {
        ensure!(
            there.contains(&name.as_str()),
            "`{model}` has no `{name}`; it has {}",
            quoted(&there)
        );
        get(name)?;
    }
    if model.revision != commit {
        let refs = repository.join("refs");
        fs::create_dir_all(&refs).with_context(|| format!("cannot make `{}`", refs.display()))?;
        dtta_base::write_whole(&refs.join(&model.revision), commit.as_bytes())?;
    }
    Ok(())
}

/// What the model in a folder takes from the folders of its pipeline, of the files that there are.
fn along<'a>(folder: Option<&str>, all: &[&'a str]) -> Vec<&'a str> {
    let folder = folder.unwrap_or_default();
    let (above, name) = match folder.rsplit_once('/') {
        Some((above, name)) => (format!("{above}/"), name),
        None => (String::new(), folder),
    };
    let taken = TAKEN_ALONG.into_iter().filter(|(part, _)| *part == name);
    let files = taken.flat_map(|(_, other)| ALONG.map(|file| format!("{above}{other}/{file}")));
    files
        .filter_map(|file| all.iter().copied().find(|there| **there == *file))
        .collect()
}

fn quoted(names: &[&str]) -> String {
    listed(names.iter().map(|name| format!("`{name}`")), LISTED)
}

/// Whether a text is a digest, and so a file name.
fn is_digest(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Hub {
    fn new() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let agent = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("dtta/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: agent.into(),
            endpoint: set("HF_ENDPOINT")
                .unwrap_or_else(|| HUB.into())
                .trim_end_matches('/')
                .into(),
            token: set("HF_TOKEN"),
        }
    }

    /// Asks for `path`, by GET from a byte on or by HEAD. Follows answers that point elsewhere within the Hub; others are the caller's.
    fn ask(&self, path: &str, body: Option<u64>) -> Result<Response<ureq::Body>> {
        let mut url = format!("{}/{path}", self.endpoint);
        for _ in 0..MOST_HOPS {
            let mut request = match body {
                Some(_) => self.agent.get(&url),
                None => self.agent.head(&url),
            };
            request = request.header(header::ACCEPT_ENCODING, "identity");
            if let Some(token) = &self.token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(start @ 1..) = body {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            let response = request
                .call()
                .with_context(|| format!("cannot reach `{url}`"))?;
            let location = text(&response, header::LOCATION.as_str());
            match location
                .filter(|location| location.starts_with('/') && !location.starts_with("//"))
            {
                Some(location) if response.status().is_redirection() => {
                    url = format!("{}{location}", self.endpoint);
                }
                _ => return checked(response, &url),
            }
        }
        bail!("`{url}` points elsewhere again and again")
    }

    fn json(&self, path: &str) -> Result<Value> {
        let response = self.ask(path, Some(0))?;
        let body = response
            .into_body()
            .into_with_config()
            .limit(64 << 20)
            .read_to_vec();
        serde_json::from_slice(&body.context("the answer is cut short")?)
            .context("the answer is no JSON")
    }

    /// Puts a file into the cache, unless it is there.
    fn file(&self, model: &HubModel, commit: &str, name: &str, repository: &Path) -> Result<()> {
        let parts: Vec<&str> = name.split('/').collect();
        let plain = parts
            .iter()
            .all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains('\\'));
        ensure!(plain, "`{name}` is no name for a file of the cache");
        let place = repository.join("snapshots").join(commit).join(name);
        if place.is_file() {
            return Ok(());
        }
        let path = format!("{}/resolve/{commit}/{name}", model.repository);
        let about = self.about(&path)?;
        let blob = repository.join("blobs").join(&about.digest);
        for folder in [blob.parent(), place.parent()].into_iter().flatten() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make `{}`", folder.display()))?;
        }
        if !blob.is_file() {
            let partial = blob.with_extension("incomplete");
            self.download(&path, name, &about, &partial)?;
            if let Err(error) = verify(&partial, &about) {
                // The next try starts afresh.
                dtta_base::remove(&partial)?;
                return Err(error.context(format!("`{name}` of `{model}`")));
            }
            fs::rename(&partial, &blob)
                .with_context(|| format!("cannot write `{}`", blob.display()))?;
        }
        link(&blob, &place, parts.len())
            .with_context(|| format!("cannot write `{}`", place.display()))
    }

    fn about(&self, path: &str) -> Result<About> {
        let response = self.ask(path, None)?;
        let first = |names: [&str; 2]| names.into_iter().find_map(|name| text(&response, name));
        let digest = first(["x-linked-etag", "etag"]).context("the Hub gives no digest")?;
        let digest = digest.trim_start_matches("W/").trim_matches('"').to_owned();
        ensure!(
            is_digest(&digest),
            "the Hub gives `{digest}` as the digest, which is none that can be checked"
        );
        let bytes = first(["x-linked-size", "content-length"]);
        Ok(About {
            digest,
            bytes: bytes.and_then(|bytes| bytes.parse().ok()),
        })
    }

    /// Writes a file to `partial`, from where an earlier try stopped.
    fn download(&self, path: &str, name: &str, about: &About, partial: &Path) -> Result<()> {
        let failed = || format!("cannot write `{}`", partial.display());
        let mut start = fs::metadata(partial).map_or(0, |about| about.len());
        if about.bytes.is_some_and(|bytes| start >= bytes) {
            start = 0;
        }
        let mut response = self.ask(path, Some(start))?;
        // Elsewhere, the Hub's token is nobody's business.
        if let Some(elsewhere) = text(&response, header::LOCATION.as_str())
            .filter(|_| response.status().is_redirection())
        {
            let mut request = self
                .agent
                .get(&elsewhere)
                .config()
                .max_redirects(MOST_HOPS as u32)
                .build();
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            let answer = request.header(header::ACCEPT_ENCODING, "identity").call();
            response = checked(
                answer.with_context(|| format!("cannot reach `{elsewhere}`"))?,
                &elsewhere,
            )?;
        }
        if response.status().as_u16() != 206 {
            start = 0;
        }
        let mut options = OpenOptions::new();
        let options = options
            .create(true)
            .write(true)
            .append(start > 0)
            .truncate(start == 0);
        let mut file = options.open(partial).with_context(failed)?;
        let style =
            ProgressStyle::with_template("{msg} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        let bar = ProgressBar::new(about.bytes.unwrap_or(0)).with_message(name.to_owned());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(start);
        // No more than was announced: a disk is finite.
        let most = about.bytes.map_or(u64::MAX, |bytes| {
            bytes.saturating_sub(start).saturating_add(1)
        });
        let mut body = response.into_body().into_reader().take(most);
        let mut buffer = vec![0; 1 << 17];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("`{name}` broke off; try again to go on from there")
                    });
                }
            };
            file.write_all(&buffer[..count]).with_context(failed)?;
            bar.inc(count as u64);
        }
        file.sync_all().with_context(failed)?;
        bar.finish_and_clear();
        Ok(())
    }
}

/// A header as text.
fn text(response: &Response<ureq::Body>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// Turns an answer that says no into an error.
fn checked(response: Response<ureq::Body>, url: &str) -> Result<Response<ureq::Body>> {
    let status = response.status();
    match status.as_u16() {
        200..=399 => Ok(response),
        401 | 403 => {
            bail!("`{url}` answers {status}: there is none, or it asks for a token; set HF_TOKEN")
        }
        404 => bail!("`{url}` answers {status}: there is none"),
        _ => bail!("`{url}` answers {status}"),
    }
}

/// Checks length and digest: SHA-256 of files that git keeps apart, git's own digest of others.
fn verify(path: &Path, about: &About) -> Result<()> {
    let length = fs::metadata(path)?.len();
    if let Some(bytes) = about.bytes {
        ensure!(
            length == bytes,
            "{length} bytes came, {bytes} were announced"
        );
    }
    let found = match about.digest.len() {
        64 => sha256_file(path)?,
        _ => {
            let mut hash = Sha1::new();
            hash.update(format!("blob {length}\0"));
            io::copy(&mut File::open(path)?, &mut hash)?;
            hash.finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        }
    };
    ensure!(
        found.eq_ignore_ascii_case(&about.digest),
        "its digest is {found}, but the Hub says {}; it was damaged on its way",
        about.digest
    );
    Ok(())
}

/// Links a file of a snapshot to its contents, `depth` folders below the snapshot's.
#[cfg(unix)]
fn link(blob: &Path, place: &Path, depth: usize) -> io::Result<()> {
    let name = blob.file_name().unwrap_or_default();
    let target = Path::new(&"../".repeat(depth + 1)).join("blobs").join(name);
    match std::os::unix::fs::symlink(target, place) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

#[cfg(not(unix))]
fn link(blob: &Path, place: &Path, _depth: usize) -> io::Result<()> {
    fs::hard_link(blob, place).or_else(|_| fs::copy(blob, place).map(drop))
}
