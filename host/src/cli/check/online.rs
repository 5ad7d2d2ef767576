//! Proofs that need the world: each tries what a run would do, as far as that spends nothing and leaves nothing behind.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::formats;
use super::mint::{self, Minted};
use super::probe::{self, Probed};
use super::report::Report;
use crate::cli::house::{self, House};
use crate::config::model::{
    Config, Destination, Format, Job, JobId, Output, Secret, SecretOrigin, StateLocation,
};
use crate::failure::{Failure, FailureKind};
use crate::kubernetes::Kubernetes;
use crate::output::{Homes, Outputs, Publication, shared_owner};
use crate::plugin::{Plugins, World};
use crate::refresh::clock::OFF_BEYOND;
use crate::token::Artifact;

/// How much is to be proved.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Wanted {
    /// What is expected of issuers.
    pub(in crate::cli) issuers: Issuers,
    /// Whether tokens are asked for.
    pub(in crate::cli) mint: bool,
}

/// What is expected of issuers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Issuers {
    /// Every one of them answers now, and well.
    MustAnswer,
    /// One that is away or in trouble is back some day; only what is wrong on our side counts.
    MayBeAway,
}

/// Tries the state store, and for each job its plugins, secrets, issuers and outputs.
///
/// # Errors
/// The rooms cannot be put together.
pub(in crate::cli) async fn prove(
    config: &Config,
    plugins: Plugins,
    wanted: Wanted,
) -> Result<Report> {
    // The state store is another process's while that runs; what is looked at here does not need it.
    let house = House::open(
        &Config {
            state: StateLocation::Memory,
            ..config.clone()
        },
        plugins,
        &CancellationToken::new(),
    )
    .await?;
    let kubernetes = Arc::new(Kubernetes::new());
    let mut prover = Prover {
        outputs: Outputs::new(Arc::clone(&kubernetes)),
        homes: Homes::new(kubernetes),
        house,
        wanted,
        probed: HashMap::new(),
        report: Report::default(),
    };
    prover.state(&config.state).await;
    for job in &config.jobs {
        prover.job(job).await;
    }
    let owner = shared_owner();
    for (index, shared) in config.shared_outputs.iter().enumerate() {
        let from: Vec<String> = shared.from.iter().map(ToString::to_string).collect();
        let who = format!("output of {}", from.join(", "));
        prover
            .output(&who, &owner, index, &shared.output, &from)
            .await;
    }
    if wanted.mint {
        let minted = mint::all(&prover.house, &config.jobs, &mut prover.report).await;
        for shared in &config.shared_outputs {
            let jobs: Vec<&JobId> = shared.from.iter().collect();
            prover.minted_output(&minted, &jobs, &shared.output).await;
        }
        for job in &config.jobs {
            for output in &job.outputs {
                prover.minted_output(&minted, &[&job.id], output).await;
            }
        }
    }
    Ok(prover.report)
}

struct Prover {
    house: House,
    outputs: Outputs,
    homes: Homes,
    wanted: Wanted,
    /// What issuers answered: each is asked once, however many jobs it has.
    probed: HashMap<String, Probed>,
    report: Report,
}

impl Prover {
    async fn state(&mut self, location: &StateLocation) {
        match house::prove_store(location).await {
            Ok(how) => self.report.proved("state", how),
            Err(missing) => {
                for what in missing {
                    self.report.failed("state", what);
                }
            }
        }
    }

    async fn job(&mut self, job: &Arc<Job>) {
        let who = format!("job {}", job.id);
        let source = &job.source;
        self.plugin(&who, &source.plugin, World::Source, &source.config)
            .await;
        // A plugin that cannot be read has been told of.
        let endpoints = self
            .house
            .plugins
            .endpoints(&source.plugin, &source.config)
            .await
            .unwrap_or_default();
        let call = self.house.capabilities.call(job, &endpoints);
        for (name, secret) in &source.secrets {
            self.secret(&who, &call, name, secret).await;
        }
        for ask in probe::asks(source, &endpoints) {
            let key = ask.key(source);
            let probed = match self.probed.get(&key) {
                Some(probed) => probed.clone(),
                None => probe::probe(&call, &ask).await,
            };
            self.issuer(&who, &ask.origin(), &probed);
            self.probed.insert(key, probed);
        }
        let names = [job.id.to_string()];
        for (index, output) in job.outputs.iter().enumerate() {
            self.output(&who, &job.id, index, output, &names).await;
        }
    }

    /// Whether a plugin can be used for this.
    async fn plugin(&mut self, who: &str, plugin: &str, world: World, config: &serde_json::Value) {
        let plugins = &self.house.plugins;
        let ready = plugins.prepare(plugin).await;
        let fits = plugins.check_config(plugin, world, config).await;
        let result = ready.err().or(fits.err());
        let result = result.map_or(Ok(()), |error| Err(error.to_failure()));
        self.report
            .tried(who, format!("plugin {plugin} can be loaded"), result);
    }

