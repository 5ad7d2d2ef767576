//! Finds what may be a secret in a tree by the names of keys alone, before anything is judged: a snippet must not show a secret
//! because the mistake stands next to it, or because the mistake is where the secret was written. Hides too much rather than too little.

use std::sync::Arc;

use super::read::Gathered;
use super::yaml::{Content, Key, Kind, Node};
use crate::names::{is_telling, nearest};
use crate::text::has_userinfo;

/// What a mapping under `secrets` or `state.key` may show: references, no values.
const REFERENCES: [&str; 8] = [
    "file",
    "env",
    "job",
    "pointer",
    "rotating",
    "retry_unanswered",
    "write_back",
    "to",
];
/// The same, where the reference is a mapping of its own.
const REFERENCE_RECORDS: [&str; 2] = ["secret", "service_account"];
/// The key that holds a secret.
const VALUE: &str = "value";
/// Hides every place in the configuration file that may hold a secret.
pub(super) fn hide_secrets(node: &Node, gathered: &mut Gathered) {
    match &node.content {
        Content::Scalar(scalar) if has_userinfo(&scalar.text) => gathered.hide(node),
        Content::Scalar(_) => {}
        Content::List(items) => items.iter().for_each(|item| hide_secrets(item, gathered)),
        Content::Map(entries) => {
            for (key, value) in entries {
                match &*key.text {
                    VALUE => gathered.hide(value),
                    "secrets" => hide_all_secrets(value, gathered),
                    "state" => hide_state_key(value, gathered),
                    "config" => hide_telling(value, gathered),
                    _ => hide_secrets(value, gathered),
                }
            }
        }
    }
}

/// Hides everything in a text of which nothing is known: all words that are not among `known`.
pub(super) fn unknown_words(text: &str, known: &[String]) -> Vec<std::ops::Range<usize>> {
    let is_word = |c: char| !c.is_whitespace() && !"{}[],:\"'-#|>&*".contains(c);
    let mut hidden = Vec::new();
    let mut start = None;
    for (at, character) in text.char_indices().chain([(text.len(), ' ')]) {
        match (start, is_word(character)) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                let word = text.get(from..at).unwrap_or_default();
                if !known.iter().any(|known| known == word) {
                    hidden.push(from..at);
                }
                start = None;
            }
            _ => {}
        }
    }
    hidden
}

fn hide_all_secrets(secrets: &Node, gathered: &mut Gathered) {
    match &secrets.content {
        Content::Map(entries) => {
            hide_bare_keys(entries, gathered);
            for (_, secret) in entries {
                hide_secret(secret, gathered);
            }
        }
        _ => gathered.hide(secrets),
    }
}

fn hide_secret(secret: &Node, gathered: &mut Gathered) {
    let Content::Map(entries) = &secret.content else {
        return gathered.hide(secret);
    };
    hide_bare_keys(entries, gathered);
    for (key, value) in entries {
        let known = REFERENCES
            .into_iter()
            .chain(REFERENCE_RECORDS)
            .chain([VALUE]);
        if nearest(&key.text, known).is_none() {
            gathered.hide_key(key);
        }
        let is_record = matches!(value.content, Content::Map(_));
        let shown = REFERENCES.contains(&&*key.text)
            || (is_record && REFERENCE_RECORDS.contains(&&*key.text));
        if !shown {
            gathered.hide(value);
        }
    }
}

fn hide_state_key(state: &Node, gathered: &mut Gathered) {
    let Content::Map(entries) = &state.content else {
        return;
    };
    for (key, value) in entries {
        match (&*key.text, &value.content) {
            ("key", Content::List(keys)) => keys.iter().for_each(|key| hide_secret(key, gathered)),
            ("key", _) => hide_secret(value, gathered),
            _ => {}
        }
    }
}

fn hide_telling(config: &Node, gathered: &mut Gathered) {
    match &config.content {
        Content::Scalar(scalar) if has_userinfo(&scalar.text) => gathered.hide(config),
        Content::Scalar(_) => {}
        Content::List(items) => items.iter().for_each(|item| hide_telling(item, gathered)),
        Content::Map(entries) => {
            hide_bare_keys(entries, gathered);
            for (key, value) in entries {
                if is_telling(&key.text) {
                    gathered.hide(value);
                } else {
                    hide_telling(value, gathered);
                }
            }
        }
    }
}

/// `{client_secret, hunter2}`: a comma for a colon makes keys of values.
fn hide_bare_keys(entries: &[(Key, Arc<Node>)], gathered: &mut Gathered) {
    for (key, value) in entries {
        if matches!(&value.content, Content::Scalar(scalar) if scalar.kind() == Kind::Null) {
            gathered.hide_key(key);
        }
    }
}
