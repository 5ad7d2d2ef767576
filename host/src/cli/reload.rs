//! `evertoken reload` and `evertoken diff`: have the running process take its configuration into use as it is now, or say what that
//! would change.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::socket::TargetArguments;
use super::status::OutputFormat;
use super::stderr::{self, say};
use super::terminal::TextStyle;
use super::{Exit, print, print_json, runtime};
use crate::reload::{Refusal, ReloadAnswer};
use crate::serve::control::{self, ControlError};

/// Have the running process take its configuration into use as it is now.
///
/// It does so by itself soon after a file has changed, and at SIGHUP. This command waits for the end and prints what has changed. A
/// configuration with a mistake changes nothing: the former one stays in use, and the exit code is 64.
#[derive(Debug, Args)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    target: TargetArguments,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: OutputFormat,
}

/// Show what `evertoken reload` would change.
///
/// The running process compares the configuration that it uses with the file as it is now, or with another one. Relative paths count from
/// that file's directory. Nothing changes. `+` is new, `-` goes, `~` changes, `!` takes effect at the next start.
#[derive(Debug, Args)]
pub(super) struct DiffArguments {
    /// The file to compare with. Default: the one that the process was started with.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    #[command(flatten)]
    target: TargetArguments,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: OutputFormat,
}

pub(super) fn reload(arguments: &ReloadArguments) -> Exit {
    runtime::block_on(async {
        let socket = match arguments.target.require().await {
            Ok(socket) => socket,
            Err(exit) => return Ok(exit),
        };
        show(control::reload(&socket).await, arguments.output)
    })
}

pub(super) fn diff(arguments: &DiffArguments) -> Exit {
    runtime::block_on(async {
        let socket = match arguments.target.require().await {
            Ok(socket) => socket,
            Err(exit) => return Ok(exit),
        };
        let file = arguments.file.as_ref().map(std::path::absolute).transpose();
        let file = file.context("cannot tell where the file is")?;
        show(control::diff(&socket, file).await, arguments.output)
    })
}

fn show(answer: Result<ReloadAnswer, ControlError>, output: OutputFormat) -> anyhow::Result<Exit> {
    let answer = answer?;
    match (&answer, output) {
        (_, OutputFormat::Json) => print_json(&answer)?,
        (ReloadAnswer::Plan(plan), OutputFormat::Table) => print(&plan.to_string())?,
        (ReloadAnswer::Refused(refusal), OutputFormat::Table) => tell(refusal),
    }
    Ok(match &answer {
        ReloadAnswer::Plan(_) => Exit::Success,
        ReloadAnswer::Refused(refusal) if refusal.is_mistaken => Exit::Usage,
        ReloadAnswer::Refused(_) => Exit::Failure,
    })
}

fn tell(refusal: &Refusal) {
    let drawn = match TextStyle::of(&std::io::stderr()) {
        TextStyle::Plain => "",
        TextStyle::Ascii => &refusal.drawn_in_ascii,
        TextStyle::Unicode => &refusal.drawn,
    };
    match drawn {
        "" if refusal.is_mistaken => say(&refusal.lines),
        "" => say(&format!("error: {}", refusal.lines)),
        drawn => stderr::write(drawn.as_bytes()),
    }
    say("the former configuration stays in use");
}
