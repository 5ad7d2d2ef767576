//! Mistakes in a configuration: the place, what is wrong, and the correction. All of them are collected, and shown as one line each or
//! drawn into the source text, which is kept here with all secrets masked.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};

/// The most mistakes that are shown; more would mostly repeat the same ones.
const MAX_SHOWN: usize = 100;

/// The most mistakes that are kept: computing the place of each takes time where lines are long.
const MAX_KEPT: usize = 200;

/// The most bytes of a message or correction, which may quote a value of any length.
const MAX_WORDS: usize = 500;

/// The longest line that is drawn, in bytes: the whole line is drawn for each mistake, and a file may consist of one line.
const MAX_DRAWN_LINE: usize = 1000;

/// A range of bytes in one of the files that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    pub(super) source: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// One of the files that were read.
#[derive(Debug, Clone)]
pub(super) struct SourceFile {
    name: String,
    text: Arc<str>,
    line_starts: Vec<usize>,
}

/// The files that were read, in order; [`Span::source`] is an index into them.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceFiles(Vec<SourceFile>);

impl SourceFiles {
    /// The [`Span::source`] of the next file.
    pub(super) fn next_id(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Adds a file's text with these ranges masked.
    pub(super) fn add(&mut self, name: &str, text: &str, hidden: &[Range<usize>]) {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        self.0.push(SourceFile {
            name: name.to_owned(),
            text: paint_over(text, hidden).into(),
            line_starts,
        });
    }

    /// The file's name, line and column (both from 1, the column in characters).
    pub(super) fn place(&self, span: Span) -> (String, usize, usize) {
        let Some(source) = self.source(span) else {
            return (String::new(), 1, 1);
        };
        let start = span.start as usize;
        let line = source.line_starts.partition_point(|&at| at <= start).max(1);
        let line_start = source.line_starts.get(line - 1).copied().unwrap_or(0);
        let before = source.text.get(line_start..start).unwrap_or_default();
        (source.name.clone(), line, before.chars().count() + 1)
    }

    fn source(&self, span: Span) -> Option<&SourceFile> {
        self.0.get(span.source as usize)
    }

    /// The file, if the lines around the span can be drawn.
    fn drawable(&self, span: Span) -> Option<&SourceFile> {
        let source = self.source(span)?;
        let line = source
            .line_starts
            .partition_point(|&at| at <= span.start as usize);
        let first = line.saturating_sub(2);
        let starts = source.line_starts.get(first..)?.iter().take(4);
        let ends = starts.clone().skip(1).copied().chain([source.text.len()]);
        let short = starts
            .zip(ends)
            .take(3)
            .all(|(start, end)| end - start <= MAX_DRAWN_LINE);
        short.then_some(source)
    }

    /// The part of a span on its first line: with a whole block, the message would be hard to find.
    fn first_line(&self, span: Span) -> Range<usize> {
        let (start, end) = (span.start as usize, span.end as usize);
        let shown = self
            .source(span)
            .and_then(|source| source.text.get(start..end))
            .and_then(|text| text.lines().next())
            .map_or(0, |line| line.trim_end().len());
        start..start + shown
    }
}

/// Masks the hidden ranges; every other byte, line and column keeps its position.
fn paint_over(text: &str, hidden: &[Range<usize>]) -> String {
    let mut painted = String::with_capacity(text.len());
    let mut ranges: Vec<_> = hidden.to_vec();
    ranges.sort_by_key(|range| range.start);
    let mut ranges = ranges.into_iter().peekable();
    for (at, character) in text.char_indices() {
        while ranges.peek().is_some_and(|range| range.end <= at) {
            ranges.next();
        }
        let covered = ranges.peek().is_some_and(|range| range.contains(&at));
        painted.push(match character {
            '\n' | '\r' => character,
            _ if !covered => character,
            // A character of the same length in UTF-8, so that later spans stay valid.
            _ => match character.len_utf8() {
                1 => '*',
                2 => '·',
                3 => '•',
                _ => '🞄',
            },
        });
    }
    painted
}

/// A mistake while others are searched.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// The other place, where two contradict each other.
    pub(super) other: Option<Span>,
}

/// Mistakes while they are collected: the first ones, and the number of the others.
#[derive(Debug, Default)]
pub(super) struct Notes {
    kept: Vec<Note>,
    more: usize,
}

impl Notes {
    /// Whether further mistakes are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= MAX_KEPT
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn push(&mut self, mut note: Note) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        shorten(&mut note.message);
        note.help.iter_mut().for_each(shorten);
        self.kept.push(note);
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.more += others.more;
        others.kept.into_iter().for_each(|note| self.push(note));
    }

    /// Whether there is a mistake at this place.
    pub(super) fn has(&self, span: Span) -> bool {
        self.kept.iter().any(|note| note.span == span)
    }
}

fn shorten(text: &mut String) {
    if text.len() > MAX_WORDS {
        text.truncate(text.floor_char_boundary(MAX_WORDS));
        text.push('…');
    }
}

/// One mistake, with its place and its correction. Contains no secret.
#[derive(Debug, Clone)]
pub struct Mistake {
    /// The file's name; for settings without a file, the variable or flag.
    pub file: String,
    /// The line, from 1; none where there is no file.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// For sorting; none comes first.
    span: Option<Span>,
    source: Option<NamedSource<Arc<str>>>,
    labels: Vec<LabeledSpan>,
}

