//! A task as data: what the SDK writes into a descriptor is what the host reads, the plugins that ship say what they are, and
//! what does not keep to its description is told so.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

use dtta_base::TargetType;
use dtta_plugin::{Environment, Picture, Plugin, PluginError, Predicts, ScoreSpec, Values};
use dtta_sdk as sdk;
use dtta_tensor::{Device, Named, Tensor};
use dtta_testkit::{Kit, Report};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// What the host makes of what the SDK writes. Neither may have a field that the other lacks.
fn read<T: DeserializeOwned + Serialize>(written: &impl Serialize) -> T {
    let document = serde_json::to_value(written).unwrap();
    let read: T = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), document);
    read
}

#[test]
fn the_host_reads_the_predictions_that_the_sdk_writes() {
    let of = sdk::Predicts::number_map("it");
    for (written, target) in [
        (sdk::Predicts::class_index("it"), TargetType::ClassIndex {}),
        (
            sdk::Predicts::label_map("it"),
            TargetType::LabelMap { ignore: 255 },
        ),
        (
            sdk::Predicts::label_map("it").ignore(-1),
            TargetType::LabelMap { ignore: -1 },
        ),
        (
            of,
            TargetType::NumberMap {
                channels: 1,
                invalid: 0.0,
            },
        ),
        (
            of.channels(3).invalid(-1.0),
            TargetType::NumberMap {
                channels: 3,
                invalid: -1.0,
            },
        ),
    ] {
        let expected = Predicts {
            name: "it".into(),
            target,
            picture: None,
        };
        assert_eq!(read::<Predicts>(&written), expected);
    }
}

#[test]
fn the_host_reads_the_pictures_that_the_sdk_writes() {
    use {dtta_plugin as host, sdk::Picture as Written};
    let scales = [
        (sdk::ColourScale::Linear, host::ColourScale::Linear),
        (sdk::ColourScale::Log, host::ColourScale::Log),
    ];
    let errors = [
        (sdk::PixelError::Absolute, host::PixelError::Absolute),
        (sdk::PixelError::Relative, host::PixelError::Relative),
    ];
    for ((scale, scale_read), (error, error_read)) in scales.into_iter().zip(errors) {
        let written = Written::ColourMap {
            scale,
            reverse: true,
            error,
            worst: 0.5,
        };
        let expected = Picture::ColourMap {
            scale: scale_read,
            reverse: true,
            error: error_read,
            worst: 0.5,
        };
        assert_eq!(read::<Picture>(&written), expected);
    }
    let written = Written::Rgb {
        low: -1.0,
        high: 1.0,
        worst: 2.0,
    };
    let expected = Picture::Rgb {
        low: -1.0,
        high: 1.0,
        worst: 2.0,
    };
    assert_eq!(read::<Picture>(&written), expected);
    for colours in [&[][..], &[[1, 2, 3], [4, 5, 6]]] {
        let expected = Picture::Palette {
            colours: colours.to_vec(),
        };
        assert_eq!(read::<Picture>(&Written::Palette { colours }), expected);
    }
}

#[test]
fn the_host_reads_the_scores_that_the_sdk_writes() {
    let score = |higher_is_better, unit: Option<&'static str>, leads| ScoreSpec {
        name: "it".into(),
        higher_is_better,
        unit: unit.map(Into::into),
        leads,
    };
    for (written, expected) in [
        (sdk::Score::neutral("it"), score(None, None, false)),
        (
            sdk::Score::higher("it").share().leading(),
            score(Some(true), Some("share"), true),
        ),
        (
            sdk::Score::lower("it").unit("m"),
            score(Some(false), Some("m"), false),
        ),
    ] {
        assert_eq!(read::<ScoreSpec>(&written), expected);
    }
}

#[test]
fn the_plugins_that_ship_say_what_they_are() {
    let linked = |name, entry| Plugin::linked(name, entry).unwrap();
    let plugins = [
        linked("accuracy", dtta_plugin_accuracy::plugin_entry),
        linked("classification", dtta_plugin_classification::plugin_entry),
        linked("depth", dtta_plugin_depth::plugin_entry),
        linked("entropy", dtta_plugin_entropy::plugin_entry),
        linked("linear", dtta_plugin_linear::plugin_entry),
        linked("segmentation", dtta_plugin_segmentation::plugin_entry),
    ];
    let said = plugins.each_ref().map(|plugin| {
        let leads = plugin.scores().iter().find(|score| score.leads);
        (
            plugin.predicts().map(|predicts| &*predicts.name),
            leads.map(|score| &*score.name),
            plugin.additive(),
        )
    });
    assert_eq!(
        said,
        [
            (None, Some("accuracy"), true),
            (Some("class"), None, false),
            (Some("depth"), Some("abs_rel"), true),
            (None, None, false),
            (Some("class"), None, false),
            (Some("labels"), Some("miou"), true),
        ]
    );
    let [accuracy, _, depth, ..] = &plugins;
    let top = ScoreSpec::of(accuracy.scores(), "top5_accuracy").unwrap();
    assert_eq!((top.higher_is_better, top.is_share()), (Some(true), true));
    let error = ScoreSpec::of(depth.scores(), "rmse").unwrap();
    assert_eq!(
        (error.higher_is_better, error.is_share()),
        (Some(false), false)
    );
}

