//! Secrets as plugins hold them: handles with a lineage that decides what may be done with the value. Values are read in
//! `provider`; here is decided that a handle's restrictions survive every operation on it.

mod provider;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};
use zeroize::Zeroizing;

use super::encoding::Encoding;
use crate::json_member::{self, NoText};
use crate::model::Origin;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::{Job, Secret};
use crate::worker;

pub use provider::{ClusterSecrets, MAX_SECRET_BYTES, WriteBack};
pub(super) use provider::{Providers, beside, fetch};

/// Joining a piece takes as long as encoding so many bytes, however short it is, since the restrictions of all pieces are joined
/// too.
const BYTES_PER_PIECE: usize = 256;

/// Where a value may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere the job may send requests: it contains no secret of the job.
    Anywhere,
    /// To these origins.
    Only(BTreeSet<Origin>),
}

impl Reach {
    /// Whether the value may be sent to `origin`.
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

    /// Whether it allows every origin of `other`.
    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anywhere, _) => true,
            (Self::Only(_), Self::Anywhere) => false,
            (Self::Only(mine), Self::Only(theirs)) => theirs.is_subset(mine),
        }
    }
}

/// How a value was made. Parsing a value or using it as a key reveals something about its content; for a value that a plugin
/// composed, that would confirm or refute a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Opened, or a part or a decoding of what was opened.
    Whole,
    /// Text and secrets concatenated. Also a rotating secret, which a plugin may have composed in an earlier call.
    Joined,
    /// A digest, a signature or a MAC, or one joined raw: its bytes are arbitrary, so an encoding that accepts only some values
    /// would reveal something about them.
    Computed,
}

/// The secrets that a value was made from, and the restrictions that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    make: Make,
    names: BTreeSet<String>,
    rotating: BTreeMap<String, u64>,
    revealable: bool,
    reach: Reach,
}

impl Lineage {
    /// Of text alone, which the plugin knows already.
    fn text() -> Self {
        Self {
            make: Make::Joined,
            names: BTreeSet::new(),
            rotating: BTreeMap::new(),
            revealable: true,
            reach: Reach::Anywhere,
        }
    }

    /// Of a secret as the job lists it; for a rotating one, of this generation.
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
        let (make, rotating) = match secret.rotating {
            true => (
                Make::Joined,
                BTreeMap::from([(name.to_owned(), generation)]),
            ),
            false => (Make::Whole, BTreeMap::new()),
        };
        Self {
            make,
            rotating,
            names: BTreeSet::from([name.to_owned()]),
            revealable: job.source.reveal.contains(name),
            reach: Reach::Only(reach),
        }
    }

    /// Of a value made from both; the caller sets how it was made.
    fn join(mut self, other: &Self) -> Self {
        self.names.extend(other.names.iter().cloned());
        for (name, generation) in &other.rotating {
            // A value made from two generations counts as the older one.
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

    /// Those of them that are rotating, each with the generation of its value.
    #[must_use]
    pub fn rotating(&self) -> &BTreeMap<String, u64> {
        &self.rotating
    }

    /// Whether the plugin may read the value: every secret in it is listed under `reveal`.
    #[must_use]
    pub fn revealable(&self) -> bool {
        self.revealable
    }

    /// Where the value may be sent: the origins that all its secrets allow.
    #[must_use]
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    fn of_all<'a>(secrets: impl IntoIterator<Item = &'a SecretHandle>) -> Self {
        let secrets = secrets.into_iter();
        secrets.fold(Self::text(), |made, secret| made.join(secret.lineage()))
    }

    fn made(self, make: Make) -> Self {
        Self { make, ..self }
    }

    /// Whether the value may be parsed, see [`Make`].
    fn may_be_read_into(&self) -> bool {
        self.revealable || self.make == Make::Whole
    }

    /// Whether it is arbitrary bytes that the plugin may not read.
    #[must_use]
    pub fn is_computed(&self) -> bool {
        !self.revealable && self.make == Make::Computed
    }

    /// The names, quoted for a message.
    pub(super) fn quoted(&self) -> String {
        match self.names.len() {
            0 => "the value".to_owned(),
            1 => format!("secret {}", self.listed()),
            _ => format!("the value made of {}", self.listed()),
        }
    }

    fn listed(&self) -> String {
        let quoted: Vec<_> = self.names.iter().map(|name| format!("`{name}`")).collect();
        quoted.join(", ")
    }
}

/// A value that a plugin can use but not read. Cheap to clone; the bytes are wiped with the last clone.
#[derive(Clone)]
pub struct SecretHandle(Arc<HandleInner>);

struct HandleInner {
    bytes: SecretSlice<u8>,
    lineage: Lineage,
    size: usize,
    /// For a joined value: all parts of it that may not be read.
    made_of: Vec<SecretHandle>,
    /// Whether it is a secret as the job lists it, not derived from one by the plugin.
    is_opened: bool,
}

/// Values that a plugin may not read are counted against limits in steps of this size: otherwise the plugin could find a value's
/// exact length by making requests that are just too large.
const SIZE_STEP: usize = 4096;

