//! Evaluation of the JSON Schema that a plugin embeds against a job's configuration: the mistakes, as messages for people, and
//! the origins of the endpoints. Runs without the plugin, so that `check` can use it. A schema that may be hostile is only
//! evaluated in a child process (`judge`).

use std::collections::{BTreeSet, HashSet};

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, OutputUnit, PatternOptions, ReferencingError, ValidationError, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::form::{SchemaMistake, Step, Subschemas, WrittenValue, quoted, remove_echoes, tell};
use crate::model::Origin;
use crate::names::{holds_secret, is_telling};
use crate::printable::printable;
use crate::text::{Alphabet, first_unseen, has_userinfo, has_variable, is_bare_variable};

/// The keyword that marks a field as an endpoint's URL: the job may send requests, and its secrets, to that origin.
const ENDPOINT: &str = "x-evertoken-endpoint";

/// The depth to which a schema is followed. Configurations have some five levels; a schema may refer to itself.
const MAX_DEPTH: usize = 64;

/// The most steps of the search for a schema's fields, which take a millisecond or two. An honest schema takes some hundred.
const MAX_STEPS: usize = 10_000;

/// The longest value that a message repeats. Mistyped values are words or URLs; a longer one may be a secret that was pasted into
/// the wrong place.
const MAX_SHOWN_CHARS: usize = 60;

/// The text in a message for a value that is not repeated.
const NOT_SHOWN: &str = "the value (not shown)";

/// The most mistakes that are reported for one configuration.
const MAX_MISTAKES: usize = 50;

/// The longest message about a mistake: it may contain text of the schema, e.g. all values that it allows.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The placeholder for further fields.
const AND_MORE: &str = "…";

/// The result of validating a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The mistakes; none: the configuration is valid.
    pub mistakes: Vec<SchemaMistake>,
    /// The unique origins of its endpoints: where its job may send requests, and its secrets. None if it has mistakes.
    pub endpoints: Vec<Origin>,
}

/// A compiled schema. Compiling takes a thousand times as long as validating.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    validator: Validator,
    /// Whether it marks any endpoint: searching for marks takes ten times as long as validating.
    has_endpoints: bool,
}

/// Compiles a schema.
///
/// # Errors
/// Why it is not a valid schema.
pub(super) fn judge(schema: &Value) -> Result<Judge, String> {
    if !schema.is_object() {
        return Err("it is not a JSON object".to_owned());
    }
    let validator = jsonschema::options()
        .with_draft(Draft::Draft202012)
        // A regular expression engine with linear time, which excludes look-around.
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| fit(&wrong(&error)))?;
    Ok(Judge {
        validator,
        has_endpoints: has_endpoints(schema),
    })
}

/// The error in a schema, with its position.
fn wrong(error: &ValidationError<'_>) -> String {
    let place = match error.instance_path().as_str() {
        "" => String::new(),
        pointer => format!("{pointer}: "),
    };
    match error.kind() {
        ValidationErrorKind::Referencing(ReferencingError::Unretrievable { uri, .. }) => {
            format!("{place}it refers to `{uri}`, and references stay within the schema")
        }
        ValidationErrorKind::Format { format } if format == "regex" => {
            format!("{place}{error}, or it looks ahead or back, which patterns here do not")
        }
        _ => format!("{place}{error}"),
    }
}

/// Validates a configuration by a schema and its compiled form.
pub(super) fn judge_config(schema: &Value, judge: &Judge, config: &Value) -> Judgement {
    let mut mistakes = Vec::new();
    for error in judge.validator.iter_errors(config).take(MAX_MISTAKES) {
        tell(schema, &error, written_value, &mut mistakes);
    }
    remove_echoes(&mut mistakes);
    let mut endpoints = BTreeSet::new();
    if judge.has_endpoints {
        let evaluation = judge.validator.evaluate(config);
        for pointer in marked(evaluation.root()) {
            for (pointer, value) in each(config, &pointer) {
                // With a mistake there are no endpoints, and more of them are not told.
                if mistakes.len() >= MAX_MISTAKES {
                    break;
                }
                endpoints.extend(origin(value));
                // What is wrong by the schema is no endpoint either.
                if !mistakes.iter().any(|mistake| mistake.pointer == pointer) {
                    mistakes.extend(wrong_endpoint(pointer, value));
                }
            }
        }
    }
    let mut seen = BTreeSet::new();
    mistakes.retain_mut(|mistake| {
        mistake.message = fit(&mistake.message);
        mistake.help = fit(&mistake.help);
        seen.insert(mistake.clone())
    });
    mistakes.truncate(MAX_MISTAKES);
    if !mistakes.is_empty() {
        endpoints.clear();
    }
    Judgement {
        mistakes,
        endpoints: endpoints.into_iter().collect(),
    }
}

/// Text of a schema, shortened for a message.
fn fit(message: &str) -> String {
    let mut fit = printable(message).into_owned();
    if fit.len() > MAX_MESSAGE_BYTES {
        fit.truncate(fit.floor_char_boundary(MAX_MESSAGE_BYTES));
        fit.push('…');
    }
    fit
}

