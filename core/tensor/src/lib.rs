//! Rank-erased tensors over Burn, the table of operations, and call frames.
//!
//! - [`Tensor`] is the one type that models, plugins and the engine compute with. Its
//!   operations check rank, shape, kind and axis before the backend sees them, so a mistake is
//!   an [`Err`](TensorError) that names the operation and the shapes, never a panic.
//! - [`OPS`] lists the operations that plugins may ask for by [`OpCode`]; [`dispatch`] is the
//!   one door for all plugin loaders.
//! - [`Session`] holds the tensors that a plugin call made, by handle, and releases them when
//!   the call returns.
//!
//! ```
//! use dtta_tensor::{Device, Tensor};
//! # fn main() -> Result<(), dtta_tensor::TensorError> {
//! let device = Device::cpu();
//! let x = Tensor::from_floats(&[1.0, 2.0, 3.0], &[3], &device)?.to_leaf()?;
//! let loss = x.mul(&x)?.sum(&[], false)?; // dy/dx = 2 x
//! let gradients = loss.backward()?;
//! assert_eq!(gradients.of(&x).map(|g| g.to_floats()), Some(Ok(vec![2.0, 4.0, 6.0])));
//! # Ok(())
//! # }
//! ```

/// The version of Burn that computes, as pinned in the workspace.
pub const BURN_VERSION: &str = "0.22.1";

mod cost;
mod cpu;
mod device;
mod error;
mod lanes;
mod libtorch;
mod named;
mod ops;
mod optimize;
mod outside;
mod session;
mod shape;
mod table;
mod tally;
mod tensor;

pub use cost::Cost;
pub use device::{Device, Precision};
pub use error::{Result, TensorError};
pub use named::Named;
pub use ops::{ConvOptions, PoolOptions};
pub use optimize::AdamStep;
pub use outside::{Lent, Vjp};
pub use session::{
    Exceeded, Handle, Limits, Logged, Phase, SHOWN_CHARACTERS, Session, Storage, Usage, Value,
};
pub use shape::{MAX_RANK, Shape};
pub use table::{Attribute, OPS, OpCode, OpSpec, Outputs, Parameter, ParameterType, dispatch};
pub use tally::Tally;
pub use tensor::{Gradients, Kind, Tensor};
