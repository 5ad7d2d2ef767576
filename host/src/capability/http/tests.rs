//! Requests to real servers on this machine: what is sent, what is refused, and every way in which an answer can fail. `tls` has
//! the tests of certificates, `leak` those of logs.

mod leak;
mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use evertoken_answer::Content;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::capability::call::Call;
use crate::capability::encoding::Encoding;
use crate::capability::secrets::{Piece, Value};
use crate::capability::testing::{Fixture, NOW, Server, get, text};
use crate::model::Origin;
use crate::model::failure::{Failure, FailureKind};
use crate::model::time::Timestamp;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

fn code(outcome: &Result<Response, Failure>) -> &str {
    match outcome {
        Ok(response) => panic!("answered {response:?}"),
        Err(failure) => failure.code().unwrap(),
    }
}

#[tokio::test]
async fn secrets_are_spliced_into_query_header_and_form() {
    let server = Server::answering(OK).await;
    let mut fixture = Fixture::reaching(&server);
    fixture.secret("key", "s&c r+t/é");
    let call = fixture.call();
    let secret = call.open("key").await.unwrap();
    let basic = call
        .join(&[
            Piece::Text("id:".to_owned()),
            Piece::Secret(secret.clone(), Encoding::Form),
        ])
        .unwrap();
    let authorization = call
        .join(&[
            Piece::Text("Basic ".to_owned()),
            Piece::Secret(basic, Encoding::Base64),
        ])
        .unwrap();
    let response = call
        .send(Request {
            method: "POST".to_owned(),
            url: server.url("/token?a=b"),
            query: vec![("api key".to_owned(), Value::Secret(secret.clone()))],
            headers: vec![("Authorization".to_owned(), Value::Secret(authorization))],
            body: Body::Form(vec![
                ("grant_type".to_owned(), text("client_credentials")),
                ("client_secret".to_owned(), Value::Secret(secret)),
            ]),
        })
        .await
        .unwrap();
    assert_eq!((response.status, response.sent_at), (200, NOW));
    let requests = server.requests();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    for expected in [
        "POST /token?a=b&api%20key=s%26c%20r%2Bt%2F%C3%A9 HTTP/1.1\r\n",
        // base64 of "id:s%26c+r%2Bt%2F%C3%A9"
        "authorization: Basic aWQ6cyUyNmMrciUyQnQlMkYlQzMlQTk=\r\n",
        "content-type: application/x-www-form-urlencoded\r\n",
        concat!("user-agent: evertoken/", env!("CARGO_PKG_VERSION"), "\r\n"),
        "accept-encoding: identity\r\n",
        "content-length: 64\r\n",
        "connection: close\r\n",
    ] {
        assert!(
            format!("{head}\r\n").contains(expected),
            "{expected} in {head}"
        );
    }
    assert_eq!(
        body,
        "grant_type=client_credentials&client_secret=s%26c+r%2Bt%2F%C3%A9"
    );
}

#[tokio::test]
async fn a_plugin_names_its_own_agent_and_content_type() {
    let server = Server::answering(OK).await;
    let call = Fixture::reaching(&server).call();
    let mut request = get(server.url("/"));
    request.method = "POST".to_owned();
    request.headers = vec![
        ("User-Agent".to_owned(), text("mine/1")),
        ("Content-Type".to_owned(), text("application/json")),
    ];
    request.body = Body::Content(text("{\"a\":1}"));
    call.send(request).await.unwrap();
    let sent = server.requests().remove(0);
    assert!(
        sent.contains("user-agent: mine/1\r\n") && !sent.contains("evertoken/"),
        "{sent}"
    );
    assert!(
        sent.contains("content-type: application/json\r\n"),
        "{sent}"
    );
    assert!(sent.ends_with("\r\n\r\n{\"a\":1}"), "{sent}");
}

