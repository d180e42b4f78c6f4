//! `dtta plugins new`: a crate that builds, passes its test, and says what to edit.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::build::write;
use crate::say::say;

/// What to write.
#[derive(clap::Args)]
pub struct Arguments {
    /// The plugin's name: lower-case words joined by `-`.
    name: String,
    /// The plugin's first role; you can add more later.
    #[arg(long, value_enum, default_value_t)]
    role: Template,
    /// Where to; a folder of the plugin's name if absent.
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// The `sdk` folder of a checkout of dtta; the one that this program was built from if absent.
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

/// What a plugin can be.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Template {
    /// Features or logits to task outputs and predictions.
    Head,
    /// Task outputs to what the denoiser is conditioned on.
    #[default]
    Mapper,
    /// A further scalar to minimise.
    Objective,
    /// A score.
    Metric,
}

impl Template {
    fn source(self) -> &'static str {
        match self {
            Self::Head => include_str!("templates/head.rs"),
            Self::Mapper => include_str!("templates/mapper.rs"),
            Self::Objective => include_str!("templates/objective.rs"),
            Self::Metric => include_str!("templates/metric.rs"),
        }
    }

    fn place(self) -> &'static str {
        match self {
            Self::Head => "plugins.head",
            Self::Mapper => "plugins.mapper",
            Self::Objective => "plugins.objectives",
            Self::Metric => "plugins.metric",
        }
    }
}

/// Writes the crate.
pub fn new(arguments: &Arguments) -> Result<()> {
    let Arguments { name, role, .. } = arguments;
    let is_word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    ensure!(
        name.split('-').all(is_word),
        "`{name}` is not a plugin's name; expected lower-case words joined by `-`, such as `soft-mix`"
    );
    let folder = arguments.path.clone().unwrap_or_else(|| name.into());
    if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("`{}` is not empty", folder.display());
    }
    let sdk = sdk(arguments.sdk.as_deref())?;
    let fill = |text: &str| {
        text.replace("{{name}}", name)
            .replace("{{sdk}}", &sdk.display().to_string())
            .replace("{{place}}", role.place())
    };
    let files = [
        ("Cargo.toml", include_str!("templates/Cargo.toml.txt")),
        (".gitignore", "/target\n"),
        ("README.md", include_str!("templates/README.md")),
        ("src/lib.rs", role.source()),
    ];
    for (file, text) in files {
        write(&folder.join(file), fill(text).as_bytes())?;
    }
    say!(
        "wrote `{0}`; next:\n  edit {0}/src/lib.rs\n  (cd {0} && cargo test)\n  dtta plugins build {0}\n  dtta plugins check {0}\n  dtta plugins check {0}/dist/native",
        folder.display()
    );
    Ok(())
}

/// The folder with the SDK.
fn sdk(given: Option<&Path>) -> Result<PathBuf> {
    let folder = given.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk"),
        Path::to_owned,
    );
    let folder = fs::canonicalize(&folder).with_context(|| {
        format!(
            "the SDK is not at `{}`; give the `sdk` folder of a checkout of dtta with `--sdk`",
            folder.display()
        )
    })?;
    ensure!(
        folder.join("sdk/Cargo.toml").is_file(),
        "`{}` has no `sdk/Cargo.toml`; give the `sdk` folder of a checkout of dtta with `--sdk`",
        folder.display()
    );
    Ok(folder)
}
