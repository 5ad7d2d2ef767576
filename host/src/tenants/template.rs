//! Texts of a profile in which `{NAME}` stands for a parameter, and `{{` and `}}` for braces. A value can steer nothing: within a URL it is
//! one label of the host or a part of one segment of the path, whatever its pattern allows.

use std::collections::BTreeMap;

/// What separates the scheme of a URL from the rest.
const AFTER_SCHEME: &str = "://";

/// A text with parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(String),
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace without its other half.
    #[error("a single `{0}`; write `{{NAME}}` for a parameter and `{0}{0}` for the brace itself")]
    Brace(char),
    /// What stands between braces is no name.
    #[error(
        "`{{{0}}}` is no parameter; a name has letters, digits and `_`; write `{{{{` for the brace itself"
    )]
    Name(String),
    /// A parameter decides the scheme of a URL.
    #[error(
        "the parameter `{0}` stands before `://`; only the administrator says what the scheme is"
    )]
    Scheme(String),
}

/// Why a value cannot stand where its parameter does. The value is not quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// There is no value.
    #[error("the parameter `{0}` has no value")]
    Missing(String),
    /// Within the host of a URL.
    #[error("the parameter `{0}` is part of a host name: use letters, digits and `-`")]
    Host(String),
    /// Within another part of a URL.
    #[error(
        "the parameter `{0}` is part of a URL: use letters, digits, `-`, `_`, `~` and single dots within"
    )]
    Path(String),
}

