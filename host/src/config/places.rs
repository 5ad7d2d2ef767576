//! The places of values in the files, for mistakes that are found after parsing (a plugin's options against the plugin's schema), so
//! that these are reported like all others.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::document::{get, items};
use super::mistake::{Mistake, Note, SourceFiles, Span};
use super::read::{Diagnostics, json_of};
use super::yaml::{Content, Node, ScalarKind};
use crate::json_member::unescaped;
use crate::tenants::request::fill;
use crate::tenants::template::Template;

/// The files' texts with secrets masked, and the places of values in them.
#[derive(Default)]
pub struct Places {
    sources: SourceFiles,
    trees: Vec<Arc<Node>>,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places").finish_non_exhaustive()
    }
}

/// The use of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginUse {
    /// It is a job's source.
    Source,
    /// It formats an output.
    Formatter,
}

/// The options of a plugin, and their places.
pub struct PluginOptions<'p> {
    /// Its use.
    pub wanted: PluginUse,
    /// Its name.
    pub plugin: &'p str,
    /// Its options, a JSON object.
    pub config: Arc<Value>,
    /// The names of the jobs whose tokens it obtains or formats.
    pub jobs: Vec<String>,
    /// The place of the options; where there are none, of the mapping that names the plugin.
    pub place: Place<'p>,
    /// The names of the secrets that the job lists.
    pub secrets: Vec<&'p str>,
    /// Texts of a profile that begin with a tenant's value: none may be an endpoint.
    pub steered: Vec<String>,
    /// The place of the secrets; where there are none, of the mapping that names the plugin.
    pub secrets_place: Place<'p>,
}

impl Places {
    pub(super) fn new(sources: SourceFiles, trees: Vec<Arc<Node>>) -> Self {
        Self { sources, trees }
    }

    /// The options of all plugins, in the order of the files, without those that could not be read, which are reported already.
    pub fn plugin_options(&self) -> impl Iterator<Item = PluginOptions<'_>> {
        let all = |key: &'static str| self.trees.iter().flat_map(move |tree| items(tree, key));
        let of_jobs = all("jobs").flat_map(|job| {
            let jobs: Vec<String> = get(job, "name").and_then(text).into_iter().collect();
            let source = get(job, "source").map(|node| (PluginUse::Source, node));
            source
                .into_iter()
                .chain(items(job, "outputs").filter_map(format))
                .map(move |(wanted, node)| (wanted, node, jobs.clone()))
        });
        let shared = all("outputs").filter_map(|output| {
            let (wanted, node) = format(output)?;
            Some((
                wanted,
                node,
                items(output, "from").filter_map(text).collect(),
            ))
        });
        let trees = self.trees.iter();
        let of_profiles = trees.flat_map(|tree| members(tree, "profiles"));
        let of_profiles = of_profiles.flat_map(|(name, profile)| {
            let formats = members(profile, "formats").map(|(_, node)| (PluginUse::Formatter, node));
            std::iter::once((PluginUse::Source, profile))
                .chain(formats)
                .map(move |(wanted, node)| (wanted, node, vec![name.to_owned()]))
        });
        let of_profiles = of_profiles.filter_map(|(wanted, node, names)| {
            let options = options(wanted, node, names)?;
            match wanted {
                PluginUse::Source => as_a_tenant_would(options, node),
                PluginUse::Formatter => Some(options),
            }
        });
        of_jobs
            .chain(shared)
            .filter_map(|(wanted, node, jobs)| options(wanted, node, jobs))
            .chain(of_profiles)
    }

    /// A mistake at a place. The message must not contain a secret.
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

/// The place of a value. The place of a missing key is that of its mapping.
#[derive(Clone, Copy)]
pub struct Place<'p>(Option<&'p Arc<Node>>);

