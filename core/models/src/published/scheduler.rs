//! Which noise a network of diffusers was trained with. A model's own `config.json` does not say: the configuration of the pipeline's
//! scheduler does, which [`with_scheduler`] puts beside the model's fields. Of its fields, those that say how images are drawn have no
//! influence.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Fields;
use super::diffusers::CLASS;
use crate::error::Result;

/// The field that the noise schedule is put under.
pub(super) const SCHEDULER: &str = "scheduler";
/// What a pipeline's folder calls it.
const SCHEDULER_FILE: &str = "scheduler_config.json";

/// Puts the configuration of the noise schedule beside the fields of a denoiser's, if they do not have it: the file
/// `scheduler_config.json` in the folder of the denoiser's `config.json`, or in the folder `scheduler` beside that.
///
/// # Errors
/// [`ModelError::File`](crate::ModelError::File) for a file that is there and cannot be read.
pub(crate) fn with_scheduler(config: &Path, fields: &mut Map<String, Value>) -> Result<()> {
    if !fields.contains_key(CLASS) || fields.contains_key(SCHEDULER) {
        return Ok(());
    }
    let folder = config.parent().unwrap_or(Path::new(""));
    let pipeline = folder.join("..").join(SCHEDULER);
    for folder in [folder, &pipeline] {
        let path = folder.join(SCHEDULER_FILE);
        if path.is_file() {
            let text = fs::read_to_string(&path).map_err(|source| dtta_base::Error::Read {
                path: path.clone(),
                source,
            })?;
            let scheduler = dtta_base::parse_json(&path, &without_odd_numbers(&text))?;
            fields.insert(SCHEDULER.into(), scheduler);
            return Ok(());
        }
    }
    Ok(())
}

/// JSON as Python writes it, such as the `lambda_min_clipped` of `DPMSolverMultistepScheduler`: `NaN`, `Infinity` and `-Infinity`, which
/// JSON does not have, become texts, so that a field that is a number does not take them.
fn without_odd_numbers(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    // Texts are between quotes; a quote within one has a backslash before it.
    let (mut rest, mut in_text) = (text, false);
    while let Some(next) = rest.chars().next() {
        let odd = ["NaN", "Infinity", "-Infinity"];
        let odd = odd
            .into_iter()
            .find(|odd| !in_text && rest.starts_with(odd));
        let length = match (odd, next) {
            (Some(odd), _) => {
                found.extend(["\"", odd, "\""]);
                rest = &rest[odd.len()..];
                continue;
            }
            (None, '\\') => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, other) => other.len_utf8(),
        };
        in_text ^= next == '"';
        found.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    found
}

/// The noise schedule, from the configuration of the pipeline's scheduler.
pub(super) fn schedule(fields: &mut Fields) -> Value {
    let mut scheduler = fields.object(SCHEDULER);
    let document = schedule_document(&mut scheduler);
    if document.is_null() {
        let reason = format!(
            "nothing says which noise it denoises; put the pipeline's `{SCHEDULER_FILE}` beside it or into the folder \
             `{SCHEDULER}` beside its own, or write its fields there"
        );
        fields.refuse(SCHEDULER, &Value::Null, reason);
    }
    fields.join(scheduler);
    document
}

/// The schedule in this crate's terms; null if no scheduler is named.
fn schedule_document(scheduler: &mut Fields) -> Value {
    let Some(class) = scheduler.find::<String>(CLASS) else {
        return Value::Null;
    };
    match class.as_str() {
        "DDPMScheduler"
        | "DDIMScheduler"
        | "PNDMScheduler"
        | "EulerDiscreteScheduler"
        | "DPMSolverMultistepScheduler" => discrete_schedule(scheduler),
        "FlowMatchEulerDiscreteScheduler" => flow_schedule(scheduler),
        "EDMEulerScheduler" => edm_schedule(scheduler),
        _ => {
            let reason = format!(
                "supported are {}",
                dtta_base::listed(SCHEDULERS, SCHEDULERS.len())
            );
            scheduler.refuse(CLASS, &json!(class), reason);
            discrete_schedule(scheduler)
        }
    }
}

/// The classes of schedulers that say with which noise a network was trained.
const SCHEDULERS: [&str; 7] = [
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "EDMEulerScheduler",
];

