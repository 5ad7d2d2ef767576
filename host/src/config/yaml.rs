//! Parsing of YAML into a tree whose nodes have their places. It uses the parser's events and not serde, because serde stops at the
//! first mistake and loses quotes: `0400` and `"0400"` are different values. Parts of YAML that a configuration does not need and that
//! are easily misunderstood (tags, several documents, keys that are not text) are mistakes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, StrInput};
use zeroize::Zeroizing;

use super::mistake::{Note, Notes, Span};

/// The most bytes of all files of a configuration; ten thousand long jobs have less than 10 MiB.
pub(crate) const MAX_BYTES: usize = 32 << 20;
/// The most values, with aliases expanded. Ten thousand jobs have some 300,000; a YAML bomb has billions. Each takes some hundred
/// bytes of memory.
const MAX_NODES: usize = 1_000_000;
/// The most levels of nesting. The configuration itself needs eight; the rest is for plugins' options.
const MAX_DEPTH: usize = 64;

/// What is left of the limits on all files of a configuration together. Aliases count as expanded: they share memory in the tree, but
/// not in the values that are made of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            nodes: MAX_NODES,
            bytes: MAX_BYTES,
        }
    }
}

impl Budget {
    fn take(&mut self, size: TreeSize) -> Result<(), &'static str> {
        match (
            self.nodes.checked_sub(size.nodes),
            self.bytes.checked_sub(size.bytes),
        ) {
            (Some(nodes), Some(bytes)) => {
                *self = Self { nodes, bytes };
                Ok(())
            }
            (None, _) => Err("more than 1000000 values once aliases are expanded"),
            (_, None) => Err("more than 32 MiB of text once aliases are expanded"),
        }
    }
}

/// Values and bytes of text.
#[derive(Debug, Clone, Copy, Default)]
struct TreeSize {
    nodes: usize,
    bytes: usize,
}

/// A value with its place in the file.
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) content: Content,
}

/// The kind of a node, with its content.
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Arc<Node>>),
    Map(Vec<(MapKey, Arc<Node>)>),
}

/// A mapping's key with its place. Equal keys share one text, since all jobs have the same keys.
pub(super) struct MapKey {
    pub(super) text: Arc<str>,
    pub(super) span: Span,
}

/// A scalar as written. It may be a secret: the text is wiped on drop and has no Debug.
pub(super) struct Scalar {
    pub(super) text: Zeroizing<String>,
    plain: bool,
}

/// The type of a scalar by the core schema of YAML 1.2 (§10.3.2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ScalarKind {
    Null,
    Bool(bool),
    Integer,
    Float,
    Text,
}

impl Scalar {
    pub(super) fn kind(&self) -> ScalarKind {
        if !self.plain {
            return ScalarKind::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
            "true" | "True" | "TRUE" => ScalarKind::Bool(true),
            "false" | "False" | "FALSE" => ScalarKind::Bool(false),
            text if is_integer(text) => ScalarKind::Integer,
            text if is_float(text) => ScalarKind::Float,
            _ => ScalarKind::Text,
        }
    }
}

fn is_integer(text: &str) -> bool {
    let all =
        |digits: &str, is: fn(&u8) -> bool| !digits.is_empty() && digits.bytes().all(|b| is(&b));
    if let Some(digits) = text.strip_prefix("0o") {
        return all(digits, |b| (b'0'..=b'7').contains(b));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, u8::is_ascii_hexdigit);
    }
    all(unsigned(text), u8::is_ascii_digit)
}

