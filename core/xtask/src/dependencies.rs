//! What the workspace depends on: that every dependency is used, that all may be shipped under this project's licences, and that none is
//! known to be unsafe. Cargo's metadata says what there is; the first two checks read nothing from the network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{CargoOpt, MetadataCommand, Package};

use crate::{process, read};

/// Dependencies that a derived trait names instead of the source that derives it.
const DERIVED: [(&str, &str); 1] = [("schemars", "JsonSchema")];

/// Licences under which a dependency may be shipped with this project.
const LICENCES: [&str; 16] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Dependencies that name no licence but carry its text, and which it is.
const BY_TEXT: [(&str, &str); 1] = [("cfg_block", "Apache-2.0")];

fn metadata(root: &Path) -> MetadataCommand {
    let mut command = MetadataCommand::new();
    command
        .manifest_path(root.join("Cargo.toml"))
        .other_options(["--locked".to_owned()]);
    command
}

/// Runs every comparison.
pub fn check(root: &Path) -> Result<()> {
    unused(root)?;
    licences(root)?;
    advisories(root)
}

/// Every dependency of a crate is named in its sources, and every one of the workspace in a crate.
fn unused(root: &Path) -> Result<()> {
    let metadata = metadata(root).no_deps().exec()?;
    let mut unused = Vec::new();
    let mut wanted = BTreeSet::new();
    for package in metadata.workspace_packages() {
        let words = words(package)?;
        for dependency in &package.dependencies {
            let name = dependency.rename.as_ref().unwrap_or(&dependency.name);
            let is_derived = DERIVED
                .iter()
                .any(|&(derived, by)| name == derived && words.contains(by));
            if !words.contains(&name.replace('-', "_")) && !is_derived {
                unused.push(format!("`{name}` of `{}`", package.name));
            }
            wanted.insert(name.clone());
        }
    }
    let manifest = read(&root.join("Cargo.toml"))?;
    let shared = shared(&String::from_utf8_lossy(&manifest));
    unused.extend(
        shared
            .difference(&wanted)
            .map(|name| format!("`{name}` of the workspace")),
    );
    ensure!(
        unused.is_empty(),
        "nothing names these dependencies; remove them: {}",
        unused.join(", ")
    );
    Ok(())
}

/// Every identifier in a package's sources, and in the modules elsewhere that they take in.
fn words(package: &Package) -> Result<BTreeSet<String>> {
    let folder = package.manifest_path.parent();
    let folder = folder.context("a package has a folder")?.as_std_path();
    let mut open = Vec::new();
    for part in ["src", "tests", "benches", "examples"] {
        sources(&folder.join(part), &mut open)?;
    }
    let targets = package.targets.iter();
    open.extend(targets.map(|target| target.src_path.clone().into_std_path_buf()));
    let (mut seen, mut words) = (BTreeSet::new(), BTreeSet::new());
    while let Some(path) = open.pop() {
        let path =
            fs::canonicalize(&path).with_context(|| format!("there is no `{}`", path.display()))?;
        if !seen.insert(path.clone()) {
            continue;
        }
        let text = read(&path)?;
        let text = String::from_utf8_lossy(&text);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        words.extend(text.split(|c| !is_word(c)).map(str::to_owned));
        let beside = path.parent().unwrap_or(folder);
        open.extend(
            text.lines()
                .filter_map(included)
                .map(|file| beside.join(file)),
        );
    }
    Ok(words)
}

