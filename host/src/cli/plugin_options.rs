//! Judges the plugins' own options in a configuration by the schemas that the plugins carry, and tells mistakes at their place
//! in the file. A plugin that cannot be loaded is no mistake of the file: its jobs say so when they run.

use crate::config::{Loaded, Mistake, Mistakes, Places, PluginUse};
use crate::plugin::{Plugins, World};

use super::{Exit, configuration};

/// Shows all mistakes, if there are any.
///
/// # Errors
/// There are; the exit code is left.
pub(super) async fn require(loaded: &Loaded, plugins: &Plugins) -> Result<(), Exit> {
    match Mistakes::of(mistakes(&loaded.places, plugins).await) {
        None => Ok(()),
        Some(mistakes) => {
            configuration::show(&mistakes);
            Err(Exit::Usage)
        }
    }
}

/// What plugins find wrong with what is said to them.
pub(super) async fn mistakes(places: &Places, plugins: &Plugins) -> Vec<Mistake> {
    let mut found = Vec::new();
    for said in places.plugin_options() {
        let world = match said.wanted {
            PluginUse::Source => World::Source,
            PluginUse::Formatter => World::Formatter,
        };
        let Ok(mistakes) = plugins.check_config(said.plugin, world, &said.config).await else {
            continue;
        };
        found.extend(mistakes.into_iter().map(|mistake| {
            let place = said.place.pointer(&mistake.pointer);
            let message = format!("plugin `{}`: {}", said.plugin, mistake.message);
            places.mistake(place, message, None)
        }));
    }
    found
}
