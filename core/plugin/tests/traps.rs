//! That traps leave nothing behind. Alone in its process, whose memory it measures.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

mod support;

use dtta_plugin::{Environment, Values};
use support::{ask, inputs, mapper};

#[test]
fn a_thousand_traps_leave_no_memory_behind() {
    let resident = || -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim()
            .strip_suffix("kB")
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    let mut mapper = mapper(&Environment::default());
    let mut trap = |times: usize| {
        for _ in 0..times {
            let error = mapper
                .condition(&inputs(ask::TRAP), &mut Values::none())
                .unwrap_err();
            assert_eq!(error.code(), "trap");
        }
        mapper
            .condition(&inputs(ask::ECHO), &mut Values::none())
            .unwrap();
    };
    trap(100);
    // What leaks grows every time; what an allocator or a late thread takes grows once.
    let growth: Vec<usize> = (0..3)
        .map(|_| {
            let before = resident();
            trap(1000);
            resident().saturating_sub(before)
        })
        .collect();
    assert!(
        growth.iter().filter(|&&kib| kib < 1024).count() >= 2,
        "each thousand traps left KiB: {growth:?}"
    );
}
