//! The hidden command with which a running process validates configurations by a plugin's schema: in a child process, whose
//! resources are limited.

use std::io::{stdin, stdout};

use super::{Exit, say};
use crate::plugin::{JudgeError, judge_options};

/// Reads a schema and configurations from standard input and writes the mistakes to standard output.
pub(super) fn run() -> Exit {
    match judge_options(stdin().lock(), stdout().lock()) {
        Ok(()) => Exit::Success,
        // The parent process adds the prefix.
        Err(JudgeError::Wrong { message }) => {
            say(&message);
            Exit::Usage
        }
        Err(error) => {
            say(&format!("{:#}", anyhow::Error::from(error)));
            Exit::Failure
        }
    }
}
