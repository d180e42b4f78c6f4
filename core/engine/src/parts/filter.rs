//! Which samples are worth learning from, and what the stream's predictions have been on average.

use dtta_learn::{Error, State};
use dtta_tensor::{Device, Tensor};

use crate::error::Result;

/// A moving mean of class probabilities over the stream (EATA's redundancy filter, ROID's diversity weights).
#[derive(Debug, Clone, Default)]
pub(crate) struct ClassMean(Option<Tensor>);

impl ClassMean {
    /// The cosine between the mean and each row of probabilities; nothing before there is a mean.
    ///
    /// # Errors
    /// Whatever reading from the device refuses.
    pub fn cosines(&self, probabilities: &[Vec<f32>]) -> Result<Option<Vec<f32>>> {
        let Some(mean) = &self.0 else {
            return Ok(None);
        };
        let mean = mean.to_floats()?;
        Ok(Some(cosines(&mean, probabilities)))
    }

    /// Moves towards the mean of these rows, by 1 - `momentum`, from `start`, or from the rows themselves if there is none. No rows change
    /// nothing.
    ///
    /// # Errors
    /// Whatever a tensor operation refuses.
    pub fn follow<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Vec<f32>>,
        momentum: f32,
        start: Option<Vec<f32>>,
    ) -> Result<()> {
        let rows: Vec<&Vec<f32>> = rows.collect();
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let count = rows.len() as f32;
        let newest = |class: usize| rows.iter().map(|row| row[class]).sum::<f32>() / count;
        let newest: Vec<f32> = (0..first.len()).map(newest).collect();
        let before = match &self.0 {
            Some(mean) => Some(mean.to_floats()?),
            None => start,
        };
        let mean: Vec<f32> = match before {
            None => newest,
            Some(mean) => mean
                .iter()
                .zip(newest)
                .map(|(old, new)| momentum * old + (1.0 - momentum) * new)
                .collect(),
        };
        self.0 = Some(Tensor::from_floats(&mean, &[mean.len()], &Device::cpu())?);
        Ok(())
    }

    /// The mean; empty before there is one.
    ///
    /// # Errors
    /// Whatever reading from the device refuses.
    pub fn values(&self) -> Result<Vec<f32>> {
        let mean = self.0.as_ref().map(Tensor::to_floats).transpose()?;
        Ok(mean.unwrap_or_default())
    }

    /// The mean, if there is one.
    pub fn state(&self) -> State {
        let mut state = State::new();
        if let Some(mean) = &self.0 {
            state.tensors.insert("mean".into(), mean.clone());
        }
        state
    }

    /// Takes up a state.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn restore(&mut self, mut state: State) -> Result<(), Error> {
        self.0 = state.tensors.remove("mean");
        state.finish()
    }
}

/// The cosine between a vector and each row; PyTorch's `cosine_similarity`, which keeps norms from 0.
pub(crate) fn cosines(mean: &[f32], rows: &[Vec<f32>]) -> Vec<f32> {
    let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-8);
    let cosine = |row: &Vec<f32>| {
        let dot: f32 = row.iter().zip(mean).map(|(a, b)| a * b).sum();
        dot / (norm(row) * norm(mean))
    };
    rows.iter().map(cosine).collect()
}

/// A moving mean of one number over the stream, which a checkpoint holds bit for bit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MovingMean(Option<f64>);

impl MovingMean {
    /// The mean, once there is one.
    pub fn get(self) -> Option<f64> {
        self.0
    }

    /// Moves towards a number, by 1 - `momentum`; the first one is taken as it is.
    pub fn follow(&mut self, newest: f64, momentum: f64) {
        self.0 = Some(match self.0 {
            None => newest,
            Some(mean) => momentum * mean + (1.0 - momentum) * newest,
        });
    }

    /// The bits of the mean.
    pub fn state(self) -> State {
        let mut state = State::new();
        if let Some(mean) = self.0 {
            state
                .counts
                .insert("bits".into(), mean.to_bits().cast_signed());
        }
        state
    }

    /// Takes up a state.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn restore(&mut self, mut state: State) -> Result<(), Error> {
        let bits = state.counts.remove("bits");
        state.finish()?;
        self.0 = bits.map(|bits| f64::from_bits(bits.cast_unsigned()));
        Ok(())
    }
}
