//! A loaded plugin: what it says of itself, and configured roles made from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta_base::{Issue, sha256};
use dtta_tensor::Named;
use serde_json::{Value, json};

use crate::artifact;
use crate::checked::{CheckedHead, CheckedMapper, CheckedObjective, SlotSpec};
use crate::environment::{Environment, Loading};
use crate::error::{PluginError, Result};
use crate::manifest::{
    INTERFACE_VERSION, MANIFEST_SCHEMA_VERSION, Manifest, Needs, Role, digest_of, join,
};
use crate::native::{self, NativeHead, NativeMapper, NativeMetric, NativeObjective, NativePlugin};
use crate::own::{Means, Own};
use crate::roles::{Head, Mapper, Metric, Objective};
use crate::saved::Saved;
use crate::task::{Predicts, ScoreSpec};
use crate::wasm::{self, WasmHead, WasmMapper, WasmMetric, WasmObjective, WasmPlugin};

/// How a plugin is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoaderKind {
    /// A WebAssembly component, in a sandbox.
    Wasm,
    /// Linked into this program.
    Linked,
    /// A shared library with the rights of this program.
    Native,
    /// A function of this program in the place of a plugin.
    Program,
}

impl LoaderKind {
    /// How a file would be run, by its extension.
    pub fn of_file(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("so" | "dylib" | "dll") => Self::Native,
            _ => Self::Wasm,
        }
    }
}

impl fmt::Display for LoaderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wasm => "wasm",
            Self::Linked => "linked",
            Self::Native => "native",
            Self::Program => "program",
        })
    }
}

/// A loaded plugin. Cheap to clone.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    manifest: Manifest,
    origin: PathBuf,
    digest: String,
    loaded: Loaded,
}

enum Loaded {
    Wasm(Arc<WasmPlugin>),
    Linked(Arc<NativePlugin>),
    Native(Arc<NativePlugin>),
    Own(Own),
}

/// Makes a role with whichever loader holds the plugin.
macro_rules! make {
    ($plugin:expr, $role:expr, $wasm:ident, $native:ident ( $($argument:expr),* )) => {
        match &$plugin.0.loaded {
            Loaded::Wasm(component) => Box::new($wasm::new(component.clone(), $($argument),*)?),
            Loaded::Linked(native) | Loaded::Native(native) => {
                Box::new($native::new(native, $($argument),*)?)
            }
            Loaded::Own(_) => return Err($plugin.lacks($role)),
        }
    };
}

