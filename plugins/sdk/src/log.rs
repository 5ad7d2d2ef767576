//! Lines in the host's log, marked with job and plugin. The host limits their number and length and removes secrets.

use crate::host;

/// The level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the plugin's author.
    Debug,
    /// Worth knowing.
    Info,
    /// Something unexpected, although the call goes on.
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
