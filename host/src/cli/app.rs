//! Assembles the application: from a checked configuration to something that can run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use secrecy::{ExposeSecret as _, SecretSlice};
use tokio_util::sync::CancellationToken;

use crate::capability::{self, Network, process_environment};
use crate::file;
use crate::kubernetes::Kubernetes;
use crate::model::time::SystemClock;
use crate::model::{Config, PluginFile, PluginLimits, SecretOrigin, StateLocation};
use crate::output::{Outputs, WriteBackTargets};
use crate::plugin::{CacheSettings, Compiler, Plugins};
use crate::runner::live::Live;
use crate::runner::ports::Ports;
use crate::state::manual::Manual;
use crate::state::{ClusterPlace, Looked, StateError, StateKey, Store};

/// The components that jobs need.
#[derive(Clone)]
pub(super) struct App {
    /// The plugins, built in and configured.
    pub(super) plugins: Plugins,
    /// The host functions for plugins.
    pub(super) capabilities: capability::Host,
    /// The runner's dependencies.
    pub(super) ports: Ports,
    /// Operations on the state store for people.
    pub(super) state: Manual,
    /// The state store.
    pub(super) store: Arc<Store>,
    /// The places of tokens.
    pub(super) outputs: Arc<Outputs>,
    /// The cluster.
    pub(super) kubernetes: Arc<Kubernetes>,
}

impl App {
    /// Opens the state store and connects the components, until `stop`. Reads no secret but the store's keys. The plugins have judged the
    /// options of the jobs before.
    ///
    /// # Errors
    /// The store cannot be opened, or one of its keys cannot be read.
    pub(super) async fn open(
        config: &Config,
        plugins: Plugins,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let kubernetes = Arc::new(Kubernetes::new());
        let store = Arc::new(open_store(&config.state, &kubernetes).await?);
        let capabilities = capability::Host::new(capability::Settings {
            limits: plugins.limits(),
            keeper: Arc::clone(&store) as _,
            kubernetes: Some(Arc::clone(&kubernetes) as _),
            write_back: Some(Arc::new(WriteBackTargets::new(Arc::clone(&kubernetes)))),
            transport: Arc::new(Network::new(Arc::new(SystemClock))),
            clock: Arc::new(SystemClock),
            environment: process_environment(),
        });
        plugins.stop_with(stop.clone());
        let named = Arc::clone(&config.named);
        let outputs = Arc::new(Outputs::new(Arc::clone(&kubernetes), named));
        let live = Arc::new(Live::new(
            Arc::new(plugins.clone()),
            capabilities.clone(),
            Arc::clone(&outputs) as _,
        ));
        let holder = Some(capabilities.holder());
        let state = Manual::new(Arc::clone(&store), holder, Arc::new(SystemClock));
        let ports = Ports::live(Arc::clone(&live) as _, live, Arc::clone(&store) as _);
        Ok(Self {
            plugins,
            capabilities,
            ports,
            state,
            store,
            outputs,
            kubernetes,
        })
    }
}

/// The built-in plugins and these, with the process's compile cache.
///
/// # Errors
/// The engine cannot be made.
pub(super) fn plugins(
    files: &BTreeMap<String, PluginFile>,
    limits: &PluginLimits,
) -> anyhow::Result<Plugins> {
    Ok(Plugins::new(
        files,
        limits.clone(),
        cache(|name| std::env::var_os(name)),
    )?)
}

/// The image's read-only compile cache of the built-in plugins.
const PREFILLED_CACHE: &str = "/usr/share/evertoken/cache";

