//! Configuration values that may be written as one text or as a list of them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// One text or a list of texts, as `scope`, `audience` and `resource` are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OneOrMany(Vec<String>);

impl OneOrMany {
    /// The texts in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

// Written by hand: an untagged enum would add a buffer for every kind of value to each component, and worse messages.
impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany(texts))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_and_a_list_are_read_alike() {
        for (json, texts) in [
            (r#""read""#, vec!["read"]),
            (r#"["read","write"]"#, vec!["read", "write"]),
            ("[]", vec![]),
        ] {
            let value: OneOrMany = serde_json::from_str(json).unwrap();
            assert_eq!(value.iter().collect::<Vec<_>>(), texts, "{json}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_was_expected() {
        for json in ["3", "null", r#"{"a":"b"}"#] {
            let error = serde_json::from_str::<OneOrMany>(json)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("expected a string or a list of strings"),
                "{error}"
            );
        }
    }
}
