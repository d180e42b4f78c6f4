//! Parameters, held apart from the structure that uses them. A model declares its parameters once; any number of [`Weights`] may
//! then be handed to it, so that each image of a batch can have its own without copying what they share.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use dtta_base::expect_memory;
use dtta_tensor::{Device, Precision, Shape, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};

/// Which parameter of a model: its place in the declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId(usize);

impl ParameterId {
    /// Its place in the declaration, from 0.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What a parameter is for; adaptation selects by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Weights of linear layers and convolutions.
    Weight,
    /// Biases of linear layers and convolutions.
    Bias,
    /// Scale and shift of normalisation layers.
    Norm,
    /// Tables of learned vectors: classes, positions.
    Embedding,
    /// The final classifier layer, weight and bias.
    Head,
    /// Factors of low rank beside a matrix ([`Lora`](crate::Lora)).
    Lora,
    /// Never trained: running statistics, fixed position tables.
    Buffer,
}

/// How a parameter starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in ± this bound.
    Uniform(f64),
    /// Uniform in ±√(6 / (fan in + fan out)) (Glorot and Bengio 2010).
    XavierUniform,
    /// Normal with standard deviation √(2 / fan out), for convolutions before a ReLU (He et al. 2015).
    KaimingNormalFanOut,
    /// Uniform in ±1/√n, with `n` the fan in of the layer: PyTorch's default for linear layers and convolutions. Given
    /// explicitly because a bias does not show it.
    UniformFanIn(usize),
    /// These values.
    Fixed(Arc<[f32]>),
}

/// What a model says about one of its parameters.
#[derive(Debug, Clone)]
pub struct ParameterSpec {
    /// Dotted path, as PyTorch names it.
    pub name: String,
    /// Extents.
    pub shape: Vec<usize>,
    /// What it is for.
    pub group: Group,
    /// How it starts.
    pub init: Init,
    /// The tensors of its checkpoint that make it, where there is one; or else it has its own name alone.
    pub parts: Vec<Part>,
}

/// A tensor of a checkpoint that makes rows of a parameter, those of several one below the other. Where all of them have as many rows as
/// the parameter, they are copies of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What the checkpoint calls it.
    pub name: String,
    /// Its extent along the first axis.
    pub rows: usize,
}

impl ParameterSpec {
    /// Number of elements; as many as there are numbers for one that is larger than any memory.
    pub fn elements(&self) -> usize {
        let extents = self.shape.iter();
        extents.fold(1, |product, extent| product.saturating_mul(*extent))
    }

    /// Values to start with: a function of the seed and the place in the declaration, so adding a parameter at the end leaves
    /// the others as they were.
    fn draw(&self, seed: u64, index: usize) -> Vec<f32> {
        let n = self.elements();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        let (outputs, inputs) = self.fans();
        match &self.init {
            Init::Zeros => vec![0.0; n],
            Init::Ones => vec![1.0; n],
            Init::Normal(deviation) => normal(&mut rng, n, *deviation),
            Init::KaimingNormalFanOut => normal(&mut rng, n, (2.0 / outputs as f64).sqrt()),
            Init::Uniform(bound) => uniform(&mut rng, n, *bound),
            Init::XavierUniform => uniform(&mut rng, n, (6.0 / (inputs + outputs) as f64).sqrt()),
            Init::UniformFanIn(inputs) => uniform(&mut rng, n, 1.0 / (*inputs as f64).sqrt()),
            Init::Fixed(values) => values.to_vec(),
        }
    }

    /// Fan out and fan in of `[out, in, window…]`.
    fn fans(&self) -> (usize, usize) {
        let window: usize = self.shape.iter().skip(2).product();
        let extent = |axis: usize| self.shape.get(axis).copied().unwrap_or(1);
        (extent(0) * window, extent(1) * window)
    }
}

fn normal(rng: &mut ChaCha8Rng, n: usize, deviation: f64) -> Vec<f32> {
    (0..n)
        .map(|_| {
            let z: f64 = StandardNormal.sample(rng);
            (z * deviation) as f32
        })
        .collect()
}

