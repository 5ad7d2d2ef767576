//! What a JSON Schema finds wrong in what somebody wrote, told for people: each mistake with its place, what is wrong, and the mend.
//! Errors of the validator hold the whole value, secrets too: no message here shows one.

use std::collections::BTreeSet;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::names::nearest;
use crate::text::{Alphabet, first_unseen};

/// Steps of a search for known keys: a schema may refer to itself.
const MAX_STEPS: usize = 1000;

/// A longer key is not repeated: it may be a value that was pasted into the wrong place.
const MAX_KEY_CHARS: usize = 60;

/// A mistake in what somebody wrote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SchemaMistake {
    /// Where: a JSON pointer (RFC 6901); empty for the whole.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// What is wrong, and the mend.
type Words = (String, String);

/// What was written, by how it looks and as a message may show it.
pub(crate) enum WrittenValue {
    Nothing,
    /// A number or a truth value: it may be text that has to be quoted.
    Bare(String),
    Other(String),
}

/// Tells of an error that a schema found: a failed choice by the alternative that was meant, unknown keys each.
pub(crate) fn tell(
    schema: &Value,
    error: &ValidationError<'_>,
    written_value: fn(&str, &Value) -> WrittenValue,
    mistakes: &mut Vec<SchemaMistake>,
) {
    let pointer = error.instance_path().as_str();
    let written = || written_value(pointer, error.instance());
    let (message, help) = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let known = Vec::from_iter(known_keys(schema, error.schema_path().as_str()));
            return mistakes.extend(unexpected.iter().map(|key| {
                // `{client_secret, hunter2}`: a comma for a colon makes a key of a value.
                let is_bare = error.instance().get(key).is_some_and(Value::is_null);
                let is_hidden = is_bare && nearest(key, known.iter().copied()).is_none();
                let (message, help) = unknown_key(key, is_hidden, &known);
                SchemaMistake {
                    pointer: format!("{pointer}/{}", escaped(key)),
                    message,
                    help,
                }
            }));
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            match (missing_keys(pointer, context), meant(pointer, context)) {
                (Some(keys), _) => one_of(&keys, &[]),
                (None, Some(errors)) => {
                    let tell_each = |error| tell(schema, error, written_value, mistakes);
                    return errors.iter().for_each(tell_each);
                }
                (None, None) => not_expected(&allowed(context), written(), None),
            }
        }
        ValidationErrorKind::OneOfMultipleValid { .. }
            if let Some(keys) = excluding_keys(schema, error) =>
        {
            one_of(&keys, &keys)
        }
        ValidationErrorKind::PropertyNames { error } => {
            words(schema, error, WrittenValue::Other(quoted(error.instance())))
        }
        _ => words(schema, error, written()),
    };
    mistakes.push(SchemaMistake {
        pointer: pointer.to_owned(),
        message,
        help,
    });
}

fn words(schema: &Value, error: &ValidationError<'_>, written: WrittenValue) -> Words {
    if let ValidationErrorKind::Type { kind } = error.kind() {
        let (expected, example) = expected(kind);
        return not_expected(&expected, written, example);
    }
    let value = match written {
        WrittenValue::Nothing => "nothing".to_owned(),
        WrittenValue::Bare(shown) | WrittenValue::Other(shown) => shown,
    };
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            missing_key(property.as_str().unwrap_or_default())
        }
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().into_iter().flatten().map(quoted);
            let options: Vec<String> = options.collect();
            let help = format!("write one of {}", options.join(", "));
            (format!("{value} is not known"), help)
        }
        ValidationErrorKind::Constant { expected_value } => {
            let help = format!("write {}", quoted(expected_value));
            (format!("{value} is not known"), help)
        }
        ValidationErrorKind::Minimum { .. } | ValidationErrorKind::Maximum { .. } => {
            (format!("{value} is out of bounds"), bounds(schema, error))
        }
        ValidationErrorKind::MinLength { limit: 1 } => {
            ("the value is empty".to_owned(), REMOVE.to_owned())
        }
        ValidationErrorKind::MinProperties { limit: 1 } => {
            ("the mapping is empty".to_owned(), REMOVE.to_owned())
        }
        kind => {
            let text = error.instance().as_str().unwrap_or_default();
            let odd = Alphabet::OneLine.odd(text.as_bytes());
            match (kind, odd.or_else(|| first_unseen(text))) {
                // It is hard to see in a value, and what comes behind it may be anything.
                (ValidationErrorKind::Pattern { .. }, Some(odd)) => {
                    (format!("the value has {odd}"), odd.mend().to_owned())
                }
                (ValidationErrorKind::Pattern { pattern }, None) => (
                    format!("{value} does not match the pattern `{pattern}`"),
                    INSPECT.to_owned(),
                ),
                _ => {
                    let message = error.masked_with(value.as_str()).to_string();
                    (message, INSPECT.to_owned())
                }
            }
        }
    }
}

