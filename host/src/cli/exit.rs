//! The exit codes, in one place, so that scripts and units can rely on them.

use std::process::ExitCode;

/// The result of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All that was requested is done.
    Success,
    /// Something failed: a job was not written, a process not reached, a file not read.
    Failure,
    /// The command line or the configuration is wrong; nothing was started (EX_USAGE of sysexits.h).
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Failure => Self::from(1),
            Exit::Usage => Self::from(64),
        }
    }
}

/// Shown at the end of `evertoken --help`.
pub(super) const HELP: &str = "Exit codes:
  0   all that was asked for is done
  1   something could not be done: a job was not written, a process not reached
  64  the command line or the configuration is wrong; nothing was started";
