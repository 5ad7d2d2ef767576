//! Judges the plugins' own options in a configuration by the schemas that the plugins carry, and shows mistakes at their place
//! in the file. A plugin that cannot be loaded is no mistake of the file: its jobs say so when they run.

use crate::config::model::{Format, Output};
use crate::config::{Loaded, Mistake, Mistakes, Place};
use crate::plugin::{BUILT_IN, LoadError, Plugins, World};

use super::{Exit, configuration};

/// Shows all mistakes, if there are any.
///
/// # Errors
/// There are; the exit code is left.
pub(super) async fn require(loaded: &Loaded, plugins: &Plugins) -> Result<(), Exit> {
    match Mistakes::of(mistakes(loaded, plugins).await) {
        None => Ok(()),
        Some(mistakes) => {
            configuration::show(&mistakes);
            Err(Exit::Usage)
        }
    }
}

async fn mistakes(loaded: &Loaded, plugins: &Plugins) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (index, job) in loaded.config.jobs.iter().enumerate() {
        let place = loaded.places.job(index);
        let source = place.key("source");
        judge(
            loaded,
            plugins,
            World::Source,
            &job.source.plugin,
            &job.source.config,
            source,
            &mut found,
        )
        .await;
        for (number, output) in job.outputs.iter().enumerate() {
            judge_format(
                loaded,
                plugins,
                output,
                place.key("outputs").item(number),
                &mut found,
            )
            .await;
        }
    }
    for (index, shared) in loaded.config.shared_outputs.iter().enumerate() {
        judge_format(
            loaded,
            plugins,
            &shared.output,
            loaded.places.shared_output(index),
            &mut found,
        )
        .await;
    }
    found
}

async fn judge_format(
    loaded: &Loaded,
    plugins: &Plugins,
    output: &Output,
    place: Place<'_>,
    found: &mut Vec<Mistake>,
) {
    if let Some(Format { plugin, config }) = &output.format {
        judge(
            loaded,
            plugins,
            World::Formatter,
            plugin,
            config,
            place.key("format"),
            found,
        )
        .await;
    }
}

/// `place` is the mapping that holds `plugin` and `config`.
async fn judge(
    loaded: &Loaded,
    plugins: &Plugins,
    world: World,
    plugin: &str,
    config: &serde_json::Value,
    place: Place<'_>,
    found: &mut Vec<Mistake>,
) {
    let mistakes = match plugins.check_config(plugin, world, config).await {
        Ok(mistakes) => mistakes,
        Err(error) if matches!(*error, LoadError::WrongWorld { .. }) && is_built_in(plugin) => {
            found.push(
                loaded
                    .places
                    .mistake(place.key("plugin"), error.to_string(), None),
            );
            return;
        }
        Err(_) => return,
    };
    for mistake in mistakes {
        let at = place.key("config").pointer(&mistake.pointer);
        found.push(loaded.places.mistake(
            at,
            format!("plugin `{plugin}`: {}", mistake.message),
            None,
        ));
    }
}

fn is_built_in(plugin: &str) -> bool {
    BUILT_IN.iter().any(|built_in| built_in.name == plugin)
}
