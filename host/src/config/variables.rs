//! Values that are hardly meant literally: variables like `${NAME}`, which evertoken does not expand, and invisible characters.
//! Taken literally, both would only fail at the issuer.

use super::SOURCE_PLUGINS;
use super::document::get;
use super::mistake::Span;
use super::read::Diagnostics;
use super::yaml::{Content, Node};
use crate::text::{self, has_variable};

/// Notes every value that is hardly meant literally.
pub(super) fn note_unmeant(node: &Node, diagnostics: &mut Diagnostics) {
    match &node.content {
        Content::Scalar(scalar) => {
            note_unseen(node.span, &scalar.text, diagnostics);
            if is_variable(&scalar.text, diagnostics.is_hidden(node.span))
                && !diagnostics.notes.has(node.span)
            {
                diagnostics.note(
                    node.span,
                    "variables like `${NAME}` are not put in; this would be taken as it stands",
                    "for a secret write `env: NAME`; else write the value, or put it in before: `envsubst < FILE | evertoken run --config -`",
                );
            }
        }
        Content::List(items) => items
            .iter()
            .for_each(|item| note_unmeant(item, diagnostics)),
        Content::Map(entries) => {
            for (key, value) in entries {
                let others = match &*key.text {
                    // Annotations are read by other programs.
                    "annotations" => true,
                    // In templates and in options of plugins that are not built in, it may have a meaning.
                    "config" => !is_of_built_in_source(node),
                    _ => false,
                };
                if !others {
                    note_unseen(key.span, &key.text, diagnostics);
                    note_unmeant(value, diagnostics);
                }
            }
        }
    }
}

/// Notes an invisible character, but not in possible secrets, which have a check of their own.
fn note_unseen(span: Span, text: &str, diagnostics: &mut Diagnostics) {
    if let Some(odd) = text::first_unseen(text)
        && !diagnostics.is_hidden(span)
        && !diagnostics.notes.has(span)
    {
        let message = format!("this text has {odd}");
        diagnostics.note(span, message, odd.mend());
    }
}

/// Whether a text refers to a variable. A secret may contain these characters by chance, so that in a secret the reference must be
/// the whole text.
fn is_variable(text: &str, is_secret: bool) -> bool {
    let alone = text.starts_with('$') && text.ends_with(['}', ')']);
    has_variable(text) && (alone || !is_secret)
}

fn is_of_built_in_source(node: &Node) -> bool {
    get(node, "plugin").is_some_and(|plugin| {
        matches!(&plugin.content, Content::Scalar(name) if SOURCE_PLUGINS.contains(&name.text.as_str()))
    })
}
