//! Refusals of a token endpoint: their kind of failure, and the parts that may be shown. RFC 6749 §5.2, RFC 8628 §3.5, RFC 8707
//! §2.

use serde_json::{Map, Value};

use super::members;
use crate::http::Response;
use crate::{Failure, FailureKind};

/// A longer description is cut: it is untrusted text for logs and status tables.
const MAX_DESCRIPTION_CHARS: usize = 300;

/// Codes are short; a longer one is text, and codes become labels.
const MAX_CODE_CHARS: usize = 64;

/// Vendors' codes for errors that pass by themselves, which they send with any status (Slack: 200).
const PASSING: [&str; 9] = [
    "ratelimited",
    "rate_limited",
    "rate_limit_exceeded",
    "too_many_requests",
    "internal_error",
    "internal_server_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
];

/// The issuer's error.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    code: Option<String>,
    description: Option<String>,
}

/// The failure for this answer. It repeats only the error's code and its description from the body.
#[must_use]
pub fn failure(response: &Response) -> Failure {
    match members(response).and_then(|found| refusal(&found.members)) {
        Some(refusal) => refused(response, &refusal),
        None => told_by_status(response),
    }
}

fn told_by_status(response: &Response) -> Failure {
    let kind = kind(response.status, None);
    Failure::new(kind, without_explanation(response))
        .with_code(format!("http.{}", response.status))
        .with_retry_after_ms(response.retry_after_ms())
}

pub(super) fn refused(response: &Response, refusal: &Refusal) -> Failure {
    let message = match (&refusal.code, &refusal.description) {
        (Some(code), Some(description)) => format!(
            "the issuer answered {code} (status {}): {description}",
            response.status
        ),
        (Some(code), None) => format!("the issuer answered {code} (status {})", response.status),
        (None, Some(description)) => format!(
            "the issuer answered with status {}: {description}",
            response.status
        ),
        (None, None) => without_explanation(response),
    };
    let code = refusal
        .code
        .clone()
        .unwrap_or_else(|| format!("http.{}", response.status));
    let kind = match (response.status, &refusal.code) {
        // The host keeps such an answer to a rotating secret until it is understood. It is understood: nothing was issued.
        (200..300, None) => FailureKind::Denied,
        (status, code) => kind(status, code.as_deref()),
    };
    Failure::new(kind, message)
        .with_code(code)
        .with_retry_after_ms(response.retry_after_ms())
}

/// Describes an answer without an OAuth error.
fn without_explanation(response: &Response) -> String {
    match (response.status, response.header("location")) {
        (300..400, Some(location)) => format!(
            "the issuer redirects ({}) to {}; redirects are not followed, so write the final address into the configuration",
            response.status,
            without_query(location)
        ),
        (404 | 405 | 410, _) => format!(
            "the issuer answered with status {}: is this the address of its token endpoint?",
            response.status
        ),
        _ => format!(
            "the issuer answered without an OAuth error ({})",
            response.summary()
        ),
    }
}

/// Queries contain authorization codes and states, which must not be shown.
fn without_query(location: &str) -> String {
    location
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_DESCRIPTION_CHARS)
        .collect()
}

/// A known code takes precedence, because issuers send it with any status (403 and 500 for invalid_grant); a rate limit is one in
/// any case.
fn kind(status: u16, code: Option<&str>) -> FailureKind {
    let by_status = match status {
        // Issuers and gateways also redirect during maintenance.
        300..400 | 408 | 425 | 429 | 500.. => FailureKind::Unavailable,
        400 | 404 | 405 | 410 | 411 | 413..=415 | 422 => FailureKind::InvalidConfig,
        401..500 => FailureKind::Denied,
        _ => FailureKind::Internal,
    };
    let by_code = match code {
        None => by_status,
        Some(
            "invalid_client"
            | "unauthorized_client"
            | "invalid_grant"
            | "access_denied"
            | "expired_token",
        ) => FailureKind::Denied,
        Some(
            "temporarily_unavailable"
            | "server_error"
            | "slow_down"
            | "authorization_pending"
            | "consent_required",
        ) => FailureKind::Unavailable,
        Some(code) if PASSING.contains(&code) => FailureKind::Unavailable,
        Some(
            "invalid_request"
            | "invalid_scope"
            | "unsupported_grant_type"
            | "unsupported_token_type"
            | "invalid_target"
            | "invalid_authorization_details",
        ) => FailureKind::InvalidConfig,
        Some(_) if status >= 500 => FailureKind::Unavailable,
        Some(_) => FailureKind::Denied,
    };
    match by_code {
        _ if status == 429 => FailureKind::Unavailable,
        // The host keeps an answer below 400 to a rotating secret until it is understood, so an invalid-config would have it kept
        // forever. This one is understood: nothing was issued.
        FailureKind::InvalidConfig if code.is_some() && status < 400 => FailureKind::Denied,
        kind => kind,
    }
}

