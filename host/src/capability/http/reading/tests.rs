//! Every form of an answer and of a refusal: its interpretation, and the state of the value that was sent.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use secrecy::ExposeSecret;

use super::*;
use crate::model::time::Timestamp;

const BODY: &str = r#"{"access_token":"at","refresh_token":"rt"}"#;
const LIMIT: usize = 64 * 1024;

fn read(bytes: impl Into<Vec<u8>>, is_closed: bool) -> Option<ReadAnswer> {
    let arrived = Arrived {
        sent_at: Timestamp(0),
        bytes: bytes.into(),
    };
    ReadAnswer::of_bytes(&arrived, "POST", is_closed, LIMIT)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn message(headers: &str, body: &[u8]) -> Vec<u8> {
    [b"HTTP/1.1 200 OK\r\n", headers.as_bytes(), b"\r\n", body].concat()
}

#[test]
fn a_whole_object_has_arrived_whatever_is_wrong_with_its_framing() {
    let many: String = (0..1000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let length = format!("content-length: {}\r\n", BODY.len());
    let chunk = |size: usize| format!("{size:x}\r\n{BODY}\r\n0\r\n\r\n");
    let (first, second) = BODY.split_at(20);
    for (what, bytes) in [
        ("as it should be", message(&length, BODY.as_bytes())),
        ("a folded header", message(&format!("x-policy: a;\r\n  b\r\n\tc\r\n{length}"), BODY.as_bytes())),
        ("a fold in the first line", message(&format!(" folded\r\n{length}"), BODY.as_bytes())),
        ("many headers", message(&format!("{many}{length}"), BODY.as_bytes())),
        ("a long header", message(&format!("x-long: {}\r\n{length}", "a".repeat(20_000)), BODY.as_bytes())),
        ("bad bytes in a header", [b"HTTP/1.1 200 OK\r\nx: \xff\x00\x01\r\n\r\n", BODY.as_bytes()].concat()),
        ("bad bytes in a name", [b"HTTP/1.1 200 OK\r\n\xe9(x): 1\r\n\r\n", BODY.as_bytes()].concat()),
        ("a line that is no header", message(&format!("nonsense\r\n: x\r\n{length}"), BODY.as_bytes())),
        ("a blank before the colon", message(&length.replace(':', " :"), BODY.as_bytes())),
        ("bare line feeds", format!("HTTP/1.1 200 OK\n{}\n{BODY}", length.replace('\r', "")).into()),
        ("no reason", format!("HTTP/1.1 200\r\n{length}\r\n{BODY}").into()),
        ("another version", format!("HTTP/2 200\r\n{length}\r\n{BODY}").into()),
        ("an old version", format!("HTTP/1.0 200 OK\r\n\r\n{BODY}").into()),
        ("blanks in the status line", format!("HTTP/1.1  200   OK\r\n{length}\r\n{BODY}").into()),
        ("a reason with odd bytes", [b"HTTP/1.1 200 tr\xe8s bien\r\n\r\n", BODY.as_bytes()].concat()),
        ("line ends before it", format!("\r\n\r\nHTTP/1.1 200 OK\r\n{length}\r\n{BODY}").into()),
        ("interim answers", format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n{length}\r\n{BODY}").into()),
        ("no blank line", format!("HTTP/1.1 200 OK\r\ncontent-type: x\r\n{BODY}").into()),
        ("no head", BODY.into()),
        ("no version", format!("200 OK\r\n{length}\r\n{BODY}").into()),
        ("a version in lower case", format!("http/1.1 200 ok\r\n{length}\r\n{BODY}").into()),
        ("no blank behind the code", format!("HTTP/1.1 200OK\r\n{length}\r\n{BODY}").into()),
        ("a code with four digits", format!("HTTP/1.1 2000 OK\r\n{length}\r\n{BODY}").into()),
        ("no code", format!("HTTP/1.1 OK\r\nreport-to: {{\"group\":\"nel\"}}\r\n{length}\r\n{BODY}").into()),
        ("a code of nothing", format!("HTTP/1.1 000 OK\r\n{length}\r\n{BODY}").into()),
        ("no status line", format!("content-type: application/json\r\n{length}\r\n{BODY}").into()),
        ("bare carriage returns", format!("HTTP/1.1 200 OK\r{}\r\r{BODY}", length.trim_end()).into()),
        ("carriage returns too many", format!("HTTP/1.1 200 OK\r\r\n{}\r\r\n\r\r\n{BODY}", length.trim_end()).into()),
        ("a head twice", message("server: x\r\n", format!("HTTP/1.1 200 OK\r\n{length}\r\n{BODY}").as_bytes())),
        ("a size with a prefix", message("transfer-encoding: chunked\r\n", format!("0x{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len()).as_bytes())),
        ("the last chunk first", message("transfer-encoding: chunked\r\n", format!("0\r\n\r\n{}", chunk(BODY.len())).as_bytes())),
        ("chunks in quotes", message("transfer-encoding: \"chunked\"\r\n", chunk(BODY.len()).as_bytes())),
        ("a length that is too long", message("content-length: 9999\r\n", BODY.as_bytes())),
        ("a length that is too short", message("content-length: 20\r\n", BODY.as_bytes())),
        ("a length of nothing", message("content-length: 0\r\n", BODY.as_bytes())),
        ("a length that is none", message("content-length: many\r\n", BODY.as_bytes())),
        ("a length below nothing", message("content-length: -1\r\n", BODY.as_bytes())),
        ("a length beyond everything", message("content-length: 99999999999999999999\r\n", BODY.as_bytes())),
        ("two lengths", message(&format!("content-length: 5\r\n{length}"), BODY.as_bytes())),
        ("one length twice", message(&format!("{length}{length}"), BODY.as_bytes())),
        ("more behind it", message(&length, format!("{BODY}\r\n<!-- web-7 -->").as_bytes())),
        ("itself again", message("", format!("{BODY}{BODY}").as_bytes())),
        ("an answer behind it", message(&length, format!("{BODY}HTTP/1.1 500 Oops\r\n\r\n").as_bytes())),
        ("no end of the connection", message("connection: keep-alive\r\n", BODY.as_bytes())),
        ("chunks", message("transfer-encoding: chunked\r\n", chunk(BODY.len()).as_bytes())),
        ("two chunks", message("transfer-encoding: chunked\r\n", format!("{:x};x=y\r\n{first}\r\n{:X} \r\n{second}\r\n0\r\n", first.len(), second.len()).as_bytes())),
        ("chunks and a length", message("transfer-encoding: chunked\r\ncontent-length: 3\r\n", chunk(BODY.len()).as_bytes())),
        ("chunks without an end", message("transfer-encoding: chunked\r\n", format!("{:x}\r\n{BODY}", BODY.len()).as_bytes())),
        ("a chunk that is longer", message("transfer-encoding: chunked\r\n", chunk(BODY.len() - 5).as_bytes())),
        ("a chunk that is shorter", message("transfer-encoding: chunked\r\n", chunk(BODY.len() + 3).as_bytes())),
        ("a chunk without size", message("transfer-encoding: chunked\r\n", BODY.as_bytes())),
        ("a size that is none", message("transfer-encoding: chunked\r\n", format!("{:x}\r\n{BODY}\r\nzz\r\nxx", BODY.len()).as_bytes())),
        ("chunks with bare line feeds", message("transfer-encoding: chunked\r\n", chunk(BODY.len()).replace('\r', "").as_bytes())),
        ("a coding nobody knows", message("transfer-encoding: x-gzip\r\n", BODY.as_bytes())),
        ("gzip", message("content-encoding: gzip\r\n", &gzip(BODY.as_bytes()))),
        ("gzip that nobody speaks of", message("", &gzip(BODY.as_bytes()))),
        ("gzip in chunks", message("content-encoding: gzip\r\ntransfer-encoding: chunked\r\n", &{
            let content = gzip(BODY.as_bytes());
            [format!("{:x}\r\n", content.len()).as_bytes(), &content, b"\r\n0\r\n\r\n"].concat()
        })),
        ("gzip whose sum is wrong", message("content-encoding: gzip\r\n", &{
            let mut content = gzip(BODY.as_bytes());
            let sum = content.len() - 8;
            content[sum] ^= 1;
            content
        })),
        ("gzip in words only", message("content-encoding: gzip\r\n", BODY.as_bytes())),
        ("another type", message("content-type: text/html\r\n", BODY.as_bytes())),
        ("another character set", message("content-type: application/json; charset=iso-8859-1\r\n", &[&BODY.as_bytes()[..BODY.len() - 1], b",\"name\":\"Z\xfcrich\"}"].concat())),
        ("a byte order mark", message("", format!("\u{feff}{BODY}").as_bytes())),
        ("a byte order mark before everything", format!("\u{feff}HTTP/1.1 200 OK\r\n{length}\r\n{BODY}").into()),
        ("UTF-32", message("", &BODY.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<u8>>())),
        ("single quotes", message("", BODY.replace('"', "'").as_bytes())),
        ("a form alone", b"access_token=at&refresh_token=rt".to_vec()),
        ("a form", message("content-length: 32\r\n", b"access_token=at&refresh_token=rt")),
        ("a form that ends with the connection", message("", b"access_token=at&refresh_token=rt")),
        ("a body behind none", [b"HTTP/1.1 204 No Content\r\n\r\n", BODY.as_bytes()].concat()),
        ("a body behind a reset", [b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n", BODY.as_bytes()].concat()),
    ] {
        let reading = read(bytes, false).unwrap_or_else(|| panic!("{what}"));
        assert!(is_success(reading.response.status), "{what}");
        assert_eq!(reading.meaning, Meaning::Taken, "{what}");
        let is_form = what.starts_with("a form");
        assert!((reading.is_whole || is_form) && reading.is_of_use(), "{what}");
        let (Content::Members(members) | Content::Form(members)) = evertoken_answer::read_wrapped(None, &reading.response.body) else {
            panic!("{what}: {:?}", String::from_utf8_lossy(&reading.response.body));
        };
        assert_eq!((members.text("access_token"), members.text("refresh_token")), (Some("at"), Some("rt")), "{what}");
    }
}

#[test]
fn headers_are_read_as_they_are_meant() {
    let bytes = b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer\r\n   realm=\"x\"\r\nX-Latin: Z\xfcrich\r\nx-utf: \xc3\xbc\r\nSet-Cookie: a\r\nset-cookie: b\r\nDate : now\r\ncontent-length: 0\r\n\r\n";
    let reading = read(*bytes, false).unwrap();
    let expected = [
        ("www-authenticate", "Bearer realm=\"x\""),
        ("x-latin", "Zürich"),
        ("x-utf", "ü"),
        ("set-cookie", "a"),
        ("set-cookie", "b"),
        ("date", "now"),
        ("content-length", "0"),
    ];
    let headers: Vec<_> = reading
        .response
        .headers
        .iter()
        .map(|(n, v)| (&**n, &**v))
        .collect();
    assert_eq!(headers, expected);
}

#[test]
fn what_came_says_what_became_of_the_value() {
    use Meaning::{Dead, Taken, Unknown, Unspent};
    for (status, body, expected) in [
        (200, r#"{"access_token":"a"}"#, Taken),
        (200, r#"{"data":{"token":"a"}}"#, Taken),
        (200, r#"{"access_token":"a","error":"x"}"#, Taken),
        (200, r#"{"error":"","id":1}"#, Taken),
        (200, "access_token=a&refresh_token=r", Taken),
        (200, "opaque", Taken),
        (200, r#"["a"]"#, Taken),
        (200, "<AssumeRole><Token>a</Token></AssumeRole>", Taken),
        (201, r#"{"access_token":"a"}"#, Taken),
        (299, r#"{"access_token":"a"}"#, Taken),
        (200, r#"{"error":"invalid_grant"}"#, Dead),
        (200, "error=invalid_grant", Dead),
        // GitHub's code for a wrong or outdated one; the plugin reports it, and a later try does no harm.
        (200, r#"{"error":"bad_refresh_token"}"#, Unspent),
        (200, r#"{"ok":false,"error":"invalid_auth"}"#, Unspent),
        (200, "", Unspent),
        (200, " \r\n", Unspent),
        (200, "<!DOCTYPE html>", Unspent),
        (204, "", Unspent),
        (205, "", Unspent),
        (300, "", Unspent),
        (302, "<html>moved</html>", Unspent),
        (303, r#"{"access_token":"a"}"#, Unspent),
        (304, "", Unspent),
        (308, "", Unspent),
        (400, r#"{"error":"invalid_grant"}"#, Dead),
        (
            400,
            "\u{feff}{\"error\":\"invalid_grant\",\"error_description\":\"a\tb\"}",
            Dead,
        ),
        (401, r#"{"error":"invalid_grant","x":1}"#, Dead),
        (400, r#"{"error":"use_dpop_nonce"}"#, Unspent),
        (401, r#"{"error":"invalid_client"}"#, Unspent),
        (400, r#"{"error":{"code":"invalid_grant"}}"#, Unspent),
        (403, "<html>blocked</html>", Unspent),
        (404, "", Unspent),
        (418, "teapot", Unspent),
        (429, r#"{"error":"invalid_grant"}"#, Unspent),
        (499, "", Unspent),
        (500, r#"{"error":"invalid_grant"}"#, Unknown),
        (500, r#"{"access_token":"a"}"#, Unknown),
        // Both tokens: they were issued, and the old refresh token is spent.
        (101, r#"{"access_token":"a","refresh_token":"r"}"#, Taken),
        (307, r#"{"access_token":"a","refresh_token":"r"}"#, Taken),
        (400, r#"{"access_token":"a","refreshToken":"r"}"#, Taken),
        (500, r#"{"access_token":"a","refresh_token":"r"}"#, Taken),
        (
            500,
            r#"{"error":"x","access_token":"a","refresh_token":"r"}"#,
            Taken,
        ),
        (400, r#"{"refresh_token":"r"}"#, Unspent),
        (
            200,
            r#"<b>Warning</b>: x<br>{"access_token":"a","refresh_token":"r"}"#,
            Taken,
        ),
        (503, "", Unknown),
        (599, "<html>", Unknown),
        (101, "", Unknown),
        (700, "", Unknown),
    ] {
        let bytes = format!("HTTP/1.1 {status} x\r\n\r\n{body}");
        let reading = read(bytes, true).unwrap();
        assert_eq!(reading.meaning, expected, "{status} {body}");
        assert!(reading.is_of_use(), "{status} {body}");
    }
    let latin = [&b"HTTP/1.1 400 x\r\n\r\n{\"error\":\"invalid_grant\",\"error_description\":\"r\xe9voqu\xe9\"}"[..]].concat();
    assert_eq!(read(latin, true).unwrap().meaning, Dead);
    let coded = [
        b"HTTP/1.1 400 x\r\n\r\n",
        &gzip(br#"{"error":"invalid_grant"}"#)[..],
    ]
    .concat();
    assert_eq!(read(coded, true).unwrap().meaning, Dead);
}

#[test]
fn of_an_answer_that_was_cut_anywhere_only_what_is_certain_is_used() {
    let object = r#"{"access_token":"at","refresh_token":"rt","expires_in":60}"#;
    let coded = gzip(object.as_bytes());
    for whole in [
        message(
            &format!("content-length: {}\r\n", object.len()),
            object.as_bytes(),
        ),
        message("connection: close\r\n", object.as_bytes()),
        message(
            "transfer-encoding: chunked\r\n",
            format!("{:x}\r\n{object}\r\n0\r\n\r\n", object.len()).as_bytes(),
        ),
        message(
            &format!(
                "content-encoding: gzip\r\ncontent-length: {}\r\n",
                coded.len()
            ),
            &coded,
        ),
    ] {
        for end in 0..whole.len() {
            let Some(reading) = read(&whole[..end], false) else {
                continue;
            };
            let members = match evertoken_answer::read(None, &reading.response.body) {
                Content::Members(members) => members,
                _ => evertoken_answer::Members::default(),
            };
            let has_successor = members.text("refresh_token") == Some("rt");
            assert!(has_successor || members.refresh_token().is_none(), "{end}");
            assert_eq!(reading.meaning == Meaning::Taken, has_successor, "{end}");
            assert_eq!(reading.is_of_use(), has_successor, "{end}");
        }
    }
    for (bytes, expected) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n<html>back",
            Some(Meaning::Unspent),
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nopaq", None),
        ("HTTP/1.1 200 OK\r\n\r\nopaq", None),
        ("HTTP/1.1 200 OK\r\ncontent-ty", None),
        (
            "HTTP/1.1 302 Found\r\ncontent-length: 99\r\n\r\n<h",
            Some(Meaning::Unspent),
        ),
        (
            "HTTP/1.1 503 Away\r\ncontent-length: 99\r\n\r\n<h",
            Some(Meaning::Unknown),
        ),
        ("SSH-2.0-OpenSSH_9.6\r\n", None),
        ("", None),
    ] {
        let reading = read(bytes, false).filter(ReadAnswer::is_of_use);
        assert_eq!(
            reading.map(|reading| reading.meaning),
            expected,
            "{bytes:?}"
        );
    }
}

/// A truncated field looks like a complete one.
#[test]
fn of_a_form_that_was_cut_only_the_fields_that_another_one_follows_are_used() {
    let form = "access_token=at&refresh_token=rt&expires_in=60";
    let chunked = format!("{:x}\r\n{form}\r\n0\r\n\r\n", form.len());
    for whole in [
        message(
            &format!("content-length: {}\r\n", form.len()),
            form.as_bytes(),
        ),
        message("transfer-encoding: chunked\r\n", chunked.as_bytes()),
    ] {
        for end in 0..whole.len() {
            let came = &whole[..end];
            let Some(reading) = read(came, false).filter(|reading| !reading.is_whole) else {
                continue;
            };
            let is_certain = came.windows(4).any(|four| four == b"=rt&");
            assert_eq!(reading.meaning == Meaning::Taken, is_certain, "{end}");
            assert_eq!(reading.successor.is_some(), is_certain, "{end}");
            let body = String::from_utf8_lossy(&reading.response.body);
            assert!(!body.contains("expires_in"), "{body}");
        }
    }
}

#[test]
fn of_names_and_values_that_were_cut_only_what_is_certain_is_used() {
    const SUCCESSOR: &str = "rt-0123456789abcdef";
    for body in [
        "<r><access_token>at-0123456789abcdef</access_token><refresh_token>rt-0123456789abcdef</refresh_token></r>",
        "access_token: at-0123456789abcdef\nrefresh_token: rt-0123456789abcdef\nexpires_in: 60\n",
        r#"{"access_token"="at-0123456789abcdef","refresh_token"="rt-0123456789abcdef","#,
        r#"{"data":{"access_token":"at-0123456789abcdef","refresh_token":"rt-0123456789abcdef","x":1}}"#,
    ] {
        for end in 0..body.len() {
            let came = &body[..end];
            let message = message("content-length: 9999\r\n", came.as_bytes());
            let reading = read(message, false).filter(ReadAnswer::is_of_use);
            let successor = reading.as_ref().and_then(|reading| {
                let successor = reading.successor.as_ref()?;
                Some(successor.expose_secret())
            });
            let behind = came.split(SUCCESSOR).nth(1);
            let is_certain = behind.is_some_and(|behind| !behind.is_empty());
            assert_eq!(successor, is_certain.then_some(SUCCESSOR), "{came}");
            let is_taken = reading.is_some_and(|reading| reading.meaning == Meaning::Taken);
            assert_eq!(is_taken, is_certain, "{came}");
        }
    }
}

#[test]
fn an_answer_to_head_has_no_body() {
    let arrived = Arrived {
        sent_at: Timestamp(0),
        bytes: b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n".to_vec(),
    };
    assert!(
        ReadAnswer::of_bytes(&arrived, "HEAD", true, LIMIT)
            .unwrap()
            .is_whole
    );
    assert!(
        !ReadAnswer::of_bytes(&arrived, "GET", true, LIMIT)
            .unwrap()
            .is_whole
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        head in "(HTTP/1.1 [0-9]{3}|HTTP|)[ -~\r\n]{0,60}(transfer-encoding: chunked|content-length: [0-9]{1,25}|content-encoding: (br|gzip|deflate|zstd))?(\r\n\r\n|\n\n)?",
        magic in proptest::sample::select(vec![&b""[..], b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"]),
        body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        is_closed: bool,
    ) {
        let _ = read([head.as_bytes(), magic, &body].concat(), is_closed);
    }
}
