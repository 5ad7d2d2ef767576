//! The proxy to the API server, by kubectl's rules: the kubeconfig's own, else `HTTPS_PROXY` and `HTTP_PROXY` except for the
//! hosts in `NO_PROXY`; never for this machine. The client library has rules of its own for these variables, so they are not
//! passed to it.

use std::net::IpAddr;

use http::Uri;
use url::Url;

use crate::capability::http::{ProxyRules, userinfo_escaped};
use crate::capability::{Environment, process_environment};

/// The form of a proxy's URL, for messages.
pub(super) const NO_URL: &str =
    "is not the URL of one; write `http://host:port`, `https://host:port` or `socks5://host:port`";

/// A kubeconfig's `proxy-url`. It may contain a password, so no message repeats it.
pub(super) fn parse(text: &str) -> Result<Uri, String> {
    const NAME: &str = "its cluster's `proxy-url`";
    let url: Option<Uri> = userinfo_escaped(text.trim()).parse().ok();
    let url = url.filter(|url| url.host().is_some_and(|host| !host.is_empty()));
    match url.as_ref().and_then(Uri::scheme_str) {
        Some("http" | "https" | "socks5" | "socks5h") => {}
        _ => return Err(format!("{NAME} {NO_URL}")),
    }
    url.ok_or_else(|| format!("{NAME} {NO_URL}"))
        .and_then(|url| usable(url, NAME))
}

/// The proxy in the form of the client library. `name`: where it is configured.
fn usable(proxy: Uri, name: &str) -> Result<Uri, String> {
    if !proxy
        .scheme_str()
        .is_some_and(|scheme| scheme.starts_with("socks5"))
    {
        return Ok(proxy);
    }
    let authority = proxy.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(format!(
            "{name} names a SOCKS proxy with a user, and such a one cannot be used for Kubernetes; take one that is reached by http, or that asks for no user"
        ));
    }
    // With either scheme the proxy resolves names, as for kubectl.
    format!("socks5://{authority}")
        .parse()
        .map_err(|_| format!("{name} {NO_URL}"))
}

/// The proxy for messages about a request, without user and password; empty: none.
pub(super) fn way(proxy: Option<&Uri>) -> String {
    let shown = proxy.and_then(|proxy| {
        let authority = proxy.authority()?.as_str();
        let (_, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        Some(format!(
            " through the proxy {}://{place}",
            proxy.scheme_str()?
        ))
    });
    shown.unwrap_or_default()
}

/// The proxy from the process's environment.
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
    match rules.uri_for(&url).map_err(|failure| failure.message)? {
        Some((name, proxy)) => usable(proxy, &format!("`{name}`")).map(Some),
        None => Ok(None),
    }
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
    fn a_socks_proxy_that_asks_for_a_user_is_refused_and_not_tried_without() {
        for (value, good) in [
            ("socks5://p:1080", true),
            ("socks5h://p:1080", true),
            ("socks5://u:hush@p:1080", false),
            ("socks5h://u@p:1080", false),
        ] {
            let environment: Environment =
                Arc::new(move |name| (name == "HTTPS_PROXY").then(|| value.into()));
            let server = "https://k8s.example.org:6443".parse().unwrap();
            for found in [by_variables(&server, &environment), parse(value).map(Some)] {
                match found {
                    Ok(proxy) => {
                        assert!(good, "{value}");
                        assert_eq!(proxy.unwrap().to_string(), "socks5://p:1080/");
                    }
                    Err(words) => {
                        assert!(
                            !good && words.contains("a SOCKS proxy with a user"),
                            "{words}"
                        );
                        assert!(!words.contains("hush"), "{words}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_proxy_is_named_without_user_and_password() {
        for (proxy, expected) in [
            (None, ""),
            (Some("http://p:1"), " through the proxy http://p:1"),
            (
                Some("https://u:hush@p:1/"),
                " through the proxy https://p:1",
            ),
            (
                Some("socks5://[::1]:1080"),
                " through the proxy socks5://[::1]:1080",
            ),
        ] {
            let proxy = proxy.map(|proxy| proxy.parse().unwrap());
            assert_eq!(way(proxy.as_ref()), expected);
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
