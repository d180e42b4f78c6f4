//! Models and roles of a program's own in the place of those that an experiment names: networks that no file describes, functions that are no
//! plugin yet.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use dtta_models::{Backbone, Denoiser, Weights};
use dtta_plugin::{Plugin, Role};
use dtta_tensor::Device;
use serde_json::json;

use crate::document::Document;
use crate::error::Result;
use crate::experiment::PluginSource;

/// A model of a program's own, for experiments.
pub struct Own<M: ?Sized> {
    name: String,
    digest: String,
    make: Arc<Make<M>>,
}

/// A model with its source weights, on a device.
type Make<M> = dyn Fn(&Device) -> Result<(Box<M>, Weights)> + Send + Sync;

impl<M: ?Sized> Own<M> {
    /// A model that a run's protocol calls `name`. `digest` says what it is and which weights it has: two runs with different digests are
    /// different runs, and what it leaves out nobody sees. `make` makes the model with its source weights on a device.
    pub fn new(
        name: impl Into<String>,
        digest: impl Into<String>,
        make: impl Fn(&Device) -> Result<(Box<M>, Weights)> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            digest: digest.into(),
            make: Arc::new(make),
        }
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn make(&self, device: &Device) -> Result<(Box<M>, Weights)> {
        (self.make)(device)
    }
}

impl<M: ?Sized> Clone for Own<M> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            digest: self.digest.clone(),
            make: self.make.clone(),
        }
    }
}

impl<M: ?Sized> fmt::Debug for Own<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Own({}, {})", self.name, self.digest)
    }
}

/// What takes the place of what an experiment names. How models see an image, the experiment says (`preprocess`).
#[derive(Debug, Clone, Default)]
pub struct OwnParts {
    /// In the place of `models.backbone`.
    pub backbone: Option<Own<dyn Backbone>>,
    /// In the place of `models.denoiser`.
    pub denoiser: Option<Own<dyn Denoiser>>,
    /// In the place of `plugins.mapper`: a function of the program's, by [`Plugin::own_mapper`].
    pub mapper: Option<Plugin>,
    /// In the place of `plugins.metric`: a function of the program's, by [`Plugin::own_metric`].
    pub metric: Option<Plugin>,
}

impl OwnParts {
    /// What takes the place of the plugin in a role.
    pub(super) fn plugin(&self, role: Role) -> Option<&Plugin> {
        match role {
            Role::Mapper => self.mapper.as_ref(),
            Role::Metric => self.metric.as_ref(),
            Role::Head | Role::Objective => None,
        }
    }

    /// Writes the names of these parts into the experiment, in the place of those that it had, so that what a run says of itself is what it
    /// ran with.
    pub(crate) fn write_into(&self, document: &mut Document) {
        let models = &mut document.experiment.models;
        if let Some(own) = &self.backbone {
            models.backbone.config = PathBuf::from(&own.name);
            (models.backbone.weights, models.backbone.origin) = (None, None);
            models.backbone.extents = None;
        }
        if let (Some(own), Some(denoiser)) = (&self.denoiser, &mut models.denoiser) {
            denoiser.config = PathBuf::from(&own.name);
            (denoiser.weights, denoiser.origin) = (None, None);
        }
        let plugins = &mut document.experiment.plugins;
        let source = |own: &Plugin| PluginSource {
            plugin: own.name().into(),
            config: json!({}),
            sha256: None,
            weights: None,
        };
        if let Some(own) = &self.mapper {
            plugins.mapper = Some(source(own));
        }
        if let Some(own) = &self.metric {
            plugins.metric = Some(source(own));
        }
    }
}
