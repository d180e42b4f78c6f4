//! Parameters from a checkpoint's tensors. What is missing, left over, misshapen or of another type is told at once, before any number is
//! read, by the names that the checkpoint has.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dtta_tensor::{Device, Tensor};
use rayon::prelude::*;

use super::{Checkpoint, Stored};
use crate::error::{Called, Mismatches, ModelError, Result};
use crate::published::{Names, Source, View};
use crate::weights::{Init, ParameterSpec, Part, Weights, expect_room};

/// PyTorch's BatchNorm counts the batches it saw. Nothing here reads the count, so a file may have it.
const COUNTER: &str = ".num_batches_tracked";

/// Numbers that are read before they are given to the device: where that has its own memory, this is all that stands beside it.
const BATCH: usize = 64 << 20;

impl Weights {
    /// Reads a checkpoint that holds exactly the parameters of `specs`, as f32, f16, bf16 or f64: a safetensors file, what `torch.save`
    /// writes of a dictionary of tensors, or the index of several of these. No code of a pickle is run. Of a file that holds several
    /// dictionaries of tensors, the one that is read is the first there is of `ema`, `model_ema`, `state_dict_ema`, `params_ema`,
    /// `ema_state_dict`, `state_dict`, `model`, `model_state_dict` and `params`, which a warning tells; `module.` or `_orig_mod.` before
    /// every name is left out. The counters of PyTorch's BatchNorm (`….num_batches_tracked`) may be there beside `….running_mean` and
    /// are dropped.
    ///
    /// Numbers go from the file to where they stay, so that this takes hardly more memory than the weights.
    ///
    /// # Errors
    /// [`ModelError::File`] for a file that cannot be read, or is cut while it is; [`ModelError::OtherFormat`],
    /// [`ModelError::Safetensors`], [`ModelError::Checkpoint`] or [`ModelError::Index`] for one that is no checkpoint, or no whole one;
    /// [`ModelError::Mismatch`] listing every tensor that is missing, not declared, of another shape or of another type;
    /// [`ModelError::NotFinite`] for one that holds NaN or an infinity.
    pub fn load(path: &Path, specs: &Arc<[ParameterSpec]>, device: &Device) -> Result<Self> {
        Self::load_named(path, specs, &Names::same(), device)
    }

    /// As [`load`](Self::load), from a file whose tensors have the names that another library gives them.
    pub(crate) fn load_named(
        path: &Path,
        specs: &Arc<[ParameterSpec]>,
        names: &Names,
        device: &Device,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let wanted = Wanted::new(specs, names, &checkpoint);
        let mismatches = wanted.fit(&checkpoint).mismatches;
        if !mismatches.is_empty() {
            return Err(ModelError::Mismatch {
                path: path.into(),
                mismatches: Box::new(mismatches),
            });
        }
        expect_room(specs)?;
        let computed = Self::computed(&wanted, device)?;
        let mut tensors = Vec::with_capacity(specs.len());
        let mut rest = &wanted.parameters[..];
        while !rest.is_empty() {
            let mut numbers = 0;
            let batch = rest.iter().take_while(|parameter| {
                let fits = numbers == 0 || numbers + parameter.spec.elements() <= BATCH;
                numbers += parameter.spec.elements();
                fits
            });
            let (batch, others) = rest.split_at(batch.count());
            let read: Vec<_> = batch
                .par_iter()
                .map(|parameter| parameter.read(&checkpoint))
                .collect::<Result<_>>()?;
            for (parameter, values) in batch.iter().zip(read) {
                tensors.push(match values {
                    Some(values) => Tensor::from_values(values, &parameter.spec.shape, device)?,
                    None => computed[parameter.spec.name.as_str()].clone(),
                });
            }
            rest = others;
        }
        Ok(Self {
            specs: wanted.specs(checkpoint.tensors()),
            tensors,
        })
    }

    /// Values drawn at random for a model whose checkpoint is not there, under the names that it would have.
    ///
    /// # Errors
    /// As [`initialise`](Self::initialise).
    pub(crate) fn drawn_named(
        specs: &Arc<[ParameterSpec]>,
        names: &Names,
        device: &Device,
    ) -> Result<Self> {
        let named = Wanted::among(specs, names, &BTreeMap::new()).specs(&BTreeMap::new());
        Self::initialise(&named, 0, device)
    }

    /// The parameters that no tensor makes, as they start. Their values do not depend on a seed: nothing that is drawn is computed.
    fn computed(wanted: &Wanted<'_>, device: &Device) -> Result<BTreeMap<String, Tensor>> {
        let computed = wanted
            .parameters
            .iter()
            .filter(|parameter| parameter.parts.is_empty());
        let specs: Arc<[ParameterSpec]> =
            computed.map(|parameter| parameter.spec.clone()).collect();
        let weights = Self::initialise(&specs, 0, device)?;
        let named = weights
            .iter()
            .map(|(_, spec, tensor)| (spec.name.clone(), tensor.clone()));
        Ok(named.collect())
    }
}

