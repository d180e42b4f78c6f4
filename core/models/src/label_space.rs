//! Models of many classes, used for some of them: logits, and the embeddings that mappers mix, restricted to these before any softmax, as
//! ImageNet-A and ImageNet-R ask for. The weights stay those of the whole model.

use dtta_tensor::{Named, Tensor};

use crate::backbone::{Backbone, BackboneSpec, LOGITS};
use crate::behind::{Behind, Between};
use crate::denoiser::{CLASS_EMBEDDINGS, Denoiser};
use crate::error::{ModelError, Result};

/// A classifier that answers for some of its classes, in the order given. Where one answer stands for several classes, its logit is the
/// largest of theirs, so that it is the most probable one where one of them is.
pub struct SomeClasses {
    spec: BackboneSpec,
    classes: Groups,
}

impl SomeClasses {
    /// Restricts a classifier of whole images.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a model that answers for each pixel, or classes that it does not have, none, or one twice.
    pub fn of(backbone: Box<dyn Backbone>, classes: &[Vec<usize>]) -> Result<Box<dyn Backbone>> {
        let spec = *backbone.spec();
        if spec.per_pixel {
            let found = "answers for each pixel";
            return Err(ModelError::input(
                "the backbone",
                found,
                "one for whole images",
            ));
        }
        let some = Self {
            classes: Groups::within(classes, spec.outputs)?,
            spec: BackboneSpec {
                outputs: classes.len(),
                ..spec
            },
        };
        Ok(Box::new(Behind::new(backbone, some)))
    }
}

impl Between for SomeClasses {
    fn spec<'a>(&'a self, _own: &'a BackboneSpec) -> &'a BackboneSpec {
        &self.spec
    }

    fn outputs(&self, own: Named) -> Result<Named> {
        self.classes.pick(own, LOGITS, 1, Join::Largest)
    }
}

/// A denoiser that tells mappers about some of its classes, in the order given, or of several at once the mean of their embeddings. What it
/// takes is unchanged.
pub struct SomeEmbeddings {
    classes: Groups,
}

impl SomeEmbeddings {
    /// Restricts a denoiser's class embeddings, if it has any.
    ///
    /// # Errors
    /// [`ModelError::Input`] for classes that it does not have, none, or one twice.
    pub fn of(denoiser: Box<dyn Denoiser>, classes: &[Vec<usize>]) -> Result<Box<dyn Denoiser>> {
        let all = denoiser
            .class_condition()
            .map(|condition| condition.classes);
        let most = all.unwrap_or(usize::MAX);
        let some = Self {
            classes: Groups::within(classes, most)?,
        };
        Ok(Box::new(Behind::new(denoiser, some)))
    }
}

impl Between for SomeEmbeddings {
    fn constants(&self, own: Named) -> Result<Named> {
        self.classes.pick(own, CLASS_EMBEDDINGS, 0, Join::Mean)
    }
}

/// What becomes of the rows of several classes.
#[derive(Clone, Copy)]
enum Join {
    /// The largest element of each place.
    Largest,
    /// The mean.
    Mean,
}

/// Rows of a model's tensors, some of them several that become one.
struct Groups(Vec<Vec<i64>>);

