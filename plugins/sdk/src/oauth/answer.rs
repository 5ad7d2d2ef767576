//! A token endpoint's success (RFC 6749 §5.1), parsed as leniently as real issuers' answers require and no more: the token is
//! taken verbatim, and an unreadable expiry is unknown rather than guessed.

use std::fmt;

use evertoken_answer::{Members, is_refresh_token};
use serde_json::Value;

use super::error::{refusal, refused};
use super::members;
use crate::http::Response;
use crate::{Expiry, Failure, Field, Timestamp, Token, log};

/// Longer lives mean "never", and would overflow the arithmetic of consumers: a hundred years.
const MAX_LIFETIME_SECONDS: f64 = 100.0 * 365.25 * 86_400.0;

/// A message lists at most this many members: enough to see what kind of answer it is.
const MAX_NAMES_SHOWN: usize = 12;

/// The default member for the token.
const ACCESS_TOKEN: &str = "access_token";

/// The token of OpenID Connect Core 1.0 §2. The answer's lifetimes do not apply to it.
const ID_TOKEN: &str = "id_token";

/// Members that a token stores elsewhere, or that must not leave the plugin.
const NOT_FIELDS: [&str; 3] = ["refresh_token", "token_type", "expires_in"];

/// Members that are public with every issuer.
const PUBLIC_FIELDS: [&str; 3] = ["scope", "instance_url", "issued_token_type"];

/// Names for the remaining life of a refresh token, in seconds: Keycloak; Apigee, LinkedIn and GitHub; QuickBooks.
const REFRESH_LIFETIMES: [&str; 3] = [
    "refresh_expires_in",
    "refresh_token_expires_in",
    "x_refresh_token_expires_in",
];

/// Names for the remaining life of the token: RFC 6749's, and a former one of Facebook.
const LIFETIMES: [&str; 2] = ["expires_in", "expires"];

/// From here on, a supposed lifetime in seconds is a point in time: as a lifetime it would be 31 years, as a point in time it is
/// in 2001.
const SHORTEST_UNIX_SECONDS: f64 = 1e9;

/// Names for the time of expiry itself: Square, Salesforce and others; Microsoft Entra v1.
const EXPIRY_TIMES: [&str; 2] = ["expires_at", "expires_on"];

/// An answer that issued something. Its `Debug` shows only the names of its members.
#[derive(Clone, PartialEq)]
pub struct Answer {
    answer: Members,
    sent_at: Timestamp,
}

impl Answer {
    /// Reads an answer with any 2xx status, JSON or form, and with another status if it has both tokens. An `error` beside an
    /// access token is ignored.
    ///
    /// # Errors
    ///
    /// [`super::failure`] for other statuses and for an error inside a 2xx; `unavailable` with code "answer.unreadable" for a
    /// body that is no answer, such as a maintenance page.
    pub fn read(response: &Response) -> Result<Self, Failure> {
        let members = members(response);
        let refusal = members
            .as_ref()
            .filter(|found| found.access_token().is_none())
            .and_then(|found| refusal(&found.members));
        let is_issued = members.as_ref().is_some_and(Members::has_both_tokens);
        match (members, refusal) {
            (_, Some(refusal)) => Err(refused(response, &refusal)),
            (_, None) if !response.is_success() && !is_issued => Err(super::failure(response)),
            (Some(answer), None) => Ok(Self {
                answer,
                sent_at: response.sent_at,
            }),
            (None, None) => {
                let message = format!(
                    "the issuer's answer is neither a JSON object nor a form ({})",
                    response.summary()
                );
                Err(Failure::unavailable(message).with_code("answer.unreadable"))
            }
        }
    }

    /// The token, with all other members of the answer.
    ///
    /// # Errors
    ///
    /// `unavailable` with code "answer.no-token" when there is no `access_token`; the message names the members that there are.
    /// With code "answer.cut" when the answer was truncated, since members may be missing. [`Self::refresh_token`] is usable in
    /// that case, too.
    pub fn token(&self) -> Result<Token, Failure> {
        self.token_in(ACCESS_TOKEN)
    }

    /// The same with another member as the token, e.g. `id_token`, which contains its own expiry. The access token is a field
    /// then.
    ///
    /// # Errors
    ///
    /// As [`Answer::token`]; but `invalid-config` if there is an access token: then the issuer will not add the member later.
    pub fn token_in(&self, member: &str) -> Result<Token, Failure> {
        if !self.answer.is_whole {
            let message = "the issuer's answer was cut off; another one is asked for";
            return Err(Failure::unavailable(message).with_code("answer.cut"));
        }
        let value = match member {
            ACCESS_TOKEN => self.answer.access_token(),
            _ => self.text(member),
        };
        let Some(value) = value else {
            let names: Vec<_> = self
                .answer
                .members
                .keys()
                .take(MAX_NAMES_SHOWN)
                .map(String::as_str)
                .collect();
            let is_there = self.answer.members.contains_key(member);
            let lacks = if is_there { "usable " } else { "" };
            let message = format!(
                "the issuer's answer has no {lacks}{member}; it has: {}",
                names.join(", ")
            );
            let failure = match (member, self.answer.access_token()) {
                (ID_TOKEN, Some(_)) => {
                    Failure::invalid_config(message + "; an ID token takes the scope openid")
                }
                (_, Some(_)) => Failure::invalid_config(message),
                (_, None) => Failure::unavailable(message),
            };
            return Err(failure.with_code("answer.no-token"));
        };
        Ok(Token {
            value: value.to_owned(),
            token_type: self.token_type().to_owned(),
            expiry: match member {
                ID_TOKEN => Expiry::Unknown,
                _ => self.expiry(),
            },
            fields: self.fields(member),
        })
    }

