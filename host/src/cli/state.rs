//! `evertoken state`: shows and changes the stored state of jobs. The process that holds the store is asked; if none runs, the
//! store is opened here.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::socket::TargetArguments;
use super::status::OutputFormat;
use super::{Exit, app, print, print_json, runtime, say};
use crate::file;
use crate::kubernetes::Kubernetes;
use crate::model::failure::{Code, Failure, HostCode};
use crate::model::time::{SystemClock, Timestamp};
use crate::model::{Config, StateLocation};
use crate::serve::control::{self, ControlError, SecretBytes};
use crate::state::manual::{ChainFacts, ExchangeFacts, KeptChain, KeptJob, Manual, ReplacedChain};
use crate::text::{self, STORE_WITHOUT, oddity, secret_suspicion};

/// Bytes of a value that is set by hand. A token must fit into a request's header or form; 64 KiB is more than any server takes.
const VALUE_MAX_BYTES: usize = 64 * 1024;

/// Show the stored state of jobs, give a rotating secret another value, or delete a job's state.
///
/// No command shows a secret. The issuer replaces a rotating secret (`rotating: true`) at each use; these values are a chain. Its newest value is in the state store, and
/// perhaps nowhere else. The store finds a chain by any value it ever had, so the first value can stay in the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum StateCommand {
    Show(ShowArguments),
    Set(SetArguments),
    Forget(ForgetArguments),
}

/// Show the stored state of jobs: generation and expiry of their chains, unanswered requests, unread answers.
///
/// The states of a chain: `ok`: its newest value can be sent; `under way`: a request with its newest value may still be answered; `in
/// doubt`: such requests went unanswered, and it is unknown whether the value is spent; `answer waiting`: the answer is stored, and the
/// source could not read it yet; `dead`: the issuer rejects all of its values, and a new login is needed; `restored copy`: it comes from an
/// older copy of the state store, so its value may be spent and is not sent; `unreadable`: its record cannot be decrypted.
#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// The jobs to show. Default: all with stored state.
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,

    #[command(flatten)]
    target: TargetArguments,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: OutputFormat,
}

/// Give a job's rotating secret its next value, read from a file or from standard input.
///
/// The state of its chain does not matter: an unanswered request, an unread answer or a rejection by the issuer does not count any more.
///
/// The value comes from a file or from standard input, never from the command line, where other users could read it:
///
///   evertoken state set warehouse refresh_token < new-token
///
/// A new value is used at once; a later answer to a request with an earlier value is ignored. The chain's current value may be given again
/// when no request with it is under way. A value that is known to be spent is refused.
///
/// With `--kept`, it is the value in the store. This is for a store that was moved or restored from a copy, if no process has used the value
/// since then, which only you can know. The issuer refuses a used value, and many issuers then revoke the whole chain.
#[derive(Debug, Args)]
pub(super) struct SetArguments {
    /// The job.
    job: String,

    /// The secret's name in the job's `source.secrets`.
    secret: String,

    /// The file with the value. Default: standard input. A byte order mark at the start and one line end at the end are removed.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// Use the value in the store, which nobody has used since the store was copied.
    #[arg(long, conflicts_with = "file")]
    kept: bool,

    #[command(flatten)]
    target: TargetArguments,
}

/// Delete the stored state of a job: its token, the chains that no other job uses, its plugin's cached values.
///
/// Outputs stay as they are. A running job starts again at once with the configured secrets. If the configured value of a rotating secret is
/// spent, which is shown before, a new login is needed. After a new login, `forget` is not necessary: the new value is read from where the
/// configuration names it, or given by `evertoken state set`. While a request with one of the chains is under way, nothing is deleted.
#[derive(Debug, Args)]
pub(super) struct ForgetArguments {
    /// The job, or the id of a chain that cannot be read.
    job: String,

    /// Do not ask for confirmation.
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    target: TargetArguments,
}

pub(super) fn run(command: &StateCommand) -> Exit {
    match command {
        StateCommand::Show(arguments) => show(arguments),
        StateCommand::Set(arguments) => set(arguments),
        StateCommand::Forget(arguments) => forget(arguments),
    }
}

fn show(arguments: &ShowArguments) -> Exit {
    with_state(&arguments.target, async |state| {
        let jobs = state.show(arguments.jobs.clone()).await?;
        match arguments.output {
            OutputFormat::Json => print_json(&jobs)?,
            OutputFormat::Table => print(shown(&jobs).trim_end())?,
        }
        Ok(Exit::Success)
    })
}