impl Template {
    /// Parses a text.
    ///
    /// # Errors
    /// A brace or a name is wrong, or a parameter stands where none may.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, after) = rest.split_at(at);
            literal.push_str(before);
            if let Some(left) = after.strip_prefix("{{") {
                literal.push('{');
                rest = left;
            } else if let Some(left) = after.strip_prefix("}}") {
                literal.push('}');
                rest = left;
            } else {
                let inside = after.strip_prefix('{').ok_or(TemplateError::Brace('}'))?;
                let (name, left) = inside.split_once('}').ok_or(TemplateError::Brace('{'))?;
                if !is_name(name) {
                    return Err(TemplateError::Name(name.to_owned()));
                }
                parts.push(Part::Text(std::mem::take(&mut literal)));
                parts.push(Part::Parameter(name.to_owned()));
                rest = left;
            }
        }
        literal.push_str(rest);
        parts.push(Part::Text(literal));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        let template = Self(parts);
        match template.before_scheme() {
            Some(name) => Err(TemplateError::Scheme(name.to_owned())),
            None => Ok(template),
        }
    }

    /// A parameter before the end of the scheme.
    fn before_scheme(&self) -> Option<&str> {
        let mut first = None;
        for part in &self.0 {
            match part {
                Part::Parameter(name) => first = first.or(Some(name.as_str())),
                Part::Text(text) if text.contains(AFTER_SCHEME) => return first,
                Part::Text(_) => {}
            }
        }
        None
    }

    /// The parameters in it.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Parameter(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Whether it begins with a parameter.
    #[must_use]
    pub fn begins_with_parameter(&self) -> bool {
        matches!(self.0.first(), Some(Part::Parameter(_)))
    }

    /// The text with these values.
    ///
    /// # Errors
    /// A value is missing, or cannot stand where its parameter does.
    pub fn fill(&self, values: &BTreeMap<String, String>) -> Result<String, FillError> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Parameter(name) => {
                    let value = values.get(name);
                    let value = value.ok_or_else(|| FillError::Missing(name.clone()))?;
                    let url = filled.split_once(AFTER_SCHEME);
                    if let Some((_, behind)) = url {
                        let is_in_host = !behind.contains(['/', '?', '#']);
                        if is_in_host && !is_of_host(value) {
                            return Err(FillError::Host(name.clone()));
                        }
                        if !is_in_host && !is_of_segment(value) {
                            return Err(FillError::Path(name.clone()));
                        }
                    }
                    filled.push_str(value);
                }
            }
        }
        Ok(filled)
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The characters of a DNS label (RFC 1123).
fn is_of_host(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Unreserved characters (RFC 3986 §2.3), and none of the dots that lead to another segment.
fn is_of_segment(value: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let edges = [value.chars().next(), value.chars().last()];
    !value.is_empty()
        && value.bytes().all(is_unreserved)
        && !value.contains("..")
        && !edges.contains(&Some('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("p".to_owned(), value.to_owned())])
    }

    #[test]
    fn a_name_between_braces_is_a_parameter_and_a_doubled_brace_is_one() {
        for (text, filled) in [
            ("plain", Ok("plain")),
            ("", Ok("")),
            ("{p}", Ok("v")),
            ("a{p}b{p}", Ok("avbv")),
            ("{{p}}", Ok("{p}")),
            ("{{{p}}}", Ok("{v}")),
            ("{p", Err(TemplateError::Brace('{'))),
            ("p}", Err(TemplateError::Brace('}'))),
            ("{}", Err(TemplateError::Name(String::new()))),
            ("{a b}", Err(TemplateError::Name("a b".to_owned()))),
            ("{{{p}", Ok("{v")),
            ("{p}://x", Err(TemplateError::Scheme("p".to_owned()))),
            ("{p}/https://x", Err(TemplateError::Scheme("p".to_owned()))),
        ] {
            let parsed = Template::parse(text);
            let got = parsed.map(|template| template.fill(&values("v")).unwrap());
            assert_eq!(got, filled.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn within_a_url_a_value_stays_where_its_parameter_stands() {
        let host = Template::parse("https://{p}.example.org/token").unwrap();
        let path = Template::parse("https://example.org/realms/{p}/token").unwrap();
        let query = Template::parse("https://example.org/token?tenant={p}").unwrap();
        for (value, in_host, elsewhere) in [
            ("shop", true, true),
            ("a-b-1", true, true),
            ("a_b~c", false, true),
            ("v1.2", false, true),
            ("", false, false),
            (".", false, false),
            ("..", false, false),
            ("a..b", false, false),
            (".a", false, false),
            ("a/b", false, false),
            ("a%2fb", false, false),
            ("a\\b", false, false),
            ("a?b", false, false),
            ("a#b", false, false),
            ("a@b", false, false),
            ("a:80", false, false),
            ("a b", false, false),
            ("a\r\nb", false, false),
            ("{x}", false, false),
            ("shоp", false, false), // A Cyrillic letter.
        ] {
            assert_eq!(host.fill(&values(value)).is_ok(), in_host, "{value:?}");
            assert_eq!(path.fill(&values(value)).is_ok(), elsewhere, "{value:?}");
            assert_eq!(query.fill(&values(value)).is_ok(), elsewhere, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_changes_the_origin_or_the_other_segments(value in any::<String>()) {
            let path = Template::parse("https://example.org/a/{p}/z?q={p}#f").unwrap();
            if let Ok(filled) = path.fill(&values(&value)) {
                let url = url::Url::parse(&filled).unwrap();
                prop_assert_eq!(url.host_str(), Some("example.org"));
                let segments: Vec<&str> = url.path_segments().unwrap().collect();
                prop_assert_eq!(segments, ["a", value.as_str(), "z"]);
                prop_assert_eq!(url.fragment(), Some("f"));
            }
            let host = Template::parse("https://{p}.example.org/a").unwrap();
            if let Ok(filled) = host.fill(&values(&value))
                && let Ok(url) = url::Url::parse(&filled)
            {
                let is_below = url.host_str().is_some_and(|host| host.ends_with(".example.org"));
                prop_assert!(is_below && url.port().is_none() && url.path() == "/a");
            }
        }

        #[test]
        fn every_text_is_a_template_or_told_why_not(text in any::<String>()) {
            if let Ok(template) = Template::parse(&text) {
                let names: Vec<&str> = template.parameters().collect();
                prop_assert!(names.iter().all(|name| is_name(name)));
            }
        }
    }
}
