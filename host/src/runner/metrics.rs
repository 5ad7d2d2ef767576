//! The Prometheus metrics, named as cert-manager names its own. Metrics per job come from the snapshot taken for the scrape;
//! counters have labels with few values, so that ten thousand jobs do not make ten thousand counters.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::status::{ChainState, ConfigurationStatus, JobState, JobStatus, Snapshot};
use crate::model::Destination;
use crate::model::failure::{Code, Failure, FailureKind};
use crate::model::time::Timestamp;
use crate::refresh::circuit_breaker::Cause;

/// The media type of what [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Codes come from plugins, so only this many different ones are counted by name, and the rest together.
const CODES: usize = 100;

/// A longer code is invalid.
const CODE_LENGTH: usize = 64;

/// Seconds. Finest below the target for lateness, one second, coarse up to outages.
const LATENESS_BUCKETS: [f64; 15] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
];

/// Seconds. From a source without network to the longest usual `timeout`.
const DURATION_BUCKETS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// The result of a successful call of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// With a new token.
    New,
    /// With the same one again.
    Unchanged,
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteResult {
    /// The output's content changed.
    Written,
    /// The content was already right.
    Unchanged,
    /// It could not be written.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabels {
    result: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    origin: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabels {
    origin: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    kind: &'static str,
    code: String,
}

/// Everything that is measured.
pub struct Metrics {
    registry: Registry,
    per_job: PerJob,
    /// Held for a scrape, so that concurrent ones do not take each other's snapshot.
    scrape: Mutex<()>,
    refreshes: Family<RefreshLabels, Counter>,
    failures: Family<CodeLabels, Counter>,
    codes: Mutex<HashSet<String>>,
    refresh_duration: Histogram,
    lateness: Histogram,
    issuer_requests: Family<RequestLabels, Counter>,
    issuers_restrained: Family<OriginLabels, Gauge>,
    clients_refused: Family<OriginLabels, Gauge>,
    issuer_clocks: Family<OriginLabels, Gauge<f64, AtomicU64>>,
    writes: Family<WriteLabels, Counter>,
    write_failures: Family<CodeLabels, Counter>,
    keep_failures: Counter,
    in_flight: Gauge,
    waiting: Gauge,
    compiling: Gauge,
    log_lines_lost: Counter,
    reload_successful: Gauge,
    reload_success_at: Gauge,
    needs_restart: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("evertoken"),
            per_job: PerJob::default(),
            scrape: Mutex::default(),
            refreshes: Family::default(),
            failures: Family::default(),
            codes: Mutex::default(),
            refresh_duration: Histogram::new(DURATION_BUCKETS),
            lateness: Histogram::new(LATENESS_BUCKETS),
            issuer_requests: Family::default(),
            issuers_restrained: Family::default(),
            clients_refused: Family::default(),
            issuer_clocks: Family::default(),
            writes: Family::default(),
            write_failures: Family::default(),
            keep_failures: Counter::default(),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
            compiling: Gauge::default(),
            log_lines_lost: Counter::default(),
            reload_successful: Gauge::default(),
            reload_success_at: Gauge::default(),
            needs_restart: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        let registry = &mut self.registry;
        registry.register("build", "The program", version);
        registry.register(
            "refresh",
            "Calls of sources: result new, unchanged or failed; the reason is the failure's kind",
            self.refreshes.clone(),
        );
        registry.register(
            "source_failures",
            "Failed calls of sources by kind and code",
            self.failures.clone(),
        );
        registry.register(
            "refresh_duration_seconds",
            "How long calls of sources took",
            self.refresh_duration.clone(),
        );
        registry.register(
            "refresh_lateness_seconds",
            "How long after it was due a source had given its token: calls that failed, waiting for a turn or for an issuer in trouble, and the machine's sleep are included",
            self.lateness.clone(),
        );
        registry.register(
            "issuer_requests",
            "Calls of sources that asked their issuer, by its origin: result ok, or the failure's kind",
            self.issuer_requests.clone(),
        );
        registry.register(
            "issuer_restrained",
            "How many clients of an issuer are held back because it is in trouble: one job of each at a time tries",
            self.issuers_restrained.clone(),
        );
        registry.register(
            "issuer_clients_refused",
            "How many clients an issuer refuses although it is well: somebody has to mend their secrets",
            self.clients_refused.clone(),
        );
        registry.register(
            "issuer_clock_skew_seconds",
            "How far an issuer's clock is ahead of this machine's by the Date of its last answer; less than zero: behind",
            self.issuer_clocks.clone(),
        );
        registry.register(
            "output_writes",
            "Writes of outputs: kind file or secret, result written, unchanged or failed",
            self.writes.clone(),
        );
        registry.register(
            "output_failures",
            "Failed writes of outputs by kind (file or secret) and code",
            self.write_failures.clone(),
        );
        registry.register(
            "token_keep_failures",
            "Tokens that could not be kept for a restart",
            self.keep_failures.clone(),
        );
        registry.register(
            "actions_in_flight",
            "Calls of sources and writes under way",
            self.in_flight.clone(),
        );
        registry.register(
            "actions_waiting",
            "Calls of sources and writes that wait for their turn",
            self.waiting.clone(),
        );
        registry.register(
            "plugins_compiling",
            "Plugins that are being loaded and compiled while what needs them waits",
            self.compiling.clone(),
        );
        registry.register(
            "log_lines_lost",
            "Log lines that were dropped because nobody read standard error",
            self.log_lines_lost.clone(),
        );
        registry.register(
            "config_last_reload_successful",
            "Whether the configuration in use is the newest: 0, while a later one is refused",
            self.reload_successful.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration in use was read",
            self.reload_success_at.clone(),
        );
        registry.register(
            "config_keys_need_restart",
            "Keys of the configuration whose change takes effect when the process is started again",
            self.needs_restart.clone(),
        );
        registry.register_collector(Box::new(self.per_job.clone()));
    }

    /// Sets what became of the last reading of the configuration.
    pub fn configured(&self, status: &ConfigurationStatus) {
        let seconds = i64::try_from(status.loaded_at.0 / 1000).unwrap_or(i64::MAX);
        self.reload_successful
            .set(i64::from(status.refused.is_none()));
        self.reload_success_at.set(seconds);
        let keys = i64::try_from(status.needs_restart.len()).unwrap_or(i64::MAX);
        self.needs_restart.set(keys);
    }

    /// Counts a successful call of a source.
    pub fn refreshed(&self, how: Refreshed, took: Duration, lateness: Duration) {
        let result = match how {
            Refreshed::New => "new",
            Refreshed::Unchanged => "unchanged",
        };
        let labels = RefreshLabels { result, reason: "" };
        self.refreshes.get_or_create(&labels).inc();
        self.refresh_duration.observe(took.as_secs_f64());
        self.lateness.observe(lateness.as_secs_f64());
    }

    /// Counts a call of a source that failed.
    pub fn refresh_failed(&self, failure: &Failure, took: Duration) {
        let kind = failure.kind.as_str();
        let labels = RefreshLabels {
            result: "failed",
            reason: kind,
        };
        self.refreshes.get_or_create(&labels).inc();
        let code = self.bounded_code(failure);
        self.failures
            .get_or_create(&CodeLabels { kind, code })
            .inc();
        self.refresh_duration.observe(took.as_secs_f64());
    }

    /// Counts a call of a source that asked its issuer; `failure`: its kind, if it failed.
    pub fn issuer_asked(&self, origin: &str, failure: Option<FailureKind>) {
        let labels = RequestLabels {
            origin: origin.to_owned(),
            result: failure.map_or("ok", FailureKind::as_str),
        };
        self.issuer_requests.get_or_create(&labels).inc();
    }

    /// Sets whether a client of this issuer is held back.
    pub fn client_restrained(&self, origin: &str, cause: Cause, is_held_back: bool) {
        let origin = origin.to_owned();
        let clients = match cause {
            Cause::IssuerInTrouble => &self.issuers_restrained,
            Cause::ClientRefused => &self.clients_refused,
        };
        let clients = clients.get_or_create(&OriginLabels { origin });
        if is_held_back {
            clients.inc();
        } else {
            clients.dec();
        }
    }

    /// Sets how far an issuer's clock is ahead of ours, less than zero if it is behind.
    pub fn issuer_clock(&self, origin: &str, ahead_ms: i64) {
        let origin = origin.to_owned();
        let clock = self.issuer_clocks.get_or_create(&OriginLabels { origin });
        clock.set(milliseconds(ahead_ms));
    }

    /// The host's own codes are a bounded number, and no plugin can use their names.
    fn bounded_code(&self, failure: &Failure) -> String {
        let code = match &failure.code {
            Some(Code::Host(code)) => return code.as_str().to_owned(),
            Some(Code::Said(code)) => code.as_str(),
            None => "",
        };
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_counted = codes.contains(code)
            || (codes.len() < CODES && code.len() <= CODE_LENGTH && codes.insert(code.to_owned()));
        if is_counted { code } else { "other" }.to_owned()
    }

    /// Counts a write.
    pub fn wrote(&self, destination: &Destination, result: WriteResult) {
        let kind = destination.kind();
        let result = match result {
            WriteResult::Written => "written",
            WriteResult::Unchanged => "unchanged",
            WriteResult::Failed => "failed",
        };
        self.writes
            .get_or_create(&WriteLabels { kind, result })
            .inc();
    }

    /// Counts a write that failed.
    pub fn write_failed(&self, destination: &Destination, failure: &Failure) {
        self.wrote(destination, WriteResult::Failed);
        let labels = CodeLabels {
            kind: destination.kind(),
            code: self.bounded_code(failure),
        };
        self.write_failures.get_or_create(&labels).inc();
    }

    /// Counts a token that could not be stored.
    pub fn keep_failed(&self) {
        self.keep_failures.inc();
    }

    /// Sets the number of running and waiting pieces of work, and of plugins being loaded.
    pub fn load(&self, in_flight: usize, waiting: usize, plugins: usize) {
        let gauge = |n| i64::try_from(n).unwrap_or(i64::MAX);
        self.in_flight.set(gauge(in_flight));
        self.waiting.set(gauge(waiting));
        self.compiling.set(gauge(plugins));
    }

    /// The counter of dropped log lines.
    #[must_use]
    pub fn log_lines_lost(&self) -> Counter {
        self.log_lines_lost.clone()
    }

    /// All metrics as OpenMetrics text, with the jobs as they are in `snapshot`.
    ///
    /// # Errors
    ///
    /// None that is known; the encoder's interface has one.
    pub fn encode(&self, snapshot: Snapshot) -> Result<String, fmt::Error> {
        let _scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        *self.per_job.lock() = Some(Arc::new(snapshot));
        let mut text = String::new();
        let result = text::encode(&mut text, &self.registry);
        *self.per_job.lock() = None;
        result.map(|()| text)
    }
}

