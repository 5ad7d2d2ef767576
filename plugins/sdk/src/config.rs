//! Parses the job's JSON into the plugin's own type, with the path of the first mistake.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Failure;

/// Parses a configuration. A missing configuration counts as an empty one, so that missing keys are named.
///
/// # Errors
///
/// `invalid-config` with code "config.invalid"; the message has the path of the key and what is wrong with it.
pub(crate) fn parse<C: DeserializeOwned>(json: &str) -> Result<C, Failure> {
    let json = match json.trim() {
        "" | "null" => "{}",
        json => json,
    };
    let value: Value =
        serde_json::from_str(json).map_err(|error| invalid(format!("config: {error}")))?;
    // Parsed from the value, not from its text: the user wrote YAML, so a position in the host's JSON would mislead.
    serde_path_to_error::deserialize(value).map_err(|error| {
        match error.path().to_string().as_str() {
            "." => invalid(format!("config: {}", error.inner())),
            path => invalid(format!("config.{path}: {}", error.inner())),
        }
    })
}

fn invalid(message: String) -> Failure {
    Failure::invalid_config(message).with_code("config.invalid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureKind;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        url: String,
        #[serde(default)]
        nested: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        count: u8,
    }

    #[test]
    fn a_mistake_is_reported_with_its_path() {
        for (json, place, mistake) in [
            (r#"{"url":3}"#, "config.url:", "expected a string"),
            (
                r#"{"url":"x","nested":[{"count":1},{"count":"two"}]}"#,
                "config.nested[1].count:",
                "expected u8",
            ),
            (
                r#"{"url":"x","nested":[{"count":1,"more":2}]}"#,
                "config.nested[0].more:",
                "unknown field `more`",
            ),
            (
                r#"{"url":"x","ulr":"y"}"#,
                "config.ulr:",
                "unknown field `ulr`, expected `url` or `nested`",
            ),
            ("", "config:", "missing field `url`"),
            ("null", "config:", "missing field `url`"),
        ] {
            let failure = parse::<Config>(json).unwrap_err();
            assert_eq!(failure.kind, FailureKind::InvalidConfig);
            assert!(failure.has_code("config.invalid"));
            assert!(
                failure.message.starts_with(place) && failure.message.contains(mistake),
                "{json}: {}",
                failure.message
            );
            assert!(!failure.message.contains("column"), "{}", failure.message);
        }
    }
}
