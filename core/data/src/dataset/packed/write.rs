//! Writes packed samples.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use dtta_base::TargetType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::{Entry, FORMAT, METADATA_KEY, Meaning, Metadata, Provenance, Quantised};
use crate::{DataError, Dataset, NumberMap, Target};

/// Writes some of a dataset's samples, after its transforms, into one file. Pixels are rounded to 256 steps. Numbers of maps keep the scale
/// and offset of the files that they come from, and so every digit; those that come from none are rounded to 65,535 steps, unless they are
/// whole. Ids stay, so a packed sample meets the same noise as the whole dataset. The file appears whole or not at all.
///
/// # Errors
/// [`DataError::MixedShapes`] if images differ in shape; [`DataError::OutOfRange`] if `indices` is empty or holds no sample of
/// the dataset; [`DataError::File`]; whatever reading the samples refuses.
pub fn pack(
    dataset: &Dataset,
    indices: &[usize],
    provenance: &Provenance,
    path: &Path,
) -> Result<(), DataError> {
    let mut ids = Vec::with_capacity(indices.len());
    let mut images = Vec::new();
    let mut columns: BTreeMap<String, Column> = dataset
        .target_types()
        .iter()
        .map(|(name, target)| (name.clone(), Column::new(*target)))
        .collect();
    let mut shape = None;
    for index in indices {
        let sample = dataset.sample(*index)?;
        let actual = sample.image.shape();
        let expected = *shape.get_or_insert(actual);
        if expected != actual {
            return Err(DataError::MixedShapes {
                id: sample.id,
                expected,
                actual,
            });
        }
        let bytes = |value: &f32| (value.clamp(0.0, 1.0) * 255.0).round() as u8;
        images.extend(sample.image.data().iter().map(bytes));
        for (name, target) in sample.targets.iter() {
            if let Some(column) = columns.get_mut(name) {
                column.push(target);
            }
        }
        ids.push(sample.id);
    }
    let Some([channels, height, width]) = shape else {
        return Err(DataError::OutOfRange {
            start: 0,
            end: 0,
            available: dataset.len(),
        });
    };

    let count = indices.len();
    let mut targets = BTreeMap::new();
    let mut tensors = Vec::new();
    for (name, column) in columns {
        let tensor = format!("targets/{name}");
        let stored = dataset.source.quantised(&name);
        let (values, dtype, shape, bytes) = column.finish(stored, count, [height, width]);
        tensors.push((tensor.clone(), dtype, shape, bytes));
        targets.insert(name, Entry { tensor, values });
    }
    let shape = vec![count, channels, height, width];
    tensors.push(("images".into(), Dtype::U8, shape, images));
    let metadata = Metadata {
        format: FORMAT.into(),
        provenance: provenance.clone(),
        class_names: dataset.class_names().to_vec(),
        ids,
        targets,
        depth_scale: None,
    };
    let metadata = serde_json::to_string(&metadata).map_err(|source| DataError::Metadata {
        path: path.to_owned(),
        source,
    })?;
    let container = |source| DataError::Container {
        path: path.to_owned(),
        source,
    };
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(container)?;
    let entries = HashMap::from([(METADATA_KEY.to_owned(), metadata)]);
    let file = safetensors::serialize(views, Some(entries)).map_err(container)?;
    Ok(dtta_base::write_whole(path, &file)?)
}

/// One target of the samples so far.
enum Column {
    Classes(Vec<u32>),
    Labels(Vec<u8>),
    Numbers(Vec<NumberMap>),
}

impl Column {
    fn new(target: TargetType) -> Self {
        match target {
            TargetType::ClassIndex {} => Self::Classes(Vec::new()),
            TargetType::LabelMap { .. } => Self::Labels(Vec::new()),
            TargetType::NumberMap { .. } => Self::Numbers(Vec::new()),
        }
    }

    fn push(&mut self, target: &Target) {
        match (self, target) {
            (Self::Classes(classes), Target::Class(class)) => classes.push(*class),
            (Self::Labels(labels), Target::Labels(map)) => labels.extend(map.data()),
            (Self::Numbers(maps), Target::Numbers(map)) => maps.push(map.clone()),
            // A dataset's samples have targets of its types.
            _ => {}
        }
    }

    /// What the values mean, and the tensor.
    fn finish(
        self,
        stored: Option<&Quantised>,
        count: usize,
        [height, width]: [usize; 2],
    ) -> (Meaning, Dtype, Vec<usize>, Vec<u8>) {
        match self {
            Self::Classes(classes) => {
                let bytes: Result<Vec<u8>, _> = classes.iter().copied().map(u8::try_from).collect();
                let (dtype, bytes) = match bytes {
                    Ok(bytes) => (Dtype::U8, bytes),
                    Err(_) => {
                        let numbers = classes.iter().flat_map(|c| i64::from(*c).to_le_bytes());
                        (Dtype::I64, numbers.collect())
                    }
                };
                (Meaning::ClassIndex {}, dtype, vec![count], bytes)
            }
            Self::Labels(labels) => {
                let shape = vec![count, height, width];
                (Meaning::LabelMap {}, Dtype::U8, shape, labels)
            }
            Self::Numbers(maps) => {
                let stored = Quantised::fit(&maps, stored);
                let mut bytes = Vec::new();
                maps.iter().for_each(|map| stored.write(map, &mut bytes));
                let shape = match maps.first().map_or(1, |map| map.shape()[0]) {
                    1 => vec![count, height, width],
                    channels => vec![count, channels, height, width],
                };
                (Meaning::NumberMap(stored), Dtype::U16, shape, bytes)
            }
        }
    }
}
