//! `dtta models`: which architectures there are, what a published model is in this program's terms, and its files in this program's formats.

#[cfg(feature = "fetch")]
mod fetch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use dtta_base::{in_bytes, listed, write_json};
use dtta_models::{
    Description, HubCache, HubModel, Interpolation, Lora, Model, ModelError, ModelFiles, Models,
    Precision, Preprocessing, Resized, locate,
};
use dtta_tensor::Device;
use serde_json::{Value, json};

use crate::say::say;
use crate::{Failure, print_json};

/// What to do.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Prints the architectures that model files may describe, and the classes of other libraries that are read as they are published.
    List {
        /// Prints JSON to stdout.
        #[arg(long)]
        json: bool,
    },
    /// Tells what a model is, how its configuration is understood and whether its weights fit, without loading these.
    ///
    /// Example: dtta models inspect timm:convnext_tiny.fb_in1k
    Inspect {
        #[command(flatten)]
        source: Source,
        /// Prints JSON to stdout.
        #[arg(long)]
        json: bool,
    },
    /// Downloads a model or an adapter from the Hugging Face Hub into its cache, and checks it. `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`,
    /// `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to the Hub's own library.
    ///
    /// Example: dtta models fetch timm/convnext_tiny.fb_in1k
    Fetch {
        /// OWNER/REPOSITORY, with `@REVISION` and `/FOLDER` if need be.
        model: String,
        /// A file to fetch; the configuration and the weights if none is named. May be repeated.
        #[arg(long = "file", value_name = "FILE")]
        files: Vec<String>,
    },
    /// Writes a model as files of this program: its configuration, and its weights beside it as safetensors.
    ///
    /// Example: dtta models convert DiT-XL-2-256/transformer models/dit.json
    Convert {
        #[command(flatten)]
        source: Source,
        /// The configuration to write, `NAME.json`; the weights become `NAME.safetensors`.
        out: PathBuf,
        /// How wide the numbers are: `f32`, `f16` or `bf16`.
        #[arg(long, default_value = "f32", value_parser = precision)]
        precision: Precision,
        /// A folder with factors of low rank (LoRA) that are added to its matrices: `adapter/` of a run, one that peft or diffusers wrote, or
        /// `hf:OWNER/REPOSITORY`.
        #[arg(long, value_name = "FOLDER")]
        adapter: Option<PathBuf>,
    },
}

/// A model.
#[derive(Args)]
struct Source {
    /// A configuration file, a folder that diffusers or timm wrote, `hf:OWNER/REPOSITORY` or `timm:NAME`.
    #[arg(value_name = "MODEL")]
    model: String,
    /// Its weights, if they are elsewhere.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Height and width of its images, if its configuration leaves them open: `--extents 480,640`.
    #[arg(long, value_name = "HEIGHT,WIDTH", value_parser = extents)]
    extents: Option<[usize; 2]>,
}

/// `HEIGHT,WIDTH`.
pub fn extents(text: &str) -> Result<[usize; 2], String> {
    let number = |text: &str| text.trim().parse().ok().filter(|&number| number > 0);
    text.split_once(',')
        .and_then(|(height, width)| Some([number(height)?, number(width)?]))
        .ok_or_else(|| "expected HEIGHT,WIDTH, such as 480,640".into())
}

impl Source {
    /// The architectures, for images of the extents that were chosen.
    fn models(&self, models: Models) -> Models {
        match self.extents {
            Some(extents) => models.with_extents(extents),
            None => models,
        }
    }

    fn describe(&self, models: &Models) -> Result<(PathBuf, Description), Failure> {
        let path = locate(&self.model, Path::new("")).map_err(Failure::misuse)?;
        let description = models.describe(&path, self.weights.as_deref());
        Ok((path, description.map_err(Failure::misuse)?))
    }
}

fn precision(text: &str) -> Result<Precision, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected `f32`, `f16` or `bf16`".into())
}

/// The most names that are listed for people.
const LISTED: usize = 8;

