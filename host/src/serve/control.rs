//! The control socket: a Unix socket for the program's own commands. One request per connection, one line of JSON each way. Only
//! root and the user that the process runs as are served.

mod refresh;

use std::fmt;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::connections::{ConnectionPermit, Connections, affordable};
use crate::model::failure::{Code, Failure, with_causes};
use crate::reload::{ReloadAnswer, ReloadHandle};
use crate::runner::status::Snapshot;
use crate::runner::{Handle, RunnerStopped};
use crate::state::manual::{KeptJob, Manual, ReplacedChain};
pub use refresh::{RefreshResult, RefreshedJob};

/// Bytes of a request: names of ten thousand jobs fit.
const REQUEST_BYTES: u64 = 1024 * 1024;

/// Bytes of an answer: a row of status takes some 500, so ten thousand jobs fit many times.
const ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// The time for a request to arrive, for its answer to be made unless the request says how long, and for the answer to be sent.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a reload may take. It waits for plugins to be read, and for the API server if that has keys of the state store.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Concurrent connections.
const CONNECTIONS: usize = 64;

/// How often the socket's file is checked: cleaners of temporary directories remove it.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The pause after accepting failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Only the owner may connect.
const MODE: u32 = 0o600;

/// Of a directory that is made for the socket.
const DIRECTORY_MODE: u32 = 0o700;

/// Group and others may make and rename files.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The sticky bit: users may create files in the directory but not touch those of others, as in /tmp.
const STICKY: u32 = 0o1000;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// The status of jobs; answered by a [`Snapshot`].
    Status {
        /// By name or `namespace/name`; none: all.
        #[serde(default)]
        jobs: Vec<String>,
    },
    /// Asks sources for new tokens now and waits for the results; answered by [`RefreshResult`].
    Refresh {
        /// By name or `namespace/name`; none: all.
        #[serde(default)]
        jobs: Vec<String>,
        /// How long to wait, in milliseconds.
        #[serde(default)]
        wait_ms: u64,
    },
    /// Reads the configuration anew and takes it into use; answered by [`ReloadAnswer`].
    Reload,
    /// Compares the configuration in use with a file; answered by [`ReloadAnswer`].
    Diff {
        /// The file, an absolute path; none: the one that the process was started with.
        #[serde(default)]
        file: Option<PathBuf>,
    },
    /// The stored state of jobs; answered by [`KeptJob`]s.
    StateShow {
        /// By name or `namespace/name`; none: all.
        #[serde(default)]
        jobs: Vec<String>,
    },
    /// Gives a chain its next value; answered by [`ReplacedChain`].
    StateSet {
        /// By name or `namespace/name`.
        job: String,
        /// The secret's name.
        secret: String,
        /// The value; none: the chain's current one is tried again.
        #[serde(default)]
        value: Option<SecretBytes>,
    },
    /// Deletes the stored state of a job; answered by the job's id.
    StateForget {
        /// By name or `namespace/name`.
        job: String,
    },
}

impl ControlRequest {
    /// How long its answer may take to be made.
    fn patience(&self) -> Duration {
        match self {
            Self::Refresh { wait_ms, .. } => {
                TIMEOUT.saturating_add(Duration::from_millis(*wait_ms))
            }
            Self::Reload | Self::Diff { .. } => RELOAD_TIMEOUT,
            _ => TIMEOUT,
        }
    }
}

/// A secret on its way through the socket, in base64.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl TryFrom<String> for SecretBytes {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let text = Zeroizing::new(text);
        let bytes = BASE64.decode(text.as_bytes());
        bytes
            .map(|bytes| Self(Zeroizing::new(bytes)))
            .map_err(|_| "a value must be in base64")
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode_display(&self.0))
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes([redacted])")
    }
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ControlAnswer<T> {
    Ok(T),
    Error(ControlRefusal),
}

/// Why a request is refused.
#[derive(Debug, Serialize, Deserialize)]
pub struct ControlRefusal {
    /// For programs; none: the request itself is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// For people.
    pub message: String,
}

