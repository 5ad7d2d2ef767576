//! A test world: an issuer behind the transport, a source without a component, a store with scripted failures.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use evertoken_answer::Content;
use futures_core::future::BoxFuture;
use secrecy::ExposeSecret;

use crate::capability::acquire::{TokenSource, Unsuccessful};
use crate::capability::chain::{Chain, ChainId, ChainState, PluginId};
use crate::capability::host::Host;
use crate::capability::http::{Arriving, Body, NoAnswer, Outgoing, Request, Response, Transport};
use crate::capability::keep::{ChainChange, FoundChain, Keeper, Revision, StoredChain};
use crate::capability::ports::Settings;
use crate::capability::testing::{Fixture, NOW, get};
use crate::capability::{Call, Value};
use crate::model::Origin;
use crate::model::failure::{Failure, FailureKind};
use crate::model::time::{Clock, Reading, Timestamp};
use crate::model::token::{Expiry, KeptToken, Token};
use crate::model::{Job, JobId, Secret, SecretOrigin};
use crate::state::Store;

const TOKEN_URL: &str = "https://idp.test/token";

/// Longer than anything that happens here, except a source that hangs.
const PATIENCE: Duration = Duration::from_millis(200);

pub(super) fn code(failure: &Failure) -> &str {
    failure.code().unwrap_or_default()
}

/// The issuer's reaction to a request.
#[derive(Clone)]
pub(super) enum Reply {
    Rotates(Duration),
    WithoutSuccessor,
    Unreachable,
    IsLost,
    Status(u16, String),
    RefusesAndLogin(String),
    /// These bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, and then nothing.
    Stalls(Vec<u8>),
    /// These bytes, so long after each other.
    Pieces(Vec<Vec<u8>>, Duration),
    /// It rotates, and so many bytes of its answer are missing.
    BreaksOff(usize),
}

impl Reply {
    pub(super) fn rotates() -> Self {
        Self::Rotates(Duration::ZERO)
    }

    pub(super) fn after(wait: Duration) -> Self {
        Self::Rotates(wait)
    }

    pub(super) fn without_successor() -> Self {
        Self::WithoutSuccessor
    }

    pub(super) fn unreachable() -> Self {
        Self::Unreachable
    }

    pub(super) fn is_lost() -> Self {
        Self::IsLost
    }

    pub(super) fn status(status: u16, body: &str) -> Self {
        Self::Status(status, body.to_owned())
    }

    pub(super) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Raw(bytes.into())
    }

    pub(super) fn stalls_after(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Stalls(bytes.into())
    }

    pub(super) fn pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, wait: Duration) -> Self {
        Self::Pieces(pieces.into_iter().map(<[u8]>::to_vec).collect(), wait)
    }

    pub(super) fn breaks_off(missing: usize) -> Self {
        Self::BreaksOff(missing)
    }

    pub(super) fn refuses_and_a_person_logs_in(login: &str) -> Self {
        Self::RefusesAndLogin(login.to_owned())
    }
}

/// The source's behaviour after the answer.
#[derive(Clone)]
pub(super) enum Script {
    Works,
    Fails(Unsuccessful),
    Hangs,
    AsksAnother(FailureKind),
    /// With this secret.
    AsksAnotherWith(&'static str),
    SendsTwice,
    FindsLogin(String),
    WorksWith(serde_json::Value),
    Repeats(String),
}

impl Script {
    pub(super) fn fails(unsuccessful: Unsuccessful) -> Self {
        Self::Fails(unsuccessful)
    }

    pub(super) fn hangs() -> Self {
        Self::Hangs
    }

    pub(super) fn asks_another_first(kind: FailureKind) -> Self {
        Self::AsksAnother(kind)
    }

    pub(super) fn repeats(text: &str) -> Self {
        Self::Repeats(text.to_owned())
    }

    /// The login, which could not be read so far, is available before the source opens it.
    pub(super) fn finds_login(login: &str) -> Self {
        Self::FindsLogin(login.to_owned())
    }

