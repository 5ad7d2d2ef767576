//! What most end-to-end tests need: a folder of their own, a configuration file, and the process that runs it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use evertoken_tests::evertoken::{Evertoken, Finished, Launch, binary};
use evertoken_tests::wait_until;
use evertoken_tests::workdir::RunDir;
use serde_json::Value;

/// Long enough for a busy machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What somebody has to mend is tried again after ten seconds, then after a minute.
pub(crate) const RECOVERY: Duration = Duration::from_secs(100);

/// A folder with a configuration, and a compile cache that all tests share.
pub(crate) struct Scene {
    folder: RunDir,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Scene {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let folder = RunDir::new(name)?;
        std::fs::create_dir(folder.path().join("out"))?;
        Ok(Self {
            folder,
            variables: Vec::new(),
        })
    }

    /// All that is started has this variable.
    pub(crate) fn env(mut self, name: &'static str, value: PathBuf) -> Self {
        self.variables.push((name, value));
        self
    }

    /// A path inside the scene's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path inside the folder that outputs go to.
    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join("out").join(name)
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        self.folder.write(name, content)
    }

    /// The configuration: `yaml` with `{out}` and `{here}` replaced by the scene's folders.
    pub(crate) fn config(&self, yaml: &str) -> Result<PathBuf> {
        let text = yaml
            .replace("{out}", &self.out("").display().to_string())
            .replace("{here}", &self.folder.path().display().to_string());
        self.write("evertoken.yaml", &text)
    }

    /// A command line with the shared compile cache and nothing else from outside.
    pub(crate) fn launch(&self) -> Result<Launch> {
        self.furnish(Launch::new()?)
    }

    /// A shell that runs `script`, in which `"$0"` is the built program.
    pub(crate) fn shell(&self, script: &str) -> Result<Launch> {
        let shell = Launch::of(Path::new("sh")).args(["-c", script]);
        self.furnish(shell.args([binary()?]))
    }

    fn furnish(&self, launch: Launch) -> Result<Launch> {
        let cache = evertoken_tests::workdir::parts()?.join("cache");
        std::fs::create_dir_all(&cache)?;
        let variables = self.variables.iter();
        let launch = variables.fold(launch, |launch, (name, value)| launch.env(name, value));
        Ok(launch
            .env("XDG_CACHE_HOME", cache)
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .folder(self.folder.path()))
    }

    /// `evertoken run`, started.
    pub(crate) fn run(&self, config: &Path) -> Result<Evertoken> {
        self.launch()?
            .args(["run", "--config"])
            .args([config])
            .args(["-v"])
            .spawn()
    }

    /// `evertoken COMMAND… --config CONFIG`, to its end.
    pub(crate) fn command(&self, arguments: &[&str], config: &Path) -> Result<Finished> {
        self.launch()?
            .args(arguments)
            .args(["--config"])
            .args([config])
            .finish(PATIENCE)
    }

    /// The rows of `evertoken status -o json`.
    pub(crate) fn status(&self, config: &Path) -> Result<Vec<Value>> {
        let finished = self.command(&["status", "-o", "json"], config)?;
        anyhow::ensure!(
            finished.code() == Some(0),
            "status failed: {}",
            finished.stderr
        );
        let answer: Value = serde_json::from_str(&finished.stdout)?;
        Ok(answer
            .get("jobs")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default())
    }

    /// A job's row; none before the process answers.
    pub(crate) fn row(&self, config: &Path, job: &str) -> Option<Value> {
        self.status(config)
            .ok()?
            .into_iter()
            .find(|row| row["id"]["name"] == job)
    }

    /// Waits until status names a failure of the job, of its source or of an output.
    pub(crate) fn failure(
        &self,
        config: &Path,
        process: &Evertoken,
        job: &str,
        patience: Duration,
    ) -> Failure {
        let found = wait_until(&format!("a failure of {job}"), patience, || {
            failure_in(&self.row(config, job)?)
        });
        found.unwrap_or_else(|error| panic!("{error:#}\n{}", process.stderr()))
    }
}

/// What status says about something that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The failure in a job's row.
pub(crate) fn failure_in(row: &Value) -> Option<Failure> {
    let of_outputs = row["outputs"]
        .as_array()?
        .iter()
        .map(|output| &output["failure"]);
    let failure = std::iter::once(&row["last_failure"])
        .chain(of_outputs)
        .find(|failure| !failure.is_null())?;
    let text = |key: &str| failure[key].as_str().unwrap_or_default().to_owned();
    Some(Failure {
        kind: text("kind"),
        code: text("code"),
        message: text("message"),
    })
}
