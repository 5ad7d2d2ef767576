//! Encryption of values at rest: AES-256-GCM, the record's key as associated data, so that no value can be moved to another job
//! or name. Each value is encrypted under a key derived from the state key and 32 random bytes: with the state key itself and
//! random 96-bit nonces, the limit would be 2^32 writes (NIST SP 800-38D §8.3).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use data_encoding::{
    BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE,
};
use zeroize::Zeroizing;

use super::error::StateError;
use super::key::RecordKey;
use super::random;
use crate::{text, worker};

/// Bytes of a state key.
const KEY_LEN: usize = 32;
/// Bytes of the random value that each encryption derives its key and nonce from.
const SALT_LEN: usize = 32;
/// Bytes of a key's fingerprint.
const KEY_ID_LEN: usize = 8;
/// The first byte of a value in plain text.
const FORMAT_PLAIN: u8 = 0;
/// The first byte of an encrypted value: key id, salt, ciphertext and tag follow.
const FORMAT_SEALED: u8 = 1;

/// Why something is not a state key. Says how to make one, and nothing of the bytes but their number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateKeyError {
    /// Neither 32 bytes nor an encoding of them.
    #[error(
        "a state key is 32 random bytes, as they are or in base64 or hex; these {0} bytes are none of it. Make one: `head -c 32 /dev/urandom | base64`"
    )]
    Malformed(usize),
    /// 32 readable characters: a password, or 16 bytes in hex.
    #[error(
        "a state key is 32 random bytes, as they are or in base64 or hex; these are 32 readable characters, which is too little. Make one: `head -c 32 /dev/urandom | base64`"
    )]
    Readable,
    /// 32 bytes in base64 or hex, written as UTF-16.
    #[error("{}. Or make a key: `head -c 32 /dev/urandom | base64`", text::Utf16)]
    Utf16,
}

/// A key of the state store.
pub struct StateKey {
    bytes: Zeroizing<[u8; KEY_LEN]>,
}

impl StateKey {
    /// A key from the content of its file, variable or Secret: 32 bytes, or their base64 (either alphabet, with or without padding)
    /// or hex with white space around. A byte order mark and a line end around either are not part of it.
    ///
    /// # Errors
    /// Anything else, with the command that makes a key.
    pub fn parse(content: &[u8]) -> Result<Self, StateKeyError> {
        let meant = text::meant(content).map_err(|text::Utf16| StateKeyError::Utf16)?;
        // 32 random bytes may end in what looks like a line end.
        let raw = [content, meant]
            .into_iter()
            .find(|raw| raw.len() == KEY_LEN);
        if let Some(raw) = raw.filter(|_| !meant.iter().all(u8::is_ascii_graphic)) {
            return Self::exact(raw).ok_or(StateKeyError::Malformed(raw.len()));
        }
        let text = meant.trim_ascii();
        [
            HEXLOWER_PERMISSIVE,
            BASE64,
            BASE64_NOPAD,
            BASE64URL,
            BASE64URL_NOPAD,
        ]
        .iter()
        .filter_map(|encoding| encoding.decode(text).ok().map(Zeroizing::new))
        .find_map(|bytes| Self::exact(&bytes))
        .ok_or(if text.len() == KEY_LEN {
            StateKeyError::Readable
        } else {
            StateKeyError::Malformed(content.len())
        })
    }

    fn exact(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            bytes: Zeroizing::new(bytes.try_into().ok()?),
        })
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKey([redacted])")
    }
}

type KeyId = [u8; KEY_ID_LEN];

/// All keys of a store: the first encrypts, all decrypt. Without any, values are stored in plain text.
#[derive(Default)]
pub(super) struct Keyring {
    keys: Vec<(KeyId, Prk)>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|(id, _)| HEXLOWER.encode(id)))
            .finish()
    }
}

/// How a stored value differs from what this keyring would write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Not at all.
    Current,
    /// It must be encrypted with the first key.
    Outdated,
    /// It is in plain text: to be encrypted if the store never was, else to be refused.
    Plain,
    /// Its key is missing; the key's fingerprint.
    KeyMissing(String),
    /// It does not decrypt with the key that it names.
    Undecryptable,
}

impl Keyring {
    pub(super) fn new(keys: Vec<StateKey>) -> Self {
        let extract = Salt::new(HKDF_SHA256, b"evertoken state v1");
        let keys = keys
            .into_iter()
            .map(|key| extract.extract(&*key.bytes))
            .filter_map(|prk| {
                let mut id = KeyId::default();
                expand(&prk, &[b"key id"], &mut id).ok()?;
                Some((id, prk))
            })
            .collect();
        Self { keys }
    }

