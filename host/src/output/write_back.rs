//! Write-back of rotating secrets to the user's own file or Secret, where other programs look for the newest value. It is only
//! written while the spent value is still there: a value that was put there since is a new login.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use futures_core::future::BoxFuture;
use secrecy::SecretSlice;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::file::Files;
use crate::capability::secrets::{MAX_SECRET_BYTES, WriteBack};
use crate::file::{self, Unreadable};
use crate::json_member;
use crate::kubernetes::{ApiCall, ApiError, Kubernetes, Verb};
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::token::Artifact;
use crate::model::{FileDestination, Replace, SecretOrigin};
use crate::text;

/// Rounds of GET and PATCH when others change other keys of the Secret at the same moment.
const CONFLICTS_MAX: usize = 4;

/// The content of a dry run.
const TRIAL: &[u8] = b"evertoken check --online";

/// Bytes of a byte order mark and a line end.
const AROUND_MAX: usize = 5;

/// The permission bits of a file.
const PERMISSION_BITS: u32 = 0o777;

/// Files and Secrets of the user to which rotating secrets are written back.
#[derive(Debug)]
pub struct WriteBackTargets {
    kubernetes: Arc<Kubernetes>,
    files: Files,
}

impl WriteBackTargets {
    /// Targets that reach Secrets through `kubernetes`.
    #[must_use]
    pub fn new(kubernetes: Arc<Kubernetes>) -> Self {
        Self {
            kubernetes,
            files: Files::new(Arc::default()),
        }
    }

    /// Checks that a value could be written back to its origin.
    ///
    /// # Errors
    /// The failure that the write would have.
    pub async fn prove(&self, origin: &SecretOrigin) -> Result<(), Failure> {
        match origin {
            SecretOrigin::File(path) | SecretOrigin::FileMember { path, .. } => {
                let (_, destination) = read_file(path).await?;
                let proved = self.files.prove(&destination, None).await;
                proved.map_err(|failure| of_write_back(failure, &destination))
            }
            SecretOrigin::KubernetesSecret {
                namespace,
                name,
                key,
                ..
            } => self.prove_key(namespace, name, key).await,
            // The configuration does not allow other origins.
            SecretOrigin::Env(_)
            | SecretOrigin::Value(_)
            | SecretOrigin::ServiceAccount { .. }
            | SecretOrigin::Job(_) => Ok(()),
        }
    }

