//! The test double of the host functions, with the test's script on this thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

use super::spelling;
use crate::crypto::PublicKey;
use crate::http::{Body, Request, Response};
use crate::log::Level;
use crate::secrets::{Encoding, NOT_LISTED, NOT_ROTATING, Piece, Value};
use crate::{Failure, Timestamp};

/// The time until a test sets another: 2023-11-14T22:13:20Z.
const START: Timestamp = Timestamp::from_unix_seconds(1_700_000_000);

thread_local! {
    static CURRENT: RefCell<Option<Rc<RefCell<Scene>>>> = const { RefCell::new(None) };
}

/// A host for the plugin calls on this thread, until it is dropped. A function that the test did not prepare fails with the code
/// "test.unprepared".
pub struct Host(Rc<RefCell<Scene>>);

/// A scripted answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A request that the plugin sent, with placeholders for secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The URL without `query`.
    pub url: String,
    /// The parameters to be added to the URL.
    pub query: Vec<(String, String)>,
    /// The headers, in the order and case in which the plugin gave them.
    pub headers: Vec<(String, String)>,
    /// The form's fields, if the body is one.
    pub form: Vec<(String, String)>,
    /// The body, if it is not a form.
    pub content: Option<String>,
}

/// A call of `secrets.replace`, with the value in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The secret's name.
    pub name: String,
    /// The new value.
    pub value: String,
    /// Its expiry.
    pub expires_at: Option<Timestamp>,
    /// How many requests had been sent before.
    pub after_requests: usize,
}

#[derive(Default)]
struct Scene {
    now: Option<Timestamp>,
    secrets: BTreeMap<String, Vec<u8>>,
    missing: Vec<String>,
    rotating: Vec<String>,
    revealed: Vec<String>,
    answers: VecDeque<Result<Answer, Failure>>,
    signatures: VecDeque<Vec<u8>>,
    digests: VecDeque<Vec<u8>>,
    public_keys: VecDeque<PublicKey>,
    state: BTreeMap<String, Vec<u8>>,
    requests: Vec<RecordedRequest>,
    replaced: Vec<Replaced>,
    logged: Vec<(Level, String)>,
    random: u8,
}

/// A secret of the double: its bytes, its placeholder, the names of its secrets, and whether it was opened, or taken from an
/// opened one.
#[derive(Clone)]
pub(crate) struct Handle {
    bytes: Vec<u8>,
    shown: String,
    names: Vec<String>,
    whole: bool,
}

impl Handle {
    /// Only a whole secret, or one that may be read, can be parsed.
    fn must_be_whole(&self) -> Result<(), Failure> {
        if self.whole || scene(|scene| scene.hidden(&self.names).is_none()) {
            return Ok(());
        }
        Err(
            Failure::invalid_config(format!("the plugin made {} itself", self.shown))
                .with_code("secret.not-whole"),
        )
    }

    /// The result of a computation over a message, with or without a key.
    fn computed(bytes: Vec<u8>, shown: String, key: Option<&Self>, message: &Value<'_>) -> Self {
        let mut names = key.map(|key| key.names.clone()).unwrap_or_default();
        if let Value::Secret(message) = message {
            names.extend_from_slice(&message.0.names);
        }
        Self {
            bytes,
            shown,
            names,
            whole: false,
        }
    }
}

