//! dtta as a C library. `include/libdtta.h` is made of this crate.

mod feedback;
mod run;
mod status;

use std::ffi::c_char;

pub use feedback::{
    Denoiser, Feedback, dtta_denoiser_close, dtta_denoiser_open, dtta_feedback_close,
    dtta_feedback_evaluate, dtta_feedback_open,
};
pub use run::{RunOptions, dtta_run, dtta_text_free, dtta_validate};
#[doc(hidden)] // For the tests.
pub use status::{Fault, call};
pub use status::{Status, dtta_last_error};

/// The version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn dtta_version() -> *const c_char {
    /// With the end that C looks for.
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
