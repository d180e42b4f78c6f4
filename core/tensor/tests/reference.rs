//! The reference of operations in `sdk/OPERATIONS.md` is what the table says. To write it anew:
//! `DTTA_WRITE=1 cargo test --release -p dtta-tensor --test reference`.

use std::fmt::Write as _;
use std::path::Path;

use dtta_tensor::{OPS, OpSpec, Parameter, ParameterType};

const INTRODUCTION: &str = "# Operations

What a plugin can ask of tensors, generated from the table in `core/tensor/src/table.rs`. Each is a method of the SDK's
`Tensor` (and of WIT's `tensor`, with `-` for `_`); the number is its opcode on the native interface. `+ - * /` and unary `-`
work on references.

Operands broadcast over extents of 1, and over leading axes that one of them lacks. Axes count from the end when negative; an empty
list of axes means all. A scalar is `[1]`. An operation with a gradient is recorded on the tape when a float operand is tracked; one without leaves the tape.

Every request can be refused with one of these codes: `shape-mismatch` (extents or ranks that do not fit, named with the
shapes), `kind-mismatch` (float where int is needed, or the like), `invalid-axis`, `invalid-argument` (a number out of its
range), `stale-handle` (a tensor of an earlier call), `budget-exceeded` (see [budgets](README.md#budgets)),
`backend` (the device failed).

";

fn row(spec: &OpSpec) -> String {
    let parameter = |Parameter { name, takes }: &Parameter| {
        let takes = match takes {
            ParameterType::Tensor => "tensor",
            ParameterType::OptionalTensor => "tensor or none",
            ParameterType::Tensors => "tensors",
            ParameterType::Float => "number",
            ParameterType::OptionalFloat => "number or none",
            ParameterType::Int => "whole number",
            ParameterType::Count => "count",
            ParameterType::Bool => "yes or no",
            ParameterType::Kind => "kind",
            ParameterType::Ints => "whole numbers",
            ParameterType::Counts => "counts",
            ParameterType::Pair => "pair of counts",
        };
        format!("{name}: {takes}")
    };
    let parameters: Vec<String> = spec.parameters.iter().map(parameter).collect();
    format!(
        "| {} | `{}` | {} | {} | {} |",
        spec.code as u32,
        spec.name,
        parameters.join(", "),
        if spec.differentiable { "yes" } else { "no" },
        spec.doc.trim().replace('|', "\\|"),
    )
}

#[test]
fn the_reference_is_what_the_table_says() {
    let mut text = INTRODUCTION.to_owned();
    text.push_str(
        "| number | operation | takes | gradient | gives |\n| --- | --- | --- | --- | --- |\n",
    );
    for code in OPS {
        writeln!(text, "{}", row(code.spec())).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/OPERATIONS.md");
    if std::env::var_os("DTTA_WRITE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "sdk/OPERATIONS.md is stale; set DTTA_WRITE=1 to write it anew"
    );
}
