//! What an annotated Secret asks for. Pure. The form is that of CERN's oauth2-refresh-controller: `clientID`, `clientSecret`, and JSON with
//! `access_token` and `refresh_token` in `oauth` or `oauth2`. Content is hostile: nothing of it is quoted but names of ours.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::json_member::{NoText, string_at};
use crate::model::profile::Profile;
use crate::model::{
    Destination, JobId, OnRemove, Output, Provider, SecretDestination, SecretWrite, TokenMember,
};
use crate::tenants::request::{JobRequest, SecretKey};
use crate::text;

/// Makes a Secret one whose token is kept fresh by the default profile, if it is `true`.
pub const IS_TOKEN: &str = "oauth2-refresh-controller.cern.ch/is-token";
/// The profile.
pub const PROFILE: &str = "evertoken.dev/profile";
/// What the annotations of parameters begin with.
pub const PARAMETERS: &str = "parameters.evertoken.dev/";
/// The plain key for the access token.
pub const ACCESS_TOKEN_KEY: &str = "evertoken.dev/access-token-key";
/// Stops the refreshing, if it is `true`.
pub const SUSPEND: &str = "evertoken.dev/suspend";
/// Each new value has the token refreshed at once.
pub const REFRESH: &str = "evertoken.dev/refresh";
/// Written by us: when the token expires.
pub const EXPIRES_AT: &str = "evertoken.dev/expires-at";
/// Written by us: when it is refreshed next.
pub const NEXT_REFRESH: &str = "evertoken.dev/next-refresh";
/// Written by us: why the token is or is not kept fresh.
pub const REASON: &str = "evertoken.dev/reason";

/// The reason of a token that is kept fresh; written with the token.
pub const READY: &str = "Ready";

/// The keys with the JSON, either of them.
const JSON_KEYS: [&str; 2] = ["oauth2", "oauth"];
pub(super) const CLIENT_ID_KEY: &str = "clientID";
pub(super) const CLIENT_SECRET_KEY: &str = "clientSecret";
const USUAL_ACCESS_TOKEN_KEY: &str = "access_token";

/// The parameter of profiles that gets `clientID`, and the secrets that get the others.
const CLIENT_ID: &str = "client_id";
const CLIENT_SECRET: &str = "client_secret";
pub(super) const REFRESH_TOKEN: &str = "refresh_token";

/// An annotated Secret as it was read.
pub struct AnnotatedSecret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: one of the same name that is made later is another.
    pub uid: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its data.
    pub data: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// Whether it can never change.
    pub is_immutable: bool,
}

/// Why an annotated Secret is not kept fresh. Contains nothing of its data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It says so itself.
    #[error("suspended by the annotation `evertoken.dev/suspend`")]
    Suspended,
    /// No value can be written back.
    #[error(
        "the Secret is immutable, so no new token can be written into it; create one without `immutable: true`"
    )]
    Immutable,
    /// No profile is named, and there is no default.
    #[error(
        "no profile is named, and the controller has no default one; add the annotation `evertoken.dev/profile: NAME`"
    )]
    NoProfile,
    /// The profile does not exist.
    #[error(
        "there is no such profile; ask the administrator for the names, or run `evertoken profiles`"
    )]
    UnknownProfile,
    /// The profile is not made for annotated Secrets, or a value is not allowed.
    #[error("{0}")]
    Request(String),
    /// Neither key is there.
    #[error(
        "the Secret has neither `oauth2` nor `oauth`; put the JSON of the token answer, with `access_token` and `refresh_token`, into one of them"
    )]
    NoJson,
    /// Both keys are there.
    #[error("the Secret has both `oauth2` and `oauth`; remove the one that is not used")]
    TwoJsons,
    /// It is not JSON.
    #[error(
        "key `{key}` is not JSON from byte {byte} on; put the token answer there as the issuer gave it, with nothing before or behind it"
    )]
    NotJson {
        /// The key.
        key: &'static str,
        /// Where it stops being JSON, from 1.
        byte: usize,
    },
    /// A member is missing or is no text.
    #[error(
        "key `{key}` has no text `{member}`; put the JSON of the token answer there, with `access_token` and `refresh_token`"
    )]
    NoMember {
        /// The key.
        key: &'static str,
        /// The member.
        member: &'static str,
    },
    /// `clientID` is missing or is no text.
    #[error("the Secret has no `clientID`, which the profile needs")]
    NoClientId,
    /// The annotation names no key.
    #[error(
        "the annotation `evertoken.dev/access-token-key` is no key for the token: use letters, digits, `-`, `_` and `.`, and none of the Secret's other keys"
    )]
    AccessTokenKey,
    /// A bound of the profile.
    #[error("{0}")]
    TooMany(String),
}

