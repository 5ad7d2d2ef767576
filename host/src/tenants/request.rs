//! What a tenant asks for, and the job that an administrator's profile makes of it. Pure. A tenant says which profile, its parameters and
//! keys of Secrets in the own namespace; all else is the profile's.

use std::collections::BTreeMap;
use std::sync::Arc;

use litemap::LiteMap;
use serde_json::Value;

use super::template::{FillError, Template, TemplateError};
use crate::form::list;
use crate::model::profile::{Parameter, Profile, TenantSecret};
use crate::model::{
    Job, JobId, OnRemove, Output, Policy, ProfileUse, Secret, SecretOrigin, Source,
};

/// Bytes of a parameter's value: the longest client ids and scopes have some hundred.
const VALUE_MAX_BYTES: usize = 1024;

/// The most parameters that are looked at: more are a mistake or an attack.
const PARAMETERS_MAX: usize = 64;

/// What a tenant asks for.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// The identity of the job; its namespace is the tenant's.
    pub id: JobId,
    /// The tenant's namespace.
    pub namespace: String,
    /// The values of the profile's parameters.
    pub parameters: BTreeMap<String, String>,
    /// The secrets, by the names of the profile.
    pub secrets: BTreeMap<String, SecretKey>,
    /// When the token is refreshed; none: as the profile says.
    pub refresh: Option<Policy>,
    /// Where the token goes, in the tenant's namespace.
    pub outputs: Vec<Output>,
    /// What becomes of an output that is no longer wanted.
    pub on_remove: OnRemove,
}

/// A key of a Secret in the tenant's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// The Secret's name.
    pub name: String,
    /// The key in `data`.
    pub key: String,
    /// A JSON pointer (RFC 6901) into the key's value.
    pub pointer: Option<String>,
}

/// Why a profile makes no job of a request. The values of parameters are not quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The profile is not for this namespace.
    #[error("the profile `{profile}` is not for the namespace `{namespace}`")]
    Namespace {
        /// The profile.
        profile: String,
        /// The tenant's namespace.
        namespace: String,
    },
    /// The profile has no such parameter.
    #[error("the profile `{profile}` has no parameter `{name}`; {}", those_of(.known))]
    UnknownParameter {
        /// The profile.
        profile: String,
        /// The name.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A parameter has no value.
    #[error("the parameter `{name}` of the profile `{profile}` has no value")]
    MissingParameter {
        /// The profile.
        profile: String,
        /// The name.
        name: String,
    },
    /// A value is not what it must be.
    #[error("the value of the parameter `{name}` is not allowed: {why}")]
    Value {
        /// The parameter.
        name: String,
        /// What it must be.
        why: String,
    },
    /// The profile takes no such secret.
    #[error("the profile `{profile}` takes no secret `{name}`; {}", those_of(.known))]
    UnknownSecret {
        /// The profile.
        profile: String,
        /// The name.
        name: String,
        /// Those that it takes.
        known: Vec<String>,
    },
    /// A secret is not given.
    #[error("the profile `{profile}` needs a secret `{name}`")]
    MissingSecret {
        /// The profile.
        profile: String,
        /// The name.
        name: String,
    },
    /// The profile itself is wrong; its configuration was not checked.
    #[error("the profile `{profile}` cannot be used: {error}")]
    Profile {
        /// The profile.
        profile: String,
        /// Why.
        error: TemplateError,
    },
}

fn those_of(names: &[String]) -> String {
    match names {
        [] => "it has none".to_owned(),
        names => format!("there are {}", list(names.iter().map(String::as_str))),
    }
}

