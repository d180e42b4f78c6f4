//! A task as data: what a head predicts and how that is pictured, and how a metric's scores are to be read. A descriptor says it
//! in JSON beside what else it says, so that a new task takes plugins and a dataset, and no line of the host.

use std::borrow::Cow;

use dtta_base::TargetType;
use dtta_tensor::{Kind, Named, Tensor};
use serde::{Deserialize, Serialize};

/// Colours that a palette may have: as many as a label of one byte has values.
const MAX_COLOURS: usize = 256;

/// What a head predicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predicts {
    /// The name of the prediction, of the dataset's target, and of what the metric holds against each other.
    pub name: String,
    /// What it looks like.
    pub target: TargetType,
    /// How it is pictured; not at all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<Picture>,
}

/// How a prediction for each pixel is pictured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Picture {
    /// Each label of a label map by a colour of its own.
    Palette {
        /// The colours from label 0, repeated where there are more labels; the host's own if there are none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        colours: Vec<[u8; 3]>,
    },
    /// One number for each pixel, from the least to the most that is shown, by the place on a scale of colours.
    ColourMap {
        /// How numbers are placed on the scale.
        #[serde(default)]
        scale: ColourScale,
        /// Whether the least is the brightest, instead of the most.
        #[serde(default)]
        reverse: bool,
        /// How wrong a pixel is.
        #[serde(default)]
        error: PixelError,
        /// The error that gets the brightest colour.
        #[serde(default = "one")]
        worst: f64,
    },
    /// Three numbers for each pixel as red, green and blue. A pixel is as wrong as the two lie apart.
    Rgb {
        /// The number that is shown as none of a colour.
        low: f64,
        /// The number that is shown as all of a colour.
        high: f64,
        /// The error that gets the brightest colour.
        #[serde(default = "one")]
        worst: f64,
    },
}

/// How numbers are placed on a scale of colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColourScale {
    /// Equal differences are equally far apart.
    #[default]
    Linear,
    /// Equal ratios are equally far apart.
    Log,
}

/// How wrong a number is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelError {
    /// By the difference.
    #[default]
    Absolute,
    /// By the difference as a share of the target.
    Relative,
}

fn one() -> f64 {
    1.0
}

impl Predicts {
    /// What contradicts itself, if anything does.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.name.is_empty() {
            return Some("`predicts` has no name".into());
        }
        let channels = match self.target {
            TargetType::NumberMap { channels, .. } => Some(channels),
            _ => None,
        };
        if channels == Some(0) {
            return Some("what it predicts has no channels".into());
        }
        let picture = self.picture.as_ref()?;
        let is_label_map = matches!(self.target, TargetType::LabelMap { .. });
        let (name, fits, worst) = match picture {
            Picture::Palette { colours } if colours.len() > MAX_COLOURS => {
                let count = colours.len();
                return Some(format!(
                    "its palette has {count} colours, expected at most {MAX_COLOURS}"
                ));
            }
            Picture::Palette { .. } => ("palette", is_label_map, 1.0),
            Picture::ColourMap { worst, .. } => ("colour map", channels == Some(1), *worst),
            Picture::Rgb { low, high, .. } if low >= high => {
                return Some(format!(
                    "its picture's `low` is {low}, expected less than `high`, {high}"
                ));
            }
            Picture::Rgb { worst, .. } => ("picture of three colours", channels == Some(3), *worst),
        };
        if !fits {
            return Some(format!("a {name} does not show a {}", self.target));
        }
        (worst <= 0.0).then(|| format!("its picture's `worst` is {worst}, expected more than 0"))
    }

    /// What is wrong with a head's predictions for so many images, if anything is.
    pub fn misfit(&self, predictions: &Named, images: Option<usize>) -> Option<String> {
        let Self { name, target, .. } = self;
        let Some(prediction) = predictions.get(name) else {
            let names: Vec<String> = predictions
                .names()
                .map(|name| format!("`{name}`"))
                .collect();
            let names = if names.is_empty() {
                "nothing".into()
            } else {
                names.join(", ")
            };
            return Some(format!(
                "it predicted {names}, and not `{name}`, which its description says"
            ));
        };
        let (kind, extents) = form(*target);
        let fits = |(expected, found): (&Extent, &usize)| match expected {
            Extent::Images => images.is_none_or(|images| images == *found),
            Extent::Any => true,
            Extent::Exactly(extent) => extent == found,
        };
        let shape = prediction.shape();
        if prediction.kind() == kind
            && shape.rank() == extents.len()
            && extents.iter().zip(shape.iter()).all(fits)
        {
            return None;
        }
        let expected: Vec<String> = extents
            .iter()
            .map(|extent| match extent {
                Extent::Images => images.map_or_else(|| "B".into(), |images| images.to_string()),
                Extent::Any => "any".into(),
                Extent::Exactly(extent) => extent.to_string(),
            })
            .collect();
        Some(format!(
            "it predicted `{name}` as {} {shape}, expected {kind} [{}], since its description says {target}",
            prediction.kind(),
            expected.join(", ")
        ))
    }
}