    /// The patch as a dry run. Where an admission webhook does not support those, the API server is asked whether it would allow
    /// the patch.
    async fn prove_key(&self, namespace: &str, name: &str, key: &str) -> Result<(), Failure> {
        let mut patch = patch(
            namespace,
            name,
            json!({"data": {key: BASE64.encode(TRIAL)}}),
        );
        patch.query.push(("dryRun", "All".to_owned()));
        match self.kubernetes.send(&patch).await {
            Err(ApiError::NoDryRun(_)) => self.kubernetes.require_access(&patch).await,
            Err(refusal) => Err(refusal.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Owner, group and mode are kept.
    async fn replace_file(
        &self,
        path: &Path,
        pointer: Option<&str>,
        spent: &[u8],
        next: &[u8],
    ) -> Result<bool, Failure> {
        let (held, destination) = read_file(path).await?;
        let Some(content) = replaced(&held, pointer, spent, next) else {
            return Ok(false);
        };
        let artifact = Artifact {
            name: String::new(),
            content: SecretSlice::from(content.to_vec()),
        };
        let written = self.files.write(&destination, &[artifact]).await;
        written.map_err(|failure| of_write_back(failure, &destination))?;
        Ok(true)
    }

    async fn replace_key(
        &self,
        place: &KeyPlace<'_>,
        spent: &[u8],
        next: &[u8],
    ) -> Result<bool, Failure> {
        let mut attempt = 1;
        loop {
            match self.replace_key_once(place, spent, next).await {
                Err(ApiError::Conflict(_)) if attempt < CONFLICTS_MAX => attempt += 1,
                result => return Ok(result?),
            }
        }
    }

    /// GET, then a merge patch of this one key that is only valid for the resourceVersion that was read.
    async fn replace_key_once(
        &self,
        place: &KeyPlace<'_>,
        spent: &[u8],
        next: &[u8],
    ) -> Result<bool, ApiError> {
        #[derive(Deserialize)]
        struct SecretToReplace {
            metadata: ReplacedMetadata,
            #[serde(default)]
            data: BTreeMap<String, String>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ReplacedMetadata {
            resource_version: String,
        }
        let get = ApiCall::secret(Verb::Get, place.namespace, place.name);
        let found: SecretToReplace = self.kubernetes.send(&get).await?.parse(&get)?;
        let held = found
            .data
            .get(place.key)
            .map(|text| BASE64.decode(text.as_bytes()));
        let Some(Ok(held)) = held.map(|held| held.map(Zeroizing::new)) else {
            return Ok(false);
        };
        let Some(content) = replaced(&held, place.pointer, spent, next) else {
            return Ok(false);
        };
        let body = json!({
            "metadata": {"resourceVersion": found.metadata.resource_version},
            "data": {place.key: BASE64.encode(&content)},
        });
        let patch = patch(place.namespace, place.name, body);
        let answer = self.kubernetes.send(&patch).await?;
        self.kubernetes
            .note_own_write(&patch.resource_version(answer)?);
        Ok(true)
    }
}

impl WriteBack for WriteBackTargets {
    fn prove<'a>(&'a self, origin: &'a SecretOrigin) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(Self::prove(self, origin))
    }

    fn replace<'a>(
        &'a self,
        origin: &'a SecretOrigin,
        spent: &'a [u8],
        next: &'a [u8],
    ) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async move {
            match origin {
                SecretOrigin::File(path) => self.replace_file(path, None, spent, next).await,
                SecretOrigin::FileMember { path, pointer } => {
                    let pointer = Some(pointer.as_str());
                    self.replace_file(path, pointer, spent, next).await
                }
                SecretOrigin::KubernetesSecret {
                    namespace,
                    name,
                    key,
                    pointer,
                } => {
                    let place = KeyPlace {
                        namespace,
                        name,
                        key,
                        pointer: pointer.as_deref(),
                    };
                    self.replace_key(&place, spent, next).await
                }
                // The configuration does not allow other origins.
                SecretOrigin::Env(_)
                | SecretOrigin::Value(_)
                | SecretOrigin::ServiceAccount { .. }
                | SecretOrigin::Job(_) => Ok(false),
            }
        })
    }
}

/// The correction for an output that cannot get its owner does not apply here.
fn of_write_back(failure: Failure, written: &FileDestination) -> Failure {
    if !failure.is(HostCode::FileOwner) {
        return failure;
    }
    let FileDestination {
        path, owner, group, ..
    } = written;
    let message = format!(
        "{} belongs to uid {}, gid {}, and this process (uid {}) may not leave it so; give it to that user and one of its groups, or run as root",
        path.display(),
        owner.unwrap_or_default(),
        group.unwrap_or_default(),
        rustix::process::geteuid().as_raw()
    );
    Failure { message, ..failure }
}

/// A merge patch of a Secret (RFC 7386).
fn patch<'a>(namespace: &'a str, name: &'a str, body: serde_json::Value) -> ApiCall<'a> {
    let mut patch = ApiCall::secret(Verb::Patch, namespace, name);
    patch.content_type = "application/merge-patch+json";
    patch.metadata_only = true;
    patch.query.push(("fieldManager", "evertoken".to_owned()));
    patch.body = Zeroizing::new(body.to_string().into_bytes());
    patch
}

/// A key of a Secret, or a string in its value.
struct KeyPlace<'a> {
    namespace: &'a str,
    name: &'a str,
    key: &'a str,
    pointer: Option<&'a str>,
}

