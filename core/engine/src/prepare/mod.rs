//! From a document to something that runs: opens data, models and plugins, and checks that they fit each other. `--dry-run` ends here.
//!
//! - `open.rs` opens what an experiment names, and writes down its digests; `assemble.rs` makes an adapter of it.
//! - `class_names.rs` finds what the classes are called, and `prompts.rs` has text encoders read it.
//! - `kept.rs` keeps what encoders make for other runs.
//! - `fit.rs` looks at the first sample, to see that the parts fit one another.

mod assemble;
mod class_names;
mod fit;
mod kept;
mod lora;
mod open;
mod own;
mod prompts;
mod published;
mod views;

use std::collections::BTreeMap;
use std::sync::Arc;

use dtta_data::{Dataset, Image, Stream, StreamItem};
use dtta_models::Models;
use dtta_plugin::{Predicts, Registry};
use dtta_tensor::{Device, Named};
use serde_json::Value;

pub(crate) use self::assemble::{Part, Parts, assemble};
pub use self::kept::Keep;
use self::kept::{Kept, Latents};
pub(crate) use self::open::{Opened, Values, open, open_scorer};
pub use self::own::{Own, OwnParts};
pub(crate) use self::prompts::needed as prompts_need;
pub(crate) use self::views::{ModelView, Views};
use crate::adapter::Adapter;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::methods::{Batch, Methods};
use crate::record::{DomainDescription, Done, RunDescription, Status};
use crate::report::{Scored, Scorer};
use crate::run::{Identity, Shard};
use crate::seen::Seen;

/// What a program can put into experiments: plugins, architectures and methods, those that come with dtta and its own.
#[derive(Debug, Clone)]
pub struct Extensions {
    /// Where plugins are found.
    pub plugins: Registry,
    /// The architectures that model files may name.
    pub models: Models,
    /// The methods that experiments may name.
    pub methods: Methods,
    /// Models and roles of the program's own, which take the place of those that experiments name.
    pub own: OwnParts,
}

impl Default for Extensions {
    /// What comes with dtta; plugins by path, or by name in the folders of `DTTA_PLUGIN_PATH`.
    fn default() -> Self {
        Self {
            plugins: Registry::from_environment(),
            models: Models::standard(),
            methods: Methods::standard(),
            own: OwnParts::default(),
        }
    }
}

/// Where the two models live. They meet at the cut, where only conditions and their gradients cross.
#[derive(Debug, Clone)]
pub struct Devices {
    /// Where the task model and its plugins compute.
    pub task: Device,
    /// Where the denoiser computes.
    pub denoiser: Device,
}

impl From<Device> for Devices {
    fn from(device: Device) -> Self {
        Self {
            task: device.clone(),
            denoiser: device,
        }
    }
}

impl Devices {
    /// Their name in descriptions: one, or both.
    pub fn name(&self) -> String {
        match self.task == self.denoiser {
            true => self.task.name().into(),
            false => format!(
                "{} and {} (denoiser)",
                self.task.name(),
                self.denoiser.name()
            ),
        }
    }
}

/// Has the denoiser's view keep its latents, if it has an encoder, whose digests these are among.
fn keep_latents(
    adapter: &mut Adapter,
    kept: Arc<Kept>,
    digests: &BTreeMap<String, String>,
    devices: &Devices,
) {
    let views = adapter.views_mut();
    let Some(view) = views.and_then(|views| views.denoiser.as_mut()) else {
        return;
    };
    if view.encoder.is_some() {
        let digest = kept::digest_of("encoder/", digests, &devices.denoiser).finish();
        view.latents = Some(Latents::new(kept, digest));
    }
}

/// An experiment that is ready to run.
pub struct Prepared {
    document: Document,
    pub(crate) devices: Devices,
    pub(crate) stream: Stream,
    pub(crate) adapter: Adapter,
    digests: BTreeMap<String, String>,
    plugins: BTreeMap<String, Value>,
    pub(crate) scorer: Scorer,
    predicts: Predicts,
    in_words: String,
}

impl Prepared {
    /// Opens everything that `document` names.
    ///
    /// # Errors
    /// Whatever a file, a model or a plugin refuses, all of which can be mended ([`Error::Opening`] for what would be a failure of a run);
    /// [`Error::Base`] by pointer for parts that do not fit each other.
    pub fn new(
        document: Document,
        extensions: &Extensions,
        devices: impl Into<Devices>,
    ) -> Result<Self> {
        Self::keeping(document, extensions, devices, None)
    }

    /// The same, with what encoders make of images and texts kept in a folder, and taken from there where it is there already. Results are the
    /// same.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Base`] for a folder that cannot be made or read.
    pub fn keeping(
        document: Document,
        extensions: &Extensions,
        devices: impl Into<Devices>,
        keep: Option<&Keep>,
    ) -> Result<Self> {
        let opened = Self::open(document, extensions, devices.into(), keep);
        opened.map_err(Error::of_opening)
    }

