//! Child processes of this program, for work whose cost a plugin's author decides: compiling the plugin, and validating
//! configurations by its schema. The child limits its own resources, and may be killed for exceeding them.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getppid};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// The most of a child's standard error that is read.
const STDERR_BYTES: u64 = 8 << 10;

/// How a child exited.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// Its standard output, if that is a pipe.
    pub(super) output: Vec<u8>,
    /// The beginning of its standard error.
    pub(super) said: String,
}

/// Runs a hidden command of `program` with `input`, to its end. The child gets no environment, which it does not need and which
/// may contain secrets.
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
        // A signal to a terminal's process group is for this process, which ends the child itself.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take();
    let give = async {
        if let Some(mut stdin) = stdin {
            // A child that exited early has closed its end; its exit status says more.
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

/// Reads from a pipe up to a limit; then the pipe is closed.
async fn heard(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut heard = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.take(limit).read_to_end(&mut heard).await;
    }
    heard
}

/// Limits this process irrevocably: its processor time, in whole seconds, and its address space. It writes no core dump, and
/// exits with its parent, however that ends.
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

/// How soon a child notices that its parent has ended.
const LOOK_FOR_PARENT: Duration = Duration::from_millis(200);

/// Exits once the parent has ended. If it ended before this, our standard input is closed, which then ends too early. The
/// kernel's parent-death signal does not serve: it is sent when the thread that started the child ends, and a runtime's threads
/// are not permanent.
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
