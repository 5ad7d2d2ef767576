//! The recipe of an HTTP client: everything on which clients may differ.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::proxy::Proxy;

/// The `User-Agent` of a request, unless the plugin sets another.
pub(super) const USER_AGENT: &str = concat!("evertoken/", env!("CARGO_PKG_VERSION"));

/// The longest that resolving, connecting and the TLS handshake may take together. Three SYNs fit: 1 s + 2 s + 4 s.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The certificate authorities that a client trusts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// None: the request is plain http.
    Nobody,
    /// The system's certificate authorities.
    System,
    /// The certificates in this file.
    File(PathBuf),
}

/// The recipe of a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Recipe {
    /// Its trusted authorities.
    pub trust: Trust,
    /// The files of its certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The proxy that all its requests go through.
    pub proxy: Option<Proxy>,
    /// Addresses that may be reached although the egress rules refuse them.
    pub allow_addresses: BTreeSet<IpNet>,
}

impl Recipe {
    /// The files that are read to build it.
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
