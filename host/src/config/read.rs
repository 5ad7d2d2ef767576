//! Parsing of trees into specs, which are structs. [`spec!`] declares the keys of a spec once and generates from it the parser, which
//! collects all mistakes instead of stopping at the first, and the JSON Schema. Scalars with a syntax of their own implement
//! [`Word`].

use std::collections::HashSet;
use std::ops::{Deref, Range};
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::{Map, Value, json};

use super::mistake::{Note, Notes, Span};
use super::yaml::{Content, MapKey, Node, ScalarKind};
use crate::form::{self, WrittenValue};
use crate::text::Alphabet;

/// The mistakes found so far, and the values that messages must not show.
#[derive(Default)]
pub(super) struct Diagnostics {
    pub(super) notes: Notes,
    hidden: HashSet<Span>,
}

impl Diagnostics {
    pub(super) fn note(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.notes.push(Note {
            span,
            message: message.into(),
            help: Some(help.into()),
            other: None,
        });
    }

    /// Notes that two places contradict each other.
    pub(super) fn clash(
        &mut self,
        span: Span,
        first: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.notes.push(Note {
            span,
            message: message.into(),
            help: Some(help.into()),
            other: Some(first),
        });
    }

    /// Hides everything below a node from messages and snippets.
    pub(super) fn hide(&mut self, node: &Node) {
        match &node.content {
            Content::Scalar(_) => {
                self.hidden.insert(node.span);
            }
            Content::List(items) => items.iter().for_each(|item| self.hide(item)),
            Content::Map(entries) => {
                // A secret in the wrong place may be read as a key: `{hunter2}`.
                for (key, value) in entries {
                    self.hidden.insert(key.span);
                    self.hide(value);
                }
            }
        }
    }

    /// Hides a key from messages and snippets.
    pub(super) fn hide_key(&mut self, key: &MapKey) {
        self.hidden.insert(key.span);
    }

    pub(super) fn is_hidden(&self, span: Span) -> bool {
        self.hidden.contains(&span)
    }

    /// The hidden byte ranges of one file.
    pub(super) fn hidden_in(&self, source: u32) -> Vec<Range<usize>> {
        self.hidden
            .iter()
            .filter(|span| span.source == source)
            .map(|span| span.start as usize..span.end as usize)
            .collect()
    }

    /// The value as messages show it.
    fn shown(&self, node: &Node) -> String {
        match &node.content {
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a mapping".to_owned(),
            Content::Scalar(_) if self.is_hidden(node.span) => "a bare value".to_owned(),
            Content::Scalar(scalar) => format!("`{}`", scalar.text.as_str()),
        }
    }

    fn wrong_type(&mut self, node: &Node, expected: &str, example: &str) {
        let written = match &node.content {
            Content::Scalar(scalar) if scalar.kind() == ScalarKind::Null => WrittenValue::Nothing,
            _ => WrittenValue::Other(self.shown(node)),
        };
        let (message, help) = form::not_expected(expected, written, Some(example));
        self.note(node.span, message, help);
    }
}

/// The named schemas of specs, for `$defs`.
pub(super) type Definitions = Map<String, Value>;

/// A value that is parsed from a node.
pub(super) trait Read: Sized {
    /// Parses the value; none if a mistake was noted.
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self>;

    /// Its JSON Schema.
    fn schema(definitions: &mut Definitions) -> Value;
}

/// A value with its place, for mistakes that are found later.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    value: T,
    pub(super) span: Span,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Read> Read for At<T> {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        Some(Self {
            value: T::read(node, diagnostics)?,
            span: node.span,
        })
    }

    fn schema(definitions: &mut Definitions) -> Value {
        T::schema(definitions)
    }
}

/// The keys of a mapping that is parsed as a spec.
pub(super) struct SpecFields<'n> {
    span: Span,
    entries: Vec<(&'n str, &'n Arc<Node>)>,
}

impl<'n> SpecFields<'n> {
    /// The keys of the mapping; unknown ones are noted.
    pub(super) fn of(
        node: &'n Node,
        known: &[&str],
        example: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let Content::Map(entries) = &node.content else {
            diagnostics.wrong_type(node, "a mapping", example);
            return None;
        };
        for (key, value) in entries {
            if !known.contains(&&*key.text) {
                diagnostics.hide(value);
                let is_hidden = diagnostics.is_hidden(key.span);
                let (message, help) = form::unknown_key(&key.text, is_hidden, known);
                diagnostics.note(key.span, message, help);
            }
        }
        Some(Self {
            span: node.span,
            entries: entries
                .iter()
                .map(|(key, value)| (&*key.text, value))
                .collect(),
        })
    }