    pub(super) fn sends_twice() -> Self {
        Self::SendsTwice
    }

    pub(super) fn works_with(config: &str) -> Self {
        Self::WorksWith(serde_json::from_str(config).unwrap())
    }
}

/// A request as the issuer received it, and the stored chain at that time.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) value: String,
    pub(super) was_intended: bool,
    pub(super) had_answer: bool,
}

struct Facts {
    now: Timestamp,
    reply: Reply,
    script: Script,
    seen: Vec<Seen>,
    tokens: u32,
    configurations: Vec<String>,
    answer_was_kept: bool,
}

/// The state that the parts of the world share.
struct Inner {
    facts: Mutex<Facts>,
    keeper: Arc<Shaky>,
    login: PathBuf,
}

impl Inner {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap()
    }

    async fn kept(&self) -> Option<Chain> {
        let seed = std::fs::read(&self.login).ok();
        let (job, store) = (JobId::file("warehouse"), &self.keeper.inner);
        let found = store.find_chain(&job, "rt", seed.as_deref()).await.unwrap();
        found.map(|found| found.stored.chain)
    }
}

pub(super) struct World {
    inner: Arc<Inner>,
    host: Host,
    job: Job,
    _folder: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let login = folder.path().join("login");
        std::fs::write(&login, "seed").unwrap();
        let mut fixture = Fixture::new();
        let secret = fixture.secret("rt", "");
        secret.rotating = true;
        secret.origin = SecretOrigin::File(login.clone());
        let inner = Arc::new(Inner {
            facts: Mutex::new(Facts {
                now: NOW,
                reply: Reply::rotates(),
                script: Script::Works,
                seen: Vec::new(),
                tokens: 0,
                configurations: Vec::new(),
                answer_was_kept: false,
            }),
            keeper: Arc::new(Shaky::new()),
            login,
        });
        Self {
            host: host(&inner),
            inner,
            job: fixture.job,
            _folder: folder,
        }
    }

    /// Changes of the chain that the store has made or refused so far.
    pub(super) fn changes(&self) -> u32 {
        self.inner.keeper.changes.load(Ordering::Relaxed)
    }

    /// The process ends, and another one starts on the same store.
    pub(super) fn restart(&mut self) {
        self.host = host(&self.inner);
    }

    pub(super) async fn acquire(&self) -> Result<String, Failure> {
        self.acquire_as(self.job.clone()).await
    }

    pub(super) async fn acquire_for(&self, name: &str) -> Result<String, Failure> {
        let mut job = self.job.clone();
        job.id = JobId::file(name);
        self.acquire_as(job).await
    }

    /// The known state of a job's chain.
    pub(super) fn chain_state(&self, name: &str) -> Option<ChainState> {
        self.host.chain_state(&JobId::file(name))
    }

    /// The state of a job's chain as read at a start.
    pub(super) async fn look(&self, name: &str) -> Option<ChainState> {
        let mut job = self.job.clone();
        job.id = JobId::file(name);
        self.host.look_at_chains(&job).await;
        self.chain_state(name)
    }

    async fn acquire_as(&self, job: Job) -> Result<String, Failure> {
        let job = Arc::new(job);
        let source = Model(Arc::clone(&self.inner));
        let acquire = self.host.acquire(&job, &source);
        let hangs = matches!(self.inner.facts().script, Script::Hangs);
        let acquired = if hangs {
            let acquired = tokio::time::timeout(PATIENCE, acquire).await;
            acquired.map_err(|_| failure(FailureKind::Unavailable, "stopped"))?
        } else {
            acquire.await
        };
        let acquired = acquired.map_err(|not| not.failure)?;
        Ok(acquired.token.value.expose_secret().to_owned())
    }

    pub(super) async fn acquire_without_writing_its_end(&self) {
        self.inner.keeper.fails_after.store(true, Ordering::Relaxed);
        self.acquire().await.unwrap_err();
        self.inner
            .keeper
            .fails_after
            .store(false, Ordering::Relaxed);
    }

    pub(super) fn issuer(&self, reply: Reply) {
        self.inner.facts().reply = reply;
    }

    pub(super) fn source(&self, script: Script) {
        self.inner.facts().script = script;
    }

    pub(super) fn secret(&mut self, change: impl FnOnce(&mut Secret)) {
        change(self.job.source.secrets.get_mut("rt").unwrap());
    }

    pub(super) fn configure(&mut self, login: &str) {
        std::fs::write(&self.inner.login, login).unwrap();
    }

    pub(super) fn loses_login(&self) {
        std::fs::remove_file(&self.inner.login).unwrap();
    }

    pub(super) fn reconfigure(&mut self, config: serde_json::Value) {
        self.job.source.config = config;
    }

    pub(super) fn allows(&mut self, origin: &str) {
        self.job.source.allow = vec![Origin::parse(origin).unwrap()];
    }

    /// One that does not rotate, with the same value.
    pub(super) fn lists_another_secret(&mut self, name: &str) {
        let mut secret = self.job.source.secrets.get("rt").unwrap().clone();
        secret.rotating = false;
        self.job.source.secrets.insert(name.to_owned(), secret);
    }

    pub(super) fn pass(&self, time: Duration) {
        let mut facts = self.inner.facts();
        facts.now = facts.now.after(time);
    }

    /// How often a chain was looked for and read so far.
    pub(super) fn finds(&self) -> u32 {
        self.inner.keeper.finds.load(Ordering::Relaxed)
    }

    pub(super) fn store_fails(&self, times: u32) {
        self.inner.keeper.fails.store(times, Ordering::Relaxed);
    }

    pub(super) fn store_fails_after_the_exchange(&self, times: u32) {
        self.inner
            .keeper
            .loses_answers
            .store(times, Ordering::Relaxed);
    }

    pub(super) fn successor_cannot_be_stored(&self, cannot: bool) {
        self.inner
            .keeper
            .refuses_successors
            .store(cannot, Ordering::Relaxed);
    }

    pub(super) fn store_forgets_to_answer(&self) {
        self.inner.keeper.forgets.store(true, Ordering::Relaxed);
    }

    pub(super) fn store_forgets_to_answer_to_parts(&self) {
        self.inner
            .keeper
            .forgets_parts
            .store(true, Ordering::Relaxed);
    }

    pub(super) fn is_shared_by_processes(&self) {
        self.inner.keeper.shared.store(true, Ordering::Relaxed);
    }

    pub(super) async fn chain(&self) -> Chain {
        self.inner.kept().await.unwrap()
    }

    /// Changes the stored chain as another process would.
    pub(super) async fn rewrite(&self, change: impl FnOnce(&mut Chain)) {
        let mut chain = self.chain().await;
        let store = &self.inner.keeper.inner;
        let revision = store.chain(chain.id).await.unwrap().unwrap().revision;
        change(&mut chain);
        let change = ChainChange {
            job: &self.job.id,
            secret: "rt",
            binds: true,
            seed: None,
            next: &chain,
            expected: Some(&revision),
        };
        store.swap_chain(change).await.unwrap().unwrap();
    }

    pub(super) fn seen_at_the_issuer(&self) -> Vec<Seen> {
        self.inner.facts().seen.clone()
    }

    pub(super) fn values_sent(&self) -> Vec<String> {
        let seen = self.seen_at_the_issuer().into_iter();
        seen.map(|seen| seen.value).collect()
    }

    pub(super) fn answer_was_kept_when_the_source_saw_it(&self) -> bool {
        self.inner.facts().answer_was_kept
    }

    pub(super) fn configurations_of_calls(&self) -> Vec<String> {
        self.inner.facts().configurations.clone()
    }
}

