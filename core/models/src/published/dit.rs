//! Checkpoints of DiT (Peebles and Xie 2023, facebookresearch/DiT), SiT (Ma et al. 2024, willisma/SiT) and REPA (Yu et al. 2025,
//! sihyun-yu/REPA). They come without a configuration: what describes them is what the scripts of these repositories are told on their
//! command line, as JSON. `DiT-XL-2-256x256.pt` is `{"model": "DiT-XL/2", "image_size": 256}`; SiT's is `{"model": "SiT-XL/2",
//! "trained_with": "SiT", "image_size": 256}`; REPA's is `{"model": "SiT-XL/2", "trained_with": "REPA", "resolution": 256}`. A model of
//! other extents is `"model": "DiT"` or `"SiT"` with what the class's constructor is told.
//!
//! All three have the modules of DiT under the same names, so nothing in a file tells them apart: SiT's and REPA's time runs in opposite
//! directions, and their velocities have opposite signs. That is why the description must say which of them trained the model.

use serde_json::{Value, json};

use super::{Fields, Names, Publisher, Source, Translate, Translation};

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "DiT or SiT",
    field: CLASS,
    translate: |class| Class::named(class).map(|_| translate as Translate),
    classes: &[
        "DiT-S/2", "DiT-S/4", "DiT-S/8", "DiT-B/2", "DiT-B/4", "DiT-B/8", "DiT-L/2", "DiT-L/4",
        "DiT-L/8", "DiT-XL/2", "DiT-XL/4", "DiT-XL/8", "DiT", "SiT-S/2", "SiT-S/4", "SiT-S/8",
        "SiT-B/2", "SiT-B/4", "SiT-B/8", "SiT-L/2", "SiT-L/4", "SiT-L/8", "SiT-XL/2", "SiT-XL/4",
        "SiT-XL/8", "SiT",
    ],
};

/// The field that names a class.
const CLASS: &str = "model";
/// The field that says whose training a SiT comes from.
const TRAINED_WITH: &str = "trained_with";

/// How much smaller latents are than images, and their channels.
const REDUCTION: usize = 8;
const LATENT_CHANNELS: usize = 4;

/// What a name of a class says.
struct Class {
    sit: bool,
    /// Blocks, width, heads and patch size of those with a size in their names; none where the description says them.
    preset: Option<[usize; 4]>,
}

impl Class {
    fn named(name: &str) -> Option<Self> {
        let (family, size) = name.split_at_checked(3)?;
        let sit = match family {
            "DiT" => false,
            "SiT" => true,
            _ => return None,
        };
        if size.is_empty() {
            return Some(Self { sit, preset: None });
        }
        let (size, patch) = size.strip_prefix('-')?.split_once('/')?;
        // Table 1 of DiT's paper.
        let [depth, width, heads] = match size {
            "S" => [12, 384, 6],
            "B" => [12, 768, 12],
            "L" => [24, 1024, 16],
            "XL" => [28, 1152, 16],
            _ => return None,
        };
        let patch = ["2", "4", "8"].contains(&patch).then(|| patch.parse())?;
        Some(Self {
            sit,
            preset: Some([depth, width, heads, patch.ok()?]),
        })
    }
}

/// Whose training a model comes from.
#[derive(Clone, Copy, PartialEq)]
enum Trained {
    Dit,
    Sit,
    Repa,
}

fn translate(fields: &mut Fields) -> Option<Translation> {
    let class = Class::named(&fields.find::<String>(CLASS)?)?;
    let trained = match class.sit {
        true => whose(fields)?,
        false => Trained::Dit,
    };
    let (structure, depth) = match class.preset {
        Some(preset) => sized(fields, preset, trained),
        None => constructed(fields),
    };
    let mut document = json!({
        "kind": "dit",
        "num_classes": fields.take("num_classes", 1000usize),
        "learn_sigma": match trained {
            Trained::Dit | Trained::Sit => fields.take("learn_sigma", true),
            Trained::Repa => false,
        },
        "schedule": match trained {
            // What `create_diffusion("")` of the reference makes.
            Trained::Dit => json!({
                "kind": "discrete", "betas": "linear", "timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02
            }),
            Trained::Sit => sit_schedule(fields),
            Trained::Repa => repa_schedule(fields),
        },
    });
    if let (Value::Object(document), Value::Object(structure)) = (&mut document, structure) {
        document.extend(structure);
    }
    let names = match trained {
        Trained::Dit | Trained::Sit => Names::same(),
        Trained::Repa => repa_names(fields, depth),
    };
    Some(Translation {
        document,
        names,
        preprocessing: None,
    })
}

