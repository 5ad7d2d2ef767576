//! The control socket: how whoever runs the process asks it for status and refreshes. A Unix socket of mode 0600 in the state
//! directory; the peer's credentials are checked as well. One request a connection: a line of JSON each way.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::runner::status::Snapshot;
use crate::runner::{Asked, Handle};

/// A request names jobs at most; ten thousand names of 64 bytes fit.
const REQUEST_BYTES: u64 = 1 << 20;

/// How long one exchange may take on either side. The runner answers in milliseconds.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Exchanges at once: people and their scripts.
const EXCHANGES: usize = 16;

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    /// Where jobs stand; none named: all.
    Status { jobs: Vec<String> },
    /// New tokens now.
    Refresh { jobs: Vec<String> },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply<T> {
    Ok(T),
    Error(String),
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("another process listens at {}", .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{} is not a socket; it stays as it is", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot open the control socket {}", path.display())]
    Io {
        /// Its path; the system allows about a hundred bytes.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no evertoken process answers at {}; is it running with this configuration, and as this user?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the process at {} did not answer", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The process said no.
    #[error("{0}")]
    Refused(String),
}

/// A control socket that is open; its file goes with it.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens the socket. A dead process's is replaced, a living one's is not.
///
/// # Errors
/// It is in use, something else has its name, or the system refuses.
pub async fn bind(path: &Path) -> Result<Control, BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(BindError::InUse(path.to_owned()));
            }
        }
    }
    // Under another name first, so that nobody can connect before the mode is set.
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    let named = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).and_then(|()| std::fs::rename(&fresh, path));
    if let Err(error) = named {
        let _ = std::fs::remove_file(&fresh);
        return Err(failed(error));
    }
    Ok(Control { listener, path: path.to_owned() })
}

impl Control {
    /// Answers until `stop`.
    pub async fn run(self, handle: Handle, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(EXCHANGES));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if is_trusted(&stream) => {
                    let handle = handle.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        // Who goes away before the answer has no need of it.
                        let _ = tokio::time::timeout(EXCHANGE_TIMEOUT, answer(stream, &handle)).await;
                    });
                }
                Ok(_) => tracing::warn!("another user tried to use the control socket"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// The same user, or root. The socket's mode says the same; a mode is easily changed.
fn is_trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn answer(stream: UnixStream, handle: &Handle) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut stream).take(REQUEST_BYTES).read_until(b'\n', &mut line).await?;
    let reply = match serde_json::from_slice(&line) {
        Ok(Request::Status { jobs }) => encode(handle.status(jobs).await),
        Ok(Request::Refresh { jobs }) => encode(handle.refresh(jobs).await),
        Err(error) => encode::<(), _>(Err(format!("not a request that this version knows: {error}"))),
    };
    stream.write_all(&reply).await?;
    stream.shutdown().await
}

fn encode<T: Serialize, E: ToString>(result: Result<T, E>) -> Vec<u8> {
    let reply = match result {
        Ok(value) => Reply::Ok(value),
        Err(error) => Reply::Error(error.to_string()),
    };
    let mut line = serde_json::to_vec(&reply).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Where these jobs stand; none named: all.
///
/// # Errors
/// Nobody answers.
pub async fn status(socket: &Path, jobs: &[String]) -> Result<Snapshot, AskError> {
    ask(socket, &Request::Status { jobs: jobs.to_vec() }).await
}

/// Asks for new tokens of these jobs.
///
/// # Errors
/// Nobody answers.
pub async fn refresh(socket: &Path, jobs: &[String]) -> Result<Asked, AskError> {
    ask(socket, &Request::Refresh { jobs: jobs.to_vec() }).await
}

async fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, AskError> {
    let path = || socket.to_owned();
    let stream = UnixStream::connect(socket).await.map_err(|source| AskError::Unreachable { path: path(), source })?;
    let line = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange(stream, request)).await;
    let line = line.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|source| AskError::Broken { path: path(), source })?;
    match serde_json::from_slice(&line) {
        Ok(Reply::Ok(value)) => Ok(value),
        Ok(Reply::Error(message)) => Err(AskError::Refused(message)),
        Err(error) => Err(AskError::Broken { path: path(), source: error.into() }),
    }
}

async fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await?;
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_process_socket_is_replaced_and_a_living_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead process leaves its socket");
        let control = bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path).await, Err(BindError::InUse(_))));
        drop(control);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path).await, Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_sockets_path() {
        let error = status(Path::new("/nowhere/control.sock"), &[]).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/control.sock"), "{error}");
    }
}
