//! Scalars with a syntax of their own: times and sizes with their units, percentages, file modes, paths, URLs, names by Kubernetes'
//! rules. Each has its parser, its error messages, and its JSON Schema.

use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::read::{Complaint, Word};
use crate::model::origin::{Origin, OriginError};
use crate::model::{OnRemove, Replace};

/// Ten years: a longer time is a wrong unit, and sums of times must not overflow.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The most that one plugin call, answer or artifact may need, which is also the size of a 32-bit memory.
const MAX_BYTES: u64 = 4 << 30;
/// Permission bits that let users other than the owner write, and so replace the token.
const FOREIGN_WRITE: u32 = 0o022;

/// A duration: `90s`, `1h30m`, `500ms`. Largest unit first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

impl Word for Time {
    const EXPECTED: &'static str = "a time with its unit";
    const EXAMPLE: &'static str = "90s";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Self, Complaint> {
        if text.parse::<f64>().is_ok() {
            return Err(Complaint::new(
                format!("`{text}` has no unit"),
                format!("write `{text}s` for seconds, or another of `ms`, `s`, `m`, `h`, `d`"),
            ));
        }
        let milliseconds = milliseconds(text).ok_or_else(|| {
            Complaint::new(
                format!("`{text}` is not a time"),
                "write whole numbers with their unit, the largest first, like `90s`, `1h30m` or `500ms`; units are `ms`, `s`, `m`, `h`, `d`",
            )
        })?;
        let time = Duration::from_millis(milliseconds);
        if time > MAX_DURATION {
            return Err(Complaint::new(
                format!("`{text}` is longer than ten years"),
                "check the unit: `m` is minutes, `ms` milliseconds",
            ));
        }
        Ok(Self(time))
    }

    fn word_schema() -> Value {
        json!({
            "type": "string",
            "minLength": 1,
            "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$",
            "examples": ["90s", "1h30m", "500ms"],
        })
    }
}

/// When a request is sent again: a time, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repetition(pub(super) Option<Duration>);

impl Word for Repetition {
    const EXPECTED: &'static str = "a time with its unit or `never`";
    const EXAMPLE: &'static str = "30s";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Self, Complaint> {
        match text {
            "never" => Ok(Self(None)),
            text => Time::parse(text).map(|Time(after)| Self(Some(after))),
        }
    }

    fn word_schema() -> Value {
        json!({
            "anyOf": [{"const": "never"}, Time::word_schema()],
        })
    }
}

/// Parses numbers with units: at least one, each unit at most once, the largest first.
fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    let mut units = TIME_UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let name = rest.get(..letters)?;
        rest = rest.get(letters..)?;
        let (_, factor) = units.find(|(unit, _)| *unit == name)?;
        total = total.checked_add(number.checked_mul(*factor)?)?;
    }
    (!text.is_empty()).then_some(total)
}

/// A number of bytes: `64MiB`, `512KiB`, `1000B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl Word for Size {
    const EXPECTED: &'static str = "a size with its unit";
    const EXAMPLE: &'static str = "64MiB";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Self, Complaint> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at_checked(digits).unwrap_or(("", text));
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "" => {
                return Err(Complaint::new(
                    format!("`{text}` has no unit"),
                    format!("write `{text}B`, or another of `KiB`, `MiB`, `GiB`"),
                ));
            }
            _ => {
                return Err(Complaint::new(
                    format!("`{text}` is not a size"),
                    "write a whole number with its unit, like `64MiB`; units are `B`, `KiB`, `MiB`, `GiB`",
                ));
            }
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .filter(|bytes| (1..=MAX_BYTES).contains(bytes))
            .map(Self)
            .ok_or_else(|| {
                Complaint::new(
                    format!("`{text}` is out of bounds"),
                    "write a size from `1B` to `4GiB`",
                )
            })
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$", "examples": ["64MiB"]})
    }
}

/// A percentage as a fraction: `80%` is 0.8.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Percent(pub(super) f64);

