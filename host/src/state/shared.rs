//! Operations of a store that other processes change, too: listing it, at most once at a time, and its own record, which
//! distinguishes deleted chains from lost ones.

use std::collections::BTreeSet;

use super::Store;
use super::chains::changed;
use super::key::RecordKey;
use super::opening::{read_own, seal_own};
use super::record::Own;
use super::records::{Expected, StoredRecord};
use crate::capability::chain::ChainId;
use crate::model::failure::Failure;

/// How many deleted chains are recorded: more than are deleted while another process does not list the store.
const FORGOTTEN_MAX: usize = 256;

impl Store {
    /// Lists all records if other processes may have changed them. Callers that wait while another list begins share its result.
    pub(super) async fn list_anew(&self) -> Result<(), Failure> {
        if self.records.is_exclusive() {
            return Ok(());
        }
        let arrival = self.known().lists_begun;
        let _turn = self.listing.lock().await;
        let (before, list) = {
            let mut known = self.known();
            if known.list_done > arrival {
                return Ok(());
            }
            known.lists_begun += 1;
            let chains: Vec<ChainId> = known.chains().map(|(id, _)| id).collect();
            let kept: Vec<RecordKey> = known.kept.keys().cloned().collect();
            ((chains, kept), known.lists_begun)
        };
        let all = self.records.list().await?;
        if !all.iter().any(|(key, _)| *key == RecordKey::Own) {
            self.keep_own_record().await?;
        }
        let there: BTreeSet<RecordKey> = all.iter().map(|(key, _)| key.clone()).collect();
        let mut known = self.known();
        for (key, stored) in all {
            match key {
                RecordKey::Own => {
                    let own = read_own(&self.keys.load(), &stored.value)?;
                    known.forgotten = own.forgotten.into_iter().collect();
                }
                key => self.learn(&mut known, key, stored),
            }
        }
        self.tell_refused(&mut known);
        // What was known before and is not listed is gone.
        let (chains, kept) = before;
        for id in chains {
            if !there.contains(&RecordKey::Chain(id)) {
                self.miss(&mut known, id);
            }
        }
        for key in kept {
            if !there.contains(&key) {
                known.kept.remove(&key);
            }
        }
        known.list_done = list;
        Ok(())
    }

    /// Reads which chains were deleted.
    pub(super) async fn learn_what_was_forgotten(&self) -> Result<(), Failure> {
        if let Some(stored) = self.records.get(&RecordKey::Own).await? {
            let own = read_own(&self.keys.load(), &stored.value)?;
            self.known().forgotten = own.forgotten.into_iter().collect();
        }
        Ok(())
    }

    /// Records that these chains were deleted, so that other processes do not take them for lost.
    pub(super) async fn note_forgotten(&self, uids: &BTreeSet<&str>) -> Result<(), Failure> {
        if uids.is_empty() || self.records.is_exclusive() {
            return Ok(());
        }
        let Some(StoredRecord {
            revision, value, ..
        }) = self.records.get(&RecordKey::Own).await?
        else {
            return Err(changed());
        };
        let mut own = read_own(&self.keys.load(), &value)?;
        own.forgotten
            .extend(uids.iter().map(|uid| (*uid).to_owned()));
        let surplus = own.forgotten.len().saturating_sub(FORGOTTEN_MAX);
        own.forgotten.drain(..surplus);
        let sealed = seal_own(&self.keys.load(), &own)?;
        let written = self
            .records
            .put_if(&RecordKey::Own, Expected::At(revision), sealed)
            .await?;
        written.map(drop).ok_or_else(changed)
    }

    /// Ensures that the key of the fingerprints is stored: without it the next reader of the store cannot find a chain by its
    /// value.
    pub(super) async fn keep_own_record(&self) -> Result<(), Failure> {
        let there = match self.records.get(&RecordKey::Own).await? {
            Some(stored) => Some(stored),
            None => {
                let own = Own::new(self.fingerprint_key.clone());
                let sealed = seal_own(&self.keys.load(), &own)?;
                let written = self
                    .records
                    .put_if(&RecordKey::Own, Expected::Nothing, sealed);
                match written.await? {
                    Some(_) => return Ok(()),
                    None => self.records.get(&RecordKey::Own).await?,
                }
            }
        };
        let own = there.map(|stored| read_own(&self.keys.load(), &stored.value));
        let is_ours = own
            .transpose()?
            .is_some_and(|own| own.fingerprint_key == self.fingerprint_key);
        if is_ours {
            return Ok(());
        }
        let place = self.records.whereabouts(&RecordKey::Own);
        Err(self
            .records
            .damaged(format!(
                "the fingerprint key{place} is not the one that this process began with; restart it"
            ))
            .into())
    }
}
