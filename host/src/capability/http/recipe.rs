//! What a connection is made from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::proxy::Proxy;

/// What a request says it comes from, unless the plugin says something else.
pub(super) const USER_AGENT: &str = concat!("evertoken/", env!("CARGO_PKG_VERSION"));

/// The longest that resolving, connecting and the TLS handshake may take together. Three SYNs fit: 1 s + 2 s + 4 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom a client trusts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// Nobody: the request is plain http.
    Nobody,
    /// The system's certificate authorities.
    System,
    /// The certificates in this file.
    File(PathBuf),
}

/// What a client is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Recipe {
    /// Whom it trusts.
    pub trust: Trust,
    /// The files of its certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The proxy that all its requests go through.
    pub proxy: Option<Proxy>,
    /// Addresses that may be reached although the egress rules refuse them.
    pub allow_addresses: BTreeSet<IpNet>,
}

impl Recipe {
    /// The files that are read for it.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let trusted = match &self.trust {
            Trust::File(file) => Some(file.as_path()),
            Trust::Nobody | Trust::System => None,
        };
        let identity = self
            .identity
            .iter()
            .flat_map(|(certificate, key)| [certificate.as_path(), key.as_path()]);
        trusted.into_iter().chain(identity)
    }
}
