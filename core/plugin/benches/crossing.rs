//! The price of the plugin boundary. A thousand operations in one call against the same
//! thousand asked of the tensor directly: the difference is a thousand crossings, each with the
//! drop of its result, which must stay below 1 ms (1 µs per operation).

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;

use divan::{Bencher, black_box};
use dtta_plugin::{Environment, Plugin, SlotSpec, Values};
use dtta_tensor::{Device, Named, Tensor};
use support::{ask, inputs, mapper, mapper_component, slot};

fn main() {
    divan::main();
}

/// A call that does nothing.
#[divan::bench]
fn empty_call(bencher: Bencher) {
    let (mut mapper, inputs) = (mapper(&Environment::default()), inputs(ask::ECHO));
    bencher.bench_local(|| mapper.condition(&inputs, &mut Values::none()).unwrap());
}

/// A thousand crossings that compute nothing: a second handle, and its drop.
#[divan::bench]
fn share_1000_in_wasm(bencher: Bencher) {
    let (mut mapper, inputs) = (mapper(&Environment::default()), inputs(ask::SHARE_1000));
    bencher.bench_local(|| mapper.condition(&inputs, &mut Values::none()).unwrap());
}

/// A thousand negations of one element, and their drops.
#[divan::bench]
fn negate_1000_in_wasm(bencher: Bencher) {
    let (mut mapper, inputs) = (mapper(&Environment::default()), inputs(ask::NEGATE_1000));
    bencher.bench_local(|| mapper.condition(&inputs, &mut Values::none()).unwrap());
}

/// The same negations without a plugin.
#[divan::bench]
fn negate_1000_direct(bencher: Bencher) {
    let tensor = Tensor::full(&[1], 0.0, &Device::cpu()).unwrap();
    bencher.bench_local(|| {
        for _ in 0..1000 {
            black_box(tensor.neg().unwrap());
        }
    });
}

/// One call of the shipped mapper: 1000 classes to an embedding of 1152, as for DiT-XL/2.
fn class_mix(bencher: Bencher, plugin: &Plugin) {
    let full = |shape: &[usize]| Tensor::full(shape, 0.5, &Device::cpu()).unwrap();
    let environment = Environment::default().with_constant("class-embeddings", full(&[1000, 1152]));
    let slots = [SlotSpec {
        shape: vec![None, Some(1152)],
        ..slot("class-embedding")
    }];
    let mut mapper = plugin
        .mapper(&serde_json::json!({}), &slots, &environment)
        .unwrap();
    let outputs = Named::one("logits", full(&[1, 1000]));
    bencher.bench_local(|| mapper.condition(&outputs, &mut Values::none()).unwrap());
}

#[divan::bench]
fn class_mix_in_wasm(bencher: Bencher) {
    class_mix(bencher, &classification());
}

#[divan::bench]
fn class_mix_linked(bencher: Bencher) {
    let entry = dtta_plugin_classification::plugin_entry;
    class_mix(bencher, &Plugin::linked("classification", entry).unwrap());
}

fn classification() -> Plugin {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/classification/dist");
    Plugin::from_manifest(&dist.join("plugin.json")).unwrap()
}

/// Loading the shipped plugin; the slowest is the first, which compiles unless it is cached.
#[divan::bench(sample_count = 20)]
fn load_classification(bencher: Bencher) {
    bencher.bench_local(classification);
}

/// Reading, checking and compiling a component; from the second time on, from the cache.
#[divan::bench(sample_count = 20)]
fn load(bencher: Bencher) {
    let folder = tempfile::tempdir().unwrap();
    let path = support::write(folder.path(), "fixture.wasm", &mapper_component());
    bencher.bench_local(|| Plugin::from_file(&path).unwrap());
}

/// A new instance with its configured role, as after a trap.
#[divan::bench]
fn instantiate(bencher: Bencher) {
    let (plugin, environment) = (support::plugin(), Environment::default());
    let (config, slots) = (serde_json::json!({}), [slot("class-embedding")]);
    bencher.bench_local(|| plugin.mapper(&config, &slots, &environment).unwrap());
}
