//! The sources of secrets' values: file, environment, configuration, Kubernetes, another job. Read anew for every call, so that a
//! changed value is used at the next refresh.

use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use futures_core::future::BoxFuture;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use zeroize::Zeroizing;

use super::string_at;
use crate::capability::environment::Environment;
use crate::capability::keep::Keeper;
use crate::file::{self, Unreadable};
use crate::json_member::NoText;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::time::Timestamp;
use crate::model::{Job, JobId, SecretOrigin};
use crate::text::{self, STORE_WITHOUT, kind_of_oddity};

/// The largest secret, in bytes: the limit of Kubernetes for a whole Secret. Keys and tokens have a few KiB.
pub const MAX_SECRET_BYTES: usize = 1024 * 1024;

/// The shortest lifetime that the API server grants a requested token.
const MIN_TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// The port to a cluster, implemented in `kubernetes`; a failure's message names the object, the refused verb and the correction,
/// never the value.
pub trait ClusterSecrets: Send + Sync {
    /// The value of one key in `data` of a Secret, decoded from base64.
    ///
    /// Failures: `secret.not-found` (invalid-config) for a missing Secret or key; `kubernetes.forbidden` (denied) for a
    /// 403, with the RBAC rule to add; `kubernetes.unavailable` (unavailable) when the API server does not answer.
    fn get_secret_key<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<SecretSlice<u8>, Failure>>;

    /// A token of a ServiceAccount by TokenRequest (`authentication.k8s.io/v1`). No `audiences`: the API server's default.
    ///
    /// Failures: as for [`ClusterSecrets::get_secret_key`].
    fn request_token<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        audiences: &'a [String],
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<SecretString, Failure>>;
}

/// Writes a rotating secret back to the user's own file or Secret.
pub trait WriteBack: Send + Sync {
    /// Replaces `spent` by `next` in its place, and nothing else. Returns whether `spent` was there.
    ///
    /// # Errors
    /// The place can be neither read nor written; its content is unchanged.
    fn replace<'a>(
        &'a self,
        origin: &'a SecretOrigin,
        spent: &'a [u8],
        next: &'a [u8],
    ) -> BoxFuture<'a, Result<bool, Failure>>;

    /// Checks that a value could be written there, without writing it.
    ///
    /// # Errors
    /// Why it could not.
    fn prove<'a>(&'a self, origin: &'a SecretOrigin) -> BoxFuture<'a, Result<(), Failure>>;
}

/// The sources that values are read from.
pub(in crate::capability) struct Providers<'a> {
    pub(in crate::capability) environment: &'a Environment,
    pub(in crate::capability) keeper: &'a dyn Keeper,
    pub(in crate::capability) kubernetes: Option<&'a dyn ClusterSecrets>,
    pub(in crate::capability) now: Timestamp,
}

/// The configured value of the job's secret `name`; never empty.
pub(in crate::capability) async fn fetch(
    providers: &Providers<'_>,
    job: &Job,
    name: &str,
    origin: &SecretOrigin,
) -> Result<SecretSlice<u8>, Failure> {
    let of = SecretRef {
        job: &job.id,
        name,
        origin,
    };
    let value = match origin {
        SecretOrigin::File(path) => from_file(&of, path).await,
        SecretOrigin::FileMember { path, pointer } => {
            let content = from_file(&of, path).await?;
            of.member(&content, pointer)
        }
        SecretOrigin::Env(variable) => environment(&of, variable, providers.environment),
        SecretOrigin::Value(value) => of.meant(value.expose().as_bytes()),
        SecretOrigin::KubernetesSecret {
            namespace,
            name,
            key,
            pointer,
        } => {
            let cluster = of.cluster(providers.kubernetes)?;
            let value = cluster.get_secret_key(namespace, name, key).await;
            let value = value.map_err(|failure| of.named(failure))?;
            let value = of.meant(value.expose_secret())?;
            match pointer {
                Some(pointer) => of.member(&value, pointer),
                None => Ok(value),
            }
        }
        SecretOrigin::ServiceAccount {
            namespace,
            name,
            audiences,
            lifetime,
        } => {
            let cluster = of.cluster(providers.kubernetes)?;
            if *lifetime < MIN_TOKEN_LIFETIME {
                return Err(of.invalid(
                    HostCode::SecretLifetime,
                    &format!(
                        "a lifetime of {} s is below the API server's least, {} s",
                        lifetime.as_secs(),
                        MIN_TOKEN_LIFETIME.as_secs()
                    ),
                ));
            }
            let token = cluster
                .request_token(namespace, name, audiences, *lifetime)
                .await;
            Ok(bytes_of(&token.map_err(|failure| of.named(failure))?))
        }
        SecretOrigin::Job(other) => token_of(&of, other, providers).await,
    }?;
    of.check(value)
}

fn bytes_of(text: &SecretString) -> SecretSlice<u8> {
    SecretSlice::from(text.expose_secret().as_bytes().to_vec())
}

/// A job's secret, for messages.
struct SecretRef<'a> {
    job: &'a JobId,
    name: &'a str,
    origin: &'a SecretOrigin,
}

