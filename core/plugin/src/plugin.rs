//! A loaded plugin: what it says of itself, and configured roles made from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonschema::Validator;
use serde_json::Value;

use crate::environment::Environment;
use crate::error::{ConfigIssue, PluginError, Result};
use crate::manifest::{Manifest, Role, join, read_bytes, sha256};
use crate::native::{self, NativeHead, NativeMapper, NativeMetric, NativeObjective, NativePlugin};
use crate::roles::{Head, Mapper, Metric, Objective};
use crate::saved::Saved;
use crate::slots::{CheckedMapper, Slots};
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
    validators: BTreeMap<Role, Validator>,
    loaded: Loaded,
}

enum Loaded {
    Wasm(Arc<WasmPlugin>),
    Linked(Arc<NativePlugin>),
    Native(Arc<NativePlugin>),
}

/// Makes a role with whichever loader holds the plugin.
macro_rules! make {
    ($plugin:expr, $wasm:ident, $native:ident ( $($argument:expr),* )) => {
        match &$plugin.0.loaded {
            Loaded::Wasm(component) => Box::new($wasm::new(component.clone(), $($argument),*)?),
            Loaded::Linked(native) | Loaded::Native(native) => {
                Box::new($native::new(native, $($argument),*)?)
            }
        }
    };
}

impl Plugin {
    /// Loads the component or library that a manifest names, after checking its digest.
    ///
    /// # Errors
    /// [`PluginError::Read`], [`PluginError::Manifest`], [`PluginError::Digest`],
    /// [`PluginError::NotAComponent`], [`PluginError::NotALibrary`], [`PluginError::ForbiddenImport`],
    /// [`PluginError::Interface`], [`PluginError::MissingRole`].
    pub fn from_manifest(path: &Path) -> Result<Self> {
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
        let artifact = path.parent().unwrap_or(Path::new("")).join(file);
        let bytes = read_bytes(&artifact)?;
        let found = sha256(&bytes);
        if !found.eq_ignore_ascii_case(&expected) {
            return Err(PluginError::Digest {
                path: artifact,
                expected,
                found,
            });
        }
        if LoaderKind::of_file(&artifact) == LoaderKind::Native {
            return Self::from_library(artifact, found);
        }
        let component = wasm::load(&manifest.name, &artifact, &bytes)?;
        Self::from_component(manifest, artifact, found, component)
    }

    /// Loads a component or a library, by the file's extension. A manifest beside it is used if it names
    /// the file; otherwise the plugin describes itself.
    ///
    /// # Errors
    /// As [`from_manifest`](Self::from_manifest), and those of running `describe`.
    pub fn from_file(path: &Path) -> Result<Self> {
        match LoaderKind::of_file(path) {
            LoaderKind::Native => Self::from_library_file(path),
            _ => Self::from_component_file(path),
        }
    }

