//! The operations, as methods of [`Tensor`](crate::Tensor). Each checks its operands and then
//! calls the backend; none writes in place. Operations are recorded on the tape when an operand
//! is tracked.

mod index;
mod layout;
mod network;
mod pointwise;
mod reduce;
mod resize;
mod transformer;

pub use network::{ConvOptions, PoolOptions};
