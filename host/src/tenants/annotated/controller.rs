//! The controller of annotated Secrets: it watches their metadata, reads those that ask for something, and has the runner keep their
//! tokens fresh. What is wrong with one is told in its annotation and by one Event, and concerns no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::report::{Report, of_status};
use super::secret::{self, AnnotatedSecret, Problem, REASON, REFRESH};
use crate::capability::keep::Keeper;
use crate::kubernetes::watch::{ObjectKey, ObjectMetadata, WatchEvent, Watched};
use crate::kubernetes::{ApiCall, ApiError, Kubernetes, Verb, WipedText};
use crate::model::failure::Failure;
use crate::model::profile::Profile;
use crate::model::{AnnotatedSecrets, JobId, Provider};
use crate::runner::{Handle, JobChange};
use crate::tenants::request;

/// Events that wait while Secrets are read.
const EVENTS: usize = 256;

/// Secrets that are read at once: the API server serves others, too.
const READS: usize = 16;

/// Secrets that are told of at once.
const TELLS: usize = 16;

/// How often states are compared with what was told of them.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// When a Secret is read again that could not be read, and what could not be told is told again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The least time between two Events about one Secret.
const EVENT_EVERY: Duration = Duration::from_secs(60);

/// The annotations that matter.
const PREFIXES: &[&str] = &[
    "evertoken.dev/",
    secret::PARAMETERS,
    "oauth2-refresh-controller.cern.ch/",
];

/// What the controller serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// Which Secrets, and by which profile.
    pub secrets: AnnotatedSecrets,
    /// The profiles.
    pub profiles: BTreeMap<String, Arc<Profile>>,
}