/// The mend for what is empty.
const REMOVE: &str = "write one, or remove the key";
/// The mend where only the schema says more.
const INSPECT: &str = "`evertoken plugin inspect` shows the schema";

/// Tells of a value where another kind is expected.
pub(crate) fn not_expected(expected: &str, written: WrittenValue, example: Option<&str>) -> Words {
    let like = match example {
        Some(example) => format!("write it like `{example}`"),
        None => "write what is expected here".to_owned(),
    };
    match written {
        WrittenValue::Nothing => (
            format!("a value is missing: {expected} is expected"),
            format!("{like}, or remove the key"),
        ),
        WrittenValue::Bare(shown) if expected == TEXT => {
            let help = match shown.starts_with('`') {
                true => format!("quote it: `\"{}\"`", shown.trim_matches('`')),
                false => "quote it".to_owned(),
            };
            let message =
                format!("expected {TEXT}, but YAML reads {shown} as a number or truth value");
            (message, help)
        }
        WrittenValue::Bare(shown) | WrittenValue::Other(shown) => {
            (format!("expected {expected}, found {shown}"), like)
        }
    }
}

/// What a schema calls a string.
const TEXT: &str = "text";

/// The types that are expected, and an example if it is one. What may be absent allows null; nobody writes that on purpose.
fn expected(kind: &TypeKind) -> (String, Option<&'static str>) {
    let types = match kind {
        TypeKind::Single(single) => vec![*single],
        TypeKind::Multiple(several) => several.iter().collect(),
    };
    let types: Vec<(&str, &str)> = types
        .into_iter()
        .filter_map(|kind| {
            Some(match kind {
                JsonType::Null => return None,
                JsonType::String => (TEXT, "\"…\""),
                JsonType::Integer => ("a whole number", "1"),
                JsonType::Number => ("a number", "1"),
                JsonType::Boolean => ("`true` or `false`", "true"),
                JsonType::Array => ("a list", "[…]"),
                JsonType::Object => ("a mapping", "{key: value}"),
            })
        })
        .collect();
    let example = match types.as_slice() {
        [(_, example)] => Some(*example),
        _ => None,
    };
    let names: Vec<&str> = types.into_iter().map(|(name, _)| name).collect();
    (names.join(" or "), example)
}

/// The bounds in the schema around the one that a number is beyond.
fn bounds(schema: &Value, error: &ValidationError<'_>) -> String {
    let around = around(schema, error.schema_path().as_str());
    let bound = |keyword| around.and_then(|schema| schema.get(keyword));
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!("write a number from {least} to {most}"),
        (Some(least), None) => format!("write a number from {least} on"),
        (_, most) => format!("write a number up to {}", most.unwrap_or(&Value::Null)),
    }
}

/// The one alternative whose shape fits, if there is just one: no wrong type at the place of the choice, and no wrong tag in it.
fn meant<'a, 'e>(
    pointer: &str,
    alternatives: &'a [Vec<ValidationError<'e>>],
) -> Option<&'a [ValidationError<'e>]> {
    let mut fitting = alternatives.iter().filter(|errors| {
        !errors.iter().any(|error| match error.kind() {
            ValidationErrorKind::Type { .. } | ValidationErrorKind::Enum { .. } => {
                error.instance_path().as_str() == pointer
            }
            ValidationErrorKind::Constant { .. } => true,
            _ => false,
        })
    });
    match (fitting.next(), fitting.next()) {
        (Some(errors), None) => Some(errors),
        _ => None,
    }
}

/// The keys of which one is to be there, where that is all that the alternatives want.
fn missing_keys<'a>(
    pointer: &str,
    alternatives: &'a [Vec<ValidationError<'_>>],
) -> Option<Vec<&'a str>> {
    alternatives
        .iter()
        .map(|errors| match (errors.as_slice(), errors.first()?.kind()) {
            ([error], ValidationErrorKind::Required { property })
                if error.instance_path().as_str() == pointer =>
            {
                property.as_str()
            }
            _ => None,
        })
        .collect()
}