impl From<Failure> for ControlRefusal {
    fn from(failure: Failure) -> Self {
        Self {
            message: failure.to_string(),
            code: failure.code,
        }
    }
}

impl From<RunnerStopped> for ControlRefusal {
    fn from(stopped: RunnerStopped) -> Self {
        Self {
            code: None,
            message: stopped.to_string(),
        }
    }
}

/// The socket cannot be served, or a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Binding failed.
    #[error("cannot listen on the control socket {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A running process listens on it.
    #[error("another process listens on the control socket {}; stop it, or give this one another: `control: {{socket: …}}`", .0.display())]
    InUse(PathBuf),
    /// Other users could put a socket of theirs there.
    #[error("the directory {} of the control socket is not this user's or root's alone; take group's and others' write permission away, or choose another: `control: {{socket: …}}`", .0.display())]
    Directory(PathBuf),
    /// The file there is not a socket of ours.
    #[error("{} is in the control socket's place and is no socket; remove it, or choose another place: `control: {{socket: …}}`", .0.display())]
    NoSocket(PathBuf),
    /// This user may not see whether a process listens.
    #[error("user {uid} may not reach the control socket {}; run the command as the user that evertoken runs as, and with its XDG_RUNTIME_DIR if it has one, or as root", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// This user.
        uid: u32,
    },
    /// No process listens.
    #[error("no evertoken process listens on {}; is it running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another user's process listens.
    #[error("user {uid} listens on the control socket {}, and is not told this; run the command as that user if the process is evertoken's", path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// That user.
        uid: u32,
    },
    /// The connection broke, or what came is no answer.
    #[error("no answer on the control socket {}", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process answered with an error.
    #[error("the process refused: {}", .0.message)]
    Refused(ControlRefusal),
}

/// The result of a trial of the socket's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proved {
    /// The socket can be made.
    Free,
    /// A running process listens there.
    InUse,
}