/// The gauges per job, computed when they are read.
#[derive(Debug, Clone, Default)]
struct PerJob(Arc<Mutex<Option<Arc<Snapshot>>>>);

impl PerJob {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Snapshot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The job's identity in cert-manager's labels; a job of the configuration file has no namespace. Prometheus itself has a label
/// `job`.
fn labels_of(job: &JobStatus) -> [(&'static str, String); 2] {
    let namespace = job.id.namespace.clone().unwrap_or_default();
    [("name", job.id.name.clone()), ("namespace", namespace)]
}

/// One gauge per job: its name, its help text, and its value at a time, if it has one.
type JobGauge = (
    &'static str,
    &'static str,
    fn(&JobStatus, Timestamp) -> Option<f64>,
);

const JOB_GAUGES: [JobGauge; 4] = [
    (
        "job_expiration_timestamp_seconds",
        "When the token expires that every output has, or had last; 0: they have none yet",
        |job, _| match job.state {
            JobState::Pending | JobState::Failing => Some(0.0),
            JobState::Publishing | JobState::Unwritten => {
                let published = job.published_expires_at.map_or(0.0, seconds);
                job.expires_at.map(|_| published)
            }
            JobState::Ready | JobState::Retrying | JobState::Expired => job.expires_at.map(seconds),
        },
    ),
    (
        "job_next_refresh_timestamp_seconds",
        "When the source is asked next, or one of those that wait for the same issuer",
        |job, _| job.next_refresh.map(seconds),
    ),
    (
        "job_last_success_timestamp_seconds",
        "When the source last gave a good token",
        |job, _| job.last_success.map(seconds),
    ),
    (
        "job_ready",
        "Whether a token that lives is in every output",
        |job, now| {
            // A new token is being written to the outputs, which have the one before for a moment.
            let has_another = job.state == JobState::Publishing
                && job.published_expires_at.is_some_and(|at| at > now);
            Some(f64::from(u8::from(job.state.is_ready() || has_another)))
        },
    ),
];

impl Collector for PerJob {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(snapshot) = self.lock().clone() else {
            return Ok(());
        };
        for (name, help, value) in JOB_GAUGES {
            let gauge = ConstGauge::new(0.0_f64);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for job in &snapshot.jobs {
                if let Some(value) = value(job, snapshot.at) {
                    let labels = labels_of(job);
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        chain_states(&mut encoder, &snapshot)
    }
}

/// One gauge per job with rotating secrets and state: 1 for the current one.
fn chain_states(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let gauge = ConstGauge::new(0_i64);
    let mut family = encoder.encode_descriptor(
        "chain_state",
        "Whether the chain of a job's rotating secrets is in this state: ok, in-doubt, needs-attention or dead",
        None,
        gauge.metric_type(),
    )?;
    for job in &snapshot.jobs {
        let Some(present) = job.chain else { continue };
        let [name, namespace] = labels_of(job);
        for state in ChainState::ALL {
            let labels = [
                name.clone(),
                namespace.clone(),
                ("state", state.to_string()),
            ];
            let value = ConstGauge::new(i64::from(state == present));
            value.encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// In seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "what is beyond 2^53 milliseconds is wrong by more than a rounding error"
)]
fn milliseconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 are far below 2^53"
)]
fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap};

    use super::*;
    use crate::model::failure::FailureKind;
    use crate::model::{FileDestination, JobId};

    fn job(name: &str, state: JobState, expires_at: Option<u64>) -> JobStatus {
        JobStatus {
            id: JobId::file(name),
            state,
            expires_at: expires_at.map(Timestamp),
            published_expires_at: None,
            next_refresh: Some(Timestamp(1_700_000_000_500)),
            last_success: None,
            attempt: 0,
            last_failure: None,
            held_back: None,
            chain: (name == "a").then_some(ChainState::Dead),
            compiling: None,
            keep_failure: None,
            next_keep: None,
            outputs: Vec::new(),
        }
    }

    fn snapshot(jobs: Vec<JobStatus>) -> Snapshot {
        Snapshot {
            at: Timestamp(1_700_000_000_000),
            jobs,
            shared_outputs: Vec::new(),
            withdrawals: Vec::new(),
            configuration: None,
        }
    }

    /// Metrics of which each has counted something.
    fn used() -> Metrics {
        let metrics = Metrics::new();
        let (ms, file) = (
            Duration::from_millis,
            Destination::File(FileDestination {
                path: "/run/token".into(),
                mode: 0o400,
                owner: None,
                group: None,
                replace: Default::default(),
            }),
        );
        metrics.refreshed(Refreshed::New, ms(30), ms(40));
        metrics.refreshed(Refreshed::Unchanged, ms(30), ms(40));
        metrics.refresh_failed(
            &Failure::new(FailureKind::Denied, "invalid_client", "no"),
            ms(30),
        );
        metrics.wrote(&file, WriteResult::Unchanged);
        metrics.write_failed(
            &file,
            &Failure::new(FailureKind::Unavailable, "file.disk-full", "no room"),
        );
        let issuer = "https://idp.example.org";
        metrics.issuer_asked(issuer, None);
        metrics.issuer_clock(issuer, -1500);
        metrics.issuer_asked(issuer, Some(FailureKind::Unavailable));
        for (client, is_held_back) in [(1, true), (2, true), (1, false)] {
            let origin = format!("{issuer}:{}", 8000 + client);
            metrics.client_restrained(&origin, Cause::IssuerInTrouble, is_held_back);
        }
        metrics.client_restrained(issuer, Cause::ClientRefused, true);
        metrics.log_lines_lost().inc_by(3);
        metrics
    }

    /// The labels of each metric as Prometheus parses them: a histogram's and an info's samples are one metric.
    fn encoded(text: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut kinds: HashMap<&str, &str> = HashMap::new();
        for line in text.lines() {
            if let Some(of) = line.strip_prefix("# TYPE ") {
                let (name, kind) = of.split_once(' ').unwrap();
                kinds.insert(name, kind);
            } else if !line.starts_with('#') {
                let sample = line.split([' ', '{']).next().unwrap();
                let of_histogram = ["_bucket", "_sum", "_count"]
                    .iter()
                    .filter_map(|suffix| sample.strip_suffix(suffix))
                    .find(|name| kinds.get(name) == Some(&"histogram"));
                let labels = found
                    .entry(of_histogram.unwrap_or(sample).to_owned())
                    .or_default();
                if let Some((inside, _)) = line
                    .split_once('{')
                    .and_then(|(_, rest)| rest.rsplit_once('}'))
                {
                    let names = inside
                        .split("=\"")
                        .filter_map(|part| part.rsplit(['"', ',']).next());
                    let names = names.filter(|name| !name.is_empty() && *name != "le");
                    labels.extend(names.map(str::to_owned));
                }
            }
        }
        found
    }

    /// The table of deploy/README.md: names, and the text after the type.
    fn documented() -> BTreeMap<String, BTreeSet<String>> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/README.md");
        let page = std::fs::read_to_string(path).unwrap();
        let words = |cell: &str| -> Vec<String> {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        };
        page.lines()
            .filter(|line| line.starts_with("| `evertoken_"))
            .flat_map(|line| {
                let cells: Vec<&str> = line.split('|').collect();
                let labels: BTreeSet<String> = words(cells[2]).into_iter().collect();
                words(cells[1])
                    .into_iter()
                    .map(move |name| (name, labels.clone()))
            })
            .collect()
    }

