//! Which requests go through a proxy: the job's own, or what the environment says.

use std::fmt;

use data_encoding::BASE64;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;
use zeroize::Zeroizing;

use super::no_proxy::NoProxy;
use crate::capability::host::Environment;
use crate::failure::{Failure, FailureKind};

const HTTPS: &str = "HTTPS_PROXY";
const HTTP: &str = "HTTP_PROXY";
const ALL: &str = "ALL_PROXY";

/// The proxy variables of the environment, read once. Upper case counts before lower case, what is empty does not count, nor do blanks
/// and line ends around a value.
pub(crate) struct ProxyRules {
    environment: Matcher,
    direct: NoProxy,
    /// Variables that name no proxy. Whoever set one means requests not to go out directly.
    unreadable: Vec<&'static str>,
}

/// A proxy that a request goes through.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Proxy {
    /// Scheme, host and port, without userinfo.
    pub uri: Uri,
    /// `Proxy-Authorization`, from the URL's userinfo.
    pub authorization: Option<HeaderValue>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("uri", &self.uri)
            .finish_non_exhaustive()
    }
}

impl ProxyRules {
    /// From `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    #[must_use]
    pub(crate) fn from_environment(environment: &Environment) -> Self {
        let read = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()]
                .iter()
                .filter_map(|name| environment(name)?.into_string().ok())
                .map(|value| value.trim().to_owned())
                .find(|value| !value.is_empty())
                .unwrap_or_default()
        };
        let [https, http, all] = [HTTPS, HTTP, ALL].map(read);
        let given = [(HTTPS, &https), (HTTP, &http), (ALL, &all)];
        let unreadable = given
            .into_iter()
            .filter(|(_, value)| !value.is_empty() && !names_proxy(value));
        Self {
            direct: NoProxy::parse(&read("NO_PROXY")),
            unreadable: unreadable.map(|(name, _)| name).collect(),
            environment: Matcher::builder().https(https).http(http).all(all).build(),
        }
    }

    /// The proxy that the environment names for `url`, as it is written there.
    ///
    /// # Errors
    /// `http.proxy` for a proxy that is reached in another way than those below, or a variable that names none.
    pub(crate) fn uri_for(&self, url: &Url) -> Result<Option<Uri>, Failure> {
        let Some(found) = self.intercept(url)? else {
            return Ok(None);
        };
        let scheme = found.uri().scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https" | "socks5") {
            return Err(unusable(scheme));
        }
        Ok(Some(
            with_userinfo(&found).unwrap_or_else(|| found.uri().clone()),
        ))
    }

    fn intercept(&self, url: &Url) -> Result<Option<Intercept>, Failure> {
        let (Some(host), Some(target)) = (url.host_str(), target(url)) else {
            return Ok(None);
        };
        if self.direct.covers(host, url.port_or_known_default()) {
            return Ok(None);
        }
        let own = if url.scheme() == "https" { HTTPS } else { HTTP };
        let found = self.environment.intercept(&target);
        let is_wanted = |name: &&&str| **name == own || (**name == ALL && found.is_none());
        match self.unreadable.iter().find(is_wanted) {
            Some(name) => Err(names_none(name)),
            None => Ok(found),
        }
    }

    /// The proxy for a request to `url`: the job's own goes before the environment's, and no `NO_PROXY` applies to it.
    ///
    /// # Errors
    /// `http.proxy` for a proxy that is not reached by http or https, or a variable that names none.
    pub(crate) fn proxy_for(
        &self,
        url: &Url,
        configured: Option<&Url>,
    ) -> Result<Option<Proxy>, Failure> {
        let found = match (configured, target(url)) {
            (Some(proxy), Some(target)) => {
                let all = Matcher::builder().all(proxy.as_str()).build();
                Some(
                    all.intercept(&target)
                        .ok_or_else(|| unusable(proxy.scheme()))?,
                )
            }
            (None, _) => self.intercept(url)?,
            (Some(_), None) => None,
        };
        let Some(found) = found else {
            return Ok(None);
        };
        let scheme = found.uri().scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") {
            return Err(unusable(scheme));
        }
        Ok(Some(Proxy {
            uri: found.uri().clone(),
            authorization: found.basic_auth().cloned().map(|mut value| {
                value.set_sensitive(true);
                value
            }),
        }))
    }
}

fn names_proxy(value: &str) -> bool {
    let all = Matcher::builder().all(value).build();
    all.intercept(&Uri::from_static("https://example.org"))
        .is_some()
}

/// The proxy's URL with user and password in it again; none: it has none.
fn with_userinfo(proxy: &Intercept) -> Option<Uri> {
    let encoded = proxy.basic_auth()?.as_bytes().strip_prefix(b"Basic ")?;
    let userinfo = Zeroizing::new(BASE64.decode(encoded).ok()?);
    let (user, password) = std::str::from_utf8(&userinfo).ok()?.split_once(':')?;
    let escape = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let scheme = proxy.uri().scheme_str()?;
    let authority = proxy.uri().authority()?;
    let url = format!(
        "{scheme}://{}:{}@{authority}/",
        escape(user),
        escape(password)
    );
    url.parse().ok()
}

/// Without the query: there may be secrets in it, and no rule looks at it.
fn target(url: &Url) -> Option<Uri> {
    let mut bare = url.clone();
    bare.set_query(None);
    bare.as_str().parse().ok()
}

