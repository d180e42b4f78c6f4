//! Breaks the feedback on purpose, as a control experiment.

use dtta_base::Issue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What feedback is about in a control run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// The denoiser sees the domain's next sample in the place of the sample itself, the last one its first.
    OtherImage,
}

impl Control {
    /// Which sample of so many the denoiser sees in the place of another.
    pub fn shown(self, place: usize, samples: usize) -> usize {
        match self {
            Self::OtherImage => (place + 1) % samples.max(1),
        }
    }

    /// That a domain of one sample has no other, by pointer within the method's configuration.
    pub fn contradictions(control: Option<Self>, domains: &[usize]) -> Vec<Issue> {
        match control {
            Some(Self::OtherImage) if domains.contains(&1) => vec![Issue::new(
                "/control",
                "a domain of one sample has no other image; the control would be the true run",
            )],
            _ => Vec::new(),
        }
    }
}
