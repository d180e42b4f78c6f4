//! Every operation of the table: a value derived by hand, its gradient against central
//! differences, and a request that it refuses.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; helpers outside of test functions too"
)]

use dtta_tensor::{Attribute, Device, Kind, OPS, OpCode, Outputs, Tensor, TensorError, dispatch};

mod cases;

use Attribute::Int;
use Operand::Floats as F;
use cases::{Case, Operand, case, f, tensor};

fn request(
    code: OpCode,
    operands: &[Operand],
    attributes: &[Attribute],
) -> Result<Tensor, TensorError> {
    let device = device();
    let tensors: Vec<Option<Tensor>> = operands
        .iter()
        .map(|operand| tensor(operand, &device))
        .collect();
    let tensors: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
    dispatch(code, &tensors, attributes, &device, &mut |_| Ok(())).map(first)
}

fn first(outputs: Outputs) -> Tensor {
    match outputs {
        Outputs::One(tensor) | Outputs::Two(tensor, _) => tensor,
    }
}

/// The device under test: `DTTA_TEST_DEVICE`, or the CPU.
fn device() -> Device {
    let name = std::env::var("DTTA_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse().expect("a device that this build can serve")
}

fn values(tensor: &Tensor) -> Vec<f32> {
    match tensor.kind() {
        Kind::Float => tensor.to_floats().unwrap(),
        _ => tensor
            .to_ints()
            .unwrap()
            .into_iter()
            .map(|value| value as f32)
            .collect(),
    }
}

fn close(found: &[f32], expected: &[f32], tolerance: f32) -> bool {
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() <= tolerance * (1.0 + b.abs()))
}

#[test]
fn every_operation_gives_the_value_derived_by_hand() {
    for &code in OPS {
        let case = case(code);
        let found = values(&request(code, &case.operands, &case.attributes).unwrap());
        assert!(
            close(&found, &case.expected, 1e-5),
            "{code:?}: {found:?}, expected {:?}",
            case.expected
        );
    }
}

#[test]
fn every_operation_refuses_what_it_cannot_take() {
    for &code in OPS {
        let (operands, attributes, expected) = case(code).refused;
        let error = request(code, &operands, &attributes).unwrap_err();
        assert_eq!(error.code(), expected, "{code:?}: {error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("`{}`", code.spec().name)),
            "{code:?}: {error}"
        );
    }
}

/// The loss whose gradient is checked: a fixed, uneven weighting of the first output.
fn loss(
    code: OpCode,
    operands: &[Option<Tensor>],
    attributes: &[Attribute],
    device: &Device,
) -> Tensor {
    let operands: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
    let output = first(dispatch(code, &operands, attributes, device, &mut |_| Ok(())).unwrap());
    let count = output.shape().elements();
    let weights: Vec<f32> = (0..count)
        .map(|index| 1.0 + 0.5 * (index % 3) as f32)
        .collect();
    let weights = Tensor::from_floats(&weights, &output.shape(), device).unwrap();
    output.mul(&weights).unwrap().sum(&[], false).unwrap()
}

#[test]
fn gradients_agree_with_central_differences() {
    // With f32 and a step of 1/64 the difference quotient is good to about 1e-3.
    const STEP: f32 = 1.0 / 64.0;
    let device = device();
    for &code in OPS {
        let Case {
            operands,
            attributes,
            ..
        } = case(code);
        for (position, operand) in operands.iter().enumerate() {
            let F(base, shape) = operand else { continue };
            let mut tensors: Vec<Option<Tensor>> = operands
                .iter()
                .map(|operand| tensor(operand, &device))
                .collect();
            let leaf = Tensor::from_floats(base, shape, &device)
                .unwrap()
                .to_leaf()
                .unwrap();
            tensors[position] = Some(leaf.clone());
            if !code.spec().differentiable {
                let outputs: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
                let output =
                    first(dispatch(code, &outputs, &attributes, &device, &mut |_| Ok(())).unwrap());
                assert!(
                    !output.is_tracked(),
                    "{code:?} is declared constant, but its result is tracked"
                );
                continue;
            }
            let gradient = loss(code, &tensors, &attributes, &device)
                .backward()
                .unwrap();
            let gradient = gradient
                .of(&leaf)
                .unwrap_or_else(|| panic!("{code:?}: no gradient for operand {position}"));
            let gradient = gradient.to_floats().unwrap();
            for element in 0..base.len() {
                let shifted = |by: f32| {
                    let mut moved = base.clone();
                    moved[element] += by;
                    let mut tensors = tensors.clone();
                    tensors[position] = Some(Tensor::from_floats(&moved, shape, &device).unwrap());
                    loss(code, &tensors, &attributes, &device).item().unwrap()
                };
                let numeric = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
                let analytic = gradient[element];
                assert!(
                    (numeric - analytic).abs() <= 5e-3 * (1.0 + analytic.abs()),
                    "{code:?}, operand {position}, element {element}: {analytic}, central difference {numeric}"
                );
            }
        }
    }
}

