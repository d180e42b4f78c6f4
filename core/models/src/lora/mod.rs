//! Factors of low rank beside a model's matrices: W + s B A with A of `[r, inputs]` and B of `[outputs, r]` (Hu et al., LoRA: Low-Rank
//! Adaptation of Large Language Models, ICLR 2022, equation 3), s = α / r, or α / √r where `use_rslora` says so (Kalajdzievski 2023).
//!
//! A and B are parameters of the model like any other, under the names that peft gives them, so that they are selected, moved, reset and
//! kept as those are. The model computes with the sum, which is made of W, A and B anew wherever it is asked, on their tape: no
//! architecture knows of it, and a matrix that one keeps fused, such as that of queries, keys and values, has factors beside the rows of
//! each layer that its checkpoint has.

mod config;
mod files;
mod targets;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use dtta_base::{Issue, keyed_rng};
use dtta_tensor::{Device, Precision, Tensor};
use rand_chacha::rand_core::Rng;

use self::config::Settings;
pub use self::config::{LoraConfig, LoraTargets};
use self::targets::Module;
use crate::backbone::Backbone;
use crate::behind::{Behind, Between};
use crate::denoiser::Denoiser;
use crate::error::{ModelError, Result};
use crate::weights::{Declaration, Group, Init, ParameterId, ParameterSpec, Weights};

/// What the factors are called behind the module's name.
const A: &str = "lora_A.weight";
const B: &str = "lora_B.weight";

/// Factors with their values, and the matrices that they are beside.
#[derive(Debug, Clone)]
pub struct Lora {
    settings: Settings,
    layers: Vec<Layer>,
    /// A and B of each layer, one after the other.
    values: Weights,
}

/// A matrix, or some rows of one, with factors beside it.
#[derive(Debug, Clone)]
struct Layer {
    base: ParameterId,
    rows: Range<usize>,
}

impl Lora {
    /// Factors that change nothing yet: A uniform in ± 1/√inputs, B 0, as peft starts them. A is a function of the seed and of its
    /// module's name.
    ///
    /// # Errors
    /// [`ModelError::Config`] for settings that are missing and targets that are no linear layer of the model, by pointer within `config`;
    /// whatever the device refuses.
    pub fn new(config: &LoraConfig, weights: &Weights, seed: u64) -> Result<Self> {
        let refuse = |issues| ModelError::Config { issues };
        let settings = config.settings().map_err(refuse)?;
        let chosen = targets::chosen(&settings.targets, weights).map_err(refuse)?;
        let mut values = Weights::initialise(&Declaration::new().finish(), 0, &Device::cpu())?;
        for module in &chosen {
            let mut declaration = Declaration::new();
            declare(&mut declaration, module, settings.rank);
            let key: [&[u8]; 2] = [&seed.to_le_bytes(), module.name.as_bytes()];
            let own = keyed_rng("lora", &key).next_u64();
            let device = weights.get(module.base).device();
            values.append(Weights::initialise(&declaration.finish(), own, device)?);
        }
        Ok(Self {
            settings,
            layers: chosen.into_iter().map(Module::layer).collect(),
            values,
        })
    }

    /// r, α and the modules.
    pub fn config(&self) -> LoraConfig {
        self.settings.config()
    }

    /// Puts the factors among the weights of a model, which computes with them from now on.
    ///
    /// # Errors
    /// [`ModelError::Config`] if there are factors already.
    pub fn on_backbone(
        self,
        (backbone, mut weights): (Box<dyn Backbone>, Weights),
    ) -> Result<(Box<dyn Backbone>, Weights)> {
        let places = self.join(&mut weights)?;
        let lent = Behind::new(backbone, Lent::of(places, &weights));
        Ok((Box::new(lent), weights))
    }

    /// The same for a denoiser.
    ///
    /// # Errors
    /// As [`on_backbone`](Self::on_backbone).
    pub fn on_denoiser(
        self,
        (denoiser, mut weights): (Box<dyn Denoiser>, Weights),
    ) -> Result<(Box<dyn Denoiser>, Weights)> {
        let places = self.join(&mut weights)?;
        let lent = Behind::new(denoiser, Lent::of(places, &weights));
        Ok((Box::new(lent), weights))
    }

