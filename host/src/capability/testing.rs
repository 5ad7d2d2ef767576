//! Fixtures for the tests of `capability`: a job, a keeper in memory, a fixed clock, and a scripted server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_core::future::BoxFuture;
use litemap::LiteMap;
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tracing::instrument::WithSubscriber;

use super::chain::PluginId;
use super::environment::Environment;
use super::host::Host;
use super::http::{Arriving, Clients, Network, NoAnswer, Outgoing, Transport};
use super::journal;
use super::ports::Settings;
use super::secrets::ClusterSecrets;
use super::{Body, Call, Request, Response, Value};
use crate::model::Origin;
use crate::model::Policy;
use crate::model::time::{Clock, Reading, Timestamp};
use crate::model::{
    Job, JobId, OnRemove, PluginLimits, RetryUnanswered, Secret, SecretOrigin, Source, Tls,
};
use crate::state::Store;

/// The time of the fixed clock.
pub(crate) const NOW: Timestamp = Timestamp(1_700_000_000_000);

pub(crate) struct StandingClock;

impl Clock for StandingClock {
    fn now(&self) -> Reading {
        Reading {
            wall: NOW,
            boot: Duration::from_secs(1000),
        }
    }
}

/// A host, a job and their dependencies, to be changed before the call begins.
pub(crate) struct Fixture {
    pub(crate) job: Job,
    pub(crate) endpoints: Vec<Origin>,
    pub(crate) limits: PluginLimits,
    pub(crate) keeper: Arc<Store>,
    pub(crate) kubernetes: Option<Arc<dyn ClusterSecrets>>,
    pub(crate) environment: BTreeMap<String, OsString>,
    /// The results of name resolution; other names do not exist.
    pub(crate) names: HashMap<String, Vec<IpAddr>>,
    /// The transport that replaces the network.
    pub(crate) transport: Option<Arc<Transported>>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self {
            job: job(),
            endpoints: Vec::new(),
            limits: PluginLimits {
                memory_bytes: 1 << 20,
                requests: 8,
                response_bytes: 64 * 1024,
                artifact_bytes: 1 << 20,
                log_lines: 10,
                compile_time: Duration::from_secs(60),
            },
            keeper: Arc::new(Store::memory().unwrap()),
            kubernetes: None,
            environment: BTreeMap::new(),
            names: HashMap::from([
                ("localhost".to_owned(), vec![[127, 0, 0, 1].into()]),
                ("idp.test".to_owned(), vec![[127, 0, 0, 1].into()]),
                ("other.test".to_owned(), vec![[127, 0, 0, 1].into()]),
            ]),
            transport: None,
        }
    }

    /// With `server` as the only endpoint.
    pub(crate) fn reaching(server: &Server) -> Self {
        let mut fixture = Self::new();
        fixture.endpoints = vec![server.origin()];
        fixture
    }

    pub(crate) fn secret(&mut self, name: &str, value: &str) -> &mut Secret {
        let secret = Secret {
            origin: SecretOrigin::Value(SecretString::from(value).into()),
            rotating: false,
            retry_unanswered: RetryUnanswered::default(),
            write_back: false,
            to: None,
        };
        self.job
            .source
            .secrets
            .entry(name.to_owned())
            .or_insert(secret)
    }

    pub(crate) fn environment(&self) -> Environment {
        let variables = self.environment.clone();
        Arc::new(move |name| variables.get(name).cloned())
    }

    pub(crate) fn host(&self) -> Host {
        let environment = self.environment();
        let names = Arc::new(self.names.clone());
        let network = || {
            Network::with_clients(
                Clients::new(Arc::new(move |name| {
                    let found = names.get(&name).cloned();
                    Box::pin(async move {
                        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name"))
                    })
                })),
                Arc::new(StandingClock),
            )
        };
        Host::new(Settings {
            limits: self.limits.clone().current(),
            keeper: self.keeper.clone(),
            kubernetes: self.kubernetes.clone(),
            write_back: None,
            transport: match &self.transport {
                Some(transported) => Arc::clone(transported) as Arc<dyn Transport>,
                None => Arc::new(network()),
            },
            clock: Arc::new(StandingClock),
            environment,
        })
    }

    pub(crate) fn call(&self) -> Call {
        self.call_on(&self.host())
    }

    /// A call that holds the job's chains, settled.
    pub(crate) async fn holding_call(&self) -> Call {
        let host = self.host();
        let job = Arc::new(self.job.clone());
        let settled = journal::settle(&host.0.journal, &job, PluginId::default()).await;
        let held = settled.unwrap().held;
        host.call_holding(&job, &self.endpoints, &self.endpoints, held)
    }

    pub(crate) fn call_on(&self, host: &Host) -> Call {
        host.call(&Arc::new(self.job.clone()), &self.endpoints)
    }
}

fn job() -> Job {
    Job {
        id: JobId::file("warehouse"),
        source: Source {
            plugin: "oauth2".to_owned(),
            config: serde_json::json!({}),
            secrets: LiteMap::new(),
            allow: Vec::new(),
            allow_addresses: Vec::new(),
            reveal: BTreeSet::new(),
            tls: Tls::default(),
            proxy: None,
            timeout: Duration::from_secs(10),
        },
        refresh: Policy {
            at: 0.8,
            before_expiry: Duration::from_secs(90),
            every: Duration::from_secs(3600),
            jitter: Duration::ZERO,
            default_lifetime: Duration::from_secs(3600),
        },
        verify: Duration::from_secs(600),
        outputs: Vec::new(),
        on_remove: OnRemove::Keep,
        profile: None,
    }
}