impl Problem {
    /// The reason of the Event and the annotation, in the form of Kubernetes' conditions.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Suspended => "Suspended",
            Self::Immutable => "Immutable",
            Self::NoProfile => "NoProfile",
            Self::UnknownProfile => "UnknownProfile",
            Self::Request(_) | Self::NoClientId => "InvalidParameters",
            Self::NoJson | Self::TwoJsons | Self::NotJson { .. } | Self::NoMember { .. } => {
                "InvalidSecret"
            }
            Self::AccessTokenKey => "InvalidAnnotation",
            Self::TooMany(_) => "TooManyJobs",
        }
    }
}

/// Whether these annotations ask for anything.
#[must_use]
pub fn is_annotated(annotations: &BTreeMap<String, String>) -> bool {
    annotations.contains_key(PROFILE) || is_true(annotations, IS_TOKEN)
}

fn is_true(annotations: &BTreeMap<String, String>, name: &str) -> bool {
    annotations.get(name).is_some_and(|value| value == "true")
}

/// The name of the profile that is asked for.
///
/// # Errors
/// None is named and there is no default one, or the Secret is not to be served now.
pub fn profile<'a>(
    secret: &'a AnnotatedSecret,
    default: Option<&'a str>,
) -> Result<&'a str, Problem> {
    if is_true(&secret.annotations, SUSPEND) {
        return Err(Problem::Suspended);
    }
    if secret.is_immutable {
        return Err(Problem::Immutable);
    }
    let named = secret.annotations.get(PROFILE).map(String::as_str);
    named.or(default).ok_or(Problem::NoProfile)
}

/// What a Secret asks of a profile.
///
/// # Errors
/// The Secret or an annotation is not of the form that it must have.
pub fn request(secret: &AnnotatedSecret, profile: &Profile) -> Result<JobRequest, Problem> {
    let key = json_key(secret)?;
    let access_token_key = access_token_key(secret)?;
    let in_secret = |key: &str, pointer: Option<&str>| SecretKey {
        name: secret.name.clone(),
        key: key.to_owned(),
        pointer: pointer.map(str::to_owned),
    };
    let mut secrets = BTreeMap::new();
    let takes = |name: &str| profile.tenant_secrets.contains_key(name);
    if takes(CLIENT_SECRET) && secret.data.contains_key(CLIENT_SECRET_KEY) {
        secrets.insert(CLIENT_SECRET.to_owned(), in_secret(CLIENT_SECRET_KEY, None));
    }
    if takes(REFRESH_TOKEN) {
        let refresh_token = in_secret(key, Some("/refresh_token"));
        secrets.insert(REFRESH_TOKEN.to_owned(), refresh_token);
    }
    Ok(JobRequest {
        id: JobId {
            provider: Provider::AnnotatedSecret,
            namespace: Some(secret.namespace.clone()),
            name: secret.name.clone(),
            uid: Some(secret.uid.clone()),
        },
        namespace: secret.namespace.clone(),
        parameters: parameters(secret, profile)?,
        secrets,
        refresh: None,
        outputs: vec![output(secret, key, access_token_key)],
        on_remove: OnRemove::Keep,
    })
}

/// The refresh token in the JSON; none: there is none.
pub(super) fn refresh_token(secret: &AnnotatedSecret) -> Option<Zeroizing<String>> {
    let held = JSON_KEYS.iter().find_map(|key| secret.data.get(*key))?;
    let (mark, _) = text::around(held);
    let (_, value) = string_at(held.get(mark.len()..)?, "/refresh_token").ok()?;
    Some(value)
}

/// The key with the JSON, which must have both members.
fn json_key(secret: &AnnotatedSecret) -> Result<&'static str, Problem> {
    let mut there = JSON_KEYS
        .into_iter()
        .filter(|key| secret.data.contains_key(*key));
    let key = match (there.next(), there.next()) {
        (None, _) => return Err(Problem::NoJson),
        (Some(key), None) => key,
        (Some(_), Some(_)) => return Err(Problem::TwoJsons),
    };
    let held = secret.data.get(key).map(|held| held.as_slice());
    let held = held.unwrap_or_default();
    let (mark, _) = text::around(held);
    let document = held.get(mark.len()..).unwrap_or_default();
    for member in ["access_token", "refresh_token"] {
        match string_at(document, &format!("/{member}")) {
            Ok((_, value)) if !value.is_empty() => {}
            Err(NoText::NotJson { line, column }) => {
                let byte = mark.len() + byte_at(document, line, column);
                return Err(Problem::NotJson { key, byte });
            }
            Ok(_) | Err(NoText::Nothing | NoText::Other) => {
                return Err(Problem::NoMember { key, member });
            }
        }
    }
    Ok(key)
}