    fn get(&self, key: &str) -> Option<&'n Arc<Node>> {
        let (_, node) = self.entries.iter().find(|(known, _)| *known == key)?;
        Some(node)
    }

    /// Checks that exactly one of these keys is present, whether or not its value is valid.
    pub(super) fn exactly_one(&self, keys: &[&str], diagnostics: &mut Diagnostics) {
        let given: Vec<&str> = keys
            .iter()
            .copied()
            .filter(|key| self.get(key).is_some())
            .collect();
        if given.len() != 1 {
            let (message, help) = form::one_of(keys, &given);
            diagnostics.note(self.span, message, help);
        }
    }
}

/// A key of a spec: `T` is required, `Option<T>` is not.
pub(super) trait SpecField: Sized {
    const REQUIRED: bool;

    /// Parses the key's value; none if a mistake was noted and the spec needs the key.
    fn take(fields: &SpecFields<'_>, key: &str, diagnostics: &mut Diagnostics) -> Option<Self>;

    fn field_schema(definitions: &mut Definitions) -> Value;
}

impl<T: Read> SpecField for T {
    const REQUIRED: bool = true;

    fn take(fields: &SpecFields<'_>, key: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        match fields.get(key) {
            Some(node) => Self::read(node, diagnostics),
            None => {
                let (message, help) = form::missing_key(key);
                diagnostics.note(fields.span, message, help);
                None
            }
        }
    }

    fn field_schema(definitions: &mut Definitions) -> Value {
        T::schema(definitions)
    }
}

impl<T: Read> SpecField for Option<T> {
    const REQUIRED: bool = false;

    fn take(fields: &SpecFields<'_>, key: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        Some(fields.get(key).and_then(|node| T::read(node, diagnostics)))
    }

    fn field_schema(definitions: &mut Definitions) -> Value {
        T::schema(definitions)
    }
}

/// A key's schema, with its doc comment as the description.
pub(super) fn described(mut schema: Value, doc: &str) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), Value::from(doc.trim()));
    }
    schema
}

