//! Which patches the encoder of a masked autoencoder sees.

use dtta_tensor::Tensor;

use crate::error::{ModelError, Result};

/// The visible patches of each image.
pub(super) struct Visible<'a> {
    /// For each image, ascending.
    pub rows: &'a [Vec<usize>],
    /// Patches of an image.
    pub patches: usize,
}

impl<'a> Visible<'a> {
    /// # Errors
    /// [`ModelError::Input`] unless there are as many for each of so many images, ascending, and some are masked.
    pub fn new(rows: &'a [Vec<usize>], images: usize, patches: usize) -> Result<Self> {
        let count = rows.first().map_or(0, Vec::len);
        let fits = |row: &Vec<usize>| {
            row.len() == count
                && row.windows(2).all(|pair| pair[0] < pair[1])
                && row.last().is_some_and(|&last| last < patches)
        };
        if rows.len() != images || count == 0 || count >= patches || !rows.iter().all(fits) {
            return Err(ModelError::input(
                "the list of visible patches",
                format!("is {rows:?}"),
                format!(
                    "for each of {images} images the same number of its patches 0 to {}, ascending, and not all",
                    patches - 1
                ),
            ));
        }
        Ok(Self { rows, patches })
    }

    /// Those of `[B, patches, N]`: `[B, visible, N]`.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        let places = |image: usize| self.rows[image].iter().map(move |&patch| (image, patch));
        self.select(x, (0..self.rows.len()).flat_map(places))
    }

    /// The masked ones of `[B, patches, N]`.
    pub fn masked_of(&self, x: &Tensor) -> Result<Tensor> {
        let places = self.rows.iter().enumerate().flat_map(|(image, visible)| {
            let others = (0..self.patches).filter(|patch| visible.binary_search(patch).is_err());
            others.map(move |patch| (image, patch))
        });
        self.select(x, places)
    }

    fn select(&self, x: &Tensor, places: impl Iterator<Item = (usize, usize)>) -> Result<Tensor> {
        let (images, width) = (self.rows.len() as i64, x.shape()[2] as i64);
        let rows: Vec<i64> = places
            .map(|(image, patch)| (image * self.patches + patch) as i64)
            .collect();
        let rows = Tensor::from_ints(&rows, &[rows.len()], x.device())?;
        let chosen = x.reshape(&[-1, width])?.index_select(0, &rows)?;
        Ok(chosen.reshape(&[images, -1, width])?)
    }
}
