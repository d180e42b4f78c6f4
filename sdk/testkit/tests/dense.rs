//! The plugins of dense tasks: the same bits through every loader, gradients that central differences confirm, and
//! the resize that they share.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use dtta_plugin::{Environment, Plugin, SlotSpec, Values};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::{Value, json};

mod support;

use support::{library, root};

fn loaded(name: &str) -> [Plugin; 3] {
    let entry = match name {
        "depth" => dtta_plugin_depth::plugin_entry as dtta_abi::Entry,
        _ => dtta_plugin_segmentation::plugin_entry,
    };
    let manifest = root().join(format!("plugins/{name}/dist/plugin.json"));
    [
        Plugin::linked(name, entry).unwrap(),
        Plugin::from_file(&library(name)).unwrap(),
        Plugin::from_manifest(&manifest).unwrap(),
    ]
}

/// Numbers without a pattern in [-1, 1).
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_floats(values, shape, &Device::cpu()).unwrap()
}

/// A task: the configurations of head and mapper, the shape of the logits and of the slot.
struct Task {
    name: &'static str,
    head: Value,
    mapper: Value,
    logits: [usize; 4],
    slot: [usize; 4],
}

fn tasks() -> Vec<Task> {
    let segmentation = |slot| Task {
        name: "segmentation",
        head: json!({"temperature": 1.5}),
        mapper: json!({}),
        logits: [2, 4, 6, 8],
        slot,
    };
    let depth = |scale: &str, output: &str| {
        let range = json!({"scale": scale, "minimum": 0.5, "maximum": 20.0});
        Task {
            name: "depth",
            head: json!({"range": range, "output": output}),
            mapper: json!({"range": range}),
            logits: [2, 1, 6, 8],
            slot: [2, 1, 3, 4],
        }
    };
    let range = json!({"scale": "inverse", "minimum": 0.5, "maximum": 20.0});
    vec![
        Task {
            name: "depth",
            head: json!({"range": range, "output": {"inverse_depth": {"scale": 0.2, "shift": 0.7}}}),
            mapper: json!({"range": range, "values": "stretched"}),
            logits: [2, 1, 6, 8],
            slot: [2, 3, 3, 4],
        },
        segmentation([2, 3, 3, 4]),
        segmentation([2, 3, 4, 5]),
        depth("log", "logit"),
        depth("linear", "normalized"),
        depth("inverse", "logit"),
    ]
}

impl Task {
    /// What the mapper makes of what the head makes of logits.
    fn slot(&self, plugin: &Plugin, logits: &Tensor) -> Tensor {
        let embeddings = tensor(&[4, 3], &numbers(12, 5));
        let environment = Environment::default().with_constant("class-embeddings", embeddings);
        let [_, extents @ ..] = self.slot.map(Some);
        let slots = [SlotSpec {
            name: "spatial".into(),
            meaning: "spatial".into(),
            shape: std::iter::once(None).chain(extents).collect(),
        }];
        let mut head = plugin.head(&self.head, &environment).unwrap();
        let mut mapper = plugin.mapper(&self.mapper, &slots, &environment).unwrap();
        let inputs = Named::one("logits", logits.clone());
        let outputs = head.forward(&inputs, &mut Values::none()).unwrap();
        head.predict(&outputs).unwrap();
        let slots = mapper.condition(&outputs, &mut Values::none()).unwrap();
        let slot = slots.get("spatial").unwrap();
        assert_eq!(*slot.shape(), self.slot);
        slot.clone()
    }

    /// Logits of which none lies at the end of a clamp.
    fn values(&self) -> Vec<f32> {
        let values = numbers(self.logits.iter().product(), 3);
        let inside = |x: f32| {
            if self.head["output"] == "normalized" {
                0.5 + 0.4 * x
            } else {
                2.0 * x
            }
        };
        values.into_iter().map(inside).collect()
    }

    fn weights(&self) -> Vec<f32> {
        numbers(self.slot.iter().product(), 9)
    }

    /// The slot, and the gradient of a weighted sum over it with respect to the logits.
    fn gradient(&self, plugin: &Plugin) -> (Vec<f32>, Vec<f32>) {
        let leaf = tensor(&self.logits, &self.values()).to_leaf().unwrap();
        let slot = self.slot(plugin, &leaf);
        let loss = slot
            .mul(&tensor(&self.slot, &self.weights()))
            .unwrap()
            .sum(&[], false)
            .unwrap();
        let gradient = loss.backward().unwrap().of(&leaf).unwrap();
        (slot.to_floats().unwrap(), gradient.to_floats().unwrap())
    }