impl Scene {
    /// The first of these secrets that the job does not reveal.
    fn hidden<'a>(&self, names: &'a [String]) -> Option<&'a String> {
        names.iter().find(|name| !self.revealed.contains(name))
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Replaces the host on this thread until it is dropped.
    #[must_use]
    pub fn new() -> Self {
        let scene = Rc::new(RefCell::new(Scene::default()));
        CURRENT.with(|current| current.replace(Some(Rc::clone(&scene))));
        Self(scene)
    }

    /// Sets the clock, which is fixed between calls.
    pub fn set_now(&self, now: Timestamp) {
        self.0.borrow_mut().now = Some(now);
    }

    /// Lists a secret with this value.
    pub fn secret(&self, name: &str, value: impl AsRef<[u8]>) {
        self.0
            .borrow_mut()
            .secrets
            .insert(name.to_owned(), value.as_ref().to_vec());
    }

    /// Lists a secret with this value that the plugin may replace.
    pub fn rotating_secret(&self, name: &str, value: impl AsRef<[u8]>) {
        self.secret(name, value);
        self.0.borrow_mut().rotating.push(name.to_owned());
    }

    /// Lists a secret without a value at its place.
    pub fn missing_secret(&self, name: &str) {
        self.0.borrow_mut().missing.push(name.to_owned());
    }

    /// Allows the plugin to read this secret.
    pub fn reveal(&self, name: &str) {
        self.0.borrow_mut().revealed.push(name.to_owned());
    }

    /// Adds an answer to the queue for requests.
    pub fn answer(&self, answer: Answer) {
        self.0.borrow_mut().answers.push_back(Ok(answer));
    }

    /// Adds a failure to the queue for requests.
    pub fn no_answer(&self, failure: Failure) {
        self.0.borrow_mut().answers.push_back(Err(failure));
    }

    /// Answers the next `sign`.
    pub fn signature(&self, signature: impl Into<Vec<u8>>) {
        self.0.borrow_mut().signatures.push_back(signature.into());
    }

    /// Answers the next `digest`.
    pub fn digest(&self, digest: impl Into<Vec<u8>>) {
        self.0.borrow_mut().digests.push_back(digest.into());
    }

    /// Answers the next `public_key`.
    pub fn public_key(&self, key: PublicKey) {
        self.0.borrow_mut().public_keys.push_back(key);
    }

    /// Sets a value in the job's cache.
    pub fn set_state(&self, key: &str, value: impl AsRef<[u8]>) {
        self.0
            .borrow_mut()
            .state
            .insert(key.to_owned(), value.as_ref().to_vec());
    }

    /// A value in the job's cache.
    #[must_use]
    pub fn state(&self, key: &str) -> Option<Vec<u8>> {
        self.0.borrow().state.get(key).cloned()
    }

    /// The requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.0.borrow().requests.clone()
    }

    /// The secrets replaced so far.
    #[must_use]
    pub fn replaced(&self) -> Vec<Replaced> {
        self.0.borrow().replaced.clone()
    }

    /// The lines logged so far.
    #[must_use]
    pub fn logged(&self) -> Vec<(Level, String)> {
        self.0.borrow().logged.clone()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        CURRENT.with(|current| {
            let mut current = current.borrow_mut();
            if current
                .as_ref()
                .is_some_and(|scene| Rc::ptr_eq(scene, &self.0))
            {
                *current = None;
            }
        });
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

impl Answer {
    /// An answer with this content type.
    #[must_use]
    pub fn new(status: u16, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: body.as_ref().to_vec(),
        }
    }

    /// An answer in JSON.
    #[must_use]
    pub fn json(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }
}

