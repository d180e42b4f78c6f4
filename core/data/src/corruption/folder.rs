//! Corrupted images in a folder, laid out as ImageNet-C is: `corruption/severity/` and below it the names that the images had.
//!
//! Names are kept whole, whatever the format: they are the samples' ids, which select samples and key their noise. So a PNG may be called
//! `photo.JPEG`; what reads images here, and Pillow, go by a file's first bytes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use dtta_base::{Digest, read_json, sha256_file, write_json};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Corrupter;
use crate::error::unreadable;
use crate::{DataError, Dataset, Image};

/// What a folder of corrupted images was made of.
const DESCRIPTION: &str = "corrupted.json";

/// The quality of ImageNet-C's files.
const QUALITY: u8 = 85;

/// How corrupted images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredFormat {
    /// PNG, which loses nothing: a run on the folder meets the images that a run meets that corrupts them itself.
    Png,
    /// JPEG of quality 85, as ImageNet-C is stored (but without its subsampling of colours): smaller, and a second corruption.
    Jpeg,
}

impl StoredFormat {
    /// An image of bytes as a file.
    fn encoded(self, image: &Image) -> Result<Vec<u8>, image::ImageError> {
        let [channels, height, width] = image.shape();
        let pixels = height * width;
        let bytes: Vec<u8> = (0..image.data().len())
            .map(|place| image.data()[place % channels * pixels + place / channels])
            .map(|value| (value * 255.0).round() as u8)
            .collect();
        let colour = match channels {
            1 => ExtendedColorType::L8,
            _ => ExtendedColorType::Rgb8,
        };
        let mut file = Cursor::new(Vec::new());
        let extents = (width as u32, height as u32);
        match self {
            Self::Png => {
                PngEncoder::new(&mut file).write_image(&bytes, extents.0, extents.1, colour)?;
            }
            Self::Jpeg => JpegEncoder::new_with_quality(&mut file, QUALITY)
                .write_image(&bytes, extents.0, extents.1, colour)?,
        }
        Ok(file.into_inner())
    }
}

/// What all images of a folder have in common, so that one that was begun can be continued, and no other is mixed with it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// The version of dtta.
    version: String,
    /// SHA-256 of the images that were corrupted.
    images: String,
    /// SHA-256 of the pictures of frost, where frost is among the corruptions.
    frost: Option<String>,
    seed: u64,
    format: StoredFormat,
    channels: usize,
}

/// Writes every image of a dataset of files under every corruption to `out/corruption/severity/`, under the name that it has in the dataset
/// (its id). Targets stay where they are.
///
/// Each image is a function of `(seed, id, corruption, severity)`, the same that a stream computes. Images that are there already are
/// left as they are; `done` is called once for each image of the dataset.
///
/// # Errors
/// [`DataError::OutputFolder`] if `out` holds something else, or images made of something else; [`DataError::File`] if something cannot be written; whatever [`Dataset::sample`] refuses.
pub fn write_corrupted(
    dataset: &Dataset,
    corrupters: &[Corrupter],
    seed: u64,
    format: StoredFormat,
    out: &Path,
    done: &(dyn Fn() + Sync),
) -> Result<(), DataError> {
    claim(
        out,
        &Description {
            version: env!("CARGO_PKG_VERSION").into(),
            images: dataset.digest()?,
            frost: pictures(corrupters)?,
            seed,
            format,
            channels: dataset.sample(0)?.image.channels(),
        },
    )?;
    let indices = (0..dataset.len()).into_par_iter();
    indices.try_for_each(|index| {
        let id = &dataset.ids()[index];
        let place = |corrupter: &Corrupter| {
            let folder = out.join(corrupter.corruption().name());
            folder.join(corrupter.severity().to_string()).join(id)
        };
        let missing: Vec<(&Corrupter, PathBuf)> = corrupters
            .iter()
            .map(|corrupter| (corrupter, place(corrupter)))
            .filter(|(_, path)| !path.exists())
            .collect();
        if !missing.is_empty() {
            let image = dataset.sample(index)?.image;
            for (corrupter, path) in missing {
                let encoded = format
                    .encoded(&corrupter.corrupt(&image, seed, id))
                    .map_err(|error| unwritable(&path)(std::io::Error::other(error)))?;
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).map_err(unwritable(folder))?;
                }
                dtta_base::write_whole(&path, &encoded)?;
            }
        }
        done();
        Ok(())
    })
}

/// Makes a folder, or takes one that was made of the same.
fn claim(out: &Path, description: &Description) -> Result<(), DataError> {
    let refuse = |reason: String| DataError::OutputFolder {
        path: out.to_owned(),
        reason,
    };
    let path = out.join(DESCRIPTION);
    if path.exists() {
        let earlier: Description = serde_json::from_value(read_json(&path, &[])?)
            .map_err(|source| dtta_base::Error::Json { path, source })?;
        let differs = [
            ("dtta", earlier.version != description.version),
            ("images", earlier.images != description.images),
            ("pictures of frost", earlier.frost != description.frost),
            ("seed", earlier.seed != description.seed),
            ("format", earlier.format != description.format),
            ("channels", earlier.channels != description.channels),
        ];
        return match differs.iter().find(|(_, differs)| *differs) {
            Some((what, _)) => Err(refuse(format!("holds images made with other {what}"))),
            None => Ok(()),
        };
    }
    fs::create_dir_all(out).map_err(unwritable(out))?;
    let mut entries = fs::read_dir(out).map_err(unreadable(out))?;
    if entries.next().is_some() {
        return Err(refuse("is not empty".into()));
    }
    Ok(write_json(&path, description)?)
}

/// One digest of the pictures that corruptions need, if any does.
fn pictures(corrupters: &[Corrupter]) -> Result<Option<String>, DataError> {
    let files: BTreeSet<&PathBuf> = corrupters.iter().flat_map(Corrupter::files).collect();
    if files.is_empty() {
        return Ok(None);
    }
    let mut digest = Digest::new();
    for file in files {
        digest.field(sha256_file(file)?);
    }
    Ok(Some(digest.finish()))
}

fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> DataError {
    move |source| {
        DataError::File(dtta_base::Error::Write {
            path: path.to_owned(),
            source,
        })
    }
}
