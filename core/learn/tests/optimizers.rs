//! Optimizer steps against PyTorch's, by the fixture that `tests/reference/optimizers.py` writes. Tolerance: largest absolute
//! difference 1e-6 after each of six steps. `DTTA_TEST_DEVICE` names another device than `cpu`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use dtta_learn::{Optimizer, OptimizerConfig};
use dtta_models::{Declaration, Group, Init, Weights};
use dtta_tensor::{Device, Tensor};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    optimizer: OptimizerConfig,
    parameter: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    after: Vec<Vec<f32>>,
}

fn device() -> Device {
    let name = std::env::var("DTTA_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse().unwrap()
}

#[test]
fn steps_are_those_of_pytorch() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/optimizers.json")).unwrap();
    assert_eq!(fixture.cases.len(), 6);
    for case in fixture.cases {
        let count = case.parameter.len();
        let tensor = |values: &[f32]| Tensor::from_floats(values, &[count], &device()).unwrap();
        let mut declaration = Declaration::new();
        let id = declaration.declare("weight", &[count], Group::Weight, Init::Zeros);
        let mut weights = Weights::initialise(&declaration.finish(), 0, &device()).unwrap();
        let start = tensor(&case.parameter);
        weights.set(id, start.clone()).unwrap();
        let mut optimizer = Optimizer::new(case.optimizer, 1);
        for (step, (gradient, expected)) in case.gradients.iter().zip(&case.after).enumerate() {
            let gradient = Some(tensor(gradient));
            optimizer.step(&mut weights, &[id], vec![gradient]).unwrap();
            let found = weights.get(id).to_floats().unwrap();
            let error = found
                .iter()
                .zip(expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(error <= 1e-6, "{:?}, step {step}: {error}", case.optimizer);
        }
        assert_eq!(
            start.to_floats().unwrap(),
            case.parameter,
            "the source is as it was"
        );
    }
}
