//! `evertoken check`: everything about a configuration that can be judged before it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::configuration::ConfigArguments;
use super::house::{self, House};
use super::{Exit, plugin_options, runtime, say};
use crate::capability::{Body, Request};
use crate::config::model::{Config, Format, Job, Output, SecretOrigin, StateLocation};
use crate::config::origin::Origin;
use crate::failure::FailureKind;
use crate::output::look;
use crate::plugin::{Plugins, World};

/// Validates a configuration: its form, its references, and every plugin's own options against the plugin's schema. Needs no network and
/// starts nothing.
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    pub(super) config: ConfigArguments,

    /// Also read every secret, load every plugin, look whether every file and the state could be written, and reach every issuer (one HEAD
    /// request that carries no secret). Writes nothing.
    #[arg(long)]
    pub(super) online: bool,
}

pub(super) fn run(arguments: &CheckArguments) -> Exit {
    let loaded = match arguments.config.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    runtime::block_on(async {
        let plugins = house::plugins(&loaded.config.plugins, &loaded.config.limits.plugin)?;
        if let Err(exit) = plugin_options::require(&loaded, &plugins).await {
            return Ok(exit);
        }
        if arguments.online {
            let found = online(&loaded.config, plugins.clone(), Issuers::MustAnswer).await?;
            if !found.is_empty() {
                found.show();
                return Ok(Exit::Failure);
            }
        }
        if plugin_options::say_unusable(&loaded.places, &plugins).await {
            return Ok(Exit::Failure);
        }
        let (jobs, shared) = (loaded.config.jobs.len(), loaded.config.shared_outputs.len());
        say(&format!(
            "{}: {jobs} jobs, {shared} shared outputs: all right",
            arguments.config.config.display()
        ));
        Ok(Exit::Success)
    })
}

/// What is expected of issuers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Issuers {
    /// Every one of them answers now.
    MustAnswer,
    /// One that is away is back some day; only what is wrong on our side counts.
    MayBeAway,
}

/// What the world lacks, per job or shared output.
#[derive(Debug, Default)]
pub(super) struct Found(BTreeMap<String, Vec<String>>);

impl Found {
    /// Whether nothing is missing.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Shows all that is missing.
    pub(super) fn show(&self) {
        for (who, missing) in &self.0 {
            for what in missing {
                say(&format!("error: {who}: {what}"));
            }
        }
    }

    fn add(&mut self, who: String, missing: Vec<String>) {
        if !missing.is_empty() {
            self.0.insert(who, missing);
        }
    }
}

/// Tries what is needed before the first request: the state store, and for each job plugins, secrets, files to write, issuers.
///
/// # Errors
/// The rooms cannot be put together.
pub(super) async fn online(config: &Config, plugins: Plugins, issuers: Issuers) -> Result<Found> {
    // The state store is another process's while that runs; what is looked at here does not need it.
    let house = House::open(
        &Config {
            state: StateLocation::Memory,
            ..config.clone()
        },
        plugins,
        &CancellationToken::new(),
    )
    .await?;
    let mut found = Found::default();
    found.add(
        "state".to_owned(),
        house::missing_for_store(&config.state).await,
    );
    for job in &config.jobs {
        found.add(
            format!("job {}", job.id),
            missing(&house, job, issuers).await,
        );
    }
    for shared in &config.shared_outputs {
        let from: Vec<String> = shared.from.iter().map(ToString::to_string).collect();
        let missing = missing_of_output(&house, &shared.output).await;
        found.add(format!("output of {}", from.join(", ")), missing);
    }
    Ok(found)
}

async fn missing_of_output(house: &House, output: &Output) -> Vec<String> {
    let mut missing = Vec::new();
    if let Some(Format { plugin, config }) = &output.format {
        missing.extend(missing_plugin(house, plugin, World::Formatter, config).await);
    }
    missing.extend(look(output).err().map(|failure| failure.to_string()));
    missing
}

/// Why a plugin cannot be used for this.
async fn missing_plugin(
    house: &House,
    plugin: &str,
    world: World,
    config: &serde_json::Value,
) -> Option<String> {
    let ready = house.plugins.prepare(plugin).await;
    let fits = house.plugins.check_config(plugin, world, config).await;
    let error = ready.err().or(fits.err())?;
    Some(error.to_failure().message)
}

async fn missing(house: &House, job: &Arc<Job>, issuers: Issuers) -> Vec<String> {
    let mut missing = Vec::new();
    for output in &job.outputs {
        missing.extend(missing_of_output(house, output).await);
    }
    let source = &job.source;
    missing.extend(missing_plugin(house, &source.plugin, World::Source, &source.config).await);
    // A plugin that cannot be read has been told of.
    let endpoints = house
        .plugins
        .endpoints(&source.plugin, &source.config)
        .await
        .unwrap_or_default();
    let call = house.capabilities.call(job, &endpoints);
    for (name, secret) in &source.secrets {
        // Another job's token is there once that job has run.
        if matches!(secret.origin, SecretOrigin::Job(_)) {
            continue;
        }
        if let Err(failure) = call.open(name).await {
            missing.push(failure.to_string());
        }
    }
    for origin in endpoints.iter().chain(&source.allow) {
        if let Err(failure) = call.send(probe(origin)).await
            && (issuers == Issuers::MustAnswer || failure.kind == FailureKind::InvalidConfig)
        {
            missing.push(failure.to_string());
        }
    }
    missing
}

/// Any answer shows that name, address, proxy and certificate are right.
fn probe(origin: &Origin) -> Request {
    Request {
        method: "HEAD".to_owned(),
        url: format!("{origin}/"),
        query: Vec::new(),
        headers: Vec::new(),
        body: Body::Empty,
    }
}
