//! How images are prepared: `preprocessor_config.json`, the file of an image processor, older names included. Defaults are those of the
//! processor of each model.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::CLASSES;
use crate::error::Result;
use crate::published::{Fields, Interpolation, Preprocessing, Resized};

/// The field that the image processor is put under.
pub(super) const PREPROCESSOR: &str = "preprocessor";
/// What the file is called, and the one of all processors of a model, within which it is `image_processor`.
const FILES: [&str; 2] = [FILE, "processor_config.json"];
const FILE: &str = "preprocessor_config.json";

/// Puts the configuration of the image processor, if it is beside a model's, under its fields.
///
/// # Errors
/// [`ModelError::File`](crate::ModelError::File) for a file that is there and cannot be read.
pub(crate) fn with_preprocessor(config: &Path, fields: &mut Map<String, Value>) -> Result<()> {
    if !fields.contains_key(CLASSES) || fields.contains_key(PREPROCESSOR) {
        return Ok(());
    }
    let files = FILES.map(|name| config.with_file_name(name));
    if let Some(path) = files.iter().find(|path| path.is_file()) {
        let mut document = dtta_base::read_json(path, &[])?;
        if let Some(within) = document.get_mut("image_processor") {
            document = within.take();
        }
        fields.insert(PREPROCESSOR.into(), document);
    }
    Ok(())
}

/// What the processor of a model does where its file says nothing.
pub(super) struct Defaults {
    /// The names of the processor, newer and older.
    pub classes: &'static [&'static str],
    pub size: Option<[usize; 2]>,
    pub interpolation: Interpolation,
    pub normalised: bool,
    pub mean: [f64; 3],
    pub std: [f64; 3],
    /// Whether images keep their extents so far as a number divides them (GLPN).
    pub keeps_extents: bool,
}

/// What ImageNet's pixels are on average.
pub(super) const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// The images that a model takes, from the processor's configuration. `None` if there is none, or it was refused.
pub(super) fn preprocessing(fields: &mut Fields, defaults: &Defaults) -> Option<Preprocessing> {
    stated(fields, defaults).unwrap_or_else(|| {
        let reason = format!(
            "nothing says how large its images are and how they are prepared; put the model's `{FILE}` beside its configuration"
        );
        fields.refuse(PREPROCESSOR, &Value::Null, reason);
        None
    })
}

/// What the processor's configuration says, of a model that does not need one: `None` if there is none, `Some(None)` if it was refused.
pub(super) fn stated(fields: &mut Fields, defaults: &Defaults) -> Option<Option<Preprocessing>> {
    let document: Map<String, Value> = fields.find(PREPROCESSOR)?;
    let mut processor = fields.within(PREPROCESSOR, document);
    let found = translate(&mut processor, defaults);
    fields.join(processor);
    Some(found)
}

fn translate(processor: &mut Fields, defaults: &Defaults) -> Option<Preprocessing> {
    for field in ["image_processor_type", "feature_extractor_type"] {
        let class: Option<String> = processor.find(field);
        if let Some(class) = class.filter(|class| !defaults.classes.contains(&class.as_str())) {
            let reason = format!("supported are {}", defaults.classes.join(", "));
            processor.refuse(field, &json!(class), reason);
        }
    }
    for name in [
        // Of labels, which the dataset's targets say.
        "do_reduce_labels",
        "reduce_labels",
        // How arrays are laid out and grouped, and who reads them.
        "data_format",
        "device",
        "disable_grouping",
        "input_data_format",
        "processor_class",
        "return_tensors",
        "backend",
        // Images have three channels here.
        "do_convert_rgb",
        // What says how `size` is read where it is a number: as both sides, always for these.
        "default_to_square",
        "image_seq_length",
        // Of padding and of a centre, which are refused.
        "pad_size",
        "crop_size",
    ] {
        processor.skip(name);
    }
    processor.only("do_resize", json!(true), json!(true));
    processor.only("do_rescale", json!(true), json!(true));
    let factor: f64 = processor.take("rescale_factor", 1.0 / 255.0);
    if (factor * 255.0 - 1.0).abs() > 1e-6 {
        processor.refuse("rescale_factor", &json!(factor), "supported is 1/255");
    }
    for name in ["do_center_crop", "do_pad"] {
        if processor.find::<bool>(name) == Some(true) {
            processor.refuse(name, &json!(true), "supported is false");
        }
    }
    let keeps_shape = processor.take("keep_aspect_ratio", false);
    let interpolation = match processor.find::<u8>("resample") {
        None => defaults.interpolation,
        Some(2) => Interpolation::Bilinear,
        Some(3) => Interpolation::Bicubic,
        Some(other) => {
            let reason = "supported are 2, bilinear, and 3, bicubic";
            processor.refuse("resample", &json!(other), reason);
            defaults.interpolation
        }
    };
    let multiple = processor.find::<usize>("ensure_multiple_of").unwrap_or(1);
    // Padding is refused, so the number has no influence but where images keep their extents.
    let divisor = processor.find::<usize>("size_divisor");
    let step = match defaults.keeps_extents {
        true => divisor.unwrap_or(32),
        false => multiple,
    };
    let stated = size(processor).or(defaults.size);
    // Where the shape is kept, this is what each image is brought near to.
    let own = stated.filter(|_| !keeps_shape);
    let size = own.or(processor.extents());
    let (mean, std) = match processor.take("do_normalize", defaults.normalised) {
        true => (
            processor.find("image_mean").unwrap_or(defaults.mean),
            processor.find("image_std").unwrap_or(defaults.std),
        ),
        false => {
            processor.skip("image_mean");
            processor.skip("image_std");
            ([0.0; 3], [1.0; 3])
        }
    };
    if !std.iter().all(|&std| std > 0.0) {
        processor.refuse("image_std", &json!(std), "supported are numbers above 0");
    }
    let Some(size) = size else {
        let reason = format!(
            "how large an image becomes would depend on its shape, and a model takes all alike; choose height and width, multiples of \
             {step}, to which every image is resized: in an experiment as /models/backbone/extents, for `dtta models` by `--extents`"
        );
        match keeps_shape {
            true => processor.refuse("keep_aspect_ratio", &json!(true), reason),
            false => processor.refuse("size", &Value::Null, reason),
        }
        return None;
    };
    if step == 0 || size.iter().any(|extent| *extent == 0 || extent % step != 0) {
        let reason = format!("supported are multiples of {step}");
        match own {
            Some(_) => processor.refuse("size", &json!(size), reason),
            None => processor.refuse_extents(reason),
        }
        return None;
    }
    Some(Preprocessing {
        image: [3, size[0], size[1]],
        interpolation,
        resized: own.map_or(Resized::Chosen(size), Resized::To),
        mean,
        std,
    })
}

/// Height and width, or one number for both.
fn size(processor: &mut Fields) -> Option<[usize; 2]> {
    #[derive(Deserialize)]
    #[serde(untagged, deny_unknown_fields)]
    enum Size {
        Square(usize),
        Sides([usize; 2]),
        Named { height: usize, width: usize },
    }
    match processor.find("size")? {
        Size::Square(side) => Some([side; 2]),
        Size::Sides(sides) => Some(sides),
        Size::Named { height, width } => Some([height, width]),
    }
}