/// A file's content, and the owner and mode of its replacement.
async fn read_file(path: &Path) -> Result<(Zeroizing<Vec<u8>>, FileDestination), Failure> {
    let to_read = path.to_owned();
    let read = move || {
        let (file, metadata) = file::open(&to_read)?;
        let destination = FileDestination {
            mode: metadata.mode() & PERMISSION_BITS,
            owner: Some(metadata.uid()),
            group: Some(metadata.gid()),
            replace: Replace::Rename,
            path: to_read,
        };
        let held = file::content(file, &metadata, MAX_SECRET_BYTES + AROUND_MAX)?;
        Ok((held, destination))
    };
    let read = file::aside(path, read).await;
    read.flatten().map_err(|why| unreadable(path, &why))
}

fn unreadable(path: &Path, why: &Unreadable) -> Failure {
    let kind = match why {
        Unreadable::Stuck => FailureKind::Unavailable,
        _ => FailureKind::InvalidConfig,
    };
    let message = format!("cannot read {}: {why}", path.display());
    Failure::new(kind, HostCode::SecretUnreadable, message)
}

/// The content with the spent value replaced, as a whole or at a JSON pointer (RFC 6901), and the rest unchanged byte for byte;
/// none: it has another value.
fn replaced(
    held: &[u8],
    pointer: Option<&str>,
    spent: &[u8],
    next: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let Some(pointer) = pointer else {
        return in_place(held, spent, next);
    };
    let (mark, _) = text::around(held);
    let document = held.get(mark.len()..)?;
    let (place, found) = json_member::string_at(document, pointer).ok()?;
    let next = in_place(found.as_bytes(), spent, next)?;
    let next = Zeroizing::new(serde_json::to_string(std::str::from_utf8(&next).ok()?).ok()?);
    let (before, behind) = (document.get(..place.start)?, document.get(place.end..)?);
    Some(Zeroizing::new(
        [mark, before, next.as_bytes(), behind].concat(),
    ))
}

