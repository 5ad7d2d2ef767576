//! What a reload changes: two configurations, compared part by part. Pure. It names keys and never values, which may be secrets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{
    Config, Job, JobId, Limits, OnRemove, Policy, SharedOutput, Source, StateLocation,
};
use crate::runner::{JobChange, source_hash};

/// What the keys of plugins begin with.
const PLUGINS: &str = "plugins.";

/// The differences between the configuration in use and another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The jobs that differ: the new and the changed ones in the order of the configuration, then the removed ones.
    pub jobs: Vec<JobPlan>,
    /// How many jobs do not.
    pub unchanged: usize,
    /// The shared outputs that differ.
    pub shared_outputs: Vec<SharedPlan>,
    /// Other keys that differ and take effect at once.
    pub settings: Vec<String>,
    /// Keys that differ and take effect at the next start of the process.
    pub needs_restart: Vec<String>,
}

/// A job that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    /// Its name.
    pub job: String,
    /// What is done.
    pub change: Change,
}

/// What is done about a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is new.
    Added,
    /// It goes.
    Removed {
        /// The outputs that are deleted.
        deleted: Vec<String>,
    },
    /// Parts of it are others.
    Changed {
        /// The keys.
        keys: Vec<String>,
        /// What that means.
        effects: Vec<Effect>,
    },
}

/// What a change of a job means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Another token is obtained at once.
    AsksAtOnce,
    /// The token is obtained in another way when it is due, or at once if the last attempt failed.
    AsksDifferently,
    /// The time of the next refresh is another.
    Retimes,
    /// The held token is written to the outputs.
    Publishes,
    /// This output is deleted.
    Deletes(String),
}

/// A shared output that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedPlan {
    /// The file's path, or `namespace/name/key` of the Secret.
    pub destination: String,
    /// What is done.
    pub change: SharedChange,
}

/// What is done about a shared output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SharedChange {
    /// It is new.
    Added,
    /// It is no longer written, and stays.
    Kept,
    /// It is deleted.
    Deleted,
    /// It is written anew.
    Changed,
}

impl Plan {
    /// Whether the configurations are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            jobs,
            unchanged: _,
            shared_outputs,
            settings,
            needs_restart,
        } = self;
        jobs.is_empty()
            && shared_outputs.is_empty()
            && settings.is_empty()
            && needs_restart.is_empty()
    }
}

impl Plan {
    /// The names of the plugins that are not built in and differ.
    #[must_use]
    pub fn changed_plugins(&self) -> Vec<String> {
        let plugins = self.settings.iter();
        let plugins = plugins.filter_map(|key| key.strip_prefix(PLUGINS));
        plugins.map(str::to_owned).collect()
    }
}

/// One line for each difference.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for job in &self.jobs {
            writeln!(f, "{job}")?;
        }
        for shared in &self.shared_outputs {
            writeln!(f, "{shared}")?;
        }
        for key in &self.settings {
            writeln!(f, "~ {key}")?;
        }
        for key in &self.needs_restart {
            writeln!(f, "! {key}: takes effect when the process is started again")?;
        }
        match (self.is_empty(), self.unchanged) {
            (true, jobs) => write!(f, "nothing changes ({jobs} jobs)"),
            (false, 1) => f.write_str("1 job does not change"),
            (false, jobs) => write!(f, "{jobs} jobs do not change"),
        }
    }
}

impl fmt::Display for JobPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = &self.job;
        match &self.change {
            Change::Added => write!(f, "+ job {job}"),
            Change::Removed { deleted } if deleted.is_empty() => {
                write!(f, "- job {job}: its outputs stay")
            }
            Change::Removed { deleted } => write!(f, "- job {job}: deletes {}", deleted.join(", ")),
            Change::Changed { keys, effects } => {
                write!(f, "~ job {job}: {}", keys.join(", "))?;
                for (index, effect) in effects.iter().enumerate() {
                    f.write_str(if index == 0 { "; " } else { ", " })?;
                    effect.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsksAtOnce => f.write_str("asks for another token at once"),
            Self::AsksDifferently => f.write_str("from the next request on"),
            Self::Retimes => f.write_str("moves the next refresh"),
            Self::Publishes => f.write_str("writes its outputs"),
            Self::Deletes(output) => write!(f, "deletes {output}"),
        }
    }
}

