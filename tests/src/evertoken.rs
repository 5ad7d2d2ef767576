//! The built `evertoken` as a user runs it: arguments, environment, what it prints, signals, its end, its memory.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use crate::process::{Process, tied};
use crate::toolchain::{cargo, remembered, run, to_remember};
use crate::workdir::{RunDir, target, workspace};

/// Names a binary to test instead of building one.
const VARIABLE: &str = "EVERTOKEN_BIN";
const HINT: &str =
    "the tests build evertoken by cargo; a binary can be named in EVERTOKEN_BIN instead";
/// Only these variables of our environment are passed on: a `KTR_*`, `KUBECONFIG` or proxy of the user's must not decide a test.
const PASSED_ON: [&str; 4] = ["PATH", "TMPDIR", "LANG", "RUST_BACKTRACE"];

static BINARY: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| to_remember(provide()));

/// The path of the binary: `EVERTOKEN_BIN`, or built once per process into the target folder and profile of this test.
///
/// # Errors
///
/// When the build fails or the named file does not exist.
pub fn binary() -> Result<&'static Path> {
    remembered(&BINARY).map(PathBuf::as_path)
}

fn provide() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) {
        if !path.is_file() {
            bail!("{VARIABLE} names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let target = target()?;
    let (triple, profile) = build_of_this_test(&target)?;
    let mut command = cargo();
    // All members are selected, so that features unify as in the outer build and no dependency is compiled twice.
    command
        .current_dir(workspace()?)
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            "evertoken",
            "--target-dir",
        ])
        .arg(&target);
    if let Some(triple) = &triple {
        command.args(["--target", triple]);
    }
    // The folder of the profile `dev` is called debug.
    command.args([
        "--profile",
        if profile == "debug" { "dev" } else { &profile },
    ]);
    run(command, HINT)?;
    Ok(target
        .join(triple.unwrap_or_default())
        .join(profile)
        .join("evertoken"))
}

/// Target triple, if one was named, and profile folder of the running test: `<target>/[<triple>/]<profile>/[deps|examples/]<test>`.
fn build_of_this_test(target: &Path) -> Result<(Option<String>, String)> {
    let exe = std::env::current_exe().context("cannot find the test's own path")?;
    let folders: Vec<String> = exe
        .strip_prefix(target)?
        .parent()
        .into_iter()
        .flat_map(Path::iter)
        .map(|folder| folder.to_string_lossy().into_owned())
        .filter(|folder| folder != "deps" && folder != "examples")
        .collect();
    match folders.as_slice() {
        [profile] => Ok((None, profile.clone())),
        [triple, profile] => Ok((Some(triple.clone()), profile.clone())),
        _ => bail!(
            "{} is in no profile's folder of {}",
            exe.display(),
            target.display()
        ),
    }
}

/// A command line for evertoken.
#[derive(Debug)]
pub struct Launch {
    command: Command,
}

impl Launch {
    /// The built binary, with an environment that has only PATH and the like.
    ///
    /// # Errors
    ///
    /// When the binary cannot be had.
    pub fn new() -> Result<Self> {
        Ok(Self::of(binary()?))
    }

    /// Another program or another name of it, for instance a link called `ktr`.
    #[must_use]
    pub fn of(program: &Path) -> Self {
        let mut command = tied(program);
        command.env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Self { command }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working folder; otherwise it is the test's.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs as another user and group; needs root.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        use std::os::unix::process::CommandExt as _;
        self.command.uid(uid).gid(gid);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn spawn(self) -> Result<Evertoken> {
        let run = RunDir::new("evertoken")?;
        Ok(Evertoken {
            process: Process::spawn("evertoken", self.command, run.path())?,
            _run: run,
        })
    }

    /// Starts it and waits for its end.
    ///
    /// # Errors
    ///
    /// When it cannot be started or still runs after `timeout`.
    pub fn finish(self, timeout: Duration) -> Result<Finished> {
        let evertoken = self.spawn()?;
        let status = evertoken.wait(timeout)?;
        Ok(Finished {
            status,
            stdout: evertoken.stdout(),
            stderr: evertoken.stderr(),
        })
    }
}

/// How a run ended and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// The exit status.
    pub status: ExitStatus,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Finished {
    /// The exit code; none if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// A running evertoken; killed on drop.
#[derive(Debug)]
pub struct Evertoken {
    process: Process,
    _run: RunDir,
}

impl Evertoken {
    /// Its stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// Its stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until `holds` says so; `what` names it in the failure.
    ///
    /// # Errors
    ///
    /// On `timeout` or when evertoken ends first; the message has the end of its stderr.
    pub fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        self.process
            .wait_for(what, timeout, || holds(self).then_some(()))
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When evertoken has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    ///
    /// When evertoken has ended before, or still runs after `timeout`.
    pub fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(timeout)
    }

    /// Kills it (SIGKILL) and reaps it: a crash.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to say.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it still runs after `timeout`.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        self.process.wait(timeout)
    }

    /// Resident memory in bytes, children included.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn rss_bytes(&self) -> Result<u64> {
        self.process.rss_bytes()
    }
}
