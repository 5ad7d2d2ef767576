//! Checks what a plugin declares: its schema must match its types, and both embedded texts must be valid.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// With this variable set, `schema.json` is written instead of compared.
const WRITE: &str = "EVERTOKEN_WRITE_SCHEMA";

/// Compares a plugin's `schema.json` with the schema of its configuration type, and parses its `ABOUT`. `folder` is the crate's
/// `env!("CARGO_MANIFEST_DIR")`.
///
/// # Panics
///
/// When they differ, when a part of the configuration would accept unknown fields, or when `about` is not valid.
#[expect(
    clippy::panic,
    clippy::expect_used,
    reason = "an assertion for tests, which clippy cannot tell from other functions"
)]
pub fn assert_described(about: &str, schema: &impl serde::Serialize, folder: &str) {
    let about: Value = serde_json::from_str(about)
        .expect("the section evertoken:about is JSON; do descriptions have quotes in them?");
    for key in ["name", "version", "description"] {
        assert!(
            about
                .get(key)
                .and_then(Value::as_str)
                .is_some_and(|text| !text.is_empty()),
            "evertoken:about has no {key}"
        );
    }

    let schema = serde_json::to_value(schema).expect("a schema is JSON");
    if let Some(place) = lenient_object(&schema, "#") {
        panic!(
            "{place} of the configuration lets unknown fields pass: it needs #[serde(deny_unknown_fields)]"
        );
    }
    let text = serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n";
    let path = Path::new(folder).join("schema.json");
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &text).expect("schema.json can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "{} is not the schema of the configuration's types; run the test again with {WRITE}=1",
        path.display()
    );
}

/// The first object with named properties that accepts others too.
fn lenient_object(schema: &Value, place: &str) -> Option<String> {
    let children: Vec<(String, &Value)> = match schema {
        Value::Object(members) => {
            let strict = members.get("additionalProperties") == Some(&Value::Bool(false));
            if members.contains_key("properties")
                && members.get("type").is_some_and(|kind| kind == "object")
                && !strict
            {
                return Some(place.to_owned());
            }
            members
                .iter()
                .map(|(name, member)| (format!("{place}/{name}"), member))
                .collect()
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| (format!("{place}/{index}"), item))
            .collect(),
        _ => Vec::new(),
    };
    children
        .into_iter()
        .find_map(|(place, child)| lenient_object(child, &place))
}
