//! Every operation of the table, asked for by a plugin through every loader: the bits that come out, and
//! the gradients that come back, are those of the operation called directly.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

#[path = "../../../core/tensor/tests/cases/mod.rs"]
mod cases;
mod support;

use cases::{Case, Operand, case, tensor};
use dtta_plugin::{Environment, Plugin, Values};
use dtta_tensor::{Attribute, Device, Kind, Limits, Named, OPS, OpCode, Outputs, Tensor, dispatch};
use serde_json::{Value, json};

/// Operands of a case, floats as leaves of the tape.
fn operands(case: &Case) -> Vec<Option<Tensor>> {
    let leaf = |tensor: Tensor| match tensor.kind() {
        Kind::Float => tensor.to_leaf().unwrap(),
        _ => tensor,
    };
    let made = case
        .operands
        .iter()
        .map(|operand| tensor(operand, &Device::cpu()));
    made.map(|operand| operand.map(leaf)).collect()
}

fn bits(tensor: &Tensor) -> Vec<u64> {
    match tensor.kind() {
        Kind::Float => tensor
            .to_floats()
            .unwrap()
            .iter()
            .map(|x| u64::from(x.to_bits()))
            .collect(),
        _ => tensor
            .to_ints()
            .unwrap()
            .iter()
            .map(|&x| x as u64)
            .collect(),
    }
}

/// The outputs, and the gradient of each float operand, of an uneven sum over the first output.
fn observed(outputs: &[Tensor], operands: &[Option<Tensor>]) -> Vec<Vec<u64>> {
    let mut all: Vec<Vec<u64>> = outputs.iter().map(bits).collect();
    let first = &outputs[0];
    if !first.is_tracked() {
        return all;
    }
    let weights: Vec<f32> = (0..first.shape().elements())
        .map(|i| (i as f32).cos())
        .collect();
    let weights = Tensor::from_floats(&weights, &first.shape(), first.device()).unwrap();
    let gradients = first
        .mul(&weights)
        .unwrap()
        .sum(&[], false)
        .unwrap()
        .backward()
        .unwrap();
    for operand in operands.iter().flatten() {
        all.extend(gradients.of(operand).map(|gradient| bits(&gradient)));
    }
    all
}

fn dispatched(code: OpCode, case: &Case, operands: &[Option<Tensor>]) -> Vec<Tensor> {
    let tensors: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
    let attributes = &case.attributes;
    let outputs = dispatch(code, &tensors, attributes, &Device::cpu(), &mut |_| Ok(()));
    match outputs.unwrap() {
        Outputs::One(only) => vec![only],
        Outputs::Two(first, second) => vec![first, second],
    }
}

fn directly(code: OpCode, case: &Case) -> Vec<Vec<u64>> {
    let operands = operands(case);
    observed(&dispatched(code, case, &operands), &operands)
}

fn config(code: OpCode, case: &Case) -> Value {
    let attribute = |attribute: &Attribute| match attribute {
        Attribute::None => json!("none"),
        Attribute::Int(value) => json!({"int": value}),
        Attribute::Float(value) => json!({"float": value}),
        Attribute::Bool(value) => json!({"int": i64::from(*value)}),
        Attribute::Ints(values) => json!({"ints": values}),
    };
    let given: Vec<bool> = case
        .operands
        .iter()
        .map(|operand| !matches!(operand, Operand::None))
        .collect();
    let attributes: Vec<Value> = case.attributes.iter().map(attribute).collect();
    json!({"operation": code.spec().name, "operands": given, "attributes": attributes})
}

fn through(plugin: &Plugin, code: OpCode, case: &Case) -> Vec<Vec<u64>> {
    let mut head = plugin
        .head(&config(code, case), &Environment::default())
        .unwrap();
    let mut operands = operands(case);
    // A head that no gradient passes through is refused where one arrives.
    if !dispatched(code, case, &operands)
        .iter()
        .any(Tensor::is_tracked)
    {
        operands = operands
            .iter()
            .map(|operand| operand.as_ref().map(Tensor::detach))
            .collect();
    }
    let named = operands.iter().enumerate();
    let named: Named = named
        .filter_map(|(place, operand)| Some((place.to_string(), operand.clone()?)))
        .collect();
    let outputs = head
        .forward(&named, &mut Values::none())
        .unwrap_or_else(|error| panic!("{code:?}: {error}"));
    let outputs: Vec<Tensor> = outputs.into_iter().map(|(_, tensor)| tensor).collect();
    observed(&outputs, &operands)
}

