//! Scores against NumPy and scikit-image, roles by hand, and what they make of depth that is none.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use dtta_plugin::{Environment, Metric, Plugin, SlotSpec, Values};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::json;

fn plugin() -> Plugin {
    Plugin::linked("depth", dtta_plugin_depth::plugin_entry).unwrap()
}

fn floats(name: &str, shape: &[usize], values: &[f32]) -> Named {
    let tensor = Tensor::from_floats(values, shape, &Device::cpu()).unwrap();
    Named::one(name, tensor)
}

fn depth(shape: &[usize], values: &[f32]) -> Named {
    floats("depth", shape, values)
}

fn slot(shape: &[Option<usize>]) -> [SlotSpec; 1] {
    [SlotSpec {
        name: "spatial".into(),
        meaning: "spatial".into(),
        shape: shape.into(),
    }]
}

fn assert_near(found: &[f32], expected: &[f32]) {
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(near),
        "{found:?} instead of {expected:?}"
    );
}

/// `tests/reference/depth.py` makes the same images.
const SHAPE: [usize; 3] = [2, 16, 20];

fn images() -> (Vec<f32>, Vec<f32>) {
    let (mut predicted, mut target) = (Vec::new(), Vec::new());
    for place in 0..SHAPE.iter().product() {
        let (b, y, x) = (place / 320, place / 20 % 16, place % 20);
        let ripple = ((3 * x + 5 * y) % 7) as f64;
        let (b, y, x) = (b as f64, y as f64, x as f64);
        let t = 4.0 + 3.0 * (0.3 * x + 0.2 * y + b).sin() + 0.1 * ripple;
        target.push(t as f32);
        predicted.push((0.6 * t + 0.8 + 0.5 * (0.7 * x - 0.4 * y).cos()) as f32);
    }
    target[2 * 20 + 3] = 0.0;
    target[5 * 20 + 7] = f32::NAN;
    target[9 * 20 + 9] = f32::INFINITY;
    target[320] = -1.0;
    (predicted, target)
}

fn metric(alignment: &str) -> Box<dyn Metric> {
    let config = json!({"range": {"scale": "log", "maximum": 10.0}, "alignment": alignment});
    plugin().metric(&config, &Environment::default()).unwrap()
}

const NAMES: [&str; 7] = [
    "abs_rel", "rmse", "log10", "delta1", "delta2", "delta3", "ssim",
];

#[test]
fn scores_agree_with_numpy_and_scikit_image() {
    let (predicted, target) = images();
    for (alignment, expected) in [
        (
            "none",
            [
                0.2286308, 1.2779825, 0.1089251, 0.3978076, 0.9779674, 1.0, 0.8407868,
            ],
        ),
        (
            "median",
            [
                0.1901679, 0.6913699, 0.0726861, 0.7876991, 0.9229503, 0.9795447, 0.8468380,
            ],
        ),
        (
            "least_squares",
            [
                0.1681451, 0.5670304, 0.0706337, 0.7578296, 0.9339517, 1.0, 0.8531023,
            ],
        ),
    ] {
        let mut metric = metric(alignment);
        metric
            .update(&depth(&SHAPE, &predicted), &depth(&SHAPE, &target))
            .unwrap();
        let scores = metric.report().unwrap();
        assert_eq!(scores.len(), NAMES.len());
        for (name, value) in NAMES.into_iter().zip(expected) {
            let found = scores[name];
            assert!(
                (found - value).abs() < 5e-6,
                "{alignment}: {name} is {found}, expected {value}"
            );
        }
    }
}

#[test]
fn a_prediction_up_to_scale_and_shift_is_perfect_once_aligned() {
    let (_, mut target) = images();
    for t in &mut target {
        *t = if t.is_nan() { 0.0 } else { t.clamp(1.0, 8.0) };
    }
    for (alignment, scale, shift) in [("median", 0.4, 0.0), ("least_squares", 0.4, 0.9)] {
        let predicted: Vec<f32> = target.iter().map(|t| scale * t + shift).collect();
        let mut metric = metric(alignment);
        metric
            .update(&depth(&SHAPE, &predicted), &depth(&SHAPE, &target))
            .unwrap();
        let scores = metric.report().unwrap();
        for (name, value) in NAMES.into_iter().zip([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]) {
            assert!((scores[name] - value).abs() < 1e-5, "{name}: {scores:?}");
        }
    }
}

