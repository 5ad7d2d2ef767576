//! Errors of JSON Schema validation as messages for people: each mistake with its place, what is wrong, and the correction. Errors of the
//! validator contain the whole value, including secrets; the messages here do not.

use std::collections::{BTreeMap, BTreeSet};

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json_member::escaped;
use crate::names::{holds_secret, nearest};
use crate::text::{Alphabet, first_unseen};

/// The most steps of a search for known keys, since a schema may refer to itself.
const MAX_STEPS: usize = 1000;

/// A longer key is not shown: it may be a value that was pasted into the wrong place.
const MAX_KEY_CHARS: usize = 60;

/// A mistake that a schema found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SchemaMistake {
    /// Its place, a JSON pointer (RFC 6901); empty for the whole document.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// What is wrong, and the correction.
type Words = (String, String);

/// The written value, as messages show it.
pub(crate) enum WrittenValue {
    Nothing,
    /// A number or a truth value, which may be text without the quotes that it needs.
    Bare(String),
    Other(String),
}

/// Converts an error of the validator into mistakes: one for each unknown key; for `anyOf` and `oneOf`, those of the alternative that
/// was probably meant.
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
            let known = Vec::from_iter(known_keys(schema, error));
            return mistakes.extend(unexpected.iter().map(|key| {
                let is_hidden =
                    is_bare(error, key) && nearest(key, known.iter().copied()).is_none();
                let (message, help) = match known.contains(&key.as_str()) {
                    true => (
                        format!("the key `{key}` belongs to an alternative that does not apply"),
                        NOT_CHOSEN.to_owned(),
                    ),
                    false => unknown_key(key, is_hidden, &known),
                };
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
                (None, None) if let Some((tag, options)) = wrong_tag(pointer, context) => {
                    let pointer = tag.instance_path().as_str();
                    let written = written_value(pointer, tag.instance());
                    let (message, help) = not_known(&shown(written), options);
                    return mistakes.push(SchemaMistake {
                        pointer: pointer.to_owned(),
                        message,
                        help,
                    });
                }
                (None, None) => not_expected(&allowed(context), written(), None),
            }
        }
        ValidationErrorKind::OneOfMultipleValid { .. }
            if let Some(keys) = excluding_keys(schema, error) =>
        {
            one_of(&keys, &keys)
        }
        ValidationErrorKind::PropertyNames { error: wrong } => {
            let key = wrong.instance().as_str().unwrap_or_default();
            let shown = match is_bare(error, key) || may_be_value(key) {
                true => "a key (not shown)".to_owned(),
                false => format!("`{key}`"),
            };
            words(schema, wrong, WrittenValue::Other(shown))
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
        let is_bare = matches!(written, WrittenValue::Bare(_));
        let (message, help) = not_expected(&expected, written, example);
        let pattern = around(schema, error.schema_path().as_str());
        let pattern = pattern.and_then(|schema| schema.get("pattern")?.as_str());
        return match pattern.filter(|_| is_bare && expected == TEXT) {
            // In quotes alone it may be wrong all the same.
            Some(pattern) => (
                message,
                format!("write text in quotes that matches the pattern `{pattern}`"),
            ),
            None => (message, help),
        };
    }
    let value = shown(written);
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            missing_key(property.as_str().unwrap_or_default())
        }
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().into_iter().flatten().map(quoted);
            not_known(&value, options.collect())
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
                // The character is hard to see, so the value and the pattern would not explain the mistake.
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

fn shown(written: WrittenValue) -> String {
    match written {
        WrittenValue::Nothing => "nothing".to_owned(),
        WrittenValue::Bare(shown) | WrittenValue::Other(shown) => shown,
    }
}

fn not_known(value: &str, options: Vec<String>) -> Words {
    let help = format!("write one of {}", options.join(", "));
    (format!("{value} is not known"), help)
}

/// Whether a key has no value, as in `{client_secret, hunter2}`: with a comma instead of a colon, the value is read as a key.
fn is_bare(error: &ValidationError<'_>, key: &str) -> bool {
    error.instance().get(key).is_some_and(Value::is_null)
}

/// Whether a key may be a value that was written in the wrong place.
fn may_be_value(key: &str) -> bool {
    key.chars().count() > MAX_KEY_CHARS || holds_secret(key)
}

/// Removes mistakes that only follow from others: an alternative with a mistake does not apply, so that its keys count as unknown.
pub(crate) fn remove_echoes(mistakes: &mut Vec<SchemaMistake>) {
    let wrong: Vec<String> = mistakes
        .iter()
        .filter(|mistake| mistake.help != NOT_CHOSEN)
        .map(|mistake| format!("{}/", mistake.pointer))
        .collect();
    mistakes.retain(|mistake| {
        let place = format!("{}/", mistake.pointer);
        mistake.help != NOT_CHOSEN || !wrong.iter().any(|wrong| wrong.starts_with(&place))
    });
}

