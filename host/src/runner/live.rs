//! The real world behind the runner's ports: plugins with what they may ask for, formats, files and Secrets.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::ports::{self, Acquirer, Call, Change, Lane, Obtained, Owner, Publisher, Write};
use crate::capability::{self, keep::BoxFuture};
use crate::config::model::{Destination, Job, JobId, Output, SecretOrigin};
use crate::failure::{Failure, FailureKind};
use crate::output::{Outputs, Publication, Written};
use crate::plugin::schema::endpoints;
use crate::plugin::{PluginInfo, Plugins};
use crate::refresh::publication::Purpose;
use crate::token::{Artifact, NamedToken};

/// Joins the rooms below the runner.
#[derive(Debug)]
pub struct Live {
    plugins: Plugins,
    capabilities: capability::Host,
    outputs: Outputs,
    /// What is known of the plugins that jobs use: lanes are asked for without waiting.
    known: RwLock<HashMap<String, Arc<PluginInfo>>>,
    /// Cancelled when the process is to end. A write under way is finished then; one that still waits for its formatter is not.
    stop: CancellationToken,
}

impl Live {
    /// The world made of these rooms, until `stop`.
    #[must_use]
    pub fn new(
        plugins: Plugins,
        capabilities: capability::Host,
        outputs: Outputs,
        stop: CancellationToken,
    ) -> Self {
        Self {
            plugins,
            capabilities,
            outputs,
            known: RwLock::default(),
            stop,
        }
    }

    /// Learns what a job's plugin says about itself. A plugin that cannot be read is learned with its first call.
    pub async fn learn(&self, plugin: &str) {
        if self.known(plugin).is_none()
            && let Ok(info) = self.plugins.info(plugin).await
        {
            self.known
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(plugin.to_owned(), info);
        }
    }

    fn known(&self, plugin: &str) -> Option<Arc<PluginInfo>> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(plugin)
            .cloned()
    }

    async fn artifacts(&self, write: &Write) -> Result<Vec<Artifact>, Failure> {
        let tokens = write.tokens.iter().map(|token| NamedToken {
            job: token.job.name.clone(),
            token: token.kept.for_consumers(),
        });
        match (&write.output.format, &write.tokens[..]) {
            (Some(format), _) => {
                self.plugins
                    .format(&format.plugin, &tokens.collect::<Vec<_>>(), &format.config)
                    .await
            }
            // Without a format an output has one job: configuration sees to it.
            (None, tokens) => Ok(tokens
                .first()
                .map(|token| Artifact::bare(&token.kept.token))
                .into_iter()
                .collect()),
        }
    }
}

impl Acquirer for Live {
    fn source_hash(&self, job: &Job) -> [u8; 32] {
        source_hash(job)
    }

    fn lane(&self, job: &Job) -> Lane {
        let origin = self.known(&job.source.plugin).and_then(|info| {
            let endpoints = endpoints(info.schema.as_ref()?, &job.source.config);
            endpoints.into_iter().next()
        });
        origin.map_or(Lane::Local, |origin| {
            Lane::Remote(origin.to_string().into())
        })
    }

    fn secrets<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Option<[u8; 32]>> {
        Box::pin(async move {
            let call = self.capabilities.call(job, &[]);
            let mut hash = Sha256::new();
            for (name, secret) in &job.source.secrets {
                if !may_change(&secret.origin) {
                    continue;
                }
                match call.open(name).await {
                    Ok(value) => hash.update(value.digest()),
                    // Nothing is known of it now.
                    Err(failure) if failure.kind == FailureKind::Unavailable => return None,
                    Err(failure) => {
                        hash.update(Sha256::digest(failure.code.unwrap_or_default()));
                    }
                }
            }
            Some(hash.finalize().into())
        })
    }

    fn acquire<'a>(
        &'a self,
        job: &'a Arc<Job>,
        call: Call,
    ) -> BoxFuture<'a, Result<Obtained, Failure>> {
        Box::pin(async move {
            let source = &job.source;
            let endpoints = self
                .plugins
                .endpoints(&source.plugin, &source.config)
                .await
                .map_err(|error| error.to_failure())?;
            // The call's time begins with its capabilities, and is not for compiling.
            self.plugins
                .prepare(&source.plugin)
                .await
                .map_err(|error| error.to_failure())?;
            self.learn(&source.plugin).await;
            let capabilities = self.capabilities.call(job, &endpoints);
            let began = capabilities.now();
            let token = self
                .plugins
                .acquire(job, &capabilities, call.attempt, call.previous_expires_at)
                .await?;
            Ok(Obtained {
                token,
                obtained_at: capabilities.last_sent_at().unwrap_or(began),
            })
        })
    }
}

