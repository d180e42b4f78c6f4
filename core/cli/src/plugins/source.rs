//! Where a plugin's code is, and the digest of what it is built from.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use dtta_base::Digest;

use super::build::read;
use super::c;
use super::toolchain::{PROFILE, TARGET};

/// The package that plugins are written with.
const SDK: &str = "dtta-sdk";

/// A plugin's folder.
pub(super) struct Source {
    /// What its artifacts are called.
    pub(super) package: String,
    /// Empty where the descriptor alone has one.
    pub(super) description: String,
    pub(super) folder: PathBuf,
    /// sha256 of what it is built from.
    pub(super) digest: String,
    pub(super) code: Code,
}

/// What it is written in.
pub(super) enum Code {
    /// A crate.
    Rust(Project),
    /// C files under `src/`; those in `src/native/` are for the shared library alone, those in `src/wasm/` for the
    /// component.
    C,
}

/// The workspace that a plugin's crate belongs to.
pub(super) struct Project {
    pub(super) root: PathBuf,
    /// The checkout with the SDK, where the plugin uses one.
    pub(super) sdk: Option<PathBuf>,
}

impl Source {
    /// The plugin in `folder`.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        if folder.join("Cargo.toml").is_file() {
            return Self::of_crate(folder);
        }
        let folder = fs::canonicalize(folder)
            .with_context(|| format!("there is no folder `{}`", folder.display()))?;
        let files = c::files(&folder, &["src", "src/wasm", "src/native"])
            .ok()
            .filter(|files| !files.is_empty())
            .with_context(|| {
                format!(
                    "`{}` has neither a `Cargo.toml` nor C files in `src`",
                    folder.display()
                )
            })?;
        let name = folder.file_name().unwrap_or_default();
        Ok(Self {
            package: name.to_string_lossy().into_owned(),
            description: String::new(),
            digest: c::digest(&folder, files)?,
            folder,
            code: Code::C,
        })
    }

    fn of_crate(folder: &Path) -> Result<Self> {
        let manifest = fs::canonicalize(folder.join("Cargo.toml"))
            .with_context(|| format!("there is no crate at `{}`", folder.display()))?;
        let metadata = MetadataCommand::new()
            .manifest_path(&manifest)
            .other_options(["--filter-platform".to_owned(), TARGET.to_owned()])
            .exec()
            .with_context(|| {
                format!(
                    "cargo cannot resolve the dependencies of `{}`",
                    manifest.display()
                )
            })?;
        let mut packages = metadata.packages.iter();
        let package = packages
            .find(|package| package.manifest_path == manifest)
            .with_context(|| format!("`{}` is not a package", manifest.display()))?;
        let mut packages = metadata.packages.iter();
        let sdk = packages
            .find(|package| package.name == SDK && package.source.is_none())
            .and_then(|package| package.manifest_path.ancestors().nth(3));
        Ok(Self {
            package: package.name.to_string(),
            description: package.description.clone().unwrap_or_default(),
            digest: source_digest(package, &metadata)?,
            folder: folder.to_owned(),
            code: Code::Rust(Project {
                sdk: sdk.map(Into::into),
                root: metadata.workspace_root.into(),
            }),
        })
    }

    pub(super) fn dist(&self) -> PathBuf {
        self.folder.join("dist")
    }

    pub(super) fn component(&self) -> String {
        format!("{}.wasm", self.package)
    }

    /// Where files lie on the way to an artifact.
    pub(super) fn target(&self) -> PathBuf {
        match &self.code {
            Code::Rust(project) => project.target(),
            Code::C => self.folder.join("target"),
        }
    }
}

impl Project {
    /// Whether its workspace is not that of the SDK that it uses.
    pub(super) fn is_apart(&self) -> bool {
        self.sdk.as_ref().is_some_and(|sdk| *sdk != self.root)
    }

    /// Where it is compiled. Plugins with a workspace of their own share one folder, in the SDK's checkout, so that the SDK is compiled once
    /// and not once for each.
    pub(super) fn target(&self) -> PathBuf {
        match &self.sdk {
            Some(sdk) if self.is_apart() && is_writable(sdk) => sdk.join("target/plugins"),
            _ => self.root.join("target"),
        }
    }

