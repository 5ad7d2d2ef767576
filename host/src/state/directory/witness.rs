//! The witness file beside the database, by which a database that was replaced by an older copy is noticed: the number of changes
//! of chains, whether records are encrypted, and which chains were begun, since those that a copy lacks are spent all the same. A
//! restored copy of the whole directory includes this file, and is not noticed.

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

/// Bytes of the part that is overwritten in place, always as a whole: it needs no space on a full disk. The ids of chains follow
/// it.
const LEN: usize = 128;

/// Bytes of an id.
const ID_LEN: usize = 16;

/// The most bytes that are read of the file: a hundred thousand chains have less.
const MAX_LEN: u64 = 4 << 20;

/// The content of the overwritten part.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Testimony {
    /// The number of changes of chains.
    pub(super) generation: u64,
    /// Whether all records are encrypted.
    pub(super) encrypted: bool,
}

/// The open file.
pub(super) struct Witness {
    file: File,
    last: Testimony,
    begun: BTreeSet<ChainId>,
    /// The number of ids in the file.
    ids: usize,
    /// Ids that are not in the file yet.
    unwritten: BTreeSet<ChainId>,
}

impl Witness {
    /// Opens the file. An empty one, as after a power cut at the first start, has no content.
    pub(super) fn open(folder: &Folder) -> Result<Self, StateError> {
        let file = folder.file(WITNESS_FILE)?;
        let mut bytes = Vec::new();
        // An unreadable file counts as empty.
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

    /// The chains that were begun and not deleted.
    pub(super) const fn begun(&self) -> &BTreeSet<ChainId> {
        &self.begun
    }

    /// Adds chains that were begun.
    pub(super) fn begin(&mut self, chains: impl IntoIterator<Item = ChainId>) {
        for chain in chains {
            if self.begun.insert(chain) {
                self.unwritten.insert(chain);
            }
        }
    }

    /// Drops all other chains.
    pub(super) fn keep_only(&mut self, chains: BTreeSet<ChainId>) {
        if chains != self.begun {
            self.unwritten.clone_from(&chains);
            self.begun = chains;
            self.ids = 0;
        }
    }

    /// Stores the content durably, if it has changed.
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
