//! The loader: from a plugin's name to a linked component. It finds the file, reads it, compares its digest, inspects, compiles
//! and links it. Each step runs once per digest, however many callers wait; a failure is returned to all of them, and the step is
//! tried again when the file changes, or after a while if the failure may pass.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinError;
use tokio::time::Instant;
use wasmtime::Engine;

use super::built_in::{BUILT_IN, BuiltIn};
use super::cache::{Cache, CacheError, CacheOutcome, CacheSettings, Compiler};
use super::endpoints::{Endpoints, WrongConfig};
use super::engine::BoxError;
use super::inspect::{Digest, InspectError, PluginInfo, PluginWorld, inspect};
use super::judge::{self, JudgeError};
use super::limits;
use super::schema::Judgement;
use super::v0_1::{Linkers, Prepared};
use crate::file::{self, Stamp};
use crate::form::list;
use crate::model::failure::{Failure, FailureKind, HostCode, with_causes};
use crate::model::{CurrentLimits, Origin, PluginFile};
use crate::names::nearest;

/// Why a plugin cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No plugin has this name.
    #[error("there is no plugin `{name}`{}; {}", maybe(nearest.as_deref()), known(known_names))]
    NotFound {
        /// The name.
        name: String,
        /// A similar name.
        nearest: Option<String>,
        /// All names.
        known_names: Vec<String>,
    },
    /// The file cannot be read.
    #[error("cannot read plugin `{name}` from {}", path.display())]
    Unreadable {
        /// The plugin's name.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file's digest is not the configured one.
    #[error(
        "plugin `{name}` in {} has the SHA-256 {found}, not {expected} as `plugins.{name}.sha256` says; put back the right file, or, if you trust this one, its digest",
        path.display()
    )]
    DigestMismatch {
        /// The plugin's name.
        name: String,
        /// Its file.
        path: PathBuf,
        /// The configured digest.
        expected: Digest,
        /// The file's digest.
        found: Digest,
    },
    /// This host cannot run it.
    #[error("plugin `{name}` cannot be used")]
    Refused {
        /// The plugin's name.
        name: String,
        /// Why.
        #[source]
        source: InspectError,
    },
    /// Its schema cannot validate any configuration.
    #[error("plugin `{name}` cannot be used")]
    Schema {
        /// The plugin's name.
        name: String,
        /// Why.
        #[source]
        source: JudgeError,
    },
    /// It is a plugin of the other world.
    #[error("plugin `{name}` ({digest}) is a {found} and cannot be used as a {wanted}; {}", advice(*wanted))]
    WrongWorld {
        /// The plugin's name.
        name: String,
        /// The beginning of its digest.
        digest: String,
        /// The plugin's world.
        found: PluginWorld,
        /// The world that is needed.
        wanted: PluginWorld,
    },
    /// It does not compile.
    #[error("plugin `{name}` cannot be compiled")]
    Compile {
        /// The plugin's name.
        name: String,
        /// Why.
        #[source]
        source: CacheError,
    },
    /// A bug of ours, or the process is ending.
    #[error("something in evertoken stopped the loading of plugin `{name}`")]
    Stopped {
        /// The plugin's name.
        name: String,
        /// Why.
        #[source]
        source: JoinError,
    },
    /// It does not link, although inspection found nothing.
    #[error("plugin `{name}` does not fit this host")]
    Link {
        /// The plugin's name.
        name: String,
        /// Why.
        #[source]
        source: BoxError,
    },
}

impl LoadError {
    /// The stable code of the failure that a job gets.
    #[must_use]
    pub const fn code(&self) -> HostCode {
        match self {
            Self::NotFound { .. } => HostCode::PluginNotFound,
            Self::Unreadable { .. } => HostCode::PluginUnreadable,
            Self::DigestMismatch { .. } => HostCode::PluginDigestMismatch,
            Self::Refused { source, .. } => source.code(),
            Self::Schema { .. } => HostCode::PluginInvalidSchema,
            Self::WrongWorld { .. } => HostCode::PluginWrongWorld,
            Self::Compile {
                source: CacheError::TooSlow { .. },
                ..
            } => HostCode::PluginCompileTimeout,
            Self::Compile { .. } => HostCode::PluginCompile,
            Self::Stopped { .. } => HostCode::HostPanic,
            Self::Link { .. } => HostCode::PluginMissingImport,
        }
    }

