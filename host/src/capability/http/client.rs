//! The pool of HTTP clients: one per trust, client certificate, proxy and address policy, shared by all jobs that have these in
//! common, and rebuilt when a file changes.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Client;
use tokio::sync::OnceCell;

use super::connect::TakeOut;
use super::proxy::Proxy;
use super::recipe::{CONNECT_TIMEOUT, Recipe, Trust, USER_AGENT};
use super::resolve::{Guarded, Lookup, system_lookup};
use super::tls::{self, TlsFile};
use crate::file::{self, Stamp};
use crate::model::failure::{Failure, FailureKind, HostCode};

/// Clients kept. Each holds its own trusted certificates, up to a megabyte; most processes need one or two.
const MAX_CLIENTS: usize = 64;

/// The certificate directory of most systems.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs";

/// One client and the metadata of its files when it was built.
struct Kept {
    stamps: Vec<Option<Stamp>>,
    client: Arc<OnceCell<Client>>,
    last_used: u64,
}

/// The clients of a process.
pub(crate) struct Clients {
    lookup: Lookup,
    kept: Mutex<HashMap<Recipe, Kept>>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self::new(system_lookup())
    }
}

impl Clients {
    /// Clients that resolve names with `lookup`.
    #[must_use]
    pub(crate) fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            kept: Mutex::default(),
        }
    }

    /// The client for `recipe`, built if there is none or a file has changed. Concurrent callers wait for one build.
    ///
    /// # Errors
    /// `tls.ca-file`, `tls.cert-file`, `tls.key-file`, `http.tls` if there are no trusted certificates, `http.proxy`. A failure
    /// is not cached: the next request tries again.
    pub(crate) async fn get(&self, recipe: &Recipe) -> Result<Client, Failure> {
        let files: Vec<PathBuf> = recipe.files().map(Path::to_owned).collect();
        let first = files.first().cloned();
        let stamps = match &first {
            None => Vec::new(),
            Some(first) => {
                aside(first, move || {
                    files.iter().map(|file| Stamp::of(file)).collect()
                })
                .await?
            }
        };
        let cell = self.cell(recipe, stamps);
        let client = cell
            .get_or_try_init(|| async {
                let (recipe, lookup) = (recipe.clone(), Arc::clone(&self.lookup));
                let place = first.as_deref().unwrap_or(Path::new(SYSTEM_CERTIFICATES));
                aside(place, move || build(&recipe, lookup)).await?
            })
            .await?;
        Ok(client.clone())
    }

    fn cell(&self, recipe: &Recipe, stamps: Vec<Option<Stamp>>) -> Arc<OnceCell<Client>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = kept.values().map(|kept| kept.last_used).max().unwrap_or(0) + 1;
        if let Some(known) = kept.get_mut(recipe)
            && known.stamps == stamps
        {
            known.last_used = now;
            return Arc::clone(&known.client);
        }
        if kept.len() >= MAX_CLIENTS && !kept.contains_key(recipe) {
            let oldest = kept
                .iter()
                .min_by_key(|(_, kept)| kept.last_used)
                .map(|(recipe, _)| recipe.clone());
            if let Some(oldest) = oldest {
                kept.remove(&oldest);
            }
        }
        let client = Arc::new(OnceCell::new());
        kept.insert(
            recipe.clone(),
            Kept {
                stamps,
                client: Arc::clone(&client),
                last_used: now,
            },
        );
        client
    }
}

/// Reading files and the system's certificates takes milliseconds to seconds: too long for an async thread.
async fn aside<T: Send + 'static>(
    first: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    file::aside(first, work).await.map_err(|why| {
        let message = format!("cannot read {}: {why}", first.display());
        Failure::new(FailureKind::Unavailable, HostCode::HttpClient, message)
    })
}

fn build(recipe: &Recipe, lookup: Lookup) -> Result<Client, Failure> {
    let resolver = Guarded::new(
        lookup,
        recipe.allow_addresses.clone(),
        recipe.proxy.is_some(),
    );
    let mut builder = Client::builder()
        .connector_layer(TakeOut)
        .http1_only()
        .user_agent(USER_AGENT)
        .dns_resolver(Arc::new(resolver))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(0);
    if let Some(proxy) = &recipe.proxy {
        builder = builder.proxy(through(proxy)?);
    }
    let builder = tls::with_files(builder, recipe)?;
    builder.build().map_err(|error| unbuildable(recipe, &error))
}

fn through(proxy: &Proxy) -> Result<reqwest::Proxy, Failure> {
    let made = reqwest::Proxy::all(proxy.uri.to_string()).map_err(|_| {
        Failure::new(
            FailureKind::InvalidConfig,
            HostCode::HttpProxy,
            format!("`{}` is no proxy; write `http://host:port`", proxy.uri),
        )
    })?;
    Ok(match &proxy.authorization {
        Some(authorization) => made.custom_http_auth(authorization.clone()),
        None => made,
    })
}

/// Why a client cannot be built: there are no trusted certificates, or certificate and key do not match.
fn unbuildable(recipe: &Recipe, error: &reqwest::Error) -> Failure {
    let inconsistent = super::error::find::<rustls::Error>(error)
        .is_some_and(|error| matches!(error, rustls::Error::InconsistentKeys(_)));
    let cause = super::error::innermost(error);
    match (&recipe.identity, &recipe.trust) {
        (Some((certificate, key)), _) if inconsistent => {
            TlsFile::Key.failure(key, tls::another_key(certificate))
        }
        (_, Trust::File(file)) => TlsFile::Ca.failure(file, cause),
        (Some((_, key)), Trust::Nobody) => TlsFile::Key.failure(key, cause),
        (_, Trust::System | Trust::Nobody) => Failure::new(
            FailureKind::InvalidConfig,
            HostCode::HttpTls,
            format!(
                "TLS cannot be set up: {cause}; install the system's CA certificates or set `source.tls.ca_file`"
            ),
        ),
    }
}
