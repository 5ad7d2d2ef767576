//! What a user does not mean as it stands: variables that are expected to be put in, `${NAME}` (evertoken puts none in), and characters that
//! nobody sees. Taken literally, both would only fail at the issuer.

use super::SOURCE_PLUGINS;
use super::document::get;
use super::mistake::Span;
use super::read::Diagnostics;
use super::yaml::{Content, Node};
use crate::text::{self, has_variable};

/// Notes every place that is hardly meant as it stands.
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
                    // What other programs read.
                    "annotations" => true,
                    // Templates, and what plugins that are not ours may mean by it.
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

/// What may be a secret is judged with it.
fn note_unseen(span: Span, text: &str, diagnostics: &mut Diagnostics) {
    if let Some(odd) = text::first_unseen(text)
        && !diagnostics.is_hidden(span)
        && !diagnostics.notes.has(span)
    {
        let message = format!("this text has {odd}");
        diagnostics.note(span, message, odd.mend());
    }
}

/// In a secret these characters may stand by chance, so there nothing else may stand beside them.
fn is_variable(text: &str, is_secret: bool) -> bool {
    let alone = text.starts_with('$') && text.ends_with(['}', ')']);
    has_variable(text) && (alone || !is_secret)
}

fn is_of_built_in_source(node: &Node) -> bool {
    get(node, "plugin").is_some_and(|plugin| {
        matches!(&plugin.content, Content::Scalar(name) if SOURCE_PLUGINS.contains(&name.text.as_str()))
    })
}
