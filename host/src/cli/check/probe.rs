//! One request without credentials to each issuer, and the interpretation of its answer. A token endpoint refuses a form without
//! a grant with a JSON error (RFC 6749 §§3.2, 5.2) and issues nothing; of other endpoints only the root is requested, with HEAD.

use evertoken_answer::Content;
use serde_json::Value as Json;

use crate::capability::{Body, Call, Request, Response, Value};
use crate::model::Origin;
use crate::model::Source;
use crate::model::failure::Failure;

/// The configuration members with a token endpoint: ours, and that of RFC 8414.
const TOKEN_ENDPOINTS: [&str; 2] = ["token_url", "token_endpoint"];

/// Characters of an error code in a message; RFC 6749's longest has 25.
const ERROR_CODE_MAX: usize = 40;

/// The result of a probe.
#[derive(Debug, Clone)]
pub(super) enum Probed {
    Answered(ProbeAnswer),
    NoAnswer(Failure),
}

/// The interpretation of an answer.
#[derive(Debug, Clone)]
pub(super) struct ProbeAnswer {
    /// Whether it is the answer of a working issuer.
    pub(super) verdict: ProbeVerdict,
    /// Text to follow the issuer's name.
    pub(super) words: String,
    /// How far its clock is ahead of ours.
    pub(super) ahead_ms: Option<i64>,
}

/// Whether an answer is that of a working issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeVerdict {
    Good,
    /// Some working issuers answer so, but usually the URL is wrong.
    Doubtful,
    Bad,
}

/// A probe's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    origin: Origin,
    /// Its token endpoint, where it is known.
    token_endpoint: Option<String>,
}

impl Ask {
    /// The issuer's origin.
    pub(super) fn origin(&self) -> String {
        self.origin.to_string()
    }

    /// Equal for jobs whose probes would be the same.
    pub(super) fn key(&self, source: &Source) -> String {
        let Source {
            tls,
            proxy,
            allow_addresses,
            ..
        } = source;
        let url = self.token_endpoint.clone().unwrap_or_else(|| self.origin());
        format!("{url} {tls:?} {proxy:?} {allow_addresses:?}")
    }

    fn request(&self) -> Request {
        match &self.token_endpoint {
            Some(url) => Request {
                method: "POST".to_owned(),
                url: url.clone(),
                query: Vec::new(),
                headers: vec![(
                    "accept".to_owned(),
                    Value::Text("application/json".to_owned()),
                )],
                body: Body::Form(Vec::new()),
            },
            None => Request {
                method: "HEAD".to_owned(),
                url: format!("{}/", self.origin),
                query: Vec::new(),
                headers: Vec::new(),
                body: Body::Empty,
            },
        }
    }
}

/// The probes of a source: one request to each origin that it may reach, and to each token endpoint.
pub(super) fn asks(source: &Source, endpoints: &[Origin]) -> Vec<Ask> {
    let mut asks = Vec::new();
    token_endpoints(&source.config, endpoints, &mut asks);
    for origin in endpoints.iter().chain(&source.allow) {
        if !asks.iter().any(|ask| ask.origin == *origin) {
            asks.push(Ask {
                origin: origin.clone(),
                token_endpoint: None,
            });
        }
    }
    asks
}

fn token_endpoints(config: &Json, endpoints: &[Origin], found: &mut Vec<Ask>) {
    match config {
        Json::Object(members) => {
            for (name, member) in members {
                let url = Some(member)
                    .filter(|_| TOKEN_ENDPOINTS.contains(&name.as_str()))
                    .and_then(Json::as_str);
                let origin = url
                    .and_then(|url| url::Url::parse(url).ok())
                    .and_then(|url| Origin::of(&url))
                    .filter(|origin| endpoints.contains(origin));
                match (url, origin) {
                    (Some(url), Some(origin)) => {
                        let ask = Ask {
                            origin,
                            token_endpoint: Some(url.to_owned()),
                        };
                        if !found.contains(&ask) {
                            found.push(ask);
                        }
                    }
                    _ => token_endpoints(member, endpoints, found),
                }
            }
        }
        Json::Array(items) => {
            for item in items {
                token_endpoints(item, endpoints, found);
            }
        }
        _ => {}
    }
}