#[test]
fn an_image_without_valid_depth_counts_for_nothing() {
    for alignment in ["none", "median", "least_squares"] {
        let (predicted, mut target) = images();
        let one = [1, 16, 20];
        let mut alone = metric(alignment);
        alone
            .update(
                &depth(&one, &predicted[..320]),
                &depth(&one, &target[..320]),
            )
            .unwrap();
        target[320..].fill(0.0);
        let mut both = metric(alignment);
        both.update(&depth(&SHAPE, &predicted), &depth(&SHAPE, &target))
            .unwrap();
        assert_eq!(both.report().unwrap(), alone.report().unwrap());
        let mut none = metric(alignment);
        none.update(
            &depth(&one, &predicted[320..]),
            &depth(&one, &target[320..]),
        )
        .unwrap();
        assert!(none.report().unwrap().is_empty());
    }
}

#[test]
fn refuses_predictions_that_cannot_be_scored() {
    let (mut predicted, target) = images();
    let mut metric = metric("none");
    let mut refusal = |predicted: Named, target: Named| {
        let refused = metric.update(&predicted, &target);
        refused.unwrap_err().to_string()
    };
    let error = refusal(depth(&[2, 20, 16], &predicted), depth(&SHAPE, &target));
    assert!(
        error.contains("[2, 20, 16]") && error.contains("[2, 16, 20]"),
        "{error}"
    );
    let error = refusal(depth(&[4, 8, 20], &predicted), depth(&[4, 8, 20], &target));
    assert!(error.contains("11 x 11"), "{error}");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        predicted[330] = value;
        let error = refusal(depth(&SHAPE, &predicted), depth(&SHAPE, &target));
        assert!(
            error.contains("image 1") && error.contains("not finite"),
            "{error}"
        );
    }
}

#[test]
fn brings_logits_into_the_range() {
    // The middle of each range: sqrt(4) - 1; the mean of 1 and 3; the harmonic mean of 1/2 and 2.
    for (range, middle) in [
        (json!({"scale": "log", "maximum": 3.0}), 1.0),
        (
            json!({"scale": "linear", "minimum": 1.0, "maximum": 3.0}),
            2.0,
        ),
        (
            json!({"scale": "inverse", "minimum": 0.5, "maximum": 2.0}),
            0.8,
        ),
    ] {
        let ends = (
            range["minimum"].as_f64().unwrap_or(0.0),
            range["maximum"].as_f64(),
        );
        let (least, most) = (ends.0 as f32, ends.1.unwrap() as f32);
        let inverse = range["scale"] == "inverse";
        let (at_0, at_1) = if inverse {
            (most, least)
        } else {
            (least, most)
        };
        for (output, logits) in [
            ("logit", [-30.0, 0.0, 30.0]),
            ("normalized", [-0.2, 0.5, 1.5]),
        ] {
            let config = json!({"range": range, "output": output});
            let mut head = plugin().head(&config, &Environment::default()).unwrap();
            let logits = floats("logits", &[1, 1, 1, 3], &logits);
            let outputs = head.forward(&logits, &mut Values::none()).unwrap();
            let normalized = outputs.get("normalized").unwrap();
            assert_eq!(*normalized.shape(), [1, 1, 1, 3]);
            assert_near(&normalized.to_floats().unwrap(), &[0.0, 0.5, 1.0]);
            let prediction = head.predict(&outputs).unwrap();
            let depth = prediction.get("depth").unwrap();
            assert_eq!(*depth.shape(), [1, 1, 3]);
            assert_near(&depth.to_floats().unwrap(), &[at_0, middle, at_1]);
        }
    }
}