#[tokio::test]
async fn an_origin_that_is_not_the_jobs_is_refused_before_anything_leaves() {
    let server = Server::answering(OK).await;
    let fixture = Fixture::new();
    let outcome = fixture.call().send(get(server.url("/"))).await;
    assert_eq!(code(&outcome), "http.origin-denied");
    let failure = outcome.unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidConfig);
    let line = format!("`allow: [{}]`", server.origin());
    assert!(failure.message.contains(&line), "{failure}");
    assert_eq!(server.connections(), 0);

    let mut fixture = Fixture::new();
    fixture.job.source.allow = vec![server.origin()];
    fixture.call().send(get(server.url("/"))).await.unwrap();
}

#[tokio::test]
async fn a_secret_goes_to_the_endpoints_or_where_to_says_and_nowhere_else() {
    let endpoint = Server::answering(OK).await;
    let other = Server::answering(OK).await;
    let mut fixture = Fixture::reaching(&endpoint);
    fixture.job.source.allow = vec![other.origin()];
    fixture.secret("usual", "usual-value");
    fixture.secret("elsewhere", "elsewhere-value").to = Some(vec![other.origin()]);
    let call = fixture.call();
    let usual = call.open("usual").await.unwrap();
    let elsewhere = call.open("elsewhere").await.unwrap();
    let both = call
        .join(&[
            Piece::Secret(usual.clone(), Encoding::Raw),
            Piece::Secret(elsewhere.clone(), Encoding::Hex),
        ])
        .unwrap();
    for (secret, server, allowed) in [
        (&usual, &endpoint, true),
        (&usual, &other, false),
        (&elsewhere, &endpoint, false),
        (&elsewhere, &other, true),
        (&both, &endpoint, false),
        (&both, &other, false),
    ] {
        let mut request = get(server.url("/"));
        request.headers = vec![("X-Key".to_owned(), Value::Secret(secret.clone()))];
        let outcome = call.send(request).await;
        if allowed {
            outcome.unwrap();
        } else {
            assert_eq!(code(&outcome), "secret.origin-denied");
            let failure = outcome.unwrap_err();
            let wanted = format!(
                "{}]` under `source.secrets.",
                server.url("").trim_end_matches('/')
            );
            assert!(failure.message.contains(&wanted), "{failure}");
            assert!(!failure.message.contains("-value"), "{failure}");
        }
    }
    assert_eq!((endpoint.connections(), other.connections()), (1, 1));
}

