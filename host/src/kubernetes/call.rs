//! One request to the API server in the terms of its authorizer: a verb on a named resource. Messages about failed requests use
//! these terms.

use std::fmt;

use data_encoding::BASE64;
use http::{Request, header};
use kube::client::Body;
use percent_encoding::utf8_percent_encode;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::access::REVIEWS;
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::text::RESERVED;

/// The resource of Leases.
const LEASES: &str = "leases";

/// Asks for a Secret without its data where only the success of a write matters: other keys need not be read.
const METADATA_ONLY: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// A verb of RBAC rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Create,
    Update,
    Patch,
    Delete,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}

/// A request on one object of the core group, or on a Lease.
pub(crate) struct ApiCall<'a> {
    pub(crate) verb: Verb,
    /// Its name in RBAC rules, e.g. `secrets` or `serviceaccounts/token`.
    pub(crate) resource: &'static str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// Query parameters.
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) content_type: &'static str,
    /// Whether the answer's `data` is not needed.
    pub(crate) metadata_only: bool,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl<'a> ApiCall<'a> {
    /// A request on a Secret, without a body so far.
    pub(crate) fn secret(verb: Verb, namespace: &'a str, name: &'a str) -> Self {
        Self {
            verb,
            resource: "secrets",
            namespace,
            name,
            query: Vec::new(),
            content_type: "application/json",
            metadata_only: false,
            body: Zeroizing::new(Vec::new()),
        }
    }

    /// A request on a Lease, without a body so far.
    pub(crate) fn lease(verb: Verb, namespace: &'a str, name: &'a str) -> Self {
        Self {
            resource: LEASES,
            ..Self::secret(verb, namespace, name)
        }
    }

    /// The API group of the resource, as in RBAC rules; empty for the core group.
    pub(super) fn group(&self) -> &'static str {
        match self.resource {
            LEASES => "coordination.k8s.io",
            _ => "",
        }
    }

    /// The HTTP request.
    pub(super) fn request(&self) -> Result<Request<Body>, Failure> {
        let accept = if self.metadata_only {
            METADATA_ONLY
        } else {
            "application/json"
        };
        let mut request = Request::builder()
            .method(self.verb.method())
            .uri(self.path_and_query())
            .header(header::ACCEPT, accept);
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, self.content_type);
        }
        request.body(super::body(&self.body)).map_err(|error| {
            Failure::new(
                FailureKind::InvalidConfig,
                HostCode::KubernetesRequest,
                format!("cannot {self}: {error}"),
            )
        })
    }

    fn path_and_query(&self) -> String {
        if self.resource == REVIEWS {
            // Not namespaced, and in a group of its own.
            return format!("/apis/authorization.k8s.io/v1/{REVIEWS}");
        }
        let escape = |text| utf8_percent_encode(text, RESERVED).to_string();
        let (collection, subresource) = match self.resource.split_once('/') {
            Some((collection, subresource)) => (collection, Some(subresource)),
            None => (self.resource, None),
        };
        let api = match self.group() {
            "" => "/api/v1".to_owned(),
            group => format!("/apis/{group}/v1"),
        };
        let mut path = format!("{api}/namespaces/{}/{collection}", escape(self.namespace));
        // An object is created and listed in its collection, a subresource under its object.
        if !matches!(self.verb, Verb::Create | Verb::List) || subresource.is_some() {
            path = format!("{path}/{}", escape(self.name));
        }
        if let Some(subresource) = subresource {
            path = format!("{path}/{subresource}");
        }
        for (index, (name, value)) in self.query.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            path = format!("{path}{separator}{name}={}", escape(value));
        }
        path
    }

    /// A failure for an answer that does not follow the API's documentation.
    pub(crate) fn malformed(&self, what: &str) -> Failure {
        Failure::new(
            FailureKind::Internal,
            HostCode::KubernetesMalformedAnswer,
            format!("cannot {self}: the answer makes no sense: {what}"),
        )
    }
}

