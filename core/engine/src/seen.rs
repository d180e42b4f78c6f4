//! How the models of a run see an image, for its protocol: wrong preprocessing changes every number and is no error anywhere.

use std::collections::BTreeMap;
use std::fmt;

use dtta_data::{Filter, Standardize, Transform};
use serde::{Deserialize, Serialize};

use crate::prepare::{ModelView, Views};

/// How a model sees an image in [0, 1], after what the dataset's own `transforms` and the corruption made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Channels, height and width of what the steps give.
    pub image: [usize; 3],
    /// The steps, in order.
    pub preprocess: Vec<Transform>,
    /// What is done to the contrast of each image after them, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standardize: Option<Standardize>,
    /// Channels, height and width of the latents that an encoder makes of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<[usize; 3]>,
    /// The library whose configuration of the model says the steps; the experiment says them where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<String>,
}

impl Seen {
    pub(crate) fn of(view: &ModelView) -> Self {
        Self {
            image: view.shape,
            preprocess: view.steps.steps.clone(),
            standardize: view.steps.standardize,
            latent: view
                .encoder
                .as_ref()
                .and_then(|(encoder, _)| encoder.latent_shape(view.shape).ok()),
            published: view.published.map(str::to_owned),
        }
    }

    /// By model: the backbone, and the denoiser where one is asked.
    pub(crate) fn by_model(views: &Views) -> BTreeMap<String, Self> {
        let mut seen = BTreeMap::from([("backbone".to_owned(), Self::of(&views.task))]);
        if let Some(view) = &views.denoiser {
            seen.insert("denoiser".into(), Self::of(view));
        }
        seen
    }

    /// The values that black and white pixels come to, the least and the largest of all channels. With another contrast for each image,
    /// these are what the contrast was changed to, where that is a range, or else none.
    pub fn range(&self) -> Option<[f32; 2]> {
        match self.standardize {
            Some(Standardize::Stretch { low, high, .. }) => return Some([low, high]),
            Some(Standardize::Moments { .. }) => return None,
            None => {}
        }
        let mut range = [0.0f32, 1.0];
        for step in &self.preprocess {
            match step {
                Transform::Normalise { mean, std } => {
                    let ends = |value: f32| {
                        let count = mean.len().max(std.len());
                        let channel = |numbers: &[f32], n: usize| {
                            let one = numbers.first().copied().unwrap_or_default();
                            numbers.get(n).copied().unwrap_or(one)
                        };
                        (0..count).map(move |n| (value - channel(mean, n)) / channel(std, n))
                    };
                    range = [
                        ends(range[0]).fold(f32::INFINITY, f32::min),
                        ends(range[1]).fold(f32::NEG_INFINITY, f32::max),
                    ];
                }
                Transform::Pad { value, .. } => {
                    range = [range[0].min(*value), range[1].max(*value)];
                }
                _ => {}
            }
        }
        Some(range)
    }

    /// Why that is not what published denoisers and encoders were trained on, which is [-1, 1]; nothing if it is, or is not known.
    pub(crate) fn not_centred(&self) -> Option<String> {
        let [low, high] = self.range().filter(|range| *range != [-1.0, 1.0])?;
        Some(format!(
            "gives values from {low} to {high}, but published denoisers and encoders were trained on -1 to 1: \
             {{\"kind\": \"normalise\", \"mean\": [0.5], \"std\": [0.5]}}"
        ))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [channels, height, width] = self.image;
        write!(f, "{channels} × {height} × {width}")?;
        if let Some([channels, height, width]) = self.latent {
            write!(f, " (latents of {channels} × {height} × {width})")?;
        }
        let steps: Vec<String> = self.preprocess.iter().map(step_in_words).collect();
        match steps.is_empty() {
            true => write!(f, ", as it is")?,
            false => write!(f, ", {}", steps.join(", "))?,
        }
        match self.standardize {
            Some(Standardize::Moments { mean, deviation }) => {
                write!(f, ", each image to mean {mean} and deviation {deviation}")?;
            }
            Some(Standardize::Stretch { outliers, .. }) => {
                write!(f, ", each image stretched but for {outliers} of its pixels")?;
            }
            None => {}
        }
        if let Some([low, high]) = self.range() {
            let rounded = |value: f32| (value * 1e3).round() / 1e3;
            write!(f, ": values from {} to {}", rounded(low), rounded(high))?;
        }
        match &self.published {
            Some(library) => write!(f, " (as its configuration of {library} says)"),
            None => Ok(()),
        }
    }
}

