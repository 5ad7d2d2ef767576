//! The runner's ports in a real process: sources and formats by plugins, outputs by sinks. Plugins and sinks are behind traits of their own,
//! so that the simulator runs this module on models of them.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use futures_core::future::BoxFuture;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::ports::{
    self, AcquireContext, Acquirer, ConcurrencyKey, Issuer, JobToken, OutputOwner, Part, Published,
    Publisher, Write, WriteOutcome,
};
use super::source_hash::place;
use crate::capability::chain::{ChainState, PluginId};
use crate::capability::{self, Acquired, NotAcquired, TokenSource, Unsuccessful};
use crate::file::Stamp;
use crate::model::Origin;
use crate::model::failure::Failure;
use crate::model::time::Timestamp;
use crate::model::token::{Artifact, KeptToken, NamedToken, Token, jwt};
use crate::model::{Destination, Format, Job, JobId, Output, SecretOrigin, Source};
use crate::output::{Outputs, Publication, Withdrawn, Written, shared_owner};
use crate::plugin::{PluginWorld, Plugins, SourcePlugin};
use crate::refresh::lifetime;
use crate::refresh::output::Purpose;

/// The plugins that jobs use: [`Plugins`], or models of them.
pub trait Components: fmt::Debug + Send + Sync {
    /// Whether a plugin, of a source or a format, can be called without loading it first.
    fn is_loaded(&self, plugin: &str) -> bool;

    /// Loads a plugin, which may take minutes, and judges these options of jobs by its schema, so that [`Self::endpoints`] knows them. What
    /// cannot be loaded or judged is said by the calls that need it.
    fn load<'a>(
        &'a self,
        plugin: &'a str,
        configs: Vec<&'a serde_json::Value>,
    ) -> BoxFuture<'a, ()>;

    /// Whether these options were judged.
    fn is_judged(&self, plugin: &str, config: &serde_json::Value) -> bool;

    /// The origins of the endpoints in these options; none: they were not judged so far, or are wrong.
    fn endpoints(&self, plugin: &str, config: &serde_json::Value) -> Option<Arc<[Origin]>>;

    /// The plugin of a job's source, for one call.
    ///
    /// # Errors
    /// It cannot be loaded, or is no source.
    fn source<'a>(
        &'a self,
        job: &'a Job,
        context: AcquireContext,
    ) -> BoxFuture<'a, Result<Box<dyn TokenSource + 'a>, Failure>>;

    /// What a format makes of tokens.
    ///
    /// # Errors
    /// The formatter's own, or what ended its call.
    fn format<'a>(
        &'a self,
        format: &'a Format,
        tokens: &'a [NamedToken],
    ) -> BoxFuture<'a, Result<Vec<Artifact>, Failure>>;
}

/// Where outputs are written: [`Outputs`], or a model of them.
pub trait Sinks: fmt::Debug + Send + Sync {
    /// Writes a publication unless it is known to be there; with `verify`, makes sure of that.
    ///
    /// # Errors
    /// What the destination refuses; it holds its old content then.
    fn write<'a>(
        &'a self,
        destination: &'a Destination,
        publication: Publication<'a>,
        verify: bool,
    ) -> BoxFuture<'a, Result<Written, Failure>>;

    /// Deletes a publication if it is still there.
    ///
    /// # Errors
    /// What the destination refuses.
    fn withdraw<'a>(
        &'a self,
        destination: &'a Destination,
        publication: Publication<'a>,
    ) -> BoxFuture<'a, Result<Withdrawn, Failure>>;
}

/// Implements the runner's ports by plugins, capabilities and sinks.
#[derive(Debug)]
pub struct Live {
    plugins: Arc<dyn Components>,
    capabilities: capability::Host,
    outputs: Arc<dyn Sinks>,
    /// Tells values in the configuration from each other, in this process only.
    values: RandomState,
}

impl Live {
    /// The ports made of these.
    #[must_use]
    pub fn new(
        plugins: Arc<dyn Components>,
        capabilities: capability::Host,
        outputs: Arc<dyn Sinks>,
    ) -> Self {
        Self {
            plugins,
            capabilities,
            outputs,
            values: RandomState::new(),
        }
    }

