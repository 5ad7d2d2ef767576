//! The hostile plugins of `tests/guests`, built once per process, and fixtures for tests of plugins.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::model::PluginFile;
use crate::plugin::{CacheSettings, Compiler, Digest};

fn folder() -> &'static Path {
    evertoken_tests::guests::build().unwrap()
}

/// A hostile plugin in the form of a configuration.
pub(crate) fn guest(name: &str) -> PluginFile {
    file(&folder().join(format!("{name}.wasm")))
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

/// In the same folder as the components, since it changes as often.
pub(crate) fn cache() -> CacheSettings {
    built_in_process(&folder().join("compiled"))
}

/// The running program is a test and not a compiler.
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
