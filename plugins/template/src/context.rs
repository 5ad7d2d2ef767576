//! The names in a template: one token's parts at the top level, every token's under `tokens.JOB`.

use std::collections::BTreeMap;

use evertoken_plugin::{Expiry, NamedToken};
use minijinja::Value;

use crate::words;

/// The possible parts of a token beside its value.
const PARTS: [&str; 7] = [
    "job",
    "token_type",
    "fields",
    "claims",
    "expires_at",
    "expires_at_unix",
    "expires_at_unix_ms",
];

/// The names, and the list of them for messages.
pub(crate) struct Context {
    pub(crate) values: Value,
    pub(crate) names: Vec<String>,
    jobs: Vec<String>,
}

type Names = BTreeMap<String, Value>;

/// The names for these tokens. Those at the top level (`token`, `fields`, …) exist only if they are unambiguous, which means with
/// one token.
pub(crate) fn new(tokens: &[NamedToken]) -> Context {
    let mut top = Names::new();
    if let [only] = tokens {
        top.extend(parts(only, "token"));
    }
    let jobs: Names = tokens
        .iter()
        .map(|named| (named.job.clone(), Value::from_object(parts(named, "value"))))
        .collect();
    top.insert("tokens".to_owned(), Value::from_object(jobs));
    let names = names(&top, tokens);
    Context {
        values: Value::from_object(top),
        names,
        jobs: tokens.iter().map(|named| named.job.clone()).collect(),
    }
}

impl Context {
    /// Whether other tokens of these jobs could define a name that these do not: a field, a claim, an expiry.
    pub(crate) fn may_have(&self, dotted: &str) -> bool {
        let mut steps = dotted.split('.');
        let is_part = |name: Option<&str>, value_name: &str| {
            name.is_none_or(|name| name == value_name || PARTS.contains(&name))
        };
        match steps.next() {
            Some("tokens") => {
                let job = steps.next();
                job.is_none_or(|job| self.jobs.iter().any(|known| known == job))
                    && is_part(steps.next(), "value")
            }
            top => self.jobs.len() == 1 && is_part(top, "token"),
        }
    }
}

/// A token's parts; its value has the given name. An unknown expiry, or none, has no name, nor have the claims of a token that is
/// not a JWT: a template that needs them fails instead of writing made-up content.
fn parts(named: &NamedToken, value_name: &str) -> Names {
    let token = &named.token;
    let fields: Names = token
        .fields
        .iter()
        .map(|field| (field.name.clone(), Value::from(field.value.as_str())))
        .collect();
    let mut parts = Names::from([
        ("job".to_owned(), Value::from(named.job.as_str())),
        (value_name.to_owned(), Value::from(token.value.as_str())),
        (
            "token_type".to_owned(),
            Value::from(token.token_type.as_str()),
        ),
        ("fields".to_owned(), Value::from_object(fields)),
    ]);
    if let Some(claims) = words::claims(&token.value) {
        parts.insert("claims".to_owned(), claims);
    }
    if let Expiry::At(at) = token.expiry {
        parts.insert("expires_at".to_owned(), Value::from(at.to_string()));
        parts.insert(
            "expires_at_unix".to_owned(),
            Value::from(at.as_unix_seconds()),
        );
        parts.insert(
            "expires_at_unix_ms".to_owned(),
            Value::from(at.as_unix_millis()),
        );
    }
    parts
}

/// All names, as written in a template.
fn names(top: &Names, tokens: &[NamedToken]) -> Vec<String> {
    let mut names: Vec<String> = top
        .keys()
        .filter(|name| !matches!(name.as_str(), "tokens" | "fields"))
        .cloned()
        .collect();
    if let [only] = tokens {
        names.extend(
            only.token
                .fields
                .iter()
                .map(|field| member("fields", &field.name)),
        );
    }
    for named in tokens {
        let job = member("tokens", &named.job);
        let plain = parts(named, "value");
        names.extend(
            plain
                .keys()
                .filter(|name| *name != "fields")
                .map(|name| member(&job, name)),
        );
        names.extend(
            named
                .token
                .fields
                .iter()
                .map(|field| member(&format!("{job}.fields"), &field.name)),
        );
    }
    names
}

/// `object.name`, or `object["name"]` where the name is not an identifier.
fn member(object: &str, name: &str) -> String {
    let is_identifier = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_identifier {
        format!("{object}.{name}")
    } else {
        format!("{object}[{name:?}]")
    }
}
