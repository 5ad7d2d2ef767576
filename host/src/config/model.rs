//! The checked configuration: every reference resolved by name, every unit in the type, nothing left to parse.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::origin::Origin;
use crate::refresh::Policy;

/// Everything one process is told to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where chains, journals and tokens survive a crash.
    pub state: StateLocation,
    /// The address of probes and metrics; none: not served.
    pub serve: Option<SocketAddr>,
    /// Where the control socket is to be; none: the process chooses.
    pub control: Option<PathBuf>,
    /// Bounds on what is done at once.
    pub limits: Limits,
    /// Plugins that are not built in, by the name that jobs use.
    pub plugins: BTreeMap<String, PluginFile>,
    /// The jobs, in the order of the file.
    pub jobs: Vec<Arc<Job>>,
    /// Outputs that several jobs' tokens share.
    pub shared_outputs: Vec<Arc<SharedOutput>>,
    /// What the configuration names by itself.
    pub named: Arc<NamedPlaces>,
}

/// The places that the configuration names, each for one use: a format that names its artifacts puts none of them there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedPlaces {
    /// Files that outputs write, files that are read, and the configuration's own.
    pub files: BTreeSet<PathBuf>,
    /// Keys of Secrets that outputs write or that are read: namespace, name, key.
    pub keys: BTreeSet<(String, String, String)>,
}

/// Who named a job. A job's identity never depends on another provider's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// The YAML file.
    File,
    /// kube-token-refresher's settings.
    Ktr,
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

/// What a job's references may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Files, environment, any namespace.
    Administrator,
    /// Only an administrator's profile and values of the tenant's own Secret.
    Tenant {
        /// The tenant's namespace.
        namespace: String,
    },
}

/// One token kept fresh.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// What its references may name.
    pub scope: Scope,
    /// How the token is obtained.
    pub source: Source,
    /// When it is obtained anew.
    pub refresh: Policy,
    /// How often outputs are verified against the kept token.
    pub verify: Duration,
    /// Where it goes.
    pub outputs: Vec<Output>,
}

/// How a token is obtained.
#[derive(Debug, Clone)]
pub struct Source {
    /// A built-in plugin's name, or a key of [`Config::plugins`].
    pub plugin: String,
    /// The plugin's own configuration, a JSON object.
    pub config: serde_json::Value,
    /// The secrets that the plugin may open, by name. Boxed: a map has room for eleven in each node, and most jobs have one.
    pub secrets: BTreeMap<String, Box<Secret>>,
    /// Origins the plugin may reach beyond the endpoints in its configuration.
    pub allow: Vec<Origin>,
    /// Addresses and networks that may be reached although the egress rules refuse them.
    pub allow_addresses: Vec<IpNet>,
    /// Names of secrets whose value the plugin may read.
    pub reveal: BTreeSet<String>,
    /// TLS material.
    pub tls: Tls,
    /// The proxy for all requests of this job; none: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` decide.
    pub proxy: Option<url::Url>,
    /// How long one call of the plugin may take, everything included.
    pub timeout: Duration,
}

/// A named value that a job may use.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Where the value is.
    pub origin: SecretOrigin,
    /// Whether its use may replace it.
    pub rotating: bool,
    /// Whether a request that carried it and went unanswered is repeated.
    pub retry_unanswered: RetryUnanswered,
    /// Whether each new value is also put where the first one came from.
    pub write_back: bool,
    /// Where it may be sent; none: the endpoints in the plugin's configuration.
    pub to: Option<Vec<Origin>>,
}

/// Whether a request that carried a rotating secret and went unanswered is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryUnanswered {
    /// At once: most issuers that detect reuse give some seconds of grace.
    #[default]
    AtOnce,
    /// This long after the request.
    After(Duration),
    /// Not at all: somebody decides.
    Never,
}