fn host(inner: &Arc<Inner>) -> Host {
    Host::new(Settings {
        limits: Fixture::new().limits.current(),
        keeper: Arc::clone(&inner.keeper) as _,
        kubernetes: None,
        write_back: None,
        transport: Arc::new(Issuer(Arc::clone(inner))),
        clock: Arc::new(SetClock(Arc::clone(inner))),
        environment: Arc::new(|_| None),
    })
}

fn failure(kind: FailureKind, code: &str) -> Failure {
    Failure::new(kind, code, "as the test says")
}

struct SetClock(Arc<Inner>);

impl Clock for SetClock {
    fn now(&self) -> Reading {
        let wall = self.0.facts().now;
        Reading {
            wall,
            boot: wall.since(NOW),
        }
    }
}

struct Issuer(Arc<Inner>);

impl Issuer {
    /// The form field, as the request has it.
    fn value(outgoing: &Outgoing) -> String {
        let fields = form_urlencoded::parse(&outgoing.body);
        let mut values = fields.filter(|(name, _)| name == "refresh_token");
        values.next().unwrap().1.into_owned()
    }

    fn token(&self, with_successor: bool) -> Vec<u8> {
        let mut facts = self.0.facts();
        facts.tokens += 1;
        let n = facts.tokens;
        let successor = if with_successor {
            format!(r#","refresh_token":"rt-{n}""#)
        } else {
            String::new()
        };
        response(
            200,
            &format!(r#"{{"access_token":"at-{n}","expires_in":3600{successor}}}"#),
        )
    }
}

fn response(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

impl Transport for Issuer {
    fn exchange<'a>(
        &'a self,
        outgoing: Outgoing,
        arriving: &'a Arriving,
    ) -> BoxFuture<'a, Result<(), NoAnswer>> {
        Box::pin(async move {
            let comes =
                |bytes: Vec<u8>| arriving.send_modify(|arrived| arrived.bytes.extend(bytes));
            if outgoing.url.as_str() != TOKEN_URL {
                comes(response(500, ""));
                return Ok(());
            }
            let reply = self.0.facts().reply.clone();
            if matches!(reply, Reply::Unreachable) {
                let failure = failure(FailureKind::Unavailable, "http.connect");
                return Err(NoAnswer::before_sending(failure));
            }
            let kept = self.0.kept().await;
            let exchange = kept.as_ref().and_then(|chain| chain.exchange.as_ref());
            self.0.facts().seen.push(Seen {
                at: Instant::now(),
                value: Self::value(&outgoing),
                was_intended: exchange.is_some(),
                had_answer: exchange.is_some_and(|exchange| exchange.answer.is_some()),
            });
            let broken_off = || {
                let failure = failure(FailureKind::Unavailable, "http.protocol");
                Err(NoAnswer::after_sending(failure))
            };
            match reply {
                Reply::Rotates(wait) => {
                    tokio::time::sleep(wait).await;
                    comes(self.token(true));
                }
                Reply::WithoutSuccessor => comes(self.token(false)),
                Reply::Status(status, body) => comes(response(status, &body)),
                Reply::RefusesAndLogin(login) => {
                    std::fs::write(&self.0.login, login).unwrap();
                    self.0.facts().reply = Reply::rotates();
                    comes(response(400, r#"{"error":"invalid_grant"}"#));
                }
                Reply::Raw(bytes) => comes(bytes),
                Reply::BreaksOff(missing) => {
                    let mut bytes = self.token(true);
                    bytes.truncate(bytes.len() - missing);
                    comes(bytes);
                    return broken_off();
                }
                Reply::Stalls(bytes) => {
                    comes(bytes);
                    return std::future::pending().await;
                }
                Reply::Pieces(pieces, wait) => {
                    for piece in pieces {
                        comes(piece);
                        tokio::time::sleep(wait).await;
                    }
                }
                Reply::IsLost | Reply::Unreachable => return broken_off(),
            }
            Ok(())
        })
    }
}

/// A model of the oauth2 component.
struct Model(Arc<Inner>);

impl Model {
    async fn exchange(&self, call: &Call) -> Result<Response, Failure> {
        let value = call.open("rt").await?;
        let answer = call.send(Request {
            method: "POST".to_owned(),
            url: TOKEN_URL.to_owned(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Body::Form(vec![("refresh_token".to_owned(), Value::Secret(value))]),
        });
        let answer = answer.await?;
        let kept = self.0.kept().await;
        self.0.facts().answer_was_kept = kept.is_some_and(|chain| chain.answer().is_some());
        match answer.status {
            200 => Ok(answer),
            300..400 | 429 | 500.. => Err(failure(FailureKind::Unavailable, "status")),
            _ => Err(failure(FailureKind::Denied, "invalid_grant")),
        }
    }

    async fn finish(&self, call: &Call, answer: &Response) -> Result<Token, Failure> {
        let (Content::Members(body) | Content::Form(body)) =
            evertoken_answer::read_wrapped(None, &answer.body)
        else {
            return Err(failure(FailureKind::Unavailable, "answer.unreadable"));
        };
        if let Some(successor) = body.text("refresh_token") {
            let successor = Value::Text(successor.to_owned());
            call.replace("rt", successor, None).await?;
        }
        let Some(token) = body.text("access_token").filter(|_| body.is_whole) else {
            return Err(failure(FailureKind::Unavailable, "answer.cut"));
        };
        Ok(Token {
            value: token.into(),
            token_type: "Bearer".to_owned(),
            expiry: Expiry::At(answer.sent_at.after(Duration::from_secs(3600))),
            fields: Vec::new(),
        })
    }
}

impl TokenSource for Model {
    fn plugin(&self) -> PluginId {
        PluginId {
            name: "model".to_owned(),
            ..PluginId::default()
        }
    }

    fn endpoints<'a>(
        &'a self,
        config: &'a serde_json::Value,
    ) -> BoxFuture<'a, Result<Arc<[Origin]>, Failure>> {
        let endpoint = config["endpoint"].as_str().unwrap_or("https://idp.test");
        let endpoints = Arc::new([Origin::parse(endpoint).unwrap()]);
        Box::pin(async { Ok(endpoints as Arc<[Origin]>) })
    }

    fn acquire<'a>(
        &'a self,
        job: &'a Job,
        call: &'a Call,
    ) -> BoxFuture<'a, Result<Token, Unsuccessful>> {
        Box::pin(async move {
            let config = &job.source.config;
            let script = {
                let mut facts = self.0.facts();
                facts.configurations.push(config.to_string());
                facts.script.clone()
            };
            if let Script::FindsLogin(login) = &script {
                std::fs::write(&self.0.login, login).unwrap();
            }
            let answer = self.exchange(call).await.map_err(Unsuccessful::Said)?;
            match script {
                Script::WorksWith(wanted) if *config != wanted => Err(Unsuccessful::Broke(
                    failure(FailureKind::Internal, "plugin.trap"),
                )),
                Script::Works | Script::WorksWith(_) | Script::FindsLogin(_) => {
                    let finished = self.finish(call, &answer).await;
                    finished.map_err(Unsuccessful::Said)
                }
                Script::Fails(unsuccessful) => Err(unsuccessful),
                Script::Repeats(text) => {
                    let failure = Failure::new(FailureKind::Denied, "said", text);
                    Err(Unsuccessful::Said(
                        call.said(Some("said".to_owned()), failure),
                    ))
                }
                Script::Hangs => std::future::pending().await,
                Script::AsksAnother(kind) => {
                    let answer = call.send(get("https://idp.test/userinfo")).await;
                    assert_eq!(answer.unwrap().status, 500);
                    Err(Unsuccessful::Said(failure(kind, "userinfo")))
                }
                Script::AsksAnotherWith(name) => {
                    let secret = call.open(name).await.unwrap();
                    let request = Request {
                        query: vec![("q".to_owned(), Value::Secret(secret))],
                        ..get("https://idp.test/userinfo")
                    };
                    Err(Unsuccessful::Said(call.send(request).await.unwrap_err()))
                }
                Script::SendsTwice => {
                    let second = self.exchange(call).await;
                    Err(Unsuccessful::Said(second.unwrap_err()))
                }
            }
        })
    }
}

