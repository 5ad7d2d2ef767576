//! The control socket: what its commands return, who may connect, and where the socket may be.

use std::sync::Arc;

use super::refresh::RefreshedJob;
use super::*;
use crate::capability::chain::Chain;
use crate::capability::keep::{ChainChange, Keeper};
use crate::model::JobId;
use crate::model::time::SystemClock;
use crate::model::time::Timestamp;
use crate::runner::tests::world::{World, job, limits, put};
use crate::state::Store;

struct Served {
    store: Arc<Store>,
    socket: PathBuf,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

/// A real socket in front of a runner with the jobs `a` and `b`, with fixed time.
async fn served() -> Served {
    let (runner, handle, _) = World::default().runner(&limits(1, 1));
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let stop = CancellationToken::new();
    tokio::spawn(runner.run(stop.clone()));
    handle.apply(put(vec![job("a"), job("b")])).await.unwrap();
    let control = ControlSocket::bind(&socket).await.unwrap();
    let store = Arc::new(Store::memory().unwrap());
    let state = Manual::new(Arc::clone(&store), None, Arc::new(SystemClock));
    let (reload, _) = ReloadHandle::new(Timestamp(0));
    let rooms = Rooms {
        runner: handle,
        state,
        reload,
    };
    let server = tokio::spawn(control.serve(rooms, stop.clone()));
    Served {
        store,
        socket,
        stop,
        server,
        _directory: directory,
    }
}

async fn raw(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // A server that has read enough may have closed already.
    let _ = stream.write_all(request).await;
    let _ = stream.shutdown().await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn status_answers_with_all_jobs_or_those_named() {
    let served = served().await;
    let all = status(&served.socket, Vec::new()).await.unwrap();
    let names: Vec<_> = all.jobs.iter().map(|job| job.id.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    let one = status(&served.socket, vec!["b".to_owned()]).await.unwrap();
    assert_eq!(one.jobs.len(), 1);
}

#[tokio::test]
async fn refresh_waits_for_the_result_as_long_as_it_may_and_asks_nobody_if_a_name_is_unknown() {
    let served = served().await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let wait = Duration::from_millis(200);
    let refused = refresh(&served.socket, names(&["a", "nobody"]), wait).await;
    assert_eq!(refused.unwrap().unknown, ["nobody"]);
    // Time is fixed in this runner's world, so its issuer never answers.
    let began = std::time::Instant::now();
    let pending = refresh(&served.socket, names(&["a"]), wait).await.unwrap();
    assert!(began.elapsed() >= wait);
    assert_eq!(pending.jobs, [RefreshedJob::Pending]);
    assert_eq!(pending.now.jobs[0].id, JobId::file("a"));
}

#[tokio::test]
async fn a_chain_is_shown_given_another_value_and_forgotten() {
    let served = served().await;
    let a = JobId::file("a");
    let first = Chain::new(
        served.store.chain_id(&JobId::file("job"), b"seed"),
        b"seed".to_vec().into(),
    );
    let change = ChainChange {
        job: &a,
        secret: "rt",
        binds: true,
        seed: Some(b"seed"),
        next: &first,
        expected: None,
    };
    served.store.swap_chain(change).await.unwrap();

    let kept = state_show(&served.socket, Vec::new()).await.unwrap();
    assert_eq!(kept[0].id, a);
    let value = SecretBytes::new(b"next");
    let set = |value| state_set(&served.socket, "a".to_owned(), "rt".to_owned(), value);
    assert_eq!(set(Some(value)).await.unwrap().generation, 1);
    assert_eq!(
        set(None).await.unwrap().generation,
        2,
        "the one that is kept"
    );
    let refused = set(Some(SecretBytes::new(b"seed"))).await.unwrap_err();
    assert!(refused.to_string().contains("earlier value"), "{refused}");
    let found = served.store.find_chain(&a, "rt", None).await.unwrap();
    assert!(found.unwrap().stored.chain.has_newest(b"next"));
    state_forget(&served.socket, "a".to_owned()).await.unwrap();
    let refused = state_show(&served.socket, vec!["a".to_owned()]).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("nothing is kept of a job `a`")
    );
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_not_quoted() {
    let served = served().await;
    let request = br#"{"verb":"state-set","job":"a","secret":"rt","value":"hunter2!"}"#;
    let answer = raw(&served.socket, &[request, &b"\n"[..]].concat()).await;
    assert!(
        answer.contains("cannot be understood") && !answer.contains("hunter2"),
        "{answer}"
    );
    let request = ControlRequest::StateSet {
        job: "a".to_owned(),
        secret: "rt".to_owned(),
        value: Some(SecretBytes::new(b"hunter2")),
    };
    assert!(!format!("{request:?}").contains("hunter2"));
}

#[tokio::test]
async fn what_is_no_request_gets_an_answer_that_says_so() {
    let served = served().await;
    let long = vec![b' '; usize::try_from(REQUEST_BYTES).unwrap() + 10];
    for (request, expected) in [
        (
            b"{\"verb\":\"stop\"}\n".as_slice(),
            "unknown variant `stop`",
        ),
        (b"{\"verb\":\"status\",\"job\":1}\n", "unknown field `job`"),
        (b"\xff\n", "cannot be understood"),
        (b"{\"verb\":\"status\"}", "one line"),
        (b"", "one line"),
        (&long, "one line"),
    ] {
        let answer = raw(&served.socket, request).await;
        assert!(answer.starts_with("{\"error\":{\"message\":"), "{answer}");
        assert!(answer.contains(expected), "{answer}");
    }
    assert!(status(&served.socket, Vec::new()).await.is_ok());
}

#[tokio::test]
async fn only_the_owner_may_connect_and_the_socket_goes_with_its_process() {
    let served = served().await;
    let mode = std::fs::symlink_metadata(&served.socket).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    let directory = served.socket.parent().unwrap();
    assert_eq!(
        std::fs::read_dir(directory).unwrap().count(),
        1,
        "no leftovers"
    );
    served.stop.cancel();
    served.server.await.unwrap();
    assert!(!served.socket.exists());
    let error = status(&served.socket, Vec::new()).await.unwrap_err();
    assert!(matches!(error, ControlError::Connect { .. }), "{error}");
}

/// The behaviours of our own user's clients, each with many times more connections than places.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    for (what, said) in [
        ("nothing", &b""[..]),
        ("half a request", b"{\"verb\":"),
        (
            "a request whose answer it waits for",
            b"{\"verb\":\"refresh\",\"jobs\":[\"a\"],\"wait_ms\":3600000}\n",
        ),
        (
            "a request whose answer it does not read",
            b"{\"verb\":\"status\"}\n",
        ),
    ] {
        let served = served().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS * 2 {
            let mut stream = UnixStream::connect(&served.socket).await.unwrap();
            stream.write_all(said).await.unwrap();
            silent.push(stream);
        }
        let answer = tokio::time::timeout(TIMEOUT / 2, status(&served.socket, Vec::new())).await;
        assert_eq!(answer.unwrap().unwrap().jobs.len(), 2, "{what}");
    }
}

#[tokio::test]
async fn a_socket_that_was_taken_away_comes_back_but_not_in_the_place_of_a_living_one() {
    let served = served().await;
    let directory = served.socket.parent().unwrap().to_owned();
    let is_back = async || {
        for _ in 0..200 {
            if status(&served.socket, Vec::new()).await.is_ok() {
                return true;
            }
            tokio::time::sleep(LOOK_EVERY / 20).await;
        }
        false
    };
    std::fs::remove_file(&served.socket).unwrap();
    assert!(is_back().await, "the file was deleted");
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(is_back().await, "its directory was deleted");

    std::fs::remove_file(&served.socket).unwrap();
    let other = UnixListener::bind(&served.socket).unwrap();
    let others = identity(&served.socket).unwrap();
    tokio::time::sleep(LOOK_EVERY * 2).await;
    assert_eq!(identity(&served.socket).unwrap(), others, "another's");
    drop(other);
    assert!(is_back().await, "the other one died and left its file");
    served.stop.cancel();
    served.server.await.unwrap();
    assert!(!served.socket.exists(), "the last one made goes too");
}

#[tokio::test]
async fn the_socket_is_put_only_where_nobody_else_can_replace_it() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("made");
    let socket = directory.join("control.sock");
    drop(ControlSocket::bind(&socket).await.unwrap());
    let mode = std::fs::metadata(&directory).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700, "made for the socket");
    for (mode, is_taken) in [
        (0o755, true),
        (0o775, false),
        (0o757, false),
        (0o777, false),
        (0o1777, true),
    ] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&directory, permissions).unwrap();
        let bound = ControlSocket::bind(&socket).await;
        assert_eq!(bound.is_ok(), is_taken, "{mode:o}: {bound:?}");
        if let Err(error) = bound {
            assert!(matches!(error, ControlError::Directory(_)), "{error}");
        }
    }
}

