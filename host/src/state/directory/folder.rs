//! The state directory and its files, which only this user may write. A file that another user may have written is refused,
//! because the store's content decides which values are sent where.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::file::walk::{Missing, OwnDirectory, WalkError, check_parent, open_own_directory};
use crate::state::Looked;
use crate::state::error::StateError;

/// The corrections for a directory that cannot be opened.
const MAKE_IT: &str = "make the state directory for the user of this process (`install -d -m 0700 -o USER DIRECTORY`), or set `state.dir` to a place where that user may";
const LET_US_WRITE: &str = "let this process write in the state directory";

/// The space that the commit of a rotation takes, in bytes: a few pages for the record and the tree above it.
const COMMIT_BYTES: usize = 32 * 1024;

/// The correction for a file in it that cannot be opened.
const MAKE_REGULAR: &str = "it must be a regular file that this process may read and write";

/// The state directory, held open so that it cannot be exchanged.
pub(super) struct Folder {
    directory: OwnDirectory,
    path: PathBuf,
}

impl Folder {
    /// Opens the directory, created for this user alone if it is missing. Its parent must exist.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        Ok(Self {
            directory: open_own_directory(path, Missing::Made)
                .map_err(|error| refused(path, error))?,
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file to read and write, made if it is missing.
    pub(super) fn file(&self, name: &str) -> Result<File, StateError> {
        let path = self.path.join(name);
        let failed = |source: io::Error| StateError::Open {
            path: path.clone(),
            why: Arc::new(source),
            mend: MAKE_REGULAR,
        };
        // Not blocking, as the file may be a pipe.
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.directory.directory, name, flags, mode)
            .map_err(|errno| failed(errno.into()))?;
        let file = File::from(file);
        let found = file.metadata().map_err(failed)?;
        let refused = |why: String| StateError::Exposed { why };
        let shown = path.display();
        if !found.is_file() {
            return Err(refused(format!("{shown} is no regular file; move it away")));
        }
        let us = geteuid().as_raw();
        if found.uid() != us {
            return Err(refused(format!(
                "{shown} belongs to user {}, who could have put anything into it; give it to user {us} if you trust it (`chown {us} {shown}`), or run as its owner",
                found.uid()
            )));
        }
        // In a volume the kubelet gives the Pod's group write permission to every file at every start.
        let writers = if self.directory.in_volume {
            0o002
        } else {
            0o022
        };
        if found.mode() & writers != 0 {
            return Err(refused(format!(
                "{shown} can be written by others (mode {:04o}), who could have put anything into it; take that from them if you trust it (`chmod go= {shown}`)",
                found.mode() & 0o7777
            )));
        }
        if found.mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))
                .map_err(failed)?;
        }
        Ok(file)
    }
}

/// Checks that a process could write in the directory, or create it.
pub(in crate::state) fn look(path: &Path) -> Result<Looked, StateError> {
    let failed = |source: io::Error, mend| StateError::Open {
        path: path.to_owned(),
        why: Arc::new(source),
        mend,
    };
    match open_own_directory(path, Missing::Refused) {
        Err(WalkError::Missing(missing)) if missing == path => {
            let parent = path.parent().unwrap_or(path);
            let parent = check_parent(parent).map_err(|error| refused(path, error))?;
            try_writing(&parent).map_err(|error| failed(error, MAKE_IT))?;
            Ok(Looked::NoStore)
        }
        Err(error) => Err(refused(path, error)),
        Ok(own) => {
            try_writing(&own.directory).map_err(|error| failed(error, LET_US_WRITE))?;
            let database = super::DATABASE_FILE;
            let found = rustix::fs::statat(&own.directory, database, AtFlags::SYMLINK_NOFOLLOW);
            Ok(match found {
                Ok(_) => Looked::Store,
                Err(_) => Looked::NoStore,
            })
        }
    }
}

/// Writes as much as a commit takes into a file without a name, which is gone when it is closed; where the file system does not
/// support that, into one that is removed.
fn try_writing(directory: impl AsFd) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let unnamed = rustix::fs::openat(&directory, ".", flags | OFlags::TMPFILE, mode);
    let (file, name) = match unnamed {
        Ok(file) => (file, None),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let name = format!(".evertoken-probe-{:016x}", fastrand::u64(..));
            let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let file = rustix::fs::openat(&directory, &*name, flags, mode)?;
            (file, Some(name))
        }
        Err(errno) => return Err(errno.into()),
    };
    let mut file = File::from(file);
    let written = file
        .write_all(&[0; COMMIT_BYTES])
        .and_then(|()| file.sync_all());
    if let Some(name) = name {
        rustix::fs::unlinkat(&directory, &*name, AtFlags::empty())?;
    }
    written
}

fn refused(path: &Path, error: WalkError) -> StateError {
    let (kind, mend) = match &error {
        WalkError::Exposed(_) | WalkError::ForeignSymlink(_) | WalkError::TooManySymlinks => {
            return StateError::Exposed {
                why: error.to_string(),
            };
        }
        WalkError::NotADirectory(_) => (io::ErrorKind::NotADirectory, "it must be a directory"),
        WalkError::Missing(_) => (io::ErrorKind::NotFound, MAKE_IT),
        WalkError::Os { errno, .. } => (errno.kind(), MAKE_IT),
    };
    StateError::Open {
        path: path.to_owned(),
        why: Arc::new(io::Error::new(kind, error)),
        mend,
    }
}