/// The repository that a SiT was trained with, which must be said.
fn whose(fields: &mut Fields) -> Option<Trained> {
    let said: Option<String> = fields.find(TRAINED_WITH);
    match said.as_deref() {
        Some("SiT") => Some(Trained::Sit),
        Some("REPA") => Some(Trained::Repa),
        _ => {
            let reason = "supported are \"SiT\" and \"REPA\": their models have the same names and nearly the same tensors, but \
                          velocities of opposite signs, and times of opposite directions";
            fields.refuse(TRAINED_WITH, &json!(said), reason);
            fields.skip_others();
            None
        }
    }
}

/// The structure of a class with a size in its name, and its number of blocks.
fn sized(
    fields: &mut Fields,
    [depth, width, heads, patch]: [usize; 4],
    trained: Trained,
) -> (Value, usize) {
    // As the scripts call it.
    let name = match trained {
        Trained::Dit | Trained::Sit => "image_size",
        Trained::Repa => "resolution",
    };
    let image: usize = fields.take(name, 256);
    if !image.is_multiple_of(REDUCTION * patch) {
        let reason = format!("latents are {REDUCTION} times smaller, and patches of {patch}");
        fields.refuse(name, &json!(image), reason);
    }
    let latent = image / REDUCTION;
    let structure = json!({
        "image": [LATENT_CHANNELS, latent, latent],
        "patch_size": patch,
        "hidden_size": width,
        "depth": depth,
        "num_heads": heads,
    });
    (structure, depth)
}

/// The structure that the class's constructor is told, and its number of blocks. Defaults are the constructor's.
fn constructed(fields: &mut Fields) -> (Value, usize) {
    let size = fields.take("input_size", 32usize);
    let depth = fields.take("depth", 28usize);
    let structure = json!({
        "image": [fields.take("in_channels", LATENT_CHANNELS), size, size],
        "patch_size": fields.take("patch_size", 2usize),
        "hidden_size": fields.take("hidden_size", 1152usize),
        "depth": depth,
        "num_heads": fields.take("num_heads", 16usize),
        "mlp_ratio": fields.take("mlp_ratio", 4.0),
        "class_dropout_prob": fields.take("class_dropout_prob", 0.1),
    });
    (structure, depth)
}

/// α = t and σ = 1 - t, with t given to the network as it is (`transport/path.py`, `ICPlan`): the velocity is x0 - ε.
fn sit_schedule(fields: &mut Fields) -> Value {
    fields.fixed("path_type", "Linear");
    let predicts = fields.take("prediction", "velocity".to_owned());
    let prediction = match predicts.as_str() {
        "noise" => "epsilon",
        _ => "reverse_velocity",
    };
    if !["noise", "velocity"].contains(&predicts.as_str()) {
        let reason = "supported are \"velocity\" and \"noise\"";
        fields.refuse("prediction", &json!(predicts), reason);
    }
    // How training weighted times, and between which ones it drew.
    for name in ["loss_weight", "train_eps", "sample_eps"] {
        fields.skip(name);
    }
    json!({ "kind": "flow", "noise_at": "start", "prediction": prediction, "time_scale": 1 })
}

/// α = 1 - t and σ = t, with t given to the network as it is (`loss.py`): the velocity is ε - x0.
fn repa_schedule(fields: &mut Fields) -> Value {
    fields.fixed("path_type", "linear");
    fields.fixed("prediction", "v");
    fields.fixed("qk_norm", false);
    // How attention is computed, how training drew times, and what its projections were compared with.
    for name in [
        "fused_attn",
        "weighting",
        "projector_embed_dims",
        "proj_coeff",
        "enc_type",
    ] {
        fields.skip(name);
    }
    json!({ "kind": "flow", "noise_at": "end", "prediction": "velocity", "time_scale": 1 })
}

/// The projections that training compared with another network's features are no part of the denoiser. The first checkpoints count the
/// blocks after them anew, as `decoder_blocks` (`utils.py`, `load_legacy_checkpoints`).
fn repa_names(fields: &mut Fields, depth: usize) -> Names {
    let encoder = fields.take("encoder_depth", 8usize);
    let once = move |name: &str| {
        let (block, part) = name.strip_prefix("blocks.")?.split_once('.')?;
        let block: usize = block.parse().ok()?;
        let decoder = (block < depth).then(|| block.checked_sub(encoder))??;
        Some(format!("decoder_blocks.{decoder}.{part}"))
    };
    Names {
        source: Box::new(move |name| match once(name) {
            Some(once) => Source::AnyOf(vec![name.into(), once]),
            None => Source::Named(name.into()),
        }),
        unused: Box::new(|name| name.starts_with("projectors.")),
    }
}