    fn open(
        mut document: Document,
        extensions: &Extensions,
        devices: Devices,
        keep: Option<&Keep>,
    ) -> Result<Self> {
        let kept = keep.map(Kept::open).transpose()?.map(Arc::new);
        extensions.own.write_into(&mut document);
        let experiment = &document.experiment;
        let base = document.base();
        let stream = {
            let dataset = experiment.data.dataset.as_ref();
            let dataset = dataset.map(|config| Dataset::open(config, base));
            Stream::new(
                &experiment.data.stream,
                dataset.transpose()?,
                base,
                experiment.seed,
            )?
        };
        let segments = stream.order().segments();
        let Opened {
            mut adapter,
            in_words,
            plugins,
            digests,
            scorer,
        } = open(
            &document,
            extensions,
            &devices,
            &segments,
            Some(stream.class_names()),
            (Values::Loaded, kept.as_deref()),
        )?;
        if let Some(kept) = kept {
            keep_latents(&mut adapter, kept, &digests, &devices);
        }
        let predicts = fit::check(&document, &stream, &mut adapter)?;
        let scorer = match scorer {
            Some(scorer) => scorer,
            None => fit::core_scorer(&document, &predicts, &stream)?,
        };
        Ok(Self {
            document,
            devices,
            stream,
            adapter,
            digests,
            plugins,
            scorer,
            predicts,
            in_words,
        })
    }

    /// Where the task model will run.
    pub fn device(&self) -> &Device {
        &self.devices.task
    }

    /// Where both models will run.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// The samples it will meet.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The experiment it came from.
    pub fn experiment(&self) -> &Experiment {
        &self.document.experiment
    }

    /// The same, with its file.
    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    /// What the head predicts.
    pub fn predicts(&self) -> &Predicts {
        &self.predicts
    }

    /// Everything that the run is: reads all of the stream's files.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let mut digests = self.digests.clone();
        digests.insert("data".into(), self.stream.digest()?);
        Ok(Identity::new(
            self.experiment(),
            digests,
            self.devices.name(),
        ))
    }

    /// The pieces of the stream that can be computed by themselves, as positions.
    pub(crate) fn units(&self) -> Vec<std::ops::Range<usize>> {
        crate::run::units(
            &self.stream.order().segments(),
            &self.experiment().adaptation,
        )
    }

    /// What the run is, before anything is done.
    pub(crate) fn describe(
        &self,
        identity: Identity,
        shard: Option<Shard>,
    ) -> Result<RunDescription> {
        let domains = self.stream.domains().iter().zip(self.stream.corruptions()?);
        Ok(RunDescription {
            experiment: self.experiment().clone(),
            file: self.document.path.display().to_string(),
            identity,
            seed: self.experiment().seed,
            plugins: self.plugins.clone(),
            predicts: self.predicts.clone(),
            scores: self.scorer.specs().to_vec(),
            in_words: self.in_words.clone(),
            seen: Seen::by_model(self.views()),
            domains: domains
                .map(|(domain, corruption)| DomainDescription {
                    name: domain.name.clone(),
                    samples: domain.len(),
                    shifted: domain.is_shifted(),
                    corruption,
                })
                .collect(),
            shard,
            status: Status::Running,
            done: Done::default(),
        })
    }

    /// A batch of samples of one segment, which starts at position `start` and has so many.
    pub(crate) fn batch<'a>(
        &self,
        items: &'a [StreamItem],
        start: usize,
        samples: usize,
    ) -> Result<Batch<'a>> {
        let images: Vec<&Image> = items.iter().map(|item| &item.image).collect();
        let views = self.views();
        let denoiser = match views.needs_denoiser() {
            false => None,
            true => {
                let method = self.adapter.method();
                let shown = items.iter().map(|item| {
                    let place = item.position - start;
                    match method.shown(place, samples) {
                        same if same == place => Ok(item.image.clone()),
                        other => Ok(self.stream.item(start + other)?.image),
                    }
                });
                let shown = shown.collect::<Result<Vec<Image>>>()?;
                views.denoiser(&shown.iter().collect::<Vec<_>>(), &self.document)?
            }
        };
        Ok(Batch {
            ids: items.iter().map(|item| item.id.as_str()).collect(),
            task: views.task(&images, &self.document)?,
            denoiser,
        })
    }

    /// What each of some samples comes to under the metric, before and after; nothing for samples without targets.
    pub(crate) fn score(
        &self,
        items: &[StreamItem],
        predictions: [&Named; 2],
    ) -> Result<Vec<Option<Scored>>> {
        let targets = crate::report::targets(&self.predicts, items, &self.devices.task)?;
        let Some(targets) = targets else {
            return Ok(items.iter().map(|_| None).collect());
        };
        let scored = self.scorer.each(predictions, &targets, items.len())?;
        Ok(scored.into_iter().map(Some).collect())
    }

    fn views(&self) -> &Views {
        let views = self.adapter.views();
        views.expect("an experiment's adapter has its views")
    }
}