/// The number of a byte, from 1, of its line and column.
fn byte_at(document: &[u8], line: usize, column: usize) -> usize {
    let lines = document.split(|byte| *byte == b'\n');
    let before: usize = lines
        .take(line.saturating_sub(1))
        .map(|line| line.len() + 1)
        .sum();
    before + column
}

/// The parameters in annotations, and `clientID`.
fn parameters(
    secret: &AnnotatedSecret,
    profile: &Profile,
) -> Result<BTreeMap<String, String>, Problem> {
    let given = secret.annotations.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(PARAMETERS)?;
        Some((name.to_owned(), value.clone()))
    });
    let mut parameters: BTreeMap<String, String> = given.collect();
    let Some(wanted) = profile.parameters.get(CLIENT_ID) else {
        return Ok(parameters);
    };
    let client_id = secret.data.get(CLIENT_ID_KEY);
    let client_id = client_id.and_then(|value| std::str::from_utf8(value).ok());
    match client_id {
        Some(client_id) => {
            let client_id = client_id.trim_end_matches(['\r', '\n']);
            parameters.insert(CLIENT_ID.to_owned(), client_id.to_owned());
        }
        None if parameters.contains_key(CLIENT_ID) || wanted.default.is_some() => {}
        None => return Err(Problem::NoClientId),
    }
    Ok(parameters)
}

/// The plain key that gets the access token.
fn access_token_key(secret: &AnnotatedSecret) -> Result<&str, Problem> {
    let Some(key) = secret.annotations.get(ACCESS_TOKEN_KEY) else {
        return Ok(USUAL_ACCESS_TOKEN_KEY);
    };
    let is_name = !key.is_empty()
        && key.len() <= 253
        && *key != "."
        && !key.starts_with("..")
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let mut taken = JSON_KEYS
        .into_iter()
        .chain([CLIENT_ID_KEY, CLIENT_SECRET_KEY]);
    if is_name && !taken.any(|taken| taken == key) {
        Ok(key)
    } else {
        Err(Problem::AccessTokenKey)
    }
}

