//! The one error type of this crate. A refusal names the plugin, the role and the
//! function, what was expected and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use dtta_base::Issue;

use crate::manifest::Role;

/// Where in a plugin something went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The plugin's name.
    pub plugin: String,
    /// The role that was called.
    pub role: Role,
    /// The function of that role.
    pub function: &'static str,
}

impl Place {
    /// The function of a plugin's role.
    pub fn new(plugin: &str, role: Role, function: &'static str) -> Self {
        Self {
            plugin: plugin.into(),
            role,
            function,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "plugin `{}`, {}.{}",
            self.plugin, self.role, self.function
        )
    }
}

/// A plugin that was not found, not accepted, or failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No plugin answers to a reference.
    #[error("no plugin `{reference}`; looked at {searched}")]
    NotFound {
        /// What was asked for.
        reference: String,
        /// Where it was looked for.
        searched: String,
    },
    /// A plugin's source, and nothing that was built from it.
    #[error("the plugin in `{path}` is not built; run `dtta plugins build {path}`", path = path.display())]
    Unbuilt {
        /// The folder.
        path: PathBuf,
    },
    /// A file that could not be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A manifest or descriptor that is not what it should be.
    #[error("`{path}` is not a plugin manifest: {message}")]
    Manifest {
        /// The manifest, or the artifact that describes itself.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A component that exports no `describe` and has no manifest.
    #[error(
        "`{path}` exports no plugin: there is neither a `describe` in it, which a plugin in Rust gets from `export_plugin! {{ … }}`, nor a `plugin.json` beside it",
        path = path.display()
    )]
    Undescribed {
        /// The component.
        path: PathBuf,
    },
    /// An artifact that is not the one that the manifest names.
    #[error(
        "`{path}` has sha256 {found}, but the manifest says {expected}: it was changed or only half updated; build or fetch the plugin again"
    )]
    Digest {
        /// The artifact.
        path: PathBuf,
        /// What the manifest says.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A plugin that is not the one that is asked for.
    #[error("`{origin}` has sha256 {found}, and {expected} is asked for")]
    Pin {
        /// The artifact, or `linked:` and its name.
        origin: PathBuf,
        /// What is asked for.
        expected: String,
        /// What it has.
        found: String,
    },
    /// An artifact that cannot be one: not a regular file, or not in the plugin's folder.
    #[error("`{path}` cannot be a plugin's artifact: {reason}")]
    Artifact {
        /// What was named.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A component that is too much to compile.
    #[error("`{path}` is not compiled: {reason}")]
    Compiling {
        /// The file.
        path: PathBuf,
        /// What is too much, and which setting allows more.
        reason: String,
    },
    /// A file that is not a WebAssembly component.
    #[error("`{path}` is not a WebAssembly component: {reason}")]
    NotAComponent {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file that is not a native plugin.
    #[error("`{path}` is not a native plugin: {reason}")]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A component that asks for more than tensors.
    #[error(
        "plugin `{plugin}` imports `{import}`, which the host does not provide: plugins may import only `dtta:plugin` interfaces; build it for `wasm32-unknown-unknown`, without WASI"
    )]
    ForbiddenImport {
        /// The plugin.
        plugin: String,
        /// What it asks for.
        import: String,
    },
    /// A plugin for another interface.
    #[error(
        "plugin `{plugin}` needs {needs}; this host offers interface {offered}: upgrade the host or rebuild the plugin"
    )]
    Interface {
        /// The plugin.
        plugin: String,
        /// What it needs that is not offered.
        needs: String,
        /// The host's interface version.
        offered: &'static str,
    },
    /// A role that a plugin does not have.
    #[error("plugin `{plugin}` has no role `{role}`; it offers {offered}")]
    MissingRole {
        /// The plugin.
        plugin: String,
        /// The role that was asked for.
        role: Role,
        /// The roles that it has.
        offered: String,
    },
    /// A config that the plugin's schema refuses.
    #[error("plugin `{plugin}`, {role}: the config is refused: {}", list(issues))]
    Config {
        /// The plugin.
        plugin: String,
        /// The role.
        role: Role,
        /// Everything that is wrong with it.
        issues: Vec<Issue>,
    },
    /// An error that the plugin, or an operation it asked for, answered with.
    #[error("{place}: {message} ({code})")]
    Failed {
        /// Where.
        place: Place,
        /// An open kebab-case word.
        code: String,
        /// What failed.
        message: String,
    },
    /// A plugin that crashed. Its next call starts afresh.
    #[error("{place}: the plugin crashed: {message}")]
    Trap {
        /// Where.
        place: Place,
        /// What happened.
        message: String,
    },
    /// A call that used up what one call may use. The plugin's next call starts afresh.
    #[error(
        "{place}: the call used up its `{resource}`, {limit}; if that is not a mistake in the plugin, `plugins.limits.{resource}` of the experiment raises it"
    )]
    Budget {
        /// Where.
        place: Place,
        /// What ran out, as experiments name it: `instructions` or `memory_bytes`.
        resource: &'static str,
        /// How much a call may use.
        limit: u64,
    },
    /// A call that [`interrupt`](crate::interrupt) ended.
    #[error("{place}: interrupted")]
    Interrupted {
        /// Where.
        place: Place,
    },
    /// A result that does not fit the role.
    #[error("{place}: {problem}")]
    Output {
        /// Where.
        place: Place,
        /// What is wrong with it.
        problem: String,
    },
    /// The host's own machinery failed.
    #[error("plugin host: {message}")]
    Host {
        /// What happened.
        message: String,
    },
}