impl fmt::Display for SharedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let output = &self.destination;
        match self.change {
            SharedChange::Added => write!(f, "+ shared output {output}"),
            SharedChange::Kept => write!(f, "- shared output {output}: it stays as it is"),
            SharedChange::Deleted => write!(f, "- shared output {output}: deletes it"),
            SharedChange::Changed => write!(f, "~ shared output {output}: writes it"),
        }
    }
}

/// A reload that was prepared.
#[derive(Debug)]
pub struct Reload {
    /// What it changes.
    pub plan: Plan,
    /// The configuration in use after it: what needs a restart is as before.
    pub config: Config,
    /// What the runner does.
    pub changes: Vec<JobChange>,
}

/// Compares the configuration in use with the next one.
#[must_use]
pub fn compare(present: &Config, mut next: Config) -> Reload {
    let mut plan = Plan::default();
    settings(present, &mut next, &mut plan);
    let mut changes = jobs(present, &mut next, &mut plan);
    plan.shared_outputs = shared_outputs(&present.shared_outputs, &next.shared_outputs);
    if present.shared_outputs != next.shared_outputs {
        changes.push(JobChange::SharedOutputs(next.shared_outputs.clone()));
    }
    if present.limits != next.limits {
        changes.push(JobChange::Limits(next.limits.clone()));
    }
    Reload {
        plan,
        config: next,
        changes,
    }
}

/// Unchanged jobs stay the same objects, so that there is one copy of each.
fn jobs(present: &Config, next: &mut Config, plan: &mut Plan) -> Vec<JobChange> {
    let mut former: HashMap<&JobId, &Arc<Job>> = HashMap::with_capacity(present.jobs.len());
    former.extend(present.jobs.iter().map(|job| (&job.id, job)));
    let mut changes = Vec::new();
    for job in &mut next.jobs {
        let before = former.remove(&job.id);
        if let Some(before) = before.filter(|before| *before == job) {
            *job = Arc::clone(before);
            plan.unchanged += 1;
            continue;
        }
        plan.jobs.push(JobPlan {
            job: job.id.to_string(),
            change: before.map_or(Change::Added, |before| changed(before, job)),
        });
        changes.push(JobChange::Put(Arc::clone(job)));
    }
    for job in present
        .jobs
        .iter()
        .filter(|job| former.contains_key(&job.id))
    {
        plan.jobs.push(JobPlan {
            job: job.id.to_string(),
            change: Change::Removed {
                deleted: deleted(job, None),
            },
        });
        changes.push(JobChange::Remove(job.id.clone()));
    }
    changes
}

/// The outputs that are deleted when `next` takes the place of a job, or nothing does.
fn deleted(job: &Job, next: Option<&Job>) -> Vec<String> {
    let places = |job: &Job| -> Vec<String> {
        let outputs = job.outputs.iter();
        outputs
            .map(|output| output.destination.to_string())
            .collect()
    };
    let kept = next.map(places).unwrap_or_default();
    match job.on_remove {
        OnRemove::Keep => Vec::new(),
        OnRemove::Delete => {
            let mut gone = places(job);
            gone.retain(|place| !kept.contains(place));
            gone
        }
    }
}

fn changed(before: &Job, job: &Job) -> Change {
    let mut keys = source_keys(&before.source, &job.source);
    let mut effects = Vec::new();
    if !keys.is_empty() {
        let is_same_token = source_hash(before) == source_hash(job)
            && before.source.has_same_literal_values(&job.source);
        effects.push(if is_same_token {
            Effect::AsksDifferently
        } else {
            Effect::AsksAtOnce
        });
    }
    if before.refresh != job.refresh {
        keys.extend(policy_keys(&before.refresh, &job.refresh));
        effects.push(Effect::Retimes);
    }
    let has_other_outputs = before.outputs != job.outputs;
    if before.verify != job.verify {
        keys.push("verify".to_owned());
    }
    if has_other_outputs {
        keys.push("outputs".to_owned());
    }
    if has_other_outputs || before.verify != job.verify {
        effects.push(Effect::Publishes);
    }
    if before.on_remove != job.on_remove {
        keys.push("on_remove".to_owned());
    }
    effects.extend(deleted(before, Some(job)).into_iter().map(Effect::Deletes));
    Change::Changed { keys, effects }
}

