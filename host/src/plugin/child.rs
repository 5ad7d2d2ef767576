//! This program as its own child, for work whose cost a plugin's author decides: compiling the plugin, and judging configurations by its
//! schema. The child limits itself, and may die.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getppid};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// What is kept of a child's standard error.
const STDERR_BYTES: u64 = 8 << 10;

/// How a child ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// Its standard output, where that is a pipe.
    pub(super) output: Vec<u8>,
    /// The beginning of its standard error.
    pub(super) said: String,
}

/// Runs a hidden command of `program` with `input`, to its end. The child gets no environment: it needs none, and secrets may be in ours.
///
/// # Errors
/// It cannot be run.
pub(super) async fn run(
    program: &Path,
    command: &str,
    input: &[u8],
    output: Stdio,
) -> std::io::Result<Ended> {
    let mut child = Command::new(program)
        .arg0("evertoken")
        .arg(command)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped())
        // A signal to the group of a terminal is for us; we end the child ourselves.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take();
    let give = async {
        if let Some(mut stdin) = stdin {
            // A child that died early closes its end; its exit status says more.
            let _ = stdin.write_all(input).await;
        }
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ((), output, said) = tokio::join!(
        give,
        heard(stdout, super::limits::JUDGED_BYTES),
        heard(stderr, STDERR_BYTES)
    );
    Ok(Ended {
        status: child.wait().await?,
        output,
        said: String::from_utf8_lossy(&said).into_owned(),
    })
}

/// What comes through a pipe, up to a limit; a child that says more finds it closed.
async fn heard(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut heard = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.take(limit).read_to_end(&mut heard).await;
    }
    heard
}

/// Limits this process for good: its processor time, to the second, and its address space. It leaves no core dump, and ends with the
/// process that waits for it, however that ends.
pub(super) fn limit_this_process(time: Duration, address_space: u64) -> Result<(), Errno> {
    end_with_the_parent()?;
    let limit = |resource, value| {
        let limit = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        rustix::process::setrlimit(resource, limit)
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, time.as_secs().max(1))?;
    limit(Resource::As, address_space)
}

/// How soon a child notices that nobody waits for it any more.
const LOOK_FOR_PARENT: Duration = Duration::from_millis(200);

/// Ends this process once its parent has ended. One that did so before this has closed our standard input, which then ends too early. The
/// kernel's own signal at a parent's death does not serve: it comes with the end of the thread that started the child, and a runtime's
/// threads come and go.
fn end_with_the_parent() -> Result<(), Errno> {
    let parent = getppid();
    let watch = move || {
        while getppid() == parent {
            std::thread::sleep(LOOK_FOR_PARENT);
        }
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("parent".to_owned());
    thread.spawn(watch).map(drop).map_err(|_| Errno::AGAIN)
}
