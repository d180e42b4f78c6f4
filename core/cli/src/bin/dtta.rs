//! The `dtta` command.

use std::process::ExitCode;

/// The CPU backend takes and returns buffers of megabytes for every operation; the system's
/// allocator maps each one afresh, which costs about a tenth of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Lets freed memory wait 10 s instead of 10 ms until the system gets it back, unless the environment says otherwise: the next step
/// wants the same buffers, and the system would have to clear them again.
fn keep_freed_memory() {
    /// `mi_option_purge_delay` in mimalloc.h, whose numbers stay.
    const PURGE_DELAY: i32 = 15;
    // SAFETY: sets one number, before there is another thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 10_000) };
}

/// A file that may not grow any more (`ulimit -f`) is an error of whoever writes it, which names the file, and not the end of the process.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn let_writes_beyond_the_limit_fail() {
    use std::ffi::c_int;
    unsafe extern "C" {
        fn signal(number: c_int, handler: usize) -> usize;
    }
    /// As in signal.h of both systems, on every processor but MIPS.
    const SIGXFSZ: c_int = 25;
    const SIG_IGN: usize = 1;
    // SAFETY: ignores one signal, before there is another thread.
    unsafe { signal(SIGXFSZ, SIG_IGN) };
}

fn main() -> ExitCode {
    keep_freed_memory();
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    let_writes_beyond_the_limit_fail();
    dtta_cli::run(std::env::args_os())
}
