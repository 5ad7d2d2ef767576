//! Real answers, and those that other clients read.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn members(body: &[u8]) -> Members {
    match read(Some("application/json"), body) {
        Content::Members(members) => members,
        other => panic!("{other:?} of {}", String::from_utf8_lossy(body)),
    }
}

#[test]
fn what_other_clients_read_is_read() {
    let expected = json!({"refresh_token": "r", "access_token": "a"});
    for body in [
        &br#"{"refresh_token":"r","access_token":"a"}"#[..],
        b"\xef\xbb\xbf{\"refresh_token\":\"r\",\"access_token\":\"a\"}",
        b" \r\n\t{ \"refresh_token\" : \"r\" ,\r\n \"access_token\":\"a\" } \n",
        b"\x0b{\"refresh_token\":\"r\",\"access_token\":\"a\"}\0\0",
        b")]}',\n{\"refresh_token\":\"r\",\"access_token\":\"a\"}",
        b"while(1);{\"refresh_token\":\"r\",\"access_token\":\"a\"}",
        b"for(;;); {\"refresh_token\":\"r\",\"access_token\":\"a\"}",
        br#"{"refresh_token":"r","access_token":"a",}"#,
        br#"{,"refresh_token":"r",,"access_token":"a"}"#,
        br#"{"refresh_token":"r","access_token":"a"}{"refresh_token":"x","access_token":"x"}"#,
        br#"{"refresh_token":"r","access_token":"a"}<!-- served by web-7 -->"#,
        br#"{"refresh_token":"x","refresh_token":"r","access_token":"a"}"#,
        b"{\"refresh_token\":\"\\u0072\",\"access_token\":\"\\u0061\"}",
        b"{'refresh_token':'r','access_token':'a'}",
        b"{ 'refresh_token' : 'r' , \"access_token\": 'a' , }",
        b"{refresh_token:\"r\",access_token:'a'}",
        b"{/* a */\"refresh_token\":/* {\"a\": */\"r\",// b\n\"access_token\":\"a\"}",
        b"{\"refresh_token\":\"r\" \"access_token\":\"a\"}",
        b"{\0\"refresh_token\":\"r\",\0\"access_token\":\"a\"}\0",
    ] {
        let found = members(body);
        assert!(found.is_whole, "{}", String::from_utf8_lossy(body));
        assert_eq!(
            Value::Object(found.members),
            expected,
            "{}",
            String::from_utf8_lossy(body)
        );
    }
}