fn step_in_words(step: &Transform) -> String {
    let filtered = |filter: &Filter, as_bytes: &bool| {
        let name = match filter {
            Filter::Bilinear => "bilinear",
            Filter::Bicubic => "bicubic",
        };
        let bytes = if *as_bytes { ", in bytes" } else { "" };
        format!("({name}{bytes})")
    };
    match step {
        Transform::Resize {
            height,
            width,
            filter,
            as_bytes,
        } => format!(
            "resized to {height} × {width} {}",
            filtered(filter, as_bytes)
        ),
        Transform::ResizeShort {
            side,
            filter,
            as_bytes,
        } => format!("shorter side to {side} {}", filtered(filter, as_bytes)),
        Transform::CentreCrop { height, width } => format!("centre of {height} × {width}"),
        Transform::Pad { border, value } => format!("border of {border} in {value}"),
        Transform::Grayscale {} => "grayscale".into(),
        Transform::Rgb {} => "RGB".into(),
        Transform::Normalise { mean, std } => {
            format!("mean {mean:?} and deviation {std:?} to 0 and 1")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(preprocess: serde_json::Value) -> Seen {
        Seen {
            image: [3, 224, 224],
            preprocess: serde_json::from_value(preprocess).unwrap(),
            standardize: None,
            latent: None,
            published: None,
        }
    }

    #[test]
    fn the_range_is_that_of_the_widest_channel() {
        assert_eq!(seen(json!([])).range(), Some([0.0, 1.0]));
        let centred = json!([{"kind": "normalise", "mean": [0.5], "std": [0.5]}]);
        assert_eq!(seen(centred).range(), Some([-1.0, 1.0]));
        let usual = json!([{"kind": "normalise", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}]);
        let [low, high] = seen(usual).range().unwrap();
        assert!((low + 0.485 / 0.229).abs() < 1e-6 && (high - 0.594 / 0.225).abs() < 1e-6);
        // One deviation for all channels, and a border beyond what is shown.
        let padded = json!([{"kind": "normalise", "mean": [0.0, 0.5], "std": [0.5]}, {"kind": "pad", "border": 2, "value": 3}]);
        assert_eq!(seen(padded).range(), Some([-1.0, 3.0]));
        let mut contrast = seen(json!([]));
        contrast.standardize = Some(Standardize::Moments {
            mean: 0.0,
            deviation: 1.0,
        });
        assert_eq!(contrast.range(), None);
    }

    #[test]
    fn images_that_a_published_denoiser_was_not_trained_on_are_told_with_what_to_do() {
        let told = seen(json!([])).not_centred().unwrap();
        assert!(told.starts_with("gives values from 0 to 1,"), "{told}");
        // What it says to do is right.
        let (_, step) = told.split_once(": ").unwrap();
        let step: serde_json::Value = serde_json::from_str(step).unwrap();
        assert_eq!(seen(json!([step])).not_centred(), None);
    }

    #[test]
    fn in_words_it_says_size_filter_crop_and_normalisation() {
        let mut seen = seen(json!([
            {"kind": "rgb"}, {"kind": "resize_short", "side": 256, "filter": "bicubic", "as_bytes": true},
            {"kind": "centre_crop", "height": 224, "width": 224}, {"kind": "normalise", "mean": [0.5], "std": [0.5]}
        ]));
        seen.published = Some("timm".into());
        assert_eq!(
            seen.to_string(),
            "3 × 224 × 224, RGB, shorter side to 256 (bicubic, in bytes), centre of 224 × 224, mean [0.5] and deviation [0.5] to 0 and 1: \
             values from -1 to 1 (as its configuration of timm says)"
        );
        assert_eq!(serde_json::from_value::<Seen>(json!(seen)).unwrap(), seen);
    }
}
