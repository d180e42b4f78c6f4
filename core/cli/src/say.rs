//! Words for people, on stderr. Where stderr takes none, as on a full disk, the work goes on: what was asked for is in files.

use std::fmt::Arguments;
use std::io::Write as _;

/// Writes a line to stderr, if that can be.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::say::line(format_args!($($words)*))
    };
}
pub(crate) use say;

/// What [`say`] does.
pub(crate) fn line(words: Arguments<'_>) {
    // One write a line, so that those of two processes do not mix.
    let line = format!("{words}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).ok();
}
