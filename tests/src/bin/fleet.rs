//! Measures whole processes from outside: resident memory and requests to the API server with 1, 100 and 1,000 jobs, and, where
//! its binary is given, kube-token-refresher's with the one job that it can hold. Then evertoken is restarted with valid stored
//! tokens, to measure how soon it is ready and how many requests that costs.
//!
//! ```console
//! $ cargo build --release -p evertoken
//! $ EVERTOKEN_BIN=target/release/evertoken cargo run --release -p evertoken-tests --bin fleet -- [--ktr BINARY] [--jobs 1,100,1000] [--seconds 30]
//! ```

#![expect(
    clippy::print_stdout,
    reason = "the numbers are what the program is for"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use evertoken_tests::client::Client;
use evertoken_tests::evertoken::{Evertoken, Launch, binary};
use evertoken_tests::issuer::Issuer;
use evertoken_tests::kubernetes::{ApiServer, ServiceAccount};
use evertoken_tests::server::Behaviour;
use evertoken_tests::wait_until;
use evertoken_tests::workdir::{RunDir, free_port};
use serde_json::json;

/// The issuer's time for an answer: a database query and a signature.
const ISSUER_DELAY: Duration = Duration::from_millis(50);

/// The size of tokens with a few groups in them.
const TOKEN_BYTES: usize = 2048;

struct Arguments {
    jobs: Vec<usize>,
    seconds: u64,
    ktr: Option<PathBuf>,
}

/// A restart with valid stored tokens.
struct Restart {
    jobs: usize,
    ready: Duration,
    verified: Duration,
    issuer_requests: usize,
    api_requests: usize,
    changed: usize,
}

struct Row {
    program: String,
    jobs: usize,
    first_tokens: Duration,
    rss_bytes: u64,
    issuer_requests: usize,
    api_requests: Vec<(String, usize)>,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let Some(cluster) = ApiServer::shared()? else {
        bail!("Kubernetes is switched off by EVERTOKEN_SKIP")
    };
    let (mut rows, mut restarts) = (Vec::new(), Vec::new());
    for &jobs in &arguments.jobs {
        let (row, restart) = evertoken(cluster, jobs, arguments.seconds)?;
        rows.push(row);
        restarts.push(restart);
    }
    if let Some(ktr) = &arguments.ktr {
        rows.push(kube_token_refresher(cluster, ktr, arguments.seconds)?);
    }
    println!(
        "| program | jobs | all tokens after | resident MiB | issuer requests | API requests |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for row in rows {
        let requests: Vec<String> = row
            .api_requests
            .iter()
            .map(|(verb, count)| format!("{verb} {count}"))
            .collect();
        println!(
            "| {} | {} | {:.2} s | {:.1} | {} | {} |",
            row.program,
            row.jobs,
            row.first_tokens.as_secs_f64(),
            row.rss_bytes as f64 / f64::from(1 << 20),
            row.issuer_requests,
            requests.join(", ")
        );
    }
    println!();
    println!(
        "| restarted with good tokens | ready after | all outputs verified after | issuer requests | API requests | resourceVersions changed |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for restart in restarts {
        println!(
            "| {} | {:.2} s | {:.2} s | {} | {} | {} |",
            restart.jobs,
            restart.ready.as_secs_f64(),
            restart.verified.as_secs_f64(),
            restart.issuer_requests,
            restart.api_requests,
            restart.changed
        );
    }
    Ok(())
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        jobs: vec![1, 100, 1000],
        seconds: 30,
        ktr: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--jobs" => {
                parsed.jobs = value
                    .split(',')
                    .map(str::parse)
                    .collect::<Result<_, _>>()
                    .context("--jobs 1,100,1000")?
            }
            "--seconds" => parsed.seconds = value.parse().context("--seconds 30")?,
            "--ktr" => parsed.ktr = Some(value.into()),
            other => bail!("no such option: {other}"),
        }
    }
    Ok(parsed)
}

/// An issuer whose tokens last longer than the measurement.
fn issuer() -> Result<Issuer> {
    let issuer = Issuer::start()?;
    let serial = std::sync::atomic::AtomicU64::new(0);
    issuer.respond_with("/token", move |_| {
        let number = serial.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Behaviour::token(&format!("{number:0>TOKEN_BYTES$}"), 3600).after(ISSUER_DELAY)
    });
    Ok(issuer)
}

fn account(cluster: &ApiServer, name: &str) -> Result<(String, ServiceAccount)> {
    let namespace = cluster.namespace(name)?;
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "update", "create", "patch"]}]);
    let account = cluster.service_account(&namespace, name, &rules)?;
    Ok((namespace, account))
}

