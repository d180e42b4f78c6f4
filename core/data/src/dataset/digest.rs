//! One digest over what samples are made of, so that a run can tell whether it meets the data it met before. Names inside of a
//! dataset count, its place on disk does not. Every file is read once, piece by piece, several at a time.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use dtta_base::{Digest, sha256_file};
use rayon::prelude::*;

use super::Dataset;
use crate::{DataError, Target};

/// The digest of some samples of some datasets, and of pictures that are laid over them.
pub(crate) fn digest(
    parts: &[(&Dataset, Vec<usize>)],
    pictures: &[&Path],
) -> Result<String, DataError> {
    let mut files: BTreeSet<&Path> = pictures.iter().copied().collect();
    for (dataset, indices) in parts {
        let of_sample = |&index: &usize| dataset.source.files(index);
        files.extend(indices.iter().flat_map(of_sample).map(|(_, path)| path));
    }
    let hashes = files
        .into_par_iter()
        .map(|path| Ok((path, sha256_file(path)?)))
        .collect::<Result<HashMap<&Path, String>, DataError>>()?;

    let mut digest = Digest::new();
    for (dataset, indices) in parts {
        list(&mut digest, dataset.class_names());
        count(&mut digest, indices.len());
        for &index in indices {
            digest.field(&dataset.ids()[index]);
            let files = dataset.source.files(index);
            count(&mut digest, files.len());
            for (gives, path) in &files {
                digest.field(gives);
                digest.field(&hashes[path]);
            }
            if files.is_empty() {
                in_memory(&mut digest, dataset, index)?;
            }
        }
    }
    for picture in pictures {
        digest.field("picture");
        digest.field(&hashes[picture]);
    }
    Ok(digest.finish())
}

/// Adds a list of texts with its length, so that lists do not run together.
fn list(digest: &mut Digest, texts: &[String]) {
    count(digest, texts.len());
    texts.iter().for_each(|text| digest.field(text));
}

/// Adds the pixels and targets of a sample that comes from no file.
fn in_memory(digest: &mut Digest, dataset: &Dataset, index: usize) -> Result<(), DataError> {
    let sample = dataset.sample(index)?;
    numbers(digest, &sample.image.shape(), sample.image.data());
    count(digest, sample.targets.iter().len());
    for (name, target) in sample.targets.iter() {
        digest.field(name);
        digest.field(target.target_type().to_string());
        match target {
            Target::Class(class) => digest.field(class.to_le_bytes()),
            Target::Labels(map) => digest.field(map.data()),
            Target::Numbers(map) => numbers(digest, &map.shape(), map.data()),
        }
    }
    Ok(())
}

fn count(digest: &mut Digest, count: usize) {
    digest.field((count as u64).to_le_bytes());
}

fn numbers(digest: &mut Digest, shape: &[usize], data: &[f32]) {
    shape.iter().for_each(|&side| count(digest, side));
    let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
    digest.field(bytes);
}
