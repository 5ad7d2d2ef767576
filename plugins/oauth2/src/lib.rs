//! Obtains tokens from an OAuth 2.0 token endpoint. Differences between vendors are configuration keys, so that they need no
//! plugin.

mod config;
mod request;

use evertoken_plugin::{Failure, Job, Source, Token, log, oauth, secrets};

pub use config::{ClientAuth, Config, Grant};

/// The name of the client's identifier where it is a secret.
const CLIENT_ID: &str = "client_id";

/// The name of the client's secret.
const CLIENT_SECRET: &str = "client_secret";

/// The name of the refresh token, a rotating secret with most issuers.
const REFRESH_TOKEN: &str = "refresh_token";

/// The plugin.
#[derive(Debug)]
pub struct OAuth2;

impl Source for OAuth2 {
    type Config = Config;

    fn acquire(job: Job<Config>) -> Result<Token, Failure> {
        job.config.check()?;
        let answer = oauth::Answer::read(&request::send(&job.config)?)?;
        if job.config.grant == Grant::RefreshToken {
            keep_successor(&answer)?;
        }
        match &job.config.token_field {
            Some(member) => answer.token_in(member),
            None => answer.token(),
        }
    }
}

/// Called before anything else can fail: an unusable answer may still have the only valid refresh token.
///
/// Many issuers repeat the refresh token in each answer, so a secret that the job does not mark as rotating is no failure: this
/// token is valid, and the next refresh may succeed with the old one.
fn keep_successor(answer: &oauth::Answer) -> Result<(), Failure> {
    let Some((successor, expires_at)) = answer.refresh_token() else {
        return Ok(());
    };
    match secrets::replace(REFRESH_TOKEN, successor, expires_at) {
        Err(failure) if failure.has_code(secrets::NOT_ROTATING) => {
            log::warn(
                "the issuer answered with a refresh token that is not kept; if it replaces them, the next refresh will be refused: \
                 add `rotating: true` to secret refresh_token",
            );
            Ok(())
        }
        kept => kept,
    }
}

evertoken_plugin::export_source!(OAuth2, secrets: {
    "client_id": optional (instead_of: "client_id", required_with: "client_secret", required_for: {"client_auth": ["client_secret_basic", null]})
        "the client's identifier, where it does not stand in the configuration",
    "client_secret": optional (required_for: {"client_auth": ["client_secret_basic", "client_secret_post"]})
        "the client's secret; with it the client authenticates by client_secret_basic unless client_auth says otherwise",
    "refresh_token": optional (required_for: {"grant": ["refresh_token"]})
        "the refresh token, needed for grant refresh_token; mark it rotating: true if the issuer replaces it",
});

#[cfg(test)]
mod tests;
