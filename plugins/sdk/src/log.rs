//! Lines in the host's log, marked with job and plugin. The host limits their number and length and removes secrets.

use crate::host;

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For those who look for a fault in the plugin.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is not as it should be, yet the call goes on.
    Warn,
}

/// Writes a debug line.
pub fn debug(message: impl AsRef<str>) {
    host::log(Level::Debug, message.as_ref());
}

/// Writes an info line.
pub fn info(message: impl AsRef<str>) {
    host::log(Level::Info, message.as_ref());
}

/// Writes a warning.
pub fn warn(message: impl AsRef<str>) {
    host::log(Level::Warn, message.as_ref());
}
