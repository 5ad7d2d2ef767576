//! Plugins are compiled by the program itself, in a process of its own.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot start has nothing better to do than to stop"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evertoken::model::PluginFile;
use evertoken::model::defaults::plugin_limits;
use evertoken::plugin::{CacheSettings, Compiler, Digest, PluginWorld, Plugins};

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

/// A large plugin on a slow machine, where what is compiled can be kept and where it cannot.
#[tokio::test]
async fn a_plugin_is_compiled_once_however_long_that_takes_and_whoever_gives_up_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let script = format!(
        "#!/bin/sh\necho begun >> {}\nsleep 3\nexec {} \"$@\"\n",
        at("begun").display(),
        program().display()
    );
    std::fs::write(at("slow"), script).unwrap();
    std::fs::set_permissions(at("slow"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(at("file"), "").unwrap();
    for (begun, (cache, is_kept)) in [("cache", true), ("file", false)].into_iter().enumerate() {
        let plugins = plugins(&at(cache), at("slow"), &BTreeMap::new());
        for _ in 0..4 {
            let waiting = plugins.prepare("dummy");
            let gave_up = tokio::time::timeout(Duration::from_millis(500), waiting).await;
            assert!(gave_up.is_err());
        }
        let (one, other) = tokio::join!(plugins.precompile("dummy"), plugins.source("dummy"));
        assert_eq!(one.unwrap(), is_kept);
        assert_eq!(other.unwrap().info().world, PluginWorld::Source);
        assert!(plugins.is_loaded("dummy"));
        let starts = std::fs::read_to_string(at("begun")).unwrap();
        assert_eq!(starts.lines().count(), begun + 1, "{cache}");
    }
}

/// Two processes that start together: each compiles for itself, and what one keeps serves both at their next start.
#[tokio::test]
async fn two_with_one_cache_are_in_nobodys_way() {
    let directory = tempfile::tempdir().unwrap();
    let none = BTreeMap::new();
    let both = [(); 2].map(|()| plugins(directory.path(), program(), &none));
    let (one, other) = tokio::join!(both[0].precompile("dummy"), both[1].precompile("dummy"));
    assert!(one.unwrap() && other.unwrap());
    let kept = std::fs::read_dir(directory.path()).unwrap();
    let kept: Vec<_> = kept.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let third = plugins(
        directory.path(),
        PathBuf::from("/nonexistent/evertoken"),
        &none,
    );
    third.prepare("dummy").await.unwrap();
}
