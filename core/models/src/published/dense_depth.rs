//! DenseDepth as its authors' PyTorch code saves it (`torch.save(model.state_dict())`). Checkpoints have no configuration: a model file names
//! the encoder, `{"densedepth": "densenet169"}`.

use serde_json::json;

use super::{
    Fields, Interpolation, Names, Preprocessing, Publisher, Resized, Source, Translate, Translation,
};

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "DenseDepth",
    field: FIELD,
    translate: |name| (name == ENCODER).then_some(translate as Translate),
    classes: &[ENCODER],
};

const FIELD: &str = "densedepth";
const ENCODER: &str = "densenet169";

fn translate(fields: &mut Fields) -> Option<Translation> {
    fields.skip(FIELD);
    let size: [usize; 2] = fields.take("size", [480, 640]);
    let image = [3, size[0], size[1]];
    Some(Translation {
        document: json!({
            "kind": "dense_depth",
            "image": image,
            "encoder": {"growth": 32, "blocks": [6, 12, 32, 32], "stem_width": 64},
            "both_activated": fields.take("both_activated", false),
        }),
        names: Names {
            source: Box::new(|name| Source::Named(name.into())),
            // The whole DenseNet is in the encoder.
            unused: Box::new(|name| name.starts_with("encoder.original_model.classifier.")),
        },
        // `data.py` there: pixels from 0 to 1 as they are.
        preprocessing: Some(Preprocessing {
            image,
            interpolation: Interpolation::Bilinear,
            resized: Resized::To(size),
            mean: [0.0; 3],
            std: [1.0; 3],
        }),
    })
}
