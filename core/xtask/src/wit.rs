//! Holds the plugin interface together: every operation of the tensor crate's table is a function
//! of WIT's tensor with the same parameters, has the same number in the C interface, and what was
//! released stays as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use dtta_tensor::{OPS, OpCode, ParameterType};
use wit_parser::{Function, Handle, PackageId, PackageName, Resolve, Type, TypeDefKind};

/// Functions of the tensor that are no operations: they move data or ask about a handle.
const NOT_OPERATIONS: [&str; 8] = [
    "from-floats",
    "from-ints",
    "shape",
    "kind",
    "tracked",
    "share",
    "read-floats",
    "read-ints",
];

/// Runs every comparison.
pub fn check(root: &Path) -> Result<()> {
    let name = check_folder(&root.join("wit"))?;
    eprintln!("{name}: {} operations agree", OPS.len());
    Ok(())
}

fn check_folder(folder: &Path) -> Result<PackageName> {
    let (resolve, package) = parse(folder)?;
    let mut faults = compare_table(&resolve, package)?;
    faults.extend(compare_numbers());
    faults.extend(compare_version(&resolve, package));
    if !faults.is_empty() {
        bail!(
            "the parts of the plugin interface disagree:\n  {}",
            faults.join("\n  ")
        );
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

fn compare_table(resolve: &Resolve, package: PackageId) -> Result<Vec<String>> {
    let interface = resolve.packages[package]
        .interfaces
        .get("tensor")
        .context("there is no interface `tensor`")?;
    let functions: BTreeMap<&str, &Function> = resolve.interfaces[*interface]
        .functions
        .values()
        .map(|function| (function.item_name(), function))
        .collect();
    let mut faults = Vec::new();
    for &code in OPS {
        let name = code.spec().name.replace('_', "-");
        match functions.get(name.as_str()) {
            Some(function) => faults.extend(compare_operation(resolve, code, function)),
            None => faults.push(format!("`{name}` is in the table and not in wit/types.wit")),
        }
    }
    for &name in functions.keys() {
        let is_operation = OPS
            .iter()
            .any(|code| code.spec().name.replace('_', "-") == name);
        if !is_operation && !NOT_OPERATIONS.contains(&name) {
            faults.push(format!("`{name}` is in wit/types.wit and not in the table"));
        }
    }
    let missing = NOT_OPERATIONS
        .iter()
        .filter(|name| !functions.contains_key(*name));
    faults.extend(missing.map(|name| format!("`{name}` is missing from wit/types.wit")));
    Ok(faults)
}

/// Parameters are compared as sets: on the C interface tensors come first, in WIT what reads best.
fn compare_operation(resolve: &Resolve, code: OpCode, function: &Function) -> Option<String> {
    let spec = code.spec();
    let mut expected: Vec<(String, ParameterType)> = spec
        .parameters
        .iter()
        .map(|parameter| (parameter.name.replace('_', "-"), parameter.takes))
        .collect();
    let mut found = Vec::new();
    for parameter in &function.params {
        // The tensor that a method is called on is `x` in the table.
        let name = if parameter.name == "self" {
            "x"
        } else {
            &parameter.name
        };
        flatten(resolve, name, parameter.ty, &mut found);
    }
    let takes = |list: &[(String, ParameterType)]| {
        list.iter()
            .map(|(name, takes)| format!("{name}: {takes:?}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let key = |(name, _): &(String, ParameterType)| name.clone();
    expected.sort_by_key(key);
    found.sort_by_key(key);
    if expected != found {
        let (expected, found) = (takes(&expected), takes(&found));
        return Some(format!(
            "`{}` takes ({expected}) in the table and ({found}) in wit/types.wit",
            spec.name
        ));
    }
    let outputs = function
        .result
        .map_or(0, |result| count_tensors(resolve, result));
    (outputs != spec.outputs).then(|| {
        format!(
            "`{}` gives {} tensors in the table and {outputs} in wit/types.wit",
            spec.name, spec.outputs
        )
    })
}

/// The table's word for a WIT type; records become their fields.
fn flatten(resolve: &Resolve, name: &str, ty: Type, found: &mut Vec<(String, ParameterType)>) {
    use ParameterType as P;
    let takes = match ty {
        Type::F64 => P::Float,
        Type::S32 | Type::S64 => P::Int,
        Type::U32 => P::Count,
        Type::Bool => P::Bool,
        Type::Id(id) => match &resolve.types[id].kind {
            TypeDefKind::Type(inner) => return flatten(resolve, name, *inner, found),
            TypeDefKind::Record(record) => {
                return record
                    .fields
                    .iter()
                    .for_each(|field| flatten(resolve, &field.name, field.ty, found));
            }
            TypeDefKind::Handle(Handle::Borrow(_)) => P::Tensor,
            TypeDefKind::Option(Type::F64) => P::OptionalFloat,
            TypeDefKind::Option(_) => P::OptionalTensor,
            TypeDefKind::List(Type::S32 | Type::S64) => P::Ints,
            TypeDefKind::List(Type::U32) => P::Counts,
            TypeDefKind::List(_) => P::Tensors,
            TypeDefKind::Tuple(tuple) if *tuple.types == [Type::U32, Type::U32] => P::Pair,
            TypeDefKind::Enum(_) => P::Kind,
            other => return found.push((format!("{name} ({})", other.as_str()), P::Kind)),
        },
        other => return found.push((format!("{name} ({other:?})"), P::Kind)),
    };
    found.push((name.into(), takes));
}

fn count_tensors(resolve: &Resolve, ty: Type) -> usize {
    let Type::Id(id) = ty else { return 0 };
    match &resolve.types[id].kind {
        TypeDefKind::Handle(_) => 1,
        TypeDefKind::Type(inner) => count_tensors(resolve, *inner),
        TypeDefKind::Result(result) => result.ok.map_or(0, |ok| count_tensors(resolve, ok)),
        TypeDefKind::Tuple(tuple) => tuple
            .types
            .iter()
            .map(|&ty| count_tensors(resolve, ty))
            .sum(),
        _ => 0,
    }
}

fn compare_numbers() -> Vec<String> {
    let table: Vec<(u32, &str)> = OPS
        .iter()
        .map(|&code| (code as u32, code.spec().name))
        .collect();
    let of = |list: &[(u32, &str)], entry: &(u32, &str)| list.contains(entry);
    let missing = table.iter().filter(|entry| !of(dtta_abi::OPS, entry));
    let missing = missing
        .map(|(number, name)| format!("`{name}` = {number} is in the table and not in sdk/abi"));
    let extra = dtta_abi::OPS.iter().filter(|entry| !of(&table, entry));
    let extra = extra
        .map(|(number, name)| format!("`{name}` = {number} is in sdk/abi and not in the table"));
    missing.chain(extra).collect()
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
    fn finds_an_operation_that_one_side_lacks() {
        let said = after("types.wit", "neg: func() -> result<tensor, error>;", "");
        assert!(
            said.contains("`neg` is in the table and not in wit/types.wit"),
            "{said}"
        );
        let added = "neg: func() -> result<tensor, error>; relu6: func() -> result<tensor, error>;";
        let said = after("types.wit", "neg: func() -> result<tensor, error>;", added);
        assert!(
            said.contains("`relu6` is in wit/types.wit and not in the table"),
            "{said}"
        );
    }

    #[test]
    fn finds_parameters_and_results_that_differ() {
        let said = after(
            "types.wit",
            "narrow: func(axis: s32, start: u32,",
            "narrow: func(axis: s32, begin: u32,",
        );
        assert!(
            said.contains(
                "`narrow` takes (axis: Int, length: Count, start: Count, x: Tensor) in the table"
            ),
            "{said}"
        );
        let said = after(
            "types.wit",
            "affine: func(scale: f64,",
            "affine: func(scale: option<f64>,",
        );
        assert!(said.contains("`affine` takes"), "{said}");
        let said = after(
            "types.wit",
            "-> result<tuple<tensor, tensor>, error>",
            "-> result<tensor, error>",
        );
        assert!(
            said.contains("`topk` gives 2 tensors in the table and 1 in wit/types.wit"),
            "{said}"
        );
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
