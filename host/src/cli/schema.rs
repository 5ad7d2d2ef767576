//! `evertoken schema`: the JSON Schema of the configuration file.

use std::io::Write as _;

use super::Exit;
use crate::config;

pub(super) fn run() -> Exit {
    let Ok(text) = serde_json::to_string_pretty(&config::schema()) else {
        return Exit::Failure;
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => Exit::Success,
        Err(_) => Exit::Failure,
    }
}
