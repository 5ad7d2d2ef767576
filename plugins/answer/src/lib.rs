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

/// The members of an answer. Of those with one name the last counts, as with browsers.
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

    /// The refresh token among them, however its name is spelled.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&str> {
        let mut named = self
            .members
            .iter()
            .filter(|(name, _)| is_refresh_token(name));
        named.find_map(|(_, value)| text_of(value))
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

/// A form's fields (GitHub unless asked otherwise, some as text/plain). Every text would be a form of some kind, an error page too, whose words
/// would then be names: a token endpoint's form has one of the two names that matter.
fn form(content_type: Option<&str>, text: &str) -> Option<Members> {
    let essence = content_type.map(|value| {
        let essence = value.split(';').next().unwrap_or(value);
        essence.trim().to_ascii_lowercase()
    });
    if !matches!(
        essence.as_deref(),
        None | Some("application/x-www-form-urlencoded" | "text/plain" | "text/html")
    ) {
        return None;
    }
    let mut members = Map::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        members.insert(name.into_owned(), Value::String(value.into_owned()));
    }
    let is_form = members.contains_key("access_token") || members.contains_key("error");
    is_form.then_some(Members {
        members,
        is_whole: true,
    })
}

#[cfg(test)]
mod tests;