impl Word for Percent {
    const EXPECTED: &'static str = "a percentage";
    const EXAMPLE: &'static str = "80%";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Self, Complaint> {
        let number = text.strip_suffix('%').ok_or_else(|| {
            let meant = match text.parse::<f64>() {
                Ok(fraction) if fraction > 0.0 && fraction < 1.0 => {
                    format!("write `{:.0}%`", (fraction * 100.0).clamp(1.0, 99.0))
                }
                _ => "write it like `80%`".to_owned(),
            };
            Complaint::new(format!("`{text}` is not a percentage"), meant)
        })?;
        match number.parse::<u8>() {
            // As in the schema: Rust's parser accepts `+8%` and `08%` as well.
            Ok(percent @ 1..=99) if number == percent.to_string() => {
                Ok(Self(f64::from(percent) / 100.0))
            }
            _ => Err(Complaint::new(
                format!("`{text}` is out of bounds"),
                "write a whole percentage from `1%` to `99%`",
            )),
        }
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^[1-9][0-9]?%$", "examples": ["80%"]})
    }
}

/// How a file's content is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replacement(pub(super) Replace);

impl Word for Replacement {
    const EXPECTED: &'static str = "`rename` or `in_place`";
    const EXAMPLE: &'static str = "in_place";

    fn parse(text: &str) -> Result<Self, Complaint> {
        match text {
            "rename" => Ok(Self(Replace::Rename)),
            "in_place" => Ok(Self(Replace::InPlace)),
            _ => Err(Complaint::new(
                format!("`{text}` is no way to replace a file"),
                "write `rename`, or `in_place` for a single file that is bind-mounted",
            )),
        }
    }

    fn word_schema() -> Value {
        json!({"enum": ["rename", "in_place"]})
    }
}

/// What becomes of an output that the configuration has no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Removal(pub(super) OnRemove);

impl Word for Removal {
    const EXPECTED: &'static str = "`keep` or `delete`";
    const EXAMPLE: &'static str = "delete";

    fn parse(text: &str) -> Result<Self, Complaint> {
        match text {
            "keep" => Ok(Self(OnRemove::Keep)),
            "delete" => Ok(Self(OnRemove::Delete)),
            _ => Err(Complaint::new(
                format!("`{text}` is nothing that becomes of an output"),
                "write `keep`, or `delete` to have it deleted",
            )),
        }
    }

    fn word_schema() -> Value {
        json!({"enum": ["keep", "delete"]})
    }
}

/// A file's permission bits in octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode(pub(super) u32);

impl Word for Mode {
    const EXPECTED: &'static str = "a file mode in octal, quoted";
    const EXAMPLE: &'static str = "\"0400\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let bits = match u32::from_str_radix(text, 8) {
            Ok(bits) if octal && bits <= 0o777 => bits,
            _ => {
                return Err(Complaint::new(
                    format!("`{text}` is not a file mode"),
                    "write permission bits in octal, like `\"0400\"` or `\"0640\"`",
                ));
            }
        };
        if bits & FOREIGN_WRITE != 0 {
            return Err(Complaint::new(
                format!("mode `{text}` lets group or others write, and so replace the token"),
                format!("write `\"{:04o}\"`", bits & !FOREIGN_WRITE),
            ));
        }
        Ok(Self(bits))
    }

    fn parse_bare(text: &str) -> Result<Self, Complaint> {
        // YAML's number would be another mode: 0400 is the decimal four hundred.
        let quoted = text.strip_prefix("0o").unwrap_or(text);
        let quoted = if Self::parse(quoted).is_ok() {
            quoted
        } else {
            "0400"
        };
        Err(Complaint::new(
            format!("YAML reads the mode `{text}` as a decimal number"),
            format!("quote it: `\"{quoted}\"`"),
        ))
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^0?[0-7][0145][0145]$", "examples": ["0400"]})
    }
}

/// An absolute path without `..`, with doubled slashes and `.` removed, so that equal paths are written alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct AbsolutePath(pub(super) PathBuf);

