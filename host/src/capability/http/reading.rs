//! Interpretation of an answer, and of what it means for a rotating secret that the request carried. It is derived from the bytes
//! each time, since a later version may understand an answer that this one does not.

use evertoken_answer::Content;
use secrecy::SecretString;

use super::coding;
use super::error;
use super::message::{Message, MessageBody};
use super::request::RequestTarget;
use super::response::Response;
use super::transport::{NoAnswer, Outgoing};
use crate::capability::arrived::Arrived;
use crate::worker;

/// What an answer means for the value that the request carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::capability) enum Meaning {
    /// The value may be spent, and the successor may be in the answer.
    Taken,
    /// No token was issued: the value can be sent again.
    Unspent,
    /// Not known: the server failed, or the answer was cut before it said.
    Unknown,
    /// The value is spent, revoked or expired (RFC 6749 §5.2, `invalid_grant`).
    Dead,
}

/// An interpreted answer.
#[derive(Debug)]
pub(in crate::capability) struct ReadAnswer {
    /// As plugins see it.
    pub(in crate::capability) response: Response,
    /// What it means for the value that the request carried.
    pub(in crate::capability) meaning: Meaning,
    /// Whether it is complete: by its framing, or because the object in it is.
    pub(super) is_whole: bool,
    /// Whether it can be read here: it is an object, or text without a remaining coding.
    pub(in crate::capability) is_legible: bool,
    /// Whether there is an access token or a refresh token in it.
    pub(super) has_token: bool,
    /// The refresh token in it.
    pub(in crate::capability) successor: Option<SecretString>,
}

impl ReadAnswer {
    /// Interprets an answer to a request with this method. `is_closed`: the other side closed the connection properly. None: it
    /// has not even a status.
    pub(in crate::capability) async fn of(
        arrived: &Arrived,
        method: &str,
        is_closed: bool,
        limit: usize,
    ) -> Option<Self> {
        let read = || Self::of_bytes(arrived, method, is_closed, limit);
        worker::in_turn_if_large(arrived.work(limit), read).await
    }

    fn of_bytes(arrived: &Arrived, method: &str, is_closed: bool, limit: usize) -> Option<Self> {
        let Message {
            status,
            mut headers,
            bodies,
        } = Message::read(&arrived.bytes, method, is_closed)
            .or_else(|| tokens_alone(&arrived.bytes))?;
        let candidates = bodies
            .into_iter()
            .map(|body| CandidateBody::of(body, &headers, limit))
            .rev();
        let best = candidates.max_by_key(CandidateBody::worth)?;
        if best.was_coded {
            // These describe the bytes as sent, not the decoded ones.
            headers.retain(|(name, _)| name != "content-encoding" && name != "content-length");
        }
        Some(Self {
            meaning: meaning(status, &best),
            is_whole: best.is_whole,
            is_legible: best.is_legible(),
            has_token: best.has_token(),
            successor: best.successor(),
            response: Response {
                status,
                headers,
                body: best.bytes,
                sent_at: arrived.sent_at,
            },
        })
    }

    /// Interprets an answer whose end was not received, if it can be acted upon.
    pub(in crate::capability) async fn of_what_came(
        arrived: &Arrived,
        method: &str,
        limit: usize,
    ) -> Option<Self> {
        let reading = Self::of(arrived, method, false, limit).await;
        reading.filter(Self::is_of_use)
    }

    /// Whether it is a success with nothing in it.
    pub(super) fn is_bare(&self) -> bool {
        is_success(self.response.status) && self.response.body.trim_ascii().is_empty()
    }

    /// Whether it can be acted upon: the missing part would add nothing.
    fn is_of_use(&self) -> bool {
        self.is_whole || self.meaning != Meaning::Unknown || !is_success(self.response.status)
    }
}

/// The facts about a request that are needed to interpret its answer.
#[derive(Debug)]
pub(in crate::capability) struct RequestFacts {
    pub(super) method: String,
    pub(super) target: RequestTarget,
    pub(super) through: Option<String>,
    /// The size limit of the answer.
    pub(super) limit: usize,
}

impl RequestFacts {
    /// The facts about this request.
    pub(in crate::capability) fn of(outgoing: &Outgoing) -> Self {
        Self {
            method: outgoing.method.to_string(),
            target: outgoing.way.target.clone(),
            through: outgoing.way.through.clone(),
            limit: outgoing.way.limit,
        }
    }

    /// The answer, if the received bytes are one, complete or sufficient.
    ///
    /// # Errors
    /// They are not one; if the answer broke off, the error of `outcome`.
    pub(in crate::capability) async fn answered_by(
        &self,
        arrived: &Arrived,
        outcome: Result<(), NoAnswer>,
    ) -> Result<ReadAnswer, NoAnswer> {
        let is_closed = outcome.is_ok();
        let none = match outcome {
            Err(none) if !none.was_sent => return Err(none),
            Err(none) => none,
            Ok(()) => {
                NoAnswer::after_sending(error::unreadable(&self.target, self.through.as_deref()))
            }
        };
        ReadAnswer::of(arrived, &self.method, is_closed, self.limit)
            .await
            .filter(ReadAnswer::is_of_use)
            .ok_or(none)
    }
}

