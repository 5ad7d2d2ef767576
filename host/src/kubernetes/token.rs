//! Tokens of ServiceAccounts by TokenRequest (authentication.k8s.io/v1).

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::call::WipedText;
use super::{ApiCall, Kubernetes, Verb, parse_time};
use crate::model::failure::Failure;
use crate::model::time::Timestamp;

/// The lifetime that the kubelet requests for every Pod. The API server takes a request for exactly this one for the kubelet's
/// and may issue a token that lasts for a year (`--service-account-extend-token-expiration`).
const KUBELET_LIFETIME: Duration = Duration::from_secs(3607);

/// A token of a ServiceAccount.
#[derive(Debug, Clone)]
pub struct ServiceAccountToken {
    /// The JWT.
    pub value: SecretString,
    /// When it expires, by the API server.
    pub expires_at: Timestamp,
}

impl Kubernetes {
    /// Requests a token: one POST. Without audiences it is for the API server itself. The server may shorten the lifetime; it
    /// refuses less than 600 s.
    ///
    /// # Errors
    /// The ServiceAccount does not exist; the API server refuses, with the verb to grant.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        service_account: &str,
        audiences: &[String],
        lifetime: Duration,
    ) -> Result<ServiceAccountToken, Failure> {
        #[derive(Deserialize)]
        struct TokenRequest {
            status: TokenRequestStatus,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct TokenRequestStatus {
            token: WipedText,
            expiration_timestamp: String,
        }
        let mut call = ApiCall::secret(Verb::Create, namespace, service_account);
        call.resource = "serviceaccounts/token";
        call.body = Zeroizing::new(request(audiences, lifetime).to_string().into_bytes());
        let TokenRequest { status } = self.send(&call).await?.parse(&call)?;
        let expires_at = parse_time(&status.expiration_timestamp)
            .ok_or_else(|| call.malformed("its expirationTimestamp is no time"))?;
        Ok(ServiceAccountToken {
            value: status.token.0,
            expires_at,
        })
    }
}

fn request(audiences: &[String], lifetime: Duration) -> serde_json::Value {
    let seconds = match lifetime.as_secs() {
        seconds if seconds == KUBELET_LIFETIME.as_secs() => seconds - 1,
        seconds => seconds,
    };
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": audiences, "expirationSeconds": seconds},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_lifetime_is_never_asked_for() {
        for (asked, sent) in [(600, 600), (3606, 3606), (3607, 3606), (3608, 3608)] {
            let body = request(&["a".to_owned()], Duration::from_secs(asked));
            assert_eq!(body["spec"]["expirationSeconds"], sent);
        }
    }
}
