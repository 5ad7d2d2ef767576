//! The command line, one file per command. A command contains little logic: it loads the configuration, assembles the application
//! and prints the result.

mod app;
mod check;
mod compile_plugin;
mod configuration;
mod exit;
mod judge_options;
mod ktr;
mod log;
mod once;
mod plain_text;
mod plugin;
mod plugin_options;
mod profiles;
mod refresh;
mod reload;
mod reloader;
mod run;
mod runtime;
mod schema;
mod signals;
mod socket;
mod state;
mod status;
mod stderr;
mod terminal;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::builder::{OsStr, Resettable};
use clap::{Arg, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use serde::Serialize;
use tracing::level_filters::LevelFilter;

pub use exit::Exit;
use stderr::say;
use terminal::TextStyle;

use crate::plugin::{COMPILE_COMMAND, JUDGE_COMMAND};
use crate::printable::{printable, printable_json};

/// Keeps short-lived tokens fresh where unmodified programs read them.
///
/// evertoken reads refresh jobs from a YAML file. Each job obtains a token through a sandboxed plugin and writes it, whole or
/// not at all, to files and Kubernetes Secrets, and does so again before the token expires.
#[derive(Debug, Parser)]
#[command(name = "evertoken", version, after_help = exit::HELP, max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    log: log::LogArguments,

    #[command(subcommand)]
    command: Command,
}

// The help of a command is the description of its arguments: a description here would hide it.
#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArguments),
    Once(once::OnceArguments),
    Check(check::CheckArguments),
    Status(status::StatusArguments),
    Refresh(refresh::RefreshArguments),
    Reload(reload::ReloadArguments),
    Diff(reload::DiffArguments),
    #[command(subcommand)]
    State(state::StateCommand),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    Profiles(profiles::ProfilesArguments),
    /// List and inspect plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Do kube-token-refresher's job from its own file, KTR_* variables and flags
    #[command(disable_help_flag = true)]
    Ktr(ktr::KtrArguments),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    // Two libraries use TLS; both take the crypto provider that is installed first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let arguments: Vec<OsString> = std::env::args_os().collect();
    let has_ktr_variables = || std::env::vars_os().any(|(name, _)| is_ktr_variable(&name));
    let exit = if let Some(run) = of_a_running_process(&arguments) {
        run()
    } else if is_ktr(&arguments, has_ktr_variables) {
        ktr::run(arguments.get(1..).unwrap_or_default())
    } else {
        match parsed(&arguments) {
            Ok(parsed) => dispatch(parsed),
            Err(error) => report_usage(&error),
        }
    };
    stderr::finish();
    exit.into()
}

/// The hidden commands for children of a running process.
fn of_a_running_process(arguments: &[OsString]) -> Option<fn() -> Exit> {
    match arguments.get(1)?.to_str()? {
        COMPILE_COMMAND => Some(compile_plugin::run),
        JUDGE_COMMAND => Some(judge_options::run),
        _ => None,
    }
}

/// An empty variable counts as not set, as in the XDG specification and for NO_COLOR: compose files and units often contain such.
fn parsed(arguments: &[OsString]) -> Result<Arguments, clap::Error> {
    let mut command = without_empty_variables(Arguments::command());
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    Arguments::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

fn without_empty_variables(command: clap::Command) -> clap::Command {
    let without = |argument: Arg| {
        let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
        if argument.get_env().is_some_and(is_empty) {
            argument.env(Resettable::<OsStr>::Reset)
        } else {
            argument
        }
    };
    command
        .mut_args(without)
        .mut_subcommands(without_empty_variables)
}

fn dispatch(arguments: Arguments) -> Exit {
    let level = arguments.log.level(LevelFilter::INFO);
    let log = &arguments.log;
    match arguments.command {
        Command::Run(arguments) => {
            log::start_apart(level, log.log_format);
            log.log_format.errors_too();
            run::run(&arguments)
        }
        Command::Once(arguments) => {
            // It ends with a line for each job, and cron sends a mail for any more output.
            log::start_apart(log.level(LevelFilter::WARN), log.log_format);
            once::run(&arguments)
        }
        Command::Check(arguments) => {
            // Its result is its output.
            log::start(log.level(LevelFilter::WARN), log.log_format);
            check::run(&arguments)
        }
        Command::Status(arguments) => status::run(&arguments),
        Command::Refresh(arguments) => refresh::run(&arguments),
        Command::Reload(arguments) => reload::reload(&arguments),
        Command::Diff(arguments) => reload::diff(&arguments),
        Command::State(command) => {
            log::start(log.level(LevelFilter::WARN), log.log_format);
            state::run(&command)
        }
        Command::Schema => schema::run(),
        Command::Profiles(arguments) => profiles::run(&arguments),
        Command::Plugin(command) => {
            log::start(log.level(LevelFilter::WARN), log.log_format);
            plugin::run(&command)
        }
        Command::Ktr(arguments) => ktr::run(&arguments.arguments),
    }
}

/// Whether the process was started as kube-token-refresher: by that name, or with its variables and no command of ours.
fn is_ktr(arguments: &[OsString], has_variables: impl FnOnce() -> bool) -> bool {
    let called_ktr = arguments
        .first()
        .and_then(|program| Path::new(program).file_name())
        .is_some_and(|name| name == "ktr");
    called_ktr || (arguments.len() <= 1 && has_variables())
}

fn is_ktr_variable(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("KTR_"))
}

/// Prints text for people, made safe for a terminal.
///
/// # Errors
/// Writing to standard output failed.
fn print(text: &str) -> io::Result<()> {
    let lines: Vec<_> = text.lines().map(printable).collect();
    write_out(&lines.join("\n"))
}

/// Prints JSON for programs, made safe for a terminal.
///
/// # Errors
/// Writing to standard output failed.
fn print_json(answer: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(answer)?;
    Ok(write_out(&printable_json(&text))?)
}

/// Writes text and a newline. A closed pipe is no failure: its reader has read enough.
fn write_out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Help and version go to standard output with success, all else is a mistake.
fn report_usage(error: &clap::Error) -> Exit {
    let text = |look| match look {
        TextStyle::Plain => error.render().to_string(),
        TextStyle::Ascii | TextStyle::Unicode => error.render().ansi().to_string(),
    };
    if error.use_stderr() {
        stderr::write(text(TextStyle::of(&io::stderr())).as_bytes());
        return Exit::Usage;
    }
    match write_out(text(TextStyle::of(&io::stdout())).trim_end()) {
        Ok(()) => Exit::Success,
        Err(error) => {
            say(&format!("error: {error}"));
            Exit::Failure
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_of_a_command_is_the_whole_description_of_its_arguments() {
        let command = Arguments::command();
        for path in [
            &["run"][..],
            &["once"],
            &["check"],
            &["refresh"],
            &["reload"],
            &["diff"],
            &["state"],
            &["state", "show"],
            &["state", "set"],
            &["state", "forget"],
        ] {
            let found = path
                .iter()
                .try_fold(&command, |at, name| at.find_subcommand(name));
            assert!(found.unwrap().get_long_about().is_some(), "{path:?}");
        }
    }

    #[test]
    fn ktr_is_recognised_by_name_or_by_its_variables_without_a_command() {
        for (arguments, variables, expected) in [
            (vec!["/usr/local/bin/ktr"], false, true),
            (vec!["ktr", "--interval", "3"], false, true),
            (vec!["evertoken"], true, true),
            (vec!["evertoken"], false, false),
            (vec!["evertoken", "status"], true, false),
        ] {
            let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
            assert_eq!(is_ktr(&arguments, || variables), expected, "{arguments:?}");
        }
    }
}
