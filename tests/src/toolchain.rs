//! Runs the tools that build parts (go, mvn, java, cargo) to their end, with errors that say what is missing and how to go on without.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

/// Runs `command`; `hint` says how to get the tool when it is missing.
pub(crate) fn run(mut command: Command, hint: &str) -> Result<()> {
    let text = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow!(
                "`{}` is missing: {hint}",
                command.get_program().to_string_lossy()
            ),
            _ => anyhow::Error::new(error).context(format!("cannot run {text}")),
        })?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{text} failed with {}; {hint}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A cargo of the same toolchain, free of what the outer cargo told this very package.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
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

/// The result of work that is done once per process, failures included: no test waits again for a build that failed before.
pub(crate) fn remembered<T>(result: &Result<T, String>) -> Result<&T> {
    result.as_ref().map_err(|message| anyhow!("{message}"))
}

/// Turns an error into the text that [`remembered`] keeps.
pub(crate) fn to_remember<T>(result: Result<T>) -> Result<T, String> {
    result
        .context("this part cannot be had")
        .map_err(|error| format!("{error:#}"))
}
