//! Safeguards around any method: the source's answer where the source is surer, a filter of samples, a pull of θ back to the source and an
//! average of it, a return to the source and a lower learning rate when predictions collapse, and an end of steps that change nothing,
//! which methods with steps make themselves (`under_way.rs`, `classifier.rs`). They look at predictions and weights alone, so every method can
//! have them; those that move θ need a method that carries it over a stream, and some need classes of whole images.

use std::sync::Arc;

use dtta_base::Issue;
use dtta_learn::{State, approach};
use dtta_models::BatchNormStatistics;
use dtta_plugin::Predicts;
use dtta_tensor::Kind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::losses::{entropy, logits};
use super::{Adapted, Batch, Method, Setting, Toolbox};
use crate::error::{Error, Result};
use crate::experiment::Mode;
use crate::parts::{ClassMean, Sureness, Teacher, pull};
use crate::task::{Predictions, replaced};

/// What is meant to keep adaptation from ending below the source model, whatever the method: `{}` is a pull of 0.01, the return after
/// collapse, and the source's answer where it is surer. Beside them `/adaptation/mode/reset` resets at fixed places (RDumb, Press et al. 2023),
/// `slow_weights` carries what samples have in common, and `gate` of `diffusion` leaves samples out by the denoiser's judgement, which takes
/// what other methods do not have: a denoiser, a mapper, draws and a range of times; `reliable` is the judgement of the classifier itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SafeguardsConfig {
    /// After each batch that is adapted to, weights that are carried go this share of the way back to the source's (weight ensembling,
    /// Marsden et al. 2024, with its 1 - 0.99). Not for methods that do so themselves.
    #[schemars(range(min = 0, max = 1))]
    pub pull: f64,
    /// Returns to the source when predictions collapse.
    pub collapse: Option<Collapse>,
    /// Gives the source model's answer where the two models disagree and the source is surer. Adaptation makes models sure of themselves,
    /// so each is measured against itself in the last so many samples of the stream, the batch's among them: the share of them of which it was
    /// less sure, times the number of classes that it tells apart there, the perplexity of how often it says each. The measure
    /// `kept_source` is 1 where the source's answer is given for this. For classes of whole images in online mode, and heads that say
    /// how sure they are.
    #[schemars(range(min = 1))]
    pub surer: Option<usize>,
    /// Predicts with a moving average of the weights that are carried, of which this share is kept at each batch; with the weights themselves
    /// if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub average: Option<f64>,
    /// Adapts to samples alone for which the source model's entropy is below this share of ln K, for K classes (Niu et al. 2022: 0.4); the
    /// others keep the source's prediction. All are adapted to if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub reliable: Option<f64>,
    /// Leaves out the further steps of a sample, or of a batch that moves together, once so many updates in a row have changed none of its
    /// predicted classes; the measure `steps` says how many were made. All steps are made if absent. For methods with more steps than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = super::MAX_STEPS))]
    pub stop_when_stable: Option<usize>,
}

/// Predictions have collapsed when they are less diverse than the source's on the same samples: the entropy of how often each class is
/// predicted, or for numbers their standard deviation. The batch that shows it keeps the source's predictions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Collapse {
    /// The share of the source's diversity below which predictions have collapsed. Lower it for streams in which few classes come at a time:
    /// there a model that is right more often is less diverse, since some of the source's diversity is error.
    #[schemars(range(min = 0, max = 1))]
    pub below: f64,
    /// Samples that the moving means look back on; so many pass after a return before the next judgement.
    #[schemars(range(min = 1))]
    pub samples: usize,
    /// What the learning rate is multiplied by at each return, until the stream's next reset: what has collapsed went too fast.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub backoff: f64,
}

impl Default for SafeguardsConfig {
    fn default() -> Self {
        Self {
            pull: 0.01,
            collapse: Some(Collapse::default()),
            surer: Some(128),
            average: None,
            reliable: None,
            stop_when_stable: None,
        }
    }
}