/// Declares a spec: a struct named `…Spec`, its parser and its schema. Exactly one of the keys in `one_of` must be present.
macro_rules! spec {
    (
        $(#[doc = $doc:literal])+
        $(#[one_of($($one:ident),+)])?
        #[example($example:literal)]
        struct $name:ident {
            $( $(#[doc = $field_doc:literal])+ $field:ident: $type:ty, )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone)]
        pub(super) struct $name {
            $( $(#[doc = $field_doc])+ pub(super) $field: $type, )+
        }

        impl $crate::config::read::Read for $name {
            fn read(
                node: &$crate::config::yaml::Node,
                diagnostics: &mut $crate::config::read::Diagnostics,
            ) -> Option<Self> {
                use $crate::config::read::{SpecField, SpecFields, key};
                let known = [$( key(stringify!($field)) ),+];
                let fields = SpecFields::of(node, &known, $example, diagnostics)?;
                $( fields.exactly_one(&[$( key(stringify!($one)) ),+], diagnostics); )?
                $( let $field = <$type as SpecField>::take(&fields, key(stringify!($field)), diagnostics); )+
                Some(Self { $( $field: $field?, )+ })
            }

            fn schema(definitions: &mut $crate::config::read::Definitions) -> serde_json::Value {
                use $crate::config::read::{SpecField, described, key, published_name};
                let name = published_name(stringify!($name));
                if !definitions.contains_key(name) {
                    let mut properties = serde_json::Map::new();
                    let mut required: Vec<&str> = Vec::new();
                    $(
                        let schema = <$type as SpecField>::field_schema(definitions);
                        properties.insert(
                            key(stringify!($field)).to_owned(),
                            described(schema, concat!($($field_doc, "\n"),+)),
                        );
                        if <$type as SpecField>::REQUIRED {
                            required.push(key(stringify!($field)));
                        }
                    )+
                    let mut schema = serde_json::json!({
                        "type": "object",
                        "description": concat!($($doc, "\n"),+).trim(),
                        "properties": properties,
                        "additionalProperties": false,
                    });
                    if let Some(object) = schema.as_object_mut() {
                        if !required.is_empty() {
                            object.insert("required".to_owned(), required.into());
                        }
                        $(
                            let one: Vec<serde_json::Value> = [$( key(stringify!($one)) ),+]
                                .into_iter()
                                .map(|key| serde_json::json!({"required": [key]}))
                                .collect();
                            object.insert("oneOf".to_owned(), one.into());
                        )?
                    }
                    definitions.insert(name.to_owned(), schema);
                }
                serde_json::json!({"$ref": format!("#/$defs/{name}")})
            }
        }
    };
}
pub(super) use spec;

/// A spec's name in the JSON Schema.
pub(super) fn published_name(name: &'static str) -> &'static str {
    name.strip_suffix("Spec").unwrap_or(name)
}

/// A field's key: the field's name without the `r#` of Rust's reserved words.
pub(super) fn key(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// Why a word is invalid.
pub(super) struct Complaint {
    pub(super) message: String,
    pub(super) help: String,
}

impl Complaint {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

/// A scalar with a syntax of its own. Complaints quote the text, so that secrets must not be words.
pub(super) trait Word: Sized {
    /// Its description, with its article.
    const EXPECTED: &'static str;
    /// An example.
    const EXAMPLE: &'static str;

    /// Whether it may contain line ends and other control characters.
    const LINES: bool = false;

    /// Whether it may be unquoted where YAML reads a number or a truth value.
    const BARE: bool = false;

    /// Parses the text.
    fn parse(text: &str) -> Result<Self, Complaint>;

    /// Parses an unquoted text that YAML reads as a number or a truth value.
    fn parse_bare(text: &str) -> Result<Self, Complaint> {
        // Where the text is invalid too, quotes would not help.
        Self::parse(text)?;
        Err(Complaint::new(
            format!(
                "expected {}, but YAML reads `{text}` as a number or truth value",
                Self::EXPECTED
            ),
            format!("quote it: `\"{text}\"`"),
        ))
    }

    /// The JSON Schema.
    fn word_schema() -> Value;
}

impl<W: Word> Read for W {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let scalar = match &node.content {
            Content::Scalar(scalar) if scalar.kind() != ScalarKind::Null => scalar,
            _ => {
                diagnostics.wrong_type(node, W::EXPECTED, W::EXAMPLE);
                return None;
            }
        };
        let read = match scalar.kind() {
            _ if !W::LINES
                && let Some(odd) = Alphabet::OneLine.odd(scalar.text.as_bytes()) =>
            {
                Err(Complaint::new(
                    format!("{} has {odd}", W::EXPECTED),
                    "write it on one line; behind `|` and `>` YAML keeps the line end, behind `|-` and `>-` it does not",
                ))
            }
            ScalarKind::Text => W::parse(&scalar.text),
            _ if W::BARE => W::parse(&scalar.text),
            _ => W::parse_bare(&scalar.text),
        };
        match read {
            Ok(value) => Some(value),
            Err(_) if diagnostics.is_hidden(node.span) => {
                diagnostics.wrong_type(node, W::EXPECTED, W::EXAMPLE);
                None
            }
            Err(complaint) => {
                diagnostics.note(node.span, complaint.message, complaint.help);
                None
            }
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        W::word_schema()
    }
}

impl Read for bool {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        if let Content::Scalar(scalar) = &node.content
            && let ScalarKind::Bool(value) = scalar.kind()
        {
            return Some(value);
        }
        diagnostics.wrong_type(node, "`true` or `false`", "true");
        None
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"type": "boolean"})
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<const MIN: u32, const MAX: u32> Read for Count<MIN, MAX> {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        if let Content::Scalar(scalar) = &node.content
            && scalar.kind() == ScalarKind::Integer
        {
            if let Ok(value) = scalar.text.parse::<u32>()
                && (MIN..=MAX).contains(&value)
            {
                return Some(Self(value));
            }
            let shown = diagnostics.shown(node);
            diagnostics.note(
                node.span,
                format!("{shown} is out of bounds"),
                format!("write a whole number from {MIN} to {MAX}"),
            );
            return None;
        }
        diagnostics.wrong_type(node, "a whole number", &MIN.max(1).to_string());
        None
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A user's or group's number. The largest one stands for none.
#[derive(Debug, Clone, Copy)]
pub(super) struct NumericId(pub(super) u32);

/// All numbers that it may be.
type AnyId = Count<0, { u32::MAX - 1 }>;

impl Read for NumericId {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        match &node.content {
            Content::Scalar(scalar) if scalar.kind() == ScalarKind::Integer => {
                AnyId::read(node, diagnostics).map(|Count(id)| Self(id))
            }
            // A name means another user in a container than outside of it.
            _ => {
                diagnostics.wrong_type(node, "a number as `id` prints it", "1000");
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        AnyId::schema(definitions)
    }
}

/// A secret that is written in the file. Never shown.
#[derive(Debug, Clone)]
pub(super) struct SecretText(pub(super) SecretString);

impl Read for SecretText {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        diagnostics.hide(node);
        match &node.content {
            Content::Scalar(scalar) if scalar.kind() == ScalarKind::Text => {
                Some(Self(SecretString::from(scalar.text.as_str())))
            }
            _ => {
                diagnostics.note(
                    node.span,
                    "a secret's value is text, and YAML does not read this as text",
                    "quote it: `value: \"…\"`",
                );
                None
            }
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"type": "string", "writeOnly": true})
    }
}

/// A list without the items that have mistakes, which are noted.
impl<T: Read> Read for Vec<T> {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Content::List(items) = &node.content else {
            diagnostics.wrong_type(node, "a list", "[…]");
            return None;
        };
        Some(
            items
                .iter()
                .filter_map(|item| T::read(item, diagnostics))
                .collect(),
        )
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"type": "array", "items": T::schema(definitions)})
    }
}

/// One value, or a list of values.
#[derive(Debug, Clone)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

impl<T: Read> Read for OneOrMany<T> {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        match &node.content {
            Content::List(_) => Vec::read(node, diagnostics).map(Self),
            _ => T::read(node, diagnostics).map(|one| Self(vec![one])),
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        let one = T::schema(definitions);
        json!({"oneOf": [one, {"type": "array", "items": one, "minItems": 1}]})
    }
}

/// A mapping from names to values; the value is none if it has a mistake.
#[derive(Debug, Clone)]
pub(super) struct Named<K, T>(pub(super) Vec<(At<K>, Option<T>)>);

impl<K, T> Default for Named<K, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Word, T: Read> Read for Named<K, T> {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let Content::Map(entries) = &node.content else {
            diagnostics.wrong_type(node, "a mapping from names to values", "{name: …}");
            return None;
        };
        let mut named = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let value = T::read(value, diagnostics);
            match K::parse(&key.text) {
                Ok(name) => named.push((
                    At {
                        value: name,
                        span: key.span,
                    },
                    value,
                )),
                Err(_) if diagnostics.is_hidden(key.span) => {
                    diagnostics.note(
                        key.span,
                        format!("a bare value is not {}", K::EXPECTED),
                        format!("write it like `{}: …`", K::EXAMPLE),
                    );
                }
                Err(complaint) => diagnostics.note(key.span, complaint.message, complaint.help),
            }
        }
        Some(Self(named))
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({
            "type": "object",
            "propertyNames": K::word_schema(),
            "additionalProperties": T::schema(definitions),
        })
    }
}

/// A plugin's own configuration: any mapping that can be converted to JSON.
#[derive(Debug, Clone)]
pub(super) struct PluginConfig(pub(super) Value);

impl Read for PluginConfig {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        if !matches!(node.content, Content::Map(_)) {
            diagnostics.wrong_type(node, "a mapping", "{key: value}");
            return None;
        }
        json_of(node, diagnostics).map(Self)
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"type": "object"})
    }
}

/// The node as JSON, by YAML's core schema. A number that JSON cannot represent as it is written is a mistake.
pub(super) fn json_of(node: &Node, diagnostics: &mut Diagnostics) -> Option<Value> {
    match &node.content {
        Content::List(items) => {
            // All items are converted, so that the mistakes of all are noted.
            let items: Vec<_> = items.iter().map(|item| json_of(item, diagnostics)).collect();
            items.into_iter().collect::<Option<Vec<_>>>().map(Value::from)
        }
        Content::Map(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| Some((key.text.to_string(), json_of(value, diagnostics)?)))
                .collect();
            entries.into_iter().collect::<Option<Map<_, _>>>().map(Value::from)
        }
        Content::Scalar(scalar) => match scalar.kind() {
            ScalarKind::Null => Some(Value::Null),
            ScalarKind::Bool(value) => Some(Value::from(value)),
            ScalarKind::Text => Some(Value::from(scalar.text.as_str())),
            ScalarKind::Integer | ScalarKind::Float => json_number(&scalar.text).or_else(|| {
                let shown = diagnostics.shown(node);
                diagnostics.note(
                    node.span,
                    format!("{shown} is a number that would not be passed on as it is written"),
                    "quote it if it is text; otherwise write a decimal number without leading zeros",
                );
                None
            }),
        },
    }
}

fn json_number(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    if leading_zero || !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        return text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<u64>().map(Value::from))
            .ok();
    }
    let number = serde_json::Number::from_f64(text.parse().ok()?)?;
    Some(Value::Number(number))
}
