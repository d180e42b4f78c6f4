//! The `dtta` command, as the wheel's entry point.

use std::ffi::OsString;
use std::process::ExitCode;

use pyo3::prelude::*;

/// Runs the command with these arguments, the first of which is its name, and answers its exit code.
#[pyfunction]
pub fn command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    let code = py.detach(|| dtta_cli::run(arguments));
    // It tells its number to nobody, but can be compared.
    let number = (0..=u8::MAX).find(|&number| ExitCode::from(number) == code);
    number.unwrap_or(1)
}