/// The error in an answer, if there is one: RFC 6749's members, an object in their place, or a list (Fitbit).
pub(super) fn refusal(members: &Map<String, Value>) -> Option<Refusal> {
    let described_by = |object: &Map<String, Value>, names: &[&str]| {
        names.iter().find_map(|name| {
            object
                .get(*name)?
                .as_str()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        })
    };
    let (code, description) = match (
        members.get("error"),
        members.get("errors").and_then(|errors| errors.get(0)),
    ) {
        (Some(Value::String(code)), _) if !code.is_empty() => (
            Some(code.clone()),
            described_by(members, &["error_description", "message"]),
        ),
        (Some(Value::Object(error)), _) => (
            described_by(error, &["code", "status", "type"]),
            described_by(error, &["message", "description"]),
        ),
        (_, Some(Value::Object(error))) => (
            described_by(error, &["errorType", "code"]),
            described_by(error, &["message"]),
        ),
        _ => return None,
    };
    Some(Refusal {
        code: code.filter(|code| is_code(code)),
        description: description.map(|text| presentable(&text)),
    })
}

/// RFC 6749 §5.2 allows printable ASCII except quote and backslash; no real code contains blanks.
fn is_code(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_CODE_CHARS
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// On one line, without control characters, not too long.
fn presentable(text: &str) -> String {
    let one_line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match one_line.char_indices().nth(MAX_DESCRIPTION_CHARS) {
        Some((end, _)) => format!("{}…", one_line.get(..end).unwrap_or_default()),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use FailureKind::{Denied, Internal, InvalidConfig, Unavailable};

    fn answer(status: u16, body: &str) -> Response {
        Response {
            status,
            headers: vec![("content-type".into(), "application/json".into())],
            body: body.as_bytes().to_vec(),
            sent_at: Timestamp::from_unix_seconds(1_700_000_000),
        }
    }

    #[test]
    fn the_code_decides_where_it_is_known_else_the_status() {
        for (status, error, expected) in [
            (401, "invalid_client", Denied),
            (400, "unauthorized_client", Denied),
            (400, "invalid_grant", Denied),
            (403, "invalid_grant", Denied),
            (500, "invalid_grant", Denied),
            (400, "access_denied", Denied),
            (400, "invalid_request", InvalidConfig),
            (400, "invalid_scope", InvalidConfig),
            (400, "unsupported_grant_type", InvalidConfig),
            (400, "invalid_target", InvalidConfig),
            (400, "temporarily_unavailable", Unavailable),
            (400, "server_error", Unavailable),
            (400, "slow_down", Unavailable),
            (400, "consent_required", Unavailable),
            (429, "invalid_request", Unavailable),
            (429, "invalid_client", Unavailable),
            (503, "vendor_says_no", Unavailable),
            (400, "vendor_says_no", Denied),
            (200, "bad_refresh_token", Denied),
            (200, "invalid_scope", Denied),
            (200, "ratelimited", Unavailable),
            (200, "internal_error", Unavailable),
            (200, "fatal_error", Unavailable),
            (200, "service_unavailable", Unavailable),
            (200, "request_timeout", Unavailable),
            (400, "rate_limited", Unavailable),
            (400, "rate_limit_exceeded", Unavailable),
            (403, "too_many_requests", Unavailable),
            (400, "internal_server_error", Unavailable),
        ] {
            let failure = failure(&answer(
                status,
                &format!(r#"{{"error":"{error}","error_description":"because"}}"#),
            ));
            assert_eq!(
                (failure.kind, failure.code.as_deref()),
                (expected, Some(error)),
                "{status} {error}"
            );
            assert!(
                failure.message.contains(error) && failure.message.contains("because"),
                "{}",
                failure.message
            );
        }
    }

    #[test]
    fn without_a_code_the_status_decides() {
        for (status, expected) in [
            (200, Internal),
            (302, Unavailable),
            (400, InvalidConfig),
            (401, Denied),
            (403, Denied),
            (404, InvalidConfig),
            (405, InvalidConfig),
            (408, Unavailable),
            (429, Unavailable),
            (500, Unavailable),
            (502, Unavailable),
            (599, Unavailable),
        ] {
            let failure = failure(&answer(status, "<html>s3cr3t</html>"));
            assert_eq!(
                (failure.kind, failure.code),
                (expected, Some(format!("http.{status}"))),
                "{status}"
            );
            assert!(!failure.message.contains("s3cr3t"), "{}", failure.message);
        }
    }

    #[test]
    fn errors_are_found_where_vendors_put_them() {
        for (body, code, description) in [
            (r#"{"error":"invalid_grant"}"#, Some("invalid_grant"), None),
            (
                r#"{"ok":false,"error":"invalid_auth"}"#,
                Some("invalid_auth"),
                None,
            ),
            (
                r#"{"error":{"code":401,"status":"UNAUTHENTICATED","message":"no"}}"#,
                Some("UNAUTHENTICATED"),
                Some("no"),
            ),
            (
                r#"{"errors":[{"errorType":"invalid_grant","message":"gone"}],"success":false}"#,
                Some("invalid_grant"),
                Some("gone"),
            ),
            (r#"{"error":"Bad credentials, go away"}"#, None, None),
        ] {
            let found = refusal(
                serde_json::from_str::<Value>(body)
                    .unwrap()
                    .as_object()
                    .unwrap(),
            )
            .unwrap();
            assert_eq!(
                (found.code.as_deref(), found.description.as_deref()),
                (code, description),
                "{body}"
            );
        }
        for body in [
            r#"{"error":null}"#,
            r#"{"error":""}"#,
            r#"{"error":0}"#,
            r#"{"errors":[]}"#,
            r#"{"access_token":"x"}"#,
        ] {
            assert_eq!(
                refusal(
                    serde_json::from_str::<Value>(body)
                        .unwrap()
                        .as_object()
                        .unwrap()
                ),
                None,
                "{body}"
            );
        }
    }

    #[test]
    fn an_error_without_a_code_is_understood_whatever_the_status() {
        for (status, body, expected) in [
            (200, r#"{"errors":[{"message":"busy"}]}"#, Denied),
            (200, r#"{"error":"Bad credentials, go away"}"#, Denied),
            (200, r#"{"error":{"reason":"busy"}}"#, Denied),
            (400, r#"{"errors":[{"message":"busy"}]}"#, InvalidConfig),
            (503, r#"{"errors":[{"message":"busy"}]}"#, Unavailable),
        ] {
            let failure = failure(&answer(status, body));
            assert_eq!(failure.kind, expected, "{status} {body}");
        }
    }

    #[test]
    fn a_message_is_one_line_and_repeats_only_the_description() {
        let long = "x".repeat(10_000);
        let body = format!(
            r#"{{"error":"invalid_grant","error_description":"a\nb{long}","error_uri":"s3cr3t","trace":"s3cr3t"}}"#
        );
        let message = failure(&answer(400, &body)).message;
        assert!(
            message.contains("a bxxx") && message.len() < 500,
            "{message}"
        );
        assert!(
            !message.contains('\n') && !message.contains("s3cr3t"),
            "{message}"
        );
    }

    #[test]
    fn a_redirect_names_its_target_without_the_query() {
        let mut answer = answer(302, "");
        answer.headers.push((
            "location".into(),
            "https://login.example.org/token?code=s3cr3t".into(),
        ));
        let message = failure(&answer).message;
        assert!(
            message.contains("https://login.example.org/token;") && !message.contains("s3cr3t"),
            "{message}"
        );
    }
}
