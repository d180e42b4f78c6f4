//! What the WebAssembly boundary costs in the Fashion-MNIST example, held to its bars: a mapper in a component adds at
//! most 1 % to a step, and a component that was compiled before loads within 50 ms. (A single crossing is measured by
//! `core/plugin/benches/crossing.rs`.) Linked code and component take turns in one process, so that both see the same
//! machine; numbers are medians. Run with `cargo bench -p dtta-cli --bench boundary`.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use dtta::{Document, Extensions, Prepared, RunOptions};
use dtta_plugin::{Environment, Mapper, Plugin, Registry, SlotSpec, Values};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::json;

/// As in the `dtta` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RUNS: usize = 7;
const CALLS: usize = 2001;
const LOADS: usize = 21;

/// As the example says.
const IMAGES: usize = 10;
const STEPS: usize = 4;
const SAMPLES: usize = 50;

const LINKED: &str = "linked:classification";
const COMPONENT: &str = "../../plugins/classification";

fn main() -> Result<()> {
    let step = steps()?;
    let call = calls()?;
    let share = call / step * 100.0;
    eprintln!("so a component adds {share:.3} % to a step by its calls");
    let load = loads()?;
    ensure!(share <= 1.0, "the bar is 1 % of a step");
    ensure!(load <= 50e-3, "the bar is 50 ms for a warm load");
    Ok(())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_linked("classification", dtta_plugin_classification::plugin_entry);
    registry
}

/// Seconds of a step of the example, its mapper linked; prints what the component's step takes beside it.
fn steps() -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let mut seconds = [Vec::new(), Vec::new()];
    for run in 0..=RUNS {
        for (mapper, seconds) in [LINKED, COMPONENT].into_iter().zip(&mut seconds) {
            let settings = [
                format!("plugins.mapper.use={}", json!(mapper)),
                format!("data.stream.samples={SAMPLES}"),
                format!("data.stream.domains={}", json!([{"kind": "clean"}])),
            ];
            let experiment = root().join("examples/fashion/online.json");
            let extensions = Extensions {
                plugins: registry(),
                ..Extensions::default()
            };
            let document = Document::load(&experiment, &settings, &extensions.methods)?;
            let mut prepared = Prepared::new(document, &extensions, Device::cpu())?;
            let out = folder.path().join(format!("{run}-{}", seconds.len()));
            let out = out.with_extension(if mapper == LINKED { "linked" } else { "wasm" });
            let stop = AtomicBool::new(false);
            let options = RunOptions::new(out, &stop);
            let begun = Instant::now();
            prepared.run(&options, Vec::new())?;
            // The first of each warms up.
            if run > 0 {
                let steps = SAMPLES / IMAGES * STEPS;
                seconds.push(begun.elapsed().as_secs_f64() / steps as f64);
            }
        }
    }
    let [linked, component] = seconds.map(median);
    eprintln!(
        "a step of {IMAGES} images: linked {:.2} ms, component {:.2} ms ({:+.2} %; median of {RUNS} runs of {} steps, in turns)",
        linked * 1e3,
        component * 1e3,
        (component / linked - 1.0) * 100.0,
        SAMPLES / IMAGES * STEPS
    );
    Ok(linked)
}

/// Seconds that a mapper's call takes longer in the component, with the example's shapes.
fn calls() -> Result<f64> {
    let slots = [SlotSpec {
        name: "class-embedding".into(),
        meaning: "class-embedding".into(),
        shape: vec![None, Some(128)],
    }];
    let fill = |shape: &[usize]| Tensor::full(shape, 0.5, &Device::cpu());
    let environment =
        Environment::new(Device::cpu()).with_constant("class-embeddings", fill(&[10, 128])?);
    let registry = registry();
    let folder = root().join("examples/fashion");
    let make = |plugin: &str| -> Result<Box<dyn Mapper>> {
        Ok(registry
            .find(plugin, &folder)?
            .mapper(&json!({}), &slots, &environment)?)
    };
    let mut mappers = [make(LINKED)?, make(COMPONENT)?];
    let mut seconds = [Vec::new(), Vec::new()];
    let outputs = Named::one("logits", fill(&[IMAGES, 10])?.to_leaf()?);
    for _ in 0..CALLS {
        for (mapper, seconds) in mappers.iter_mut().zip(&mut seconds) {
            let begun = Instant::now();
            mapper.condition(&outputs, &mut Values::none())?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    let [linked, component] = seconds.map(median);
    eprintln!(
        "a call of the mapper: linked {:.1} µs, component {:.1} µs (median of {CALLS}, in turns)",
        linked * 1e6,
        component * 1e6
    );
    Ok(component - linked)
}

/// Seconds that the slowest of the shipped components takes to load, once its compiled code is cached.
fn loads() -> Result<f64> {
    let mut slowest = 0.0f64;
    for name in ["accuracy", "classification", "entropy", "linear", "margin"] {
        let manifest = root().join(format!("plugins/{name}/dist/plugin.json"));
        let mut seconds = Vec::new();
        for _ in 0..=LOADS {
            let begun = Instant::now();
            Plugin::from_manifest(&manifest).with_context(|| manifest.display().to_string())?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        let first = seconds.remove(0);
        let warm = median(seconds);
        eprintln!(
            "loading {name}: first {:.1} ms, warm {:.1} ms (median of {LOADS})",
            first * 1e3,
            warm * 1e3
        );
        slowest = slowest.max(warm);
    }
    Ok(slowest)
}
