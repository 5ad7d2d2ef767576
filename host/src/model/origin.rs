//! An origin (RFC 6454): scheme, host and port. Rules for a job's requests and secrets are expressed in origins.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Scheme, host and port of an `http` or `https` URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

/// Why a text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// It does not parse as a URL.
    #[error("`{0}` is not an origin; write `https://host` or `https://host:port`")]
    NotAUrl(String),
    /// Neither http nor https.
    #[error("`{0}` has a scheme other than https and http")]
    Scheme(String),
    /// More than scheme, host and port.
    #[error("`{0}` has more than scheme, host and port; leave out user, path, query and fragment")]
    TooMuch(String),
}

impl Origin {
    /// The origin of a URL; none if it has no host or is neither `http` nor `https`.
    #[must_use]
    pub fn of(url: &url::Url) -> Option<Self> {
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        Some(Self {
            scheme: url.scheme().to_owned(),
            host: without_root(url.host_str()?).to_owned(),
            port: url.port_or_known_default()?,
        })
    }

    /// An origin as a user writes it: nothing but scheme, host and port.
    ///
    /// # Errors
    /// The part that is missing or not allowed.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let url = url::Url::parse(text).map_err(|_| OriginError::NotAUrl(text.to_owned()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(OriginError::Scheme(text.to_owned()));
        }
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        if !bare {
            return Err(OriginError::TooMuch(text.to_owned()));
        }
        Self::of(&url).ok_or_else(|| OriginError::NotAUrl(text.to_owned()))
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host as the URL standard normalises it: lower case, an IPv6 address in brackets. Without a trailing dot, so that one
    /// host has one name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is loopback in a usual form: `localhost` and what is below it (RFC 6761 §6.3), 127.0.0.0/8, `::1`.
    #[must_use]
    pub fn is_this_machine(&self) -> bool {
        let host = self.host.as_str();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        match address.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        }
    }
}

fn without_root(host: &str) -> &str {
    match host.strip_suffix('.') {
        Some(host) if !host.is_empty() => host,
        _ => host,
    }
}

/// As a user would write it in `allow`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match (self.scheme.as_str(), self.port) {
            ("https", 443) | ("http", 80) => Ok(()),
            (_, port) => write!(f, ":{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port_and_nothing_else() {
        for (text, expected) in [
            ("https://idp.example.org", Ok("https://idp.example.org")),
            (
                "HTTPS://IDP.example.org:443/",
                Ok("https://idp.example.org"),
            ),
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080")),
            ("https://[::1]:8443", Ok("https://[::1]:8443")),
            ("https://idp.example.org.", Ok("https://idp.example.org")),
            ("http://LOCALHOST.:80", Ok("http://localhost")),
            (
                "idp.example.org",
                Err(OriginError::NotAUrl("idp.example.org".into())),
            ),
            (
                "ftp://idp.example.org",
                Err(OriginError::Scheme("ftp://idp.example.org".into())),
            ),
            (
                "https://idp.example.org/token",
                Err(OriginError::TooMuch("https://idp.example.org/token".into())),
            ),
            (
                "https://u:p@idp.example.org",
                Err(OriginError::TooMuch("https://u:p@idp.example.org".into())),
            ),
        ] {
            assert_eq!(
                Origin::parse(text).map(|o| o.to_string()),
                expected.map(str::to_owned),
                "{text}"
            );
        }
    }
}