impl Default for Collapse {
    fn default() -> Self {
        Self {
            below: 0.95,
            samples: 128,
            backoff: 0.5,
        }
    }
}

/// A method with safeguards.
pub(crate) struct Guarded {
    config: SafeguardsConfig,
    method: Box<dyn Method>,
    average: Option<Teacher>,
    /// What adapted and source predictions are like on average.
    seen: [ClassMean; 2],
    /// Samples since the last return.
    samples: usize,
    /// Returns since the stream's last reset.
    returns: i32,
    sureness: Option<Sureness>,
    classes: usize,
    apart: bool,
}

impl Guarded {
    /// Around a method.
    ///
    /// # Errors
    /// Safeguards that have no place there, by pointer within this object.
    pub fn boxed(
        config: SafeguardsConfig,
        mut method: Box<dyn Method>,
        setting: &Setting<'_>,
    ) -> Result<Box<dyn Method>, Vec<Issue>> {
        let single = setting.adaptation.mode == (Mode::SingleSample {});
        let carries = method.learner().is_some();
        let mut issues = Vec::new();
        let asked = [
            ("/pull", config.pull > 0.0),
            ("/average", config.average.is_some()),
        ];
        for (pointer, asked) in asked {
            if asked && !carries {
                let message = "the method carries no weights over the stream here; set `pull` to 0 and leave `average` out";
                issues.push(Issue::new(pointer, message));
            }
        }
        if config.collapse.is_some() && single {
            let message = "single-sample mode starts from the source with every sample; set `collapse` to null";
            issues.push(Issue::new("/collapse", message));
        }
        if config.surer.is_some() && single {
            let message =
                "single-sample mode knows no samples but the one at hand; set `surer` to null";
            issues.push(Issue::new("/surer", message));
        }
        if config.surer.is_some() && setting.backbone.per_pixel {
            let message = "is for classes of whole images, and the backbone answers for each pixel; set `surer` to null";
            issues.push(Issue::new("/surer", message));
        }
        let shared = setting.adaptation.batch_norm != BatchNormStatistics::Running && !single;
        if config.reliable.is_some() && shared && setting.backbone.batch_statistics {
            let message = "a filter takes images out of a batch that shares its statistics; set `/adaptation/batch_norm` to `running`, or leave it out";
            issues.push(Issue::new("/reliable", message));
        }
        if let Some(after) = config.stop_when_stable
            && let Some(message) = nothing_to_stop(after, &*method, setting)
        {
            issues.push(Issue::new("/stop_when_stable", message));
        }
        if !issues.is_empty() {
            return Err(issues);
        }
        Ok(Box::new(Self {
            average: config.average.map(|_| Teacher::new(setting.task)),
            seen: Default::default(),
            samples: 0,
            returns: 0,
            sureness: config.surer.map(Sureness::new),
            classes: setting.backbone.outputs,
            apart: single,
            config,
            method,
        }))
    }