impl Publisher for Live {
    fn lane(&self, output: &Output) -> Lane {
        match output.destination {
            Destination::File(_) => Lane::Local,
            Destination::Secret(_) => ports::cluster(),
        }
    }

    fn publish<'a>(&'a self, write: &'a Write) -> BoxFuture<'a, Result<Change, Failure>> {
        Box::pin(async move {
            let artifacts = tokio::select! {
                artifacts = self.artifacts(write) => artifacts?,
                () = self.stop.cancelled() => return Err(Failure::new(FailureKind::Unavailable, "stopping", "the process is stopping")),
            };
            // No job may have this name: a job is named in letters, digits and `.-_`.
            let shared = JobId::file("+shared");
            let publication = Publication {
                job: match &write.owner {
                    Owner::Job(job) => job,
                    Owner::Shared => &shared,
                },
                output_index: write.index,
                artifacts: &artifacts,
                expires_at: write
                    .tokens
                    .iter()
                    .filter_map(|token| token.kept.expires_at)
                    .min(),
            };
            let destination = &write.output.destination;
            let written = if write.purpose == Purpose::Verify {
                self.outputs.verify(destination, &publication).await?
            } else {
                self.outputs.publish(destination, &publication).await?
            };
            Ok(match written {
                Written::Changed => Change::Written,
                Written::Unchanged => Change::Unchanged,
            })
        })
    }
}

/// Digest of what makes a source what it is: the plugin's name, its options, and where its secrets are. Not the plugin's own
/// digest, since a new version of a plugin is no reason to ask ten thousand times at once, and no value of a secret.
fn source_hash(job: &Job) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(job.source.plugin.as_bytes());
    part(job.source.config.to_string().as_bytes());
    for (name, secret) in &job.source.secrets {
        part(name.as_bytes());
        part(place(&secret.origin).as_bytes());
    }
    hash.finalize().into()
}

/// Whether others may change it while this process runs. A requested token is another each time, and another job's token comes with
/// its own news.
const fn may_change(origin: &SecretOrigin) -> bool {
    matches!(
        origin,
        SecretOrigin::File(_) | SecretOrigin::KubernetesSecret { .. }
    )
}

/// Where a secret is, as text that differs when the place does.
fn place(origin: &SecretOrigin) -> String {
    match origin {
        // The value itself stays out: a digest of a short one could be guessed.
        SecretOrigin::Value(_) => "value".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::capability::testing::{Fixture, Server};
    use crate::config::defaults::plugin_limits;
    use crate::kubernetes::Kubernetes;
    use crate::plugin::{CacheSettings, Compiler};

    /// The built-in plugins, not compiled so far.
    fn cold(cache: &tempfile::TempDir) -> Plugins {
        let settings = CacheSettings {
            directory: Some(cache.path().to_owned()),
            prefilled: None,
            compiler: Compiler::InProcess,
        };
        Plugins::new(&BTreeMap::new(), plugin_limits(), settings).unwrap()
    }

    #[tokio::test]
    async fn compiling_takes_no_time_from_the_requests_of_a_call() {
        let caches = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let began = Instant::now();
        cold(&caches[0]).prepare("oauth2").await.unwrap();
        let compiling = began.elapsed();

        let answer = r#"{"access_token":"fresh","token_type":"Bearer","expires_in":300}"#;
        let server = Server::answering(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        ))
        .await;
        let mut fixture = Fixture::new();
        fixture.secret("client_secret", "s");
        fixture.job.source.plugin = "oauth2".to_owned();
        fixture.job.source.config = serde_json::json!({
            "grant": "client_credentials",
            "token_url": server.url("/token"),
            "client_id": "svc",
        });
        fixture.job.source.timeout = compiling / 2;
        let live = Live::new(
            cold(&caches[1]),
            fixture.host(),
            Outputs::new(Arc::new(Kubernetes::new())),
            CancellationToken::new(),
        );
        let call = Call {
            attempt: 0,
            previous_expires_at: None,
        };
        let obtained = live
            .acquire(&Arc::new(fixture.job), call)
            .await
            .unwrap_or_else(|failure| panic!("compiled in {compiling:?}: {failure}"));
        assert_eq!(obtained.token.value.expose_secret(), "fresh");
    }
}
