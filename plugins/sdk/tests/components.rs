//! Builds the plugins as the host does and checks the components: imports and exports, declared data, size.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may fail as plainly as the test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;
use wasmparser::{Parser, Payload};

const SOURCE: &str = "evertoken:plugin/source@0.1.0";
const FORMATTER: &str = "evertoken:plugin/formatter@0.1.0";

/// Components are part of the host's binary and are compiled at first use, which delays the first token of nearly every user of
/// these two. An eighth of it is the parser of answers that oauth2 shares with the host.
const MAX_SMALL_COMPONENT_BYTES: usize = 250_000;

/// A component's file.
struct Component {
    bytes: usize,
    imports: Vec<String>,
    exports: Vec<String>,
    sections: BTreeMap<String, Vec<u8>>,
}

static COMPONENTS: LazyLock<BTreeMap<&str, Component>> = LazyLock::new(|| {
    let files = build();
    let read = |name| {
        let file = files
            .iter()
            .find(|file| file.file_stem().unwrap() == name)
            .unwrap();
        (name, inspect(&std::fs::read(file).unwrap()))
    };
    ["oauth2", "dummy", "mirror", "template"].map(read).into()
});

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The files of a release build.
fn build() -> Vec<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--target",
        "wasm32-wasip2",
        "--message-format",
        "json",
    ]);
    let output = cargo
        .current_dir(workspace())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let messages = String::from_utf8(output.stdout).unwrap();
    let messages = messages
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let files = messages.flat_map(|message| {
        message
            .get("filenames")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    });
    files
        .map(|file| PathBuf::from(file.as_str().unwrap()))
        .filter(|file| file.extension().is_some_and(|kind| kind == "wasm"))
        .collect()
}

fn inspect(bytes: &[u8]) -> Component {
    let mut component = Component {
        bytes: bytes.len(),
        imports: Vec::new(),
        exports: Vec::new(),
        sections: BTreeMap::new(),
    };
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(imports) if depth == 0 => {
                component.imports.extend(
                    imports
                        .into_iter()
                        .map(|import| import.unwrap().name.name.to_owned()),
                );
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                component.exports.extend(
                    exports
                        .into_iter()
                        .map(|export| export.unwrap().name.name.to_owned()),
                );
            }
            Payload::CustomSection(section) if section.name().starts_with("evertoken:") => {
                let before = component
                    .sections
                    .insert(section.name().to_owned(), section.data().to_vec());
                assert!(before.is_none(), "{} is there twice", section.name());
            }
            _ => {}
        }
    }
    component
}

#[test]
fn each_component_exports_its_world_and_imports_no_more_than_the_world_has() {
    let source_imports = [
        "types", "secrets", "crypto", "http", "state", "log", "clock",
    ];
    for (name, export, imports) in [
        ("oauth2", SOURCE, source_imports.as_slice()),
        ("dummy", SOURCE, &source_imports),
        ("mirror", SOURCE, &source_imports),
        ("template", FORMATTER, &["types", "log"]),
    ] {
        let component = &COMPONENTS[name];
        assert_eq!(component.exports, [export], "{name}");
        for import in component
            .imports
            .iter()
            .filter(|import| !import.starts_with("wasi:"))
        {
            let known = imports
                .iter()
                .any(|known| *import == format!("evertoken:plugin/{known}@0.1.0"));
            assert!(known, "{name} imports {import}");
        }
    }
}

/// What the language's runtime needs: streams, which the host discards, an empty environment, and a seed for hash maps.
#[test]
fn no_component_asks_wasi_for_more_than_its_runtime_needs() {
    for (name, component) in &*COMPONENTS {
        for import in component
            .imports
            .iter()
            .filter(|import| import.starts_with("wasi:"))
        {
            let known = ["wasi:cli/", "wasi:io/", "wasi:random/insecure-seed@"];
            assert!(
                known.iter().any(|known| import.starts_with(known)),
                "{name} imports {import}"
            );
        }
    }
}

#[test]
fn each_component_carries_its_schema_and_a_description_that_survived_strip_and_link() {
    for (name, component) in &*COMPONENTS {
        let schema = std::fs::read(workspace().join(name).join("schema.json")).unwrap();
        assert!(
            component.sections["evertoken:config-schema"] == schema,
            "{name}"
        );
        let about: Value = serde_json::from_slice(&component.sections["evertoken:about"]).unwrap();
        assert_eq!(
            (about["name"].as_str(), about["version"].as_str()),
            (Some(*name), Some(env!("CARGO_PKG_VERSION")))
        );
    }
}

#[test]
fn oauth2_names_its_endpoint_and_its_secrets() {
    let sections = &COMPONENTS["oauth2"].sections;
    let schema: Value = serde_json::from_slice(&sections["evertoken:config-schema"]).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    let endpoints = properties
        .iter()
        .filter(|(_, property)| property["x-evertoken-endpoint"] == Value::Bool(true));
    assert_eq!(
        endpoints.map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["token_url"]
    );

    let about: Value = serde_json::from_slice(&sections["evertoken:about"]).unwrap();
    let secrets = about["secrets"].as_array().unwrap();
    assert_eq!(
        secrets
            .iter()
            .map(|secret| secret["name"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["client_id", "client_secret", "refresh_token"]
    );
    assert!(
        secrets
            .iter()
            .all(|secret| secret["required"] == Value::Bool(false)
                && !secret["description"].as_str().unwrap().is_empty())
    );
}

#[test]
fn the_components_that_everybody_meets_first_are_small() {
    for name in ["oauth2", "dummy"] {
        let bytes = COMPONENTS[name].bytes;
        assert!(
            bytes < MAX_SMALL_COMPONENT_BYTES,
            "{name} has {bytes} bytes"
        );
    }
}
