//! Failures of requests, with messages and codes that a job's owner can act on. The library's own messages are not used: they
//! contain the URL, and with it secrets in the query.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

use super::egress::AddressKind;
use super::recipe::CONNECT_TIMEOUT;
use super::request::RequestTarget;
use super::resolve::ResolveError;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::printable::printable;

/// The first `T` among an error and its causes. [`io::Error`] hides the error that it wraps from its causes.
pub(crate) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref());
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// The innermost cause, which is the most specific.
pub(super) fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last
}

/// No connection could be made.
pub(super) fn not_connected(
    target: &RequestTarget,
    through: Option<&str>,
    error: &reqwest::Error,
) -> Failure {
    let at = at(target, through);
    if let Some(error) = find::<ResolveError>(error) {
        return unresolved(&at, error);
    }
    if let Some(error) = find::<rustls::Error>(error) {
        return tls(&at, target, error);
    }
    let what = if error.is_timeout() {
        format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())
    } else {
        find::<io::Error>(error).map_or_else(|| innermost(error).to_string(), plain)
    };
    unavailable(
        HostCode::HttpConnect,
        format!("cannot connect to {at}: {what}"),
    )
}

/// The connection broke before the answer was complete. A refusal of the client certificate comes after the request in TLS 1.3.
pub(super) fn broken_off(
    target: &RequestTarget,
    through: Option<&str>,
    error: &io::Error,
) -> Failure {
    let at = at(target, through);
    if let Some(error) = find::<rustls::Error>(error) {
        return tls(&at, target, error);
    }
    // Servers for https also end a plain request like this.
    let hint = match (target.url.scheme(), error.kind()) {
        ("http", io::ErrorKind::ConnectionReset) => "; is that port for https?",
        _ => "",
    };
    unavailable(
        HostCode::HttpProtocol,
        format!("the answer of {at} broke off: {}{hint}", plain(error)),
    )
}

/// The received bytes are not an answer, or only a part of one.
pub(super) fn unreadable(target: &RequestTarget, through: Option<&str>) -> Failure {
    let at = at(target, through);
    unavailable(
        HostCode::HttpProtocol,
        format!("{at} did not answer in HTTP, or its answer is damaged or has no end"),
    )
}

/// The other side sends interim answers without end.
pub(super) fn only_interim(target: &RequestTarget) -> Failure {
    unavailable(
        HostCode::HttpProtocol,
        format!(
            "{} sent interim answers (1xx) and no final one",
            target.origin
        ),
    )
}

fn at(target: &RequestTarget, through: Option<&str>) -> String {
    match through {
        Some(proxy) => format!("{} through proxy {proxy}", target.origin),
        None => target.origin.to_string(),
    }
}

/// The request timed out.
pub(in crate::capability) fn timed_out(target: &RequestTarget, timeout: Duration) -> Failure {
    unavailable(
        HostCode::HttpTimeout,
        format!(
            "{} had not answered in full {} s after the call began; `source.timeout` bounds the whole call",
            target.origin,
            timeout.as_secs_f64()
        ),
    )
}

/// The answer is longer than the limit.
pub(super) fn too_large(target: &RequestTarget, limit: usize) -> Failure {
    Failure::new(
        FailureKind::Internal,
        HostCode::HttpTooLarge,
        format!(
            "the answer of {} has more than {limit} bytes; an issuer's answers are smaller",
            target.origin
        ),
    )
}

/// An address that may not be reached, literal in the URL or as the proxy.
pub(in crate::capability) fn address_denied(
    what: &str,
    address: IpAddr,
    kind: AddressKind,
) -> Failure {
    Failure::new(
        FailureKind::InvalidConfig,
        HostCode::HttpAddressDenied,
        format!(
            "{what} is {address}, {kind}, which jobs may not reach; if this one must, add `allow_addresses: [{address}]` under `source`"
        ),
    )
}

