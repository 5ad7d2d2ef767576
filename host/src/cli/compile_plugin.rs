//! The hidden command with which a running process compiles a plugin: in a child process, whose resources are limited.

use std::io::{stdin, stdout};

use super::{Exit, say};
use crate::plugin::compile_plugin;

/// Reads a component from standard input and writes it compiled to standard output.
pub(super) fn run() -> Exit {
    match compile_plugin(stdin().lock(), stdout().lock()) {
        Ok(()) => Exit::Success,
        Err(error) => {
            say(&format!("{:#}", anyhow::Error::from(error)));
            Exit::Failure
        }
    }
}
