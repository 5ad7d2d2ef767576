//! Child processes that always end with the test.
//! By two mechanisms: a [`Process`] is killed and reaped on drop, and the kernel kills it when the test process ends without
//! dropping anything (statics, abort, SIGKILL). The second is the parent-death signal, which Linux ties to the *thread* that
//! forked, so one permanent thread forks for all. `setpriv` sets the signal and then becomes the program: same pid, and no unsafe
//! code here.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{lock, wait_until};

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (sender, orders) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, answer) in orders {
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(sender)
});

/// A command for `program` that ends with this process; add arguments, environment and folder, then pass it to
/// [`Process::spawn`].
#[must_use]
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// Starts a command made by [`tied`] from the permanent thread.
pub(crate) fn spawn(command: Command) -> Result<Child> {
    let (sender, answer) = mpsc::channel();
    lock(&SPAWNER)
        .send((command, sender))
        .map_err(|_| anyhow!("the spawning thread is gone"))?;
    let child = answer.recv().context("the spawning thread is gone")?;
    child.context("cannot run `setpriv` (Debian package util-linux)")
}

/// A running child and the files that hold what it prints.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts a command made by [`tied`] in a process group of its own; its stdout and stderr go to `<name>.out` and `<name>.err` in `logs`.
    ///
    /// # Errors
    ///
    /// When a log file cannot be created or `setpriv` cannot be run. A program that `setpriv` cannot find exits with 127 instead.
    pub fn spawn(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let (stdout, stderr) = (
            logs.join(format!("{name}.out")),
            logs.join(format!("{name}.err")),
        );
        command
            .stdout(create(&stdout)?)
            .stderr(create(&stderr)?)
            .process_group(0);
        let child = spawn(command).with_context(|| format!("cannot start {name}"))?;
        let pid = Pid::from_child(&child);
        Ok(Self {
            name: name.to_owned(),
            pid,
            child: Mutex::new(child),
            stdout,
            stderr,
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// All of stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// All of stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Sends a signal to the process, not to its children.
    ///
    /// # Errors
    ///
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = lock(&self.child);
        if let Some(status) = child.try_wait()? {
            anyhow::bail!(
                "cannot send {signal:?} to {}: ended with {status}",
                self.name
            );
        }
        kill_process(self.pid, signal)
            .with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// How the process ended, if it has.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to say.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        lock(&self.child)
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// When the process still runs after `timeout`; the message has the end of its stderr.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        wait_until(&format!("the end of {}", self.name), timeout, || {
            self.try_wait().transpose()
        })
        .and_then(|status| status)
        .with_context(|| self.tail())
    }

    /// Kills the process and its group and reaps it; does nothing if it has ended.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        if !matches!(child.try_wait(), Ok(Some(_))) {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = child.wait();
        }
    }

    /// Asks `probe` until it gives a value, and gives up at once when the process ends.
    ///
    /// # Errors
    ///
    /// On `timeout` or when the process ends first; the message has the end of its stderr.
    pub fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut probe: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        wait_until(what, timeout, || {
            // The status is read first: what the process printed before its end still counts.
            let ended = self.try_wait();
            match (probe(), ended) {
                (Some(value), _) => Some(Ok(value)),
                (None, Ok(None)) => None,
                (None, Ok(Some(status))) => Some(Err(anyhow!(
                    "{} ended with {status} before {what}",
                    self.name
                ))),
                (None, Err(error)) => Some(Err(error)),
            }
        })
        .and_then(|result| result)
        .with_context(|| self.tail())
    }

    /// Resident memory in bytes of the process and all its descendants, from /proc.
    ///
    /// # Errors
    ///
    /// When the process has ended.
    pub fn rss_bytes(&self) -> Result<u64> {
        let own = rss_of(self.pid())
            .with_context(|| format!("cannot read the memory of {}", self.name))?;
        Ok(own
            + descendants(self.pid())
                .into_iter()
                .filter_map(rss_of)
                .sum::<u64>())
    }

    fn tail(&self) -> String {
        /// Enough for a backtrace, little enough for a failure message.
        const LINES: usize = 30;
        let text = self.stderr();
        let lines: Vec<_> = text.lines().collect();
        let last = lines
            .get(lines.len().saturating_sub(LINES)..)
            .unwrap_or_default();
        format!("the end of {}'s stderr:\n{}", self.name, last.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn rss_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(
        kibibytes
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            * 1024,
    )
}

/// The children of a process, theirs, and so on, from /proc.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        // Each thread has its own list of children.
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
    }
    found.split_off(1)
}
