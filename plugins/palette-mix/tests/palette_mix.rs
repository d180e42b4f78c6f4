//! What the mapper gives for inputs small enough to work out by hand, and what it refuses.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use dtta_plugin::{Environment, Mapper, Plugin, PluginError, SlotSpec, Values};
use dtta_tensor::{Device, Named, Tensor};
use serde_json::{Value, json};

fn mapper(config: &Value, shape: [usize; 3]) -> Result<Box<dyn Mapper>, PluginError> {
    let plugin = Plugin::linked("palette-mix", dtta_plugin_palette_mix::plugin_entry).unwrap();
    let slots = [SlotSpec {
        name: "spatial".into(),
        meaning: "spatial".into(),
        shape: [None, Some(shape[0]), Some(shape[1]), Some(shape[2])].into(),
    }];
    plugin.mapper(config, &slots, &Environment::default())
}

fn probabilities(shape: &[usize], values: &[f32]) -> Named {
    let tensor = Tensor::from_floats(values, shape, &Device::cpu()).unwrap();
    Named::one("probabilities", tensor)
}

fn condition(mapper: &mut dyn Mapper, outputs: &Named) -> Result<Vec<f32>, PluginError> {
    let found = mapper.condition(outputs, &mut Values::none())?;
    Ok(found.get("spatial").unwrap().to_floats().unwrap())
}

#[test]
fn colours_are_mixed_by_probability_in_each_pixel() {
    let config = json!({"palette": [[255, 0, 51], [0, 102, 255]]});
    let mut mapper = mapper(&config, [3, 1, 2]).unwrap();
    // The first pixel is the first class alone; the second a quarter of it.
    let outputs = probabilities(&[1, 2, 1, 2], &[1.0, 0.25, 0.0, 0.75]);
    let found = condition(&mut *mapper, &outputs).unwrap();
    let expected = [1.0, 0.25, 0.0, 0.75 * 0.4, 0.2, 0.25 * 0.2 + 0.75];
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn a_smaller_slot_has_the_mean_of_what_it_covers_and_a_larger_one_repeats() {
    let config = json!({"palette": [[255, 255, 255], [0, 0, 0]]});
    let outputs = probabilities(&[1, 2, 1, 4], &[1.0, 0.5, 0.25, 0.75, 0.0, 0.5, 0.75, 0.25]);
    let mut smaller = mapper(&config, [3, 1, 2]).unwrap();
    let found = condition(&mut *smaller, &outputs).unwrap();
    assert_eq!(found, [0.75, 0.5, 0.75, 0.5, 0.75, 0.5]);
    let mut larger = mapper(&config, [3, 2, 4]).unwrap();
    let found = condition(&mut *larger, &outputs).unwrap();
    assert_eq!(found[..8], [1.0, 0.5, 0.25, 0.75, 1.0, 0.5, 0.25, 0.75]);
}

#[test]
fn ade20k_has_a_colour_for_each_of_its_150_classes() {
    let mut mapper = mapper(&json!({"palette": "ade20k"}), [3, 1, 1]).unwrap();
    let mut colours = Vec::new();
    for class in 0..150 {
        let mut values = vec![0.0; 150];
        values[class] = 255.0;
        let found = condition(&mut *mapper, &probabilities(&[1, 150, 1, 1], &values)).unwrap();
        colours.push([0, 1, 2].map(|channel: usize| found[channel].round() as u8));
    }
    // Wall, building, sky, person and flag.
    for (class, colour) in [
        (0, [120, 120, 120]),
        (1, [180, 120, 120]),
        (2, [6, 230, 230]),
        (12, [150, 5, 61]),
        (149, [92, 0, 255]),
    ] {
        assert_eq!(colours[class], colour, "{class}");
    }
    // All of them, as others have the list (FNV-1a, 64 bits, over the 450 numbers in order).
    let digest = colours
        .as_flattened()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    assert_eq!(digest, 0x46d4_e09a_2cbf_64cc);
    // Road and skyscraper have the same; all others have their own.
    assert_eq!(colours[6], colours[48]);
    colours.sort_unstable();
    colours.dedup();
    assert_eq!(colours.len(), 149);
}

#[test]
fn refuses_other_classes_slots_and_palettes() {
    let of = |config: Value, shape| mapper(&config, shape).map(|_| ()).unwrap_err().to_string();
    let grey = of(json!({"palette": "ade20k"}), [1, 2, 2]);
    assert!(grey.contains("of 1 channels"), "{grey}");
    assert!(of(json!({"palette": "coco"}), [3, 2, 2]).contains("palette"));
    assert!(of(json!({"palette": []}), [3, 2, 2]).contains("palette"));
    assert!(of(json!({"palette": [[0, 0, 256]]}), [3, 2, 2]).contains("palette"));
    let mut mapper = mapper(&json!({"palette": "ade20k"}), [3, 2, 2]).unwrap();
    let outputs = probabilities(&[1, 19, 1, 1], &[0.0; 19]);
    let message = condition(&mut *mapper, &outputs).unwrap_err().to_string();
    assert!(message.contains("[B, 150, H, W]"), "{message}");
}