impl PluginError {
    /// The kebab-case word for records and scripts.
    pub fn code(&self) -> &str {
        match self {
            Self::NotFound { .. } => "not-found",
            Self::Unbuilt { .. } => "unbuilt",
            Self::Read { .. } => "read",
            Self::Manifest { .. } => "manifest",
            Self::Undescribed { .. } => "manifest",
            Self::Digest { .. } => "digest",
            Self::Pin { .. } => "pin",
            Self::Artifact { .. } => "artifact",
            Self::Compiling { .. } => "compiling",
            Self::NotAComponent { .. } => "not-a-component",
            Self::NotALibrary { .. } => "not-a-library",
            Self::ForbiddenImport { .. } => "forbidden-import",
            Self::Interface { .. } => "interface",
            Self::MissingRole { .. } => "missing-role",
            Self::Config { .. } => "invalid-config",
            Self::Failed { code, .. } => code,
            Self::Trap { .. } => "trap",
            Self::Budget { .. } => "budget-exceeded",
            Self::Interrupted { .. } => "interrupted",
            Self::Output { .. } => "output",
            Self::Host { .. } => "host",
        }
    }

    /// The file or folder that it is about, if it is about one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unbuilt { path, .. }
            | Self::Read { path, .. }
            | Self::Manifest { path, .. }
            | Self::Undescribed { path, .. }
            | Self::Digest { path, .. }
            | Self::Artifact { path, .. }
            | Self::Compiling { path, .. }
            | Self::NotAComponent { path, .. }
            | Self::NotALibrary { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The faults of a configuration.
    pub fn issues(&self) -> &[Issue] {
        match self {
            Self::Config { issues, .. } => issues,
            _ => &[],
        }
    }

    /// Where in the plugin, if it was running.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Failed { place, .. }
            | Self::Trap { place, .. }
            | Self::Budget { place, .. }
            | Self::Interrupted { place }
            | Self::Output { place, .. } => Some(place),
            _ => None,
        }
    }

    /// Whether the plugin failed while it was running, rather than when it was found, loaded or configured. An
    /// [interrupt](Self::is_interrupt) is not a failure.
    pub fn is_at_run_time(&self) -> bool {
        let is_running = |place: &Place| place.function != "create";
        !self.is_interrupt() && self.place().is_some_and(is_running)
    }

    /// Whether nothing failed, and [`interrupt`](crate::interrupt) ended the call: a reason to stop, not to go on without
    /// what was asked for.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Interrupted { .. })
    }
}

fn list(issues: &[Issue]) -> String {
    let written = issues.iter().map(|Issue { pointer, message }| {
        let pointer = if pointer.is_empty() { "/" } else { pointer };
        format!("`{pointer}`: {message}")
    });
    written.collect::<Vec<_>>().join("; ")
}

/// Shorthand used throughout.
pub type Result<T, E = PluginError> = std::result::Result<T, E>;