#[test]
fn what_is_odd_in_one_member_does_not_hide_the_others() {
    for (odd, expected) in [
        (&b"\"na\xefve\""[..], json!("na\u{ef}ve")),
        ("\"naïve\"".as_bytes(), json!("naïve")),
        (b"\"line\nbreak\ttab\x01\"", json!("line\nbreak\ttab\u{1}")),
        (br#""\ud83d\ude00""#, json!("\u{1f600}")),
        (br#""\ud800""#, json!("\u{fffd}")),
        (br#""\ud800x""#, json!("\u{fffd}x")),
        (br#""\udc00\ud800""#, json!("\u{fffd}\u{fffd}")),
        (br#""\q\/\\\"""#, json!("q/\\\"")),
        (b"03600", json!(3600)),
        (b"+5", json!(5)),
        (b"1e999", json!(f64::MAX)),
        (b"-1e999", json!(f64::MIN)),
        (b"NaN", Value::Null),
        (b"undefined", Value::Null),
        (b"None", Value::Null),
        (b"{}", json!({})),
        (b"[1,[2],]", json!([1, [2]])),
        (
            b"12345678901234567890123",
            json!(12_345_678_901_234_567_890_123_f64),
        ),
    ] {
        let body = [
            &br#"{"refresh_token":"r","odd":"#[..],
            odd,
            br#","access_token":"a"}"#,
        ]
        .concat();
        let found = members(&body);
        let shown = String::from_utf8_lossy(&body);
        assert!(found.is_whole, "{shown}");
        assert_eq!(found.members.get("odd"), Some(&expected), "{shown}");
        assert_eq!(
            (found.text("refresh_token"), found.text("access_token")),
            (Some("r"), Some("a")),
            "{shown}"
        );
    }
}

#[test]
fn nesting_without_end_is_left_out() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}\"]}}\"{}", open.repeat(5000), close.repeat(5000));
        let body = format!(r#"{{"refresh_token":"r","deep":{deep},"access_token":"a"}}"#);
        let found = members(body.as_bytes());
        assert!(found.is_whole);
        assert_eq!(found.text("access_token"), Some("a"));
    }
}

#[test]
fn utf_16_is_read() {
    let text = r#"{"access_token":"a","scope":"ü"}"#;
    let units = |to: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(to).collect::<Vec<u8>>();
    let (little, big) = (units(u16::to_le_bytes), units(u16::to_be_bytes));
    for body in [
        [&[0xff, 0xfe][..], &little].concat(),
        [&[0xfe, 0xff][..], &big].concat(),
        little,
        big,
    ] {
        let found = members(&body);
        assert_eq!(
            (found.text("access_token"), found.text("scope")),
            (Some("a"), Some("ü"))
        );
    }
}

#[test]
fn utf_32_is_read() {
    let text = r#"{"access_token":"a","scope":"ü"}"#;
    let units = |to: fn(u32) -> [u8; 4]| {
        let units = text.chars().map(u32::from);
        units.flat_map(to).collect::<Vec<u8>>()
    };
    let (little, big) = (units(u32::to_le_bytes), units(u32::to_be_bytes));
    for body in [
        [&[0xff, 0xfe, 0, 0][..], &little].concat(),
        [&[0, 0, 0xfe, 0xff][..], &big].concat(),
        little,
        big,
    ] {
        let found = members(&body);
        assert_eq!(
            (found.text("access_token"), found.text("scope")),
            (Some("a"), Some("ü"))
        );
    }
}

#[test]
fn a_refresh_token_that_is_spelled_as_another_kind_of_value_is_that_text() {
    for (value, expected) in [
        ("12345678901234567890123", Some("12345678901234567890123")),
        ("007", Some("007")),
        ("1e3", Some("1e3")),
        (r#"["r"]"#, Some("r")),
        (r#"{"token":"r","expires_in":60}"#, Some("r")),
        (r#"{"value":"r"}"#, Some("r")),
        ("null", None),
        ("false", None),
        (r#"["r","s"]"#, None),
        ("[]", None),
        ("{}", None),
    ] {
        let found = members(format!(r#"{{"refresh_token":{value}}}"#).as_bytes());
        assert_eq!(found.refresh_token(), expected, "{value}");
    }
}

#[test]
fn of_what_was_cut_the_whole_members_are_there_and_no_others() {
    let body = br#"{"access_token":"at","expires_in":3600,"nested":{"a":[1]},"refresh_token":"rt","x":"y"}"#;
    for end in 1..=body.len() {
        let found = members(&body[..end]);
        assert_eq!(found.is_whole, end == body.len(), "{end}");
        let whole = serde_json::from_slice::<Map<String, Value>>(body).unwrap();
        for (name, value) in &found.members {
            assert_eq!(whole.get(name), Some(value), "{end}");
        }
        let has_end = |of: &str| String::from_utf8_lossy(&body[..end]).contains(of);
        assert_eq!(
            found.text("access_token").is_some(),
            has_end(r#":"at""#),
            "{end}"
        );
        assert_eq!(
            found.refresh_token().is_some(),
            has_end(r#":"rt""#),
            "{end}"
        );
    }
}

#[test]
fn tokens_are_found_in_what_they_are_wrapped_into() {
    const TOKENS: &str = r#"{"access_token":"a","refresh_token":"r","x":{"y":1}}"#;
    let text = serde_json::to_string(TOKENS).unwrap();
    for body in [
        TOKENS.to_owned(),
        format!("[{TOKENS}]"),
        format!(r#"{{"status":0,"data":{TOKENS}}}"#),
        format!(r#"{{"a":[1,{{"b":{TOKENS}}}]}}"#),
        text.clone(),
        format!("cb({TOKENS});"),
        format!("/* x */ {TOKENS}"),
        format!("\0\u{feff}\u{feff}{TOKENS}"),
        format!("\nNotice: Undefined index: {{x}} in /srv/t.php on line 5\n{TOKENS}"),
        format!("<br />\n<b>Warning</b>: x in <b>/srv/t.php</b>\n{TOKENS}"),
        format!("HTTP/1.1 200 OK\r\nreport-to: {{\"group\":\"nel\"}}\r\n\r\n{TOKENS}"),
        format!("0x3a\r\n{TOKENS}\r\n0\r\n\r\n"),
        format!("{{\"status\":\"ok\"}}\n{TOKENS}"),
        format!(r#"{{"statusCode":200,"body":{text}}}"#),
        format!("throw 1; < don't be evil >{TOKENS}"),
        format!("<pre>{}</pre>{TOKENS}", " ".repeat(2 * MAX_WRAPPED)),
        r#"{"access_token":"a","tokens":{"refresh_token":"r"}}"#.to_owned(),
        r#"{"accessToken":"a","refreshToken":"r","access_token":"a"}"#.to_owned(),
        "var t = {'access_token':'a','refresh_token':'r'};".to_owned(),
        format!("<html><pre>{}</pre></html>", TOKENS.replace('"', "&quot;")),
        format!("{{\"error\":\"deprecated\"}}\n{TOKENS}"),
        format!("data: {TOKENS}\n\n"),
        // The same in base64, in its second part that of a JWT.
        "eyJhY2Nlc3NfdG9rZW4iOiJhIiwicmVmcmVzaF90b2tlbiI6InIiLCJ4Ijp7InkiOjF9fQ==".to_owned(),
        "\"eyJhY2Nlc3NfdG9rZW4iOiJhIiwicmVmcmVzaF90b2tlbiI6\r\nInIiLCJ4Ijp7InkiOjF9fQ==\"".to_owned(),
        "eyJhbGciOiJub25lIn0.eyJhY2Nlc3NfdG9rZW4iOiJhIiwicmVmcmVzaF90b2tlbiI6InIiLCJ4Ijp7InkiOjF9fQ.sig".to_owned(),
    ] {
        let Content::Members(found) = read_wrapped(Some("application/json"), body.as_bytes())
        else {
            panic!("{body}");
        };
        assert!(found.has_both_tokens(), "{body}");
        assert_eq!(found.text("access_token"), Some("a"), "{body}");
    }
}

#[test]
fn tokens_are_found_by_their_names_in_what_is_neither_json_nor_a_form() {
    const ACCESS: &str = "access.0123456789/+~-_==";
    const REFRESH: &str = "refresh-0123456789";
    for body in [
        "<?xml version=\"1.0\"?>\n<r>\n <access_token>$A</access_token>\n <refresh_token>$R</refresh_token>\n</r>",
        "<r><AccessToken>$A</AccessToken><x/><RefreshToken>$R</RefreshToken></r>",
        "<r access_token=\"$A\" refresh_token='$R'/>",
        "<x:r xmlns:x=\"u\"><x:access_token type=\"jwt\">$A</x:access_token><x:refresh_token x:n=\"1\">\n$R\n</x:refresh_token></x:r>",
        "<r><item name=\"access_token\" value=\"$A\"/><item name='refresh_token' value='$R' /></r>",
        // Objects in which not only the tokens are damaged.
        "{\"access_token\"=\"$A\",\"refresh_token\"=\"$R\"}",
        "{\"access_token\" => \"$A\", \"refresh_token\" => \"$R\"}",
        "{\"access_token\":\"$A\";\"expires_in\":2;\"refresh_token\":\"$R\"}",
        "{\"token_type\":\"a \"b\" c\",\"access_token\":\"$A\",\"refresh_token\":\"$R\"}",
        "<r><access_token><![CDATA[$A]]></access_token><refresh_token><![CDATA[$R]]></refresh_token></r>",
        "access_token = \"$A\"\nrefresh_token = \"$R\"\n",
        "access_token: $A\nrefresh_token: $R\nexpires_in: 60\n",
        "access_token: \"$A\"\nrefresh_token: '$R'\n",
        "access_token=$A\nrefresh_token=$R",
        "--b\r\ncontent-disposition: form-data; name=\"access_token\"\r\n\r\n$A\r\n--b\r\ncontent-disposition: form-data; name=\"refresh_token\"\r\n\r\n$R\r\n--b--",
    ] {
        let body = body.replace("$A", ACCESS).replace("$R", REFRESH);
        let Content::Form(found) = read_wrapped(Some("text/xml"), body.as_bytes()) else {
            panic!("{body}");
        };
        assert_eq!(
            (found.access_token(), found.refresh_token()),
            (Some(ACCESS), Some(REFRESH)),
            "{body}"
        );
    }
    for body in [
        "the access_token and the refresh_token",
        "the access_token\nis_not_to_be_had_now and the refresh_token\nis_not_to_be_had_either",
        "<r><m>access_token missing</m>0123456789abcdef<m>refresh_token missing</m>0123456789abcdef</r>",
        "{\"access_token\"=\"access.0123456789\",\"refresh_token\"=\"refresh-01234567",
        "access_token: missing, refresh_token: missing",
        "the access_token is_not_to_be_had_now and the refresh_token is_not_to_be_had_either",
        "access_token: access.0123456789",
        "<r><access_token/><refresh_token/></r>",
        "<!doctype html><script>access_token: 'access.0123456789', refresh_token: 'refresh-0123456789'</script>",
        "your refresh_token=refresh-0123456789 is not good",
    ] {
        assert_eq!(
            read_wrapped(Some("text/plain"), body.as_bytes()),
            read(Some("text/plain"), body.as_bytes()),
            "{body}"
        );
    }
}

#[test]
fn of_two_objects_with_a_token_the_one_with_both_counts_or_each_has_one() {
    for body in [
        r#"{"request":{"refresh_token":"sent"},"response":{"access_token":"a","refresh_token":"r"}}"#,
        r#"[{"refresh_token":"sent"},{"access_token":"a","refresh_token":"r"}]"#,
        r#"{"access":{"access_token":"a"},"renewal":{"refresh_token":"r"}}"#,
        r#"{"renewal":{"refresh_token":"r"},"access":{"access_token":"a"}}"#,
    ] {
        let Content::Members(found) = read_wrapped(None, body.as_bytes()) else {
            panic!("{body}");
        };
        assert_eq!(
            (found.access_token(), found.refresh_token()),
            (Some("a"), Some("r")),
            "{body}"
        );
    }
}

#[test]
fn of_wrapped_tokens_that_were_cut_both_are_there_or_none() {
    const TOKENS: &str = r#"{"access_token":"a-1","expires_in":60,"refresh_token":"r-1""#;
    for before in [
        r#"{"data":"#,
        r#"{"x":[1],"data":{"result":"#,
        "[",
        "cb(",
        "Warning: x\n",
        "<html><pre>",
    ] {
        for is_escaped in [false, true] {
            let tokens = match (is_escaped, before) {
                (false, _) => TOKENS.to_owned(),
                (true, "<html><pre>") => TOKENS.replace('"', "&quot;"),
                (true, _) => format!("\"{}", TOKENS.replace('"', "\\\"")),
            };
            let whole = format!("{before}{tokens}");
            for end in before.len()..=whole.len() {
                let body = &whole[..end];
                let tokens = match read_wrapped(None, body.as_bytes()) {
                    Content::Members(found) | Content::Form(found) => Some((
                        found.access_token().map(str::to_owned),
                        found.refresh_token().map(str::to_owned),
                    )),
                    _ => None,
                };
                let tokens = tokens.unwrap_or_default();
                if end == whole.len() {
                    let both = (Some("a-1".to_owned()), Some("r-1".to_owned()));
                    assert_eq!(tokens, both, "{body}");
                } else {
                    assert_eq!(tokens, (None, None), "{body}");
                }
            }
        }
    }
}

#[test]
fn around_an_inner_object_nothing_is_lost() {
    let body = br#"{"jwt":"j","access_token":"","a":{"refresh_token":"r","jwt":"x"}}"#;
    let Content::Members(found) = read_wrapped(None, body) else {
        panic!("no members");
    };
    assert_eq!(
        (found.text("jwt"), found.refresh_token()),
        (Some("j"), Some("r"))
    );
}

#[test]
fn nothing_is_unwrapped_that_is_no_whole_object_with_a_token() {
    let many = format!(
        "{}{{\"access_token\":\"a\"}}",
        "{\"a\":1}".repeat(MAX_OBJECTS)
    );
    for body in [
        r#"{"error":"invalid_grant","echo":{"refresh_token":"r"}}"#,
        r#"{"error_description":"{\"access_token\":\"a\"}"}"#,
        r#"{"data":{"access_token":"","refresh_token":null}}"#,
        r#"{"data":{"access_token":"a"}"#,
        r#"<html>{"access_token":"a""#,
        r#"<html><script>var settings = {"access_token":null};</script>"#,
        "[]",
        "\"{\"",
        "{{{{{{{{",
        &many,
    ] {
        assert_eq!(
            read_wrapped(None, body.as_bytes()),
            read(None, body.as_bytes()),
            "{body}"
        );
    }
}

#[test]
fn of_members_with_one_name_the_last_that_says_something_counts() {
    for (body, expected) in [
        (r#"{"refresh_token":"x","refresh_token":"r"}"#, Some("r")),
        (r#"{"refresh_token":"r","refresh_token":null}"#, Some("r")),
        (r#"{"refresh_token":"r","refresh_token":""}"#, Some("r")),
        (r#"{"refresh_token":null,"refresh_token":"r"}"#, Some("r")),
        (r#"{"refreshToken":"x","refresh_token":"r"}"#, Some("r")),
        (r#"{"RefreshToken":"r","refresh_token":""}"#, Some("r")),
        (r#"{"refresh_token":""}"#, None),
    ] {
        assert_eq!(members(body.as_bytes()).refresh_token(), expected, "{body}");
    }
}

#[test]
fn a_page_is_told_from_an_answer() {
    for (content_type, body, expected) in [
        ("text/html", "<!DOCTYPE html><p>Back soon", Content::Html),
        ("application/json", "\u{feff}\n <HTML>", Content::Html),
        ("text/html", "<svg/>", Content::Html),
        (
            "text/plain",
            "<?xml version=\"1.0\"?><!DOCTYPE x><html/>",
            Content::Html,
        ),
        ("text/plain", "<!-- maintenance -->", Content::Html),
        (
            "text/xml",
            "<AssumeRoleResponse><a/></AssumeRoleResponse>",
            Content::Other,
        ),
        ("text/plain", "try again later", Content::Other),
        ("text/plain", "eyJhbGciOiJub25lIn0.e30.", Content::Other),
        ("application/json", " \r\n", Content::Empty),
        ("application/json", "", Content::Empty),
        ("application/json", "null", Content::Json(Value::Null)),
        (
            "application/json",
            "[{\"a\":1}] ",
            Content::Json(json!([{"a": 1}])),
        ),
        ("application/json", "\"text\"", Content::Json(json!("text"))),
        ("application/json", "[1", Content::Other),
    ] {
        assert_eq!(
            read(Some(content_type), body.as_bytes()),
            expected,
            "{content_type} {body}"
        );
    }
}

#[test]
fn a_form_is_read_where_it_has_one_of_the_names_that_matter() {
    for content_type in [
        None,
        Some("application/x-www-form-urlencoded; charset=utf-8"),
        Some("text/plain"),
        Some("text/html; charset=utf-8"),
        Some("application/json"),
        Some("application/octet-stream"),
    ] {
        let Content::Form(found) = read(content_type, b"access_token=a%2Bb+c&refresh_token=r")
        else {
            panic!("{content_type:?}");
        };
        assert_eq!(
            (found.text("access_token"), found.is_whole),
            (Some("a+b c"), true)
        );
    }
    for (content_type, body) in [
        ("text/plain", "we=are&away=now"),
        ("application/json", "error=a"),
    ] {
        assert_eq!(
            read(Some(content_type), body.as_bytes()),
            Content::Other,
            "{body}"
        );
    }
}

#[test]
fn a_refresh_token_is_known_in_every_spelling() {
    for name in [
        "refresh_token",
        "refreshToken",
        "RefreshToken",
        "refresh-token",
        "REFRESH_TOKEN",
    ] {
        assert!(is_refresh_token(name), "{name}");
    }
    for name in ["token", "refresh_token_expires_in", "refresh"] {
        assert!(!is_refresh_token(name), "{name}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(".*", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_json_reads_is_read_in_the_same_way(value in any_json(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(json(text.as_bytes()), Some(expected));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(content_type in ".{0,20}", body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_wrapped(Some(&content_type), &body);
        let _ = json(&body);
    }

    #[test]
    fn no_text_like_json_makes_the_reader_panic(body in r#"[\[\]{}",:\\a0u\-. é]{0,60}"#) {
        let _ = read_wrapped(None, body.as_bytes());
    }
}
