//! `evertoken profiles`: what a configuration allows tenants.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::configuration::ConfigArguments;
use super::status::OutputFormat;
use super::{Exit, print, print_json, runtime};
use crate::model::profile::Profile;

/// Show the profiles of a configuration: what tenants may use, fill in and give.
#[derive(Debug, Args)]
pub(super) struct ProfilesArguments {
    #[command(flatten)]
    config: ConfigArguments,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: OutputFormat,
}

pub(super) fn run(arguments: &ProfilesArguments) -> Exit {
    runtime::block_on(async {
        let loaded = match arguments.config.load().await {
            Ok(loaded) => loaded,
            Err(exit) => return Ok(exit),
        };
        let profiles = loaded.config.profiles.values();
        match arguments.output {
            OutputFormat::Json => {
                let all: Vec<Value> = profiles.map(|profile| described(profile)).collect();
                print_json(&all)?;
            }
            OutputFormat::Table if loaded.config.profiles.is_empty() => {
                print("there are no profiles; config/README.md says how to write one")?;
            }
            OutputFormat::Table => {
                let all: Vec<String> = profiles.map(|profile| shown(profile)).collect();
                print(&all.join("\n"))?;
            }
        }
        Ok(Exit::Success)
    })
}

/// A profile in one line, for `check`.
pub(super) fn summary(profile: &Profile) -> String {
    let names = |names: Vec<&String>| match names.as_slice() {
        [] => "none".to_owned(),
        names => names
            .iter()
            .map(|name| name.as_str())
            .collect::<Vec<_>>()
            .join(", "),
    };
    format!(
        "profile {}: plugin {}, namespaces {}; parameters {}; secrets {}; formats {}",
        profile.name,
        profile.plugin,
        namespaces(profile),
        names(profile.parameters.keys().collect()),
        names(profile.tenant_secrets.keys().collect()),
        names(profile.formats.keys().collect()),
    )
}

fn namespaces(profile: &Profile) -> String {
    match profile.namespaces.as_slice() {
        [] => "all".to_owned(),
        patterns => patterns.join(", "),
    }
}

fn shown(profile: &Profile) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", profile.name);
    let _ = writeln!(text, "  plugin      {}", profile.plugin);
    let _ = writeln!(text, "  namespaces  {}", namespaces(profile));
    for (name, parameter) in &profile.parameters {
        let _ = write!(text, "  parameter   {name}: {}", parameter.pattern_text());
        let _ = match &parameter.default {
            Some(default) => write!(text, ", default `{default}`"),
            None => write!(text, ", required"),
        };
        if let Some(description) = &parameter.description {
            let _ = write!(text, ". {description}");
        }
        text.push('\n');
    }
    for (name, secret) in &profile.tenant_secrets {
        let is = [
            (secret.is_optional, "optional"),
            (!secret.is_optional, "required"),
            (secret.rotating, "rotating"),
            (secret.write_back, "written back"),
        ];
        let is = is.iter().filter(|(holds, _)| *holds);
        let is: Vec<&str> = is.map(|(_, what)| *what).collect();
        let _ = writeln!(text, "  secret      {name}: {}", is.join(", "));
    }
    for (name, format) in &profile.formats {
        let _ = writeln!(text, "  format      {name}: plugin {}", format.plugin);
    }
    let limits = profile.limits;
    let _ = writeln!(
        text,
        "  limits      {} jobs, {} of a namespace; {} calls a minute, {} of a namespace",
        limits.jobs,
        limits.jobs_per_namespace,
        limits.calls_per_minute,
        limits.calls_per_minute_per_namespace
    );
    text
}

/// For programs. Without the administrator's secrets and the options, which are none of a tenant's business.
fn described(profile: &Profile) -> Value {
    let parameters = profile.parameters.iter().map(|(name, parameter)| {
        let parameter = json!({
            "pattern": parameter.pattern_text(),
            "default": parameter.default,
            "description": parameter.description,
        });
        (name.clone(), parameter)
    });
    let secrets = profile.tenant_secrets.iter().map(|(name, secret)| {
        let secret = json!({
            "optional": secret.is_optional,
            "rotating": secret.rotating,
            "write_back": secret.write_back,
        });
        (name.clone(), secret)
    });
    let formats = profile.formats.keys();
    json!({
        "name": profile.name,
        "plugin": profile.plugin,
        "namespaces": profile.namespaces,
        "parameters": parameters.collect::<serde_json::Map<_, _>>(),
        "tenant_secrets": secrets.collect::<serde_json::Map<_, _>>(),
        "formats": formats.collect::<Vec<_>>(),
        "limits": {
            "jobs": profile.limits.jobs,
            "jobs_per_namespace": profile.limits.jobs_per_namespace,
            "calls_per_minute": profile.limits.calls_per_minute,
            "calls_per_minute_per_namespace": profile.limits.calls_per_minute_per_namespace,
        },
    })
}
