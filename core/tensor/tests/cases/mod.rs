//! One case for each operation: operands, a value derived by hand, and a request that it refuses. The match in [`case`] is
//! exhaustive, so a new operation cannot be forgotten. Shared by the tests of the tensor crate and of the plugin loaders.

#![allow(dead_code, reason = "each test binary uses its own part")]

use dtta_tensor::{Attribute, Device, Kind, OpCode, Tensor};

/// A tensor operand, as values and extents.
#[derive(Clone)]
pub enum Operand {
    Floats(Vec<f32>, Vec<usize>),
    Ints(Vec<i64>, Vec<usize>),
    Bools(Vec<i64>, Vec<usize>),
    None,
}

pub struct Case {
    /// Its tensors.
    pub operands: Vec<Operand>,
    /// Everything else.
    pub attributes: Vec<Attribute>,
    /// What the first output holds.
    pub expected: Vec<f32>,
    /// A request that is refused, with its code.
    pub refused: (Vec<Operand>, Vec<Attribute>, &'static str),
}

use Attribute::{Bool, Float, Int, Ints};
use Operand::{Bools as B, Floats as F, Ints as I};

pub fn f(values: &[f32], shape: &[usize]) -> Operand {
    F(values.to_vec(), shape.to_vec())
}

fn i(values: &[i64], shape: &[usize]) -> Operand {
    I(values.to_vec(), shape.to_vec())
}

fn b(values: &[i64], shape: &[usize]) -> Operand {
    B(values.to_vec(), shape.to_vec())
}

fn ints(values: &[i64]) -> Attribute {
    Ints(values.to_vec())
}

/// `[1, 1, 3, 3]` holding 1 to 9.
pub fn image() -> Operand {
    f(
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        &[1, 1, 3, 3],
    )
}

fn unary(x: &[f32], expected: &[f32]) -> Case {
    Case {
        operands: vec![f(x, &[x.len()])],
        attributes: vec![],
        expected: expected.to_vec(),
        refused: (vec![i(&[1], &[1])], vec![], "kind-mismatch"),
    }
}

fn binary(x: &[f32], y: &[f32], expected: &[f32]) -> Case {
    Case {
        operands: vec![f(x, &[2, x.len() / 2]), f(y, &[1, y.len()])],
        attributes: vec![],
        expected: expected.to_vec(),
        refused: (
            vec![f(&[1.0; 6], &[2, 3]), f(&[1.0; 4], &[2, 2])],
            vec![],
            "shape-mismatch",
        ),
    }
}

fn reduction(expected: &[f32]) -> Case {
    Case {
        operands: vec![f(&[1.0, 5.0, 3.0, 8.0, 2.0, 6.0], &[2, 3])],
        attributes: vec![ints(&[-1]), Bool(false)],
        expected: expected.to_vec(),
        refused: (
            vec![f(&[1.0; 6], &[2, 3])],
            vec![ints(&[2]), Bool(false)],
            "invalid-axis",
        ),
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each operation")]
pub fn case(code: OpCode) -> Case {
    let x23 = || f(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
    let layout = |attributes: Vec<Attribute>,
                  expected: &[f32],
                  bad: Vec<Attribute>,
                  code: &'static str| Case {
        operands: vec![x23()],
        attributes,
        expected: expected.to_vec(),
        refused: (vec![x23()], bad, code),
    };
    match code {
        OpCode::Full => Case {
            operands: vec![],
            attributes: vec![ints(&[2, 2]), Float(1.5)],
            expected: vec![1.5; 4],
            refused: (vec![], vec![ints(&[2, 0]), Float(1.0)], "shape-mismatch"),
        },
        OpCode::Arange => Case {
            operands: vec![],
            attributes: vec![Int(-1), Int(3)],
            expected: vec![-1.0, 0.0, 1.0, 2.0],
            refused: (vec![], vec![Int(3), Int(3)], "invalid-argument"),
        },
        OpCode::Detach => Case {
            refused: (vec![], vec![], "invalid-argument"),
            ..unary(&[1.0, -2.0], &[1.0, -2.0])
        },
        OpCode::Add => binary(
            &[1.0, 2.0, 3.0, 4.0],
            &[10.0, 20.0],
            &[11.0, 22.0, 13.0, 24.0],
        ),
        OpCode::Sub => binary(
            &[1.0, 2.0, 3.0, 4.0],
            &[10.0, 20.0],
            &[-9.0, -18.0, -7.0, -16.0],
        ),
        OpCode::Mul => binary(
            &[1.0, 2.0, 3.0, 4.0],
            &[10.0, 20.0],
            &[10.0, 40.0, 30.0, 80.0],
        ),
        OpCode::Div => binary(&[1.0, 2.0, 3.0, 4.0], &[10.0, 20.0], &[0.1, 0.1, 0.3, 0.2]),
        OpCode::Maximum => binary(&[1.0, 5.0, 3.0, 4.0], &[2.0, 4.5], &[2.0, 5.0, 3.0, 4.5]),
        OpCode::Minimum => binary(&[1.0, 5.0, 3.0, 4.0], &[2.0, 4.5], &[1.0, 4.5, 2.0, 4.0]),
        OpCode::Affine => Case {
            attributes: vec![Float(2.0), Float(-1.0)],
            refused: (
                vec![i(&[1], &[1])],
                vec![Float(2.0), Float(0.0)],
                "kind-mismatch",
            ),
            ..unary(&[1.0, 2.0], &[1.0, 3.0])
        },
        OpCode::Powf => Case {
            attributes: vec![Float(1.5)],
            refused: (vec![i(&[1], &[1])], vec![Float(2.0)], "kind-mismatch"),
            ..unary(&[1.0, 4.0], &[1.0, 8.0])
        },
        OpCode::Clamp => Case {
            attributes: vec![Float(0.0), Attribute::None],
            refused: (
                vec![f(&[1.0], &[1])],
                vec![Float(2.0), Float(1.0)],
                "invalid-argument",
            ),
            ..unary(&[-1.0, 4.0], &[0.0, 4.0])
        },
        OpCode::Neg => unary(&[1.0, -2.0], &[-1.0, 2.0]),
        OpCode::Abs => unary(&[1.0, -2.0], &[1.0, 2.0]),
        OpCode::Exp => unary(&[0.0, 1.0], &[1.0, std::f32::consts::E]),
        OpCode::Log => unary(&[1.0, std::f32::consts::E], &[0.0, 1.0]),
        OpCode::Sqrt => unary(&[1.0, 4.0], &[1.0, 2.0]),
        OpCode::Tanh => unary(&[0.0, 1.0], &[0.0, 0.761_594_2]),
        OpCode::Sigmoid => unary(&[0.0, 1.0], &[0.5, 0.731_058_6]),
        OpCode::Relu => unary(&[-1.0, 2.0], &[0.0, 2.0]),
        // x Φ(x): Φ(1) = 0.8413447, Φ(-1) = 0.1586553.
        OpCode::Gelu => unary(&[1.0, -1.0], &[0.841_344_7, -0.158_655_3]),
        OpCode::Silu => unary(&[1.0, -1.0], &[0.731_058_6, -0.268_941_4]),
        OpCode::Cast => Case {
            operands: vec![i(&[0, 3], &[2])],
            attributes: vec![Int(0)],
            expected: vec![0.0, 3.0],
            refused: (vec![i(&[0, 3], &[2])], vec![Int(3)], "invalid-argument"),
        },
        OpCode::Equal => binary(&[1.0, 2.0, 3.0, 4.0], &[1.0, 4.0], &[1.0, 0.0, 0.0, 1.0]),
        OpCode::Greater => binary(&[1.0, 5.0, 3.0, 4.0], &[2.0, 4.0], &[0.0, 1.0, 1.0, 0.0]),
        OpCode::GreaterScalar => Case {
            attributes: vec![Float(1.5)],
            refused: (vec![b(&[1], &[1])], vec![Float(0.0)], "kind-mismatch"),
            ..unary(&[1.0, 2.0], &[0.0, 1.0])
        },
        OpCode::LogicalNot => Case {
            operands: vec![b(&[1, 0], &[2])],
            attributes: vec![],
            expected: vec![0.0, 1.0],
            refused: (vec![f(&[1.0], &[1])], vec![], "kind-mismatch"),
        },
        OpCode::LogicalAnd => Case {
            operands: vec![b(&[1, 0, 1, 0], &[2, 2]), b(&[1, 1], &[1, 2])],
            attributes: vec![],
            expected: vec![1.0, 0.0, 1.0, 0.0],
            refused: (
                vec![b(&[1], &[1]), f(&[1.0], &[1])],
                vec![],
                "kind-mismatch",
            ),
        },
        OpCode::Choose => Case {
            operands: vec![
                f(&[1.0, 2.0], &[2]),
                b(&[1, 0], &[2]),
                f(&[10.0, 20.0], &[2]),
            ],
            attributes: vec![],
            expected: vec![1.0, 20.0],
            refused: (
                vec![f(&[1.0], &[1]), f(&[1.0], &[1]), f(&[1.0], &[1])],
                vec![],
                "kind-mismatch",
            ),
        },
        OpCode::Sum => reduction(&[9.0, 16.0]),
        OpCode::Mean => reduction(&[3.0, 16.0 / 3.0]),
        // 1 5 3: ((-2)² + 2² + 0²) / 3; 8 2 6: mean 16/3, squares 64/9 + 100/9 + 4/9.
        OpCode::Variance => reduction(&[8.0 / 3.0, 168.0 / 27.0]),
        OpCode::Amax => reduction(&[5.0, 8.0]),
        OpCode::Amin => reduction(&[1.0, 2.0]),
        OpCode::Argmax => Case {
            attributes: vec![Int(1)],
            refused: (vec![f(&[1.0; 6], &[2, 3])], vec![Int(-3)], "invalid-axis"),
            ..reduction(&[1.0, 0.0])
        },
        OpCode::Reshape => layout(
            vec![ints(&[3, -1])],
            &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            vec![ints(&[4, -1])],
            "shape-mismatch",
        ),
        OpCode::Permute => layout(
            vec![ints(&[1, 0])],
            &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0],
            vec![ints(&[1, 1])],
            "invalid-axis",
        ),
        OpCode::Expand => Case {
            operands: vec![f(&[1.0, 2.0], &[2, 1])],
            attributes: vec![ints(&[2, 2])],
            expected: vec![1.0, 1.0, 2.0, 2.0],
            refused: (vec![x23()], vec![ints(&[2, 6])], "shape-mismatch"),
        },
        OpCode::Squeeze => Case {
            operands: vec![f(&[1.0, 2.0], &[2, 1])],
            attributes: vec![Int(-1)],
            expected: vec![1.0, 2.0],
            refused: (vec![x23()], vec![Int(0)], "shape-mismatch"),
        },
        OpCode::Unsqueeze => layout(
            vec![Int(-1)],
            &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            vec![Int(3)],
            "invalid-axis",
        ),
        OpCode::Flip => layout(
            vec![Int(1)],
            &[3.0, 2.0, 1.0, 6.0, 5.0, 4.0],
            vec![Int(2)],
            "invalid-axis",
        ),
        OpCode::Narrow => layout(
            vec![Int(1), Int(1), Int(2)],
            &[2.0, 3.0, 5.0, 6.0],
            vec![Int(1), Int(2), Int(2)],
            "invalid-argument",
        ),
        OpCode::Pad => layout(
            vec![Int(1), Int(1), Int(0), Float(-1.0)],
            &[-1.0, 1.0, 2.0, 3.0, -1.0, 4.0, 5.0, 6.0],
            vec![Int(5), Int(1), Int(0), Float(0.0)],
            "invalid-axis",
        ),
        OpCode::Cat => Case {
            operands: vec![f(&[1.0, 2.0], &[2, 1]), f(&[3.0, 4.0, 5.0, 6.0], &[2, 2])],
            attributes: vec![Int(1)],
            expected: vec![1.0, 3.0, 4.0, 2.0, 5.0, 6.0],
            refused: (
                vec![f(&[1.0], &[1, 1]), f(&[1.0, 2.0], &[2, 1])],
                vec![Int(1)],
                "shape-mismatch",
            ),
        },
        OpCode::Stack => Case {
            operands: vec![f(&[1.0, 2.0], &[2]), f(&[3.0, 4.0], &[2])],
            attributes: vec![Int(-1)],
            expected: vec![1.0, 3.0, 2.0, 4.0],
            refused: (
                vec![f(&[1.0], &[1]), f(&[1.0, 2.0], &[2])],
                vec![Int(0)],
                "shape-mismatch",
            ),
        },
        OpCode::Gather => Case {
            operands: vec![x23(), i(&[2, 0], &[2, 1])],
            attributes: vec![Int(1)],
            expected: vec![3.0, 4.0],
            refused: (
                vec![x23(), i(&[2, 0], &[2])],
                vec![Int(1)],
                "shape-mismatch",
            ),
        },
        OpCode::IndexSelect => Case {
            operands: vec![x23(), i(&[2, 0, 2], &[3])],
            attributes: vec![Int(1)],
            expected: vec![3.0, 1.0, 3.0, 6.0, 4.0, 6.0],
            refused: (vec![x23(), f(&[0.0], &[1])], vec![Int(1)], "kind-mismatch"),
        },
        OpCode::OneHot => Case {
            operands: vec![i(&[2, 0], &[2])],
            attributes: vec![Int(3)],
            expected: vec![0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
            refused: (vec![i(&[2, 0], &[2])], vec![Int(0)], "invalid-argument"),
        },
        OpCode::Topk => Case {
            operands: vec![f(&[1.0, 5.0, 3.0, 8.0, 2.0, 6.0], &[2, 3])],
            attributes: vec![Int(2), Int(-1)],
            expected: vec![5.0, 3.0, 8.0, 6.0],
            refused: (vec![x23()], vec![Int(4), Int(1)], "invalid-argument"),
        },
        OpCode::Matmul => Case {
            operands: vec![x23(), f(&[1.0, 0.0, 0.0, 1.0, 2.0, 2.0], &[3, 2])],
            attributes: vec![],
            expected: vec![7.0, 8.0, 16.0, 17.0],
            refused: (vec![x23(), x23()], vec![], "shape-mismatch"),
        },
        // e^0 : e^(ln 3) = 1 : 3.
        OpCode::Softmax => Case {
            operands: vec![f(&[0.0, 3f32.ln()], &[1, 2])],
            attributes: vec![Int(-1)],
            expected: vec![0.25, 0.75],
            refused: (vec![x23()], vec![Int(2)], "invalid-axis"),
        },
        OpCode::LogSoftmax => Case {
            operands: vec![f(&[0.0, 3f32.ln()], &[1, 2])],
            attributes: vec![Int(-1)],
            expected: vec![0.25f32.ln(), 0.75f32.ln()],
            refused: (vec![x23()], vec![Int(2)], "invalid-axis"),
        },
        // Kernel [1 0; 0 -1] on 1..9: x[r, c] - x[r+1, c+1] = -4 everywhere, plus a bias of 0.5.
        OpCode::Conv2d => {
            let options = |groups| vec![ints(&[1, 1]), ints(&[0, 0]), ints(&[1, 1]), Int(groups)];
            let kernel = || f(&[1.0, 0.0, 0.0, -1.0], &[1, 1, 2, 2]);
            Case {
                operands: vec![image(), kernel(), f(&[0.5], &[1])],
                attributes: options(1),
                expected: vec![-3.5; 4],
                refused: (
                    vec![image(), kernel(), Operand::None],
                    options(2),
                    "shape-mismatch",
                ),
            }
        }
        OpCode::AvgPool2d => Case {
            operands: vec![image()],
            attributes: vec![ints(&[2, 2]), ints(&[1, 1]), ints(&[0, 0])],
            expected: vec![3.0, 4.0, 6.0, 7.0],
            refused: (
                vec![image()],
                vec![ints(&[4, 4]), ints(&[1, 1]), ints(&[0, 0])],
                "shape-mismatch",
            ),
        },
        OpCode::MaxPool2d => Case {
            operands: vec![image()],
            attributes: vec![ints(&[2, 2]), ints(&[1, 1]), ints(&[0, 0])],
            expected: vec![5.0, 6.0, 8.0, 9.0],
            refused: (
                vec![image()],
                vec![ints(&[2, 2]), ints(&[0, 1]), ints(&[0, 0])],
                "invalid-argument",
            ),
        },
        OpCode::AdaptiveAvgPool2d => Case {
            operands: vec![image()],
            attributes: vec![Int(1), Int(3)],
            expected: vec![4.0, 5.0, 6.0],
            refused: (vec![x23()], vec![Int(1), Int(1)], "shape-mismatch"),
        },
        // 1 3: mean 2, variance 1 -> -1 1; times 2 plus 1 -> -1 3.
        OpCode::LayerNorm => Case {
            operands: vec![
                f(&[1.0, 3.0], &[1, 2]),
                f(&[2.0, 2.0], &[2]),
                f(&[1.0, 1.0], &[2]),
            ],
            attributes: vec![Float(0.0)],
            expected: vec![-1.0, 3.0],
            refused: (
                vec![x23(), f(&[1.0], &[1]), Operand::None],
                vec![Float(0.0)],
                "shape-mismatch",
            ),
        },
        OpCode::GroupNorm => Case {
            operands: vec![
                f(&[1.0, 3.0, 10.0, 14.0], &[1, 4]),
                f(&[1.0, 2.0, 1.0, 1.0], &[4]),
                f(&[0.0, 1.0, 0.0, 0.0], &[4]),
            ],
            attributes: vec![Int(2), Float(0.0)],
            expected: vec![-1.0, 3.0, -1.0, 1.0],
            refused: (
                vec![x23(), Operand::None, Operand::None],
                vec![Int(2), Float(0.0)],
                "invalid-argument",
            ),
        },
        // (x - mean) / sqrt(variance), then times weight plus bias.
        OpCode::BatchNorm => Case {
            operands: vec![
                f(&[1.0, 8.0], &[1, 2]),
                f(&[0.0, 2.0], &[2]),
                f(&[1.0, 4.0], &[2]),
                f(&[2.0, 1.0], &[2]),
                f(&[0.0, 1.0], &[2]),
            ],
            attributes: vec![Float(0.0)],
            expected: vec![2.0, 4.0],
            refused: (
                vec![
                    x23(),
                    f(&[1.0], &[1]),
                    f(&[1.0], &[1]),
                    Operand::None,
                    Operand::None,
                ],
                vec![Float(0.0)],
                "shape-mismatch",
            ),
        },
        OpCode::ResizeNearest => Case {
            operands: vec![f(&[1.0, 2.0], &[1, 1, 1, 2])],
            attributes: vec![Int(2), Int(4)],
            expected: vec![1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0],
            refused: (vec![x23()], vec![Int(2), Int(2)], "shape-mismatch"),
        },
        // Half-pixel centres: 0 -> clamped, 1 -> 0.25, 2 -> 0.75, 3 -> clamped.
        OpCode::ResizeBilinear => Case {
            operands: vec![f(&[1.0, 2.0], &[1, 1, 1, 2])],
            attributes: vec![Int(1), Int(4), Bool(false)],
            expected: vec![1.0, 1.25, 1.75, 2.0],
            refused: (
                vec![image()],
                vec![Int(0), Int(2), Bool(false)],
                "invalid-argument",
            ),
        },
    }
}

pub fn tensor(operand: &Operand, device: &Device) -> Option<Tensor> {
    match operand {
        F(values, shape) => Some(Tensor::from_floats(values, shape, device).unwrap()),
        I(values, shape) => Some(Tensor::from_ints(values, shape, device).unwrap()),
        B(values, shape) => Some(
            Tensor::from_ints(values, shape, device)
                .unwrap()
                .cast(Kind::Bool)
                .unwrap(),
        ),
        Operand::None => None,
    }
}