fn evertoken(cluster: &ApiServer, jobs: usize, seconds: u64) -> Result<(Row, Restart)> {
    let (namespace, account) = account(cluster, "fleet")?;
    let (run, issuer, port) = (RunDir::new("fleet")?, issuer()?, free_port()?);
    let mut yaml = format!(
        "state: {{dir: \"{}/state\"}}\nserve: {{address: \"127.0.0.1:{port}\"}}\nlimits: {{per_origin: {{in_flight: 64}}}}\njobs:\n",
        run.path().display()
    );
    for number in 0..jobs {
        yaml.push_str(&format!(
            "- {{name: job-{number}, source: {{plugin: oauth2, config: {{grant: client_credentials, token_url: \"{}\", client_id: c}}, secrets: {{client_secret: {{value: s}}}}}}, outputs: [{{secret: {{namespace: {namespace}, name: token-{number}, key: token, create: true}}}}]}}\n",
            issuer.url("/token")
        ));
    }
    let config = run.write("fleet.yaml", yaml)?;
    let start = || {
        Launch::of(binary()?)
            .env("KUBECONFIG", &account.kubeconfig)
            .env(
                "XDG_CACHE_HOME",
                evertoken_tests::workdir::parts()?.join("cache"),
            )
            .args(["run", "--quiet", "--config"])
            .args([&config])
            .spawn()
    };
    let begun = Instant::now();
    let process = start()?;
    let row = measure(
        "evertoken",
        cluster,
        &account,
        &issuer,
        &process,
        jobs,
        begun,
        seconds,
    )?;
    process.terminate(Duration::from_secs(60))?;
    let versions = resource_versions(cluster, &namespace)?;
    let requests = issuer.requests().len();
    let patches = || Ok::<_, anyhow::Error>(cluster.audit_events_of_user(&account.username)?.len());
    let patches_before = patches()?;
    let begun = Instant::now();
    let process = start()?;
    let url = format!("http://127.0.0.1:{port}/readyz");
    wait_until("readiness", Duration::from_secs(60), || {
        let answer = Client::plain().send("GET", &url, &[], &[]).ok()?;
        (answer.status == 200).then_some(())
    })
    .with_context(|| process.stderr())?;
    let ready = begun.elapsed();
    wait_until(
        "every output's verification",
        Duration::from_secs(60),
        || (patches().ok()? >= patches_before + jobs).then_some(()),
    )
    .with_context(|| process.stderr())?;
    let verified = begun.elapsed();
    std::thread::sleep(Duration::from_secs(1));
    let versions_after = resource_versions(cluster, &namespace)?;
    let restart = Restart {
        jobs,
        ready,
        verified,
        issuer_requests: issuer.requests().len() - requests,
        api_requests: patches()? - patches_before,
        changed: versions
            .iter()
            .filter(|version| !versions_after.contains(*version))
            .count(),
    };
    Ok((row, restart))
}

/// Names and resourceVersions of the namespace's Secrets.
fn resource_versions(cluster: &ApiServer, namespace: &str) -> Result<BTreeSet<(String, String)>> {
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let listed = cluster.admin().get(&path)?.context("no such namespace")?;
    let items = listed.get("items").and_then(|items| items.as_array());
    let text = |item: &serde_json::Value, field: &str| {
        let value = item.pointer(&format!("/metadata/{field}"))?;
        Some(value.as_str()?.to_owned())
    };
    Ok(items
        .context("no items")?
        .iter()
        .filter_map(|item| Some((text(item, "name")?, text(item, "resourceVersion")?)))
        .collect())
}

fn kube_token_refresher(
    cluster: &ApiServer,
    program: &std::path::Path,
    seconds: u64,
) -> Result<Row> {
    let (namespace, account) = account(cluster, "ktr")?;
    let issuer = issuer()?;
    let begun = Instant::now();
    let process = Launch::of(program)
        .env("KUBECONFIG", &account.kubeconfig)
        .env("KTR_SECRET_NAME", "token")
        .env("KTR_SECRET_NAMESPACE", &namespace)
        .env("KTR_INTERVAL", "500")
        .env("KTR_OIDC_TOKENURL", issuer.url("/token"))
        .env("KTR_OIDC_CLIENTID", "c")
        .env("KTR_OIDC_CLIENTSECRET", "s")
        .spawn()?;
    measure(
        "kube-token-refresher",
        cluster,
        &account,
        &issuer,
        &process,
        1,
        begun,
        seconds,
    )
}

#[expect(clippy::too_many_arguments, reason = "one measurement, called twice")]
fn measure(
    program: &str,
    cluster: &ApiServer,
    account: &ServiceAccount,
    issuer: &Issuer,
    process: &Evertoken,
    jobs: usize,
    begun: Instant,
    seconds: u64,
) -> Result<Row> {
    wait_until("every job's token", Duration::from_secs(300), || {
        let path = format!("/api/v1/namespaces/{}/secrets", namespace_of(account));
        let listed = cluster.admin().get(&path).ok()??;
        (listed.get("items")?.as_array()?.len() >= jobs).then_some(())
    })
    .with_context(|| process.stderr())?;
    let first_tokens = begun.elapsed();
    std::thread::sleep(Duration::from_secs(seconds));
    let rss_bytes = process.rss_bytes()?;
    let mut api_requests: Vec<(String, usize)> = Vec::new();
    for event in cluster.audit_events_of_user(&account.username)? {
        let what = if event.resource.is_empty() {
            "discovery".to_owned()
        } else {
            event.verb
        };
        match api_requests.iter_mut().find(|(known, _)| *known == what) {
            Some((_, count)) => *count += 1,
            None => api_requests.push((what, 1)),
        }
    }
    Ok(Row {
        program: program.to_owned(),
        jobs,
        first_tokens,
        rss_bytes,
        issuer_requests: issuer.requests().len(),
        api_requests,
    })
}

/// From `system:serviceaccount:<namespace>:<name>`.
fn namespace_of(account: &ServiceAccount) -> &str {
    account.username.split(':').nth(2).unwrap_or_default()
}
