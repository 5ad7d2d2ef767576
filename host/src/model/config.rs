//! The configuration of one process, checked: every reference is resolved by name, units are in the types, nothing is left to
//! parse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::profile::Profile;
use super::{Job, Limits, SecretOrigin, SharedOutput};

/// The configuration of one process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where chains, journals and tokens survive a crash.
    pub state: StateLocation,
    /// The address of probes and metrics; none: not served.
    pub serve: Option<SocketAddr>,
    /// Where the control socket is to be; none: the process chooses.
    pub control: Option<PathBuf>,
    /// Limits on concurrent work.
    pub limits: Limits,
    /// Plugins that are not built in, by the name that jobs use.
    pub plugins: BTreeMap<String, PluginFile>,
    /// What tenants may use, by name.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    /// The annotated Secrets that are served; none: none are.
    pub annotated_secrets: Option<AnnotatedSecrets>,
    /// The jobs, in the order of the file.
    pub jobs: Vec<Arc<Job>>,
    /// Outputs that several jobs' tokens share.
    pub shared_outputs: Vec<Arc<SharedOutput>>,
    /// The places that the configuration names.
    pub named: Arc<NamedPlaces>,
}

/// Which annotated Secrets are served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnotatedSecrets {
    /// The profile of Secrets that name none; none: those are not served.
    pub default_profile: Option<String>,
    /// The namespaces to watch; empty: all.
    pub namespaces: Vec<String>,
    /// A label selector; none: all Secrets are watched.
    pub selector: Option<String>,
}

/// The places that the configuration names, each for one use: a format that names its artifacts must not write to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedPlaces {
    /// Files that outputs write, files that are read, and the configuration's own.
    pub files: BTreeSet<PathBuf>,
    /// Keys of Secrets that outputs write or that are read: namespace, name, key.
    pub keys: BTreeSet<(String, String, String)>,
}

/// The place of the state store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateLocation {
    /// In memory: it ends with the process.
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
        /// The prefix of their names.
        prefix: String,
        /// The first encrypts, all decrypt; empty: not encrypted.
        keys: Vec<SecretOrigin>,
    },
}

impl StateLocation {
    /// The keys that encrypt what is stored; empty: it is not encrypted.
    #[must_use]
    pub fn keys(&self) -> &[SecretOrigin] {
        match self {
            Self::Memory => &[],
            Self::Directory { keys, .. } | Self::Secrets { keys, .. } => keys,
        }
    }
}

/// A plugin that is not built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFile {
    /// The component.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}
