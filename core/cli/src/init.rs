//! `dtta init`: an experiment that runs, from two models and a dataset.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail, ensure};
use clap::Args;
use dtta::{ColourMode, Document, Prepared};
use dtta_base::write_json;
use dtta_data::{Dataset, DatasetConfig};
use dtta_models::{Backbone, Denoiser};
use dtta_tensor::Device;
use serde_json::{Value, json};

use crate::Failure;
use crate::experiment::extensions;
use crate::say::say;

/// What to write, and where.
#[derive(Args)]
pub struct Arguments {
    /// The folder to write `experiment.json` and its schema into; made if it is not there.
    folder: PathBuf,
    /// The classifier's configuration, its weights beside it.
    #[arg(long, value_name = "CONFIG")]
    backbone: PathBuf,
    /// The diffusion model's configuration, its weights beside it.
    #[arg(long, value_name = "CONFIG")]
    denoiser: PathBuf,
    /// A folder with a folder of images for each class, or a file of `dtta data pack`.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The head: a plugin's name or path, with its configuration if it needs one.
    #[arg(long, value_name = "PLUGIN[=JSON]", default_value = CLASSIFICATION)]
    head: String,
    /// The mapper: a plugin's name or path, with its configuration if it needs one; `classification` if absent, for a
    /// denoiser that is conditioned on a class.
    #[arg(long, value_name = "PLUGIN[=JSON]")]
    mapper: Option<String>,
}

const CLASSIFICATION: &str = "classification";
const EXPERIMENT: &str = "experiment.json";
const SCHEMA: &str = "experiment.schema.json";
/// Samples of each domain at most.
const SAMPLES: usize = 100;
/// Images that are adapted together.
const BATCH: usize = 10;

/// Writes the experiment, after everything that it names was opened and one image predicted.
pub fn init(arguments: &Arguments) -> Result<(), Failure> {
    let folder = &arguments.folder;
    let is_new = !folder.exists();
    let written = write(arguments);
    if written.is_err() && is_new {
        // Empty, unless somebody else put something there.
        let _ = fs::remove_dir(folder);
    }
    written.map_err(Failure::Misuse)
}

fn write(arguments: &Arguments) -> Result<()> {
    let folder = &arguments.folder;
    let [path, schema] = [EXPERIMENT, SCHEMA].map(|name| folder.join(name));
    for path in [&path, &schema] {
        ensure!(
            !path.exists(),
            "`{}` is there already; remove it, or choose another folder",
            path.display()
        );
    }
    let extensions = extensions();
    let backbone = extensions.models.backbone(&arguments.backbone)?;
    let denoiser = extensions.models.denoiser(&arguments.denoiser)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let value = experiment(arguments, &*backbone, &*denoiser)?;
    let document = Document::parse(&path, value, &extensions.methods)?;
    let prepared = Prepared::new(document, &extensions, Device::cpu())?;
    write_json(&schema, &dtta::schema(&extensions.methods))?;
    write_json(&path, prepared.experiment())?;
    say!(
        "wrote {0}; next:\n  dtta run {0} --dry-run\n  dtta diagnose {0}\n  dtta run {0}\nThe models' files do not say how they see pixels: both get [0, 1] as [-1, 1]. If yours was trained otherwise, \
         change `preprocess` under `/models`. Steps, learning rate and timesteps are a start, not tuned.",
        path.display()
    );
    Ok(())
}