fn set(arguments: &SetArguments) -> Exit {
    with_state(&arguments.target, async |state| {
        let value = match arguments.kept {
            true => None,
            false => Some(read_value(&arguments.secret, arguments.file.as_ref())?),
        };
        let suspicion = value
            .as_ref()
            .and_then(|value| secret_suspicion(&arguments.secret, value));
        if let Some(suspicion) = suspicion {
            say(&format!("warning: the value: {suspicion}"));
        }
        let (job, secret) = (arguments.job.clone(), arguments.secret.clone());
        let ReplacedChain {
            chain, generation, ..
        } = state
            .set(job, secret, value.as_ref().map(|value| value.as_slice()))
            .await?;
        say(&format!(
            "{}: {} is generation {generation} of chain {chain} now",
            arguments.job, arguments.secret
        ));
        Ok(Exit::Success)
    })
}

fn forget(arguments: &ForgetArguments) -> Exit {
    with_state(&arguments.target, async |state| {
        let name = &arguments.job;
        let kept = state.show(vec![name.clone()]).await?;
        for warning in seeds_spent(name, &kept) {
            say(&warning);
        }
        if !arguments.yes {
            if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
                say("error: this is not undone; add --yes where nobody can be asked");
                return Ok(Exit::Usage);
            }
            if !confirmed(name, &kept)? {
                say("nothing was forgotten");
                return Ok(Exit::Failure);
            }
        }
        state.forget(name.clone()).await?;
        say(&format!("{name}: forgotten"));
        Ok(Exit::Success)
    })
}

/// What answers: the running process, or the store itself.
enum StateAccess {
    Process(PathBuf),
    Store(Manual),
}

impl StateAccess {
    async fn show(&self, jobs: Vec<String>) -> anyhow::Result<Vec<KeptJob>> {
        Ok(match self {
            Self::Process(socket) => control::state_show(socket, jobs).await?,
            Self::Store(manual) => manual.show(&jobs).await?,
        })
    }

    /// No value: the chain's current one is tried again.
    async fn set(
        &self,
        job: String,
        secret: String,
        value: Option<&[u8]>,
    ) -> anyhow::Result<ReplacedChain> {
        Ok(match (self, value) {
            (Self::Process(socket), value) => {
                control::state_set(socket, job, secret, value.map(SecretBytes::new)).await?
            }
            (Self::Store(manual), Some(value)) => manual.set(&job, &secret, value).await?,
            (Self::Store(manual), None) => manual.set_kept(&job, &secret).await?,
        })
    }

    async fn forget(&self, job: String) -> anyhow::Result<()> {
        match self {
            Self::Process(socket) => control::state_forget(socket, job).await?,
            Self::Store(manual) => manual.forget(&job).await?,
        }
        Ok(())
    }
}

fn with_state(
    target: &TargetArguments,
    command: impl AsyncFnOnce(StateAccess) -> anyhow::Result<Exit>,
) -> Exit {
    runtime::block_on(async {
        // If it is unknown whether a process listens, asking it gives the error.
        let is_served = async |socket| control::is_served(socket).await.unwrap_or(true);
        let state = match target.find().await {
            Ok(socket) if target.names_socket() || is_served(&socket).await => {
                StateAccess::Process(socket)
            }
            _ => match target.load().await {
                Ok(loaded) => open(&loaded.config).await?,
                Err(exit) => return Ok(exit),
            },
        };
        match command(state).await {
            Err(error) if names_nothing(&error) => {
                say(&format!("error: {error:#}"));
                Ok(Exit::Usage)
            }
            ended => ended,
        }
    })
}

/// Whether a name on the command line matches no job.
fn names_nothing(error: &anyhow::Error) -> bool {
    let code = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ControlError::Refused(refusal)), _) => refusal.code.as_ref(),
        (_, Some(Failure { code, .. })) => code.as_ref(),
        _ => None,
    };
    let nothing = [HostCode::StateNoSuchJob, HostCode::StateNoSuchChain].map(Code::Host);
    code.is_some_and(|code| nothing.contains(code))
}

/// Opens the store. A process that holds it would have been found before.
async fn open(config: &Config) -> anyhow::Result<StateAccess> {
    match &config.state {
        StateLocation::Memory => bail!(
            "the configuration names no state store, so nothing is kept but in the memory of a running process; add `state: {{dir: …}}`"
        ),
        StateLocation::Directory { path, .. } if !path.exists() => {
            bail!("there is no state directory {} yet", path.display())
        }
        StateLocation::Directory { .. } | StateLocation::Secrets { .. } => {}
    }
    let store = app::open_store(&config.state, &Arc::new(Kubernetes::new())).await?;
    let manual = Manual::new(Arc::new(store), None, Arc::new(SystemClock));
    Ok(StateAccess::Store(manual))
}