impl Plugin {
    /// As [`open`](Self::open), for a manifest whatever its name, with the ordinary limits.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_manifest(path: &Path) -> Result<Self> {
        Self::open_manifest(path, &Loading::default())
    }

    /// As [`open`](Self::open), with the ordinary limits.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::open(path, &Loading::default())
    }

    /// Loads the component or the library that a manifest (`.json`) names, after checking its digest; or one by its file, with
    /// the manifest beside it if that names the file. Otherwise the plugin describes itself.
    ///
    /// A shared library is trusted code, with the rights of this program, from the moment it is opened, and stays in memory.
    ///
    /// # Errors
    /// [`PluginError::Read`], [`PluginError::Manifest`], [`PluginError::Artifact`], [`PluginError::Digest`], [`PluginError::Pin`],
    /// [`PluginError::Compiling`], [`PluginError::NotAComponent`], [`PluginError::NotALibrary`],
    /// [`PluginError::ForbiddenImport`], [`PluginError::Interface`], [`PluginError::MissingRole`]; and those of running `describe`.
    pub fn open(path: &Path, loading: &Loading) -> Result<Self> {
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            return Self::open_manifest(path, loading);
        }
        if let Some(manifest) = manifest_beside(path)? {
            return Self::open_manifest(&manifest, loading);
        }
        artifact::plain_file(path)?;
        match LoaderKind::of_file(path) {
            LoaderKind::Native => {
                let digest = pinned(path, digest_of(path)?, loading)?;
                Self::from_library(path.into(), digest)
            }
            _ => Self::from_component_file(path, loading),
        }
    }

    fn open_manifest(path: &Path, loading: &Loading) -> Result<Self> {
        let manifest = Manifest::read(path)?;
        let refuse = |message: &str| PluginError::Manifest {
            path: path.into(),
            message: message.into(),
        };
        let file = manifest
            .artifact
            .as_ref()
            .ok_or_else(|| refuse("it names no artifact"))?;
        let expected = manifest
            .sha256
            .clone()
            .ok_or_else(|| refuse("it has no sha256 of its artifact"))?;
        let artifact = artifact::within(path.parent().unwrap_or(Path::new("")), file)?;
        let matching = |found: String| match found.eq_ignore_ascii_case(&expected) {
            true => pinned(&artifact, found, loading),
            false => Err(PluginError::Digest {
                path: artifact.clone(),
                expected: expected.clone(),
                found,
            }),
        };
        if LoaderKind::of_file(&artifact) == LoaderKind::Native {
            let digest = matching(digest_of(&artifact)?)?;
            return Self::from_library(artifact, digest);
        }
        let bytes = artifact::component(&artifact, &loading.compiling)?;
        let digest = matching(sha256(&bytes))?;
        let component = wasm::load(&manifest.name, &artifact, &bytes, &loading.compiling)?;
        Self::from_component(manifest, artifact, digest, component)
    }

    fn from_library(path: PathBuf, digest: String) -> Result<Self> {
        let (library, manifest) = NativePlugin::load(&path, native::open(&path)?)?;
        let roles = library.roles();
        let loaded = Loaded::Native(Arc::new(library));
        Self::new(manifest, path, digest, &roles, loaded)
    }

    fn from_component_file(path: &Path, loading: &Loading) -> Result<Self> {
        let bytes = artifact::component(path, &loading.compiling)?;
        let digest = pinned(path, sha256(&bytes), loading)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut component = wasm::load(&stem, path, &bytes, &loading.compiling)?;
        if !component.describes {
            return Err(PluginError::Undescribed { path: path.into() });
        }
        let role = component.roles.first().copied().unwrap_or(Role::Head);
        let manifest = Manifest::parse(&wasm::describe(&component, role)?, path)?;
        component.name.clone_from(&manifest.name);
        Self::from_component(manifest, path.into(), digest, component)
    }

    fn from_component(
        manifest: Manifest,
        origin: PathBuf,
        digest: String,
        component: WasmPlugin,
    ) -> Result<Self> {
        let roles = component.roles.clone();
        Self::new(
            manifest,
            origin,
            digest,
            &roles,
            Loaded::Wasm(Arc::new(component)),
        )
    }

    /// A plugin that is linked into this program, under its `linked:` name. It has no artifact of its own: its digest is that of
    /// the source it says it was built from, or else of its description alone, which other code may share. What runs is then
    /// told by the program's version.
    ///
    /// # Errors
    /// [`PluginError::Interface`], [`PluginError::Manifest`], [`PluginError::MissingRole`].
    pub fn linked(name: &str, entry: dtta_abi::Entry) -> Result<Self> {
        let origin = PathBuf::from(format!("linked:{name}"));
        let (linked, manifest) = NativePlugin::load(&origin, entry)?;
        let digest = manifest.source_digest.clone().unwrap_or_else(|| {
            // A manifest is made of strings, lists and maps with string keys, which JSON has.
            sha256(
                serde_json::to_string(&manifest)
                    .unwrap_or_default()
                    .as_bytes(),
            )
        });
        let roles = linked.roles();
        let loaded = Loaded::Linked(Arc::new(linked));
        Self::new(manifest, origin, digest, &roles, loaded)
    }

    /// A mapper of the program's own, in the place of a plugin's, that descriptions of runs call `name`. `make` makes one for a denoiser with
    /// these slots, to which its answers are held. `digest` says what it computes: two runs with different digests are different runs, and
    /// what it leaves out nobody sees.
    ///
    /// # Errors
    /// [`PluginError::Manifest`] for a name that is empty.
    pub fn own_mapper(
        name: &str,
        digest: &str,
        make: impl Fn(&[SlotSpec], &Environment) -> Result<Box<dyn Mapper>> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::own(name, digest, Vec::new(), Own::Mapper(Arc::new(make)))
    }

    /// A metric of the program's own, likewise: `score` gives the scores of one sample by name, from predictions and targets of one row, and
    /// their means over samples are reported. Each sample has the same scores, and `scores` says how they are to be read.
    ///
    /// # Errors
    /// [`PluginError::Manifest`] for a name that is empty, or scores that contradict themselves.
    pub fn own_metric(
        name: &str,
        digest: &str,
        scores: Vec<ScoreSpec>,
        score: impl Fn(&Named, &Named) -> Result<BTreeMap<String, f64>> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::own(name, digest, scores, Own::Metric(Arc::new(score)))
    }

    fn own(name: &str, digest: &str, scores: Vec<ScoreSpec>, own: Own) -> Result<Self> {
        let role = own.role();
        let manifest = Manifest {
            schema_version: MANIFEST_SCHEMA_VERSION,
            name: name.into(),
            version: "unversioned".into(),
            description: String::new(),
            interface: INTERFACE_VERSION.into(),
            roles: vec![role],
            artifact: None,
            sha256: None,
            config_schema: BTreeMap::new(),
            needs: Needs::default(),
            predicts: None,
            additive: role == Role::Metric,
            scores,
            built_with: None,
            source_digest: None,
        };
        let problem = match name.is_empty() {
            true => Some("it has no name".into()),
            false => manifest.problem(),
        };
        if let Some(message) = problem {
            let path = PathBuf::from(name);
            return Err(PluginError::Manifest { path, message });
        }
        Self::new(
            manifest,
            name.into(),
            digest.into(),
            &[role],
            Loaded::Own(own),
        )
    }

    fn new(
        manifest: Manifest,
        origin: PathBuf,
        digest: String,
        offered: &[Role],
        loaded: Loaded,
    ) -> Result<Self> {
        if let Some(&role) = manifest.roles.iter().find(|role| !offered.contains(role)) {
            return Err(PluginError::MissingRole {
                plugin: manifest.name,
                role,
                offered: join(offered),
            });
        }
        if manifest.roles.is_empty() {
            let message = format!("it offers no role; a plugin is one of {}", join(&Role::ALL));
            return Err(PluginError::Manifest {
                path: origin,
                message,
            });
        }
        for (role, schema) in &manifest.config_schema {
            if let Err(error) = jsonschema::draft202012::new(schema) {
                return Err(PluginError::Manifest {
                    path: origin,
                    message: format!("the config schema of `{role}` is not a JSON Schema: {error}"),
                });
            }
        }
        Ok(Self(Arc::new(Inner {
            manifest,
            origin,
            digest,
            loaded,
        })))
    }

    /// The name that experiments and messages use.
    pub fn name(&self) -> &str {
        &self.0.manifest.name
    }

    /// The plugin's own version.
    pub fn version(&self) -> &str {
        &self.0.manifest.version
    }

    /// The interface that it was built for.
    pub fn interface(&self) -> &str {
        &self.0.manifest.interface
    }

    /// What it offers.
    pub fn roles(&self) -> &[Role] {
        &self.0.manifest.roles
    }

    /// How it is run.
    pub fn loader(&self) -> LoaderKind {
        match self.0.loaded {
            Loaded::Wasm(_) => LoaderKind::Wasm,
            Loaded::Linked(_) => LoaderKind::Linked,
            Loaded::Native(_) => LoaderKind::Native,
            Loaded::Own(_) => LoaderKind::Program,
        }
    }

    /// sha256 of the artifact, in lower-case hexadecimal; of a linked plugin, what [`linked`](Self::linked) says; of the program's own, what the
    /// program says.
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// The file it was loaded from, or `linked:` and its name.
    pub fn origin(&self) -> &Path {
        &self.0.origin
    }

    /// Everything it says of itself.
    pub fn descriptor(&self) -> &Manifest {
        &self.0.manifest
    }

    /// The tensor operations that it asks the host for, in snake case: read from the component,
    /// or what a native plugin says.
    pub fn operations(&self) -> &[String] {
        match &self.0.loaded {
            Loaded::Wasm(component) => &component.ops,
            Loaded::Linked(_) | Loaded::Native(_) | Loaded::Own(_) => &self.0.manifest.needs.ops,
        }
    }

    /// What its head predicts, if it says so. What the head then predicts is held to it.
    pub fn predicts(&self) -> Option<&Predicts> {
        self.0.manifest.predicts.as_ref()
    }

    /// How the scores of its metric are to be read, as far as it says so.
    pub fn scores(&self) -> &[ScoreSpec] {
        &self.0.manifest.scores
    }

    /// Whether saved accumulators of its metric may be summed with [`Layout`](crate::Layout).
    pub fn additive(&self) -> bool {
        self.0.manifest.additive
    }

    /// The JSON Schema of a role's config, if the plugin gives one.
    pub fn config_schema(&self, role: Role) -> Option<&Value> {
        self.0.manifest.config_schema.get(&role)
    }

    /// Holds a config to the role's schema. Without a schema, everything passes.
    ///
    /// # Errors
    /// Everything that the schema refuses, each with its place in the config.
    pub fn validate_config(&self, role: Role, config: &Value) -> Result<(), Vec<Issue>> {
        let Some(schema) = self.config_schema(role) else {
            return Ok(());
        };
        let issues = dtta_base::check(config, schema);
        if issues.is_empty() {
            Ok(())
        } else {
            Err(issues)
        }
    }

    /// Makes its head. What it predicts is held to what the plugin [says](Self::predicts). A config of null means none: `{}`.
    ///
    /// # Errors
    /// [`PluginError::MissingRole`], [`PluginError::Config`], or what the plugin answers with.
    pub fn head(&self, config: &Value, environment: &Environment) -> Result<Box<dyn Head>> {
        let config = self.configure(Role::Head, config)?;
        let environment = environment.clone();
        let head: Box<dyn Head> = make!(
            self,
            Role::Head,
            WasmHead,
            NativeHead(config, String::new(), environment)
        );
        let predicts = self.predicts().cloned();
        Ok(Box::new(CheckedHead::new(head, predicts, self.name())))
    }

    /// Makes its mapper, for a denoiser that publishes these slots. What it answers with is held to them: it fills each, with a
    /// tensor of the slot's shape and of a row for each image of the batch, or of one for all. A config of null means none: `{}`.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn mapper(
        &self,
        config: &Value,
        slots: &[SlotSpec],
        environment: &Environment,
    ) -> Result<Box<dyn Mapper>> {
        let config = self.configure(Role::Mapper, config)?;
        let (document, environment) = (json!(slots).to_string(), environment.clone());
        let mapper: Box<dyn Mapper> = match &self.0.loaded {
            Loaded::Own(Own::Mapper(make)) => make(slots, &environment)?,
            _ => make!(
                self,
                Role::Mapper,
                WasmMapper,
                NativeMapper(config, document, environment)
            ),
        };
        Ok(Box::new(CheckedMapper::new(mapper, slots, self.name())))
    }

    /// Makes its objective. Its loss is held to be one that can be minimised: finite, and dependent on the outputs where those are tracked. A config of null means none: `{}`.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn objective(
        &self,
        config: &Value,
        environment: &Environment,
    ) -> Result<Box<dyn Objective>> {
        let config = self.configure(Role::Objective, config)?;
        let environment = environment.clone();
        let objective: Box<dyn Objective> = make!(
            self,
            Role::Objective,
            WasmObjective,
            NativeObjective(config, String::new(), environment)
        );
        Ok(Box::new(CheckedObjective::new(objective, self.name())))
    }

    /// Makes an empty accumulator of its metric. A config of null means none: `{}`.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn metric(&self, config: &Value, environment: &Environment) -> Result<Box<dyn Metric>> {
        let config = self.configure(Role::Metric, config)?;
        let (slots, environment) = (String::new(), environment.clone());
        Ok(match &self.0.loaded {
            Loaded::Wasm(component) => Box::new(Saved::new(WasmMetric::new(
                component.clone(),
                config,
                slots,
                environment,
            )?)?),
            Loaded::Linked(native) | Loaded::Native(native) => Box::new(Saved::new(
                NativeMetric::new(native, config, slots, environment)?,
            )?),
            Loaded::Own(Own::Metric(score)) => Box::new(Means::new(self.name(), score.clone())),
            Loaded::Own(_) => return Err(self.lacks(Role::Metric)),
        })
    }

    /// Holds a plugin that is there already to what is asked for.
    pub(crate) fn pinned(self, loading: &Loading) -> Result<Self> {
        pinned(self.origin(), self.digest().into(), loading)?;
        Ok(self)
    }

    fn lacks(&self, role: Role) -> PluginError {
        PluginError::MissingRole {
            plugin: self.name().into(),
            role,
            offered: join(self.roles()),
        }
    }

    /// The config as the plugin gets it, if it offers the role and its schema agrees.
    fn configure(&self, role: Role, config: &Value) -> Result<String> {
        if !self.roles().contains(&role) {
            return Err(self.lacks(role));
        }
        let none = Value::Object(serde_json::Map::new());
        let config = if config.is_null() { &none } else { config };
        self.validate_config(role, config)
            .map_err(|issues| PluginError::Config {
                plugin: self.name().into(),
                role,
                issues,
            })?;
        Ok(config.to_string())
    }
}

/// The digest, if it is the one that is asked for.
fn pinned(origin: &Path, found: String, loading: &Loading) -> Result<String> {
    match &loading.sha256 {
        Some(expected) if !found.eq_ignore_ascii_case(expected) => Err(PluginError::Pin {
            origin: origin.into(),
            expected: expected.clone(),
            found,
        }),
        _ => Ok(found),
    }
}

/// The `plugin.json` beside a file, if it names that file.
fn manifest_beside(path: &Path) -> Result<Option<PathBuf>> {
    let beside = path.with_file_name("plugin.json");
    if path.file_name().is_none() || !beside.is_file() {
        return Ok(None);
    }
    let artifact = Manifest::read(&beside)?.artifact;
    let names_it = artifact.as_deref().map(Path::new) == path.file_name().map(Path::new);
    Ok(names_it.then_some(beside))
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Plugin({} {}, {}, {})",
            self.name(),
            self.version(),
            self.loader(),
            self.origin().display()
        )
    }
}
