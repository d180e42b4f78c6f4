//! Parts that methods compose, one place each: what is carried from batch to batch, which samples are left alone or learned from, what a
//! stream's feedback or predictions have in common, views, teachers and memories, and what breaks feedback on purpose.

mod carry;
mod centre;
mod control;
mod filter;
mod fisher;
mod gate;
mod memory;
mod sharpness;
mod stable;
mod sureness;
mod teacher;
mod views;

pub use self::carry::{Carry, SlowWeights};
pub use self::centre::{Centre, Common};
pub use self::control::Control;
pub(crate) use self::filter::{ClassMean, MovingMean, cosines};
pub(crate) use self::fisher::Fisher;
pub use self::gate::Gate;
pub(crate) use self::memory::Memory;
pub(crate) use self::sharpness::climbed;
pub(crate) use self::stable::Stability;
pub(crate) use self::sureness::Sureness;
pub(crate) use self::teacher::{Teacher, pull, restore_some};
pub use self::views::ViewsConfig;
pub(crate) use self::views::uniform;