fn loaded() -> [Plugin; 3] {
    let entry = dtta_plugin_probe::plugin_entry;
    [
        Plugin::linked("probe", entry).unwrap(),
        Plugin::from_file(&support::library("probe")).unwrap(),
        Plugin::from_manifest(&support::root().join("tests/plugins/probe/dist/plugin.json"))
            .unwrap(),
    ]
}

#[test]
fn no_operation_is_free_through_any_loader() {
    for (limits, setting) in [
        (
            Limits {
                bytes: 0,
                ..Limits::default()
            },
            "bytes",
        ),
        (
            Limits {
                work: 0,
                ..Limits::default()
            },
            "work",
        ),
        (
            Limits {
                operations: 0,
                ..Limits::default()
            },
            "operations",
        ),
    ] {
        let environment = Environment {
            limits,
            ..Environment::default()
        };
        for plugin in &loaded() {
            for &code in OPS {
                let case = case(code);
                let mut head = plugin.head(&config(code, &case), &environment).unwrap();
                let operands = operands(&case);
                let named = operands.iter().enumerate();
                let named: Named = named
                    .filter_map(|(place, operand)| Some((place.to_string(), operand.clone()?)))
                    .collect();
                let error = head.forward(&named, &mut Values::none()).unwrap_err();
                let at = format!("{code:?}, {}: {error}", plugin.loader());
                assert_eq!(error.code(), "budget-exceeded", "{at}");
                assert!(
                    error
                        .to_string()
                        .contains(&format!("`plugins.limits.{setting}`")),
                    "{at}"
                );
            }
        }
    }
}

#[test]
fn what_would_take_gigabytes_or_minutes_is_refused_before_it_starts() {
    let wide = |shape: &[usize]| {
        Tensor::full(&[1, 1], 0.5, &Device::cpu())
            .unwrap()
            .expand(shape)
            .unwrap()
    };
    let ints = |n| Tensor::arange(0, n, &Device::cpu()).unwrap();
    let requests = [
        (
            OpCode::Full,
            vec![],
            vec![
                Attribute::Ints(vec![i64::from(i32::MAX)]),
                Attribute::Float(1.0),
            ],
        ),
        (
            OpCode::Arange,
            vec![],
            vec![Attribute::Int(0), Attribute::Int(i64::from(i32::MAX))],
        ),
        (
            OpCode::OneHot,
            vec![ints(40_000)],
            vec![Attribute::Int(50_000)],
        ),
        (
            OpCode::Matmul,
            vec![wide(&[20_000, 20_000]), wide(&[20_000, 20_000])],
            vec![],
        ),
        (
            OpCode::Expand,
            vec![wide(&[1, 1])],
            vec![Attribute::Ints(vec![40_000, 40_000])],
        ),
        (
            OpCode::Pad,
            vec![wide(&[1, 1])],
            vec![
                Attribute::Int(0),
                Attribute::Int(1 << 30),
                Attribute::Int(0),
                Attribute::Float(0.0),
            ],
        ),
    ];
    for plugin in &loaded() {
        for (code, operands, attributes) in &requests {
            let case = Case {
                operands: operands.iter().map(|_| cases::f(&[], &[])).collect(),
                attributes: attributes.clone(),
                expected: vec![],
                refused: (vec![], vec![], ""),
            };
            let mut head = plugin
                .head(&config(*code, &case), &Environment::default())
                .unwrap();
            let named: Named = operands
                .iter()
                .cloned()
                .enumerate()
                .map(|(place, operand)| (place.to_string(), operand))
                .collect();
            let start = std::time::Instant::now();
            let error = head.forward(&named, &mut Values::none()).unwrap_err();
            let at = format!("{code:?}, {}: {error}", plugin.loader());
            assert_eq!(error.code(), "budget-exceeded", "{at}");
            assert!(
                start.elapsed().as_millis() < 500,
                "{at}: {:?}",
                start.elapsed()
            );
        }
    }
}

#[test]
fn every_operation_has_the_same_bits_directly_linked_native_and_as_a_component() {
    let plugins = loaded();
    for &code in OPS {
        let case = case(code);
        let expected = directly(code, &case);
        for plugin in &plugins {
            let found = through(plugin, code, &case);
            assert_eq!(found, expected, "{code:?}, {}", plugin.loader());
        }
    }
}
