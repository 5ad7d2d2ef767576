//! Secrets as plugins hold them: handles with a lineage that says what may be done with the value. Where values come from
//! is in `provider`; that a handle's restrictions outlive every operation on it is decided here.

mod provider;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::encoding::Encoding;
use crate::config::model::{Job, Secret};
use crate::config::origin::Origin;
use crate::failure::{Failure, FailureKind};

pub(crate) use provider::oddity;
pub use provider::{Home, Kubernetes, MAX_SECRET_BYTES};
pub(super) use provider::{Providers, fetch};

/// Where a value may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere the job may send requests: it holds no secret of the job.
    Anywhere,
    /// To these origins.
    Only(BTreeSet<Origin>),
}

impl Reach {
    /// Whether `origin` is within.
    #[must_use]
    pub fn allows(&self, origin: &Origin) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Only(origins) => origins.contains(origin),
        }
    }

    fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Anywhere, reach) | (reach, Self::Anywhere) => reach.clone(),
            (Self::Only(a), Self::Only(b)) => Self::Only(a.intersection(b).cloned().collect()),
        }
    }

    /// Whether every origin of `other` is within.
    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anywhere, _) => true,
            (Self::Only(_), Self::Anywhere) => false,
            (Self::Only(mine), Self::Only(theirs)) => theirs.is_subset(mine),
        }
    }
}

/// Which secrets a value is made of, and what they allow together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    names: BTreeSet<String>,
    rotating: BTreeMap<String, u64>,
    revealable: bool,
    reach: Reach,
}

impl Lineage {
    /// Of text alone: a plugin knows it already.
    fn text() -> Self {
        Self {
            names: BTreeSet::new(),
            rotating: BTreeMap::new(),
            revealable: true,
            reach: Reach::Anywhere,
        }
    }

    /// Of a secret as the job lists it; of a rotating one, this generation.
    fn of(
        job: &Job,
        name: &str,
        secret: &Secret,
        generation: u64,
        endpoints: &BTreeSet<Origin>,
    ) -> Self {
        let reach = match &secret.to {
            Some(to) => to.iter().cloned().collect(),
            None => endpoints.clone(),
        };
        let names = BTreeSet::from([name.to_owned()]);
        Self {
            rotating: if secret.rotating {
                BTreeMap::from([(name.to_owned(), generation)])
            } else {
                BTreeMap::new()
            },
            names,
            revealable: job.source.reveal.contains(name),
            reach: Reach::Only(reach),
        }
    }

    fn join(mut self, other: &Self) -> Self {
        self.names.extend(other.names.iter().cloned());
        for (name, generation) in &other.rotating {
            // Made of two generations, it carries the older one too.
            let oldest = self.rotating.entry(name.clone()).or_insert(*generation);
            *oldest = (*oldest).min(*generation);
        }
        self.revealable &= other.revealable;
        self.reach = self.reach.intersection(&other.reach);
        self
    }

    /// The secrets in the value, by the job's names.
    #[must_use]
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Those of them that their use may replace, each with the generation of its value.
    #[must_use]
    pub fn rotating(&self) -> &BTreeMap<String, u64> {
        &self.rotating
    }

    /// Whether the plugin may read the value: every secret in it is listed under `reveal`.
    #[must_use]
    pub fn revealable(&self) -> bool {
        self.revealable
    }

    /// Where the value may be sent: the origins that all its secrets share.
    #[must_use]
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// The names as a message quotes them.
    fn quoted(&self) -> String {
        let quoted: Vec<_> = self.names.iter().map(|name| format!("`{name}`")).collect();
        match quoted.as_slice() {
            [] => "the value".to_owned(),
            [one] => format!("secret {one}"),
            several => format!("the value made of {}", several.join(", ")),
        }
    }
}

/// A value to use, not to read. Cheap to clone; the bytes are wiped with the last clone.
#[derive(Clone)]
pub struct SecretHandle(Arc<Inner>);

struct Inner {
    bytes: SecretSlice<u8>,
    lineage: Lineage,
}

/// Neither the value nor its length.
impl fmt::Debug for SecretHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretHandle")
            .field("names", &self.0.lineage.names)
            .finish_non_exhaustive()
    }
}

impl SecretHandle {
    fn new(bytes: SecretSlice<u8>, lineage: Lineage) -> Self {
        Self(Arc::new(Inner { bytes, lineage }))
    }

    /// A handle to a secret of the job.
    pub(super) fn opened(
        bytes: SecretSlice<u8>,
        job: &Job,
        name: &str,
        secret: &Secret,
        generation: u64,
        endpoints: &BTreeSet<Origin>,
    ) -> Self {
        let lineage = Lineage::of(job, name, secret, generation, endpoints);
        Self::new(bytes, lineage)
    }

