//! `dtta corrupt`: a folder of images under corruptions.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use dtta_data::{
    ColourMode, Corrupter, Corruption, DataError, Dataset, DatasetConfig, FolderConfig, Severity,
    StoredFormat, write_corrupted,
};
use indicatif::ProgressBar;

use crate::Failure;
use crate::data::tell_left_out;
use crate::say::say;

/// What to corrupt, and how.
#[derive(Args)]
pub struct Arguments {
    /// The folder of images, in folders of classes or not.
    images: PathBuf,
    /// The folder to write `CORRUPTION/SEVERITY/…` to. If it was begun with the same images and settings, what is missing is written.
    out: PathBuf,
    /// Names as in experiments. All fifteen of ImageNet-C if absent; without `--frost`, those that need no pictures.
    #[arg(long, value_delimiter = ',', value_parser = named)]
    corruptions: Vec<Corruption>,
    /// 1 (weakest) to 5.
    #[arg(long, value_delimiter = ',', value_parser = numbered, default_value = "1,2,3,4,5")]
    severities: Vec<Severity>,
    /// The folder of ImageNet-C's pictures of frost, `imagecorruptions/frost` in the Python package `imagecorruptions`.
    #[arg(long, value_name = "FOLDER")]
    frost: Option<PathBuf>,
    /// How images are stored.
    #[arg(long, value_enum, default_value = "png")]
    format: Format,
    /// Reads images with one channel.
    #[arg(long)]
    grayscale: bool,
    /// Fixes the noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Loses nothing, whatever the files are called.
    Png,
    /// Quality 85, as ImageNet-C is stored; a second corruption.
    Jpeg,
}

fn named(name: &str) -> Result<Corruption, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

fn numbered(number: &str) -> Result<Severity, String> {
    let number: u8 = number.parse().map_err(|_| "expected 1 to 5".to_owned())?;
    Severity::try_from(number).map_err(|error| error.to_string())
}

/// Corrupts.
pub fn corrupt(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { images, out, .. } = arguments;
    let config = DatasetConfig::Folder(FolderConfig {
        path: images.clone(),
        channels: match arguments.grayscale {
            true => ColourMode::Grayscale,
            false => ColourMode::Rgb,
        },
        class_order: Some(dtta_data::ClassOrder::Alphabetical),
        transforms: Vec::new(),
    });
    expect_apart(images, out)?;
    let dataset = Dataset::open(&config, Path::new(".")).map_err(Failure::misuse)?;
    tell_left_out(dataset.location(), dataset.left_out());
    let frost = arguments.frost.as_deref();
    let corruptions: Vec<Corruption> = match &arguments.corruptions[..] {
        [] => Corruption::REPORTED
            .into_iter()
            .filter(|corruption| *corruption != Corruption::Frost || frost.is_some())
            .collect(),
        named => named.to_vec(),
    };
    let each = |&corruption: &Corruption| {
        let pictures = frost.filter(|_| corruption == Corruption::Frost);
        let corrupter = move |severity: &Severity| Corrupter::new(corruption, *severity, pictures);
        arguments
            .severities
            .iter()
            .map(corrupter)
            .collect::<Vec<_>>()
    };
    let corrupters: Vec<Corrupter> = corruptions
        .iter()
        .flat_map(each)
        .collect::<Result<_, _>>()
        .map_err(Failure::misuse)?;
    let first = dataset.sample(0).map_err(Failure::misuse)?.image;
    let [_, height, width] = first.shape();
    let scales = corrupters
        .iter()
        .map(|corrupter| corrupter.scale(height, width));
    let scale = scales.fold(1.0, f64::min);
    if scale < 1.0 {
        say!(
            "images of {height}x{width} pixels: ImageNet-C's lengths are scaled by {scale:.3}, so these are not ImageNet-C's strengths"
        );
    }
    let format = match arguments.format {
        Format::Png => StoredFormat::Png,
        Format::Jpeg => StoredFormat::Jpeg,
    };
    let bar = ProgressBar::new(dataset.len() as u64);
    let written = write_corrupted(&dataset, &corrupters, arguments.seed, format, out, &|| {
        bar.inc(1);
    });
    bar.finish_and_clear();
    written.map_err(|error| match error {
        // A full disk is nobody's misuse.
        DataError::File(dtta_base::Error::Write { .. }) => Failure::failed(error),
        error => Failure::misuse(error),
    })?;
    say!(
        "{} images under {} corruptions at {} severities in `{}`",
        dataset.len(),
        corruptions.len(),
        arguments.severities.len(),
        out.display()
    );
    Ok(())
}

/// Refuses a folder within that of the images, which would be among them the next time.
fn expect_apart(images: &Path, out: &Path) -> Result<(), Failure> {
    let below = |path: &Path| {
        let images = images.canonicalize().ok()?;
        let existing = path.ancestors().find(|path| path.exists());
        let existing = existing.filter(|path| !path.as_os_str().is_empty());
        let place = existing.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(place.starts_with(images))
    };
    match below(out) {
        Some(true) => Err(Failure::Misuse(anyhow::anyhow!(
            "`{}` lies within `{}`; give a folder beside it",
            out.display(),
            images.display()
        ))),
        _ => Ok(()),
    }
}
