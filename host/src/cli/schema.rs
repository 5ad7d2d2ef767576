//! `evertoken schema`: the JSON Schema of the configuration file.

use super::{Exit, print, say};
use crate::config;

pub(super) fn run() -> Exit {
    let Ok(text) = serde_json::to_string_pretty(&config::schema()) else {
        return Exit::Failure;
    };
    match print(&text) {
        Ok(()) => Exit::Success,
        Err(error) => {
            say(&format!("error: {error}"));
            Exit::Failure
        }
    }
}
