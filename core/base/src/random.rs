//! Randomness as a function of a key. A generator is made afresh for each purpose and sample, so no result depends on what was
//! drawn before it, by whom, or on which thread.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// A counter-based generator for one purpose and key.
///
/// The ChaCha8 seed is SHA-256 over the fields, `"dtta"` and `purpose` first, each preceded by its length as 8 little-endian
/// bytes, so that no two lists of fields have the same encoding. The encoding is part of the records' reproducibility: a
/// test pins it.
///
/// ```
/// use rand_chacha::rand_core::Rng;
/// let draw = |sample: &str| dtta_base::keyed_rng("example", &[&7u64.to_le_bytes(), sample.as_bytes()]).next_u64();
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

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::Rng as _;

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
}
