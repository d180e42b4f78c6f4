//! A model that is made of others: a configuration of kind `controlnet` names the folders of a U-Net and of its ControlNet, and a file with
//! the tokens of a prompt. Their configurations take the places of the paths, and their tensors are those of one checkpoint, under the
//! names of the parts.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use dtta_base::Issue;
use serde_json::{Map, Value, json};

use crate::checkpoint::{ModelFiles, config_of, locate};
use crate::error::{ModelError, Result};
use crate::published::{self, Names, Source};

/// The kind of configurations that name parts.
const KIND: &str = "controlnet";
/// The fields that name models, and what these are.
const UNET: &str = "unet";
const CONTROL: &str = "controlnet";
/// The field that names a file with one tensor.
const PROMPT: &str = "prompt";
/// What a document is called in messages.
const DOCUMENT: &str = "model configuration";
/// The longest file that is looked at as a configuration.
const LONGEST: u64 = 1 << 24;

/// What a configuration says of a part.
pub(crate) struct Part {
    /// The field.
    pub name: &'static str,
    /// What it says.
    pub reference: String,
    /// What that stands for.
    pub path: Result<PathBuf>,
}

impl Part {
    /// Whether it is a file with one tensor, and no model.
    pub fn is_tensor(&self) -> bool {
        self.name == PROMPT
    }
}

/// The parts that a configuration file names by paths; none for anything else.
pub(crate) fn parts(config: &Path) -> Vec<Part> {
    if !may_be_json(config) {
        return Vec::new();
    }
    match dtta_base::read_json(config, &[]) {
        Ok(Value::Object(document)) if names_parts(&document) => {
            let base = config.parent().unwrap_or(Path::new(""));
            let part = |name: &'static str| {
                let reference = document.get(name)?.as_str()?;
                Some(Part {
                    name,
                    reference: reference.into(),
                    path: locate(reference, base),
                })
            };
            [UNET, CONTROL, PROMPT]
                .into_iter()
                .filter_map(part)
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The U-Net that a configuration of kind `controlnet` names by a path, if it names one.
pub fn unet_of(config: &Path) -> Option<PathBuf> {
    let file = config_of(config).ok()?;
    let unet = parts(&file).into_iter().find(|part| part.name == UNET)?;
    unet.path.ok()
}

/// Whether a file is short and begins as a JSON object does: one with weights is not read whole for this.
fn may_be_json(path: &Path) -> bool {
    let short = fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() < LONGEST);
    if !short {
        return false;
    }
    let mut start = [0; 64];
    let Ok(read) = File::open(path).and_then(|mut file| file.read(&mut start)) else {
        return false;
    };
    let text = String::from_utf8_lossy(&start[..read]);
    text.trim_start_matches('\u{feff}')
        .trim_start()
        .starts_with('{')
}

/// Whether a configuration names models by paths.
fn names_parts(document: &Map<String, Value>) -> bool {
    let is_path = |name: &str| document.get(name).is_some_and(Value::is_string);
    document.get("kind") == Some(&json!(KIND)) && (is_path(UNET) || is_path(CONTROL))
}

/// The files of the parts that a configuration names, and the parts that are not there.
pub(crate) fn files(parts: &[Part]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut absent) = (Vec::new(), Vec::new());
    for part in parts {
        let path = match &part.path {
            Ok(path) if path.exists() || part.is_tensor() => path,
            Ok(path) => {
                absent.push(path.clone());
                continue;
            }
            // What is not in the Hub's cache has the name of its repository.
            Err(_) => {
                absent.push(PathBuf::from(&part.reference));
                continue;
            }
        };
        match part.is_tensor() {
            true => files.push(path.clone()),
            false => match ModelFiles::single(path) {
                Ok(found) => files.extend(found.all().map(Path::to_owned)),
                Err(ModelError::NoWeights { looked_for, .. }) => {
                    files.extend(config_of(path));
                    files.push(path.join(looked_for[0]));
                }
                Err(_) => absent.push(path.clone()),
            },
        }
    }
    (files, absent)
}