impl Word for AbsolutePath {
    const EXPECTED: &'static str = "an absolute path";
    const EXAMPLE: &'static str = "/run/tokens/name";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(Complaint::new(
                format!("`{text}` is not an absolute path"),
                "write the path from `/` on; the working directory must not decide where a token goes",
            ));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(Complaint::new(
                format!("`{text}` has `..` in it"),
                "write the path without `..`",
            ));
        }
        refuse_long_names(path)?;
        Ok(Self(path.components().collect()))
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^/"})
    }
}

/// An absolute path, and whether its spelling says that it is a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OutputPath {
    pub(super) path: PathBuf,
    pub(super) names_directory: bool,
}

impl Word for OutputPath {
    const EXPECTED: &'static str = AbsolutePath::EXPECTED;
    const EXAMPLE: &'static str = AbsolutePath::EXAMPLE;

    fn parse(text: &str) -> Result<Self, Complaint> {
        Ok(Self {
            path: AbsolutePath::parse(text)?.0,
            names_directory: names_directory(text),
        })
    }

    fn word_schema() -> Value {
        AbsolutePath::word_schema()
    }
}

/// The longest file name, in bytes, on Linux's file systems (`NAME_MAX`).
const NAME_MAX_BYTES: usize = 255;

fn refuse_long_names(path: &Path) -> Result<(), Complaint> {
    let is_long = |part: &Component<'_>| part.as_os_str().len() > NAME_MAX_BYTES;
    if path.components().any(|part| is_long(&part)) {
        return Err(Complaint::new(
            format!("a name of more than {NAME_MAX_BYTES} bytes in the path"),
            "give the file a shorter name",
        ));
    }
    Ok(())
}

/// Whether a path can only name a directory (POSIX.1-2017 §4.13).
fn names_directory(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.")
}

/// A file's path; a relative one counts from the configuration file's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AnyPath(pub(super) PathBuf);

impl Word for AnyPath {
    const EXPECTED: &'static str = "a path";
    const EXAMPLE: &'static str = "/etc/evertoken/file";

    fn parse(text: &str) -> Result<Self, Complaint> {
        if text.is_empty() {
            return Err(Complaint::new("an empty path", "write a path"));
        }
        if names_directory(text) {
            return Err(Complaint::new(
                format!("`{text}` names a directory"),
                "name a file in it",
            ));
        }
        if text.starts_with("~/") || text.starts_with("$HOME/") {
            return Err(Complaint::new(
                format!(
                    "`{text}`: a shell would put in the home directory here, and evertoken does not"
                ),
                "write the path from `/` on, or a relative one, which counts from this file",
            ));
        }
        refuse_long_names(Path::new(text))?;
        Ok(Self(PathBuf::from(text)))
    }

    fn word_schema() -> Value {
        json!({"type": "string", "minLength": 1, "not": {"pattern": "/\\.?$"}})
    }
}

/// A text that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

impl Word for Text {
    const EXPECTED: &'static str = "text";
    const EXAMPLE: &'static str = "text";