/// Sends the request.
pub(super) async fn probe(call: &Call, ask: &Ask) -> Probed {
    match call.probe(ask.request()).await {
        Err(failure) => Probed::NoAnswer(failure),
        Ok(response) => {
            let (verdict, words) = if ask.token_endpoint.is_some() {
                judge(&response)
            } else {
                (ProbeVerdict::Good, format!("answers ({})", response.status))
            };
            Probed::Answered(ProbeAnswer {
                verdict,
                words,
                ahead_ms: call.issuer_ahead_ms(),
            })
        }
    }
}

/// Whether the answer is that of a working token endpoint to a form without a grant, and how to say that.
fn judge(response: &Response) -> (ProbeVerdict, String) {
    let status = response.status;
    let content = evertoken_answer::read(header(response, "content-type"), &response.body);
    let is_html = content == Content::Html;
    let code = error_code(&content);
    match (status, code) {
        (300..400, _) => {
            let to = header(response, "location").and_then(without_query);
            let to = to.map(|to| format!(" to {to}")).unwrap_or_default();
            (
                ProbeVerdict::Bad,
                format!(
                    "redirects{to} ({status}), and a request for a token is not redirected; write the address that it leads to"
                ),
            )
        }
        // Some issuers answer an invalid request so.
        (..500, Some(code)) => (
            ProbeVerdict::Good,
            format!("answers as a token endpoint ({status} {code})"),
        ),
        (404 | 405 | 410 | 501, _) if is_html => (
            ProbeVerdict::Bad,
            format!("has no token endpoint there ({status}); look at the path of the URL"),
        ),
        (404 | 405 | 410 | 501, _) => (
            ProbeVerdict::Doubtful,
            format!(
                "answers {status} to a request without a grant: most do so where there is no token endpoint, a few at one; look at the path of the URL (`evertoken check --mint` asks with a grant)"
            ),
        ),
        (500.., _) => (ProbeVerdict::Bad, format!("is in trouble ({status})")),
        // Some issuers refuse an invalid request with a page.
        _ if is_html && !matches!(status, 400 | 401) => (
            ProbeVerdict::Bad,
            format!(
                "answers with a page of HTML ({status}) where a token endpoint answers in JSON; look at the path of the URL, and whether something stands before the issuer"
            ),
        ),
        _ => (ProbeVerdict::Good, format!("answers ({status})")),
    }
}

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    let mut headers = response.headers.iter();
    let (_, value) = headers.find(|(found, _)| found == name)?;
    Some(value)
}

/// Scheme, host and path: the rest may contain more than an address.
fn without_query(location: &str) -> Option<String> {
    let mut url = url::Url::parse(location).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(url.into())
}