/// Paths of the fields that are marked as endpoints, e.g. `token_url` or `mirrors[].url`; the last is `…` if there are too many.
pub(super) fn endpoint_fields(schema: &Value) -> Vec<String> {
    if !has_endpoints(schema) {
        return Vec::new();
    }
    let mut search = EndpointSearch {
        subschemas: Subschemas::of(schema),
        on_the_way: Vec::new(),
        steps: 0,
        seen: HashSet::new(),
        found: BTreeSet::new(),
        all_found: true,
    };
    search.collect(schema, String::new());
    let mut found: Vec<String> = search.found.iter().map(|field| fit(field)).collect();
    found.extend((!search.all_found).then(|| AND_MORE.to_owned()));
    found
}

/// Whether a schema marks any endpoint.
fn has_endpoints(schema: &Value) -> bool {
    schema.to_string().contains(ENDPOINT)
}

fn origin(value: &Value) -> Option<Origin> {
    let url = url::Url::parse(value.as_str()?).ok()?;
    Origin::of(&url)
}

/// Why a value is not an endpoint. A URL parser would drop line ends and the text before an `@` without notice.
fn wrong_endpoint(pointer: String, value: &Value) -> Option<SchemaMistake> {
    let text = value.as_str().unwrap_or_default();
    let odd = Alphabet::OneLine.odd(text.as_bytes());
    let (message, help) = if let Some(odd) = odd.or_else(|| first_unseen(text)) {
        (format!("the URL has {odd}"), odd.mend())
    } else if has_userinfo(text) {
        (
            "the URL has a user or password before its host".to_owned(),
            "leave it out, and give a password as a secret",
        )
    } else if has_variable(text) || text.split(is_url_delimiter).any(is_bare_variable) {
        (
            "variables are not put in here".to_owned(),
            "write the URL itself",
        )
    } else if text.contains(['{', '}']) || has_lone_percent(text) {
        (
            "the URL has a placeholder, or a character that has to be percent-encoded".to_owned(),
            "write what stands for it",
        )
    } else if !is_spelled_out(text) || origin(value).is_none() {
        (
            format!("{} is not an endpoint", shown(&pointer, value)),
            "write `https://host/path`",
        )
    } else {
        return None;
    };
    Some(SchemaMistake {
        pointer,
        message,
        help: help.to_owned(),
    })
}

fn is_url_delimiter(c: char) -> bool {
    matches!(c, '/' | '.' | ':' | '?' | '&' | '=' | '#')
}

/// Whether a `%` does not begin an encoded byte (RFC 3986 §2.1).
fn has_lone_percent(text: &str) -> bool {
    text.match_indices('%').any(|(at, _)| {
        let digits = text.as_bytes().get(at + 1..at + 3);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Whether a URL is written as it is parsed: a parser accepts `https:/host`, `https:///host` and backslashes, takes `https` in a
/// second `https://` for a host, and 0 for a port.
fn is_spelled_out(text: &str) -> bool {
    let has_host = text
        .split_once("://")
        .is_some_and(|(_, rest)| !rest.starts_with('/'));
    let url = url::Url::parse(text).ok();
    let is_meant =
        |url: &url::Url| !matches!(url.host_str(), Some("http" | "https")) && url.port() != Some(0);
    let is_plain = !text.contains(|c: char| c == '\\' || c.is_whitespace());
    has_host && is_plain && url.is_none_or(|url| is_meant(&url))
}

fn is_endpoint(schema: &Value) -> bool {
    schema.get(ENDPOINT).and_then(Value::as_bool) == Some(true)
}

/// The positions of the fields that are marked as endpoints: in a valid configuration those of the subschemas that apply, in an
/// invalid one also those of the subschemas that failed, so that all mistakes are reported at once; but never those of an
/// alternative that is not the chosen one.
fn marked(root: OutputUnit<'_>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut ahead = vec![root];
    while let Some(unit) = ahead.pop() {
        let void = unit.dropped_annotations().filter(|_| !root.valid());
        let marks = unit.annotations().or(void);
        if marks.is_some_and(|marks| is_endpoint(marks.value())) {
            found.insert(unit.instance_location().as_str().to_owned());
        }
        let applies = |child: &OutputUnit<'_>| {
            child.valid() || !(root.valid() || is_alternative(child.evaluation_path().as_str()))
        };
        ahead.extend(unit.children().filter(applies));
    }
    found
}

/// Whether a subschema may fail without a mistake.
fn is_alternative(path: &str) -> bool {
    let mut steps = path.rsplit('/');
    match (steps.next(), steps.next()) {
        (Some("if" | "not" | "contains"), _) => true,
        (_, Some(around)) => matches!(around, "anyOf" | "oneOf"),
        _ => false,
    }
}

/// The value at a pointer; for a list, its elements.
fn each<'c>(config: &'c Value, pointer: &str) -> Vec<(String, &'c Value)> {
    match config.pointer(pointer) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(elements)) => {
            let elements = elements.iter().enumerate();
            elements
                .map(|(index, value)| (format!("{pointer}/{index}"), value))
                .collect()
        }
        Some(value) => vec![(pointer.to_owned(), value)],
    }
}

