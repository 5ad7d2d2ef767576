//! What a component declares, read without running or compiling it: its world, the interface version it was built for, its
//! imports, and the custom sections in which the plugin SDK embeds the configuration's schema and a description.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use wasmparser::{Parser, Payload};

use super::instances::Instances;
use super::limits;
use super::needs::{self, SecretMistake, SecretNeed};
use super::schema::{self, Judgement};
use crate::model::failure::HostCode;
use crate::printable::{self, printable};

/// The package of the plugin interface.
const PACKAGE: &str = "evertoken:plugin";

/// The interface versions that this host supports: all patches of 0.1.
const SUPPORTED: Track = Track { major: 0, minor: 1 };

/// The custom section with the JSON Schema of the plugin's configuration.
const SCHEMA_SECTION: &str = "evertoken:config-schema";

/// The custom section with the plugin's name, version, description and secrets.
const ABOUT_SECTION: &str = "evertoken:about";

/// Interfaces of the host that a source may import.
const SOURCE_IMPORTS: &[&str] = &[
    "types", "secrets", "crypto", "http", "state", "log", "clock",
];

/// Interfaces of the host that a formatter may import.
const FORMATTER_IMPORTS: &[&str] = &["types", "log"];

/// WASI packages that a source may import: they provide only closed and discarded streams, clocks, random numbers, an empty list
/// of folders, and sockets that refuse everything.
const SOURCE_WASI: &[&str] = &[
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];

/// WASI packages that a formatter may import. No clock, and no randomness but the seed of hash maps, which is the same for each
/// call: formatting must be deterministic.
const FORMATTER_WASI: &[&str] = &[
    "wasi:cli",
    "wasi:filesystem",
    "wasi:io",
    "wasi:random/insecure-seed",
    "wasi:sockets",
];

/// WASI packages that are refused, and what to do instead.
const REFUSED_WASI: &[(&str, &str)] = &[(
    "wasi:http",
    "send requests with `evertoken:plugin/http`, which knows the job's allow-list, TLS material and secrets",
)];

/// How many of a component's names a message lists.
const MAX_LISTED: usize = 50;

/// The most characters of such a name in a message.
const MAX_NAME_CHARS: usize = 100;

/// A digest of a component, as a user writes it in `sha256`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first twelve digits: enough to distinguish plugins in a message.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

/// Hexadecimal, lower case.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a plugin is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PluginWorld {
    /// World `token-source`: obtains tokens.
    Source,
    /// World `output-formatter`: turns tokens into the content of an output.
    Formatter,
}

impl PluginWorld {
    const ALL: [Self; 2] = [Self::Source, Self::Formatter];

    /// The exported interface that makes a component one of this world.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Formatter => "formatter",
        }
    }

    const fn imports(self) -> &'static [&'static str] {
        match self {
            Self::Source => SOURCE_IMPORTS,
            Self::Formatter => FORMATTER_IMPORTS,
        }
    }

    const fn wasi(self) -> &'static [&'static str] {
        match self {
            Self::Source => SOURCE_WASI,
            Self::Formatter => FORMATTER_WASI,
        }
    }
}

impl fmt::Display for PluginWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a component declares.
#[derive(Debug, Clone)]
pub struct PluginInfo {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What it is for.
    pub world: PluginWorld,
    /// The interface version it was built for, e.g. `0.1.0`.
    pub interface_version: String,
    /// What it imports, by full name, in the component's order.
    pub imports: Vec<String>,
    /// What it exports, by full name, in the component's order.
    pub exports: Vec<String>,
    /// The JSON Schema of its configuration; none: every configuration is accepted.
    pub schema: Option<Value>,
    /// Paths of configuration fields that hold URLs of endpoints, e.g. `token_url`.
    pub endpoint_fields: Vec<String>,
    /// The plugin's description of itself.
    pub about: Option<About>,
    /// Built from the schema at the first use: ten thousand jobs may use one plugin.
    judge: OnceLock<Result<schema::Judge, String>>,
}

