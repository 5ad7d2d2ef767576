//! One plugin call without network, as the process makes thousands of them: a fresh instance, the call, everything dropped.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that cannot start has nothing better to do than to stop"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use evertoken::capability::{Call, Host, Network, Settings, process_environment};
use evertoken::config::defaults::plugin_limits;
use evertoken::config::model::{
    Job, JobId, RetryUnanswered, Scope, Secret, SecretOrigin, Source, Tls,
};
use evertoken::plugin::{CacheSettings, Compiler, Plugins};
use evertoken::refresh::Policy;
use evertoken::state::Store;
use evertoken::time::SystemClock;
use evertoken::token::{Expiry, NamedToken, Token};
use secrecy::SecretString;
use serde_json::{Value, json};

fn secret() -> Secret {
    Secret {
        origin: SecretOrigin::Value(SecretString::from("a-client-secret")),
        rotating: false,
        retry_unanswered: RetryUnanswered::default(),
        write_back: false,
        to: None,
    }
}

fn job(plugin: &str, config: Value) -> Arc<Job> {
    Arc::new(Job {
        id: JobId::file("warehouse"),
        scope: Scope::Administrator,
        source: Source {
            plugin: plugin.to_owned(),
            config,
            secrets: BTreeMap::from([("client_secret".to_owned(), secret())]),
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
    })
}

fn call(job: &Arc<Job>) -> Call {
    let host = Host::new(Settings {
        limits: plugin_limits(),
        keeper: Arc::new(Store::memory().unwrap()),
        kubernetes: None,
        home: None,
        transport: Arc::new(Network::new(Arc::new(SystemClock))),
        clock: Arc::new(SystemClock),
        environment: process_environment(),
    });
    host.call(job, &[])
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
    let failure = runtime
        .block_on(plugins.acquire(&oauth2, &to_network, 0, None))
        .unwrap_err();
    let failure = failure.failure();
    assert_eq!(
        failure.code.as_deref(),
        Some("http.origin-denied"),
        "{failure}"
    );
    criterion.bench_function("oauth2 up to the network", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            black_box(
                plugins
                    .acquire(&oauth2, &to_network, 0, None)
                    .await
                    .is_err(),
            )
        });
    });

    let dummy = job("dummy", json!({"lifetime": "1h"}));
    let to_token = call(&dummy);
    runtime
        .block_on(plugins.acquire(&dummy, &to_token, 0, None))
        .unwrap();
    criterion.bench_function("dummy to a token", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(async || plugins.acquire(&dummy, &to_token, 0, None).await.is_ok());
    });

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
    criterion.bench_function("template of one token", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            black_box(
                plugins
                    .format("template", &tokens, &config)
                    .await
                    .unwrap()
                    .len(),
            )
        });
    });
}

criterion_group!(benches, plugin_call);
criterion_main!(benches);
