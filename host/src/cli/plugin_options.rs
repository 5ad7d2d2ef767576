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

/// What plugins find wrong with what is said to them and with the secrets that they are given.
pub(super) async fn mistakes(places: &Places, plugins: &Plugins) -> Vec<Mistake> {
    let mut found = Vec::new();
    for said in places.plugin_options() {
        if found.len() >= Mistakes::ENOUGH {
            break;
        }
        let world = match said.wanted {
            PluginUse::Source => World::Source,
            PluginUse::Formatter => World::Formatter,
        };
        let Ok(mistakes) = plugins.check_config(said.plugin, world, &said.config).await else {
            continue;
        };
        let tell = |place, message| {
            places.mistake(place, format!("plugin `{}`: {message}", said.plugin), None)
        };
        found.extend(
            mistakes
                .into_iter()
                .map(|mistake| tell(said.place.pointer(&mistake.pointer), mistake.message)),
        );
        if world == World::Source
            && let Ok(mistakes) = plugins
                .check_secrets(said.plugin, &said.config, &said.secrets)
                .await
        {
            found.extend(mistakes.into_iter().map(|mistake| {
                let place = match &mistake.listed {
                    Some(name) => said.secrets_place.key(name),
                    None => said.secrets_place,
                };
                tell(place, mistake.message)
            }));
        }
    }
    found
}
