//! Plugins are compiled by the program itself, in a process of its own.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot start has nothing better to do than to stop"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use evertoken::model::PluginFile;
use evertoken::model::defaults::plugin_limits;
use evertoken::model::failure::FailureKind;
use evertoken::plugin::{CacheSettings, Compiler, Digest, Plugins, World};
use evertoken::refresh::circuit_breaker::{Sign, sign};

fn plugins(directory: &Path, compiler: PathBuf, files: &BTreeMap<String, PluginFile>) -> Plugins {
    let cache = CacheSettings {
        directory: Some(directory.to_owned()),
        prefilled: None,
        compiler: Compiler::Program(compiler),
    };
    Plugins::new(files, plugin_limits(), cache).unwrap()
}

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_evertoken"))
}

#[tokio::test]
async fn what_the_program_compiled_is_loaded_here_and_not_compiled_again() {
    let directory = tempfile::tempdir().unwrap();
    let none = BTreeMap::new();
    plugins(directory.path(), program(), &none)
        .prepare("dummy")
        .await
        .unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);

    let no_compiler = PathBuf::from("/nonexistent/evertoken");
    let second_start = plugins(directory.path(), no_compiler, &none);
    second_start.prepare("dummy").await.unwrap();
    let error = second_start.prepare("mirror").await.unwrap_err();
    assert_eq!(error.code().as_str(), "plugin.compile");
    assert!(
        error
            .to_failure()
            .message
            .contains("cannot run the compiler /nonexistent/evertoken"),
        "{:?}",
        error.to_failure()
    );
}

#[tokio::test]
async fn a_component_with_an_invalid_function_is_refused_in_the_compilers_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broken.wasm");
    let component = wat::parse_str(
        r#"(component
            (core module (func (result i32)))
            (instance $i) (export "evertoken:plugin/source@0.1.0" (instance $i)))"#,
    )
    .unwrap();
    std::fs::write(&path, &component).unwrap();
    let sha256 = Digest::of(&component).0;
    let files = BTreeMap::from([("broken".to_owned(), PluginFile { path, sha256 })]);
    let plugins = plugins(&directory.path().join("cache"), program(), &files);
    let failure = plugins.prepare("broken").await.unwrap_err().to_failure();
    assert_eq!(failure.code(), Some("plugin.compile"));
    assert!(
        failure
            .message
            .contains("plugin `broken` cannot be compiled")
            && failure.message.contains("type mismatch"),
        "{failure}"
    );
}

/// A large plugin on a slow machine. Nobody who waits for it is told anything of an issuer, and it is compiled once.
#[tokio::test]
async fn a_plugin_is_compiled_once_however_long_that_takes_and_whoever_gives_up_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let script = format!(
        "#!/bin/sh\necho begun >> {}\nsleep 8\nexec {} \"$@\"\n",
        at("begun").display(),
        program().display()
    );
    std::fs::write(at("slow"), script).unwrap();
    std::fs::set_permissions(at("slow"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let plugins = plugins(&at("cache"), at("slow"), &BTreeMap::new());
    let mut waited = Vec::new();
    let source = loop {
        let (one, other) = tokio::join!(plugins.source("dummy"), plugins.source("dummy"));
        match one {
            Ok(source) => break source,
            Err(failure) => waited.push(failure),
        }
        drop(other);
    };
    assert!(!waited.is_empty());
    for failure in waited {
        assert_eq!(failure.code(), Some("plugin.compiling"), "{failure}");
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert_eq!(sign(&failure, true), Sign::Unsent);
        assert!(failure.retry_after.is_some());
    }
    assert_eq!(source.info().world, World::Source);
    assert_eq!(std::fs::read_to_string(at("begun")).unwrap(), "begun\n");
}
