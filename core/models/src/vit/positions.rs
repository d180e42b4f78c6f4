//! Positions of tokens that never move.

use std::sync::Arc;

use crate::patches::Grid;
use crate::weights::{Declaration, Group, Init, ParameterId};

/// Fixed positions of tokens.
pub(super) struct FixedPositions {
    pub grid: Grid,
    /// Tokens before the patches, whose position is 0.
    pub before: usize,
    /// Width of a token.
    pub own: usize,
}

impl FixedPositions {
    /// `[1, before + patches, width]`.
    pub fn declare(self, d: &mut Declaration, name: &str) -> ParameterId {
        let Self { grid, before, own } = self;
        let mut table = vec![0.0; before * own];
        table.extend(grid.positions(own));
        let init = Init::Fixed(Arc::from(table));
        let shape = [1, before + grid.tokens(), own];
        d.declare(name, &shape, Group::Buffer, init)
    }
}
