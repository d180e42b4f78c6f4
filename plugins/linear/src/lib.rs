//! A head with a trainable layer of its own on top of a backbone's features: the layer's weights are
//! values that the host keeps, so they are loaded, adapted, reset and checkpointed as the backbone's.

use dtta_sdk::prelude::*;

/// Configuration of the linear head.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearHeadConfig {
    /// Features that the backbone gives.
    #[schemars(range(min = 1))]
    pub features: u32,
    /// Classes.
    #[schemars(range(min = 1))]
    pub classes: u32,
    /// Centres the features by a running mean over the batches that are adapted to, which each batch moves by this share.
    /// Features are taken as they are if absent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub momentum: Option<f64>,
}

// Places in the declaration.
const WEIGHT: u32 = 0;
const BIAS: u32 = 1;
const MEAN: u32 = 2;

/// `softmax(W (x - m) + b)` of `features` `[B, D]`.
///
/// - `forward` gives `logits` and `probabilities` `[B, N]`.
/// - `predict` gives `class` (int, `[B]`) and `confidence` (float, `[B]`).
pub struct LinearHead {
    config: LinearHeadConfig,
}

impl Head for LinearHead {
    type Config = LinearHeadConfig;
    const PREDICTS: Option<Predicts> = Some(Predicts::class_index("class"));

    fn create(config: LinearHeadConfig) -> Result<Self> {
        if config
            .momentum
            .is_some_and(|share| !(0.0..=1.0).contains(&share))
        {
            return Err(Error::config("`momentum` is not within 0 and 1"));
        }
        Ok(Self { config })
    }

    fn declare(&self) -> Vec<ValueSpec> {
        let LinearHeadConfig {
            features,
            classes,
            momentum,
        } = self.config;
        let value = |name: &str, storage, shape: &[u32], hints: &[(&str, &str)]| ValueSpec {
            name: name.into(),
            storage,
            shape: shape.to_vec(),
            attributes: hints
                .iter()
                .map(|&(key, hint)| (key.into(), hint.into()))
                .collect(),
        };
        let head = ("group", "head");
        let mut values = vec![
            value(
                "weight",
                Storage::Parameter,
                &[classes, features],
                &[("init", "kaiming-uniform"), head],
            ),
            value(
                "bias",
                Storage::Parameter,
                &[classes],
                &[("init", "zeros"), head],
            ),
        ];
        if momentum.is_some() {
            values.push(value(
                "mean",
                Storage::Buffer,
                &[features],
                &[("init", "zeros")],
            ));
        }
        values
    }

    fn forward(&self, inputs: &Named, session: &Session) -> Result<Named> {
        let mut features = inputs.get("features")?.share()?;
        if let Some(momentum) = self.config.momentum {
            let mean = session.buffer(MEAN)?;
            let newest = features.mean(&[0], false)?.detach()?;
            let moved = mean
                .affine(1.0 - momentum, 0.0)?
                .add(&newest.affine(momentum, 0.0)?)?;
            features = features.sub(&mean.unsqueeze(0)?)?;
            session.update_buffer(MEAN, moved)?;
        }
        let weight = session.parameter(WEIGHT)?.permute(&[1, 0])?;
        let bias = session.parameter(BIAS)?.unsqueeze(0)?;
        let logits = features.matmul(&weight)?.add(&bias)?;
        let probabilities = logits.softmax(-1)?;
        Ok(Named::one("logits", logits).with("probabilities", probabilities))
    }

    fn predict(&self, outputs: &Named, _session: &Session) -> Result<Named> {
        let probabilities = outputs.get("probabilities")?;
        Ok(Named::one("class", probabilities.argmax(-1)?)
            .with("confidence", probabilities.amax(&[-1], false)?))
    }
}

export_plugin! { head: LinearHead }

#[cfg(test)]
mod tests {
    use dtta_testkit::{Inputs, Kit, TensorSpec};
    use serde_json::json;

    #[test]
    fn conforms() {
        let inputs = Inputs {
            features: [("features".into(), TensorSpec::floats(&[4, 6]))].into(),
            ..Inputs::default()
        };
        for config in [
            json!({"features": 6, "classes": 3}),
            json!({"features": 6, "classes": 3, "momentum": 0.1}),
        ] {
            Kit::linked("linear", super::plugin_entry)
                .config(dtta_testkit::Role::Head, config)
                .inputs(inputs.clone())
                .check()
                .expect_passed();
        }
    }
}
