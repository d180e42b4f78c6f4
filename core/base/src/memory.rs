//! Memory that is planned is compared with what is free before it is asked for: a number with a zero too many in a document is a message
//! then, not an exhausted machine.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::error::{Error, Result};

/// Below this nothing is looked up.
const SMALL: u64 = 64 << 20;

/// Refuses to go on where `what` needs more bytes than are free. `bytes` is the product of its factors.
///
/// # Errors
/// [`Error::Memory`].
pub fn expect_memory(what: &str, bytes: impl IntoIterator<Item = usize>) -> Result<()> {
    let factors = bytes.into_iter().map(|factor| factor as u64);
    let needed = factors.fold(1, u64::saturating_mul);
    if needed < SMALL {
        return Ok(());
    }
    let free = free();
    if needed <= free {
        return Ok(());
    }
    Err(Error::Memory {
        what: what.into(),
        needed,
        free,
    })
}

/// Bytes that this process may still take: what is available, swap included, within the limits of its container.
fn free() -> u64 {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    let system = System::new_with_specifics(memory);
    let free = system.available_memory().saturating_add(system.free_swap());
    match system.cgroup_limits() {
        Some(limits) => free.min(limits.free_memory.saturating_add(limits.free_swap)),
        None => free,
    }
}

/// A number of bytes as people read it, such as `1.5 GiB`.
pub fn in_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    if value < 1024.0 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    value /= 1024.0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused_with_both_numbers() {
        let error = expect_memory("a batch", [1 << 40, 1 << 20]).unwrap_err();
        let Error::Memory { needed, free, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*needed, 1 << 60);
        assert!(*free > 0);
        let message = error.to_string();
        assert!(
            message.starts_with("a batch would take at least 1.0 EiB, but only "),
            "{message}"
        );
        // Products that no number holds are too much, and not little.
        assert!(expect_memory("a batch", [usize::MAX, usize::MAX]).is_err());
        assert!(expect_memory("a batch", [usize::MAX, 0]).is_ok());
    }

    #[test]
    fn what_is_there_is_granted() {
        expect_memory("a batch", [65 << 20]).unwrap();
    }

    #[test]
    fn bytes_are_told_in_binary_units() {
        let told = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 << 10, "1.5 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, expected) in told {
            assert_eq!(in_bytes(bytes), expected);
        }
    }
}