/// Does it.
pub fn models(arguments: &Arguments) -> Result<(), Failure> {
    let models = Models::standard();
    match &arguments.verb {
        Verb::List { json } => list(&models, *json),
        Verb::Inspect { source, json } => inspect(&source.models(models), source, *json),
        Verb::Fetch { model, files } => fetch_model(model, files),
        Verb::Convert {
            source,
            out,
            precision,
            adapter,
        } => convert(
            &source.models(models),
            source,
            out,
            *precision,
            adapter.as_deref(),
        ),
    }
}

fn list(models: &Models, json: bool) -> Result<(), Failure> {
    let rows = models.list();
    let published = Models::published();
    if json {
        let rows = rows
            .iter()
            .map(|row| json!({"kind": row.kind, "role": row.role, "description": row.description}));
        let published: BTreeMap<_, _> = published.into_iter().collect();
        return print_json(&json!({"kinds": rows.collect::<Vec<_>>(), "published": published}));
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["kind", "role", "what it is"]);
    for row in &rows {
        table.add_row([row.kind, row.role, &row.description]);
    }
    say!("{table}");
    for (library, classes) in published {
        say!("configurations of {library}: {}", classes.join(", "));
    }
    Ok(())
}

fn inspect(models: &Models, source: &Source, json: bool) -> Result<(), Failure> {
    let (_, description) = source.describe(models)?;
    match json {
        true => print_json(&in_json(&description))?,
        false => in_words(&description),
    }
    match description.weights {
        Ok(weights) if weights.fit.mismatches.is_empty() => Ok(()),
        Ok(weights) => Err(Failure::Misuse(anyhow!(
            "the weights do not fit the model: {}",
            weights.fit.mismatches
        ))),
        // A configuration without weights is a model to train.
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(Failure::misuse(error)),
    }
}

fn is_absent(error: &ModelError) -> bool {
    match error {
        ModelError::NoWeights { others, .. } => others.is_empty(),
        ModelError::File(dtta_base::Error::Read { source, .. }) => {
            source.kind() == std::io::ErrorKind::NotFound
        }
        _ => false,
    }
}

fn elements(model: &Model) -> usize {
    let each = model.parameters().iter().map(|spec| spec.elements());
    each.fold(0, usize::saturating_add)
}

fn in_json(description: &Description) -> Value {
    let mut told = json!({
        "config": description.config,
        "library": description.library,
        "model": description.document,
        "image": description.model.image(),
        "parameters": {
            "tensors": description.model.parameters().len(),
            "elements": elements(&description.model),
        },
        "preprocessing": description.preprocessing.as_ref().map(|preprocessing| json!(preprocessing)),
    });
    match &description.model {
        Model::Denoiser(denoiser) => {
            told["role"] = json!("denoiser");
            told["slots"] = json!(denoiser.slots());
        }
        Model::Backbone(backbone) => {
            let spec = backbone.spec();
            told["role"] = json!("backbone");
            told["outputs"] = json!(spec.outputs);
            told["per_pixel"] = json!(spec.per_pixel);
        }
        Model::Encoder(_) => told["role"] = json!("encoder"),
        Model::Text(encoder) => {
            let spec = encoder.spec();
            told["role"] = json!("text encoder");
            told["tokens"] =
                json!({"known": spec.vocabulary, "most": spec.length, "width": spec.width});
        }
    }
    told["weights"] = match &description.weights {
        Ok(weights) => {
            let found = &weights.fit.mismatches;
            let called = |called: &dtta_models::Called| json!({"tensor": called.tensor, "parameter": called.parameter});
            json!({
                "files": weights.files,
                "format": weights.format.to_string(),
                "bytes": weights.bytes,
                "tensors": weights.tensors,
                "types": weights.types,
                "unused": weights.fit.unused,
                "missing": found.missing.iter().map(called).collect::<Vec<_>>(),
                "not_declared": found.extra,
                "misshapen": found.misshapen.iter().map(|(name, expected, found)| {
                    json!({"tensor": name.tensor, "parameter": name.parameter, "expected": expected, "found": found})
                }).collect::<Vec<_>>(),
                "mistyped": found.mistyped.iter().map(|(name, found)| {
                    json!({"tensor": name.tensor, "parameter": name.parameter, "found": found})
                }).collect::<Vec<_>>(),
                "shared": found.shared.iter().map(|(tensor, parameters)| {
                    json!({"tensor": tensor, "parameters": parameters})
                }).collect::<Vec<_>>(),
            })
        }
        Err(error) => json!({"error": dtta_base::told(error)}),
    };
    told
}

