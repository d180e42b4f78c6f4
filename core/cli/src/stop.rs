//! How this process ends: at the latest when a user has asked twice, and never as if it were done by the hand of a plugin.
//!
//! A native plugin may never come back, and a long operation comes back late; a user who has asked twice does not wait for either. Nothing
//! is lost that a kill would not lose: see "The folder of a run" in `core/README.md`. And a native plugin may call `exit(0)`, from which a
//! script would take a run for finished.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::AGAIN;
use crate::say::say;

unsafe extern "C" {
    /// Ends the process, without running what was registered to run at its end: that might be a plugin's, and wait.
    #[link_name = "_exit"]
    fn end(status: c_int) -> !;
    /// Registers what runs when the process ends by `exit`.
    fn atexit(at_exit: extern "C" fn()) -> c_int;
}

/// Ends the process at once.
pub fn now(code: u8) -> ! {
    // SAFETY: takes a number and does not come back.
    unsafe { end(code.into()) }
}

/// Lets the process end by itself for so long, then ends it: exit code 75.
pub fn at_the_latest(grace: Duration) {
    // In a thread of its own, so that further signals find their handler free.
    let watch = thread::Builder::new().name("stop".into()).spawn(move || {
        thread::sleep(grace);
        say!("a plugin does not stop, so this program does; what is checkpointed can be continued with `--resume`");
        now(AGAIN)
    });
    if watch.is_err() {
        now(AGAIN)
    }
}

static AT_WORK: AtomicBool = AtomicBool::new(false);

/// While this lives, an `exit` of whatever status comes from elsewhere: it is told, and the exit code is 1. (Not where a plugin calls
/// `_exit`, which runs nothing; `plugins check` and `plugins inspect` open libraries in a process of their own for that.)
pub struct AtWork(());

impl AtWork {
    pub fn begin() -> Self {
        AT_WORK.store(true, Ordering::Relaxed);
        // SAFETY: registers a function that is there for as long as the process is. Where that fails, there is no watch.
        unsafe { atexit(at_exit) };
        Self(())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.store(false, Ordering::Relaxed);
    }
}

extern "C" fn at_exit() {
    if !AT_WORK.load(Ordering::Relaxed) {
        return;
    }
    let calls = dtta_plugin::under_way();
    let by = match calls.is_empty() {
        true => "something other than this program, probably a plugin,".to_owned(),
        false => calls.join(", or "),
    };
    say!(
        "error: {by} ended the process before the work was done, which no plugin may; what is checkpointed can be continued with `--resume`"
    );
    now(1)
}
