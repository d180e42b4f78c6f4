//! What a model is called in an experiment: a path, or a repository of the Hugging Face Hub, of which the files are looked for in that
//! Hub's cache on this machine. Nothing here uses a network; `dtta models fetch` fills the cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{ModelError, Result};

/// The branch that is meant where no revision is given.
const MAIN: &str = "main";

/// The path that a reference to a model, or to what belongs to one, stands for:
///
/// - `hf:OWNER/REPOSITORY`, `hf:OWNER/REPOSITORY@REVISION` and either with `/FOLDER` behind it: a folder in the cache of the Hugging Face
///   Hub;
/// - `timm:NAME` is `hf:timm/NAME`, such as `timm:convnext_tiny.fb_in1k`;
/// - anything else is the path of a file or a folder, from `base` on unless it is absolute.
///
/// # Errors
/// [`ModelError::Reference`] for one that names no repository, [`ModelError::NotCached`] for one that is not in the cache.
pub fn locate(reference: impl AsRef<Path>, base: &Path) -> Result<PathBuf> {
    let reference = reference.as_ref();
    let text = reference.to_str();
    match text.map(HubModel::parse).transpose()?.flatten() {
        Some(model) => {
            let folder = HubCache::from_environment().find(&model)?;
            log::info!("`{}` is `{}`", reference.display(), folder.display());
            Ok(folder)
        }
        None => Ok(base.join(reference)),
    }
}

/// A model in a repository of the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// `OWNER/REPOSITORY`.
    pub repository: String,
    /// A branch, a tag or a commit; `main` if none is given.
    pub revision: String,
    /// The folder of the model in the repository; none for the repository itself.
    pub folder: Option<String>,
}

impl HubModel {
    /// The model that a reference with the prefix `hf:` or `timm:` names; `None` for one without.
    ///
    /// # Errors
    /// [`ModelError::Reference`].
    pub fn parse(reference: &str) -> Result<Option<Self>> {
        let named = match (
            reference.strip_prefix("hf:"),
            reference.strip_prefix("timm:"),
        ) {
            (Some(named), _) => named.to_owned(),
            (_, Some(name)) => format!("timm/{name}"),
            _ => return Ok(None),
        };
        let refuse = || ModelError::Reference {
            reference: reference.into(),
        };
        Self::named(&named).ok_or_else(refuse).map(Some)
    }

    /// `OWNER/REPOSITORY[@REVISION][/FOLDER]`.
    pub fn named(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (owner, name) = (parts.next()?, parts.next()?);
        let folder: Vec<&str> = parts.collect();
        let (name, revision) = name.split_once('@').unwrap_or((name, MAIN));
        let all = [owner, name, revision]
            .into_iter()
            .chain(folder.iter().copied());
        let plain = all.clone().all(is_plain) && !owner.contains("--") && !name.contains("--");
        plain.then(|| Self {
            repository: format!("{owner}/{name}"),
            revision: revision.into(),
            folder: (!folder.is_empty()).then(|| folder.join("/")),
        })
    }
}

/// Whether a part of a reference is a name, with no way out of a folder.
fn is_plain(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !part.is_empty() && !part.starts_with('.') && part.chars().all(plain)
}

impl std::fmt::Display for HubModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        self.folder
            .iter()
            .try_for_each(|folder| write!(f, "/{folder}"))
    }
}

/// The cache of the Hugging Face Hub, as its own library lays it out: `models--OWNER--NAME` with `refs/REVISION`, which holds a commit, and
/// `snapshots/COMMIT`, which holds the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    folder: PathBuf,
}

impl HubCache {
    /// The cache in a folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The cache that the Hub's own library would use: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or in `huggingface` in `XDG_CACHE_HOME` or
    /// `~/.cache`.
    pub fn from_environment() -> Self {
        let set = |name: &str| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = || env::home_dir().unwrap_or_else(|| ".".into());
        Self::at(set("HF_HUB_CACHE").unwrap_or_else(|| {
            let all = set("HF_HOME").unwrap_or_else(|| {
                let caches = set("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"));
                caches.join("huggingface")
            });
            all.join("hub")
        }))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a repository.
    pub fn repository(&self, model: &HubModel) -> PathBuf {
        let name = model.repository.replace('/', "--");
        self.folder.join(format!("models--{name}"))
    }

