//! Finds the place of a value after reading, so that what only others can judge (a plugin's configuration against the plugin's own
//! schema) is reported in the same look as every other mistake.

use std::sync::Arc;

use super::document::{get, items};
use super::mistake::{Mistake, Note, Sources, Span};
use super::yaml::{Content, Node};

/// The files' texts, secrets painted over, and where everything stands in them.
pub struct Places {
    sources: Sources,
    /// The first file's tree.
    root: Option<Arc<Node>>,
    jobs: Vec<Arc<Node>>,
    outputs: Vec<Arc<Node>>,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places").finish_non_exhaustive()
    }
}

impl Places {
    pub(super) fn new(sources: Sources, trees: Vec<Arc<Node>>) -> Self {
        let all = |key| {
            trees
                .iter()
                .flat_map(|tree| items(tree, key).cloned())
                .collect()
        };
        Self {
            jobs: all("jobs"),
            outputs: all("outputs"),
            root: trees.into_iter().next(),
            sources,
        }
    }

    /// A job, by its index in [`super::model::Config::jobs`].
    #[must_use]
    pub fn job(&self, index: usize) -> Place<'_> {
        Place(self.jobs.get(index).or(self.root.as_ref()))
    }

    /// A shared output, by its index in [`super::model::Config::shared_outputs`].
    #[must_use]
    pub fn shared_output(&self, index: usize) -> Place<'_> {
        Place(self.outputs.get(index).or(self.root.as_ref()))
    }

    /// The first file as a whole.
    #[must_use]
    pub fn root(&self) -> Place<'_> {
        Place(self.root.as_ref())
    }

    /// A mistake at a place. The message must hold no secret.
    #[must_use]
    pub fn mistake(
        &self,
        place: Place<'_>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Mistake {
        let span = place.0.map_or(
            Span {
                source: 0,
                start: 0,
                end: 0,
            },
            |node| node.span,
        );
        Mistake::of(
            Note {
                span,
                message: message.into(),
                help,
                other: None,
            },
            &self.sources,
        )
    }
}

/// A value's place. Going to what is not there stays where it is: a missing key is shown at its mapping.
#[derive(Clone, Copy)]
pub struct Place<'p>(Option<&'p Arc<Node>>);

impl Place<'_> {
    /// The value of a key.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        Self(self.0.and_then(|node| get(node, key)).or(self.0))
    }

    /// An item of a list, from 0.
    #[must_use]
    pub fn item(self, index: usize) -> Self {
        match self.0.map(|node| &node.content) {
            Some(Content::List(items)) => Self(items.get(index).or(self.0)),
            _ => self,
        }
    }

    /// Where a JSON pointer (RFC 6901) leads.
    #[must_use]
    pub fn pointer(self, pointer: &str) -> Self {
        pointer.split('/').skip(1).fold(self, |place, step| {
            let step = step.replace("~1", "/").replace("~0", "~");
            match (place.0.map(|node| &node.content), step.parse()) {
                (Some(Content::List(_)), Ok(index)) => place.item(index),
                _ => place.key(&step),
            }
        })
    }
}
