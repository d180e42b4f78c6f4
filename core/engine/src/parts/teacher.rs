//! A teacher: weights that follow the learner's slowly and are never trained themselves (Tarvainen and Valpola 2017), and the restoring of
//! some weights to the source's, drawn at random (CoTTA, Wang et al. 2022, equations 2, 6 and 7).

use dtta_learn::{Learner, State, approach};
use dtta_models::Weights;
use dtta_tensor::Tensor;

use super::views::uniform;
use crate::error::Result;

/// Weights that follow others.
#[derive(Clone)]
pub(crate) struct Teacher(Weights);

impl Teacher {
    /// At these weights.
    pub fn new(weights: &Weights) -> Self {
        Self(weights.clone())
    }

    /// Where it is.
    pub fn weights(&self) -> &Weights {
        &self.0
    }

    /// The same, for those who move buffers.
    pub fn weights_mut(&mut self) -> &mut Weights {
        &mut self.0
    }

    /// Goes 1 - `momentum` of the way to what the learner moves.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn follow(&mut self, learner: &Learner, momentum: f64) -> Result<()> {
        for &id in learner.parameters() {
            let kept = self.0.get(id).affine(momentum, 0.0)?;
            let newest = learner.weights().get(id).affine(1.0 - momentum, 0.0)?;
            self.0.set(id, kept.add(&newest)?)?;
        }
        Ok(())
    }

    /// Its weights.
    pub fn state(&self) -> State {
        State::of_weights(&self.0)
    }

    /// Takes up a state.
    ///
    /// # Errors
    /// As [`State::into_weights`].
    pub fn restore(&mut self, state: State) -> Result<()> {
        Ok(state.into_weights(&mut self.0)?)
    }
}

/// Puts each element of what a learner moves back to the source's with this probability. Which ones is a function of the seed, the id
/// of the batch's first sample, the step and the parameter's name.
///
/// # Errors
/// Whatever a tensor operation refuses.
pub(crate) fn restore_some(
    learner: &mut Learner,
    source: &Weights,
    rate: f64,
    (seed, id, step): (u64, &str, usize),
) -> Result<()> {
    if rate == 0.0 {
        return Ok(());
    }
    for id_of in learner.parameters().to_vec() {
        let spec = source.spec(id_of);
        let key = format!("{id}/{}", spec.name);
        let mut draw = uniform("restore", seed, &key, [step as u64, 0]);
        let mask: Vec<f32> = (0..spec.elements())
            .map(|_| if draw() < rate { 1.0 } else { 0.0 })
            .collect();
        let moved = learner.weights().get(id_of).clone();
        let mask = Tensor::from_values(mask, &spec.shape, moved.device())?;
        let back = source.get(id_of).mul(&mask)?;
        let kept = moved.mul(&mask.affine(-1.0, 1.0)?)?;
        learner.weights_mut().set(id_of, back.add(&kept)?)?;
    }
    Ok(())
}

/// Goes this share of the way to the source (weight ensembling of ROID, Marsden et al. 2024, equation 6).
///
/// # Errors
/// Whatever a tensor operation refuses.
pub(crate) fn pull(learner: &mut Learner, source: &Weights, share: f64) -> Result<()> {
    if share == 0.0 {
        return Ok(());
    }
    Ok(approach(learner.weights_mut(), &[source], share)?)
}