/// E.g. `patch secret default/warehouse-token`.
impl fmt::Display for ApiCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verb,
            namespace,
            name,
            ..
        } = self;
        match self.resource {
            "secrets" if *verb == Verb::List => write!(f, "list secrets in {namespace}"),
            "secrets" => write!(f, "{verb} secret {namespace}/{name}"),
            LEASES if *verb == Verb::List => write!(f, "list leases in {namespace}"),
            LEASES => write!(f, "{verb} lease {namespace}/{name}"),
            REVIEWS => write!(f, "ask what is allowed on secret {namespace}/{name}"),
            "serviceaccounts/token" => {
                write!(f, "{verb} a token of service account {namespace}/{name}")
            }
            other => write!(f, "{verb} {other} {namespace}/{name}"),
        }
    }
}

/// A successful answer. No Debug, because it may contain secrets.
pub(crate) struct ApiAnswer {
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl ApiAnswer {
    /// The answer as JSON. The parser's message is not used: it may quote a value.
    pub(crate) fn parse<T: DeserializeOwned>(&self, call: &ApiCall<'_>) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            call.malformed(&format!(
                "it is not the expected JSON (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }
}

/// Text of an answer that is wiped when it is no longer needed.
#[derive(Deserialize)]
#[serde(from = "String")]
pub(crate) struct WipedText(pub(super) SecretString);

impl From<String> for WipedText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl WipedText {
    /// The bytes of a value of a Secret's `data`.
    pub(crate) fn decode(&self) -> Option<SecretSlice<u8>> {
        let bytes = BASE64.decode(self.0.expose_secret().as_bytes()).ok()?;
        Some(SecretSlice::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_addresses_the_object_or_for_create_its_collection() {
        let mut patch = ApiCall::secret(Verb::Patch, "default", "warehouse-token");
        patch.query = vec![
            ("fieldManager", "evertoken/a job/1".into()),
            ("force", "true".into()),
        ];
        let mut token = ApiCall::secret(Verb::Create, "kube-system", "builder");
        token.resource = "serviceaccounts/token";
        let mut list = ApiCall::secret(Verb::List, "ns", "");
        list.query = vec![("labelSelector", "a/b=c".into()), ("limit", "500".into())];
        for (call, path, text) in [
            (
                list,
                "/api/v1/namespaces/ns/secrets?labelSelector=a%2Fb%3Dc&limit=500",
                "list secrets in ns",
            ),
            (
                ApiCall::secret(Verb::Delete, "ns", "s"),
                "/api/v1/namespaces/ns/secrets/s",
                "delete secret ns/s",
            ),
            (
                ApiCall::secret(Verb::Get, "ns", "s"),
                "/api/v1/namespaces/ns/secrets/s",
                "get secret ns/s",
            ),
            (
                ApiCall::secret(Verb::Create, "ns", "s"),
                "/api/v1/namespaces/ns/secrets",
                "create secret ns/s",
            ),
            (
                patch,
                "/api/v1/namespaces/default/secrets/warehouse-token?fieldManager=evertoken%2Fa%20job%2F1&force=true",
                "patch secret default/warehouse-token",
            ),
            (
                token,
                "/api/v1/namespaces/kube-system/serviceaccounts/builder/token",
                "create a token of service account kube-system/builder",
            ),
            (
                ApiCall::secret(Verb::Get, "ns", "../../nodes"),
                "/api/v1/namespaces/ns/secrets/..%2F..%2Fnodes",
                "get secret ns/../../nodes",
            ),
            (
                ApiCall::lease(Verb::Update, "ns", "ever-shard-0"),
                "/apis/coordination.k8s.io/v1/namespaces/ns/leases/ever-shard-0",
                "update lease ns/ever-shard-0",
            ),
            (
                ApiCall::lease(Verb::Create, "ns", "ever-shard-0"),
                "/apis/coordination.k8s.io/v1/namespaces/ns/leases",
                "create lease ns/ever-shard-0",
            ),
            (
                ApiCall::lease(Verb::List, "ns", ""),
                "/apis/coordination.k8s.io/v1/namespaces/ns/leases",
                "list leases in ns",
            ),
        ] {
            assert_eq!(call.request().unwrap().uri().to_string(), path);
            assert_eq!(call.to_string(), text);
        }
    }
}
