//! Whether a job lists the secrets that its plugin opens, by what the plugin says about itself: a name that it never asks for is a slip.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::printable;

/// A secret that a plugin opens by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct SecretNeed {
    /// The name under which a job lists it.
    #[serde(deserialize_with = "printable::deserialize")]
    pub name: String,
    /// Whether the plugin never works without it.
    #[serde(default)]
    pub required: bool,
    /// The plugin does not work without it where each of these options has one of the values; null stands for an option that is not set.
    #[serde(default)]
    pub required_for: BTreeMap<String, Vec<Value>>,
    /// The option that gives it another name.
    #[serde(default)]
    pub named_by: Option<String>,
    /// What it is.
    #[serde(default, deserialize_with = "printable::deserialize")]
    pub description: String,
}

/// A mistake in the secrets that a job lists for its plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMistake {
    /// The secret that is listed in vain; none: one is missing.
    pub listed: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl SecretNeed {
    fn name_in<'a>(&'a self, config: &'a Value) -> &'a str {
        self.named_by
            .as_ref()
            .and_then(|option| config.get(option)?.as_str())
            .unwrap_or(&self.name)
    }

    fn is_required_in(&self, config: &Value) -> bool {
        let holds = |(option, values): (&String, &Vec<Value>)| {
            values.contains(config.get(option).unwrap_or(&Value::Null))
        };
        self.required || (!self.required_for.is_empty() && self.required_for.iter().all(holds))
    }
}

/// The mistakes in the secrets that are listed beside a configuration. A plugin that tells of no secret may open any.
pub(super) fn check_secrets(
    needs: &[SecretNeed],
    config: &Value,
    listed: &[&str],
) -> Vec<SecretMistake> {
    if needs.is_empty() {
        return Vec::new();
    }
    let known: BTreeSet<&str> = needs.iter().map(|need| need.name_in(config)).collect();
    let unknown = listed
        .iter()
        .filter(|name| !known.contains(*name))
        .map(|name| SecretMistake {
            listed: Some((*name).to_owned()),
            message: unknown(name, &known),
        });
    let missing = needs
        .iter()
        .filter(|need| need.is_required_in(config) && !listed.contains(&need.name_in(config)))
        .map(|need| SecretMistake {
            listed: None,
            message: missing(need, config),
        });
    unknown.chain(missing).collect()
}

fn unknown(name: &str, known: &BTreeSet<&str>) -> String {
    match crate::config::nearest(name, known.iter().copied()) {
        Some(meant) => format!("it knows no secret `{name}`; did you mean `{meant}`?"),
        None => {
            let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            format!("it knows no secret `{name}`; it opens {}", known.join(", "))
        }
    }
}

fn missing(need: &SecretNeed, config: &Value) -> String {
    let name = need.name_in(config);
    let what = match need.description.as_str() {
        "" => String::new(),
        description => format!(" ({description})"),
    };
    let set: Vec<_> = need
        .required_for
        .keys()
        .filter_map(|option| Some(format!("`{option}: {}`", config.get(option)?.as_str()?)))
        .collect();
    let why = match need.required || set.is_empty() {
        true => String::new(),
        false => format!(" for {}", set.join(", ")),
    };
    format!(
        "the secret `{name}`{what} is missing{why}; list it under `secrets`: `{name}: {{file: …}}`"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn needs() -> Vec<SecretNeed> {
        serde_json::from_value(json!([
            {"name": "client_secret", "required": false, "required_for": {"client_auth": ["basic", "post"]}},
            {"name": "refresh_token", "required_for": {"grant": ["refresh_token"]}, "description": "the refresh token"},
            {"name": "key", "required": true},
            {"name": "token", "named_by": "secret", "required_for": {"mirror": [true, null]}},
        ]))
        .unwrap()
    }

    #[test]
    fn a_secret_that_nobody_opens_and_one_that_is_missing_are_told() {
        for (config, listed, expected) in [
            (json!({}), &["key", "token"][..], vec![]),
            (
                json!({"mirror": false}),
                &["key", "client_secret", "refresh_token"],
                vec![],
            ),
            (
                json!({"mirror": false}),
                &["key", "client_sercet"],
                vec!["it knows no secret `client_sercet`; did you mean `client_secret`?"],
            ),
            (
                json!({"mirror": false}),
                &["key", "other"],
                vec![
                    "it knows no secret `other`; it opens `client_secret`, `key`, `refresh_token`, `token`",
                ],
            ),
            (
                json!({"mirror": false}),
                &[],
                vec!["the secret `key` is missing; list it under `secrets`: `key: {file: …}`"],
            ),
            (
                json!({"grant": "refresh_token", "client_auth": "none"}),
                &["key", "token"],
                vec![
                    "the secret `refresh_token` (the refresh token) is missing for `grant: refresh_token`; list it under `secrets`: `refresh_token: {file: …}`",
                ],
            ),
            (
                json!({"client_auth": "post"}),
                &["key", "token"],
                vec![
                    "the secret `client_secret` is missing for `client_auth: post`; list it under `secrets`: `client_secret: {file: …}`",
                ],
            ),
            (json!({"secret": "mine"}), &["key", "mine"], vec![]),
            (
                json!({"secret": "mine"}),
                &["key", "token"],
                vec![
                    "it knows no secret `token`; it opens `client_secret`, `key`, `mine`, `refresh_token`",
                    "the secret `mine` is missing; list it under `secrets`: `mine: {file: …}`",
                ],
            ),
        ] {
            let found = check_secrets(&needs(), &config, listed);
            let messages: Vec<_> = found
                .iter()
                .map(|mistake| mistake.message.as_str())
                .collect();
            assert_eq!(messages, expected, "{config} {listed:?}");
        }
        assert!(check_secrets(&[], &json!({}), &["any"]).is_empty());
    }
}
