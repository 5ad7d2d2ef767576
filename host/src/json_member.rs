//! The position of a member in a JSON text (RFC 8259), so that it can be replaced and the rest stays the same byte for byte:
//! spaces, forms of numbers, duplicate members. Reading and replacing a member use the same rules.

use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

/// Steps of a pointer; deeper nesting is not expected, and each step searches the rest of the text.
const STEPS_MAX: usize = 128;

/// A key as a reference token of a JSON pointer (RFC 6901 §3).
pub(crate) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The key that a reference token stands for.
pub(crate) fn unescaped(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// Why there is no text at a pointer. Reveals nothing of the content but the position where it stops being JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoText {
    #[error("it is not JSON from line {line}, column {column} on")]
    NotJson { line: usize, column: usize },
    #[error("it has nothing there")]
    Nothing,
    #[error("it has something other than a text there")]
    Other,
}

/// The position of the string at a JSON pointer (RFC 6901), with its quotes, and its value. Of duplicate members the last one
/// counts, as in other parsers.
///
/// # Errors
/// The text is no JSON, or has no string there.
pub(crate) fn string_at(
    document: &[u8],
    pointer: &str,
) -> Result<(Range<usize>, Zeroizing<String>), NoText> {
    // The text walked through below is well-formed.
    serde_json::from_slice::<IgnoredAny>(document).map_err(|error| NoText::NotJson {
        line: error.line(),
        column: error.column(),
    })?;
    let place = place_of(document, pointer).ok_or(NoText::Nothing)?;
    let (found, place) = value::<String>(document, place.start).ok_or(NoText::Other)?;
    Ok((place, Zeroizing::new(found)))
}

fn place_of(document: &[u8], pointer: &str) -> Option<Range<usize>> {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return None;
    }
    let (_, mut place) = value::<IgnoredAny>(document, 0)?;
    for (passed, step) in pointer.split('/').skip(1).enumerate() {
        let step = unescaped(step);
        place = match document.get(place.start)? {
            _ if passed >= STEPS_MAX => return None,
            b'{' => in_object(document, place.start + 1, &step)?,
            b'[' => in_array(document, place.start + 1, index(&step)?)?,
            _ => return None,
        };
    }
    Some(place)
}

/// The position of a member's value; `at` is after the brace.
fn in_object(document: &[u8], mut at: usize, wanted: &str) -> Option<Range<usize>> {
    let mut found = None;
    loop {
        at = behind_spaces(document, at);
        match document.get(at)? {
            b'}' => return found,
            b',' => at += 1,
            _ => {
                let (name, place) = value::<String>(document, at)?;
                let colon = behind_spaces(document, place.end);
                let (_, place) = value::<IgnoredAny>(document, colon + 1)?;
                at = place.end;
                if name == wanted {
                    found = Some(place);
                }
            }
        }
    }
}

/// The position of an element; `at` is after the bracket.
fn in_array(document: &[u8], mut at: usize, wanted: usize) -> Option<Range<usize>> {
    let mut passed = 0;
    loop {
        at = behind_spaces(document, at);
        match document.get(at)? {
            b']' => return None,
            b',' => at += 1,
            _ => {
                let (_, place) = value::<IgnoredAny>(document, at)?;
                if passed == wanted {
                    return Some(place);
                }
                passed += 1;
                at = place.end;
            }
        }
    }
}

/// Digits without a leading zero.
fn index(step: &str) -> Option<usize> {
    let is_plain = step == "0" || !step.starts_with(['0', '+']);
    step.parse().ok().filter(|_| is_plain)
}

/// The value after the spaces at `from`, and its position.
fn value<'d, T: Deserialize<'d>>(document: &'d [u8], from: usize) -> Option<(T, Range<usize>)> {
    let from = behind_spaces(document, from);
    let rest = document.get(from..)?;
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter();
    let value = values.next()?.ok()?;
    Some((value, from..from + values.byte_offset()))
}

fn behind_spaces(document: &[u8], from: usize) -> usize {
    let rest = document.get(from..).unwrap_or_default();
    let is_space = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\n' | b'\r');
    from + rest.iter().take_while(is_space).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_found_where_its_pointer_leads_and_as_every_reader_reads_it() {
        let document = concat!(
            "\r\n { \"n\" : 1.50e+3 ,\"rt\":\"first\", \"a/b~c\":{\"\": [ true , \"x,]}\\\"\" ,[\"deep\"], null]},",
            "\"rt\": \"la\\u0073t\\/\\uD83D\\uDE00\"\t, \"quo\\\"te\":{\"rt\":\"inner\"},\"e\":{},\"l\":[]}\n"
        );
        for pointer in [
            "",
            "/",
            "/n",
            "/rt",
            "/a~1b~0c//1",
            "/a~1b~0c//2/0",
            "/a~1b~0c//3",
            "/a~1b~0c//4",
            "/a~1b~0c//01",
            "/a~1b~0c//+1",
            "/a~1b~0c//-",
            "/quo\"te/rt",
            "/e/rt",
            "/l/0",
            "/rt/0",
            "rt",
            "/absent",
        ] {
            let parsed: serde_json::Value = serde_json::from_str(document).unwrap();
            let expected = parsed.pointer(pointer).and_then(|found| found.as_str());
            let found = string_at(document.as_bytes(), pointer);
            let text = found.as_ref().ok().map(|(_, text)| text.as_str());
            assert_eq!(text, expected, "{pointer}");
            if let Ok((place, text)) = &found {
                let spelled: String = serde_json::from_str(&document[place.clone()]).unwrap();
                assert_eq!(spelled, **text, "{pointer}");
            }
        }
        let (place, _) = string_at(document.as_bytes(), "/rt").unwrap();
        assert_eq!(&document[place], r#""la\u0073t\/\uD83D\uDE00""#);
        let (_, whole) = string_at(b" \"s\" ", "").unwrap();
        assert_eq!(*whole, "s");
    }

    #[test]
    fn why_there_is_no_text_is_said_by_its_place_alone() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let not_json = |line, column| Err(NoText::NotJson { line, column });
        for (document, pointer, expected) in [
            ("", "/rt", not_json(1, 0)),
            ("rt", "/rt", not_json(1, 1)),
            ("{\"rt\":\"x\"", "/rt", not_json(1, 9)),
            ("{\"rt\":\"x\"} {}", "/rt", not_json(1, 12)),
            ("{\n \"rt\" \"x\"}", "/rt", not_json(2, 7)),
            ("{\"rt\":\"x\",}", "/rt", not_json(1, 11)),
            (&deep, "/rt", Err(NoText::Nothing)),
            (&deep, &"/0".repeat(200), Err(NoText::Nothing)),
            ("{\"rt\":5}", "/rt", Err(NoText::Other)),
            ("{\"rt\":null}", "/rt", Err(NoText::Other)),
            ("{\"rt\":\"\\ud800\"}", "/rt", Err(NoText::Other)),
            ("{\"rt\":\"x\"}", "/tr", Err(NoText::Nothing)),
            ("{\"rt\":\"x\"}", "rt", Err(NoText::Nothing)),
            // Texts that other parsers refuse are accepted here.
            (
                "{\"n\":1e999,\"s\":\"\\ud800\",\"rt\":\"x\"}",
                "/rt",
                Ok("x"),
            ),
        ] {
            let found = string_at(document.as_bytes(), pointer);
            let found = found.as_ref().map(|(_, text)| text.as_str());
            let shown: String = document.chars().take(40).collect();
            assert_eq!(found.map_err(|why| *why), expected, "{shown} {pointer:.20}");
        }
    }
}