#[tokio::test]
async fn a_living_process_keeps_its_socket() {
    let served = served().await;
    let error = ControlSocket::bind(&served.socket).await.unwrap_err();
    assert!(matches!(error, ControlError::InUse(_)), "{error}");
    assert!(status(&served.socket, Vec::new()).await.is_ok());
}

#[tokio::test]
async fn a_dead_processs_socket_is_replaced_and_what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists(), "the dead one's file stays");
    ControlSocket::bind(&socket).await.unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = ControlSocket::bind(&file).await.unwrap_err();
    assert!(matches!(error, ControlError::NoSocket(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for taken in [&file, &link] {
        let error = status(taken, Vec::new()).await.unwrap_err();
        assert!(matches!(error, ControlError::NoSocket(_)), "{error}");
        assert!(is_served(taken).await.is_err());
    }
    let missing = directory.path().join("missing");
    assert!(matches!(is_served(&missing).await, Ok(false)));
}

#[tokio::test]
async fn a_socket_that_cannot_be_made_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let socket = file.join("there/control.sock");
    let error = ControlSocket::bind(&socket).await.unwrap_err();
    let expected = format!("cannot listen on the control socket {}", socket.display());
    assert_eq!(error.to_string(), expected);
}

/// Another user's process, which has made a socket in place of ours and records what it receives.
const FOREIGN_FOLDER: &str = "EVERTOKEN_TEST_FOREIGN_FOLDER";

#[test]
fn foreign_listener() {
    use std::io::Read as _;
    let Some(folder) = std::env::var_os(FOREIGN_FOLDER).map(PathBuf::from) else {
        return;
    };
    let socket = folder.join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::write(folder.join("ready"), "").unwrap();
    let mut heard = String::new();
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_to_string(&mut heard).unwrap();
    std::fs::write(folder.join("heard"), heard).unwrap();
}

#[tokio::test]
async fn a_socket_of_somebody_else_is_told_nothing() {
    use std::os::unix::process::CommandExt as _;
    if !crate::test_support::is_root() {
        eprintln!("skipped: being two users needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(4711), None).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "serve::control::tests::foreign_listener"])
        .env(FOREIGN_FOLDER, folder.path())
        .stdout(std::process::Stdio::null())
        .uid(4711)
        .spawn()
        .unwrap();
    while !folder.path().join("ready").exists() {
        assert!(child.try_wait().unwrap().is_none(), "nobody listens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let socket = folder.path().join("control.sock");
    let value = SecretBytes::new(b"precious");
    let told = super::state_set(&socket, "job".into(), "rt".into(), Some(value)).await;
    let refused = told.unwrap_err();
    assert!(matches!(refused, ControlError::Foreign { uid: 4711, .. }));
    assert!(child.wait().unwrap().success());
    let heard = std::fs::read_to_string(folder.path().join("heard")).unwrap();
    assert_eq!(heard, "");
    // Root queries a process of another user.
    let status = ControlRequest::Status { jobs: Vec::new() };
    assert!(may_hear(4711, &status));
}
