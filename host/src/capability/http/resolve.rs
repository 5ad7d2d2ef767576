//! Name resolution with the egress rules applied: a name that resolves to this machine or a cloud's metadata service gets no
//! connection.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_core::future::BoxFuture;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::egress::{self, AddressKind, Provenance};

/// Resolves a name; tests replace it.
pub(super) type Lookup =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The system's resolver: nsswitch, hosts file, search domains.
#[must_use]
pub(super) fn system_lookup() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Why a name has no usable address.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// The resolver failed or found nothing.
    #[error("cannot resolve `{name}`")]
    Lookup {
        /// The name.
        name: String,
        /// The resolver's error.
        #[source]
        source: io::Error,
    },
    /// It resolves only to addresses that may not be reached.
    #[error("`{name}` resolves to {address}, {kind}")]
    Denied {
        /// The name.
        name: String,
        /// The first of its addresses.
        address: IpAddr,
        /// Its kind.
        kind: AddressKind,
    },
}

/// A resolver that filters by the egress rules.
pub(super) struct Guarded {
    lookup: Lookup,
    exceptions: Arc<BTreeSet<IpNet>>,
    /// Whether it only resolves the proxy's name.
    for_proxy: bool,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded")
            .field("exceptions", &self.exceptions)
            .field("for_proxy", &self.for_proxy)
            .finish_non_exhaustive()
    }
}

impl Guarded {
    /// `exceptions` are the job's `allow_addresses`.
    #[must_use]
    pub(super) fn new(lookup: Lookup, exceptions: BTreeSet<IpNet>, for_proxy: bool) -> Self {
        Self {
            lookup,
            exceptions: Arc::new(exceptions),
            for_proxy,
        }
    }

    fn written(&self, name: &str) -> Provenance {
        if self.for_proxy {
            Provenance::Proxy
        } else if egress::is_localhost(name) {
            Provenance::Localhost
        } else {
            Provenance::Resolved
        }
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        let written = self.written(&name);
        // Resolvers need not know names below `localhost` (RFC 6761 §6.3), and an answer for them is not trusted.
        let asked = match egress::is_localhost(&name) {
            true => egress::LOCALHOST.to_owned(),
            false => name.clone(),
        };
        let lookup = (self.lookup)(asked);
        let exceptions = Arc::clone(&self.exceptions);
        Box::pin(async move {
            let found = lookup.await.map_err(|source| ResolveError::Lookup {
                name: name.clone(),
                source,
            })?;
            let allowed = permitted(&name, &found, written, &exceptions)?;
            // The connector replaces port 0 with the URL's port.
            let addresses = allowed.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

/// The addresses of `name` that may be reached; at least one.
fn permitted(
    name: &str,
    found: &[IpAddr],
    written: Provenance,
    exceptions: &BTreeSet<IpNet>,
) -> Result<Vec<IpAddr>, ResolveError> {
    let mut denied = None;
    let mut allowed = Vec::with_capacity(found.len());
    for &address in found {
        match egress::check_address(address, written, exceptions) {
            Ok(()) => allowed.push(address),
            Err(kind) => {
                denied.get_or_insert(ResolveError::Denied {
                    name: name.to_owned(),
                    address,
                    kind,
                });
            }
        }
    }
    match (allowed.is_empty(), denied) {
        (false, _) => Ok(allowed),
        (true, Some(denied)) => Err(denied),
        (true, None) => Err(ResolveError::Lookup {
            name: name.to_owned(),
            source: io::Error::new(io::ErrorKind::NotFound, "it has no address"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_may_not_be_reached_are_left_out() {
        let addresses = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let none = BTreeSet::new();
        let found = addresses(&["127.0.0.1", "203.0.113.7", "::ffff:169.254.169.254"]);
        let allowed = permitted("mixed.test", &found, Provenance::Resolved, &none).unwrap();
        assert_eq!(allowed, addresses(&["203.0.113.7"]));

        let found = addresses(&["::1", "127.0.0.1"]);
        let error = permitted("rebound.test", &found, Provenance::Resolved, &none).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`rebound.test` resolves to ::1, a loopback address"
        );
        assert!(permitted("localhost", &found, Provenance::Localhost, &none).is_ok());
        assert!(permitted("nowhere.test", &[], Provenance::Resolved, &none).is_err());
    }
}