impl PluginInfo {
    /// Validates a configuration against the schema of a plugin that is part of the binary: any other may be hostile.
    pub(super) fn judge_config(&self, config: &Value) -> Result<Judgement, String> {
        let Some(schema) = &self.schema else {
            return Ok(Judgement::default());
        };
        let judge = self.judge.get_or_init(|| schema::judge(schema));
        let judge = judge.as_ref().map_err(String::clone)?;
        Ok(schema::judge_config(schema, judge, config))
    }

    /// The mistakes in the names of the secrets that a job lists with a configuration.
    #[must_use]
    pub fn check_secrets(&self, config: &Value, listed: &[&str]) -> Vec<SecretMistake> {
        let needs = self.about.as_ref().map_or(&[][..], |about| &about.secrets);
        needs::check_secrets(needs, config, listed)
    }
}

/// How a plugin describes itself, in printable text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct About {
    /// Its name; jobs use the name in the configuration instead.
    #[serde(deserialize_with = "printable::deserialize")]
    pub name: String,
    /// Its version.
    #[serde(deserialize_with = "printable::deserialize")]
    pub version: String,
    /// One sentence.
    #[serde(default, deserialize_with = "printable::deserialize")]
    pub description: String,
    /// The secrets it opens.
    #[serde(default)]
    pub secrets: Vec<SecretNeed>,
}

