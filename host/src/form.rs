//! What a JSON Schema finds wrong in what somebody wrote, told for people: each mistake with its place, what is wrong, and the mend.
//! Errors of the validator hold the whole value, secrets too: no message here shows one.

use std::collections::BTreeSet;

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
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
pub struct Mistake {
    /// Where: a JSON pointer (RFC 6901); empty for the whole.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// What somebody wrote, as a message may speak of it.
pub(crate) trait Written {
    /// The value at a JSON pointer, if there is one.
    fn see(&self, pointer: &str) -> Option<Seen>;
}

/// A value in a message.
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    /// In backticks, or words for it where it must not be shown.
    pub(crate) shown: String,
}

impl Seen {
    fn nothing() -> Self {
        Self {
            kind: Kind::Nothing,
            shown: "nothing".to_owned(),
        }
    }
}

/// What was written, by how it looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nothing,
    /// A number or a truth value: it may be text that has to be quoted.
    Bare,
    Text,
    Collection,
}

/// Tells of an error that a schema found: a failed choice by the alternative that was meant, unknown keys each.
pub(crate) fn tell(
    schema: &Value,
    error: &ValidationError<'_>,
    written: &dyn Written,
    mistakes: &mut Vec<Mistake>,
) {
    let pointer = error.instance_path().as_str();
    let value = || written.see(pointer).unwrap_or_else(Seen::nothing);
    let (message, help) = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let known = known_keys(schema, error.schema_path().as_str());
            let known: Vec<&str> = known.into_iter().collect();
            return mistakes.extend(unexpected.iter().map(|key| {
                let pointer = format!("{pointer}/{}", escaped(key));
                // `{client_secret, hunter2}`: a comma for a colon makes a key of a value.
                let is_bare =
                    matches!(written.see(&pointer), Some(seen) if seen.kind == Kind::Nothing);
                let is_hidden = is_bare && nearest(key, known.iter().copied()).is_none();
                let (message, help) = unknown_key(key, is_hidden, &known);
                mistake(pointer, message, Some(help))
            }));
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            match (missing_keys(pointer, context), meant(pointer, context)) {
                (Some(keys), _) => with_help(one_of(&keys, &[])),
                (None, Some(errors)) => {
                    return errors
                        .iter()
                        .for_each(|error| tell(schema, error, written, mistakes));
                }
                (None, None) => not_expected(&allowed(context), &value(), None),
            }
        }
        ValidationErrorKind::OneOfMultipleValid { .. }
            if let Some(keys) = excluding_keys(schema, error, written) =>
        {
            with_help(one_of(&keys, &keys))
        }
        ValidationErrorKind::PropertyNames { error } => {
            let name = Seen {
                kind: Kind::Text,
                shown: quoted(error.instance()),
            };
            words(schema, error, &name)
        }
        _ => words(schema, error, &value()),
    };
    mistakes.push(mistake(pointer.to_owned(), message, help));
}

fn mistake(pointer: String, message: String, help: Option<String>) -> Mistake {
    Mistake {
        pointer,
        message,
        help,
    }
}

fn with_help((message, help): (String, String)) -> (String, Option<String>) {
    (message, Some(help))
}

/// What is wrong with a value, and the mend.
fn words(schema: &Value, error: &ValidationError<'_>, seen: &Seen) -> (String, Option<String>) {
    let value = &seen.shown;
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            let key = property.as_str().unwrap_or_default();
            with_help(missing_key(key))
        }
        ValidationErrorKind::Type { kind } => not_expected(&expected(kind), seen, example(kind)),
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().into_iter().flatten();
            let options: Vec<String> = options.map(quoted).collect();
            (
                format!("{value} is not known"),
                Some(format!("write one of {}", options.join(", "))),
            )
        }
        ValidationErrorKind::Constant { expected_value } => (
            format!("{value} is not known"),
            Some(format!("write {}", quoted(expected_value))),
        ),
        ValidationErrorKind::Pattern { pattern } => {
            let text = error.instance().as_str().unwrap_or_default();
            let odd = Alphabet::OneLine.odd(text.as_bytes());
            match odd.or_else(|| first_unseen(text)) {
                // It is hard to see in a value, and what comes behind it may be anything.
                Some(odd) => (format!("the value has {odd}"), Some(odd.mend().to_owned())),
                None => (
                    format!("{value} does not match the pattern `{pattern}`"),
                    None,
                ),
            }
        }
        ValidationErrorKind::Minimum { .. } | ValidationErrorKind::Maximum { .. } => (
            format!("{value} is out of bounds"),
            Some(bounds(schema, error)),
        ),
        ValidationErrorKind::MinLength { limit: 1 } => ("the value is empty".to_owned(), None),
        ValidationErrorKind::MinProperties { limit: 1 } => {
            ("the mapping is empty".to_owned(), None)
        }
        _ => (error.masked_with(value.as_str()).to_string(), None),
    }
}

