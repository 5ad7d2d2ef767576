//! Runs the tools that build parts (go, mvn, java, cargo) to their end, with errors that name what is missing and how to do
//! without.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::process::{spawn, tied};

/// The exit status of `setpriv`, as of a shell, if there is no such program.
const NOT_FOUND: i32 = 127;

/// Runs a command made by [`tied`]: a tool that outlived us would go on writing to folders whose lock is free again. `hint` says how to get
/// the tool when it is missing.
pub(crate) fn run(mut command: Command, hint: &str) -> Result<()> {
    let words: Vec<_> = command
        .get_args()
        .skip_while(|word| *word != "--")
        .skip(1)
        .map(|word| word.to_string_lossy())
        .collect();
    let text = words.join(" ");
    let name = words.first().map_or_else(String::new, ToString::to_string);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawn(command)?
        .wait_with_output()
        .with_context(|| format!("cannot wait for {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    if output.status.code() == Some(NOT_FOUND) {
        bail!("`{name}` is missing: {hint}");
    }
    bail!(
        "`{text}` failed with {}; {hint}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A cargo of the same toolchain, without the variables that the outer cargo set for this package.
pub(crate) fn cargo() -> Command {
    let mut command = tied(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ]
        .iter()
        .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command.env_remove("OUT_DIR");
    command
}

/// [`cargo`] for a workspace of its own, in a target folder of its own. The host's flags are for another machine, and its profile for another
/// program.
pub(crate) fn nested_cargo(sources: &Path, target: &Path, arguments: &[&str]) -> Command {
    let mut command = cargo();
    command
        .current_dir(sources)
        .args(arguments)
        .arg("--target-dir")
        .arg(target);
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(name);
    }
    command
}

/// The result of work that is done once per process, failures included: a failed build is not repeated for each test.
pub(crate) fn remembered<T>(result: &Result<T, String>) -> Result<&T> {
    result.as_ref().map_err(|message| anyhow!("{message}"))
}

/// Turns an error into the text that [`remembered`] keeps.
pub(crate) fn to_remember<T>(result: Result<T>) -> Result<T, String> {
    result
        .context("this part cannot be had")
        .map_err(|error| format!("{error:#}"))
}