    fn parse(text: &str) -> Result<Self, Complaint> {
        if text.is_empty() {
            return Err(Complaint::new(
                "an empty text",
                "write a value, or remove the key",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn word_schema() -> Value {
        json!({"type": "string", "minLength": 1})
    }
}

/// Any text, including an empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FreeText(pub(super) String);

impl Word for FreeText {
    const EXPECTED: &'static str = "text";
    const EXAMPLE: &'static str = "text";
    const LINES: bool = true;

    fn parse(text: &str) -> Result<Self, Complaint> {
        Ok(Self(text.to_owned()))
    }

    fn word_schema() -> Value {
        json!({"type": "string"})
    }
}

/// Bytes of a compiled pattern: a few hundred characters with repetitions fit.
const PATTERN_BYTES: usize = 1 << 20;

/// A regular expression that a whole text must match.
pub(super) fn whole(text: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{text})$"))
        .size_limit(PATTERN_BYTES)
        .build()
}

/// What a parameter's value must be, as a whole.
#[derive(Debug, Clone)]
pub(super) struct Pattern(pub(super) regex::Regex);

impl Word for Pattern {
    const EXPECTED: &'static str = "a regular expression";
    const EXAMPLE: &'static str = "[a-z]+";

    fn parse(text: &str) -> Result<Self, Complaint> {
        whole(text).map(Self).map_err(|error| {
            let error = error.to_string();
            let reason = error
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            Complaint::new(
                format!("`{text}` is no regular expression: {reason}"),
                "write it like `[a-z0-9-]+`; look-around and back references are not known",
            )
        })
    }

    fn word_schema() -> Value {
        json!({"type": "string", "format": "regex"})
    }
}

/// Declares a name: a text of certain characters and length.
macro_rules! name {
    ($(#[doc = $doc:literal])+ $name:ident, $expected:literal, $example:literal, $max:literal, $pattern:literal, $is:expr, $rule:literal) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) struct $name(pub(super) String);

        impl Word for $name {
            const EXPECTED: &'static str = $expected;
            const EXAMPLE: &'static str = $example;

            fn parse(text: &str) -> Result<Self, Complaint> {
                let is: fn(&str) -> bool = $is;
                if text.len() <= $max && is(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err(Complaint::new(
                    format!("`{text}` is not {}", $expected),
                    $rule,
                ))
            }

            fn word_schema() -> Value {
                json!({"type": "string", "maxLength": $max, "pattern": $pattern})
            }
        }
    };
}

name!(
    /// A job's or plugin's name. It becomes part of a field manager and of an annotation key in Kubernetes, whose rules therefore
    /// apply.
    JobName, "a name", "warehouse", 63, "^[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$", is_qualified_part,
    "use at most 63 letters, digits, `-`, `_` and `.`, a letter or digit first and last"
);
name!(
    /// A secret's name, as a plugin asks for it.
    SecretName, "a secret's name", "client_secret", 63, "^[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$", is_qualified_part,
    "use at most 63 letters, digits, `-`, `_` and `.`, a letter or digit first and last"
);
name!(
    /// A Kubernetes namespace: a DNS label (RFC 1123).
    Namespace, "a Kubernetes namespace", "default", 63, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", is_dns_label,
    "use at most 63 small letters, digits and `-`, a letter or digit first and last"
);
name!(
    /// A namespace, or several: `*` stands for any characters.
    NamespacePattern, "a Kubernetes namespace, or a pattern of some", "team-*", 63, "^[-a-z0-9*]+$",
    |text| !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-*".contains(&byte)),
    "use at most 63 small letters, digits, `-` and `*`, which stands for any characters"
);
name!(
    /// The name of a parameter.
    ParameterName, "a parameter's name", "client_id", 63, "^[A-Za-z0-9_]+$",
    |text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
    "use at most 63 letters, digits and `_`"
);
name!(
    /// The prefix of the names of the state store's Secrets, also the value of a label: a DNS label (RFC 1123).
    StatePrefix, "a prefix for names of Secrets", "evertoken-state", 63, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", is_dns_label,
    "use at most 63 small letters, digits and `-`, a letter or digit first and last"
);
name!(
    /// A Kubernetes object's name: a DNS subdomain (RFC 1123).
    ObjectName, "a Kubernetes object's name", "warehouse-token", 253,
    "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    |text| text.split('.').all(is_dns_label),
    "use at most 253 small letters, digits, `-` and `.`, a letter or digit first and last in each part"
);
name!(
    /// A key of a Kubernetes Secret.
    SecretKey, "a key of a Secret", "token", 253, r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$",
    |text| !text.is_empty() && text.bytes().all(is_name_byte) && text != "." && !text.starts_with(".."),
    "use at most 253 letters, digits, `-`, `_` and `.`, not `.` alone and not `..` at the start"
);
name!(
    /// The key of a label or annotation: a name, or a DNS subdomain, `/` and a name.
    LabelKey, "a label or annotation key", "app.kubernetes.io/part-of", 317,
    "^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$",
    |text| match text.split_once('/') {
        Some((prefix, name)) => {
            prefix.len() <= 253 && prefix.split('.').all(is_dns_label) && is_qualified_part(name)
        }
        None => is_qualified_part(text),
    },
    "use `name` or `dns.prefix/name`, the name of at most 63 letters, digits, `-`, `_` and `.`"
);
name!(
    /// A label's value.
    LabelValue, "a label's value", "tokens", 63, "^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$",
    |text| text.is_empty() || is_qualified_part(text),
    "use at most 63 letters, digits, `-`, `_` and `.`, a letter or digit first and last"
);
name!(
    /// An environment variable's name.
    VariableName, "an environment variable's name", "CLIENT_SECRET", 1024, "^[A-Za-z_][A-Za-z0-9_]*$",
    |text| !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
    "write the name alone, without `$`: letters, digits and `_`, no digit first"
);

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

fn is_qualified_part(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && text.bytes().all(is_name_byte)
}

/// Whether these are the characters of a DNS label. Its length is not checked: Kubernetes only limits the whole name.
fn is_dns_label(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().next().is_some_and(letter)
        && text.bytes().last().is_some_and(letter)
        && text.bytes().all(|byte| letter(byte) || byte == b'-')
}

impl Word for Origin {
    const EXPECTED: &'static str = "an origin";
    const EXAMPLE: &'static str = "https://login.example.org";

    fn parse(text: &str) -> Result<Self, Complaint> {
        Self::parse(text).map_err(|error| {
            let url = url::Url::parse(text).ok();
            let help = match (&error, url.as_ref().and_then(Self::of)) {
                (OriginError::TooMuch(_), Some(origin)) => format!("write `{origin}`"),
                (OriginError::NotAUrl(_) | OriginError::Scheme(_), _) if is_host(text) => {
                    format!("write `https://{text}`")
                }
                _ => "write `https://host` or `https://host:port`".to_owned(),
            };
            let message = match error {
                OriginError::NotAUrl(text) => format!("`{text}` is not an origin"),
                OriginError::Scheme(text) if is_host(&text) => format!("`{text}` has no scheme"),
                other => other.to_string(),
            };
            Complaint::new(message, help)
        })
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^https?://[^/?#@]+/?$", "examples": [Self::EXAMPLE]})
    }
}

fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    port.parse::<u16>().is_ok()
        && !host.is_empty()
        && host.to_lowercase().split('.').all(is_dns_label)
}

/// A proxy's URL. Credentials are refused, because many tools show the URL in their status and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProxyUrl(pub(super) url::Url);

impl Word for ProxyUrl {
    const EXPECTED: &'static str = "a proxy's URL";
    const EXAMPLE: &'static str = "http://proxy.example.org:3128";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let write = "write `http://host:port` or `https://host:port`";
        let url = url::Url::parse(text)
            .map_err(|_| Complaint::new("the proxy is not a URL".to_owned(), write))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Complaint::new(
                "the proxy's URL has a user or password",
                "leave it out here; `HTTPS_PROXY` may have one",
            ));
        }
        if Origin::of(&url).is_none() || url.path() != "/" || url.query().is_some() {
            return Err(Complaint::new(
                format!("`{text}` is not a proxy's URL"),
                write,
            ));
        }
        Ok(Self(url))
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^https?://[^/?#@]+/?$", "examples": [Self::EXAMPLE]})
    }
}

impl Word for SocketAddr {
    const EXPECTED: &'static str = "an IP address and port";
    const EXAMPLE: &'static str = "0.0.0.0:8080";

