//! `dtta init`: an experiment that runs, from two models and a dataset.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail, ensure};
use clap::Args;
use dtta::{ColourMode, Document, Prepared};
use dtta_base::write_json;
use dtta_data::{Dataset, DatasetConfig};
use dtta_models::{Backbone, Denoiser, Preprocessing, Resized};
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
    /// The configuration of a classifier of images or pixels, or of a predictor of depth; its weights beside it.
    #[arg(long, value_name = "CONFIG")]
    backbone: PathBuf,
    /// Height and width of the backbone's images, if its published configuration leaves them open: `--extents 480,640`.
    #[arg(long, value_name = "HEIGHT,WIDTH", value_parser = crate::models::extents)]
    extents: Option<[usize; 2]>,
    /// The diffusion model's configuration, its weights beside it.
    #[arg(long, value_name = "CONFIG")]
    denoiser: PathBuf,
    /// A file of `dtta data pack`, or a folder: for a classifier of images with a folder for each class, for one of pixels with the folders
    /// `images` and `labels` and the class names in `classes.json`.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The head: a plugin's name or path, with its configuration if it needs one; the bundled one of the backbone's task if absent.
    #[arg(long, value_name = "PLUGIN[=JSON]")]
    head: Option<String>,
    /// The mapper, likewise.
    #[arg(long, value_name = "PLUGIN[=JSON]")]
    mapper: Option<String>,
    /// The metric, likewise.
    #[arg(long, value_name = "PLUGIN[=JSON]")]
    metric: Option<String>,
}

const EXPERIMENT: &str = "experiment.json";
const SCHEMA: &str = "experiment.schema.json";
/// The list of class names in a folder of images and label maps.
const CLASSES: &str = "classes.json";
/// Samples of each domain at most.
const SAMPLES: usize = 100;

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
    let chosen = arguments
        .extents
        .map(|extents| extensions.models.with_extents(extents));
    let of_backbone = chosen.as_ref().unwrap_or(&extensions.models);
    let backbone = of_backbone.backbone(&arguments.backbone)?;
    let denoiser = extensions.models.denoiser(&arguments.denoiser)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let published = of_backbone.preprocessing(&arguments.backbone)?;
    let value = experiment(arguments, &*backbone, published.as_ref(), &*denoiser)?;
    let document = Document::parse(&path, value, &extensions.methods)?;
    let prepared = Prepared::new(document, &extensions, Device::cpu())?;
    write_json(&schema, &dtta::schema(&extensions.methods))?;
    write_json(&path, prepared.experiment())?;
    let seen = match published {
        Some(_) => {
            "The backbone gets what its configuration says. The denoiser's file does not say how it sees pixels: it gets [0, 1] as [-1, 1]"
        }
        None => "The models' files do not say how they see pixels: both get [0, 1] as [-1, 1]",
    };
    say!(
        "wrote {0}; next:\n  dtta run {0} --dry-run\n  dtta diagnose {0}\n  dtta run {0}\n{seen}. If yours was trained otherwise, \
         change `preprocess` under `/models`. Steps, learning rate and timesteps are a start, not tuned.",
        path.display()
    );
    Ok(())
}

