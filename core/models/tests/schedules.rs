//! Curves, mixtures and answers of diffusion processes against diffusers (tests/reference/schedules.py).

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use dtta_models::{NoiseSchedule, ScheduleConfig};
use dtta_tensor::{Device, Tensor};
use serde_json::Value;

fn table() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schedules.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn schedule(case: &Value) -> NoiseSchedule {
    let config: ScheduleConfig = serde_json::from_value(case["config"].clone()).unwrap();
    NoiseSchedule::new(&config).unwrap()
}

fn tensor(rows: &Value) -> Tensor {
    let rows: Vec<Vec<f32>> = serde_json::from_value(rows.clone()).unwrap();
    Tensor::from_floats(&rows.concat(), &[3, 2], &Device::cpu()).unwrap()
}

/// Within 1e-6 and one millionth of the value: diffusers computes in single precision.
fn assert_close(name: &str, found: &Tensor, expected: &Value) {
    let pairs = found.to_floats().unwrap().into_iter();
    for (found, expected) in pairs.zip(tensor(expected).to_floats().unwrap()) {
        assert!(
            (found - expected).abs() <= 1e-6 + 1e-6 * expected.abs(),
            "{name}: {found}, expected {expected}"
        );
    }
}

#[test]
fn curves_agree_with_diffusers() {
    let table = table();
    let cases = table["curves"].as_object().unwrap();
    assert_eq!(cases.len(), 25);
    for (name, case) in cases {
        let schedule = schedule(case);
        for (t, expected) in case["alphas_cumprod"].as_object().unwrap() {
            let [alpha, sigma] = schedule.coefficients(t.parse().unwrap()).unwrap();
            let expected = expected.as_f64().unwrap();
            // A thousand factors in single precision, then their differences where little is left.
            let tolerance = 1e-6 + 1e-4 * expected;
            assert!(
                (alpha * alpha - expected).abs() <= tolerance,
                "{name} at {t}: {alpha}, {expected}"
            );
            assert!((sigma * sigma + alpha * alpha - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn what_a_network_is_shown_and_should_answer_agrees_with_diffusers_and_the_papers() {
    let table = table();
    let (x0, noise) = (tensor(&table["x0"]), tensor(&table["noise"]));
    let cases = table["mixtures"].as_object().unwrap();
    assert_eq!(cases.len(), 7);
    for (name, case) in cases {
        let times: Vec<f64> = serde_json::from_value(case["times"].clone()).unwrap();
        let mixed = schedule(case).mix(&x0, &noise, &times).unwrap();
        assert_close(&format!("{name}: noisy"), &mixed.noisy, &case["noisy"]);
        assert_close(&format!("{name}: target"), &mixed.target, &case["target"]);
    }
}
