//! A task as data: what a head predicts and how that is pictured, and how a metric's scores are to be read. The host finds the
//! dataset's targets by it and makes tables and pictures, so it needs to know no task by name.

use serde::Serialize;

/// What a head predicts: its name, what it looks like, and how it is pictured.
///
/// ```
/// use dtta_sdk::prelude::*;
///
/// const CLASS: Predicts = Predicts::class_index("class");
/// const LABELS: Predicts = Predicts::label_map("labels").picture(Picture::Palette { colours: &[] });
/// const NORMALS: Predicts = Predicts::number_map("normals").channels(3).picture(Picture::Rgb { low: -1.0, high: 1.0, worst: 1.0 });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Predicts {
    name: &'static str,
    target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<Picture>,
}

/// What a prediction, and the target that it is held to, looks like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Target {
    ClassIndex,
    LabelMap { ignore: i64 },
    NumberMap { channels: u32, invalid: f64 },
}

impl Predicts {
    /// One class for each image: an index, int `[B]`.
    pub const fn class_index(name: &'static str) -> Self {
        Self::of(name, Target::ClassIndex)
    }

    /// One class for each pixel: indices, int `[B, H, W]`. Targets are 255 where nothing is known, unless
    /// [`ignore`](Self::ignore) says otherwise.
    pub const fn label_map(name: &'static str) -> Self {
        Self::of(name, Target::LabelMap { ignore: 255 })
    }

    /// A number for each pixel: float `[B, H, W]`, or with [`channels`](Self::channels) several. Targets are 0 where nothing is
    /// known, unless [`invalid`](Self::invalid) says otherwise.
    pub const fn number_map(name: &'static str) -> Self {
        Self::of(
            name,
            Target::NumberMap {
                channels: 1,
                invalid: 0.0,
            },
        )
    }

    const fn of(name: &'static str, target: Target) -> Self {
        Self {
            name,
            target,
            picture: None,
        }
    }

    /// The label of a target's pixels that nothing is known about.
    ///
    /// # Panics
    /// If it is no label map; in a constant, that is an error of the compiler.
    #[must_use]
    pub const fn ignore(mut self, label: i64) -> Self {
        match &mut self.target {
            Target::LabelMap { ignore } => *ignore = label,
            _ => panic!("only a label map has a label to ignore"),
        }
        self
    }

    /// So many numbers for each pixel: float `[B, C, H, W]` if there are more than one.
    ///
    /// # Panics
    /// If it is no number map; in a constant, that is an error of the compiler.
    #[must_use]
    pub const fn channels(mut self, count: u32) -> Self {
        match &mut self.target {
            Target::NumberMap { channels, .. } => *channels = count,
            _ => panic!("only a number map has channels"),
        }
        self
    }

    /// What every channel of a target holds where nothing is known; infinities and NaN are nothing either.
    ///
    /// # Panics
    /// If it is no number map; in a constant, that is an error of the compiler.
    #[must_use]
    pub const fn invalid(mut self, mark: f64) -> Self {
        match &mut self.target {
            Target::NumberMap { invalid, .. } => *invalid = mark,
            _ => panic!("only a number map has a mark for what is invalid"),
        }
        self
    }

    /// How it is pictured. Predictions are pictured only if this is said.
    #[must_use]
    pub const fn picture(mut self, picture: Picture) -> Self {
        self.picture = Some(picture);
        self
    }
}

/// How a prediction for each pixel is pictured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Picture {
    /// Each label of a label map by a colour of its own.
    Palette {
        /// Red, green and blue from label 0, repeated where there are more labels; the host's own colours if there are none.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        colours: &'static [[u8; 3]],
    },
    /// A number map of one channel, from the least to the most that is shown, by the place on a scale of colours.
    ColourMap {
        /// How numbers are placed on the scale.
        scale: ColourScale,
        /// Whether the least is the brightest, instead of the most.
        reverse: bool,
        /// How wrong a pixel is.
        error: PixelError,
        /// The error that gets the brightest colour.
        worst: f64,
    },
    /// A number map of three channels as red, green and blue. A pixel is as wrong as the two lie apart.
    Rgb {
        /// The number that is shown as none of a colour.
        low: f64,
        /// The number that is shown as all of a colour.
        high: f64,
        /// The error that gets the brightest colour.
        worst: f64,
    },
}

/// How numbers are placed on a scale of colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ColourScale {
    /// Equal differences are equally far apart.
    Linear,
    /// Equal ratios are equally far apart.
    Log,
}

/// How wrong a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelError {
    /// By the difference.
    Absolute,
    /// By the difference as a share of the target.
    Relative,
}

/// How a score of a metric is to be read.
///
/// ```
/// use dtta_sdk::prelude::*;
///
/// const SCORES: &[Score] = &[Score::higher("miou").share().leading(), Score::lower("rmse").unit("m")];
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Score {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    higher_is_better: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leads: bool,
}

impl Score {
    /// One of which more is better. A `*` in the name stands for at least one character, for families of scores:
    /// `top*_accuracy`.
    pub const fn higher(name: &'static str) -> Self {
        Self::of(name, Some(true))
    }

    /// One of which less is better.
    pub const fn lower(name: &'static str) -> Self {
        Self::of(name, Some(false))
    }

    /// One that is neither good nor bad, such as a mean confidence.
    pub const fn neutral(name: &'static str) -> Self {
        Self::of(name, None)
    }

    const fn of(name: &'static str, higher_is_better: Option<bool>) -> Self {
        Self {
            name,
            higher_is_better,
            unit: None,
            leads: false,
        }
    }

    /// A fraction, which is shown in percent.
    #[must_use]
    pub const fn share(self) -> Self {
        self.unit("share")
    }

    /// In a unit that is written behind it.
    #[must_use]
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    /// The one that stands for all, where there is room for one.
    #[must_use]
    pub const fn leading(mut self) -> Self {
        self.leads = true;
        self
    }
}
