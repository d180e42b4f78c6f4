//! Holds the plugin interface to what was released: nothing that a plugin was built for may break.
//! That its parts agree with one another is a test of the plugin host.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use wit_parser::{PackageId, PackageName, Resolve};

/// Runs every comparison.
pub fn check(root: &Path) -> Result<()> {
    let name = check_folder(&root.join("wit"))?;
    eprintln!("{name} is in order");
    Ok(())
}

fn check_folder(folder: &Path) -> Result<PackageName> {
    let (resolve, package) = parse(folder)?;
    if let Some(fault) = compare_version(&resolve, package) {
        bail!("the parts of the plugin interface disagree: {fault}");
    }
    compare_frozen(folder, &resolve, package)?;
    Ok(resolve.packages[package].name.clone())
}

fn parse(folder: &Path) -> Result<(Resolve, PackageId)> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(folder)
        .with_context(|| format!("`{}`", folder.display()))?;
    Ok((resolve, package))
}

fn compare_version(resolve: &Resolve, package: PackageId) -> Option<String> {
    let name = &resolve.packages[package].name;
    let track = name
        .version
        .as_ref()
        .map(|version| format!("{}.{}", version.major, version.minor));
    (track.as_deref() != Some(dtta_abi::INTERFACE))
        .then(|| format!("wit/ is {name}, sdk/abi speaks {}", dtta_abi::INTERFACE))
}

/// Every world of the newest frozen version of this track must still be served.
fn compare_frozen(folder: &Path, resolve: &Resolve, package: PackageId) -> Result<()> {
    let Some(frozen) = newest_frozen(&folder.join("frozen"))? else {
        return Ok(());
    };
    let (previous, previous_package) = parse(&frozen)?;
    for (name, &world) in &previous.packages[previous_package].worlds {
        let Some(&now) = resolve.packages[package].worlds.get(name) else {
            bail!("world `{name}` of `{}` is gone", frozen.display());
        };
        // Both in one graph, under names that tell them apart until the comparison drops versions.
        let mut both = resolve.clone();
        let before = both
            .merge(renamed(&previous)?)
            .context("cannot compare with the frozen version")?
            .map_world(world, Default::default())?;
        wit_component::semver_check(both, before, now).with_context(|| {
            format!(
                "world `{name}` breaks plugins built for `{}`; a change that is not an addition opens a new track",
                frozen.display()
            )
        })?;
    }
    eprintln!("still serves `{}`", frozen.display());
    Ok(())
}

/// The same graph with each package's version marked as past: two packages of one graph need
/// different names.
fn renamed(previous: &Resolve) -> Result<Resolve> {
    let mut renamed = previous.clone();
    let mut names = std::mem::take(&mut renamed.package_names);
    for (_, package) in renamed.packages.iter_mut() {
        let id = names.shift_remove(&package.name);
        if let Some(version) = &mut package.name.version {
            version.pre = "frozen".parse().context("`frozen` is a pre-release mark")?;
        }
        if let Some(id) = id {
            renamed.package_names.insert(package.name.clone(), id);
        }
    }
    Ok(renamed)
}

/// `frozen/0.1.2` for a track of 0.1, if there is one.
fn newest_frozen(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut newest = None;
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?
    {
        let path = entry?.path();
        let version = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| {
                let patch = name.strip_prefix(dtta_abi::INTERFACE)?.strip_prefix('.')?;
                patch.parse::<u64>().ok()
            });
        if let Some(patch) = version {
            newest = newest.max(Some((patch, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the check says of the interface after an edit, with the original as frozen.
    fn after(file: &str, from: &str, to: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let frozen = folder.path().join("frozen").join("0.1.0");
        std::fs::create_dir_all(&frozen).unwrap();
        for name in ["types.wit", "roles.wit"] {
            let text = std::fs::read_to_string(crate::root().join("wit").join(name)).unwrap();
            std::fs::write(frozen.join(name), &text).unwrap();
            let edited = if name == file {
                text.replacen(from, to, 1)
            } else {
                text.clone()
            };
            assert_eq!(edited == text, name != file, "`{from}` is not in {file}");
            std::fs::write(folder.path().join(name), edited).unwrap();
        }
        check_folder(folder.path())
            .map_or_else(|error| format!("{error:#}"), |name| name.to_string())
    }

    #[test]
    fn this_repository_agrees_with_itself() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn finds_what_would_break_plugins_of_the_frozen_version() {
        let said = after(
            "types.wit",
            "log: func(level: log-level,",
            "log: func(level: u32,",
        );
        assert!(said.contains("breaks plugins built for"), "{said}");
        let said = after("types.wit", "enum log-level {", "enum log-level { silent,");
        assert!(said.contains("breaks plugins built for"), "{said}");
        let said = after(
            "roles.wit",
            "describe: func() -> string;",
            "describe: func() -> string; extra: func();",
        );
        assert!(said.contains("breaks plugins built for"), "{said}");
        let said = after("roles.wit", "world task-plugin {", "world work-plugin {");
        assert!(said.contains("world `task-plugin` of"), "{said}");
    }

    #[test]
    fn allows_what_the_host_lends_to_grow() {
        let grown = "constant: func(name: string) -> result<tensor, error>; clock: func() -> u64;";
        let said = after(
            "types.wit",
            "constant: func(name: string) -> result<tensor, error>;",
            grown,
        );
        assert_eq!(said, "dtta:plugin@0.1.0");
    }

    #[test]
    fn finds_a_version_that_the_c_interface_does_not_speak() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["types.wit", "roles.wit"] {
            let text = std::fs::read_to_string(crate::root().join("wit").join(name)).unwrap();
            std::fs::write(folder.path().join(name), text.replace("@0.1.0", "@0.2.0")).unwrap();
        }
        let error = check_folder(folder.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("wit/ is dtta:plugin@0.2.0, sdk/abi speaks 0.1"),
            "{error}"
        );
    }
}