/// The size of a value of this length against limits.
fn counted(len: usize, lineage: &Lineage) -> usize {
    if lineage.revealable {
        len
    } else {
        len.max(1).next_multiple_of(SIZE_STEP)
    }
}

/// Neither the value nor its length is shown.
impl fmt::Debug for SecretHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretHandle")
            .field("names", &self.0.lineage.names)
            .finish_non_exhaustive()
    }
}

impl SecretHandle {
    /// A value without parts.
    fn new(bytes: SecretSlice<u8>, lineage: Lineage, is_opened: bool) -> Self {
        let size = counted(bytes.expose_secret().len(), &lineage);
        Self(Arc::new(HandleInner {
            bytes,
            lineage,
            size,
            made_of: Vec::new(),
            is_opened,
        }))
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
        Self::new(bytes, lineage, true)
    }

    /// The secrets it was made from, and its restrictions.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.0.lineage
    }

    /// The value, for the host's own use.
    pub(super) fn expose(&self) -> &[u8] {
        self.0.bytes.expose_secret()
    }

    /// Its size against limits: at least its length, rounded up to a step if it may not be read.
    pub(crate) fn size(&self) -> usize {
        self.0.size
    }

    /// The value itself and, for a joined one, all parts of it that may not be read.
    pub(super) fn ingredients(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.0.made_of)
    }

    /// Whether it is a secret as the job lists it, or a part of one, and not composed by the plugin.
    pub(super) fn is_own(&self) -> bool {
        self.0.is_opened || self.lineage().make == Make::Whole
    }

    /// The same value, marked as composed by the plugin.
    fn put_together(&self) -> Self {
        let bytes = SecretSlice::from(self.expose().to_vec());
        Self::answered(bytes, std::iter::once(self))
    }

    /// Whether both are one handle, or one secret opened twice. Values are not compared: that would reveal which of a plugin's
    /// own compositions are equal.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let are_opened = self.0.is_opened && other.0.is_opened;
        Arc::ptr_eq(&self.0, &other.0)
            || are_opened && self.lineage() == other.lineage() && self.expose() == other.expose()
    }

    /// A part or decoding of this value, with its restrictions and size: what is taken from a secret is a secret too.
    fn taken_out(&self, bytes: SecretSlice<u8>) -> Self {
        let lineage = self.lineage().clone();
        let size = if lineage.revealable {
            bytes.expose_secret().len()
        } else {
            self.size()
        };
        Self(Arc::new(HandleInner {
            bytes,
            lineage,
            size,
            made_of: Vec::new(),
            is_opened: false,
        }))
    }

    /// The result of a computation over these values, with the restrictions of all of them.
    pub(super) fn computed<'a>(
        bytes: SecretSlice<u8>,
        of: impl IntoIterator<Item = &'a Self>,
    ) -> Self {
        Self::new(bytes, Lineage::of_all(of).made(Make::Computed), false)
    }

    /// The text of an answer in which these values were found, with the restrictions of all of them.
    pub(super) fn answered<'a>(
        bytes: SecretSlice<u8>,
        with: impl IntoIterator<Item = &'a Self> + Clone,
    ) -> Self {
        let mut makes = with.clone().into_iter().map(|secret| secret.lineage().make);
        let make = if makes.any(|make| make == Make::Computed) {
            Make::Computed
        } else {
            Make::Joined
        };
        Self::new(bytes, Lineage::of_all(with).made(make), false)
    }

    /// The concatenation of `pieces`, with the restrictions of all of them.
    pub(super) fn join(pieces: &[Piece]) -> Result<Self, Failure> {
        let sizes = pieces.iter().map(Piece::size);
        let size = sizes.fold(0, usize::saturating_add);
        if size > MAX_SECRET_BYTES {
            return Err(too_large());
        }
        let work = pieces.iter().map(Piece::work);
        let work = work.fold(0, usize::saturating_add);
        worker::aside_if_large(work, || Self::joined(pieces, size))
    }

    fn joined(pieces: &[Piece], size: usize) -> Result<Self, Failure> {
        // At its final capacity: growing would leave the old buffer behind unwiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        let mut lineage = Lineage::text();
        let mut made_of = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => bytes.extend_from_slice(text.as_bytes()),
                Piece::Secret(secret, encoding) => {
                    bytes.extend_from_slice(&secret.encode(*encoding)?);
                    let make = match (lineage.make, secret.lineage().make, encoding) {
                        (Make::Computed, ..) | (_, Make::Computed, Encoding::Raw) => Make::Computed,
                        _ => Make::Joined,
                    };
                    lineage = lineage.join(secret.lineage()).made(make);
                    if !secret.lineage().revealable {
                        made_of.extend(secret.ingredients().cloned());
                        if encoding.hides() && secret.is_own() {
                            // Decoding it finds the value where the plugin put it.
                            made_of.push(secret.put_together());
                        }
                    }
                }
            }
        }
        let size = if lineage.revealable {
            bytes.len()
        } else {
            size
        };
        Ok(Self(Arc::new(HandleInner {
            bytes: SecretSlice::from(bytes.to_vec()),
            lineage,
            size,
            made_of,
            is_opened: false,
        })))
    }

    fn encode(&self, encoding: Encoding) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let unspellable = |why: &str| {
            Failure::new(
                FailureKind::InvalidConfig,
                HostCode::SecretEncoding,
                format!("{} cannot be encoded: {why}", self.lineage().quoted()),
            )
        };
        if self.lineage().is_computed() && encoding.is_partial() {
            return Err(unspellable(
                "a digest, signature or MAC is no text; spell it in base64 or hex first",
            ));
        }
        encoding
            .encode(self.expose())
            .map_err(|error| unspellable(&error.to_string()))
    }

    /// Required of values that are parsed: they must be whole, or readable by the plugin.
    ///
    /// # Errors
    /// `secret.not-whole`.
    pub(super) fn must_be_whole(&self, purpose: &str) -> Result<(), Failure> {
        if self.lineage().may_be_read_into() {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::InvalidConfig,
            HostCode::SecretNotWhole,
            format!(
                "the plugin made {} itself, or may have, and {purpose}; that takes a secret that the job lists without `rotating: true`, or a part or decoding of one",
                self.lineage().quoted()
            ),
        ))
    }

    /// A failure that names the secret it is about.
    pub(super) fn named(&self, failure: Failure) -> Failure {
        Failure {
            message: format!("{}: {}", self.lineage().quoted(), failure.message),
            ..failure
        }
    }

    /// The value, if every secret in it is listed under `reveal`.
    pub(super) fn reveal(&self) -> Result<&[u8], Failure> {
        if self.lineage().revealable {
            return Ok(self.expose());
        }
        Err(Failure::new(
            FailureKind::InvalidConfig,
            HostCode::SecretNotRevealed,
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

    /// The string at a JSON pointer (RFC 6901). The reasons for its absence are not distinguished: whether a value is JSON would
    /// reveal something about it.
    pub(super) fn part(&self, pointer: &str) -> Result<Self, Failure> {
        self.must_be_whole("asked for a part of it")?;
        let found = string_at(self.expose(), pointer).ok();
        let found = found.filter(|part| !part.expose_secret().is_empty());
        found.map(|part| self.taken_out(part)).ok_or_else(|| {
            Failure::new(
                FailureKind::InvalidConfig,
                HostCode::SecretNoSuchPart,
                format!(
                    "{} has no text at `{pointer}`: it is not JSON, or has nothing there, nothing but an empty text, or something else than a text",
                    self.lineage().quoted()
                ),
            )
        })
    }

    /// The value decoded from base64, base64url, base32 or hex.
    pub(super) fn decode(&self, encoding: Encoding) -> Result<Self, Failure> {
        self.must_be_whole("asked for its decoding")?;
        let value = self.expose();
        let bytes = worker::aside_if_large(value.len(), || encoding.decode(value));
        let bytes = bytes.map_err(|error| {
            Failure::new(
                FailureKind::InvalidConfig,
                HostCode::SecretEncoding,
                format!("{} cannot be decoded: {error}", self.lineage().quoted()),
            )
        })?;
        Ok(self.taken_out(bytes))
    }

    /// Whether this value may be stored under another name: that must not lift any of its restrictions.
    pub(super) fn may_become(&self, target: &Self) -> bool {
        self.lineage().reach.contains(&target.lineage().reach)
            && !self.lineage().is_computed()
            && (self.lineage().revealable || !target.lineage().revealable)
    }
}

fn too_large() -> Failure {
    Failure::new(
        FailureKind::Internal,
        HostCode::SecretTooLarge,
        format!(
            "the plugin joined a value of more than {MAX_SECRET_BYTES} bytes; what it may not read counts with as many bytes as its spelling may have"
        ),
    )
}

/// The string at `pointer` in a JSON document.
pub(super) fn string_at(document: &[u8], pointer: &str) -> Result<SecretSlice<u8>, NoText> {
    worker::aside_if_large(document.len(), || {
        let (_, found) = json_member::string_at(document, pointer)?;
        Ok(SecretSlice::from(found.as_bytes().to_vec()))
    })
}

/// A value from a plugin: its own, or a handle's.
#[derive(Clone)]
pub enum Value {
    /// The plugin's own text.
    Text(String),
    /// The plugin's own bytes.
    Bytes(Vec<u8>),
    /// The value of a handle.
    Secret(SecretHandle),
}

/// A plugin's own text may contain a revealed secret: it is not shown.
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

    /// Its size against limits.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Secret(secret) => secret.size(),
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
    /// A secret in an encoding.
    Secret(SecretHandle, Encoding),
}

impl Piece {
    /// The cost of joining it, in bytes.
    pub(crate) fn work(&self) -> usize {
        self.size().saturating_add(BYTES_PER_PIECE)
    }

    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Secret(secret, encoding) => encoding.longest(secret.size()),
        }
    }
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
