//! Sinks: the places from which consumers read tokens. Content is published atomically, and not written again if it is there
//! already. The content is made by formats.

mod file;
mod secret;
mod write_back;

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::kubernetes::Kubernetes;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::time::Timestamp;
use crate::model::token::Artifact;
use crate::model::{Destination, JobId, NamedPlaces};

pub use write_back::WriteBackTargets;

/// The longest artifact name: the limit of Secret keys; file systems allow two bytes more.
const ARTIFACT_NAME_MAX_BYTES: usize = 253;

/// The content of one output.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// The job of the output. An output of several jobs has an owner of its own here, different from every job.
    pub job: &'a JobId,
    /// The output's position among those of the job: two outputs of a job own different keys of a Secret.
    pub output_index: usize,
    /// One without a name, or any number with names.
    pub artifacts: &'a [Artifact],
    /// When the first of its tokens expires; none: never.
    pub expires_at: Option<Timestamp>,
    /// When the first of its jobs' sources is asked next; none: it is not known.
    pub next_refresh: Option<Timestamp>,
}

/// The owner of outputs that several jobs share. No job can have this name: job names consist of letters, digits and `.-_`.
#[must_use]
pub fn shared_owner() -> JobId {
    JobId::file("+shared")
}

/// The effect of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The destination has changed.
    Changed,
    /// The destination had the content already.
    Unchanged,
}

/// What became of an output that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    /// It is deleted.
    Deleted,
    /// It was gone already.
    Gone,
    /// It stays: this process did not write what is there.
    Foreign,
}

/// All sinks of a process.
#[derive(Debug)]
pub struct Outputs {
    files: file::Files,
    secrets: secret::SecretOutputs,
    named: CurrentPlaces,
}

/// The places that the configuration names, as of now.
type CurrentPlaces = Arc<ArcSwap<NamedPlaces>>;

impl Outputs {
    /// Sinks that reach Secrets through `kubernetes`. `named`: the places with another use in the configuration, which formats
    /// must not overwrite.
    #[must_use]
    pub fn new(kubernetes: Arc<Kubernetes>, named: Arc<NamedPlaces>) -> Self {
        let named = Arc::new(ArcSwap::new(named));
        Self {
            files: file::Files::new(Arc::clone(&named)),
            secrets: secret::SecretOutputs::new(kubernetes, Arc::clone(&named)),
            named,
        }
    }

    /// Changes the places with another use, for writes that begin from now on.
    pub fn set_named(&self, named: Arc<NamedPlaces>) {
        self.named.store(named);
    }

    /// Writes a publication, unless it is in place. A file is looked at each time. A Secret costs one request, or none if this process
    /// wrote the same before; with `verify` always one, which changes nothing if nothing is wrong.
    ///
    /// # Errors
    /// The destination's refusal; its old content is in place then. With several artifacts, files already replaced stay so.
    pub async fn write(
        &self,
        destination: &Destination,
        publication: &Publication<'_>,
        verify: bool,
    ) -> Result<Written, Failure> {
        check(publication.artifacts)?;
        match destination {
            Destination::File(file) => self.files.write(file, publication.artifacts).await,
            Destination::Secret(secret) => self.secrets.write(secret, publication, verify).await,
        }
    }

    /// Deletes a publication: a file if it still has this content, and the keys of a Secret. A Secret that evertoken created and that has
    /// no key left is deleted, if the process may do that.
    ///
    /// # Errors
    /// The destination's refusal.
    pub async fn withdraw(
        &self,
        destination: &Destination,
        publication: &Publication<'_>,
    ) -> Result<Withdrawn, Failure> {
        match destination {
            Destination::File(file) => self.files.withdraw(file, publication.artifacts).await,
            Destination::Secret(secret) => self.secrets.withdraw(secret, publication).await,
        }
    }

