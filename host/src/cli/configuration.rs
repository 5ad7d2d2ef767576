//! Loading of the configuration file for the commands that need it; all mistakes are shown at once.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::terminal::TextStyle;
use super::{Exit, app, plugin_options, say, stderr};
use crate::config::{self, Loaded, Mistakes, Refused};
use crate::model::defaults;
use crate::worker;

/// Which one is read if none is named.
pub(super) const DEFAULT_PATH: &str = "/etc/evertoken/evertoken.yaml";

/// The option that names the configuration.
#[derive(Debug, Clone, Args)]
pub(super) struct ConfigArguments {
    /// The configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "EVERTOKEN_CONFIG",
        default_value = DEFAULT_PATH,
        value_parser = path_or(DEFAULT_PATH)
    )]
    pub(super) config: PathBuf,
}

/// A path; an empty value, as of a variable set to nothing, means `usual`.
pub(super) fn path_or(usual: &'static str) -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(move |text| match text.is_empty() {
        true => PathBuf::from(usual),
        false => PathBuf::from(text),
    })
}

impl ConfigArguments {
    /// The checked configuration.
    ///
    /// # Errors
    /// All mistakes have been shown; only the exit code is returned.
    pub(super) async fn load(&self) -> Result<Loaded, Exit> {
        match worker::aside(|| config::load(&self.config)) {
            Ok(loaded) => Ok(loaded),
            Err(refused) => Err(refuse(*refused).await),
        }
    }
}

/// Shows the mistakes together with those that plugins find in their options, so that all can be corrected at once.
async fn refuse(refused: Refused) -> Exit {
    let mut mistakes = refused.mistakes;
    if let Ok(plugins) = app::plugins(&refused.plugins, &defaults::plugin_limits()) {
        mistakes = mistakes.and(plugin_options::mistakes(&refused.places, &plugins).await);
    }
    show(&mistakes);
    Exit::Usage
}

/// Prints mistakes to standard error: for people with the place marked in the text, otherwise one line each.
pub(super) fn show(mistakes: &Mistakes) {
    match TextStyle::of(&std::io::stderr()) {
        TextStyle::Plain => say(&mistakes.to_string()),
        look => stderr::write(mistakes.drawn(look == TextStyle::Unicode).as_bytes()),
    }
}