/// What a model's parameters are to be made of.
pub(crate) struct Wanted<'a> {
    parameters: Vec<Parameter<'a>>,
    names: &'a Names,
}

struct Parameter<'a> {
    spec: &'a ParameterSpec,
    /// The tensors that make it, one below the other; none where it is computed.
    parts: Vec<String>,
    /// Which numbers of the one tensor that makes it are meant, if not all.
    view: Option<View>,
    /// Tensors that must equal what it is made of.
    copies: Vec<String>,
}

/// The tensors that make a parameter, and those that must equal the result.
fn resolved(source: Source, found: &BTreeMap<String, Stored>) -> [Vec<String>; 2] {
    match source {
        Source::Named(name) | Source::Viewed(name, _) => [vec![name], Vec::new()],
        Source::Stacked(names) => [names, Vec::new()],
        Source::AnyOf(names) => {
            let there = names.iter().find(|name| found.contains_key(*name));
            let one = there.or(names.first()).into_iter().cloned().collect();
            [one, Vec::new()]
        }
        Source::Either(first, second) => {
            let second = resolved(*second, found);
            match second.iter().flatten().all(|name| found.contains_key(name)) {
                true => second,
                false => resolved(*first, found),
            }
        }
        Source::Copies(mut names) => {
            let copies = names.split_off(names.len().min(1));
            [names, copies]
        }
        Source::Computed => [Vec::new(), Vec::new()],
    }
}

/// How a checkpoint fits a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fit {
    /// Every difference that forbids loading it.
    pub mismatches: Mismatches,
    /// Tensors that are no weights of the model and may be left over.
    pub unused: Vec<String>,
}

impl<'a> Wanted<'a> {
    /// From the tensors of `checkpoint`, which may say which of several names is meant.
    pub fn new(specs: &'a [ParameterSpec], names: &'a Names, checkpoint: &Checkpoint) -> Self {
        Self::among(specs, names, checkpoint.tensors())
    }

    fn among(
        specs: &'a [ParameterSpec],
        names: &'a Names,
        found: &BTreeMap<String, Stored>,
    ) -> Self {
        let parameter = |spec: &'a ParameterSpec| {
            let source = (names.source)(&spec.name);
            let view = match &source {
                Source::Viewed(_, view) => Some(*view),
                _ => None,
            };
            let [parts, copies] = resolved(source, found);
            Parameter {
                spec,
                parts,
                view,
                copies,
            }
        };
        Self {
            parameters: specs.iter().map(parameter).collect(),
            names,
        }
    }

    /// The parameters, with the tensors that make them.
    fn specs(&self, found: &BTreeMap<String, Stored>) -> Arc<[ParameterSpec]> {
        let each = self.parameters.iter().map(|parameter| {
            let all = parameter.spec.shape.first().copied().unwrap_or(1);
            // Of those that are not there, all have as many.
            let alike = all / parameter.parts.len().max(1);
            let part = |name: &String, otherwise| {
                let stored = found.get(name).and_then(|stored| stored.shape.first());
                Part {
                    name: name.clone(),
                    rows: stored.copied().unwrap_or(otherwise),
                }
            };
            let parts = parameter.parts.iter().map(|name| part(name, alike));
            let copies = parameter.copies.iter().map(|name| part(name, all));
            // Other numbers of a tensor than all are no linear layer of the checkpoint's.
            let whole = parameter.view.is_none();
            ParameterSpec {
                parts: parts.chain(copies).filter(|_| whole).collect(),
                ..parameter.spec.clone()
            }
        });
        each.collect()
    }

    /// Compares what is wanted with what there is.
    pub fn fit(&self, checkpoint: &Checkpoint) -> Fit {
        let found = checkpoint.tensors();
        let mut fit = Fit::default();
        let mismatches = &mut fit.mismatches;
        let mut users: BTreeMap<&str, Vec<(&str, Option<View>)>> = BTreeMap::new();
        for parameter in &self.parameters {
            for part in parameter.parts.iter().chain(&parameter.copies) {
                let user = (parameter.spec.name.as_str(), parameter.view);
                users.entry(part).or_default().push(user);
            }
            parameter.compare(found, mismatches);
        }
        // A translation cannot mean that what is drawn at random is what the library computes.
        let drawn =
            |spec: &ParameterSpec| !matches!(spec.init, Init::Zeros | Init::Ones | Init::Fixed(_));
        let unmade = self
            .parameters
            .iter()
            .filter(|parameter| parameter.parts.is_empty() && drawn(parameter.spec));
        mismatches
            .missing
            .extend(unmade.map(|parameter| parameter.called(&parameter.spec.name)));
        // Several may be made of other numbers of one.
        let shared = users.iter().filter(|(_, users)| {
            let mut views: Vec<_> = users.iter().map(|(_, view)| view).collect();
            views.sort_unstable();
            let (all, whole) = (views.len(), views.contains(&&None));
            views.dedup();
            all > 1 && (whole || views.len() < all)
        });
        mismatches.shared = shared
            .map(|(part, users)| {
                (
                    (*part).to_owned(),
                    users.iter().map(|(user, _)| (*user).to_owned()).collect(),
                )
            })
            .collect();
        let counts_batches = |name: &str| {
            let layer = name.strip_suffix(COUNTER);
            layer.is_some_and(|layer| users.contains_key(format!("{layer}.running_mean").as_str()))
        };
        for name in found
            .keys()
            .filter(|name| !users.contains_key(name.as_str()))
        {
            match counts_batches(name) || (self.names.unused)(name) {
                true => fit.unused.push(name.clone()),
                false => mismatches.extra.push(name.clone()),
            }
        }
        fit
    }
}

