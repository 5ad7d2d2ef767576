//! `evertoken ktr`: drop-in replacement for kube-token-refresher, with its own file, variables and flags.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;
use tracing::level_filters::LevelFilter;

use super::log::LogFormat;
use super::{Exit, app, configuration, log, print, run, runtime, say, signals};
use crate::config::ktr::{self, KtrLogFormat, KtrLogLevel};
use crate::{config, file};

/// kube-token-refresher's own flags, which are parsed in [`crate::config::ktr`].
#[derive(Debug, Args)]
pub(super) struct KtrArguments {
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "FLAGS"
    )]
    pub(super) arguments: Vec<OsString>,
}

pub(super) fn run(arguments: &[OsString]) -> Exit {
    let Some(arguments) = texts(arguments) else {
        say("error: an argument is not UTF-8");
        return Exit::Usage;
    };
    if ktr::asks_for_help(&arguments) {
        return match print(ktr::USAGE) {
            Ok(()) => Exit::Success,
            Err(_) => Exit::Failure,
        };
    }
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let read = |path: &Path| match file::read(path, config::MAX_BYTES) {
        Ok(mut bytes) => Ok(std::mem::take(&mut *bytes)),
        Err(why) => Err(why.into()),
    };
    let settings = match ktr::settings(&arguments, variables, read) {
        Ok(settings) => settings,
        Err(mistakes) => {
            configuration::show(&mistakes);
            return Exit::Usage;
        }
    };
    let format = format(settings.log_format);
    log::start_apart(level(settings.log_level), format);
    format.errors_too();
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let config = settings.into_config();
    runtime::block_on(async {
        let stop = signals::stop_on_signal()?;
        signals::ignore_hangups("ignored: kube-token-refresher's settings are read at the start")?;
        let plugins = app::plugins(&config.plugins, &config.limits.plugin)?;
        run::keep_fresh(config, None, plugins, stop).await
    })
}

fn texts(arguments: &[OsString]) -> Option<Vec<String>> {
    arguments
        .iter()
        .map(|argument| argument.to_str().map(str::to_owned))
        .collect()
}

const fn level(level: KtrLogLevel) -> LevelFilter {
    match level {
        KtrLogLevel::Error => LevelFilter::ERROR,
        KtrLogLevel::Warn => LevelFilter::WARN,
        KtrLogLevel::Info => LevelFilter::INFO,
        KtrLogLevel::Debug => LevelFilter::DEBUG,
        KtrLogLevel::Trace => LevelFilter::TRACE,
    }
}

const fn format(format: KtrLogFormat) -> LogFormat {
    match format {
        KtrLogFormat::Text => LogFormat::Text,
        KtrLogFormat::Json => LogFormat::Json,
    }
}
