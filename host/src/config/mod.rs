//! What the user wants, typed and checked. Front ends (the YAML file, kube-token-refresher's settings) turn text into a
//! [`Config`] or into a list of mistakes, each with its place; the rest of the program only sees the model.

mod check;
mod document;
pub mod glance;
mod hide;
mod include;
pub mod ktr;
mod mistake;
mod places;
mod read;
mod spec;
mod unit;
mod variables;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::model::{Config, PluginFile};

pub use mistake::{Mistake, Mistakes};
pub use places::{Place, Places, PluginOptions, PluginUse};

pub(crate) use yaml::MAX_BYTES;

use read::{Read as _, Word as _};

/// Source plugins that are built in.
pub const SOURCE_PLUGINS: [&str; 3] = ["dummy", "mirror", "oauth2"];
/// Formatter plugins that are built in.
pub const FORMATTER_PLUGINS: [&str; 1] = ["template"];

/// A configuration and where everything stands in its files.
#[derive(Debug)]
pub struct Loaded {
    /// What is wanted.
    pub config: Config,
    /// Finds places for mistakes that are found later.
    pub places: Places,
    /// The files that were read, the first included unless it is standard input: what a reload has to watch.
    pub files: Vec<PathBuf>,
}

impl Loaded {
    /// What is wanted, without the files' texts and the places in them, which are larger than the jobs.
    #[must_use]
    pub fn into_config(self) -> Config {
        self.config
    }
}

/// A configuration with mistakes, and what plugins need to tell theirs with the others: who has them to mend wants to see all.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong, as far as no plugin is asked.
    pub mistakes: Mistakes,
    /// The plugins that are not built in, as far as they are described without a mistake.
    pub plugins: BTreeMap<String, PluginFile>,
    /// Finds what is said to plugins, and places for their mistakes.
    pub places: Places,
}

impl From<Mistakes> for Refused {
    /// Nothing is known of the files but that they have these mistakes.
    fn from(mistakes: Mistakes) -> Self {
        Self {
            mistakes,
            plugins: BTreeMap::new(),
            places: Places::default(),
        }
    }
}

/// Reads a configuration file and those it includes; `-` is standard input. Nothing that the configuration refers to is read.
///
/// # Errors
/// Every mistake in all of these files.
pub fn load(path: &Path) -> Result<Loaded, Box<Refused>> {
    let first = document::read_first(path).map_err(Refused::from)?;
    document::ConfigReader::new().read(first)
}

/// Reads a configuration from a text; `name` stands for the file in mistakes, relative paths count from `directory`. Only files in
/// `include` are read.
///
/// # Errors
/// Every mistake in the text and in what it includes.
pub fn parse(text: &str, name: &str, directory: &Path) -> Result<Loaded, Box<Refused>> {
    document::ConfigReader::new().read(document::FirstFile {
        text: Zeroizing::new(text.to_owned()),
        name: name.to_owned(),
        directory: directory.to_owned(),
        file: None,
    })
}

/// A span of time as it is written in the file: `90s`, `1h30m`, `500ms`. For command-line options, so that both read alike.
///
/// # Errors
/// What is wrong with it and how to write it.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    match unit::Time::parse(text) {
        Ok(time) => Ok(time.0),
        Err(complaint) => Err(format!("{}; {}", complaint.message, complaint.help)),
    }
}

/// The JSON Schema (draft 2020-12) of the configuration file.
#[must_use]
pub fn schema() -> Value {
    let mut definitions = read::Definitions::new();
    let root = spec::FileSpec::schema(&mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "evertoken configuration",
        "$ref": root.get("$ref"),
        "$defs": definitions,
    })
}