/// The job that a profile makes of a request.
///
/// # Errors
/// All that is wrong with the request.
pub fn job(profile: &Profile, request: JobRequest) -> Result<Job, Vec<RequestError>> {
    let mut errors = Vec::new();
    if !profile.is_for(&request.namespace) {
        errors.push(RequestError::Namespace {
            profile: profile.name.clone(),
            namespace: request.namespace.clone(),
        });
        return Err(errors);
    }
    let values = values(profile, &request.parameters, &mut errors);
    let secrets = secrets(profile, &request, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let config = filled(profile, &values).map_err(|error| vec![error])?;
    Ok(Job {
        source: Source {
            plugin: profile.plugin.clone(),
            config,
            secrets,
            allow: profile.allow.clone(),
            allow_addresses: profile.allow_addresses.clone(),
            reveal: profile.reveal.clone(),
            tls: profile.tls.clone(),
            proxy: profile.proxy.clone(),
            timeout: profile.timeout,
        },
        refresh: request.refresh.unwrap_or_else(|| profile.refresh.clone()),
        verify: profile.verify,
        outputs: request.outputs,
        on_remove: request.on_remove,
        profile: Some(Arc::new(ProfileUse {
            profile: profile.name.clone(),
            limits: profile.limits,
        })),
        id: request.id,
    })
}

/// The values of all parameters.
fn values(
    profile: &Profile,
    given: &BTreeMap<String, String>,
    errors: &mut Vec<RequestError>,
) -> BTreeMap<String, String> {
    let unknown = given
        .keys()
        .filter(|name| !profile.parameters.contains_key(*name));
    errors.extend(
        unknown
            .take(PARAMETERS_MAX)
            .map(|name| RequestError::UnknownParameter {
                profile: profile.name.clone(),
                name: shortened(name),
                known: profile.parameters.keys().cloned().collect(),
            }),
    );
    let mut values = BTreeMap::new();
    for (name, parameter) in &profile.parameters {
        let value = given.get(name).or(parameter.default.as_ref());
        match value.map(|value| (value, refusal(parameter, value))) {
            None => errors.push(RequestError::MissingParameter {
                profile: profile.name.clone(),
                name: name.clone(),
            }),
            Some((_, Some(why))) => errors.push(RequestError::Value {
                name: name.clone(),
                why,
            }),
            Some((value, None)) => {
                values.insert(name.clone(), value.clone());
            }
        }
    }
    values
}

/// Why a parameter cannot have this value. Characters that look like others, and those that end a line, are none of a value.
#[must_use]
pub fn refusal(parameter: &Parameter, value: &str) -> Option<String> {
    if value.len() > VALUE_MAX_BYTES {
        return Some(format!("it is longer than {VALUE_MAX_BYTES} bytes"));
    }
    if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Some("it has other characters than printable ASCII".to_owned());
    }
    if !parameter.pattern.is_match(value) {
        let pattern = parameter.pattern_text();
        return Some(format!("it must match `{pattern}`"));
    }
    None
}

fn secrets(
    profile: &Profile,
    request: &JobRequest,
    errors: &mut Vec<RequestError>,
) -> LiteMap<String, Secret> {
    let given = &request.secrets;
    let unknown = given
        .keys()
        .filter(|name| !profile.tenant_secrets.contains_key(*name));
    errors.extend(
        unknown
            .take(PARAMETERS_MAX)
            .map(|name| RequestError::UnknownSecret {
                profile: profile.name.clone(),
                name: shortened(name),
                known: profile.tenant_secrets.keys().cloned().collect(),
            }),
    );
    let mut secrets = profile.secrets.clone();
    for (name, wanted) in &profile.tenant_secrets {
        match given.get(name) {
            Some(key) => {
                secrets.insert(name.clone(), secret(wanted, key, &request.namespace));
            }
            None if wanted.is_optional => {}
            None => errors.push(RequestError::MissingSecret {
                profile: profile.name.clone(),
                name: name.clone(),
            }),
        }
    }
    secrets
}

fn secret(wanted: &TenantSecret, key: &SecretKey, namespace: &str) -> Secret {
    let TenantSecret {
        is_optional: _,
        rotating,
        retry_unanswered,
        write_back,
        to,
    } = wanted;
    Secret {
        origin: SecretOrigin::KubernetesSecret {
            namespace: namespace.to_owned(),
            name: key.name.clone(),
            key: key.key.clone(),
            pointer: key.pointer.clone(),
        },
        rotating: *rotating,
        retry_unanswered: *retry_unanswered,
        write_back: *write_back,
        to: to.clone(),
    }
}

/// The plugin's options with these values.
fn filled(profile: &Profile, values: &BTreeMap<String, String>) -> Result<Value, RequestError> {
    fill(&profile.config, values).map_err(|error| match error {
        NotFilled::Template(error) => RequestError::Profile {
            profile: profile.name.clone(),
            error,
        },
        NotFilled::Value(error) => {
            let (FillError::Missing(name) | FillError::Host(name) | FillError::Path(name)) = &error;
            RequestError::Value {
                name: name.clone(),
                why: error.to_string(),
            }
        }
    })
}

/// Why options cannot be filled in.
#[derive(Debug)]
pub enum NotFilled {
    /// A text is no template.
    Template(TemplateError),
    /// A value cannot stand there.
    Value(FillError),
}

/// A plugin's options with these values of parameters in all texts.
///
/// # Errors
/// A text is no template, or a value cannot stand there.
pub fn fill(config: &Value, values: &BTreeMap<String, String>) -> Result<Value, NotFilled> {
    Ok(match config {
        Value::String(text) => {
            let template = Template::parse(text).map_err(NotFilled::Template)?;
            Value::String(template.fill(values).map_err(NotFilled::Value)?)
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| fill(item, values));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(name, member)| Ok((name.clone(), fill(member, values)?)));
            Value::Object(members.collect::<Result<_, _>>()?)
        }
        other => other.clone(),
    })
}

