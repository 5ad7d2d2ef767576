//! Validation of the plugins' own options in a configuration by the plugins' schemas, with mistakes at their place in the file. A
//! plugin that cannot be loaded is no mistake of the file: its jobs report it when they run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinSet;
use url::Url;

use crate::config::{Loaded, Mistake, Mistakes, Places, PluginOptions, PluginUse};
use crate::model::Origin;
use crate::plugin::{Judgement, LoadError, PluginInfo, PluginWorld, Plugins};

use super::{Exit, configuration, say};

/// Shows all mistakes, if there are any.
///
/// # Errors
/// There are mistakes; only the exit code is returned.
pub(super) async fn require(loaded: &Loaded, plugins: &Plugins) -> Result<(), Exit> {
    match Mistakes::of(mistakes(&loaded.places, plugins).await) {
        None => Ok(()),
        Some(mistakes) => {
            configuration::show(&mistakes);
            Err(Exit::Usage)
        }
    }
}

/// The mistakes that plugins find in their options and in the secrets that they are given.
pub(super) async fn mistakes(places: &Places, plugins: &Plugins) -> Vec<Mistake> {
    let mut by_plugin: BTreeMap<(&str, PluginUse), Vec<PluginOptions<'_>>> = BTreeMap::new();
    for said in places.plugin_options() {
        by_plugin
            .entry((said.plugin, said.wanted))
            .or_default()
            .push(said);
    }
    let mut judged = judged(&by_plugin, plugins).await;
    let mut found = Vec::new();
    for ((plugin, wanted), all_said) in by_plugin {
        if found.len() >= Mistakes::ENOUGH {
            break;
        }
        let Some(PluginJudgements { info, judgements }) =
            judged.remove(&(plugin.to_owned(), wanted))
        else {
            continue;
        };
        let tell = |place, message, help| {
            places.mistake(place, format!("plugin `{plugin}`: {message}"), help)
        };
        for (said, judgement) in all_said.iter().zip(judgements) {
            let mut steered = said.steered.iter().filter_map(|text| Url::parse(text).ok());
            if steered
                .any(|url| Origin::of(&url).is_some_and(|it| judgement.endpoints.contains(&it)))
            {
                found.push(tell(
                    said.place,
                    "an endpoint begins with a parameter, so tenants would say where their secrets go".to_owned(),
                    Some("write scheme and host yourself: `https://idp.example.org/{tenant}/token`".to_owned()),
                ));
            }
            found.extend(judgement.mistakes.into_iter().map(|mistake| {
                let place = said.place.pointer(&mistake.pointer);
                tell(place, mistake.message, Some(mistake.help))
            }));
            if wanted == PluginUse::Source {
                let mistakes = info.check_secrets(&said.config, &said.secrets);
                found.extend(mistakes.into_iter().map(|mistake| {
                    let place = match &mistake.listed {
                        Some(name) => said.secrets_place.key(name),
                        None => said.secrets_place,
                    };
                    tell(place, mistake.message, None)
                }));
            }
        }
    }
    found
}

/// A plugin's judgements of all its configurations.
struct PluginJudgements {
    info: Arc<PluginInfo>,
    judgements: Vec<Judgement>,
}

/// The judgements of each plugin, without those that cannot be used, which [`say_unusable`] reports. Plugins are validated
/// concurrently, so that a slow one does not hold up the others.
async fn judged(
    by_plugin: &BTreeMap<(&str, PluginUse), Vec<PluginOptions<'_>>>,
    plugins: &Plugins,
) -> BTreeMap<(String, PluginUse), PluginJudgements> {
    let mut judging = JoinSet::new();
    for ((plugin, wanted), all_said) in by_plugin {
        let (plugins, plugin, wanted) = (plugins.clone(), (*plugin).to_owned(), *wanted);
        let configs = all_said.iter().map(|said| Arc::clone(&said.config));
        let configs: Vec<Arc<Value>> = configs.collect();
        judging.spawn(async move {
            let world = match wanted {
                PluginUse::Source => PluginWorld::Source,
                PluginUse::Formatter => PluginWorld::Formatter,
            };
            let configs: Vec<&Value> = configs.iter().map(|config| &**config).collect();
            let judgements = plugins.check_configs(&plugin, world, &configs).await?;
            let info = plugins.info(&plugin).await?;
            Ok::<_, Arc<LoadError>>(((plugin, wanted), PluginJudgements { info, judgements }))
        });
    }
    let mut judged = BTreeMap::new();
    while let Some(done) = judging.join_next().await {
        if let Ok(Ok((plugin, said))) = done {
            judged.insert(plugin, said);
        }
    }
    judged
}

/// The number of plugins of a configuration that cannot be used.
#[derive(Debug, Default)]
pub(super) struct Unusable {
    /// Never, as no job could use them.
    pub(super) for_good: usize,
    /// With their present files. The right ones may come, but options could not be validated.
    pub(super) by_now: usize,
}

/// Reports the plugins that cannot be used.
pub(super) async fn say_unusable(places: &Places, plugins: &Plugins) -> Unusable {
    let used: BTreeSet<&str> = places.plugin_options().map(|said| said.plugin).collect();
    let mut unusable = Unusable::default();
    for name in used {
        let Err(error) = plugins.info(name).await else {
            continue;
        };
        let message = error.to_failure().message;
        if matches!(*error, LoadError::Refused { .. } | LoadError::Schema { .. }) {
            say(&format!("error: {message}"));
            unusable.for_good += 1;
        } else {
            say(&format!(
                "warning: {message}; the options and secrets of its jobs were not checked"
            ));
            unusable.by_now += 1;
        }
    }
    unusable
}