    /// Whether both have the same keys in the same order.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let ids = |ring: &Self| ring.keys.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        ids(self) == ids(other)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The stored form of a value under `key`.
    pub(super) fn seal(
        &self,
        key: &RecordKey,
        value: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StateError> {
        worker::aside_if_large(value.len(), || self.sealed(key, value))
    }

    fn sealed(&self, key: &RecordKey, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, StateError> {
        let Some((id, prk)) = self.keys.first() else {
            let mut plain = Zeroizing::new(Vec::with_capacity(1 + value.len()));
            plain.push(FORMAT_PLAIN);
            plain.extend_from_slice(value);
            return Ok(plain);
        };
        let salt: [u8; SALT_LEN] = random()?;
        let (cipher, nonce) = cipher(prk, &salt)?;
        let head = 1 + KEY_ID_LEN + SALT_LEN;
        let length = head + value.len() + AES_256_GCM.tag_len();
        let mut sealed = Zeroizing::new(Vec::with_capacity(length));
        sealed.push(FORMAT_SEALED);
        sealed.extend_from_slice(id);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(value);
        let (_, body) = sealed.split_at_mut(head);
        let tag = cipher
            .seal_in_place_separate_tag(nonce, Aad::from(key.to_bytes()), body)
            .map_err(|_| StateError::Crypto("encrypting a record"))?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// The value that is stored under `key`. If there are keys, a value in plain text is refused, as it does not prove its
    /// writer.
    pub(super) fn open(
        &self,
        key: &RecordKey,
        stored: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StateError> {
        match split(stored) {
            Some(StoredForm::Plain(_)) if !self.is_empty() => Err(StateError::plaintext(key)),
            _ => self.open_unproven(key, stored),
        }
    }

    /// The stored form that this keyring would write for what is stored under `key`, whoever wrote it.
    pub(super) fn reseal(
        &self,
        key: &RecordKey,
        stored: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StateError> {
        self.seal(key, &self.open_unproven(key, stored)?)
    }

    /// The value that is stored under `key`, even if nothing proves its writer.
    pub(super) fn open_unproven(
        &self,
        key: &RecordKey,
        stored: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StateError> {
        worker::aside_if_large(stored.len(), || self.opened(key, stored))
    }

    fn opened(&self, key: &RecordKey, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>, StateError> {
        let undecryptable = || StateError::undecryptable(key);
        match split(stored).ok_or_else(undecryptable)? {
            StoredForm::Plain(value) => Ok(Zeroizing::new(value.to_vec())),
            StoredForm::Sealed { id, salt, body } => {
                let (_, prk) = self
                    .keys
                    .iter()
                    .find(|(known, _)| known == id)
                    .ok_or_else(undecryptable)?;
                let (cipher, nonce) = cipher(prk, salt)?;
                let mut value = Zeroizing::new(body.to_vec());
                let length = cipher
                    .open_in_place(nonce, Aad::from(key.to_bytes()), &mut value)
                    .map_err(|_| undecryptable())?
                    .len();
                value.truncate(length);
                Ok(value)
            }
        }
    }

    /// Whether a stored value can be read, and whether it should be written again.
    pub(super) fn examine(&self, key: &RecordKey, stored: &[u8]) -> Condition {
        match split(stored) {
            None => Condition::Undecryptable,
            Some(StoredForm::Plain(_)) if self.is_empty() => Condition::Current,
            Some(StoredForm::Plain(_)) => Condition::Plain,
            Some(StoredForm::Sealed { id, .. }) => {
                match self.keys.iter().position(|(known, _)| known == id) {
                    None => Condition::KeyMissing(HEXLOWER.encode(id)),
                    Some(_) if self.open(key, stored).is_err() => Condition::Undecryptable,
                    Some(0) => Condition::Current,
                    Some(_) => Condition::Outdated,
                }
            }
        }
    }
}

enum StoredForm<'a> {
    Plain(&'a [u8]),
    Sealed {
        id: &'a KeyId,
        salt: &'a [u8; SALT_LEN],
        body: &'a [u8],
    },
}

fn split(stored: &[u8]) -> Option<StoredForm<'_>> {
    let (format, rest) = stored.split_first()?;
    match *format {
        FORMAT_PLAIN => Some(StoredForm::Plain(rest)),
        FORMAT_SEALED => {
            let (id, rest) = rest.split_first_chunk()?;
            let (salt, body) = rest.split_first_chunk()?;
            Some(StoredForm::Sealed { id, salt, body })
        }
        _ => None,
    }
}

/// The key and nonce of one value.
fn cipher(prk: &Prk, salt: &[u8; SALT_LEN]) -> Result<(LessSafeKey, Nonce), StateError> {
    let failed = |_| StateError::Crypto("deriving a record's key");
    let mut derived = Zeroizing::new([0; KEY_LEN + NONCE_LEN]);
    expand(prk, &[b"record", salt], &mut *derived).map_err(failed)?;
    let (key, nonce) = derived.split_at(KEY_LEN);
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(failed)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(failed)?;
    Ok((LessSafeKey::new(key), nonce))
}

fn expand(prk: &Prk, info: &[&[u8]], out: &mut [u8]) -> Result<(), aws_lc_rs::error::Unspecified> {
    struct Bytes(usize);
    impl KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    prk.expand(info, Bytes(out.len()))?.fill(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::JobId;

    fn key(job: &str) -> RecordKey {
        RecordKey::Token(JobId::file(job))
    }

    fn ring(keys: &[u8]) -> Keyring {
        Keyring::new(
            keys.iter()
                .map(|byte| StateKey::parse(&[*byte; 32]).unwrap())
                .collect(),
        )
    }

    #[test]
    fn a_state_key_is_32_bytes_raw_or_in_base64_or_hex_and_nothing_else() {
        let raw = [0xf1; 32];
        let hex = HEXLOWER.encode(&raw);
        for good in [
            raw.to_vec(),
            BASE64.encode(&raw).into_bytes(),
            format!("{}\n", BASE64.encode(&raw)).into_bytes(),
            format!(" {}\r\n", BASE64URL_NOPAD.encode(&raw)).into_bytes(),
            hex.to_uppercase().into_bytes(),
            format!("\u{feff}{hex}\r\n").into_bytes(),
            hex.into_bytes(),
            [&raw[..], b"\n"].concat(),
            [&raw[..], b"\r\n"].concat(),
        ] {
            assert_eq!(*StateKey::parse(&good).unwrap().bytes, raw, "{good:?}");
        }
        let newline = [[0xf1; 31].as_slice(), b"\n"].concat();
        assert_eq!(*StateKey::parse(&newline).unwrap().bytes, *newline);
        for (bad, error) in [
            (&b""[..], StateKeyError::Malformed(0)),
            (b"hunter2", StateKeyError::Malformed(7)),
            (&[0xf1; 31], StateKeyError::Malformed(31)),
            (&[0xf1; 33], StateKeyError::Malformed(33)),
            (b"0123456789abcdef0123456789abcdef", StateKeyError::Readable),
            (
                b"0123456789abcdef0123456789abcdef\n",
                StateKeyError::Readable,
            ),
            (
                b"0123456789abcdef0123456789abcde\n",
                StateKeyError::Malformed(32),
            ),
            (b"a\0b\0c\0d\0", StateKeyError::Utf16),
        ] {
            let found = StateKey::parse(bad).unwrap_err();
            assert_eq!(found, error);
            assert!(
                found
                    .to_string()
                    .contains("head -c 32 /dev/urandom | base64")
            );
        }
    }

    #[test]
    fn the_first_key_encrypts_and_all_decrypt() {
        let old = ring(&[1]).seal(&key("k"), b"value").unwrap();
        let both = ring(&[2, 1]);
        assert_eq!(&**both.open(&key("k"), &old).unwrap(), b"value");
        let new = both.seal(&key("k"), b"value").unwrap();
        assert_eq!(&**ring(&[2]).open(&key("k"), &new).unwrap(), b"value");
        assert_eq!(both.examine(&key("k"), &old), Condition::Outdated);
        assert_eq!(both.examine(&key("k"), &new), Condition::Current);
        assert!(matches!(
            ring(&[2]).examine(&key("k"), &old),
            Condition::KeyMissing(_)
        ));
        let plain = Keyring::default().seal(&key("k"), b"value").unwrap();
        assert_eq!(both.examine(&key("k"), &plain), Condition::Plain);
        let refused = both.open(&key("k"), &plain).unwrap_err();
        assert_eq!(refused.code().as_str(), "state.plaintext");
        let taken = both.reseal(&key("k"), &plain).unwrap();
        assert_eq!(&**both.open(&key("k"), &taken).unwrap(), b"value");
        assert_eq!(
            Keyring::default().examine(&key("k"), &plain),
            Condition::Current
        );
    }

    #[test]
    fn a_value_that_is_moved_or_altered_does_not_decrypt() {
        let keys = ring(&[1]);
        let sealed = keys.seal(&key("a"), b"value").unwrap();
        assert!(keys.open(&key("b"), &sealed).is_err());
        for index in 0..sealed.len() {
            let mut altered = sealed.to_vec();
            altered[index] ^= 0x80;
            assert!(keys.open(&key("a"), &altered).is_err(), "byte {index}");
        }
    }

    #[test]
    fn no_encryption_shows_the_value_or_repeats() {
        let keys = ring(&[1]);
        let one = keys.seal(&key("k"), b"a long enough value").unwrap();
        let two = keys.seal(&key("k"), b"a long enough value").unwrap();
        assert_ne!(one, two);
        assert!(!one.windows(6).any(|window| window == b"enough"));
        assert!(!format!("{keys:?}").contains('\u{1}'));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_to_the_same(job in ".*", value in any::<Vec<u8>>()) {
            for keys in [ring(&[]), ring(&[7])] {
                let sealed = keys.seal(&key(&job), &value).unwrap();
                prop_assert_eq!(&**keys.open(&key(&job), &sealed).unwrap(), &value[..]);
            }
        }

        #[test]
        fn no_stored_bytes_make_opening_panic(job in ".*", stored in any::<Vec<u8>>()) {
            let _ = ring(&[1]).open(&key(&job), &stored);
            let _ = ring(&[1]).examine(&key(&job), &stored);
        }
    }
}
