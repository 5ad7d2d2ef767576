//! Reserved disk space for writes that must not fail on a full disk: intents, answers, successors and `forget`. It is a file of
//! its own, emptied when a write needs the space and filled again when there is space; until then, writes of what can be obtained
//! again (tokens, plugins' cached values) are refused.

use std::fs::File;
use std::io::{Read as _, Seek as _};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::folder::Folder;
use crate::state::error::StateError;

/// The file's name in the directory.
const RESERVE_FILE: &str = "reserve";

/// The reserved bytes: an answer of the largest size takes two MiB, as redb allocates pages, and its commit copies others.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The part of a small disk that is reserved.
const PART_OF_DISK: u64 = 4;

/// The reserve.
pub(super) struct Reserve {
    file: File,
    bytes: u64,
}

impl Reserve {
    /// Reserves the space, as far as there is any.
    pub(super) fn open(folder: &Folder) -> Result<Self, StateError> {
        let file = folder.file(RESERVE_FILE)?;
        let disk = rustix::fs::fstatvfs(&file).map(|disk| disk.f_blocks * disk.f_frsize);
        let part = disk.unwrap_or_default() / PART_OF_DISK;
        let reserve = Self {
            // A disk of unknown size is not taken for a small one.
            bytes: if part == 0 {
                MAX_BYTES
            } else {
                MAX_BYTES.min(part)
            },
            file,
        };
        if !reserve.is_whole() {
            tracing::warn!(
                directory = %folder.path().display(),
                bytes = reserve.bytes,
                "the disk is full: there is no reserve for answers with new values of rotating secrets; make room"
            );
        }
        Ok(reserve)
    }

    /// Whether all of it is allocated, after trying to complete it.
    pub(super) fn is_whole(&self) -> bool {
        let held = self.file.metadata().map_or(0, |found| found.len());
        held == self.bytes || self.fill().is_ok()
    }

    /// The size of the reserve.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Frees the space. Returns whether there was any.
    pub(super) fn release(&self) -> bool {
        let held = self.file.metadata().map_or(0, |found| found.len());
        held > 0 && self.file.set_len(0).is_ok()
    }

    fn fill(&self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        let filled = match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, self.bytes)
        {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(),
            other => other.map_err(Into::into),
        };
        if filled.is_err() {
            self.file.set_len(0)?;
        }
        filled
    }

    fn write_zeros(&self) -> std::io::Result<()> {
        let mut file = &self.file;
        file.rewind()?;
        std::io::copy(&mut std::io::repeat(0).take(self.bytes), &mut file)?;
        file.sync_data()
    }
}