#[tokio::test]
async fn requests_that_cannot_be_sent_say_why() {
    let server = Server::answering(OK).await;
    let mut fixture = Fixture::reaching(&server);
    fixture.limits.requests = 100;
    let call = fixture.call();
    let header = |name: &str, value: &str| {
        let mut request = get(server.url("/"));
        request.headers = vec![(name.to_owned(), text(value))];
        request
    };
    let method = |method: &str| Request {
        method: method.to_owned(),
        ..get(server.url("/"))
    };
    let with_user = server.url("/").replace("//", "//user:pass@");
    for (request, part) in [
        (header("Host", "evil.test"), "`host` is the host's own"),
        (header("Connection", "close"), "`connection`"),
        (
            header("Transfer-Encoding", "chunked"),
            "`transfer-encoding`",
        ),
        (header("Content-Length", "0"), "`content-length`"),
        (header("Upgrade", "h2c"), "`upgrade`"),
        (
            header("Proxy-Authorization", "Basic eA=="),
            "`proxy-authorization`",
        ),
        (
            header("X-A", "a\r\nX-B: b"),
            "`x-a` has a line end (U+000D) at byte 2 of 9",
        ),
        (header("X A", "a"), "name \"X A\" is empty or holds"),
        (header("Keep-Alive", "timeout=5"), "`keep-alive`"),
        (header("TE", "trailers"), "`te`"),
        (header("Range", "bytes=0-3"), "`range`"),
        (header("If-Range", "x"), "`if-range`"),
        (header("Accept-Encoding", "gzip"), "`accept-encoding`"),
        (header("Trailer", "x"), "`trailer`"),
        (header("eXPECT", "100-continue"), "`expect`"),
        (header("PROXY-Connection", "close"), "`proxy-connection`"),
        (header("", "a"), "name \"\" is empty"),
        (header(" Host", "a"), "name \" Host\""),
        (header("Host:", "a"), "name \"Host:\""),
        (method("CONNECT"), "`CONNECT` is not a method"),
        // Case counts (RFC 9110 §9.1), and not for every server.
        (method("connect"), "`connect` is not a method"),
        (method("Trace"), "`Trace` is not a method"),
        (method("TRACK"), "`TRACK` is not a method"),
        (method(""), "`` is not a method"),
        (method(" GET"), "is not a method"),
        (method("GET / HTTP/1.1\r\nX: y"), "is not a method"),
        (get(with_user), "user name or password"),
        (get("idp.example.org/token"), "does not parse"),
        (get("ftp://idp.example.org/"), "neither http nor https"),
        (get(format!("{}\n", server.url("/"))), "control character"),
        (
            header("X-Long", &"a".repeat(MAX_REQUEST_BYTES)),
            "more than 1048576 bytes",
        ),
    ] {
        let outcome = call.send(request).await;
        assert_eq!(code(&outcome), "http.request");
        let failure = outcome.unwrap_err();
        assert!(failure.message.contains(part), "{part}: {failure}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_name_that_resolves_to_this_machine_is_refused_unless_it_is_localhost_or_excepted() {
    let server = Server::answering(OK).await;
    let mut fixture = Fixture::new();
    fixture.endpoints = vec![
        server.origin_as("idp.test"),
        server.origin_as("localhost"),
        server.origin_as("nowhere.test"),
    ];
    let send = |fixture: &Fixture, origin: Origin| {
        let call = fixture.call();
        async move { call.send(get(format!("{origin}/"))).await }
    };
    let outcome = send(&fixture, server.origin_as("idp.test")).await;
    assert_eq!(code(&outcome), "http.address-denied");
    let failure = outcome.unwrap_err();
    assert!(
        failure.message.contains("127.0.0.1, a loopback address"),
        "{failure}"
    );
    assert!(
        failure.message.contains("`allow_addresses: [127.0.0.1]`"),
        "{failure}"
    );
    assert_eq!(server.connections(), 0);

    send(&fixture, server.origin_as("localhost")).await.unwrap();
    let outcome = send(&fixture, server.origin_as("nowhere.test")).await;
    assert_eq!(code(&outcome), "http.dns");
    assert_eq!(outcome.unwrap_err().kind, FailureKind::Unavailable);

    fixture.job.source.allow_addresses =
        vec![ipnet::Ipv4Net::from(std::net::Ipv4Addr::LOCALHOST).into()];
    send(&fixture, server.origin_as("idp.test")).await.unwrap();
}

#[tokio::test]
async fn metadata_addresses_are_refused_even_when_written() {
    let mut fixture = Fixture::new();
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://0.0.0.0:8080/",
        "http://[64:ff9b::a9fe:a9fe]/",
    ] {
        fixture.job.source.allow = vec![Origin::of(&url::Url::parse(url).unwrap()).unwrap()];
        let outcome = fixture.call().send(get(url)).await;
        assert_eq!(code(&outcome), "http.address-denied", "{url}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_like_any_other() {
    let target = Server::answering(OK).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: {}\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
        target.url("/")
    );
    let server = Server::answering(redirect).await;
    let mut fixture = Fixture::reaching(&server);
    fixture.job.source.allow = vec![target.origin()];
    let response = fixture.call().send(get(server.url("/"))).await.unwrap();
    assert_eq!(response.status, 302);
    let cookies: Vec<_> = response
        .headers
        .iter()
        .filter(|(name, _)| name == "set-cookie")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn answers_that_are_too_large_are_cut_off_whatever_they_announce() {
    const HUNDRED_MEGABYTES: usize = 100 * 1024 * 1024;
    for head in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {HUNDRED_MEGABYTES}\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned(),
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: {}\r\n\r\n",
            "a".repeat(70_000)
        ),
    ] {
        let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&written);
        let server = Server::scripted(move |mut stream| {
            let (head, counted) = (head.clone(), Arc::clone(&counted));
            async move {
                stream.write_all(head.as_bytes()).await?;
                for _ in 0..HUNDRED_MEGABYTES / 65536 {
                    stream.write_all(&[b'a'; 65536]).await?;
                    counted.fetch_add(65536, std::sync::atomic::Ordering::Relaxed);
                }
                Ok(())
            }
        })
        .await;
        let outcome = Fixture::reaching(&server)
            .call()
            .send(get(server.url("/")))
            .await;
        assert_eq!(code(&outcome), "http.too-large");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let written = written.load(std::sync::atomic::Ordering::Relaxed);
        assert!(
            written < HUNDRED_MEGABYTES / 4,
            "{written} bytes were taken"
        );
    }
}

