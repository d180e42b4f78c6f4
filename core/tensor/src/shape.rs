//! Shapes of rank 1 to 6, held in place so that asking for one allocates nothing.

use std::fmt;
use std::ops::Deref;

use crate::error::{Result, TensorError};

/// The largest rank of a tensor.
pub const MAX_RANK: usize = 6;

/// Extents, outermost first. Rank 1 to 6; a scalar is `[1]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    extents: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// Checks `extents`: rank 1 to 6, every extent at least 1, and at most 2^31 - 1 elements.
    ///
    /// # Errors
    /// [`TensorError::Extents`] naming `op`.
    pub fn new(op: &'static str, extents: &[usize]) -> Result<Self> {
        let elements = extents
            .iter()
            .try_fold(1usize, |product, &extent| product.checked_mul(extent));
        let fits = elements.is_some_and(|n| n > 0 && i32::try_from(n).is_ok());
        if extents.is_empty() || extents.len() > MAX_RANK || !fits {
            return Err(TensorError::Extents {
                op,
                extents: extents
                    .iter()
                    .map(|&e| i64::try_from(e).unwrap_or(i64::MAX))
                    .collect(),
                expected: "rank 1 to 6, positive extents, and at most 2^31 - 1 elements".into(),
            });
        }
        Ok(Self::unchecked(extents))
    }

    /// For extents that are a shape by construction.
    pub(crate) fn unchecked(extents: &[usize]) -> Self {
        let mut held = [1; MAX_RANK];
        held[..extents.len()].copy_from_slice(extents);
        Self {
            extents: held,
            rank: extents.len() as u8,
        }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        usize::from(self.rank)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.iter().product()
    }

    /// The axis that `axis` names, counting from the end when negative.
    ///
    /// # Errors
    /// [`TensorError::Axis`] naming `op`.
    pub fn axis(&self, op: &'static str, axis: i64) -> Result<usize> {
        let rank = i64::from(self.rank);
        let resolved = if axis < 0 { axis + rank } else { axis };
        if (0..rank).contains(&resolved) {
            Ok(resolved as usize)
        } else {
            Err(TensorError::Axis {
                op,
                axis,
                shape: *self,
            })
        }
    }

    /// The axes that `axes` name, ascending; all of them when the list is empty.
    ///
    /// # Errors
    /// [`TensorError::Axis`] for one that is out of range or named twice.
    pub fn axes(&self, op: &'static str, axes: &[i64]) -> Result<Vec<usize>> {
        if axes.is_empty() {
            return Ok((0..self.rank()).collect());
        }
        let mut resolved = Vec::with_capacity(axes.len());
        for &axis in axes {
            let found = self.axis(op, axis)?;
            if resolved.contains(&found) {
                return Err(TensorError::Axis {
                    op,
                    axis,
                    shape: *self,
                });
            }
            resolved.push(found);
        }
        resolved.sort_unstable();
        Ok(resolved)
    }

    /// The shape that elementwise operations on `self` and `other` give. Leading axes that one of them lacks count as extents of 1.
    ///
    /// # Errors
    /// [`TensorError::Broadcast`] unless every pair of extents is equal or has a 1.
    pub fn broadcast(&self, op: &'static str, other: &Self) -> Result<Self> {
        let error = || TensorError::Broadcast {
            op,
            lhs: *self,
            rhs: *other,
        };
        let rank = self.rank().max(other.rank());
        let (lhs, rhs) = (self.leading(rank), other.leading(rank));
        let mut extents = Vec::with_capacity(rank);
        for (a, b) in lhs.zip(rhs) {
            if a != b && a != 1 && b != 1 {
                return Err(error());
            }
            extents.push(a.max(b));
        }
        Self::new(op, &extents)
    }

    /// The extents after as many of 1 as make `rank` of them.
    pub(crate) fn leading(&self, rank: usize) -> impl Iterator<Item = usize> {
        let missing = rank.saturating_sub(self.rank());
        std::iter::repeat_n(1, missing).chain(self.iter().copied())
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.extents[..usize::from(self.rank)]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &**self)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_ranks_outside_one_to_six_and_empty_extents() {
        for extents in [&[][..], &[1; 7], &[2, 0], &[1 << 40]] {
            let error = Shape::new("full", extents).unwrap_err();
            assert_eq!(error.code(), "shape-mismatch");
        }
    }

    #[test]
    fn counts_axes_from_the_end_when_negative() {
        let shape = Shape::new("sum", &[2, 3, 5]).unwrap();
        assert_eq!(shape.axis("sum", -1), Ok(2));
        assert_eq!(shape.axes("sum", &[-1, 0]), Ok(vec![0, 2]));
        assert_eq!(shape.axes("sum", &[]), Ok(vec![0, 1, 2]));
        assert!(shape.axis("sum", 3).is_err());
        assert!(shape.axes("sum", &[2, -1]).is_err(), "the same axis twice");
    }

    #[test]
    fn broadcasts_only_extents_of_one() {
        let shape = |extents: &[usize]| Shape::new("add", extents).unwrap();
        assert_eq!(
            shape(&[2, 1]).broadcast("add", &shape(&[1, 3])),
            Ok(shape(&[2, 3]))
        );
        assert!(shape(&[2, 3]).broadcast("add", &shape(&[3, 2])).is_err());
        assert_eq!(
            shape(&[3]).broadcast("add", &shape(&[2, 5, 1])),
            Ok(shape(&[2, 5, 3])),
            "leading axes that are missing count as 1"
        );
        assert!(shape(&[2]).broadcast("add", &shape(&[2, 3])).is_err());
    }
}