fn interpolation(preprocessing: &Preprocessing) -> &'static str {
    match preprocessing.interpolation {
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
    }
}

fn in_words(description: &Description) {
    let kind = description.document["kind"].as_str().unwrap_or_default();
    let from = description.library.map_or(String::new(), |library| {
        format!(", as a configuration of {library} describes it")
    });
    say!("`{}`: {kind}{from}", description.config.display());
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut row = |title: &str, text: String| {
        table.add_row([title, &text]);
    };
    match &description.model {
        Model::Denoiser(denoiser) => {
            row("role", "denoiser".into());
            for slot in denoiser.slots() {
                row(
                    "slot",
                    format!("{} {:?}: {}", slot.name, slot.shape, slot.meaning),
                );
            }
        }
        Model::Backbone(backbone) => {
            let spec = backbone.spec();
            row("role", "backbone".into());
            let each = if spec.per_pixel {
                " for each pixel"
            } else {
                ""
            };
            row("outputs", format!("{}{each}", spec.outputs));
        }
        Model::Encoder(_) => row("role", "encoder".into()),
        Model::Text(encoder) => {
            let spec = encoder.spec();
            row("role", "text encoder".into());
            row(
                "takes",
                format!("{} tokens of {} at most", spec.length, spec.vocabulary),
            );
        }
    }
    if let Some([channels, height, width]) = description.model.image() {
        row("takes", format!("{channels} × {height} × {width}"));
    }
    let bytes = elements(&description.model).saturating_mul(size_of::<f32>());
    row(
        "parameters",
        format!(
            "{} in {} tensors, {} in f32",
            elements(&description.model),
            description.model.parameters().len(),
            in_bytes(bytes as u64)
        ),
    );
    if let Some(preprocessing) = &description.preprocessing {
        row("images", preprocessing_in_words(preprocessing));
    }
    match &description.weights {
        Ok(weights) => {
            let files = weights
                .files
                .iter()
                .map(|file| format!("`{}`", file.display()));
            row(
                "weights",
                format!(
                    "{} ({}, {}, {} tensors of {})",
                    listed(files, LISTED),
                    weights.format,
                    in_bytes(weights.bytes),
                    weights.tensors,
                    weights.types.join(", ")
                ),
            );
            if !weights.fit.unused.is_empty() {
                row("unused", listed(&weights.fit.unused, LISTED));
            }
        }
        Err(error) => row("weights", format!("none: {}", dtta_base::told(error))),
    }
    say!("{table}");
    if description.library.is_some() {
        let text = serde_json::to_string_pretty(&description.document).unwrap_or_default();
        say!("the same as a model file:\n{text}");
    }
}

fn preprocessing_in_words(preprocessing: &Preprocessing) -> String {
    let [_, height, width] = preprocessing.image;
    let resized = match preprocessing.resized {
        Resized::Short(side) => format!("the shorter side {side}"),
        Resized::To([height, width]) => format!("{height} × {width}"),
        Resized::Chosen([height, width]) => {
            format!("{height} × {width} as chosen, whatever their shape")
        }
    };
    format!(
        "resized to {resized} ({}), the centre of {height} × {width}, mean {:?}, standard deviation {:?}",
        interpolation(preprocessing),
        preprocessing.mean,
        preprocessing.std
    )
}