#[test]
fn logits_may_be_depth_or_inverse_depth_up_to_scale_and_shift() {
    let range = json!({"scale": "inverse", "minimum": 0.5, "maximum": 4.0});
    for (output, logits, expected) in [
        // Held to the range on both sides.
        (json!("depth"), [0.1, 2.0, 9.0], [0.5, 2.0, 4.0]),
        // 1/d = x / 2 + 1/4: 1/4, 1 and 9/4 of which the last is nearer than 1/2.
        (
            json!({"inverse_depth": {"scale": 0.5, "shift": 0.25}}),
            [0.0, 1.5, 4.0],
            [4.0, 1.0, 0.5],
        ),
        // Below the farthest, where 1/d would be 0 or less.
        (
            json!({"inverse_depth": {"scale": -1.0, "shift": 1.0}}),
            [0.5, 1.0, 2.0],
            [2.0, 4.0, 4.0],
        ),
    ] {
        let config = json!({"range": range, "output": output});
        let mut head = plugin().head(&config, &Environment::default()).unwrap();
        let logits = floats("logits", &[1, 1, 1, 3], &logits);
        let outputs = head.forward(&logits, &mut Values::none()).unwrap();
        let depth = outputs.get("depth").unwrap().to_floats().unwrap();
        assert_near(&depth, &expected);
        // y = (1/d - 1/4) / (2 - 1/4).
        let normalized: Vec<f32> = expected.iter().map(|d| (1.0 / d - 0.25) / 1.75).collect();
        let found = outputs.get("normalized").unwrap().to_floats().unwrap();
        assert_near(&found, &normalized);
    }
}

#[test]
fn refuses_outputs_that_nothing_can_be_made_of() {
    let refusal = |config: serde_json::Value| {
        let head = plugin().head(&config, &Environment::default());
        head.map(|_| ()).unwrap_err().to_string()
    };
    let range = json!({"scale": "linear", "maximum": 4.0});
    let flat = json!({"inverse_depth": {"scale": 0.0, "shift": 1.0}});
    let near = json!({"scale": "linear", "minimum": 1.0, "maximum": 4.0});
    assert!(
        refusal(json!({"range": near, "output": flat}))
            .contains("`output.inverse_depth.scale` is 0")
    );
    let inverse = json!({"inverse_depth": {"scale": 1.0, "shift": 1.0}});
    let message = refusal(json!({"range": range, "output": inverse}));
    assert!(message.contains("needs one above 0"), "{message}");
    let unknown = json!({"range": range, "output": {"inverse_depth": {"scale": 1.0}}});
    assert!(refusal(unknown).contains("shift"));
}

#[test]
fn an_image_of_inverse_depth_is_stretched_over_its_valid_pixels() {
    let config = json!({
        "range": {"scale": "inverse", "minimum": 1.0, "maximum": 10.0}, "values": "stretched",
    });
    let shape = [None, Some(3), Some(1), Some(2)];
    let mut mapper = plugin()
        .mapper(&config, &slot(&shape), &Environment::default())
        .unwrap();
    // Inverse depth 1/2, 1/4, 1/5 and nothing: (x - 1/5) / (1/2 - 1/5) is 1, 1/6 and 0. The second image is flat.
    let values = [2.0, 4.0, 5.0, 0.0, 3.0, 3.0, 3.0, 3.0];
    let outputs = depth(&[2, 1, 4], &values);
    let slots = mapper.condition(&outputs, &mut Values::none()).unwrap();
    let image = slots.get("spatial").unwrap();
    assert_eq!(*image.shape(), [2, 3, 1, 2]);
    let first = [7.0 / 12.0, 0.0];
    let expected = [&first[..], &first, &first, &[0.0; 6]].concat();
    assert_near(&image.to_floats().unwrap(), &expected);
}

#[test]
fn inverse_depth_up_to_scale_and_shift_is_perfect_once_aligned() {
    let (_, mut target) = images();
    for t in &mut target {
        *t = if t.is_nan() { 0.0 } else { t.clamp(1.0, 8.0) };
    }
    // An invalid pixel has no inverse, and whatever is predicted there counts for nothing.
    let predicted: Vec<f32> = target
        .iter()
        .map(|t| match *t > 0.0 {
            true => 1.0 / (0.4 / t + 0.15),
            false => 3.0,
        })
        .collect();
    let mut metric = metric("least_squares_inverse");
    metric
        .update(&depth(&SHAPE, &predicted), &depth(&SHAPE, &target))
        .unwrap();
    let scores = metric.report().unwrap();
    for (name, value) in NAMES.into_iter().zip([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]) {
        assert!((scores[name] - value).abs() < 1e-4, "{name}: {scores:?}");
    }
}

