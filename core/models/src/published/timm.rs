//! timm's `config.json`, as `save_for_hf` writes it and the Hugging Face hub has it: the architecture's name, the arguments that its class
//! was made with, and in `pretrained_cfg` how images are prepared.

mod architectures;
mod classes;

use serde_json::{Value, json};

use self::architectures::{NAMES, structure};
use super::{
    Fields, Interpolation, Names, Preprocessing, Publisher, Resized, Translate, Translation,
};

pub(super) const PUBLISHER: Publisher = Publisher {
    library: "timm",
    field: "architecture",
    translate: find,
    classes: &NAMES,
};

fn find(name: &str) -> Option<Translate> {
    if name.starts_with("deit") && name.contains("distilled") {
        return Some(refuse_distilled);
    }
    structure(name).map(|_| translate as Translate)
}

fn refuse_distilled(fields: &mut Fields) -> Option<Translation> {
    let name: Value = fields.take("architecture", Value::Null);
    fields.refuse(
        "architecture",
        &name,
        "it has a second head, `head_dist`, trained by distillation, and answers with the mean of both; there is one without, such as \
         deit_base_patch16_224",
    );
    None
}

fn translate(fields: &mut Fields) -> Option<Translation> {
    let structure = structure(&fields.take("architecture", String::new()))?;
    // What the library calls informational: it follows from the architecture.
    fields.skip("num_features");
    // What the classes are called.
    for name in ["label_names", "label_descriptions"] {
        fields.skip(name);
    }
    let mut pretrained = match fields.find("pretrained_cfg") {
        Some(Value::Object(cfg)) => fields.within("pretrained_cfg", cfg),
        other => {
            let reason = "it says how images are prepared; supported is an object";
            fields.refuse("pretrained_cfg", &other.unwrap_or_default(), reason);
            return None;
        }
    };
    let mut arguments = fields.object("model_args");
    arguments.only("in_chans", json!(3), json!(3));
    let stated = [
        fields.find::<usize>("num_classes"),
        arguments.find("num_classes"),
    ];
    // Of the weights that training began with, where the file says something else: the library puts the file's own in its place.
    let begun_with = pretrained.find("num_classes");
    let pooled = arguments.find::<String>("global_pool");
    // What makes no difference once a model is trained: dropped features and blocks, and where memory is.
    for name in [
        "drop_rate",
        "drop_path_rate",
        "drop_block_rate",
        "pos_drop_rate",
        "patch_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
        "device",
    ] {
        arguments.skip(name);
    }
    arguments.fixed("dtype", Value::Null);
    let preprocessing = preprocessing(&mut pretrained);
    fields.join(pretrained);

    let stated: Vec<usize> = stated.into_iter().flatten().collect();
    let count = stated.first().copied().or(begun_with).unwrap_or(1000);
    if count == 0 {
        fields.refuse(
            "num_classes",
            &json!(0),
            "it has no classifier; supported is 1 or more",
        );
    }
    if let Some(other) = stated.iter().find(|&&other| other != count) {
        let reason = format!("another place of the file says {other}");
        fields.refuse("num_classes", &json!(count), reason);
    }
    let document = structure.document(
        &mut arguments,
        preprocessing.as_ref()?.image,
        count,
        &pooled,
    );
    fields.join(arguments);
    // The library's note on what was built.
    let pool = pooled.unwrap_or_else(|| structure.pool().into());
    fields.only("global_pool", json!(pool), json!(pool));
    Some(Translation {
        document,
        names: Names::same(),
        preprocessing,
    })
}

