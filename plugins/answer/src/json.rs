//! A lenient JSON parser. It accepts what `JSON.parse` accepts with the same result, and also: control characters within strings,
//! extra commas, invalid numbers, text after the end, JavaScript syntax (comments, single quotes, names without quotes), and, for
//! a truncated object, the complete members.

use serde_json::{Map, Number, Value};

use crate::is_refresh_token;

/// Values nested deeper than this are left out; token answers have two or three levels.
const MAX_DEPTH: usize = 32;

/// The members of the object that `text` begins with, and whether it has an end.
pub(crate) fn object(text: &str) -> (Map<String, Value>, bool) {
    let mut reader = Reader { rest: text };
    let mut members = Map::new();
    let end = reader.object(&mut members, 0);
    (members, end.is_some())
}

/// The value that `text` begins with; none: it begins with none, or the value has no end.
pub(crate) fn value(text: &str) -> Option<Value> {
    if !text.starts_with(['{', '[', '"', '-', 't', 'f', 'n'])
        && !text.starts_with(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    if text.starts_with(['{', '[', '"']) {
        return Reader { rest: text }.value(0);
    }
    serde_json::from_str(text).ok()
}

/// The unread rest of the text. Each method returns none if the text ends too early, or continues in no plausible way.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.rest.bytes().next()
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Skips blanks and comments. An unterminated comment extends to the end of the text.
    fn skip_blanks(&mut self) {
        let is_blank = |c: char| c.is_whitespace() || c == '\0' || c == '\u{feff}';
        loop {
            self.rest = self.rest.trim_start_matches(is_blank);
            let end = match self.rest.get(..2) {
                Some("/*") => self.rest.find("*/").map(|end| end + 2),
                Some("//") => self.rest.find(['\n', '\r']),
                _ => return,
            };
            self.skip(end.unwrap_or(self.rest.len()));
        }
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        self.skip_blanks();
        (self.peek()? == wanted).then(|| self.skip(1))
    }

    /// Members are added to `members` one by one, so that they are kept when the object is truncated.
    fn object(&mut self, members: &mut Map<String, Value>, depth: usize) -> Option<()> {
        self.take(b'{')?;
        loop {
            self.skip_blanks();
            match self.peek()? {
                b'}' => {
                    self.skip(1);
                    return Some(());
                }
                b',' => self.skip(1),
                _ => {
                    let name = self.name()?;
                    self.take(b':')?;
                    self.skip_blanks();
                    let before = self.rest;
                    let value = self.value(depth + 1)?;
                    let spelled = before.get(..before.len() - self.rest.len());
                    let value = match value {
                        // A refresh token must be sent back byte for byte.
                        Value::Number(_) if is_refresh_token(&name) => {
                            spelled.unwrap_or_default().into()
                        }
                        value => value,
                    };
                    if !says_nothing(&value) || !members.contains_key(&name) {
                        members.insert(name, value);
                    }
                }
            }
        }
    }

    fn name(&mut self) -> Option<String> {
        if matches!(self.peek()?, b'"' | b'\'') {
            return self.string();
        }
        let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '-' | '.');
        let end = self.rest.find(|c| !is_of_name(c)).filter(|end| *end > 0)?;
        let name = self.rest.get(..end)?.to_owned();
        self.skip(end);
        Some(name)
    }

    fn array(&mut self, depth: usize) -> Option<Vec<Value>> {
        self.take(b'[')?;
        let mut items = Vec::new();
        loop {
            self.skip_blanks();
            match self.peek()? {
                b']' => {
                    self.skip(1);
                    return Some(items);
                }
                b',' => self.skip(1),
                _ => items.push(self.value(depth + 1)?),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.skip_blanks();
        match self.peek()? {
            b'"' | b'\'' => self.string().map(Value::String),
            b'{' | b'[' if depth > MAX_DEPTH => self.skip_nested().map(|()| Value::Null),
            b'{' => {
                let mut members = Map::new();
                self.object(&mut members, depth)?;
                Some(Value::Object(members))
            }
            b'[' => self.array(depth).map(Value::Array),
            _ => self.word(),
        }
    }

    /// Skips an object or an array, however deep it is.
    fn skip_nested(&mut self) -> Option<()> {
        let mut open = 0_usize;
        loop {
            match self.peek()? {
                b'"' | b'\'' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => open += 1,
                b'}' | b']' => open = open.saturating_sub(1),
                _ => {}
            }
            let first = self.rest.chars().next()?;
            self.skip(first.len_utf8());
            if open == 0 {
                return Some(());
            }
        }
    }

    /// A number, `true`, `false`, `null`, or other languages' words for these, which count as null. A word that reaches to the
    /// end of the text may be truncated.
    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| {
            c.is_whitespace() || matches!(c, ',' | '}' | ']' | ':' | '"' | '{' | '[')
        })?;
        let word = self.rest.get(..end).filter(|word| !word.is_empty())?;
        let value = serde_json::from_str(word).ok().or_else(|| number(word));
        self.skip(end);
        Some(value.unwrap_or(Value::Null))
    }

    /// A string, up to the quote that matches the first.
    fn string(&mut self) -> Option<String> {
        let quote = self.peek()?;
        self.take(quote)?;
        let mut text = String::new();
        loop {
            let end = self.rest.find([char::from(quote), '\\'])?;
            text.push_str(self.rest.get(..end)?);
            self.skip(end);
            let is_end = self.peek()? == quote;
            self.skip(1);
            if is_end {
                return Some(text);
            }
            text.push(self.escaped()?);
        }
    }

    /// The character after a backslash.
    fn escaped(&mut self) -> Option<char> {
        let escape = self.rest.chars().next()?;
        self.skip(escape.len_utf8());
        Some(match escape {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => self.unicode()?,
            other => other,
        })
    }

    /// The character after `\u`; half of a surrogate pair is none.
    fn unicode(&mut self) -> Option<char> {
        let first = self.unit()?;
        let mut second = Reader { rest: self.rest };
        let pair = match (first, second.rest.strip_prefix("\\u")) {
            (0xd800..0xdc00, Some(rest)) => {
                second.rest = rest;
                second.unit().map(|unit| [first, unit])
            }
            _ => None,
        };
        let paired = pair.and_then(|pair| char::decode_utf16(pair).next()?.ok());
        if paired.is_some() {
            self.rest = second.rest;
        }
        paired
            .or_else(|| char::from_u32(first.into()))
            .or(Some(char::REPLACEMENT_CHARACTER))
    }

    fn unit(&mut self) -> Option<u16> {
        let digits = self.rest.get(..4)?;
        let unit = u16::from_str_radix(digits, 16).ok()?;
        self.skip(4);
        Some(unit)
    }
}

/// Whether a member with this value does not replace an earlier one of its name.
pub(crate) fn says_nothing(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

/// A number in a form that JSON does not have, such as `03600`, or beyond the range of a double, which then is the largest.
fn number(word: &str) -> Option<Value> {
    let number: f64 = word.parse().ok()?;
    let whole = word.parse::<i64>().ok().map(Number::from);
    whole
        .or_else(|| Number::from_f64(number.clamp(f64::MIN, f64::MAX)))
        .map(Value::Number)
}
