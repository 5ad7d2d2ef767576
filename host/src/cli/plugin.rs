//! `evertoken plugin`: the built-in plugins, and what a component declares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::Subcommand;

use super::configuration::ConfigArguments;
use super::{Exit, app, print, runtime};
use crate::file;
use crate::plugin::limits::COMPONENT_BYTES;
use crate::plugin::{
    BUILT_IN, CacheSettings, Compiler, Listed, PluginInfo, PluginWorld, Plugins, check_schema,
    inspect,
};
use crate::printable::printable_json;

/// Lists and inspects plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// List the built-in plugins and, with --config, those of a configuration
    List(ListArguments),
    /// Show a component: world, interface version, imports, exports, digest, size, and its options' schema
    Inspect(InspectArguments),
    /// Compile the built-in plugins into a folder, as the image does, so that the first start needs no compiler
    Precompile(PrecompileArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    /// The configuration file whose plugins are listed too.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct InspectArguments {
    /// A component's file, or the name of a built-in plugin.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct PrecompileArguments {
    /// The folder. It is created if it is missing.
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
}

pub(super) fn run(command: &PluginCommand) -> Exit {
    runtime::block_on(async {
        let text = match command {
            PluginCommand::List(arguments) => match configured(arguments.config.as_deref()).await {
                Ok(config) => list(&config?).await,
                Err(exit) => return Ok(exit),
            },
            PluginCommand::Inspect(arguments) => describe(&read(&arguments.file).await?),
            PluginCommand::Precompile(arguments) => precompile(&arguments.output).await?,
        };
        print(&text)?;
        Ok(Exit::Success)
    })
}

async fn configured(path: Option<&Path>) -> Result<anyhow::Result<Plugins>, Exit> {
    let Some(path) = path else {
        return Ok(built_in(CacheSettings::default()));
    };
    let loaded = ConfigArguments {
        config: path.to_owned(),
    }
    .load()
    .await?;
    Ok(app::plugins(
        &loaded.config.plugins,
        &loaded.config.limits.plugin,
    ))
}

fn built_in(cache: CacheSettings) -> anyhow::Result<Plugins> {
    Ok(Plugins::new(
        &BTreeMap::new(),
        crate::model::defaults::plugin_limits(),
        cache,
    )?)
}

async fn list(plugins: &Plugins) -> String {
    let mut text = String::new();
    for Listed {
        name,
        built_in,
        info,
    } in plugins.list().await
    {
        let origin = if built_in { "built in" } else { "file" };
        let _ = match info {
            Ok(info) => writeln!(
                text,
                "{name:12}  {origin:8}  {:9}  {}  {}  {}",
                info.world.to_string(),
                info.interface_version,
                info.digest.short(),
                info.about.as_ref().map_or("", |about| &about.description)
            ),
            Err(error) => writeln!(
                text,
                "{name:12}  {origin:8}  {}",
                error.to_failure().message
            ),
        };
    }
    text
}

/// A file, by its path, or a built-in plugin, by its name.
async fn read(file: &Path) -> anyhow::Result<PluginInfo> {
    if let Some(plugin) = BUILT_IN
        .iter()
        .find(|plugin| Path::new(plugin.name) == file)
    {
        return Ok(inspect(plugin.bytes)?);
    }
    let bytes = file::read(file, COMPONENT_BYTES).with_context(|| {
        format!(
            "cannot read {}, and no built-in plugin has this name",
            file.display()
        )
    })?;
    let unusable = || format!("{} cannot be used", file.display());
    let info = inspect(&bytes).with_context(unusable)?;
    check_schema(&info).await.with_context(unusable)?;
    Ok(info)
}

fn describe(info: &PluginInfo) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:18} {value}");
    };
    if let Some(about) = &info.about {
        line("name", &format!("{} {}", about.name, about.version));
        line("description", &about.description);
    }
    line("world", &info.world.to_string());
    line("interface version", &info.interface_version);
    line("sha256", &info.digest.to_string());
    line("size", &format!("{} bytes", info.size));
    for import in &info.imports {
        line("imports", import);
    }
    for export in &info.exports {
        line("exports", export);
    }
    for secret in info.about.iter().flat_map(|about| &about.secrets) {
        let need = if secret.required {
            "required"
        } else {
            "optional"
        };
        line(
            "secret",
            &format!("{} ({need}): {}", secret.name, secret.description),
        );
    }
    for field in &info.endpoint_fields {
        line("endpoint", field);
    }
    if let Some(schema) = &info.schema {
        let shown = serde_json::to_string_pretty(schema).unwrap_or_default();
        let _ = writeln!(text, "options\n{}", printable_json(&shown));
    } else if info.world == PluginWorld::Source {
        let _ = writeln!(
            text,
            "options\n  none are described: its jobs say by `allow: [ORIGIN]` whom they may ask, and its secrets by `to: [ORIGIN]` who may get them"
        );
    }
    text
}

async fn precompile(output: &Path) -> anyhow::Result<String> {
    let directory = std::path::absolute(output)?;
    let plugins = built_in(CacheSettings {
        directory: Some(directory),
        prefilled: None,
        compiler: Compiler::ThisProgram,
    })?;
    let mut text = String::new();
    for plugin in BUILT_IN {
        let is_kept = plugins.precompile(plugin.name).await;
        if !is_kept.map_err(|error| anyhow!(error.to_failure()))? {
            bail!("{} is not kept in {}", plugin.name, output.display());
        }
        let _ = writeln!(text, "{}: compiled", plugin.name);
    }
    Ok(text)
}
