//! A plugin that calls every function with random compositions of its values, against an issuer that repeats all it receives:
//! nothing that comes back may contain a secret, its digest or its MAC.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use data_encoding::{BASE32, HEXLOWER, HEXUPPER};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::capability::testing::{Transported, get};
use crate::capability::{Body, Piece};

const ISSUER: &str = "https://idp.test";

/// A guessable number, a text that every encoding changes, a key, and a rotating value.
const SECRETS: [(&str, &str); 4] = [
    ("pin", "4938170265"),
    ("password", "p&ss \"wörd\"/+<1>\\é"),
    (
        "key",
        r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","wrapped":"c2VjcmV0LWluc2lkZQ=="}"#,
    ),
    ("rt", "refresh-token-one"),
];

/// Parts of them that must not appear in anything that the plugin sees.
const PARTS: [&str; 3] = [
    "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "c2VjcmV0LWluc2lkZQ==",
    "secret-inside",
];

const MAC_KEY: &str = "the plugin's own key";

const ENCODINGS: [Encoding; 10] = [
    Encoding::Raw,
    Encoding::Form,
    Encoding::Percent,
    Encoding::Json,
    Encoding::Xml,
    Encoding::Base64,
    Encoding::Base64Url,
    Encoding::Hex,
    Encoding::Base32,
    Encoding::Quoted,
];

const ALGORITHMS: [&str; 7] = [
    "HS256",
    "HS384",
    "HS512",
    "HMAC-SHA1",
    "EdDSA",
    "RS256",
    "ES256",
];

const DIGESTS: [&str; 5] = ["SHA-256", "SHA-384", "SHA-512", "SHA-1", "MD5"];

/// Texts that turn a secret beside them into something that a function parses, and guesses.
const TEXTS: [&str; 14] = [
    "",
    "x",
    MAC_KEY,
    r#"{"kty":"RSA","e":"AQAB","n":""#,
    r#"{"kty":"OKP","crv":"Ed25519","x":""#,
    r#""}"#,
    r#"{"a":""#,
    "{\"",
    "\":\"found\"}",
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA",
    "-----BEGIN PRIVATE KEY-----\n",
    "\n-----END PUBLIC KEY-----\n",
    "Basic ",
    "5938170265",
];

/// Texts around a secret, by their numbers.
const WRAPPERS: [(usize, usize); 5] = [(3, 5), (4, 5), (6, 5), (7, 8), (9, 11)];

/// A value by its number among those made so far, or text.
#[derive(Debug, Clone, Copy)]
enum Pick {
    Made(usize),
    Text(usize),
    /// A text from an answer, which may contain a marker.
    Seen(usize),
}

#[derive(Debug, Clone)]
enum Step {
    Open(usize),
    Join(Vec<(Pick, usize)>),
    Part(usize, usize),
    Decode(usize, usize),
    Reveal(usize),
    Replace(usize, Pick),
    Sign(usize, usize, Pick),
    PublicKey(usize),
    Digest(usize, Pick),
    Send(Pick, Pick, Pick, usize),
    Keep(Pick),
    Log(Pick),
    Publish(Pick),
    /// Puts a rotating secret into a text by way of its successor, and parses that.
    Wrap(usize, usize),
    /// Has a value repeated under a name that tokens have, and publishes that.
    Mint(Pick),
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        4 => any::<usize>().prop_map(Pick::Made),
        2 => any::<usize>().prop_map(Pick::Text),
        1 => any::<usize>().prop_map(Pick::Seen),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let any = any::<usize>;
    prop_oneof![
        2 => any().prop_map(Step::Open),
        6 => proptest::collection::vec((pick(), any()), 0..4).prop_map(Step::Join),
        1 => (any(), any()).prop_map(|(secret, pointer)| Step::Part(secret, pointer)),
        2 => (any(), any()).prop_map(|(secret, encoding)| Step::Decode(secret, encoding)),
        2 => any().prop_map(Step::Reveal),
        1 => (any(), pick()).prop_map(|(name, value)| Step::Replace(name, value)),
        3 => (any(), any(), pick()).prop_map(|(key, algorithm, value)| Step::Sign(key, algorithm, value)),
        2 => any().prop_map(Step::PublicKey),
        2 => (any(), pick()).prop_map(|(algorithm, value)| Step::Digest(algorithm, value)),
        4 => (pick(), pick(), pick(), any()).prop_map(|(query, header, body, kind)| Step::Send(query, header, body, kind)),
        1 => pick().prop_map(Step::Keep),
        1 => pick().prop_map(Step::Log),
        1 => pick().prop_map(Step::Publish),
        1 => (any(), any()).prop_map(|(around, encoding)| Step::Wrap(around, encoding)),
        1 => pick().prop_map(Step::Mint),
    ]
}