    /// The origin of the first endpoint in a job's options; where the plugin's schema has none, all origins that the job allows: nobody
    /// knows which of them it asks. None: the job may not reach any, or its options are wrong or were not judged yet.
    fn origin(&self, job: &Job) -> Option<Arc<str>> {
        let Source {
            plugin,
            config,
            allow,
            ..
        } = &job.source;
        let endpoints = self.plugins.endpoints(plugin, config)?;
        if let Some(first) = endpoints.first() {
            return Some(first.to_string().into());
        }
        let allowed: Vec<String> = allow.iter().map(Origin::to_string).collect();
        (!allowed.is_empty()).then(|| allowed.join(" or ").into())
    }

    /// What an output gets.
    async fn artifacts(&self, write: &Write) -> Result<Vec<Artifact>, Failure> {
        match &write.output.format {
            Some(format) => self.plugins.format(format, &named(&write.tokens)).await,
            // Without a format an output has one job: configuration sees to it.
            None => {
                let token = write.tokens.first();
                let artifact = token.map(|token| Artifact::bare(&token.kept.token));
                Ok(artifact.into_iter().collect())
            }
        }
    }

    /// What an output gets, and what of it expires before its token.
    async fn content(&self, write: &Write) -> Result<(Vec<Artifact>, Vec<Part>), Failure> {
        let artifacts = self.artifacts(write).await?;
        let mut parts = Vec::new();
        let Some(format) = &write.output.format else {
            return Ok((artifacts, parts));
        };
        let tokens = named(&write.tokens);
        for (index, JobToken { job, kept }) in write.tokens.iter().enumerate() {
            for (field, expires_at) in fields_that_expire_first(kept) {
                if self
                    .is_used(format, &tokens, (index, field), &artifacts)
                    .await
                {
                    parts.push(Part {
                        job: job.clone(),
                        obtained_at: kept.obtained_at,
                        expires_at,
                    });
                    break;
                }
            }
        }
        Ok((artifacts, parts))
    }

    /// Whether what an output gets depends on a field of one of its tokens. A formatter is a function of what it is given, so it shows
    /// without the field, whatever it makes of it.
    async fn is_used(
        &self,
        format: &Format,
        tokens: &[NamedToken],
        (index, field): (usize, &str),
        artifacts: &[Artifact],
    ) -> bool {
        let mut without = tokens.to_vec();
        if let Some(named) = without.get_mut(index) {
            named.token.fields.retain(|other| other.name != field);
        }
        let made = self.plugins.format(format, &without).await;
        made.map_or(true, |made| made != artifacts)
    }
}

/// An answer has one such field or two; beyond this an issuer plays games, and what expires later than so many others is let be.
const FIELDS_LOOKED_AT: usize = 8;

/// The fields that are JWTs and expire before their token, the first to expire first.
fn fields_that_expire_first(kept: &KeptToken) -> Vec<(&str, Timestamp)> {
    let fields = kept.token.fields.iter().filter_map(|field| {
        let claims = jwt::read(field.value.expose_secret())?;
        let expires_at = lifetime::part_expires_at(kept.obtained_at, &claims)?;
        let is_first = kept.expires_at.is_none_or(|token| expires_at < token);
        is_first.then_some((field.name.as_str(), expires_at))
    });
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by_key(|(_, expires_at)| *expires_at);
    fields.truncate(FIELDS_LOOKED_AT);
    fields
}

impl Acquirer for Live {
    fn concurrency_key(&self, job: &Job) -> ConcurrencyKey {
        let concurrency_key = self
            .origin(job)
            .map_or(ConcurrencyKey::Local, ConcurrencyKey::Remote);
        concurrency_key.behind(&job.source.plugin)
    }

    fn issuer(&self, job: &Job) -> Option<Issuer> {
        Some(Issuer {
            origin: self.origin(job)?,
            client: client(job, &self.values),
        })
    }

    fn is_loaded(&self, plugin: &str) -> bool {
        self.plugins.is_loaded(plugin)
    }

    fn is_judged(&self, job: &Job) -> bool {
        self.plugins
            .is_judged(&job.source.plugin, &job.source.config)
    }

