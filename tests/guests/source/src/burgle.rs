//! Tries to get hold of secrets that the job does not reveal, by every function of the interface, and returns all that it saw.

use std::fmt::Debug;

use serde_json::Value as Json;

use crate::evertoken::plugin::http::{Body, Request};
use crate::evertoken::plugin::secrets::{Encoding, Piece, Secret, Value};
use crate::evertoken::plugin::types::Failure;
use crate::evertoken::plugin::{clock, crypto, http, log, secrets, state};

/// What makes of a secret between two texts something that functions look into.
const WRAPPERS: [(&str, Encoding, &str); 7] = [
    ("", Encoding::Raw, ""),
    (r#"{"kty":"RSA","e":"AQAB","n":""#, Encoding::Raw, r#""}"#),
    (
        r#"{"kty":"RSA","e":"AQAB","n":""#,
        Encoding::Base64url,
        r#""}"#,
    ),
    (
        r#"{"kty":"OKP","crv":"Ed25519","x":""#,
        Encoding::Base64url,
        r#""}"#,
    ),
    (
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA",
        Encoding::Base64,
        "\n-----END PUBLIC KEY-----\n",
    ),
    (
        "-----BEGIN CERTIFICATE-----\n",
        Encoding::Base64,
        "\n-----END CERTIFICATE-----\n",
    ),
    (r#"{"d":""#, Encoding::Json, r#""}"#),
];

/// A line for each thing that came back.
struct Loot(Vec<String>);

impl Loot {
    fn took<T: Debug>(&mut self, what: &str, result: Result<T, Failure>) {
        let line = match result {
            Ok(value) => format!("{what}: {value:?}"),
            Err(failure) => format!("{what}: no {:?} {}", failure.code, failure.message),
        };
        self.0.push(line);
    }

    /// What can be had of a handle.
    fn searches(&mut self, what: &str, secret: &Secret) {
        self.took(what, secret.reveal());
        self.took(what, secret.part("/d").and_then(|part| part.reveal()));
        let decode = |encoding| secret.decode(encoding).and_then(|decoded| decoded.reveal());
        for encoding in [
            Encoding::Hex,
            Encoding::Base64,
            Encoding::Base64url,
            Encoding::Base32,
        ] {
            self.took(what, decode(encoding));
        }
        let public = crypto::get_public_key(secret);
        self.took(
            what,
            public.map(|key| (key.jwk, key.spki, key.certificates)),
        );
    }
}

pub(crate) fn everything(config: &Json) -> String {
    let mut loot = Loot(Vec::new());
    let url = config.get("url").and_then(Json::as_str).unwrap_or_default();
    let names = config.get("secrets").and_then(Json::as_array);
    for name in names.into_iter().flatten().filter_map(Json::as_str) {
        match secrets::open(name) {
            Ok(secret) => burgle(&mut loot, name, &secret, url),
            Err(failure) => loot.took::<()>(name, Err(failure)),
        }
    }
    if let Some(name) = config.get("rotating").and_then(Json::as_str) {
        replaces(&mut loot, name);
    }
    loot.took("now", Ok(clock::now()));
    let loot = loot.0.join("\n");
    log::log(log::Level::Warn, &loot);
    loot
}

fn wrapped(
    secret: &Secret,
    (before, encoding, after): (&str, Encoding, &str),
) -> Result<Secret, Failure> {
    secrets::join(&[
        Piece::Text(before.to_owned()),
        Piece::Secret((secret, encoding)),
        Piece::Text(after.to_owned()),
    ])
}

/// Opened again, what it put together might count as a secret of the job's.
fn replaces(loot: &mut Loot, name: &str) {
    let Ok(first) = secrets::open(name) else {
        return loot.0.push(format!("{name} cannot be opened"));
    };
    // As many as a call may.
    for wrapper in WRAPPERS.into_iter().skip(2).take(4) {
        let replaced = wrapped(&first, wrapper)
            .and_then(|value| secrets::replace(name, &Value::Secret(&value), None));
        loot.took("replaced", replaced);
        match secrets::open(name) {
            Ok(secret) => loot.searches("opened again", &secret),
            Err(failure) => loot.took::<()>("opened again", Err(failure)),
        }
    }
}

fn burgle(loot: &mut Loot, name: &str, secret: &Secret, url: &str) {
    loot.searches(name, secret);
    for wrapper in WRAPPERS {
        match wrapped(secret, wrapper) {
            Ok(joined) => loot.searches(wrapper.0, &joined),
            Err(failure) => loot.took::<()>(wrapper.0, Err(failure)),
        }
    }
    let computed = [
        crypto::digest("SHA-256", &Value::Secret(secret)),
        crypto::digest("MD5", &Value::Secret(secret)),
        secrets::join(&[Piece::Text("my own key".to_owned())])
            .and_then(|key| crypto::sign(&key, "HS256", &Value::Secret(secret))),
        crypto::sign(secret, "HS256", &Value::Text("message".to_owned())),
        crypto::sign(secret, "EdDSA", &Value::Text("message".to_owned())),
    ];
    for made in computed {
        match made {
            Ok(made) => {
                loot.searches("computed", &made);
                echo(loot, &made, Encoding::Hex, url);
            }
            Err(failure) => loot.took::<()>("computed", Err(failure)),
        }
    }
    for encoding in [
        Encoding::Raw,
        Encoding::Json,
        Encoding::Base64,
        Encoding::Percent,
    ] {
        echo(loot, secret, encoding, url);
    }
    loot.took("kept", state::set("loot", loot.0.join(" ").as_bytes()));
    loot.took("kept", state::get("loot"));
}

/// Has the other side repeat it.
fn echo(loot: &mut Loot, secret: &Secret, encoding: Encoding, url: &str) {
    let spelled = match secrets::join(&[Piece::Secret((secret, encoding))]) {
        Ok(spelled) => spelled,
        Err(failure) => return loot.took::<()>("echo", Err(failure)),
    };
    let answer = http::send(&Request {
        method: "POST".to_owned(),
        url: url.to_owned(),
        query: vec![("q".to_owned(), Value::Secret(&spelled))],
        headers: vec![("x-header".to_owned(), Value::Secret(&spelled))],
        body: Body::Form(vec![("f".to_owned(), Value::Secret(&spelled))]),
    });
    let answer = answer.map(|answer| {
        (
            answer.headers,
            String::from_utf8_lossy(&answer.body).into_owned(),
        )
    });
    loot.took("echo", answer);
}
