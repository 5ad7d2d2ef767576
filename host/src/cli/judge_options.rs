//! The hidden command that a running process starts to have configurations judged by a plugin's schema: in a process of its own, which may
//! be bounded and may die.

use std::io::{stdin, stdout};

use super::{Exit, say};
use crate::plugin::{JudgeError, judge_options};

/// Reads a schema and configurations from standard input and writes the mistakes to standard output.
pub(super) fn run() -> Exit {
    match judge_options(stdin().lock(), stdout().lock()) {
        Ok(()) => Exit::Success,
        // What the other process adds to it.
        Err(JudgeError::Wrong { message }) => {
            say(&message);
            Exit::Failure
        }
        Err(error) => {
            say(&format!("{:#}", anyhow::Error::from(error)));
            Exit::Failure
        }
    }
}
