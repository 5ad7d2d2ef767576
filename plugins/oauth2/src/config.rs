//! The configuration and its rules beyond types.

use std::collections::BTreeMap;

use evertoken_plugin::{Failure, OneOrMany};
use serde::Deserialize;

/// Configuration of the oauth2 source.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How the token is obtained.
    pub grant: Grant,
    /// The token endpoint (RFC 6749 §3.2).
    #[cfg_attr(test, schemars(url, extend("x-evertoken-endpoint" = true)))]
    pub token_url: String,
    /// The client identifier (RFC 6749 §2.2). Where it is not to stand here, the job lists a secret client_id instead.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(min = 1), regex(pattern = r"^[\x20-\x7E]*$")))]
    pub client_id: Option<String>,
    /// How the client authenticates. Default: client_secret_basic when the job lists a secret client_secret, else none.
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
    /// The scope asked for (RFC 6749 §3.3); a list is joined by blanks.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "texts::scopes"))]
    pub scope: OneOrMany,
    /// The audience, as Auth0, CERN and others want it; a list becomes several fields.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "texts::values"))]
    pub audience: OneOrMany,
    /// The resource (RFC 8707), or that of Microsoft Entra v1; a list becomes several fields.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "texts::values"))]
    pub resource: OneOrMany,
    /// Further form fields. One named like a field that the plugin sends replaces it, e.g. grant_type: account_credentials.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "texts::params"))]
    pub params: BTreeMap<String, String>,
    /// The member of the answer that is the token, e.g. id_token. Default: access_token.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub token_field: Option<String>,
    /// Further headers. Accept is application/json unless it is among them.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "texts::headers"))]
    pub headers: BTreeMap<String, String>,
}

/// How a token is obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// The client asks for itself (RFC 6749 §4.4).
    ClientCredentials,
    /// The secret refresh_token is used (RFC 6749 §6).
    RefreshToken,
}

/// How the client authenticates (RFC 7591 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// Identifier and secret in the header Authorization, form-encoded (RFC 6749 §2.3.1).
    ClientSecretBasic,
    /// Identifier and secret in the form.
    ClientSecretPost,
    /// The identifier alone, in the form.
    None,
}

/// Values that belong under `secrets`, where they appear in no file, log or status.
const SECRET_PARAMS: [&str; 2] = [super::CLIENT_SECRET, super::REFRESH_TOKEN];

/// Headers that the host or the client authentication sets.
const OWN_HEADERS: [&str; 3] = ["content-type", "content-length", "host"];

impl Config {
    /// Checks the rules that types do not express.
    ///
    /// # Errors
    ///
    /// `invalid-config` that names the key and the correction.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let mistake = self.mistake();
        mistake.map_or(Ok(()), |message| {
            Err(Failure::invalid_config(message).with_code("config.invalid"))
        })
    }

    fn mistake(&self) -> Option<String> {
        let scheme = self.token_url.split_once("://").map(|(scheme, _)| scheme);
        let is_one_of = |known: &str| scheme.is_some_and(|it| it.eq_ignore_ascii_case(known));
        if !is_one_of("https") && !is_one_of("http") {
            return Some(format!(
                "config.token_url: {:?} is no address that starts with https:// or http://",
                self.token_url
            ));
        }
        if let Some(name) = SECRET_PARAMS
            .iter()
            .find(|name| self.params.contains_key(**name))
        {
            return Some(format!(
                "config.params.{name}: a secret does not belong here; list it as {name} under the job's secrets"
            ));
        }
        if self.token_field.as_deref() == Some(super::REFRESH_TOKEN) {
            return Some(
                "config.token_field: a refresh token is no token to give away; name another member of the answer".to_owned(),
            );
        }
        let own = |name: &&String| OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own));
        self.headers
            .keys()
            .find(own)
            .map(|name| format!("config.headers.{name}: this header is set for you; remove it"))
    }
}

/// The schemas of texts, with the characters that they may have: `evertoken check` reports those that would break the request,
/// like line ends.
#[cfg(test)]
mod texts {
    use schemars::{Schema, SchemaGenerator, json_schema};

    /// No control characters.
    const ONE_LINE: &str = r"^[^\x00-\x1F\x7F]*$";
    /// Scope tokens (RFC 6749 §3.3) with blanks between.
    const SCOPE: &str = r"^[\x20\x21\x23-\x5B\x5D-\x7E]*$";
    /// A header field's name (RFC 9110 §5.6.2).
    const FIELD_NAME: &str = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
    /// Any text without a trailing line end, which is a mistake.
    const NO_LINE_END: &str = r"^([\s\S]*[^\r\n])?$";

    fn one_or_many(pattern: &str) -> Schema {
        let one = json_schema!({"type": "string", "pattern": pattern});
        json_schema!({"oneOf": [one, {"type": "array", "items": one}]})
    }

    pub(super) fn values(_: &mut SchemaGenerator) -> Schema {
        one_or_many(ONE_LINE)
    }

    pub(super) fn scopes(_: &mut SchemaGenerator) -> Schema {
        one_or_many(SCOPE)
    }

    pub(super) fn params(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": {"pattern": ONE_LINE},
            "additionalProperties": {"type": "string", "pattern": NO_LINE_END},
        })
    }

    pub(super) fn headers(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": {"pattern": FIELD_NAME},
            "additionalProperties": {"type": "string", "pattern": ONE_LINE},
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_plugin_describes_itself_truly() {
        evertoken_plugin::testing::assert_described(
            crate::ABOUT,
            &schemars::schema_for!(super::Config),
            env!("CARGO_MANIFEST_DIR"),
        );
    }
}