    /// The commit that a model's revision is, if the cache knows: itself, or the one that it was when it was last fetched.
    pub fn commit(&self, model: &HubModel) -> Option<String> {
        let repository = self.repository(model);
        let commit = fs::read_to_string(repository.join("refs").join(&model.revision));
        let commit = commit.map_or_else(
            |_| model.revision.clone(),
            |commit| commit.trim().to_owned(),
        );
        let known = is_plain(&commit) && repository.join("snapshots").join(&commit).is_dir();
        known.then_some(commit)
    }

    /// The folder with a model's files.
    ///
    /// # Errors
    /// [`ModelError::NotCached`].
    pub fn find(&self, model: &HubModel) -> Result<PathBuf> {
        let snapshot = self
            .commit(model)
            .map(|commit| self.repository(model).join("snapshots").join(commit));
        let folder = snapshot.map(|snapshot| match &model.folder {
            Some(folder) => snapshot.join(folder),
            None => snapshot,
        });
        folder
            .filter(|folder| folder.is_dir())
            .ok_or_else(|| ModelError::NotCached {
                model: model.to_string(),
                cache: self.folder.clone(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_repositories_revisions_and_folders() {
        let parsed = |text: &str| {
            HubModel::parse(text)
                .map(|model| model.map(|model| (model.repository, model.revision, model.folder)))
        };
        let expected = |repository: &str, revision: &str, folder: Option<&str>| {
            Ok(Some((
                repository.to_owned(),
                revision.to_owned(),
                folder.map(str::to_owned),
            )))
        };
        for (text, parts) in [
            (
                "timm:convnext_tiny.fb_in1k",
                expected("timm/convnext_tiny.fb_in1k", "main", None),
            ),
            (
                "hf:facebook/DiT-XL-2-256/transformer",
                expected("facebook/DiT-XL-2-256", "main", Some("transformer")),
            ),
            ("hf:a/b@v1.0/c/d", expected("a/b", "v1.0", Some("c/d"))),
        ] {
            let parts: std::result::Result<_, ModelError> = parts;
            assert_eq!(parsed(text).unwrap(), parts.unwrap(), "{text}");
        }
        assert_eq!(parsed("models/a.json").unwrap(), None);
        for wrong in [
            "hf:",
            "hf:gpt2",
            "hf:a/../b",
            "hf:a/b@",
            "hf:a/b/../../x",
            "timm:",
            "timm:.x",
            "hf:a/b@../x",
            "hf:a--b/c",
        ] {
            let error = parsed(wrong).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn revisions_are_found_by_branch_and_by_commit() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::at(folder.path());
        let model = |text: &str| HubModel::named(text).unwrap();
        let error = cache.find(&model("a/b")).unwrap_err().to_string();
        assert!(
            error.contains("`a/b`") && error.contains("dtta models fetch a/b"),
            "{error}"
        );
        let repository = cache.repository(&model("a/b"));
        assert!(repository.ends_with("models--a--b"));
        let snapshot = repository.join("snapshots/0123abcd");
        fs::create_dir_all(snapshot.join("vae")).unwrap();
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "0123abcd").unwrap();
        assert_eq!(cache.find(&model("a/b")).unwrap(), snapshot);
        assert_eq!(
            cache.find(&model("a/b@0123abcd/vae")).unwrap(),
            snapshot.join("vae")
        );
        assert!(cache.find(&model("a/b/unet")).is_err());
        assert!(cache.find(&model("a/b@v2")).is_err());
        // What a reference holds is no path.
        fs::write(repository.join("refs/main"), "../refs").unwrap();
        assert!(cache.find(&model("a/b")).is_err());
    }
}
