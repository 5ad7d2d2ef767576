//! The plugin runtime, the only part that uses wasmtime: plugins by name, compiled once per digest, run in a store of their own
//! for each call. Types of wasmtime and of the generated bindings are private to this module.

mod built_in;
mod cache;
mod child;
mod clocks;
mod endpoints;
mod engine;
mod error;
mod formatting;
pub mod inspect;
mod instances;
mod judge;
pub mod limits;
mod load;
mod needs;
mod schema;
mod store;
mod v0_1;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use crate::form::SchemaMistake;
pub use built_in::{BUILT_IN, BuiltIn};
pub use cache::{COMPILE_COMMAND, CacheError, CacheSettings, Compiler, compile_plugin};
pub use error::CallError;
pub use inspect::{Digest, InspectError, PluginInfo, PluginWorld, inspect};
pub use judge::{JUDGE_COMMAND, JudgeError, judge_options};
pub use load::LoadError;
pub use needs::{SecretMistake, SecretNeed};
pub use schema::Judgement;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::capability::{Call, Unsuccessful};
use crate::model::Origin;
use crate::model::failure::Failure;
use crate::model::time::Timestamp;
use crate::model::token::{Artifact, NamedToken, Token};
use crate::model::{CurrentLimits, Job, PluginFile, PluginLimits};
use endpoints::WrongConfig;
use engine::{BoxError, Ticker};
use formatting::FormatLog;
use load::Loader;
use v0_1::{Acquire, CallBounds, Prepared};

/// This machine cannot run plugins.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the plugin engine")]
pub struct EngineError(#[source] BoxError);

/// All plugins that jobs may name: the built-in ones and the configured ones. Cheap to clone.
#[derive(Clone)]
pub struct Plugins(Arc<PluginRuntime>);

struct PluginRuntime {
    loader: Arc<Loader>,
    ticker: Arc<Ticker>,
    limits: CurrentLimits,
    stop: OnceLock<CancellationToken>,
}

/// An entry of the list of plugins.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The name that jobs use.
    pub name: String,
    /// Whether it is part of the binary.
    pub built_in: bool,
    /// What it declares, or why it cannot be used.
    pub info: Result<Arc<PluginInfo>, Arc<LoadError>>,
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugins").finish_non_exhaustive()
    }
}

impl Plugins {
    /// Plugins by these names, beside the built-in ones. Nothing is read or compiled before its first use.
    ///
    /// # Errors
    /// This machine cannot run plugins.
    pub fn new(
        files: &BTreeMap<String, PluginFile>,
        limits: PluginLimits,
        cache: CacheSettings,
    ) -> Result<Self, EngineError> {
        let engine = engine::new_engine().map_err(EngineError)?;
        let ticking = engine.clone();
        let ticker = Ticker::start(move || ticking.increment_epoch())
            .map_err(|error| EngineError(error.into()))?;
        let limits = limits.current();
        let loader = Loader::new(engine, files, cache, Arc::clone(&limits));
        Ok(Self(Arc::new(PluginRuntime {
            loader: Arc::new(loader.map_err(EngineError)?),
            ticker: Arc::new(ticker),
            limits,
            stop: OnceLock::new(),
        })))
    }

    /// Other plugins and limits on the same engine, with all that is known of those that are in both. These here do not change.
    #[must_use]
    pub fn with(&self, files: &BTreeMap<String, PluginFile>, limits: PluginLimits) -> Self {
        let limits = limits.current();
        let loader = self.0.loader.with(files, Arc::clone(&limits));
        Self(Arc::new(PluginRuntime {
            loader: Arc::new(loader),
            ticker: Arc::clone(&self.0.ticker),
            limits,
            stop: self.0.stop.clone(),
        }))
    }

    /// Takes over the plugins and limits of another one, for all who hold this. A call under way ends as it began.
    pub fn adopt(&self, other: &Self) {
        self.0.loader.adopt(&other.0.loader);
        self.0.limits.store(other.0.limits.load_full());
    }

    /// The limits of calls, for others who keep to them.
    #[must_use]
    pub fn limits(&self) -> CurrentLimits {
        Arc::clone(&self.0.limits)
    }

    /// Sets the token that stops calls: from then on a call may still read an answer that it waits for, but run no longer than
    /// [`limits::TIME_AFTER_STOP`]. Only the first token set counts.
    pub fn stop_with(&self, stop: CancellationToken) {
        let _ = self.0.stop.set(stop);
    }