    fn load_plugin<'a>(&'a self, plugin: &'a str, jobs: &'a [Arc<Job>]) -> BoxFuture<'a, ()> {
        let configs = jobs.iter().map(|job| &job.source.config);
        self.plugins.load(plugin, configs.collect())
    }

    fn secrets<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Option<[u8; 32]>> {
        Box::pin(async move {
            let mut hash = Sha256::new_with_prefix(self.capabilities.given_secrets(job).await?);
            let certificate = [&job.source.tls.cert_file, &job.source.tls.key_file];
            for path in certificate.into_iter().flatten() {
                let metadata = tokio::fs::metadata(path).await;
                let stamp = metadata.map(|file| Stamp::from(&file));
                hash.update(format!("{:?}", stamp.map_err(|why| why.kind())));
            }
            Some(hash.finalize().into())
        })
    }

    fn chain_state(&self, job: &Job) -> Option<ChainState> {
        self.capabilities.chain_state(&job.id)
    }

    fn look_at_chains<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, ()> {
        Box::pin(self.capabilities.look_at_chains(job))
    }

    fn acquire<'a>(
        &'a self,
        job: &'a Arc<Job>,
        call: AcquireContext,
    ) -> BoxFuture<'a, Result<Acquired, NotAcquired>> {
        Box::pin(async move {
            let source = self.plugins.source(job, call).await?;
            self.capabilities.acquire(job, &*source).await
        })
    }
}

impl Components for Plugins {
    fn is_loaded(&self, plugin: &str) -> bool {
        self.is_loaded(plugin)
    }

    fn is_judged(&self, plugin: &str, config: &serde_json::Value) -> bool {
        self.is_judged(plugin, config)
    }

    fn load<'a>(
        &'a self,
        plugin: &'a str,
        configs: Vec<&'a serde_json::Value>,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let is_new = |config: &&serde_json::Value| !self.is_judged(plugin, config);
            let configs: Vec<_> = configs.into_iter().filter(is_new).collect();
            if self.prepare(plugin).await.is_ok() && !configs.is_empty() {
                let judged = self.check_configs(plugin, PluginWorld::Source, &configs);
                judged.await.map_or_else(drop, drop);
            }
        })
    }

    fn endpoints(&self, plugin: &str, config: &serde_json::Value) -> Option<Arc<[Origin]>> {
        self.endpoints_at_hand(plugin, config)
    }

    fn source<'a>(
        &'a self,
        job: &'a Job,
        context: AcquireContext,
    ) -> BoxFuture<'a, Result<Box<dyn TokenSource + 'a>, Failure>> {
        Box::pin(async move {
            let name = &*job.source.plugin;
            let plugin = self.source(name).await?;
            let component = Component {
                name,
                plugin,
                context,
            };
            Ok(Box::new(component) as Box<dyn TokenSource>)
        })
    }

    fn format<'a>(
        &'a self,
        format: &'a Format,
        tokens: &'a [NamedToken],
    ) -> BoxFuture<'a, Result<Vec<Artifact>, Failure>> {
        Box::pin(self.format(&format.plugin, tokens, &format.config))
    }
}

impl Sinks for Outputs {
    fn write<'a>(
        &'a self,
        destination: &'a Destination,
        publication: Publication<'a>,
        verify: bool,
    ) -> BoxFuture<'a, Result<Written, Failure>> {
        Box::pin(async move { self.write(destination, &publication, verify).await })
    }

    fn withdraw<'a>(
        &'a self,
        destination: &'a Destination,
        publication: Publication<'a>,
    ) -> BoxFuture<'a, Result<Withdrawn, Failure>> {
        Box::pin(async move { self.withdraw(destination, &publication).await })
    }
}

/// A source plugin in one call.
struct Component<'a> {
    name: &'a str,
    plugin: SourcePlugin,
    context: AcquireContext,
}

impl TokenSource for Component<'_> {
    fn plugin(&self) -> PluginId {
        let info = self.plugin.info();
        PluginId {
            name: self.name.to_owned(),
            digest: info.digest.0,
            interface: info.interface_version.clone(),
        }
    }

    fn endpoints<'a>(
        &'a self,
        config: &'a serde_json::Value,
    ) -> BoxFuture<'a, Result<Arc<[Origin]>, Failure>> {
        Box::pin(self.plugin.endpoints(config))
    }

    fn acquire<'a>(
        &'a self,
        job: &'a Job,
        call: &'a capability::Call,
    ) -> BoxFuture<'a, Result<Token, Unsuccessful>> {
        let AcquireContext {
            attempt,
            previous_expires_at,
        } = self.context;
        Box::pin(self.plugin.acquire(job, call, attempt, previous_expires_at))
    }
}

impl Publisher for Live {
    fn concurrency_key(&self, output: &Output) -> ConcurrencyKey {
        let concurrency_key = if output.destination.is_in_cluster() {
            ports::cluster()
        } else {
            ConcurrencyKey::Local
        };
        match &output.format {
            Some(format) => concurrency_key.behind(&format.plugin),
            None => concurrency_key,
        }
    }

