//! The proxy of a request: the job's own, or one from the environment.

use std::borrow::Cow;
use std::fmt;

use data_encoding::BASE64;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;
use zeroize::Zeroizing;

use super::no_proxy::NoProxy;
use crate::capability::environment::Environment;
use crate::model::failure::{Failure, FailureKind, HostCode};

/// The proxy variables of the environment, read once. Upper case takes precedence over lower case, empty values are ignored, and
/// so are blanks and line ends around a value.
pub(crate) struct ProxyRules {
    https: Option<Variable>,
    http: Option<Variable>,
    direct: NoProxy,
}

/// A variable that should name a proxy. With an invalid value, requests must not go out directly.
#[derive(Clone)]
struct Variable {
    name: String,
    /// None: its value is not a proxy's URL.
    proxy: Option<Intercept>,
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
                .into_iter()
                .find_map(|name| {
                    let value = environment(&name)?;
                    let value = value.to_string_lossy().trim().to_owned();
                    (!value.is_empty()).then_some((name, value))
                })
        };
        let proxy = |name: &str| {
            read(name).map(|(name, value)| Variable {
                name,
                proxy: parse(&value),
            })
        };
        let all = proxy("ALL_PROXY");
        Self {
            https: proxy("HTTPS_PROXY").or_else(|| all.clone()),
            http: proxy("HTTP_PROXY").or(all),
            direct: NoProxy::parse(&read("NO_PROXY").unwrap_or_default().1),
        }
    }

    /// The proxy from the environment for `url`, in its original form, with the variable's name.
    ///
    /// # Errors
    /// `http.proxy` for a variable without a proxy's URL, or with a proxy that is not reached by http or https.
    pub(crate) fn uri_for(&self, url: &Url) -> Result<Option<(&str, Uri)>, Failure> {
        let Some(variable) = self.variable(url) else {
            return Ok(None);
        };
        let found = variable.proxy_by(&["http", "https", "socks5", "socks5h"])?;
        let uri = with_userinfo(found).unwrap_or_else(|| found.uri().clone());
        Ok(Some((&variable.name, uri)))
    }

    /// The variable that applies to requests to `url`.
    fn variable(&self, url: &Url) -> Option<&Variable> {
        let host = url.host_str()?;
        if self.direct.covers(host, url.port_or_known_default()) {
            return None;
        }
        match url.scheme() {
            "https" => self.https.as_ref(),
            "http" => self.http.as_ref(),
            _ => None,
        }
    }

    /// The proxy for a request to `url`: the job's own takes precedence over the environment's, and no `NO_PROXY` applies to it.
    ///
    /// # Errors
    /// `http.proxy` for an invalid URL, or a proxy that is not reached by http or https.
    pub(crate) fn proxy_for(
        &self,
        url: &Url,
        configured: Option<&Url>,
    ) -> Result<Option<Proxy>, Failure> {
        let variable = match configured {
            Some(proxy) => Variable {
                name: "source.proxy".to_owned(),
                proxy: parse(proxy.as_str()),
            },
            None => match self.variable(url) {
                Some(variable) => variable.clone(),
                None => return Ok(None),
            },
        };
        let found = variable.proxy_by(&["http", "https"])?;
        Ok(Some(Proxy {
            uri: found.uri().clone(),
            authorization: found.basic_auth().cloned().map(|mut value| {
                value.set_sensitive(true);
                value
            }),
        }))
    }
}

impl Variable {
    /// The proxy, if it is reached by one of these schemes. No message repeats the value, which may contain a password.
    fn proxy_by(&self, schemes: &[&str]) -> Result<&Intercept, Failure> {
        let Self { name, proxy } = self;
        let scheme = |proxy: &Intercept| proxy.uri().scheme_str().map(str::to_owned);
        let what = match proxy.as_ref().map(|proxy| (proxy, scheme(proxy))) {
            Some((proxy, Some(scheme))) if schemes.contains(&scheme.as_str()) => return Ok(proxy),
            Some((_, Some(scheme))) => {
                format!("`{name}` names a proxy with scheme `{scheme}`, which cannot be used")
            }
            Some((_, None)) | None => format!("`{name}` is not the URL of a proxy"),
        };
        let forms: Vec<_> = schemes
            .iter()
            .map(|scheme| format!("`{scheme}://host:port`"))
            .collect();
        Err(Failure::new(
            FailureKind::InvalidConfig,
            HostCode::HttpProxy,
            format!("{what}; write {}", forms.join(" or ")),
        ))
    }
}