/// The keys of a source that differ. Named each, so that a new one cannot be forgotten.
fn source_keys(before: &Source, source: &Source) -> Vec<String> {
    let Source {
        plugin,
        config,
        secrets,
        allow,
        allow_addresses,
        reveal,
        tls,
        proxy,
        timeout,
    } = source;
    let mut keys = Vec::new();
    let mut note = |is_other: bool, key: &str| {
        if is_other {
            keys.push(format!("source.{key}"));
        }
    };
    note(before.plugin != *plugin, "plugin");
    for key in members(&before.config, config) {
        note(true, &format!("config.{key}"));
    }
    let names = before.secrets.keys().chain(secrets.keys());
    for name in names.collect::<BTreeSet<_>>() {
        let is_other = before.secrets.get(name) != secrets.get(name);
        note(is_other, &format!("secrets.{name}"));
    }
    note(before.allow != *allow, "allow");
    note(
        before.allow_addresses != *allow_addresses,
        "allow_addresses",
    );
    note(before.reveal != *reveal, "reveal");
    note(before.tls != *tls, "tls");
    note(before.proxy != *proxy, "proxy");
    note(before.timeout != *timeout, "timeout");
    keys
}

/// The members of two objects that differ.
fn members(before: &Value, value: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let (before, value) = (
        before.as_object().unwrap_or(&empty),
        value.as_object().unwrap_or(&empty),
    );
    let names: BTreeSet<_> = before.keys().chain(value.keys()).collect();
    let others = names
        .into_iter()
        .filter(|name| before.get(*name) != value.get(*name));
    others.cloned().collect()
}

fn policy_keys(before: &Policy, policy: &Policy) -> Vec<String> {
    let Policy {
        at,
        before_expiry,
        every,
        jitter,
        default_lifetime,
    } = policy;
    let differ = [
        ("at", before.at.to_bits() != at.to_bits()),
        ("before_expiry", before.before_expiry != *before_expiry),
        ("every", before.every != *every),
        ("jitter", before.jitter != *jitter),
        (
            "default_lifetime",
            before.default_lifetime != *default_lifetime,
        ),
    ];
    named("refresh", &differ)
}

/// The keys that differ, below another key.
fn named(above: &str, differ: &[(&str, bool)]) -> Vec<String> {
    let differ = differ.iter().filter(|(_, differs)| *differs);
    differ.map(|(key, _)| format!("{above}.{key}")).collect()
}

fn shared_outputs(before: &[Arc<SharedOutput>], next: &[Arc<SharedOutput>]) -> Vec<SharedPlan> {
    let by_place = |outputs: &[Arc<SharedOutput>]| -> BTreeMap<String, (usize, Arc<SharedOutput>)> {
        let outputs = outputs.iter().enumerate();
        outputs
            .map(|(index, shared)| {
                let place = shared.output.destination.to_string();
                (place, (index, Arc::clone(shared)))
            })
            .collect()
    };
    let (before, next) = (by_place(before), by_place(next));
    let places: BTreeSet<&String> = before.keys().chain(next.keys()).collect();
    let change = |place: &String| match (before.get(place), next.get(place)) {
        (None, _) => Some(SharedChange::Added),
        (Some((_, gone)), None) => Some(match gone.on_remove {
            OnRemove::Keep => SharedChange::Kept,
            OnRemove::Delete => SharedChange::Deleted,
        }),
        (Some(before), Some(next)) => (before != next).then_some(SharedChange::Changed),
    };
    let plans = places.into_iter().filter_map(|place| {
        Some(SharedPlan {
            destination: place.clone(),
            change: change(place)?,
        })
    });
    plans.collect()
}

/// Notes what differs beside jobs, and puts back what needs a restart.
fn settings(present: &Config, next: &mut Config, plan: &mut Plan) {
    plan.settings = limit_keys(&present.limits, &next.limits);
    let names = present.plugins.keys().chain(next.plugins.keys());
    for name in names.collect::<BTreeSet<_>>() {
        if present.plugins.get(name) != next.plugins.get(name) {
            plan.settings.push(format!("{PLUGINS}{name}"));
        }
    }
    let names = present.profiles.keys().chain(next.profiles.keys());
    for name in names.collect::<BTreeSet<_>>() {
        if present.profiles.get(name) != next.profiles.get(name) {
            plan.settings.push(format!("profiles.{name}"));
        }
    }
    if present.annotated_secrets != next.annotated_secrets {
        plan.settings.push("annotated_secrets".to_owned());
    }
    if present.serve != next.serve {
        plan.needs_restart.push("serve.address".to_owned());
        next.serve = present.serve;
    }
    if present.control != next.control {
        plan.needs_restart.push("control.socket".to_owned());
        next.control.clone_from(&present.control);
    }
    if !is_same_place(&present.state, &next.state) {
        plan.needs_restart.push("state".to_owned());
        next.state = present.state.clone();
    } else if present.state.keys().is_empty() != next.state.keys().is_empty() {
        // Only a start begins or ends the encryption of what is stored.
        plan.needs_restart.push("state.key".to_owned());
        next.state = present.state.clone();
    } else if present.state != next.state {
        plan.settings.push("state.key".to_owned());
    }
}

