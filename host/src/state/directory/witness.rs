//! What is remembered beside the database, so that another database in its place is noticed: how often chains have changed, whether
//! records are encrypted, and which chains were begun: those that a copy does not know are spent all the same. Whoever puts back a copy of
//! the whole directory puts back this file too, and is not noticed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::capability::chain::ChainId;
use crate::state::error::StateError;

/// The file's name in the directory.
const WITNESS_FILE: &str = "generation";

/// Bytes of what is written over in place, and always whole: it needs no room on a full disk. Behind it are the ids of chains.
const LEN: usize = 128;

/// Bytes of an id.
const ID_LEN: usize = 16;

/// Bytes that are read of the file: a hundred thousand chains have less.
const MAX_LEN: u64 = 4 << 20;

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
    begun: BTreeSet<ChainId>,
    /// How many ids are in the file.
    ids: usize,
    /// What is not in the file yet.
    unwritten: BTreeSet<ChainId>,
}

impl Witness {
    /// Opens the file. One that says nothing, as after a power cut at the first start, knows of nothing.
    pub(super) fn open(folder: &Folder) -> Result<Self, StateError> {
        let file = folder.file(WITNESS_FILE)?;
        let mut bytes = Vec::new();
        // What cannot be read says nothing.
        let _ = (&file).take(MAX_LEN).read_to_end(&mut bytes);
        let (text, ids) = bytes.split_at_checked(LEN).unwrap_or((&bytes, &[]));
        let (ids, _) = ids.as_chunks::<ID_LEN>();
        Ok(Self {
            last: serde_json::from_slice(text).unwrap_or_default(),
            begun: ids.iter().copied().map(ChainId).collect(),
            ids: ids.len(),
            unwritten: BTreeSet::new(),
            file,
        })
    }

    pub(super) const fn last(&self) -> Testimony {
        self.last
    }

    /// The chains that were begun, as far as they are not forgotten.
    pub(super) const fn begun(&self) -> &BTreeSet<ChainId> {
        &self.begun
    }

    /// These chains have been begun.
    pub(super) fn begin(&mut self, chains: impl IntoIterator<Item = ChainId>) {
        for chain in chains {
            if self.begun.insert(chain) {
                self.unwritten.insert(chain);
            }
        }
    }

    /// Of no other chains need be known.
    pub(super) fn keep_only(&mut self, chains: BTreeSet<ChainId>) {
        if chains != self.begun {
            self.unwritten.clone_from(&chains);
            self.begun = chains;
            self.ids = 0;
        }
    }

    /// Writes it down, durably, if it is something new.
    pub(super) fn testify(&mut self, now: Testimony) -> std::io::Result<()> {
        let end = LEN + (self.ids + self.unwritten.len()) * ID_LEN;
        let is_longer = self.file.metadata()?.len() > end as u64;
        if now == self.last && self.unwritten.is_empty() && !is_longer {
            return Ok(());
        }
        let text = serde_json::to_string(&now)?;
        let line = format!("{text:<width$}\n", width = LEN - 1);
        self.file.write_all_at(line.as_bytes(), 0)?;
        let ids: Vec<u8> = self.unwritten.iter().flat_map(|chain| chain.0).collect();
        let offset = LEN + self.ids * ID_LEN;
        self.file.write_all_at(&ids, offset as u64)?;
        if is_longer {
            self.file.set_len(end as u64)?;
        }
        self.file.sync_data()?;
        self.last = now;
        self.ids += self.unwritten.len();
        self.unwritten.clear();
        Ok(())
    }
}