/// The error code of RFC 6749 §5.2, if it looks like one.
fn error_code(content: &Content) -> Option<&str> {
    let (Content::Members(members) | Content::Form(members)) = content else {
        return None;
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let code = members.text("error")?;
    (code.len() <= ERROR_CODE_MAX && code.bytes().all(is_plain)).then_some(code)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::time::Timestamp;

    fn answer(status: u16, content_type: &str, body: &str) -> Response {
        Response {
            status,
            headers: vec![
                ("content-type".to_owned(), content_type.to_owned()),
                (
                    "location".to_owned(),
                    "https://u:p@login.example.org/sso?state=s3cr3t#s3cr3t".to_owned(),
                ),
            ],
            body: body.as_bytes().to_vec(),
            sent_at: Timestamp(0),
        }
    }

    #[test]
    fn a_token_endpoint_refuses_in_json_and_anything_else_is_said() {
        let (json, html, plain) = ("application/json", "text/html; charset=utf-8", "text/plain");
        let page = "<!DOCTYPE html><title>Maintenance</title>";
        for (status, content_type, body, verdict, words) in [
            (
                400,
                json,
                r#"{"error":"invalid_request"}"#,
                ProbeVerdict::Good,
                "400 invalid_request",
            ),
            (
                401,
                json,
                r#"{"error":"invalid_client"}"#,
                ProbeVerdict::Good,
                "401 invalid_client",
            ),
            (400, html, page, ProbeVerdict::Good, "400"),
            (401, plain, "", ProbeVerdict::Good, "401"),
            (
                400,
                json,
                r#"{"error":{"code":1}}"#,
                ProbeVerdict::Good,
                "400",
            ),
            (
                400,
                json,
                r#"{"error":"<b>\u001b[31m"}"#,
                ProbeVerdict::Good,
                "answers (400)",
            ),
            (
                200,
                json,
                r#"{"access_token":"s3cr3t"}"#,
                ProbeVerdict::Good,
                "200",
            ),
            (429, html, page, ProbeVerdict::Bad, "HTML"),
            (200, html, "<x>Welcome", ProbeVerdict::Bad, "HTML"),
            (200, plain, page, ProbeVerdict::Bad, "HTML"),
            (
                200,
                "",
                "\u{feff}\n <HTML><body>",
                ProbeVerdict::Bad,
                "HTML",
            ),
            (403, html, page, ProbeVerdict::Bad, "HTML"),
            (
                302,
                html,
                "",
                ProbeVerdict::Bad,
                "https://login.example.org/sso (302)",
            ),
            (
                404,
                json,
                r#"{"error":"Realm does not exist"}"#,
                ProbeVerdict::Doubtful,
                "path",
            ),
            (
                404,
                json,
                r#"{"error":"invalid_request"}"#,
                ProbeVerdict::Good,
                "404 invalid_request",
            ),
            (404, html, page, ProbeVerdict::Bad, "path"),
            (404, plain, "", ProbeVerdict::Doubtful, "without a grant"),
            (405, plain, "", ProbeVerdict::Doubtful, "path"),
            (501, html, page, ProbeVerdict::Bad, "path"),
            (503, html, page, ProbeVerdict::Bad, "in trouble (503)"),
        ] {
            let (found, said) = judge(&answer(status, content_type, body));
            assert_eq!(found, verdict, "{status} {content_type} {body}: {said}");
            assert!(said.contains(words), "{status} {body}: {said}");
            assert!(
                !said.contains("s3cr3t") && !said.contains('\u{1b}'),
                "{said}"
            );
        }
    }

    #[test]
    fn each_issuer_is_asked_once_at_its_token_endpoint_if_that_is_known() {
        let origin = |text: &str| {
            text.parse::<url::Url>()
                .map(|url| Origin::of(&url).unwrap())
        };
        let (a, b, c) = (
            origin("https://a.example.org").unwrap(),
            origin("https://b.example.org").unwrap(),
            origin("https://c.example.org").unwrap(),
        );
        let mut source = crate::runner::tests::world::job("a").source;
        source.allow = vec![c.clone(), a.clone()];
        source.config = json!({
            "token_url": "https://a.example.org/token",
            "audience": "https://a.example.org/api",
            "chain": [{"token_endpoint": "https://b.example.org/t"}, {"token_endpoint": "https://d.example.org/t"}],
        });
        let asked: Vec<(String, Option<String>)> = asks(&source, &[a, b])
            .into_iter()
            .map(|ask| (ask.origin(), ask.token_endpoint))
            .collect();
        let expected = [
            ("https://b.example.org", Some("https://b.example.org/t")),
            ("https://a.example.org", Some("https://a.example.org/token")),
            ("https://c.example.org", None),
        ];
        assert_eq!(asked.len(), expected.len(), "{asked:?}");
        for (origin, token_endpoint) in expected {
            let wanted = (origin.to_owned(), token_endpoint.map(str::to_owned));
            assert!(asked.contains(&wanted), "{asked:?}");
        }
        assert_eq!(c.to_string(), "https://c.example.org");
    }
}
