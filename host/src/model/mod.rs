//! The domain types that all modules share. Of the other modules, they only use `serde_secret`.

pub mod config;
pub mod defaults;
pub mod failure;
pub mod job;
pub mod limits;
pub mod origin;
pub mod output;
pub mod policy;
pub mod profile;
pub mod secret;
pub mod time;
pub mod token;

pub use self::config::{AnnotatedSecrets, Config, NamedPlaces, PluginFile, StateLocation};
pub use self::job::{Job, JobId, ProfileUse, Provider, Source, Tls};
pub use self::limits::{CurrentLimits, Limits, PluginLimits};
pub use self::origin::Origin;
pub use self::output::{
    Destination, FileDestination, Format, OnRemove, Output, Replace, SecretDestination,
    SecretWrite, SharedOutput, TokenMember,
};
pub use self::policy::Policy;
pub use self::secret::{LiteralValue, RetryUnanswered, Secret, SecretOrigin};
