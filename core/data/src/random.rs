//! Randomness as a function of a key. A generator is made afresh for each purpose and sample, so no result depends on what was
//! drawn before it, by whom, or on which thread.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// A counter-based generator for one purpose and key.
///
/// The ChaCha8 seed is SHA-256 over the fields, `"dtta"` and `purpose` first, each preceded by its length as 8 little-endian
/// bytes, so that no two lists of fields have the same encoding. The encoding is part of the records' reproducibility: a
/// test pins it.
///
/// ```
/// use rand_chacha::rand_core::Rng;
/// let draw = |sample: &str| dtta_data::keyed_rng("example", &[&7u64.to_le_bytes(), sample.as_bytes()]).next_u64();
/// assert_eq!(draw("test/00042"), draw("test/00042"));
/// assert_ne!(draw("test/00042"), draw("test/00043"));
/// ```
pub fn keyed_rng(purpose: &str, fields: &[&[u8]]) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    for field in [b"dtta".as_slice(), purpose.as_bytes()]
        .iter()
        .chain(fields)
    {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}

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
    use super::*;

    #[test]
    fn fields_do_not_run_together() {
        let first = |fields: &[&[u8]]| keyed_rng("purpose", fields).next_u64();
        assert_ne!(first(&[b"ab", b"c"]), first(&[b"a", b"bc"]));
        assert_ne!(first(&[b"ab"]), first(&[b"ab", b""]));
        assert_ne!(
            keyed_rng("a", &[]).next_u64(),
            keyed_rng("b", &[]).next_u64()
        );
    }

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
