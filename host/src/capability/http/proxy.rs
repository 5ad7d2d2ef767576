//! Which requests go through a proxy: the job's own, or what the environment says.

use std::fmt;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::capability::host::Environment;
use crate::failure::{Failure, FailureKind};

/// The proxy variables of the environment, read once. Upper case counts before lower case.
pub(crate) struct ProxyRules {
    environment: Matcher,
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
            environment(name)
                .or_else(|| environment(&name.to_ascii_lowercase()))
                .and_then(|value| value.into_string().ok())
                .unwrap_or_default()
        };
        Self {
            environment: Matcher::builder()
                .https(read("HTTPS_PROXY"))
                .http(read("HTTP_PROXY"))
                .all(read("ALL_PROXY"))
                .no(read("NO_PROXY"))
                .build(),
        }
    }

    /// The proxy for a request to `url`: the job's own goes before the environment's, and no `NO_PROXY` applies to it.
    ///
    /// # Errors
    /// `http.proxy` for a proxy that is not reached by http or https.
    pub(crate) fn proxy_for(
        &self,
        url: &Url,
        configured: Option<&Url>,
    ) -> Result<Option<Proxy>, Failure> {
        // Without the query: there may be secrets in it, and no rule looks at it.
        let mut bare = url.clone();
        bare.set_query(None);
        let Ok(target) = bare.as_str().parse::<Uri>() else {
            return Ok(None);
        };
        let found = match configured {
            Some(proxy) => {
                let all = Matcher::builder().all(proxy.as_str()).build();
                Some(
                    all.intercept(&target)
                        .ok_or_else(|| unusable(proxy.scheme()))?,
                )
            }
            None => self.environment.intercept(&target),
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
