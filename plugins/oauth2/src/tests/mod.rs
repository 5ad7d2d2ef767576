//! The requests that the configuration describes, and the answers that issuers really give.

mod answers;
mod requests;

use evertoken_plugin::testing::{Answer, Host, acquire};
use evertoken_plugin::{Failure, Timestamp, Token};
use serde_json::{Value, json};

use crate::OAuth2;

/// When the test double's requests leave: 2023-11-14T22:13:20Z.
const SENT_AT: Timestamp = Timestamp::from_unix_seconds(1_700_000_000);

/// The configuration of a client without secret, with these keys added.
fn config(grant: &str, more: Value) -> Value {
    let mut config =
        json!({"grant": grant, "token_url": "https://idp.example.org/token", "client_id": "svc"});
    let more = more.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(more);
    config
}

/// The result of this answer to a client credentials request.
fn answered(answer: Answer) -> Result<Token, Failure> {
    let host = Host::new();
    host.answer(answer);
    acquire::<OAuth2>(&config("client_credentials", json!({})))
}