/// Why a file is no plugin that this host can run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// Too large.
    #[error("the component has {size} bytes, more than the {limit} that a plugin may have")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Its core instances are.
    #[error(
        "the component's core instances take {size} bytes for globals, functions and imports, more than the {limit} that they may take; give its modules fewer of them, or instantiate fewer modules"
    )]
    LargeInstances {
        /// What they take at most.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// It is not WebAssembly.
    #[error(
        "this is no WebAssembly: it begins with {found}, not with `\\0asm`; give the path of a `.wasm` component"
    )]
    NotWasm {
        /// The first bytes.
        found: String,
    },
    /// A core module instead of a component.
    #[error(
        "this is a core WebAssembly module, not a component; build it for the target wasm32-wasip2"
    )]
    CoreModule,
    /// It cannot be parsed.
    #[error("the component is damaged")]
    Malformed(#[source] wasmparser::BinaryReaderError),
    /// It exports neither world's interface.
    #[error(
        "the component exports neither `{PACKAGE}/source` nor `{PACKAGE}/formatter`, so it is no plugin; it exports {}",
        list(exports)
    )]
    NotAPlugin {
        /// What it exports.
        exports: Vec<String>,
    },
    /// Built for an interface version that this host does not support.
    #[error(
        "the plugin was built for version {found} of the plugin interface, and this evertoken speaks 0.1; {advice}"
    )]
    UnknownVersion {
        /// The plugin's version.
        found: String,
        /// Which side to upgrade.
        advice: &'static str,
    },
    /// It imports what no plugin may import.
    #[error("the plugin imports `{name}`, which plugins do not get: {advice}")]
    RefusedImport {
        /// The import.
        name: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// It imports an interface that this host does not have.
    #[error(
        "the plugin imports `{name}`, which evertoken does not offer to a {world}; it offers {}",
        list(offered)
    )]
    MissingImport {
        /// The import.
        name: String,
        /// The plugin's world.
        world: PluginWorld,
        /// The interfaces that a plugin of this world may import.
        offered: Vec<String>,
    },
    /// An embedded section is larger than it may be.
    #[error(
        "the plugin's embedded section `{section}` has {size} bytes, more than the {limit} that it may have"
    )]
    LargeSection {
        /// The section.
        section: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// An embedded section occurs twice, with different content.
    #[error("the plugin has two embedded sections `{section}` that differ")]
    TwoSections {
        /// The section.
        section: &'static str,
    },
    /// An embedded section is not JSON.
    #[error("the plugin's embedded section `{section}` is not what it should be")]
    Section {
        /// The section.
        section: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

impl InspectError {
    /// The stable code of the failure that a job gets.
    #[must_use]
    pub const fn code(&self) -> HostCode {
        match self {
            Self::TooLarge { .. } | Self::LargeInstances { .. } => HostCode::PluginTooLarge,
            Self::NotWasm { .. } | Self::CoreModule | Self::Malformed(_) => {
                HostCode::PluginNotAComponent
            }
            Self::NotAPlugin { .. } => HostCode::PluginWrongWorld,
            Self::UnknownVersion { .. } => HostCode::PluginUnknownVersion,
            Self::RefusedImport { .. } => HostCode::PluginRefusedImport,
            Self::MissingImport { .. } => HostCode::PluginMissingImport,
            Self::Section { .. } | Self::LargeSection { .. } | Self::TwoSections { .. } => {
                HostCode::PluginInvalidSection
            }
        }
    }
}

/// Reads what a component declares, and refuses a component that this host cannot run.
///
/// # Errors
/// It is not a component, not a plugin, was built for another interface, or imports what plugins may not.
pub fn inspect(bytes: &[u8]) -> Result<PluginInfo, InspectError> {
    check_is_component(bytes)?;
    let surface = read(bytes).map_err(InspectError::Malformed)?;
    check_instances(&surface.instances)?;
    let (world, version) = world_of(&surface.exports)?;
    for import in &surface.imports {
        audit(import, world)?;
    }
    let schema: Option<Value> = section(SCHEMA_SECTION, &surface.schemas, limits::SCHEMA_BYTES)?;
    Ok(PluginInfo {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        world,
        interface_version: version,
        endpoint_fields: schema
            .as_ref()
            .map(schema::endpoint_fields)
            .unwrap_or_default(),
        schema,
        judge: OnceLock::new(),
        about: section(ABOUT_SECTION, &surface.abouts, limits::ABOUT_BYTES)?,
        imports: surface.imports,
        exports: surface.exports,
    })
}

fn check_is_component(bytes: &[u8]) -> Result<(), InspectError> {
    if bytes.len() > limits::COMPONENT_BYTES {
        return Err(InspectError::TooLarge {
            size: bytes.len(),
            limit: limits::COMPONENT_BYTES,
        });
    }
    if Parser::is_core_wasm(bytes) {
        return Err(InspectError::CoreModule);
    }
    if !Parser::is_component(bytes) {
        let head = bytes.get(..bytes.len().min(4)).unwrap_or_default();
        return Err(InspectError::NotWasm {
            found: format!("`{}`", head.escape_ascii()),
        });
    }
    Ok(())
}

fn check_instances(instances: &Instances) -> Result<(), InspectError> {
    let size = instances.bytes();
    let limit = limits::INSTANCE_BYTES;
    if size > limit {
        return Err(InspectError::LargeInstances { size, limit });
    }
    Ok(())
}

/// The imports and exports of the outermost component, and its instances. Our sections wherever they are: the linker leaves them
/// in the core module.
#[derive(Default)]
struct Surface<'a> {
    instances: Instances,
    imports: Vec<String>,
    exports: Vec<String>,
    schemas: BTreeSet<&'a [u8]>,
    abouts: BTreeSet<&'a [u8]>,
}

fn read(bytes: &[u8]) -> Result<Surface<'_>, wasmparser::BinaryReaderError> {
    let mut surface = Surface::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        surface.instances.read(&payload)?;
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    surface.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    surface.exports.push(export?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if section.name() == SCHEMA_SECTION => {
                surface.schemas.insert(section.data());
            }
            Payload::CustomSection(section) if section.name() == ABOUT_SECTION => {
                surface.abouts.insert(section.data());
            }
            _ => {}
        }
    }
    Ok(surface)
}

fn section<T: for<'de> Deserialize<'de>>(
    section: &'static str,
    found: &BTreeSet<&[u8]>,
    limit: usize,
) -> Result<Option<T>, InspectError> {
    let Some(data) = found.first() else {
        return Ok(None);
    };
    if found.len() > 1 {
        return Err(InspectError::TwoSections { section });
    }
    if data.len() > limit {
        return Err(InspectError::LargeSection {
            section,
            size: data.len(),
            limit,
        });
    }
    serde_json::from_slice(data)
        .map(Some)
        .map_err(|source| InspectError::Section { section, source })
}

