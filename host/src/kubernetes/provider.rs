//! Implements the port of capabilities to a cluster: secrets of jobs from Secrets and TokenRequests.

use std::time::Duration;

use futures_core::future::BoxFuture;
use secrecy::{SecretSlice, SecretString};

use super::Kubernetes;
use crate::capability;
use crate::model::failure::Failure;

impl capability::ClusterSecrets for Kubernetes {
    fn get_secret_key<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<SecretSlice<u8>, Failure>> {
        Box::pin(self.secret_key(namespace, name, key))
    }

    fn request_token<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        audiences: &'a [String],
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<SecretString, Failure>> {
        Box::pin(async move {
            let token = self
                .service_account_token(namespace, name, audiences, lifetime)
                .await?;
            Ok(token.value)
        })
    }
}
