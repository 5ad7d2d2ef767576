//! Parses the answers of token endpoints, as leniently as common OAuth clients do. The host uses it to find out what became of
//! the refresh token in a request, and plugins use it to find their tokens, so that both agree.

mod json;
mod text;

use std::ops::Range;

use serde_json::{Map, Value};

pub use text::decoded;

const ACCESS_TOKEN: &str = "access_token";
const REFRESH_TOKEN: &str = "refresh_token";

/// The members that are searched for in a text that is neither JSON nor a form.
const NAMES: [&str; 5] = [
    ACCESS_TOKEN,
    REFRESH_TOKEN,
    "id_token",
    "expires_in",
    "token_type",
];

/// Prefixes of JSON that keep a page from loading it as a script.
const GUARDS: [&str; 3] = [")]}'", "while(1);", "for(;;);"];

/// Elements by which browsers recognise HTML (WHATWG MIME Sniffing §7.1).
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

/// How far into XML the root element is searched for.
const PROLOGUE: usize = 1024;

/// Escaped quotes in a text that was embedded in a page or in another text.
const QUOTES: [&str; 4] = ["\\\"", "&quot;", "&#34;", "&#x22;"];

/// The most objects in a text that are searched for tokens. The object with the tokens may follow warnings, a head, or a few
/// settings of a page.
const MAX_OBJECTS: usize = 16;

/// The most parts of a JWT that are searched.
const MAX_PARTS: usize = 3;

/// The least length of tokens that are found by a name in a text: shorter values are words about tokens.
const SHORTEST_NAMED: usize = 16;

/// How far from the beginning and from the end of a text tokens are searched for. Token answers have a few KiB.
const MAX_WRAPPED: usize = 64 * 1024;

/// The content of a body.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Nothing but white space.
    Empty,
    /// A page for people.
    Html,
    /// The members of a JSON object.
    Members(Members),
    /// The fields of a form, which has no end marker.
    Form(Members),
    /// Another JSON value.
    Json(Value),
    /// Anything else.
    Other,
}

/// The members of an answer. Of those with the same name the last one with a value counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Members {
    /// By name.
    pub members: Map<String, Value>,
    /// Whether the answer is complete. Otherwise these are the complete members of a truncated one.
    pub is_whole: bool,
}

impl Members {
    /// A member that is a text and not empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let text = self.members.get(name)?.as_str();
        text.filter(|text| !text.is_empty())
    }

    /// A member with a value, in any spelling of its name; the given spelling takes precedence.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Value> {
        let telling = |value: &&Value| !json::says_nothing(value);
        let exactly = self.members.get(name).filter(telling);
        let mut others = self.members.iter();
        exactly.or_else(|| {
            others.find_map(|(other, value)| {
                Some(value).filter(|value| is_spelling_of(name, other) && telling(value))
            })
        })
    }

    /// The access token among them, in any spelling of its name; that of RFC 6749 takes precedence.
    #[must_use]
    pub fn access_token(&self) -> Option<&str> {
        self.spelled(ACCESS_TOKEN)
    }

    /// The refresh token among them, in any spelling of its name; that of RFC 6749 takes precedence.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&str> {
        self.spelled(REFRESH_TOKEN)
    }

    fn spelled(&self, name: &str) -> Option<&str> {
        let others = self.members.iter();
        let mut others = others.filter(|(other, _)| is_spelling_of(name, other));
        let exactly = self.members.get(name).and_then(token_of);
        exactly.or_else(|| others.find_map(|(_, value)| token_of(value)))
    }

    /// Whether there are a new token and the next refresh token: then they were issued, whatever else the answer says.
    #[must_use]
    pub fn has_both_tokens(&self) -> bool {
        self.is_whole && self.came_with_both_tokens()
    }

    /// Whether both tokens are complete, although the answer may be truncated.
    fn came_with_both_tokens(&self) -> bool {
        self.access_token().is_some() && self.refresh_token().is_some()
    }

    fn has_a_token(&self) -> bool {
        self.has_access_token() || self.has_refresh_token()
    }

    fn has_access_token(&self) -> bool {
        self.is_whole && self.access_token().is_some()
    }

    fn has_refresh_token(&self) -> bool {
        self.is_whole && self.refresh_token().is_some()
    }
}

/// Whether this is a name for a refresh token: `refresh_token`, `refreshToken`…
#[must_use]
pub fn is_refresh_token(name: &str) -> bool {
    is_spelling_of(REFRESH_TOKEN, name)
}

/// Whether `other` is this name in another case or with other separators.
fn is_spelling_of(name: &str, other: &str) -> bool {
    letters(name).eq(letters(other))
}

fn letters(name: &str) -> impl Iterator<Item = u8> + '_ {
    let letters = name.bytes().filter(u8::is_ascii_alphanumeric);
    letters.map(|letter| letter.to_ascii_lowercase())
}