fn output(secret: &AnnotatedSecret, key: &str, access_token_key: &str) -> Output {
    Output {
        destination: Destination::Secret(SecretDestination {
            namespace: secret.namespace.clone(),
            name: secret.name.clone(),
            key: key.to_owned(),
            create: false,
            secret_type: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            write: SecretWrite::Patch,
            member: Some(Box::new(TokenMember {
                uid: secret.uid.clone(),
                pointer: "/access_token".to_owned(),
                plain_key: access_token_key.to_owned(),
            })),
        }),
        format: None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const PROFILE_YAML: &str = r#"
profiles:
  cern:
    plugin: oauth2
    config: {grant: refresh_token, token_url: "https://idp.example.org/{realm}/token", client_id: "{client_id}"}
    parameters: {client_id: {}, realm: {default: main}}
    tenant_secrets: {client_secret: {optional: true}, refresh_token: {rotating: true, write_back: true}}
"#;

    /// As the page of the release announcement prints it, with its one brace too many taken away.
    const ANSWER: &str = r#"{"access_token": "eyJhb...","expires_in":1199,"refresh_expires_in":0,"refresh_token":"eyJhbG...","token_type":"Bearer","not-before-policy":1643110683,"session_state":"5d5e8bc2-6557-4453-9ba2-8ed99be6c898","scope":"offline_access profile email"}"#;

    fn profile() -> std::sync::Arc<Profile> {
        let loaded = config::parse(PROFILE_YAML, "evertoken.yaml", Path::new("/etc"));
        let config = loaded.unwrap().into_config();
        std::sync::Arc::clone(&config.profiles["cern"])
    }

    fn secret(data: &[(&str, &str)], annotations: &[(&str, &str)]) -> AnnotatedSecret {
        let bytes = |(key, value): &(&str, &str)| {
            let value = Zeroizing::new(value.as_bytes().to_vec());
            ((*key).to_owned(), value)
        };
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        AnnotatedSecret {
            namespace: "team".to_owned(),
            name: "hello-token".to_owned(),
            uid: "u-1".to_owned(),
            annotations: annotations.iter().map(text).collect(),
            data: data.iter().map(bytes).collect(),
            is_immutable: false,
        }
    }

    fn whole(answer: &str) -> Vec<(&'static str, String)> {
        vec![
            ("oauth", answer.to_owned()),
            ("clientID", "my-app".to_owned()),
            ("clientSecret", "my-app-client-secret".to_owned()),
        ]
    }

    fn asked(answer: &str, annotations: &[(&str, &str)]) -> Result<JobRequest, Problem> {
        let data = whole(answer);
        let data: Vec<(&str, &str)> = data
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        request(&secret(&data, annotations), &profile())
    }

    #[test]
    fn the_secret_of_the_announcement_is_served_as_it_stands() {
        let request = asked(ANSWER, &[(IS_TOKEN, "true")]).unwrap();
        assert_eq!(request.parameters["client_id"], "my-app");
        let names: Vec<&String> = request.secrets.keys().collect();
        assert_eq!(names, ["client_secret", "refresh_token"]);
        let refresh_token = &request.secrets["refresh_token"];
        assert_eq!(refresh_token.key, "oauth");
        assert_eq!(refresh_token.pointer.as_deref(), Some("/refresh_token"));
        assert_eq!(request.id.to_string(), "team/hello-token");
        let job = crate::tenants::request::job(&profile(), request).unwrap();
        assert_eq!(
            job.source.config["token_url"],
            "https://idp.example.org/main/token"
        );
    }

    #[test]
    fn the_sample_as_it_is_printed_is_not_json_and_the_byte_is_told() {
        let printed = format!("{ANSWER}}}");
        let problem = asked(&printed, &[]).unwrap_err();
        let byte = printed.len();
        assert_eq!(problem, Problem::NotJson { key: "oauth", byte });
        assert!(
            problem
                .to_string()
                .contains(&format!("from byte {byte} on"))
        );
    }

    #[test]
    fn json_of_every_wrong_shape_is_told_without_its_content() {
        let long = format!("{{\"access_token\": \"{}\"", "hunter2".repeat(150_000));
        for answer in [
            "",
            " ",
            "null",
            "[]",
            "1",
            "\"text\"",
            "{",
            "{}",
            "hunter2",
            "{\"access_token\": \"hunter2\"}",
            "{\"access_token\": \"hunter2\", \"refresh_token\": 1}",
            "{\"access_token\": \"hunter2\", \"refresh_token\": \"\"}",
            "{\"access_token\": [\"hunter2\"], \"refresh_token\": \"x\"}",
            "{\"refresh_token\": \"hunter2\"}",
            "\u{feff}{",
            "{\"a\":1}{\"a\":1}",
            &long,
            &"[".repeat(1_000_000),
        ] {
            let problem = asked(answer, &[]).unwrap_err();
            assert_eq!(problem.reason(), "InvalidSecret", "{:.60}", answer);
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn a_byte_is_counted_over_lines() {
        let problem = asked("{\n \"a\": 1,\n x}", &[]).unwrap_err();
        let byte = "{\n \"a\": 1,\n x".len();
        assert_eq!(problem, Problem::NotJson { key: "oauth", byte });
    }

    #[test]
    fn annotations_say_which_profile_parameters_and_key() {
        for (annotations, default, expected) in [
            (&[][..], Some("cern"), Ok("cern")),
            (&[], None, Err("NoProfile")),
            (&[(PROFILE, "other")], Some("cern"), Ok("other")),
            (&[(SUSPEND, "true")], Some("cern"), Err("Suspended")),
            (&[(SUSPEND, "false")], Some("cern"), Ok("cern")),
        ] {
            let secret = secret(&[], annotations);
            let got = super::profile(&secret, default);
            assert_eq!(got.map_err(|problem| problem.reason()), expected);
        }
        let realm = asked(ANSWER, &[("parameters.evertoken.dev/realm", "shop")]).unwrap();
        assert_eq!(realm.parameters["realm"], "shop");
        for (key, is_one) in [
            ("token", true),
            ("oauth", false),
            ("clientID", false),
            ("..", false),
            ("a/b", false),
            ("", false),
        ] {
            assert_eq!(
                asked(ANSWER, &[(ACCESS_TOKEN_KEY, key)]).is_ok(),
                is_one,
                "{key}"
            );
        }
        let mut immutable = secret(&[], &[]);
        immutable.is_immutable = true;
        assert_eq!(
            super::profile(&immutable, Some("x")),
            Err(Problem::Immutable)
        );
    }

    #[test]
    fn one_of_both_keys_and_a_client_id_must_be_there() {
        let request = |data: &[(&str, &str)]| super::request(&secret(data, &[]), &profile());
        assert_eq!(request(&[]).unwrap_err(), Problem::NoJson);
        let both = request(&[("oauth", ANSWER), ("oauth2", ANSWER)]);
        assert_eq!(both.unwrap_err(), Problem::TwoJsons);
        assert_eq!(
            request(&[("oauth2", ANSWER)]).unwrap_err(),
            Problem::NoClientId
        );
        assert!(request(&[("oauth2", ANSWER), ("clientID", "x\n")]).is_ok());
    }

    #[test]
    fn only_annotations_of_ours_count() {
        let of = |annotations: &[(&str, &str)]| is_annotated(&secret(&[], annotations).annotations);
        assert!(of(&[(IS_TOKEN, "true")]) && of(&[(PROFILE, "x")]));
        assert!(!of(&[]) && !of(&[(IS_TOKEN, "false")]) && !of(&[("x", "true")]));
    }
}
