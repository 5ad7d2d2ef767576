//! Simulates the host in native tests. A test gives a [`Host`] secrets, a time and answers, calls a plugin with [`acquire()`] or
//! [`format()`], and then checks the plugin's requests. Secrets appear in requests as placeholders: `{client_secret}`,
//! `form({client_secret})`.
//!
//! ```
//! use evertoken_plugin::testing::{Answer, Host};
//!
//! let host = Host::new();
//! host.secret("client_secret", "p4ss");
//! host.answer(Answer::json(200, r#"{"access_token":"abc"}"#));
//! let secret = evertoken_plugin::secrets::open("client_secret").unwrap();
//! evertoken_plugin::http::Request::post("https://idp.example.org/token").field("client_secret", &secret).send().unwrap();
//! assert_eq!(host.requests()[0].form, [("client_secret".into(), "{client_secret}".into())]);
//! ```

mod described;
pub(crate) mod double;
mod spelling;

pub use described::assert_described;
pub use double::{Answer, Host, RecordedRequest, Replaced};

use serde_json::Value;

use crate::{Artifact, Failure, Formatter, Job, NamedToken, Source, Token};

/// Calls a source as the host does, with this configuration: the first attempt of a job named "test" that holds no token.
///
/// # Errors
///
/// The source's own, or the configuration's.
pub fn acquire<S: Source>(config: &Value) -> Result<Token, Failure> {
    S::acquire(Job {
        name: "test".to_owned(),
        config: crate::config::parse(&config.to_string())?,
        attempt: 0,
        previous_expires_at: None,
    })
}

/// Calls a formatter as the host does, with this configuration.
///
/// # Errors
///
/// The formatter's own, or the configuration's.
pub fn format<F: Formatter>(
    tokens: Vec<NamedToken>,
    config: &Value,
) -> Result<Vec<Artifact>, Failure> {
    F::format(tokens, crate::config::parse(&config.to_string())?)
}