/// The memory store with scripted failures.
struct Shaky {
    inner: Store,
    /// So many changes fail without being applied.
    fails: AtomicU32,
    /// So many changes that add an answer fail.
    loses_answers: AtomicU32,
    /// Changes after the first fail.
    fails_after: AtomicBool,
    refuses_successors: AtomicBool,
    /// The next change is applied and reported as failed.
    forgets: AtomicBool,
    /// The same for changes that add a part of an answer.
    forgets_parts: AtomicBool,
    shared: AtomicBool,
    changes: AtomicU32,
    finds: AtomicU32,
}

impl Shaky {
    fn new() -> Self {
        Self {
            inner: Store::memory().unwrap(),
            fails: AtomicU32::new(0),
            loses_answers: AtomicU32::new(0),
            fails_after: AtomicBool::new(false),
            refuses_successors: AtomicBool::new(false),
            forgets: AtomicBool::new(false),
            forgets_parts: AtomicBool::new(false),
            shared: AtomicBool::new(false),
            changes: AtomicU32::new(0),
            finds: AtomicU32::new(0),
        }
    }

    fn refuses(&self, next: &Chain) -> bool {
        let counts_down = |counter: &AtomicU32| {
            let left = counter.load(Ordering::Relaxed);
            counter.store(left.saturating_sub(1), Ordering::Relaxed);
            left > 0
        };
        let is_first = self.changes.fetch_add(1, Ordering::Relaxed) == 0;
        let is_successor = next.exchange.is_none() && next.generation > 0;
        counts_down(&self.fails)
            || (next.answer().is_some() && counts_down(&self.loses_answers))
            || (self.fails_after.load(Ordering::Relaxed) && !is_first)
            || (self.refuses_successors.load(Ordering::Relaxed) && is_successor)
    }
}

