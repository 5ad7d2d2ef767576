//! The state store: what survives a crash. It turns tokens, generations of rotating secrets and plugin values into records,
//! encrypts them when there is a key, and hands them to a backend: a directory (durable) or memory (gone with the process).

mod directory;
mod error;
mod memory;
mod record;
mod seal;

use std::collections::BTreeSet;
use std::path::Path;

use zeroize::Zeroizing;

pub use self::error::StateError;
pub use self::seal::{KeyError, StateKey};

use self::record::Kind;
use self::seal::Keyring;
use crate::capability::keep::{BoxFuture, Generation, Keeper};
use crate::config::model::JobId;
use crate::failure::Failure;
use crate::token::KeptToken;

/// Bytes of one plugin value. A cache of discovery documents and nonces needs a few KiB; larger ones would make every
/// commit, and so every other job's rotation, slower.
pub const PLUGIN_VALUE_MAX_BYTES: usize = 64 * 1024;

/// Bytes of a plugin value's key, which is a name and no second value.
pub const PLUGIN_KEY_MAX_BYTES: usize = 256;

/// Plugin values per job, so that a plugin which makes up a new key on every call fills 4 MiB at most.
pub const PLUGIN_VALUES_PER_JOB: usize = 64;

/// Where records are. Implementations are equal in all but durability.
enum Backend {
    Memory(memory::Memory),
    Directory(directory::Directory),
}

/// The state store of one process.
pub struct Store {
    backend: Backend,
    keys: Keyring,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A store that is gone with the process.
    #[must_use]
    pub fn memory() -> Self {
        Self {
            backend: Backend::Memory(memory::Memory::default()),
            keys: Keyring::default(),
        }
    }

    /// Opens or creates the store in a directory. The first key encrypts, all decrypt; records that another key or none
    /// encrypted are encrypted anew with the first. Blocks: the lock, a repair after a crash and that re-encryption happen here.
    ///
    /// # Errors
    /// The directory is held by another process, cannot be written, was written by a newer version, or needs a key that
    /// `keys` does not have. Nothing is overwritten then.
    pub fn open(directory: &Path, keys: Vec<StateKey>) -> Result<Self, StateError> {
        let keys = Keyring::new(keys);
        if keys.is_empty() {
            tracing::warn!(
                directory = %directory.display(),
                "state is kept unencrypted in a file of mode 0600; set `state.key` to encrypt it"
            );
        }
        let backend = directory::Directory::open(directory, &keys)?;
        Ok(Self {
            backend: Backend::Directory(backend),
            keys,
        })
    }

    /// Whether the store in a directory could be opened, as far as that shows without opening it: another process may have it.
    ///
    /// # Errors
    /// The directory is not there and cannot be made, or this process may not write in it.
    pub fn look(directory: &Path) -> Result<(), StateError> {
        directory::look(directory)
    }

    /// Every job that something is kept for.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn jobs(&self) -> Result<Vec<JobId>, Failure> {
        let keys = self.scan(Vec::new()).await?;
        let jobs: BTreeSet<JobId> = keys
            .iter()
            .map(|key| record::decode_key(key).map(|(job, _, _)| job))
            .collect::<Result<_, _>>()?;
        Ok(jobs.into_iter().collect())
    }

    /// Forgets all that is kept for a job, also what cannot be decrypted.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn forget(&self, job: &JobId) -> Result<(), Failure> {
        let prefix = record::job_prefix(job);
        match &self.backend {
            Backend::Memory(memory) => memory.remove_prefix(&prefix),
            Backend::Directory(directory) => directory.remove_prefix(prefix).await?,
        }
        Ok(())
    }

    async fn read(
        &self,
        job: &JobId,
        kind: Kind,
        name: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let key = record::key(job, kind, name);
        let stored = match &self.backend {
            Backend::Memory(memory) => memory.get(&key),
            Backend::Directory(directory) => directory.get(key.clone()).await?,
        };
        match stored {
            Some(stored) => Ok(Some(self.keys.open(&key, &stored)?)),
            None => Ok(None),
        }
    }

    async fn write(
        &self,
        job: &JobId,
        kind: Kind,
        name: &str,
        value: &[u8],
    ) -> Result<(), Failure> {
        let key = record::key(job, kind, name);
        let sealed = self.keys.seal(&key, value)?;
        match &self.backend {
            Backend::Memory(memory) => memory.put(key, sealed),
            Backend::Directory(directory) => directory.put(key, sealed).await?,
        }
        Ok(())
    }

    async fn scan(&self, prefix: Vec<u8>) -> Result<Vec<Vec<u8>>, Failure> {
        Ok(match &self.backend {
            Backend::Memory(memory) => memory.scan(&prefix),
            Backend::Directory(directory) => directory.scan(prefix).await?,
        })
    }

    /// Refuses a plugin value beyond the named limits. A job has one call of its plugin at a time, so nothing is added
    /// between the count and the write.
    async fn admit_plugin_value(
        &self,
        job: &JobId,
        key: &str,
        value: &[u8],
    ) -> Result<(), StateError> {
        if value.len() > PLUGIN_VALUE_MAX_BYTES {
            return Err(StateError::Quota {
                what: "bytes of one value",
                limit: PLUGIN_VALUE_MAX_BYTES,
            });
        }
        if key.len() > PLUGIN_KEY_MAX_BYTES {
            return Err(StateError::Quota {
                what: "bytes of one key",
                limit: PLUGIN_KEY_MAX_BYTES,
            });
        }
        let prefix = record::kind_prefix(job, Kind::PluginValue);
        let held = match &self.backend {
            Backend::Memory(memory) => memory.scan(&prefix),
            Backend::Directory(directory) => directory.scan(prefix).await?,
        };
        let replaces = held.contains(&record::key(job, Kind::PluginValue, key));
        if !replaces && held.len() >= PLUGIN_VALUES_PER_JOB {
            return Err(StateError::Quota {
                what: "values of one job",
                limit: PLUGIN_VALUES_PER_JOB,
            });
        }
        Ok(())
    }
}

impl Keeper for Store {
    fn plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        Box::pin(async move {
            let value = self.read(job, Kind::PluginValue, key).await?;
            Ok(value.map(|mut value| std::mem::take(&mut *value)))
        })
    }

    fn set_plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
        value: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.admit_plugin_value(job, key, value).await?;
            self.write(job, Kind::PluginValue, key, value).await
        })
    }

    fn generation<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
    ) -> BoxFuture<'a, Result<Option<Generation>, Failure>> {
        Box::pin(async move {
            match self.read(job, Kind::Generation, secret).await? {
                Some(bytes) => Ok(Some(record::decode_generation(&bytes)?)),
                None => Ok(None),
            }
        })
    }

    fn replace_generation<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        next: Generation,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let bytes = record::encode_generation(&next)?;
            self.write(job, Kind::Generation, secret, &bytes).await
        })
    }

    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>> {
        Box::pin(async move {
            match self.read(job, Kind::Token, "").await? {
                Some(bytes) => Ok(Some(record::decode_token(&bytes)?)),
                None => Ok(None),
            }
        })
    }

    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let bytes = record::encode_token(token)?;
            self.write(job, Kind::Token, "", &bytes).await
        })
    }
}
