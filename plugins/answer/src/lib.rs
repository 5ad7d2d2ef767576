//! Reads what token endpoints answer with, as leniently as the clients that their makers tried them with. The host reads an answer by it to decide
//! what became of the refresh token that the request carried, and plugins read it by it for its tokens: what one of them finds, the other finds.

mod json;
mod text;

use serde_json::{Map, Value};

pub use text::decoded;

/// Spellings of a refresh token's name, without case and separators.
const REFRESH_TOKEN: &str = "refreshtoken";

/// Put before JSON so that no page can take it for a script.
const GUARDS: [&str; 3] = [")]}'", "while(1);", "for(;;);"];

/// Elements by which browsers tell HTML (WHATWG MIME Sniffing §7.1).
const HTML: [&str; 17] = [
    "!doctype html",
    "html",
    "head",
    "script",
    "iframe",
    "h1",
    "div",
    "font",
    "table",
    "a",
    "style",
    "title",
    "b",
    "body",
    "br",
    "p",
    "!--",
];

/// How far into XML its kind is looked for.
const PROLOGUE: usize = 1024;

/// Objects in a text that are looked into for tokens. Before the one that has them stand warnings, a head, or a few settings of a page.
const MAX_OBJECTS: usize = 16;

/// How far into a text they are looked for. Token answers have a few KiB.
const MAX_WRAPPED: usize = 64 * 1024;

const ACCESS_TOKEN: &str = "access_token";

/// What a body holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Nothing but white space.
    Empty,
    /// A page for people.
    Html,
    /// The members of a JSON object.
    Members(Members),
    /// The fields of a form. Where it ends, only its sender knows.
    Form(Members),
    /// Another JSON value.
    Json(Value),
    /// Anything else.
    Other,
}

/// The members of an answer. Of those with one name the last that says something counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Members {
    /// By name.
    pub members: Map<String, Value>,
    /// Whether the answer has an end. Otherwise these are the members that came whole before it was cut.
    pub is_whole: bool,
}

impl Members {
    /// A member that is a text and not empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        text_of(self.members.get(name)?)
    }

    /// The refresh token among them, however its name is spelled; as RFC 6749 spells it before others.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&str> {
        let others = self.members.iter();
        let mut others = others.filter(|(name, _)| is_refresh_token(name));
        self.text("refresh_token")
            .or_else(|| others.find_map(|(_, value)| text_of(value)))
    }

    /// Whether there are a new token and the next refresh token: it was issued, whatever else the answer says.
    #[must_use]
    pub fn has_both_tokens(&self) -> bool {
        self.is_whole && self.text(ACCESS_TOKEN).is_some() && self.refresh_token().is_some()
    }

    fn has_a_token(&self) -> bool {
        self.is_whole && (self.text(ACCESS_TOKEN).is_some() || self.refresh_token().is_some())
    }
}

/// Whether this is a name for a refresh token: `refresh_token`, `refreshToken`…
#[must_use]
pub fn is_refresh_token(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    plain.eq_ignore_ascii_case(REFRESH_TOKEN)
}