    /// Adds s B A to the matrices for good: the model is then one without factors (peft's `merge_and_unload`). What has less precision than
    /// `f32` is rounded once.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn merge(&self, weights: &mut Weights) -> Result<()> {
        let kept = weights.len();
        let mut joined = weights.clone();
        let places = self.clone().join(&mut joined)?;
        for base in &places.bases {
            let precision = weights.get(base.id).device().precision();
            let wide = joined.get(base.id).to_precision(Precision::F32)?;
            joined.set(base.id, wide)?;
            let merged = base.sum(&joined, places.scale)?.to_precision(precision)?;
            weights.set(base.id, merged)?;
        }
        debug_assert_eq!(weights.len(), kept);
        Ok(())
    }

    /// Puts the values behind those of the model.
    fn join(self, weights: &mut Weights) -> Result<Places> {
        if weights.specs().iter().any(|spec| spec.group == Group::Lora) {
            let message = "the model has factors of low rank already";
            return Err(ModelError::Config {
                issues: vec![Issue::new("", message)],
            });
        }
        let scale = self.settings.scale();
        let ids = weights.append(self.values);
        let mut bases: Vec<Base> = Vec::new();
        for (layer, factors) in self.layers.into_iter().zip(ids.chunks_exact(2)) {
            let beside = Beside {
                rows: layer.rows,
                a: factors[0],
                b: factors[1],
            };
            match bases.iter_mut().find(|base| base.id == layer.base) {
                Some(base) => base.beside.push(beside),
                None => bases.push(Base {
                    id: layer.base,
                    beside: vec![beside],
                }),
            }
        }
        for base in &mut bases {
            base.beside.sort_by_key(|beside| beside.rows.start);
        }
        Ok(Places { bases, scale })
    }
}

fn declare(declaration: &mut Declaration, module: &Module, rank: usize) {
    declaration.within(&module.name, |d| {
        let (outputs, inputs) = (module.rows.len(), module.inputs);
        d.declare(A, &[rank, inputs], Group::Lora, Init::UniformFanIn(inputs));
        d.declare(B, &[outputs, rank], Group::Lora, Init::Zeros);
    });
}

/// Where weights hold the factors.
#[derive(Debug, Clone)]
struct Places {
    bases: Vec<Base>,
    scale: f64,
}

/// A matrix with the factors beside it, in the order of their rows, of which no two share one.
#[derive(Debug, Clone)]
struct Base {
    id: ParameterId,
    beside: Vec<Beside>,
}

#[derive(Debug, Clone)]
struct Beside {
    rows: Range<usize>,
    a: ParameterId,
    b: ParameterId,
}

impl Places {
    /// The same weights with the sums in the place of the matrices, on the tape of what they are made of.
    fn summed(&self, weights: &Weights) -> Result<Weights> {
        let mut summed = weights.clone();
        for base in &self.bases {
            summed.set(base.id, base.sum(weights, self.scale)?)?;
        }
        Ok(summed)
    }
}

impl Base {
    /// W + s B A.
    fn sum(&self, weights: &Weights, scale: f64) -> Result<Tensor> {
        let matrix = weights.get(self.id);
        let all = matrix.shape()[0];
        let (mut blocks, mut next) = (Vec::new(), 0);
        let rows = |start: usize, end: usize| match end - start == all {
            true => Ok(matrix.clone()),
            false => matrix.narrow(0, start, end - start),
        };
        for Beside { rows: own, a, b } in &self.beside {
            if next < own.start {
                blocks.push(rows(next, own.start)?);
            }
            let product = weights.get(*b).matmul(weights.get(*a))?;
            let added = product.affine(scale, 0.0)?;
            let added = added.to_precision(matrix.device().precision())?;
            blocks.push(rows(own.start, own.end)?.add(&added)?);
            next = own.end;
        }
        if next < all {
            blocks.push(rows(next, all)?);
        }
        let blocks: Vec<&Tensor> = blocks.iter().collect();
        match blocks[..] {
            [only] => Ok(only.clone()),
            _ => Ok(Tensor::cat(&blocks, 0)?),
        }
    }
}

/// What lends a model the sums of its matrices and the factors beside them. The model's own parameters come first, so they keep their ids.
struct Lent {
    places: Places,
    parameters: Arc<[ParameterSpec]>,
}

impl Lent {
    /// Given weights that the factors joined.
    fn of(places: Places, weights: &Weights) -> Self {
        Self {
            places,
            parameters: weights.specs().clone(),
        }
    }
}

impl Between for Lent {
    fn parameters<'a>(&'a self, _own: &'a Arc<[ParameterSpec]>) -> &'a Arc<[ParameterSpec]> {
        &self.parameters
    }

    fn weights<'a>(&self, given: &'a Weights) -> Result<Cow<'a, Weights>> {
        Ok(Cow::Owned(self.places.summed(given)?))
    }
}
