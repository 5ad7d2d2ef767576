//! What a user does not mean as it stands: variables that are expected to be put in, `${NAME}` (evertoken puts none in), and characters that
//! nobody sees. Taken literally, both would only fail at the issuer.

use super::SOURCE_PLUGINS;
use super::document::get;
use super::mistake::Span;
use super::read::Gathered;
use super::yaml::{Content, Node};
use crate::text::{self, has_variable};

/// Notes every place that is hardly meant as it stands.
pub(super) fn note_unmeant(node: &Node, gathered: &mut Gathered) {
    match &node.content {
        Content::Scalar(scalar) => {
            note_unseen(node.span, &scalar.text, gathered);
            if is_variable(&scalar.text, gathered.is_hidden(node.span))
                && !gathered.notes.has(node.span)
            {
                gathered.note(
                    node.span,
                    "variables like `${NAME}` are not put in; this would be taken as it stands",
                    "for a secret write `env: NAME`; else write the value, or put it in before: `envsubst < FILE | evertoken run --config -`",
                );
            }
        }
        Content::List(items) => items.iter().for_each(|item| note_unmeant(item, gathered)),
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
                    note_unseen(key.span, &key.text, gathered);
                    note_unmeant(value, gathered);
                }
            }
        }
    }
}

/// What may be a secret is judged with it.
fn note_unseen(span: Span, text: &str, gathered: &mut Gathered) {
    if let Some(odd) = text::first_unseen(text)
        && !gathered.is_hidden(span)
        && !gathered.notes.has(span)
    {
        let message = format!("this text has {odd}");
        gathered.note(span, message, odd.mend());
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