fn world_of(exports: &[String]) -> Result<(PluginWorld, String), InspectError> {
    let found = exports
        .iter()
        .map(|name| Interface::parse(name))
        .find_map(|interface| {
            let world = PluginWorld::ALL
                .into_iter()
                .find(|world| interface.package == PACKAGE && interface.name == world.as_str())?;
            Some((world, interface))
        });
    let Some((world, interface)) = found else {
        return Err(InspectError::NotAPlugin {
            exports: exports.to_vec(),
        });
    };
    check_version(&interface)?;
    Ok((world, interface.version.to_owned()))
}

/// An interface name: `package/name@version`.
struct Interface<'a> {
    package: &'a str,
    name: &'a str,
    version: &'a str,
}

impl<'a> Interface<'a> {
    /// Parts that are absent are empty.
    fn parse(text: &'a str) -> Self {
        let (path, version) = text.split_once('@').unwrap_or((text, ""));
        let (package, name) = path.split_once('/').unwrap_or((path, ""));
        Self {
            package,
            name,
            version,
        }
    }
}

/// Versions that are compatible with each other by the rules of the component model.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Track {
    major: u64,
    minor: u64,
}

impl Track {
    fn parse(version: &str) -> Option<Self> {
        let mut numbers = version.split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

fn check_version(interface: &Interface<'_>) -> Result<(), InspectError> {
    let advice = match Track::parse(interface.version) {
        Some(track) if track == SUPPORTED => return Ok(()),
        Some(track) if track > SUPPORTED => "upgrade evertoken, or build the plugin for 0.1",
        Some(_) => "build the plugin anew for 0.1",
        None => "build the plugin with the interface in evertoken's wit folder",
    };
    Err(InspectError::UnknownVersion {
        found: match interface.version {
            "" => "(none)".to_owned(),
            version => shown(version),
        },
        advice,
    })
}

fn audit(import: &str, world: PluginWorld) -> Result<(), InspectError> {
    let interface = Interface::parse(import);
    if interface.package == PACKAGE {
        check_version(&interface)?;
        if world.imports().contains(&interface.name) {
            return Ok(());
        }
    }
    if let Some((_, advice)) = REFUSED_WASI
        .iter()
        .find(|(package, _)| *package == interface.package)
    {
        return Err(InspectError::RefusedImport {
            name: shown(import),
            advice,
        });
    }
    let inert = |offered: &&str| {
        let (package, name) = offered.split_once('/').unwrap_or((offered, interface.name));
        package == interface.package && name == interface.name
    };
    if world.wasi().iter().any(inert) && interface.version.starts_with("0.2.") {
        return Ok(());
    }
    Err(InspectError::MissingImport {
        name: shown(import),
        world,
        offered: world
            .imports()
            .iter()
            .map(|name| format!("{PACKAGE}/{name}@0.1"))
            .chain(world.wasi().iter().map(|offered| format!("{offered}@0.2")))
            .collect(),
    })
}

/// A name from a component, shortened for a message.
fn shown(name: &str) -> String {
    printable(name).chars().take(MAX_NAME_CHARS).collect()
}

fn list(names: &[String]) -> String {
    let names: BTreeSet<String> = names
        .iter()
        .map(|name| format!("`{}`", shown(name)))
        .collect();
    match names.len() {
        0 => "nothing".to_owned(),
        1..=MAX_LISTED => names.into_iter().collect::<Vec<_>>().join(", "),
        more => format!("{more} things"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(body: &str) -> Vec<u8> {
        wat::parse_str(format!("(component {body})")).unwrap()
    }

    fn importing(name: &str) -> Vec<u8> {
        component(&format!(
            r#"(import "{name}" (instance)) (instance $source) (export "evertoken:plugin/source@0.1.0" (instance $source))"#
        ))
    }

    fn refusal(bytes: &[u8]) -> (&'static str, String) {
        let error = inspect(bytes).unwrap_err();
        (error.code().as_str(), error.to_string())
    }

    #[test]
    fn what_is_no_component_is_refused_by_what_it_is() {
        for (bytes, code, part) in [
            (
                b"#!/bin/sh".to_vec(),
                "plugin.not-a-component",
                "begins with `#!/b`",
            ),
            (Vec::new(), "plugin.not-a-component", "no WebAssembly"),
            (
                wat::parse_str("(module)").unwrap(),
                "plugin.not-a-component",
                "wasm32-wasip2",
            ),
            (
                component("")[..8].iter().copied().chain([1, 200]).collect(),
                "plugin.not-a-component",
                "damaged",
            ),
            (
                vec![0; limits::COMPONENT_BYTES + 1],
                "plugin.too-large",
                "67108865 bytes",
            ),
        ] {
            let (found, message) = refusal(&bytes);
            assert_eq!(found, code, "{message}");
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_component_with_instances_of_many_globals_is_refused() {
        let globals = "(global i32 (i32.const 0))".repeat(100_000);
        let instances = "(core instance (instantiate $m))".repeat(100);
        let (code, message) = refusal(&component(&format!(
            "(core module $m {globals}) {instances}"
        )));
        assert_eq!(code, "plugin.too-large");
        assert!(message.contains("160000000 bytes for globals"), "{message}");
    }

    #[test]
    fn a_component_without_our_exports_is_no_plugin() {
        let (code, message) = refusal(&component(
            r#"(instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i))"#,
        ));
        assert_eq!(code, "plugin.wrong-world");
        assert!(
            message.contains("exports `wasi:http/incoming-handler@0.2.0`"),
            "{message}"
        );
        let (code, message) = refusal(&component(""));
        assert_eq!(code, "plugin.wrong-world");
        assert!(message.ends_with("exports nothing"), "{message}");
    }

    #[test]
    fn another_interface_version_is_refused_with_the_side_to_upgrade() {
        for (version, advice) in [
            ("0.2.0", "upgrade evertoken"),
            ("1.0.0", "upgrade evertoken"),
            ("0.0.9", "build the plugin anew"),
        ] {
            let (code, message) = refusal(&component(&format!(
                r#"(instance $i) (export "evertoken:plugin/source@{version}" (instance $i))"#
            )));
            assert_eq!(code, "plugin.unknown-version");
            assert!(
                message.contains(version)
                    && message.contains("speaks 0.1")
                    && message.contains(advice),
                "{message}"
            );
        }
    }

    #[test]
    fn patches_of_the_interface_are_compatible() {
        let info = inspect(&component(
            r#"(instance $i) (export "evertoken:plugin/formatter@0.1.7" (instance $i))"#,
        ))
        .unwrap();
        assert_eq!(info.world, PluginWorld::Formatter);
        assert_eq!(info.interface_version, "0.1.7");
    }

    #[test]
    fn imports_beyond_the_offer_are_refused_each_by_name() {
        for (import, code, part) in [
            (
                "wasi:http/outgoing-handler@0.2.6",
                "plugin.refused-import",
                "allow-list",
            ),
            (
                "wasi:keyvalue/store@0.2.0",
                "plugin.missing-import",
                "`evertoken:plugin/secrets@0.1`",
            ),
            (
                "wasi:cli/environment@0.3.0",
                "plugin.missing-import",
                "wasi:cli/environment@0.3.0",
            ),
            (
                "evertoken:plugin/kitchen@0.1.0",
                "plugin.missing-import",
                "evertoken:plugin/kitchen",
            ),
            (
                "evertoken:plugin/http@0.2.0",
                "plugin.unknown-version",
                "upgrade evertoken",
            ),
        ] {
            let (found, message) = refusal(&importing(import));
            assert_eq!(found, code, "{message}");
            assert!(message.contains(part), "{message}");
        }
        for import in [
            "wasi:io/streams@0.2.12",
            "wasi:filesystem/types@0.2.6",
            "wasi:sockets/tcp@0.2.6",
        ] {
            assert!(inspect(&importing(import)).is_ok(), "{import}");
        }
    }

    #[test]
    fn a_formatter_gets_no_capability_no_clock_and_no_randomness() {
        let formatter = |import: &str| {
            component(&format!(
                r#"(import "{import}" (instance)) (instance $i) (export "evertoken:plugin/formatter@0.1.0" (instance $i))"#
            ))
        };
        for import in [
            "evertoken:plugin/http@0.1.0",
            "evertoken:plugin/secrets@0.1.0",
            "wasi:clocks/wall-clock@0.2.6",
            "wasi:random/random@0.2.6",
        ] {
            let (code, message) = refusal(&formatter(import));
            assert_eq!(code, "plugin.missing-import", "{import}");
            assert!(
                message.contains("does not offer to a formatter"),
                "{message}"
            );
        }
        assert!(inspect(&formatter("wasi:random/insecure-seed@0.2.6")).is_ok());
        assert!(inspect(&formatter("evertoken:plugin/log@0.1.0")).is_ok());
    }

    #[test]
    fn the_embedded_sections_are_found_in_the_core_module() {
        let info = inspect(&component(
            r#"
            (core module
              (@custom "evertoken:config-schema" "{\"properties\":{\"token_url\":{\"type\":\"string\",\"x-evertoken-endpoint\":true}}}")
              (@custom "evertoken:about" "{\"name\":\"acme\",\"version\":\"1.2.3\",\"secrets\":[{\"name\":\"key\",\"required\":true}]}"))
            (instance $i) (export "evertoken:plugin/source@0.1.0" (instance $i))"#,
        ))
        .unwrap();
        assert_eq!(info.endpoint_fields, ["token_url"]);
        let about = info.about.unwrap();
        assert_eq!(
            (about.name.as_str(), about.version.as_str()),
            ("acme", "1.2.3")
        );
        assert!(about.secrets[0].required);
    }

    fn with_section(name: &str, data: &[u8]) -> String {
        let bytes: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!(r#"(core module (@custom "evertoken:{name}" "{bytes}"))"#)
    }

    const SOURCE: &str = r#"(instance $i) (export "evertoken:plugin/source@0.1.0" (instance $i))"#;

    #[test]
    fn a_section_of_any_other_shape_is_refused() {
        let large = vec![b' '; 10 << 20];
        for (name, data, part) in [
            ("config-schema", &b"\xff\xfe"[..], "not what it should be"),
            ("config-schema", b"{}{}", "not what it should be"),
            ("config-schema", b"", "not what it should be"),
            ("config-schema", &[b'['; 1000], "not what it should be"),
            ("config-schema", &large, "10485760 bytes"),
            ("about", b"[]", "not what it should be"),
            ("about", b"{}", "not what it should be"),
            (
                "about",
                br#"{"name": 7, "version": "1"}"#,
                "not what it should be",
            ),
            (
                "about",
                br#"{"name": "a", "version": "1", "secrets": {}}"#,
                "not what it should be",
            ),
            ("about", b"\xff", "not what it should be"),
            ("about", &large, "10485760 bytes"),
        ] {
            let (code, message) = refusal(&component(&(with_section(name, data) + SOURCE)));
            assert_eq!(code, "plugin.invalid-section", "{message}");
            assert!(message.contains(part), "{message}");
        }
        let twice = with_section("about", b"{}") + &with_section("about", b"{ }") + SOURCE;
        let (code, message) = refusal(&component(&twice));
        assert_eq!(code, "plugin.invalid-section");
        assert!(message.contains("two embedded sections"), "{message}");
    }

    #[test]
    fn what_a_plugin_says_about_itself_is_printable() {
        let about = r#"{"name": "a\u001b[31m", "version": "1\u009b", "description": "x\u202ey\nz",
            "secrets": [{"name": "s\u0007", "description": "\u001b]0;t\u0007"}]}"#;
        let info = inspect(&component(
            &(with_section("about", about.as_bytes()) + SOURCE),
        ));
        let about = info.unwrap().about.unwrap();
        assert_eq!(about.name, "a[31m");
        assert_eq!(about.version, "1");
        assert_eq!(about.description, "xy z");
        assert_eq!(about.secrets[0].name, "s");
        assert_eq!(about.secrets[0].description, "]0;t");
    }

    #[test]
    fn a_section_that_is_no_json_is_refused() {
        let (code, message) = refusal(&component(
            r#"(core module (@custom "evertoken:config-schema" "not json"))
            (instance $i) (export "evertoken:plugin/source@0.1.0" (instance $i))"#,
        ));
        assert_eq!(code, "plugin.invalid-section");
        assert!(message.contains("evertoken:config-schema"), "{message}");
    }
}
