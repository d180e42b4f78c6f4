//! The adapter: a method with the models it moves, one batch after the other. A batch is adapted to whole, or leaves no trace.

use std::collections::BTreeSet;

use dtta_learn::State;
use dtta_models::Lora;
use dtta_tensor::Tensor;

use crate::builder::AdapterBuilder;
use crate::error::{Error, Result};
use crate::methods::{Adapted, Batch, Method, Toolbox};
use crate::prepare::Views;
use crate::task::Predictions;

/// A task model that learns from batches of images, for programs that bring their own stream.
///
/// ```no_run
/// # fn main() -> dtta::Result<()> {
/// use dtta::{Adapter, ColourMode, DiffusionConfig, Image, Mode};
/// use serde_json::json;
///
/// let config: DiffusionConfig = serde_json::from_value(json!({
///     "draws": 8, "optimizer": {"kind": "adam", "learning_rate": 1e-3}
/// })).expect("a valid configuration");
/// let mut adapter = Adapter::builder()
///     .backbone("models/classifier.json")
///     .denoiser("models/denoiser.json")
///     .head("plugins/classification", json!({}))
///     .mapper("plugins/classification", json!({}))
///     .method(&config)
///     .mode(Mode::SingleSample {})
///     .build()?;
/// let image = Image::read("photo.png", ColourMode::Rgb)?;
/// let found = adapter.adapt_images(&[("photo", &image)])?;
/// println!("{:?} -> {:?}", found.source.each[0], found.adapted.each[0]);
/// # Ok(())
/// # }
/// ```
pub struct Adapter {
    tools: Toolbox,
    method: Box<dyn Method>,
    views: Option<Views>,
    /// What of backbone and denoiser the method moves, if it is factors of low rank, at their source.
    factors: [Option<Lora>; 2],
}

impl Adapter {
    /// Of a method and the models it was built for, at their source weights.
    pub fn new(tools: Toolbox, method: Box<dyn Method>) -> Self {
        Self {
            tools,
            method,
            views: None,
            factors: [None, None],
        }
    }

    /// The same, with a way to see images.
    pub(crate) fn seeing(tools: Toolbox, method: Box<dyn Method>, views: Views) -> Self {
        Self {
            views: Some(views),
            ..Self::new(tools, method)
        }
    }

    /// The same, of a method that moves these factors of low rank.
    pub(crate) fn moving(mut self, factors: [Option<Lora>; 2]) -> Self {
        self.factors = factors;
        self
    }

    /// How its models see images.
    pub(crate) fn views(&self) -> Option<&Views> {
        self.views.as_ref()
    }

    /// The same, to change them.
    pub(crate) fn views_mut(&mut self) -> Option<&mut Views> {
        self.views.as_mut()
    }

    /// From paths, or from one's own models, step by step.
    pub fn builder() -> AdapterBuilder {
        AdapterBuilder::default()
    }

    /// The models, at their source weights.
    pub fn tools(&mut self) -> &mut Toolbox {
        &mut self.tools
    }

    /// The method.
    pub fn method(&self) -> &dyn Method {
        &*self.method
    }

    /// Back to the source weights, optimizers at rest.
    pub fn reset(&mut self) {
        self.method.reset(&self.tools);
    }

    /// Everything that the next batch depends on.
    pub fn state(&self) -> State {
        self.method.state()
    }

    /// The factors of low rank of backbone and denoiser as they are now, where the method moves such: to save, or to merge.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn factors(&mut self) -> Result<[Option<Lora>; 2]> {
        let [of_task, of_denoiser] = &self.factors;
        let of_task = match (of_task, self.method.learner()) {
            (Some(lora), Some(learner)) => Some(lora.at(learner.weights())?),
            (lora, _) => lora.clone(),
        };
        let of_denoiser = match (of_denoiser, self.method.denoiser_learner()) {
            (Some(lora), Some(learner)) => Some(lora.at(learner.weights())?),
            (lora, _) => lora.clone(),
        };
        Ok([of_task, of_denoiser])
    }

    /// Takes up a state.
    ///
    /// # Errors
    /// [`Error::Learn`] for the state of another method or model.
    pub fn restore(&mut self, state: State) -> Result<()> {
        self.method.restore(state)
    }

    /// What the source model says of images `[B, C, H, W]`.
    ///
    /// # Errors
    /// [`Error::Batch`] for images of another shape; whatever backbone or head refuse.
    pub fn predict_source(&mut self, images: &Tensor) -> Result<Predictions> {
        self.expect_images("images", images, None)?;
        let outputs = self.tools.source_outputs(images, false)?;
        self.tools.predict(&outputs, images.shape()[0])
    }

    /// Adapts to a batch and predicts, before and after. Whatever fails, the weights are then those from before the batch.
    ///
    /// # Errors
    /// [`Error::Batch`] for ids and images that do not fit one another or the models; [`Error::NotFinite`]; whatever a plugin, a model or a
    /// tensor operation refuses.
    pub fn adapt(&mut self, batch: &Batch<'_>) -> Result<Adapted> {
        let ids: BTreeSet<&str> = batch.ids.iter().copied().collect();
        if ids.len() != batch.ids.len() {
            return Err(Error::Batch {
                found: format!("{} ids, of which {} differ", batch.ids.len(), ids.len()),
                expected: "one or more, all different, since ids key the noise".into(),
            });
        }
        self.adapt_stream(batch)
    }

    /// The same for a batch of a stream, in which a sample may come under several conditions, with the same draws.
    pub(crate) fn adapt_stream(&mut self, batch: &Batch<'_>) -> Result<Adapted> {
        self.expect(batch)?;
        let before = self.method.state();
        match self.method.adapt(&mut self.tools, batch) {
            Ok(adapted) => Ok(adapted),
            Err(error) => {
                self.method.restore(before)?;
                Err(error)
            }
        }
    }

    fn expect(&self, batch: &Batch<'_>) -> Result<()> {
        if batch.ids.is_empty() {
            return Err(Error::Batch {
                found: "no ids".into(),
                expected: "one or more".into(),
            });
        }
        let count = Some(batch.ids.len());
        self.expect_images("images of the task model", &batch.task, count)?;
        if let Some(images) = &batch.denoiser {
            let shape = self
                .tools
                .denoiser()
                .ok()
                .map(|denoiser| denoiser.image_shape());
            if let Some(shape) = shape {
                expect_shape("images of the denoiser", images, count, shape)?;
            }
        }
        Ok(())
    }

    fn expect_images(&self, what: &str, images: &Tensor, count: Option<usize>) -> Result<()> {
        let shape = self.tools.task().backbone().spec().image;
        expect_shape(what, images, count, shape)
    }
}

fn expect_shape(
    what: &str,
    images: &Tensor,
    count: Option<usize>,
    [c, h, w]: [usize; 3],
) -> Result<()> {
    let shape = images.shape();
    if shape.rank() == 4 && shape[1..] == [c, h, w] && count.is_none_or(|count| count == shape[0]) {
        return Ok(());
    }
    let count = count.map_or_else(|| "B".into(), |count| count.to_string());
    Err(Error::Batch {
        found: format!("{what} of {shape}"),
        expected: format!("[{count}, {c}, {h}, {w}]"),
    })
}