/// The token in a value: the value itself, the only text in a list, or a member of an object that describes it.
fn token_of(value: &Value) -> Option<&str> {
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Array(items) => match &items[..] {
            [Value::String(text)] => text.as_str(),
            _ => return None,
        },
        Value::Object(members) => ["token", "value"]
            .iter()
            .find_map(|name| members.get(*name)?.as_str())?,
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

/// The content of a body with this `Content-Type`. The type is only a hint: issuers send JSON as `text/html` and forms as
/// `text/plain`.
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

/// The same for wrapped tokens: a JSON object in a list or in another object, in a JSON text, after another object or the
/// warnings of a script, in a function call, in chunks that are not announced, in XML, in lines of names and values. The members
/// of the object with the tokens are added to those of the outer one. In a truncated or damaged answer, both tokens are found if
/// both are complete.
#[must_use]
pub fn read_wrapped(content_type: Option<&str>, body: &[u8]) -> Content {
    let content = read(content_type, body);
    let (both, a_token) = (Members::has_both_tokens, Members::has_a_token);
    let unwrapped = match &content {
        Content::Members(found) if found.refresh_token().is_some() => None,
        Content::Members(found) if !found.is_whole => in_damaged(&decoded(body)),
        Content::Members(found) if found.access_token().is_some() => {
            inner(found, Members::has_refresh_token)
        }
        Content::Members(found) if found.text("error").is_some() => {
            inner(found, both).or_else(|| in_text(&decoded(body), a_token).filter(both))
        }
        Content::Members(found) => {
            both_or_each(|wanted| inner(found, wanted)).or_else(|| in_text(&decoded(body), a_token))
        }
        Content::Json(Value::String(text)) => in_text(text, a_token)
            .or_else(|| in_base64(text))
            .or_else(|| in_damaged(text)),
        Content::Json(value) => both_or_each(|wanted| in_value(value, wanted)),
        Content::Html => {
            let text = decoded(body);
            in_text(&text, a_token).or_else(|| in_damaged(&text))
        }
        Content::Other => {
            let text = decoded(body);
            in_text(&text, a_token)
                .or_else(|| in_base64(&text))
                .or_else(|| in_damaged(&text))
        }
        Content::Empty | Content::Form(_) => None,
    };
    let may_be_named = match &content {
        Content::Members(found) => !found.is_whole && found.refresh_token().is_none(),
        Content::Form(found) => found.refresh_token().is_none(),
        Content::Other => true,
        Content::Empty | Content::Html | Content::Json(_) => false,
    };
    match unwrapped {
        Some(members) => Content::Members(members),
        None if may_be_named => named(&decoded(body)).map_or(content, Content::Form),
        None => content,
    }
}

/// The object with both tokens, or else the one with the access token, combined with the refresh token of another: an answer may
/// repeat the request beside what was issued.
fn both_or_each(find: impl Fn(fn(&Members) -> bool) -> Option<Members>) -> Option<Members> {
    find(Members::has_both_tokens).or_else(|| {
        let refreshing = find(Members::has_refresh_token);
        let Some(mut found) = find(Members::has_access_token) else {
            return refreshing;
        };
        if let Some(token) = refreshing.as_ref().and_then(Members::refresh_token) {
            found.members.insert(REFRESH_TOKEN.to_owned(), token.into());
        }
        Some(found)
    })
}

/// The outer object's members take precedence over the inner one's.
fn inner(outer: &Members, wanted: fn(&Members) -> bool) -> Option<Members> {
    let said = outer.members.iter();
    let said = said.filter(|(_, value)| !json::says_nothing(value));
    let mut both = outer
        .members
        .values()
        .find_map(|value| in_value(value, wanted))?;
    both.members
        .extend(said.map(|(name, value)| (name.clone(), value.clone())));
    Some(both)
}

/// The first object of the wanted kind in a value, up to the parser's depth. A text is parsed as an object only if it contains
/// both tokens: it may be a copy of the request, or an error message.
fn in_value(value: &Value, wanted: fn(&Members) -> bool) -> Option<Members> {
    match value {
        Value::Object(members) => {
            let found = Members {
                members: members.clone(),
                is_whole: true,
            };
            if wanted(&found) {
                return Some(found);
            }
            members.values().find_map(|value| in_value(value, wanted))
        }
        Value::Array(items) => items.iter().find_map(|item| in_value(item, wanted)),
        Value::String(text) => in_text(text, Members::has_a_token).filter(Members::has_both_tokens),
        _ => None,
    }
}

/// The first object with both tokens in a text that is incomplete or damaged, in any escaping of its quotes. Only complete
/// members are included.
fn in_damaged(text: &str) -> Option<Members> {
    let both = Members::came_with_both_tokens;
    let mut spelled = QUOTES.iter().filter(|quote| text.contains(**quote));
    in_text(text, both)
        .or_else(|| spelled.find_map(|quote| in_text(&text.replace(quote, "\""), both)))
}

/// The first object of the wanted kind in a text: near its beginning, or else near its end.
fn in_text(text: &str, wanted: fn(&Members) -> bool) -> Option<Members> {
    let beginning = text.floor_char_boundary(MAX_WRAPPED);
    let end = text.len().saturating_sub(MAX_WRAPPED).max(beginning);
    let end = text.ceil_char_boundary(end);
    in_part(text, 0..beginning, wanted).or_else(|| in_part(text, end..text.len(), wanted))
}

/// The same for the objects that begin in a part of it. If there are many, the last ones are left out.
fn in_part(
    text: &str,
    Range {
        start: mut from,
        end: to,
    }: Range<usize>,
    wanted: fn(&Members) -> bool,
) -> Option<Members> {
    let mut objects = 0;
    while let Some(at) = text.get(from..to)?.find('{') {
        from += at + 1;
        let behind = text.get(from..)?.trim_start();
        if !behind.starts_with(['"', '\'']) {
            continue;
        }
        let (members, is_whole) = json::object(text.get(from - 1..)?);
        let found = Members { members, is_whole };
        if wanted(&found) {
            return Some(found);
        }
        objects += 1;
        if objects == MAX_OBJECTS {
            break;
        }
    }
    None
}

/// The object with both tokens in a text that is base64, or a part of it: a JWT with the answer in it, or a body that a gateway
/// took for binary.
fn in_base64(text: &str) -> Option<Members> {
    let parts = text.trim().split('.').take(MAX_PARTS);
    let mut objects = parts.filter(|part| part.len() <= MAX_WRAPPED);
    objects.find_map(|part| {
        let (members, is_whole) = json::object(std::str::from_utf8(&unbase64(part)?).ok()?);
        Some(Members { members, is_whole }).filter(Members::has_both_tokens)
    })
}

/// Decodes base64 in either alphabet, with or without line breaks.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' | b'\r' | b'\n' => continue,
            _ => return None,
        };
        held = held << 6 | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    Some(bytes)
}

