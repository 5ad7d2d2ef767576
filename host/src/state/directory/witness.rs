//! What is remembered beside the database, so that another database in its place is noticed: how often chains have changed, and
//! whether records are encrypted. Whoever puts back a copy of the whole directory puts back this file too, and is not noticed.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::state::error::StateError;

/// The file's name in the directory.
const WITNESS_FILE: &str = "generation";

/// Bytes of the file. It is written over in place, and always whole: it needs no room on a full disk.
const LEN: usize = 128;

/// What it says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Testimony {
    /// How often chains have been changed.
    pub(super) generation: u64,
    /// Whether no record is kept as it is.
    pub(super) encrypted: bool,
}

/// The open file.
pub(super) struct Witness {
    file: File,
    last: Testimony,
}

impl Witness {
    /// Opens the file. One that says nothing, as after a power cut at the first start, knows of nothing.
    pub(super) fn open(folder: &Folder) -> Result<Self, StateError> {
        let file = folder.file(WITNESS_FILE)?;
        let mut text = String::new();
        // What cannot be read says nothing.
        let _ = (&file).take(LEN as u64).read_to_string(&mut text);
        Ok(Self {
            last: serde_json::from_str(&text).unwrap_or_default(),
            file,
        })
    }

    pub(super) const fn last(&self) -> Testimony {
        self.last
    }

    /// Writes it down, durably, if it is something new.
    pub(super) fn testify(&mut self, now: Testimony) -> std::io::Result<()> {
        if now == self.last {
            return Ok(());
        }
        let text = serde_json::to_string(&now)?;
        let line = format!("{text:<width$}\n", width = LEN - 1);
        self.file.write_all_at(line.as_bytes(), 0)?;
        self.file.sync_data()?;
        self.last = now;
        Ok(())
    }
}