#[tokio::test]
async fn an_answer_as_large_as_the_limit_is_read_whole() {
    let body = "a".repeat(1000);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let server = Server::answering(format!("{head}{body}")).await;
    let mut fixture = Fixture::reaching(&server);
    fixture.limits.response_bytes = head.len() + body.len();
    let response = fixture.call().send(get(server.url("/"))).await.unwrap();
    assert_eq!(response.body, body.as_bytes());
    fixture.limits.response_bytes -= 1;
    let outcome = fixture.call().send(get(server.url("/"))).await;
    assert_eq!(code(&outcome), "http.too-large");
}

#[tokio::test]
async fn slow_and_dripping_servers_run_into_the_calls_time() {
    let silent = Server::scripted(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
        Ok(())
    })
    .await;
    let dripping = Server::scripted(|mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
            .await?;
        loop {
            stream.write_all(b"a").await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for server in [&silent, &dripping] {
        let mut fixture = Fixture::reaching(server);
        fixture.job.source.timeout = Duration::from_millis(500);
        let began = Instant::now();
        let outcome = fixture.call().send(get(server.url("/"))).await;
        let took = began.elapsed();
        assert_eq!(code(&outcome), "http.timeout");
        let failure = outcome.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unavailable);
        // A tenth of the call's timeout is left to the plugin.
        assert!(
            failure.message.contains("in full 0.45 s after"),
            "{failure}"
        );
        // Far below the servers' own minute, however busy the machine.
        assert!(
            took >= Duration::from_millis(450) && took < Duration::from_secs(10),
            "{took:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_http_answer_is_a_protocol_failure() {
    for answer in [
        "",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"access_token\":\"a\"",
    ] {
        let server = Server::answering(answer).await;
        let outcome = Fixture::reaching(&server)
            .call()
            .send(get(server.url("/")))
            .await;
        assert_eq!(code(&outcome), "http.protocol", "{answer:?}");
        assert_eq!(outcome.unwrap_err().kind, FailureKind::Unavailable);
        assert_eq!(server.connections(), 1, "a request is not sent twice");
    }
}

/// The parser's own tests cover all malformed answers; this test covers their arrival over the network, piece by piece.
#[tokio::test]
async fn an_answer_ends_where_its_content_does_when_its_framing_is_wrong() {
    const BODY: &str = "{\"access_token\":\"a\"}";
    for (what, pieces) in [
        (
            "a length that is too long",
            vec![format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{BODY}"
            )],
        ),
        (
            "a length that is too short",
            vec![
                format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}", &BODY[..9]),
                BODY[9..].to_owned(),
            ],
        ),
        (
            "no last chunk",
            vec![
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
                format!("{:x}\r\n{BODY}", BODY.len()),
            ],
        ),
        (
            "no length",
            vec![
                "HTTP/1.1 200 OK\r\nx: a\r\n".to_owned(),
                format!(" b\r\n\r\n{BODY}"),
            ],
        ),
    ] {
        let server = Server::scripted(move |mut stream| {
            let pieces = pieces.clone();
            async move {
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                // The connection stays open.
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok(())
            }
        })
        .await;
        let response = Fixture::reaching(&server)
            .call()
            .send(get(server.url("/")))
            .await;
        assert_eq!(response.unwrap().body, BODY.as_bytes(), "{what}");
    }
}

