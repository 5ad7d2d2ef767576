//! What each function of the interface reveals to a plugin about a secret that it may not read; the table in wit/README.md is its
//! specification. A script is run with several values of one secret, and the plugin must see the same each time.

use data_encoding::{BASE64, BASE64URL_NOPAD};

use super::*;
use crate::capability::http::{MAX_REQUEST_BYTES, Outgoing};
use crate::capability::testing::{Transported, get, text};
use crate::capability::{Body, Piece};

const ISSUER: &str = "https://idp.test";

/// Values of one kind: text that is not JSON, not base64, base32 or hex, and not a key.
const TEXTS: [&str; 4] = [
    "x!",
    "7!3",
    "hunter22!",
    "a longer one, with blanks; and so on!",
];

/// As a plugin sees it.
fn outcome<T>(result: Result<T, Failure>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(failure) => format!("{:?} {}", failure.kind, failure),
    }
}

fn fixture(value: &str) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.endpoints = vec![origin(ISSUER)];
    fixture.secret("s", value);
    fixture.secret("rt", "refresh-token").rotating = true;
    fixture.transport = Some(Transported::echoing());
    fixture
}

/// The results of a script with each value of secret `s`.
async fn seen(values: &[&str], script: impl AsyncFn(&Call, SecretHandle) -> String) -> Vec<String> {
    let mut seen = Vec::new();
    for value in values {
        let fixture = fixture(value);
        let call = fixture.holding_call().await;
        let secret = call.open("s").await.unwrap();
        seen.push(script(&call, secret).await);
    }
    seen
}

async fn tells_nothing(values: &[&str], script: impl AsyncFn(&Call, SecretHandle) -> String) {
    let seen = seen(values, script).await;
    for (value, other) in values.iter().zip(&seen) {
        assert_eq!(*other, seen[0], "{value} and {}", values[0]);
    }
}

fn raw(secret: &SecretHandle) -> Piece {
    Piece::Secret(secret.clone(), Encoding::Raw)
}

fn own(text: impl Into<String>) -> Piece {
    Piece::Text(text.into())
}

#[tokio::test]
async fn open_tells_that_there_is_a_value() {
    tells_nothing(&TEXTS, async |call, _| outcome(call.open("s").await)).await;
    // Nor whether a name equals a value.
    tells_nothing(&TEXTS, async |call, _| {
        outcome(call.open("hunter22!").await)
    })
    .await;
    assert_eq!(
        code(&fixture("").call().open("s").await.unwrap_err()),
        "secret.empty"
    );
}

#[tokio::test]
async fn reveal_tells_nothing() {
    tells_nothing(&TEXTS, async |call, secret| {
        let joined = call.join(&[raw(&secret)]).unwrap();
        outcome(call.reveal(&secret)) + &outcome(call.reveal(&joined))
    })
    .await;
}

#[tokio::test]
async fn part_tells_whether_a_whole_secret_has_a_text_there() {
    let part = async |call: &Call, secret: SecretHandle| {
        outcome(call.part(&secret, "/a")) + &outcome(call.part(&secret, ""))
    };
    let without = [
        "493817",
        "007",
        "x!",
        "\"\"",
        "[1]",
        "{\"a\":1}",
        "{\"a\":\"\"}",
    ];
    tells_nothing(&without, part).await;
    let with = ["{\"a\":\"1\"}", "{\"a\":\"22\",\"b\":3}"];
    tells_nothing(&with, part).await;
    assert_ne!(
        seen(&with[..1], part).await,
        seen(&without[..1], part).await
    );
    // The guess is the name of a member that the plugin writes.
    tells_nothing(&["493817", "000000"], async |call, secret| {
        let pieces = [own("{\""), raw(&secret), own("\":\"found\"}")];
        let joined = call.join(&pieces).unwrap();
        outcome(call.part(&joined, "/493817"))
    })
    .await;
}

