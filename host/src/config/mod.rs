//! What the user wants, typed and checked. Front ends (the YAML file, kube-token-refresher's settings) turn text into a
//! [`model::Config`] or into a list of mistakes, each with its place; the rest of the program only sees the model.

mod check;
pub mod defaults;
mod document;
mod file;
mod hide;
pub mod ktr;
mod mistake;
pub mod model;
pub mod origin;
mod places;
mod read;
mod unit;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zeroize::Zeroizing;

pub(crate) use hide::{has_userinfo, is_telling};
pub use mistake::{Mistake, Mistakes};
pub use places::{Place, Places, PluginOptions, PluginUse};

pub(crate) use yaml::MAX_FILE_BYTES;

use read::{Read as _, Word as _};

/// Source plugins that are built in.
pub const SOURCE_PLUGINS: [&str; 3] = ["dummy", "mirror", "oauth2"];
/// Formatter plugins that are built in.
pub const FORMATTER_PLUGINS: [&str; 1] = ["template"];

/// A configuration and where everything stands in its files.
#[derive(Debug)]
pub struct Loaded {
    /// What is wanted.
    pub config: model::Config,
    /// Finds places for mistakes that are found later.
    pub places: Places,
    /// The files that were read, the first included: what a reload has to watch.
    pub files: Vec<PathBuf>,
}

impl Loaded {
    /// What is wanted, without the files' texts and the places in them, which are larger than the jobs.
    #[must_use]
    pub fn into_config(self) -> model::Config {
        self.config
    }
}

/// A configuration with mistakes, and what plugins need to tell theirs with the others: who has them to mend wants to see all.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong, as far as no plugin is asked.
    pub mistakes: Mistakes,
    /// The plugins that are not built in, as far as they are described without a mistake.
    pub plugins: BTreeMap<String, model::PluginFile>,
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

/// What decides about a configuration beside its text.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where relative paths count from.
    pub base_dir: PathBuf,
    /// Whether this process runs in a Kubernetes cluster, where memory is gone with the Pod.
    pub in_cluster: bool,
}

/// Reads a configuration file and those it includes. Nothing that the configuration refers to is read.
///
/// # Errors
/// Every mistake in all of these files.
pub fn load(path: &Path) -> Result<Loaded, Box<Refused>> {
    let text = document::read_text(path).map_err(Refused::from)?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let surroundings = Surroundings {
        base_dir: std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf()),
        // Kubelet sets it in every container.
        in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
    };
    let mut loaded =
        document::Reading::new().read(text, &path.display().to_string(), &surroundings)?;
    loaded.files.insert(0, path.to_path_buf());
    Ok(loaded)
}

/// Reads a configuration from a text; `name` stands for the file in mistakes. Only files in `include` are read.
///
/// # Errors
/// Every mistake in the text and in what it includes.
pub fn parse(text: &str, name: &str, surroundings: &Surroundings) -> Result<Loaded, Box<Refused>> {
    document::Reading::new().read(Zeroizing::new(text.to_owned()), name, surroundings)
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
    let root = file::File::schema(&mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "evertoken configuration",
        "$ref": root.get("$ref"),
        "$defs": definitions,
    })
}