    fn parse(text: &str) -> Result<Self, Complaint> {
        text.parse().map_err(|_| {
            let help = match port_of(text) {
                Some(port) => format!(
                    "write `127.0.0.1:{port}` for this machine alone, `0.0.0.0:{port}` or `[::]:{port}` for others too"
                ),
                None => "write it like `127.0.0.1:8080` for this machine alone, `0.0.0.0:8080` or `[::]:8080` for others too".to_owned(),
            };
            Complaint::new(format!("`{text}` is not an IP address and port"), help)
        })
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^.+:[0-9]+$", "examples": [Self::EXAMPLE]})
    }
}

/// The port of a text that is not an IP address and port: `8080`, `:8080`, `localhost:8080`.
fn port_of(text: &str) -> Option<u16> {
    let port = text.strip_prefix("localhost").unwrap_or(text);
    port.strip_prefix(':').unwrap_or(port).parse().ok()
}

/// An IP address, or a network (CIDR).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IpNetwork(pub(super) IpNet);

impl Word for IpNetwork {
    const EXPECTED: &'static str = "an IP address or network";
    const EXAMPLE: &'static str = "127.0.0.1";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => Some(IpNet::from(address)),
            Err(_) => text.parse().ok(),
        };
        let Some(network) = network else {
            return Err(Complaint::new(
                format!("`{text}` is not an IP address or network"),
                "write an address like `127.0.0.1` or `::1`, or a network like `10.0.0.0/8`, without a port",
            ));
        };
        if network.trunc() != network {
            return Err(Complaint::new(
                format!("`{text}` has an address beyond its prefix"),
                format!("write `{}`, or `{}` alone", network.trunc(), network.addr()),
            ));
        }
        Ok(Self(network))
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$", "examples": [Self::EXAMPLE, "10.0.0.0/8"]})
    }
}