/// A head and a metric that do not keep to what they say.
mod boasting {
    use dtta_sdk::prelude::*;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Config {}

    pub struct Boasting;

    impl Head for Boasting {
        type Config = Config;
        const PREDICTS: Option<Predicts> = Some(Predicts::label_map("labels"));

        fn create(_config: Config) -> Result<Self> {
            Ok(Self)
        }

        fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
            Ok(Named::one("logits", inputs.get("logits")?.share()?))
        }

        fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
            let logits = outputs.get("logits")?;
            let name = match logits.shape()?.len() {
                2 => "labels",
                _ => "classes",
            };
            Ok(Named::one(name, logits.argmax(1)?))
        }
    }

    /// What is kept of the samples: their number, and a mean that adds up to nothing.
    #[derive(Default, Serialize, Deserialize)]
    pub struct State {
        samples: u64,
        last: u64,
    }

    impl Metric for Boasting {
        type Config = Config;
        type State = State;
        const SCORES: &'static [Score] = &[Score::higher("right").leading()];
        const ADDITIVE: bool = true;

        fn create(_config: Config) -> Result<Self> {
            Ok(Self)
        }

        fn score(&self, predictions: &Named, _: &Named, _: &Session) -> Result<State> {
            let rows = predictions.get("class")?.shape()?[0].into();
            Ok(State {
                samples: rows,
                last: rows,
            })
        }

        fn merge(&self, state: &mut State, other: State) {
            state.samples += other.samples;
            state.last = state.last.max(other.last);
        }

        fn report(&self, state: &State) -> Scores {
            match state.samples {
                0 => Scores::new(),
                samples => [("samples".to_owned(), samples as f64)].into(),
            }
        }
    }

    export_plugin! { head: Boasting, metric: Boasting }
}

#[test]
fn a_head_that_predicts_something_else_is_told_so() {
    let plugin = Plugin::linked("boasting", boasting::plugin_entry).unwrap();
    let mut head = plugin.head(&json!({}), &Environment::default()).unwrap();
    let logits = Tensor::full(&[2, 5], 0.0, &Device::cpu()).unwrap();
    let outputs = head
        .forward(&Named::one("logits", logits), &mut Values::none())
        .unwrap();
    let error = head.predict(&outputs).unwrap_err();
    assert!(matches!(error, PluginError::Output { .. }), "{error}");
    assert!(
        error.to_string().contains(
            "head.predict: it predicted `labels` as int [2], expected int [2, any, any], since its description says label map"
        ),
        "{error}"
    );
}

/// A classifier's head that takes an axis which images of classes do not have.
mod mistaken {
    use dtta_sdk::prelude::*;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Config {}

    pub struct Mistaken;

    impl Head for Mistaken {
        type Config = Config;
        const PREDICTS: Option<Predicts> = Some(Predicts::class_index("class"));

        fn create(_config: Config) -> Result<Self> {
            Ok(Self)
        }

        fn forward(&self, inputs: &Named, _session: &Session) -> Result<Named> {
            Ok(Named::one(
                "probabilities",
                inputs.get("logits")?.softmax(2)?,
            ))
        }

        fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
            Ok(Named::one(
                "class",
                outputs.get("probabilities")?.argmax(-1)?,
            ))
        }
    }

    export_plugin! { head: Mistaken }
}

#[test]
fn a_mistake_in_a_head_is_told_on_an_example_of_its_task() {
    let report: Report = Kit::linked("mistaken", mistaken::plugin_entry).check();
    let text = report.to_string();
    assert!(
        text.contains("axis 2 is not an axis of shape [3, 5]"),
        "{text}"
    );
    assert!(!text.contains("segmenter"), "{text}");
}

#[test]
fn the_kit_finds_what_a_plugin_boasts_of() {
    let report: Report = Kit::linked("boasting", boasting::plugin_entry).check();
    let failed: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.failure.is_some())
        .map(|check| check.name.as_str())
        .collect();
    assert_eq!(
        failed,
        [
            "it predicts from its own outputs",
            "its scores are those that its description names",
            "what it saves are whole numbers that add up, as its description says",
        ],
        "{report}"
    );
}