/// What `pretrained_cfg` says of images. The library's evaluation takes `input_size` and `crop_pct` unless it is told to take those of
/// `test_…`.
fn preprocessing(fields: &mut Fields) -> Option<Preprocessing> {
    // Where the weights came from, who made them, and what the layers are called that another number of classes or channels changes; the
    // extents of the last map, which follow from the image's; and whether the weights came in another format than these.
    for name in [
        "url",
        "file",
        "hf_hub_id",
        "hf_hub_filename",
        "source",
        "architecture",
        "tag",
        "custom_load",
        "test_input_size",
        "min_input_size",
        "fixed_input_size",
        "test_crop_pct",
        "label_names",
        "label_descriptions",
        "pool_size",
        "test_pool_size",
        "first_conv",
        "classifier",
        "license",
        "description",
        "origin_url",
        "paper_name",
        "paper_ids",
        "notes",
    ] {
        fields.skip(name);
    }
    fields.fixed("state_dict", Value::Null);
    // Classes that the library leaves out when it loads the weights.
    fields.fixed("label_offset", Value::Null);
    let image: [usize; 3] = fields.find("input_size").unwrap_or([3, 224, 224]);
    if image[0] != 3 || image[1..].contains(&0) {
        fields.refuse(
            "input_size",
            &json!(image),
            "supported are images of three channels",
        );
        return None;
    }
    let interpolation = match fields.find::<String>("interpolation").as_deref() {
        None | Some("bicubic") => Interpolation::Bicubic,
        Some("bilinear") => Interpolation::Bilinear,
        Some(other) => {
            fields.refuse(
                "interpolation",
                &json!(other),
                "supported are bicubic and bilinear",
            );
            return None;
        }
    };
    let fraction = fields
        .find("crop_pct")
        .filter(|&fraction: &f64| fraction != 0.0)
        .unwrap_or(0.875);
    if !(fraction > 0.0 && fraction <= 1.0) {
        fields.refuse(
            "crop_pct",
            &json!(fraction),
            "supported is a part of the image, above 0 and at most 1",
        );
        return None;
    }
    let [_, height, width] = image;
    // As the library: in double precision, rounded down.
    let [tall, wide] = [height, width].map(|extent| (extent as f64 / fraction).floor() as usize);
    let mode = fields
        .find::<String>("crop_mode")
        .unwrap_or_else(|| "center".into());
    let resized = match mode.as_str() {
        "squash" => Resized::To([tall, wide]),
        "center" if height == width => Resized::Short(tall),
        "center" => {
            let reason =
                format!("supported is squash where the input is not square, {height} by {width}");
            fields.refuse("crop_mode", &json!(mode), reason);
            return None;
        }
        _ => {
            fields.refuse("crop_mode", &json!(mode), "supported are center and squash");
            return None;
        }
    };
    let mean = fields.find("mean").unwrap_or([0.485, 0.456, 0.406]);
    let std = fields.find("std").unwrap_or([0.229, 0.224, 0.225]);
    if std.iter().any(|&std| std <= 0.0) {
        fields.refuse("std", &json!(std), "supported are numbers above 0");
    }
    Some(Preprocessing {
        image,
        interpolation,
        resized,
        mean,
        std,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    /// Fields that say nothing of what is computed at test time, as `PretrainedCfg` and the classes document them.
    const WITHOUT_INFLUENCE: &[&str] = &[
        // Where weights came from and who made them.
        "url",
        "file",
        "hf_hub_id",
        "hf_hub_filename",
        "source",
        "architecture",
        "tag",
        "custom_load",
        "label_names",
        "label_descriptions",
        "license",
        "description",
        "origin_url",
        "paper_name",
        "paper_ids",
        "notes",
        // What follows from the extents of the input, or is taken only where the library is told to.
        "test_input_size",
        "min_input_size",
        "fixed_input_size",
        "test_crop_pct",
        "pool_size",
        "test_pool_size",
        "first_conv",
        "classifier",
        // What only training sees.
        "drop_rate",
        "drop_path_rate",
        "drop_block_rate",
        "pos_drop_rate",
        "patch_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
        "zero_init_last",
        "head_init_scale",
        "weight_init",
        "fix_init",
        "bn_momentum",
        // Of another stem than the one supported, and where memory is.
        "stem_width",
        "device",
    ];

    /// What a file translates to, or its refusals.
    fn translated(document: &Value) -> Result<(Value, Option<Preprocessing>), Vec<String>> {
        let fields = document.as_object().unwrap();
        let translation = crate::published::translate(fields, None).unwrap();
        translation
            .map(|translation| (translation.document, translation.preprocessing))
            .map_err(|issues| issues.into_iter().map(|issue| issue.message).collect())
    }

    /// Values that differ from the default.
    fn others(value: &Value) -> Vec<Value> {
        match value {
            Value::Bool(value) => vec![json!(!value)],
            Value::Number(number) if number.is_f64() => vec![json!(0.25)],
            Value::Number(number) => vec![json!(number.as_u64().unwrap() * 2 + 2)],
            Value::String(_) => vec![json!("another"), json!("avg")],
            Value::Array(list) => {
                let twice = |n: &Value| match n.as_u64() {
                    Some(n) => json!(2 * n),
                    None => json!(0.75),
                };
                let mut other: Vec<Value> = list.iter().map(twice).collect();
                // Images keep their three channels.
                if list[0] == 3 && list.len() == 3 {
                    other[0] = json!(3);
                }
                vec![other.into()]
            }
            _ => vec![json!("another"), json!(1), json!([1, 2, 3, 4]), json!(true)],
        }
    }

    #[test]
    fn no_field_of_timms_classes_is_ignored_silently() {
        let table = include_str!("../../tests/fixtures/backbones/fields.json");
        let table: Map<String, Value> = serde_json::from_str(table).unwrap();
        let mut seen = 0;
        for (class, fields) in &table {
            let (architecture, place) = match class.as_str() {
                "pretrained_cfg" => ("resnet50", "pretrained_cfg"),
                class => (class, "model_args"),
            };
            let plain =
                json!({"architecture": architecture, "pretrained_cfg": {}, "model_args": {}});
            let unchanged = translated(&plain).unwrap();
            for (field, default) in fields.as_object().unwrap() {
                let with = |value: &Value| {
                    let mut document = plain.clone();
                    document[place][field] = value.clone();
                    translated(&document)
                };
                assert_eq!(
                    with(default),
                    Ok(unchanged.clone()),
                    "{class}: {field} by default"
                );
                let skipped = WITHOUT_INFLUENCE.contains(&field.as_str());
                // Any number says that there is LayerScale, and with which value training began.
                let values = match field.as_str() {
                    "ls_init_value" => vec![Value::Null],
                    _ => others(default),
                };
                for other in values.into_iter().filter(|other| other != default) {
                    match with(&other) {
                        Ok(translation) => assert!(
                            skipped || translation != unchanged,
                            "{class}: {field} = {other} is ignored"
                        ),
                        Err(refusals) => {
                            assert!(!skipped, "{class}: {field}: {refusals:?}");
                            let named = refusals.iter().any(|refusal| {
                                refusal.contains(&format!("timm configuration; field {field} = "))
                            });
                            assert!(named, "{class}: {field}: {refusals:?}");
                        }
                    }
                }
                seen += 1;
            }
        }
        assert!(seen > 130, "{seen}");
    }

    #[test]
    fn the_fields_beside_them_are_honoured_too() {
        let plain = json!({"architecture": "resnet50", "pretrained_cfg": {}});
        let unchanged = translated(&plain);
        for (field, value, same) in [
            ("num_features", json!(2048), true),
            ("label_names", json!(["a"]), true),
            ("label_descriptions", json!({}), true),
            ("num_classes", json!(7), false),
            ("global_pool", json!("avg"), true),
        ] {
            let mut document = plain.clone();
            document[field] = value;
            let found = translated(&document);
            assert!(found.is_ok(), "{field}: {found:?}");
            assert_eq!(found == unchanged, same, "{field}");
        }
        for (field, value) in [("global_pool", json!("max")), ("format", json!(1))] {
            let mut document = plain.clone();
            document[field] = value;
            let refusals = translated(&document).unwrap_err();
            assert!(
                refusals[0].contains(&format!("field {field} = ")),
                "{refusals:?}"
            );
        }
    }
}