    async fn secret(
        &mut self,
        who: &str,
        call: &crate::capability::Call,
        name: &str,
        secret: &Secret,
    ) {
        // Another job's token is there once that job has run.
        if let SecretOrigin::Job(other) = &secret.origin {
            let why = format!("secret {name} is the token of job {other}");
            return self.report.not_tried(who, why);
        }
        let opened = call.open(name).await.map(drop);
        let can_be_read = opened.is_ok();
        let what = format!("secret {name} can be read");
        self.report.tried(who, what, opened);
        if secret.write_back && can_be_read {
            let proved = self.homes.prove(&secret.origin).await;
            let what = format!("secret {name} can be written back");
            self.report.tried(who, what, proved);
        }
    }

    fn issuer(&mut self, who: &str, origin: &str, probed: &Probed) {
        let must_answer = self.wanted.issuers == Issuers::MustAnswer;
        match probed {
            Probed::NoAnswer(failure) => {
                if must_answer || failure.kind == FailureKind::InvalidConfig {
                    self.report.failed(who, &failure.message);
                }
            }
            Probed::Answered(answered) if must_answer => {
                let said = format!("{origin} {}", answered.words);
                if answered.is_good {
                    self.report.proved(who, said);
                } else {
                    self.report.failed(who, said);
                }
                if let Some(ahead_ms) = answered.ahead_ms {
                    self.clock(who, origin, ahead_ms);
                }
            }
            Probed::Answered(_) => {}
        }
    }

    fn clock(&mut self, who: &str, origin: &str, ahead_ms: i64) {
        let seconds = ahead_ms.unsigned_abs() / 1000;
        if seconds <= OFF_BEYOND.as_secs() {
            let what = format!("the clock of {origin} is within {seconds} s of ours");
            return self.report.proved(who, what);
        }
        let which = if ahead_ms > 0 { "ahead of" } else { "behind" };
        self.report.failed(
            who,
            format!(
                "the clock of {origin} is {seconds} s {which} this machine's: tokens and signed requests may count as expired, or as not yet valid; set the wrong one right (NTP)"
            ),
        );
    }

    async fn output(
        &mut self,
        who: &str,
        owner: &JobId,
        index: usize,
        output: &Output,
        jobs: &[String],
    ) {
        let made = match &output.format {
            None => Some(formats::bare()),
            Some(format) => self.format(who, format, jobs).await,
        };
        let publication = Publication {
            job: owner,
            output_index: index,
            artifacts: made.as_deref().unwrap_or_default(),
            expires_at: None,
        };
        let proved = self.outputs.prove(&output.destination, &publication).await;
        let what = match &output.destination {
            Destination::File(file) => format!("file {} can be written", file.path.display()),
            Destination::Secret(secret) => format!(
                "Secret {}/{} can be written (dry run)",
                secret.namespace, secret.name
            ),
        };
        self.report.tried(who, what, proved);
    }

    /// What the format makes of a made-up token; none: that cannot be said.
    async fn format(
        &mut self,
        who: &str,
        format: &Format,
        jobs: &[String],
    ) -> Option<Vec<Artifact>> {
        let Format { plugin, config } = format;
        self.plugin(who, plugin, World::Formatter, config).await;
        let plugins = &self.house.plugins;
        plugins.prepare(plugin).await.ok()?;
        match formats::artifacts(plugins, format, jobs).await {
            Ok(artifacts) => Some(artifacts),
            Err(failure) if formats::is_about_config(&failure) => {
                self.report.failed(who, failure.message);
                None
            }
            Err(_) => {
                let why = format!("what {plugin} makes of a token depends on the token");
                self.report.not_tried(who, why);
                None
            }
        }
    }

    /// Whether the format takes real tokens; nothing is written.
    async fn minted_output(&mut self, minted: &Minted, jobs: &[&JobId], output: &Output) {
        let Some(format) = &output.format else {
            return;
        };
        let tokens: Option<Vec<_>> = jobs.iter().map(|job| minted.get(job)).collect();
        let Some(tokens) = tokens else {
            return;
        };
        let formatted: Result<Vec<Artifact>, Failure> = self
            .house
            .plugins
            .format(&format.plugin, &tokens, &format.config)
            .await;
        let who: Vec<String> = jobs.iter().map(ToString::to_string).collect();
        let who = format!("job {}", who.join(", "));
        let what = format!("{} takes the token", format.plugin);
        self.report.tried(&who, what, formatted.map(drop));
    }
}
