//! Set-up of logging: format, destination and level. Log lines of libraries are limited to `warn` however often `-v` is given: at
//! finer levels HTTP and TLS libraries log headers and bodies, which contain secrets.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::stderr;
use super::terminal::TextStyle;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

impl LogFormat {
    /// Prints errors that end the process in the same format.
    pub(super) fn errors_too(self) {
        if self == Self::Json {
            stderr::say_in_log();
        }
    }
}

/// The log options that every command takes.
#[derive(Debug, Clone, Args)]
pub(super) struct LogArguments {
    /// Log more: -v debug, -vv trace. Secrets are never logged at any level.
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Logging")]
    pub(super) verbose: u8,

    /// Log only warnings and errors.
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Logging"
    )]
    pub(super) quiet: bool,

    /// The format of log lines, which go to standard error.
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        global = true,
        help_heading = "Logging"
    )]
    pub(super) log_format: LogFormat,
}

impl LogArguments {
    /// The level of the options; `usual` if they set none.
    #[must_use]
    pub(super) const fn level(&self, usual: LevelFilter) -> LevelFilter {
        match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::WARN,
            (false, 0) => usual,
            (false, 1) => LevelFilter::DEBUG,
            (false, _) => LevelFilter::TRACE,
        }
    }
}

/// Sends log lines to standard error from now on.
pub(super) fn start(level: LevelFilter, format: LogFormat) {
    start_with(level, format, BoxMakeWriter::new(io::stderr));
}

/// The same for a process that keeps tokens fresh: a slow reader of the log does not block it, and a panic becomes a log line.
pub(super) fn start_apart(level: LevelFilter, format: LogFormat) {
    match stderr::start() {
        Ok(lines) => start_with(level, format, BoxMakeWriter::new(move || lines)),
        // Without a thread, lines that may block are better than none.
        Err(_) => start(level, format),
    }
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured)
            .then(|| tracing::field::display(backtrace));
        let place = panic.location().map(tracing::field::display);
        let why = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, backtrace, "panicked: {why}");
    }));
}

fn start_with(level: LevelFilter, format: LogFormat, writer: BoxMakeWriter) {
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("evertoken", level)
        // The library repeats as an error what our own lines report with names and the correction.
        .with_target("kube_client", LevelFilter::OFF)
        .with_target("kube_runtime", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry();
    // A second call (tests start several commands in one process) keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => {
            let lines = lines
                .with_ansi(TextStyle::of(&io::stderr()) != TextStyle::Plain)
                .with_target(false);
            registry.with(lines.with_filter(filter)).try_init()
        }
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_filter(filter))
            .try_init(),
    };
}