fn text_of(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// What a body with this `Content-Type` holds. The type is no more than a hint: issuers send JSON as `text/html` and forms as `text/plain`.
#[must_use]
pub fn read(content_type: Option<&str>, body: &[u8]) -> Content {
    let text = decoded(body);
    let text = unguarded(&text);
    match text.bytes().next() {
        None => Content::Empty,
        Some(b'{') => {
            let (members, is_whole) = json::object(text);
            Content::Members(Members { members, is_whole })
        }
        Some(b'<') if is_html(content_type, text) => Content::Html,
        _ => match form(content_type, text) {
            Some(members) => Content::Form(members),
            None => json::value(text).map_or(Content::Other, Content::Json),
        },
    }
}

/// The same where tokens are wrapped into something: a JSON object in a list or in another object, in a JSON text, behind the warnings of a
/// script, in a call of a function, in chunks that are not announced. The members of the object with the tokens are then there beside those of
/// the one around it.
#[must_use]
pub fn read_wrapped(content_type: Option<&str>, body: &[u8]) -> Content {
    let content = read(content_type, body);
    let unwrapped = match &content {
        Content::Members(found) if found.has_a_token() || found.text("error").is_some() => None,
        Content::Members(found) if found.is_whole => {
            let inner = found.members.values().find_map(in_value);
            inner.map(|inner| within(found, inner))
        }
        Content::Json(Value::String(text)) => in_text(text),
        Content::Json(value) => in_value(value),
        Content::Html | Content::Other => in_text(&decoded(body)),
        Content::Members(_) | Content::Empty | Content::Form(_) => None,
    };
    unwrapped.map_or(content, Content::Members)
}

/// What the outer object says stands before what the inner one says.
fn within(outer: &Members, inner: Members) -> Members {
    let said = outer.members.iter();
    let said = said.filter(|(_, value)| !json::says_nothing(value));
    let mut both = inner;
    both.members
        .extend(said.map(|(name, value)| (name.clone(), value.clone())));
    both
}

/// The first object with a token in a value, which is as deep as the reader lets it be.
fn in_value(value: &Value) -> Option<Members> {
    match value {
        Value::Object(members) => {
            let found = Members {
                members: members.clone(),
                is_whole: true,
            };
            if found.has_a_token() {
                return Some(found);
            }
            members.values().find_map(in_value)
        }
        Value::Array(items) => items.iter().find_map(in_value),
        _ => None,
    }
}

/// The first object with a token in a text.
fn in_text(text: &str) -> Option<Members> {
    let text = text.get(..text.floor_char_boundary(MAX_WRAPPED))?;
    let begins_object = |at: usize| {
        let behind = text.get(at + 1..).unwrap_or_default();
        behind.trim_start().starts_with('"')
    };
    let begins = text.match_indices('{').map(|(at, _)| at);
    let mut begins = begins.filter(|at| begins_object(*at)).take(MAX_OBJECTS);
    begins.find_map(|at| {
        let (members, is_whole) = json::object(text.get(at..)?);
        let found = Members { members, is_whole };
        found.has_a_token().then_some(found)
    })
}

/// The JSON value that a body holds, whatever it is.
#[must_use]
pub fn json(body: &[u8]) -> Option<Value> {
    json::value(unguarded(&decoded(body)))
}

fn unguarded(text: &str) -> &str {
    let text = text.trim();
    let guard = GUARDS.iter().find_map(|guard| text.strip_prefix(guard));
    guard.map_or(text, |rest| rest.trim_start_matches(',').trim_start())
}

fn is_html(content_type: Option<&str>, text: &str) -> bool {
    let beginning: String = text
        .chars()
        .take(PROLOGUE)
        .collect::<String>()
        .to_ascii_lowercase();
    let is_said = content_type.is_some_and(|value| value.to_ascii_lowercase().contains("html"));
    let element = beginning.trim_start_matches('<');
    let is_element = |name: &str| {
        element.strip_prefix(name).is_some_and(|rest| {
            name == "!--"
                || rest.is_empty()
                || rest.starts_with(|c: char| c.is_ascii_whitespace() || c == '>')
        })
    };
    is_said || HTML.iter().any(|name| is_element(name)) || beginning.contains("<html")
}

/// A form's fields (GitHub unless asked otherwise, some with another type). Every text would be a form of some kind, an error page too, whose words
/// would then be names: a token endpoint's form has one of the two names that matter.
fn form(content_type: Option<&str>, text: &str) -> Option<Members> {
    let essence = content_type.map(|value| {
        let essence = value.split(';').next().unwrap_or(value);
        essence.trim().to_ascii_lowercase()
    });
    let is_said = matches!(
        essence.as_deref(),
        None | Some("application/x-www-form-urlencoded" | "text/plain" | "text/html")
    );
    let mut members = Map::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        members.insert(name.into_owned(), Value::String(value.into_owned()));
    }
    let is_form = members.contains_key(ACCESS_TOKEN) || (is_said && members.contains_key("error"));
    is_form.then_some(Members {
        members,
        is_whole: true,
    })
}

#[cfg(test)]
mod tests;
