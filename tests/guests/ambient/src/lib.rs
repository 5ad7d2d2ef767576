//! A source plugin that reads files and opens sockets, as a program with ambient authority would.

use std::io::Read;

wit_bindgen::generate!({ path: "../../../wit/v0.1", world: "token-source" });

use evertoken::plugin::types::{Expiry, Failure, FailureKind, Token};
use exports::evertoken::plugin::source::{Guest, Job};

struct Ambient;

export!(Ambient);

impl Guest for Ambient {
    fn acquire(job: Job) -> Result<Token, Failure> {
        let config: serde_json::Value = serde_json::from_str(&job.config).unwrap_or_default();
        let value = match config.get("path").and_then(serde_json::Value::as_str) {
            Some(path) => std::fs::read_to_string(path).map_err(failed)?,
            None => {
                let mut answer = String::new();
                std::net::TcpStream::connect("127.0.0.1:1")
                    .and_then(|mut stream| stream.read_to_string(&mut answer))
                    .map_err(failed)?;
                answer
            }
        };
        Ok(Token {
            value,
            token_type: String::new(),
            expiry: Expiry::Unknown,
            fields: Vec::new(),
        })
    }
}

fn failed(error: std::io::Error) -> Failure {
    Failure {
        kind: FailureKind::Internal,
        code: None,
        message: error.to_string(),
        retry_after_ms: None,
    }
}
