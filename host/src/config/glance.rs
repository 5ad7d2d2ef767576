//! The paths in a configuration that commands need to find the running process. They must work while the file has mistakes
//! elsewhere, so that only the block of one top-level key is parsed.

use std::path::{Path, PathBuf};

use super::document::{self, get};
use super::yaml::{self, Budget, Content};

/// Two paths of a configuration; none where they are missing or unreadable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glance {
    /// `control.socket`.
    pub control_socket: Option<PathBuf>,
    /// `state.dir`.
    pub state_dir: Option<PathBuf>,
}

/// Reads these paths of a configuration file; none if it cannot be read.
#[must_use]
pub fn glance(path: &Path) -> Glance {
    let text = document::read_text(path, yaml::MAX_BYTES);
    text.map_or_else(|_| Glance::default(), |text| of_text(&text))
}

fn of_text(text: &str) -> Glance {
    Glance {
        control_socket: path_in(text, "control", "socket"),
        state_dir: path_in(text, "state", "dir"),
    }
}

fn path_in(text: &str, block: &str, key: &str) -> Option<PathBuf> {
    let text = text.trim_start_matches('\u{feff}');
    // JSON and YAML's flow style need not have a line per key.
    let is_flow = text.trim_start().starts_with('{');
    let block_text = if is_flow {
        text
    } else {
        lines_of(text, block)?
    };
    let tree = yaml::parse(block_text, 0, &mut Budget::default()).tree?;
    let path = get(get(&tree, block)?, key)?;
    match &path.content {
        Content::Scalar(scalar) => Some(PathBuf::from(scalar.text.as_str())),
        _ => None,
    }
    .filter(|path| path.is_absolute())
}

/// The lines of a top-level key, up to the next one.
fn lines_of<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let is_key = |line: &str| {
        let rest = ["\"", "'", ""].into_iter().find_map(|quote| {
            line.strip_prefix(quote)?
                .strip_prefix(key)?
                .strip_prefix(quote)
        });
        rest.is_some_and(|rest| rest.trim_start().starts_with(':'))
    };
    let mut begin = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let is_inside = line.trim().is_empty() || line.starts_with([' ', '\t', '#']);
        match begin {
            None if is_key(line) => begin = Some(at),
            Some(begin) if !is_inside => return text.get(begin..at),
            _ => {}
        }
        at += line.len();
    }
    text.get(begin?..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_found_in_a_file_with_any_mistake_elsewhere() {
        const SOCKET: &str = "control: {socket: /run/a.sock}\n";
        let block = "control:\n  # ours\n\n  socket: \"/run/a.sock\"\n";
        for (what, text) in [
            ("alone", SOCKET.to_owned()),
            ("a block", block.to_owned()),
            (
                "quoted keys",
                "'control': {\"socket\": '/run/a.sock'}".to_owned(),
            ),
            ("CRLF", block.replace('\n', "\r\n")),
            ("BOM", format!("\u{feff}{SOCKET}")),
            ("an unknown key", format!("contorl: 1\n{SOCKET}jobs: 3\n")),
            ("unclosed before", format!("limits: {{a: [\n{SOCKET}")),
            ("unclosed after", format!("{SOCKET}jobs: [{{name: \"a\n")),
            ("a tab", format!("jobs:\n\t- name: a\n{block}state: {{}}\n")),
            (
                "a list",
                format!("jobs:\n- name: a\n- b: [\n{block}outputs:\n- :\n"),
            ),
            ("no key", format!("nonsense\n{SOCKET}more nonsense\n")),
            (
                "a mistake in the block",
                "control: {socket: /run/a.sock, sokcet: 1}\n".to_owned(),
            ),
            ("two documents", format!("{SOCKET}---\n{SOCKET}")),
            (
                "JSON",
                r#"{"jobs": 1, "control": {"socket": "/run/a.sock"}}"#.to_owned(),
            ),
        ] {
            let found = of_text(&text).control_socket;
            assert_eq!(found.as_deref(), Some(Path::new("/run/a.sock")), "{what}");
        }
    }

    #[test]
    fn what_is_not_said_or_not_understood_is_nothing() {
        for text in [
            "",
            "jobs: []\n",
            "controls: {socket: /run/a.sock}\n",
            "jobs:\n- control: {socket: /run/a.sock}\n",
            "control: /run/a.sock\n",
            "control: {socket: [/run/a.sock]}\n",
            "control: {socket: relative.sock}\n",
            "control: {socket: /run/a.sock\n",
            "{\"control\": {\"socket\": \"/run/a.sock\"}",
        ] {
            assert_eq!(of_text(text), Glance::default(), "{text}");
        }
        assert_eq!(glance(Path::new("/nonexistent")), Glance::default());
        let state = of_text("state: {dir: /var/lib/evertoken, key: {file: }\n").state_dir;
        assert_eq!(state, None, "a mistake in the block itself");
        let state = of_text("state:\n  dir: /var/lib/evertoken\njobs: [\n").state_dir;
        assert_eq!(state.as_deref(), Some(Path::new("/var/lib/evertoken")));
    }
}
