//! The token request: grant, parameters and client authentication (RFC 6749 §§2.3.1, 4.4.2, 6).

use evertoken_plugin::http::{Request, Response};
use evertoken_plugin::secrets::{self, Secret, Value};
use evertoken_plugin::{Failure, OneOrMany};

use crate::config::{ClientAuth, Config, Grant};
use crate::{CLIENT_SECRET, REFRESH_TOKEN};

/// Who the client says it is.
enum Client {
    Basic { authorization: Secret },
    Post { secret: Secret },
    Public,
}

/// Sends the token request that the configuration describes.
///
/// # Errors
///
/// `invalid-config` for what lacks; the host's failures to open secrets and to send.
pub(crate) fn send(config: &Config) -> Result<Response, Failure> {
    let refresh_token = match config.grant {
        Grant::RefreshToken => Some(secrets::open(REFRESH_TOKEN)?),
        Grant::ClientCredentials => None,
    };
    let client = client(config)?;

    let mut request = Request::post(&config.token_url);
    if !has_header(config, "accept") {
        request = request.header("accept", "application/json");
    }
    for (name, value) in &config.headers {
        request = request.header(name, value.as_str());
    }
    if let Client::Basic { authorization } = &client {
        request = request.header("authorization", authorization);
    }
    for (name, value) in fields(config, &client, refresh_token.as_ref()) {
        request = request.field(name, value);
    }
    request.send()
}

/// The form's fields. A parameter of the configuration takes the place of the plugin's own of the same name.
fn fields<'a>(
    config: &'a Config,
    client: &'a Client,
    refresh_token: Option<&'a Secret>,
) -> Vec<(&'a str, Value<'a>)> {
    let mut fields: Vec<(&str, Value<'a>)> = Vec::new();
    fields.push(("grant_type", grant_type(config.grant).into()));
    fields.extend(refresh_token.map(|token| (REFRESH_TOKEN, token.into())));
    if let (Some(client_id), Client::Post { .. } | Client::Public) = (&config.client_id, client) {
        fields.push(("client_id", client_id.as_str().into()));
    }
    if let Client::Post { secret } = client {
        fields.push((CLIENT_SECRET, secret.into()));
    }
    fields.extend(scope(&config.scope).map(|scope| ("scope", scope.into())));
    fields.extend(
        config
            .audience
            .iter()
            .map(|audience| ("audience", audience.into())),
    );
    fields.extend(
        config
            .resource
            .iter()
            .map(|resource| ("resource", resource.into())),
    );

    fields.retain(|(name, _)| !config.params.contains_key(*name));
    fields.extend(
        config
            .params
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().into())),
    );
    fields
}

fn grant_type(grant: Grant) -> &'static str {
    match grant {
        Grant::ClientCredentials => "client_credentials",
        Grant::RefreshToken => "refresh_token",
    }
}

/// Blanks separate scopes (RFC 6749 §3.3). No scope, no field: an empty one is a mistake to some issuers.
fn scope(scope: &OneOrMany) -> Option<String> {
    let joined = scope
        .iter()
        .filter(|scope| !scope.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    (!joined.is_empty()).then_some(joined)
}

fn client(config: &Config) -> Result<Client, Failure> {
    let auth = match config.client_auth {
        Some(ClientAuth::None) => return Ok(Client::Public),
        auth => auth,
    };
    let secret = match auth {
        Some(_) => secrets::open(CLIENT_SECRET)?,
        None => match secrets::open_if_listed(CLIENT_SECRET)? {
            Some(secret) => secret,
            None => return Ok(Client::Public),
        },
    };
    if auth == Some(ClientAuth::ClientSecretPost) {
        return Ok(Client::Post { secret });
    }
    let Some(client_id) = &config.client_id else {
        return Err(invalid(
            "config.client_id: needed, for the client authenticates by client_secret_basic",
        ));
    };
    if has_header(config, "authorization") {
        return Err(invalid(
            "config.headers.authorization: client_secret_basic sets this header; remove it or set client_auth: none",
        ));
    }
    Ok(Client::Basic {
        authorization: Secret::basic(client_id.as_str(), &secret)?,
    })
}

fn has_header(config: &Config, wanted: &str) -> bool {
    config
        .headers
        .keys()
        .any(|name| name.eq_ignore_ascii_case(wanted))
}

fn invalid(message: &str) -> Failure {
    Failure::invalid_config(message).with_code("config.invalid")
}