/// The content with `spent` replaced by `next` between its byte order mark and its line end; none: it has another value. A value
/// that itself begins or ends like these gets one more of them, which readers remove.
fn in_place(held: &[u8], spent: &[u8], next: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (mark, end) = text::around(held);
    let content =
        |mark: &[u8], value: &[u8], end: &[u8]| Zeroizing::new([mark, value, end].concat());
    if *content(mark, spent, end) != held {
        return None;
    }
    let marks = [mark, text::UTF8_MARK].into_iter();
    let around = marks.flat_map(|mark| [end, b"\n", b"\r\n"].map(|end| (mark, end)));
    let mut contents = around.map(|(mark, end)| content(mark, next, end));
    let as_read = contents.find(|content| text::meant(content) == Ok(next));
    Some(as_read.unwrap_or_else(|| content(mark, next, end)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    use super::*;
    use crate::test_support::make_fifo;

    #[test]
    fn a_value_is_replaced_where_it_stands_and_nothing_else_is_touched() {
        let document =
            b"{ \"a\": 1.0e2,\r\n\t\"oauth\": {\"rt\":\"sp\\u0065nt\", \"x\": [true], \"x\": 2}}\n";
        let next =
            b"{ \"a\": 1.0e2,\r\n\t\"oauth\": {\"rt\":\"n\\\"xt\", \"x\": [true], \"x\": 2}}\n";
        for (held, pointer, expected) in [
            (&b"spent"[..], None, Some(&b"n\"xt"[..])),
            (b"spent\n", None, Some(b"n\"xt\n")),
            (b"spent\r\n", None, Some(b"n\"xt\r\n")),
            (b"\xef\xbb\xbfspent\n", None, Some(b"\xef\xbb\xbfn\"xt\n")),
            (b"spent\n\n", None, None),
            (b"another", None, None),
            (
                br#"{"rt":"spent\n"}"#,
                Some("/rt"),
                Some(br#"{"rt":"n\"xt\n"}"#),
            ),
            (document, Some("/oauth/rt"), Some(next)),
            (
                b"\xef\xbb\xbf[\"spent\"]",
                Some("/0"),
                Some(b"\xef\xbb\xbf[\"n\\\"xt\"]"),
            ),
            (document, Some("/oauth/x"), None),
            (document, Some("/absent"), None),
            (b"{\"a\":\"spent\",\"a\":\"newer\"}", Some("/a"), None),
            (b"not json", Some("/a"), None),
        ] {
            let found = replaced(held, pointer, b"spent", b"n\"xt");
            assert_eq!(found.as_deref().map(Vec::as_slice), expected);
        }
    }

    #[test]
    fn what_is_put_back_is_read_as_the_value_that_it_is() {
        for held in [
            "spent",
            "spent\n",
            "spent\r\n",
            "\u{feff}spent\n",
            "{\"rt\":\"spent\"}",
        ] {
            for next in [
                "next",
                "next\n",
                "next\r\n",
                "next\r",
                "next\n\n",
                "\u{feff}next",
                "\u{feff}next\n",
            ] {
                let pointer = held.starts_with('{').then_some("/rt");
                let read = |content: &[u8]| match pointer {
                    None => text::meant(content).unwrap().to_vec(),
                    Some(pointer) => {
                        let (_, found) = json_member::string_at(content, pointer).unwrap();
                        text::meant(found.as_bytes()).unwrap().to_vec()
                    }
                };
                let content = replaced(held.as_bytes(), pointer, b"spent", next.as_bytes());
                let content = content.unwrap();
                assert_eq!(read(&content), next.as_bytes(), "{held:?} {next:?}");
                let later = replaced(&content, pointer, next.as_bytes(), b"later").unwrap();
                assert_eq!(read(&later), b"later", "{held:?} {next:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_member_of_a_file_is_replaced_and_the_rest_stays_byte_for_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login.json");
        let write_backs = WriteBackTargets::new(Arc::new(Kubernetes::new()));
        let origin = SecretOrigin::FileMember {
            path: path.clone(),
            pointer: "/refresh_token".to_owned(),
        };
        let of = |value: &str| {
            format!("{{\n  \"id\": 12345678901234567890,\n  \"refresh_token\" : \"{value}\"\n}}\n")
        };
        std::fs::write(&path, of("spent")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(write_backs.prove(&origin).await, Ok(()));
        assert_eq!(
            write_backs.replace(&origin, b"spent", b"next").await,
            Ok(true)
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), of("next"));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(
            write_backs.replace(&origin, b"spent", b"later").await,
            Ok(false)
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), of("next"));
    }

    #[tokio::test]
    async fn a_file_keeps_its_mode_and_its_line_end_and_what_a_person_put_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rt");
        let write_backs = WriteBackTargets::new(Arc::new(Kubernetes::new()));
        let origin = SecretOrigin::File(path.clone());
        for (held, expected, replaced) in [
            ("spent", "next", true),
            ("spent\n", "next\n", true),
            ("spent\r\n", "next\r\n", true),
            ("\u{feff}spent\n", "\u{feff}next\n", true),
            ("a new login", "a new login", false),
            ("spent and more", "spent and more", false),
            ("", "", false),
        ] {
            std::fs::write(&path, held).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
            let result = write_backs.replace(&origin, b"spent", b"next").await;
            assert_eq!(result, Ok(replaced), "{held:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o640);
        }
    }

    #[tokio::test]
    async fn what_has_been_put_in_a_homes_place_is_named_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        make_fifo(&at("pipe"));
        symlink("nowhere", at("dangling")).unwrap();
        std::fs::File::create(at("sparse"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let write_backs = WriteBackTargets::new(Arc::new(Kubernetes::new()));
        for (path, said) in [
            (at("pipe"), "it is a pipe"),
            ("/dev/zero".into(), "it is a device"),
            (at(""), "it is a directory"),
            (at("dangling"), "it is a symbolic link to nowhere"),
            (at("sparse"), "it has more than"),
            (at("missing"), "it does not exist"),
        ] {
            let origin = SecretOrigin::File(path.clone());
            // More often than there are threads.
            for _ in 0..3 {
                let replaced = write_backs.replace(&origin, b"spent", b"next");
                let replaced = tokio::time::timeout(Duration::from_secs(20), replaced).await;
                let failure = replaced.expect("it waits").unwrap_err();
                assert_eq!(failure.code(), Some("secret.unreadable"));
                let message = format!("cannot read {}: {said}", path.display());
                assert!(failure.message.starts_with(&message), "{failure}");
            }
        }
    }
}