    /// What it is made of and what that allows.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.0.lineage
    }

    /// The value, for the host's own use.
    pub(super) fn expose(&self) -> &[u8] {
        self.0.bytes.expose_secret()
    }

    /// SHA-256 of the value, to tell whether it changed; not to be shown, since a short value can be guessed from it.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.expose()).into()
    }

    /// Another value with the same restrictions: what is made of a secret is a secret too.
    pub(super) fn derived(&self, bytes: SecretSlice<u8>) -> Self {
        Self::new(bytes, self.lineage().clone())
    }

    /// This value with the restrictions of `other` beside its own.
    pub(super) fn restricted_by(&self, other: &Self) -> Self {
        let lineage = self.lineage().clone().join(other.lineage());
        Self::new(self.0.bytes.clone(), lineage)
    }

    /// The concatenation of `pieces`, with the restrictions of all of them.
    pub(super) fn join(pieces: &[Piece]) -> Result<Self, Failure> {
        let mut bytes = Zeroizing::new(Vec::new());
        let mut lineage = Lineage::text();
        for piece in pieces {
            match piece {
                Piece::Text(text) => append(&mut bytes, text.as_bytes())?,
                Piece::Secret(secret, encoding) => {
                    append(&mut bytes, &secret.encode(*encoding)?)?;
                    lineage = lineage.join(secret.lineage());
                }
            }
        }
        Ok(Self::new(SecretSlice::from(bytes.to_vec()), lineage))
    }

    fn encode(&self, encoding: Encoding) -> Result<Zeroizing<Vec<u8>>, Failure> {
        encoding.encode(self.expose()).map_err(|error| {
            Failure::new(
                FailureKind::InvalidConfig,
                "secret.encoding",
                format!("{} cannot be encoded: {error}", self.lineage().quoted()),
            )
        })
    }

    /// The value, if every secret in it is listed under `reveal`.
    pub(super) fn reveal(&self) -> Result<&[u8], Failure> {
        if self.lineage().revealable {
            return Ok(self.expose());
        }
        Err(Failure::new(
            FailureKind::InvalidConfig,
            "secret.not-revealed",
            format!(
                "the plugin asked to read {}, which the job does not reveal; if it must, add `reveal: [{}]` under `source`",
                self.lineage().quoted(),
                self.lineage()
                    .names
                    .iter()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        ))
    }

    /// The string at a JSON pointer (RFC 6901).
    pub(super) fn part(&self, pointer: &str) -> Result<Self, Failure> {
        let found = string_at(self.expose(), pointer).map_err(|reason| {
            Failure::new(
                FailureKind::InvalidConfig,
                "secret.no-such-part",
                format!("{} {reason}", self.lineage().quoted()),
            )
        })?;
        Ok(self.derived(found))
    }

    /// The bytes that the value spells in base64, base64url or hex.
    pub(super) fn decode(&self, encoding: Encoding) -> Result<Self, Failure> {
        let bytes = encoding.decode(self.expose()).map_err(|error| {
            Failure::new(
                FailureKind::InvalidConfig,
                "secret.encoding",
                format!("{} cannot be decoded: {error}", self.lineage().quoted()),
            )
        })?;
        Ok(self.derived(bytes))
    }

    /// Whether this value may be kept under `name`: it must not get there what it may not do as itself.
    pub(super) fn may_become(&self, target: &Self) -> bool {
        self.lineage().reach.contains(&target.lineage().reach)
            && (self.lineage().revealable || !target.lineage().revealable)
    }
}

fn append(bytes: &mut Zeroizing<Vec<u8>>, more: &[u8]) -> Result<(), Failure> {
    let len = bytes.len().saturating_add(more.len());
    if len > MAX_SECRET_BYTES {
        return Err(Failure::new(
            FailureKind::Internal,
            "secret.too-large",
            format!("the plugin joined a value of more than {MAX_SECRET_BYTES} bytes"),
        ));
    }
    if len > bytes.capacity() {
        // Growing in place would leave the old buffer behind unwiped.
        let mut grown = Zeroizing::new(Vec::with_capacity(len.saturating_mul(2)));
        grown.extend_from_slice(bytes);
        std::mem::swap(bytes, &mut grown);
    }
    bytes.extend_from_slice(more);
    Ok(())
}

/// The string at `pointer` in a JSON document. The reason for a failure names the pointer, never the content.
pub(super) fn string_at(document: &[u8], pointer: &str) -> Result<SecretSlice<u8>, String> {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return Err(format!(
            "has no part `{pointer}`: a JSON pointer (RFC 6901) starts with `/`"
        ));
    }
    let mut json: serde_json::Value = serde_json::from_slice(document)
        .map_err(|_| "is not JSON, so it has no parts".to_owned())?;
    let found = match json.pointer(pointer) {
        Some(serde_json::Value::String(text)) => Ok(SecretSlice::from(text.as_bytes().to_vec())),
        Some(_) => Err(format!("has something other than a string at `{pointer}`")),
        None => Err(format!("has nothing at `{pointer}`")),
    };
    wipe(&mut json);
    found
}

fn wipe(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::String(text) => text.zeroize(),
        serde_json::Value::Array(items) => items.iter_mut().for_each(wipe),
        serde_json::Value::Object(members) => members.values_mut().for_each(wipe),
        _ => {}
    }
}

/// A value that a plugin passes: its own, or a handle's.
#[derive(Clone)]
pub enum Value {
    /// The plugin's own text.
    Text(String),
    /// The plugin's own bytes.
    Bytes(Vec<u8>),
    /// What a handle stands for.
    Secret(SecretHandle),
}

/// A plugin's own text may hold a revealed secret: it is not shown.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text([redacted])"),
            Self::Bytes(_) => f.write_str("Bytes([redacted])"),
            Self::Secret(secret) => f.debug_tuple("Secret").field(secret).finish(),
        }
    }
}

impl Value {
    /// The bytes, for the host's own use.
    pub(super) fn expose(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
            Self::Secret(secret) => secret.expose(),
        }
    }

    /// The handle, if it is one.
    #[must_use]
    pub fn secret(&self) -> Option<&SecretHandle> {
        match self {
            Self::Secret(secret) => Some(secret),
            Self::Text(_) | Self::Bytes(_) => None,
        }
    }
}

/// A piece of a value to join.
#[derive(Clone)]
pub enum Piece {
    /// The plugin's own text.
    Text(String),
    /// A secret in a spelling.
    Secret(SecretHandle, Encoding),
}

/// As [`Value`]'s.
impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text([redacted])"),
            Self::Secret(secret, encoding) => f
                .debug_tuple("Secret")
                .field(secret)
                .field(encoding)
                .finish(),
        }
    }
}