impl Groups {
    /// Those of these classes, if the model has them.
    fn within(classes: &[Vec<usize>], all: usize) -> Result<Self> {
        let refuse = |found: String| {
            let expected = format!("different classes from 0 to {}", all.saturating_sub(1));
            Err(ModelError::input("the label space", found, expected))
        };
        if classes.is_empty() || classes.iter().any(Vec::is_empty) {
            return refuse("has no classes".into());
        }
        let mut seen = classes.concat();
        seen.sort_unstable();
        if let Some(pair) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(format!("has class {} twice", pair[0]));
        }
        match seen.last().filter(|last| **last >= all) {
            Some(last) => refuse(format!("has class {last}")),
            None => {
                let rows =
                    |classes: &Vec<usize>| classes.iter().map(|&class| class as i64).collect();
                Ok(Self(classes.iter().map(rows).collect()))
            }
        }
    }

    /// The same tensors, with these rows of that name.
    fn pick(&self, tensors: Named, name: &str, axis: i64, join: Join) -> Result<Named> {
        let each = tensors.iter().map(|(found, tensor)| {
            let tensor = match found == name {
                true => self.rows(tensor, axis, join)?,
                false => tensor.clone(),
            };
            Ok((found.to_owned(), tensor))
        });
        each.collect()
    }

    fn rows(&self, tensor: &Tensor, axis: i64, join: Join) -> Result<Tensor> {
        let select = |rows: Vec<i64>| -> Result<Tensor> {
            let rows = Tensor::from_ints(&rows, &[rows.len()], tensor.device())?;
            Ok(tensor.index_select(axis, &rows)?)
        };
        let largest = self.0.iter().map(Vec::len).max().unwrap_or(1);
        // The first of each group, the second, and so on; groups that have fewer repeat theirs, as often as makes no difference.
        let mut layers = Vec::with_capacity(largest);
        for n in 0..largest {
            layers.push(select(
                self.0.iter().map(|rows| rows[n % rows.len()]).collect(),
            )?);
        }
        match (layers.as_slice(), join) {
            ([only], _) => Ok(only.clone()),
            (_, Join::Largest) => {
                let layers: Vec<&Tensor> = layers.iter().collect();
                Ok(Tensor::stack(&layers, 0)?.amax(&[0], false)?)
            }
            (_, Join::Mean) => self.mean(&layers, axis),
        }
    }

    /// Each layer's rows by the share that they have in their group.
    fn mean(&self, layers: &[Tensor], axis: i64) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for (n, layer) in layers.iter().enumerate() {
            let share = |rows: &Vec<i64>| match n < rows.len() {
                true => 1.0 / rows.len() as f32,
                false => 0.0,
            };
            let shares: Vec<f32> = self.0.iter().map(share).collect();
            let mut extents = vec![1; layer.shape().rank()];
            extents[axis as usize] = shares.len();
            let part = layer.mul(&Tensor::from_floats(&shares, &extents, layer.device())?)?;
            sum = Some(match sum {
                Some(sum) => sum.add(&part)?,
                None => part,
            });
        }
        Ok(sum.expect("there is a layer"))
    }
}

#[cfg(test)]
mod tests {
    use dtta_tensor::Device;
    use serde_json::json;

    use super::*;
    use crate::{BatchNormStatistics, Models, Weights};

    fn model(config: serde_json::Value) -> std::path::PathBuf {
        let folder = tempfile::tempdir().unwrap().keep();
        let path = folder.join("model.json");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    #[test]
    fn of_several_classes_at_once_the_largest_logit_and_the_mean_embedding_are_taken() {
        let groups = [vec![2], vec![0, 3, 4]];
        let path = model(
            json!({"kind": "resnet", "image": [1, 8, 8], "classes": 5, "block": "basic", "blocks": [1],
                                "widths": [8], "stem": "small", "norm": {"kind": "group", "groups": 4}}),
        );
        let backbone = || Models::standard().backbone(&path).unwrap();
        let weights = Weights::initialise(backbone().parameters(), 3, &Device::cpu()).unwrap();
        let pixels: Vec<f32> = (0..3 * 64u16)
            .map(|n| (f32::from(n) * 0.37).sin())
            .collect();
        let images = Tensor::from_floats(&pixels, &[3, 1, 8, 8], &Device::cpu()).unwrap();
        let logits = |backbone: &dyn Backbone| {
            let statistics = BatchNormStatistics::default();
            let outputs = backbone.forward(&weights, &images, statistics).unwrap();
            outputs.get(LOGITS).unwrap().to_floats().unwrap()
        };
        let all = logits(&*backbone());
        let some = SomeClasses::of(backbone(), &groups).unwrap();
        assert_eq!(some.spec().outputs, 2);
        for (row, found) in all.chunks(5).zip(logits(&*some).chunks(2)) {
            assert_eq!(found, [row[2], row[0].max(row[3]).max(row[4])]);
        }

        let path = model(
            json!({"kind": "dit", "image": [1, 4, 4], "patch_size": 2, "hidden_size": 8, "depth": 0, "num_heads": 1,
                                "num_classes": 5}),
        );
        let denoiser = || Models::standard().denoiser(&path).unwrap();
        let weights = Weights::initialise(denoiser().parameters(), 3, &Device::cpu()).unwrap();
        let table = |denoiser: &dyn Denoiser| {
            let constants = denoiser.constants(&weights).unwrap();
            constants
                .get(CLASS_EMBEDDINGS)
                .unwrap()
                .to_floats()
                .unwrap()
        };
        let (all, some) = (
            table(&*denoiser()),
            table(&*SomeEmbeddings::of(denoiser(), &groups).unwrap()),
        );
        assert_eq!((all.len(), some.len()), (40, 16));
        for n in 0..8 {
            assert_eq!(some[n], all[16 + n]);
            let mean = (all[n] + all[24 + n] + all[32 + n]) / 3.0;
            assert!((some[8 + n] - mean).abs() < 1e-6);
        }
    }
}
