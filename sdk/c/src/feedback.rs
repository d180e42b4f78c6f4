//! The diffusion loss of images under a condition, and its gradient with respect to the condition.

use std::ffi::c_char;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtta::{FeedbackConfig, Request};
use dtta_dlpack::DLManagedTensorVersioned;
use dtta_models::Weights;
use dtta_tensor::{Device, Named, Tensor};

use crate::status::{Fault, Status, answer, call, list, object, optional, text};

/// A denoiser with its weights, on the CPU.
pub struct Denoiser(Arc<Ready>);

struct Ready {
    model: Box<dyn dtta_models::Denoiser>,
    weights: Weights,
}

/// Draws of timestep and noise through a denoiser.
pub struct Feedback {
    denoiser: Arc<Ready>,
    settings: dtta::Feedback,
}

/// Loads a denoiser: its configuration (one of dtta's, or a folder of diffusers), and its weights; null for those beside it.
///
/// # Safety
/// `config` is a text, `weights` one or null; `denoiser` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dtta_denoiser_open(
    config: *const c_char,
    weights: *const c_char,
    denoiser: *mut *mut Denoiser,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let (config, weights) = unsafe { (text("config", config)?, optional("weights", weights)?) };
        let config = dtta_models::locate(config, Path::new("."))?;
        let weights = weights.map(PathBuf::from);
        let models = dtta_cli::extensions().models;
        let (model, weights) = models.load_denoiser(&config, weights.as_deref(), &Device::cpu())?;
        let opened = Box::new(Denoiser(Arc::new(Ready { model, weights })));
        // SAFETY: the caller's promise.
        unsafe { give("denoiser", denoiser, opened) }
    })
}

/// Frees a denoiser; feedback that was made of it stays. Null is nothing.
///
/// # Safety
/// It is one that was opened, and not closed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dtta_denoiser_close(denoiser: *mut Denoiser) {
    if !denoiser.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(denoiser) });
    }
}

/// Feedback through a denoiser. `settings` is JSON, null or "{}" for the defaults:
/// {"draws": 8, "micro_batch": 32, "timesteps": {...}, "seed": 0, "loss": ..., "noise": ...}, as `method` of an experiment has them.
///
/// # Safety
/// `denoiser` is one that is open, `settings` a text or null; `feedback` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dtta_feedback_open(
    denoiser: *const Denoiser,
    settings: *const c_char,
    feedback: *mut *mut Feedback,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let (denoiser, settings) = unsafe {
            (
                object("denoiser", denoiser)?,
                optional("settings", settings)?,
            )
        };
        let settings: FeedbackConfig = serde_json::from_str(settings.unwrap_or("{}"))
            .map_err(|error| Fault::misuse(format!("settings: {error}")))?;
        let settings = settings.feedback(denoiser.0.model.schedule());
        let opened = Box::new(Feedback {
            denoiser: denoiser.0.clone(),
            settings: settings.map_err(dtta::Error::from)?,
        });
        // SAFETY: the caller's promise.
        unsafe { give("feedback", feedback, opened) }
    })
}

/// Frees feedback; null is nothing.
///
/// # Safety
/// It is such that was opened, and not closed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dtta_feedback_close(feedback: *mut Feedback) {
    if !feedback.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(feedback) });
    }
}

/// The loss of each image, averaged over draws and elements, and the gradient of their sum with respect to each slot of the condition.
///
/// `images` is [batch, C, H, W]; `ids` names each image, and with the seed and `step` keys its draws: the same three give the same draws, whatever
/// else is asked for beside them. `condition` holds a tensor of `batch` rows for each of `slots`, the names of the denoiser's slots. `losses`
/// receives `batch` numbers, and `gradients` a tensor for each slot, which the caller frees by its `deleter`. Tensors of the caller are
/// read during the call and stay the caller's.
///
/// # Safety
/// Pointers lead to as much as is said here; tensors are DLPack's, whose memory nobody writes to during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dtta_feedback_evaluate(
    feedback: *const Feedback,
    images: *const DLManagedTensorVersioned,
    ids: *const *const c_char,
    batch: usize,
    step: usize,
    slots: *const *const c_char,
    condition: *const *const DLManagedTensorVersioned,
    slot_count: usize,
    losses: *mut f32,
    gradients: *mut *mut DLManagedTensorVersioned,
) -> Status {
    call(|| {
        // SAFETY: the caller's promise.
        let (feedback, images, ids, named) = unsafe {
            let ids = list("ids", ids, batch)?.iter().map(|&id| text("ids", id));
            let slots = list("slots", slots, slot_count)?;
            let condition = list("condition", condition, slot_count)?;
            let mut named = Named::new();
            for (&slot, &tensor) in slots.iter().zip(condition) {
                let slot = text("slots", slot)?;
                let value = read(&format!("the condition for slot `{slot}`"), tensor)?;
                if named.get(slot).is_some() {
                    return Err(Fault::misuse(format!("`slots` names `{slot}` twice")));
                }
                named.push(slot, value);
            }
            (
                object("feedback", feedback)?,
                read("images", images)?,
                ids.collect::<Result<Vec<&str>, Fault>>()?,
                named,
            )
        };
        if losses.is_null() || (gradients.is_null() && slot_count > 0) {
            return Err(Fault::misuse("`losses` or `gradients` is null"));
        }
        let Ready { model, weights } = &*feedback.denoiser;
        let request = Request {
            ids: &ids,
            images: &images,
            conditioning: &named,
            step,
        };
        let found = feedback
            .settings
            .evaluate(&**model, weights, &[], &request)
            .map_err(dtta::Error::from)?;
        let mut made = Vec::with_capacity(slot_count);
        for (slot, condition) in named.iter() {
            let gradient = found.gradients.get(slot);
            let values = match gradient {
                Some(gradient) => gradient.to_floats()?,
                // What does not depend on a slot has no gradient there.
                None => vec![0.0; condition.shape().elements()],
            };
            made.push((values, condition.shape()));
        }
        for (place, (values, shape)) in made.into_iter().enumerate() {
            // SAFETY: the caller's promise: there is a place for each slot.
            unsafe {
                gradients
                    .add(place)
                    .write(dtta_dlpack::lend(Arc::new(values), &shape))
            };
        }
        for (place, loss) in found.losses.iter().enumerate() {
            // SAFETY: the caller's promise: there is a place for each image.
            unsafe { losses.add(place).write(*loss) };
        }
        Ok(Status::Ok)
    })
}

/// A tensor of the caller's, copied.
///
/// # Safety
/// It is null, or a tensor of DLPack's.
unsafe fn read(what: &str, tensor: *const DLManagedTensorVersioned) -> Result<Tensor, Fault> {
    // SAFETY: the caller's promise.
    let floats = unsafe { object(what, tensor)?.read() };
    let floats = floats.map_err(|error| Fault::misuse(format!("{what} {error}")))?;
    Ok(Tensor::from_floats(
        &floats.values,
        &floats.shape,
        &Device::cpu(),
    )?)
}

/// Gives the caller an object.
///
/// # Safety
/// The place is null, or may be written to.
unsafe fn give<T>(what: &str, place: *mut *mut T, object: Box<T>) -> Result<Status, Fault> {
    if place.is_null() {
        return Err(Fault::misuse(format!("`{what}` is null")));
    }
    // SAFETY: it is not null, and the caller's promise.
    unsafe { answer(what, place, Box::into_raw(object)) }?;
    Ok(Status::Ok)
}
