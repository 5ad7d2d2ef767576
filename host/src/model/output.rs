//! The outputs of jobs: destinations and formats.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::JobId;

/// A destination and the format of the token there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The destination.
    pub destination: Destination,
    /// The formatter; none: the bare token, no newline.
    pub format: Option<Format>,
}

/// An output that several jobs' tokens share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedOutput {
    /// The jobs, in the order in which the formatter gets their tokens. Written once all have one.
    pub from: Vec<JobId>,
    /// Destination and format.
    pub output: Output,
    /// What becomes of it when it is taken out of the configuration while the process runs.
    pub on_remove: OnRemove,
}

/// What becomes of an output that the configuration has no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRemove {
    /// It stays as it is: consumers read the last token until it expires.
    #[default]
    Keep,
    /// It is deleted.
    Delete,
}

/// A formatter plugin and its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// A built-in plugin's name, or a key of [`Config::plugins`](super::Config::plugins).
    pub plugin: String,
    /// The plugin's own configuration, a JSON object.
    pub config: serde_json::Value,
}

/// A place that consumers read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file, or a directory's files when the format makes several.
    File(FileDestination),
    /// A key of a Kubernetes Secret, or several.
    Secret(SecretDestination),
}

impl Destination {
    /// The name of its kind in metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Secret(_) => "secret",
        }
    }

    /// Whether a write is a request to an API server.
    #[must_use]
    pub const fn is_in_cluster(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Secret(_) => true,
        }
    }
}

/// The place, for people.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.path.display()),
            Self::Secret(SecretDestination {
                namespace,
                name,
                key,
                ..
            }) => write!(f, "{namespace}/{name}/{key}"),
        }
    }
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDestination {
    /// Absolute.
    pub path: PathBuf,
    /// Permission bits, e.g. `0o400`.
    pub mode: u32,
    /// Owner uid; none: the process's own.
    pub owner: Option<u32>,
    /// Group gid; none: the process's own.
    pub group: Option<u32>,
    /// How its content is replaced.
    pub replace: Replace,
}

/// How a file's content is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replace {
    /// By a rename, which is atomic: a reader sees the old content or the new.
    #[default]
    Rename,
    /// By writing over the existing file, for one that cannot be replaced: a single file that is bind-mounted.
    InPlace,
}

/// A Kubernetes Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretDestination {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key, where the format has one unnamed artifact.
    pub key: String,
    /// Whether it is created when missing.
    pub create: bool,
    /// `type`; none: never sent.
    pub secret_type: Option<String>,
    /// Labels to set.
    pub labels: BTreeMap<String, String>,
    /// Annotations to set.
    pub annotations: BTreeMap<String, String>,
    /// How it is written.
    pub write: SecretWrite,
    /// The token is a member of JSON in the key; none: it is the key's value.
    pub member: Option<Box<TokenMember>>,
}

/// A token in an annotated Secret: a member of the JSON in a key, and a plain key beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMember {
    /// The uid of the Secret: another one of the same name gets nothing.
    pub uid: String,
    /// The JSON pointer (RFC 6901) to the member.
    pub pointer: String,
    /// The key that gets the token alone.
    pub plain_key: String,
}

/// How a Secret is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretWrite {
    /// One PATCH: server-side apply with `create`, a merge patch without.
    Patch,
    /// GET and PUT with resourceVersion, POST when absent: for Roles without `patch`, as kube-token-refresher documents.
    GetAndPut,
}
