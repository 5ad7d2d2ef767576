//! Finds possible secrets in a tree by the names of keys and by the form of values, before anything is validated: the snippet of a
//! mistake must not show a secret beside it, nor one in a wrong place. Hides too much rather than too little.

use std::sync::Arc;

use super::read::Diagnostics;
use super::yaml::{Content, MapKey, Node, ScalarKind};
use crate::names::{holds_secret, is_telling, nearest};

/// Keys under `secrets` and `state.key` whose values are shown: they are references and options, not secrets.
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
/// The same, for references that are mappings.
const REFERENCE_MAPPINGS: [&str; 2] = ["secret", "service_account"];
/// The key of a secret that is written in the file.
const VALUE: &str = "value";

/// Hides every place in the configuration file that may hold a secret.
pub(super) fn hide_secrets(node: &Node, diagnostics: &mut Diagnostics) {
    match &node.content {
        Content::Scalar(scalar) if holds_secret(&scalar.text) => diagnostics.hide(node),
        Content::Scalar(_) => {}
        Content::List(items) => items
            .iter()
            .for_each(|item| hide_secrets(item, diagnostics)),
        Content::Map(entries) => {
            hide_telling_keys(entries, diagnostics);
            for (key, value) in entries {
                match &*key.text {
                    VALUE => diagnostics.hide(value),
                    "secrets" => hide_all_secrets(value, diagnostics),
                    "state" => hide_state_key(value, diagnostics),
                    "config" => hide_telling(value, diagnostics),
                    _ => hide_secrets(value, diagnostics),
                }
            }
        }
    }
}

/// The words of a text that are not among `known`, for a text that is not valid YAML.
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

fn hide_all_secrets(secrets: &Node, diagnostics: &mut Diagnostics) {
    match &secrets.content {
        Content::Map(entries) => {
            hide_bare_keys(entries, diagnostics);
            hide_telling_keys(entries, diagnostics);
            for (_, secret) in entries {
                hide_secret(secret, diagnostics);
            }
        }
        _ => diagnostics.hide(secrets),
    }
}

fn hide_secret(secret: &Node, diagnostics: &mut Diagnostics) {
    let Content::Map(entries) = &secret.content else {
        return diagnostics.hide(secret);
    };
    hide_bare_keys(entries, diagnostics);
    for (key, value) in entries {
        let known = REFERENCES
            .into_iter()
            .chain(REFERENCE_MAPPINGS)
            .chain([VALUE]);
        if nearest(&key.text, known).is_none() {
            diagnostics.hide_key(key);
        }
        let is_mapping = matches!(value.content, Content::Map(_));
        let shown = REFERENCES.contains(&&*key.text)
            || (is_mapping && REFERENCE_MAPPINGS.contains(&&*key.text));
        if !shown {
            diagnostics.hide(value);
        }
    }
}

fn hide_state_key(state: &Node, diagnostics: &mut Diagnostics) {
    let Content::Map(entries) = &state.content else {
        return;
    };
    for (key, value) in entries {
        match (&*key.text, &value.content) {
            ("key", Content::List(keys)) => {
                keys.iter().for_each(|key| hide_secret(key, diagnostics))
            }
            ("key", _) => hide_secret(value, diagnostics),
            _ => {}
        }
    }
}

fn hide_telling(config: &Node, diagnostics: &mut Diagnostics) {
    match &config.content {
        Content::Scalar(scalar) if holds_secret(&scalar.text) => diagnostics.hide(config),
        Content::Scalar(_) => {}
        Content::List(items) => items
            .iter()
            .for_each(|item| hide_telling(item, diagnostics)),
        Content::Map(entries) => {
            hide_bare_keys(entries, diagnostics);
            hide_telling_keys(entries, diagnostics);
            for (key, value) in entries {
                if is_telling(&key.text) {
                    diagnostics.hide(value);
                } else {
                    hide_telling(value, diagnostics);
                }
            }
        }
    }
}

/// Hides keys like `client_secret=hunter2: x`.
fn hide_telling_keys(entries: &[(MapKey, Arc<Node>)], diagnostics: &mut Diagnostics) {
    for (key, _) in entries {
        if holds_secret(&key.text) {
            diagnostics.hide_key(key);
        }
    }
}

/// Hides keys without a value, as in `{client_secret, hunter2}`: with a comma instead of a colon, the value is read as a key.
fn hide_bare_keys(entries: &[(MapKey, Arc<Node>)], diagnostics: &mut Diagnostics) {
    for (key, value) in entries {
        if matches!(&value.content, Content::Scalar(scalar) if scalar.kind() == ScalarKind::Null) {
            diagnostics.hide_key(key);
        }
    }
}