    /// What a plugin declares. Reads it, but neither compiles nor runs it.
    ///
    /// # Errors
    /// There is no such plugin, it cannot be read, or this host cannot run it.
    pub async fn info(&self, name: &str) -> Result<Arc<PluginInfo>, Arc<LoadError>> {
        self.0.loader.info(name).await
    }

    /// All plugins by name.
    pub async fn list(&self) -> Vec<Listed> {
        let mut all = Vec::new();
        for (name, built_in) in self.0.loader.names() {
            all.push(Listed {
                info: self.0.loader.info(&name).await,
                name,
                built_in,
            });
        }
        all
    }

    /// Compiles a plugin into the cache, if it is not there, to fill that of an image. Returns whether it is there now; a failure
    /// to store it has been logged.
    ///
    /// # Errors
    /// As [`Plugins::prepare`].
    pub async fn precompile(&self, name: &str) -> Result<bool, Arc<LoadError>> {
        Ok(self.0.loader.load(name).await?.is_kept)
    }

    /// Whether a plugin can be called without loading it first.
    #[must_use]
    pub fn is_loaded(&self, name: &str) -> bool {
        matches!(self.0.loader.known(name), Some(Ok(_)))
    }

    /// Loads a plugin if that has not been done, and compiles it if need be, without a time limit here. Loading goes on if the
    /// caller stops waiting.
    ///
    /// # Errors
    /// As [`Plugins::info`], and the plugin does not compile or fit the host.
    pub async fn prepare(&self, name: &str) -> Result<Arc<PluginInfo>, Arc<LoadError>> {
        let loaded = self.0.loader.load(name).await?;
        Ok(Arc::clone(&loaded.info))
    }

    /// The origins of the endpoints in a job's configuration: where the job may send requests, and its secrets.
    ///
    /// # Errors
    /// `plugin.invalid-config` if the plugin finds mistakes in it; as [`Plugins::check_configs`], as a source.
    pub async fn endpoints(&self, name: &str, config: &Value) -> Result<Arc<[Origin]>, Failure> {
        if let Some(known) = self.0.loader.endpoints_at_hand(name, config) {
            return known.map_err(|wrong| wrong.to_failure(name));
        }
        let configs = [config];
        let judged = self.check_configs(name, PluginWorld::Source, &configs);
        let judged = judged.await.map_err(|error| error.to_failure())?;
        let judgement = judged.into_iter().next().unwrap_or_default();
        match WrongConfig::of(&judgement) {
            None => Ok(judgement.endpoints.into()),
            Some(wrong) => Err(wrong.to_failure(name)),
        }
    }

    /// The same for a configuration that was validated before; none: it was not, or has mistakes.
    #[must_use]
    pub fn endpoints_at_hand(&self, name: &str, config: &Value) -> Option<Arc<[Origin]>> {
        self.0.loader.endpoints_at_hand(name, config)?.ok()
    }

    /// Whether a configuration was validated before.
    #[must_use]
    pub fn is_judged(&self, name: &str, config: &Value) -> bool {
        self.0.loader.endpoints_at_hand(name, config).is_some()
    }

    /// Validates each of a plugin's configurations by its own schema; without a schema, every configuration is valid.
    ///
    /// # Errors
    /// As [`Plugins::info`], the plugin is for another world, or its schema cannot validate configurations.
    pub async fn check_configs(
        &self,
        name: &str,
        world: PluginWorld,
        configs: &[&Value],
    ) -> Result<Vec<Judgement>, Arc<LoadError>> {
        let info = self.info(name).await?;
        load::require(name, &info, world)?;
        self.0.loader.judgements(name, &info, configs).await
    }

    /// The mistakes in one configuration, as [`Plugins::check_configs`].
    ///
    /// # Errors
    /// As there.
    pub async fn check_config(
        &self,
        name: &str,
        world: PluginWorld,
        config: &Value,
    ) -> Result<Vec<SchemaMistake>, Arc<LoadError>> {
        let judged = self.check_configs(name, world, &[config]).await?;
        Ok(judged.into_iter().flat_map(|it| it.mistakes).collect())
    }

    /// The source plugin of this name, as [`Plugins::prepare`] loaded it: one call uses one plugin, even if it is replaced
    /// meanwhile.
    ///
    /// # Errors
    /// The last failure of [`Plugins::prepare`], or the plugin is not a source.
    pub async fn source(&self, name: &str) -> Result<SourcePlugin, Failure> {
        Ok(SourcePlugin {
            loaded: self.loaded(name, PluginWorld::Source).await?,
            plugins: self.clone(),
            name: name.to_owned(),
        })
    }

