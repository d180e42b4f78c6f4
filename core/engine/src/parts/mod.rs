//! Parts that methods compose, one place each: what is carried from batch to batch, which samples are left alone, what a stream's
//! feedback has in common, and what breaks feedback on purpose.

mod carry;
mod centre;
mod control;
mod gate;

pub use self::carry::{Carry, SlowWeights};
pub use self::centre::{Centre, Common};
pub use self::control::Control;
pub use self::gate::Gate;
