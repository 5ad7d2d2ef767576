//! The environment variables of the process, behind a function.

use std::ffi::OsString;
use std::sync::Arc;

/// Reads an environment variable; tests bring their own.
pub type Environment = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// The environment of this process.
#[must_use]
pub fn process_environment() -> Environment {
    Arc::new(|name| std::env::var_os(name))
}