    /// Versions are those of the lock file, where there is one.
    pub(super) fn locked(&self) -> Option<&'static str> {
        self.root.join("Cargo.lock").is_file().then_some("--locked")
    }
}

/// Whether a folder can be written to, as a checkout that was installed for all users cannot.
fn is_writable(folder: &Path) -> bool {
    fs::create_dir_all(folder.join("target/plugins")).is_ok()
}

/// sha256 over whatever decides what a plugin does: how it is compiled, the sources of every
/// local crate that it is built from, the interface, and the locked versions of all other crates.
fn source_digest(plugin: &Package, metadata: &Metadata) -> Result<String> {
    let nodes = metadata.resolve.iter().flat_map(|graph| &graph.nodes);
    let mut reached = BTreeSet::from([&plugin.id]);
    let mut open = vec![&plugin.id];
    while let Some(id) = open.pop() {
        let node = nodes.clone().find(|node| node.id == *id);
        for dependency in node.into_iter().flat_map(|node| &node.deps) {
            let mut kinds = dependency.dep_kinds.iter();
            let is_for_tests = kinds.all(|kind| kind.kind == DependencyKind::Development);
            if !is_for_tests && reached.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    let mut packages: Vec<&Package> = metadata
        .packages
        .iter()
        .filter(|package| reached.contains(&package.id))
        .collect();
    packages.sort_by_key(|package| (&package.name, &package.version));
    let mut digest = Digest::new();
    digest.field(PROFILE.join("\n"));
    for package in packages {
        let Package {
            name,
            version,
            edition,
            ..
        } = package;
        digest.field(format!("{name} {version} {edition}"));
        let Some(folder) = package.manifest_path.parent() else {
            continue;
        };
        if package.source.is_some() {
            continue;
        }
        let folder = folder.as_std_path();
        let mut files = BTreeSet::from([folder.join("Cargo.toml")]);
        collect(&folder.join("src"), &mut files)?;
        if package.name == SDK {
            let interface = folder.join("../../wit");
            files.extend(["types.wit", "roles.wit"].map(|name| interface.join(name)));
        }
        for file in files {
            add(&mut digest, folder, &file, &read(&file)?);
        }
    }
    Ok(digest.finish())
}

/// Adds a file under its name in the plugin's folder.
pub(super) fn add(digest: &mut Digest, folder: &Path, file: &Path, bytes: &[u8]) {
    let name = file.strip_prefix(folder).unwrap_or(file);
    digest.field(name.to_string_lossy().replace('\\', "/"));
    digest.field(bytes);
}

fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../plugins/{name}"))
    }

    #[test]
    fn finds_the_crate_and_digests_its_sources() {
        let source = Source::of(&plugin("classification")).unwrap();
        assert_eq!(source.package, "dtta-plugin-classification");
        assert_eq!(source.digest.len(), 64);
        let Code::Rust(project) = &source.code else {
            panic!("it is a crate")
        };
        assert_eq!(project.sdk.as_deref(), Some(&*project.root));
        assert_eq!(project.locked(), Some("--locked"));
        assert!(Source::of(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn finds_c_files_and_digests_them() {
        let source = Source::of(&plugin("margin")).unwrap();
        assert!(matches!(source.code, Code::C));
        assert_eq!(source.component(), "margin.wasm");
        let copy = tempfile::tempdir().unwrap();
        let folder = copy.path().join("margin");
        fs::create_dir_all(folder.join("src")).unwrap();
        let error = Source::of(&folder).err().unwrap().to_string();
        assert!(
            error.contains("neither a `Cargo.toml` nor C files"),
            "{error}"
        );
        fs::copy(plugin("margin/src/margin.c"), folder.join("src/margin.c")).unwrap();
        let before = Source::of(&folder).unwrap().digest;
        assert_ne!(before, source.digest);
        fs::write(folder.join("src/margin.h"), "").unwrap();
        assert_ne!(Source::of(&folder).unwrap().digest, before);
    }
}