    /// The new refresh token and its expiry, if the answer has one. A lifetime of 0 means that it never expires (Keycloak's
    /// offline tokens, Apigee), a negative one counts as not stated.
    #[must_use]
    pub fn refresh_token(&self) -> Option<(&str, Option<Timestamp>)> {
        let value = self.answer.refresh_token()?;
        let lifetime = REFRESH_LIFETIMES
            .iter()
            .find_map(|name| self.by_lifetime(self.answer.member(name)?));
        let expires_at = match lifetime {
            Some(Expiry::At(at)) => Some(at),
            Some(Expiry::Never | Expiry::Unknown) | None => None,
        };
        Some((value, expires_at))
    }

    fn token_type(&self) -> &str {
        let said = self.answer.member("token_type").and_then(Value::as_str);
        said.unwrap_or("Bearer")
    }

    /// A member that is a text and not empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.answer.text(name)
    }

    /// A lifetime counts from the sending and does not depend on clocks, so it takes precedence over a point in time.
    fn expiry(&self) -> Expiry {
        let [expires_in, expires] = LIFETIMES.map(|name| self.answer.member(name));
        let by_expires_in = expires_in.map(|value| self.by_lifetime(value));
        if by_expires_in == Some(None) {
            log::warn(
                "the answer's expires_in is no number of seconds; the expiry is taken as unknown",
            );
        }
        let by_expires = expires.and_then(|value| self.by_lifetime(value));
        let by_times = EXPIRY_TIMES
            .iter()
            .filter_map(|name| Timestamp::from_json(self.answer.member(name)?))
            .map(|at| self.at(at));
        by_expires_in
            .flatten()
            .into_iter()
            .chain(by_expires)
            .chain(by_times)
            .find(|expiry| *expiry != Expiry::Unknown)
            .unwrap_or(Expiry::Unknown)
    }

    /// The expiry by a lifetime, or by the point in time that some issuers put in its place; nothing if it is neither.
    fn by_lifetime(&self, value: &Value) -> Option<Expiry> {
        match lifetime(value) {
            Some(seconds) if seconds < SHORTEST_UNIX_SECONDS => Some(self.after(seconds)),
            _ => Timestamp::from_json(value).map(|at| self.at(at)),
        }
    }

    /// No issuer returns an expired token, so a lifetime of 0 or less counts as not stated.
    fn after(&self, seconds: f64) -> Expiry {
        if seconds <= 0.0 {
            Expiry::Unknown
        } else {
            Expiry::At(self.sent_at.plus_millis((seconds * 1000.0) as u64))
        }
    }

    /// The same for a point in time.
    fn at(&self, at: Timestamp) -> Expiry {
        match at
            .as_unix_millis()
            .checked_sub(self.sent_at.as_unix_millis())
        {
            None | Some(0) => Expiry::Unknown,
            Some(millis) if millis as f64 > MAX_LIFETIME_SECONDS * 1000.0 => Expiry::Never,
            Some(_) => Expiry::At(at),
        }
    }

    fn fields(&self, token: &str) -> Vec<Field> {
        let field = |(name, value): (&String, &Value)| {
            let value = match (name.as_str(), value) {
                (_, Value::String(text)) => text.clone(),
                (_, Value::Number(number)) => number.to_string(),
                ("scope", Value::Array(scopes)) => scopes
                    .iter()
                    .filter_map(Value::as_str)
                    .collect::<Vec<_>>()
                    .join(" "),
                _ => return None,
            };
            let public = PUBLIC_FIELDS.contains(&name.as_str());
            (name != token && !is_excluded(name)).then(|| Field {
                name: name.clone(),
                value,
                public,
            })
        };
        self.answer.members.iter().filter_map(field).collect()
    }
}

/// In any spelling: a refresh token must not reach a consumer because its issuer writes `refreshToken`.
fn is_excluded(name: &str) -> bool {
    NOT_FIELDS.contains(&name) || is_refresh_token(name)
}

/// Seconds as number, float or text.
fn lifetime(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|seconds: &f64| seconds.is_finite()),
        _ => None,
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.answer.members.keys()).finish()
    }
}