/// Tokens after a head that has not even a readable status.
fn tokens_alone(bytes: &[u8]) -> Option<Message> {
    match evertoken_answer::read_wrapped(None, bytes) {
        Content::Members(found) | Content::Form(found) if found.has_both_tokens() => {
            Some(Message {
                status: 200,
                headers: Vec::new(),
                bodies: vec![MessageBody {
                    bytes: bytes.to_vec(),
                    is_whole: true,
                    is_cut: false,
                }],
            })
        }
        _ => None,
    }
}

/// A candidate for the body of an answer.
struct CandidateBody {
    bytes: Vec<u8>,
    was_coded: bool,
    is_whole: bool,
    is_coded: bool,
    content: Content,
}

impl CandidateBody {
    fn of(body: MessageBody, headers: &[(String, String)], limit: usize) -> Self {
        let said = |wanted: &str| {
            let mut named = headers.iter().filter(|(name, _)| name == wanted);
            named.next().map(|(_, value)| value.as_str())
        };
        let coding = said("content-encoding").unwrap_or_default();
        let mut decoded = coding::decoded(&body.bytes, coding, limit);
        let read = |bytes: &[u8]| evertoken_answer::read_wrapped(said("content-type"), bytes);
        let mut content = read(&decoded.bytes);
        if body.is_cut && matches!(content, Content::Form(_)) {
            // A truncated field looks like a complete one, unless something follows it.
            let plain = evertoken_answer::read(said("content-type"), &decoded.bytes);
            let is_form = matches!(plain, Content::Form(_));
            let ends = |byte: &u8| *byte == b'&' || !is_form && b"<\"'\n".contains(byte);
            let last = decoded.bytes.iter().rposition(ends);
            decoded.bytes.truncate(last.map_or(0, |last| last + 1));
            content = read(&decoded.bytes);
        }
        Self {
            is_whole: match &content {
                Content::Members(members) => members.is_whole,
                _ => body.is_whole && decoded.is_whole,
            },
            bytes: decoded.bytes,
            was_coded: decoded.was_coded,
            is_coded: decoded.is_coded,
            content,
        }
    }

    fn is_legible(&self) -> bool {
        matches!(self.content, Content::Members(_)) || !self.is_coded
    }

    fn has_token(&self) -> bool {
        let (Content::Members(members) | Content::Form(members)) = &self.content else {
            return false;
        };
        members.access_token().is_some() || members.refresh_token().is_some()
    }

    fn successor(&self) -> Option<SecretString> {
        match &self.content {
            Content::Members(members) | Content::Form(members) => {
                members.refresh_token().map(SecretString::from)
            }
            Content::Empty | Content::Html | Content::Json(_) | Content::Other => None,
        }
    }

    /// The rank of a candidate: a complete object, a body that is not an object, an object with a successor, an object that was
    /// cut before it.
    fn worth(&self) -> u8 {
        match &self.content {
            Content::Members(members) if members.is_whole => 3,
            Content::Members(members) => u8::from(members.refresh_token().is_some()),
            _ if self.is_whole => 2,
            _ => 0,
        }
    }
}

/// The longest reason of an issuer that is kept: the longest are sentences, and each chain's record has one.
const REASON_MAX_CHARS: usize = 200;

/// An OAuth error as text (RFC 6749 §5.2): its code and its description.
pub(in crate::capability) fn refusal(response: &Response) -> Option<String> {
    let mut headers = response.headers.iter();
    let content_type = headers.find(|(name, _)| name == "content-type");
    let content_type = content_type.map(|(_, value)| value.as_str());
    let (Content::Members(members) | Content::Form(members)) =
        evertoken_answer::read(content_type, &response.body)
    else {
        return None;
    };
    let code = members.text("error")?;
    let reason = match members.text("error_description") {
        Some(description) => format!("{code}: {description}"),
        None => code.to_owned(),
    };
    Some(reason.chars().take(REASON_MAX_CHARS).collect())
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn meaning(status: u16, body: &CandidateBody) -> Meaning {
    if matches!(&body.content, Content::Members(found) | Content::Form(found) if found.has_both_tokens())
    {
        return Meaning::Taken;
    }
    match (status, error(&body.content)) {
        (200..300, None) => of_success(body),
        (200..300 | 400..=428 | 430..500, Some("invalid_grant")) => Meaning::Dead,
        (200..500, _) => Meaning::Unspent,
        _ => Meaning::Unknown,
    }
}

/// The error in a body that has no token (RFC 6749 §5.2); some issuers send it with 200.
fn error(content: &Content) -> Option<&str> {
    match content {
        Content::Members(members) | Content::Form(members)
            if members.text("access_token").is_none() && members.refresh_token().is_none() =>
        {
            members.text("error")
        }
        _ => None,
    }
}

fn of_success(body: &CandidateBody) -> Meaning {
    match &body.content {
        Content::Members(members) | Content::Form(members) if members.refresh_token().is_some() => {
            Meaning::Taken
        }
        Content::Html => Meaning::Unspent,
        Content::Empty if body.is_whole && !body.is_coded => Meaning::Unspent,
        // Only the plugin knows the form of its issuer's tokens.
        _ if body.is_whole => Meaning::Taken,
        _ => Meaning::Unknown,
    }
}

#[cfg(test)]
mod tests;