#[tokio::test]
async fn decode_tells_whether_a_whole_secret_is_in_the_encoding() {
    let decode = async |call: &Call, secret: SecretHandle| {
        let encodings = [
            Encoding::Hex,
            Encoding::Base64,
            Encoding::Base64Url,
            Encoding::Base32,
        ];
        encodings
            .map(|encoding| outcome(call.decode(&secret, encoding)))
            .concat()
    };
    tells_nothing(&TEXTS, decode).await;
    tells_nothing(&["GEZDGNBV", "MZXW6YTBMZXW6YTB"], decode).await;
    assert_ne!(seen(&["abcd"], decode).await, seen(&["x!"], decode).await);
    tells_nothing(&["abcd", "x!"], async |call, secret| {
        let joined = call.join(&[own("ab"), raw(&secret)]).unwrap();
        decode(call, joined).await
    })
    .await;
}

#[tokio::test]
async fn join_tells_whether_a_secret_has_the_spelling_and_nothing_of_its_length() {
    let lengths = [1, 2, 100, 4095, 4096].map(|len| "x".repeat(len));
    let lengths: Vec<_> = lengths.iter().map(String::as_str).collect();
    tells_nothing(&lengths, async |call, secret| {
        let mut outcomes = String::new();
        for left in [0, 1, 100, 4095, 4096, 4097, 3 * 4096, 3 * 4096 + 1] {
            for encoding in [Encoding::Raw, Encoding::Percent] {
                let padding = "p".repeat(MAX_SECRET_BYTES - left);
                let pieces = [own(padding), Piece::Secret(secret.clone(), encoding)];
                outcomes += if call.join(&pieces).is_ok() { "o" } else { "-" };
            }
        }
        outcomes
    })
    .await;
    // Nor does the limit of what a call may hold.
    tells_nothing(&lengths, async |call, secret| {
        let joined = || call.join(&[own("p".repeat(MAX_SECRET_BYTES / 2)), raw(&secret)]);
        (0..20).map(|_| outcome(joined())).collect()
    })
    .await;
    let spelled = async |call: &Call, secret: SecretHandle| {
        let encodings = [Encoding::Json, Encoding::Xml, Encoding::Quoted];
        let join = |encoding| call.join(&[Piece::Secret(secret.clone(), encoding)]);
        encodings.map(|encoding| outcome(join(encoding))).concat()
    };
    tells_nothing(&TEXTS, spelled).await;
    assert_ne!(
        seen(&["\u{1}"], spelled).await,
        seen(&["x!"], spelled).await
    );
    // An encoding that only some bytes have would reveal something about computed bytes, so none is accepted.
    tells_nothing(&TEXTS, async |call, secret| {
        let mut outcomes = String::new();
        for key in 0..50 {
            let key = call.join(&[own(format!("key {key}"))]).unwrap();
            let mac = call.sign(&key, "HMAC-SHA1", Value::Secret(secret.clone()));
            let joined = call.join(&[own("x"), raw(&mac.unwrap())]).unwrap();
            outcomes += &spelled(call, joined).await;
        }
        outcomes
    })
    .await;
}

#[tokio::test]
async fn replace_tells_nothing_of_what_it_replaces_or_is_given() {
    let lengths = ["x", "123", &"y".repeat(4000)];
    tells_nothing(&lengths, async |call, secret| {
        let mut outcomes = outcome(
            call.replace("rt", Value::Secret(secret.clone()), None)
                .await,
        );
        for left in [0, 1, 4096] {
            let pieces = [
                own("p".repeat(MAX_SECRET_BYTES - 4096 - left)),
                raw(&secret),
            ];
            let long = call.join(&pieces).unwrap();
            outcomes += &outcome(call.replace("s", Value::Secret(long), None).await);
        }
        outcomes
    })
    .await;
    // A guess of the current value is accepted as a successor like any other.
    for guess in ["refresh-token", "another-token"] {
        let call = fixture("x").holding_call().await;
        let result = call.replace("rt", text(guess), None).await;
        assert_eq!(outcome(result), "ok");
    }
}

