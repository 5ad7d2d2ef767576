//! `evertoken check`: all checks of a configuration that can be made before it runs.

mod formats;
mod mint;
mod online;
mod probe;
mod report;
mod suspicious;

use clap::Args;

use super::configuration::{self, ConfigArguments};
use super::{Exit, app, plain_text, plugin_options, profiles, runtime, say};
use crate::config::Mistakes;

pub(super) use online::{IssuerProof, Wanted, prove};

/// Validate a configuration, plugin options included, without network and without starting anything.
///
/// Checked are its syntax, its references, the options of all plugins against the plugins' schemas, and the templates of built-in formats.
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    pub(super) config: ConfigArguments,

    /// Also check the real systems, as far as that uses up nothing, with a line for each check: every plugin loads, every secret can be
    /// read, every file can be created beside its place and renamed, every Secret passes a server-side dry run, the state can be written,
    /// and every issuer answers a request without credentials as a token endpoint does and has the same time. Leaves nothing behind.
    #[arg(long)]
    pub(super) online: bool,

    /// Also request a token for each job without a rotating secret, whose value would be spent, and show the token's lifetime, never the
    /// token. Implies --online.
    #[arg(long)]
    pub(super) mint: bool,
}

pub(super) fn run(arguments: &CheckArguments) -> Exit {
    runtime::block_on(async {
        let loaded = match arguments.config.load().await {
            Ok(loaded) => loaded,
            Err(exit) => return Ok(exit),
        };
        let plugins = app::plugins(&loaded.config.plugins, &loaded.config.limits.plugin)?;
        let mut mistakes = plugin_options::mistakes(&loaded.places, &plugins).await;
        let mut formats = formats::FormatFindings::default();
        if mistakes.is_empty() {
            formats = formats::judge(&loaded.places, &plugins).await;
            mistakes.append(&mut formats.mistakes);
        }
        if let Some(mistakes) = Mistakes::of(mistakes) {
            configuration::show(&mistakes);
            return Ok(Exit::Usage);
        }
        let mut suspicious = suspicious::warnings(&loaded.places);
        suspicious.append(&mut formats.warnings);
        let mut doubts = suspicious.len();
        for profile in loaded.config.profiles.values() {
            say(&profiles::summary(profile));
        }
        if loaded.config.jobs.is_empty() && loaded.config.profiles.is_empty() {
            say(
                "warning: there are no jobs, neither under `jobs` nor in a file that `include` names",
            );
            doubts += 1;
        }
        for warning in suspicious {
            say(&format!("warning: {warning}"));
        }
        let jobs = &loaded.config.jobs;
        let warnings = plain_text::warnings(jobs, &plugins).await;
        for warning in warnings.into_iter().chain(suspicious::of_jobs(jobs)) {
            say(&format!("warning: {warning}"));
            doubts += 1;
        }
        if arguments.online || arguments.mint {
            let wanted = Wanted {
                issuers: IssuerProof::MustAnswer,
                mint: arguments.mint,
            };
            let report = prove(&loaded.config, plugins.clone(), wanted).await?;
            report.show()?;
            doubts += report.doubts();
            if !report.is_good() {
                return Ok(Exit::Failure);
            }
        }
        let unusable = plugin_options::say_unusable(&loaded.places, &plugins).await;
        if unusable.for_good > 0 {
            return Ok(Exit::Failure);
        }
        doubts += unusable.by_now;
        let (jobs, shared) = (loaded.config.jobs.len(), loaded.config.shared_outputs.len());
        let verdict = match doubts {
            0 => "all right".to_owned(),
            1 => "all right, but for the warning above".to_owned(),
            _ => format!("all right, but for the {doubts} warnings above"),
        };
        let (jobs, shared) = (counted(jobs, "job"), counted(shared, "shared output"));
        let shared = match loaded.config.profiles.len() {
            0 => shared,
            profiles => format!("{shared}, {}", counted(profiles, "profile")),
        };
        say(&format!(
            "{}: {jobs}, {shared}: {verdict}",
            arguments.config.config.display()
        ));
        Ok(Exit::Success)
    })
}

/// A count in words: one `thing`, two `things`.
fn counted(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}
