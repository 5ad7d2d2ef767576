//! The token request: grant, parameters and client authentication (RFC 6749 §§2.3.1, 4.4.2, 6).

use evertoken_plugin::http::{Request, Response};
use evertoken_plugin::secrets::{self, Secret, Value};
use evertoken_plugin::{Failure, OneOrMany};

use crate::config::{ClientAuth, Config, Grant};
use crate::{CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN};

/// The client's identifier (RFC 6749 §2.2).
enum Identifier<'a> {
    Text(&'a str),
    Secret(Secret),
}

impl Identifier<'_> {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Text(text) => (*text).into(),
            Self::Secret(secret) => secret.into(),
        }
    }
}

/// How the client authenticates.
enum Client {
    Basic { authorization: Secret },
    Post { secret: Secret },
    Public,
}

/// Sends the token request that the configuration describes.
///
/// # Errors
///
/// `invalid-config` for what is missing; the host's failures to open secrets and to send.
pub(crate) fn send(config: &Config) -> Result<Response, Failure> {
    let refresh_token = match config.grant {
        Grant::RefreshToken => Some(secrets::open(REFRESH_TOKEN)?),
        Grant::ClientCredentials => None,
    };
    let identifier = identifier(config)?;
    let client = client(config, identifier.as_ref())?;

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
    let fields = fields(config, identifier.as_ref(), &client, refresh_token.as_ref());
    for (name, value) in fields {
        request = request.field(name, value);
    }
    request.send()
}

/// The form's fields. A parameter of the configuration replaces the plugin's own of the same name.
fn fields<'a>(
    config: &'a Config,
    identifier: Option<&'a Identifier<'_>>,
    client: &'a Client,
    refresh_token: Option<&'a Secret>,
) -> Vec<(&'a str, Value<'a>)> {
    let mut fields: Vec<(&str, Value<'a>)> = Vec::new();
    fields.push(("grant_type", grant_type(config.grant).into()));
    fields.extend(refresh_token.map(|token| (REFRESH_TOKEN, token.into())));
    if let (Some(identifier), Client::Post { .. } | Client::Public) = (identifier, client) {
        fields.push((CLIENT_ID, identifier.value()));
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

fn identifier(config: &Config) -> Result<Option<Identifier<'_>>, Failure> {
    match (&config.client_id, secrets::open_if_listed(CLIENT_ID)?) {
        (Some(_), Some(_)) => Err(invalid(
            "config.client_id: the job lists a secret client_id, too; keep one of them",
        )),
        (Some(text), None) => Ok(Some(Identifier::Text(text))),
        (None, secret) => Ok(secret.map(Identifier::Secret)),
    }
}

fn client(config: &Config, identifier: Option<&Identifier<'_>>) -> Result<Client, Failure> {
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
    let Some(identifier) = identifier else {
        return Err(invalid(
            "config.client_id: needed, or a secret client_id, for the client authenticates by client_secret_basic",
        ));
    };
    if has_header(config, "authorization") {
        return Err(invalid(
            "config.headers.authorization: client_secret_basic sets this header; remove it or set client_auth: none",
        ));
    }
    Ok(Client::Basic {
        authorization: Secret::basic(identifier.value(), &secret)?,
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