    /// Turns tokens into an output's content: one call of a formatter plugin, in a fresh instance, within
    /// [`limits::FORMAT_TIME`].
    ///
    /// # Errors
    /// The plugin's own failure; `plugin.*` when it cannot be loaded, a limit ended the call, or its artifacts are invalid.
    pub async fn format(
        &self,
        plugin: &str,
        tokens: &[NamedToken],
        config: &Value,
    ) -> Result<Vec<Artifact>, Failure> {
        let loaded = self.loaded(plugin, PluginWorld::Formatter).await?;
        let limits = self.0.limits.load_full();
        let Prepared::Formatter(formatter) = &loaded.prepared else {
            return Err(
                load::wrong_world(plugin, &loaded.info, PluginWorld::Formatter).to_failure(),
            );
        };
        let bounds = self.bounds(&limits, limits::FORMAT_TIME);
        let log = FormatLog::new(plugin, tokens, &limits);
        let full_name = full_name(plugin, &loaded.info);
        let said = log.scrubber();
        let artifacts = v0_1::format(formatter, &bounds, log, tokens, config)
            .await
            .unwrap_or_else(|error| Err(error.into_failure(&full_name)))?;
        formatting::check_artifacts(&full_name, &artifacts, &limits, &said, tokens)?;
        Ok(artifacts)
    }

    /// A plugin for a call, or its last load failure. It is loaded here only if no load was tried yet: a call's time limit is not
    /// meant for that.
    async fn loaded(
        &self,
        name: &str,
        world: PluginWorld,
    ) -> Result<Arc<load::LoadedPlugin>, Failure> {
        let loaded = match self.0.loader.known(name) {
            Some(known) => known?,
            None => {
                let loaded = self.0.loader.load(name).await;
                loaded.map_err(|error| error.to_failure())?
            }
        };
        load::require(name, &loaded.info, world).map_err(|error| error.to_failure())?;
        Ok(loaded)
    }

    fn bounds<'a>(&'a self, limits: &'a PluginLimits, timeout: Duration) -> CallBounds<'a> {
        CallBounds {
            ticker: &self.0.ticker,
            limits,
            timeout,
            stop: self.0.stop.get(),
        }
    }
}

/// A source plugin that is ready to be called.
#[derive(Clone)]
pub struct SourcePlugin {
    plugins: Plugins,
    name: String,
    loaded: Arc<load::LoadedPlugin>,
}

impl fmt::Debug for SourcePlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourcePlugin")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl SourcePlugin {
    /// What it declares.
    #[must_use]
    pub fn info(&self) -> &Arc<PluginInfo> {
        &self.loaded.info
    }

    /// The origins of the endpoints in a configuration, as [`Plugins::endpoints`].
    ///
    /// # Errors
    /// As there.
    pub async fn endpoints(&self, config: &Value) -> Result<Arc<[Origin]>, Failure> {
        self.plugins.endpoints(&self.name, config).await
    }

    /// Obtains a token: one call, in a fresh instance, within the job's timeout.
    ///
    /// # Errors
    /// The plugin's own failure; `plugin.*` when a limit ended the call.
    pub async fn acquire(
        &self,
        job: &Job,
        call: &Call,
        attempt: u32,
        previous_expires_at: Option<Timestamp>,
    ) -> Result<Token, Unsuccessful> {
        let Prepared::Source(source) = &self.loaded.prepared else {
            let failure =
                load::wrong_world(&self.name, self.info(), PluginWorld::Source).to_failure();
            return Err(Unsuccessful::Broke(failure));
        };
        let limits = self.plugins.0.limits.load_full();
        let bounds = self.plugins.bounds(&limits, job.source.timeout);
        let request = Acquire {
            job: &job.id.name,
            config: &job.source.config,
            attempt,
            previous_expires_at,
        };
        match v0_1::acquire(source, &bounds, call, &request).await {
            Ok(said) => said.map_err(Unsuccessful::Said),
            Err(error) => {
                let failure = error.into_failure(&full_name(&self.name, self.info()));
                Err(Unsuccessful::Broke(failure))
            }
        }
    }
}

/// Checks that the schema of a plugin that is not in the list can validate configurations.
///
/// # Errors
/// It cannot.
pub async fn check_schema(info: &PluginInfo) -> Result<(), JudgeError> {
    match &info.schema {
        Some(schema) => judge::judgements(&Compiler::ThisProgram, schema, &[])
            .await
            .map(drop),
        None => Ok(()),
    }
}

/// A plugin in a message: name and digest, since the name may refer to another file later.
fn full_name(name: &str, info: &PluginInfo) -> String {
    format!("`{name}` ({})", info.digest.short())
}

#[cfg(test)]
mod tests;