/// The plugin: its values and all that it has seen.
struct Plugin {
    call: Call,
    made: Vec<SecretHandle>,
    answers: Vec<String>,
    seen: Vec<u8>,
}

fn nth<T>(items: &[T], index: usize) -> &T {
    &items[index % items.len()]
}

impl Plugin {
    fn sees(&mut self, bytes: impl AsRef<[u8]>) {
        self.seen.extend_from_slice(bytes.as_ref());
        self.seen.push(b'\n');
    }

    fn gets(&mut self, result: Result<SecretHandle, Failure>) {
        match result {
            Ok(secret) => {
                self.sees(format!("{secret:?}"));
                // Repeated encoding would make a value too long for a test.
                if secret.expose().len() < 1000 {
                    self.made.push(secret);
                }
            }
            Err(failure) => self.sees(format!("{failure:?}")),
        }
    }

    fn secret(&self, index: usize) -> SecretHandle {
        nth(&self.made, index).clone()
    }

    fn text(&self, pick: Pick) -> Option<String> {
        match pick {
            Pick::Made(_) => None,
            Pick::Text(index) => Some((*nth(&TEXTS, index)).to_owned()),
            Pick::Seen(_) if self.answers.is_empty() => Some(String::new()),
            Pick::Seen(index) => Some(nth(&self.answers, index).clone()),
        }
    }

    fn value(&self, pick: Pick) -> Value {
        match (self.text(pick), pick) {
            (None, Pick::Made(index)) => Value::Secret(self.secret(index)),
            (text, _) => Value::Text(text.unwrap_or_default()),
        }
    }

    fn piece(&self, pick: Pick, encoding: usize) -> Piece {
        match self.value(pick) {
            Value::Secret(secret) => Piece::Secret(secret, *nth(&ENCODINGS, encoding)),
            Value::Text(text) => Piece::Text(text),
            Value::Bytes(_) => unreachable!(),
        }
    }