/// A walk through a schema that finds its endpoints.
struct EndpointSearch<'a> {
    subschemas: Subschemas<'a>,
    on_the_way: Vec<&'a Value>,
    steps: usize,
    /// Visited pairs of a place in the schema and the path to it.
    seen: HashSet<(*const Value, String)>,
    found: BTreeSet<String>,
    all_found: bool,
}

impl<'a> EndpointSearch<'a> {
    fn collect(&mut self, schema: &'a Value, path: String) {
        let is_on_the_way = self
            .on_the_way
            .iter()
            .any(|seen| std::ptr::eq(*seen, schema));
        // A schema that contains itself has infinitely many fields; one round names them.
        if is_on_the_way {
            return;
        }
        self.steps += 1;
        if self.steps > MAX_STEPS || self.on_the_way.len() >= MAX_DEPTH {
            self.all_found = false;
            return;
        }
        if !self.seen.insert((std::ptr::from_ref(schema), path.clone())) {
            return;
        }
        self.on_the_way.push(schema);
        if is_endpoint(schema) {
            self.found.insert(path.clone());
        }
        for (step, subschema) in self.subschemas.below(schema) {
            match step {
                Step::Stay => self.collect(subschema, path.clone()),
                Step::Key(key) => self.collect(subschema, member(&path, key)),
                Step::AnyKey => self.collect(subschema, member(&path, "*")),
                Step::Element => self.collect(subschema, format!("{path}[]")),
                Step::Elsewhere => self.all_found = false,
            }
        }
        self.on_the_way.pop();
    }
}