enum Extent {
    Images,
    Any,
    Exactly(usize),
}

/// Kind and extents of tensors of a type.
fn form(target: TargetType) -> (Kind, Vec<Extent>) {
    use Extent::{Any, Exactly, Images};
    match target {
        TargetType::ClassIndex {} => (Kind::Int, vec![Images]),
        TargetType::LabelMap { .. } => (Kind::Int, vec![Images, Any, Any]),
        TargetType::NumberMap { channels: 1, .. } => (Kind::Float, vec![Images, Any, Any]),
        TargetType::NumberMap { channels, .. } => {
            (Kind::Float, vec![Images, Exactly(channels), Any, Any])
        }
    }
}

/// The images of a batch, if all tensors agree on the extent of their first axis.
pub(crate) fn batch(named: &Named) -> Option<usize> {
    let extent = |tensor: &Tensor| tensor.shape().iter().next().copied();
    let mut extents = named.tensors().map(extent);
    let first = extents.next()??;
    extents.all(|other| other == Some(first)).then_some(first)
}

/// How a score is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSpec {
    /// Its name; with one `*`, a family of names that have at least one character there: `top*_accuracy`.
    pub name: Cow<'static, str>,
    /// Whether more is better; absent for what is neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub higher_is_better: Option<bool>,
    /// Its unit; [`SHARE`](Self::SHARE) is a fraction, which is shown in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Cow<'static, str>>,
    /// Whether it is the one that stands for all, where there is room for one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leads: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

impl ScoreSpec {
    /// The unit of a fraction.
    pub const SHARE: &'static str = "share";