fn is_float(text: &str) -> bool {
    let unsigned = unsigned(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    // Rust's parser also accepts words (`inf`, `nan`).
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned
            .bytes()
            .all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
        && unsigned.parse::<f64>().is_ok()
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

/// The beginning of the message about a text that cannot be parsed.
const INVALID: &str = "not valid YAML";

/// Whether the line of this position, or the one before it, has a variable: its braces are YAML's in a flow mapping.
fn has_variable(text: &str, at: usize) -> bool {
    let before = text.get(..at).unwrap_or(text);
    let lines = before.rsplit('\n').take(2).map(str::len).sum::<usize>() + 1;
    let start = before.len().saturating_sub(lines);
    let rest = text.get(start..).unwrap_or_default();
    rest.lines().take(2).any(|line| line.contains("${"))
}

/// The result of parsing a text.
pub(super) struct ParsedYaml {
    /// None if the text is empty or not valid YAML.
    pub(super) tree: Option<Arc<Node>>,
    /// Values that are not in the tree, because their key is not text or is given twice. They may be secrets.
    pub(super) orphans: Vec<Arc<Node>>,
    pub(super) notes: Notes,
}

/// Parses one document. Mistakes after which parsing can go on are collected.
pub(super) fn parse(text: &str, source: u32, budget: &mut Budget) -> ParsedYaml {
    let mut builder = Builder {
        events: Parser::new_from_str(text),
        source,
        length: text.len(),
        notes: Notes::default(),
        orphans: Vec::new(),
        anchors: HashMap::new(),
        keys: HashSet::new(),
        budget,
    };
    let tree = builder.document().unwrap_or_else(|mut fatal| {
        let is_unexplained = fatal.message.starts_with(INVALID) && fatal.help.is_none();
        if is_unexplained && has_variable(text, fatal.span.start as usize) {
            fatal.help = Some(
                "put `${NAME}` in quotes where it stands between braces: `\"${NAME}\"`".to_owned(),
            );
        }
        builder.notes.push(fatal);
        None
    });
    ParsedYaml {
        tree,
        orphans: builder.orphans,
        notes: builder.notes,
    }
}

struct Builder<'t, 'b> {
    events: Parser<'t, StrInput<'t>>,
    source: u32,
    length: usize,
    notes: Notes,
    orphans: Vec<Arc<Node>>,
    /// Complete nodes that have an anchor, with their size when expanded.
    anchors: HashMap<usize, (Arc<Node>, TreeSize)>,
    /// The texts of all keys.
    keys: HashSet<Arc<str>>,
    budget: &'b mut Budget,
}

type Built<T> = Result<T, Note>;

impl<'t> Builder<'t, '_> {
    fn document(&mut self) -> Built<Option<Arc<Node>>> {
        let mut root = None;
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(note(
                            span,
                            "a second YAML document",
                            "one file is one document: remove the line `---`, or move what follows into a file of its own and name it in `include`",
                        ));
                    }
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        Ok(root)
    }

    fn next(&mut self) -> Built<(Event<'t>, Span)> {
        loop {
            match self.events.next_event() {
                Some(Ok((event, at))) => {
                    let span = self.span(
                        at.byte_range().unwrap_or_default().start,
                        at.byte_range().unwrap_or_default().end,
                    );
                    // The parser reports comments if another crate enables that feature.
                    if event.is_node() || !is_presentation(&event) {
                        return Ok((event, span));
                    }
                }
                Some(Err(error)) => {
                    let at = error.marker().byte_offset().unwrap_or(0);
                    return Err(Note {
                        span: self.span(at, at + 1),
                        message: format!("{INVALID}: {}", error.info()),
                        help: syntax_help(error.kind()).map(str::to_owned),
                        other: None,
                    });
                }
                None => return Ok((Event::StreamEnd, self.span(self.length, self.length))),
            }
        }
    }

    fn span(&self, start: usize, end: usize) -> Span {
        let clamp = |at: usize| u32::try_from(at.min(self.length)).unwrap_or(u32::MAX);
        Span {
            source: self.source,
            start: clamp(start),
            end: clamp(end.max(start)),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Built<Arc<Node>> {
        if depth > MAX_DEPTH {
            return Err(note(
                span,
                &format!("nested more than {MAX_DEPTH} levels deep"),
                "write it flatter",
            ));
        }
        if let Event::Alias(id) = event {
            return self.alias(id, span);
        }
        let before = *self.budget;
        self.count(size_of(&event), span)?;
        if let Some(tag) = event.tag() {
            self.notes.push(note(
                span,
                &format!("the tag `{}` has no meaning here", tag.original()),
                "leave the tag out; quote what has to be text",
            ));
        }
        let anchor = event.anchor_id();
        let node = match event {
            Event::Scalar(text, style, ..) => Node {
                span,
                content: Content::Scalar(Scalar {
                    text: Zeroizing::new(text.into_owned()),
                    plain: style == ScalarStyle::Plain,
                }),
            },
            Event::SequenceStart(..) => self.list(span, depth)?,
            Event::MappingStart(..) => self.map(span, depth)?,
            _ => {
                return Err(note(
                    span,
                    "not valid YAML: a value is missing here",
                    "write a value",
                ));
            }
        };
        let node = Arc::new(node);
        if let Some(id) = anchor {
            let size = TreeSize {
                nodes: before.nodes - self.budget.nodes,
                bytes: before.bytes - self.budget.bytes,
            };
            self.anchors.insert(id, (Arc::clone(&node), size));
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, span: Span) -> Built<Arc<Node>> {
        let Some((node, size)) = self.anchors.get(&id).cloned() else {
            return Err(note(
                span,
                "this alias stands inside the value that it repeats",
                "write the value out",
            ));
        };
        self.count(size, span)?;
        Ok(node)
    }

    fn count(&mut self, size: TreeSize, span: Span) -> Built<()> {
        self.budget.take(size).map_err(|message| {
            note(
                span,
                message,
                "do not nest or multiply aliases; all files of a configuration count together",
            )
        })
    }

    fn list(&mut self, start: Span, depth: usize) -> Built<Node> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                items.shrink_to_fit();
                return Ok(Node {
                    span: until(start, span),
                    content: Content::List(items),
                });
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn map(&mut self, start: Span, depth: usize) -> Built<Node> {
        let mut entries: Vec<(MapKey, Arc<Node>)> = Vec::new();
        let mut seen: HashMap<Arc<str>, Span> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                entries.shrink_to_fit();
                return Ok(Node {
                    span: until(start, span),
                    content: Content::Map(entries),
                });
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            let Some(text) = key_text(&key).map(|text| self.known(text)) else {
                self.notes.push(note(
                    span,
                    "a key that is not text",
                    "write the key as one word; quote it if it looks like a number or is empty, and quote a value that begins with `{`",
                ));
                self.orphans.extend([key, value]);
                continue;
            };
            if let Some(first) = seen.get(&text) {
                self.notes.push(Note {
                    other: Some(*first),
                    ..note(
                        span,
                        &format!("the key `{text}` is given twice"),
                        "keep one of them",
                    )
                });
                self.orphans.push(value);
                continue;
            }
            seen.insert(Arc::clone(&text), span);
            entries.push((MapKey { text, span }, value));
        }
    }

    fn known(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.keys.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(text);
        self.keys.insert(Arc::clone(&new));
        new
    }
}

fn size_of(event: &Event<'_>) -> TreeSize {
    let bytes = match event {
        Event::Scalar(text, ..) => text.len(),
        _ => 0,
    };
    TreeSize { nodes: 1, bytes }
}

fn is_presentation(event: &Event<'_>) -> bool {
    !matches!(
        event,
        Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd
    )
}

fn key_text(key: &Node) -> Option<&str> {
    match &key.content {
        Content::Scalar(scalar) if scalar.kind() != ScalarKind::Null => Some(&scalar.text),
        _ => None,
    }
}

fn until(start: Span, end: Span) -> Span {
    Span {
        end: end.end.max(start.end),
        ..start
    }
}

fn note(span: Span, message: &str, help: &str) -> Note {
    Note {
        span,
        message: message.to_owned(),
        help: Some(help.to_owned()),
        other: None,
    }
}

/// The correction for the most frequent syntax errors.
fn syntax_help(kind: &ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::TabInIndentation
        | ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => "indent with spaces",
        ErrorKind::UnclosedQuotedScalar => "close the quote",
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence => "close the bracket",
        ErrorKind::MappingValueNotAllowed => {
            "check the indentation; quote a value that has a colon followed by a space"
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            "write `key: value` with a space after the colon"
        }
        ErrorKind::UnknownAnchor => {
            "define the anchor with `&name` above the alias, or quote a value that starts with `*`"
        }
        ErrorKind::UnexpectedCharacter { .. } => {
            "quote a value that starts with `@`, `%` or a backtick"
        }
        ErrorKind::RecursionLimitExceeded => "write it flatter",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this text leaves of a budget of a hundred values and a thousand bytes; none: the budget was exceeded.
    fn left(text: &str) -> Option<(usize, usize)> {
        let mut budget = Budget {
            nodes: 100,
            bytes: 1000,
        };
        let parsed = parse(text, 0, &mut budget);
        parsed.tree.map(|_| (budget.nodes, budget.bytes))
    }

    #[test]
    fn values_and_text_count_as_often_as_they_stand_for_themselves() {
        let long = "x".repeat(300);
        for (text, expected) in [
            ("[a, b]", Some((97, 998))),
            ("{a: b}", Some((97, 998))),
            ("[&a [x, y], *a]", Some((93, 996))),
            ("{a: &a {k: v}, b: *a}", Some((91, 994))),
            (&format!("[{}]", "a,".repeat(99)), Some((0, 901))),
            (&format!("[{}]", "a,".repeat(100)), None),
            (&format!("[&a {long}, *a, *a]"), Some((96, 100))),
            (&format!("[&a {long}, *a, *a, *a]"), None),
            (&format!("[&a [{long}], *a, *a, *a]"), None),
            (&format!("{{? &a {long} : 1, b: *a, c: *a, d: *a}}"), None),
        ] {
            assert_eq!(left(text), expected, "{text}");
        }
    }
}