    /// The failure that a job reports.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let kind = match self {
            Self::Stopped { .. } => FailureKind::Internal,
            Self::Compile { source, .. } if source.is_costly() => FailureKind::Internal,
            Self::Compile { .. } | Self::Schema { .. } if !self.is_lasting() => {
                FailureKind::Unavailable
            }
            _ => FailureKind::InvalidConfig,
        };
        Failure::new(kind, self.code(), with_causes(self))
    }

    /// Whether the same file would fail again.
    const fn is_lasting(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::Stopped { .. } => false,
            Self::Compile { source, .. } => source.is_lasting(),
            Self::Schema { source, .. } => source.is_lasting(),
            _ => true,
        }
    }

    /// When the same file is tried again; none: never.
    const fn again_after(&self) -> Option<Duration> {
        match self {
            _ if self.is_lasting() => None,
            Self::Compile { source, .. } if source.is_costly() => Some(limits::COMPILE_AGAIN_AFTER),
            _ => Some(limits::LOAD_AGAIN_AFTER),
        }
    }
}

fn maybe(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

fn known(names: &[String]) -> String {
    let names = list(names.iter().map(String::as_str));
    format!("there are {names}; add others under `plugins`")
}

fn advice(wanted: PluginWorld) -> &'static str {
    match wanted {
        PluginWorld::Source => "name it under `format.plugin` of an output",
        PluginWorld::Formatter => "name it under `source.plugin` of a job",
    }
}

/// Refuses a plugin of another world than this.
pub(super) fn require(name: &str, info: &PluginInfo, world: PluginWorld) -> Result<(), LoadError> {
    if info.world == world {
        return Ok(());
    }
    Err(wrong_world(name, info, world))
}

pub(super) fn wrong_world(name: &str, info: &PluginInfo, wanted: PluginWorld) -> LoadError {
    LoadError::WrongWorld {
        name: name.to_owned(),
        digest: info.digest.short(),
        found: info.world,
        wanted,
    }
}

/// Plugins by name, as the configuration has them.
pub(super) struct Registry(BTreeMap<String, Arc<RegistryEntry>>);

pub(super) struct RegistryEntry {
    digest: Digest,
    place: ComponentSource,
    /// Whether its own file was read: another name may have the same digest.
    is_read: AtomicBool,
    failed: Mutex<Option<Failed>>,
}

/// Why a plugin could not be loaded the last time.
#[derive(Clone)]
struct Failed {
    error: Arc<LoadError>,
    /// The file that failed; none: there was none, or the plugin is part of the binary.
    stamp: Option<Stamp>,
    /// When the same file is tried again; none: never.
    again_at: Option<Instant>,
}

impl Failed {
    /// The failure of a job that needs the plugin: another attempt before the same file is tried again ends in the same one.
    fn to_failure(&self) -> Failure {
        let again_in = |at: Instant| at.saturating_duration_since(Instant::now());
        Failure {
            retry_after: self.again_at.map(again_in),
            ..self.error.to_failure()
        }
    }
}

#[derive(PartialEq, Eq)]
enum ComponentSource {
    Binary(&'static [u8]),
    File(PathBuf),
}

impl Registry {
    /// A configured plugin hides a built-in one of the same name.
    pub(super) fn new(files: &BTreeMap<String, PluginFile>) -> Self {
        let built_in = BUILT_IN.iter().map(
            |BuiltIn {
                 name,
                 bytes,
                 digest,
             }| {
                (
                    (*name).to_owned(),
                    RegistryEntry::new(*digest, ComponentSource::Binary(bytes)),
                )
            },
        );
        let configured = files.iter().map(|(name, file)| {
            let entry = RegistryEntry::new(
                Digest(file.sha256),
                ComponentSource::File(file.path.clone()),
            );
            (name.clone(), entry)
        });
        let all = built_in.chain(configured);
        Self(all.map(|(name, entry)| (name, Arc::new(entry))).collect())
    }

