//! Recovery of a store whose files are removed while the process has them open: they are created again in their place before
//! anything else is written. After the directory is moved, nothing is created: the open files moved with it.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use redb::{Database, ReadableDatabase, ReadableTable};

use super::database::{self, DATABASE_FILE, META, RECORDS, RESTORED, storage};
use super::folder::Folder;
use super::lock::DirectoryLock;
use super::reserve::Reserve;
use super::witness::{Testimony, Witness};
use super::{OwnFile, WriterThread};
use crate::state::error::StateError;
use crate::state::key::RecordKey;

impl WriterThread {
    /// Creates the store again if its database has been removed.
    ///
    /// # Errors
    /// It cannot be created there, or something else is in its place by now; nothing is written then.
    pub(super) fn stay(&mut self) -> Result<(), StateError> {
        let is_there = |file: &File| file.metadata().is_ok_and(|found| found.nlink() > 0);
        if is_there(&self.file) {
            return Ok(());
        }
        let path = self.folder.path().to_owned();
        let folder = Folder::open(&path)?;
        if !self.lock.is_in(&folder)? {
            self.lock = DirectoryLock::acquire(&folder)?;
        }
        let file = folder.file(DATABASE_FILE)?;
        if file.metadata().is_ok_and(|found| found.len() > 0) {
            return Err(StateError::Damaged {
                path: path.join(DATABASE_FILE),
                reason: "it has been put there in the place of this process's, which somebody removed; keep the right one and start anew".to_owned(),
            });
        }
        if let Err(error) = self.move_to(folder, file) {
            // A partial store must not stay.
            let _ = std::fs::remove_file(path.join(DATABASE_FILE));
            return Err(error);
        }
        tracing::warn!(directory = %path.display(), "the state store was removed under this process; it is made anew");
        Ok(())
    }

    fn move_to(&mut self, folder: Folder, file: File) -> Result<(), StateError> {
        let Some(old) = &self.database else {
            // The database had an I/O error, so its content is lost with its file.
            return Err(StateError::Closed);
        };
        let database = database::open(&folder)?;
        let writing = |error| storage("writing", error);
        copy(old, &database).map_err(writing)?;
        let reading = |error| storage("reading", error);
        if let Some(stored) = database::get(old, &RecordKey::Own).map_err(reading)? {
            OwnFile::open(&folder)?.keep(&stored.value);
        }
        let mut witness = Witness::open(&folder)?;
        // All chains in the database were begun while this process had it, or were there before.
        witness.begin(self.witness.begun().iter().copied());
        let last: Testimony = self.witness.last();
        witness
            .testify(last)
            .map_err(|error| writing(error.into()))?;
        self.reserve = Reserve::open(&folder)?;
        self.witness = witness;
        self.database = Some(database);
        self.file = file;
        self.folder = folder;
        Ok(())
    }
}

/// Copies the whole content of one database into another, in one transaction.
fn copy(from: &Database, to: &Database) -> Result<(), redb::Error> {
    let read = from.begin_read()?;
    let write = to.begin_write()?;
    macro_rules! copy_table {
        ($table:expr) => {
            match read.open_table($table) {
                Ok(table) => {
                    let mut copied = write.open_table($table)?;
                    for entry in table.iter()? {
                        let (key, value) = entry?;
                        copied.insert(key.value(), value.value())?;
                    }
                }
                Err(redb::TableError::TableDoesNotExist(_)) => {}
                Err(error) => return Err(error.into()),
            }
        };
    }
    copy_table!(RECORDS);
    copy_table!(META);
    copy_table!(RESTORED);
    Ok(write.commit()?)
}
