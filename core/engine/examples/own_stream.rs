//! Adapts a classifier to images of one's own, one by one: no experiment file, no dataset.
//!
//!     cargo run --release -p dtta --example own_stream -- photo.png …

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use dtta::{Adapter, ColourMode, DiffusionConfig, Image, View};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let method: DiffusionConfig = serde_json::from_value(json!({
        "steps": 2, "draws": 16, "timesteps": {"sampler": "stratified", "range": [100, 600]},
        "optimizer": {"kind": "adam", "learning_rate": 3e-4}
    }))?;
    let as_trained = || -> Result<View, serde_json::Error> {
        let steps = json!([{"kind": "resize", "height": 28, "width": 28}, {"kind": "normalise", "mean": [0.5], "std": [0.5]}]);
        Ok(View {
            steps: serde_json::from_value(steps)?,
            standardize: None,
        })
    };
    let mut adapter = Adapter::builder()
        .backbone("examples/fashion/models/classifier.json")
        .denoiser("examples/fashion/models/denoiser.json")
        .head("plugins/classification", json!({}))
        .mapper("plugins/classification", json!({}))
        .method(&method)
        .views(as_trained()?, as_trained()?)
        .build()?;
    for path in std::env::args().skip(1) {
        let image = Image::read(&path, ColourMode::Grayscale)?;
        let found = adapter.adapt_images(&[(&path, &image)])?;
        println!(
            "{path}: {:?} -> {:?}",
            found.source.each[0], found.adapted.each[0]
        );
    }
    Ok(())
}
