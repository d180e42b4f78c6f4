//! The committed JSON schemas, as `dtta schema` prints them, and the page of options that is made from them.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{options, process};

/// The documents that have a schema.
const DOCUMENTS: [&str; 4] = ["experiment", "comparison", "training", "model"];

/// What to do with the committed schemas.
#[derive(clap::Args)]
pub struct Arguments {
    /// Compare instead of writing.
    #[arg(long)]
    pub check: bool,
}

/// Writes or checks the schemas, then the page.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    for document in DOCUMENTS {
        let path = root.join(format!("core/schema/{document}.schema.json"));
        let output = process::dtta(root)?
            .args(["schema", document])
            .output()
            .context("cannot start dtta")?;
        if !output.status.success() {
            bail!(
                "`dtta schema {document}` failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        if !arguments.check {
            crate::write(&path, &output.stdout)?;
        } else if crate::read(&path)? != output.stdout {
            bail!(
                "`{}` is not what `dtta schema {document}` prints; run `cargo xtask schema`",
                path.display()
            );
        }
    }
    options::run(root, arguments.check)
}
