//! What every command that opens an experiment takes.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use dtta::{Devices, Document, Extensions, Keep, Plan, Prepared};
use dtta_tensor::Device;

use crate::Failure;
use crate::data::tell_left_out;
use crate::plugins::registry;
use crate::run::refused;

/// An experiment, its overrides and its device.
#[derive(Args)]
pub struct Opening {
    /// The experiment, a JSON file.
    experiment: PathBuf,
    /// Overrides the experiment's seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Overrides a value, such as `method.steps=3`.
    #[arg(long, value_name = "POINTER=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    places: Places,
}

/// Where models compute.
#[derive(Args)]
pub struct Places {
    #[command(flatten)]
    task: Place,
    /// Device of the denoiser, if it is not that of the task model.
    #[arg(long, value_name = "NAME")]
    denoiser_device: Option<String>,
}

/// Where one model computes.
#[derive(Args)]
pub struct Place {
    #[arg(long, default_value = "auto", value_name = "NAME", help = Device::help())]
    device: String,
}

impl Place {
    /// The device that was asked for.
    pub fn device(&self) -> Result<Device, Failure> {
        self.device.parse().map_err(Failure::misuse)
    }
}

impl Places {
    /// The devices that were asked for.
    pub fn devices(&self) -> Result<Devices, Failure> {
        let mut devices = Devices::from(self.task.device()?);
        if let Some(name) = &self.denoiser_device {
            devices.denoiser = name.parse().map_err(Failure::misuse)?;
        }
        Ok(devices)
    }
}

/// The plugins that this binary has linked in, the standard models and methods.
pub fn extensions() -> Extensions {
    Extensions {
        plugins: registry(),
        ..Extensions::default()
    }
}

impl Opening {
    /// The experiment with its overrides and those of `set`, and nothing else opened.
    fn document(&self, extensions: &Extensions, set: &[&str]) -> Result<Document, Failure> {
        let mut overrides = self.set.clone();
        overrides.extend(set.iter().map(|set| (*set).to_owned()));
        overrides.extend(self.seed.map(|seed| format!("seed={seed}")));
        let document = Document::load(&self.experiment, &overrides, &extensions.methods);
        document.map_err(refused)
    }

    /// What its run takes, whether its files are there or not.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let extensions = extensions();
        let document = self.document(&extensions, &[])?;
        Plan::of(&document, &extensions, self.places.devices()?).map_err(refused)
    }

    /// Opens everything that the experiment names, and keeps what encoders make where that is told.
    pub fn prepare(&self, keep: Option<&Keep>) -> Result<Prepared, Failure> {
        let prepared = self.prepare_with(&[], keep)?;
        for dataset in prepared.stream().datasets() {
            tell_left_out(dataset.location(), dataset.left_out());
        }
        Ok(prepared)
    }

    /// The same with further overrides, and nothing said.
    pub fn prepare_with(&self, set: &[&str], keep: Option<&Keep>) -> Result<Prepared, Failure> {
        let extensions = extensions();
        let document = self.document(&extensions, set)?;
        let devices = self.places.devices()?;
        let models = &document.experiment.models;
        if keep.is_some() && models.encoder.is_none() && models.prompts.is_none() {
            let message = "--keep keeps what `models.encoder` and text encoders make, and the experiment has neither";
            return Err(Failure::Misuse(anyhow!(message)));
        }
        Prepared::keeping(document, &extensions, devices, keep).map_err(refused)
    }
}
