//! Matrix products with results where they are wanted. Burn's own fills a new result with zeros and copies it before it multiplies.

use gemm::{Parallelism, gemm};

/// Multiplications from which the threads share a product; as in Burn's own.
const SHARED: usize = 192 * 192 * 192;

/// Which element of a slice is that of row `i` and column `j`: `i rows + j columns`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strides {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Strides {
    /// Of rows that are `width` apart.
    pub(super) fn rows(width: usize) -> Self {
        Self {
            rows: width,
            columns: 1,
        }
    }

    /// Of columns that are `width` apart: the transpose of such rows.
    pub(super) fn columns(width: usize) -> Self {
        Self {
            rows: 1,
            columns: width,
        }
    }

    /// Elements from the first to behind the last of so many rows and columns.
    fn reach(self, rows: usize, columns: usize) -> usize {
        (rows - 1) * self.rows + (columns - 1) * self.columns + 1
    }
}

/// `[m, k]` times `[k, n]`, row by row; no extent is 0.
pub(super) fn product(
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
    [m, k, n]: [usize; 3],
) -> Vec<f32> {
    let mut out = Vec::with_capacity(m * n);
    let parallelism = match m.saturating_mul(n).saturating_mul(k) < SHARED {
        true => Parallelism::None,
        false => Parallelism::Rayon(0),
    };
    // SAFETY: there is room for m rows of n, and all of them have a value when they count.
    unsafe {
        let to = (out.as_mut_ptr(), Strides::rows(n));
        product_into(to, (a, a_strides), (b, b_strides), [m, k, n], parallelism);
        out.set_len(m * n);
    }
    out
}

/// `[m, k]` times `[k, n]` into `[m, n]` at `out`; no extent is 0.
///
/// # Safety
/// `out` has room for `[m, n]` of those strides, which nobody else reads or writes meanwhile.
pub(super) unsafe fn product_into(
    (out, strides): (*mut f32, Strides),
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
    [m, k, n]: [usize; 3],
    parallelism: Parallelism,
) {
    // SAFETY: the caller's.
    unsafe {
        multiply(
            (out, strides),
            (a, a_strides),
            (b, b_strides),
            [m, k, n],
            false,
            parallelism,
        )
    };
}

/// Adds `[m, k]` times `[k, n]` to `[m, n]`; no extent is 0.
pub(super) fn add_product(
    (out, strides): (&mut [f32], Strides),
    a: (&[f32], Strides),
    b: (&[f32], Strides),
    sizes @ [m, _, n]: [usize; 3],
) {
    assert!(m > 0 && n > 0 && strides.reach(m, n) <= out.len());
    let to = (out.as_mut_ptr(), strides);
    // SAFETY: the assert holds every index of the result within its slice.
    unsafe { multiply(to, a, b, sizes, true, Parallelism::None) };
}

/// Writes a product, or adds it to what is there.
///
/// # Safety
/// `out` has room for `[m, n]` of those strides, which nobody else reads or writes meanwhile, and values where they are added to.
unsafe fn multiply(
    (out, strides): (*mut f32, Strides),
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
    [m, k, n]: [usize; 3],
    add: bool,
    parallelism: Parallelism,
) {
    assert!([m, k, n].iter().all(|&extent| extent > 0));
    assert!(a_strides.reach(m, k) <= a.len() && b_strides.reach(k, n) <= b.len());
    // SAFETY: the asserts hold every index of both factors within its slice; the caller vouches for `out`, which is read only to be added to.
    unsafe {
        gemm(
            m,
            n,
            k,
            out,
            strides.columns as isize,
            strides.rows as isize,
            add,
            a.as_ptr(),
            a_strides.columns as isize,
            a_strides.rows as isize,
            b.as_ptr(),
            b_strides.columns as isize,
            b_strides.rows as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_and_result_may_be_parts_of_wider_rows() {
        // [[1, 2], [3, 4]] within rows of 3, times the transpose of [[5, 6], [7, 8], [9, 10]].
        let a = [1.0, 2.0, 0.0, 3.0, 4.0];
        let b = [5.0, 6.0, 7.0, 8.0, 9.0, 10.0];
        let expected = [17.0, 23.0, 29.0, 39.0, 53.0, 67.0];
        let (a, b) = ((&a[..], Strides::rows(3)), (&b[..], Strides::columns(2)));
        assert_eq!(product(a, b, [2, 2, 3]), expected);
        let mut out = [0.0; 9];
        let to = (out.as_mut_ptr(), Strides::rows(5));
        // SAFETY: the last element is the eighth.
        unsafe { product_into(to, a, b, [2, 2, 3], Parallelism::None) };
        assert_eq!(out[..3], expected[..3]);
        assert_eq!(out[3..5], [0.0; 2]);
        assert_eq!(out[5..8], expected[3..]);
        add_product((&mut out, Strides::rows(5)), a, b, [2, 2, 3]);
        assert_eq!(out[..3], expected.map(|value| 2.0 * value)[..3]);
        assert_eq!(out[3..5], [0.0; 2]);
        assert_eq!(out[5..8], expected.map(|value| 2.0 * value)[3..]);
    }
}
