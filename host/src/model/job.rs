//! A job, its identity, and its source.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use litemap::LiteMap;
use serde::{Deserialize, Serialize};

use super::profile::ProfileLimits;
use super::{OnRemove, Origin, Output, Policy, Secret, SecretOrigin};

/// The origin of a job. A job's identity never depends on another provider's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// The YAML file.
    File,
    /// kube-token-refresher's settings.
    Ktr,
    /// An annotated Secret.
    AnnotatedSecret,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::File, Self::Ktr, Self::AnnotatedSecret];

    /// Its number in the keys of stored records, which must never change nor be reused.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Ktr => 2,
            Self::AnnotatedSecret => 3,
        }
    }
}

/// A job's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId {
    /// Who named it.
    pub provider: Provider,
    /// The Kubernetes namespace of the object that asked for it.
    pub namespace: Option<String>,
    /// Its name, unique within provider and namespace.
    pub name: String,
    /// The uid of the object that asked for it: a deleted and re-created object is another job.
    pub uid: Option<String>,
}

impl JobId {
    /// A job of the YAML file.
    #[must_use]
    pub fn file(name: impl Into<String>) -> Self {
        Self {
            provider: Provider::File,
            namespace: None,
            name: name.into(),
            uid: None,
        }
    }
}

/// `name`, or `namespace/name`.
impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// One token kept fresh.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// How the token is obtained.
    pub source: Source,
    /// When it is refreshed.
    pub refresh: Policy,
    /// How often outputs are verified against the stored token.
    pub verify: Duration,
    /// The destinations of the token.
    pub outputs: Vec<Output>,
    /// What becomes of an output that is taken out of the configuration, or whose job is, while the process runs.
    pub on_remove: OnRemove,
    /// The profile that it is made of; none: it is the administrator's own.
    pub profile: Option<Arc<ProfileUse>>,
}

/// The use of a profile by a tenant's job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileUse {
    /// The profile's name.
    pub profile: String,
    /// How much tenants may use it.
    pub limits: ProfileLimits,
}

/// How a token is obtained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A built-in plugin's name, or a key of [`Config::plugins`](super::Config::plugins).
    pub plugin: String,
    /// The plugin's own configuration, a JSON object.
    pub config: serde_json::Value,
    /// The secrets that the plugin may open, by name. Most jobs have one, for which a map of the standard library would allocate
    /// room for eleven.
    pub secrets: LiteMap<String, Secret>,
    /// Origins the plugin may reach beyond the endpoints in its configuration.
    pub allow: Vec<Origin>,
    /// Addresses and networks that may be reached although the egress rules refuse them.
    pub allow_addresses: Vec<IpNet>,
    /// Names of secrets whose value the plugin may read.
    pub reveal: BTreeSet<String>,
    /// TLS material.
    pub tls: Tls,
    /// The proxy for all requests of this job; none: that of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
    pub proxy: Option<Box<url::Url>>,
    /// The timeout of one call of the plugin.
    pub timeout: Duration,
}

impl Source {
    /// The values that are written in the configuration itself, by the names of their secrets.
    fn literal_values(&self) -> impl Iterator<Item = (&String, &SecretOrigin)> {
        let origins = self
            .secrets
            .iter()
            .map(|(name, secret)| (name, &secret.origin));
        origins.filter(|(_, origin)| matches!(origin, SecretOrigin::Value(_)))
    }

    /// Whether both have the same values in the configuration itself.
    #[must_use]
    pub fn has_same_literal_values(&self, other: &Self) -> bool {
        self.literal_values().eq(other.literal_values())
    }
}

/// TLS material of a job, as PEM files that are read anew when they change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}
