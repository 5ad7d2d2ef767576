//! The answers of OAuth 2.0 token endpoints, as RFC 6749 has them and as issuers really send them. [`Answer`] reads one, [`failure`] judges a
//! refusal.

mod answer;
mod error;

pub use answer::Answer;
pub use error::failure;

use serde_json::{Map, Value};

use crate::http::Response;

/// The members of an answer: of a JSON object, or of a form where the issuer sends that (GitHub unless asked otherwise, some as text/plain).
/// Nothing when the body is neither.
fn members(response: &Response) -> Option<Map<String, Value>> {
    let body = response
        .body
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(&response.body)
        .trim_ascii();
    match body.first()? {
        b'{' => serde_json::from_slice(body).ok(),
        _ => form_members(response.header("content-type"), body),
    }
}

/// A form's fields. Every text would be a form of some kind, an error page too, whose words would then be names: a token endpoint's form has one of
/// the two names that matter.
fn form_members(content_type: Option<&str>, body: &[u8]) -> Option<Map<String, Value>> {
    let essence = content_type.map(|value| {
        value
            .split(';')
            .next()
            .unwrap_or(value)
            .trim()
            .to_ascii_lowercase()
    });
    if !matches!(
        essence.as_deref(),
        None | Some("application/x-www-form-urlencoded" | "text/plain")
    ) {
        return None;
    }
    let mut members = Map::new();
    for (name, value) in form_urlencoded::parse(body) {
        members.insert(name.into_owned(), Value::String(value.into_owned()));
    }
    (members.contains_key("access_token") || members.contains_key("error")).then_some(members)
}
