//! Masks of patches as a function of (seed, sample id, step, mask), never of a generator's state.

use dtta_base::keyed_rng;
use rand_distr::{Distribution, StandardUniform};

/// Random masks of a share of an image's patches (He et al. 2022, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masks {
    seed: u64,
    patches: usize,
    visible: usize,
}

impl Masks {
    /// Of this share of so many patches, rounded up as in the reference.
    ///
    /// # Errors
    /// What is wrong with a share that masks none of the patches, or all.
    pub fn new(seed: u64, ratio: f64, patches: usize) -> Result<Self, String> {
        let visible = (patches as f64 * (1.0 - ratio)) as usize;
        if visible == 0 || visible >= patches {
            let masked = patches.saturating_sub(visible);
            return Err(format!(
                "is {ratio}, which masks {masked} of {patches} patches; expected some, and some that are visible"
            ));
        }
        Ok(Self {
            seed,
            patches,
            visible,
        })
    }

    /// The visible patches of a sample under one of a step's masks, ascending.
    pub fn visible(&self, id: &str, step: usize, mask: usize) -> Vec<usize> {
        let [step, mask] = [step, mask].map(|count| (count as u64).to_le_bytes());
        let key: [&[u8]; 4] = [&self.seed.to_le_bytes(), id.as_bytes(), &step, &mask];
        let mut rng = keyed_rng("mask", &key);
        let mut drawn: Vec<(f64, usize)> = (0..self.patches)
            .map(|patch| (StandardUniform.sample(&mut rng), patch))
            .collect();
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut visible: Vec<usize> = drawn[..self.visible].iter().map(|&(_, n)| n).collect();
        visible.sort_unstable();
        visible
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_depends_on_seed_sample_step_and_number_alone() {
        let masks = Masks::new(7, 0.75, 196).unwrap();
        let first = masks.visible("a", 0, 0);
        assert_eq!(first, masks.visible("a", 0, 0));
        assert!(first.len() == 49 && first.windows(2).all(|pair| pair[0] < pair[1]));
        let other_seed = Masks::new(8, 0.75, 196).unwrap();
        for other in [
            masks.visible("b", 0, 0),
            masks.visible("a", 1, 0),
            masks.visible("a", 0, 1),
            other_seed.visible("a", 0, 0),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn every_patch_is_masked_as_often_as_any_other() {
        // 4 of 16 visible in 4,000 masks: 1,000 each, with a standard deviation of √(4000 · 1/4 · 3/4) = 27.4.
        let masks = Masks::new(1, 0.75, 16).unwrap();
        let mut seen = [0.0; 16];
        for mask in 0..4000 {
            for patch in masks.visible("a", 0, mask) {
                seen[patch] += 1.0;
            }
        }
        assert!(
            seen.iter()
                .all(|count: &f64| (count - 1000.0).abs() < 5.0 * 27.4),
            "{seen:?}"
        );
    }

    #[test]
    fn shares_that_leave_nothing_to_say_or_nothing_to_see_are_refused() {
        // 16 (1 - 0.95) = 0.8 patches; 4 (1 - 0.75) = 1.
        assert!(Masks::new(0, 0.95, 16).is_err());
        assert!(Masks::new(0, 0.0, 16).is_err());
        assert!(Masks::new(0, f64::NAN, 16).is_err());
        assert_eq!(Masks::new(0, 0.75, 4).unwrap().visible("a", 0, 0).len(), 1);
    }
}