/// Answers without a network, and keeps the last request.
pub(crate) struct Transported {
    answer: Box<dyn Fn(&Outgoing) -> Response + Send + Sync>,
    last: Mutex<Option<Outgoing>>,
}

impl Transported {
    /// With this body.
    pub(crate) fn answering(body: &'static str) -> Arc<Self> {
        Self::by(move |_| Response {
            status: 200,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            sent_at: NOW,
        })
    }

    /// With the request: its header fields unchanged, and the rest of it in the body.
    pub(crate) fn echoing() -> Arc<Self> {
        Self::by(|outgoing| {
            let headers = outgoing.headers.iter().map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            });
            Response {
                status: 200,
                headers: headers.collect(),
                body: [outgoing.url.as_str().as_bytes(), &outgoing.body].join(&b' '),
                sent_at: NOW,
            }
        })
    }

    pub(crate) fn by(answer: impl Fn(&Outgoing) -> Response + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            answer: Box::new(answer),
            last: Mutex::default(),
        })
    }

    /// Of the last request.
    pub(crate) fn last<T>(&self, look: impl FnOnce(&Outgoing) -> T) -> T {
        look(self.last.lock().unwrap().as_ref().unwrap())
    }
}

impl Transport for Transported {
    fn exchange<'a>(
        &'a self,
        outgoing: Outgoing,
        arriving: &'a Arriving,
    ) -> BoxFuture<'a, Result<(), NoAnswer>> {
        let response = (self.answer)(&outgoing);
        *self.last.lock().unwrap() = Some(outgoing);
        Box::pin(async move {
            let length = ("content-length".to_owned(), response.body.len().to_string());
            let mut head = format!("HTTP/1.1 {} OK\r\n", response.status);
            for (name, value) in response.headers.iter().chain([&length]) {
                head += &format!("{name}: {value}\r\n");
            }
            let bytes = [head.as_bytes(), b"\r\n", &response.body].concat();
            arriving.send_modify(|arrived| {
                arrived.sent_at = response.sent_at;
                arrived.bytes = bytes;
            });
            Ok(())
        })
    }
}

/// A GET of `url`.
pub(crate) fn get(url: impl Into<String>) -> Request {
    Request {
        method: "GET".to_owned(),
        url: url.into(),
        query: Vec::new(),
        headers: Vec::new(),
        body: Body::Empty,
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// A connection, plain or TLS.
pub(crate) trait TestStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> TestStream for T {}

type Script =
    Arc<dyn Fn(Box<dyn TestStream>, String) -> BoxFuture<'static, io::Result<()>> + Send + Sync>;

/// A server on a free port of this machine. On each connection it reads one request and then runs the script.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers every request with these bytes and closes.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::scripted(move |mut stream| {
            let answer = answer.clone();
            async move { stream.write_all(&answer).await }
        })
        .await
    }

    pub(crate) async fn scripted<F, Fut>(script: F) -> Self
    where
        F: Fn(Box<dyn TestStream>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::start(None, Arc::new(move |stream, _| Box::pin(script(stream)))).await
    }

    /// Answers every request with itself.
    pub(crate) async fn echoing() -> Self {
        let script: Script = Arc::new(|mut stream, request| {
            Box::pin(async move {
                let echo: String = request
                    .lines()
                    .filter(|line| line.starts_with("x-"))
                    .map(|line| format!("{line}\r\n"))
                    .collect();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\n{echo}Content-Length: {}\r\n\r\n{request}",
                    request.len()
                );
                stream.write_all(answer.as_bytes()).await
            })
        });
        Self::start(None, script).await
    }

    /// Like [`Server::answering`], behind TLS.
    pub(crate) async fn tls(config: rustls::ServerConfig, answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        let script: Script = Arc::new(move |mut stream, _| {
            let answer = answer.clone();
            Box::pin(async move {
                stream.write_all(&answer).await?;
                stream.shutdown().await
            })
        });
        Self::start(Some(Arc::new(config)), script).await
    }

    async fn start(tls: Option<Arc<rustls::ServerConfig>>, script: Script) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (seen, counted) = (Arc::clone(&requests), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *counted.lock().unwrap() += 1;
                let (tls, script, seen) = (tls.clone(), Arc::clone(&script), Arc::clone(&seen));
                tokio::spawn(async move {
                    let mut stream: Box<dyn TestStream> = match tls {
                        None => Box::new(stream),
                        Some(config) => Box::new(
                            tokio_rustls::TlsAcceptor::from(config)
                                .accept(stream)
                                .await?,
                        ),
                    };
                    let request = read_request(&mut stream).await?;
                    seen.lock().unwrap().push(request.clone());
                    script(stream, request).await
                });
            }
        });
        Self {
            address,
            scheme,
            requests,
            connections,
            task,
        }
    }

    /// Closes the port.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Its origin by address.
    pub(crate) fn origin(&self) -> Origin {
        Origin::parse(&self.url("")).unwrap()
    }

    /// Its origin by a name that resolves to this machine.
    pub(crate) fn origin_as(&self, name: &str) -> Origin {
        Origin::parse(&format!("{}://{name}:{}", self.scheme, self.address.port())).unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// All requests as they arrived.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

async fn read_request(stream: &mut Box<dyn TestStream>) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await?;
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        let wanted = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, length)| length.parse().unwrap());
        if read == 0 || body.len() >= wanted {
            return Ok(text.into_owned());
        }
    }
}

/// Everything that is logged, at TRACE.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<u8>>>);

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Logs {
    /// Runs `work` and keeps its log lines.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        // With only one subscriber, tracing lets the first thread that reaches a call site decide for all whether it is enabled.
        let _second = tracing::Dispatch::new(tracing_subscriber::registry());
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        work.with_subscriber(subscriber).await
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}