    #[test]
    fn every_metric_and_label_is_documented_and_no_other() {
        let dead = JobStatus {
            last_success: Some(Timestamp(1)),
            ..job("a", JobState::Ready, Some(1))
        };
        let text = used().encode(snapshot(vec![dead])).unwrap();
        assert_eq!(encoded(&text), documented(), "{text}");
    }

    #[test]
    fn a_scrape_shows_each_job_and_what_was_counted() {
        let metrics = used();
        let text = metrics
            .encode(snapshot(vec![
                job("a", JobState::Ready, Some(1_700_000_300_000)),
                job("b\"\n", JobState::Expired, None),
                job("never-had-one", JobState::Failing, None),
                job("not-yet", JobState::Pending, None),
                job("lives-for-ever", JobState::Ready, None),
                job("in-no-output", JobState::Unwritten, Some(1_700_000_300_000)),
                JobStatus {
                    published_expires_at: Some(Timestamp(1_700_000_100_000)),
                    ..job(
                        "older-in-outputs",
                        JobState::Unwritten,
                        Some(1_700_000_300_000),
                    )
                },
                JobStatus {
                    published_expires_at: Some(Timestamp(u64::MAX)),
                    ..job("on-its-way", JobState::Publishing, Some(u64::MAX))
                },
                JobStatus {
                    published_expires_at: Some(Timestamp(1)),
                    ..job("too-late-on-its-way", JobState::Publishing, Some(u64::MAX))
                },
                JobStatus {
                    id: JobId {
                        namespace: Some("shop".to_owned()),
                        ..JobId::file("tenant")
                    },
                    ..job("", JobState::Ready, Some(1_700_000_300_000))
                },
            ]))
            .unwrap();
        for line in [
            "evertoken_build_info{version=\"0.1.0\"} 1",
            "evertoken_refresh_total{result=\"new\",reason=\"\"} 1",
            "evertoken_refresh_total{result=\"unchanged\",reason=\"\"} 1",
            "evertoken_refresh_total{result=\"failed\",reason=\"denied\"} 1",
            "evertoken_source_failures_total{kind=\"denied\",code=\"invalid_client\"} 1",
            "evertoken_refresh_duration_seconds_count 3",
            "evertoken_refresh_lateness_seconds_bucket{le=\"0.05\"} 2",
            "evertoken_issuer_requests_total{origin=\"https://idp.example.org\",result=\"ok\"} 1",
            "evertoken_issuer_requests_total{origin=\"https://idp.example.org\",result=\"unavailable\"} 1",
            "evertoken_issuer_restrained{origin=\"https://idp.example.org:8001\"} 0",
            "evertoken_issuer_restrained{origin=\"https://idp.example.org:8002\"} 1",
            "evertoken_issuer_clients_refused{origin=\"https://idp.example.org\"} 1",
            "evertoken_issuer_clock_skew_seconds{origin=\"https://idp.example.org\"} -1.5",
            "evertoken_chain_state{name=\"a\",namespace=\"\",state=\"ok\"} 0",
            "evertoken_chain_state{name=\"a\",namespace=\"\",state=\"dead\"} 1",
            "evertoken_output_writes_total{kind=\"file\",result=\"unchanged\"} 1",
            "evertoken_output_writes_total{kind=\"file\",result=\"failed\"} 1",
            "evertoken_output_failures_total{kind=\"file\",code=\"file.disk-full\"} 1",
            "evertoken_log_lines_lost_total 3",
            "evertoken_job_expiration_timestamp_seconds{name=\"a\",namespace=\"\"} 1700000300.0",
            "evertoken_job_next_refresh_timestamp_seconds{name=\"a\",namespace=\"\"} 1700000000.5",
            "evertoken_job_ready{name=\"a\",namespace=\"\"} 1.0",
            "evertoken_job_ready{name=\"b\\\"\\n\",namespace=\"\"} 0.0",
            "evertoken_job_ready{name=\"on-its-way\",namespace=\"\"} 1.0",
            "evertoken_job_ready{name=\"too-late-on-its-way\",namespace=\"\"} 0.0",
            "evertoken_job_expiration_timestamp_seconds{name=\"never-had-one\",namespace=\"\"} 0.0",
            "evertoken_job_expiration_timestamp_seconds{name=\"not-yet\",namespace=\"\"} 0.0",
            "evertoken_job_expiration_timestamp_seconds{name=\"in-no-output\",namespace=\"\"} 0.0",
            "evertoken_job_expiration_timestamp_seconds{name=\"older-in-outputs\",namespace=\"\"} 1700000100.0",
            "evertoken_job_expiration_timestamp_seconds{name=\"tenant\",namespace=\"shop\"} 1700000300.0",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "{line} is missing in:\n{text}"
            );
        }
        assert_eq!(text.matches("evertoken_chain_state{").count(), 4);
        let of_one_that_lives_for_ever = "expiration_timestamp_seconds{name=\"lives-for-ever\"";
        assert!(!text.contains(of_one_that_lives_for_ever), "{text}");
        assert!(!text.contains("job=\""), "Prometheus' own label: {text}");
        assert!(
            !text.contains("last_success_timestamp_seconds{"),
            "there was none"
        );
    }

    #[test]
    fn codes_that_plugins_make_up_do_not_fill_the_memory() {
        let metrics = Metrics::new();
        for n in 0..1000 {
            let failure = Failure::new(FailureKind::Internal, format!("code-{n}"), "");
            metrics.refresh_failed(&failure, Duration::ZERO);
        }
        let long = Failure::new(FailureKind::Internal, "x".repeat(1000), "");
        metrics.refresh_failed(&long, Duration::ZERO);
        // Nor do they displace the host's own.
        let own = Failure::new(FailureKind::Internal, "plugin.trap", "");
        metrics.refresh_failed(&own, Duration::ZERO);
        let text = metrics.encode(snapshot(Vec::new())).unwrap();
        assert_eq!(
            text.matches("evertoken_source_failures_total{").count(),
            CODES + 2
        );
        assert!(text.contains("code=\"plugin.trap\"} 1"), "{text}");
        assert!(
            text.contains("{kind=\"internal\",code=\"other\"} 901"),
            "{text}"
        );
    }
}
