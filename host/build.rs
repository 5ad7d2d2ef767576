//! Brings the built-in plugins into the binary: builds the workspace in `../plugins` for wasm32-wasip2, or takes the components from the
//! folder that the variable `EVERTOKEN_PLUGINS` names, and writes a table of them for `src/plugin/built_in.rs`.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// The built-in plugins: names in configurations, and of the components.
const BUILT_IN: [&str; 4] = ["dummy", "mirror", "oauth2", "template"];

const TARGET: &str = "wasm32-wasip2";

/// Rust's megabyte of stack would be most of a plugin's memory, and the host clears that after each call. What the plugins do needs a few
/// KiB, and the deepest JSON that serde_json reads (128 levels) some dozens.
const SMALL_STACK: &str = "-C link-arg=-zstack-size=131072";

/// A folder with ready components, for those who build the plugins themselves.
const FOLDER_VARIABLE: &str = "EVERTOKEN_PLUGINS";

/// What the outer cargo, and clippy as its compiler, say to this build and must not say to the nested one, which is for another target.
const NOT_INHERITED: [&str; 14] = [
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={FOLDER_VARIABLE}");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let folder = match env::var_os(FOLDER_VARIABLE) {
        Some(folder) => ready(PathBuf::from(folder)),
        None => build(&out)?,
    };
    write_table(&folder, &out)
}

/// The components of a folder that somebody else filled.
fn ready(folder: PathBuf) -> PathBuf {
    for name in BUILT_IN {
        println!(
            "cargo::rerun-if-changed={}",
            component(&folder, name).display()
        );
    }
    folder
}

/// Builds the plugins and returns the folder of their components.
fn build(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let plugins = root.join("plugins");
    watch(&plugins, &root.join("wit/v0.1"));
    let target_dir = target_dir(out).join("plugins");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--manifest-path")
        .arg(plugins.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir);
    for name in BUILT_IN {
        cargo.arg("--package").arg(format!("evertoken-{name}"));
    }
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", SMALL_STACK);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PROFILE_") {
            cargo.env_remove(name);
        }
    }
    let output = cargo.output()?;
    if !output.status.success() {
        return Err(explain(&String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(target_dir.join(TARGET).join("release"))
}

/// Only what the components are made of: a change of the host builds no plugin.
fn watch(plugins: &Path, wit: &Path) {
    let manifests = ["Cargo.toml", "Cargo.lock"].map(|file| plugins.join(file));
    let packages = BUILT_IN
        .iter()
        .chain(&["answer", "sdk"])
        .map(|name| plugins.join(name));
    for path in manifests
        .into_iter()
        .chain(packages)
        .chain([wit.to_owned()])
    {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// The workspace's target folder, so that all profiles share one build of the plugins.
fn target_dir(out: &Path) -> PathBuf {
    out.ancestors()
        .find(|folder| folder.ends_with("build"))
        .and_then(|build| build.parent()?.parent())
        .unwrap_or(out)
        .to_owned()
}

fn explain(stderr: &str) -> String {
    if stderr.contains("target may not be installed") {
        return format!(
            "the built-in plugins need the Rust target {TARGET}; run `rustup target add {TARGET}`"
        );
    }
    format!("building the built-in plugins failed:\n{stderr}")
}

fn write_table(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut table = String::from("&[\n");
    for name in BUILT_IN {
        let path = component(folder, name);
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // A copy, so that the binary embeds what was hashed.
        let copy = component(out, name);
        fs::write(&copy, &bytes)?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        writeln!(
            table,
            "    BuiltIn {{ name: {name:?}, bytes: include_bytes!({copy:?}), digest: Digest({digest:?}) }},"
        )?;
    }
    table.push_str("]\n");
    fs::write(out.join("built_in.rs"), table)?;
    Ok(())
}

fn component(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.wasm"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}; this script is run by cargo"))
}
