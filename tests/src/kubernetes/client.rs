//! Plain HTTPS requests to the API server, with JSON.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::client::{Answer, Client};

/// The `User-Agent` of the harness's own requests, by which the audit log distinguishes them from evertoken's.
pub const USER_AGENT: &str = "evertoken-tests";

/// A client with one user's token.
#[derive(Clone, Debug)]
pub struct KubeClient {
    http: Client,
    origin: String,
    authorization: String,
}

impl KubeClient {
    /// A client for the server at `origin` whose certificate an authority in `ca_pem` signed.
    ///
    /// # Errors
    ///
    /// When `ca_pem` holds no certificate.
    pub fn new(origin: &str, ca_pem: &str, token: &str) -> Result<Self> {
        Ok(Self {
            http: Client::trusting(ca_pem)?,
            origin: origin.to_owned(),
            authorization: format!("Bearer {token}"),
        })
    }

    /// Sends a request and gives back whatever the server answers.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let headers = [
            ("authorization", self.authorization.as_str()),
            ("user-agent", USER_AGENT),
            ("accept", "application/json"),
            ("content-type", content_type),
        ];
        let body = body.map(Value::to_string).unwrap_or_default();
        self.http.send(
            method,
            &format!("{}{path}", self.origin),
            &headers,
            body.as_bytes(),
        )
    }

    /// POSTs an object to a collection.
    ///
    /// # Errors
    ///
    /// When the server refuses; the message is the server's Status.
    pub fn create(&self, collection: &str, object: &Value) -> Result<Value> {
        self.request("POST", collection, "application/json", Some(object))?
            .success()
    }

    /// GETs an object; none if it does not exist.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        let answer = self.request("GET", path, "application/json", None)?;
        if answer.status == 404 {
            Ok(None)
        } else {
            answer.success().map(Some)
        }
    }

    /// A Secret; none if it does not exist.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub fn secret(&self, namespace: &str, name: &str) -> Result<Option<Value>> {
        self.get(&secret_path(namespace, name))
    }

    /// Creates a Secret from its members without `apiVersion`, `kind` and name: `data`, `stringData`, `metadata` with labels, and so on.
    ///
    /// # Errors
    ///
    /// When `members` is no JSON object or the server refuses.
    pub fn create_secret(&self, namespace: &str, name: &str, members: Value) -> Result<Value> {
        let Value::Object(mut secret) = members else {
            bail!("a Secret is a JSON object")
        };
        secret.insert("apiVersion".into(), "v1".into());
        secret.insert("kind".into(), "Secret".into());
        let metadata = secret.entry("metadata").or_insert_with(|| json!({}));
        metadata
            .as_object_mut()
            .context("metadata is a JSON object")?
            .insert("name".into(), name.into());
        self.create(
            &format!("/api/v1/namespaces/{namespace}/secrets"),
            &Value::Object(secret),
        )
    }

    /// Merges `patch` into a Secret (RFC 7396).
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub fn patch_secret(&self, namespace: &str, name: &str, patch: &Value) -> Result<Value> {
        self.request(
            "PATCH",
            &secret_path(namespace, name),
            "application/merge-patch+json",
            Some(patch),
        )?
        .success()
    }

    /// PUTs a whole Secret in the place of the one that is there, as `kubectl replace` does.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub fn replace_secret(&self, namespace: &str, name: &str, secret: &Value) -> Result<Value> {
        let path = secret_path(namespace, name);
        self.request("PUT", &path, "application/json", Some(secret))?
            .success()
    }

    /// Deletes a Secret.
    ///
    /// # Errors
    ///
    /// When the server refuses, also because there is none.
    pub fn delete_secret(&self, namespace: &str, name: &str) -> Result<()> {
        self.request(
            "DELETE",
            &secret_path(namespace, name),
            "application/json",
            None,
        )?
        .success()
        .map(drop)
    }

    /// Deletes a namespace; without a controller it stays `Terminating`.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub fn delete_namespace(&self, name: &str) -> Result<()> {
        self.request(
            "DELETE",
            &format!("/api/v1/namespaces/{name}"),
            "application/json",
            None,
        )?
        .success()
        .map(drop)
    }

    /// The decoded value of one key of a Secret; none if Secret or key do not exist.
    ///
    /// # Errors
    ///
    /// When the server refuses or the value is not base64.
    pub fn secret_value(&self, namespace: &str, name: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let secret = self.secret(namespace, name)?;
        let Some(text) = secret
            .as_ref()
            .and_then(|secret| secret.get("data")?.get(key)?.as_str())
        else {
            return Ok(None);
        };
        Ok(Some(data_encoding::BASE64.decode(text.as_bytes())?))
    }

    /// Whether `/readyz` says ok.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.request("GET", "/readyz", "application/json", None)
            .is_ok_and(|answer| answer.status == 200)
    }
}

fn secret_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{name}")
}
