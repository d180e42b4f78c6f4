//! The panels of a picture: targets, predictions and errors as colours.

use dtta_data::{IGNORE, Image, Target};
use dtta_plugin::{ColourScale, PixelError};
use dtta_tensor::Tensor;

use crate::error::Result;

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

/// Pixels that are right, or of which nothing is known.
const RIGHT: Colour = [32; 3];
/// Pixels of a target of which nothing is known.
const UNKNOWN: Colour = [0; 3];

/// Colours of classes (Kelly's colours of maximum contrast, 1965), repeated where there are more.
const CLASSES: [Colour; 20] = [
    [128, 128, 128],
    [0, 103, 165],
    [243, 195, 0],
    [190, 0, 50],
    [0, 136, 86],
    [135, 86, 146],
    [243, 132, 0],
    [161, 202, 241],
    [194, 178, 128],
    [230, 143, 172],
    [249, 147, 121],
    [96, 78, 151],
    [246, 166, 0],
    [179, 68, 108],
    [220, 211, 0],
    [136, 45, 23],
    [141, 182, 0],
    [101, 69, 34],
    [226, 88, 34],
    [43, 61, 38],
];

/// The colour of a class.
pub(super) fn class_colour(class: i64) -> Colour {
    CLASSES[class.rem_euclid(CLASSES.len() as i64) as usize]
}

/// What a picture is made of.
pub(super) struct Shown<'a> {
    pub image: &'a Image,
    pub target: Option<&'a Target>,
    /// Of this image, before and after.
    pub predictions: [Tensor; 2],
}

impl Shown<'_> {
    fn width(&self) -> usize {
        self.image.width()
    }
}

/// A picture's panels beside the input.
pub(super) struct Panels {
    pub target: Option<Panel>,
    pub predictions: [Panel; 2],
    pub error: Option<Panel>,
}

/// Rows of colours.
#[derive(Clone)]
pub(super) struct Panel {
    pub width: usize,
    pub pixels: Vec<Colour>,
    /// The same by index into a palette, where there is one: then a picture's bytes are labels.
    pub indices: Option<(Vec<u8>, Vec<Colour>)>,
}

impl Panel {
    pub fn new(width: usize, pixels: impl IntoIterator<Item = Colour>) -> Self {
        Self {
            width,
            pixels: pixels.into_iter().collect(),
            indices: None,
        }
    }

    /// Indices into the colours of all bytes.
    pub fn indexed(width: usize, indices: Vec<u8>, colour: impl Fn(u8) -> Colour) -> Self {
        let palette = (0..=255).map(colour).collect::<Vec<_>>();
        let pixels = indices.iter().map(|&index| palette[usize::from(index)]);
        Self {
            width,
            pixels: pixels.collect(),
            indices: Some((indices, palette)),
        }
    }
}

/// Labels by a palette; wrong ones by the colour of what was predicted.
pub(super) fn labels(colours: &[Colour], shown: &Shown<'_>) -> Result<Panels> {
    let colours: &[Colour] = match colours {
        [] => &CLASSES,
        colours => colours,
    };
    let colour = |label: u8| match label {
        IGNORE => UNKNOWN,
        label => colours[usize::from(label) % colours.len()],
    };
    let read = |map: &Tensor| -> Result<Vec<u8>> {
        let labels = map.to_ints()?.into_iter();
        Ok(labels.map(|label| label.clamp(0, 255) as u8).collect())
    };
    let found = [read(&shown.predictions[0])?, read(&shown.predictions[1])?];
    let width = shown.width();
    let panel = |labels: &[u8]| Panel::indexed(width, labels.to_vec(), colour);
    let target = shown.target.and_then(Target::labels);
    let wrong = |target: &u8, found: &u8| match *target == IGNORE || target == found {
        true => RIGHT,
        false => colour(*found),
    };
    Ok(Panels {
        target: target.map(|target| panel(target.data())),
        error: target.map(|target| {
            let pairs = target.data().iter().zip(&found[1]);
            Panel::new(width, pairs.map(|(target, found)| wrong(target, found)))
        }),
        predictions: [panel(&found[0]), panel(&found[1])],
    })
}

