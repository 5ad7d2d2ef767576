//! A source plugin that reads files, opens sockets and looks around, as a program with ambient authority would. Its token is what it found.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};

wit_bindgen::generate!({ path: "../../../wit/v0.1", world: "token-source" });

use evertoken::plugin::types::{Expiry, Failure, FailureKind, Token};
use exports::evertoken::plugin::source::{Guest, Job};

struct Ambient;

export!(Ambient);

impl Guest for Ambient {
    fn acquire(job: Job) -> Result<Token, Failure> {
        let config: serde_json::Value = serde_json::from_str(&job.config).unwrap_or_default();
        let text = |key: &str| {
            config
                .get(key)
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
        };
        let value = found(text("do"), text("at")).map_err(|error| Failure {
            kind: FailureKind::Internal,
            code: None,
            message: error.to_string(),
            retry_after_ms: None,
        })?;
        Ok(Token {
            value,
            token_type: String::new(),
            expiry: Expiry::Unknown,
            fields: Vec::new(),
        })
    }
}

fn found(what: &str, at: &str) -> io::Result<String> {
    match what {
        "read" => std::fs::read_to_string(at),
        "write" => std::fs::write(at, "written").map(|()| "written".to_owned()),
        "list" => std::fs::read_dir(at).map(|entries| entries.count().to_string()),
        "connect" => {
            let mut answer = String::new();
            TcpStream::connect(at)?.read_to_string(&mut answer)?;
            Ok(answer)
        }
        "listen" => TcpListener::bind(at).map(|_| "listening".to_owned()),
        "send" => {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.send_to(b"datagram", at).map(|sent| sent.to_string())
        }
        "resolve" => at
            .to_socket_addrs()
            .map(|found| format!("{:?}", found.collect::<Vec<_>>())),
        "environment" => Ok(format!(
            "{} variables, {} arguments, {} bytes of input",
            std::env::vars().count(),
            std::env::args().count(),
            io::stdin().bytes().count(),
        )),
        // As the runtime of an interpreted language ends: what was thrown is on standard error, and then there is a trap.
        "throw" => {
            let _ = writeln!(io::stderr(), "TypeError: {at} is not a function");
            std::process::abort()
        }
        other => Err(io::Error::other(format!("nobody knows how to {other}"))),
    }
}