    /// The weighted sum, added up in double precision.
    fn loss(&self, plugin: &Plugin, values: &[f32]) -> f64 {
        let slot = self.slot(plugin, &tensor(&self.logits, values));
        let slot = slot.to_floats().unwrap();
        let terms = slot.iter().zip(self.weights());
        terms.map(|(&x, w)| f64::from(x) * f64::from(w)).sum()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn loaders_give_the_same_bits_forward_and_backward() {
    for task in tasks() {
        let [linked, native, component] = loaded(task.name).map(|plugin| {
            let (slot, gradient) = task.gradient(&plugin);
            (bits(&slot), bits(&gradient))
        });
        assert_eq!(linked, native, "{} {}", task.name, task.head);
        assert_eq!(linked, component, "{} {}", task.name, task.head);
    }
}

#[test]
fn central_differences_confirm_the_gradient_of_the_components() {
    const STEP: f32 = 1e-2;
    for task in tasks() {
        let [_, _, component] = loaded(task.name);
        let (_, gradient) = task.gradient(&component);
        let largest = gradient.iter().fold(0.0_f32, |a, g| a.max(g.abs()));
        assert!(largest > 1e-3, "{} {}", task.name, task.head);
        let mut values = task.values();
        for place in 0..values.len() {
            let value = values[place];
            let mut at = |moved: f32| {
                values[place] = moved;
                (task.loss(&component, &values), f64::from(moved))
            };
            let ((above, right), (below, left)) = (at(value + STEP), at(value - STEP));
            values[place] = value;
            let (difference, found) = ((above - below) / (right - left), gradient[place]);
            assert!(
                (difference - f64::from(found)).abs() < 2e-3 * f64::from(largest),
                "{} {}: {found} at {place}, central difference {difference}",
                task.name,
                task.head
            );
        }
    }
}

#[test]
fn metrics_of_every_loader_understand_each_other() {
    let device = Device::cpu();
    let labels = |seed: u32| -> Named {
        let values: Vec<i64> = numbers(2 * 12 * 12, seed)
            .iter()
            .map(|x| ((x + 1.0) * 2.0) as i64)
            .collect();
        let tensor = Tensor::from_ints(&values, &[2, 12, 12], &device).unwrap();
        Named::one("labels", tensor)
    };
    let depth = |seed: u32| -> Named {
        let values: Vec<f32> = numbers(2 * 12 * 12, seed)
            .iter()
            .map(|x| 5.0 * x + 4.0)
            .collect();
        Named::one("depth", tensor(&[2, 12, 12], &values))
    };
    let range = json!({"scale": "log", "maximum": 10.0});
    for (name, config, made) in [
        (
            "segmentation",
            json!({"classes": 4, "ignore_index": 3}),
            &labels as &dyn Fn(u32) -> Named,
        ),
        (
            "depth",
            json!({"range": range, "alignment": "median"}),
            &depth,
        ),
    ] {
        let mut metrics =
            loaded(name).map(|plugin| plugin.metric(&config, &Environment::default()).unwrap());
        for (seed, metric) in metrics.iter_mut().enumerate() {
            let seed = seed as u32 + 1;
            metric.update(&made(seed), &made(seed + 10)).unwrap();
        }
        let saved = metrics.each_ref().map(|metric| metric.save());
        let mut reports = Vec::new();
        for (own, metric) in metrics.iter_mut().enumerate() {
            for (other, bytes) in saved.iter().enumerate() {
                if other != own {
                    metric.merge(bytes).unwrap();
                }
            }
            reports.push((metric.save(), metric.report().unwrap()));
        }
        assert_eq!(reports[0], reports[1]);
        assert_eq!(reports[0], reports[2]);
        assert!(!reports[0].1.is_empty());
    }
}

mod resizer {
    use dtta_sdk::functional::area_resize;
    use dtta_sdk::prelude::*;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Config {
        height: u32,
        width: u32,
    }

    pub struct Resizer(Config);

    impl Head for Resizer {
        type Config = Config;

        fn create(config: Config) -> Result<Self> {
            Ok(Self(config))
        }

        fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
            let resized = area_resize(inputs.get("x")?, self.0.height, self.0.width)?;
            Ok(Named::one("y", resized))
        }

        fn predict(&self, _outputs: &Named, _session: &Session) -> Result<Named> {
            Ok(Named::new())
        }
    }

    export_plugin! { head: Resizer }
}

#[test]
fn resizing_takes_the_mean_of_the_area() {
    let plugin = Plugin::linked("resizer", resizer::plugin_entry).unwrap();
    let resize = |x: &Tensor, height: usize, width: usize| {
        let config = json!({"height": height, "width": width});
        let mut head = plugin.head(&config, &Environment::default()).unwrap();
        let inputs = Named::one("x", x.clone());
        let outputs = head.forward(&inputs, &mut Values::none());
        outputs.map(|outputs| outputs.get("y").unwrap().to_floats().unwrap())
    };
    let x = tensor(&[1, 1, 2, 3], &[1.0, 2.0, 6.0, 3.0, 4.0, 2.0]);
    for (height, width, expected) in [
        (2, 3, &[1.0, 2.0, 6.0, 3.0, 4.0, 2.0][..]),
        (1, 3, &[2.0, 3.0, 4.0]),
        (1, 1, &[3.0]),
        // 1.5 columns each: 2/3 a + 1/3 b, 1/3 b + 2/3 c.
        (2, 2, &[4.0 / 3.0, 14.0 / 3.0, 10.0 / 3.0, 8.0 / 3.0]),
        // 2/3 of a row each: the middle one covers both by half.
        (3, 1, &[3.0, 3.0, 3.0]),
        (3, 3, &[1.0, 2.0, 6.0, 2.0, 3.0, 4.0, 3.0, 4.0, 2.0]),
        // Twice as wide: each is repeated.
        (1, 6, &[2.0, 2.0, 3.0, 3.0, 4.0, 4.0]),
    ] {
        let found = resize(&x, height, width).unwrap();
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(
            found.len() == expected.len() && found.iter().zip(expected).all(near),
            "{height} x {width}: {found:?}"
        );
    }
    assert_eq!(resize(&x, 0, 2).unwrap_err().code(), "invalid-argument");
    let flat = tensor(&[2, 3], &[0.0; 6]);
    assert_eq!(resize(&flat, 1, 1).unwrap_err().code(), "shape-mismatch");
}
