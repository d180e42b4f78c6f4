//! The committed JSON schemas.

use std::path::Path;

use anyhow::{Result, bail};

/// What to do with the committed schemas.
#[derive(clap::Args)]
pub struct Arguments {
    /// Compare instead of writing.
    #[arg(long)]
    pub check: bool,
}

/// Writes or checks the schemas.
pub fn run(_root: &Path, _arguments: &Arguments) -> Result<()> {
    bail!("there is no committed schema yet")
}