/// A proxy in the form of the variables, also without a scheme, which then is http.
fn parse(text: &str) -> Option<Intercept> {
    let any = Uri::from_static("https://any.invalid/");
    let found = Matcher::builder()
        .all(userinfo_escaped(text).into_owned())
        .build()
        .intercept(&any)?;
    let authority = found.uri().authority()?;
    let named = !authority.host().is_empty();
    let port = authority.port_u16().is_some_and(|port| port != 0);
    (named && (port || authority.as_str() == authority.host())).then_some(found)
}

/// The URL of a proxy with each `@` of its user and password escaped: the host begins after the last one. Passwords are often
/// written unescaped; the library would take the text after the first `@` for the host, send half a password and show the other
/// half.
pub(crate) fn userinfo_escaped(text: &str) -> Cow<'_, str> {
    let (scheme, rest) = text.split_at(text.find("://").map_or(0, |at| at + "://".len()));
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((userinfo, host)) if userinfo.contains('@') => Cow::Owned(format!(
            "{scheme}{}@{host}{path}",
            userinfo.replace('@', "%40")
        )),
        _ => Cow::Borrowed(text),
    }
}

/// The proxy's URL with user and password restored; none: it has none.
fn with_userinfo(proxy: &Intercept) -> Option<Uri> {
    let userinfo = userinfo(proxy)?;
    let (user, password) = userinfo.split_once(':')?;
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

/// `user:password`; for a proxy that is not reached by http, the library keeps it in another place.
fn userinfo(proxy: &Intercept) -> Option<Zeroizing<String>> {
    if let Some((user, password)) = proxy.raw_auth() {
        return Some(Zeroizing::new(format!("{user}:{password}")));
    }
    let encoded = proxy.basic_auth()?.as_bytes().strip_prefix(b"Basic ")?;
    let bytes = BASE64.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().map(Zeroizing::new)
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
    fn a_proxys_password_goes_up_to_the_last_at_sign() {
        let url = Url::parse("https://idp.example.org/").unwrap();
        for (value, userinfo, shown) in [
            ("http://u:p@proxy:3128", "u:p", "http://proxy:3128/"),
            ("http://u:p@w@proxy:3128", "u:p@w", "http://proxy:3128/"),
            ("u:p@w@proxy:3128", "u:p@w", "http://proxy:3128/"),
            ("http://u@x.org:p@@proxy/", "u@x.org:p@", "http://proxy/"),
            ("https://u:%40@w@[::1]:3129", "u:@@w", "https://[::1]:3129/"),
            ("http://u:p%40w@proxy:3128/@", "u:p@w", "http://proxy:3128/"),
        ] {
            let environment: Environment =
                Arc::new(move |name| (name == "HTTPS_PROXY").then(|| value.into()));
            let rules = ProxyRules::from_environment(&environment);
            let proxy = rules.proxy_for(&url, None).unwrap().unwrap();
            assert_eq!(proxy.uri.to_string(), shown, "{value}");
            let sent = format!("Basic {}", BASE64.encode(userinfo.as_bytes()));
            assert_eq!(proxy.authorization.unwrap(), sent, "{value}");
            let (_, with_userinfo) = rules.uri_for(&url).unwrap().unwrap();
            let authority = with_userinfo.authority().unwrap().as_str();
            assert_eq!(authority.matches('@').count(), 1, "{value}: {authority}");
        }
    }

    #[test]
    fn a_variable_that_names_no_proxy_is_refused_by_its_name_and_never_ignored() {
        let url = Url::parse("https://idp.example.org/").unwrap();
        for value in [
            "htp://127.0.0.1:18129",
            "http://",
            "garbage://",
            "garbage:",
            "foo bar",
            "http://[::1",
            "http://[::1]x",
            "/path",
            "//proxy:3128",
            "http:proxy:3128",
            "http://:3128",
            "http://proxy:",
            "http://proxy:0",
            "http://proxy:99999",
            "proxy:99999",
            "http://user:hunter22@",
            "htp://user:hunter22@proxy:3128",
            "http://user:hunter22@proxy:99999",
            "http://user:hunter22 @proxy:3128",
            "socks4://user:hunter22@proxy:1080",
            "socks5://user:hunter22@proxy:1080",
            "socks5h://proxy:1080",
        ] {
            for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
                let rules = |also: &'static [(&str, &str)]| {
                    let environment: Environment = Arc::new(move |asked| {
                        let also = also.iter().find(|(variable, _)| *variable == asked);
                        let value = (asked == name).then_some(value);
                        value.or(also.map(|(_, value)| *value)).map(Into::into)
                    });
                    ProxyRules::from_environment(&environment)
                };
                // A variable of lower precedence does not replace it, and requests that it does not apply to ignore it.
                let less: &[_] = match name {
                    "ALL_PROXY" => &[("all_proxy", "http://proxy:1")],
                    "all_proxy" => &[("HTTP_PROXY", "http://proxy:1")],
                    _ => &[("ALL_PROXY", "http://proxy:1")],
                };
                let failure = rules(less).proxy_for(&url, None).unwrap_err();
                assert_eq!(failure.code(), Some("http.proxy"));
                assert_eq!(failure.kind, FailureKind::InvalidConfig);
                let message = &failure.message;
                assert!(
                    message.starts_with(&format!("`{name}` "))
                        && message.contains("write `http://host:port`")
                        && !message.contains("hunter22"),
                    "{value}: {message}"
                );
                let own = Url::parse("http://own.example.org:3128").unwrap();
                assert!(rules(less).proxy_for(&url, Some(&own)).is_ok());
                assert!(
                    rules(&[("NO_PROXY", "idp.example.org")])
                        .proxy_for(&url, None)
                        .unwrap()
                        .is_none()
                );
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_utf_8_is_refused_too() {
        use std::os::unix::ffi::OsStringExt as _;
        let environment: Environment = Arc::new(|name| {
            (name == "HTTPS_PROXY")
                .then(|| std::ffi::OsString::from_vec(b"http://pr\xffxy:1".to_vec()))
        });
        let url = Url::parse("https://idp.example.org/").unwrap();
        let rules = ProxyRules::from_environment(&environment);
        let failure = rules.proxy_for(&url, None).unwrap_err();
        assert!(failure.message.starts_with("`HTTPS_PROXY` "), "{failure}");
    }

    #[test]
    fn a_proxy_is_named_with_or_without_scheme_and_port() {
        let url = Url::parse("https://idp.example.org/").unwrap();
        for (value, expected) in [
            ("proxy:3128", "http://proxy:3128/"),
            ("user:hunter22@proxy:3128", "http://proxy:3128/"),
            ("proxy", "http://proxy/"),
            ("http://proxy", "http://proxy/"),
            ("http://proxy:3128/", "http://proxy:3128/"),
            ("HTTPS://proxy:3129", "https://proxy:3129/"),
            ("http://[::1]:3128", "http://[::1]:3128/"),
            ("http://[fd00::1]", "http://[fd00::1]/"),
            ("10.0.0.1:3128", "http://10.0.0.1:3128/"),
        ] {
            let environment: Environment =
                Arc::new(move |name| (name == "HTTPS_PROXY").then(|| value.into()));
            let rules = ProxyRules::from_environment(&environment);
            let proxy = rules.proxy_for(&url, None).unwrap().unwrap();
            assert_eq!(proxy.uri.to_string(), expected, "{value}");
        }
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
            (&[("https_proxy", "ftp://u:hunter22@x")], Err("https_proxy")),
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
        assert_eq!(failure.code(), Some("http.proxy"));
        assert!(failure.message.contains("`http://host:port`"), "{failure}");
    }
}