    async fn does(&mut self, step: Step) {
        let call = self.call.clone();
        match step {
            Step::Open(name) => {
                let opened = call.open(nth(&SECRETS, name).0).await;
                self.gets(opened);
            }
            Step::Join(pieces) => {
                let piece = |(pick, encoding): &(Pick, usize)| self.piece(*pick, *encoding);
                let pieces: Vec<_> = pieces.iter().map(piece).collect();
                self.gets(call.join(&pieces));
            }
            Step::Part(secret, pointer) => {
                let pointer = *nth(&["/a", "/wrapped", "/d", "", "/5938170265"], pointer);
                self.gets(call.part(&self.secret(secret), pointer));
            }
            Step::Decode(secret, encoding) => {
                self.gets(call.decode(&self.secret(secret), *nth(&ENCODINGS, encoding)));
            }
            Step::Reveal(secret) => match call.reveal(&self.secret(secret)) {
                Ok(bytes) => self.sees(bytes),
                Err(failure) => self.sees(format!("{failure:?}")),
            },
            Step::Replace(name, value) => {
                let value = self.value(value);
                let result = call.replace(nth(&SECRETS, name).0, value, None).await;
                self.sees(format!("{result:?}"));
            }
            Step::Sign(key, algorithm, message) => {
                let message = self.value(message);
                let algorithm = *nth(&ALGORITHMS, algorithm);
                self.gets(call.sign(&self.secret(key), algorithm, message));
            }
            Step::PublicKey(key) => match call.get_public_key(&self.secret(key)) {
                Ok(key) => {
                    self.sees(&key.jwk);
                    self.sees(&key.spki);
                    self.sees(key.certificates.concat());
                }
                Err(failure) => self.sees(format!("{failure:?}")),
            },
            Step::Digest(algorithm, message) => {
                let message = self.value(message);
                let algorithm = *nth(&DIGESTS, algorithm);
                self.gets(call.digest(algorithm, message));
            }
            Step::Send(query, header, body, kind) => {
                let body = match kind % 3 {
                    0 => Body::Form(vec![("f".to_owned(), self.value(body))]),
                    1 => Body::Content(self.value(body)),
                    _ => Body::Empty,
                };
                let request = Request {
                    method: "POST".to_owned(),
                    query: vec![("q".to_owned(), self.value(query))],
                    headers: vec![("x-echo".to_owned(), self.value(header))],
                    body,
                    ..get(format!("{ISSUER}/5938170265"))
                };
                match call.send(request).await {
                    Ok(answer) => {
                        self.sees(format!("{:?}", answer.headers));
                        self.sees(&answer.body);
                        self.answers
                            .extend(answer.headers.into_iter().map(|(_, value)| value));
                        self.answers
                            .push(String::from_utf8_lossy(&answer.body).into_owned());
                        // Repeated echoing would make a text too long for a test.
                        self.answers.retain(|text| text.len() < 2000);
                    }
                    Err(failure) => self.sees(format!("{failure:?}")),
                }
            }
            Step::Keep(value) => {
                let text = self.text(value).unwrap_or_default();
                let kept = call.state_set("k", text.as_bytes()).await;
                self.sees(format!("{kept:?}"));
                if let Ok(Some(bytes)) = call.state_get("k").await {
                    self.sees(bytes);
                }
            }
            Step::Log(value) => call.log(Level::Warn, &self.text(value).unwrap_or_default()),
            Step::Publish(value) => {
                self.publishes(self.text(value).unwrap_or_default());
            }
            Step::Wrap(around, encoding) => {
                let (before, after) = *nth(&WRAPPERS, around);
                let text = |index| Piece::Text((*nth(&TEXTS, index)).to_owned());
                let Ok(secret) = call.open("rt").await else {
                    return;
                };
                let encoding = *nth(&ENCODINGS, encoding);
                let pieces = [text(before), Piece::Secret(secret, encoding), text(after)];
                let Ok(wrapped) = call.join(&pieces) else {
                    return;
                };
                let replaced = call.replace("rt", Value::Secret(wrapped), None).await;
                self.sees(format!("{replaced:?}"));
                let Ok(secret) = call.open("rt").await else {
                    return;
                };
                self.made.push(secret);
                let newest = self.made.len() - 1;
                for step in [
                    Step::Part(newest, 0),
                    Step::Decode(newest, encoding as usize),
                    Step::PublicKey(newest),
                ] {
                    Box::pin(self.does(step)).await;
                }
            }
            Step::Mint(value) => {
                let value = self.value(value);
                let request = Request {
                    method: "POST".to_owned(),
                    body: Body::Form(vec![("access_token".to_owned(), value)]),
                    ..get(format!("{ISSUER}/form"))
                };
                let Ok(answer) = call.send(request).await else {
                    return;
                };
                self.sees(&answer.body);
                // A value composed by the plugin may end in characters that follow it in the answer; they are replaced with it.
                let Ok(json) = serde_json::from_slice::<serde_json::Value>(&answer.body) else {
                    return;
                };
                if let Some(token) = json["form"]["access_token"].as_str() {
                    self.publishes(token.to_owned());
                }
            }
        }
    }

    /// Seen not by this plugin, but by readers of the job's outputs.
    fn publishes(&mut self, text: String) {
        let token = self.call.published(Token {
            value: text.into(),
            token_type: String::new(),
            expiry: Expiry::Unknown,
            fields: Vec::new(),
        });
        match token {
            Ok(token) => self.sees(token.value.expose_secret()),
            Err(failure) => self.sees(format!("{failure:?}")),
        }
    }
}