impl Parameter<'_> {
    /// A tensor of the file, with the parameter's name where that is another.
    fn called(&self, tensor: &str) -> Called {
        Called {
            tensor: tensor.into(),
            parameter: (tensor != self.spec.name).then(|| self.spec.name.clone()),
        }
    }

    fn compare(&self, found: &BTreeMap<String, Stored>, mismatches: &mut Mismatches) {
        let shape = &self.spec.shape;
        for copy in &self.copies {
            match found.get(copy) {
                None => mismatches.missing.push(self.called(copy)),
                Some(stored) if stored.shape != *shape => {
                    let difference = (self.called(copy), shape.clone(), stored.shape.clone());
                    mismatches.misshapen.push(difference);
                }
                Some(stored) if !stored.dtype.is_float() => {
                    let dtype = stored.dtype.name().into();
                    mismatches.mistyped.push((self.called(copy), dtype));
                }
                Some(_) => {}
            }
        }
        let mut rows = Some(0);
        for part in &self.parts {
            let Some(stored) = found.get(part).map(|stored| stored.viewed(self.view)) else {
                mismatches.missing.push(self.called(part));
                rows = None;
                continue;
            };
            if !stored.dtype.is_float() {
                mismatches
                    .mistyped
                    .push((self.called(part), stored.dtype.name().into()));
            }
            let fits = match self.parts.len() {
                // A number alone has no axes there.
                1 if stored.shape.is_empty() => *shape == [1],
                1 => stored.shape == *shape,
                _ => {
                    stored.shape.len() == shape.len()
                        && stored.shape.get(1..) == shape.get(1..)
                        && !shape.is_empty()
                }
            };
            if !fits {
                mismatches
                    .misshapen
                    .push((self.called(part), shape.clone(), stored.shape.clone()));
                rows = None;
            }
            rows = rows.map(|rows| rows + stored.shape.first().copied().unwrap_or(0));
        }
        // Each part fits the others, but they are too many rows or too few.
        if let (2.., Some(rows)) = (self.parts.len(), rows)
            && rows != shape[0]
        {
            let together = self.called(&self.parts.join("` + `"));
            let stacked = [&[rows], &shape[1..]].concat();
            mismatches
                .misshapen
                .push((together, shape.clone(), stacked));
        }
    }

    /// Its numbers; none for one that no tensor makes.
    fn read(&self, checkpoint: &Checkpoint) -> Result<Option<Vec<f32>>> {
        if self.parts.is_empty() {
            return Ok(None);
        }
        let mut values = vec![0.0; self.spec.elements()];
        let mut rest = &mut values[..];
        for part in &self.parts {
            let stored = checkpoint.tensors()[part].viewed(self.view);
            let count = stored.shape.iter().product();
            let (into, others) = rest.split_at_mut(count);
            if !checkpoint.stored_floats(&stored, into)? {
                return Err(ModelError::NotFinite {
                    path: checkpoint.path.clone(),
                    name: part.clone(),
                });
            }
            rest = others;
        }
        let mut other = vec![
            0.0;
            if self.copies.is_empty() {
                0
            } else {
                values.len()
            }
        ];
        for copy in &self.copies {
            // A number that is none equals nothing.
            if !checkpoint.floats(copy, &mut other)? || other != values {
                return Err(ModelError::Copies {
                    path: checkpoint.path.clone(),
                    names: [self.parts[0].clone(), copy.clone()],
                });
            }
        }
        Ok(Some(values))
    }
}
