//! LLVM as the distribution packages it, for builds with `--features cuda` that may not download one.
//!
//! Burn's CUDA backend generates code with LLVM. The build script of `tracel-llvm-bundler` downloads a bundle of static libraries, unless
//! the folder where it keeps the bundle says that it is there, and then asks the `llvm-config` in that folder for everything else. What is
//! written here is that folder, with an `llvm-config` that answers for the shared library of an installed LLVM.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process;

/// The package whose build script looks for the folder, and by whose version the folder is called.
const BUNDLER: &str = "tracel-llvm-bundler";

/// The file that says that the folder is complete.
const SENTINEL: &str = ".tracel-llvm-installed";

/// The first line after `#!` of what is written here; anything else in its place is not ours to replace.
const MARK: &str = "# Written by `cargo xtask llvm`.";

/// Where LLVM is.
#[derive(clap::Args)]
pub struct Arguments {
    /// The `llvm-config` of the LLVM to link to, of the bundle's major version or the one before
    /// it; what is on the PATH, if left out. Debian has it in `llvm-23-dev`.
    #[arg(long, value_name = "FILE")]
    pub llvm_config: Option<PathBuf>,
}

/// Makes the folder.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!(
            "this task knows Linux; elsewhere, a build with `--features cuda` downloads its LLVM"
        );
    }
    let bundle = bundle(root)?;
    let major: u32 = bundle
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .with_context(|| format!("`{BUNDLER}` {bundle} has no major version"))?;
    let config = found(arguments.llvm_config.as_deref(), major)?;
    let folder = data_folder()?
        .join("tracel")
        .join(format!("tracel-llvm-{bundle}"));
    write(&folder, &config)?;
    eprintln!(
        "`--features cuda` now links to LLVM {} of `{}`, by `{}`.",
        ask(&config, &["--version"])?,
        config.display(),
        folder.display()
    );
    Ok(())
}

/// The version of the bundle that the locked build script wants.
fn bundle(root: &Path) -> Result<String> {
    let lock = root.join("Cargo.lock");
    let text = String::from_utf8_lossy(&crate::read(&lock)?).into_owned();
    locked(&text).with_context(|| format!("`{}` has no `{BUNDLER}`", lock.display()))
}

fn locked(lock: &str) -> Option<String> {
    let name = format!("name = \"{BUNDLER}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1)?.strip_prefix("version = \"")?;
    Some(version.strip_suffix('"')?.to_owned())
}

/// The `llvm-config` to answer with: the named one, or the first on the PATH whose major version fits.
fn found(named: Option<&Path>, major: u32) -> Result<PathBuf> {
    let majors = [major, major - 1];
    if let Some(config) = named {
        let config = fs::canonicalize(config)
            .with_context(|| format!("cannot open `{}`", config.display()))?;
        fits(&config, majors)?;
        return Ok(config);
    }
    let names = majors
        .map(|major| format!("llvm-config-{major}"))
        .into_iter()
        .chain(["llvm-config".into()]);
    let mut refused = Vec::new();
    for name in names {
        let Some(config) = on_path(&name) else {
            continue;
        };
        match fits(&config, majors) {
            Ok(()) => return Ok(config),
            Err(error) => refused.push(format!("; {error:#}")),
        }
    }
    bail!(
        "no LLVM {major} or {} is installed (on Debian: `llvm-{major}-dev`){}. \
         Name its `llvm-config` with --llvm-config, or build where LLVM can be downloaded",
        major - 1,
        refused.concat()
    )
}

/// Whether that `llvm-config` is of a version that fits, and has a shared library and headers.
fn fits(config: &Path, majors: [u32; 2]) -> Result<()> {
    let version = ask(config, &["--version"])?;
    let major = version.split('.').next().and_then(|text| text.parse().ok());
    if major.is_none_or(|major| !majors.contains(&major)) {
        bail!(
            "`{}` is of LLVM {version}, not {} or {}",
            config.display(),
            majors[0],
            majors[1]
        );
    }
    ask(config, &["--link-shared", "--libs"])
        .with_context(|| format!("`{}` has no shared library", config.display()))?;
    let header = PathBuf::from(ask(config, &["--includedir"])?).join("llvm-c/Core.h");
    if !header.is_file() {
        bail!(
            "the headers of `{}` are not installed: there is no `{}`",
            config.display(),
            header.display()
        );
    }
    Ok(())
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn ask(config: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(config);
    let output = command
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start `{}`", config.display()))?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}",
            process::line(&command),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The folder of a user's data, as the build script finds it.
fn data_folder() -> Result<PathBuf> {
    let named = env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    named
        .filter(|folder| folder.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".local/share")))
        .context("neither XDG_DATA_HOME nor HOME is set")
}