/// A call that holds a rotating secret, and a request that carries it.
async fn carrying(fixture: &mut Fixture, server: &Server) -> (Call, Request) {
    fixture.secret("rt", "rt-value").rotating = true;
    let call = fixture.holding_call().await;
    let token = Value::Secret(call.open("rt").await.unwrap());
    let request = Request {
        method: "POST".to_owned(),
        body: Body::Form(vec![("refresh_token".to_owned(), token)]),
        ..get(server.url("/"))
    };
    (call, request)
}

/// Sends these pieces one after the other, a tenth of a second apart, and leaves the connection open.
async fn in_pieces(pieces: Vec<Vec<u8>>) -> Server {
    Server::scripted(move |mut stream| {
        let pieces = pieces.clone();
        async move {
            for piece in pieces {
                stream.write_all(&piece).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        }
    })
    .await
}

/// A server's success without content may be followed by more. The next value may be only there.
#[tokio::test]
async fn behind_a_success_with_nothing_in_it_is_waited_for_what_a_rotating_secret_becomes() {
    const BODY: &[u8] = b"{\"access_token\":\"a\",\"refresh_token\":\"r\"}";
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let server = in_pieces(vec![head.into(), BODY.to_vec()]).await;
        let (call, request) = carrying(&mut Fixture::reaching(&server), &server).await;
        let response = call.send(request).await.unwrap();
        assert_eq!(response.body, BODY, "{head}");
        let nothing = in_pieces(vec![head.into()]).await;
        let (call, request) = carrying(&mut Fixture::reaching(&nothing), &nothing).await;
        let response = call.send(request).await.unwrap();
        assert_eq!(response.body, b"", "{head}");
    }
}

/// Some servers send an interim object before the answer.
#[tokio::test]
async fn behind_an_object_without_a_token_is_waited_for_one_with_it() {
    let pieces = [
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"state\":\"at work\"}\n",
        " \n",
        " \n",
        " \n",
        "{\"access_token\":\"a\",\"refresh_token\":\"r\"}",
    ];
    let server = in_pieces(pieces.map(Vec::from).to_vec()).await;
    let (call, request) = carrying(&mut Fixture::reaching(&server), &server).await;
    let response = call.send(request).await.unwrap();
    let Content::Members(found) = evertoken_answer::read_wrapped(None, &response.body) else {
        panic!("no members");
    };
    assert_eq!(found.refresh_token(), Some("r"));
}

