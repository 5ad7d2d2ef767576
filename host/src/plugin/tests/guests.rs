//! The guests of `tests/guests`, built once per process, and what tests of plugins share.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::config::model::PluginFile;
use crate::plugin::{CacheSettings, Compiler, Digest};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(build);

/// For the target of the guests, with none of what the outer cargo says about the host's.
fn build() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(&sources)
        .args(["build", "--quiet", "--release", "--locked", "--target", "wasm32-wasip2"])
        .args(["--target-dir", "target"]);
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(name);
    }
    let status = cargo.status().unwrap();
    assert!(status.success(), "building the guests failed");
    sources.join("target/wasm32-wasip2/release")
}

/// A guest, as a configuration names it.
pub(crate) fn guest(name: &str) -> PluginFile {
    file(&FOLDER.join(format!("{name}.wasm")))
}

/// A file with the digest that it has now.
pub(crate) fn file(path: &Path) -> PluginFile {
    PluginFile {
        path: path.to_owned(),
        sha256: Digest::of(&std::fs::read(path).unwrap()).0,
    }
}

pub(crate) fn component(body: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {body})")).unwrap()
}

/// Kept beside the guests: they change as often.
pub(crate) fn cache() -> CacheSettings {
    built_in_process(&FOLDER.join("compiled"))
}

/// The running program is a test and no compiler.
pub(crate) fn built_in_process(directory: &Path) -> CacheSettings {
    CacheSettings {
        directory: Some(directory.to_owned()),
        prefilled: None,
        compiler: Compiler::InProcess,
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What a future on this thread logs, at TRACE.
pub(crate) async fn logged<T>(work: impl Future<Output = T>) -> (T, String) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let result = work.await;
    drop(guard);
    let bytes = log.0.lock().unwrap().clone();
    (result, String::from_utf8(bytes).unwrap())
}
