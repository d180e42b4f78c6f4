//! The label table: what the slot `class-embedding` takes for each class, and, where training left classes out, for none.

use dtta_tensor::{Named, Tensor};

use crate::denoiser::{CLASS_EMBEDDING, CLASS_EMBEDDINGS, ClassCondition};
use crate::error::Result;
use crate::weights::{Declaration, Group, Init, ParameterId, Weights};

/// The table in a denoiser's structure.
pub(crate) struct LabelTable {
    table: ParameterId,
    condition: ClassCondition,
}

impl LabelTable {
    /// Rows of `width`, one for each class, and a last one for "no class" where training leaves classes out.
    pub fn declare(
        d: &mut Declaration,
        name: &str,
        (classes, width): (usize, usize),
        dropout_prob: f64,
        init: Init,
    ) -> Self {
        let null_label = (dropout_prob > 0.0).then_some(classes);
        let rows = classes + usize::from(null_label.is_some());
        Self {
            table: d.declare(name, &[rows, width], Group::Embedding, init),
            condition: ClassCondition {
                classes,
                dropout_prob,
                null_label,
            },
        }
    }

    /// How the denoiser is told the class.
    pub fn condition(&self) -> ClassCondition {
        self.condition
    }

    /// The rows of labels `[B]`: `[B, width]`.
    pub fn embed(&self, weights: &Weights, labels: &Tensor) -> Result<Tensor> {
        Ok(weights.get(self.table).index_select(0, labels)?)
    }

    /// The classes' embeddings, `[classes, width]`.
    pub fn constants(&self, weights: &Weights) -> Result<Named> {
        let table = weights.get(self.table);
        let classes = table.narrow(0, 0, self.condition.classes)?;
        Ok(Named::one(CLASS_EMBEDDINGS, classes))
    }

    /// What stands for no class, `[1, width]`, if training left classes out.
    pub fn nothing(&self, weights: &Weights) -> Result<Option<Named>> {
        let row = self.condition.null_label;
        let row = row.map(|row| weights.get(self.table).narrow(0, row, 1));
        Ok(row.transpose()?.map(|row| Named::one(CLASS_EMBEDDING, row)))
    }
}