    /// The same with what `former` knows of those that are in both.
    pub(super) fn knowing(mut self, former: &Self) -> Self {
        for (name, entry) in &mut self.0 {
            let known = former.0.get(name);
            if let Some(known) = known.filter(|known| known.is_same(entry)) {
                *entry = Arc::clone(known);
            }
        }
        self
    }

    fn entry(&self, name: &str) -> Result<Arc<RegistryEntry>, LoadError> {
        self.0
            .get(name)
            .cloned()
            .ok_or_else(|| LoadError::NotFound {
                name: name.to_owned(),
                nearest: nearest(name, self.0.keys().map(String::as_str)).map(str::to_owned),
                known_names: self.0.keys().cloned().collect(),
            })
    }
}

impl RegistryEntry {
    fn new(digest: Digest, place: ComponentSource) -> Self {
        Self {
            digest,
            place,
            is_read: AtomicBool::new(false),
            failed: Mutex::new(None),
        }
    }

    /// The last failure, as long as another try would end in the same one.
    fn failed_before(&self) -> Option<Arc<LoadError>> {
        let failed = lock(&self.failed).clone()?;
        let is_time = failed.again_at.is_some_and(|at| at <= Instant::now());
        (!is_time && failed.stamp == self.stamp()).then_some(failed.error)
    }

    fn remember_failure(&self, stamp: Option<Stamp>, error: LoadError) -> Arc<LoadError> {
        let again_at = error.again_after().map(|after| Instant::now() + after);
        let error = Arc::new(error);
        *lock(&self.failed) = Some(Failed {
            error: Arc::clone(&error),
            stamp,
            again_at,
        });
        error
    }

    fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.place == other.place
    }

    const fn is_built_in(&self) -> bool {
        matches!(self.place, ComponentSource::Binary(_))
    }

    fn stamp(&self) -> Option<Stamp> {
        match &self.place {
            ComponentSource::Binary(_) => None,
            ComponentSource::File(path) => Stamp::of(path),
        }
    }

    /// The component's bytes, hashed before they are parsed.
    fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, LoadError> {
        match &self.place {
            ComponentSource::Binary(bytes) => Ok(Cow::Borrowed(bytes)),
            ComponentSource::File(path) => {
                let read = file::read(path, limits::COMPONENT_BYTES);
                let mut bytes = read.map_err(|why| LoadError::Unreadable {
                    name: name.to_owned(),
                    path: path.clone(),
                    source: why.into(),
                })?;
                let found = Digest::of(&bytes);
                if found != self.digest {
                    return Err(LoadError::DigestMismatch {
                        name: name.to_owned(),
                        path: path.clone(),
                        expected: self.digest,
                        found,
                    });
                }
                Ok(Cow::Owned(std::mem::take(&mut *bytes)))
            }
        }
    }
}

/// A plugin that can be called.
pub(super) struct LoadedPlugin {
    pub(super) info: Arc<PluginInfo>,
    /// With its imports resolved.
    pub(super) prepared: Prepared,
    /// Whether it is in the compile cache, so that the next process need not compile it.
    pub(super) is_kept: bool,
}

/// Loads plugins, each digest once.
pub(super) struct Loader {
    /// The plugins by name; a reload replaces it.
    registry: ArcSwap<Registry>,
    limits: CurrentLimits,
    by_digest: Arc<ByDigest>,
}

/// What is known of components whatever their names, so that several lists of names share it.
struct ByDigest {
    linkers: Linkers,
    cache: Arc<Cache>,
    compiler: Compiler,
    /// At most as many validating children run as there are cores, so that each gets its processor time within its timeout.
    judging: Semaphore,
    inspected: Mutex<BTreeMap<Digest, Arc<PluginInfo>>>,
    endpoints: Mutex<Endpoints>,
    /// Plugins whose schemas could not validate configurations.
    refused: Mutex<BTreeMap<Digest, Arc<LoadError>>>,
    /// Why the machine could not run a validation, and when it is tried again.
    unjudged: Mutex<BTreeMap<Digest, (Arc<LoadError>, Instant)>>,
    loaded: Mutex<BTreeMap<Digest, Arc<OnceCell<Arc<LoadedPlugin>>>>>,
}