fn convert(
    models: &Models,
    source: &Source,
    out: &Path,
    precision: Precision,
    adapter: Option<&Path>,
) -> Result<(), Failure> {
    let weights_out = out.with_extension("safetensors");
    let free = || {
        let is_json = out.extension().is_some_and(|extension| extension == "json");
        ensure!(
            is_json,
            "`{}`: expected the name of a configuration, `NAME.json`",
            out.display()
        );
        for path in [out, &weights_out] {
            ensure!(
                !path.exists(),
                "`{}` is there already; remove it, or choose another name",
                path.display()
            );
        }
        Ok(())
    };
    free().map_err(Failure::Misuse)?;
    let (path, description) = source.describe(models)?;
    let (device, weights) = (Device::cpu(), source.weights.as_deref());
    let loaded = match &description.model {
        Model::Denoiser(_) => models
            .load_denoiser(&path, weights, &device)
            .map(|(_, weights)| weights),
        Model::Backbone(_) => models
            .load_backbone(&path, weights, &device)
            .map(|(_, weights)| weights),
        Model::Encoder(_) => models
            .load_encoder(&path, weights, &device)
            .map(|(_, weights)| weights),
        Model::Text(_) => models
            .load_text_encoder(&path, weights, &device)
            .map(|(_, weights)| weights),
    };
    let mut loaded = loaded.map_err(Failure::misuse)?;
    if let Some(folder) = adapter {
        locate(folder, Path::new(""))
            .and_then(|folder| Lora::load(&folder, &loaded))
            .and_then(|lora| lora.merge(&mut loaded))
            .map_err(Failure::misuse)?;
    }
    loaded
        .save(&weights_out, precision, &BTreeMap::new())
        .map_err(Failure::misuse)?;
    write_json(out, &description.document).map_err(Failure::misuse)?;
    say!("wrote `{}` and `{}`", out.display(), weights_out.display());
    if let Some(preprocessing) = &description.preprocessing {
        say!(
            "its images are {}: a model file does not say so, put it into the experiment",
            preprocessing_in_words(preprocessing)
        );
    }
    Ok(())
}

/// Whether the Hub's library would use no network.
fn is_offline() -> bool {
    let set = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
    ["1", "on", "yes", "true"].contains(&set.to_ascii_lowercase().as_str())
}

fn fetch_model(text: &str, files: &[String]) -> Result<(), Failure> {
    let bare = text.strip_prefix("hf:").unwrap_or(text);
    let model = match text.starts_with("timm:") {
        true => HubModel::parse(text).map_err(Failure::misuse)?,
        false => HubModel::named(bare),
    };
    let model = model.ok_or_else(|| {
        Failure::misuse(ModelError::Reference {
            reference: text.into(),
        })
    })?;
    let cache = HubCache::from_environment();
    if !is_offline() {
        download(&model, files, &cache)?;
    }
    let folder = cache.find(&model).map_err(Failure::misuse)?;
    for file in files {
        let there = folder.join(file).is_file();
        let fault = || {
            anyhow!(
                "`{file}` of `{model}` is not in the cache, and nothing is fetched with HF_HUB_OFFLINE"
            )
        };
        there
            .then_some(())
            .with_context(fault)
            .map_err(Failure::Misuse)?;
    }
    if files.is_empty() {
        expect_whole(&folder).map_err(Failure::misuse)?;
    }
    say!("`{model}` is `{}`", folder.display());
    Ok(())
}

/// Expects the files of a model, or of an adapter, in a folder.
fn expect_whole(folder: &Path) -> Result<(), ModelError> {
    let model = ModelFiles::find(folder, None).map(drop);
    model.or_else(|error| Lora::files(folder).map(drop).map_err(|_| error))
}

#[cfg(feature = "fetch")]
fn download(model: &HubModel, files: &[String], cache: &HubCache) -> Result<(), Failure> {
    fetch::fetch(model, files, cache).map_err(Failure::Misuse)
}

#[cfg(not(feature = "fetch"))]
fn download(model: &HubModel, files: &[String], cache: &HubCache) -> Result<(), Failure> {
    // What is there already needs no network.
    let there = cache
        .find(model)
        .is_ok_and(|folder| match files.is_empty() {
            true => expect_whole(&folder).is_ok(),
            false => files.iter().all(|file| folder.join(file).is_file()),
        });
    match there {
        true => Ok(()),
        false => Err(Failure::Misuse(anyhow!(
            "`{model}` is not in the cache, and this `dtta` was built without downloads; build it with `--features fetch`, or fill the cache with the Hub's own `hf download {}`",
            model.repository
        ))),
    }
}