impl Place<'_> {
    /// The value of a key.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        Self(self.0.and_then(|node| get(node, key)).or(self.0))
    }

    fn item(self, index: usize) -> Self {
        match self.0.map(|node| &node.content) {
            Some(Content::List(items)) => Self(items.get(index).or(self.0)),
            _ => self,
        }
    }

    /// The value that a JSON pointer (RFC 6901) refers to.
    #[must_use]
    pub fn pointer(self, pointer: &str) -> Self {
        pointer.split('/').skip(1).fold(self, |place, step| {
            let step = unescaped(step);
            match (place.0.map(|node| &node.content), step.parse()) {
                (Some(Content::List(_)), Ok(index)) => place.item(index),
                _ => place.key(&step),
            }
        })
    }
}

fn format(output: &Arc<Node>) -> Option<(PluginUse, &Arc<Node>)> {
    Some((PluginUse::Formatter, get(output, "format")?))
}

fn text(node: &Arc<Node>) -> Option<String> {
    match &node.content {
        Content::Scalar(scalar) => Some(scalar.text.as_str().to_owned()),
        Content::List(_) | Content::Map(_) => None,
    }
}

/// `node` is the mapping that has `plugin` and `config`.
fn options(wanted: PluginUse, node: &Arc<Node>, jobs: Vec<String>) -> Option<PluginOptions<'_>> {
    let plugin = match &get(node, "plugin")?.content {
        Content::Scalar(name) if name.kind() == ScalarKind::Text => name.text.as_str(),
        _ => return None,
    };
    let config = match get(node, "config") {
        None => Value::Object(serde_json::Map::new()),
        Some(config) if matches!(config.content, Content::Map(_)) => {
            json_of(config, &mut Diagnostics::default())?
        }
        Some(_) => return None,
    };
    Some(PluginOptions {
        wanted,
        plugin,
        config: Arc::new(config),
        jobs,
        place: Place(Some(node)).key("config"),
        secrets: match get(node, "secrets").map(|secrets| &secrets.content) {
            Some(Content::Map(entries)) => entries.iter().map(|(name, _)| &*name.text).collect(),
            _ => Vec::new(),
        },
        steered: Vec::new(),
        secrets_place: Place(Some(node)).key("secrets"),
    })
}

/// A profile's options with examples of what tenants fill in, and with the tenants' secrets. None: a text is no template, which is
/// reported elsewhere.
fn as_a_tenant_would<'p>(
    mut options: PluginOptions<'p>,
    profile: &'p Arc<Node>,
) -> Option<PluginOptions<'p>> {
    let example = |parameter: &Arc<Node>| {
        let given = get(parameter, "default").or_else(|| get(parameter, "example"));
        given.and_then(text).unwrap_or_else(|| EXAMPLE.to_owned())
    };
    let parameters = members(profile, "parameters");
    let values = parameters.map(|(name, parameter)| (name.to_owned(), example(parameter)));
    let values: BTreeMap<String, String> = values.collect();
    options.steered = steered(&options.config, &values);
    options.config = Arc::new(fill(&options.config, &values).ok()?);
    let given = members(profile, "tenant_secrets").map(|(name, _)| name);
    options.secrets.extend(given);
    Some(options)
}

/// What stands for a parameter without default and example.
const EXAMPLE: &str = "example";

/// The texts that begin with a parameter, with these values.
fn steered(config: &Value, values: &BTreeMap<String, String>) -> Vec<String> {
    match config {
        Value::String(text) => {
            let template = Template::parse(text).ok();
            let steered = template.filter(Template::begins_with_parameter);
            let filled = steered.and_then(|template| template.fill(values).ok());
            filled.into_iter().collect()
        }
        Value::Array(items) => items
            .iter()
            .flat_map(|item| steered(item, values))
            .collect(),
        Value::Object(members) => members
            .values()
            .flat_map(|member| steered(member, values))
            .collect(),
        _ => Vec::new(),
    }
}

/// The members of the mapping under a key.
fn members<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = (&'n str, &'n Arc<Node>)> {
    let entries = match get(node, key).map(|node| &node.content) {
        Some(Content::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|(name, value)| (&*name.text, value))
}