/// Puts the configurations of parts in the places of their paths, and says where the parameters of the whole are found; nothing where
/// there are no paths. `read` gives the document of a file, with its `kind`, and its names.
pub(crate) fn resolve(
    path: &Path,
    document: &mut Map<String, Value>,
    read: impl FnOnce(&Path) -> Result<(Value, Names)>,
) -> Result<Option<Names>> {
    if !names_parts(document) {
        return Ok(None);
    }
    let refuse = |field: &str, message: String| -> ModelError {
        let issues = vec![Issue::new(format!("/{field}"), message)];
        dtta_base::invalid(path, DOCUMENT, issues).into()
    };
    let base = path.parent().unwrap_or(Path::new(""));
    let file = |field: &'static str| -> Result<PathBuf> {
        let Some(reference) = document.get(field).and_then(Value::as_str) else {
            let message = "is an object and the other a path; give a path of both, or of none";
            return Err(refuse(field, message.into()));
        };
        let told = |error: ModelError| refuse(field, dtta_base::told(&error));
        let found = locate(reference, base).map_err(told)?;
        if !found.exists() {
            return Err(refuse(field, format!("there is no `{}`", found.display())));
        }
        config_of(&found).map_err(told)
    };
    let (unet, control) = (file(UNET)?, file(CONTROL)?);
    let kind = |file: &Path| -> Result<Option<String>> {
        let document = dtta_base::read_json(file, &[])?;
        Ok(document.get("kind").and_then(Value::as_str).map(Into::into))
    };
    if kind(&unet)?.as_deref() == Some(KIND) {
        let message = format!("`{}` is a ControlNet and no U-Net", unet.display());
        return Err(refuse(UNET, message));
    }
    let (mut of_unet, names) = read(&unet)?;
    let fields = of_unet
        .as_object_mut()
        .filter(|fields| fields["kind"] == UNET);
    let Some(fields) = fields else {
        let message = format!(
            "`{}` describes no U-Net, expected a `UNet2DConditionModel` or a file of kind `unet`",
            unet.display()
        );
        return Err(refuse(UNET, message));
    };
    fields.shift_remove("kind");
    let of_control = match dtta_base::read_json(&control, &[])? {
        Value::Object(fields) => published::control(fields),
        _ => None,
    };
    let Some(of_control) = of_control else {
        let message = format!(
            "`{}` describes no ControlNet, expected a `ControlNetModel`",
            control.display()
        );
        return Err(refuse(CONTROL, message));
    };
    let mut of_control =
        of_control.map_err(|issues| dtta_base::invalid(&control, DOCUMENT, issues))?;
    // What its own configuration does not say: how large what it sees is, and how many tokens there are.
    let encoder = &mut of_control["encoder"];
    for axis in 1..3 {
        encoder["image"][axis] = fields["image"][axis].clone();
    }
    if let (Some(tokens), Some(length)) = (
        encoder.get_mut("tokens"),
        fields.get("tokens").and_then(|tokens| tokens.get("length")),
    ) {
        tokens["length"] = length.clone();
    }
    document.insert(UNET.into(), of_unet);
    document.insert(CONTROL.into(), of_control);
    Ok(Some(joined(names)))
}

/// Where the parameters of the whole are, given where those of the U-Net are.
fn joined(unet: Names) -> Names {
    let control = published::control_names();
    let unused = [(UNET, unet.unused), (CONTROL, control.unused)];
    let (of_unet, of_control) = (unet.source, control.source);
    Names {
        source: Box::new(move |name| {
            let (part, rest) = name.split_once('.').unwrap_or((name, ""));
            match part {
                UNET => of_unet(rest).within(UNET),
                CONTROL => of_control(rest).within(CONTROL),
                _ => Source::Named(name.into()),
            }
        }),
        unused: Box::new(move |name| {
            unused.iter().any(|(part, unused)| {
                let rest = name
                    .strip_prefix(part)
                    .and_then(|rest| rest.strip_prefix('.'));
                rest.is_some_and(unused)
            })
        }),
    }
}
