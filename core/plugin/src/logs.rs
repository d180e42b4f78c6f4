//! Lines that plugins log. A call may log so many; then one line says that the rest is dropped.

use dtta_tensor::{Logged, Session};

/// Writes a line of a plugin, or what becomes of it.
pub(crate) fn write(
    plugin: &str,
    level: log::Level,
    message: &str,
    logged: Logged,
    session: &Session,
) {
    match logged {
        Logged::Written => log::log!(target: "dtta_plugin", level, "{plugin}: {message}"),
        Logged::FirstDropped => log::warn!(
            target: "dtta_plugin",
            "{plugin}: what else this call logs is dropped: `plugins.limits.log_lines` is {}",
            session.limits().log_lines
        ),
        Logged::Dropped => {}
    }
}