/// The experiment as JSON.
fn experiment(
    arguments: &Arguments,
    backbone: &dyn Backbone,
    published: Option<&Preprocessing>,
    denoiser: &dyn Denoiser,
) -> Result<Value> {
    let spec = backbone.spec();
    let task = Task::of(spec.per_pixel, spec.outputs);
    let folder = &arguments.folder;
    let dataset = task.dataset(&arguments.data, folder, spec.image, published)?;
    let opened: DatasetConfig = serde_json::from_value(dataset.clone())?;
    let opened = Dataset::open(&opened, folder)?;
    let image = opened.sample(0)?.image.shape();
    let model = |config: &Path, steps: Vec<Value>| -> Result<Value> {
        Ok(json!({"config": from(folder, config)?, "preprocess": steps}))
    };
    let shown = match published {
        // Images are brought to what it takes once, before they are corrupted.
        Some(published) if image == published.image => {
            vec![json!({"kind": "normalise", "mean": published.mean, "std": published.std})]
        }
        // None of the experiment's: those of its configuration.
        Some(_) => Vec::new(),
        None => task.steps(image, spec.image),
    };
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
    let mut backbone = model(&arguments.backbone, shown)?;
    if let Some(extents) = arguments.extents {
        backbone["extents"] = json!(extents);
    }
    Ok(json!({
        "$schema": SCHEMA,
        "name": name.to_string_lossy(),
        "data": {
            "dataset": dataset,
            "stream": {
                "samples": SAMPLES.min(opened.len()),
                "stratified": opened.labels().is_some(),
                "domains": [
                    {"kind": "clean"}, corrupted("gaussian_noise"), corrupted("defocus_blur"), corrupted("brightness"), corrupted("jpeg_compression"),
                ],
            },
        },
        "models": {
            "backbone": backbone,
            "denoiser": model(&arguments.denoiser, task.steps(image, denoiser.image_shape()))?,
        },
        "plugins": task.plugins(arguments, spec.outputs, denoiser)?,
        "method": {
            "kind": "diffusion", "steps": 4, "draws": 12, "micro_batch": 60,
            "timesteps": {"sampler": "stratified", "range": range},
            "optimizer": {"kind": "adam", "learning_rate": 2e-4, "epsilon": 5e-5},
        },
        "adaptation": {"mode": {"kind": "online"}, "batch": task.batch()},
        "output": {"pictures": 2},
    }))
}

/// What a backbone answers with, and what goes with that.
#[derive(Clone, Copy, PartialEq)]
enum Task {
    /// Logits of classes for each image.
    Classes,
    /// Logits of classes for each pixel.
    Labels,
    /// A number for each pixel.
    Depth,
}

impl Task {
    fn of(per_pixel: bool, outputs: usize) -> Self {
        match (per_pixel, outputs) {
            (false, _) => Self::Classes,
            (true, 1) => Self::Depth,
            (true, _) => Self::Labels,
        }
    }

