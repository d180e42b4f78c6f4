//! What another library computes and differentiates, as a step of the tape: the networks of a program that embeds this one.
//!
//! One step may have any number of inputs, and Burn's steps have a number that is known when they are compiled. So the value passes through
//! one link for each input, and the links share the answer of the other library, which is asked once.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cpu::{CpuOps, Shown};
use crate::device::Device;
use crate::error::{Result, TensorError};
use crate::shape::Shape;
use crate::tensor::{Kind, Tensor, guard};
use burn::backend::Dispatch;

/// What [`Tensor::outside`] does backward: of ∂L/∂y, row by row, ∂L/∂x for each input, likewise; or why there is none, in words. It is asked
/// at the most once.
pub type Vjp = Box<dyn FnOnce(Vec<f32>) -> Result<Vec<Vec<f32>>, String> + Send>;

/// One input's share of a [`Vjp`].
#[derive(Clone)]
pub(crate) struct Link {
    shared: Arc<Mutex<Shared>>,
    input: usize,
    /// Elements of the input.
    elements: usize,
}

/// Where the backend puts what it shows.
#[derive(Clone, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Shown>>>);

impl Slot {
    pub(crate) fn put(&self, shown: Shown) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
    }

    fn take(&self) -> Option<Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

enum Shared {
    Unasked(Vjp),
    Answered(Vec<Option<Vec<f32>>>),
    Failed(String),
}

impl Link {
    /// ∂L/∂x of this input. What fails ends the backward pass, as a panic of the backend would.
    pub(crate) fn gradient(&self, of_value: impl FnOnce() -> Vec<f32>) -> Vec<f32> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Shared::Unasked(_) = &*shared {
            let failed = Shared::Failed("it did not answer".into());
            if let Shared::Unasked(vjp) = std::mem::replace(&mut *shared, failed) {
                *shared = match vjp(of_value()) {
                    Ok(gradients) => Shared::Answered(gradients.into_iter().map(Some).collect()),
                    Err(message) => Shared::Failed(message),
                };
            }
        }
        let fault = match &mut *shared {
            Shared::Answered(gradients) => {
                match gradients.get_mut(self.input).and_then(Option::take) {
                    Some(gradient) if gradient.len() == self.elements => return gradient,
                    Some(gradient) => format!(
                        "the gradient of input {} has {} elements, expected {}",
                        self.input,
                        gradient.len(),
                        self.elements
                    ),
                    None => format!("there is no gradient of input {}", self.input),
                }
            }
            Shared::Failed(message) => message.clone(),
            Shared::Unasked(_) => "it was not asked".into(),
        };
        drop(shared);
        // Not a panic of this program: `guard` around the backward pass tells it.
        std::panic::resume_unwind(Box::new(fault))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.input)
    }
}

/// A tensor's floats, row by row: where they lie, on the CPU's own backend, or else a copy.
pub struct Lent(Place);

enum Place {
    Shown(Shown),
    Copied(Vec<f32>),
}

impl Deref for Lent {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Place::Shown(shown) => shown.values(),
            Place::Copied(values) => values,
        }
    }
}

impl Tensor {
    /// The floats of this tensor for another library to read, in any order and for as long as it wants: what is computed from the tensor
    /// meanwhile is computed elsewhere. Waits for the device and leaves the tape.
    ///
    /// # Errors
    /// [`TensorError::Kind`] unless the elements are floats.
    pub fn lend(&self) -> Result<Lent> {
        self.expect_kind("lend", "x", Kind::Float)?;
        if self.has_cpu_ops() {
            let slot = Slot::default();
            let raw = self.detach().raw;
            guard("lend", || Dispatch::cpu_show(raw, slot.clone()))?;
            if let Some(shown) = slot.take() {
                return Ok(Lent(Place::Shown(shown)));
            }
        }
        Ok(Lent(Place::Copied(self.to_floats()?)))
    }

