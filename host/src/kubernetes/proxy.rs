//! The proxy to the API server, by kubectl's rules: the kubeconfig's own, else `HTTPS_PROXY` and `HTTP_PROXY` but for what `NO_PROXY`
//! names; never for this machine.

use std::net::IpAddr;

use http::Uri;
use url::Url;

use crate::capability::http::ProxyRules;
use crate::capability::{Environment, process_environment};

/// What a proxy's URL must be.
pub(super) const NO_URL: &str =
    "is not the URL of one; write `http://host:port`, `https://host:port` or `socks5://host:port`";

/// A kubeconfig's `proxy-url`. It may hold a password, so no message repeats it.
pub(super) fn parse(text: &str) -> Result<Uri, String> {
    let url: Option<Uri> = text.parse().ok();
    url.filter(|url| {
        matches!(url.scheme_str(), Some("http" | "https" | "socks5")) && url.host().is_some()
    })
    .ok_or_else(|| format!("its cluster's `proxy-url` {NO_URL}"))
}

/// What the process's environment says.
pub(super) fn from_environment(server: &Uri) -> Result<Option<Uri>, String> {
    by_variables(server, &process_environment())
}

fn by_variables(server: &Uri, environment: &Environment) -> Result<Option<Uri>, String> {
    let Ok(url) = Url::parse(&server.to_string()) else {
        return Ok(None);
    };
    if is_this_machine(&url) {
        return Ok(None);
    }
    let rules = ProxyRules::from_environment(environment);
    rules.uri_for(&url).map_err(|failure| failure.message)
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.trim_end_matches('.') == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::from(address).to_canonical().is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn found(server: &str, variables: &'static [(&str, &str)]) -> Option<String> {
        let environment: Environment = Arc::new(|name| {
            let (_, value) = variables.iter().find(|(variable, _)| *variable == name)?;
            Some(value.into())
        });
        let proxy = by_variables(&server.parse().unwrap(), &environment).unwrap();
        proxy.map(|proxy| proxy.to_string())
    }

    #[test]
    fn the_api_server_is_reached_as_kubectl_reaches_it() {
        let via = |proxy: &str| Some(format!("http://{proxy}/"));
        for (server, variables, expected) in [
            (
                "https://10.96.0.1:443",
                &[("HTTPS_PROXY", "http://p:1")][..],
                via("p:1"),
            ),
            (
                "https://10.96.0.1:443",
                &[("https_proxy", "p:1")],
                via("p:1"),
            ),
            (
                "https://10.96.0.1:443",
                &[("HTTPS_PROXY", ""), ("https_proxy", "http://p:1")],
                via("p:1"),
            ),
            (
                "https://10.96.0.1:443",
                &[("HTTP_PROXY", "http://p:1")],
                None,
            ),
            (
                "https://10.96.0.1:443",
                &[("HTTPS_PROXY", "http://u:p@p:1")],
                via("u:p@p:1"),
            ),
            (
                "https://10.96.0.1:443",
                &[
                    ("HTTPS_PROXY", "http://p:1"),
                    ("NO_PROXY", "10.96.0.0/12,.svc"),
                ],
                None,
            ),
            (
                "https://kubernetes.default.svc",
                &[("HTTPS_PROXY", "http://p:1"), ("no_proxy", "*.svc")],
                None,
            ),
            (
                "https://k8s.example.org:6443",
                &[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "p")],
                via("p:1"),
            ),
            (
                "https://k8s.example.org:6443",
                &[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "*")],
                None,
            ),
            (
                "https://127.0.0.1:6443",
                &[("HTTPS_PROXY", "http://p:1")],
                None,
            ),
            ("https://[::1]:6443", &[("HTTPS_PROXY", "http://p:1")], None),
            (
                "https://localhost:6443",
                &[("HTTPS_PROXY", "http://p:1")],
                None,
            ),
            ("https://k8s.example.org", &[], None),
        ] {
            assert_eq!(found(server, variables), expected, "{server} {variables:?}");
        }
    }

    #[test]
    fn a_variable_without_a_proxys_url_is_named_and_not_ignored() {
        for value in [
            "htp://u:hush@p:1",
            "foo bar",
            "http://p:99999",
            "socks4://u:hush@p:1",
        ] {
            let environment: Environment =
                Arc::new(move |name| (name == "HTTPS_PROXY").then(|| value.into()));
            let server = "https://k8s.example.org:6443".parse().unwrap();
            let words = by_variables(&server, &environment).unwrap_err();
            assert!(words.starts_with("`HTTPS_PROXY` "), "{words}");
            assert!(
                words.contains("`socks5://host:port`") && !words.contains("hush"),
                "{words}"
            );
        }
    }

    #[test]
    fn a_kubeconfigs_own_proxy_is_a_url() {
        for (text, good) in [
            ("http://proxy:3128", true),
            ("https://u:p@proxy:3128", true),
            ("socks5://127.0.0.1:1080", true),
            ("proxy:3128", false),
            ("ftp://proxy", false),
            ("http://hush hush", false),
        ] {
            let parsed = parse(text);
            assert_eq!(parsed.is_ok(), good, "{text}");
            assert!(parsed.err().is_none_or(|words| !words.contains("hush")));
        }
    }
}
