//! The one error type of this crate. Every variant carries the facts that a
//! message needs: the operation, the shapes, the axis, the limit.

use crate::{Kind, Shape};

/// A refused or failed tensor request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TensorError {
    /// Two operands whose extents neither agree nor are 1.
    #[error("`{op}`: shapes {lhs} and {rhs} do not broadcast")]
    Broadcast {
        /// Operation name.
        op: &'static str,
        /// Left shape.
        lhs: Shape,
        /// Right shape.
        rhs: Shape,
    },
    /// A shape that the operation cannot take.
    #[error("`{op}`: {argument} has shape {shape}, expected {expected}")]
    Shape {
        /// Operation name.
        op: &'static str,
        /// Which argument.
        argument: &'static str,
        /// What it was.
        shape: Shape,
        /// What it should have been.
        expected: String,
    },
    /// A list of extents that is not a shape: rank outside 1 to 6, or too many elements.
    #[error("`{op}`: extents {extents:?} are not a shape, expected {expected}")]
    Extents {
        /// Operation name.
        op: &'static str,
        /// What was given.
        extents: Vec<i64>,
        /// What would do.
        expected: String,
    },
    /// An operand of the wrong kind.
    #[error("`{op}`: {argument} holds {found} elements, expected {expected}")]
    Kind {
        /// Operation name.
        op: &'static str,
        /// Which argument.
        argument: &'static str,
        /// What it was.
        found: Kind,
        /// What it should have been.
        expected: &'static str,
    },
    /// An axis outside `-rank..rank`, or one named twice.
    #[error("`{op}`: axis {axis} is not an axis of shape {shape}, or is named twice")]
    Axis {
        /// Operation name.
        op: &'static str,
        /// The axis as given.
        axis: i64,
        /// The operand's shape.
        shape: Shape,
    },
    /// A number that the operation cannot take.
    #[error("`{op}`: {argument} is {value}, expected {expected}")]
    Argument {
        /// Operation name.
        op: &'static str,
        /// Which argument.
        argument: &'static str,
        /// What it was.
        value: String,
        /// What would do.
        expected: String,
    },
    /// A request by opcode whose arguments do not fit the operation's row in the table.
    #[error("`{op}`: argument {position} should be {expected}")]
    Call {
        /// Operation name, or `op` when the opcode is unknown.
        op: &'static str,
        /// Position among tensors or attributes, from 0.
        position: usize,
        /// What the table says.
        expected: &'static str,
    },
    /// `backward` of a tensor that records nothing.
    #[error("`backward`: the tensor is not tracked, so there is nothing to differentiate")]
    NotTracked,
    /// A handle from an earlier call, or one that was released.
    #[error(
        "handle {handle:#x} is stale: handles live until the plugin call that made them returns"
    )]
    StaleHandle {
        /// The handle.
        handle: u32,
    },
    /// A request that the phase of the call forbids.
    #[error("`{request}` is not permitted in {phase}: it would leave the tape")]
    NotPermitted {
        /// What was asked.
        request: &'static str,
        /// The phase.
        phase: &'static str,
    },
    /// A budget of the call is spent.
    #[error(
        "call budget exceeded: `{resource}` is limited to {limit}, and this takes the call to {needed}; `plugins.limits.{resource}` of the experiment raises it"
    )]
    Budget {
        /// What ran out, as experiments name it.
        resource: &'static str,
        /// The limit.
        limit: u64,
        /// What the call would have used.
        needed: u64,
    },
    /// A constant or value that nobody bound.
    #[error("no constant is named `{name}`; bound here: {known}")]
    UnknownName {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A device name that this build cannot serve.
    #[error("device `{name}`: {reason}")]
    Device {
        /// The name.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The backend failed in a way that the checks did not foresee.
    #[error("`{op}`: the backend failed: {message}")]
    Backend {
        /// Operation name.
        op: &'static str,
        /// What it said.
        message: String,
    },
}

impl TensorError {
    /// The open kebab-case code that crosses the plugin boundary
    /// (`error.code` in `wit/types.wit`).
    pub fn code(&self) -> &'static str {
        match self {
            Self::Broadcast { .. } | Self::Shape { .. } | Self::Extents { .. } => "shape-mismatch",
            Self::Kind { .. } => "kind-mismatch",
            Self::Axis { .. } => "invalid-axis",
            Self::Argument { .. } | Self::Call { .. } => "invalid-argument",
            Self::NotTracked => "not-tracked",
            Self::StaleHandle { .. } => "stale-handle",
            Self::NotPermitted { .. } => "not-permitted",
            Self::Budget { .. } => "budget-exceeded",
            Self::UnknownName { .. } => "unknown-name",
            Self::Device { .. } => "device",
            Self::Backend { .. } => "backend",
        }
    }
}

/// Shorthand used throughout.
pub type Result<T, E = TensorError> = std::result::Result<T, E>;