/// The value for this secret, without the additions of editors and `echo`.
fn read_value(secret: &str, named: Option<&PathBuf>) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let value = match named {
        Some(path) => file::read(path, VALUE_MAX_BYTES + 2)
            .with_context(|| format!("cannot read {}", path.display()))?,
        None => {
            if io::stdin().is_terminal() {
                say("the new value, then Ctrl-D:");
            }
            // At its full capacity from the start: growing would leave copies behind.
            let mut value = Zeroizing::new(Vec::with_capacity(VALUE_MAX_BYTES + 2));
            io::stdin()
                .take(VALUE_MAX_BYTES as u64 + 1)
                .read_to_end(&mut value)
                .context("cannot read standard input")?;
            value
        }
    };
    if value.len() > VALUE_MAX_BYTES {
        bail!("the value has more than {VALUE_MAX_BYTES} bytes, which no issuer's token has");
    }
    let value = Zeroizing::new(text::meant(&value)?.to_vec());
    if value.is_empty() {
        bail!("the value is empty");
    }
    match oddity(secret, &value) {
        Some(oddity) => bail!("the value cannot be used: {oddity}; {STORE_WITHOUT}"),
        None => Ok(value),
    }
}

/// The warning before a chain is deleted whose configured value is spent: for a new value deleting is not needed, and by mistake
/// a login is lost.
fn seeds_spent(job: &str, kept: &[KeptJob]) -> Vec<String> {
    let chains = kept.iter().flat_map(|job| &job.chains);
    let spent = chains.filter(|chain| chain.configured_is_spent);
    spent
        .map(|KeptChain { secret, .. }| {
            format!(
                "warning: the configured value of {secret} was spent when it was last looked at: unless another one was put there since, the job sends it after this, the issuer refuses it (invalid_grant), and somebody must log in again. To go on with a new value nothing need be forgotten: put it where the configuration reads it, or use `evertoken state set {job} {secret}`"
            )
        })
        .collect()
}

/// Asks for confirmation on the terminal.
fn confirmed(name: &str, kept: &[KeptJob]) -> anyhow::Result<bool> {
    say(&shown(kept));
    let mut stderr = io::stderr();
    write!(
        stderr,
        "Forget all of this? The configured secrets must be good then. Type the job's name ({name}): "
    )?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == name)
}

/// All jobs, for people.
fn shown(jobs: &[KeptJob]) -> String {
    if jobs.is_empty() {
        return "nothing is kept".to_owned();
    }
    let mut text = String::new();
    for job in jobs {
        let _ = writeln!(text, "{}", job.id);
        if let Some(token) = &job.token {
            let _ = writeln!(
                text,
                "  token: obtained {}, {}",
                token.obtained_at,
                token
                    .expires_at
                    .map_or_else(|| "never expires".to_owned(), |at| format!("expires {at}"))
            );
        }
        for chain in &job.chains {
            chain_shown(&mut text, chain);
        }
    }
    text
}

fn chain_shown(text: &mut String, kept: &KeptChain) {
    let _ = writeln!(text, "  {}: {}", kept.secret, kept.state);
    if let Some(error) = &kept.error {
        let _ = writeln!(text, "    {error}");
    }
    if let Some(facts) = &kept.chain {
        facts_shown(text, facts);
    }
}

fn facts_shown(text: &mut String, facts: &ChainFacts) {
    let _ = writeln!(text, "    chain       {}", facts.id);
    let _ = writeln!(text, "    generation  {}", facts.generation);
    let times: [(&str, Option<Timestamp>); 2] = [
        ("expires", facts.expires_at),
        ("dead since", facts.dead_since),
    ];
    for (label, at) in times {
        if let Some(at) = at {
            let _ = writeln!(text, "    {label:10}  {at}");
        }
    }
    if let Some(reason) = &facts.dead_reason {
        let _ = writeln!(text, "    reason      {reason}");
    }
    // The last request with a rejected chain was answered.
    if let (Some(last), 1.., None) = (facts.last_sent, facts.unanswered, facts.dead_since) {
        let _ = writeln!(
            text,
            "    unanswered  {}, the last sent {last}",
            facts.unanswered
        );
    }
    if let Some(exchange) = &facts.exchange {
        exchange_shown(text, exchange);
    }
    if let Some(bytes) = facts.unread_bytes {
        let _ = writeln!(
            text,
            "    unread      an answer of {bytes} bytes that was not understood is kept"
        );
    }
}

fn exchange_shown(text: &mut String, exchange: &ExchangeFacts) {
    let ExchangeFacts {
        method,
        url,
        job,
        plugin,
        ..
    } = exchange;
    let _ = writeln!(
        text,
        "    request     {method} {url} of job {job} (plugin {plugin})"
    );
    let whose = if exchange.is_ours {
        "the running process"
    } else {
        "another process"
    };
    let _ = writeln!(
        text,
        "                written down {} by {whose} ({}), given up {}",
        exchange.written_at, exchange.holder, exchange.not_after
    );
    if let Some(bytes) = exchange.arriving_bytes {
        let _ = writeln!(
            text,
            "    answer      {bytes} bytes of it are kept; the rest has not come"
        );
    }
    if exchange.is_answered {
        let _ = writeln!(
            text,
            "    answer      kept; the source could not use it {} time(s)",
            exchange.failed_replays
        );
    }
}
