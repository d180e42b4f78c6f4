//! Whatever an experiment, a model file, a weight file or a dataset holds, it is read or refused: nothing panics, takes all memory, or
//! takes longer than 20 s. `tests/fuzz.sh` runs these for long.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

mod common;
#[path = "common/damage.rs"]
mod damage;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use common::{Fixture, extensions};
use damage::{changed, changes, damage, damaged};
use dtta::{Document, Prepared, Shard};
use dtta_data::{ColourMode, Dataset, Image};
use dtta_models::{Models, Weights};
use dtta_tensor::Device;
use proptest::prelude::*;
use serde_json::{Value, json};

static PLAIN: LazyLock<Fixture> = LazyLock::new(Fixture::new);
static DENSE: LazyLock<Fixture> = LazyLock::new(Fixture::dense);

/// Opens and rehearses an experiment; says why not.
fn tried(fixture: &Fixture, experiment: Value) -> Result<(), String> {
    let clock = Instant::now();
    let outcome = rehearsed(fixture, experiment).map_err(|error| error.to_string());
    assert!(clock.elapsed() < Duration::from_secs(20), "{outcome:?}");
    outcome
}

fn rehearsed(fixture: &Fixture, experiment: Value) -> dtta::Result<()> {
    let extensions = extensions();
    let path = fixture.path().join("experiment.json");
    // What is asked for may take its time.
    let work = |name: &str| experiment["method"][name].as_u64().unwrap_or(1);
    let long = work("steps").saturating_mul(work("draws")) > 1_000;
    let document = Document::parse(&path, experiment, &extensions.methods)?;
    let mut prepared = Prepared::new(document, &extensions, Device::cpu())?;
    if !long {
        prepared.rehearse(Shard::whole(), Duration::ZERO)?;
    }
    Ok(())
}

/// Loads a model of a file, and weights that fit it.
fn loaded(models: &Models, config: &Path, weights: &Path) -> Result<(), String> {
    let device = Device::cpu();
    let weights = Some(weights);
    match models.load_denoiser(config, weights, &device) {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("is needed here") => {
            let found = models.load_backbone(config, weights, &device);
            found.map(drop).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn what_is_in_order_is_read() {
    tried(&PLAIN, Fixture::experiment()).unwrap();
    for task in ["segmentation", "depth"] {
        tried(&DENSE, Fixture::dense_experiment(task)).unwrap();
    }
}

proptest! {
    #[test]
    fn experiments(changes in changes()) {
        let _ = tried(&PLAIN, changed(&Fixture::experiment(), &changes));
    }

    #[test]
    fn dense_experiments(changes in changes(), depth: bool) {
        let task = if depth { "depth" } else { "segmentation" };
        let _ = tried(&DENSE, changed(&Fixture::dense_experiment(task), &changes));
    }

    #[test]
    fn documents_of_any_bytes(damages in damage()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("experiment.json");
        let bytes = damaged(Fixture::experiment().to_string().as_bytes(), &damages, usize::MAX);
        fs::write(&path, bytes).unwrap();
        let _ = Document::load(&path, &[], &extensions().methods);
    }

    #[test]
    fn model_files(changes in changes(), name in prop::sample::select(vec!["classifier", "denoiser", "segmenter", "mask-denoiser"])) {
        let clock = Instant::now();
        let fixture = if ["classifier", "denoiser"].contains(&name) { &PLAIN } else { &DENSE };
        let config = fixture.path().join(name).with_extension("json");
        let document: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("model.json");
        fs::write(&other, changed(&document, &changes).to_string()).unwrap();
        let models = Models::standard();
        let _ = loaded(&models, &other, &config.with_extension("safetensors"));
        // And the weights that it would start with.
        if let Ok(backbone) = models.backbone(&other) {
            let small = backbone.parameters().iter().map(|spec| spec.elements()).fold(0, usize::saturating_add) < 1 << 22;
            let _ = small.then(|| Weights::initialise(backbone.parameters(), 0, &Device::cpu()));
        }
        prop_assert!(clock.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn weight_files(damages in damage()) {
        let config = PLAIN.path().join("classifier.json");
        let bytes = fs::read(config.with_extension("safetensors")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("weights.safetensors");
        fs::write(&weights, damaged(&bytes, &damages, 4096)).unwrap();
        let _ = loaded(&Models::standard(), &config, &weights);
    }

    #[test]
    fn packed_datasets(damages in damage(), dense: bool) {
        let fixture: &Fixture = if dense { &DENSE } else { &PLAIN };
        let bytes = fs::read(fixture.path().join("sample.safetensors")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("damaged.safetensors"), damaged(&bytes, &damages, 4096)).unwrap();
        let config = serde_json::from_value(json!({"kind": "packed", "path": "damaged.safetensors"})).unwrap();
        if let Ok(dataset) = Dataset::open(&config, folder.path()) {
            for index in 0..dataset.len() {
                let _ = dataset.sample(index);
            }
        }
    }

    #[test]
    fn images(damages in damage(), colour: bool) {
        let mut whole = Vec::new();
        let mut encoder = png::Encoder::new(&mut whole, 8, 8);
        encoder.set_color(if colour { png::ColorType::Rgb } else { png::ColorType::Grayscale });
        let mut writer = encoder.write_header().unwrap();
        let pixels: Vec<u8> = (0..64 * if colour { 3 } else { 1 }).map(|n| n as u8).collect();
        writer.write_image_data(&pixels).unwrap();
        drop(writer);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.png");
        fs::write(&path, damaged(&whole, &damages, usize::MAX)).unwrap();
        let _ = Image::read(&path, ColourMode::Rgb);
    }
}
