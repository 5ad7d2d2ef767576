//! `evertoken refresh`: asks the running process for new tokens now.

use clap::Args;

use super::status::TargetArguments;
use super::{Exit, runtime, say};
use crate::serve::control;

/// Asks the running process to refresh jobs now, whatever their tokens' age.
#[derive(Debug, Args)]
pub(super) struct RefreshArguments {
    /// The jobs to refresh.
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,

    #[command(flatten)]
    target: TargetArguments,
}

pub(super) fn run(arguments: &RefreshArguments) -> Exit {
    let socket = match arguments.target.socket() {
        Ok(socket) => socket,
        Err(exit) => return exit,
    };
    runtime::block_on(async {
        let asked = control::refresh(&socket, arguments.jobs.clone()).await?;
        for job in &asked.asked {
            say(&format!("{job}: being refreshed"));
        }
        for name in &asked.unknown {
            say(&format!("error: no such job: {name}"));
        }
        Ok(if asked.unknown.is_empty() {
            Exit::Success
        } else {
            Exit::Failure
        })
    })
}
