//! Configuration values that may be written as one text or as a list of them.

/// One text or a list of texts, as `scope`, `audience` and `resource` are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum OneOrMany {
    /// `read`
    One(String),
    /// `[read, write]`
    Many(Vec<String>),
    /// Not given.
    #[default]
    #[serde(skip)]
    None,
}

impl OneOrMany {
    /// The texts in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let texts = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts.as_slice(),
            Self::None => &[],
        };
        texts.iter().map(String::as_str)
    }
}