#[test]
fn averages_normalised_depth_over_the_valid_pixels_of_each_cell() {
    let config = json!({"range": {"scale": "linear", "maximum": 10.0}});
    let shape = [None, Some(1), Some(1), Some(3)];
    let mut mapper = plugin()
        .mapper(&config, &slot(&shape), &Environment::default())
        .unwrap();
    let values = [
        1.0,
        3.0,
        10.0,
        f32::NAN,
        0.0,
        f32::NEG_INFINITY, //
        5.0,
        7.0,
        -2.0,
        f32::INFINITY,
        f32::NAN,
        -0.0,
    ];
    let leaf = Tensor::from_floats(&values, &[1, 2, 6], &Device::cpu())
        .unwrap()
        .to_leaf()
        .unwrap();
    let outputs = Named::one("depth", leaf.clone());
    let slots = mapper.condition(&outputs, &mut Values::none()).unwrap();
    // 2y - 1: the mean of 1, 3, 5 and 7 is 4; 10 alone; nothing.
    assert_eq!(*slots.get("spatial").unwrap().shape(), [1, 1, 1, 3]);
    assert_near(
        &slots.get("spatial").unwrap().to_floats().unwrap(),
        &[-0.2, 1.0, 0.0],
    );
    let sum = slots.get("spatial").unwrap().sum(&[], false).unwrap();
    let gradient = sum.backward().unwrap().of(&leaf).unwrap();
    let (quarter, whole) = (0.2 / 4.0, 0.2);
    let expected = [
        quarter, quarter, whole, 0.0, 0.0, 0.0, quarter, quarter, 0.0, 0.0, 0.0, 0.0,
    ];
    assert_near(&gradient.to_floats().unwrap(), &expected);
}

#[test]
fn nothing_of_an_invalid_pixel_reaches_value_or_gradient_on_any_scale() {
    let values = [2.0, f32::NAN, f32::INFINITY, -7.0];
    for scale in ["log", "linear", "inverse"] {
        let config = json!({"range": {"scale": scale, "minimum": 1.0, "maximum": 4.0}});
        let shape = [None, Some(1), Some(1), Some(1)];
        let mut mapper = plugin()
            .mapper(&config, &slot(&shape), &Environment::default())
            .unwrap();
        let leaf = Tensor::from_floats(&values, &[1, 2, 2], &Device::cpu())
            .unwrap()
            .to_leaf()
            .unwrap();
        let outputs = Named::one("depth", leaf.clone());
        let slots = mapper.condition(&outputs, &mut Values::none()).unwrap();
        let y = match scale {
            "log" => 0.5,
            _ => 1.0_f32 / 3.0,
        };
        assert_near(
            &slots.get("spatial").unwrap().to_floats().unwrap(),
            &[2.0 * y - 1.0],
        );
        let gradient = slots
            .get("spatial")
            .unwrap()
            .backward()
            .unwrap()
            .of(&leaf)
            .unwrap();
        let gradient = gradient.to_floats().unwrap();
        assert!(
            gradient[0].is_finite() && gradient[0] != 0.0,
            "{gradient:?}"
        );
        assert_eq!(gradient[1..], [0.0; 3]);
    }
}

#[test]
fn refuses_ranges_and_slots_that_are_none() {
    let environment = Environment::default();
    for (range, part) in [
        (
            json!({"scale": "log", "minimum": 5.0, "maximum": 5.0}),
            "from 5 to 5",
        ),
        (json!({"scale": "inverse", "maximum": 5.0}), "above 0"),
        (json!({"scale": "cubic", "maximum": 5.0}), "/range/scale"),
        (json!({"scale": "linear"}), "maximum"),
    ] {
        let refused = plugin().head(&json!({"range": range}), &environment);
        let error = refused.err().unwrap();
        assert_eq!(error.code(), "invalid-config", "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let config = json!({"range": {"scale": "log", "maximum": 5.0}});
    for (shape, part) in [
        (vec![None, Some(2), Some(4), Some(4)], "2 channels"),
        (vec![None, Some(4)], "rank 2"),
    ] {
        let refused = plugin().mapper(&config, &slot(&shape), &environment);
        let error = refused.err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
    let mut head = plugin().head(&config, &environment).unwrap();
    let two = floats("logits", &[1, 2, 1, 1], &[0.0; 2]);
    let error = head.forward(&two, &mut Values::none()).unwrap_err();
    assert_eq!(error.code(), "shape-mismatch", "{error}");
}