fn limit_keys(before: &Limits, limits: &Limits) -> Vec<String> {
    let Limits {
        concurrency,
        in_flight_per_origin,
        plugin,
    } = limits;
    let was = &before.plugin;
    let differ = [
        ("concurrency", before.concurrency != *concurrency),
        (
            "per_origin.in_flight",
            before.in_flight_per_origin != *in_flight_per_origin,
        ),
        ("plugin.memory", was.memory_bytes != plugin.memory_bytes),
        ("plugin.requests", was.requests != plugin.requests),
        (
            "plugin.response",
            was.response_bytes != plugin.response_bytes,
        ),
        (
            "plugin.artifact",
            was.artifact_bytes != plugin.artifact_bytes,
        ),
        ("plugin.log_lines", was.log_lines != plugin.log_lines),
        ("plugin.compile", was.compile_time != plugin.compile_time),
    ];
    named("limits", &differ)
}

fn is_same_place(one: &StateLocation, other: &StateLocation) -> bool {
    let without_keys = |place: &StateLocation| match place.clone() {
        StateLocation::Memory => StateLocation::Memory,
        StateLocation::Directory { path, keys: _ } => StateLocation::Directory {
            path,
            keys: Vec::new(),
        },
        StateLocation::Secrets {
            namespace,
            prefix,
            keys: _,
        } => StateLocation::Secrets {
            namespace,
            prefix,
            keys: Vec::new(),
        },
    };
    without_keys(one) == without_keys(other)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn parsed(text: &str) -> Config {
        let loaded = config::parse(text, "evertoken.yaml", Path::new("/etc"));
        loaded.unwrap().into_config()
    }

    fn plan(before: &str, next: &str) -> Vec<String> {
        let plan = compare(&parsed(before), parsed(next)).plan;
        plan.to_string().lines().map(str::to_owned).collect()
    }

    /// A configuration of one job, whose parts these are.
    fn with(top: &str, source: &str, job: &str) -> String {
        format!(
            "{top}\njobs: [{{name: a, source: {{plugin: dummy{source}}}, outputs: [{{file: {{path: /t/a}}}}]{job}}}]"
        )
    }

    #[test]
    fn each_part_is_compared_apart_and_has_its_own_effect() {
        let base = || with("", "", "");
        for (next, expected) in [
            (base(), &["nothing changes (1 jobs)"][..]),
            (
                with("", ", config: {lifetime: 5m}", ""),
                &["~ job a: source.config.lifetime; asks for another token at once"],
            ),
            (
                with("", ", secrets: {s: {env: S}}", ""),
                &["~ job a: source.secrets.s; asks for another token at once"],
            ),
            (
                with("", ", timeout: 5s, allow: ['https://a.example']", ""),
                &["~ job a: source.allow, source.timeout; from the next request on"],
            ),
            (
                with("", "", ", refresh: {at: 50%, jitter: 0s}"),
                &["~ job a: refresh.at, refresh.jitter; moves the next refresh"],
            ),
            (
                with("", "", ", verify: 5m, on_remove: delete"),
                &["~ job a: verify, on_remove; writes its outputs"],
            ),
            (
                with("defaults: {refresh: {every: 1h}}", "", ""),
                &["~ job a: refresh.every; moves the next refresh"],
            ),
            (
                with("limits: {concurrency: 3, plugin: {requests: 2}}", "", ""),
                &["~ limits.concurrency", "~ limits.plugin.requests"],
            ),
            (
                with(
                    &format!(
                        "plugins: {{x: {{path: /x.wasm, sha256: {}}}}}",
                        "0".repeat(64)
                    ),
                    "",
                    "",
                ),
                &["~ plugins.x"],
            ),
            (
                with("serve: {address: '127.0.0.1:1'}", "", ""),
                &["! serve.address: takes effect when the process is started again"],
            ),
            (
                with("control: {socket: /run/x.sock}", "", ""),
                &["! control.socket: takes effect when the process is started again"],
            ),
            (
                with("state: {dir: /s}", "", ""),
                &["! state: takes effect when the process is started again"],
            ),
        ] {
            let mut lines = plan(&base(), &next);
            if lines.len() > 1 {
                let last = lines.pop().unwrap();
                assert!(last.contains("not change"), "{next}: {last}");
            }
            assert_eq!(lines, expected, "{next}");
        }
    }

    #[test]
    fn jobs_and_their_outputs_come_and_go() {
        let job = |name: &str, more: &str| {
            format!(
                "{{name: {name}, source: {{plugin: dummy}}, outputs: [{{file: {{path: /t/{name}}}}}]{more}}}"
            )
        };
        let jobs = |jobs: &[String]| format!("jobs: [{}]", jobs.join(", "));
        let two = jobs(&[job("a", ""), job("b", ", on_remove: delete")]);
        assert_eq!(
            plan(&two, &jobs(&[job("c", "")])),
            [
                "+ job c",
                "- job a: its outputs stay",
                "- job b: deletes /t/b",
                "0 jobs do not change"
            ]
        );
        let moved = job("b", ", on_remove: delete").replace("/t/b", "/t/x");
        assert_eq!(
            plan(&two, &jobs(&[job("a", ""), moved])),
            [
                "~ job b: outputs; writes its outputs, deletes /t/b",
                "1 job does not change"
            ]
        );
    }

    #[test]
    fn shared_outputs_are_told_apart_by_their_place() {
        let job = "{name: a, source: {plugin: dummy}, outputs: [{file: {path: /t/a}}]}";
        let config = |outputs: &str| format!("jobs: [{job}]\noutputs: [{outputs}]");
        let shared = |path: &str, more: &str| {
            format!(
                "{{from: [a], file: {{path: {path}}}, format: {{plugin: template, config: {{template: x{more}}}}}, on_remove: delete}}"
            )
        };
        let before = config(&[shared("/t/x", ""), shared("/t/y", "")].join(", "));
        let next = config(&[shared("/t/x", "z"), shared("/t/z", "")].join(", "));
        assert_eq!(
            plan(&before, &next),
            [
                "~ shared output /t/x: writes it",
                "- shared output /t/y: deletes it",
                "+ shared output /t/z",
                "1 job does not change"
            ]
        );
    }

    #[test]
    fn keys_of_the_state_change_at_once_but_not_whether_there_are_any() {
        let state = |keys: &str| with(&format!("state: {{dir: /s{keys}}}"), "", "");
        let (none, one) = (state(""), state(", key: {file: /k}"));
        let two = state(", key: [{file: /new}, {file: /k}]");
        let restart = "! state.key: takes effect when the process is started again";
        assert_eq!(plan(&one, &two)[0], "~ state.key");
        assert_eq!(plan(&none, &one)[0], restart);
        assert_eq!(plan(&one, &none)[0], restart);
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_is_and_is_told_again() {
        let present = parsed(&with("", "", ""));
        let next = || parsed(&with("serve: {address: '127.0.0.1:1'}", "", ""));
        let reload = compare(&present, next());
        assert_eq!(reload.config.serve, None);
        let again = compare(&reload.config, next()).plan;
        assert_eq!(again.needs_restart, ["serve.address"]);
    }

    #[test]
    fn a_changed_value_in_the_configuration_is_noticed_and_not_shown() {
        let value = |value: &str| with("", &format!(", secrets: {{s: {{value: {value}}}}}"), "");
        let lines = plan(&value("hunter1"), &value("hunter2"));
        assert_eq!(
            lines[0],
            "~ job a: source.secrets.s; asks for another token at once"
        );
    }

    #[test]
    fn an_unchanged_job_stays_the_same_object_and_is_no_change() {
        let present = parsed(&with("", "", ""));
        let reload = compare(&present, parsed(&with("", "", "")));
        assert!(Arc::ptr_eq(&present.jobs[0], &reload.config.jobs[0]));
        assert!(reload.changes.is_empty());
    }
}
