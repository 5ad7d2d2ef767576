//! Checks of formats with a made-up token: mistakes in a template show without an issuer. A failure that depends on the token,
//! such as a field that only the issuer's answer has, is no mistake.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use crate::config::{FORMATTER_PLUGINS, Mistake, Place, Places, PluginUse};
use crate::model::Format;
use crate::model::failure::{Failure, FailureKind};
use crate::model::time::{Clock as _, SystemClock, Timestamp};
use crate::model::token::{Artifact, Expiry, NamedToken, Token};
use crate::plugin::Plugins;

/// How long the made-up token lives.
const LIFETIME: Duration = Duration::from_secs(3600);

/// The prefix of the codes of failures that are about the configuration alone, whatever the tokens are.
const ABOUT_CONFIG: &str = "config.";

/// The findings about formats.
#[derive(Default)]
pub(super) struct FormatFindings {
    /// Outputs that can never be written.
    pub(super) mistakes: Vec<Mistake>,
    /// Outputs that can be written and are probably not intended.
    pub(super) warnings: Vec<Mistake>,
}

/// Checks the formats of built-in plugins. Other plugins are untrusted code, which `check` without options does not run.
pub(super) async fn judge(places: &Places, plugins: &Plugins) -> FormatFindings {
    let mut found = FormatFindings::default();
    let mut tried = BTreeSet::new();
    for said in places.plugin_options() {
        let is_built_in = FORMATTER_PLUGINS.contains(&said.plugin);
        if said.wanted != PluginUse::Formatter || !is_built_in {
            continue;
        }
        // Jobs often share their template; the job names matter only if the template contains them.
        let text = said.config.to_string();
        let names = said.jobs.iter().filter(|job| text.contains(*job));
        let names: Vec<String> = names.cloned().collect();
        if !tried.insert((said.plugin, text, names, said.jobs.len())) {
            continue;
        }
        let format = Format {
            plugin: said.plugin.to_owned(),
            config: Arc::unwrap_or_clone(said.config),
        };
        match artifacts(plugins, &format, &said.jobs).await {
            Err(failure) if is_about_config(&failure) => {
                let place = place_in(said.place, &failure.message);
                let message = format!("plugin `{}`: {}", said.plugin, failure.message);
                found.mistakes.push(places.mistake(place, message, None));
            }
            Ok(written) if is_constant(plugins, &format, &said.jobs, &written).await => {
                let message = "what it writes is the same whatever the token is";
                let help = "the token is `{{ token }}`";
                found
                    .warnings
                    .push(places.mistake(said.place, message, Some(help.to_owned())));
            }
            _ => {}
        }
    }
    found
}

/// Whether a format's result does not depend on the tokens.
async fn is_constant(
    plugins: &Plugins,
    format: &Format,
    jobs: &[String],
    written: &[Artifact],
) -> bool {
    let others = made_up(jobs, SystemClock.now().wall.after(LIFETIME));
    let others = plugins
        .format(&format.plugin, &others, &format.config)
        .await;
    others.is_ok_and(|others| {
        others.len() == written.len()
            && others
                .iter()
                .zip(written)
                .all(|(other, one)| other.content.expose_secret() == one.content.expose_secret())
    })
}

/// The artifacts of a format for a made-up token of each job.
///
/// # Errors
/// The formatter's.
pub(super) async fn artifacts(
    plugins: &Plugins,
    format: &Format,
    jobs: &[String],
) -> Result<Vec<Artifact>, Failure> {
    let tokens = made_up(jobs, SystemClock.now().wall);
    plugins
        .format(&format.plugin, &tokens, &format.config)
        .await
}

/// The artifact of an output without a format for a made-up token.
pub(super) fn bare() -> Vec<Artifact> {
    let tokens = made_up(&[String::new()], SystemClock.now().wall);
    tokens
        .iter()
        .map(|named| Artifact::bare(&named.token))
        .collect()
}

/// Whether a formatter's failure is about its configuration, and not about the made-up token.
pub(super) fn is_about_config(failure: &Failure) -> bool {
    let code = failure.code().unwrap_or_default();
    failure.kind == FailureKind::InvalidConfig && code.starts_with(ABOUT_CONFIG)
}

/// Typical tokens: bearer tokens, JWTs without a signature, without further fields.
fn made_up(jobs: &[String], now: Timestamp) -> Vec<NamedToken> {
    let seconds = now.0 / 1000;
    let claims = json!({
        "iss": "https://issuer.invalid", "sub": "made-up", "aud": "made-up",
        "iat": seconds, "exp": seconds + LIFETIME.as_secs(),
    });
    let encode = |json: &serde_json::Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
    let header = json!({"alg": "none", "typ": "JWT"});
    let value = format!("{}.{}.", encode(&header), encode(&claims));
    let token = |job: &String| NamedToken {
        job: job.clone(),
        token: Token {
            value: SecretString::from(value.clone()),
            token_type: "Bearer".to_owned(),
            expiry: Expiry::At(now.after(LIFETIME)),
            fields: Vec::new(),
        },
    };
    jobs.iter().map(token).collect()
}

/// The place of the option that a message begins with: `config.template line 1: …`, `config.files.auth.json: …`.
fn place_in<'p>(options: Place<'p>, message: &str) -> Place<'p> {
    let path = message.strip_prefix("config.").unwrap_or_default();
    let path = path.split([' ', ':']).next().unwrap_or_default();
    match path.split_once('.') {
        Some((key, below)) => options.key(key).key(below),
        None => options.key(path),
    }
}
