//! A realm of one test: its specification, and requests to it.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::client::{Answer, Client, FORM, form};
use crate::proxy::Proxy;
use crate::server::Request;

/// The specification of a realm. By default it has no clients, no users, and refresh tokens that do not rotate.
#[derive(Clone, Debug)]
pub struct RealmSpec {
    name: String,
    reuse: Option<u32>,
    clients: Vec<ClientSpec>,
    users: Vec<(String, String)>,
}

/// A confidential client with client_secret_basic and client_secret_post.
#[derive(Clone, Debug)]
pub struct ClientSpec {
    id: String,
    secret: String,
    lifespan: Option<u32>,
    audiences: Vec<String>,
    direct: bool,
}

impl RealmSpec {
    /// A realm whose name begins with `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            reuse: None,
            clients: Vec::new(),
            users: Vec::new(),
        }
    }

    /// Each refresh token is replaced by its use and may be used `max_reuse` times more (`revokeRefreshToken`, `refreshTokenMaxReuse`).
    #[must_use]
    pub fn rotating(mut self, max_reuse: u32) -> Self {
        self.reuse = Some(max_reuse);
        self
    }

    /// Adds a client.
    #[must_use]
    pub fn client(mut self, client: ClientSpec) -> Self {
        self.clients.push(client);
        self
    }

    /// Adds a user who may ask for offline access.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Keycloak's RealmRepresentation.
    pub(super) fn to_json(&self, name: &str) -> Value {
        let users = self.users.iter().map(|(user, password)| {
            json!({
                "username": user, "enabled": true, "emailVerified": true,
                // Without all three Keycloak reports that the account is not fully set up.
                "email": format!("{user}@example.org"), "firstName": user, "lastName": user,
                "credentials": [{"type": "password", "value": password, "temporary": false}],
                "realmRoles": [format!("default-roles-{name}")],
            })
        });
        json!({
            "realm": name, "enabled": true, "sslRequired": "none",
            "revokeRefreshToken": self.reuse.is_some(), "refreshTokenMaxReuse": self.reuse.unwrap_or(0),
            "clients": self.clients.iter().map(ClientSpec::to_json).collect::<Vec<_>>(),
            "users": users.collect::<Vec<_>>(),
        })
    }
}

impl ClientSpec {
    /// A client that may use the client_credentials grant.
    #[must_use]
    pub fn new(id: &str, secret: &str) -> Self {
        Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            lifespan: None,
            audiences: Vec::new(),
            direct: false,
        }
    }

    /// Its access tokens live for so many seconds; Keycloak's default is 300.
    #[must_use]
    pub fn lifespan(mut self, seconds: u32) -> Self {
        self.lifespan = Some(seconds);
        self
    }

    /// Adds a value to `aud` of its access tokens.
    #[must_use]
    pub fn audience(mut self, audience: &str) -> Self {
        self.audiences.push(audience.to_owned());
        self
    }

    /// Users may log in through it by the password grant: how a test gets its first refresh token.
    #[must_use]
    pub fn direct_grants(mut self) -> Self {
        self.direct = true;
        self
    }

    fn to_json(&self) -> Value {
        let mappers = self.audiences.iter().map(|audience| {
            json!({
                "name": format!("audience {audience}"), "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
                "config": {"included.custom.audience": audience, "access.token.claim": "true"},
            })
        });
        let attributes = self
            .lifespan
            .map(|seconds| json!({"access.token.lifespan": seconds.to_string()}));
        json!({
            "clientId": self.id, "secret": self.secret, "enabled": true, "publicClient": false,
            "serviceAccountsEnabled": true, "standardFlowEnabled": false, "directAccessGrantsEnabled": self.direct,
            "protocolMappers": mappers.collect::<Vec<_>>(), "attributes": attributes.unwrap_or_else(|| json!({})),
        })
    }
}

/// A realm that exists, behind a proxy of its own.
#[derive(Debug)]
pub struct Realm {
    name: String,
    keycloak: String,
    proxy: Proxy,
    http: Client,
}

impl Realm {
    pub(super) fn new(name: String, keycloak: String, proxy: Proxy) -> Self {
        Self {
            name,
            keycloak,
            proxy,
            http: Client::plain(),
        }
    }

    /// The realm's full name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The issuer identifier, through the proxy: `iss` of its tokens.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("{}/realms/{}", self.proxy.origin(), self.name)
    }

    /// The token endpoint, through the proxy.
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("{}{}", self.proxy.origin(), self.token_path())
    }

    /// The proxy: losing answers, being down.
    #[must_use]
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// A new refresh token by a user's login, sent directly to Keycloak and so not counted. `scope`: `openid`, or `openid
    /// offline_access` for a token that outlives the session.
    ///
    /// # Errors
    ///
    /// When Keycloak refuses.
    pub fn refresh_token(
        &self,
        client: (&str, &str),
        user: (&str, &str),
        scope: &str,
    ) -> Result<String> {
        let fields = [
            ("grant_type", "password"),
            ("client_id", client.0),
            ("client_secret", client.1),
            ("username", user.0),
            ("password", user.1),
            ("scope", scope),
        ];
        let url = format!("{}{}", self.keycloak, self.token_path());
        // Keycloak takes its issuer name from this field, and accepts only tokens issued under the same name.
        let host = self.proxy.authority();
        let headers = [("host", host.as_str()), ("content-type", FORM)];
        let answer = self
            .http
            .send("POST", &url, &headers, form(&fields).as_bytes())?
            .success()?;
        answer
            .get("refresh_token")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("no refresh token in the answer")
    }

    /// Sends form fields to the token endpoint, counted like evertoken's own.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub fn token_request(&self, fields: &[(&str, &str)]) -> Result<Answer> {
        self.http.post_form(&self.token_url(), fields)
    }

    /// The token requests of one client so far, in the order of their arrival.
    #[must_use]
    pub fn token_requests(&self, client_id: &str) -> Vec<Request> {
        let mut requests = self.proxy.requests();
        requests.retain(|request| {
            request.path == self.token_path() && request.client_id().as_deref() == Some(client_id)
        });
        requests
    }

    fn token_path(&self) -> String {
        format!("/realms/{}/protocol/openid-connect/token", self.name)
    }
}
