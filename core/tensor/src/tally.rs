//! What this process has computed so far, so that the work of a model can be told from one small call of it.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

static MULTIPLY_ADDS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Work of operations since the process began, forward passes only: a backward pass takes about twice as many products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Multiplications, each with its addition, in matrix products, convolutions and attention.
    pub multiply_adds: u64,
    /// Bytes of results of operations, a view counted as a copy: more than what a tape keeps of them.
    pub bytes: u64,
}

impl Tally {
    /// Up to now, on all threads.
    pub fn now() -> Self {
        Self {
            multiply_adds: MULTIPLY_ADDS.load(Ordering::Relaxed),
            bytes: BYTES.load(Ordering::Relaxed),
        }
    }
}

impl Sub for Tally {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            multiply_adds: self.multiply_adds.wrapping_sub(earlier.multiply_adds),
            bytes: self.bytes.wrapping_sub(earlier.bytes),
        }
    }
}

/// Counts products of so many terms for each of so many results.
pub(crate) fn products(results: usize, terms: usize) {
    MULTIPLY_ADDS.fetch_add(results as u64 * terms as u64, Ordering::Relaxed);
}

/// Counts a result.
pub(crate) fn result(bytes: usize) {
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}
