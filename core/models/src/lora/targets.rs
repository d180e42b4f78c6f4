//! Which layers a choice of names means, as peft reads it.

use std::collections::BTreeSet;
use std::ops::Range;

use dtta_base::{Issue, listed};
use fancy_regex::Regex;

use super::{Layer, LoraTargets};
use crate::weights::{Group, ParameterId, ParameterSpec, Weights};

/// What a module's matrix is called behind the module's name.
const WEIGHT: &str = ".weight";
/// What the parts of a U-Net with a ControlNet are called, with the dot behind them.
pub(super) const CONTROLLED: [&str; 2] = ["unet.", "controlnet."];
/// The most names that a message lists.
const LISTED: usize = 12;

/// A linear layer by the name that a checkpoint has for it.
#[derive(Debug, Clone)]
pub(super) struct Module {
    pub name: String,
    pub base: ParameterId,
    pub rows: Range<usize>,
    pub inputs: usize,
}

impl Module {
    pub fn layer(self) -> Layer {
        Layer {
            base: self.base,
            rows: self.rows,
        }
    }
}

/// A module with a weight, and what it is if factors cannot be beside it.
struct Named {
    module: Module,
    other: Option<&'static str>,
}

/// Of a model that is made of others, the one that adapters are made for, before whose names that of the part stands: the U-Net beside a
/// ControlNet. Empty for any other model.
pub(super) fn part(weights: &Weights) -> &'static str {
    let is_within = |part: &str| {
        weights
            .iter()
            .any(|(_, spec, _)| spec.name.starts_with(part))
    };
    match CONTROLLED.into_iter().all(is_within) {
        true => CONTROLLED[0],
        false => "",
    }
}

/// The modules of a model, by the names of its checkpoint.
fn modules(weights: &Weights) -> Vec<Named> {
    let mut found = Vec::new();
    for id in weights.select(|spec| spec.group != Group::Lora) {
        let spec = weights.spec(id);
        let all = spec.shape.first().copied().unwrap_or(1);
        let inputs = spec.shape.get(1).copied().unwrap_or(1);
        let copies = spec.parts.len() > 1 && spec.parts.iter().all(|part| part.rows == all);
        let other = match copies {
            true => Some("is kept several times by its checkpoint, and once here"),
            false => other(spec),
        };
        let mut next = 0;
        let own = [(spec.name.as_str(), all)];
        let parts = spec
            .parts
            .iter()
            .map(|part| (part.name.as_str(), part.rows));
        let parts = parts.chain(own.into_iter().filter(|_| spec.parts.is_empty()));
        for (name, rows) in parts {
            let start = if copies { 0 } else { next };
            next = start + rows;
            if let Some(name) = name.strip_suffix(WEIGHT) {
                let module = Module {
                    name: name.into(),
                    base: id,
                    rows: start..start + rows,
                    inputs,
                };
                found.push(Named { module, other });
            }
        }
    }
    found
}

/// What a parameter's layer is, if it is not linear.
fn other(spec: &ParameterSpec) -> Option<&'static str> {
    match (spec.group, spec.shape.len()) {
        (Group::Weight | Group::Head, 2) => None,
        (Group::Norm, _) => Some("is a normalisation layer"),
        (Group::Embedding, _) => Some("is a table"),
        (Group::Weight | Group::Head, 3 | 4) => Some("is a convolution"),
        _ => Some("is no linear layer"),
    }
}

/// The layers that are meant, in the order of the model's parameters.
///
/// # Errors
/// Names that no module has, and modules that are no linear layers, by pointer within a [`LoraConfig`](super::LoraConfig).
pub(super) fn chosen(targets: &LoraTargets, weights: &Weights) -> Result<Vec<Module>, Vec<Issue>> {
    chosen_within("", targets, weights)
}

/// The same, of the modules whose names begin with `part`, which the choice of names leaves out.
pub(super) fn chosen_within(
    part: &str,
    targets: &LoraTargets,
    weights: &Weights,
) -> Result<Vec<Module>, Vec<Issue>> {
    let all: Vec<Named> = modules(weights)
        .into_iter()
        .filter(|named| named.module.name.starts_with(part))
        .collect();
    let own = |named: &Named| named.module.name[part.len()..].to_owned();
    let mut issues = Vec::new();
    let mut meant = vec![false; all.len()];
    match targets {
        LoraTargets::Names(names) => {
            for (place, name) in names.iter().enumerate() {
                let fits = |module: &Named| is_or_ends_with(&own(module), name);
                let pointer = format!("/targets/{place}");
                choose(&all, &mut meant, fits, name, &pointer, &mut issues);
            }
            if names.is_empty() {
                issues.push(Issue::new("/targets", "is empty, so nothing would adapt"));
            }
        }
        LoraTargets::Pattern(pattern) => match fitting(pattern, all.iter().map(own)) {
            Ok(fitting) => {
                let fits = |module: &Named| fitting.contains(&own(module));
                choose(&all, &mut meant, fits, pattern, "/targets", &mut issues);
            }
            Err(error) => {
                let message =
                    format!("`{pattern}` cannot be used as a regular expression: {error}");
                issues.push(Issue::new("/targets", message));
            }
        },
    }
    if !issues.is_empty() {
        return Err(issues);
    }
    let meant = all.into_iter().zip(meant).filter(|(_, meant)| *meant);
    Ok(meant.map(|(named, _)| named.module).collect())
}

/// Whether a name is another, or ends in it behind a dot.
fn is_or_ends_with(name: &str, end: &str) -> bool {
    name.strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The names that a pattern fits as a whole, as Python's `re.fullmatch` has it.
fn fitting(
    pattern: &str,
    names: impl Iterator<Item = String>,
) -> Result<BTreeSet<String>, Box<fancy_regex::Error>> {
    // By itself first, so that nothing in it closes the parenthesis around it.
    Regex::new(pattern)?;
    let regex = Regex::new(&format!(r"\A(?:{pattern})\z"))?;
    let mut fitting = BTreeSet::new();
    for name in names {
        if regex.is_match(&name)? {
            fitting.insert(name);
        }
    }
    Ok(fitting)
}

fn choose(
    all: &[Named],
    meant: &mut [bool],
    fits: impl Fn(&Named) -> bool,
    what: &str,
    pointer: &str,
    issues: &mut Vec<Issue>,
) {
    let mut none = true;
    for (named, meant) in all.iter().zip(meant) {
        if !fits(named) {
            continue;
        }
        none = false;
        *meant = true;
        if let Some(other) = named.other {
            let message = format!(
                "`{}` {other}; factors are offered beside linear layers",
                named.module.name
            );
            issues.push(Issue::new(pointer, message));
        }
    }
    if none {
        let linear = all.iter().filter(|named| named.other.is_none());
        let ends: BTreeSet<&str> = linear.map(|named| ending(&named.module.name)).collect();
        let ends = listed(ends.iter().map(|end| format!("`{end}`")), LISTED);
        let message = format!("`{what}` matches no module; the linear layers' names end in {ends}");
        issues.push(Issue::new(pointer, message));
    }
}

/// The last part of a name that is no number, with what follows it.
fn ending(name: &str) -> &str {
    let mut start = name.len();
    while let Some(dot) = name[..start].rfind('.') {
        let part = &name[dot + 1..start];
        if !part.chars().all(|c| c.is_ascii_digit()) {
            return &name[dot + 1..];
        }
        start = dot;
    }
    name
}
