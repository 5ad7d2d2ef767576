//! The plugins' own tests: another workspace, which `cargo test --workspace` does not reach by itself.

use anyhow::Result;

use crate::toolchain::{nested_cargo, run};
use crate::workdir::{locked, parts, workspace};

/// Runs `cargo test` in `plugins/`.
///
/// # Errors
///
/// When a test fails; the message has what cargo printed.
pub fn test() -> Result<()> {
    let (sources, target) = (workspace()?.join("plugins"), parts()?.join("plugins"));
    locked("plugins", || {
        let arguments = ["test", "--locked", "--workspace"];
        run(
            nested_cargo(&sources, &target, &arguments),
            "the plugins' tests are run by cargo",
        )
    })
}
