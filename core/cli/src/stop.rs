//! Ending this process whatever it is doing. A native plugin may never come back, and a long operation comes back late; a
//! user who has asked twice does not wait for either. Nothing is lost that a kill would not lose: see "The folder of a run" in
//! `core/README.md`.

use std::ffi::c_int;
use std::thread;
use std::time::Duration;

use crate::say::say;

unsafe extern "C" {
    /// Ends the process, without running what was registered to run at its end: that might be a plugin's, and wait.
    #[link_name = "_exit"]
    fn end(status: c_int) -> !;
}

/// Lets the process end by itself for so long, then ends it: exit code 1.
pub fn at_the_latest(grace: Duration) {
    // In a thread of its own, so that further signals find their handler free.
    let watch = thread::Builder::new().name("stop".into()).spawn(move || {
        thread::sleep(grace);
        say!("a plugin does not stop, so this program does; what is checkpointed can be continued with `--resume`");
        // SAFETY: takes a number and does not come back.
        unsafe { end(1) }
    });
    if watch.is_err() {
        // SAFETY: as above.
        unsafe { end(1) }
    }
}
