//! A watch of Secrets by their metadata: their data is not sent. The library lists and watches, and goes on after a cut, a bookmark or
//! `410 Gone`; after an error it begins anew with the credential of then.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use futures_core::Stream as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event, watcher};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Kubernetes;

/// The pause before a watch that failed begins anew: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// So often a watch that was cut goes on where it was, before it begins anew with another connection and credential.
const TRIES: u32 = 3;

/// Writes of our own that are remembered: those of ten thousand Secrets between their write and its event.
const OWN_WRITES: usize = 10_000;

/// An object's namespace and name.
pub(crate) type ObjectKey = (String, String);

/// What is known of an object without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectMetadata {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    /// Those that the watch is about.
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) is_terminating: bool,
}

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum WatchEvent {
    /// An object is there, or has changed.
    Changed(ObjectMetadata),
    /// An object is gone.
    Deleted(ObjectKey),
    /// These are all objects of this namespace, or of all.
    Listed(Option<String>, BTreeSet<ObjectKey>),
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    /// The namespace; none: all.
    pub(crate) namespace: Option<String>,
    /// A label selector; none: all.
    pub(crate) selector: Option<String>,
    /// What the names of wanted annotations begin with: others are not kept.
    pub(crate) prefixes: &'static [&'static str],
}

/// The resource versions of our own last writes.
#[derive(Debug, Default)]
pub(super) struct OwnWrites {
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl OwnWrites {
    pub(super) fn note(&mut self, resource_version: &str) {
        if self.known.insert(resource_version.to_owned()) {
            self.order.push_back(resource_version.to_owned());
        }
        if self.order.len() > OWN_WRITES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn has(&self, resource_version: &str) -> bool {
        self.known.contains(resource_version)
    }
}

impl Kubernetes {
    /// Watches Secrets until the receiver is gone.
    pub(crate) async fn watch_secrets(&self, watched: Watched, events: mpsc::Sender<WatchEvent>) {
        let mut pause = PAUSE.0;
        loop {
            match self.watch_once(&watched, &events).await {
                WatchEnd::NoReceiver => return,
                WatchEnd::Failed { was_listed, error } => {
                    if was_listed {
                        pause = PAUSE.0;
                    }
                    let namespace = watched.namespace.as_deref().unwrap_or("all namespaces");
                    warn!(
                        namespace,
                        error,
                        seconds = pause.as_secs(),
                        "the watch of Secrets failed and begins anew"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    async fn watch_once(&self, watched: &Watched, events: &mpsc::Sender<WatchEvent>) -> WatchEnd {
        let mut was_listed = false;
        let connected = match self.client().await {
            Ok(connected) => connected,
            Err(failure) => {
                let error = failure.message;
                return WatchEnd::Failed { was_listed, error };
            }
        };
        let api: Api<PartialObjectMeta<Secret>> = match &watched.namespace {
            Some(namespace) => Api::namespaced(connected.client, namespace),
            None => Api::all(connected.client),
        };
        let config = Config {
            label_selector: watched.selector.clone(),
            // All in one answer: metadata of ten thousand Secrets has some megabytes.
            page_size: None,
            ..Config::default()
        };
        let mut stream = pin!(watcher(api, config));
        let (mut listed, mut failures) = (BTreeSet::new(), 0);
        loop {
            let event = poll_fn(|context| stream.as_mut().poll_next(context)).await;
            let event = match event {
                Some(Ok(event)) => {
                    failures = 0;
                    event
                }
                Some(Err(error)) => {
                    let error = crate::model::failure::with_causes(&error);
                    failures += 1;
                    if failures > TRIES || !was_listed {
                        return WatchEnd::Failed { was_listed, error };
                    }
                    debug!(error, "the watch of Secrets was cut and goes on");
                    tokio::time::sleep(PAUSE.0 * failures).await;
                    continue;
                }
                None => {
                    let error = "it ended".to_owned();
                    return WatchEnd::Failed { was_listed, error };
                }
            };
            let told = match event {
                Event::Init => {
                    listed.clear();
                    continue;
                }
                Event::InitApply(object) => {
                    let Some(metadata) = metadata(object, watched.prefixes) else {
                        continue;
                    };
                    listed.insert(metadata.key.clone());
                    WatchEvent::Changed(metadata)
                }
                Event::InitDone => {
                    was_listed = true;
                    debug!(secrets = listed.len(), "the Secrets are listed");
                    WatchEvent::Listed(watched.namespace.clone(), std::mem::take(&mut listed))
                }
                Event::Apply(object) => match metadata(object, watched.prefixes) {
                    Some(metadata) => WatchEvent::Changed(metadata),
                    None => continue,
                },
                Event::Delete(object) => match metadata(object, &[]) {
                    Some(metadata) => WatchEvent::Deleted(metadata.key),
                    None => continue,
                },
            };
            if events.send(told).await.is_err() {
                return WatchEnd::NoReceiver;
            }
        }
    }

    /// Remembers a write of our own.
    pub(crate) fn note_own_write(&self, resource_version: &str) {
        let mut own = self
            .own_writes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        own.note(resource_version);
    }

    /// Whether an object has this resource version by a write of our own.
    pub(crate) fn is_own_write(&self, resource_version: &str) -> bool {
        let own = self
            .own_writes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        own.has(resource_version)
    }
}

enum WatchEnd {
    NoReceiver,
    Failed { was_listed: bool, error: String },
}

fn metadata(
    object: PartialObjectMeta<Secret>,
    prefixes: &[&'static str],
) -> Option<ObjectMetadata> {
    let metadata = object.metadata;
    let annotations = metadata.annotations.unwrap_or_default();
    let is_wanted = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
    Some(ObjectMetadata {
        key: (metadata.namespace?, metadata.name?),
        uid: metadata.uid?,
        resource_version: metadata.resource_version?,
        annotations: annotations
            .into_iter()
            .filter(|(name, _)| is_wanted(name))
            .collect(),
        is_terminating: metadata.deletion_timestamp.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_own_writes_are_remembered_and_no_more() {
        let mut own = OwnWrites::default();
        for version in 0..OWN_WRITES + 2 {
            own.note(&version.to_string());
            own.note(&version.to_string());
        }
        assert!(!own.has("0") && !own.has("1") && own.has("2"));
        assert_eq!(own.order.len(), own.known.len());
    }
}
