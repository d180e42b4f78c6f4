//! Ctrl-C ends a plugin call that is running. Alone in its process, because it ends all of them.

#![expect(
    clippy::unwrap_used,
    reason = "what cannot be prepared should fail the test"
)]

mod support;

use std::thread;
use std::time::Duration;

use dtta_plugin::{Environment, Values, interrupt};
use support::{ask, inputs, mapper};

#[test]
fn ends_the_call_that_is_running_and_no_later_one() {
    let mut mapper = mapper(&Environment {
        instructions: u64::MAX,
        ..Environment::default()
    });
    let ctrl_c = thread::spawn(|| {
        thread::sleep(Duration::from_millis(200));
        interrupt();
    });
    let error = mapper
        .condition(&inputs(ask::SPIN), &mut Values::none())
        .unwrap_err();
    assert!(error.is_interrupt(), "{error}");
    assert!(!error.is_at_run_time(), "it is no failure of the plugin");
    ctrl_c.join().unwrap();
    mapper
        .condition(&inputs(ask::ECHO), &mut Values::none())
        .unwrap();
}
