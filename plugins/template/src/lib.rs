//! Writes tokens and their fields into a text by a Jinja template. The template's text is written byte for byte: nothing is
//! escaped, newlines are neither added nor removed, and an unknown name is an error instead of an empty text.

mod context;
mod render;
mod words;

use std::collections::BTreeMap;

use evertoken_plugin::{Artifact, Failure, Formatter, NamedToken};
use serde::Deserialize;

/// Configuration of the template formatter: `template` or `files`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(extend("oneOf" = [{"required": ["template"]}, {"required": ["files"]}])))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The template, for an output that is one file or key.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "String"))]
    pub template: Option<String>,
    /// A template for each file or key, by its name.
    #[serde(default)]
    #[cfg_attr(test, schemars(extend("minProperties" = 1, "propertyNames" = {"pattern": "^[A-Za-z0-9._-]+$"})))]
    pub files: BTreeMap<String, String>,
}

/// The plugin.
#[derive(Debug)]
pub struct Template;

impl Formatter for Template {
    type Config = Config;

    fn format(tokens: Vec<NamedToken>, config: Config) -> Result<Vec<Artifact>, Failure> {
        let templates = templates(&config)?;
        let context = context::new(&tokens);
        let artifact = |(place, name, source): (String, &str, &str)| {
            let content = render::render(&place, source, &context)?;
            Ok(Artifact {
                name: name.to_owned(),
                content: content.into_bytes(),
            })
        };
        templates.into_iter().map(artifact).collect()
    }
}

/// Place in the configuration, artifact name and source of each template.
fn templates(config: &Config) -> Result<Vec<(String, &str, &str)>, Failure> {
    let files = config.files.iter().map(|(name, source)| {
        (
            format!("config.files.{name}"),
            name.as_str(),
            source.as_str(),
        )
    });
    match (&config.template, config.files.is_empty()) {
        (Some(source), true) => Ok(vec![("config.template".to_owned(), "", source.as_str())]),
        (None, false) => Ok(files.collect()),
        (Some(_), false) => Err(render::invalid(
            "config: template and files exclude each other; move the template into files",
        )),
        (None, true) => Err(render::invalid(
            "config: nothing to write; give it a template, or files with a template for each name",
        )),
    }
}

evertoken_plugin::export_formatter!(Template);

#[cfg(test)]
mod tests;
