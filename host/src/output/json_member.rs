//! Where a member stands in a JSON text (RFC 8259), so that it can be replaced and everything around it stays byte for byte: spaces,
//! numbers as they are spelled, members that occur twice.

use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

/// The place of the string at a JSON pointer (RFC 6901), its quotes included, and what it says; none: there is no string, or the text
/// is no JSON. Of members that occur twice the last one counts, as for whoever reads the text.
pub(super) fn string_at(
    document: &[u8],
    pointer: &str,
) -> Option<(Range<usize>, Zeroizing<String>)> {
    // What is walked through below is well-formed.
    serde_json::from_slice::<IgnoredAny>(document).ok()?;
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return None;
    }
    let (_, mut place) = value::<IgnoredAny>(document, 0)?;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        place = match document.get(place.start)? {
            b'{' => in_object(document, place.start + 1, &step)?,
            b'[' => in_array(document, place.start + 1, index(&step)?)?,
            _ => return None,
        };
    }
    let (found, place) = value::<String>(document, place.start)?;
    Some((place, Zeroizing::new(found)))
}

/// The place of a member's value; `at` is behind the brace.
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

/// The place of an element; `at` is behind the bracket.
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

/// The value that begins behind the spaces at `from`, and its place.
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
            let text = found.as_ref().map(|(_, text)| text.as_str());
            assert_eq!(text, expected, "{pointer}");
            if let Some((place, text)) = &found {
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
    fn what_is_no_json_has_no_members() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        for document in [
            "",
            "rt",
            "{\"rt\":\"x\"",
            "{\"rt\":\"x\"} {}",
            "{\"rt\" \"x\"}",
            &deep,
        ] {
            assert_eq!(string_at(document.as_bytes(), "/rt"), None);
        }
    }
}