/// The correction for a key of an alternative that does not apply.
const NOT_CHOSEN: &str = "remove it, or change the other keys so that it applies";
/// The correction for an empty value.
const REMOVE: &str = "write one, or remove the key";
/// The correction where only the schema says more.
const INSPECT: &str = "`evertoken plugin inspect` shows the schema";

/// The message for a value of the wrong type.
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

/// The word for a string.
const TEXT: &str = "text";

/// The types that are expected, and an example if there is only one. Null is left out: schemas allow it for optional values.
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

/// The correction for a number that is out of bounds.
fn bounds(schema: &Value, error: &ValidationError<'_>) -> String {
    let around = around(schema, error.schema_path().as_str());
    let bound = |keyword| around.and_then(|schema| schema.get(keyword));
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!("write a number from {least} to {most}"),
        (Some(least), None) => format!("write a number from {least} on"),
        (_, most) => format!("write a number up to {}", most.unwrap_or(&Value::Null)),
    }
}

/// The alternative whose shape fits, if there is exactly one: the type of the value is right, and so is the tag, if it has one.
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

/// The error of an unknown tag, and the known tags, where all alternatives have a tag.
fn wrong_tag<'a, 'e>(
    pointer: &str,
    alternatives: &'a [Vec<ValidationError<'e>>],
) -> Option<(&'a ValidationError<'e>, Vec<String>)> {
    let constants = alternatives.iter().map(|errors| {
        errors.iter().find_map(|error| match error.kind() {
            ValidationErrorKind::Constant { expected_value } => {
                Some((error, quoted(expected_value)))
            }
            _ => None,
        })
    });
    let constants = constants.collect::<Option<Vec<_>>>()?;
    let (tag, _) = constants.first()?;
    let place = tag.instance_path().as_str();
    let is_same = place != pointer
        && constants
            .iter()
            .all(|(error, _)| error.instance_path().as_str() == place);
    is_same.then(|| {
        (
            *tag,
            constants.iter().map(|(_, option)| option.clone()).collect(),
        )
    })
}

/// The keys of which one is required, where the alternatives require nothing else.
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

/// The present keys that exclude each other, where the alternatives require nothing else.
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

/// The values that the alternatives allow, for messages.
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

/// Keys of an output's file, which are easily written beside `file`.
const FILE_KEYS: [&str; 2] = ["path", "mode"];

/// The message for an unknown key; `is_hidden`: it may be a value, and is not shown.
pub(crate) fn unknown_key(key: &str, is_hidden: bool, known: &[&str]) -> Words {
    let message = match is_hidden || may_be_value(key) {
        true => "unknown key (not shown)".to_owned(),
        false => format!("unknown key `{key}`"),
    };
    let help = match nearest(key, known.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if key == "<<" => {
            "merge keys are not part of YAML 1.2; write the keys out, or use `defaults`".to_owned()
        }
        None if known.is_empty() => "no key is known here".to_owned(),
        None if ["plugin", "config"].iter().all(|key| known.contains(key)) => format!(
            "the plugin's own options go under `config`; the keys here are {}",
            list(known.iter().copied())
        ),
        None if FILE_KEYS.contains(&key) && known.contains(&"file") => format!(
            "a file's keys go under `file`: `file: {{path: …}}`; the keys here are {}",
            list(known.iter().copied())
        ),
        None => format!("the keys here are {}", list(known.iter().copied())),
    };
    (message, help)
}

/// The message for a missing key.
pub(crate) fn missing_key(key: &str) -> Words {
    (
        format!("the key `{key}` is missing"),
        format!("add `{key}: …`"),
    )
}

/// The message for keys of which exactly one is required; `given` are those that are present.
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

/// The schema that contains a keyword.
fn around<'s>(root: &'s Value, keyword_path: &str) -> Option<&'s Value> {
    root.pointer(keyword_path.rsplit_once('/')?.0)
}

/// The keys that are known where an error is: those in the `properties` of the schema with the failed keyword; for
/// `unevaluatedProperties`, also those of its subschemas for the same value.
fn known_keys<'s>(root: &'s Value, error: &ValidationError<'_>) -> BTreeSet<&'s str> {
    let is_wide = matches!(
        error.kind(),
        ValidationErrorKind::UnevaluatedProperties { .. }
    );
    let subschemas = Subschemas::of(root);
    let mut keys = BTreeSet::new();
    let mut seen: Vec<&Value> = around(root, error.schema_path().as_str())
        .into_iter()
        .collect();
    let mut next = 0;
    while let Some(schema) = seen.get(next).copied() {
        next += 1;
        for (step, subschema) in subschemas.below(schema) {
            let is_new = || !seen.iter().any(|seen| std::ptr::eq(*seen, subschema));
            match step {
                Step::Key(key) => {
                    keys.insert(key);
                }
                Step::Stay if is_wide && seen.len() < MAX_STEPS && is_new() => seen.push(subschema),
                _ => {}
            }
        }
    }
    keys
}