impl RecordedRequest {
    /// The first header of this name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The first field of the form with this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Works on the current script; without one on an empty one, so that code without host calls needs no host.
fn scene<T>(work: impl FnOnce(&mut Scene) -> T) -> T {
    let current = CURRENT
        .with(|current| current.borrow().clone())
        .unwrap_or_default();
    let mut scene = current.borrow_mut();
    work(&mut scene)
}

fn unprepared(what: &str) -> Failure {
    Failure::internal(format!("the test prepared no {what}")).with_code("test.unprepared")
}

pub(crate) fn open(name: &str) -> Result<Handle, Failure> {
    scene(|scene| {
        if let Some(bytes) = scene.secrets.get(name) {
            return Ok(Handle {
                bytes: bytes.clone(),
                shown: format!("{{{name}}}"),
                names: vec![name.to_owned()],
                // A rotating secret may have been composed by the plugin.
                whole: !scene.rotating.iter().any(|rotating| rotating == name),
            });
        }
        if scene.missing.iter().any(|missing| missing == name) {
            return Err(
                Failure::invalid_config(format!("secret {name} is not at its place"))
                    .with_code("secret.not-found"),
            );
        }
        Err(
            Failure::invalid_config(format!("the job lists no secret {name}"))
                .with_code(NOT_LISTED),
        )
    })
}

pub(crate) fn join(pieces: &[Piece<'_>]) -> Result<Handle, Failure> {
    let mut joined = Handle {
        bytes: Vec::new(),
        shown: String::new(),
        names: Vec::new(),
        whole: false,
    };
    for piece in pieces {
        match piece {
            Piece::Text(text) => {
                joined.bytes.extend_from_slice(text.as_bytes());
                joined.shown.push_str(text);
            }
            Piece::Secret(secret, encoding) => {
                joined
                    .bytes
                    .extend(spelling::encode(&secret.0.bytes, *encoding));
                joined
                    .shown
                    .push_str(&spelling::show(&secret.0.shown, *encoding));
                joined.names.extend_from_slice(&secret.0.names);
            }
        }
    }
    Ok(joined)
}

pub(crate) fn replace(
    name: &str,
    value: &Value<'_>,
    expires_at: Option<Timestamp>,
) -> Result<(), Failure> {
    scene(|scene| {
        if !scene.rotating.iter().any(|rotating| rotating == name) {
            return Err(
                Failure::invalid_config(format!("secret {name} is not rotating"))
                    .with_code(NOT_ROTATING),
            );
        }
        let bytes = bytes(value);
        scene.replaced.push(Replaced {
            name: name.to_owned(),
            value: String::from_utf8_lossy(&bytes).into_owned(),
            expires_at,
            after_requests: scene.requests.len(),
        });
        scene.secrets.insert(name.to_owned(), bytes);
        Ok(())
    })
}

pub(crate) fn reveal(secret: &Handle) -> Result<Vec<u8>, Failure> {
    scene(|scene| match scene.hidden(&secret.names) {
        Some(name) => Err(Failure::invalid_config(format!(
            "the job does not list {name} under reveal"
        ))
        .with_code("secret.not-revealed")),
        None => Ok(secret.bytes.clone()),
    })
}

pub(crate) fn part(secret: &Handle, pointer: &str) -> Result<Handle, Failure> {
    secret.must_be_whole()?;
    let missing = || {
        Failure::invalid_config(format!("the secret has no string at {pointer}"))
            .with_code("secret.no-such-part")
    };
    let json: serde_json::Value = serde_json::from_slice(&secret.bytes).map_err(|_| missing())?;
    let text = json
        .pointer(pointer)
        .and_then(serde_json::Value::as_str)
        .ok_or_else(missing)?;
    Ok(Handle {
        bytes: text.as_bytes().to_vec(),
        shown: format!("{}#{pointer}", secret.shown),
        names: secret.names.clone(),
        whole: secret.whole,
    })
}

pub(crate) fn decode(secret: &Handle, encoding: Encoding) -> Result<Handle, Failure> {
    secret.must_be_whole()?;
    Ok(Handle {
        bytes: spelling::decode(&secret.bytes, encoding)?,
        shown: format!("decoded({})", secret.shown),
        names: secret.names.clone(),
        whole: secret.whole,
    })
}

pub(crate) fn sign(key: &Handle, algorithm: &str, message: &Value<'_>) -> Result<Handle, Failure> {
    if !algorithm.starts_with('H') {
        key.must_be_whole()?;
    }
    let signature = scene(|scene| scene.signatures.pop_front());
    let signature = signature.ok_or_else(|| unprepared("signature"))?;
    let shown = format!("signed({})", key.shown);
    Ok(Handle::computed(signature, shown, Some(key), message))
}

pub(crate) fn public_key(key: &Handle) -> Result<PublicKey, Failure> {
    key.must_be_whole()?;
    scene(|scene| {
        scene
            .public_keys
            .pop_front()
            .ok_or_else(|| unprepared("public key"))
    })
}

pub(crate) fn digest(_algorithm: &str, message: &Value<'_>) -> Result<Handle, Failure> {
    let digest = scene(|scene| scene.digests.pop_front());
    let digest = digest.ok_or_else(|| unprepared("digest"))?;
    let shown = format!("digest({})", shown(message));
    Ok(Handle::computed(digest, shown, None, message))
}

/// A counter, so that a test can predict the bytes.
pub(crate) fn random_bytes(len: u32) -> Vec<u8> {
    scene(|scene| {
        let mut next = || {
            scene.random = scene.random.wrapping_add(1);
            scene.random
        };
        (0..len).map(|_| next()).collect()
    })
}

pub(crate) fn send(request: Request<'_>) -> Result<Response, Failure> {
    scene(|scene| {
        scene.requests.push(record(&request));
        let Answer {
            status,
            headers,
            body,
        } = scene
            .answers
            .pop_front()
            .ok_or_else(|| unprepared("answer"))??;
        Ok(Response {
            status,
            headers,
            body,
            sent_at: scene.now.unwrap_or(START),
        })
    })
}

pub(crate) fn state_get(key: &str) -> Result<Option<Vec<u8>>, Failure> {
    Ok(scene(|scene| scene.state.get(key).cloned()))
}

pub(crate) fn state_set(key: &str, value: &[u8]) -> Result<(), Failure> {
    scene(|scene| scene.state.insert(key.to_owned(), value.to_vec()));
    Ok(())
}

pub(crate) fn log(level: Level, message: &str) {
    scene(|scene| scene.logged.push((level, message.to_owned())));
}

pub(crate) fn now() -> Timestamp {
    scene(|scene| scene.now.unwrap_or(START))
}

fn record(request: &Request<'_>) -> RecordedRequest {
    let (form, content) = match &request.body {
        Body::Empty => (Vec::new(), None),
        Body::Form(fields) => (shown_pairs(fields), None),
        Body::Content(content) => (Vec::new(), Some(shown(content))),
    };
    RecordedRequest {
        method: request.method.clone(),
        url: request.url.clone(),
        query: shown_pairs(&request.query),
        headers: shown_pairs(&request.headers),
        form,
        content,
    }
}

fn shown_pairs(pairs: &[(String, Value<'_>)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| (name.clone(), shown(value)))
        .collect()
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Text(text) => text.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Secret(secret) => secret.0.shown.clone(),
    }
}

fn bytes(value: &Value<'_>) -> Vec<u8> {
    match value {
        Value::Text(text) => text.as_bytes().to_vec(),
        Value::Bytes(bytes) => bytes.to_vec(),
        Value::Secret(secret) => secret.0.bytes.clone(),
    }
}