    fn publish<'a>(&'a self, write: &'a Write) -> BoxFuture<'a, Result<Published, Failure>> {
        Box::pin(async move {
            let (artifacts, parts) = self.content(write).await?;
            let shared = shared_owner();
            let publication = publication(write, &shared, &artifacts, &parts);
            let verify = write.purpose == Purpose::Verify;
            let destination = &write.output.destination;
            let written = self.outputs.write(destination, publication, verify);
            let change = match written.await? {
                Written::Changed if verify => WriteOutcome::PutRight,
                Written::Changed => WriteOutcome::Written,
                Written::Unchanged => WriteOutcome::Unchanged,
            };
            Ok(Published { change, parts })
        })
    }

    fn withdraw<'a>(&'a self, write: &'a Write) -> BoxFuture<'a, Result<Withdrawn, Failure>> {
        Box::pin(async move {
            let artifacts = self.artifacts(write).await?;
            let shared = shared_owner();
            let publication = publication(write, &shared, &artifacts, &[]);
            self.outputs
                .withdraw(&write.output.destination, publication)
                .await
        })
    }
}

/// `shared`: the owner of shared outputs.
fn publication<'a>(
    write: &'a Write,
    shared: &'a JobId,
    artifacts: &'a [Artifact],
    parts: &[Part],
) -> Publication<'a> {
    let of_tokens = write.tokens.iter();
    let of_tokens = of_tokens.filter_map(|token| token.kept.expires_at);
    Publication {
        job: match &write.owner {
            OutputOwner::Job(job) => job,
            OutputOwner::Shared => shared,
        },
        output_index: write.index,
        artifacts,
        next_refresh: write.next_refresh,
        expires_at: of_tokens
            .chain(parts.iter().map(|part| part.expires_at))
            .min(),
    }
}

/// These tokens as formatters get them.
fn named(tokens: &[JobToken]) -> Vec<NamedToken> {
    let named = tokens.iter().map(|token| NamedToken {
        job: token.job.name.clone(),
        token: token.kept.for_consumers(),
    });
    named.collect()
}

/// Digest of what distinguishes the clients of one issuer: where a job's secrets and client certificate come from, the `client_id` of the
/// options if there is one, and the plugin, whose answers about an issuer count for its own jobs only. The values of secrets are not part
/// of it, since the scheduler must not wait for them to be read; those in the configuration itself are at hand, and are hashed with a key
/// that this process alone has. A rotating secret identifies a grant and no client.
fn client(job: &Job, values: &RandomState) -> [u8; 32] {
    let source = &job.source;
    let secrets = source.secrets.values().filter(|secret| !secret.rotating);
    let places: BTreeSet<String> = secrets
        .map(|secret| match &secret.origin {
            SecretOrigin::Value(value) => {
                format!("value {:x}", values.hash_one(value.expose()))
            }
            origin => place(origin).to_string(),
        })
        .collect();
    let client_id = source.config.get("client_id");
    let client_id = client_id.and_then(serde_json::Value::as_str);
    let certificate = [&source.tls.cert_file, &source.tls.key_file];
    digest(
        certificate
            .map(|path| format!("{path:?}"))
            .into_iter()
            .chain([format!("{client_id:?}"), source.plugin.clone()])
            .chain(places),
    )
}

