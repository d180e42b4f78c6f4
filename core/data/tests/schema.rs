//! The JSON Schema that editors and `dtta schema` show must refuse what deserialisation refuses.

use dtta_data::{DatasetConfig, StreamConfig, Transform};
use serde_json::{Value, json};

/// Every object schema with properties, anywhere in the document.
fn objects<'a>(schema: &'a Value, found: &mut Vec<&'a Value>) {
    match schema {
        Value::Object(entries) => {
            if entries.contains_key("properties") {
                found.push(schema);
            }
            entries.values().for_each(|value| objects(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| objects(value, found)),
        _ => {}
    }
}

#[test]
fn every_object_refuses_unknown_fields_and_describes_its_own() {
    let schemas = [
        serde_json::to_value(schemars::schema_for!(DatasetConfig)).unwrap(),
        serde_json::to_value(schemars::schema_for!(StreamConfig)).unwrap(),
        serde_json::to_value(schemars::schema_for!(Transform)).unwrap(),
    ];
    for schema in &schemas {
        let mut found = Vec::new();
        objects(schema, &mut found);
        assert!(!found.is_empty());
        for object in found {
            assert_eq!(object["additionalProperties"], false, "{object:#}");
            let properties = object["properties"].as_object().unwrap();
            for (name, property) in properties {
                assert!(
                    name == "kind" || property.get("description").is_some(),
                    "`{name}` of {object:#}"
                );
            }
        }
    }
}

#[test]
fn unknown_fields_are_refused_in_each_kind_of_dataset() {
    for (fine, extra) in [
        (json!({ "kind": "idx", "split": "train" }), "splits"),
        (
            json!({ "kind": "folder", "path": "x", "channels": "rgb" }),
            "colour",
        ),
        (json!({ "kind": "packed", "path": "x" }), "split"),
        (
            json!({ "kind": "paired", "images": "x", "channels": "rgb" }),
            "masks",
        ),
    ] {
        assert!(serde_json::from_value::<DatasetConfig>(fine.clone()).is_ok());
        let mut refused = fine;
        refused[extra] = json!(1);
        let error = serde_json::from_value::<DatasetConfig>(refused)
            .unwrap_err()
            .to_string();
        assert!(error.contains(extra), "{error}");
    }
}

#[test]
fn configurations_survive_a_round_trip() {
    let config = json!({
        "domains": [
            { "kind": "clean" },
            { "kind": "corrupted", "corruption": "shot_noise", "severity": 4, "samples": 3 },
            {
                "kind": "stored",
                "name": "fog/5",
                "dataset": { "kind": "folder", "path": "imagenet-c/fog/5", "channels": "rgb" },
                "offset": 4
            }
        ],
        "samples": 10,
        "offset": 2,
        "stratified": true
    });
    let parsed: StreamConfig = serde_json::from_value(config.clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), config);
}

#[test]
fn the_schema_takes_named_targets_and_names_what_is_wrong_with_one() {
    let config = json!({
        "kind": "paired", "images": "images", "channels": "rgb", "classes": "classes.json",
        "targets": {
            "labels": { "kind": "label_map", "path": "masks", "ignore_index": 255 },
            "normals": {
                "kind": "number_map", "path": "normals", "channels": 3, "scale": 0.0078125, "offset": -1.0, "negated_by_flip": [0]
            }
        }
    });
    let parsed: DatasetConfig = dtta_base::parse(config.clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), config);
    for (pointer, value) in [
        ("/targets/normals/channels", json!(2)),
        ("/targets/normals/scale", json!(0)),
        ("/targets/labels/ignore_index", json!(256)),
    ] {
        let mut refused = config.clone();
        *refused.pointer_mut(pointer).unwrap() = value;
        let issues = dtta_base::parse::<DatasetConfig>(refused).unwrap_err();
        assert!(
            issues.iter().any(|issue| issue.pointer == pointer),
            "{issues:?}"
        );
    }
}