/// The experiment as JSON.
fn experiment(
    arguments: &Arguments,
    backbone: &dyn Backbone,
    denoiser: &dyn Denoiser,
) -> Result<Value> {
    let spec = backbone.spec();
    ensure!(
        !spec.per_pixel,
        "`{}` answers for each pixel, and `init` writes experiments for classifiers; start from examples/doom instead",
        arguments.backbone.display()
    );
    let mapper = match &arguments.mapper {
        Some(mapper) => mapper,
        None if denoiser.class_condition().is_some() => CLASSIFICATION,
        None => {
            let slots = denoiser.slots().iter();
            let slots: Vec<String> = slots.map(|slot| format!("`{}`", slot.name)).collect();
            bail!(
                "`{}` is not conditioned on a class, but has the slots {}; name a plugin that fills them by `--mapper`",
                arguments.denoiser.display(),
                slots.join(", ")
            )
        }
    };
    let folder = &arguments.folder;
    let dataset = dataset(&arguments.data, folder, spec.image)?;
    let opened: DatasetConfig = serde_json::from_value(dataset.clone())?;
    let opened = Dataset::open(&opened, folder)?;
    let image = opened.sample(0)?.image.shape();
    let model = |config: &Path, shape: [usize; 3]| -> Result<Value> {
        Ok(json!({"config": from(folder, config)?, "preprocess": steps(image, shape)}))
    };
    let plugin = |text: &str| plugin(text, folder);
    let all = denoiser.schedule().range(None).map_err(Error::msg)?;
    let (span, whole) = (all.high - all.low, all.whole);
    let range = [0.3, 0.7].map(|part| all.low + part * span);
    let range = json!(if whole {
        range.map(|time| time as i64).map(Value::from)
    } else {
        range.map(Value::from)
    });
    let corrupted = |name: &str| json!({"kind": "corrupted", "corruption": name, "severity": 5});
    let name = fs::canonicalize(folder)?;
    let name = name.file_name().unwrap_or(folder.as_os_str());
    Ok(json!({
        "$schema": SCHEMA,
        "name": name.to_string_lossy(),
        "data": {
            "dataset": dataset,
            "stream": {
                "samples": SAMPLES.min(opened.len()),
                "stratified": opened.labels().is_some(),
                "domains": [
                    {"kind": "clean"}, corrupted("gaussian_noise"), corrupted("defocus_blur"), corrupted("brightness"), corrupted("jpeg"),
                ],
            },
        },
        "models": {
            "backbone": model(&arguments.backbone, spec.image)?,
            "denoiser": model(&arguments.denoiser, denoiser.image_shape())?,
        },
        "plugins": {"head": plugin(&arguments.head)?, "mapper": plugin(mapper)?},
        "method": {
            "kind": "diffusion", "steps": 4, "draws": 12, "micro_batch": 60,
            "timesteps": {"sampler": "stratified", "range": range},
            "optimizer": {"kind": "adam", "learning_rate": 2e-4, "epsilon": 5e-5},
        },
        "adaptation": {"mode": {"kind": "online"}, "batch": BATCH},
        "output": {"pictures": 2},
    }))
}

/// A file of packed samples, or a folder whose images are brought to the backbone's extents.
fn dataset(data: &Path, folder: &Path, [channels, height, width]: [usize; 3]) -> Result<Value> {
    let path = from(folder, data)?;
    if data.is_file() {
        return Ok(json!({"kind": "packed", "path": path}));
    }
    let channels = match channels {
        1 => ColourMode::Grayscale,
        _ => ColourMode::Rgb,
    };
    Ok(json!({
        "kind": "folder", "path": path, "channels": channels, "transforms": covering(height, width),
    }))
}

/// To these extents, whatever the image's: as much of its middle as they show.
fn covering(height: usize, width: usize) -> [Value; 2] {
    [
        json!({"kind": "resize_short", "side": height.max(width)}),
        json!({"kind": "centre_crop", "height": height, "width": width}),
    ]
}

/// From an image of the dataset to what a model sees.
fn steps(image: [usize; 3], model: [usize; 3]) -> Vec<Value> {
    let mut steps = Vec::new();
    match (image[0], model[0]) {
        (from, to) if from == to => {}
        (_, 1) => steps.push(json!({"kind": "grayscale"})),
        _ => steps.push(json!({"kind": "rgb"})),
    }
    if image[1..] != model[1..] {
        steps.extend(covering(model[1], model[2]));
    }
    steps.push(json!({"kind": "normalise", "mean": [0.5], "std": [0.5]}));
    steps
}

/// `PLUGIN` or `PLUGIN=JSON`: a name stays, a path starts at the folder.
fn plugin(text: &str, folder: &Path) -> Result<Value> {
    let (plugin, config) = match text.split_once('=') {
        None => (text, json!({})),
        Some((plugin, config)) => {
            let config = serde_json::from_str(config);
            (
                plugin,
                config.with_context(|| format!("the configuration in `{text}`"))?,
            )
        }
    };
    let is_path = Path::new(plugin).components().count() > 1 || plugin.starts_with('.');
    let reference = match is_path {
        true => from(folder, Path::new(plugin))?,
        false => plugin.into(),
    };
    Ok(json!({"use": reference, "config": config}))
}

/// A path as it is written in a file of `folder`, so that both may move together.
fn from(folder: &Path, path: &Path) -> Result<PathBuf> {
    let whole = |path: &Path| {
        fs::canonicalize(path).with_context(|| format!("cannot find `{}`", path.display()))
    };
    let (folder, path) = (whole(folder)?, whole(path)?);
    let shared = folder.components().zip(path.components());
    let shared = shared.take_while(|(one, other)| one == other).count();
    // Different drives share nothing.
    if shared == 0 {
        return Ok(path);
    }
    let up = folder
        .components()
        .skip(shared)
        .map(|_| Component::ParentDir);
    let down = path.components().skip(shared);
    Ok(up.chain(down).collect())
}