/// Noise at the end of a straight line, and ε - x0 as the answer; the network is told σ times the number of timesteps. A shift moves the
/// times at which images are drawn, and what the network is told with them, so it says nothing about the line.
fn flow_schedule(scheduler: &mut Fields) -> Value {
    let timesteps = scheduler.take("num_train_timesteps", 1000usize);
    // Where time runs from noise to image.
    scheduler.fixed("invert_sigmas", false);
    for name in [
        "shift",
        "use_dynamic_shifting",
        "base_shift",
        "max_shift",
        "base_image_seq_len",
        "max_image_seq_len",
        "shift_terminal",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "time_shift_type",
        "stochastic_sampling",
    ] {
        scheduler.skip(name);
    }
    json!({ "kind": "flow", "noise_at": "end", "prediction": "velocity", "time_scale": timesteps })
}

/// The network between c_in, c_skip and c_out, told ln(σ) / 4.
fn edm_schedule(scheduler: &mut Fields) -> Value {
    // What the class calls so is Karras et al.'s preconditioning; its `v_prediction` is that with another sign.
    scheduler.fixed("prediction_type", "epsilon");
    // Which amounts of noise images are drawn along.
    for name in [
        "sigma_schedule",
        "num_train_timesteps",
        "rho",
        "final_sigmas_type",
    ] {
        scheduler.skip(name);
    }
    json!({
        "kind": "edm",
        "sigma_data": scheduler.take("sigma_data", 0.5),
        "sigma_min": scheduler.take("sigma_min", 0.002),
        "sigma_max": scheduler.take("sigma_max", 80.0),
    })
}

/// Whole timesteps, each with its beta.
fn discrete_schedule(scheduler: &mut Fields) -> Value {
    let curve = scheduler.take("beta_schedule", "linear".to_owned());
    let betas = match curve.as_str() {
        "linear" | "scaled_linear" | "sigmoid" => curve.as_str(),
        "squaredcos_cap_v2" => "cosine",
        _ => {
            let reason = "supported are linear, scaled_linear, squaredcos_cap_v2 and sigmoid";
            scheduler.refuse("beta_schedule", &json!(curve), reason);
            "linear"
        }
    };
    let predicts = scheduler.take("prediction_type", "epsilon".to_owned());
    let prediction = match predicts.as_str() {
        "epsilon" | "sample" => predicts.as_str(),
        "v_prediction" => "v",
        _ => {
            let reason = "supported are epsilon, v_prediction and sample";
            scheduler.refuse("prediction_type", &json!(predicts), reason);
            "epsilon"
        }
    };
    let trained: Option<Vec<f64>> = scheduler.nullable("trained_betas", None);
    let timesteps = scheduler.take("num_train_timesteps", 1000usize);
    // Where the network is told noise levels instead of steps.
    scheduler.fixed("timestep_type", "discrete");
    scheduler.fixed("use_flow_sigmas", false);
    // How images are drawn: which steps are taken, and how each of them is computed.
    for name in [
        "variance_type",
        "clip_sample",
        "clip_sample_range",
        "thresholding",
        "dynamic_thresholding_ratio",
        "sample_max_value",
        "timestep_spacing",
        "steps_offset",
        "set_alpha_to_one",
        "skip_prk_steps",
        "interpolation_type",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "use_lu_lambdas",
        "sigma_min",
        "sigma_max",
        "final_sigmas_type",
        "solver_order",
        "algorithm_type",
        "solver_type",
        "lower_order_final",
        "euler_at_final",
        "flow_shift",
        "lambda_min_clipped",
        "use_dynamic_shifting",
        "time_shift_type",
    ] {
        scheduler.skip(name);
    }
    let mut document = json!({
        "kind": "discrete",
        "betas": betas,
        "timesteps": trained.as_ref().map_or(timesteps, Vec::len),
        "beta_start": scheduler.take("beta_start", 1e-4),
        "beta_end": scheduler.take("beta_end", 0.02),
        "zero_terminal_snr": scheduler.take("rescale_betas_zero_snr", false),
        "prediction": prediction,
    });
    if let Some(trained) = trained {
        document["trained_betas"] = json!(trained);
    }
    document
}