fn uniform(rng: &mut ChaCha8Rng, n: usize, bound: f64) -> Vec<f32> {
    let unit = |rng: &mut ChaCha8Rng| (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    (0..n)
        .map(|_| ((2.0 * unit(rng) - 1.0) * bound) as f32)
        .collect()
}

/// Collects what a model declares, while it is constructed.
#[derive(Debug, Default)]
pub struct Declaration {
    specs: Vec<ParameterSpec>,
    prefix: String,
}

impl Declaration {
    /// Nothing declared yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a parameter; its name is `name` behind the prefixes around this call.
    pub fn declare(
        &mut self,
        name: &str,
        shape: &[usize],
        group: Group,
        init: Init,
    ) -> ParameterId {
        self.specs.push(ParameterSpec {
            name: format!("{}{name}", self.prefix),
            shape: shape.to_vec(),
            group,
            init,
            parts: Vec::new(),
        });
        ParameterId(self.specs.len() - 1)
    }

    /// Declares whatever `declare` does under `prefix` and a dot.
    pub fn within<T>(
        &mut self,
        prefix: impl fmt::Display,
        declare: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let outer = self.prefix.len();
        self.prefix.push_str(&format!("{prefix}."));
        let declared = declare(self);
        self.prefix.truncate(outer);
        declared
    }

    /// The parameters, in the order of their ids.
    pub fn finish(self) -> Arc<[ParameterSpec]> {
        self.specs.into()
    }
}

/// Number of elements in all parameters together.
fn elements(specs: &[ParameterSpec]) -> usize {
    let each = specs.iter().map(ParameterSpec::elements);
    each.fold(0, usize::saturating_add)
}

/// Refuses parameters that memory does not hold, before it is asked for.
pub(crate) fn expect_room(specs: &[ParameterSpec]) -> Result<()> {
    let bytes = [elements(specs), size_of::<f32>()];
    Ok(expect_memory("the model's weights", bytes)?)
}

/// A value for every parameter of a model. A clone shares the values until [`set`](Self::set) replaces one.
#[derive(Clone)]
pub struct Weights {
    pub(crate) specs: Arc<[ParameterSpec]>,
    pub(crate) tensors: Vec<Tensor>,
}

impl Weights {
    /// Starting values, the same for the same seed on every device.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if one is larger than a tensor can be, or the device refuses them; [`ModelError::File`] if memory does not
    /// hold all of them.
    pub fn initialise(specs: &Arc<[ParameterSpec]>, seed: u64, device: &Device) -> Result<Self> {
        expect_room(specs)?;
        let tensors = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| {
                // Before memory is asked for it.
                Shape::new("initialise", &spec.shape)?;
                Ok(Tensor::from_floats(
                    &spec.draw(seed, index),
                    &spec.shape,
                    device,
                )?)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            specs: specs.clone(),
            tensors,
        })
    }

    /// The value of a parameter that the model declared.
    pub fn get(&self, id: ParameterId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// What the model says about a parameter.
    pub fn spec(&self, id: ParameterId) -> &ParameterSpec {
        &self.specs[id.0]
    }

    /// What the model says about all of them.
    pub fn specs(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.specs
            .iter()
            .position(|spec| spec.name == name)
            .map(ParameterId)
    }

    /// Every parameter with its value, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &ParameterSpec, &Tensor)> {
        self.ids()
            .zip(self.specs.iter())
            .zip(&self.tensors)
            .map(|((id, spec), tensor)| (id, spec, tensor))
    }

    /// The parameters that `choose` picks.
    pub fn select(&self, mut choose: impl FnMut(&ParameterSpec) -> bool) -> Vec<ParameterId> {
        self.ids().filter(|&id| choose(self.spec(id))).collect()
    }

    /// Replaces a value.
    ///
    /// # Errors
    /// [`ModelError::ParameterShape`] for a tensor of another shape.
    pub fn set(&mut self, id: ParameterId, value: Tensor) -> Result<()> {
        let spec = &self.specs[id.0];
        if *value.shape() != *spec.shape {
            return Err(ModelError::ParameterShape {
                name: spec.name.clone(),
                expected: spec.shape.clone(),
                found: value.shape().to_vec(),
            });
        }
        self.tensors[id.0] = value;
        Ok(())
    }

    /// Puts other values behind these, and gives their places. Names should differ.
    pub fn append(&mut self, other: Self) -> Vec<ParameterId> {
        let start = self.specs.len();
        self.specs = self
            .specs
            .iter()
            .chain(other.specs.iter())
            .cloned()
            .collect();
        self.tensors.extend(other.tensors);
        (start..self.specs.len()).map(ParameterId).collect()
    }

    /// The same values, with those of `ids` as new leaves of the tape and all others untracked.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device cannot record.
    pub fn to_leaves(&self, ids: &[ParameterId]) -> Result<Self> {
        let mut weights = self.detach();
        for &id in ids {
            weights.tensors[id.0] = weights.tensors[id.0].to_leaf()?;
        }
        Ok(weights)
    }

    /// The same values, untracked.
    pub fn detach(&self) -> Self {
        Self {
            specs: self.specs.clone(),
            tensors: self.tensors.iter().map(Tensor::detach).collect(),
        }
    }

    /// The same values on `device`, untracked. Shares those that are there already.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the transfer fails.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let tensors = self
            .tensors
            .iter()
            .map(|tensor| tensor.to_device(device))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            specs: self.specs.clone(),
            tensors,
        })
    }

    /// What they are rounded to, and so what a model computes in with them.
    pub fn precision(&self) -> Precision {
        let first = self.tensors.first();
        first.map_or(Precision::F32, |tensor| tensor.device().precision())
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// Whether the model has no parameters.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// Number of elements in all parameters together.
    pub fn elements(&self) -> usize {
        elements(&self.specs)
    }

    /// Every id, ascending.
    pub fn ids(&self) -> impl Iterator<Item = ParameterId> + use<> {
        let all: Range<usize> = 0..self.specs.len();
        all.map(ParameterId)
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Weights({} parameters, {} elements)",
            self.len(),
            self.elements()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> Arc<[ParameterSpec]> {
        let mut declaration = Declaration::new();
        declaration.declare("scale", &[3], Group::Norm, Init::Ones);
        declaration.within("blocks", |d| {
            d.within(0, |d| {
                d.declare("weight", &[4, 3], Group::Weight, Init::XavierUniform)
            });
            d.within(1, |d| {
                d.declare("weight", &[1000], Group::Embedding, Init::Normal(0.02))
            });
        });
        declaration.declare("fc.bias", &[4], Group::Head, Init::UniformFanIn(16));
        declaration.finish()
    }

    #[test]
    fn nests_prefixes() {
        let names: Vec<_> = declared().iter().map(|spec| spec.name.clone()).collect();
        assert_eq!(
            names,
            ["scale", "blocks.0.weight", "blocks.1.weight", "fc.bias"]
        );
    }

    #[test]
    fn starts_from_the_seed_alone_and_within_the_bounds_of_each_rule() {
        let specs = declared();
        let make = |seed| Weights::initialise(&specs, seed, &Device::cpu()).unwrap();
        let values = |weights: &Weights, name: &str| {
            weights
                .get(weights.find(name).unwrap())
                .to_floats()
                .unwrap()
        };
        let (first, again, other) = (make(1), make(1), make(2));
        for spec in specs.iter() {
            assert_eq!(values(&first, &spec.name), values(&again, &spec.name));
        }
        assert_ne!(
            values(&first, "blocks.0.weight"),
            values(&other, "blocks.0.weight")
        );
        assert_eq!(values(&first, "scale"), [1.0; 3]);
        let bound = (6.0f32 / 7.0).sqrt();
        assert!(
            values(&first, "blocks.0.weight")
                .iter()
                .all(|v| v.abs() <= bound)
        );
        assert!(values(&first, "fc.bias").iter().all(|v| v.abs() <= 0.25));
        let table = values(&first, "blocks.1.weight");
        let deviation = (table.iter().map(|v| v * v).sum::<f32>() / 1000.0).sqrt();
        assert!((deviation - 0.02).abs() < 0.002, "{deviation}");
    }

    #[test]
    fn a_clone_keeps_its_values_when_the_original_changes() {
        let mut weights = Weights::initialise(&declared(), 0, &Device::cpu()).unwrap();
        let id = weights.find("scale").unwrap();
        let clone = weights.clone();
        weights
            .set(id, Tensor::full(&[3], 5.0, &Device::cpu()).unwrap())
            .unwrap();
        assert_eq!(clone.get(id).to_floats().unwrap(), [1.0; 3]);
        assert_eq!(weights.get(id).to_floats().unwrap(), [5.0; 3]);
    }

    #[test]
    fn a_parameter_larger_than_any_memory_is_refused_before_memory_is_asked_for() {
        let mut declaration = Declaration::new();
        declaration.declare("huge", &[1 << 32, 1 << 32, 2], Group::Weight, Init::Zeros);
        let specs = declaration.finish();
        assert_eq!(specs[0].elements(), usize::MAX);
        assert!(Weights::initialise(&specs, 0, &Device::cpu()).is_err());
    }

    #[test]
    fn refuses_a_value_of_another_shape_by_name() {
        let mut weights = Weights::initialise(&declared(), 0, &Device::cpu()).unwrap();
        let id = weights.find("blocks.0.weight").unwrap();
        let error = weights
            .set(id, Tensor::full(&[3, 4], 0.0, &Device::cpu()).unwrap())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`blocks.0.weight` has shape [4, 3]"),
            "{error}"
        );
    }

    #[test]
    fn tracks_only_the_chosen() {
        let weights = Weights::initialise(&declared(), 0, &Device::cpu()).unwrap();
        let chosen = weights.select(|spec| spec.group == Group::Norm);
        let leaves = weights.to_leaves(&chosen).unwrap();
        let tracked: Vec<_> = leaves
            .iter()
            .filter(|(_, _, tensor)| tensor.is_tracked())
            .map(|(id, ..)| id)
            .collect();
        assert_eq!(tracked, chosen);
        let others = leaves
            .to_leaves(&weights.select(|spec| spec.group == Group::Head))
            .unwrap();
        assert!(
            !others.get(chosen[0]).is_tracked(),
            "an earlier choice is forgotten"
        );
        assert!(
            leaves
                .detach()
                .iter()
                .all(|(_, _, tensor)| !tensor.is_tracked())
        );
    }
}