/// Tells of a value where another kind is expected.
pub(crate) fn not_expected(
    expected: &str,
    Seen { kind, shown }: &Seen,
    example: Option<&str>,
) -> (String, Option<String>) {
    let like = example.map(|example| format!("write it like `{example}`"));
    match kind {
        Kind::Nothing => {
            let write = like.unwrap_or_else(|| "write one".to_owned());
            (
                format!("a value is missing: {expected} is expected"),
                Some(format!("{write}, or remove the key")),
            )
        }
        Kind::Bare if expected == TEXT => (
            format!("expected {expected}, but YAML reads {shown} as a number or truth value"),
            Some(match shown.starts_with('`') {
                true => format!("quote it: `\"{}\"`", shown.trim_matches('`')),
                false => "quote it".to_owned(),
            }),
        ),
        _ => (format!("expected {expected}, found {shown}"), like),
    }
}

/// What a schema calls a string.
const TEXT: &str = "text";

fn expected(kind: &TypeKind) -> String {
    let names = names(kind).into_iter().map(|name| match name {
        "string" => TEXT,
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "`true` or `false`",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    });
    names.collect::<Vec<_>>().join(" or ")
}

fn example(kind: &TypeKind) -> Option<&'static str> {
    match names(kind).as_slice() {
        ["integer" | "number"] => Some("1"),
        ["boolean"] => Some("true"),
        ["array"] => Some("[…]"),
        ["object"] => Some("{key: value}"),
        _ => None,
    }
}

/// The types that are expected. What may be absent allows null; nobody writes that on purpose.
fn names(kind: &TypeKind) -> Vec<&str> {
    let mut names: Vec<&str> = match kind {
        TypeKind::Single(single) => vec![single.as_str()],
        TypeKind::Multiple(several) => several.into_iter().map(|one| one.as_str()).collect(),
    };
    names.retain(|name| *name != "null");
    names
}

/// The bounds in the schema around the one that a number is beyond.
fn bounds(schema: &Value, error: &ValidationError<'_>) -> String {
    let around = around(schema, error.schema_path().as_str());
    let bound = |keyword| around.and_then(|schema| schema.get(keyword));
    let number = match bound("type").and_then(Value::as_str) {
        Some("integer") => "a whole number",
        _ => "a number",
    };
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!("write {number} from {least} to {most}"),
        (Some(least), None) => format!("write {number} from {least} on"),
        (None, Some(most)) => format!("write {number} up to {most}"),
        (None, None) => format!("write {number} within bounds"),
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
fn excluding_keys<'s>(
    schema: &'s Value,
    error: &ValidationError<'_>,
    written: &dyn Written,
) -> Option<Vec<&'s str>> {
    let pointer = error.instance_path().as_str();
    let alternatives = schema.pointer(error.schema_path().as_str())?.as_array()?;
    let wanted = alternatives.iter().map(|alternative| {
        let required = alternative.as_object()?;
        match (
            required.len(),
            required.get("required")?.as_array()?.as_slice(),
        ) {
            (1, [key]) => key.as_str(),
            _ => None,
        }
    });
    let mut keys = wanted.collect::<Option<Vec<&str>>>()?;
    keys.retain(|key| {
        written
            .see(&format!("{pointer}/{}", escaped(key)))
            .is_some()
    });
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
                allowed.insert(expected(kind));
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
pub(crate) fn unknown_key(key: &str, is_hidden: bool, known: &[&str]) -> (String, String) {
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
pub(crate) fn missing_key(key: &str) -> (String, String) {
    (
        format!("the key `{key}` is missing"),
        format!("add `{key}: …`"),
    )
}

/// Tells of keys of which one is to be there, by those that are.
pub(crate) fn one_of(keys: &[&str], given: &[&str]) -> (String, String) {
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