#[test]
fn leading_axes_that_an_operand_lacks_count_as_extents_of_one() {
    use OpCode::{
        Add, Choose, Div, Equal, Expand, Greater, LogicalAnd, Maximum, Minimum, Mul, Sub,
    };
    let device = device();
    let tensor = |values: &[f32], shape: &[usize]| {
        let tensor = Tensor::from_floats(values, shape, &device).unwrap();
        tensor.to_leaf().unwrap()
    };
    let wide = tensor(&[1.0, -2.0, 3.5, -4.0, 5.0, 6.0], &[1, 2, 3]);
    let row = [2.0, 6.0, 3.5];
    let mask = |tensor: &Tensor| tensor.greater_scalar(2.5).unwrap();
    for code in [
        Add, Sub, Mul, Div, Maximum, Minimum, Equal, Greater, LogicalAnd, Choose, Expand,
    ] {
        // The value, and the gradient of the row, which is summed over what it was repeated along.
        let outcome = |row: &Tensor, row_first: bool| {
            let (x, y) = if row_first {
                (row, &wide)
            } else {
                (&wide, row)
            };
            let operands = match code {
                LogicalAnd => vec![mask(x), mask(y)],
                Choose => vec![x.clone(), mask(y), y.clone()],
                Expand => vec![row.clone()],
                _ => vec![x.clone(), y.clone()],
            };
            let operands: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
            let attributes = match code {
                Expand => vec![Attribute::Ints(vec![1, 2, 3])],
                _ => vec![],
            };
            let output =
                first(dispatch(code, &operands, &attributes, &device, &mut |_| Ok(())).unwrap());
            assert_eq!(*output.shape(), [1, 2, 3], "{code:?}");
            let gradient = code.spec().differentiable.then(|| {
                let square = output.mul(&output).unwrap().sum(&[], false).unwrap();
                let gradients = square.backward().unwrap();
                let gradient = gradients.of(row).unwrap();
                assert_eq!(gradient.shape(), row.shape(), "{code:?}");
                gradient.to_floats().unwrap()
            });
            (values(&output), gradient)
        };
        for row_first in [false, true] {
            let lower = outcome(&tensor(&row, &[3]), row_first);
            let whole = outcome(&tensor(&row, &[1, 1, 3]), row_first);
            assert_eq!(lower, whole, "{code:?}");
        }
    }
}

#[test]
fn a_tracked_operand_beside_an_untracked_one_stays_on_the_tape() {
    let device = device();
    let constant = Tensor::from_floats(&[3.0], &[1], &device).unwrap();
    let leaf = Tensor::from_floats(&[2.0], &[1], &device)
        .unwrap()
        .to_leaf()
        .unwrap();
    for product in [constant.mul(&leaf).unwrap(), leaf.mul(&constant).unwrap()] {
        let gradients = product.backward().unwrap();
        assert_eq!(gradients.of(&leaf).unwrap().to_floats().unwrap(), [3.0]);
        assert!(gradients.of(&constant).is_none());
    }
    assert_eq!(constant.backward().err(), Some(TensorError::NotTracked));
    assert!(!leaf.detach().is_tracked());
}

#[test]
fn opcodes_are_numbered_once_and_found_by_number() {
    for &code in OPS {
        assert_eq!(OpCode::from_number(code as u32), Some(code));
        assert_eq!(code.spec().code, code);
    }
    assert_eq!(OpCode::from_number(0), None);
    assert_eq!(OpCode::from_number(9_999), None);
}

#[test]
fn surplus_and_missing_arguments_are_refused() {
    let x = f(&[1.0], &[1]);
    for (operands, attributes) in [
        (vec![], vec![]),
        (vec![x.clone(), x.clone()], vec![]),
        (vec![x.clone()], vec![Int(1)]),
        (vec![Operand::None], vec![]),
    ] {
        let error = request(OpCode::Neg, &operands, &attributes).unwrap_err();
        assert!(
            matches!(error, TensorError::Call { op: "neg", .. }),
            "{error}"
        );
    }
}