/// Writes `llvm-config` and then the sentinel, unless a bundle is there that was downloaded.
fn write(folder: &Path, config: &Path) -> Result<()> {
    let script = folder.join("bin/llvm-config");
    if folder.join(SENTINEL).exists() && !is_ours(&script) {
        bail!(
            "`{}` holds a downloaded LLVM, which serves as it is; remove the folder to use another",
            folder.display()
        );
    }
    fs::create_dir_all(folder.join("bin"))
        .with_context(|| format!("cannot make `{}`", folder.display()))?;
    crate::write(&script, answers(config)?.as_bytes())?;
    executable(&script)?;
    crate::write(&folder.join(SENTINEL), b"")
}

fn is_ours(script: &Path) -> bool {
    fs::read_to_string(script).is_ok_and(|text| text.lines().nth(1) == Some(MARK))
}

/// A shell script that is asked for static libraries and names the shared one, as a library of the system.
fn answers(config: &Path) -> Result<String> {
    let config = config
        .to_str()
        .filter(|path| !path.contains('\''))
        .with_context(|| format!("`{}` cannot be quoted", config.display()))?;
    Ok(format!(
        "#!/bin/sh\n{MARK}\n\
         if [ \"$1\" = --link-static ]; then shift; fi\n\
         case \"$1\" in\n\
         --libs | --libnames) ;;\n\
         --system-libs) exec '{config}' --link-shared --libs ;;\n\
         *) exec '{config}' \"$@\" ;;\n\
         esac\n"
    ))
}

#[cfg(unix)]
fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make `{}` executable", path.display()))
}

#[cfg(not(unix))]
fn executable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
#[expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]
mod tests {
    use super::*;

    /// An `llvm-config` as Debian's, of that version, beside its headers.
    fn installed(folder: &Path, version: &str) -> PathBuf {
        let config = folder.join("llvm-config-23");
        let include = folder.join("include");
        fs::create_dir_all(include.join("llvm-c")).unwrap();
        fs::write(include.join("llvm-c/Core.h"), "").unwrap();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n--version) echo {version} ;;\n--includedir) echo {} ;;\n\
             '--link-shared --libs') echo -lLLVM-23 ;;\n*) echo \"asked: $*\" ;;\nesac\n",
            include.display()
        );
        fs::write(&config, script).unwrap();
        executable(&config).unwrap();
        config
    }

    #[test]
    fn the_build_script_is_told_of_the_shared_library() {
        let folder = tempfile::tempdir().unwrap();
        let config = installed(folder.path(), "23.1.4");
        let bundle = folder.path().join("tracel/tracel-llvm-23.1.0-4");
        write(&bundle, &config).unwrap();
        assert!(bundle.join(SENTINEL).is_file());
        let script = bundle.join("bin/llvm-config");
        let answer = |argument| ask(&script, &["--link-static", argument]).unwrap();
        assert_eq!(answer("--libs"), "");
        assert_eq!(answer("--system-libs"), "-lLLVM-23");
        assert_eq!(answer("--version"), "23.1.4");
        assert_eq!(answer("--cxxflags"), "asked: --cxxflags");
        // Again, with another LLVM: what was written here is replaced.
        write(&bundle, &config).unwrap();
    }

    #[test]
    fn a_downloaded_bundle_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = installed(folder.path(), "23.1.4");
        let bundle = folder.path().join("bundle");
        fs::create_dir_all(bundle.join("bin")).unwrap();
        fs::write(bundle.join(SENTINEL), "").unwrap();
        fs::write(bundle.join("bin/llvm-config"), "ELF").unwrap();
        let error = write(&bundle, &config).unwrap_err().to_string();
        assert!(error.contains("holds a downloaded LLVM"), "{error}");
        assert_eq!(
            fs::read_to_string(bundle.join("bin/llvm-config")).unwrap(),
            "ELF"
        );
    }

    #[test]
    fn the_version_is_the_locked_one() {
        let lock = "[[package]]\nname = \"tracel-llvm-bundler\"\nversion = \"23.1.0-4\"\n";
        assert_eq!(locked(lock).as_deref(), Some("23.1.0-4"));
        assert_eq!(
            locked("[[package]]\nname = \"other\"\nversion = \"1\"\n"),
            None
        );
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let config = installed(folder.path(), "19.1.7");
        let error = found(Some(&config), 23).unwrap_err().to_string();
        assert!(error.contains("is of LLVM 19.1.7, not 23 or 22"), "{error}");
        fs::remove_dir_all(folder.path().join("include")).unwrap();
        let error = fits(&config, [19, 18]).unwrap_err().to_string();
        assert!(error.contains("llvm-c/Core.h"), "{error}");
    }
}
