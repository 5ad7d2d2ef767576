//! One plugin call without network, as the process makes thousands of them: a fresh instance, the call, everything dropped.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that cannot start has nothing better to do than to stop"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use evertoken::capability::{Call, Host, Network, Settings, process_environment};
use evertoken::model::Policy;
use evertoken::model::defaults::plugin_limits;
use evertoken::model::time::SystemClock;
use evertoken::model::token::{Expiry, NamedToken, Token};
use evertoken::model::{Job, JobId, OnRemove, RetryUnanswered, Secret, SecretOrigin, Source, Tls};
use evertoken::plugin::{CacheSettings, Compiler, Plugins};
use evertoken::state::Store;
use secrecy::SecretString;
use serde_json::{Value, json};

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn secret() -> Secret {
    Secret {
        origin: SecretOrigin::Value(SecretString::from("a-client-secret").into()),
        rotating: false,
        retry_unanswered: RetryUnanswered::default(),
        write_back: false,
        to: None,
    }
}

fn job(plugin: &str, config: Value) -> Arc<Job> {
    Arc::new(Job {
        id: JobId::file("warehouse"),
        source: Source {
            plugin: plugin.to_owned(),
            config,
            secrets: [("client_secret".to_owned(), secret())]
                .into_iter()
                .collect(),
            allow: Vec::new(),
            allow_addresses: Vec::new(),
            reveal: BTreeSet::new(),
            tls: Tls::default(),
            proxy: None,
            timeout: Duration::from_secs(30),
        },
        refresh: Policy {
            at: 0.8,
            before_expiry: Duration::from_secs(90),
            every: Duration::from_secs(86_400),
            jitter: Duration::from_secs(10),
            default_lifetime: Duration::from_secs(3600),
        },
        verify: Duration::from_secs(600),
        outputs: Vec::new(),
        on_remove: OnRemove::Keep,
        profile: None,
    })
}

fn call(job: &Arc<Job>) -> Call {
    let host = Host::new(Settings {
        limits: plugin_limits().current(),
        keeper: Arc::new(Store::memory().unwrap()),
        kubernetes: None,
        write_back: None,
        transport: Arc::new(Network::new(Arc::new(SystemClock))),
        clock: Arc::new(SystemClock),
        environment: process_environment(),
    });
    host.call(job, &[])
}

/// Calls of which percentiles are told: with fewer, the 99th would be one call's accident.
const CALLS: usize = 10_000;

/// What criterion does not tell of single calls: the median and the 99th percentile.
#[expect(
    clippy::print_stdout,
    reason = "criterion prints its figures there, and these belong beside them"
)]
fn percentiles(name: &str, runtime: &tokio::runtime::Runtime, mut call: impl AsyncFnMut()) {
    let mut took: Vec<Duration> = runtime.block_on(async {
        let mut took = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let began = Instant::now();
            call().await;
            took.push(began.elapsed());
        }
        took
    });
    took.sort_unstable();
    let at = |share: usize| took.get(CALLS * share / 100).copied().unwrap_or_default();
    println!(
        "{name}: p50 {:?}, p99 {:?} of {CALLS} calls\n",
        at(50),
        at(99)
    );
}

fn plugin_call(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let in_process = CacheSettings {
        compiler: Compiler::InProcess,
        ..CacheSettings::default()
    };
    let plugins = Plugins::new(&BTreeMap::new(), plugin_limits(), in_process).unwrap();

    // The whole way to the network, where the host refuses the request: nobody told it that this is an endpoint. The configuration is
    // parsed, the secret opened and spelled, the request made and audited, the failure mapped.
    let oauth2 = job(
        "oauth2",
        json!({
            "grant": "client_credentials",
            "token_url": "https://idp.example.org/token",
            "client_id": "svc",
            "scope": ["read"],
        }),
    );
    let to_network = call(&oauth2);
    let plugin = runtime.block_on(plugins.source("oauth2")).unwrap();
    let failure = runtime
        .block_on(plugin.acquire(&oauth2, &to_network, 0, None))
        .unwrap_err();
    let failure = failure.failure();
    assert_eq!(failure.code(), Some("http.origin-denied"), "{failure}");
    let refused = async || {
        black_box(plugin.acquire(&oauth2, &to_network, 0, None).await.is_err());
    };
    let name = "oauth2 up to the network";
    criterion.bench_function(name, |bencher| bencher.to_async(&runtime).iter(refused));
    percentiles(name, &runtime, refused);

    let dummy = job("dummy", json!({"lifetime": "1h"}));
    let to_token = call(&dummy);
    let plugin = runtime.block_on(plugins.source("dummy")).unwrap();
    runtime
        .block_on(plugin.acquire(&dummy, &to_token, 0, None))
        .unwrap();
    let obtained = async || {
        black_box(plugin.acquire(&dummy, &to_token, 0, None).await.is_ok());
    };
    let name = "dummy to a token";
    criterion.bench_function(name, |bencher| bencher.to_async(&runtime).iter(obtained));
    percentiles(name, &runtime, obtained);

    let tokens = [NamedToken {
        job: "warehouse".to_owned(),
        token: Token {
            value: SecretString::from("t".repeat(2048)),
            token_type: "Bearer".to_owned(),
            expiry: Expiry::Unknown,
            fields: Vec::new(),
        },
    }];
    let config = json!({"template": "oauth2:{{ token }}:auth.example.org/userinfo"});
    // Compiled before the clock runs.
    runtime.block_on(plugins.prepare("template")).unwrap();
    let formatted = async || {
        let artifacts = plugins.format("template", &tokens, &config).await;
        black_box(artifacts.unwrap().len());
    };
    let name = "template of one token";
    criterion.bench_function(name, |bencher| bencher.to_async(&runtime).iter(formatted));
    percentiles(name, &runtime, formatted);
}

criterion_group!(benches, plugin_call);
criterion_main!(benches);