impl Loader {
    pub(super) fn new(
        engine: Engine,
        files: &BTreeMap<String, PluginFile>,
        settings: CacheSettings,
        limits: CurrentLimits,
    ) -> Result<Self, BoxError> {
        let by_digest = ByDigest {
            linkers: Linkers::new(&engine)?,
            compiler: settings.compiler.clone(),
            judging: Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get)),
            cache: Arc::new(Cache::new(engine, settings)),
            inspected: Mutex::default(),
            endpoints: Mutex::default(),
            refused: Mutex::default(),
            unjudged: Mutex::default(),
            loaded: Mutex::default(),
        };
        Ok(Self {
            registry: ArcSwap::from_pointee(Registry::new(files)),
            limits,
            by_digest: Arc::new(by_digest),
        })
    }

    /// A loader of other plugins, with all that this one knows of those that are in both.
    pub(super) fn with(&self, files: &BTreeMap<String, PluginFile>, limits: CurrentLimits) -> Self {
        let registry = Registry::new(files).knowing(&self.registry.load());
        Self {
            registry: ArcSwap::from_pointee(registry),
            limits,
            by_digest: Arc::clone(&self.by_digest),
        }
    }

    /// Takes over the plugins of another loader.
    pub(super) fn adopt(&self, other: &Self) {
        self.registry.store(other.registry.load_full());
    }

    /// All names, and whether each is part of the binary.
    pub(super) fn names(&self) -> Vec<(String, bool)> {
        let registry = self.registry.load();
        let entries = registry.0.iter();
        entries
            .map(|(name, entry)| (name.clone(), entry.is_built_in()))
            .collect()
    }

    fn entry(&self, name: &str) -> Result<Arc<RegistryEntry>, LoadError> {
        self.registry.load().entry(name)
    }

    /// What the plugin declares.
    pub(super) async fn info(&self, name: &str) -> Result<Arc<PluginInfo>, Arc<LoadError>> {
        let entry = self.entry(name)?;
        self.is_not_refused(&entry)?;
        if let Some(info) = lock(&self.by_digest.inspected).get(&entry.digest)
            && entry.is_read.load(Ordering::Relaxed)
        {
            return Ok(Arc::clone(info));
        }
        if let Some(error) = entry.failed_before() {
            return Err(error);
        }
        let stamp = entry.stamp();
        let read = self.read(name, &entry).await;
        read.map(|(info, _)| info)
            .map_err(|error| entry.remember_failure(stamp, error))
    }

    /// The plugin, ready to be called. Concurrent callers share one load, which goes on if one of them stops waiting.
    pub(super) async fn load(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Arc<LoadedPlugin>, Arc<LoadError>> {
        if let Some(Ok(loaded)) = self.known(name) {
            return Ok(loaded);
        }
        let (loader, owned) = (Arc::clone(self), name.to_owned());
        let loading = tokio::spawn(async move { loader.load_once(&owned).await });
        loading.await.unwrap_or_else(|source| {
            Err(Arc::new(LoadError::Stopped {
                name: name.to_owned(),
                source,
            }))
        })
    }

    async fn load_once(&self, name: &str) -> Result<Arc<LoadedPlugin>, Arc<LoadError>> {
        let entry = self.entry(name)?;
        self.is_not_refused(&entry)?;
        let cell = Arc::clone(
            lock(&self.by_digest.loaded)
                .entry(entry.digest)
                .or_default(),
        );
        let loading = cell.get_or_try_init(async || {
            // Callers that waited for the load that failed get its failure.
            if let Some(error) = entry.failed_before() {
                return Err(error);
            }
            let stamp = entry.stamp();
            self.load_now(name, &entry)
                .await
                .map(Arc::new)
                .map_err(|error| entry.remember_failure(stamp, error))
        });
        loading.await.map(Arc::clone)
    }

    /// The result of the last load; none: the plugin was never loaded, or is being loaded for the first time.
    pub(super) fn known(&self, name: &str) -> Option<Result<Arc<LoadedPlugin>, Failure>> {
        let entry = self.entry(name).ok()?;
        if let Err(refused) = self.is_not_refused(&entry) {
            return Some(Err(refused.to_failure()));
        }
        let cell = lock(&self.by_digest.loaded).get(&entry.digest).cloned();
        let loaded = cell.and_then(|cell| cell.get().cloned());
        let failed = || lock(&entry.failed).as_ref().map(Failed::to_failure);
        loaded.map(Ok).or_else(|| failed().map(Err))
    }

    fn is_not_refused(&self, entry: &RegistryEntry) -> Result<(), Arc<LoadError>> {
        match lock(&self.by_digest.refused).get(&entry.digest) {
            Some(error) => Err(Arc::clone(error)),
            None => Ok(()),
        }
    }

    async fn load_now(
        &self,
        name: &str,
        entry: &Arc<RegistryEntry>,
    ) -> Result<LoadedPlugin, LoadError> {
        let digest = entry.digest;
        let (info, bytes) = self.read(name, entry).await?;
        let time = self.limits.load().compile_time;
        let (component, found) = self
            .by_digest
            .cache
            .component(name, digest, bytes, time)
            .await
            .map_err(|source| LoadError::Compile {
                name: name.to_owned(),
                source,
            })?;
        tracing::debug!(plugin = name, digest = %digest.short(), ?found, "plugin loaded");
        let prepared = self.by_digest.linkers.prepare(&component, info.world);
        Ok(LoadedPlugin {
            info,
            prepared: prepared.map_err(|source| LoadError::Link {
                name: name.to_owned(),
                source,
            })?,
            is_kept: found != CacheOutcome::CompiledUnkept,
        })
    }

    /// Validates `configs` against the schema of the plugin with this name, but leaves out the last ones if the others have very
    /// many mistakes. A plugin whose schema cannot validate them is refused from then on, since its view of them is unknown.
    pub(super) async fn judgements(
        &self,
        name: &str,
        info: &PluginInfo,
        configs: &[&Value],
    ) -> Result<Vec<Judgement>, Arc<LoadError>> {
        if let Some((error, again_at)) = lock(&self.by_digest.unjudged).get(&info.digest)
            && Instant::now() < *again_at
        {
            return Err(Arc::clone(error));
        }
        let judged = self.judged(name, info, configs).await.map_err(|error| {
            let again_after = error.again_after();
            let error = Arc::new(error);
            let kept = Arc::clone(&error);
            match again_after {
                None => lock(&self.by_digest.refused)
                    .insert(info.digest, kept)
                    .map(drop),
                Some(after) => {
                    let failed = (kept, Instant::now() + after);
                    lock(&self.by_digest.unjudged)
                        .insert(info.digest, failed)
                        .map(drop)
                }
            };
            error
        })?;
        if info.world == PluginWorld::Source {
            lock(&self.by_digest.endpoints).keep(info.digest, configs, &judged);
        }
        Ok(judged)
    }

    /// The origins of the endpoints in a configuration that was validated before.
    pub(super) fn endpoints_at_hand(
        &self,
        name: &str,
        config: &Value,
    ) -> Option<Result<Arc<[Origin]>, WrongConfig>> {
        let entry = self.entry(name).ok()?;
        lock(&self.by_digest.endpoints).get(entry.digest, config)
    }

    async fn judged(
        &self,
        name: &str,
        info: &PluginInfo,
        configs: &[&Value],
    ) -> Result<Vec<Judgement>, LoadError> {
        let Some(schema) = &info.schema else {
            return Ok(vec![Judgement::default(); configs.len()]);
        };
        let judged = if self.entry(name)?.is_built_in() {
            let each = configs.iter().map(|config| info.judge_config(config));
            each.collect::<Result<_, _>>()
                .map_err(|message| JudgeError::Wrong { message })
        } else {
            let _turn = self.by_digest.judging.acquire().await;
            judge::judgements(&self.by_digest.compiler, schema, configs).await
        };
        judged.map_err(|source| LoadError::Schema {
            name: name.to_owned(),
            source,
        })
    }

    /// Reads, compares and inspects without blocking other tasks of the process, and has a schema validated that is new.
    async fn read(
        &self,
        name: &str,
        entry: &Arc<RegistryEntry>,
    ) -> Result<(Arc<PluginInfo>, Cow<'static, [u8]>), LoadError> {
        let (entry, owned) = (Arc::clone(entry), name.to_owned());
        let work = move || {
            let bytes = entry.read(&owned)?;
            entry.is_read.store(true, Ordering::Relaxed);
            let info = inspect(&bytes).map_err(|source| LoadError::Refused {
                name: owned.clone(),
                source,
            })?;
            Ok((Arc::new(info), bytes))
        };
        let (info, bytes) = match tokio::task::spawn_blocking(work).await {
            Ok(result) => result?,
            Err(source) => {
                return Err(LoadError::Stopped {
                    name: name.to_owned(),
                    source,
                });
            }
        };
        let was_seen = lock(&self.by_digest.inspected).contains_key(&info.digest);
        if !was_seen {
            self.judged(name, &info, &[]).await?;
            lock(&self.by_digest.inspected).insert(info.digest, Arc::clone(&info));
        }
        Ok((info, bytes))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::model::PluginLimits;
    use crate::model::defaults::plugin_limits;
    use crate::plugin::engine::new_engine;

    fn limits(compile_time: Duration) -> CurrentLimits {
        let limits = PluginLimits {
            compile_time,
            ..plugin_limits()
        };
        limits.current()
    }

    /// A plugin in a file, and a compiler that records each of its starts and then does as `script` says.
    struct Bench {
        directory: tempfile::TempDir,
        loader: Arc<Loader>,
    }

    impl Bench {
        fn new(script: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| directory.path().join(name);
            let script = format!("#!/bin/sh\necho >> {}\n{script}\n", at("starts").display());
            std::fs::write(at("compiler"), script).unwrap();
            std::fs::set_permissions(at("compiler"), PermissionsExt::from_mode(0o700)).unwrap();
            let dummy = BUILT_IN
                .iter()
                .find(|plugin| plugin.name == "dummy")
                .unwrap();
            std::fs::write(at("acme.wasm"), dummy.bytes).unwrap();
            let file = PluginFile {
                path: at("acme.wasm"),
                sha256: dummy.digest.0,
            };
            let files = BTreeMap::from([("acme".to_owned(), file)]);
            let settings = CacheSettings {
                compiler: Compiler::Program(at("compiler")),
                ..CacheSettings::default()
            };
            let time = Duration::from_secs(60);
            // Marked as validated: validation takes the real program.
            let loader =
                Loader::new(new_engine().unwrap(), &files, settings, limits(time)).unwrap();
            let info = Arc::new(inspect(dummy.bytes).unwrap());
            lock(&loader.by_digest.inspected).insert(info.digest, info);
            let entry = loader.entry("acme").unwrap();
            entry.is_read.store(true, Ordering::Relaxed);
            Self {
                directory,
                loader: Arc::new(loader),
            }
        }

        /// How many compilers are started if this many callers ask for the plugin at once.
        async fn starts_after(&self, many: usize) -> usize {
            let asking: Vec<_> = (0..many)
                .map(|_| {
                    let loader = Arc::clone(&self.loader);
                    tokio::spawn(async move { loader.load("acme").await.map(drop) })
                })
                .collect();
            for asked in asking {
                asked.await.unwrap().unwrap_err();
            }
            let starts = std::fs::read(self.directory.path().join("starts"));
            starts.unwrap_or_default().len()
        }

        /// Lets the longest wait before another try pass.
        fn let_time_pass(&self) {
            let entry = self.loader.entry("acme").unwrap();
            let mut failed = lock(&entry.failed);
            let again_at = &mut failed.as_mut().unwrap().again_at;
            *again_at = again_at.map(|_| Instant::now());
        }
    }

    #[tokio::test]
    async fn all_who_wait_share_one_failure_and_it_is_tried_again_if_it_may_end_better() {
        for (script, code, again) in [
            (
                "echo 'no such instruction' >&2; exit 1",
                "plugin.compile",
                false,
            ),
            ("kill -9 $$", "plugin.compile", true),
            ("cat >/dev/null; echo garbage", "plugin.compile", true),
        ] {
            let bench = Bench::new(script);
            assert_eq!(bench.starts_after(20).await, 1, "{script}: all at once");
            assert_eq!(bench.starts_after(20).await, 1, "{script}: soon after");
            bench.let_time_pass();
            // The known result is returned meanwhile: a call does not wait for another try.
            let known = bench.loader.known("acme").unwrap();
            let failure = known.map(drop).unwrap_err();
            assert_eq!(failure.code(), Some(code));
            assert_eq!(failure.retry_after, again.then_some(Duration::ZERO));
            let expected = 1 + usize::from(again);
            assert_eq!(bench.starts_after(20).await, expected, "{script}: later");
            let path = bench.directory.path().join("acme.wasm");
            let same = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, same).unwrap();
            assert_eq!(
                bench.starts_after(20).await,
                expected + 1,
                "{script}: another file"
            );
        }
    }

    #[tokio::test]
    async fn a_judgement_that_the_machine_had_no_means_for_is_tried_again_a_little_later() {
        let bench = Bench::new("kill -9 $$");
        let starts = || std::fs::read(bench.directory.path().join("starts")).unwrap();
        let info = bench.loader.info("acme").await.unwrap();
        let judge = async || {
            let config = serde_json::json!({});
            let judged = bench.loader.judgements("acme", &info, &[&config]).await;
            judged.unwrap_err()
        };
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(judge().await.to_failure().kind, FailureKind::Unavailable);
        }
        assert!(began.elapsed() < limits::LOAD_AGAIN_AFTER);
        assert_eq!(starts().len(), 1);
        // Calls that need no judgement go on meanwhile.
        bench.loader.info("acme").await.unwrap();
        for (_, again_at) in lock(&bench.loader.by_digest.unjudged).values_mut() {
            *again_at = Instant::now();
        }
        judge().await;
        assert_eq!(starts().len(), 2);
    }

    #[tokio::test]
    async fn a_file_is_missed_even_if_another_name_has_the_same_bytes() {
        let bench = Bench::new("exit 1");
        let acme = bench.loader.entry("acme").unwrap();
        let ComponentSource::File(path) = &acme.place else {
            panic!("acme is in a file");
        };
        let file = |path: &Path| PluginFile {
            path: path.to_owned(),
            sha256: acme.digest.0,
        };
        let files = BTreeMap::from([
            ("acme".to_owned(), file(path)),
            (
                "other".to_owned(),
                file(Path::new("/nonexistent/acme.wasm")),
            ),
        ]);
        let settings = CacheSettings {
            compiler: Compiler::InProcess,
            ..CacheSettings::default()
        };
        let time = Duration::from_secs(60);
        let loader = Loader::new(new_engine().unwrap(), &files, settings, limits(time)).unwrap();
        loader.info("acme").await.unwrap();
        let missed = loader.info("other").await.unwrap_err();
        assert_eq!(missed.code().as_str(), "plugin.unreadable");
    }

    #[test]
    fn what_took_the_compilers_time_in_vain_is_tried_again_last() {
        let compile = |source| LoadError::Compile {
            name: "acme".to_owned(),
            source,
        };
        let io = || std::io::Error::other("no");
        let limit = Duration::from_secs(600);
        for (error, kind, code, again) in [
            (
                CacheError::Rejected {
                    message: "no".to_owned(),
                },
                FailureKind::InvalidConfig,
                "plugin.compile",
                None,
            ),
            (
                CacheError::TooSlow { limit },
                FailureKind::Internal,
                "plugin.compile-timeout",
                Some(600),
            ),
            (
                CacheError::Spawn {
                    program: "evertoken".to_owned(),
                    source: io(),
                },
                FailureKind::Unavailable,
                "plugin.compile",
                Some(10),
            ),
            (
                CacheError::File(io()),
                FailureKind::Unavailable,
                "plugin.compile",
                Some(10),
            ),
        ] {
            let error = compile(error);
            let failure = error.to_failure();
            assert_eq!((failure.kind, failure.code()), (kind, Some(code)));
            assert_eq!(
                error.again_after(),
                again.map(Duration::from_secs),
                "{failure}"
            );
        }
    }
}