/// Where a secret's value is.
#[derive(Debug, Clone)]
pub enum SecretOrigin {
    /// A file's content.
    File(PathBuf),
    /// A member of the JSON in a file.
    FileMember {
        /// The file.
        path: PathBuf,
        /// A JSON pointer (RFC 6901) into its content.
        pointer: String,
    },
    /// An environment variable.
    Env(String),
    /// Written in the configuration.
    Value(SecretString),
    /// A key of a Kubernetes Secret.
    KubernetesSecret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key in `data`.
        key: String,
        /// A JSON pointer (RFC 6901) into the key's value.
        pointer: Option<String>,
    },
    /// A token of a ServiceAccount, requested by TokenRequest for each call.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The token's audiences; empty: the API server's own.
        audiences: Vec<String>,
        /// The lifetime to ask for; at least 600 s. The server may shorten it.
        lifetime: Duration,
    },
    /// The token of another job.
    Job(String),
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

/// A destination and how the token is spelled there.
#[derive(Debug, Clone)]
pub struct Output {
    /// Where it goes.
    pub destination: Destination,
    /// The formatter; none: the bare token, no newline.
    pub format: Option<Format>,
}

/// An output that several jobs' tokens share.
#[derive(Debug, Clone)]
pub struct SharedOutput {
    /// The jobs, in the order in which the formatter gets their tokens. Written once all have one.
    pub from: Vec<JobId>,
    /// Destination and format.
    pub output: Output,
}

/// A formatter plugin and its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// A built-in plugin's name, or a key of [`Config::plugins`].
    pub plugin: String,
    /// The plugin's own configuration, a JSON object.
    pub config: serde_json::Value,
}

/// A place that consumers read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file, or a directory's files when the format makes several.
    File(FileDestination),
    /// A key of a Kubernetes Secret, or several.
    Secret(SecretDestination),
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDestination {
    /// Absolute.
    pub path: PathBuf,
    /// Permission bits, e.g. `0o400`.
    pub mode: u32,
    /// Owner uid; none: the process's own.
    pub owner: Option<u32>,
    /// Group gid; none: the process's own.
    pub group: Option<u32>,
    /// How the file gets its new content.
    pub replace: Replace,
}

/// How a file gets its new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replace {
    /// Another file takes its place in one step: a reader sees the old content or the new.
    #[default]
    Rename,
    /// The file that is there is written over, for one whose place no other can take: a single file that is bind-mounted.
    InPlace,
}

/// A Kubernetes Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretDestination {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key, where the format has one unnamed artifact.
    pub key: String,
    /// Whether it is created when missing.
    pub create: bool,
    /// `type`; none: never sent.
    pub secret_type: Option<String>,
    /// Labels to set.
    pub labels: BTreeMap<String, String>,
    /// Annotations to set.
    pub annotations: BTreeMap<String, String>,
    /// How it is written.
    pub write: SecretWrite,
}

/// How a Secret is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretWrite {
    /// One PATCH: server-side apply with `create`, a merge patch without.
    Patch,
    /// GET and PUT with resourceVersion, POST when absent: for Roles without `patch`, as kube-token-refresher documents.
    GetAndPut,
}

/// Where state is kept.
#[derive(Debug, Clone)]
pub enum StateLocation {
    /// In memory: gone with the process.
    Memory,
    /// A directory, locked to one process.
    Directory {
        /// The directory.
        path: PathBuf,
        /// The first encrypts, all decrypt; empty: mode 0600 only.
        keys: Vec<SecretOrigin>,
    },
    /// Secrets of a cluster, which several processes may share.
    Secrets {
        /// Their namespace.
        namespace: String,
        /// What their names begin with.
        prefix: String,
        /// The first encrypts, all decrypt; empty: not encrypted.
        keys: Vec<SecretOrigin>,
    },
}

/// Bounds on what is done at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Attempts in flight in the whole process.
    pub concurrency: usize,
    /// Attempts in flight to one origin.
    pub in_flight_per_origin: usize,
    /// What a plugin call may use.
    pub plugin: PluginLimits,
}

/// What one plugin call may use. Defaults and their reasons are constants in [`defaults`](super::defaults).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginLimits {
    /// Bytes of linear memory, all memories together.
    pub memory_bytes: usize,
    /// HTTP requests per call.
    pub requests: u32,
    /// Bytes of one HTTP answer, headers and body.
    pub response_bytes: usize,
    /// Bytes of all artifacts of one format call.
    pub artifact_bytes: usize,
    /// Log lines per call.
    pub log_lines: u32,
}

/// A plugin that is not built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFile {
    /// The component.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}
