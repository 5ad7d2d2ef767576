//! Calls of the host without end, each with as much as it takes.

use serde_json::Value;

use crate::evertoken::plugin::secrets::{self, Encoding, Piece, Value as Message};
use crate::evertoken::plugin::types::{Failure, Token};
use crate::evertoken::plugin::{clock, crypto, http, log, state};
use crate::{failed, request, text, token};

/// What the host takes at once of most things.
const LARGE: usize = 1 << 20;

/// Calls the function that `call` names until the call is stopped; what the host refuses is called again.
pub(crate) fn without_end(config: &Value) -> Result<Token, Failure> {
    let large = "a".repeat(LARGE);
    let mut answer = String::new();
    if text(config, "call") == "log-answer" {
        let body = http::send(&request(text(config, "url")))?.body;
        answer = String::from_utf8_lossy(&body).into_owned();
    }
    let secret = secrets::open(text(config, "secret"));
    loop {
        let message = Message::Bytes(large.clone().into_bytes());
        match (text(config, "call"), &secret) {
            ("digest", _) => drop(crypto::digest("SHA-512", &message)),
            ("sign", Ok(key)) => drop(crypto::sign(key, "HS512", &message)),
            ("public-key", Ok(key)) => drop(crypto::get_public_key(key)),
            ("reveal", Ok(secret)) => drop(secret.reveal()),
            ("part", Ok(secret)) => drop(secret.part("/a/b")),
            ("decode", Ok(secret)) => drop(secret.decode(Encoding::Base64)),
            ("join", Ok(secret)) => drop(secrets::join(&[
                Piece::Text(large[..LARGE / 4].to_owned()),
                Piece::Secret((secret, Encoding::Xml)),
            ])),
            ("replace", _) => {
                let next = Message::Text(format!("value {}", clock::now()));
                drop(secrets::replace(text(config, "secret"), &next, None));
            }
            ("state", _) => drop(state::set("key", &large.as_bytes()[..LARGE / 4])),
            ("random", _) => drop(crypto::get_random_bytes(1024)),
            ("headers", _) => {
                let mut many = request(text(config, "url"));
                many.headers = (0..20_000)
                    .map(|n| (format!("x-{n}"), Message::Text(String::new())))
                    .collect();
                drop(http::send(&many));
            }
            ("send", _) => drop(http::send(&request(text(config, "url")))),
            ("log", _) => log::log(log::Level::Warn, &large),
            ("log-answer", _) => log::log(log::Level::Warn, &answer),
            ("panic", _) => panic!("{large}"),
            (other, _) => return Err(failed(&format!("no such call: `{other}`"))),
        }
    }
}