/// Without the value: there may be a password in it.
fn names_none(variable: &str) -> Failure {
    Failure::new(
        FailureKind::InvalidConfig,
        "http.proxy",
        format!(
            "the environment variable {variable} names no proxy; write it as `http://host:port`, or remove it"
        ),
    )
}

fn unusable(scheme: &str) -> Failure {
    Failure::new(
        FailureKind::InvalidConfig,
        "http.proxy",
        format!(
            "a proxy with scheme `{scheme}` cannot be used; write `http://host:port` or `https://host:port`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn rules(variables: &'static [(&str, &str)]) -> ProxyRules {
        let environment: Environment = Arc::new(|name| {
            variables
                .iter()
                .find(|(variable, _)| *variable == name)
                .map(|(_, value)| value.into())
        });
        ProxyRules::from_environment(&environment)
    }

    #[test]
    fn the_environment_decides_unless_the_job_names_a_proxy() {
        let rules = rules(&[
            ("HTTPS_PROXY", "http://user:pass@proxy.example.org:3128"),
            ("https_proxy", "http://ignored.example.org:1"),
            ("http_proxy", "http://plain.example.org:3128"),
            ("NO_PROXY", "internal.example.org,10.0.0.0/8"),
        ]);
        let job = Url::parse("https://own.example.org:8443").unwrap();
        for (url, configured, expected) in [
            (
                "https://idp.example.org/t",
                None,
                Some("proxy.example.org:3128"),
            ),
            (
                "http://idp.example.org/t",
                None,
                Some("plain.example.org:3128"),
            ),
            ("https://internal.example.org/", None, None),
            ("https://a.internal.example.org/", None, None),
            ("https://10.1.2.3/", None, None),
            (
                "https://idp.example.org/",
                Some(&job),
                Some("own.example.org:8443"),
            ),
            (
                "https://internal.example.org/",
                Some(&job),
                Some("own.example.org:8443"),
            ),
        ] {
            let proxy = rules
                .proxy_for(&Url::parse(url).unwrap(), configured)
                .unwrap();
            let authority = proxy.and_then(|proxy| proxy.uri.authority().map(ToString::to_string));
            assert_eq!(authority.as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn a_proxys_password_is_used_and_never_shown() {
        let rules = rules(&[("HTTPS_PROXY", "http://user:hunter22@proxy.example.org:3128")]);
        let url = Url::parse("https://idp.example.org/").unwrap();
        let proxy = rules.proxy_for(&url, None).unwrap().unwrap();
        assert_eq!(
            proxy.authorization.as_ref().unwrap(),
            "Basic dXNlcjpodW50ZXIyMg=="
        );
        let shown = format!("{proxy:?} {:?}", proxy.authorization);
        assert!(
            !shown.contains("hunter22") && !shown.contains("dXNlc"),
            "{shown}"
        );
    }

    #[test]
    fn a_variable_that_names_no_proxy_is_an_error_and_no_way_around_it() {
        type Variables = &'static [(&'static str, &'static str)];
        let (proxied, direct) = (Ok(Some("proxy.example.org:3128")), Ok(None));
        for (variables, expected) in [
            (
                &[("HTTPS_PROXY", " http://proxy.example.org:3128\r\n")] as Variables,
                proxied,
            ),
            (&[("https_proxy", "proxy.example.org:3128")], proxied),
            (&[("HTTPS_PROXY", " \n")], direct),
            (&[("HTTP_PROXY", "://hunter22")], direct),
            (&[("HTTPS_PROXY", "::::hunter22")], Err("HTTPS_PROXY")),
            (&[("https_proxy", "ftp://u:hunter22@x")], Err("HTTPS_PROXY")),
            (&[("ALL_PROXY", "http://a b")], Err("ALL_PROXY")),
            (
                &[
                    ("HTTPS_PROXY", "http://[hunter22"),
                    ("ALL_PROXY", "http://proxy.example.org:3128"),
                ],
                Err("HTTPS_PROXY"),
            ),
            (&[("HTTPS_PROXY", "::::"), ("NO_PROXY", "*")], direct),
        ] {
            let url = Url::parse("https://idp.example.org/").unwrap();
            let found = rules(variables).proxy_for(&url, None);
            match (found, expected) {
                (Ok(proxy), Ok(expected)) => {
                    let proxy = proxy.map(|proxy| proxy.uri.authority().unwrap().to_string());
                    assert_eq!(proxy.as_deref(), expected, "{variables:?}");
                }
                (Err(failure), Err(variable)) => {
                    assert!(failure.message.contains(variable), "{failure}");
                    assert!(!failure.message.contains("hunter22"), "{failure}");
                }
                (found, _) => panic!("{found:?} for {variables:?}"),
            }
        }
    }

    #[test]
    fn a_socks_proxy_is_refused_with_the_mend() {
        let failure = rules(&[])
            .proxy_for(
                &Url::parse("https://idp.example.org/").unwrap(),
                Some(&Url::parse("socks5://proxy.example.org:1080").unwrap()),
            )
            .unwrap_err();
        assert_eq!(failure.code.as_deref(), Some("http.proxy"));
        assert!(failure.message.contains("`http://host:port`"), "{failure}");
    }
}
