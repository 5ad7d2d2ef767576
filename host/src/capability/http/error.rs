//! What went wrong with a request, in words and codes that a job's owner can act on. The library's own texts are not passed
//! on: they hold the URL, and with it secrets in the query.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

use super::client::CONNECT_TIMEOUT;
use super::egress::AddressKind;
use super::request::Target;
use super::resolve::ResolveError;
use crate::failure::{Failure, FailureKind};

/// The first `T` among an error and its causes. [`io::Error`] hides the error that it wraps from its causes.
pub(super) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
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

/// The last cause, which knows best.
pub(super) fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last
}

/// There is no connection.
pub(super) fn not_connected(
    target: &Target,
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
    unavailable("http.connect", format!("cannot connect to {at}: {what}"))
}

/// The connection broke before the answer was whole. A refusal of the client certificate comes after the request in TLS 1.3.
pub(super) fn broken_off(target: &Target, through: Option<&str>, error: &io::Error) -> Failure {
    let at = at(target, through);
    if let Some(error) = find::<rustls::Error>(error) {
        return tls(&at, target, error);
    }
    unavailable(
        "http.protocol",
        format!("the answer of {at} broke off: {}", plain(error)),
    )
}

/// What came is no answer, or only a part of one.
pub(super) fn unreadable(target: &Target, through: Option<&str>) -> Failure {
    let at = at(target, through);
    unavailable(
        "http.protocol",
        format!("{at} did not answer in HTTP, or its answer is damaged or has no end"),
    )
}

/// It says again and again that an answer will come.
pub(super) fn only_interim(target: &Target) -> Failure {
    unavailable(
        "http.protocol",
        format!(
            "{} sent interim answers (1xx) and no final one",
            target.origin
        ),
    )
}

fn at(target: &Target, through: Option<&str>) -> String {
    match through {
        Some(proxy) => format!("{} through proxy {proxy}", target.origin),
        None => target.origin.to_string(),
    }
}

/// The time was up.
pub(super) fn timed_out(target: &Target, timeout: Duration) -> Failure {
    unavailable(
        "http.timeout",
        format!(
            "{} had not answered in full {} s after the call began; `source.timeout` bounds the whole call",
            target.origin,
            timeout.as_secs_f64()
        ),
    )
}

/// The answer is longer than the limit.
pub(super) fn too_large(target: &Target, limit: usize) -> Failure {
    Failure::new(
        FailureKind::Internal,
        "http.too-large",
        format!(
            "the answer of {} has more than {limit} bytes; an issuer's answers are smaller",
            target.origin
        ),
    )
}

/// An address that may not be reached, written in the URL or as the proxy.
pub(super) fn address_denied(what: &str, address: IpAddr, kind: AddressKind) -> Failure {
    Failure::new(
        FailureKind::InvalidConfig,
        "http.address-denied",
        format!(
            "{what} is {address}, {kind}, which jobs may not reach; if this one must, add `allow_addresses: [{address}]` under `source`"
        ),
    )
}

fn unavailable(code: &str, message: String) -> Failure {
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
            "http.dns",
            format!("cannot connect to {at}: cannot resolve `{name}`: {source}"),
        ),
        ResolveError::Denied {
            name,
            address,
            kind,
        } => address_denied(&format!("what `{name}` resolves to"), *address, *kind),
    }
}

fn tls(at: &str, target: &Target, error: &rustls::Error) -> Failure {
    let mend = match error {
        rustls::Error::InvalidCertificate(certificate) => certificate_mend(target, certificate),
        rustls::Error::InvalidMessage(_) => "; is that port for plain http?".to_owned(),
        rustls::Error::AlertReceived(alert) => alert_mend(*alert).to_owned(),
        rustls::Error::PeerIncompatible(_) => NOTHING_IN_COMMON.to_owned(),
        _ => String::new(),
    };
    unavailable(
        "http.tls",
        format!("no TLS connection to {at}: {error}{mend}"),
    )
}

/// What both sides would have to share.
const NOTHING_IN_COMMON: &str = "; server and client have no protocol version or cipher suite in common: the server must offer TLS 1.2 or 1.3 with AES-GCM or ChaCha20-Poly1305";

fn alert_mend(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
            NOTHING_IN_COMMON
        }
        // With TLS 1.2 it also stands for a certificate that is missing.
        AlertDescription::HandshakeFailure => {
            "; server and client have no cipher suite in common: the server must offer AES-GCM or ChaCha20-Poly1305 with ECDHE; or, with TLS 1.2, it misses `source.tls.cert_file`"
        }
        AlertDescription::UnrecognisedName => "; the server does not know this host name",
        _ => {
            "; if the server asks for a client certificate, set `source.tls.cert_file` and `key_file`"
        }
    }
}

fn certificate_mend(target: &Target, error: &CertificateError) -> String {
    match error {
        // An authority made anew under its old name shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "; set `source.tls.ca_file` to the certificate of the authority that signed it"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "; `{}` must be among the certificate's names, or the URL must name the server as its certificate does",
                target.origin.host()
            )
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "; the server needs a new certificate, or this machine's clock is wrong".to_owned()
        }
        _ => String::new(),
    }
}