#[tokio::test]
async fn sign_and_digest_tell_nothing_of_key_and_message() {
    tells_nothing(&["4938", "0000", "hunter22!"], async |call, secret| {
        let key = call.join(&[own("the plugin's own key")]).unwrap();
        let message = Value::Secret(secret.clone());
        let mut made = vec![call.digest("SHA-256", message.clone()).unwrap()];
        for algorithm in ["HS256", "HS384", "HS512", "HMAC-SHA1"] {
            made.push(call.sign(&key, algorithm, message.clone()).unwrap());
            made.push(call.sign(&secret, algorithm, text("message")).unwrap());
        }
        let of_it = Value::Secret(made[0].clone());
        made.push(call.digest("MD5", of_it).unwrap());
        made.iter().map(|made| outcome(call.reveal(made))).collect()
    })
    .await;
    let call = fixture("x").call();
    let digest = call.digest("SHA-256", text("abc")).unwrap();
    assert_eq!(call.reveal(&digest).unwrap().len(), 32);
    let key = call.join(&[own("key")]).unwrap();
    let mac = call.sign(&key, "HS256", text("message")).unwrap();
    assert_eq!(call.reveal(&mac).unwrap().len(), 32);
}

/// A rotating secret may have been composed by a plugin, and is opened as if it had been listed.
#[tokio::test]
async fn nothing_is_told_of_a_value_by_way_of_a_rotating_secret() {
    let modulus = BASE64URL_NOPAD.encode(&[0xc1; 256]);
    let values = ["hunter22", "493817", &modulus];
    let looked_into = async |call: &Call, pieces: &[Piece]| {
        let made = Value::Secret(call.join(pieces).unwrap());
        let put = outcome(call.replace("rt", made, None).await);
        let opened = call.open("rt").await.unwrap();
        put + &outcome(call.get_public_key(&opened))
            + &outcome(call.part(&opened, "/493817"))
            + &outcome(call.decode(&opened, Encoding::Hex))
            + &outcome(call.sign(&opened, "EdDSA", text("m")))
    };
    tells_nothing(&values, async |call, secret| {
        let around = |before: &str, after: &str| [own(before), raw(&secret), own(after)];
        let mut outcomes = String::new();
        for pieces in [
            around(r#"{"kty":"RSA","e":"AQAB","n":""#, r#""}"#),
            around("{\"", "\":\"found\"}"),
            around("ab", "cd"),
        ] {
            outcomes += &looked_into(call, &pieces).await;
        }
        outcomes
    })
    .await;
    // A secret cannot be composed with itself there.
    let fixture = fixture("x");
    let call = fixture.holding_call().await;
    let token = call.open("rt").await.unwrap();
    let pieces = [
        own(r#"{"kty":"RSA","e":"AQAB","n":""#),
        Piece::Secret(token, Encoding::Base64Url),
        own(r#""}"#),
    ];
    let seen = looked_into(&call, &pieces).await;
    assert!(!seen.contains("okok"), "{seen}");
    // A computed value has no encoding that only some bytes have, whatever its name.
    tells_nothing(&["493817", "000000", "1", "22"], async |call, secret| {
        let mut outcomes = String::new();
        for message in ["a", "b", "c", "d"] {
            let key = call.join(&[own(message)]).unwrap();
            let mac = call.sign(&key, "HMAC-SHA1", Value::Secret(secret.clone()));
            outcomes += &outcome(call.replace("rt", Value::Secret(mac.unwrap()), None).await);
            let opened = call.open("rt").await.unwrap();
            outcomes += &outcome(call.join(&[Piece::Secret(opened, Encoding::Quoted)]));
        }
        outcomes
    })
    .await;
}

/// A private key whose private half is the secret and whose public half is a guess.
fn guessed_key(secret: &SecretHandle) -> Vec<Piece> {
    vec![
        own(
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":""#,
        ),
        raw(secret),
        own(r#""}"#),
    ]
}

#[tokio::test]
async fn sign_tells_of_a_whole_key_what_kind_it_is() {
    let sign = async |call: &Call, secret: SecretHandle| {
        ["RS256", "ES256", "EdDSA"]
            .map(|algorithm| outcome(call.sign(&secret, algorithm, text("m"))))
            .concat()
    };
    tells_nothing(&TEXTS, sign).await;
    let right = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    tells_nothing(&[right, "AAAA", "x!"], async |call, secret| {
        let joined = call.join(&guessed_key(&secret)).unwrap();
        sign(call, joined).await
    })
    .await;
}

#[tokio::test]
async fn a_public_key_is_told_of_whole_keys_only() {
    let public_key =
        async |call: &Call, secret: SecretHandle| outcome(call.get_public_key(&secret));
    tells_nothing(&TEXTS, public_key).await;
    let modulus = BASE64URL_NOPAD.encode(&[0xc1; 256]);
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    tells_nothing(&[&modulus, key, "x!"], async |call, secret| {
        let jwk = |before: &str, after: &str| vec![own(before), raw(&secret), own(after)];
        let spki = [
            own("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA"),
            Piece::Secret(secret.clone(), Encoding::Base64),
            own("\n-----END PUBLIC KEY-----\n"),
        ];
        let digest = call
            .digest("SHA-256", Value::Secret(secret.clone()))
            .unwrap();
        let of_digest = [
            own(r#"{"kty":"OKP","crv":"Ed25519","x":""#),
            Piece::Secret(digest.clone(), Encoding::Base64Url),
            own(r#""}"#),
        ];
        let mut outcomes = outcome(call.get_public_key(&digest));
        for pieces in [
            jwk(r#"{"kty":"RSA","e":"AQAB","n":""#, r#""}"#),
            jwk(r#"{"kty":"OKP","crv":"Ed25519","x":""#, r#""}"#),
            guessed_key(&secret),
            vec![raw(&secret)],
            spki.to_vec(),
            of_digest.to_vec(),
        ] {
            outcomes += &outcome(call.get_public_key(&call.join(&pieces).unwrap()));
        }
        outcomes
    })
    .await;
    let whole = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#;
    let wrapped = format!(r#"{{"key":"{}"}}"#, BASE64.encode(whole.as_bytes()));
    let call = fixture(whole).call();
    let key = call.get_public_key(&call.open("s").await.unwrap()).unwrap();
    assert!(key.jwk.contains("11qYAYKx") && !key.jwk.contains("nWGxne"));
    let call = fixture(&wrapped).call();
    let part = call.part(&call.open("s").await.unwrap(), "/key").unwrap();
    let decoded = call.decode(&part, Encoding::Base64).unwrap();
    assert_eq!(call.get_public_key(&decoded).unwrap(), key);
    // A value that may be read may be parsed in any form.
    let mut fixture = fixture(&modulus);
    fixture.job.source.reveal.insert("s".to_owned());
    let call = fixture.call();
    let secret = call.open("s").await.unwrap();
    let pieces = [
        own(r#"{"kty":"RSA","e":"AQAB","n":""#),
        raw(&secret),
        own(r#""}"#),
    ];
    let key = call.get_public_key(&call.join(&pieces).unwrap()).unwrap();
    assert!(key.jwk.contains(&modulus));
}

/// A request that carries the secret everywhere.
fn carrying(secret: &SecretHandle) -> Request {
    let value = || Value::Secret(secret.clone());
    Request {
        method: "POST".to_owned(),
        query: vec![("q".to_owned(), value())],
        headers: vec![("x-secret".to_owned(), value())],
        body: Body::Form(vec![("f".to_owned(), value())]),
        ..get(format!("{ISSUER}/echo"))
    }
}

/// An answer as a plugin sees it, without the parts that differ in each call.
fn shown(result: Result<Response, Failure>) -> String {
    let Ok(response) = result else {
        return outcome(result);
    };
    let body = String::from_utf8(response.body).unwrap();
    let text = format!("{} {:?} {body}", response.status, response.headers);
    let is_digit = |c: char| c.is_ascii_digit();
    text.split(is_digit)
        .filter(|part| !part.is_empty())
        .collect()
}

#[tokio::test]
async fn an_answer_that_repeats_a_secret_tells_neither_value_nor_length() {
    let long = "a longer one ".repeat(100);
    tells_nothing(&["pin!", "hunter22", &long], async |call, secret| {
        shown(call.send(carrying(&secret)).await)
    })
    .await;
    // Computed values are searched for, too.
    tells_nothing(&TEXTS, async |call, secret| {
        let digest = call.digest("SHA-256", Value::Secret(secret)).unwrap();
        let spelled = call.join(&[Piece::Secret(digest, Encoding::Hex)]).unwrap();
        shown(call.send(carrying(&spelled)).await)
    })
    .await;
}

#[tokio::test]
async fn what_send_refuses_tells_no_length_and_of_no_guess() {
    let lengths = [1, 100, 4096].map(|len| "x".repeat(len));
    let lengths: Vec<_> = lengths.iter().map(String::as_str).collect();
    tells_nothing(&lengths, async |call, secret| {
        let mut outcomes = String::new();
        for left in [0, 1, 4096, 4097] {
            let request = Request {
                body: Body::Form(vec![
                    (
                        "".to_owned(),
                        text(&"p".repeat(MAX_REQUEST_BYTES - 60 - left)),
                    ),
                    ("".to_owned(), Value::Secret(secret.clone())),
                ]),
                ..get(format!("{ISSUER}/{}", "p".repeat(60 - ISSUER.len() - 1)))
            };
            outcomes += if call.send(request).await.is_ok() {
                "o"
            } else {
                "-"
            };
        }
        outcomes
    })
    .await;
    tells_nothing(&lengths, async |call, secret| {
        let mut outcomes = String::new();
        for padding in [40_000, 50_000, 52_000, 60_000, 65_000] {
            let request = Request {
                query: vec![("q".to_owned(), Value::Secret(secret.clone()))],
                ..get(format!("{ISSUER}/{}", "p".repeat(padding)))
            };
            outcomes += if call.send(request).await.is_ok() {
                "o"
            } else {
                "-"
            };
        }
        outcomes
    })
    .await;
    // The plugin's own text is returned unchanged in each refusal, whether it is a correct guess or not.
    tells_nothing(&["hunter22", "hunter23", "x!"], async |call, secret| {
        call.send(carrying(&secret)).await.unwrap();
        let mut outcomes = String::new();
        for request in [
            Request {
                method: "hunter22 ".to_owned(),
                ..get(ISSUER)
            },
            get("hunter22"),
            get("https://hunter22.test"),
            Request {
                headers: vec![("proxy-hunter22".to_owned(), text("x"))],
                ..get(ISSUER)
            },
        ] {
            outcomes += &outcome(call.send(request).await);
        }
        outcomes
    })
    .await;
    // Arbitrary bytes are not a valid header value.
    tells_nothing(&TEXTS, async |call, secret| {
        let mut outcomes = String::new();
        for key in 0..30 {
            let key = call.join(&[own(format!("key {key}"))]).unwrap();
            let mac = call.sign(&key, "HMAC-SHA1", Value::Secret(secret.clone()));
            let request = Request {
                headers: vec![("x-mac".to_owned(), Value::Secret(mac.unwrap()))],
                ..get("https://nowhere.test")
            };
            outcomes += &outcome(call.send(request.clone()).await);
            let request = Request {
                url: ISSUER.to_owned(),
                ..request
            };
            outcomes += &outcome(call.send(request).await);
        }
        outcomes
    })
    .await;
}

/// A composed value may be refused because of the plugin's own part.
#[tokio::test]
async fn a_header_that_cannot_be_sent_tells_nothing_of_what_else_is_in_it() {
    for end in ["\n", "\u{1}", "\0 and more"] {
        tells_nothing(&TEXTS, async |call, secret| {
            let line = call.join(&[raw(&secret), own(end)]).unwrap();
            let request = Request {
                headers: vec![("x-secret".to_owned(), Value::Secret(line))],
                ..get(ISSUER)
            };
            outcome(call.send(request).await)
        })
        .await;
    }
}

/// The number of secrets in a call is limited, and the limit must not reveal which of two values are equal.
#[tokio::test]
async fn how_many_secrets_can_be_sent_tells_nothing_of_equality() {
    tells_nothing(&["4938", "7777"], async |call, secret| {
        let with = |values: Vec<[Piece; 2]>| {
            let value = |pieces: &[Piece; 2]| Value::Secret(call.join(pieces).unwrap());
            let header = |pieces: &[Piece; 2]| ("x-guess".to_owned(), value(pieces));
            Request {
                headers: values.iter().map(header).collect(),
                ..get(ISSUER)
            }
        };
        // Two are equal if the guess is right.
        let guess = |guess: u32| {
            let guess = || own(guess.to_string());
            [[guess(), raw(&secret)], [raw(&secret), guess()]]
        };
        let mut outcomes = String::new();
        for guesses in [4910..4940, 1000..1002] {
            let request = with(guesses.flat_map(guess).collect());
            outcomes += &outcome(call.send(request).await);
        }
        outcomes
    })
    .await;
}

#[tokio::test]
async fn what_stands_in_an_answer_can_be_sent_back_and_not_elsewhere() {
    let mut fixture = fixture("value-1");
    fixture.job.source.allow = vec![origin("https://other.test")];
    let transported = Transported::echoing();
    fixture.transport = Some(transported.clone());
    let call = fixture.call();
    let secret = call.open("s").await.unwrap();
    let answer = call.send(carrying(&secret)).await.unwrap();
    let echoed = answer.headers.iter().find(|(name, _)| name == "x-secret");
    let marker = echoed.unwrap().1.clone();
    let back = |url: &str| Request {
        headers: vec![("x-back".to_owned(), text(&marker))],
        ..get(url)
    };
    call.send(back(ISSUER)).await.unwrap();
    let last = |of: &Outgoing| of.headers.get("x-back").unwrap().as_bytes().to_vec();
    assert_eq!(transported.last(last), b"value-1");
    let failure = call.send(back("https://other.test")).await.unwrap_err();
    assert_eq!(code(&failure), "secret.origin-denied");
    // A marker among text, and as a message.
    let joined = call.join(&[own(format!("<{marker}>"))]).unwrap();
    assert_eq!(joined.expose(), b"<value-1>");
    for made in [joined, call.digest("MD5", text(&marker)).unwrap()] {
        assert_eq!(
            code(&call.reveal(&made).unwrap_err()),
            "secret.not-revealed"
        );
    }
}

#[tokio::test]
async fn a_successor_that_an_answer_repeats_is_stored_as_it_was_sent() {
    for (body, expected) in [
        (r#"{"refresh_token":"refresh-token"}"#, "refresh-token"),
        (r#"{"refresh_token":"refresh-token-2"}"#, "refresh-token-2"),
        (r#"{"refresh_token":"another"}"#, "another"),
    ] {
        let mut fixture = fixture("x");
        fixture.transport = Some(Transported::answering(body));
        let call = fixture.holding_call().await;
        let token = call.open("rt").await.unwrap();
        let answer = call.send(carrying(&token)).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let successor = answer["refresh_token"].as_str().unwrap();
        assert!(!successor.contains("refresh-token"), "{successor}");
        call.replace("rt", text(successor), None).await.unwrap();
        assert_eq!(opened(&fixture, "rt").await.unwrap(), expected);
    }
    // It cannot be stored under another secret's name.
    let mut fixture = fixture("value-1");
    fixture.job.source.reveal.insert("rt".to_owned());
    let call = fixture.holding_call().await;
    let secret = call.open("s").await.unwrap();
    let answer = call.send(carrying(&secret)).await.unwrap();
    let echoed = answer.headers.iter().find(|(name, _)| name == "x-secret");
    let value = text(&echoed.unwrap().1);
    let failure = call.replace("rt", value, None).await.unwrap_err();
    assert_eq!(code(&failure), "secret.mixed");
}

/// A token of this text, with the same text as fields that are hidden and shown.
fn token_of(text: &str) -> Token {
    let field = |public| crate::model::token::Field {
        name: "access_token".to_owned(),
        value: text.into(),
        public,
    };
    Token {
        value: text.into(),
        token_type: "Bearer".to_owned(),
        expiry: Expiry::Unknown,
        fields: vec![field(false), field(true)],
    }
}

#[tokio::test]
async fn a_token_that_an_issuer_made_is_published_also_if_a_secret_is_in_it() {
    let mut fixture = fixture("value-1");
    fixture.transport = Some(Transported::answering(
        r#"{"access_token":"made for value-1","note":"made for value-1"}"#,
    ));
    let call = fixture.call();
    let secret = call.open("s").await.unwrap();
    let answer = call.send(carrying(&secret)).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let text = answer["access_token"].as_str().unwrap();
    assert!(!text.contains("value-1"));
    let token = call.published(token_of(text)).unwrap();
    let fields = token.fields.iter();
    let fields: Vec<_> = fields.map(|field| field.value.expose_secret()).collect();
    assert_eq!(token.value.expose_secret(), "made for value-1");
    // A public field contains no secret.
    assert_eq!(fields, ["made for value-1"]);
    // A member that the issuer does not call a token is not one.
    let note = answer["note"].as_str().unwrap();
    let failure = call.published(token_of(note)).unwrap_err();
    assert_eq!(code(&failure), "secret.not-revealed");
    assert!(failure.message.contains("`s`"), "{failure}");
}

/// Answers of services that repeat forms, and decode their values.
fn repeating_forms() -> Arc<Transported> {
    Transported::by(|outgoing| {
        let sent = form_urlencoded::parse(&outgoing.body).next().unwrap().1;
        let base64 = sent.strip_prefix("base64:");
        let decoded = base64.and_then(|text| BASE64.decode(text.as_bytes()).ok());
        let text = decoded.map_or(sent.into_owned(), |text| String::from_utf8(text).unwrap());
        let text = match text.split_once(':') {
            Some(("upper", text)) => text.replace('x', "X"),
            Some(("wrap", text)) => format!("you sent {text}"),
            _ => text,
        };
        let body = serde_json::json!({"form": {"access_token": text}});
        Response {
            status: 200,
            headers: Vec::new(),
            body: body.to_string().into_bytes(),
            sent_at: Timestamp(0),
        }
    })
}

#[tokio::test]
async fn a_token_that_only_came_back_is_not_published_whatever_the_answer_calls_it() {
    type Way = fn(&SecretHandle, &SecretHandle) -> Vec<Piece>;
    fn base64(secret: &SecretHandle) -> Piece {
        Piece::Secret(secret.clone(), Encoding::Base64)
    }
    let ways: [Way; 9] = [
        |secret, _| vec![raw(secret)],
        |secret, _| vec![own("<"), raw(secret), own(">")],
        |_, wrapped| vec![raw(wrapped)],
        |secret, _| vec![own("base64:"), base64(secret)],
        |_, wrapped| vec![own("base64:"), base64(wrapped)],
        // The service replaces invalid text, or changes case.
        |secret, _| vec![own("\u{fffd}"), raw(secret), own("\u{fffd}")],
        |secret, _| vec![own("upper:x"), raw(secret)],
        // It wraps the repeated text.
        |secret, _| vec![own("wrap:"), own("<"), raw(secret)],
        // Each text in base64 by itself, in groups of three.
        |secret, _| {
            vec![
                own("base64:"),
                own(BASE64.encode("<<<".as_bytes())),
                base64(secret),
            ]
        },
    ];
    for (way, name) in ways.iter().flat_map(|way| [(way, "s"), (way, "rt")]) {
        let mut fixture = fixture("value-1");
        fixture.transport = Some(repeating_forms());
        let call = fixture.holding_call().await;
        let secret = call.open(name).await.unwrap();
        let wrapped = call.join(&[own("<"), raw(&secret), own(">")]).unwrap();
        let sent = Value::Secret(call.join(&way(&secret, &wrapped)).unwrap());
        let request = Request {
            method: "POST".to_owned(),
            body: Body::Form(vec![("f".to_owned(), sent)]),
            ..get(ISSUER)
        };
        let answer = call.send(request).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let text = answer["form"]["access_token"].as_str().unwrap();
        assert!(
            !text.contains("value") && !text.contains("refresh"),
            "{text}"
        );
        let failure = call.published(token_of(text)).unwrap_err();
        assert_eq!(code(&failure), "secret.not-revealed");
    }
}

/// Services that repeat header fields join two fields of one name.
#[tokio::test]
async fn what_is_sent_in_two_fields_is_no_token_of_the_issuers() {
    for (separator, name) in [",", ", ", "; ", " ", "&", "|"]
        .into_iter()
        .flat_map(|separator| [(separator, "s"), (separator, "rt")])
    {
        let mut fixture = fixture("value-1");
        fixture.transport = Some(Transported::by(move |outgoing| {
            let values = outgoing.headers.get_all("x-token").iter();
            let values: Vec<_> = values
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            let body = serde_json::json!({"headers": {"X-Token": values.join(separator)}});
            Response {
                status: 200,
                headers: Vec::new(),
                body: body.to_string().into_bytes(),
                sent_at: NOW,
            }
        }));
        let call = fixture.holding_call().await;
        let secret = Value::Secret(call.open(name).await.unwrap());
        let fields = [text("a"), secret, text("b")];
        let request = Request {
            headers: fields.map(|value| ("x-token".to_owned(), value)).to_vec(),
            ..get(ISSUER)
        };
        let answer = call.send(request).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let repeated = answer["headers"]["X-Token"].as_str().unwrap();
        assert!(
            repeated.starts_with('a') && repeated.contains("secret-"),
            "{repeated}"
        );
        let failure = call.published(token_of(repeated)).unwrap_err();
        assert_eq!(code(&failure), "secret.not-revealed", "{separator:?}");
        // Nor is it a successor, if it is another secret.
        let stored = call.replace("rt", text(repeated), None).await;
        assert_eq!(stored.is_ok(), name == "rt", "{separator:?} {stored:?}");
    }
}

/// Issuers put the name of a client into refresh tokens, too.
#[tokio::test]
async fn a_successor_that_an_issuer_made_is_stored_also_if_another_secret_is_in_it() {
    let jwt = format!(
        "e30.{}.c2ln",
        BASE64URL_NOPAD.encode(r#"{"azp":"value-1"}"#.as_bytes())
    );
    for (successor, is_stored) in [
        (&*jwt, true),
        ("value-1", false),
        ("value-1, and more", false),
    ] {
        let mut fixture = fixture("value-1");
        let body = serde_json::json!({"refresh_token": successor}).to_string();
        fixture.transport = Some(Transported::by(move |_| Response {
            status: 200,
            headers: Vec::new(),
            body: body.clone().into_bytes(),
            sent_at: NOW,
        }));
        let call = fixture.holding_call().await;
        let secret = call.open("s").await.unwrap();
        let answer = call.send(carrying(&secret)).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let read = answer["refresh_token"].as_str().unwrap();
        assert!(read.contains("secret-"), "{read}");
        let stored = call.replace("rt", text(read), None).await;
        assert_eq!(stored.is_ok(), is_stored, "{successor}: {stored:?}");
        if is_stored {
            assert_eq!(opened(&fixture, "rt").await.unwrap(), successor);
        }
    }
}

#[tokio::test]
async fn state_log_clock_and_randomness_know_no_secret() {
    tells_nothing(&["hunter22", "hunter23", "x!"], async |call, _| {
        call.state_set("hunter22", b"hunter22").await.unwrap();
        let kept = call.state_get("hunter22").await.unwrap();
        let other = call.state_get("hunter23").await.unwrap();
        let refused = outcome(call.state_get(&"hunter22".repeat(100)).await);
        call.log(Level::Info, "hunter22");
        let random = call.get_random_bytes(8).unwrap().len();
        format!("{kept:?} {other:?} {refused} {random} {:?}", call.now())
    })
    .await;
}
