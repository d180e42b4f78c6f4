//! Finding plugins. A reference is a path, a name in one of the plugin folders, or the name of a plugin
//! in this program, which `linked:` before it picks at once. Listing reads manifests and executes nothing.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use dtta_abi::Entry;

use crate::environment::Loading;
use crate::error::{PluginError, Result};
use crate::manifest::Manifest;
use crate::plugin::{LoaderKind, Plugin};

/// The environment variable with further plugin folders, separated as in `PATH`.
pub const PLUGIN_PATH: &str = "DTTA_PLUGIN_PATH";

const LINKED: &str = "linked:";

/// Where plugins are found.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    linked: BTreeMap<String, Entry>,
    folders: Vec<PathBuf>,
}

/// A plugin that could be loaded, or a manifest that is wrong.
#[derive(Debug)]
pub struct Listing {
    /// What to write in an experiment.
    pub reference: String,
    /// How it would be run.
    pub loader: LoaderKind,
    /// What its manifest says.
    pub manifest: Result<Manifest>,
}

impl Registry {
    /// A registry that also looks in the folders of `DTTA_PLUGIN_PATH`.
    pub fn from_environment() -> Self {
        let folders = env::var_os(PLUGIN_PATH).map(|path| env::split_paths(&path).collect());
        Self {
            linked: BTreeMap::new(),
            folders: folders.unwrap_or_default(),
        }
    }

    /// Adds a folder to look in, after the experiment's own.
    pub fn add_folder(&mut self, folder: impl Into<PathBuf>) {
        self.folders.push(folder.into());
    }

    /// Adds a plugin that is linked into this program, as `linked:NAME`.
    pub fn register_linked(&mut self, name: impl Into<String>, entry: Entry) {
        self.linked.insert(name.into(), entry);
    }

