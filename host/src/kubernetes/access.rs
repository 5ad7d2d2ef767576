//! Access reviews: asks the API server whether it would allow a request, without making it (authorization.k8s.io/v1). Every user
//! may ask that for itself.

use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{ApiCall, Kubernetes, Verb, refusal};
use crate::model::failure::Failure;

/// The resource of a SelfSubjectAccessReview.
pub(super) const REVIEWS: &str = "selfsubjectaccessreviews";

impl Kubernetes {
    /// Asks whether a request would be allowed: one POST.
    ///
    /// # Errors
    /// `kubernetes.forbidden` with the verb to grant; the API server is unavailable or does not answer the question.
    pub(crate) async fn require_access(&self, request: &ApiCall<'_>) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Review {
            status: ReviewStatus,
        }
        #[derive(Deserialize)]
        struct ReviewStatus {
            allowed: bool,
            #[serde(default)]
            reason: String,
        }
        let mut call = ApiCall::secret(Verb::Create, request.namespace, request.name);
        call.resource = REVIEWS;
        call.body = Zeroizing::new(body(request).to_string().into_bytes());
        let Review { status } = self.send(&call).await?.parse(&call)?;
        if status.allowed {
            Ok(())
        } else {
            Err(refusal::denied(request, &status.reason))
        }
    }
}

fn body(request: &ApiCall<'_>) -> serde_json::Value {
    let (resource, subresource) = request
        .resource
        .split_once('/')
        .unwrap_or((request.resource, ""));
    // The authorizer is never given the name of an object that is to be created, nor of objects that are listed.
    let name = match request.verb {
        Verb::Create | Verb::List if subresource.is_empty() => "",
        _ => request.name,
    };
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "namespace": request.namespace,
            "verb": request.verb.to_string(),
            "group": request.group(),
            "resource": resource,
            "subresource": subresource,
            "name": name,
        }},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_asks_what_the_authorizer_would_be_asked() {
        let mut token = ApiCall::secret(Verb::Create, "ns", "builder");
        token.resource = "serviceaccounts/token";
        let lease = ApiCall::lease(Verb::Update, "ns", "l");
        for (request, group, resource, subresource, name) in [
            (
                ApiCall::secret(Verb::Patch, "ns", "s"),
                "",
                "secrets",
                "",
                "s",
            ),
            (
                ApiCall::secret(Verb::Create, "ns", "s"),
                "",
                "secrets",
                "",
                "",
            ),
            (
                ApiCall::secret(Verb::List, "ns", "s"),
                "",
                "secrets",
                "",
                "",
            ),
            (token, "", "serviceaccounts", "token", "builder"),
            (lease, "coordination.k8s.io", "leases", "", "l"),
        ] {
            let attributes = body(&request)["spec"]["resourceAttributes"].clone();
            assert_eq!(attributes["verb"], request.verb.to_string());
            assert_eq!(attributes["namespace"], "ns");
            assert_eq!(attributes["group"], group);
            assert_eq!(attributes["resource"], resource);
            assert_eq!(attributes["subresource"], subresource);
            assert_eq!(attributes["name"], name);
        }
    }
}
