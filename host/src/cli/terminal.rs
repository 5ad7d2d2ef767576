//! The capabilities of a stream: colours, boxes and changing lines on a terminal, plain text everywhere else.

use std::ffi::OsString;
use std::io::IsTerminal;

/// The style of text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextStyle {
    /// Plain text: for a pipe, a file, `TERM=dumb`, or if the user wants no colours (<https://no-color.org>, `CLICOLOR=0` of
    /// <https://bixense.com/clicolors>).
    Plain,
    /// Colours, and frames of ASCII, for a locale without Unicode.
    Ascii,
    /// Colours, and frames of line-drawing characters.
    Unicode,
}

impl TextStyle {
    /// The style for this stream.
    pub(super) fn of(stream: &impl IsTerminal) -> Self {
        Self::judge(stream.is_terminal(), |name| std::env::var_os(name))
    }

    fn judge(is_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let is_dumb = set("TERM").is_none_or(|term| term == "dumb");
        let wants_none =
            set("NO_COLOR").is_some() || set("CLICOLOR").is_some_and(|value| value == "0");
        if !is_terminal || is_dumb || wants_none {
            return Self::Plain;
        }
        // The first that is set decides (POSIX, locale).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.unwrap_or_default().to_string_lossy().to_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") {
            Self::Unicode
        } else {
            Self::Ascii
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_that_can_and_may_gets_more_than_plain_text() {
        let utf8 = ("LANG", "en_US.UTF-8");
        let xterm = ("TERM", "xterm-256color");
        for (is_terminal, variables, expected) in [
            (true, vec![xterm, utf8], TextStyle::Unicode),
            (
                true,
                vec![xterm, ("LC_CTYPE", "C.utf8")],
                TextStyle::Unicode,
            ),
            (true, vec![xterm, utf8, ("LC_ALL", "C")], TextStyle::Ascii),
            (true, vec![xterm, utf8, ("LC_ALL", "")], TextStyle::Unicode),
            (
                true,
                vec![xterm, ("LANG", "de_DE.ISO-8859-1")],
                TextStyle::Ascii,
            ),
            (true, vec![xterm], TextStyle::Ascii),
            (true, vec![xterm, utf8, ("NO_COLOR", "1")], TextStyle::Plain),
            (
                true,
                vec![xterm, utf8, ("NO_COLOR", "")],
                TextStyle::Unicode,
            ),
            (true, vec![xterm, utf8, ("CLICOLOR", "0")], TextStyle::Plain),
            (
                true,
                vec![xterm, utf8, ("CLICOLOR", "1")],
                TextStyle::Unicode,
            ),
            (
                false,
                vec![xterm, ("CLICOLOR_FORCE", "1")],
                TextStyle::Plain,
            ),
            (true, vec![("TERM", "dumb"), utf8], TextStyle::Plain),
            (true, vec![utf8], TextStyle::Plain),
            (false, vec![xterm, utf8], TextStyle::Plain),
        ] {
            let look = TextStyle::judge(is_terminal, |name| {
                let found = variables.iter().find(|(of, _)| *of == name);
                found.map(|(_, value)| OsString::from(value))
            });
            assert_eq!(look, expected, "{is_terminal} {variables:?}");
        }
    }
}
