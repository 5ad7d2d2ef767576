//! A formatter plugin that misbehaves in the way that the `mode` in its configuration says.

use serde_json::Value;

wit_bindgen::generate!({ path: "../../../wit/v0.1", world: "output-formatter" });

use evertoken::plugin::log;
use evertoken::plugin::types::{Failure, FailureKind};
use exports::evertoken::plugin::formatter::{Artifact, Guest, NamedToken};

struct Misbehaving;

export!(Misbehaving);

impl Guest for Misbehaving {
    fn format(tokens: Vec<NamedToken>, config: String) -> Result<Vec<Artifact>, Failure> {
        let config: Value = serde_json::from_str(&config).map_err(|e| failed(&e.to_string()))?;
        let value = tokens
            .first()
            .map_or("", |named| named.token.value.as_str());
        match config
            .get("mode")
            .and_then(Value::as_str)
            .unwrap_or_default()
        {
            "good" => Ok(vec![artifact("", value.as_bytes().to_vec())]),
            "nothing" => Ok(Vec::new()),
            "huge" => Ok(vec![artifact("", vec![b'x'; 2 << 20])]),
            "huger" => Ok(vec![artifact("", vec![b'x'; 10 << 20])]),
            "many" => Ok((0..1000)
                .map(|n| artifact(&format!("f{n}"), Vec::new()))
                .collect()),
            "named" => Ok(names(&config)
                .map(|name| artifact(name, b"content".to_vec()))
                .collect()),
            "panic" => panic!("the token is {value}"),
            "fail" => Err(failed(&format!("cannot format {value}"))),
            "log" => {
                log::log(log::Level::Warn, &format!("the token is {value}"));
                Ok(vec![artifact("", Vec::new())])
            }
            "flood-log" => {
                for line in 0..100_000 {
                    log::log(log::Level::Warn, &format!("line {line}"));
                }
                Ok(vec![artifact("", Vec::new())])
            }
            "spin" => loop {
                std::hint::black_box(0);
            },
            "allocate" => {
                let mut kept = Vec::new();
                loop {
                    kept.push(std::hint::black_box(vec![1_u8; 1 << 16]));
                }
            }
            "log-without-end" => loop {
                log::log(log::Level::Warn, &format!("{value} {}", "x".repeat(10_000)));
            },
            "huge-names" => Ok((0..100)
                .map(|n| artifact(&format!("{}{n}", "n".repeat(100_000)), Vec::new()))
                .collect()),
            "escapes" => Err(failed(
                &"\u{1b}]0;owned\u{7}\u{1b}[2J\u{202e}".repeat(10_000),
            )),
            other => Err(failed(&format!("no such mode: `{other}`"))),
        }
    }
}

fn names(config: &Value) -> impl Iterator<Item = &str> {
    config
        .get("names")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn artifact(name: &str, content: Vec<u8>) -> Artifact {
    Artifact {
        name: name.to_owned(),
        content,
    }
}

fn failed(message: &str) -> Failure {
    Failure {
        kind: FailureKind::Internal,
        code: None,
        message: message.to_owned(),
        retry_after_ms: None,
    }
}
