//! The errors of the state store, each with its stable code and its correction.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::key::RecordKey;
use crate::model::JobId;
use crate::model::failure::{Failure, FailureKind, HostCode};

fn mend_of(why: &io::Error, mend: &'static str) -> &'static str {
    match why.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "mount its file system writable",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room",
        _ => mend,
    }
}

/// Why the state store cannot carry out an operation. No variant contains a value from the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateError {
    /// The directory, its lock or its file cannot be opened.
    #[error("cannot open {path}: {why}; {mend}", path = path.display(), mend = mend_of(why, mend))]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why it failed.
        why: Arc<io::Error>,
        /// How to correct it.
        mend: &'static str,
    },
    /// Other users could have put something into the directory.
    #[error("the state directory is not used: {why}")]
    Exposed {
        /// Which place, which user, and the correction.
        why: String,
    },
    /// Another process holds the directory.
    #[error("state directory {path} is in use by {holder}; `evertoken status` and `evertoken refresh` speak to it; of two processes on one configuration one must stop, and another configuration needs a directory and logins of its own", path = path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Its holder, as that process recorded it.
        holder: String,
    },
    /// An earlier version wrote the store, in a form that this one does not read.
    #[error(
        "{store} was written by an earlier version, in a form that this one does not read; let that version finish, choose a new place for the store, and log in again where a job has a rotating secret"
    )]
    OlderForm {
        /// The database file, or the Secrets.
        store: String,
    },
    /// A newer version wrote the store.
    #[error("{path} has schema {found}, this version knows {known}; run the version that wrote it, or a later one", path = path.display())]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// The schema in the file.
        found: u64,
        /// The newest schema known here.
        known: u64,
    },
    /// The file is not a state store of ours, or is damaged.
    #[error("{path} is not a usable state store: {reason}; restore it, or move it away to start with an empty one", path = path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What the database says.
        reason: String,
    },
    /// The Secrets are not a state store of ours, or are damaged.
    #[error(
        "{store} are not a usable state store: {reason}; restore them, or choose another `state.secret.prefix` to start with an empty one"
    )]
    DamagedSecrets {
        /// The Secrets.
        store: String,
        /// What is wrong.
        reason: String,
    },
    /// Records are encrypted with keys that are not given.
    #[error(
        "{records} record(s) in {store} are encrypted with key {key_id}, which `state.key` does not have; add it, behind the first if there is one. Whoever has lost it begins anew with another place for the store, and logs in again"
    )]
    KeyMissing {
        /// The database file, or the Secrets.
        store: String,
        /// Fingerprint of the missing key.
        key_id: String,
        /// How many records need it.
        records: usize,
    },
    /// A record does not decrypt although its key is given.
    #[error(
        "the {record} cannot be decrypted and is left as it is; restore the state store, or run `evertoken state forget {forget}`"
    )]
    Undecryptable {
        /// Which record.
        record: String,
        /// The argument for `evertoken state forget`.
        forget: String,
    },
    /// A record in plain text in a store whose records are encrypted.
    #[error(
        "the {record} is not encrypted although the state store is: somebody without the key has put it there. It is not used and left as it is; restore the state store, or run `evertoken state forget {forget}`"
    )]
    Plaintext {
        /// Which record.
        record: String,
        /// The argument for `evertoken state forget`.
        forget: String,
    },
    /// An older copy of the store was restored.
    #[error(
        "the {record} is from a copy of the state store that was put back: what was newer is lost, so its value may be spent and is not sent. Log in again and put the new value where the configuration has it, or give it to `evertoken state set`; if nothing has used the value since the copy was made, `evertoken state set --kept` says so"
    )]
    Restored {
        /// The record of the chain.
        record: String,
    },
    /// An older copy of the store was restored, and lacks the record of a value that was used since.
    #[error(
        "the value of secret `{secret}` of job {job} was used after the copy of the state store was made that was put back: what became of it is lost, so it may be spent and is not sent. Log in again and put the new value where the configuration has it"
    )]
    Lost {
        /// The job of the value.
        job: JobId,
        /// The secret's name.
        secret: String,
    },
    /// A record decrypts to something this version cannot read.
    #[error("the {record} cannot be read: {reason}")]
    Unreadable {
        /// The kind of record that was expected.
        record: &'static str,
        /// What is wrong with it; holds no value.
        reason: String,
    },
    /// A read or a commit failed.
    #[error("{operation} the state store failed: {source}")]
    Storage {
        /// `reading` or `writing`.
        operation: &'static str,
        /// The database's error.
        #[source]
        source: Arc<redb::Error>,
    },
    /// The thread that owns the database has ended.
    #[error("the state store has been closed")]
    Closed,
    /// A plugin wants to store more than it may.
    #[error("the plugin keeps too much: at most {limit} {what}")]
    Quota {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The cryptographic library failed.
    #[error("{0} failed in the cryptographic library")]
    Crypto(&'static str),
}

impl StateError {
    /// A record that does not decrypt.
    pub(super) fn undecryptable(key: &RecordKey) -> Self {
        Self::Undecryptable {
            record: key.to_string(),
            forget: forgotten_as(key),
        }
    }

    /// A record that should be encrypted.
    pub(super) fn plaintext(key: &RecordKey) -> Self {
        Self::Plaintext {
            record: key.to_string(),
            forget: forgotten_as(key),
        }
    }

    /// The same with another name for the record.
    pub(super) fn of_record(self, record: String) -> Self {
        match self {
            Self::Undecryptable { forget, .. } => Self::Undecryptable { record, forget },
            Self::Plaintext { forget, .. } => Self::Plaintext { record, forget },
            other => other,
        }
    }

    /// The chain of a job's secret is from a restored copy.
    pub(super) fn restored(job: &JobId, secret: &str) -> Self {
        Self::Restored {
            record: chain_of(job, secret),
        }
    }

    /// The record of a value is missing in a restored copy.
    pub(super) fn lost(job: &JobId, secret: &str) -> Self {
        Self::Lost {
            job: job.clone(),
            secret: secret.to_owned(),
        }
    }

    /// The stable code for machines.
    #[must_use]
    pub fn code(&self) -> HostCode {
        match self {
            Self::Open { .. } => HostCode::StateOpen,
            Self::Exposed { .. } => HostCode::StateExposed,
            Self::Plaintext { .. } => HostCode::StatePlaintext,
            Self::Restored { .. } | Self::Lost { .. } => HostCode::ChainRestored,
            Self::Locked { .. } => HostCode::StateLocked,
            Self::OlderForm { .. } => HostCode::StateOlderForm,
            Self::NewerSchema { .. } => HostCode::StateNewerSchema,
            Self::Damaged { .. } | Self::DamagedSecrets { .. } => HostCode::StateDamaged,
            Self::KeyMissing { .. } => HostCode::StateKeyMissing,
            Self::Undecryptable { .. } => HostCode::StateUndecryptable,
            Self::Unreadable { .. } => HostCode::StateUnreadable,
            Self::Storage { source, .. } if is_disk_full(source) => HostCode::StateDiskFull,
            Self::Storage { .. } => HostCode::StateIo,
            Self::Closed => HostCode::StateClosed,
            Self::Quota { .. } => HostCode::StateTooLarge,
            Self::Crypto(_) => HostCode::StateCrypto,
        }
    }

    const fn kind(&self) -> FailureKind {
        match self {
            Self::Storage { .. } | Self::Closed | Self::Open { .. } | Self::Locked { .. } => {
                FailureKind::Unavailable
            }
            Self::Restored { .. } | Self::Lost { .. } => FailureKind::Denied,
            Self::OlderForm { .. }
            | Self::NewerSchema { .. }
            | Self::Exposed { .. }
            | Self::Plaintext { .. }
            | Self::Damaged { .. }
            | Self::DamagedSecrets { .. }
            | Self::KeyMissing { .. }
            | Self::Undecryptable { .. } => FailureKind::InvalidConfig,
            Self::Unreadable { .. } | Self::Quota { .. } | Self::Crypto(_) => FailureKind::Internal,
        }
    }
}

/// The name of a chain's record in messages.
pub(super) fn chain_of(job: &JobId, secret: &str) -> String {
    format!("chain of secret `{secret}` of job {job}")
}

/// The argument of `evertoken state forget` for a record: an unreadable chain does not reveal its job.
fn forgotten_as(key: &RecordKey) -> String {
    match key {
        RecordKey::Own => String::new(),
        RecordKey::Chain(id) => id.to_string(),
        RecordKey::Token(job) | RecordKey::Values(job) => job.to_string(),
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::new(error.kind(), error.code(), error.to_string())
    }
}

fn is_disk_full(error: &redb::Error) -> bool {
    matches!(
        error,
        redb::Error::Io(io) if matches!(
            io.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    )
}