#[tokio::test]
async fn who_waits_for_a_token_does_not_wait_for_what_follows_a_whole_object() {
    let server = in_pieces(vec![
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"access_token\":\"a\"}".to_vec(),
    ])
    .await;
    let began = Instant::now();
    Fixture::reaching(&server)
        .call()
        .send(get(server.url("/")))
        .await
        .unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

/// The parser needs the beginning and the end; the middle is discarded.
#[tokio::test]
async fn tokens_in_an_answer_beyond_the_limit_are_found_for_a_rotating_secret() {
    const TOKENS: &str = "\"access_token\":\"a\",\"refresh_token\":\"r\"";
    let long = "x".repeat(300_000);
    let list = "1234,".repeat(60_000);
    let chunks: String = (0..100)
        .map(|_| format!("bb8\r\n{}\r\n", "y".repeat(3000)))
        .collect();
    let end = format!("\",{TOKENS}}}");
    for (what, bytes) in [
        (
            "before it",
            format!("HTTP/1.1 200 OK\r\n\r\n{{{TOKENS},\"x\":\"{long}\"}}"),
        ),
        (
            "behind a text",
            format!("HTTP/1.1 200 OK\r\n\r\n{{\"x\":\"{long}\",{TOKENS}}}"),
        ),
        (
            "behind a list",
            format!("HTTP/1.1 200 OK\r\n\r\n{{\"x\":[{list}1],{TOKENS}}}"),
        ),
        (
            "behind a page",
            format!("HTTP/1.1 200 OK\r\n\r\n<b>{long}</b>{{{TOKENS}}}"),
        ),
        (
            "behind a header",
            format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n{{{TOKENS}}}"),
        ),
        (
            "in chunks",
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\n{{\"x\":\"\r\n{chunks}{:x}\r\n{end}\r\n0\r\n\r\n",
                end.len()
            ),
        ),
        (
            "with a length",
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{{\"x\":\"{long}\",{TOKENS}}}",
                long.len() + TOKENS.len() + 9
            ),
        ),
    ] {
        let server = in_pieces(vec![bytes.into_bytes()]).await;
        let (call, request) = carrying(&mut Fixture::reaching(&server), &server).await;
        let response = call
            .send(request)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(response.body.len() <= 64 * 1024, "{what}");
        let (Content::Members(found) | Content::Form(found)) =
            evertoken_answer::read_wrapped(None, &response.body)
        else {
            panic!("{what}");
        };
        assert_eq!(
            (found.access_token(), found.refresh_token()),
            (Some("a"), Some("r")),
            "{what}"
        );
    }
}

#[tokio::test]
async fn interim_answers_without_end_are_not_read_for_long() {
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&written);
    let server = Server::scripted(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            loop {
                stream
                    .write_all(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
                    .await?;
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    })
    .await;
    let mut fixture = Fixture::reaching(&server);
    let (call, rotating) = carrying(&mut fixture, &server).await;
    for request in [get(server.url("/")), rotating] {
        let outcome = call.send(request).await;
        assert_eq!(code(&outcome), "http.protocol");
        assert!(outcome.unwrap_err().message.contains("(1xx)"));
    }
    let after = written.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        written.load(std::sync::atomic::Ordering::Relaxed),
        after,
        "nobody reads on"
    );
}

#[tokio::test]
async fn a_closed_port_is_a_connect_failure() {
    let server = Server::answering(OK).await;
    let fixture = Fixture::reaching(&server);
    let url = server.url("/");
    server.stop().await;
    let outcome = fixture.call().send(get(url)).await;
    assert_eq!(code(&outcome), "http.connect");
    assert!(outcome.unwrap_err().message.ends_with("connection refused"));
}

#[tokio::test]
async fn a_call_has_a_number_of_requests_and_no_more() {
    let server = Server::answering(OK).await;
    let mut fixture = Fixture::reaching(&server);
    fixture.limits.requests = 3;
    let call = fixture.call();
    for _ in 0..3 {
        call.send(get(server.url("/"))).await.unwrap();
    }
    let outcome = call.clone().send(get(server.url("/"))).await;
    assert_eq!(code(&outcome), "http.too-many-requests");
    assert_eq!(server.requests().len(), 3);
    fixture.call().send(get(server.url("/"))).await.unwrap();
}

#[tokio::test]
async fn a_rotating_secret_travels_on_a_connection_of_its_own() {
    let server = Server::scripted(|mut stream| async move {
        // Stays open for the next request, which the script never reads.
        stream.write_all(OK.as_bytes()).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(())
    })
    .await;
    let mut fixture = Fixture::reaching(&server);
    let names = ["rt-1", "rt-2", "rt-3"];
    for name in names {
        fixture.secret(name, &format!("{name}-value")).rotating = true;
    }
    let call = fixture.holding_call().await;
    for (name, expected) in names.into_iter().zip(1..) {
        let mut request = get(server.url("/"));
        let secret = call.open(name).await.unwrap();
        request.headers = vec![("X-Token".to_owned(), Value::Secret(secret))];
        call.send(request).await.unwrap();
        assert_eq!(server.connections(), expected);
    }
}

#[tokio::test]
async fn a_proxy_is_used_and_the_target_is_still_checked() {
    let proxy = Server::answering(OK).await;
    let mut fixture = Fixture::new();
    fixture.endpoints = vec![Origin::parse("http://idp.example.org").unwrap()];
    let mut url = url::Url::parse(&proxy.url("/")).unwrap();
    url.set_username("user").unwrap();
    url.set_password(Some("hunter22")).unwrap();
    fixture.job.source.proxy = Some(Box::new(url));
    // The name does not exist here: the proxy resolves it.
    fixture
        .call()
        .send(get("http://idp.example.org/token"))
        .await
        .unwrap();
    let sent = proxy.requests().remove(0);
    assert!(
        sent.starts_with("GET http://idp.example.org/token HTTP/1.1\r\n"),
        "{sent}"
    );
    assert!(
        sent.contains("proxy-authorization: Basic dXNlcjpodW50ZXIyMg==\r\n"),
        "{sent}"
    );

    let outcome = fixture.call().send(get("http://other.example.org/")).await;
    assert_eq!(code(&outcome), "http.origin-denied");
    fixture.job.source.proxy = Some(Box::new(
        url::Url::parse("http://169.254.169.254:3128").unwrap(),
    ));
    let outcome = fixture
        .call()
        .send(get("http://idp.example.org/token"))
        .await;
    assert_eq!(code(&outcome), "http.address-denied");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_a_connect_failure_that_names_it() {
    let proxy = Server::answering(
        "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let mut fixture = Fixture::new();
    let folder = tempfile::tempdir().unwrap();
    let ca = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.cert.pem()).unwrap();
    fixture.job.source.tls.ca_file = Some(folder.path().join("ca.pem"));
    fixture.endpoints = vec![Origin::parse("https://idp.example.org").unwrap()];
    fixture
        .environment
        .insert("HTTPS_PROXY".to_owned(), proxy.url("").into());
    let outcome = fixture
        .call()
        .send(get("https://idp.example.org/token"))
        .await;
    assert_eq!(code(&outcome), "http.connect");
    let failure = outcome.unwrap_err();
    let through = format!("through proxy {}", proxy.url("/"));
    assert!(failure.message.contains(&through), "{failure}");
    assert!(proxy.requests()[0].starts_with("CONNECT idp.example.org:443 HTTP/1.1\r\n"));

    fixture
        .environment
        .insert("NO_PROXY".to_owned(), "idp.example.org".into());
    let outcome = fixture
        .call()
        .send(get("https://idp.example.org/token"))
        .await;
    assert_eq!(code(&outcome), "http.dns");
}

#[test]
fn the_date_of_an_answer_is_read_as_rfc_9110_writes_it() {
    let dated = |headers: &[(&str, &str)]| {
        let headers = headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let response = Response {
            status: 200,
            headers: headers.collect(),
            body: Vec::new(),
            sent_at: NOW,
        };
        response.date()
    };
    let expected = Some(Timestamp(784_111_777_000));
    assert_eq!(
        dated(&[("date", "Sun, 06 Nov 1994 08:49:37 GMT")]),
        expected
    );
    for nonsense in [
        "",
        "yesterday",
        "Sun, 06 Nov 1894 08:49:37 GMT",
        "1994-11-06",
    ] {
        assert_eq!(dated(&[("date", nonsense)]), None, "{nonsense}");
    }
    assert_eq!(dated(&[("expires", "Sun, 06 Nov 1994 08:49:37 GMT")]), None);
}