/// Both tokens, and the other members, in a text in which names precede values: elements of XML, lines of YAML, parts of a form.
/// A value at the very end may be truncated.
fn named(text: &str) -> Option<Members> {
    let mut members = Map::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        for name in NAMES {
            if is_spelling_of(name, word)
                && !members.contains_key(name)
                && let Some(value) = value_behind(behind)
            {
                members.insert(name.to_owned(), value.into());
            }
        }
        rest = behind.trim_start_matches(|c| !is_of_name(c));
    }
    let found = Members {
        members,
        is_whole: true,
    };
    let is_long = |token: Option<&str>| token.is_some_and(|token| token.len() >= SHORTEST_NAMED);
    (is_long(found.access_token()) && is_long(found.refresh_token())).then_some(found)
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// The value that stands behind a name: in quotes, in an element, or up to the next blank or separator. One in quotes or in an element has an end.
fn value_behind(text: &str) -> Option<&str> {
    const CDATA: &str = "<![CDATA[";
    let value = text.trim_start_matches(['"', '\'', '>', '=', ':', ' ', '\t', '\r', '\n']);
    let between = text.get(..text.len() - value.len())?;
    let gap = between.trim_start_matches(['"', '\'']);
    let is_own_line = gap.len() < between.len() && gap.contains('\n');
    if gap.trim().is_empty() && !is_own_line {
        return value_of_element(text);
    }
    let value = value.strip_prefix(CDATA).unwrap_or(value);
    let end = match between.bytes().next_back()? {
        b'"' => value.find('"')?,
        b'\'' => value.find('\'')?,
        b'>' => value.find(['<', ']'])?,
        _ => {
            let ends = [' ', '\t', '\r', '\n', ',', ';', '&', '<', '"', '\''];
            value.find(ends).unwrap_or(value.len())
        }
    };
    let value = value.get(..end)?;
    let begins_well = value.starts_with(|c: char| is_of_name(c) || ".~+/".contains(c));
    begins_well.then_some(value)
}

/// The value where other attributes follow the name: `<access_token type="jwt">VALUE</`, `<input name="access_token"
/// value="VALUE">`.
fn value_of_element(behind: &str) -> Option<&str> {
    let (tag, content) = behind.split_once('>')?;
    let mut attributes = tag
        .trim_start_matches(['"', '\''])
        .trim_end_matches('/')
        .split_whitespace()
        .map(|attribute| attribute.split_once('='));
    let is_tag = attributes.clone().all(|attribute| attribute.is_some());
    let value = attributes.find_map(|attribute| attribute.filter(|(name, _)| *name == "value"));
    match value {
        _ if !is_tag => None,
        Some((_, value)) => Some(value.trim_matches(['"', '\''])),
        None => content.split_once('<').map(|(value, _)| value.trim()),
    }
}

/// The JSON value of a body.
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

/// A form's fields (GitHub unless asked otherwise, some with another type). Any text would parse as a form, also an error page,
/// so a token endpoint's form must have one of the two names that matter.
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
    let has = |name: &str| members.keys().any(|other| is_spelling_of(name, other));
    let is_form =
        has(ACCESS_TOKEN) || has(REFRESH_TOKEN) || (is_said && members.contains_key("error"));
    is_form.then_some(Members {
        members,
        is_whole: true,
    })
}

#[cfg(test)]
mod tests;