impl Mistake {
    /// A mistake that is not in a file: a flag, a variable, or a file that cannot be read at all.
    #[must_use]
    pub fn without_text(
        name: impl Into<String>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Self {
        Self {
            file: name.into(),
            line: None,
            column: None,
            message: message.into(),
            help,
            span: None,
            source: None,
            labels: Vec::new(),
        }
    }

    fn place(&self) -> String {
        match (self.line, self.column) {
            (Some(line), Some(column)) => format!("{}:{line}:{column}", self.file),
            _ => self.file.clone(),
        }
    }

    pub(super) fn of(note: Note, sources: &SourceFiles) -> Self {
        let (file, line, column) = sources.place(note.span);
        let mut message = note.message;
        let mut labels = Vec::new();
        let mut label = None;
        if let Some(other) = note.other {
            let (other_file, other_line, other_column) = sources.place(other);
            message = format!("{message} (the other: {other_file}:{other_line}:{other_column})");
            if other.source == note.span.source && sources.drawable(other).is_some() {
                labels.push(LabeledSpan::new_with_span(
                    Some("the other".to_owned()),
                    sources.first_line(other),
                ));
                label = Some("this".to_owned());
            }
        }
        labels.push(LabeledSpan::new_primary_with_span(
            label,
            sources.first_line(note.span),
        ));
        Self {
            line: Some(line),
            column: Some(column),
            message,
            help: note.help,
            span: Some(note.span),
            source: sources
                .drawable(note.span)
                .map(|source| NamedSource::new(file.clone(), Arc::clone(&source.text))),
            file,
            labels,
        }
    }
}

/// `file:line:column: message (help)`, on one line.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Mistake {}

/// A mistake as miette draws it: the drawing shows the place, so the heading is the message alone.
#[derive(Debug)]
struct Drawn<'a>(&'a Mistake);

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.source.is_none() {
            write!(f, "{}: ", self.0.place())?;
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Drawn<'_> {}

impl miette::Diagnostic for Drawn<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.0.help.as_deref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        let source = self.0.source.as_ref()?;
        Some(source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.0.labels.iter().cloned()))
    }
}

/// All mistakes of one reading, in the order of their places. Never empty.
#[derive(Debug, Clone)]
pub struct Mistakes {
    kept: Vec<Mistake>,
    /// The number of mistakes that were only counted.
    more: usize,
}

impl Mistakes {
    /// After so many, searching for more is of no use.
    pub const ENOUGH: usize = MAX_KEPT;

    /// None if the list is empty.
    #[must_use]
    pub fn of(mistakes: Vec<Mistake>) -> Option<Self> {
        (!mistakes.is_empty()).then_some(Self {
            kept: mistakes,
            more: 0,
        })
    }

    /// These and others of the same files, in the order of their places. Others at a place that has a mistake already are left out.
    #[must_use]
    pub fn and(mut self, others: Vec<Mistake>) -> Self {
        let known: HashSet<_> = self
            .kept
            .iter()
            .filter_map(|mistake| mistake.span)
            .collect();
        let is_new = |mistake: &Mistake| mistake.span.is_none_or(|span| !known.contains(&span));
        self.kept.extend(others.into_iter().filter(is_new));
        self.kept.sort_by_key(|mistake| mistake.span);
        self
    }

    pub(super) fn one(mistake: Mistake) -> Self {
        Self {
            kept: vec![mistake],
            more: 0,
        }
    }

    /// First the mistakes without a place in a text, then the noted ones; none if there are neither.
    pub(super) fn of_notes(
        bare: Vec<Mistake>,
        notes: Notes,
        sources: &SourceFiles,
    ) -> Option<Self> {
        let Notes { mut kept, more } = notes;
        kept.sort_by_key(|note| note.span);
        let noted = kept.into_iter().map(|note| Mistake::of(note, sources));
        let kept: Vec<_> = bare.into_iter().chain(noted).collect();
        (!kept.is_empty()).then_some(Self { kept, more })
    }

    /// All mistakes that are kept.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.kept.iter()
    }

    /// The number of all mistakes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty by construction")]
    pub fn len(&self) -> usize {
        self.kept.len() + self.more
    }

    /// The mistakes drawn into their source texts, for a terminal with colours; `unicode`: whether it has line-drawing characters.
    #[must_use]
    pub fn drawn(&self, unicode: bool) -> String {
        let theme = if unicode {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::ascii()
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_context_lines(1);
        let mut text = String::new();
        for mistake in self.kept.iter().take(MAX_SHOWN) {
            // Writing into a string does not fail; a mistake that cannot be drawn is shown as a line.
            if handler.render_report(&mut text, &Drawn(mistake)).is_err() {
                text.push_str(&mistake.to_string());
            }
            text.push('\n');
        }
        text.push_str(&self.remainder());
        text
    }

    fn remainder(&self) -> String {
        match self.len().saturating_sub(MAX_SHOWN) {
            0 => String::new(),
            more => format!("and {more} more\n"),
        }
    }
}

/// One line per mistake.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.kept.iter().take(MAX_SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        match self.remainder() {
            more if more.is_empty() => Ok(()),
            more => write!(f, "\n{}", more.trim_end()),
        }
    }
}

impl std::error::Error for Mistakes {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn painting_over_keeps_lines_and_offsets() {
        let text = "a: pä€𝄞\nb: x\n";
        let painted = paint_over(text, std::slice::from_ref(&(3..13)));
        assert_eq!(painted, "a: *·•🞄\nb: x\n");
        assert_eq!(painted.len(), text.len());
    }
}
