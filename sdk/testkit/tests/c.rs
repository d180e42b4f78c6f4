//! The plugin in C, `plugins/margin`: its library, built here with the system's compiler, and its committed component
//! give the bits of the same objective in Rust, pass what every plugin must pass, and refuse as it does.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use std::env::consts;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use dtta_plugin::{Environment, LoaderKind, Plugin, Role};
use dtta_tensor::{Device, Named, Tensor};
use dtta_testkit::Kit;
use serde_json::{Value, json};

mod support;

use support::{bits, leaf, root};

/// The same objective in Rust.
mod margin {
    use dtta_sdk::prelude::*;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Config {
        #[serde(default = "one")]
        margin: f64,
    }

    fn one() -> f64 {
        1.0
    }

    pub struct Margin(f64);

    impl Objective for Margin {
        type Config = Config;

        fn create(config: Config) -> Result<Self> {
            Ok(Self(config.margin))
        }

        fn loss(&self, outputs: &Named, _session: &Session) -> Result<Tensor> {
            let (best, _) = outputs.get("logits")?.softmax(1)?.topk(2, 1)?;
            let lead = best.narrow(1, 0, 1)?.sub(&best.narrow(1, 1, 1)?)?;
            let lacking = lead.affine(-1.0, self.0)?.relu()?;
            let axes: Vec<i32> = (1..lacking.shape()?.len() as i32).collect();
            lacking.mean(&axes, false)
        }
    }

    export_plugin! { objective: Margin }
}

/// The library, as `dtta plugins build` makes it.
fn library() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let name = format!("{}margin{}", consts::DLL_PREFIX, consts::DLL_SUFFIX);
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(compiler);
        command
            .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"])
            .args(["-shared", "-fPIC", "-fvisibility=hidden"])
            .arg("-I")
            .arg(root().join("sdk/abi/include"))
            .args(
                ["margin.c", "native/boundary.c"]
                    .map(|name| root().join("plugins/margin/src").join(name)),
            )
            .arg("-o")
            .arg(&file);
        assert!(command.status().unwrap().success(), "{command:?}");
        file
    })
}

/// In Rust, as C in a library, as C in a component.
fn loaded() -> [Plugin; 3] {
    let component = root().join("plugins/margin/dist/plugin.json");
    let plugins = [
        Plugin::linked("margin", margin::plugin_entry).unwrap(),
        Plugin::from_file(library()).unwrap(),
        Plugin::from_manifest(&component).unwrap(),
    ];
    let loaders = plugins.each_ref().map(Plugin::loader);
    assert_eq!(
        loaders,
        [LoaderKind::Linked, LoaderKind::Native, LoaderKind::Wasm]
    );
    plugins
}

/// The two that are in C.
fn in_c() -> [Plugin; 2] {
    let [_, library, component] = loaded();
    [library, component]
}

fn logits(tensor: Tensor) -> Named {
    Named::one("logits", tensor)
}

#[test]
fn conforms() {
    for plugin in in_c() {
        for config in [json!({}), json!({"margin": 0.5})] {
            Kit::new(plugin.clone())
                .config(Role::Objective, config)
                .check()
                .expect_passed();
        }
    }
}

#[test]
fn gives_the_bits_of_the_same_objective_in_rust() {
    // Numbers whose decimal digits are no binary fraction, and an exponent: C reads them to the same last bit.
    let configs = [
        json!({}),
        json!({"margin": 0.1}),
        json!({"margin": 0.987654321012345}),
        json!({"margin": 3e-7}),
    ];
    for (config, shape) in configs
        .iter()
        .zip([&[3, 5][..], &[2, 3, 4, 2]].iter().cycle())
    {
        let input = leaf(shape, 0.3);
        let [rust, library, component] = loaded().map(|plugin| {
            let mut objective = plugin.objective(config, &Environment::default()).unwrap();
            let loss = objective.loss(&logits(input.clone())).unwrap();
            assert_eq!(*loss.shape(), [shape[0]]);
            bits(&Named::one("loss", loss), &[&input])
        });
        assert_eq!(rust, library, "{config}");
        assert_eq!(rust, component, "{config}");
    }
}

#[test]
fn is_how_far_the_most_likely_class_falls_short() {
    // Softmax of logarithms gives the numbers back: the leads are 0.6 - 0.3 and 0.9 - 0.06.
    let shares = [0.6f32, 0.3, 0.1, 0.9, 0.06, 0.04].map(f32::ln);
    let input = Tensor::from_floats(&shares, &[2, 3], &Device::cpu()).unwrap();
    for plugin in in_c() {
        let mut objective = plugin
            .objective(&json!({"margin": 0.5}), &Environment::default())
            .unwrap();
        let loss = objective.loss(&logits(input.clone())).unwrap();
        let loss = loss.to_floats().unwrap();
        assert!((loss[0] - 0.2).abs() < 1e-6 && loss[1] == 0.0, "{loss:?}");
    }
}

#[test]
fn says_what_it_refuses_and_goes_on() {
    let environment = Environment::default();
    for plugin in in_c() {
        for digits in ["0.12345678901234567", "1e-40"] {
            let config: Value = serde_json::from_str(&format!("{{\"margin\": {digits}}}")).unwrap();
            let error = plugin.objective(&config, &environment).err().unwrap();
            assert_eq!(error.code(), "invalid-config", "{error}");
            assert!(error.to_string().contains("at most 15 digits"), "{error}");
        }
        let mut objective = plugin.objective(&json!({}), &environment).unwrap();
        let input = leaf(&[2, 3], 0.1);
        let before = objective.loss(&logits(input.clone())).unwrap();
        let others = Named::one("features", input.clone());
        let error = objective.loss(&others).unwrap_err();
        assert_eq!(error.code(), "unknown-name", "{error}");
        // What the host refuses within the call is passed on: of one class there are no two largest.
        let error = objective.loss(&logits(leaf(&[2, 1], 0.1))).unwrap_err();
        assert_eq!(error.code(), "invalid-argument", "{error}");
        let after = objective.loss(&logits(input)).unwrap();
        assert_eq!(before.to_floats().unwrap(), after.to_floats().unwrap());
    }
}