impl Keeper for Shaky {
    fn plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>> {
        self.inner.plugin_value(job, key)
    }

    fn set_plugin_value<'a>(
        &'a self,
        job: &'a JobId,
        key: &'a str,
        value: &'a [u8],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.inner.set_plugin_value(job, key, value)
    }

    fn is_exclusive(&self) -> bool {
        !self.shared.load(Ordering::Relaxed)
    }

    fn outlives_process(&self) -> bool {
        true
    }

    fn chain_id(&self, job: &JobId, first_value: &[u8]) -> ChainId {
        self.inner.chain_id(job, first_value)
    }

    fn find_chain<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<FoundChain>, Failure>> {
        self.finds.fetch_add(1, Ordering::Relaxed);
        self.inner.find_chain(job, secret, seed)
    }

    fn chain_of<'a>(
        &'a self,
        job: &'a JobId,
        secret: &'a str,
        seed: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<ChainId>, Failure>> {
        self.inner.chain_of(job, secret, seed)
    }

    fn chain(&self, id: ChainId) -> BoxFuture<'_, Result<Option<StoredChain>, Failure>> {
        self.inner.chain(id)
    }

    fn swap_chain<'a>(
        &'a self,
        change: ChainChange<'a>,
    ) -> BoxFuture<'a, Result<Option<Revision>, Failure>> {
        Box::pin(async move {
            if self.refuses(change.next) {
                return Err(failure(FailureKind::Unavailable, "state.full"));
            }
            let exchange = change.next.exchange.as_ref();
            let is_part = exchange.is_some_and(|exchange| exchange.arriving.is_some());
            let revision = self.inner.swap_chain(change).await?;
            if self.forgets.swap(false, Ordering::Relaxed)
                || (is_part && self.forgets_parts.load(Ordering::Relaxed))
            {
                return Err(failure(FailureKind::Unavailable, "state.timeout"));
            }
            Ok(revision)
        })
    }

    fn token<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<KeptToken>, Failure>> {
        self.inner.token(job)
    }

    fn keep_token<'a>(
        &'a self,
        job: &'a JobId,
        token: &'a KeptToken,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.inner.keep_token(job, token)
    }
}
