//! `NO_PROXY`: hosts that are reached without a proxy, by the rules that curl and kubectl share.

use std::net::IpAddr;

use ipnet::IpNet;

/// The entries of the variable.
#[derive(Debug, Default)]
pub(super) struct NoProxy(Vec<NoProxyEntry>);

#[derive(Debug)]
enum NoProxyEntry {
    /// `*`: every host.
    Everything,
    /// An address or network, e.g. `10.0.0.0/8`, `::1`, `[::1]:6443`.
    Network(IpNet, Option<u16>),
    /// A domain and everything below it, in lower case, e.g. `example.org`, `.svc`, `*.svc`, `example.org:8443`.
    Domain(String, Option<u16>),
}

impl NoProxy {
    /// Entries are separated by commas or blanks; an invalid one matches nothing.
    pub(super) fn parse(list: &str) -> Self {
        let entries = list.split(|c: char| c == ',' || c.is_whitespace());
        Self(entries.filter_map(NoProxyEntry::parse).collect())
    }

    /// Whether this host, in the form of a URL, is reached without a proxy.
    pub(super) fn covers(&self, host: &str, port: Option<u16>) -> bool {
        let host = bare(host).to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let address = address.map(|address| address.to_canonical());
        self.0.iter().any(|entry| match (entry, address) {
            (NoProxyEntry::Everything, _) => true,
            (NoProxyEntry::Network(network, only), Some(address)) => {
                network.contains(&address) && only.is_none_or(|only| port == Some(only))
            }
            (NoProxyEntry::Domain(domain, only), None) => {
                is_within(&host, domain) && only.is_none_or(|only| port == Some(only))
            }
            (NoProxyEntry::Network(..), None) | (NoProxyEntry::Domain(..), Some(_)) => false,
        })
    }
}

impl NoProxyEntry {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Everything);
        }
        if let Some(network) = network(text) {
            return Some(Self::Network(network, None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        if let Some(network) = network(host) {
            return Some(Self::Network(network, port));
        }
        let domain = bare(host.strip_prefix('*').unwrap_or(host));
        let domain = domain.strip_prefix('.').unwrap_or(domain);
        (!domain.is_empty()).then(|| Self::Domain(domain.to_ascii_lowercase(), port))
    }
}

fn network(text: &str) -> Option<IpNet> {
    let text = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address = text.parse::<IpAddr>().map(|address| address.to_canonical());
    address.map(IpNet::from).or_else(|_| text.parse()).ok()
}

/// Without an IPv6 address's brackets and the trailing dot.
fn bare(host: &str) -> &str {
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host)
}

fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_curl_and_kubectl_understand() {
        for (list, host, port, expected) in [
            ("*", "idp.example.org", 443, true),
            ("*", "10.1.2.3", 443, true),
            ("a.test, *", "b.test", 443, true),
            ("", "idp.example.org", 443, false),
            (",,", "idp.example.org", 443, false),
            ("example.org", "example.org", 443, true),
            ("example.org", "idp.example.org", 443, true),
            ("example.org", "notexample.org", 443, false),
            ("example.org", "example.org.evil.test", 443, false),
            (".example.org", "idp.example.org", 443, true),
            (".example.org", "example.org", 443, true),
            ("*.svc", "kubernetes.default.svc", 443, true),
            (".svc,.cluster.local", "a.b.svc.cluster.local", 443, true),
            ("*.svc", "svcs", 443, false),
            ("EXAMPLE.org", "idp.Example.ORG", 443, true),
            ("example.org.", "example.org", 443, true),
            ("example.org", "example.org.", 443, true),
            ("example.org:8443", "example.org", 8443, true),
            ("example.org:8443", "idp.example.org", 8443, true),
            ("example.org:8443", "example.org", 443, false),
            ("example.org:https", "example.org", 443, false),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("10.0.0.0/8", "10.example.org", 443, false),
            ("10.1.2.3", "10.1.2.3", 443, true),
            ("10.1.2.3:6443", "10.1.2.3", 6443, true),
            ("10.1.2.3:6443", "10.1.2.3", 443, false),
            ("10.1.2.3", "[::ffff:10.1.2.3]", 443, true),
            ("fd00::/8", "[fd12::1]", 443, true),
            ("::1", "[::1]", 6443, true),
            ("[::1]", "[::1]", 6443, true),
            ("[::1]:6443", "[::1]", 6443, true),
            ("[::1]:6443", "[::1]", 443, false),
            ("localhost 127.0.0.0/8", "127.0.0.1", 80, true),
            ("localhost 127.0.0.0/8", "localhost", 80, true),
        ] {
            let covers = NoProxy::parse(list).covers(host, Some(port));
            assert_eq!(covers, expected, "{list:?} {host}:{port}");
        }
    }
}