/// One number a pixel by colour (viridis), on one scale for all panels: that of what is known, or else of what the source model said.
pub(super) fn numbers(
    (scale, reverse): (ColourScale, bool),
    (error, worst): (PixelError, f64),
    shown: &Shown<'_>,
) -> Result<Panels> {
    let found = [
        shown.predictions[0].to_floats()?,
        shown.predictions[1].to_floats()?,
    ];
    let target = shown.target.and_then(Target::numbers);
    let known = |pixel: usize| target.is_none_or(|target| target.is_known(pixel));
    let shown_numbers = target.map_or(found[0].as_slice(), |target| target.data());
    let of_scale = shown_numbers
        .iter()
        .enumerate()
        .filter(|&(pixel, number)| known(pixel) && number.is_finite())
        .filter(|(_, number)| scale == ColourScale::Linear || **number > 0.0)
        .map(|(_, &number)| number);
    let (least, most) = of_scale.fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), n| {
        (least.min(n), most.max(n))
    });
    let (least, most) = if least <= most {
        (least, most)
    } else {
        (1.0, 1.0)
    };
    let share = |number: f32| match scale {
        ColourScale::Linear => (number - least) / (most - least).max(f32::MIN_POSITIVE),
        ColourScale::Log => {
            (number.max(least) / least).ln() / (most / least).ln().max(f32::MIN_POSITIVE)
        }
    };
    let place = |number: f32| (share(number).clamp(0.0, 1.0) * 255.0).round() as u8;
    let of_place = |place: u8| {
        let place = f64::from(place) / 255.0;
        let bright = if reverse { 1.0 - place } else { place };
        colorous::VIRIDIS.eval_continuous(bright).as_array()
    };
    let width = shown.width();
    let panel = |numbers: &[f32]| {
        let places = numbers.iter().map(|&number| place(number)).collect();
        Panel::indexed(width, places, of_place)
    };
    let wrong = |target: f32, found: f32| {
        let far = f64::from((found - target).abs());
        let far = match error {
            PixelError::Absolute => far,
            PixelError::Relative => far / f64::from(target.abs()).max(f64::MIN_POSITIVE),
        };
        wrong_by(far / worst)
    };
    Ok(Panels {
        target: target.map(|target| {
            let pixels = target.data().iter().enumerate();
            let colour = |(pixel, &number)| match target.is_known(pixel) {
                true => of_place(place(number)),
                false => UNKNOWN,
            };
            Panel::new(width, pixels.map(colour))
        }),
        error: target.map(|target| {
            let pairs = target.data().iter().zip(&found[1]).enumerate();
            let colour = |(pixel, (&target_at, &found))| match target.is_known(pixel) {
                true => wrong(target_at, found),
                false => RIGHT,
            };
            Panel::new(width, pairs.map(colour))
        }),
        predictions: [panel(&found[0]), panel(&found[1])],
    })
}

/// Three numbers a pixel as red, green and blue; the error is the distance between the two.
pub(super) fn colours([low, high]: [f64; 2], worst: f64, shown: &Shown<'_>) -> Result<Panels> {
    let found = [
        shown.predictions[0].to_floats()?,
        shown.predictions[1].to_floats()?,
    ];
    let target = shown.target.and_then(Target::numbers);
    let at = |numbers: &[f32], pixel: usize| {
        let size = numbers.len() / 3;
        [0, 1, 2].map(|channel| numbers[channel * size + pixel])
    };
    let colour = |numbers: [f32; 3]| {
        numbers.map(|number| {
            let share = (f64::from(number) - low) / (high - low);
            (share.clamp(0.0, 1.0) * 255.0).round() as u8
        })
    };
    let width = shown.width();
    let panel = |numbers: &[f32]| {
        let pixels = 0..numbers.len() / 3;
        Panel::new(width, pixels.map(|pixel| colour(at(numbers, pixel))))
    };
    Ok(Panels {
        target: target.map(|target| {
            let pixels = 0..target.data().len() / 3;
            let colour = |pixel| match target.is_known(pixel) {
                true => colour(at(target.data(), pixel)),
                false => UNKNOWN,
            };
            Panel::new(width, pixels.map(colour))
        }),
        error: target.map(|target| {
            let pixels = 0..target.data().len() / 3;
            let colour = |pixel| {
                if !target.is_known(pixel) {
                    return RIGHT;
                }
                let pairs = at(target.data(), pixel)
                    .into_iter()
                    .zip(at(&found[1], pixel));
                let squares = pairs.map(|(target, found)| f64::from(found - target).powi(2));
                wrong_by(squares.sum::<f64>().sqrt() / worst)
            };
            Panel::new(width, pixels.map(colour))
        }),
        predictions: [panel(&found[0]), panel(&found[1])],
    })
}

/// The colour of an error (inferno), as a share of the worst.
fn wrong_by(share: f64) -> Colour {
    colorous::INFERNO
        .eval_continuous(share.clamp(0.0, 1.0))
        .as_array()
}