/// The keys that exclude each other and are there, where that is all that the alternatives want.
fn excluding_keys<'s>(schema: &'s Value, error: &ValidationError<'_>) -> Option<Vec<&'s str>> {
    let alternatives = schema.pointer(error.schema_path().as_str())?.as_array()?;
    let wanted = alternatives.iter().map(|alternative| {
        let required = alternative.as_object().filter(|all| all.len() == 1)?;
        match required.get("required")?.as_array()?.as_slice() {
            [key] => key.as_str(),
            _ => None,
        }
    });
    let mut keys = wanted.collect::<Option<Vec<&str>>>()?;
    keys.retain(|key| error.instance().get(*key).is_some());
    Some(keys)
}

/// What the alternatives allow.
fn allowed(alternatives: &[Vec<ValidationError<'_>>]) -> String {
    let mut allowed = BTreeSet::new();
    for error in alternatives.iter().flatten() {
        match error.kind() {
            ValidationErrorKind::Constant { expected_value } => {
                let (_, key) = error
                    .instance_path()
                    .as_str()
                    .rsplit_once('/')
                    .unwrap_or_default();
                allowed.insert(match key {
                    "" => quoted(expected_value),
                    key => format!("`{key}: {}`", plain(expected_value)),
                });
            }
            ValidationErrorKind::Enum { options } => {
                allowed.extend(options.as_array().into_iter().flatten().map(quoted));
            }
            ValidationErrorKind::Type { kind } => {
                allowed.insert(expected(kind).0);
            }
            _ => {}
        }
    }
    allowed.remove("");
    match allowed.len() {
        0 => "one of several forms".to_owned(),
        _ => Vec::from_iter(allowed).join(" or "),
    }
}

/// Tells of a key that is not known here; `is_hidden`: it may be a value, and is not repeated.
pub(crate) fn unknown_key(key: &str, is_hidden: bool, known: &[&str]) -> Words {
    let message = match is_hidden || key.chars().count() > MAX_KEY_CHARS {
        true => "unknown key (not shown)".to_owned(),
        false => format!("unknown key `{key}`"),
    };
    let help = match nearest(key, known.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if key == "<<" => {
            "merge keys are not part of YAML 1.2; write the keys out, or use `defaults`".to_owned()
        }
        None if known.is_empty() => "no key is known here".to_owned(),
        None => format!("the keys here are {}", list(known.iter().copied())),
    };
    (message, help)
}

/// Tells of a key that is missing.
pub(crate) fn missing_key(key: &str) -> Words {
    (
        format!("the key `{key}` is missing"),
        format!("add `{key}: …`"),
    )
}

/// Tells of keys of which one is to be there, by those that are.
pub(crate) fn one_of(keys: &[&str], given: &[&str]) -> Words {
    match given {
        [] => (
            format!("one of {} is missing", list(keys.iter().copied())),
            "give exactly one of them".to_owned(),
        ),
        _ => (
            format!("{} exclude each other", list(given.iter().copied())),
            "keep exactly one of them".to_owned(),
        ),
    }
}

/// `a`, `b`, `c`
pub(crate) fn list<'k>(words: impl Iterator<Item = &'k str>) -> String {
    let quoted: Vec<_> = words.map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// The schema that a keyword stands in.
fn around<'s>(root: &'s Value, keyword_path: &str) -> Option<&'s Value> {
    root.pointer(keyword_path.rsplit_once('/')?.0)
}

/// The keys that the schema around a keyword knows.
fn known_keys<'s>(root: &'s Value, keyword_path: &str) -> BTreeSet<&'s str> {
    let mut keys = BTreeSet::new();
    let mut seen: Vec<&Value> = around(root, keyword_path).into_iter().collect();
    let mut next = 0;
    while let Some(schema) = seen.get(next).copied() {
        next += 1;
        let properties = schema.get("properties").and_then(Value::as_object);
        keys.extend(
            properties
                .into_iter()
                .flatten()
                .map(|(key, _)| key.as_str()),
        );
        for same in in_place(root, schema) {
            if seen.len() < MAX_STEPS && !seen.iter().any(|seen| std::ptr::eq(*seen, same)) {
                seen.push(same);
            }
        }
    }
    keys
}

/// Subschemas that speak about the same place.
pub(crate) fn in_place<'a>(root: &'a Value, schema: &'a Value) -> impl Iterator<Item = &'a Value> {
    let reference = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.strip_prefix('#')?));
    let alternatives = ["allOf", "anyOf", "oneOf"]
        .into_iter()
        .filter_map(|keyword| schema.get(keyword)?.as_array())
        .flatten();
    let conditional = ["if", "then", "else"]
        .into_iter()
        .filter_map(|keyword| schema.get(keyword));
    reference.into_iter().chain(alternatives).chain(conditional)
}

/// A value that the schema has.
pub(crate) fn quoted(value: &Value) -> String {
    format!("`{}`", plain(value))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// A key as a reference token of RFC 6901.
pub(crate) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
