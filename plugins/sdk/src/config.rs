//! From the job's JSON to the plugin's own type, with the place of the first mistake.

use serde::de::DeserializeOwned;

use crate::Failure;

/// Reads a configuration. No configuration at all is an empty one, so that what lacks is named.
///
/// # Errors
///
/// `invalid-config` with code "config.invalid"; the message has the path of the key and what is wrong with it.
pub(crate) fn parse<C: DeserializeOwned>(json: &str) -> Result<C, Failure> {
    let json = match json.trim() {
        "" | "null" => "{}",
        json => json,
    };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let mistake = without_position(&error.into_inner().to_string());
        let message = match path.as_str() {
            "." => format!("config: {mistake}"),
            path => format!("config.{path}: {mistake}"),
        };
        Failure::invalid_config(message).with_code("config.invalid")
    })
}

/// The user wrote YAML; line and column of the JSON that the host made of it would mislead.
fn without_position(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
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
            (r#"{"url":"x","nested":[{"count":1},{"count":"two"}]}"#, "config.nested[1].count:", "expected u8"),
            (r#"{"url":"x","nested":[{"count":1,"more":2}]}"#, "config.nested[0].more:", "unknown field `more`"),
            (r#"{"url":"x","ulr":"y"}"#, "config.ulr:", "unknown field `ulr`, expected `url` or `nested`"),
            ("", "config:", "missing field `url`"),
            ("null", "config:", "missing field `url`"),
        ] {
            let failure = parse::<Config>(json).unwrap_err();
            assert_eq!(failure.kind, FailureKind::InvalidConfig);
            assert!(failure.has_code("config.invalid"));
            assert!(failure.message.starts_with(place) && failure.message.contains(mistake), "{json}: {}", failure.message);
            assert!(!failure.message.contains("column"), "{}", failure.message);
        }
    }
}
