//! Units: the smallest pieces of a run that can be computed by themselves. In single-sample mode that is a batch, since every sample has
//! weights of its own (and a batch of other samples rounds its sums otherwise); in online mode, what lies between two resets. A shard is a
//! run of units, so shards give the records of the unbroken run bit for bit.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::experiment::{AdaptationConfig, Mode, Reset};

/// Which part of a run a process takes: number `index`, from 0, of `count`. Written `3/8`, as `{JOB_COMPLETION_INDEX}/{COMPLETIONS}` of
/// Kubernetes and `{RANK}/{WORLD_SIZE}` of torchrun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// All of it.
    pub fn whole() -> Self {
        Self { index: 0, count: 1 }
    }

    /// Number `index`, from 0, of `count`; nothing if there is no such number.
    pub fn new(index: usize, count: usize) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// Its number, from 0.
    pub fn index(self) -> usize {
        self.index
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// Whether it is all.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(index, count)| {
            Some((index.parse::<usize>().ok()?, count.parse::<usize>().ok()?))
        });
        let (index, count) = numbers.ok_or_else(|| {
            format!("`{text}` is not a shard; expected INDEX/COUNT, such as `3/8`")
        })?;
        Self::new(index, count).ok_or_else(|| {
            format!("`{text}` is not a shard; the index counts from 0 and is below the count")
        })
    }
}

/// The batches of a stream with segments of these lengths, as positions. No batch crosses from one segment into the next.
pub(crate) fn batches(segments: &[usize], size: usize) -> Vec<Range<usize>> {
    let (mut batches, mut start, size) = (Vec::new(), 0, size.max(1));
    for &length in segments {
        let end = start + length;
        let firsts = (start..end).step_by(size);
        batches.extend(firsts.map(|first| first..end.min(first.saturating_add(size))));
        start = end;
    }
    batches
}

/// The units of a stream with segments of these lengths.
pub(crate) fn units(segments: &[usize], adaptation: &AdaptationConfig) -> Vec<Range<usize>> {
    let reset = match adaptation.mode {
        Mode::SingleSample {} => return batches(segments, adaptation.batch),
        Mode::Online { reset } => reset,
    };
    match reset {
        Reset::Every(every) => batches(segments, every.get()),
        Reset::Domain => batches(segments, usize::MAX),
        Reset::Never => std::iter::once(0..segments.iter().sum()).collect(),
    }
}

/// The positions of a shard: its share of the units, in stream order.
///
/// # Errors
/// [`Error::Shard`] if there are fewer units than shards.
pub(super) fn range(units: &[Range<usize>], mode: Mode, shard: Shard) -> Result<Range<usize>> {
    let Shard { index, count } = shard;
    if count > 1 && units.len() < count {
        let reason = match (units, mode) {
            ([_], Mode::SingleSample {}) => {
                "it has only one batch; a smaller `/adaptation/batch` makes more".into()
            }
            (
                [_],
                Mode::Online {
                    reset: Reset::Never,
                },
            ) => "its weights are never reset, so every sample depends on those before it".into(),
            (units, _) => format!(
                "it has only {} independent unit{} (batches in single-sample mode, windows between resets online)",
                units.len(),
                if units.len() == 1 { "" } else { "s" }
            ),
        };
        return Err(Error::Shard { count, reason });
    }
    let first = units.len() * index / count;
    let last = units.len() * (index + 1) / count;
    match (
        units.get(first),
        last.checked_sub(1).and_then(|n| units.get(n)),
    ) {
        (Some(start), Some(end)) => Ok(start.start..end.end),
        _ => Ok(0..0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn adaptation(mode: serde_json::Value, batch: usize) -> AdaptationConfig {
        serde_json::from_value(json!({"mode": mode, "batch": batch})).unwrap()
    }

    #[test]
    fn units_end_where_nothing_is_carried_on() {
        let domains = [5, 3];
        let cut = |mode, batch| units(&domains, &adaptation(mode, batch));
        assert_eq!(
            cut(json!({"kind": "single_sample"}), 2),
            [0..2, 2..4, 4..5, 5..7, 7..8]
        );
        assert_eq!(cut(json!({"kind": "online"}), 2), [0..5, 5..8]);
        assert_eq!(
            cut(json!({"kind": "online", "reset": {"every": 4}}), 2),
            [0..4, 4..5, 5..8]
        );
        let never = cut(json!({"kind": "online", "reset": "never"}), 2);
        assert_eq!((never.len(), never[0].clone()), (1, 0..8));
        let refused = |units: &[Range<usize>], mode| {
            let mode = adaptation(mode, 1).mode;
            let error = range(units, mode, "1/2".parse().unwrap()).unwrap_err();
            error.to_string()
        };
        let carried = refused(&never, json!({"kind": "online", "reset": "never"}));
        assert!(carried.contains("never reset"), "{carried}");
        // One unit has other causes elsewhere.
        let one = &never[..];
        let batch = refused(one, json!({"kind": "single_sample"}));
        assert!(
            batch.contains("one batch") && !batch.contains("never reset"),
            "{batch}"
        );
        let domain = refused(one, json!({"kind": "online"}));
        assert!(domain.contains("only 1 independent unit ("), "{domain}");
    }

    #[test]
    fn reads_what_it_writes_and_counts_from_zero() {
        let shard: Shard = "3/8".parse().unwrap();
        assert_eq!((shard.index(), shard.count()), (3, 8));
        assert_eq!(shard.to_string(), "3/8");
        for text in ["8/8", "1/0", "3", "a/8", "-1/8", "0/8/2"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn shards_cover_the_stream_once(domains in proptest::collection::vec(1usize..20, 1..6), batch in 1usize..7, count in 1usize..12) {
            let units = units(&domains, &adaptation(json!({"kind": "single_sample"}), batch));
            let total: usize = domains.iter().sum();
            if count <= units.len() {
                let mut next = 0;
                for index in 0..count {
                    let range = range(&units, Mode::SingleSample {}, Shard::new(index, count).unwrap()).unwrap();
                    prop_assert_eq!(range.start, next);
                    prop_assert!(!range.is_empty());
                    next = range.end;
                }
                prop_assert_eq!(next, total);
            }
        }
    }
}
