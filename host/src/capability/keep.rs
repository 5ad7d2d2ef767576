//! What capabilities need to have kept for them. The state store implements it; here are only the words.

use std::future::Future;
use std::pin::Pin;

use secrecy::SecretSlice;

use crate::config::model::JobId;
use crate::failure::Failure;
use crate::time::Timestamp;
use crate::token::KeptToken;

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The newest value of a rotating secret, and which seed it grew from.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The value.
    pub value: SecretSlice<u8>,
    /// When it dies, where the issuer said so.
    pub expires_at: Option<Timestamp>,
    /// SHA-256 of the configured value (the seed) that the first use started from. Another seed is another chain.
    pub seed: [u8; 32],
}

/// The durable side of capabilities. A write is durable when its future is ready.
pub trait Keeper: Send + Sync {
    /// A value that the job's plugin cached.
    fn plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>>;

    /// Caches a value for the job's plugin.
    fn set_plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
        value: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// The newest value of the job's rotating secret; none before the first replacement.
    fn generation<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
    ) -> BoxFuture<'a, Result<Option<Generation>, Failure>>;

    /// Stores the successor of the job's rotating secret.
    fn replace_generation<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        next: Generation,
    ) -> BoxFuture<'a, Result<(), Failure>>;

    /// The token kept for a job, for secrets that are another job's token and for restarts.
    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>>;

    /// Keeps a job's token.
    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>>;
}
