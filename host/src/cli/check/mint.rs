//! `check --mint`: requests tokens to see whether they are granted, but none with a rotating secret, whose successor only a run
//! would store.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use secrecy::ExposeSecret as _;

use super::online::at_once;
use super::report::Report;
use crate::cli::app::App;
use crate::cli::status::rounded;
use crate::model::failure::Failure;
use crate::model::time::{Clock as _, SystemClock};
use crate::model::token::{Expiry, KeptToken, NamedToken, jwt};
use crate::model::{Job, JobId, Secret, SecretOrigin};
use crate::refresh::admit::admit;
use crate::refresh::lifetime;
use crate::runner::ports::AcquireContext;
use crate::runner::{source_hash, weigh};

/// The granted tokens.
#[derive(Default)]
pub(super) struct Minted(BTreeMap<JobId, KeptToken>);

impl Minted {
    /// A job's token in the form for formatters.
    pub(super) fn get(&self, job: &JobId) -> Option<NamedToken> {
        let kept = self.0.get(job)?;
        Some(NamedToken {
            job: job.name.clone(),
            token: kept.for_consumers(),
        })
    }
}

/// Requests the tokens of all jobs that may be asked, first those that other jobs need.
pub(super) async fn all(app: &App, jobs: &[Arc<Job>], report: &mut Report) -> Result<Minted> {
    let mut minted = Minted::default();
    let mut left: Vec<&Arc<Job>> = jobs.iter().collect();
    loop {
        let (ready, waiting): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|job| is_ready(job, &minted));
        if ready.is_empty() {
            for job in waiting {
                let why = "its source needs the token of another job, and there is none";
                report.not_tried(&who(job), why);
            }
            return Ok(minted);
        }
        let asking = ready.iter().map(|job| {
            let (app, job) = (app.clone(), Arc::clone(job));
            async move {
                match why_not(&job) {
                    Some(why) => Asked::Not(why),
                    None => Asked::For(ask(&app, &job).await.map(Box::new)),
                }
            }
        });
        for (job, asked) in ready.iter().zip(at_once(asking).await?) {
            note(job, asked, &mut minted, report);
        }
        left = waiting;
    }
}

/// Whether a token was asked for.
enum Asked {
    /// What came of it: the token, and what may be said of it.
    For(Result<Box<(KeptToken, String)>, Failure>),
    /// No, and why.
    Not(String),
}

fn who(job: &Job) -> String {
    format!("job {}", job.id)
}

fn is_ready(job: &Job, minted: &Minted) -> bool {
    job.source
        .secrets
        .values()
        .all(|secret| match &secret.origin {
            SecretOrigin::Job(name) => minted.0.keys().any(|id| id.name == *name),
            _ => true,
        })
}

fn may_be_spent(name: &str, secret: &Secret) -> bool {
    secret.rotating || SPENT_BY_USE.contains(&name)
}

/// Secrets that an issuer may accept only once, even if the configuration does not mark them as rotating: that only shows in its
/// answer, when the value is spent (RFC 6749 §§4.1.2, 6; RFC 8628 §3.4).
const SPENT_BY_USE: [&str; 3] = ["refresh_token", "code", "device_code"];

/// Why a job's token is not asked for; none: it is.
fn why_not(job: &Job) -> Option<String> {
    let mut secrets = job.source.secrets.iter();
    let (name, secret) = secrets.find(|(name, secret)| may_be_spent(name, secret))?;
    Some(match secret.rotating {
        true => format!("asking for a token would spend its rotating secret {name}"),
        false => format!(
            "its issuer may replace the secret {name} at any use, and only a run keeps the next one, if the secret is `rotating: true`"
        ),
    })
}

fn note(job: &Job, asked: Asked, minted: &mut Minted, report: &mut Report) {
    let who = who(job);
    match asked {
        Asked::Not(why) => report.not_tried(&who, why),
        Asked::For(Err(failure)) => report.failed(&who, failure.message),
        Asked::For(Ok(given)) => {
            let (kept, words) = *given;
            report.is_beyond_doubt(&who);
            report.proved(&who, format!("gets a token: {words}"));
            minted.0.insert(job.id.clone(), kept);
        }
    }
}

/// The token as a run would admit it, and its description.
///
/// # Errors
/// There is none, or a run would refuse it.
async fn ask(app: &App, job: &Arc<Job>) -> Result<(KeptToken, String), Failure> {
    let first = AcquireContext {
        attempt: 0,
        previous_expires_at: None,
    };
    let acquirer = &app.ports.acquirer;
    let obtained = acquirer.acquire(job, first).await;
    let obtained = obtained.map_err(|not| not.failure)?;
    let told = obtained.token.expiry;
    let said = lifetime::said(obtained.obtained_at, told);
    let (candidate, kept) = weigh(obtained, said, None, job, source_hash(job));
    admit(&candidate, None, SystemClock.now())?;
    let words = described(&kept, told);
    let words = without_secrets(app, job, &kept, &words).await;
    // In memory, for jobs that have it as a secret.
    app.ports.keeper.keep_token(&job.id, &kept).await?;
    Ok((kept, words))
}

/// A plugin is free in a token's type and fields, and in which of them are public, so they are scrubbed.
async fn without_secrets(app: &App, job: &Arc<Job>, kept: &KeptToken, words: &str) -> String {
    let call = app.capabilities.call(job, &[]);
    for name in job.source.secrets.keys() {
        // Opening it makes the call redact it; a value that cannot be read is in no text.
        let _ = call.open(name).await;
    }
    call.remember(kept.token.value.expose_secret().as_bytes());
    for field in kept.token.fields.iter().filter(|field| !field.public) {
        call.remember(field.value.expose_secret().as_bytes());
    }
    call.scrub(words)
}

/// `told`: the expiry that the plugin stated.
fn described(kept: &KeptToken, told: Expiry) -> String {
    let token = &kept.token;
    let kind = match token.token_type.as_str() {
        "" => "of no type",
        named => named,
    };
    let life = kept.expires_at.map(|at| at.since(kept.obtained_at));
    let life = life.map(|life| rounded(life.as_secs()));
    let is_assumed =
        token.expiry == Expiry::Unknown && jwt::read(token.value.expose_secret()).is_none();
    let life = match (life, told) {
        (None, _) => "never expires".to_owned(),
        (Some(life), Expiry::At(over)) if is_assumed => {
            format!("says that it expired at {over}, {life} is assumed")
        }
        (Some(life), _) if is_assumed => format!("says no lifetime, {life} is assumed"),
        (Some(life), _) => format!("lives {life}"),
    };
    let public = token.fields.iter().filter(|field| field.public);
    let public = public.map(|field| (&field.name, field.value.expose_secret()));
    let public = public.filter(|(_, value)| !value.is_empty());
    let public = public.map(|(name, value)| format!(", {name} {value}"));
    let hidden = token.fields.iter().filter(|field| !field.public);
    let hidden: Vec<&str> = hidden.map(|field| field.name.as_str()).collect();
    let with = match hidden.is_empty() {
        true => String::new(),
        false => format!(", with {}", hidden.join(", ")),
    };
    format!("{kind}, {life}{}{with}", public.collect::<String>())
}