    /// Loads the plugin that a reference names, whatever its digest and with the ordinary limits.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn find(&self, reference: &str, base_dir: &Path) -> Result<Plugin> {
        self.load(reference, base_dir, &Loading::default())
    }

    /// Loads the plugin that a reference names.
    ///
    /// In this order: `linked:NAME`; a path from `base_dir`, the experiment's folder, to a
    /// manifest, a component, a library, or a folder with either `plugin.json` or `dist/plugin.json`; a
    /// name in `base_dir/plugins`; a name in the further folders; the name of a linked plugin.
    ///
    /// # Errors
    /// [`PluginError::NotFound`] with everything that was looked at, [`PluginError::Unbuilt`] for the source of a plugin, or what loading
    /// refuses.
    pub fn load(&self, reference: &str, base_dir: &Path, loading: &Loading) -> Result<Plugin> {
        if let Some(name) = reference.strip_prefix(LINKED) {
            let Some(&entry) = self.linked.get(name) else {
                let linked = self.linked.keys();
                let searched = linked.map(|name| format!("`{LINKED}{name}`")).collect();
                return Err(not_found(reference, searched));
            };
            return Plugin::linked(name, entry)?.pinned(loading);
        }
        match (self.locate(reference, base_dir), self.linked.get(reference)) {
            (Ok(path), _) => Plugin::open(&path, loading),
            (Err(_), Some(&entry)) => Plugin::linked(reference, entry)?.pinned(loading),
            (Err(error), None) => Err(error),
        }
    }

    /// The manifest or the artifact that a reference leads to, which is not `linked:`. Opens nothing.
    ///
    /// # Errors
    /// [`PluginError::NotFound`] with everything that was looked at, or [`PluginError::Unbuilt`] for the source of a plugin.
    pub fn locate(&self, reference: &str, base_dir: &Path) -> Result<PathBuf> {
        let mut searched = Vec::new();
        let mut unbuilt = None;
        for root in self.roots(reference, base_dir) {
            let path = root.join(reference);
            // A name means a file only if that can be a plugin: a file of notes may have the name of a plugin elsewhere.
            let may_be = |candidate: &Path| {
                is_path(reference) || candidate != path || has_extension_of_a_plugin(candidate)
            };
            let found = candidates(&path)
                .into_iter()
                .find(|candidate| candidate.is_file() && may_be(candidate));
            match found {
                Some(found) => return Ok(found),
                None if path.is_file() => {
                    searched.push(format!("`{}` (a file, but not a plugin)", path.display()));
                }
                None if path.exists() && !path.is_dir() => {
                    searched.push(format!("`{}` (not a regular file)", path.display()));
                }
                None => {
                    if is_source(&path) {
                        unbuilt.get_or_insert_with(|| path.clone());
                    }
                    searched.push(format!("`{}`", path.display()));
                }
            }
        }
        if let Some(path) = unbuilt {
            return Err(PluginError::Unbuilt { path });
        }
        if !is_path(reference) {
            searched.extend(self.linked.keys().map(|name| format!("`{LINKED}{name}`")));
        }
        let mut error = not_found(reference, searched);
        let name = Path::new(reference).file_name().and_then(OsStr::to_str);
        if let (PluginError::NotFound { searched, .. }, Some(name)) = (&mut error, name)
            && is_path(reference)
            && self.linked.contains_key(name)
        {
            *searched += &format!("; `{name}` without a path is linked into this program");
        }
        Err(error)
    }

    /// Every plugin that a name could mean for an experiment in `base_dir`.
    pub fn list(&self, base_dir: &Path) -> Vec<Listing> {
        let mut found = Vec::new();
        for root in self.roots("", base_dir) {
            let Ok(entries) = fs::read_dir(&root) else {
                continue;
            };
            let mut folders: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            folders.sort();
            for folder in folders.iter().filter(|folder| folder.is_dir()) {
                let manifest = candidates(folder)
                    .into_iter()
                    .find(|path| path.is_file() && is_manifest(path));
                if let Some(manifest) = manifest {
                    let manifest = Manifest::read(&manifest);
                    let artifact = manifest.as_ref().ok().and_then(|m| m.artifact.as_ref());
                    found.push(Listing {
                        reference: folder.display().to_string(),
                        loader: artifact.map_or(LoaderKind::Wasm, |file| {
                            LoaderKind::of_file(Path::new(file))
                        }),
                        manifest,
                    });
                }
            }
        }
        for (name, &entry) in &self.linked {
            found.push(Listing {
                reference: format!("{LINKED}{name}"),
                loader: LoaderKind::Linked,
                manifest: Plugin::linked(name, entry).map(|plugin| plugin.descriptor().clone()),
            });
        }
        found
    }

    /// The folders in which a reference may be a path. One with a separator is a path from the experiment only.
    fn roots(&self, reference: &str, base_dir: &Path) -> Vec<PathBuf> {
        if is_path(reference) {
            return vec![base_dir.into()];
        }
        let mut roots = Vec::new();
        if !reference.is_empty() {
            roots.push(base_dir.into());
        }
        roots.push(base_dir.join("plugins"));
        roots.extend(self.folders.iter().cloned());
        roots
    }
}

fn not_found(reference: &str, searched: Vec<String>) -> PluginError {
    PluginError::NotFound {
        reference: reference.into(),
        searched: match searched.is_empty() {
            true => "nothing: none is linked".into(),
            false => searched.join(", "),
        },
    }
}

/// Whether a reference is a path rather than a name.
fn is_path(reference: &str) -> bool {
    let path = Path::new(reference);
    path.components().count() > 1 || path.is_absolute() || matches!(reference, "." | "..")
}

fn has_extension_of_a_plugin(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("json" | "wasm" | "so" | "dylib" | "dll"))
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "json")
}

/// The files that a path may mean.
fn candidates(path: &Path) -> Vec<PathBuf> {
    let mut component = path.as_os_str().to_owned();
    component.push(".wasm");
    vec![
        path.into(),
        path.join("plugin.json"),
        path.join("dist").join("plugin.json"),
        component.into(),
    ]
}

/// Whether a folder is what `dtta plugins build` takes: a crate, or C.
fn is_source(folder: &Path) -> bool {
    let is_c = |entry: fs::DirEntry| entry.path().extension().is_some_and(|name| name == "c");
    folder.join("Cargo.toml").is_file()
        || fs::read_dir(folder.join("src"))
            .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_c)))
}