impl SecretRef<'_> {
    fn invalid(&self, code: HostCode, what: &str) -> Failure {
        self.failure(FailureKind::InvalidConfig, code, what)
    }

    fn failure(&self, kind: FailureKind, code: HostCode, what: &str) -> Failure {
        self.named(Failure::new(kind, code, what))
    }

    /// A failure that says which secret it is about.
    fn named(&self, failure: Failure) -> Failure {
        let Self { job, name, .. } = self;
        Failure {
            message: format!("secret `{name}` of job `{job}`: {}", failure.message),
            ..failure
        }
    }

    /// The value without a byte order mark and a trailing line end.
    fn meant(&self, written: &[u8]) -> Result<SecretSlice<u8>, Failure> {
        text::meant(written)
            .map(|meant| SecretSlice::from(meant.to_vec()))
            .map_err(|error| self.unusable(HostCode::SecretMalformed, &error.to_string()))
    }

    /// A failure about the content of its place.
    fn unusable(&self, code: HostCode, what: &str) -> Failure {
        self.invalid(code, &format!("{}: {what}", self.origin))
    }

    fn check(&self, value: SecretSlice<u8>) -> Result<SecretSlice<u8>, Failure> {
        match value.expose_secret().len() {
            0 => return Err(self.unusable(HostCode::SecretEmpty, "it is empty")),
            len if len > MAX_SECRET_BYTES => return Err(self.too_large()),
            _ => {}
        }
        // The calling plugin sees this message, too.
        match kind_of_oddity(self.name, value.expose_secret()) {
            Some(oddity) => {
                let what = format!("{oddity}; {STORE_WITHOUT}");
                Err(self.unusable(HostCode::SecretMalformed, &what))
            }
            None => Ok(value),
        }
    }

    /// The string at a JSON pointer in a document.
    fn member(
        &self,
        document: &SecretSlice<u8>,
        pointer: &str,
    ) -> Result<SecretSlice<u8>, Failure> {
        let found = string_at(document.expose_secret(), pointer).map_err(|why| {
            let mend = match why {
                NoText::NotJson { .. } => "put JSON there, or remove `pointer`",
                NoText::Nothing | NoText::Other => "correct `pointer`",
            };
            self.unusable(HostCode::SecretNoSuchPart, &format!("{why}; {mend}"))
        })?;
        self.meant(found.expose_secret())
    }

    fn too_large(&self) -> Failure {
        self.unusable(
            HostCode::SecretTooLarge,
            &format!("it has more than {MAX_SECRET_BYTES} bytes, the most that a secret may have"),
        )
    }

    fn cluster<'k>(
        &self,
        kubernetes: Option<&'k dyn ClusterSecrets>,
    ) -> Result<&'k dyn ClusterSecrets, Failure> {
        kubernetes.ok_or_else(|| {
            self.invalid(
                HostCode::SecretNoCluster,
                "no Kubernetes cluster is configured; run in a pod or set KUBECONFIG",
            )
        })
    }
}

async fn from_file(of: &SecretRef<'_>, path: &Path) -> Result<SecretSlice<u8>, Failure> {
    let why = match file::read_aside(path, MAX_SECRET_BYTES).await {
        Ok(bytes) => return of.meant(&bytes),
        Err(why) => why,
    };
    let shown = path.display();
    Err(match why {
        Unreadable::TooLong(_) => {
            of.invalid(HostCode::SecretTooLarge, &format!("file {shown}: {why}"))
        }
        Unreadable::Missing => of.invalid(
            HostCode::SecretNotFound,
            &format!(
                "file {shown} does not exist; create it or correct `source.secrets.{}.file`",
                of.name
            ),
        ),
        why => {
            let (kind, code) = match why {
                Unreadable::Dangling(_) => (FailureKind::InvalidConfig, HostCode::SecretNotFound),
                Unreadable::Stuck => (FailureKind::Unavailable, HostCode::SecretUnreadable),
                _ => (FailureKind::InvalidConfig, HostCode::SecretUnreadable),
            };
            of.failure(kind, code, &format!("file {shown} cannot be read: {why}"))
        }
    })
}

fn environment(
    of: &SecretRef<'_>,
    variable: &str,
    environment: &Environment,
) -> Result<SecretSlice<u8>, Failure> {
    let value = environment(variable).ok_or_else(|| {
        of.invalid(
            HostCode::SecretNotFound,
            &format!(
                "environment variable {variable} is not set; set it or correct `source.secrets.{}.env`",
                of.name
            ),
        )
    })?;
    of.meant(&Zeroizing::new(value.into_vec()))
}

/// The job of this name in the namespace of `job`.
pub(in crate::capability) fn beside(job: &JobId, other: &str) -> JobId {
    JobId {
        name: other.to_owned(),
        uid: None,
        ..job.clone()
    }
}

async fn token_of(
    of: &SecretRef<'_>,
    other: &str,
    providers: &Providers<'_>,
) -> Result<SecretSlice<u8>, Failure> {
    let id = beside(of.job, other);
    let waiting =
        |what: &str| of.failure(FailureKind::Unavailable, HostCode::SecretJobPending, what);
    let kept = providers
        .keeper
        .token(&id)
        .await?
        .ok_or_else(|| waiting(&format!("job `{other}` has no token yet")))?;
    if kept.expires_at.is_some_and(|at| at <= providers.now) {
        return Err(waiting(&format!("the token of job `{other}` has expired")));
    }
    Ok(bytes_of(&kept.token.value))
}
