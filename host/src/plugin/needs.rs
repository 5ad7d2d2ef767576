//! Checks the secrets that a job lists against those that its plugin declares: a name that the plugin never opens is a mistake, and
//! so is a missing secret.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::form::list;
use crate::names::nearest;
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
    /// The plugin requires it where each of these options has one of the values; null stands for an option that is not set.
    #[serde(default)]
    pub required_for: BTreeMap<String, Vec<Value>>,
    /// It is needed only if the job lists this other secret as well.
    #[serde(default)]
    pub required_with: Option<String>,
    /// The option that it is an alternative to: a job has at most one of the two, and with the option it does not need the
    /// secret.
    #[serde(default)]
    pub instead_of: Option<String>,
    /// The option that changes its name.
    #[serde(default)]
    pub named_by: Option<String>,
    /// Its description.
    #[serde(default, deserialize_with = "printable::deserialize")]
    pub description: String,
}

/// A mistake in the secrets that a job lists for its plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMistake {
    /// The secret that is listed but never opened; none: one is missing.
    pub listed: Option<String>,
    /// The mistake and its correction.
    pub message: String,
}

impl SecretNeed {
    fn name_in<'a>(&'a self, config: &'a Value) -> &'a str {
        self.named_by
            .as_ref()
            .and_then(|option| config.get(option)?.as_str())
            .unwrap_or(&self.name)
    }

    /// The option that replaces it, if that is set.
    fn option_in(&self, config: &Value) -> Option<&str> {
        self.instead_of
            .as_deref()
            .filter(|option| config.get(option).is_some_and(|value| !value.is_null()))
    }

    fn is_required_in(&self, config: &Value, listed: &[&str]) -> bool {
        let holds = |(option, values): (&String, &Vec<Value>)| {
            values.contains(config.get(option).unwrap_or(&Value::Null))
        };
        let beside = |other: &String| listed.contains(&other.as_str());
        let conditional = !self.required_for.is_empty() || self.required_with.is_some();
        self.option_in(config).is_none()
            && (self.required
                || (conditional
                    && self.required_for.iter().all(holds)
                    && self.required_with.iter().all(beside)))
    }
}

/// The mistakes in the secrets that are listed with a configuration. A plugin that declares no secrets may open any.
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
        .filter(|need| {
            need.is_required_in(config, listed) && !listed.contains(&need.name_in(config))
        })
        .map(|need| SecretMistake {
            listed: None,
            message: missing(need, config),
        });
    let doubled = needs.iter().filter_map(|need| {
        let name = need.name_in(config);
        let option = need.option_in(config).filter(|_| listed.contains(&name))?;
        Some(SecretMistake {
            listed: Some(name.to_owned()),
            message: format!(
                "the secret `{name}` stands for the option `{option}`, which is set, too; keep one of them"
            ),
        })
    });
    unknown.chain(missing).chain(doubled).collect()
}

fn unknown(name: &str, known: &BTreeSet<&str>) -> String {
    match nearest(name, known.iter().copied()) {
        Some(meant) => format!("it knows no secret `{name}`; did you mean `{meant}`?"),
        None => {
            let known = list(known.iter().copied());
            format!("it knows no secret `{name}`; it opens {known}")
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
    let beside = match &need.required_with {
        Some(other) if !need.required => format!(" beside `{other}`"),
        _ => String::new(),
    };
    let or = match &need.instead_of {
        Some(option) => format!(", or set the option `{option}`"),
        None => String::new(),
    };
    format!(
        "the secret `{name}`{what} is missing{why}{beside}; list it under `secrets`: `{name}: {{file: …}}`{or}"
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

    #[test]
    fn a_secret_that_stands_for_an_option_is_there_or_the_option_is_and_not_both() {
        let needs: Vec<SecretNeed> = serde_json::from_value(json!([
            {"name": "id", "instead_of": "id", "required_with": "key", "required_for": {"auth": ["basic", null]}},
            {"name": "key"},
        ]))
        .unwrap();
        let both =
            "the secret `id` stands for the option `id`, which is set, too; keep one of them";
        let neither = |why| {
            format!(
                "the secret `id` is missing{why} beside `key`; list it under `secrets`: `id: {{file: …}}`, or set the option `id`"
            )
        };
        for (config, listed, expected) in [
            (json!({"id": "a"}), &["key"][..], None),
            (json!({"id": null}), &["id", "key"], None),
            (json!({"id": "a"}), &[], None),
            (json!({}), &["id"], None),
            // A client without a secret may omit its identifier.
            (json!({}), &[], None),
            (json!({"auth": "post"}), &["key"], None),
            (json!({}), &["key"], Some(neither(""))),
            (
                json!({"id": null, "auth": null}),
                &["key"],
                Some(neither("")),
            ),
            (
                json!({"auth": "basic"}),
                &["key"],
                Some(neither(" for `auth: basic`")),
            ),
            (json!({"id": "a"}), &["id", "key"], Some(both.to_owned())),
            (
                json!({"id": "a", "auth": "post"}),
                &["id"],
                Some(both.to_owned()),
            ),
        ] {
            let found = check_secrets(&needs, &config, listed);
            let messages: Vec<_> = found.into_iter().map(|mistake| mistake.message).collect();
            assert_eq!(messages, Vec::from_iter(expected), "{config} {listed:?}");
        }
    }
}