    /// `values` of `shape`, row by row, which another library computed from `inputs`. Where the tape records some of these, it asks `vjp` on the
    /// way back, once.
    ///
    /// # Errors
    /// [`TensorError::Extents`] for a shape that `values` do not fill; [`TensorError::Device`] for tracked inputs on a device without this
    /// step, which the CPU backend alone has; [`TensorError::Kind`] for an input that holds no floats.
    pub fn outside(
        values: Vec<f32>,
        shape: &[usize],
        inputs: &[&Tensor],
        device: &Device,
        vjp: Vjp,
    ) -> Result<Tensor> {
        let op = "outside";
        let shape = Shape::new(op, shape)?;
        let mut value = Self::from_values(values, &shape, device)?;
        let tracked = || inputs.iter().filter(|input| input.is_tracked());
        if tracked().next().is_none() {
            return Ok(value);
        }
        if let Some(other) = tracked().find(|input| !input.has_cpu_ops()) {
            return Err(TensorError::Device {
                name: other.device().name().into(),
                reason: "gradients of networks of another library meet the tape on `cpu` alone"
                    .into(),
            });
        }
        let shared = Arc::new(Mutex::new(Shared::Unasked(vjp)));
        for (place, input) in inputs.iter().enumerate() {
            input.expect_kind(op, "input", Kind::Float)?;
            if !input.is_tracked() {
                continue;
            }
            let link = Link {
                shared: shared.clone(),
                input: place,
                elements: input.shape().elements(),
            };
            let (y, x) = (value.raw.clone(), input.raw.clone());
            value = guard(op, || value.like(Dispatch::cpu_outside(y, x, link)))?;
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// y = (a b, a + b), elementwise and side by side, differentiated by hand.
    fn product_and_sum(a: &Tensor, b: &Tensor) -> Tensor {
        let (x, y) = (a.to_floats().unwrap(), b.to_floats().unwrap());
        let both = x.iter().zip(&y);
        let values = both
            .clone()
            .map(|(x, y)| x * y)
            .chain(both.map(|(x, y)| x + y));
        let values: Vec<f32> = values.collect();
        let n = x.len();
        let vjp = move |g: Vec<f32>| {
            let of = |other: &[f32]| (0..n).map(|i| g[i] * other[i] + g[n + i]).collect();
            Ok(vec![of(&y), of(&x)])
        };
        Tensor::outside(values, &[2, n], &[a, b], &Device::cpu(), Box::new(vjp)).unwrap()
    }

    fn leaf(values: &[f32]) -> Tensor {
        let tensor = Tensor::from_floats(values, &[values.len()], &Device::cpu());
        tensor.unwrap().to_leaf().unwrap()
    }

    #[test]
    fn gradients_flow_through_what_another_library_computes() {
        let (a, b) = (leaf(&[1.0, 2.0, 3.0]), leaf(&[4.0, 5.0, 6.0]));
        // Beyond leaves: inputs are computed, and the value is computed with. L = Σ (y²) for y of (3a, b).
        let y = product_and_sum(&a.affine(3.0, 0.0).unwrap(), &b);
        let loss = y.mul(&y).unwrap().sum(&[], false).unwrap();
        // y1 = 3ab, y2 = 3a + b: L = Σ 9a²b² + (3a + b)².
        let expected: f32 = [(1.0, 4.0), (2.0, 5.0), (3.0, 6.0f32)]
            .map(|(a, b)| 9.0 * a * a * b * b + (3.0 * a + b) * (3.0 * a + b))
            .iter()
            .sum();
        assert_eq!(loss.item().unwrap(), expected);
        let gradients = loss.backward().unwrap();
        // ∂L/∂a = 18ab² + 6(3a + b), ∂L/∂b = 18a²b + 2(3a + b).
        let of = |x| gradients.of(x).unwrap().to_floats().unwrap();
        assert_eq!(of(&a), [330.0, 966.0, 2034.0]);
        assert_eq!(of(&b), [86.0, 382.0, 1002.0]);
    }

    #[test]
    fn what_is_not_tracked_has_no_gradient_and_records_nothing() {
        let (a, b) = (leaf(&[1.0, 2.0]), leaf(&[3.0, 4.0]));
        let y = product_and_sum(&a.detach(), &b.detach());
        assert!(!y.is_tracked());
        let y = product_and_sum(&a.detach(), &b);
        let gradients = y.sum(&[], false).unwrap().backward().unwrap();
        let of_b = gradients.of(&b).unwrap().to_floats().unwrap();
        assert_eq!(of_b, [2.0, 3.0]);
        assert!(gradients.of(&a).is_none());
    }

    #[test]
    fn what_is_lent_stays_as_it_was_while_the_tensor_is_computed_with() {
        let x = Tensor::from_floats(&[1.0, 2.0, 3.0, 4.0], &[2, 2], &Device::cpu()).unwrap();
        let (lent, turned) = (
            x.lend().unwrap(),
            x.permute(&[1, 0]).unwrap().lend().unwrap(),
        );
        let tracked = x.to_leaf().unwrap().lend().unwrap();
        // The last owner of its storage, but for what is lent.
        let y = x.affine(10.0, 0.0).unwrap();
        drop(x);
        assert_eq!(y.to_floats().unwrap(), [10.0, 20.0, 30.0, 40.0]);
        assert_eq!((&*lent, &*tracked), (&[1.0, 2.0, 3.0, 4.0][..], &*lent));
        assert_eq!(*turned, [1.0, 3.0, 2.0, 4.0]);
    }

    #[test]
    fn an_answer_that_fails_or_does_not_fit_is_an_error_of_the_backward_pass() {
        let failed: Result<Vec<Vec<f32>>, String> = Err("no memory there".into());
        let answers = [
            (failed, "no memory there"),
            (Ok(vec![vec![1.0]]), "has 1 elements, expected 2"),
            (Ok(vec![]), "no gradient of input 0"),
        ];
        for (answer, expected) in answers {
            let x = leaf(&[1.0, 2.0]);
            let vjp = Box::new(|_| answer);
            let y = Tensor::outside(vec![5.0, 6.0], &[2], &[&x], &Device::cpu(), vjp).unwrap();
            let error = y.sum(&[], false).unwrap().backward().err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
