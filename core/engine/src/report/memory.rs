//! The largest resident set of this process, or of the run that it works on now.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the system counts from the beginning of what was asked about last.
static KNOWN: AtomicBool = AtomicBool::new(true);

/// Begins to count anew, for a process that does one run after another (Linux). Where that cannot be, the peak is unknown from then on: that
/// of the process may be another run's.
pub(crate) fn forget_peak() {
    // 5 resets VmHWM (proc_pid_clear_refs(5)).
    let reset = std::fs::write("/proc/self/clear_refs", "5");
    KNOWN.store(reset.is_ok(), Ordering::Relaxed);
}

/// The largest resident set in bytes, where the system tells (Linux).
pub(crate) fn peak_memory() -> Option<u64> {
    if !KNOWN.load(Ordering::Relaxed) {
        return None;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_that_since_it_was_forgotten() {
        const LARGE: usize = 256 << 20;
        drop(std::hint::black_box(vec![1u8; LARGE]));
        let high = peak_memory().unwrap();
        assert!(high >= LARGE as u64, "{high}");
        forget_peak();
        // Unknown where the system does not let it be forgotten, and never what was before.
        let after = peak_memory();
        assert!(
            after.is_none_or(|peak| peak < high - LARGE as u64 / 2),
            "{after:?}"
        );
    }
}