/// The controller.
pub struct Controller {
    kubernetes: Arc<Kubernetes>,
    runner: Handle,
    keeper: Arc<dyn Keeper>,
    served: watch::Receiver<Option<Served>>,
    entries: BTreeMap<ObjectKey, Entry>,
    /// Those to read.
    waiting: BTreeSet<ObjectKey>,
    reading: JoinSet<(ObjectKey, Result<Option<AnnotatedSecret>, Failure>)>,
    being_read: BTreeSet<ObjectKey>,
    to_tell: Vec<(ObjectKey, Report)>,
    telling: JoinSet<(ObjectMetadata, Result<&'static str, Failure>)>,
}

/// An annotated Secret.
#[derive(Debug)]
struct Entry {
    metadata: ObjectMetadata,
    /// The profile of its job; none: it has no job.
    profile: Option<String>,
    problem: Option<Problem>,
    /// What its job asked with when the Secret was read last.
    login: Option<Login>,
    /// When it is read again.
    again_at: Option<Instant>,
    /// The reason that was told last.
    told: Option<String>,
    is_being_told: bool,
    /// When the next Event may be sent.
    event_at: Instant,
    /// When something is told again that could not be.
    tell_at: Instant,
}

impl Entry {
    fn id(&self) -> JobId {
        let (namespace, name) = &self.metadata.key;
        JobId {
            provider: Provider::AnnotatedSecret,
            namespace: Some(namespace.clone()),
            name: name.clone(),
            uid: Some(self.metadata.uid.clone()),
        }
    }
}

impl Controller {
    /// A controller that serves what the channel says; none: nothing.
    #[must_use]
    pub fn new(
        kubernetes: Arc<Kubernetes>,
        runner: Handle,
        keeper: Arc<dyn Keeper>,
        served: watch::Receiver<Option<Served>>,
    ) -> Self {
        Self {
            kubernetes,
            runner,
            keeper,
            served,
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            reading: JoinSet::new(),
            being_read: BTreeSet::new(),
            to_tell: Vec::new(),
            telling: JoinSet::new(),
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let work = async {
            loop {
                let served = self.served.borrow_and_update().clone();
                let Some(served) = served else {
                    self.remove_but(|_| false).await;
                    if self.served.changed().await.is_err() {
                        return;
                    }
                    continue;
                };
                if !self.serve(&served).await {
                    return;
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Serves until other Secrets are to be watched. False: nobody will say so any more.
    async fn serve(&mut self, served: &Served) -> bool {
        let (sender, mut events) = mpsc::channel(EVENTS);
        let mut watches = JoinSet::new();
        let watched = watched(&served.secrets);
        for watched in watched.clone() {
            let (kubernetes, sender) = (Arc::clone(&self.kubernetes), sender.clone());
            watches.spawn(async move { kubernetes.watch_secrets(watched, sender).await });
        }
        let mut served = served.clone();
        self.remove_but(|(of, _)| {
            let mut namespaces = watched.iter().map(|watched| &watched.namespace);
            namespaces.any(|namespace| namespace.as_ref().is_none_or(|it| it == of))
        })
        .await;
        // What they ask for may mean something else now.
        self.waiting.extend(self.entries.keys().cloned());
        let mut tell = tokio::time::interval(TELL_EVERY);
        loop {
            self.read_waiting();
            self.tell();
            tokio::select! {
                Some(event) = events.recv() => match event {
                    WatchEvent::Changed(metadata) => self.changed(metadata).await,
                    WatchEvent::Deleted(key) => self.remove(&[key]).await,
                    WatchEvent::Listed(namespace, keys) => {
                        self.remove_but(|key| {
                            let is_of_it = namespace.as_ref().is_none_or(|it| *it == key.0);
                            !is_of_it || keys.contains(key)
                        })
                        .await;
                    }
                },
                Some(told) = self.telling.join_next() => self.told(told),
                Some(read) = self.reading.join_next() => self.read(read, &served).await,
                changed = self.served.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    let Some(next) = self.served.borrow().clone() else {
                        return true;
                    };
                    if next.secrets != served.secrets {
                        // Borrowed again by the caller.
                        self.served.mark_changed();
                        return true;
                    }
                    served = next;
                    self.waiting.extend(self.entries.keys().cloned());
                },
                _ = tell.tick() => {
                    self.wake();
                    self.compare().await;
                },
            }
        }
    }

    /// Those whose time has come are read again.
    fn wake(&mut self) {
        let now = Instant::now();
        for (key, entry) in &mut self.entries {
            if entry.again_at.is_some_and(|at| at <= now) {
                entry.again_at = None;
                self.waiting.insert(key.clone());
            }
        }
    }

    async fn changed(&mut self, metadata: ObjectMetadata) {
        let key = metadata.key.clone();
        if !secret::is_annotated(&metadata.annotations) || metadata.is_terminating {
            return self.remove(&[key]).await;
        }
        let known = self.entries.get(&key);
        let was_another = known.is_some_and(|known| known.metadata.uid != metadata.uid);
        if was_another {
            self.remove(std::slice::from_ref(&key)).await;
        }
        let is_own = self.kubernetes.is_own_write(&metadata.resource_version);
        let Some(entry) = self.entries.get_mut(&key) else {
            let told = metadata.annotations.get(REASON).cloned();
            let entry = Entry {
                metadata,
                profile: None,
                problem: None,
                login: None,
                again_at: None,
                told,
                is_being_told: false,
                event_at: Instant::now(),
                tell_at: Instant::now(),
            };
            self.entries.insert(key.clone(), entry);
            self.waiting.insert(key);
            return;
        };
        let is_asked = entry.metadata.annotations.get(REFRESH) != metadata.annotations.get(REFRESH);
        let is_same = entry.metadata.resource_version == metadata.resource_version;
        entry.metadata = metadata;
        if is_asked {
            let name = entry.id().to_string();
            info!(secret = name, "a refresh is asked for by annotation");
            // The runner has ended if the process stops.
            let _ = self.runner.refresh(vec![name]).await;
        }
        if !is_own && !is_same {
            self.waiting.insert(key);
        }
    }

    /// Begins to read as many as may be read at once.
    fn read_waiting(&mut self) {
        while self.reading.len() < READS {
            let free = self
                .waiting
                .iter()
                .find(|key| !self.being_read.contains(*key));
            let Some(key) = free.cloned() else {
                return;
            };
            self.waiting.remove(&key);
            self.being_read.insert(key.clone());
            let kubernetes = Arc::clone(&self.kubernetes);
            self.reading.spawn(async move {
                let found = read(&kubernetes, &key).await;
                (key, found)
            });
        }
    }

    async fn read(
        &mut self,
        read: Result<(ObjectKey, Result<Option<AnnotatedSecret>, Failure>), JoinError>,
        served: &Served,
    ) {
        let (key, found) = match read {
            Ok(read) => read,
            Err(error) => return warn!(%error, "reading a Secret was cut off"),
        };
        self.being_read.remove(&key);
        match found {
            Ok(Some(secret)) => self.reconcile(&key, &secret, served).await,
            Ok(None) => self.remove(&[key]).await,
            Err(failure) => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    debug!(error = %failure, "an annotated Secret cannot be read; it is tried again");
                    entry.again_at = Some(Instant::now() + AGAIN_AFTER);
                }
            }
        }
    }

    /// Makes the job of a Secret, or notes why there is none.
    async fn reconcile(&mut self, key: &ObjectKey, secret: &AnnotatedSecret, served: &Served) {
        let wanted = self.wanted(key, secret, served);
        let is_new_login = self.is_new_login(key, secret).await;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.metadata.uid != secret.uid {
            return;
        }
        let id = entry.id();
        match wanted {
            Ok((profile, job)) => {
                entry.login = Some(Login::of(secret));
                entry.profile = Some(profile);
                entry.problem = None;
                let mut changes = vec![JobChange::Put(Arc::new(job))];
                if is_new_login {
                    info!(secret = %id, "a new login is used");
                    changes.push(JobChange::NewLogin(id));
                }
                let _ = self.runner.apply(changes).await;
            }
            Err(problem) => {
                entry.problem = Some(problem);
                entry.login = None;
                if entry.profile.take().is_some() {
                    let _ = self.runner.apply(vec![JobChange::Remove(id)]).await;
                }
            }
        }
    }

    /// Whether somebody else put another client or refresh token into a Secret that has a job. A refresh token of our own writing is known
    /// to the store.
    async fn is_new_login(&self, key: &ObjectKey, secret: &AnnotatedSecret) -> bool {
        let Some(entry) = self.entries.get(key) else {
            return false;
        };
        let Some(before) = &entry.login else {
            return false;
        };
        let now = Login::of(secret);
        if before.client != now.client {
            return true;
        }
        if before.refresh_token == now.refresh_token {
            return false;
        }
        let Some(value) = secret::refresh_token(secret) else {
            return false;
        };
        let id = entry.id();
        let chain = self
            .keeper
            .chain_of(&id, secret::REFRESH_TOKEN, Some(value.as_bytes()));
        matches!(chain.await, Ok(None))
    }

    /// The profile and the job of a Secret.
    fn wanted(
        &self,
        key: &ObjectKey,
        secret: &AnnotatedSecret,
        served: &Served,
    ) -> Result<(String, crate::model::Job), Problem> {
        let default = served.secrets.default_profile.as_deref();
        let name = secret::profile(secret, default)?;
        let profile = served.profiles.get(name).ok_or(Problem::UnknownProfile)?;
        if !profile.is_for(&secret.namespace) {
            // Which profiles there are is nobody's business who may not use them.
            return Err(Problem::UnknownProfile);
        }
        self.is_within_limits(key, profile)?;
        let asked = secret::request(secret, profile)?;
        let job = request::job(profile, asked).map_err(|errors| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Problem::Request(errors.join("; "))
        })?;
        Ok((name.to_owned(), job))
    }

    fn is_within_limits(&self, key: &ObjectKey, profile: &Profile) -> Result<(), Problem> {
        let of_profile = |entry: &Entry| entry.profile.as_ref() == Some(&profile.name);
        if self.entries.get(key).is_some_and(of_profile) {
            return Ok(());
        }
        let limits = profile.limits;
        let others = self.entries.iter().filter(|(_, entry)| of_profile(entry));
        let (mut all, mut of_namespace) = (0, 0);
        for ((namespace, _), _) in others {
            all += 1;
            of_namespace += u32::from(*namespace == key.0);
        }
        for (count, most, limit) in [
            (all, limits.jobs, "jobs"),
            (
                of_namespace,
                limits.jobs_per_namespace,
                "jobs_per_namespace",
            ),
        ] {
            if count >= most {
                return Err(Problem::TooMany(format!(
                    "the profile `{}` serves at most {most} ({limit}); ask the administrator, or remove one",
                    profile.name
                )));
            }
        }
        Ok(())
    }

    async fn remove(&mut self, keys: &[ObjectKey]) {
        let mut changes = Vec::new();
        for key in keys {
            self.waiting.remove(key);
            if let Some(entry) = self.entries.remove(key)
                && entry.profile.is_some()
            {
                changes.push(JobChange::Remove(entry.id()));
            }
        }
        if !changes.is_empty() {
            let _ = self.runner.apply(changes).await;
            // There may be room for others now.
            let crowded = self.entries.iter_mut();
            for (key, entry) in crowded {
                if matches!(entry.problem, Some(Problem::TooMany(_))) {
                    self.waiting.insert(key.clone());
                }
            }
        }
    }

    /// Removes all but those that stay.
    async fn remove_but(&mut self, stays: impl Fn(&ObjectKey) -> bool) {
        let gone = self.entries.keys().filter(|key| !stays(key));
        let gone: Vec<ObjectKey> = gone.cloned().collect();
        self.remove(&gone).await;
    }

    /// Finds the Secrets whose state is another one than was told.
    async fn compare(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        let Ok(snapshot) = self.runner.status(Vec::new()).await else {
            return;
        };
        let states: BTreeMap<&JobId, Report> = snapshot
            .jobs
            .iter()
            .filter(|job| job.id.provider == Provider::AnnotatedSecret)
            .filter_map(|job| Some((&job.id, of_status(job)?)))
            .collect();
        let now = Instant::now();
        let entries = self.entries.iter();
        let idle = entries.filter(|(_, entry)| !entry.is_being_told && now >= entry.tell_at);
        let news = idle.filter_map(|(key, entry)| {
            let report = match &entry.problem {
                Some(problem) => Report::of(problem),
                None => states.get(&entry.id())?.clone(),
            };
            (entry.told.as_deref() != Some(report.reason)).then(|| (key.clone(), report))
        });
        self.to_tell = news.collect();
    }

    /// Begins to tell of as many as may be told of at once.
    fn tell(&mut self) {
        while self.telling.len() < TELLS {
            let Some((key, report)) = self.to_tell.pop() else {
                return;
            };
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.is_being_told = true;
            let (kubernetes, metadata) = (Arc::clone(&self.kubernetes), entry.metadata.clone());
            let with_event = Instant::now() >= entry.event_at;
            self.telling.spawn(async move {
                let sent = report.send(&kubernetes, &metadata, with_event).await;
                (metadata, sent.map(|()| report.reason))
            });
        }
    }

    /// Notes that somebody was told, or could not be.
    fn told(&mut self, told: Result<(ObjectMetadata, Result<&'static str, Failure>), JoinError>) {
        let (metadata, sent) = match told {
            Ok(told) => told,
            Err(error) => return warn!(%error, "telling of a Secret was cut off"),
        };
        let entry = self.entries.get_mut(&metadata.key);
        let Some(entry) = entry.filter(|entry| entry.metadata.uid == metadata.uid) else {
            return;
        };
        entry.is_being_told = false;
        let now = Instant::now();
        match sent {
            Ok(reason) => {
                entry.told = Some(reason.to_owned());
                entry.event_at = now + EVENT_EVERY;
            }
            Err(failure) => {
                debug!(error = %failure, "the state of an annotated Secret cannot be told");
                entry.tell_at = now + AGAIN_AFTER;
            }
        }
    }
}

/// The watches for these Secrets.
fn watched(secrets: &AnnotatedSecrets) -> Vec<Watched> {
    let namespaces: Vec<Option<String>> = match secrets.namespaces.as_slice() {
        [] => vec![None],
        namespaces => namespaces.iter().cloned().map(Some).collect(),
    };
    let watches = namespaces.into_iter();
    watches
        .map(|namespace| Watched {
            namespace,
            selector: secrets.selector.clone(),
            prefixes: PREFIXES,
        })
        .collect()
}

/// Digests of what a Secret's job asks with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Login {
    refresh_token: [u8; 32],
    client: [u8; 32],
}

impl Login {
    fn of(secret: &AnnotatedSecret) -> Self {
        let refresh_token = secret::refresh_token(secret).unwrap_or_default();
        let mut client = Sha256::new();
        for key in [secret::CLIENT_ID_KEY, secret::CLIENT_SECRET_KEY] {
            let value = secret.data.get(key).map(|value| value.as_slice());
            let value = value.unwrap_or_default();
            client.update((value.len() as u64).to_be_bytes());
            client.update(value);
        }
        Self {
            refresh_token: Sha256::digest(refresh_token.as_bytes()).into(),
            client: client.finalize().into(),
        }
    }
}

#[derive(Deserialize)]
struct FoundSecret {
    metadata: FoundMetadata,
    #[serde(default)]
    data: BTreeMap<String, WipedText>,
    #[serde(default)]
    immutable: bool,
}

#[derive(Deserialize)]
struct FoundMetadata {
    uid: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Reads a Secret; none: it is gone.
async fn read(
    kubernetes: &Kubernetes,
    (namespace, name): &ObjectKey,
) -> Result<Option<AnnotatedSecret>, Failure> {
    let call = ApiCall::secret(Verb::Get, namespace, name);
    let found: FoundSecret = match kubernetes.send(&call).await {
        Ok(answer) => answer.parse(&call)?,
        Err(ApiError::NotFound(_)) => return Ok(None),
        Err(refusal) => return Err(refusal.into()),
    };
    let data = found.data.iter().filter_map(|(key, value)| {
        let value = value.decode()?;
        Some((key.clone(), Zeroizing::new(value.expose_secret().to_vec())))
    });
    Ok(Some(AnnotatedSecret {
        namespace: namespace.clone(),
        name: name.clone(),
        uid: found.metadata.uid,
        annotations: found.metadata.annotations,
        data: data.collect(),
        is_immutable: found.immutable,
    }))
}
