//! The records of a job beside its chains: its token, and its plugin's cached values.

use zeroize::Zeroizing;

use super::Store;
use super::error::StateError;
use super::key::RecordKey;
use super::record::{self, Values};
use super::records::{Expected, RecordBytes};
use crate::capability::keep::{PLUGIN_VALUES_MAX, PLUGIN_VALUES_MAX_BYTES, Revision};
use crate::model::JobId;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::token::KeptToken;

/// Rounds of reading and writing a job's values while another process writes them.
const CONFLICTS_MAX: usize = 4;

impl Store {
    pub(super) async fn kept_token(&self, job: &JobId) -> Result<Option<KeptToken>, Failure> {
        match self.kept(&RecordKey::Token(job.clone())).await? {
            Some((_, bytes)) => Ok(Some(record::decode("kept token", &bytes)?)),
            None => Ok(None),
        }
    }

    pub(super) async fn put_token(&self, job: &JobId, token: &KeptToken) -> Result<(), Failure> {
        let key = RecordKey::Token(job.clone());
        let bytes = record::encode("kept token", token)?;
        self.put(&key, Expected::Anything, &bytes).await?;
        Ok(())
    }

    pub(super) async fn cached(&self, job: &JobId) -> Result<Values, Failure> {
        Ok(self.values(job).await?.1)
    }

    /// Caches a value. A concurrent change of another value is preserved.
    pub(super) async fn cache(&self, job: &JobId, name: &str, value: &[u8]) -> Result<(), Failure> {
        let key = RecordKey::Values(job.clone());
        for _ in 0..CONFLICTS_MAX {
            let (revision, mut values) = self.values(job).await?;
            values.insert(name.to_owned(), Zeroizing::new(value.to_vec()));
            is_within_quota(&values)?;
            let bytes = record::encode("plugin values", &values)?;
            let expected = revision.map_or(Expected::Nothing, Expected::At);
            if self.put(&key, expected, &bytes).await? {
                return Ok(());
            }
            self.look_again(&key).await?;
        }
        Err(Failure::new(
            FailureKind::Unavailable,
            HostCode::StateChanged,
            format!(
                "what the plugin of job {job} cached is changed by other processes all the time"
            ),
        ))
    }

    async fn values(&self, job: &JobId) -> Result<(Option<Revision>, Values), Failure> {
        match self.kept(&RecordKey::Values(job.clone())).await? {
            Some((revision, bytes)) => {
                Ok((Some(revision), record::decode("plugin values", &bytes)?))
            }
            None => Ok((None, Values::new())),
        }
    }

    async fn kept(&self, key: &RecordKey) -> Result<Option<(Revision, RecordBytes)>, Failure> {
        self.admit(key)?;
        let stored = if self.records.is_exclusive() {
            let stored = self.records.get(key).await?;
            stored.map(|stored| (stored.revision, stored.value))
        } else {
            self.known().kept.get(key).cloned()
        };
        let Some((revision, sealed)) = stored else {
            return Ok(None);
        };
        let opened = self.keys.load().open(key, &sealed);
        let bytes = opened.map_err(|error| error.of_record(self.name_of(key)))?;
        Ok(Some((revision, bytes)))
    }

    /// False: the record is not the expected one.
    async fn put(
        &self,
        key: &RecordKey,
        expected: Expected,
        bytes: &RecordBytes,
    ) -> Result<bool, Failure> {
        // An unreadable record is not overwritten.
        self.admit(key)?;
        let sealed = self.keys.load().seal(key, bytes)?;
        let holds = !self.records.is_exclusive();
        let held = holds.then(|| sealed.clone());
        let Some(written) = self.records.put_if(key, expected, sealed).await? else {
            return Ok(false);
        };
        if let Some(held) = held {
            let mut known = self.known();
            known.kept.insert(key.clone(), (written.revision, held));
        }
        Ok(true)
    }

    /// Another process has changed it.
    async fn look_again(&self, key: &RecordKey) -> Result<(), Failure> {
        let stored = self.records.get(key).await?;
        let mut known = self.known();
        known.kept.remove(key);
        if let Some(stored) = stored {
            self.learn(&mut known, key.clone(), stored);
        }
        Ok(())
    }
}

fn is_within_quota(values: &Values) -> Result<(), StateError> {
    let size = |(key, value): (&String, &RecordBytes)| key.len() + value.len();
    let all: usize = values.iter().map(size).sum();
    let (what, limit) = if values.len() > PLUGIN_VALUES_MAX {
        ("values of one job", PLUGIN_VALUES_MAX)
    } else if all > PLUGIN_VALUES_MAX_BYTES {
        ("bytes of all values of one job", PLUGIN_VALUES_MAX_BYTES)
    } else {
        return Ok(());
    };
    Err(StateError::Quota { what, limit })
}