/// Repeats everything in every usual encoding; forms unchanged, under the names that the plugin chose.
fn repeating() -> Arc<Transported> {
    Transported::by(|outgoing| {
        if outgoing.url.path() == "/form" {
            let form: std::collections::BTreeMap<_, _> =
                form_urlencoded::parse(&outgoing.body).collect();
            return Response {
                status: 200,
                headers: Vec::new(),
                body: serde_json::json!({ "form": form }).to_string().into_bytes(),
                sent_at: NOW,
            };
        }
        let query = outgoing.url.query().unwrap_or_default();
        let decoded: Vec<_> = form_urlencoded::parse(query.as_bytes())
            .chain(form_urlencoded::parse(&outgoing.body))
            .map(|(_, value)| value.into_owned())
            .collect();
        let header = outgoing
            .headers
            .get("x-echo")
            .map_or(&b""[..], |value| value.as_bytes());
        let mut body = format!("{query} {decoded:?} ");
        for value in decoded
            .iter()
            .map(|value| value.as_bytes())
            .chain([header, &outgoing.body])
        {
            let text = String::from_utf8_lossy(value);
            let text = serde_json::to_string(&text).unwrap();
            let escaped = text.replace('/', "\\/").replace('&', "\\u0026");
            let base64 = BASE64.encode(&[b"id:", value].concat());
            let url = BASE64URL_NOPAD.encode(value);
            let (hex, base32) = (HEXLOWER.encode(value), BASE32.encode(value));
            write!(body, "{text} {escaped} {base64} {url} {hex} {base32} ").unwrap();
        }
        let mut body = body.into_bytes();
        body.extend_from_slice(&outgoing.body);
        let echo = String::from_utf8_lossy(header).into_owned();
        Response {
            status: 200,
            headers: vec![("x-echo".to_owned(), echo)],
            body,
            sent_at: NOW,
        }
    })
}

/// All forbidden values, in the encodings in which they could appear.
fn forbidden() -> Vec<(String, Vec<u8>)> {
    let mut forbidden = Vec::new();
    let mut forbid = |what: &str, bytes: &[u8]| {
        let base64 = BASE64.encode(bytes);
        for (spelling, spelled) in [
            ("raw", bytes.to_vec()),
            ("hex", HEXLOWER.encode(bytes).into_bytes()),
            ("HEX", HEXUPPER.encode(bytes).into_bytes()),
            ("base32", BASE32.encode(bytes).into_bytes()),
            // Without the end, which depends on what follows.
            ("base64", base64.as_bytes()[..base64.len() - 4].to_vec()),
            ("base64url", BASE64URL_NOPAD.encode(bytes).into_bytes()),
        ] {
            forbidden.push((format!("{what} in {spelling}"), spelled));
        }
    };
    let values = SECRETS.iter().map(|(_, value)| *value).chain(PARTS);
    for value in values {
        forbid(value, value.as_bytes());
        forbid(
            &format!("SHA-256 of {value}"),
            Sha256::digest(value.as_bytes()).as_slice(),
        );
        for (key, message) in [
            (MAC_KEY, value),
            (value, MAC_KEY),
            (value, "x"),
            (value, ""),
        ] {
            let key_of = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
            let mac = hmac::sign(&key_of, message.as_bytes());
            forbid(&format!("MAC of {message} by {key}"), mac.as_ref());
        }
    }
    forbidden
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

#[test]
fn what_is_forbidden_is_found_where_nothing_keeps_it_back() {
    let forbidden = forbidden();
    let digest = HEXLOWER.encode(Sha256::digest(SECRETS[0].1.as_bytes()).as_slice());
    for text in [SECRETS[0].1, PARTS[0], &digest] {
        let text = format!("<{text}>");
        let found = forbidden
            .iter()
            .any(|(_, part)| contains(text.as_bytes(), part));
        assert!(found, "{text}");
    }
}

fn tried(steps: Vec<Step>) -> (Vec<u8>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut fixture = Fixture::new();
        fixture.endpoints = vec![origin(ISSUER)];
        fixture.limits.requests = 100;
        fixture.limits.log_lines = 100;
        fixture.transport = Some(repeating());
        for (name, value) in SECRETS {
            fixture.secret(name, value).rotating = name == "rt";
        }
        let call = fixture.holding_call().await;
        let logs = Logs::default();
        let seen = logs.during(async {
            let mut plugin = Plugin {
                call,
                made: Vec::new(),
                answers: Vec::new(),
                seen: Vec::new(),
            };
            plugin.does(Step::Join(vec![(Pick::Text(2), 0)])).await;
            for name in 0..SECRETS.len() {
                plugin.does(Step::Open(name)).await;
            }
            for step in steps {
                plugin.does(step).await;
            }
            plugin.seen
        });
        let seen = seen.await;
        (seen, logs.text())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_plugin_tries_it_never_holds_a_secret(steps in proptest::collection::vec(step(), 1..60)) {
        let (seen, logged) = tried(steps);
        for (what, part) in forbidden() {
            prop_assert!(!contains(&seen, &part), "{what}: {}", String::from_utf8_lossy(&seen));
            prop_assert!(!contains(logged.as_bytes(), &part), "{what}: {logged}");
        }
    }
}
