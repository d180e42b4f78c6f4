//! In which order samples come: those of a domain, and those of several domains among each other.

use dtta_base::keyed_rng;
use rand_distr::{Distribution, Gamma};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StreamConfig;
use crate::DataError;
use crate::random::{unit, up_to};

/// In which order a domain's samples come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LabelOrder {
    /// Shuffled.
    #[default]
    Shuffled,
    /// So that samples of a class come close together, as frames of a video do: a domain is cut into as many slots as it has classes, and a
    /// Dirichlet distribution says how each class is dealt over them (Yuan et al. 2023).
    Dirichlet {
        /// The distribution's concentration; the smaller, the closer together. 0.1 in most publications.
        concentration: Concentration,
    },
}

/// The concentration of a symmetric Dirichlet distribution: a finite number above 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schemars(extend("exclusiveMinimum" = 0))]
pub struct Concentration(f64);

impl TryFrom<f64> for Concentration {
    type Error = DataError;

    fn try_from(number: f64) -> Result<Self, DataError> {
        match number.is_finite() && number > 0.0 {
            true => Ok(Self(number)),
            false => Err(DataError::Concentration { actual: number }),
        }
    }
}

impl From<Concentration> for f64 {
    fn from(concentration: Concentration) -> Self {
        concentration.0
    }
}

/// Samples in the order of slots over which their classes are dealt; `labels` of the whole dataset, by the samples' numbers.
pub(super) fn dealt(
    indices: &[usize],
    labels: &[u32],
    concentration: Concentration,
    seed: u64,
) -> Vec<usize> {
    let mut classes: Vec<u32> = indices.iter().map(|&index| labels[index]).collect();
    classes.sort_unstable();
    classes.dedup();
    let mut slots: Vec<Vec<&[usize]>> = vec![Vec::new(); classes.len()];
    let members = classes.iter().map(|&class| {
        let of_class = indices.iter().filter(|&&index| labels[index] == class);
        of_class.copied().collect::<Vec<usize>>()
    });
    let members: Vec<Vec<usize>> = members.collect();
    for (class, members) in classes.iter().zip(&members) {
        let key = [&seed.to_le_bytes()[..], &class.to_le_bytes()[..]];
        let shares = dirichlet(slots.len(), concentration, &mut keyed_rng("slots", &key));
        let (mut dealt, mut start) = (0.0, 0);
        for (slot, share) in slots.iter_mut().zip(shares) {
            dealt += share;
            let end = ((dealt * members.len() as f64).round() as usize).clamp(start, members.len());
            slot.push(&members[start..end]);
            start = end;
        }
        // Rounding may leave the last ones.
        if let Some(last) = slots.last_mut() {
            last.push(&members[start..]);
        }
    }
    for (number, slot) in slots.iter_mut().enumerate() {
        let key = [seed.to_le_bytes(), (number as u64).to_le_bytes()];
        shuffle(slot, &mut keyed_rng("slot", &[&key[0], &key[1]]));
    }
    slots.concat().concat()
}

/// A draw from a symmetric Dirichlet distribution. By logarithms, since draws of a small concentration are too small for numbers.
fn dirichlet(
    count: usize,
    concentration: Concentration,
    rng: &mut impl rand_chacha::rand_core::Rng,
) -> Vec<f64> {
    let Concentration(alpha) = concentration;
    let Ok(gamma) = Gamma::new(alpha + 1.0, 1.0) else {
        return vec![1.0 / count as f64; count];
    };
    // Gamma(α) is Gamma(α + 1) · U^(1/α) (Marsaglia and Tsang 2000).
    let logarithms: Vec<f64> = (0..count)
        .map(|_| gamma.sample(rng).ln() + (1.0 - unit(rng)).ln() / alpha)
        .collect();
    let most = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let parts: Vec<f64> = logarithms.iter().map(|log| (log - most).exp()).collect();
    let sum: f64 = parts.iter().sum();
    parts.iter().map(|part| part / sum).collect()
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], rng: &mut impl rand_chacha::rand_core::Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, up_to(rng, last));
    }
}

/// Which sample of which domain a position of the stream is. A *segment* is what no batch crosses: a domain, or, where domains are mixed, a
/// round of all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Where each segment starts, and where the last one ends.
    bounds: Vec<usize>,
    /// Domain and place in it of each position, where domains are mixed.
    mixed: Option<Vec<(usize, usize)>>,
}

impl Order {
    /// Of domains, all rounds of them, with so many samples each.
    pub fn new(config: &StreamConfig, lengths: &[usize], seed: u64) -> Self {
        match config.mixed {
            false => Self::in_turn(lengths),
            true => Self::mixed(
                lengths,
                (lengths.len() / usize::from(config.rounds.get())).max(1),
                seed,
            ),
        }
    }

    /// One domain after the other.
    pub(super) fn in_turn(lengths: &[usize]) -> Self {
        Self {
            bounds: bounds(lengths.iter().copied()),
            mixed: None,
        }
    }

    /// The domains of each round among each other.
    fn mixed(lengths: &[usize], per_round: usize, seed: u64) -> Self {
        let rounds = lengths.chunks(per_round);
        let bounds = bounds(rounds.clone().map(|lengths| lengths.iter().sum()));
        let mut mixed = Vec::new();
        for (round, lengths) in rounds.enumerate() {
            let start = mixed.len();
            for (domain, &length) in lengths.iter().enumerate() {
                mixed.extend((0..length).map(|place| (round * per_round + domain, place)));
            }
            let key = [seed.to_le_bytes(), (round as u64).to_le_bytes()];
            let mut rng = keyed_rng("mixed", &[&key[0], &key[1]]);
            shuffle(&mut mixed[start..], &mut rng);
        }
        Self {
            bounds,
            mixed: Some(mixed),
        }
    }

    /// Samples in each segment.
    pub fn segments(&self) -> Vec<usize> {
        let pairs = self.bounds.windows(2);
        pairs.map(|pair| pair[1] - pair[0]).collect()
    }

    /// Where the segment of a position starts, and how many samples it has.
    pub fn segment(&self, position: usize) -> (usize, usize) {
        let number = self.bounds.partition_point(|&bound| bound <= position);
        let number = number.clamp(1, self.bounds.len() - 1);
        let start = self.bounds[number - 1];
        (start, self.bounds[number] - start)
    }

    /// The domain of a position and the place within it; nothing beyond the end.
    pub fn place(&self, position: usize) -> Option<(usize, usize)> {
        match &self.mixed {
            Some(mixed) => mixed.get(position).copied(),
            None => {
                let number = self.bounds.partition_point(|&bound| bound <= position);
                let start = self.bounds[number - 1];
                (number < self.bounds.len()).then_some((number - 1, position - start))
            }
        }
    }
}

/// Where pieces of such lengths start, and where the last one ends.
fn bounds(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let starts = lengths.scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    std::iter::once(0).chain(starts).collect()
}