    /// As [`from_file`](Self::from_file) for a shared library. It is trusted code, with the rights of this program,
    /// from the moment it is opened, and stays in memory.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_library_file(path: &Path) -> Result<Self> {
        if let Some(manifest) = manifest_beside(path)? {
            return Self::from_manifest(&manifest);
        }
        let digest = sha256(&read_bytes(path)?);
        Self::from_library(path.into(), digest)
    }

    fn from_library(path: PathBuf, digest: String) -> Result<Self> {
        let (library, manifest) = NativePlugin::load(&path, native::open(&path)?)?;
        let roles = library.roles();
        let loaded = Loaded::Native(Arc::new(library));
        Self::new(manifest, path, digest, &roles, loaded)
    }

    /// As [`from_file`](Self::from_file) for a component.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_component_file(path: &Path) -> Result<Self> {
        if let Some(manifest) = manifest_beside(path)? {
            return Self::from_manifest(&manifest);
        }
        let bytes = read_bytes(path)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut component = wasm::load(&stem, path, &bytes)?;
        if !component.describes {
            let message =
                "the component has neither a `plugin.json` beside it nor a `describe`".into();
            return Err(PluginError::Manifest {
                path: path.into(),
                message,
            });
        }
        let role = component.roles.first().copied().unwrap_or(Role::Head);
        let manifest = Manifest::parse(&wasm::describe(&component, role)?, path)?;
        component.name.clone_from(&manifest.name);
        Self::from_component(manifest, path.into(), sha256(&bytes), component)
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

    /// A plugin that is linked into this program, under its `linked:` name. Its digest is that
    /// of the source it says it was built from, or else of its description.
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
        let validators = manifest.config_schema.iter().map(|(&role, schema)| {
            let validator =
                jsonschema::draft202012::new(schema).map_err(|error| PluginError::Manifest {
                    path: origin.clone(),
                    message: format!("the config schema of `{role}` is no JSON Schema: {error}"),
                })?;
            Ok((role, validator))
        });
        let validators = validators.collect::<Result<_>>()?;
        Ok(Self(Arc::new(Inner {
            manifest,
            origin,
            digest,
            validators,
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
        }
    }

    /// sha256 of the artifact, in lower-case hexadecimal.
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
            Loaded::Linked(_) | Loaded::Native(_) => &self.0.manifest.needs.ops,
        }
    }

    /// The JSON Schema of a role's config, if the plugin gives one.
    pub fn config_schema(&self, role: Role) -> Option<&Value> {
        self.0.manifest.config_schema.get(&role)
    }

    /// Holds a config to the role's schema. Without a schema, everything passes.
    ///
    /// # Errors
    /// Everything that the schema refuses, each with its place in the config.
    pub fn validate_config(&self, role: Role, config: &Value) -> Result<(), Vec<ConfigIssue>> {
        let Some(validator) = self.0.validators.get(&role) else {
            return Ok(());
        };
        let issue = |error: jsonschema::ValidationError<'_>| ConfigIssue {
            pointer: error.instance_path().to_string(),
            message: error.to_string(),
        };
        let issues: Vec<ConfigIssue> = validator.iter_errors(config).map(issue).collect();
        if issues.is_empty() {
            Ok(())
        } else {
            Err(issues)
        }
    }

    /// Makes its head. A config of null means none: `{}`.
    ///
    /// # Errors
    /// [`PluginError::MissingRole`], [`PluginError::Config`], or what the plugin answers with.
    pub fn head(&self, config: &Value, environment: &Environment) -> Result<Box<dyn Head>> {
        let config = self.configure(Role::Head, config)?;
        let environment = environment.clone();
        Ok(make!(
            self,
            WasmHead,
            NativeHead(config, String::new(), environment)
        ))
    }

    /// Makes its mapper. `slots` is what the denoiser publishes, as
    /// `[{"name": "class-embedding", "meaning": "class-embedding", "shape": [null, 1152]}]`;
    /// what the mapper answers with is held to it. A config of null means none: `{}`.
    ///
    /// # Errors
    /// As [`head`](Self::head), and [`PluginError::Host`] for slots that are none.
    pub fn mapper(
        &self,
        config: &Value,
        slots: &Value,
        environment: &Environment,
    ) -> Result<Box<dyn Mapper>> {
        let config = self.configure(Role::Mapper, config)?;
        let published = Slots::parse(slots)?;
        let (slots, environment) = (slots.to_string(), environment.clone());
        let mapper: Box<dyn Mapper> =
            make!(self, WasmMapper, NativeMapper(config, slots, environment));
        Ok(Box::new(CheckedMapper::new(mapper, published, self.name())))
    }

    /// Makes its objective. A config of null means none: `{}`.
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
        Ok(make!(
            self,
            WasmObjective,
            NativeObjective(config, String::new(), environment)
        ))
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
        })
    }

    /// The config as the plugin gets it, if it offers the role and its schema agrees.
    fn configure(&self, role: Role, config: &Value) -> Result<String> {
        if !self.roles().contains(&role) {
            return Err(PluginError::MissingRole {
                plugin: self.name().into(),
                role,
                offered: join(self.roles()),
            });
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

/// The `plugin.json` beside a file, if it names that file.
fn manifest_beside(path: &Path) -> Result<Option<PathBuf>> {
    let beside = path.with_file_name("plugin.json");
    if !beside.is_file() {
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