    /// How a score of that name is to be read: what is said of the very name, or else of a family that it belongs to.
    pub fn of<'a>(scores: &'a [Self], name: &str) -> Option<&'a Self> {
        let exact = scores.iter().find(|score| score.name == name);
        exact.or_else(|| scores.iter().find(|score| score.is_family_of(name)))
    }

    /// Whether it is a fraction, which is shown in percent.
    pub fn is_share(&self) -> bool {
        self.unit.as_deref() == Some(Self::SHARE)
    }

    fn is_family_of(&self, name: &str) -> bool {
        self.name.split_once('*').is_some_and(|(start, end)| {
            name.len() > start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        })
    }

    /// What contradicts itself in some scores, if anything does.
    pub(crate) fn problem(scores: &[Self]) -> Option<String> {
        for (place, score) in scores.iter().enumerate() {
            let Self { name, leads, .. } = score;
            let stars = name.matches('*').count();
            if name.is_empty() {
                return Some("a score has no name".into());
            }
            if scores[..place].iter().any(|other| other.name == *name) {
                return Some(format!("the score `{name}` is there twice"));
            }
            if stars > 1 {
                return Some(format!(
                    "the score `{name}` has {stars} stars, expected at most one"
                ));
            }
            if *leads && stars == 1 {
                return Some(format!("the scores `{name}` lead, and are more than one"));
            }
        }
        let leading: Vec<String> = scores
            .iter()
            .filter(|score| score.leads)
            .map(|score| format!("`{}`", score.name))
            .collect();
        (leading.len() > 1).then(|| format!("{} all lead, expected one", leading.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use dtta_tensor::Device;
    use serde_json::{Value, json};

    use super::*;

    fn predicts(value: Value) -> Result<Predicts, String> {
        let predicts: Predicts =
            serde_json::from_value(value).map_err(|error| error.to_string())?;
        predicts.problem().map_or(Ok(predicts), Err)
    }

    #[test]
    fn reads_what_a_head_predicts() {
        let labels = predicts(json!({
            "name": "labels", "target": {"kind": "label_map", "ignore": 7}, "picture": {"kind": "palette"},
        }))
        .unwrap();
        assert_eq!(labels.target, TargetType::LabelMap { ignore: 7 });
        let depth = predicts(json!({
            "name": "depth", "target": {"kind": "number_map"},
            "picture": {"kind": "colour_map", "scale": "log", "reverse": true, "error": "relative"},
        }))
        .unwrap();
        assert_eq!(
            depth.picture,
            Some(Picture::ColourMap {
                scale: ColourScale::Log,
                reverse: true,
                error: PixelError::Relative,
                worst: 1.0
            })
        );
        predicts(json!({
            "name": "normals", "target": {"kind": "number_map", "channels": 3},
            "picture": {"kind": "rgb", "low": -1, "high": 1},
        }))
        .unwrap();
        assert_eq!(
            serde_json::to_value(
                predicts(json!({"name": "class", "target": {"kind": "class_index"}})).unwrap()
            )
            .unwrap(),
            json!({"name": "class", "target": {"kind": "class_index"}})
        );
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let numbers = json!({"kind": "number_map"});
        let three = json!({"kind": "number_map", "channels": 3});
        let labels = json!({"kind": "label_map"});
        for (target, picture, word) in [
            (&numbers, json!({"kind": "palette"}), "palette"),
            (
                &json!({"kind": "class_index"}),
                json!({"kind": "palette"}),
                "class index",
            ),
            (&labels, json!({"kind": "colour_map"}), "label map"),
            (
                &labels,
                json!({"kind": "palette", "colours": vec![[0, 0, 0]; 257]}),
                "257",
            ),
            (&labels, json!({"kind": "palette", "colour": []}), "colour"),
            (
                &labels,
                json!({"kind": "palette", "colours": [[0, 0, 256]]}),
                "256",
            ),
            (&three, json!({"kind": "colour_map"}), "3 channels"),
            (
                &numbers,
                json!({"kind": "rgb", "low": 0, "high": 1}),
                "1 channel",
            ),
            (
                &three,
                json!({"kind": "rgb", "low": 1, "high": 1}),
                "less than",
            ),
            (
                &three,
                json!({"kind": "rgb", "low": 0, "high": 1, "worst": 0}),
                "worst",
            ),
            (
                &numbers,
                json!({"kind": "colour_map", "worst": -1}),
                "worst",
            ),
            (
                &numbers,
                json!({"kind": "colour_map", "scale": "cubic"}),
                "cubic",
            ),
            (
                &json!({"kind": "number_map", "channels": 0}),
                Value::Null,
                "channels",
            ),
            (
                &json!({"kind": "number_map", "channel": 1}),
                Value::Null,
                "channel",
            ),
            (&json!({"kind": "boxes"}), Value::Null, "boxes"),
        ] {
            let problem =
                predicts(json!({"name": "it", "target": target, "picture": picture})).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
        assert!(predicts(json!({"name": "", "target": numbers})).is_err());
        assert!(predicts(json!({"name": "it", "target": numbers, "colour": "red"})).is_err());
    }

    #[test]
    fn holds_predictions_to_it() {
        let device = Device::cpu();
        let floats = |shape: &[usize]| Named::one("it", Tensor::full(shape, 0.0, &device).unwrap());
        let ints = |shape: &[usize]| {
            let count = shape.iter().product();
            Named::one(
                "it",
                Tensor::from_ints(&vec![0; count], shape, &device).unwrap(),
            )
        };
        let of = |target: Value| predicts(json!({"name": "it", "target": target})).unwrap();
        let (class, labels, numbers, three) = (
            of(json!({"kind": "class_index"})),
            of(json!({"kind": "label_map"})),
            of(json!({"kind": "number_map"})),
            of(json!({"kind": "number_map", "channels": 3})),
        );
        for (predicts, fitting) in [
            (&class, ints(&[2])),
            (&labels, ints(&[2, 4, 5])),
            (&numbers, floats(&[2, 4, 5])),
            (&three, floats(&[2, 3, 4, 5])),
        ] {
            assert_eq!(predicts.misfit(&fitting, Some(2)), None);
            assert_eq!(predicts.misfit(&fitting, None), None);
            assert!(predicts.misfit(&fitting, Some(3)).is_some());
        }
        for (predicts, found, word) in [
            (&class, floats(&[2]), "float [2], expected int [2]"),
            (&labels, ints(&[2]), "[2, any, any]"),
            (&numbers, floats(&[2, 1, 4, 5]), "[2, any, any]"),
            (&three, floats(&[2, 1, 4, 5]), "[2, 3, any, any]"),
            (&class, Named::new(), "nothing"),
            (
                &class,
                Named::one("other", floats(&[2]).tensors().next().unwrap().clone()),
                "`other`",
            ),
        ] {
            let problem = predicts.misfit(&found, Some(2)).unwrap();
            assert!(problem.contains(word), "{problem}");
        }
    }

    fn score(name: &'static str, leads: bool) -> ScoreSpec {
        ScoreSpec {
            name: name.into(),
            higher_is_better: None,
            unit: None,
            leads,
        }
    }

    #[test]
    fn finds_a_score_by_its_name_or_its_family() {
        let scores = [
            score("top*_accuracy", false),
            score("top1_accuracy", false),
            score("class_*", false),
        ];
        let name = |name| ScoreSpec::of(&scores, name).map(|score| &*score.name);
        assert_eq!(name("top5_accuracy"), Some("top*_accuracy"));
        assert_eq!(name("top1_accuracy"), Some("top1_accuracy"));
        assert_eq!(name("class_sky"), Some("class_*"));
        for unknown in ["top_accuracy", "class_", "accuracy", "stop5_accuracy"] {
            assert_eq!(name(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn refuses_scores_that_contradict_each_other() {
        for (scores, word) in [
            (vec![score("", false)], "no name"),
            (vec![score("a", false), score("a", true)], "twice"),
            (vec![score("a*b*", false)], "2 stars"),
            (vec![score("a*", true)], "more than one"),
            (vec![score("a", true), score("b", true)], "`a`, `b`"),
        ] {
            let problem = ScoreSpec::problem(&scores).unwrap();
            assert!(problem.contains(word), "{problem}");
        }
        assert_eq!(
            ScoreSpec::problem(&[score("a", true), score("b*", false)]),
            None
        );
    }
}