fn member(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// An option's value in a message.
fn written_value(pointer: &str, value: &Value) -> WrittenValue {
    match value {
        Value::Null => WrittenValue::Nothing,
        Value::Bool(_) | Value::Number(_) => WrittenValue::Bare(shown(pointer, value)),
        _ => WrittenValue::Other(shown(pointer, value)),
    }
}

/// The user's value at `pointer`, as a message may show it.
fn shown(pointer: &str, value: &Value) -> String {
    let may_be_secret = pointer.split('/').any(is_telling)
        || value
            .as_str()
            .is_some_and(|text| text.chars().count() > MAX_SHOWN_CHARS || holds_secret(text));
    match value {
        // Its content is not the mistake.
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        _ if may_be_secret => NOT_SHOWN.to_owned(),
        value => quoted(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Shaped as schemars writes it.
    fn schema() -> Value {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": false,
            "required": ["grant", "token_url"],
            "properties": {
                "grant": {"type": "string", "enum": ["client_credentials", "refresh_token"]},
                "token_url": {"type": "string", "x-evertoken-endpoint": true},
                "audience": {"type": ["string", "null"]},
                "lifetime": {"type": ["string", "null"], "pattern": "^[0-9]+s$"},
                "scope": {"type": "array", "items": {"type": "string"}},
                "fallbacks": {"type": "array", "items": {"type": "string"}, "x-evertoken-endpoint": true},
                "discovery": {"anyOf": [{"$ref": "#/$defs/Discovery"}, {"type": "null"}]},
                "per_region": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Discovery"}},
                "auth": {"oneOf": [
                    {"type": "object", "additionalProperties": false, "required": ["method", "user"],
                     "properties": {"method": {"const": "basic"}, "user": {"type": "string"}}},
                    {"type": "object", "additionalProperties": false, "required": ["method"],
                     "properties": {"method": {"const": "none"}}}
                ]}
            },
            "$defs": {
                "Discovery": {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "url": {"type": "string", "x-evertoken-endpoint": true},
                        "next": {"anyOf": [{"$ref": "#/$defs/Discovery"}, {"type": "null"}]}
                    }
                }
            }
        })
    }

    fn judged(schema: &Value, config: &Value) -> Judgement {
        judge_config(schema, &judge(schema).unwrap(), config)
    }

    fn check_config(schema: &Value, config: &Value) -> Vec<SchemaMistake> {
        judged(schema, config).mistakes
    }

    fn endpoints(schema: &Value, config: &Value) -> Vec<String> {
        let judged = judged(schema, config);
        assert_eq!(judged.mistakes, [], "{config}");
        judged.endpoints.iter().map(ToString::to_string).collect()
    }

    /// A mistake's message and its correction.
    fn told(mistake: &SchemaMistake) -> String {
        format!("{}; {}", mistake.message, mistake.help)
    }

    #[test]
    fn only_fields_marked_as_endpoints_open_origins() {
        assert_eq!(
            endpoints(
                &schema(),
                &json!({
                    "grant": "refresh_token",
                    "token_url": "https://idp.example.org/token",
                    "audience": "https://audience.example.org",
                    "scope": ["https://scope.example.org/read"]
                })
            ),
            ["https://idp.example.org"]
        );
    }

    #[test]
    fn endpoints_are_found_in_lists_maps_and_behind_references() {
        assert_eq!(
            endpoints(
                &schema(),
                &json!({
                    "grant": "refresh_token",
                    "token_url": "https://a.example.org/token",
                    "fallbacks": ["https://b.example.org/token", "https://a.example.org/other"],
                    "discovery": {"url": "https://c.example.org", "next": {"url": "http://127.0.0.1:8080/x"}},
                    "per_region": {"eu": {"url": "https://d.example.org"}}
                })
            ),
            [
                "http://127.0.0.1:8080",
                "https://a.example.org",
                "https://b.example.org",
                "https://c.example.org",
                "https://d.example.org"
            ]
        );
    }

    #[test]
    fn fields_are_named_once_even_where_a_schema_contains_itself() {
        assert_eq!(
            endpoint_fields(&schema()),
            [
                "discovery.url",
                "fallbacks",
                "per_region.*.url",
                "token_url"
            ]
        );
    }

    #[test]
    fn every_field_that_may_open_an_origin_is_named() {
        let url = json!({"type": "string", "x-evertoken-endpoint": true});
        let text = "https://a.test";
        for (schema, config, expected) in [
            (
                json!({"dependentSchemas": {"with": {"properties": {"z": url}}}}),
                json!({"with": 1, "z": text}),
                vec!["z"],
            ),
            (
                json!({"patternProperties": {"^pp": url}}),
                json!({"ppa": text}),
                vec!["*"],
            ),
            (
                json!({"properties": {"a": {"unevaluatedProperties": url}}}),
                json!({"a": {"b": text}}),
                vec!["a.*"],
            ),
            (
                json!({"properties": {"a": {"prefixItems": [true, url]}}}),
                json!({"a": [1, text]}),
                vec!["a[]"],
            ),
            (
                json!({"properties": {"a": {"contains": url}}}),
                json!({"a": [1, text]}),
                vec!["a[]"],
            ),
            (
                json!({"properties": {"a": {"prefixItems": [true], "unevaluatedItems": url}}}),
                json!({"a": [1, text]}),
                vec!["a[]"],
            ),
            (
                json!({"properties": {"a": {"$ref": "#u"}}, "$defs": {"U": {"$anchor": "u", "x-evertoken-endpoint": true}}}),
                json!({"a": text}),
                vec!["a"],
            ),
            (
                json!({"properties": {"a": {"$dynamicRef": "#u"}}, "$defs": {"U": {"$dynamicAnchor": "u", "x-evertoken-endpoint": true}}}),
                json!({"a": text}),
                vec!["a"],
            ),
            (
                json!({"properties": {"a": {"$ref": "#/$defs/a%20b~1c"}}, "$defs": {"a b/c": url}}),
                json!({"a": text}),
                vec!["a"],
            ),
            (
                json!({
                    "$id": "https://schema.test/whole",
                    "properties": {"a": {"$ref": "part"}, "b": {"$ref": "part#/$defs/U"}, "c": {"$ref": "part#u"}},
                    "$defs": {"P": {
                        "$id": "part",
                        "properties": {"x": {"$ref": "#/$defs/U"}},
                        "$defs": {"U": {"$anchor": "u", "x-evertoken-endpoint": true}},
                    }},
                }),
                json!({"a": {"x": text}, "b": text, "c": text}),
                vec!["a.x", "b", "c"],
            ),
        ] {
            assert_eq!(endpoints(&schema, &config), [text], "{schema}");
            assert_eq!(endpoint_fields(&schema), expected, "{schema}");
        }
    }

    #[test]
    fn data_of_a_schema_is_no_field() {
        let marked = json!({"a": {"x-evertoken-endpoint": true}, "x-evertoken-endpoint": true});
        for keyword in ["const", "enum", "default", "examples", "$defs"] {
            let schema = json!({"properties": {"a": {keyword: marked}}});
            assert_eq!(endpoint_fields(&schema), [""; 0], "{schema}");
        }
    }

    #[test]
    fn fields_that_cannot_be_named_are_told_as_more() {
        let mut deep = json!({"x-evertoken-endpoint": true});
        for _ in 0..100 {
            deep = json!({"properties": {"a": deep}});
        }
        let elsewhere = json!({
            "properties": {"a": {"$ref": "https://json-schema.org/draft/2020-12/schema"}},
            "$defs": {"U": {"x-evertoken-endpoint": true}},
        });
        for schema in [deep, elsewhere] {
            assert_eq!(endpoint_fields(&schema), [AND_MORE], "{schema}");
        }
    }

    #[test]
    fn what_is_no_url_opens_nothing_and_is_told() {
        let config = json!({"grant": "refresh_token", "token_url": "idp.example.org/token"});
        assert_eq!(
            judged(&schema(), &config),
            Judgement {
                mistakes: vec![SchemaMistake {
                    pointer: "/token_url".to_owned(),
                    message: "`idp.example.org/token` is not an endpoint".to_owned(),
                    help: "write `https://host/path`".to_owned(),
                }],
                endpoints: Vec::new(),
            }
        );
    }

    #[test]
    fn keys_of_which_just_one_is_to_be_there_are_told_by_name() {
        let schema = json!({
            "type": "object",
            "oneOf": [{"required": ["template"]}, {"required": ["files"]}],
            "properties": {
                "template": {"type": "string"},
                "files": {"type": "object", "minProperties": 1, "propertyNames": {"pattern": "^[a-z]+$"}},
            },
        });
        for (config, expected) in [
            (json!({"template": "x"}), vec![]),
            (
                json!({}),
                vec!["one of `template`, `files` is missing; give exactly one of them"],
            ),
            (
                json!({"template": "x", "files": {"a": "x"}}),
                vec!["`template`, `files` exclude each other; keep exactly one of them"],
            ),
            (
                json!({"files": {}}),
                vec!["the mapping is empty; write one, or remove the key"],
            ),
            (
                json!({"files": {"A": "x"}}),
                vec![
                    "`A` does not match the pattern `^[a-z]+$`; `evertoken plugin inspect` shows the schema",
                ],
            ),
        ] {
            let found = check_config(&schema, &config);
            let found: Vec<_> = found.iter().map(told).collect();
            assert_eq!(found, expected, "{config}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_as_it_is_sent() {
        let long = format!("https://idp.example.org/{}\n", "x".repeat(80));
        for (url, expected) in [
            (
                "https://idp.example.org/token\n",
                "the URL has a line end (U+000A) at byte 30 of 30; write it on one line",
            ),
            (
                "https://idp.exam\r\nple.org/token",
                "the URL has a line end (U+000D) at byte 17 of 31; write it on one line",
            ),
            (
                "https://idp\t.example.org/",
                "the URL has a tab (U+0009) at byte 12 of 25; write it without",
            ),
            (
                "https://idp.example.org/\u{200b}",
                "the URL has an invisible character (U+200B) at byte 25 of 27; write the text anew instead of copying it",
            ),
            (
                &long,
                "the URL has a line end (U+000A) at byte 105 of 105; write it on one line",
            ),
            (
                "https://user:hunter2@idp.example.org/token",
                "the URL has a user or password before its host; leave it out, and give a password as a secret",
            ),
            (
                "https://user@idp.example.org",
                "the URL has a user or password before its host; leave it out, and give a password as a secret",
            ),
            (
                "https://idp.example.org/${REALM}/token",
                "variables are not put in here; write the URL itself",
            ),
            (
                "https://$(HOST)/token",
                "variables are not put in here; write the URL itself",
            ),
            (
                "https://idp.example.org/$TENANT/token",
                "variables are not put in here; write the URL itself",
            ),
            (
                "https://$HOST:8443/token",
                "variables are not put in here; write the URL itself",
            ),
            (
                "https://idp.example.org/{tenant}/token",
                "the URL has a placeholder, or a character that has to be percent-encoded; write what stands for it",
            ),
            (
                "https://idp.example.org/%TENANT%/token",
                "the URL has a placeholder, or a character that has to be percent-encoded; write what stands for it",
            ),
            (
                "https://https://idp.example.org/token",
                "`https://https://idp.example.org/token` is not an endpoint; write `https://host/path`",
            ),
            (
                "https:/idp.example.org/token",
                "`https:/idp.example.org/token` is not an endpoint; write `https://host/path`",
            ),
            (
                "https:///idp.example.org/token",
                "`https:///idp.example.org/token` is not an endpoint; write `https://host/path`",
            ),
            (
                "https://idp.example.org\\token",
                "`https://idp.example.org\\token` is not an endpoint; write `https://host/path`",
            ),
            (
                "https://idp.example.org:0/token",
                "`https://idp.example.org:0/token` is not an endpoint; write `https://host/path`",
            ),
            (
                " https://idp.example.org",
                "` https://idp.example.org` is not an endpoint; write `https://host/path`",
            ),
            (
                "https://idp.example.org/a b",
                "`https://idp.example.org/a b` is not an endpoint; write `https://host/path`",
            ),
        ] {
            let config = json!({"grant": "refresh_token", "token_url": url});
            let messages: Vec<_> = check_config(&schema(), &config)
                .into_iter()
                .map(|mistake| told(&mistake))
                .collect();
            assert_eq!(messages, [expected], "{url:?}");
        }
        for url in [
            "https://idp.example.org/@me?user=a@b",
            "http://[::1]:8080/realms/x/token",
            "HTTPS://idp.example.org/a%20b/$metadata?next=https://other.test",
        ] {
            let config = json!({"grant": "refresh_token", "token_url": url});
            assert!(check_config(&schema(), &config).is_empty(), "{url}");
        }
    }

    #[test]
    fn each_mistake_names_place_value_and_mend() {
        let good =
            json!({"grant": "client_credentials", "token_url": "https://idp.example.org/token"});
        for (changes, pointer, message) in [
            (
                json!({"grant": "password"}),
                "/grant",
                "`password` is not known; write one of `client_credentials`, `refresh_token`",
            ),
            (
                json!({"scope": "read"}),
                "/scope",
                "expected a list, found `read`; write it like `[…]`",
            ),
            (
                json!({"scope": ["read", 7]}),
                "/scope/1",
                "expected text, but YAML reads `7` as a number or truth value; quote it: `\"7\"`",
            ),
            (
                json!({"audience": 7}),
                "/audience",
                "expected text, but YAML reads `7` as a number or truth value; quote it: `\"7\"`",
            ),
            (
                json!({"lifetime": 10}),
                "/lifetime",
                "expected text, but YAML reads `10` as a number or truth value; write text in quotes that matches the pattern `^[0-9]+s$`",
            ),
            (
                json!({"token_ulr": "x"}),
                "/token_ulr",
                "unknown key `token_ulr`; did you mean `token_url`?",
            ),
            (
                json!({"discovery": {"ulr": "x"}}),
                "/discovery/ulr",
                "unknown key `ulr`; did you mean `url`?",
            ),
            (
                json!({"discovery": {"quite/else": 1}}),
                "/discovery/quite~1else",
                "unknown key `quite/else`; the keys here are `next`, `url`",
            ),
            (
                json!({"discovery": 7}),
                "/discovery",
                "expected a mapping, found `7`; write what is expected here",
            ),
            (
                json!({"auth": {"method": "basic"}}),
                "/auth",
                "the key `user` is missing; add `user: …`",
            ),
            (
                json!({"auth": {"method": "digest"}}),
                "/auth/method",
                "`digest` is not known; write one of `basic`, `none`",
            ),
        ] {
            let mut config = good.clone();
            config
                .as_object_mut()
                .unwrap()
                .extend(changes.as_object().unwrap().clone());
            let mistakes = check_config(&schema(), &config);
            assert_eq!(
                mistakes
                    .iter()
                    .map(|m| (m.pointer.clone(), told(m)))
                    .collect::<Vec<_>>(),
                [(pointer.to_owned(), message.to_owned())],
                "{config}"
            );
        }
        assert!(check_config(&schema(), &good).is_empty());
    }

    #[test]
    fn a_key_of_an_alternative_that_is_not_chosen_is_told_so_and_no_mistake_is_told_twice() {
        let url = json!({"type": "string", "x-evertoken-endpoint": true});
        let schema = json!({
            "type": "object",
            "properties": {"kind": {"enum": ["a", "b"]}, "url": url},
            "oneOf": [
                {"properties": {"kind": {"const": "a"}, "a": {"type": "object", "required": ["u"]}}, "required": ["a"]},
                {"properties": {"kind": {"const": "b"}, "bee": {"type": "string"}}, "required": ["bee"]},
            ],
            "if": {"properties": {"kind": {"const": "a"}}, "required": ["kind"]},
            "then": {"properties": {"x": url}},
            "else": {"properties": {"y": url}},
            "unevaluatedProperties": false,
        });
        let not_chosen = |key: &str| {
            format!(
                "the key `{key}` belongs to an alternative that does not apply; remove it, or change the other keys so that it applies"
            )
        };
        for (config, expected) in [
            (
                json!({"kind": "a", "a": {"u": 1}, "y": "https://y.test"}),
                vec![("/y", not_chosen("y"))],
            ),
            (
                json!({"kind": "a", "a": {"u": 1}, "bee": "x"}),
                vec![("/bee", not_chosen("bee"))],
            ),
            (
                json!({"kind": "a", "a": {"u": 1}, "quite": "x"}),
                vec![("/quite", "unknown key `quite`; the keys here are `a`, `bee`, `kind`, `url`, `x`, `y`".to_owned())],
            ),
            (
                json!({"kind": "a", "a": {"u": 1}, "1": 2}),
                vec![("/1", "unknown key `1`; the keys here are `a`, `bee`, `kind`, `url`, `x`, `y`".to_owned())],
            ),
            (
                json!({"kind": "a", "a": {}}),
                vec![("/a", "the key `u` is missing; add `u: …`".to_owned())],
            ),
            (
                json!({"kind": "b", "bee": "x", "url": 5}),
                vec![("/url", "expected text, but YAML reads `5` as a number or truth value; quote it: `\"5\"`".to_owned())],
            ),
            (
                json!({"kind": "mistyped", "url": "https://u.test"}),
                vec![("/kind", "`mistyped` is not known; write one of `a`, `b`".to_owned())],
            ),
        ] {
            let mistakes = check_config(&schema, &config);
            let found = mistakes.iter().map(|m| (m.pointer.as_str(), told(m)));
            assert_eq!(Vec::from_iter(found), expected, "{config}");
        }
    }

    #[test]
    fn of_very_many_mistakes_the_first_are_told_also_at_endpoints() {
        for key in ["fallbacks", "scope"] {
            let many: Vec<Value> = (0..1000)
                .map(|n| match key {
                    "fallbacks" => json!(format!("no-url-{n}")),
                    _ => json!(n),
                })
                .collect();
            let config = json!({"grant": "refresh_token", "token_url": "https://idp.example.org/t", key: many});
            let judgement = judged(&schema(), &config);
            assert_eq!(judgement.mistakes.len(), MAX_MISTAKES, "{key}");
            assert!(judgement.endpoints.is_empty(), "{key}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mistakes = check_config(&schema(), &json!({"grant": "password", "colour": "red"}));
        let pointers: BTreeSet<&str> = mistakes.iter().map(|m| m.pointer.as_str()).collect();
        assert_eq!(pointers, BTreeSet::from(["", "/colour", "/grant"]));
    }

    #[test]
    fn what_may_be_a_secret_is_not_repeated() {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "client_secret": {"type": "array"},
                "password": {"enum": ["a"]},
                "access_token": {"maxLength": 3},
                "signing-key": {"type": "integer"},
                "assertion": {"oneOf": [{"const": "a"}, {"const": "b"}]},
                "tokens": {"type": "object", "additionalProperties": {"type": "integer"}},
                "secrets": {"type": "array", "items": {"pattern": "^x"}},
                "url": {"x-evertoken-endpoint": true},
                "scope": {"type": "integer"},
                "mode": {"type": "string", "maxLength": 3},
                "names": {"propertyNames": {"maxLength": 3}},
            }
        });
        let long = format!("hunter2{}", "x".repeat(60));
        for config in [
            json!({"client_secret": "hunter2"}),
            json!({"client_secret": {"deep": "hunter2"}}),
            json!({"password": "hunter2"}),
            json!({"access_token": "hunter2"}),
            json!({"signing-key": "hunter2"}),
            json!({"assertion": "hunter2"}),
            json!({"secrets": ["hunter2"]}),
            json!({"url": "ftp://hunter2@host"}),
            json!({"scope": {"client_secret": "hunter2"}}),
            json!({"scope": long}),
            json!({"mode": long}),
            json!({(long.as_str()): 1}),
            json!({"hunter2": null}),
            json!({"scope": "client_secret=hunter2"}),
            json!({"mode": "a=b&client_secret=hunter2"}),
            json!({"mode": "{\"password\": \"hunter2\"}"}),
            json!({"scope": "-----BEGIN PRIVATE KEY----- hunter2"}),
            json!({"url": "https:/host?client_secret=hunter2"}),
            json!({"password=hunter2": "x"}),
            json!({"names": {"password=hunter2": "x"}}),
            json!({"names": {"hunter2": null}}),
        ] {
            let mistakes = check_config(&schema, &config);
            assert_eq!(mistakes.len(), 1, "{config}: {mistakes:?}");
            let told = told(&mistakes[0]);
            assert!(!told.contains("hunter2"), "{told}");
        }
        // A value that is neither is repeated, since it shows what was mistyped.
        for config in [json!({"scope": "mistyped"}), json!({"mode": "mistyped"})] {
            let mistakes = check_config(&schema, &config);
            assert!(
                mistakes[0].message.contains("mistyped"),
                "{}",
                mistakes[0].message
            );
        }
    }

    #[test]
    fn what_is_no_schema_is_said_so() {
        for (schema, part) in [
            (json!({"type": 7}), "/type: 7"),
            (
                json!({"properties": {"a": {"type": "objekt"}}}),
                "/properties/a/type: ",
            ),
            (json!([]), "not a JSON object"),
            (json!(true), "not a JSON object"),
            (json!({"$ref": "#/$defs/Nowhere"}), "Nowhere"),
            (
                json!({"$ref": "https://example.org/schema"}),
                "it refers to `https://example.org/schema`, and references stay within the schema",
            ),
            (json!({"pattern": "(a"}), "/pattern: \"(a\""),
            // Only engines with exponential worst-case time support these.
            (json!({"pattern": "(a+)+(?=b)"}), "looks ahead or back"),
            (json!({"enum": ["\u{1b}[31m"], "type": 7}), "7"),
        ] {
            let wrong = judge(&schema).err().unwrap();
            assert!(wrong.contains(part), "{schema}: {wrong}");
            assert!(wrong.len() <= MAX_MESSAGE_BYTES + 3 && !wrong.contains('\u{1b}'));
        }
    }

    /// Schemas of a few KiB in which the number of alternatives doubles at each level.
    fn bombs() -> Vec<(&'static str, Value)> {
        let levels = |level: &dyn Fn(Value) -> Value| {
            let mut defs = serde_json::Map::new();
            for n in 0..40 {
                defs.insert(
                    format!("d{n}"),
                    level(json!({"$ref": format!("#/$defs/d{}", n + 1)})),
                );
            }
            defs.insert("d40".to_owned(), json!({"type": "string"}));
            json!({"$ref": "#/$defs/d0", "$defs": defs})
        };
        vec![
            ("allOf", levels(&|next| json!({"allOf": [next, next]}))),
            ("anyOf", levels(&|next| json!({"anyOf": [next, next]}))),
            ("oneOf", levels(&|next| json!({"oneOf": [next, next]}))),
            (
                "if",
                levels(&|next| json!({"if": next, "then": next, "else": next})),
            ),
            (
                "properties",
                levels(&|next| json!({"properties": {"a": next, "b": next}})),
            ),
            (
                "items",
                levels(
                    &|next| json!({"items": next, "additionalProperties": next, "allOf": [next, next]}),
                ),
            ),
            ("itself", json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]})),
            (
                "its members",
                json!({"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}),
            ),
        ]
    }

    #[test]
    fn a_schema_that_doubles_with_each_level_is_followed_in_bounded_steps() {
        for (what, schema) in bombs() {
            let fields = endpoint_fields(&schema);
            assert!(fields.len() <= 1, "{what}: {fields:?}");
        }
    }

    #[test]
    fn a_branch_that_does_not_apply_opens_nothing() {
        let url = json!({"type": "string", "x-evertoken-endpoint": true});
        let schema = json!({
            "type": "object",
            "properties": {"grant": {"enum": ["code", "device"]}, "mode": {"type": "string"}},
            "oneOf": [
                {"properties": {"grant": {"const": "code"}, "token_url": url}},
                {"properties": {"grant": {"const": "device"}, "device_url": url}},
            ],
            "anyOf": [
                {"required": ["mirror"], "properties": {"mirror": url}},
                {"properties": {"mirror": {"maxLength": 0}}},
                true,
            ],
            "if": {"properties": {"mode": {"const": "a"}}, "required": ["mode"]},
            "then": {"properties": {"a_url": url}},
            "else": {"properties": {"b_url": url}},
            "not": {"required": ["never"], "properties": {"token_url": url}},
            "dependentSchemas": {"with": {"properties": {"with_url": url}}},
        });
        let all = json!({
            "token_url": "https://token.test", "device_url": "https://device.test", "a_url": "https://a.test", "b_url": "https://b.test",
            "with_url": "https://with.test", "other": "https://other.test",
        });
        for (more, expected) in [
            (json!({"grant": "code"}), &["b", "token"][..]),
            (json!({"grant": "device"}), &["b", "device"]),
            (json!({"grant": "code", "mode": "a"}), &["a", "token"]),
            (json!({"grant": "code", "mode": "b"}), &["b", "token"]),
            (json!({"grant": "code", "with": 1}), &["b", "token", "with"]),
            (
                json!({"grant": "code", "mirror": "https://mirror.test"}),
                &["b", "mirror", "token"],
            ),
        ] {
            let mut config = all.clone();
            let members = config.as_object_mut().unwrap();
            members.extend(more.as_object().unwrap().clone());
            let expected: Vec<String> = expected
                .iter()
                .map(|name| format!("https://{name}.test"))
                .collect();
            assert_eq!(endpoints(&schema, &config), expected, "{more}");
        }
        // A field that does not apply need not be a URL; one that does is reported beside every other mistake.
        for (config, pointers) in [
            (
                json!({"grant": "code", "device_url": "x", "a_url": "x"}),
                &[][..],
            ),
            (
                json!({"grant": "code", "token_url": "x", "b_url": "x", "mode": 7}),
                &["/b_url", "/mode", "/token_url"],
            ),
        ] {
            let mut found: Vec<String> = check_config(&schema, &config)
                .into_iter()
                .map(|mistake| mistake.pointer)
                .collect();
            found.sort();
            assert_eq!(found, pointers, "{config}");
        }
    }

    #[test]
    fn more_fields_than_can_be_told_are_told_as_more() {
        let leaf = json!({"x-evertoken-endpoint": true});
        let mut schema = json!({"properties": {"a": leaf, "b": leaf}});
        let mut defs = serde_json::Map::new();
        for n in 0..20 {
            defs.insert(format!("d{n}"), schema);
            let next = json!({"$ref": format!("#/$defs/d{n}")});
            schema = json!({"properties": {"a": next, "b": next}});
        }
        schema["$defs"] = Value::Object(defs);
        let fields = endpoint_fields(&schema);
        assert_eq!(fields.last().map(String::as_str), Some(AND_MORE));
        assert!(fields.len() <= MAX_STEPS);
    }

    #[test]
    fn words_of_a_schema_can_neither_fill_nor_steer_a_terminal() {
        let options: Vec<String> = (0..1000).map(|n| format!("\u{1b}[{n}m")).collect();
        let schema = json!({"properties": {"colour": {"enum": options}}});
        let mistakes = check_config(&schema, &json!({"colour": "red"}));
        let message = &mistakes[0].help;
        assert!(message.len() <= MAX_MESSAGE_BYTES + 3, "{}", message.len());
        assert!(!message.contains('\u{1b}'), "{message}");
    }
}
