//! A token in an annotated Secret: the member of the JSON in a key, a plain key beside it, and annotations that say how long it lives. One
//! GET, and one PATCH that is only valid for the Secret as it was read, so that JSON which somebody replaces meanwhile stays as it is.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::json_member::string_at;
use crate::kubernetes::{ApiCall, ApiError, Kubernetes, Verb, WipedText};
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::{SecretDestination, TokenMember};
use crate::output::{Publication, Written};
use crate::tenants::annotated::secret::{EXPIRES_AT, NEXT_REFRESH, READY, REASON};
use crate::text;

/// Rounds of GET and PATCH when others change the Secret at the same moment.
const CONFLICTS_MAX: usize = 4;

/// The Secret as it was read.
#[derive(Deserialize)]
struct Found {
    metadata: FoundMetadata,
    #[serde(default)]
    data: BTreeMap<String, WipedText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundMetadata {
    uid: String,
    resource_version: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Writes a token into its places in a Secret, unless it is there.
pub(super) async fn write(
    kubernetes: &Kubernetes,
    destination: &SecretDestination,
    member: &TokenMember,
    publication: &Publication<'_>,
) -> Result<Written, ApiError> {
    let mut attempt = 1;
    loop {
        match write_once(kubernetes, destination, member, publication).await {
            Err(ApiError::Conflict(_)) if attempt < CONFLICTS_MAX => attempt += 1,
            result => return result,
        }
    }
}

async fn write_once(
    kubernetes: &Kubernetes,
    destination: &SecretDestination,
    member: &TokenMember,
    publication: &Publication<'_>,
) -> Result<Written, ApiError> {
    let SecretDestination {
        namespace, name, ..
    } = destination;
    let get = ApiCall::secret(Verb::Get, namespace, name);
    let found: Found = kubernetes.send(&get).await?.parse(&get)?;
    if found.metadata.uid != member.uid {
        return Err(another(destination).into());
    }
    let Some(change) = change(destination, member, publication, &found)? else {
        return Ok(Written::Unchanged);
    };
    let mut patch = ApiCall::secret(Verb::Patch, namespace, name);
    patch.content_type = "application/merge-patch+json";
    patch.metadata_only = true;
    patch.query.push(("fieldManager", "evertoken".to_owned()));
    patch.body = change;
    let answer = kubernetes.send(&patch).await?;
    kubernetes.note_own_write(&patch.resource_version(answer)?);
    Ok(Written::Changed)
}

/// The merge patch (RFC 7386) that is needed; none: all is in its place.
fn change(
    destination: &SecretDestination,
    member: &TokenMember,
    publication: &Publication<'_>,
    found: &Found,
) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let [artifact] = publication.artifacts else {
        return Err(not_one(destination));
    };
    let token = artifact.content.expose_secret();
    let token = std::str::from_utf8(token).map_err(|_| not_one(destination))?;
    let key = &destination.key;
    let held = found.data.get(key).and_then(WipedText::decode);
    let held = held.ok_or_else(|| no_member(destination, member))?;
    let held = held.expose_secret();
    let with_token = replaced(held, &member.pointer, token);
    let with_token = with_token.ok_or_else(|| no_member(destination, member))?;
    let mut data = BTreeMap::new();
    if *held != with_token[..] {
        data.insert(key, BASE64.encode(&with_token));
    }
    let plain = found
        .data
        .get(&member.plain_key)
        .and_then(WipedText::decode);
    if plain.is_none_or(|plain| plain.expose_secret() != token.as_bytes()) {
        data.insert(&member.plain_key, BASE64.encode(token.as_bytes()));
    }
    let annotations = annotations(publication, &found.metadata.annotations);
    if data.is_empty() && annotations.is_empty() {
        return Ok(None);
    }
    let body = json!({
        "metadata": {
            "resourceVersion": found.metadata.resource_version,
            "annotations": annotations,
        },
        "data": data,
    });
    Ok(Some(Zeroizing::new(body.to_string().into_bytes())))
}

/// The annotations that differ. While the token stays, only when it is refreshed next is told anew.
fn annotations(
    publication: &Publication<'_>,
    present: &BTreeMap<String, String>,
) -> BTreeMap<&'static str, Value> {
    let text = |at: Option<crate::model::time::Timestamp>| at.map(|at| at.to_string());
    let wanted = [
        (EXPIRES_AT, text(publication.expires_at)),
        (NEXT_REFRESH, text(publication.next_refresh)),
        (REASON, Some(READY.to_owned())),
    ];
    let differ = wanted
        .into_iter()
        .filter(|(name, value)| present.get(*name) != value.as_ref());
    differ
        .map(|(name, value)| (name, Value::from(value)))
        .collect()
}

/// The JSON with another text at the pointer; all else is the same byte for byte.
fn replaced(held: &[u8], pointer: &str, token: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (mark, _) = text::around(held);
    let document = held.get(mark.len()..)?;
    let (place, _) = string_at(document, pointer).ok()?;
    let token = Zeroizing::new(serde_json::to_string(token).ok()?);
    let (before, behind) = (document.get(..place.start)?, document.get(place.end..)?);
    let parts = [mark, before, token.as_bytes(), behind];
    Some(Zeroizing::new(parts.concat()))
}

fn another(destination: &SecretDestination) -> Failure {
    let SecretDestination {
        namespace, name, ..
    } = destination;
    let message = format!(
        "secret {namespace}/{name} was deleted and made again; the token belongs to the one before"
    );
    Failure::new(
        FailureKind::InvalidConfig,
        HostCode::KubernetesConflict,
        message,
    )
}

fn no_member(destination: &SecretDestination, member: &TokenMember) -> Failure {
    let SecretDestination {
        namespace,
        name,
        key,
        ..
    } = destination;
    let pointer = &member.pointer;
    let message = format!(
        "key `{key}` of secret {namespace}/{name} has no text at `{pointer}`; put the JSON of the token answer there"
    );
    Failure::new(
        FailureKind::InvalidConfig,
        HostCode::SecretNoSuchPart,
        message,
    )
}

fn not_one(destination: &SecretDestination) -> Failure {
    let SecretDestination {
        namespace, name, ..
    } = destination;
    let message = format!("what is to be written into secret {namespace}/{name} is not one token");
    Failure::new(FailureKind::Internal, HostCode::OutputEmpty, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_takes_the_place_of_the_one_before_and_all_else_stays_byte_for_byte() {
        for (held, expected) in [
            (
                r#"{"access_token": "old","expires_in":1199, "x": [1.50e+3 ,{}]}"#,
                Some(r#"{"access_token": "n\"ew","expires_in":1199, "x": [1.50e+3 ,{}]}"#),
            ),
            (
                "\u{feff}{\"access_token\":\"\"}\n",
                Some("\u{feff}{\"access_token\":\"n\\\"ew\"}\n"),
            ),
            ("{\"access_token\": 1}", None),
            ("{}", None),
            ("x", None),
        ] {
            let got = replaced(held.as_bytes(), "/access_token", "n\"ew");
            let got = got.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
            assert_eq!(got.as_deref(), expected, "{held}");
        }
    }
}