/// The step from a value to the one that a subschema applies to.
pub(crate) enum Step<'s> {
    /// The same value.
    Stay,
    /// The value of a key.
    Key(&'s str),
    /// The value of a key that the schema does not name.
    AnyKey,
    /// An element of a list.
    Element,
    /// A reference to another schema.
    Elsewhere,
}

/// Finds the subschemas of schemas, including those that they refer to.
pub(crate) struct Subschemas<'s> {
    /// The whole schema and the parts with an `$id`, which JSON pointers are relative to.
    resources: Vec<&'s Value>,
    anchors: BTreeMap<&'s str, Vec<&'s Value>>,
}

impl<'s> Subschemas<'s> {
    pub(crate) fn of(root: &'s Value) -> Self {
        let mut all = Self {
            resources: vec![root],
            anchors: BTreeMap::new(),
        };
        let mut ahead = vec![root];
        while let Some(value) = ahead.pop() {
            for anchor in ["$anchor", "$dynamicAnchor"] {
                if let Some(name) = value.get(anchor).and_then(Value::as_str) {
                    all.anchors.entry(name).or_default().push(value);
                }
            }
            if id_of(value).is_some() && !std::ptr::eq(value, root) {
                all.resources.push(value);
            }
            match value {
                Value::Object(members) => ahead.extend(members.values()),
                Value::Array(elements) => ahead.extend(elements),
                _ => {}
            }
        }
        all
    }

    /// The direct subschemas of a schema; where in doubt, too many.
    pub(crate) fn below(&self, schema: &'s Value) -> Vec<(Step<'s>, &'s Value)> {
        let mut below = Vec::new();
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            let members = || value.as_object().into_iter().flatten();
            match keyword.as_str() {
                "$ref" | "$dynamicRef" | "$recursiveRef" => {
                    let reference = value.as_str().unwrap_or_default();
                    let referred = self.referred(reference);
                    below.extend(referred.iter().map(|&schema| (Step::Stay, schema)));
                    if referred.is_empty() || !self.is_within(reference) {
                        below.push((Step::Elsewhere, value));
                    }
                }
                "properties" => below.extend(members().map(|(key, value)| (Step::Key(key), value))),
                "patternProperties" => {
                    below.extend(members().map(|(_, value)| (Step::AnyKey, value)))
                }
                "dependentSchemas" | "dependencies" => {
                    below.extend(members().map(|(_, value)| (Step::Stay, value)));
                }
                "additionalProperties" | "unevaluatedProperties" | "propertyNames" => {
                    below.extend(schemas(value).map(|value| (Step::AnyKey, value)));
                }
                "items" | "prefixItems" | "additionalItems" | "unevaluatedItems" | "contains" => {
                    below.extend(schemas(value).map(|value| (Step::Element, value)));
                }
                // Schemas that only apply where they are referred to, data, and schemas that must not match.
                "$defs" | "definitions" | "const" | "enum" | "default" | "examples" | "not" => {}
                _ => below.extend(schemas(value).map(|value| (Step::Stay, value))),
            }
        }
        below
    }

    /// The schemas that a reference may refer to: of all resources, since its base is not determined, and of all equal anchors.
    fn referred(&self, reference: &str) -> Vec<&'s Value> {
        let (_, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let fragment = percent_decode_str(fragment).decode_utf8_lossy();
        if !fragment.is_empty() && !fragment.starts_with('/') {
            return self.anchors.get(&*fragment).cloned().unwrap_or_default();
        }
        let resources = self.resources.iter();
        resources
            .filter_map(|resource| resource.pointer(&fragment))
            .collect()
    }

    /// Whether a reference refers to a resource of this schema.
    fn is_within(&self, reference: &str) -> bool {
        let uri = reference.split('#').next().unwrap_or_default();
        let mut ids = self.resources.iter().filter_map(|resource| id_of(resource));
        uri.is_empty() || ids.any(|id| id.ends_with(uri) || uri.ends_with(id))
    }
}

/// The identifier of a schema without its empty fragment.
fn id_of(schema: &Value) -> Option<&str> {
    let id = schema.get("$id")?.as_str()?;
    Some(id.strip_suffix('#').unwrap_or(id))
}

/// The schemas of a keyword: one, or a list of them.
fn schemas(value: &Value) -> impl Iterator<Item = &Value> {
    let single = value.is_object().then_some(value);
    let several = value.as_array().into_iter().flatten();
    single
        .into_iter()
        .chain(several.filter(|value| value.is_object()))
}

/// A value of the schema, quoted.
pub(crate) fn quoted(value: &Value) -> String {
    format!("`{}`", plain(value))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