    /// The bundled plugin for it.
    fn plugin(self) -> &'static str {
        match self {
            Self::Classes => "classification",
            Self::Labels => "segmentation",
            Self::Depth => "depth",
        }
    }

    /// Images that are adapted together.
    fn batch(self) -> usize {
        match self {
            Self::Classes => 10,
            Self::Labels | Self::Depth => 2,
        }
    }

    /// A file of packed samples or a folder, whose images and maps are brought to the backbone's extents unless preprocessing can do that.
    fn dataset(
        self,
        data: &Path,
        folder: &Path,
        [channels, height, width]: [usize; 3],
        published: Option<&Preprocessing>,
    ) -> Result<Value> {
        let path = from(folder, data)?;
        let transforms = published.map_or_else(|| covering(height, width), resized);
        let channels = match channels {
            1 => ColourMode::Grayscale,
            _ => ColourMode::Rgb,
        };
        if data.is_file() {
            let packed = json!({"kind": "packed", "path": path});
            let opened: DatasetConfig = serde_json::from_value(packed.clone())?;
            let [_, found @ ..] = Dataset::open(&opened, folder)?.sample(0)?.image.shape();
            return Ok(match self {
                Self::Labels | Self::Depth if found != [height, width] => {
                    json!({"kind": "packed", "path": path, "transforms": transforms})
                }
                _ => packed,
            });
        }
        match self {
            Self::Classes => Ok(json!({
                "kind": "folder", "path": path, "channels": channels, "transforms": transforms,
            })),
            Self::Labels => {
                for part in ["images", "labels", CLASSES] {
                    ensure!(
                        data.join(part).exists(),
                        "`{}` has no `{part}`; for a classifier of pixels it holds the folders `images` and `labels`, with PNG maps of the same names, and \
                         the list of class names in `{CLASSES}`",
                        data.display()
                    );
                }
                Ok(json!({
                    "kind": "paired", "images": path.join("images"), "channels": channels,
                    "targets": {"labels": {"kind": "label_map", "path": path.join("labels")}}, "classes": path.join(CLASSES),
                    "transforms": transforms,
                }))
            }
            Self::Depth => bail!(
                "`{}` is a folder, and its files do not say which distance a number stands for; give a file of `dtta data pack`, whose dataset \
                 has a target `depth` of kind `number_map` with its `scale`",
                data.display()
            ),
        }
    }

    /// From an image of the dataset to what a model sees. What a map tells about has to stay where it is in the image.
    fn steps(self, image: [usize; 3], model: [usize; 3]) -> Vec<Value> {
        let [_, height, width] = model;
        let mut steps = Vec::new();
        match (image[0], model[0]) {
            (from, to) if from == to => {}
            (_, 1) => steps.push(json!({"kind": "grayscale"})),
            _ => steps.push(json!({"kind": "rgb"})),
        }
        if image[1..] != model[1..] {
            match self {
                Self::Classes => steps.extend(covering(height, width)),
                Self::Labels | Self::Depth => {
                    steps.push(json!({"kind": "resize", "height": height, "width": width}));
                }
            }
        }
        steps.push(json!({"kind": "normalise", "mean": [0.5], "std": [0.5]}));
        steps
    }

    /// Head, mapper and metric: those that are named, or else the bundled ones.
    fn plugins(
        self,
        arguments: &Arguments,
        outputs: usize,
        denoiser: &dyn Denoiser,
    ) -> Result<Value> {
        let named = |text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| plugin(text, &arguments.folder)).transpose()
        };
        let bundled = |config: Value| json!({"use": self.plugin(), "config": config});
        let head = match (named(&arguments.head)?, self) {
            (Some(head), _) => head,
            (None, Self::Classes | Self::Labels) => bundled(json!({})),
            (None, Self::Depth) => bail!(
                "`{}` answers with one number for each pixel, and its file does not say which distance that stands for; give its range, such \
                 as --head 'depth={{\"range\": {{\"scale\": \"log\", \"maximum\": 80}}}}'",
                arguments.backbone.display()
            ),
        };
        // What the head says of its numbers holds for those who read them.
        let own = head["use"] == self.plugin();
        let range = json!({"range": head["config"]["range"]});
        let fits = match self {
            Self::Classes => denoiser.class_condition().is_some(),
            Self::Labels | Self::Depth => denoiser.spatial().is_some(),
        };
        let mapper = match (named(&arguments.mapper)?, self) {
            (Some(mapper), _) => mapper,
            (None, Self::Classes | Self::Labels) if fits => bundled(json!({})),
            (None, Self::Depth) if fits && own => bundled(range.clone()),
            (None, _) => {
                let slots = denoiser.slots().iter();
                let slots: Vec<String> = slots.map(|slot| format!("`{}`", slot.name)).collect();
                bail!(
                    "there is no bundled mapper from what `{}` answers with to the slots of `{}`: {}; name a plugin that fills them by `--mapper`",
                    arguments.backbone.display(),
                    arguments.denoiser.display(),
                    slots.join(", ")
                )
            }
        };
        let mut plugins = json!({"head": head, "mapper": mapper});
        let metric = match (named(&arguments.metric)?, self) {
            (Some(metric), _) => Some(metric),
            (None, Self::Labels) if own => Some(bundled(json!({"classes": outputs}))),
            (None, Self::Depth) if own => Some(bundled(range)),
            (None, _) => None,
        };
        if let Some(metric) = metric {
            plugins["metric"] = metric;
        }
        Ok(plugins)
    }
}

/// To these extents, whatever the image's: as much of its middle as they show.
fn covering(height: usize, width: usize) -> [Value; 2] {
    [
        json!({"kind": "resize_short", "side": height.max(width)}),
        json!({"kind": "centre_crop", "height": height, "width": width}),
    ]
}

/// To the extents of a published model, as its library brings images to them.
fn resized(published: &Preprocessing) -> [Value; 2] {
    let [_, height, width] = published.image;
    let filter = published.interpolation;
    let resize = match published.resized {
        Resized::Short(side) => {
            json!({"kind": "resize_short", "side": side, "filter": filter, "as_bytes": true})
        }
        Resized::To([height, width]) | Resized::Chosen([height, width]) => {
            json!({"kind": "resize", "height": height, "width": width, "filter": filter, "as_bytes": true})
        }
    };
    [
        resize,
        json!({"kind": "centre_crop", "height": height, "width": width}),
    ]
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
