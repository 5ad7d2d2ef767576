//! The configuration: parsing and validation. The YAML file is turned into a [`Config`] or into a list of mistakes, each with its
//! place; kube-token-refresher's settings likewise, by [`ktr`]. The rest of the program only sees the model.

mod check;
mod document;
pub mod glance;
mod hide;
mod include;
pub mod ktr;
mod mistake;
mod places;
mod profiles;
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

use crate::file::Stamp;
use crate::model::{Config, PluginFile};

pub use mistake::{Mistake, Mistakes};
pub use places::{Place, Places, PluginOptions, PluginUse};

pub(crate) use yaml::MAX_BYTES;

use read::{Read as _, Word as _};

/// Source plugins that are built in.
pub const SOURCE_PLUGINS: [&str; 3] = ["dummy", "mirror", "oauth2"];
/// Formatter plugins that are built in.
pub const FORMATTER_PLUGINS: [&str; 1] = ["template"];

/// A valid configuration, and the places of its values in the files.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The places of values, for mistakes that are found later.
    pub places: Places,
    /// What it was read from.
    pub(crate) watched: Watched,
}

/// The files of a configuration, and the directories that its patterns searched: what they were before they were read, so that a later
/// change is noticed; none: it was missing.
pub(crate) type Watched = BTreeMap<PathBuf, Option<Stamp>>;

impl Loaded {
    /// The configuration without the files' texts and the places in them, which take more memory than the jobs.
    #[must_use]
    pub fn into_config(self) -> Config {
        self.config
    }

    /// The same, with what it was read from.
    pub(crate) fn into_parts(self) -> (Config, Watched) {
        (self.config, self.watched)
    }
}

/// A configuration with mistakes, and what is needed to validate the plugins' own options all the same, so that all mistakes are
/// reported at once.
#[derive(Debug)]
pub struct Refused {
    /// The mistakes, without those in the plugins' own options.
    pub mistakes: Mistakes,
    /// The plugins that are not built in and have no mistake in their entry.
    pub plugins: BTreeMap<String, PluginFile>,
    /// The plugins' own options, and the places of their values.
    pub places: Places,
    /// What it was read from.
    pub(crate) watched: Watched,
}

impl From<Mistakes> for Refused {
    /// Mistakes in files that could not be parsed: there are no plugins and no places.
    fn from(mistakes: Mistakes) -> Self {
        Self {
            mistakes,
            plugins: BTreeMap::new(),
            places: Places::default(),
            watched: Watched::new(),
        }
    }
}

/// Reads a configuration file and those it includes; `-` is standard input. Nothing that the configuration refers to is read.
///
/// # Errors
/// Every mistake in all of these files.
pub fn load(path: &Path) -> Result<Loaded, Box<Refused>> {
    let stamp = Stamp::of(path);
    let first = document::read_first(path).map_err(|mistakes| Refused {
        watched: Watched::from([(path.to_owned(), stamp)]),
        ..Refused::from(mistakes)
    })?;
    document::ConfigReader::new().read(first)
}

/// Whether this path means standard input.
#[must_use]
pub fn is_standard_input(path: &Path) -> bool {
    path == Path::new(document::STANDARD_INPUT)
}

/// Reads a configuration from a text; mistakes name the file `name`, relative paths count from `directory`. Only files in
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
        stamp: None,
    })
}

/// Parses a duration as in the configuration file (`90s`, `1h30m`, `500ms`), for command-line options with the same syntax.
///
/// # Errors
/// What is wrong, and how to write it.
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
