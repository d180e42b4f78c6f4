//! How much the source's predictions depend on each parameter, and the pull back to the source where they do (elastic weight consolidation,
//! Kirkpatrick et al. 2017; EATA, Niu et al. 2022, equations 7 to 9).

use dtta_learn::{Error, State};
use dtta_models::{ParameterId, Weights};
use dtta_tensor::Tensor;

use crate::error::Result;

/// Squares of gradients at the source weights, one of each batch, summed.
#[derive(Clone, Default)]
pub(crate) struct Fisher {
    sums: Vec<Option<Tensor>>,
    batches: usize,
    images: usize,
}

impl Fisher {
    /// Images seen.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Adds the gradients of a batch of so many images.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn observe(&mut self, gradients: &[Option<Tensor>], images: usize) -> Result<()> {
        self.sums.resize(gradients.len(), None);
        for (sum, gradient) in self.sums.iter_mut().zip(gradients) {
            if let Some(gradient) = gradient {
                let square = gradient.mul(gradient)?;
                *sum = Some(match sum.take() {
                    Some(sum) => sum.add(&square)?,
                    None => square,
                });
            }
        }
        self.batches += 1;
        self.images += images;
        Ok(())
    }

    /// weight · Σ F (θ - θ_source)², on the tape of the leaves; nothing before there is an F.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn penalty(
        &self,
        leaves: &Weights,
        parameters: &[ParameterId],
        source: &Weights,
        weight: f64,
    ) -> Result<Option<Tensor>> {
        let mut total: Option<Tensor> = None;
        for (&id, sum) in parameters.iter().zip(&self.sums) {
            let Some(sum) = sum else { continue };
            let away = leaves.get(id).sub(source.get(id))?;
            let mean = sum.affine(weight / self.batches as f64, 0.0)?;
            let term = away.mul(&away)?.mul(&mean)?.sum(&[], false)?;
            total = Some(match total {
                Some(total) => total.add(&term)?,
                None => term,
            });
        }
        Ok(total)
    }

    /// Sums and counts.
    pub fn state(&self) -> State {
        let mut state = State::new();
        for (index, sum) in self.sums.iter().enumerate() {
            if let Some(sum) = sum {
                state.tensors.insert(format!("sum/{index}"), sum.clone());
            }
        }
        for (name, count) in [("batches", self.batches), ("images", self.images)] {
            state.counts.insert(name.into(), count as i64);
        }
        state
    }

    /// Takes up a state of so many parameters.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Unknown`].
    pub fn restore(&mut self, mut state: State, parameters: usize) -> Result<(), Error> {
        let mut count = |name: &str| {
            let count = state.take_count(name)?;
            usize::try_from(count).map_err(|_| Error::Unknown {
                name: format!("{name} = {count}"),
            })
        };
        let (batches, images) = (count("batches")?, count("images")?);
        let sums = (0..parameters).map(|index| state.tensors.remove(&format!("sum/{index}")));
        let sums = sums.collect();
        state.finish()?;
        *self = Self {
            sums,
            batches,
            images,
        };
        Ok(())
    }
}