/// The file of a line `#[path = "…"]`.
fn included(line: &str) -> Option<&str> {
    let path = line.trim().strip_prefix("#[path = \"")?;
    path.strip_suffix("\"]")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let context = || format!("cannot list `{}`", folder.display());
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The dependencies that a workspace's manifest lists for its crates.
fn shared(manifest: &str) -> BTreeSet<String> {
    let lines = manifest.lines();
    let section = lines.skip_while(|line| *line != "[workspace.dependencies]");
    let entries = section.skip(1).take_while(|line| !line.starts_with('['));
    let names = entries.filter_map(|line| line.split_once(" = "));
    let names = names.filter(|(name, _)| !name.starts_with('#'));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// Every dependency, on every platform and with every feature, is under a licence of [`LICENCES`]. Without a network, those that are
/// here already.
fn licences(root: &Path) -> Result<()> {
    let every = metadata(root).features(CargoOpt::AllFeatures).exec();
    let metadata = every.or_else(|error| {
        eprintln!("licences: only what the default features build was looked at: {error}");
        let offline = ["--locked", "--offline", "--filter-platform", "host-tuple"];
        let offline = offline.map(str::to_owned);
        metadata(root).other_options(offline).exec()
    })?;
    let mut refused = BTreeMap::new();
    for package in &metadata.packages {
        let known = BY_TEXT.iter().find(|(name, _)| package.name == *name);
        let known = known.map(|&(_, licence)| licence);
        let licence = package.license.as_deref().or(known).unwrap_or("none");
        if package.source.is_some() && !is_allowed(licence) {
            refused.insert(format!("`{} {}`", package.name, package.version), licence);
        }
    }
    let refused: Vec<_> = refused
        .iter()
        .map(|(package, licence)| format!("{package} ({licence})"))
        .collect();
    ensure!(
        refused.is_empty(),
        "the licences of these dependencies are not in the list of `core/xtask/src/dependencies.rs`: {}",
        refused.join(", ")
    );
    Ok(())
}

/// Whether an SPDX expression can be met with licences of the list. `AND` binds closer than `OR`; `/` is an old way to write `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let spaced = spaced.replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    alternatives(&mut rest) == Some(true) && rest.is_empty()
}

fn alternatives(rest: &mut &[&str]) -> Option<bool> {
    let mut allowed = all(rest)?;
    while let ["OR", tail @ ..] = *rest {
        *rest = tail;
        allowed |= all(rest)?;
    }
    Some(allowed)
}

fn all(rest: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(rest)?;
    while let ["AND", tail @ ..] = *rest {
        *rest = tail;
        allowed &= one(rest)?;
    }
    Some(allowed)
}

fn one(rest: &mut &[&str]) -> Option<bool> {
    match *rest {
        ["(", tail @ ..] => {
            *rest = tail;
            let allowed = alternatives(rest)?;
            *rest = rest.strip_prefix(&[")"])?;
            Some(allowed)
        }
        [licence, "WITH", exception, tail @ ..] => {
            *rest = tail;
            // What a licence allows, it allows with an exception too.
            let with = format!("{licence} WITH {exception}");
            Some(LICENCES.contains(licence) || LICENCES.contains(&&*with))
        }
        [licence, tail @ ..] => {
            *rest = tail;
            Some(LICENCES.contains(licence))
        }
        [] => None,
    }
}

/// No dependency has a known fault, as far as `cargo deny` is there and reaches its data.
fn advisories(root: &Path) -> Result<()> {
    let deny = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.arg("deny").args(arguments).current_dir(root);
        command
    };
    let succeeds = |mut command: Command| {
        let output = command.output();
        output.is_ok_and(|output| output.status.success())
    };
    if !succeeds(deny(&["--version"])) {
        eprintln!("advisories were not looked at: `cargo deny` is not installed");
    } else if !succeeds(deny(&["fetch", "db"])) {
        eprintln!("advisories were not looked at: `cargo deny` cannot reach its data");
    } else {
        process::run(&mut deny(&["check", "--disable-fetch", "advisories"]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_allowed_if_one_alternative_is() {
        for expression in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "GPL-2.0/MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "GPL-3.0-only AND Other OR Zlib",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(is_allowed(expression), "{expression}");
        }
        for expression in [
            "none",
            "",
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "(MIT OR Apache-2.0) AND GPL-3.0-only",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT MIT",
        ] {
            assert!(!is_allowed(expression), "{expression}");
        }
    }

    #[test]
    fn reads_what_a_workspace_lists() {
        let manifest = "[workspace]\nmembers = []\n\n[workspace.dependencies]\n# a = 1\nb = \"1\"\nc-d = { version = \"1\" }\n\n\
            [profile.release]\ne = 1\n";
        assert_eq!(shared(manifest), BTreeSet::from(["b".into(), "c-d".into()]));
        assert_eq!(included("  #[path = \"../x.rs\"]"), Some("../x.rs"));
        assert_eq!(included("mod x;"), None);
    }
}
