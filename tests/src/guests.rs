//! The hostile plugins: a cargo workspace of its own in `tests/guests`, built to components for wasm32-wasip2.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context as _, Result, bail};

use crate::toolchain::{nested_cargo, remembered, run, to_remember};
use crate::workdir::{locked, package, parts};

const HINT: &str =
    "the guests are built by cargo for the target wasm32-wasip2, which rust-toolchain.toml names";

static FOLDER: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| to_remember(provide()));

/// Builds the hostile plugins, once per process, and returns the folder with their `.wasm` files.
///
/// # Errors
///
/// When the build fails.
pub fn build() -> Result<&'static Path> {
    remembered(&FOLDER).map(PathBuf::as_path)
}

/// The bytes of one of them, by the name of its crate.
///
/// # Errors
///
/// When the build fails or there is no such plugin.
pub fn guest(name: &str) -> Result<Vec<u8>> {
    let path = build()?.join(format!("{}.wasm", name.replace('-', "_")));
    std::fs::read(&path).with_context(|| format!("no guest {name}: cannot read {}", path.display()))
}

fn provide() -> Result<PathBuf> {
    let (sources, target) = (package().join("guests"), parts()?.join("guests"));
    if !sources.join("Cargo.toml").is_file() {
        bail!("{} has no Cargo.toml", sources.display());
    }
    locked("guests", || {
        let arguments = ["build", "--quiet", "--release", "--target", "wasm32-wasip2"];
        run(nested_cargo(&sources, &target, &arguments), HINT)
    })?;
    Ok(target.join("wasm32-wasip2/release"))
}
