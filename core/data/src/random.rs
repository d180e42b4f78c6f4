//! Uniform draws from a keyed generator.

use rand_chacha::rand_core::Rng;

/// A uniform draw from [0, 1) with 53 random bits.
pub(crate) fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A uniform draw from [low, high).
pub(crate) fn between(rng: &mut impl Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * unit(rng)
}

/// A uniform draw from 0..=`last`. The bias is below `last / 2^64`.
pub(crate) fn up_to(rng: &mut impl Rng, last: usize) -> usize {
    ((u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use dtta_base::keyed_rng;

    use super::*;

    #[test]
    fn draws_stay_in_their_ranges() {
        let mut rng = keyed_rng("ranges", &[]);
        let mut seen = [false; 3];
        for _ in 0..200 {
            assert!((0.0..1.0).contains(&unit(&mut rng)));
            assert!((-2.0..3.0).contains(&between(&mut rng, -2.0, 3.0)));
            seen[up_to(&mut rng, 2)] = true;
        }
        assert_eq!(seen, [true; 3]);
        assert_eq!(up_to(&mut rng, 0), 0);
    }
}