/// The bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, to remove no other process's socket.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Makes the socket, and its directory if only that is missing. The socket of a process that has ended is replaced.
    ///
    /// # Errors
    ///
    /// A running process listens on it, something else is in its place, or the directory does not allow it.
    pub async fn bind(path: &Path) -> Result<Self, ControlError> {
        make_directory(path)?;
        check_place(path).await?;
        let bound = Self::bind_beside(path).map_err(|source| ControlError::Bind {
            path: path.to_owned(),
            source,
        })?;
        Ok(bound)
    }

    /// Whether the socket could be made, or a process listens on it already. The trial leaves nothing behind.
    ///
    /// # Errors
    ///
    /// As for [`Self::bind`], but for a running process that listens.
    pub async fn prove(path: &Path) -> Result<Proved, ControlError> {
        let made = path.parent().filter(|directory| !directory.exists());
        make_directory(path)?;
        let proved = match check_place(path).await {
            Ok(()) => listen_beside(path)
                .and_then(|(_, beside)| std::fs::remove_file(beside))
                .map(|()| Proved::Free)
                .map_err(|source| ControlError::Bind {
                    path: path.to_owned(),
                    source,
                }),
            Err(ControlError::InUse(_)) => Ok(Proved::InUse),
            Err(error) => Err(error),
        };
        if let Some(directory) = made {
            let _ = std::fs::remove_dir(directory);
        }
        proved
    }

    /// Bound under another name first, so that the socket is never visible with a wider mode or without its listener.
    fn bind_beside(path: &Path) -> io::Result<Self> {
        let (listener, beside) = listen_beside(path)?;
        let placed = std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(MODE))
            .and_then(|()| identity(&beside))
            .and_then(|identity| std::fs::rename(&beside, path).map(|()| identity));
        match placed {
            Ok(identity) => Ok(Self {
                listener,
                path: path.to_owned(),
                identity,
            }),
            Err(error) => {
                // The first error is the one to report.
                let _ = std::fs::remove_file(&beside);
                Err(error)
            }
        }
    }

    /// Answers requests until `stop`.
    pub async fn serve(mut self, rooms: Rooms, stop: CancellationToken) {
        let connections = Connections::new(affordable(CONNECTIONS));
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut is_there = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => is_there = self.restore(is_there).await,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let rooms = rooms.clone();
                        connections.admit(|place| connection(stream, rooms, place));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection on the control socket");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// Makes the socket again if it was removed. Returns whether it exists; `was_there`: it existed before.
    async fn restore(&mut self, was_there: bool) -> bool {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            return true;
        }
        match Self::bind(&self.path).await {
            Ok(again) => {
                info!(path = %again.path.display(), "the control socket had gone and is made again");
                *self = again;
                true
            }
            Err(error) => {
                if was_there {
                    let error = with_causes(&error);
                    warn!(
                        error,
                        "the control socket has gone; `evertoken status` does not find this process"
                    );
                }
                false
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            // If this fails, the next process replaces the file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Binds a socket under another name in the same directory, and returns both.
fn listen_beside(path: &Path) -> io::Result<(UnixListener, PathBuf)> {
    let beside = path.with_file_name(format!(".{}", std::process::id()));
    if let Err(error) = std::fs::remove_file(&beside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(&beside)?;
    Ok((listener, beside))
}

/// Checks that the socket's directory exists and that no other user can put a socket there.
fn make_directory(path: &Path) -> Result<(), ControlError> {
    let bind_error = |source| ControlError::Bind {
        path: path.to_owned(),
        source,
    };
    let Some(directory) = path.parent() else {
        return Err(bind_error(io::ErrorKind::NotADirectory.into()));
    };
    let made = std::fs::DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .create(directory);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(bind_error(error));
        }
        _ => {}
    }
    let metadata = std::fs::metadata(directory).map_err(bind_error)?;
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if is_trusted(owner) && (mode & WRITABLE_BY_OTHERS == 0 || mode & STICKY != 0) {
        Ok(())
    } else {
        Err(ControlError::Directory(directory.to_owned()))
    }
}

/// Checks that the path is free, or holds the socket of a process that has ended.
async fn check_place(path: &Path) -> Result<(), ControlError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ControlError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) => Err(ControlError::InUse(path.to_owned())),
        Err(source) => Err(ControlError::Bind {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The components that answer requests.
#[derive(Debug, Clone)]
pub struct Rooms {
    /// The jobs.
    pub runner: Handle,
    /// The state store.
    pub state: Manual,
    /// The configuration.
    pub reload: ReloadHandle,
}

async fn connection(stream: UnixStream, rooms: Rooms, place: ConnectionPermit) {
    if let Err(error) = exchange(stream, &rooms, &place).await {
        debug!(%error, "a connection on the control socket ended");
    }
}

async fn exchange(
    mut stream: UnixStream,
    rooms: &Rooms,
    place: &ConnectionPermit,
) -> io::Result<()> {
    let answer = if is_allowed(&stream)? {
        let line = timeout(TIMEOUT, read_line(&mut stream, REQUEST_BYTES)).await??;
        place.asked();
        match line {
            Some(line) => answer(&line, rooms).await?,
            None => refusal(format!(
                "a request is one line of at most {REQUEST_BYTES} bytes"
            )),
        }
    } else {
        refusal("only root and the user that evertoken runs as may ask")
    };
    timeout(TIMEOUT, hand_over(stream, &answer)).await?
}

async fn hand_over(mut stream: UnixStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    // Closing before all was read would reset the connection, and the answer would be lost.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

/// The file's mode enforces this too, but not on every system and not for a descriptor that was passed on.
fn is_allowed(stream: &UnixStream) -> io::Result<bool> {
    Ok(is_trusted(stream.peer_cred()?.uid()))
}

/// The owner of a process that could put a socket in place of ours would receive what is sent. Root may query every user's
/// process, but sends it no secret.
fn may_hear(peer: u32, request: &ControlRequest) -> bool {
    let is_secret = matches!(request, ControlRequest::StateSet { value: Some(_), .. });
    is_trusted(peer) || (rustix::process::geteuid().is_root() && !is_secret)
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

async fn answer(line: &[u8], rooms: &Rooms) -> io::Result<Vec<u8>> {
    Ok(match serde_json::from_slice::<ControlRequest>(line) {
        Ok(request) => timeout(request.patience(), grant(request, rooms)).await?,
        Err(error) => refusal(format!("the request cannot be understood: {error}")),
    })
}

async fn grant(request: ControlRequest, rooms: &Rooms) -> Vec<u8> {
    let Rooms {
        runner,
        state,
        reload,
    } = rooms;
    match request {
        ControlRequest::Status { jobs } => {
            let configuration = Some(reload.status());
            let status = runner.status(jobs).await;
            answered(status.map(|snapshot| Snapshot {
                configuration,
                ..snapshot
            }))
        }
        ControlRequest::Reload => answered(reload.reload().await),
        ControlRequest::Diff { file } => answered(reload.compare(file).await),
        ControlRequest::Refresh { jobs, wait_ms } => {
            answered(refresh::refresh(runner, jobs, Duration::from_millis(wait_ms)).await)
        }
        ControlRequest::StateShow { jobs } => answered(state.show(&jobs).await),
        ControlRequest::StateSet { job, secret, value } => {
            answered(set(runner, state, &job, &secret, value.as_ref()).await)
        }
        ControlRequest::StateForget { job } => answered(forget(runner, state, &job).await),
    }
}

/// A new value is tried at once: the job may have waited for it.
async fn set(
    runner: &Handle,
    state: &Manual,
    job: &str,
    secret: &str,
    value: Option<&SecretBytes>,
) -> Result<ReplacedChain, Failure> {
    let replaced = match value {
        Some(value) => state.set(job, secret, &value.0).await?,
        None => state.set_kept(job, secret).await?,
    };
    try_at_once(runner, job).await;
    Ok(replaced)
}

/// The configured value is tried at once, too, now that no stored one is left.
async fn forget(runner: &Handle, state: &Manual, job: &str) -> Result<(), Failure> {
    state.forget(job).await?;
    try_at_once(runner, job).await;
    Ok(())
}

async fn try_at_once(runner: &Handle, job: &str) {
    if runner.refresh(vec![job.to_owned()]).await.is_err() {
        debug!("the process is stopping; the job is tried after the next start");
    }
}

fn answered<T: Serialize>(result: Result<T, impl Into<ControlRefusal>>) -> Vec<u8> {
    line(&match result {
        Ok(value) => ControlAnswer::Ok(value),
        Err(error) => ControlAnswer::Error(error.into()),
    })
}

fn refusal(why: impl Into<String>) -> Vec<u8> {
    line(&ControlAnswer::<()>::Error(ControlRefusal {
        code: None,
        message: why.into(),
    }))
}

fn line<T: Serialize>(answer: &ControlAnswer<T>) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).unwrap_or_else(|_| {
        br#"{"error":{"message":"the answer cannot be written as JSON"}}"#.to_vec()
    });
    line.push(b'\n');
    line
}

/// One line without its end, none if it is longer than `limit`.
async fn read_line(stream: &mut UnixStream, limit: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut line = Zeroizing::new(Vec::new());
    let mut reader = BufReader::new(stream.take(limit));
    reader.read_until(b'\n', &mut line).await?;
    Ok((line.pop() == Some(b'\n')).then_some(line))
}

/// Asks the process that listens on `socket` for the status of jobs; no names: all jobs.
///
/// # Errors
///
/// No process listens, or its answer is invalid.
pub async fn status(socket: &Path, jobs: Vec<String>) -> Result<Snapshot, ControlError> {
    ask(socket, &ControlRequest::Status { jobs }).await
}

/// Asks the process that listens on `socket` for new tokens now, and waits for the results; no names: of all jobs.
///
/// # Errors
///
/// No process listens, or its answer is invalid.
pub async fn refresh(
    socket: &Path,
    jobs: Vec<String>,
    wait: Duration,
) -> Result<RefreshResult, ControlError> {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    ask(socket, &ControlRequest::Refresh { jobs, wait_ms }).await
}

/// Asks the process that listens on `socket` to take its configuration into use as it is now.
///
/// # Errors
///
/// No process listens, or its answer is invalid.
pub async fn reload(socket: &Path) -> Result<ReloadAnswer, ControlError> {
    ask(socket, &ControlRequest::Reload).await
}

/// Asks the process that listens on `socket` what a reload would change, with this file or its own.
///
/// # Errors
///
/// No process listens, or its answer is invalid.
pub async fn diff(socket: &Path, file: Option<PathBuf>) -> Result<ReloadAnswer, ControlError> {
    ask(socket, &ControlRequest::Diff { file }).await
}

/// Whether a process listens on `socket`.
///
/// # Errors
///
/// Something else is in its place, or this user may not see it.
pub async fn is_served(socket: &Path) -> Result<bool, ControlError> {
    match connect(socket).await {
        Ok(_) => Ok(true),
        Err(ControlError::Connect { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, ControlError> {
    let path = socket.to_owned();
    UnixStream::connect(socket).await.map_err(|source| {
        let is_socket = std::fs::metadata(socket).is_ok_and(|at| at.file_type().is_socket());
        let is_taken = std::fs::symlink_metadata(socket).is_ok() && !is_socket;
        if source.kind() == io::ErrorKind::PermissionDenied {
            let uid = rustix::process::geteuid().as_raw();
            ControlError::Denied { path, uid }
        } else if is_taken {
            ControlError::NoSocket(path)
        } else {
            ControlError::Connect { path, source }
        }
    })
}

/// Asks the process that listens on `socket` for the stored state of jobs; no names: of all jobs.
///
/// # Errors
///
/// No process listens, nothing is stored of one of them, or the answer is invalid.
pub async fn state_show(socket: &Path, jobs: Vec<String>) -> Result<Vec<KeptJob>, ControlError> {
    ask(socket, &ControlRequest::StateShow { jobs }).await
}

/// Asks the process that listens on `socket` to give a chain its next value, or to send the one that it has.
///
/// # Errors
///
/// No process listens, it refuses, or its answer is invalid.
pub async fn state_set(
    socket: &Path,
    job: String,
    secret: String,
    value: Option<SecretBytes>,
) -> Result<ReplacedChain, ControlError> {
    ask(socket, &ControlRequest::StateSet { job, secret, value }).await
}

/// Asks the process that listens on `socket` to delete the stored state of a job.
///
/// # Errors
///
/// No process listens, it refuses, or its answer is invalid.
pub async fn state_forget(socket: &Path, job: String) -> Result<(), ControlError> {
    ask(socket, &ControlRequest::StateForget { job }).await
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    request: &ControlRequest,
) -> Result<T, ControlError> {
    let path = socket.to_owned();
    let stream = connect(socket).await?;
    match stream.peer_cred() {
        Ok(peer) if may_hear(peer.uid(), request) => {}
        Ok(peer) => {
            return Err(ControlError::Foreign {
                path,
                uid: peer.uid(),
            });
        }
        Err(source) => return Err(ControlError::NoAnswer { path, source }),
    }
    let patience = request.patience().saturating_add(TIMEOUT);
    let asked = timeout(patience, ask_on(stream, request)).await;
    match asked.and_then(|answer| answer) {
        Ok(ControlAnswer::Ok(value)) => Ok(value),
        Ok(ControlAnswer::Error(why)) => Err(ControlError::Refused(why)),
        Err(source) => Err(ControlError::NoAnswer { path, source }),
    }
}

/// Bounds an exchange in time.
async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> io::Result<T> {
    let ended = tokio::time::timeout(limit, work).await;
    ended.map_err(|_| io::ErrorKind::TimedOut.into())
}

async fn ask_on<T: DeserializeOwned>(
    mut stream: UnixStream,
    request: &ControlRequest,
) -> io::Result<ControlAnswer<T>> {
    let mut line = Zeroizing::new(serde_json::to_vec(request)?);
    line.push(b'\n');
    stream.write_all(&line).await?;
    let answer = read_line(&mut stream, ANSWER_BYTES).await?;
    let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
    serde_json::from_slice(&answer).map_err(|why| {
        io::Error::other(format!(
            "what listens there does not speak as evertoken {} does, so it is another program, or a process of another version ({why})",
            env!("CARGO_PKG_VERSION")
        ))
    })
}

#[cfg(test)]
mod tests;
