//! The parts of the plugin interface agree: every operation of the tensor crate's table is a function
//! of WIT's tensor with the same parameters, and has the same number in the C interface. That
//! nothing breaks what was released is `cargo xtask wit-check`.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dtta_tensor::{OPS, OpCode, ParameterType};
use wit_parser::{Function, Handle, PackageId, Resolve, Type, TypeDefKind};

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

fn wit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")
}

fn parse(folder: &Path) -> (Resolve, PackageId) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(folder).unwrap();
    (resolve, package)
}

#[test]
fn table_wit_and_c_interface_agree() {
    let (resolve, package) = parse(&wit());
    let mut faults = compare_table(&resolve, package);
    faults.extend(compare_numbers());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What the comparison says after an edit of `types.wit`.
fn after(from: &str, to: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    for name in ["types.wit", "roles.wit"] {
        let text = fs::read_to_string(wit().join(name)).unwrap();
        let edited = match name {
            "types.wit" => text.replacen(from, to, 1),
            _ => text.clone(),
        };
        assert_eq!(edited == text, name != "types.wit", "`{from}` is not there");
        fs::write(folder.path().join(name), edited).unwrap();
    }
    let (resolve, package) = parse(folder.path());
    compare_table(&resolve, package).join("\n")
}

#[test]
fn finds_an_operation_that_one_side_lacks() {
    let said = after("neg: func() -> result<tensor, error>;", "");
    assert!(
        said.contains("`neg` is in the table and not in wit/types.wit"),
        "{said}"
    );
    let added = "neg: func() -> result<tensor, error>; relu6: func() -> result<tensor, error>;";
    let said = after("neg: func() -> result<tensor, error>;", added);
    assert!(
        said.contains("`relu6` is in wit/types.wit and not in the table"),
        "{said}"
    );
}

#[test]
fn finds_parameters_and_results_that_differ() {
    let said = after(
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
        "affine: func(scale: f64,",
        "affine: func(scale: option<f64>,",
    );
    assert!(said.contains("`affine` takes"), "{said}");
    let said = after(
        "-> result<tuple<tensor, tensor>, error>",
        "-> result<tensor, error>",
    );
    assert!(
        said.contains("`topk` gives 2 tensors in the table and 1 in wit/types.wit"),
        "{said}"
    );
}

fn compare_table(resolve: &Resolve, package: PackageId) -> Vec<String> {
    let interface = resolve.packages[package].interfaces.get("tensor").unwrap();
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
    faults
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