/// A name that a tenant wrote, for a message.
fn shortened(name: &str) -> String {
    let shown: String = name.chars().take(64).collect();
    shown.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const PROFILES: &str = r#"
profiles:
  idp:
    plugin: oauth2
    config:
      grant: refresh_token
      token_url: "https://idp.example.org/realms/{realm}/token"
      client_id: "{client_id}"
      scope: ["{scope}", "literal {{x}}"]
    parameters:
      realm: {pattern: "[a-z]+", default: main}
      client_id: {}
      scope: {pattern: "[a-z:/. ]*", default: read}
    tenant_secrets:
      refresh_token: {rotating: true, write_back: true}
      client_secret: {optional: true}
    namespaces: [team-*]
"#;

    fn profile() -> Arc<Profile> {
        let loaded = config::parse(PROFILES, "evertoken.yaml", Path::new("/etc"));
        let config = loaded.unwrap().into_config();
        Arc::clone(&config.profiles["idp"])
    }

    fn request(parameters: &[(&str, &str)], secrets: &[&str]) -> JobRequest {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let key = |name: &&str| {
            let key = SecretKey {
                name: "login".to_owned(),
                key: "oauth2".to_owned(),
                pointer: Some("/refresh_token".to_owned()),
            };
            ((*name).to_owned(), key)
        };
        JobRequest {
            id: JobId::file("x"),
            namespace: "team-a".to_owned(),
            parameters: parameters.iter().map(text).collect(),
            secrets: secrets.iter().map(key).collect(),
            refresh: None,
            outputs: Vec::new(),
            on_remove: OnRemove::Keep,
        }
    }

    #[test]
    fn a_profile_makes_a_job_of_parameters_and_keys_of_the_own_namespace() {
        let request = request(&[("client_id", "svc")], &["refresh_token"]);
        let job = job(&profile(), request).unwrap();
        assert_eq!(
            job.source.config,
            serde_json::json!({
                "grant": "refresh_token",
                "token_url": "https://idp.example.org/realms/main/token",
                "client_id": "svc",
                "scope": ["read", "literal {x}"],
            })
        );
        let secret = job.source.secrets.get("refresh_token").unwrap();
        assert!(secret.rotating && secret.write_back);
        let origin = SecretOrigin::KubernetesSecret {
            namespace: "team-a".to_owned(),
            name: "login".to_owned(),
            key: "oauth2".to_owned(),
            pointer: Some("/refresh_token".to_owned()),
        };
        assert_eq!(secret.origin, origin);
        assert_eq!(job.source.secrets.len(), 1);
        assert_eq!(job.profile.unwrap().profile, "idp");
    }

    #[test]
    fn whatever_is_wrong_with_a_request_is_told_at_once_and_no_value_is_quoted() {
        let long = "a".repeat(2000);
        for (parameters, secrets, expected) in [
            (
                vec![("clientid", "x")],
                vec!["refresh_token"],
                vec![
                    "the profile `idp` has no parameter `clientid`; there are `client_id`, `realm`, `scope`",
                    "the parameter `client_id` of the profile `idp` has no value",
                ],
            ),
            (
                vec![("client_id", "x")],
                vec!["token"],
                vec![
                    "the profile `idp` takes no secret `token`; there are `client_secret`, `refresh_token`",
                    "the profile `idp` needs a secret `refresh_token`",
                ],
            ),
            (
                vec![("client_id", "x"), ("realm", "Hunter2")],
                vec!["refresh_token"],
                vec!["the value of the parameter `realm` is not allowed: it must match `[a-z]+`"],
            ),
            (
                vec![("client_id", &long)],
                vec!["refresh_token"],
                vec![
                    "the value of the parameter `client_id` is not allowed: it is longer than 1024 bytes",
                ],
            ),
        ] {
            let errors = job(&profile(), request(&parameters, &secrets)).unwrap_err();
            let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(said, expected);
        }
        let mut foreign = request(&[], &[]);
        foreign.namespace = "shop".to_owned();
        let errors = job(&profile(), foreign).unwrap_err();
        let said = errors[0].to_string();
        assert_eq!(said, "the profile `idp` is not for the namespace `shop`");
    }

    #[test]
    fn what_is_hostile_leaves_no_pattern() {
        for value in [
            "",
            "{x}",
            "a{",
            "%2f",
            "a\r\nb",
            "a\nb",
            "..",
            ".",
            "a/..",
            "shоp",
            "a\u{200b}",
            "a\0",
            "a b",
            "https://evil.example",
            "a;b",
            "a\"b",
            "a\\b",
        ] {
            let request = request(&[("client_id", value)], &["refresh_token"]);
            assert!(job(&profile(), request).is_err(), "{value:?}");
        }
    }
}
