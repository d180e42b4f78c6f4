//! How long published backbones take on the embedded CPU backend at full size: an image forwards, and forwards and back to the
//! parameters of the normalisation layers, as TENT asks. Weights are random: time does not depend on them.

use divan::{Bencher, black_box};
use dtta_models::{Backbone, BatchNormStatistics, Group, Models, Weights};
use dtta_tensor::{Device, Tensor};

fn main() {
    divan::main();
}

const ARCHITECTURES: &[&str] = &[
    "resnet50",
    "convnext_tiny",
    "vit_base_patch16_224",
    "tf_efficientnet_lite0",
];

struct Case {
    backbone: Box<dyn Backbone>,
    weights: Weights,
    images: Tensor,
}

fn case(architecture: &str) -> Case {
    let folder = std::env::temp_dir().join(format!("dtta-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let config = folder.join(format!("{architecture}.json"));
    let document = format!(r#"{{"architecture": "{architecture}", "pretrained_cfg": {{}}}}"#);
    std::fs::write(&config, document).expect("a file");
    let backbone = Models::standard().backbone(&config).expect("a structure");
    std::fs::remove_dir_all(&folder).expect("removed");
    let device = Device::cpu();
    let weights = Weights::initialise(backbone.parameters(), 0, &device).expect("weights");
    let ramp: Vec<f32> = (0..3 * 224 * 224)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let images = Tensor::from_floats(&ramp, &[1, 3, 224, 224], &device).expect("a tensor");
    Case {
        backbone,
        weights,
        images,
    }
}

impl Case {
    fn logits(&self, weights: &Weights) -> Tensor {
        let statistics = BatchNormStatistics::Running;
        let outputs = self.backbone.forward(weights, &self.images, statistics);
        outputs
            .expect("outputs")
            .get("logits")
            .expect("logits")
            .clone()
    }
}

#[divan::bench(args = ARCHITECTURES, sample_count = 5)]
fn forward(bencher: Bencher<'_, '_>, architecture: &str) {
    let case = case(architecture);
    bencher.bench_local(|| {
        let logits = case.logits(&case.weights);
        black_box(logits.to_floats().expect("floats"))
    });
}

#[divan::bench(args = ARCHITECTURES, sample_count = 5)]
fn forward_and_back(bencher: Bencher<'_, '_>, architecture: &str) {
    let case = case(architecture);
    let norms = case.weights.select(|spec| spec.group == Group::Norm);
    let leaves = case.weights.to_leaves(&norms).expect("leaves");
    bencher.bench_local(|| {
        let loss = case.logits(&leaves).sum(&[], false).expect("a sum");
        let gradients = loss.backward().expect("gradients");
        black_box(gradients.of(leaves.get(norms[0])).expect("a gradient"))
    });
}