    /// Adapts to samples, pulls, and predicts with the average.
    fn moved(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Adapted> {
        let mut found = self.method.adapt(tools, batch)?;
        if let Some(learner) = self.method.learner() {
            pull(learner, tools.source(), self.config.pull)?;
            if let (Some(average), Some(kept)) = (&mut self.average, self.config.average) {
                approach(average.weights_mut(), &[learner.weights()], 1.0 - kept)?;
                let outputs = tools.outputs(average.weights(), &batch.task)?;
                found.adapted = tools.predict(&outputs, batch.ids.len())?;
            }
        }
        Ok(found)
    }

    /// Adapts to the samples that pass the filter.
    fn filtered(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Adapted> {
        let Some(share) = self.config.reliable else {
            return self.moved(tools, batch);
        };
        let images = batch.ids.len();
        let outputs = tools.source_outputs(&batch.task, self.apart)?;
        let logits = logits(&outputs)?;
        let limit = share * (logits.shape()[1] as f64).ln();
        let entropies = entropy(logits)?.to_floats()?;
        let places: Vec<usize> = (0..images)
            .filter(|&place| f64::from(entropies[place]) < limit)
            .collect();
        if places.len() == images {
            return self.moved(tools, batch);
        }
        let source = tools.predict(&outputs, images)?;
        if places.is_empty() {
            return Ok(Adapted::unchanged(source));
        }
        let some = self.moved(tools, &batch.select(&places)?)?;
        let mut all = Adapted::at(source, &places, some.adapted, some.losses)?;
        all.draws = some.draws;
        for (name, values) in some.measures {
            let mut of_all = vec![0.0; images];
            for (&place, value) in places.iter().zip(values) {
                of_all[place] = value;
            }
            all.measures.insert(name, of_all);
        }
        Ok(all)
    }

    /// Whether predictions have collapsed, with those of a batch.
    fn collapsed(&mut self, found: &Adapted, predicts: Option<&Arc<Predicts>>) -> Result<bool> {
        let (Some(collapse), Some(predicts)) = (self.config.collapse, predicts) else {
            return Ok(false);
        };
        let images = found.source.each.len();
        self.samples += images;
        let kept = 1.0 - 1.0 / collapse.samples as f64;
        let momentum = kept.powi(i32::try_from(images).unwrap_or(i32::MAX)) as f32;
        let both = [&found.adapted, &found.source];
        let mut diversities = [0.0; 2];
        for (n, predictions) in both.into_iter().enumerate() {
            let row = described(predictions, &predicts.name, self.classes)?;
            self.seen[n].follow(std::iter::once(&row), momentum, None)?;
            diversities[n] = diversity(&self.seen[n].values()?);
        }
        let [adapted, source] = diversities;
        Ok(self.samples >= collapse.samples && adapted < collapse.below * source)
    }

    /// Back to the source, for whatever reason.
    fn begin(&mut self, tools: &Toolbox) {
        self.method.reset(tools);
        self.average = self.config.average.map(|_| Teacher::new(tools.source()));
        self.seen = Default::default();
        self.samples = 0;
        self.sureness = self.config.surer.map(Sureness::new);
    }

    /// Leaves the method the learning rate that its returns have left it.
    fn slow(&mut self) {
        if let Some(collapse) = self.config.collapse {
            let left = collapse.backoff.powi(self.returns);
            if let Some(learner) = self.method.learner() {
                learner.slow_to(left);
            }
            if let Some(learner) = self.method.denoiser_learner() {
                learner.slow_to(left);
            }
        }
    }

    /// Puts the source's predictions in the place of those of which it is surer.
    fn keep_surer(&mut self, found: &mut Adapted) -> Result<()> {
        let Some(sureness) = &mut self.sureness else {
            return Ok(());
        };
        let places = sureness.source_is_surer(&found.source.each, &found.adapted.each)?;
        let mut kept = vec![0.0; found.source.each.len()];
        for &place in &places {
            kept[place] = 1.0;
        }
        if !places.is_empty() {
            let source = found.source.select(&places)?;
            found.adapted = replaced(&found.adapted, source, &places)?;
        }
        found.measures.insert("kept_source".into(), kept);
        Ok(())
    }
}

/// A number of a state.
fn count<T: TryFrom<i64>>(state: &mut State, name: &str) -> Result<T, dtta_learn::Error> {
    let found = state.take_count(name)?;
    T::try_from(found).map_err(|_| dtta_learn::Error::Unknown {
        name: format!("{name} = {found}"),
    })
}

/// Why no step could be left out.
fn nothing_to_stop(after: usize, method: &dyn Method, setting: &Setting<'_>) -> Option<String> {
    if setting.backbone.per_pixel {
        return Some(
            "is for classes of whole images, and the backbone answers for each pixel; leave it out"
                .into(),
        );
    }
    match (method.stops_when_stable(), method.steps()) {
        (false, _) => Some("the method has no steps that could be left out; leave it out".into()),
        (true, steps) if steps <= after => Some(format!(
            "is {after}, but the method makes {steps} steps for each batch, so none would be left out"
        )),
        _ => None,
    }
}

/// How often each class is predicted, or the standard deviation of numbers.
fn described(predictions: &Predictions, name: &str, classes: usize) -> Result<Vec<f32>> {
    let tensor = predictions.named.get(name).ok_or_else(|| Error::Outputs {
        role: "head",
        found: format!("{:?}", predictions.named.names().collect::<Vec<_>>()),
        expected: format!("expected `{name}`"),
    })?;
    if tensor.kind() != Kind::Int {
        return Ok(vec![tensor.variance(&[], false)?.item()?.sqrt()]);
    }
    let labels = tensor.to_ints()?;
    let mut row = vec![0.0; classes.max(2)];
    for label in &labels {
        let place = usize::try_from(*label).ok();
        if let Some(count) = place.and_then(|place| row.get_mut(place)) {
            *count += 1.0 / labels.len() as f32;
        }
    }
    Ok(row)
}

/// The entropy of shares, or a number as it is.
fn diversity(row: &[f32]) -> f64 {
    match row {
        [deviation] => f64::from(*deviation),
        shares => {
            let terms = shares.iter().map(|&share| f64::from(share));
            let terms = terms.filter(|&share| share > 0.0);
            -terms.map(|share| share * share.ln()).sum::<f64>()
        }
    }
}

impl Method for Guarded {
    fn adapt(&mut self, tools: &mut Toolbox, batch: &Batch<'_>) -> Result<Adapted> {
        let images = batch.ids.len();
        self.slow();
        let mut found = self.filtered(tools, batch)?;
        let predicts = tools.task().predicts().cloned();
        if self.collapsed(&found, predicts.as_ref())? {
            self.begin(tools);
            self.returns = self.returns.saturating_add(1);
            found.adapted = found.source.clone();
            found.measures.insert("collapsed".into(), vec![1.0; images]);
        } else if self.config.collapse.is_some() {
            found.measures.insert("collapsed".into(), vec![0.0; images]);
        }
        self.keep_surer(&mut found)?;
        Ok(found)
    }

    fn reset(&mut self, tools: &Toolbox) {
        self.begin(tools);
        self.returns = 0;
    }

    fn state(&self) -> State {
        let mut state = State::new();
        state.put("method", self.method.state());
        if let Some(average) = &self.average {
            state.put("average", average.state());
        }
        let [adapted, source] = &self.seen;
        state.put("adapted", adapted.state());
        state.put("source", source.state());
        state.counts.insert("samples".into(), self.samples as i64);
        state.counts.insert("returns".into(), self.returns.into());
        if let Some(sureness) = &self.sureness {
            state.put("sureness", sureness.state());
        }
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        self.method.restore(state.take("method"))?;
        if let Some(average) = &mut self.average {
            average.restore(state.take("average"))?;
        }
        let [adapted, source] = &mut self.seen;
        adapted.restore(state.take("adapted"))?;
        source.restore(state.take("source"))?;
        self.samples = count(&mut state, "samples")?;
        self.returns = count(&mut state, "returns")?;
        if let Some(sureness) = &mut self.sureness {
            sureness.restore(state.take("sureness"))?;
        }
        Ok(state.finish()?)
    }

    fn steps(&self) -> usize {
        self.method.steps()
    }

    fn learner(&mut self) -> Option<&mut dtta_learn::Learner> {
        self.method.learner()
    }

    fn denoiser_learner(&mut self) -> Option<&mut dtta_learn::Learner> {
        self.method.denoiser_learner()
    }

    fn feedback(&self) -> Option<dtta_learn::Feedback> {
        self.method.feedback()
    }

    fn shown(&self, place: usize, samples: usize) -> usize {
        self.method.shown(place, samples)
    }
}