/// A SHA-256 in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sha256(pub(super) [u8; 32]);

impl Word for Sha256 {
    const EXPECTED: &'static str = "a SHA-256 in hexadecimal";
    const EXAMPLE: &'static str = "9f2c…, 64 digits";
    // All of its digits may be decimal, which YAML reads as a number.
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Self, Complaint> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes());
        match bytes.ok().and_then(|bytes| bytes.try_into().ok()) {
            Some(digest) => Ok(Self(digest)),
            None => Err(Complaint::new(
                format!(
                    "`{text}` is not a SHA-256: it has {} of 64 hexadecimal digits",
                    text.len()
                ),
                "take it from `sha256sum FILE` or `evertoken plugin inspect FILE`",
            )),
        }
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"})
    }
}

/// A JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer(pub(super) String);

impl Word for Pointer {
    const EXPECTED: &'static str = "a JSON pointer";
    const EXAMPLE: &'static str = "/refresh_token";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let escapes = text
            .split('~')
            .skip(1)
            .all(|after| after.starts_with(['0', '1']));
        if text.starts_with('/') && escapes {
            return Ok(Self(text.to_owned()));
        }
        Err(Complaint::new(
            format!("`{text}` is not a JSON pointer"),
            format!(
                "start each step with `/`, like `/{}`; write `~` as `~0` and `/` as `~1`",
                text.trim_start_matches(['/', '$', '.'])
            ),
        ))
    }

    fn word_schema() -> Value {
        json!({"type": "string", "pattern": "^(/([^/~]|~[01])*)+$"})
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        /// Compiled schemas: compiling one takes longer than a thousand validations.
        static SCHEMAS: RefCell<HashMap<String, jsonschema::Validator>> = RefCell::default();
    }

    /// Whether the text is valid; none: schema and parser disagree.
    fn agreed<W: Word>(text: &str) -> Option<bool> {
        let schema = W::word_schema();
        let valid = SCHEMAS.with_borrow_mut(|schemas| {
            let compiled = schemas
                .entry(schema.to_string())
                .or_insert_with(|| jsonschema::draft202012::new(&schema).unwrap());
            compiled.is_valid(&Value::from(text))
        });
        let read = W::parse(text).is_ok();
        (valid == read).then_some(read)
    }

    #[test]
    fn times_have_their_unit_the_largest_first() {
        for (text, milliseconds) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("0s", 0),
            ("1d2h3m4s5ms", 93_784_005),
            ("2m5ms", 120_005),
        ] {
            let time = Time::parse(text).map_err(|complaint| complaint.message);
            assert_eq!(
                time,
                Ok(Time(Duration::from_millis(milliseconds))),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            "90",
            "1.5h",
            "-1s",
            "1s1s",
            "1s1m",
            "1 s",
            "1S",
            "1h 30m",
            "99999999999999999999s",
            "4000d",
        ] {
            assert!(Time::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_their_unit() {
        for (text, bytes) in [
            ("1B", 1),
            ("64MiB", 64 << 20),
            ("4GiB", 4 << 30),
            ("512KiB", 512 << 10),
        ] {
            let size = Size::parse(text).map_err(|complaint| complaint.message);
            assert_eq!(size, Ok(Size(bytes)), "{text}");
        }
        for text in [
            "",
            "MiB",
            "64",
            "64M",
            "64MB",
            "0B",
            "5GiB",
            "1.5MiB",
            "99999999999999999999B",
        ] {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_what_kubernetes_takes() {
        let long = |length| "a".repeat(length);
        for (text, good) in [
            ("a.b-c.1", true),
            (&long(253), true),
            (&long(254), false),
            ("", false),
            ("A", false),
            ("a_b", false),
            ("-a", false),
            ("a.", false),
            ("a..b", false),
        ] {
            assert_eq!(ObjectName::parse(text).is_ok(), good, "{text}");
        }
        assert!(Namespace::parse(&long(63)).is_ok() && Namespace::parse(&long(64)).is_err());
        assert!(Namespace::parse("a.b").is_err());
        assert!(
            LabelKey::parse("a.b/C_d").is_ok()
                && LabelKey::parse("a/b/c").is_err()
                && LabelKey::parse("/c").is_err()
        );
        assert!(LabelValue::parse("").is_ok() && LabelValue::parse("-").is_err());
        assert!(SecretKey::parse(".dockerconfigjson").is_ok());
        assert!(SecretKey::parse("..x").is_err() && SecretKey::parse("a/b").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_schema_of_a_word_says_what_its_reader_takes(
            time in "([0-9]{1,2}(d|h|m|s|ms|x)){0,4}|[0-9]{1,3}",
            percent in "[0-9]{0,3}%?",
            mode in "[0-8]{2,5}",
            name in "[a-zA-Z0-9._/-]{0,8}",
            pointer in "[/~01a]{0,6}",
            variable in "[$a-zA-Z_0-9]{0,4}",
            origin in "(https?|ftp)://[a-z]{1,3}(:[0-9]{1,3})?(/|/a)?",
        ) {
            prop_assert!(agreed::<Time>(&time).is_some(), "{time}");
            prop_assert!(agreed::<Percent>(&percent).is_some(), "{percent}");
            prop_assert!(agreed::<Mode>(&mode).is_some(), "{mode}");
            prop_assert!(agreed::<JobName>(&name).is_some(), "{name}");
            prop_assert!(agreed::<Namespace>(&name).is_some(), "{name}");
            prop_assert!(agreed::<ObjectName>(&name).is_some(), "{name}");
            prop_assert!(agreed::<SecretKey>(&name).is_some(), "{name}");
            prop_assert!(agreed::<LabelKey>(&name).is_some(), "{name}");
            prop_assert!(agreed::<LabelValue>(&name).is_some(), "{name}");
            prop_assert!(agreed::<AbsolutePath>(&name).is_some() || name.contains(".."), "{name}");
            prop_assert!(agreed::<Pointer>(&pointer).is_some(), "{pointer}");
            prop_assert!(agreed::<VariableName>(&variable).is_some(), "{variable}");
            prop_assert!(agreed::<Origin>(&origin).is_some(), "{origin}");
            prop_assert!(agreed::<ProxyUrl>(&origin).is_some(), "{origin}");
        }
    }
}