    /// Checks that a publication could be written, by all of a write that leaves nothing behind: a temporary file beside the
    /// target, a dry run on the API server. The artifacts are placeholders; none: the format's artifacts are unknown.
    ///
    /// # Errors
    /// As [`Outputs::write`].
    pub async fn prove(
        &self,
        destination: &Destination,
        publication: &Publication<'_>,
    ) -> Result<(), Failure> {
        let known = Some(publication.artifacts).filter(|artifacts| !artifacts.is_empty());
        if let Some(artifacts) = known {
            check(artifacts)?;
        }
        let secret = match destination {
            Destination::File(file) => return self.files.prove(file, known).await,
            Destination::Secret(secret) => secret,
        };
        match known {
            Some(_) => self.secrets.prove(secret, publication).await,
            None => {
                let any = Artifact {
                    name: String::new(),
                    content: ANY_CONTENT.to_vec().into(),
                };
                let publication = Publication {
                    artifacts: &[any],
                    ..*publication
                };
                self.secrets.prove(secret, &publication).await
            }
        }
    }
}

/// What a successful check has shown, for people.
#[must_use]
pub fn proved_by(destination: &Destination) -> String {
    match destination {
        Destination::File(file) => format!("file {} can be written", file.path.display()),
        Destination::Secret(secret) => format!(
            "Secret {}/{} can be written (dry run)",
            secret.namespace, secret.name
        ),
    }
}

/// Placeholder content for an unknown artifact, valid for a Secret of nearly every type.
const ANY_CONTENT: &[u8] = b"{}";

/// The failure of a format that named an artifact like a place that has another use.
fn taken(name: &str, place: &str) -> Failure {
    Failure::new(
        FailureKind::InvalidConfig,
        HostCode::OutputTaken,
        format!(
            "the format named an artifact `{name}`, and the configuration has another use for {place}; give this output a place of its own"
        ),
    )
}

/// Checks artifact names, which become file names and Secret keys: one component of `[A-Za-z0-9._-]`, each once.
fn check(artifacts: &[Artifact]) -> Result<(), Failure> {
    let invalid =
        |code, message: String| Err(Failure::new(FailureKind::InvalidConfig, code, message));
    match artifacts {
        [] => {
            return invalid(
                HostCode::OutputEmpty,
                "the format made no artifact, so there is nothing to write".to_owned(),
            );
        }
        [only] if only.name.is_empty() => return Ok(()),
        _ => {}
    }
    let mut names = BTreeSet::new();
    for Artifact { name, .. } in artifacts {
        if name.is_empty() {
            return invalid(
                HostCode::OutputArtifactName,
                "the format made several artifacts, and one of them has no name".to_owned(),
            );
        }
        if !is_one_component(name) {
            return invalid(
                HostCode::OutputArtifactName,
                format!(
                    "the format named an artifact `{}`; a name is at most {ARTIFACT_NAME_MAX_BYTES} of `A-Z a-z 0-9 . _ -`, and neither `.` nor begins with `..`",
                    name.escape_debug()
                ),
            );
        }
        if !names.insert(name) {
            return invalid(
                HostCode::OutputArtifactName,
                format!("the format named two artifacts `{name}`"),
            );
        }
    }
    Ok(())
}

/// Kubernetes' rule for Secret keys, which is stricter than file systems'.
fn is_one_component(name: &str) -> bool {
    name.len() <= ARTIFACT_NAME_MAX_BYTES
        && name != "."
        && !name.starts_with("..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_one_without_a_name_or_several_with_different_ones() {
        for (names, ok) in [
            (&[""][..], true),
            (&["tls.crt"], true),
            (&["tls.crt", "tls.key", ".hidden", "a_b-c"], true),
            (&[], false),
            (&["", ""], false),
            (&["a", ""], false),
            (&["a", "a"], false),
            (&["a/b"], false),
            (&["."], false),
            (&[".."], false),
            (&["..data"], false),
            (&["ä"], false),
            (&["a b"], false),
            (&["a\0"], false),
            (&[&"x".repeat(253)], true),
            (&[&"x".repeat(254)], false),
        ] {
            let artifacts: Vec<Artifact> = names
                .iter()
                .map(|name| Artifact {
                    name: (*name).to_owned(),
                    content: b"x".to_vec().into(),
                })
                .collect();
            assert_eq!(check(&artifacts).is_ok(), ok, "{names:?}");
        }
    }
}
