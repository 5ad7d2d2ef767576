//! The lock that gives a state directory to one process: `flock` on a file of its own, so that the kernel releases it however the
//! process ends. The file names its holder, for people only.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use super::folder::Folder;
use crate::state::error::StateError;

/// The lock's name in the directory.
const LOCK_FILE: &str = "lock";

/// The most bytes read of another holder's description.
const HOLDER_MAX_BYTES: u64 = 300;

/// The directory is locked until this is dropped.
pub(super) struct DirectoryLock(File);

impl DirectoryLock {
    /// Takes the lock, or fails with its holder.
    pub(super) fn acquire(folder: &Folder) -> Result<Self, StateError> {
        let failed = |source| StateError::Open {
            path: folder.path().join(LOCK_FILE),
            why: Arc::new(source),
            mend: "let this process lock and write it",
        };
        let mut file = folder.file(LOCK_FILE)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::Locked {
                    path: folder.path().to_owned(),
                    holder: holder(&file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", describe_this_process()).map_err(failed)?;
        Ok(Self(file))
    }

    /// Whether the lock is that of the directory now at the path.
    pub(super) fn is_in(&self, folder: &Folder) -> Result<bool, StateError> {
        let id = |file: &File| file.metadata().map(|found| (found.dev(), found.ino())).ok();
        Ok(id(&self.0) == id(&folder.file(LOCK_FILE)?))
    }
}

impl Drop for DirectoryLock {
    /// Closing the file alone is not enough: a child that has just been forked also has it open until it runs its own program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// A pid means nothing in another container, so the host's name is included.
fn describe_this_process() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("process {} on host {}", std::process::id(), host.trim())
}

fn holder(file: &File) -> String {
    let mut text = String::new();
    // Only a description: if it cannot be read, the lock is held all the same.
    let _ = file.take(HOLDER_MAX_BYTES).read_to_string(&mut text);
    match text.trim() {
        "" => "another process".to_owned(),
        text => text.escape_debug().to_string(),
    }
}