/// Digest of a list of texts; no two lists run together.
fn digest(parts: impl IntoIterator<Item = String>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use secrecy::SecretString;

    use super::*;
    use crate::capability::testing::{Fixture, Server};
    use crate::kubernetes::Kubernetes;
    use crate::model::defaults::plugin_limits;
    use crate::model::{RetryUnanswered, Secret};
    use crate::plugin::{CacheSettings, Compiler};
    use crate::runner::tests::world::job;

    fn with(client_id: Option<&str>, secrets: &[(&str, SecretOrigin, bool)]) -> Job {
        let mut job = job("a");
        if let Some(client_id) = client_id {
            job.source.config = serde_json::json!({"client_id": client_id, "scope": [client_id]});
        }
        for (name, origin, rotating) in secrets {
            let secret = Secret {
                origin: origin.clone(),
                rotating: *rotating,
                retry_unanswered: RetryUnanswered::default(),
                write_back: false,
                to: None,
            };
            job.source.secrets.insert((*name).to_owned(), secret);
        }
        job
    }

    #[test]
    fn jobs_are_one_client_if_plugin_client_id_and_the_places_of_their_lasting_secrets_are_the_same()
     {
        let values = RandomState::new();
        let file = |path: &str| SecretOrigin::File(path.into());
        let of_file = |path| with(Some("svc"), &[("client_secret", file(path), false)]);
        let rotating = |path| with(Some("svc"), &[("refresh_token", file(path), true)]);
        let value = |value: &str| SecretOrigin::Value(SecretString::from(value).into());
        let of_value = |text| with(Some("svc"), &[("client_secret", value(text), false)]);
        let mut scoped = of_file("/a");
        scoped.source.config["scope"] = serde_json::json!(["other"]);
        let mut with_certificate = of_file("/a");
        with_certificate.source.tls.cert_file = Some("/cert".into());
        let mut of_another_plugin = of_file("/a");
        of_another_plugin.source.plugin = "acme".to_owned();
        for (a, b, is_same, what) in [
            (of_file("/a"), of_file("/a"), true, "the same"),
            (of_file("/a"), scoped, true, "another scope"),
            (of_file("/a"), of_another_plugin, false, "another plugin"),
            (of_file("/a"), of_file("/b"), false, "another secret"),
            (of_value("a"), of_value("a"), true, "the same value"),
            (of_value("a"), of_value("b"), false, "another value"),
            (
                of_file("/a"),
                with_certificate,
                false,
                "a client certificate",
            ),
            (rotating("/a"), rotating("/b"), true, "another grant"),
            (rotating("/a"), of_file("/a"), false, "a public client"),
            (
                with(Some("a"), &[]),
                with(Some("b"), &[]),
                false,
                "another client_id",
            ),
            (
                with(None, &[]),
                with(None, &[]),
                true,
                "nothing tells them apart",
            ),
        ] {
            let is_one = client(&a, &values) == client(&b, &values);
            assert_eq!(is_one, is_same, "{what}");
        }
    }

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
    async fn a_source_asks_its_first_endpoint_or_else_one_of_the_origins_that_its_job_allows() {
        let cache = tempfile::tempdir().unwrap();
        let plugins = cold(&cache);
        let live = live(plugins.clone(), Fixture::new().host());
        let (idp, other) = ("https://idp.example.org", "https://other.example.org");
        let options = serde_json::json!({
            "grant": "client_credentials",
            "token_url": format!("{idp}/token"),
            "client_id": "svc",
        });
        let table: [(&str, &[&str], Option<&str>, &str); 6] = [
            ("oauth2", &[], Some(idp), "an endpoint"),
            ("oauth2", &[other], Some(idp), "an endpoint goes first"),
            (
                "mirror",
                &[other, idp],
                Some("https://other.example.org or https://idp.example.org"),
                "no endpoint",
            ),
            ("dummy", &[other], Some(other), "nor in another plugin"),
            ("mirror", &[], None, "nobody to ask"),
            ("unheard-of", &[other], None, "no plugin"),
        ];
        for (plugin, allow, expected, what) in table {
            let mut job = job("a");
            job.source.plugin = plugin.to_owned();
            job.source.config = match plugin {
                "oauth2" => options.clone(),
                _ => serde_json::json!({}),
            };
            job.source.allow = allow.iter().map(|it| Origin::parse(it).unwrap()).collect();
            let known = plugins.endpoints(plugin, &job.source.config).await;
            assert_eq!(known.is_ok(), plugin != "unheard-of", "{what}");
            let issuer = live.issuer(&job).map(|issuer| issuer.origin);
            assert_eq!(issuer.as_deref(), expected, "{what}");
            let concurrency_key = ConcurrencyKey::Plugin {
                name: plugin.into(),
                remote: expected.map(Into::into),
            };
            assert_eq!(
                Acquirer::concurrency_key(&live, &job),
                concurrency_key,
                "{what}"
            );
        }
    }

    fn live(plugins: Plugins, capabilities: capability::Host) -> Live {
        let outputs = Outputs::new(Arc::new(Kubernetes::new()), Arc::default());
        Live::new(Arc::new(plugins), capabilities, Arc::new(outputs))
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
        let live = live(cold(&caches[1]), fixture.host());
        let call = AcquireContext {
            attempt: 0,
            previous_expires_at: None,
        };
        let obtained = live
            .acquire(&Arc::new(fixture.job), call)
            .await
            .unwrap_or_else(|failure| panic!("compiled in {compiling:?}: {}", failure.failure));
        assert_eq!(obtained.token.value.expose_secret(), "fresh");
    }
}