/// The compile cache: systemd's `CacheDirectory=`, else the XDG base directory; none: each process compiles anew.
fn cache(environment: impl Fn(&str) -> Option<OsString>) -> CacheSettings {
    let folder = |name: &str| {
        environment(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let user = folder("XDG_CACHE_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".cache")))
        .map(|caches| caches.join("evertoken"));
    CacheSettings {
        directory: folder("CACHE_DIRECTORY").or(user),
        prefilled: Some(PathBuf::from(PREFILLED_CACHE)).filter(|path| path.is_dir()),
        compiler: Compiler::ThisProgram,
    }
}

/// Opens the store that a configuration names.
///
/// # Errors
/// It cannot be opened, or one of its keys cannot be read.
pub(super) async fn open_store(
    location: &StateLocation,
    kubernetes: &Arc<Kubernetes>,
) -> anyhow::Result<Store> {
    match location {
        StateLocation::Memory => Ok(Store::memory()?),
        StateLocation::Directory { path, keys } => {
            let keys = read_keys(keys, kubernetes).await?;
            let path: PathBuf = path.clone();
            tokio::task::spawn_blocking(move || Store::open(&path, keys))
                .await?
                .context("cannot open the state store")
        }
        StateLocation::Secrets {
            namespace,
            prefix,
            keys,
        } => {
            let keys = read_keys(keys, kubernetes).await?;
            let place = ClusterPlace {
                namespace: namespace.clone(),
                prefix: prefix.clone(),
            };
            Store::in_cluster(Arc::clone(kubernetes), place, keys)
                .await
                .context("cannot open the state store")
        }
    }
}

/// Checks that the state store could be used, beside a process that may have it open, and describes it.
///
/// # Errors
/// All problems.
pub(super) async fn prove_store(location: &StateLocation) -> Result<String, Vec<String>> {
    let kubernetes = Arc::new(Kubernetes::new());
    match location {
        StateLocation::Memory => Ok("is kept in memory".to_owned()),
        StateLocation::Directory { path, keys } => {
            let looked_at = path.clone();
            let looked = tokio::task::spawn_blocking(move || Store::look(&looked_at)).await;
            let found = match looked {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => return Err(with_keys(error.to_string(), keys, &kubernetes).await),
                Err(error) => return Err(vec![error.to_string()]),
            };
            let shown = path.display();
            if found == Looked::NoStore {
                let read = read_keys(keys, &kubernetes).await;
                read.map_err(|error| vec![format!("{error:#}")])?;
                return Ok(format!("can be made in {shown}"));
            }
            match open_store(location, &kubernetes).await {
                Ok(_) => Ok(format!("in {shown} can be opened and written")),
                Err(error) => match error.downcast_ref() {
                    Some(StateError::Locked { holder, .. }) => Ok(format!(
                        "in {shown} can be written, and {holder} has it open; whether its records can be read with the configured key is not tried meanwhile"
                    )),
                    _ => Err(vec![format!("{error:#}")]),
                },
            }
        }
        StateLocation::Secrets {
            namespace,
            prefix,
            keys,
        } => {
            let place = ClusterPlace {
                namespace: namespace.clone(),
                prefix: prefix.clone(),
            };
            let keys = read_keys(keys, &kubernetes).await;
            let (keys, unreadable) = match keys {
                Ok(keys) => (Some(keys), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            };
            let looked = Store::look_in_cluster(Arc::clone(&kubernetes), place, keys).await;
            let missing: Vec<String> = looked
                .err()
                .map(|failure| failure.message)
                .into_iter()
                .chain(unreadable)
                .collect();
            if missing.is_empty() {
                return Ok(format!("in Secrets of {namespace} can be read and written"));
            }
            Err(missing)
        }
    }
}

/// The problem with the store, and those with its keys.
async fn with_keys(missing: String, keys: &[SecretOrigin], kubernetes: &Kubernetes) -> Vec<String> {
    let keys = read_keys(keys, kubernetes).await.err();
    let keys = keys.map(|error| format!("{error:#}"));
    [missing].into_iter().chain(keys).collect()
}

/// Bytes of a state key's file: 32 in hex, with room for white space around.
const STATE_KEY_MAX_BYTES: usize = 4096;

/// Reads the keys of a state store.
///
/// # Errors
/// One cannot be read, or is no key.
pub(super) async fn read_keys(
    keys: &[SecretOrigin],
    kubernetes: &Kubernetes,
) -> anyhow::Result<Vec<StateKey>> {
    let mut parsed = Vec::with_capacity(keys.len());
    for key in keys {
        let content = read_key(key, kubernetes)
            .await
            .context("cannot read a key of `state.key`")?;
        parsed.push(
            StateKey::parse(content.expose_secret())
                .with_context(|| format!("cannot use {key} as a key of `state.key`"))?,
        );
    }
    Ok(parsed)
}

/// A key of the store is read once, before any job exists, so no job's restrictions apply to it.
async fn read_key(key: &SecretOrigin, kubernetes: &Kubernetes) -> anyhow::Result<SecretSlice<u8>> {
    match key {
        SecretOrigin::File(path) => {
            let to_read = path.clone();
            let read = move || file::read_own(&to_read, STATE_KEY_MAX_BYTES);
            let content = file::aside(path, read).await.flatten();
            let content = content.with_context(|| format!("cannot read {}", path.display()))?;
            Ok(SecretSlice::from(content.to_vec()))
        }
        SecretOrigin::Env(name) => {
            let value = std::env::var_os(name)
                .with_context(|| format!("environment variable {name} is not set"))?;
            Ok(SecretSlice::from(value.into_vec()))
        }
        SecretOrigin::KubernetesSecret {
            namespace,
            name,
            key,
            pointer: None,
        } => Ok(kubernetes.secret_key(namespace, name, key).await?),
        other => Err(anyhow!(
            "{other} cannot hold a key of the state store; use file, env or secret"
        )),
    }
}
