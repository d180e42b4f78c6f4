//! Checkpoints of facebookresearch/DiT (Peebles and Xie 2023), which come without a configuration: what describes them is what the
//! reference's scripts are told on their command line, as JSON. `DiT-XL-2-256x256.pt` is `{"model": "DiT-XL/2", "image_size": 256}`.

use serde_json::{Value, json};

use super::{Fields, Names, Publisher, Translate, Translation};

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "facebookresearch/DiT",
    field: "model",
    translate: translation,
    classes: &[
        "DiT-S/2", "DiT-S/4", "DiT-S/8", "DiT-B/2", "DiT-B/4", "DiT-B/8", "DiT-L/2", "DiT-L/4",
        "DiT-L/8", "DiT-XL/2", "DiT-XL/4", "DiT-XL/8",
    ],
};

/// How much smaller latents are than images, and their channels.
const REDUCTION: usize = 8;
const LATENT_CHANNELS: usize = 4;

fn translation(class: &str) -> Option<Translate> {
    match class {
        "DiT-S/2" => Some(|fields| dit(fields, SMALL, 2)),
        "DiT-S/4" => Some(|fields| dit(fields, SMALL, 4)),
        "DiT-S/8" => Some(|fields| dit(fields, SMALL, 8)),
        "DiT-B/2" => Some(|fields| dit(fields, BASE, 2)),
        "DiT-B/4" => Some(|fields| dit(fields, BASE, 4)),
        "DiT-B/8" => Some(|fields| dit(fields, BASE, 8)),
        "DiT-L/2" => Some(|fields| dit(fields, LARGE, 2)),
        "DiT-L/4" => Some(|fields| dit(fields, LARGE, 4)),
        "DiT-L/8" => Some(|fields| dit(fields, LARGE, 8)),
        "DiT-XL/2" => Some(|fields| dit(fields, EXTRA_LARGE, 2)),
        "DiT-XL/4" => Some(|fields| dit(fields, EXTRA_LARGE, 4)),
        "DiT-XL/8" => Some(|fields| dit(fields, EXTRA_LARGE, 8)),
        _ => None,
    }
}

/// Blocks, width and heads (table 1 of the paper).
#[derive(Clone, Copy)]
struct Size {
    depth: usize,
    hidden_size: usize,
    num_heads: usize,
}

const SMALL: Size = size(12, 384, 6);
const BASE: Size = size(12, 768, 12);
const LARGE: Size = size(24, 1024, 16);
const EXTRA_LARGE: Size = size(28, 1152, 16);

const fn size(depth: usize, hidden_size: usize, num_heads: usize) -> Size {
    Size {
        depth,
        hidden_size,
        num_heads,
    }
}

fn dit(fields: &mut Fields, size: Size, patch: usize) -> Option<Translation> {
    let image: usize = fields.take("image_size", 256);
    if !image.is_multiple_of(REDUCTION * patch) {
        let reason = format!("latents are {REDUCTION} times smaller, and patches of {patch}");
        fields.refuse("image_size", &json!(image), reason);
    }
    let latent = image / REDUCTION;
    let document = json!({
        "kind": "dit",
        "image": [LATENT_CHANNELS, latent, latent],
        "patch_size": patch,
        "hidden_size": size.hidden_size,
        "depth": size.depth,
        "num_heads": size.num_heads,
        "num_classes": fields.take("num_classes", 1000usize),
        "learn_sigma": true,
        "schedule": schedule(),
    });
    Some(Translation {
        document,
        names: Names::same(),
        preprocessing: None,
    })
}

/// What `create_diffusion("")` of the reference makes.
fn schedule() -> Value {
    json!({ "kind": "discrete", "betas": "linear", "timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02 })
}