fn unavailable(code: HostCode, message: String) -> Failure {
    Failure::new(FailureKind::Unavailable, code, message)
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

fn unresolved(at: &str, error: &ResolveError) -> Failure {
    match error {
        ResolveError::Lookup { name, source } => unavailable(
            HostCode::HttpDns,
            format!("cannot connect to {at}: cannot resolve `{name}`: {source}"),
        ),
        ResolveError::Denied {
            name,
            address,
            kind,
        } => address_denied(&format!("what `{name}` resolves to"), *address, *kind),
    }
}

fn tls(at: &str, target: &RequestTarget, error: &rustls::Error) -> Failure {
    let what = match error {
        rustls::Error::InvalidCertificate(certificate) => certificate_refused(target, certificate),
        rustls::Error::InvalidMessage(_) => format!("{error}; is that port for plain http?"),
        rustls::Error::AlertReceived(alert) => format!("{error}{}", alert_mend(*alert)),
        rustls::Error::PeerIncompatible(_) => format!("{error}{NOTHING_IN_COMMON}"),
        _ => error.to_string(),
    };
    unavailable(
        HostCode::HttpTls,
        format!("no TLS connection to {at}: {what}"),
    )
}

/// TLS parameters that both sides must have in common.
const NOTHING_IN_COMMON: &str = "; server and client have no protocol version or cipher suite in common: the server must offer TLS 1.2 or 1.3 with AES-GCM or ChaCha20-Poly1305";

fn alert_mend(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
            NOTHING_IN_COMMON
        }
        // With TLS 1.2 it also means a missing certificate.
        AlertDescription::HandshakeFailure => {
            "; server and client have no cipher suite in common: the server must offer AES-GCM or ChaCha20-Poly1305 with ECDHE; or, with TLS 1.2, it misses `source.tls.cert_file`"
        }
        AlertDescription::UnrecognisedName => "; the server does not know this host name",
        AlertDescription::UnknownCA => {
            "; the server does not trust the authority that signed the certificate in `source.tls.cert_file`"
        }
        AlertDescription::CertificateExpired => {
            "; for the server the certificate in `source.tls.cert_file` has expired: renew it, or the server's clock is wrong"
        }
        AlertDescription::CertificateRevoked => {
            "; for the server the certificate in `source.tls.cert_file` is revoked: a new one is needed"
        }
        _ => {
            "; if the server asks for a client certificate, set `source.tls.cert_file` and `key_file`"
        }
    }
}

/// Why the server's certificate is rejected, and how to correct that. The library prints most reasons as code.
fn certificate_refused(target: &RequestTarget, error: &CertificateError) -> String {
    let because = |what: &str, mend: &str| format!("the server's certificate {what}; {mend}");
    match error {
        // An authority that was recreated under its old name shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => because(
            "is not signed by a trusted authority",
            "set `source.tls.ca_file` to the certificate of the authority that signed it, or to itself if it is self-signed; an authority between them that is not in that file must be sent by the server",
        ),
        CertificateError::NotValidForName => because("is for another host", &other_name(target)),
        CertificateError::NotValidForNameContext { presented, .. } => {
            because(&format!("is for {}", names(presented)), &other_name(target))
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            because("has expired", OTHER_DATES)
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            because("is not valid yet", OTHER_DATES)
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            because(
                "is not for servers (its extended key usage lacks serverAuth)",
                NEW_CERTIFICATE,
            )
        }
        CertificateError::BadEncoding => because(MALFORMED, NEW_CERTIFICATE),
        CertificateError::UnhandledCriticalExtension => because(EXTENSION, NEW_CERTIFICATE),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => because(
            "or one above it is signed in a way that is not supported, e.g. with SHA-1",
            NEW_CERTIFICATE,
        ),
        CertificateError::Other(other) => {
            let (what, mend) = chain_refused(other.0.downcast_ref());
            because(what, mend)
        }
        other => because(&format!("is not accepted ({other})"), NEW_CERTIFICATE),
    }
}

const OTHER_DATES: &str = "the server needs a new certificate, or this machine's clock is wrong";
const NEW_CERTIFICATE: &str = "the server needs another certificate";
const EXTENSION: &str = "has a critical extension that is not supported";
const MALFORMED: &str = "or one above it is malformed (X.509, RFC 5280)";

fn other_name(target: &RequestTarget) -> String {
    format!(
        "`{}` must be among the certificate's names, or the URL must name the server as its certificate does",
        target.origin.host()
    )
}

/// The first of a certificate's names. The library's form is `DnsName("idp.example.org")`; the certificate may be anyone's, so
/// the text is untrusted.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name
            .split_once('(')
            .and_then(|(_, name)| name.strip_suffix(')'));
        let inner = inner.unwrap_or(name).trim_matches('"');
        format!("`{}`", printable(inner))
    };
    match presented {
        [] => "no name (it has no subjectAltName)".to_owned(),
        names => names
            .iter()
            .take(5)
            .map(bare)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// What is wrong with a certificate chain where the TLS library has no variant for it.
fn chain_refused(error: Option<&webpki::Error>) -> (&'static str, &'static str) {
    use webpki::Error;
    match error {
        Some(Error::CaUsedAsEndEntity) => (
            "is an authority's (CA:TRUE), as self-signed ones often are, and not itself trusted",
            "if it is the right one, set `source.tls.ca_file` to a file with this certificate itself",
        ),
        Some(Error::EndEntityUsedAsCa) => (
            "is signed by a certificate that is no authority's (CA:FALSE)",
            "set `source.tls.ca_file` to a file with the server's certificate itself, or sign that by an authority",
        ),
        Some(Error::NameConstraintViolation) => (
            "is for names that its authority may not sign for (name constraints)",
            NEW_CERTIFICATE,
        ),
        Some(Error::PathLenConstraintViolated) => (
            "has more authorities above it than one of them allows (path length constraint)",
            NEW_CERTIFICATE,
        ),
        Some(
            Error::MaximumNameConstraintComparisonsExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumPathDepthExceeded
            | Error::MaximumSignatureChecksExceeded,
        ) => (
            "comes with a chain that is too long or too involved to be checked",
            "the server must send its own chain only",
        ),
        Some(Error::UnsupportedCertVersion) => {
            ("or one above it is not of X.509 version 3", NEW_CERTIFICATE)
        }
        Some(Error::UnsupportedCriticalExtension) => (EXTENSION, NEW_CERTIFICATE),
        Some(Error::CertDistrusted) => ("has a key that is distrusted", NEW_CERTIFICATE),
        _ => (MALFORMED, NEW_CERTIFICATE),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capability::testing::get;

    #[test]
    fn a_client_certificate_that_the_server_refuses_is_told_as_such() {
        let target = RequestTarget::of(&get("https://idp.example.org/t".to_owned())).unwrap();
        for (alert, words) in [
            (AlertDescription::UnknownCA, "does not trust the authority"),
            (AlertDescription::CertificateExpired, "has expired"),
            (AlertDescription::CertificateRevoked, "is revoked"),
            (AlertDescription::CertificateRequired, "if the server asks"),
            (AlertDescription::BadCertificate, "if the server asks"),
        ] {
            let failure = tls("there", &target, &rustls::Error::AlertReceived(alert));
            let message = failure.message;
            assert!(
                message.contains(words) && message.contains("`source.tls.cert_file`"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_refused_certificate_is_told_in_words_with_the_mend() {
        use rustls::OtherError;
        use webpki::Error;
        let chain = |error: Error| CertificateError::Other(OtherError(Arc::new(error)));
        let target = RequestTarget::of(&get("https://idp.example.org/t".to_owned())).unwrap();
        for (error, what, mend) in [
            (
                chain(Error::CaUsedAsEndEntity),
                "is an authority's (CA:TRUE)",
                "set `source.tls.ca_file`",
            ),
            (
                chain(Error::EndEntityUsedAsCa),
                "is no authority's (CA:FALSE)",
                "set `source.tls.ca_file`",
            ),
            (
                chain(Error::NameConstraintViolation),
                "name constraints",
                "another certificate",
            ),
            (
                chain(Error::PathLenConstraintViolated),
                "path length",
                "another certificate",
            ),
            (
                chain(Error::MaximumPathDepthExceeded),
                "too long",
                "its own chain only",
            ),
            (
                chain(Error::MaximumSignatureChecksExceeded),
                "too long",
                "its own chain only",
            ),
            (
                chain(Error::UnsupportedCertVersion),
                "version 3",
                "another certificate",
            ),
            (
                chain(Error::UnsupportedCriticalExtension),
                "critical extension",
                "another certificate",
            ),
            (
                chain(Error::CertDistrusted),
                "distrusted",
                "another certificate",
            ),
            (
                chain(Error::MalformedExtensions),
                "malformed",
                "another certificate",
            ),
            (
                chain(Error::EmptyEkuExtension),
                "malformed",
                "another certificate",
            ),
            (
                CertificateError::BadEncoding,
                "malformed",
                "another certificate",
            ),
            (
                CertificateError::UnknownIssuer,
                "not signed by a trusted authority",
                "set `source.tls.ca_file`",
            ),
            (
                CertificateError::BadSignature,
                "not signed by a trusted authority",
                "set `source.tls.ca_file`",
            ),
            (
                CertificateError::InvalidPurpose,
                "serverAuth",
                "another certificate",
            ),
            (CertificateError::Expired, "has expired", "clock is wrong"),
            (
                CertificateError::NotValidYet,
                "is not valid yet",
                "clock is wrong",
            ),
            (
                CertificateError::NotValidForName,
                "another host",
                "`idp.example.org` must be among",
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected: "idp.example.org".try_into().unwrap(),
                    presented: vec![
                        "DnsName(\"a.example\")".to_owned(),
                        "IpAddress(10.0.0.1)".to_owned(),
                    ],
                },
                "is for `a.example`, `10.0.0.1`;",
                "`idp.example.org` must be among",
            ),
        ] {
            let message = tls("idp.example.org", &target, &error.into()).message;
            let fits = message.contains(what) && message.contains(mend);
            let code = ["Other", "Error", "Issuer", "(\""]
                .iter()
                .any(|code| message.contains(code));
            assert!(fits && !code, "{message}");
        }
    }
}
