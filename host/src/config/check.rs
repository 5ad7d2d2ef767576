//! Rules between keys: referenced names exist, names are unique, keys that need each other are both present. Converts the parsed specs
//! into the model and collects all mistakes; the model may only be used if there is none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;
use secrecy::ExposeSecret;

use super::mistake::Span;
use super::read::{At, Diagnostics, Named};
use super::spec::{
    FileOutputSpec, FileSpec, FormatSpec, JobSpec, LimitsSpec, PluginLimitsSpec, RefreshSpec,
    SecretOutputSpec, SecretReferenceSpec, SecretSpec, ServiceAccountSpec, SharedOutputSpec,
    SourceDefaultsSpec, SourceSpec, StateKeySpec, TlsSpec,
};
use super::unit::{AnyPath, JobName, Repetition, SecretName, Size, Time};
use super::{FORMATTER_PLUGINS, PluginUse, SOURCE_PLUGINS};
use crate::form::list;
use crate::model::Policy;
use crate::model::defaults;
use crate::model::{
    Config, Destination, FileDestination, Format, Job, JobId, Limits, NamedPlaces, Output,
    PluginFile, PluginLimits, RetryUnanswered, Secret, SecretDestination, SecretOrigin,
    SecretWrite, SharedOutput, Source, StateLocation, Tls,
};
use crate::names::nearest;
use crate::text;

/// The least interval and timeout: with shorter ones, the process would do nothing else.
const MIN_PERIOD: Duration = Duration::from_secs(1);

/// The longest path of a socket. Linux's limit is 107 bytes (unix(7)); a socket is created under a name that may be somewhat longer.
const MAX_SOCKET_PATH: usize = 100;

/// The specs of all files.
pub(super) struct Document {
    pub(super) file: FileSpec,
    pub(super) jobs: Vec<JobSpec>,
    pub(super) outputs: Vec<SharedOutputSpec>,
    /// The names of all jobs, including jobs with mistakes.
    pub(super) job_names: HashSet<String>,
    /// The directory of each file, by [`Span::source`].
    pub(super) directories: Vec<PathBuf>,
    /// The paths of the files.
    pub(super) files: Vec<PathBuf>,
}

/// Checks the specs and converts them into the model.
pub(super) fn check(document: &Document, diagnostics: &mut Diagnostics) -> Config {
    let mut checker = Checker {
        document,
        diagnostics,
        files: HashMap::new(),
        keys: HashMap::new(),
        read: HashMap::new(),
        used: HashSet::new(),
    };
    checker.config()
}

pub(super) struct Checker<'d> {
    pub(super) document: &'d Document,
    pub(super) diagnostics: &'d mut Diagnostics,
    /// The files that outputs write, with the place of each.
    files: HashMap<PathBuf, Span>,
    /// The keys of Secrets (namespace, name, key) that outputs write, with the place of each.
    keys: HashMap<(String, String, String), Span>,
    /// The files that are read, with the place of each.
    read: HashMap<PathBuf, Span>,
    /// The jobs whose tokens another job or a shared output uses.
    used: HashSet<&'d str>,
}

impl<'d> Checker<'d> {
    fn config(&mut self) -> Config {
        let document = self.document;
        let raw = &document.file;
        self.rotating_secrets_need_state();
        self.names_once();
        self.acyclic();
        let plugins = self.plugins();
        let shared_outputs = document
            .outputs
            .iter()
            .filter_map(|output| self.shared_output(output))
            .collect();
        let mut jobs = Vec::with_capacity(document.jobs.len());
        for job in &document.jobs {
            jobs.push(Arc::new(self.job(job)));
        }
        let profiles = self.profiles();
        let state = self.state();
        let control = self.control();
        self.no_output_is_a_source();
        self.no_output_is_our_own();
        self.every_job_is_used();
        let named = Arc::new(self.named_places(&state, control.as_deref()));
        Config {
            named,
            control,
            state,
            serve: raw.serve.as_ref().map(|serve| serve.address),
            limits: self.limits(),
            plugins,
            annotated_secrets: self.annotated_secrets(),
            profiles,
            jobs,
            shared_outputs,
        }
    }

    fn control(&mut self) -> Option<PathBuf> {
        let socket = &self.document.file.control.as_ref()?.socket;
        if socket.0.as_os_str().len() > MAX_SOCKET_PATH {
            self.diagnostics.note(
                socket.span,
                format!(
                    "longer than {MAX_SOCKET_PATH} bytes, the most that a socket's path may have"
                ),
                "choose a shorter place, e.g. in /run",
            );
        }
        Some(socket.0.clone())
    }

    fn state(&mut self) -> StateLocation {
        let Some(state) = &self.document.file.state else {
            return StateLocation::Memory;
        };
        let keys = state.key.as_ref();
        if let Some(keys) = keys.filter(|keys| keys.0.is_empty()) {
            self.diagnostics.note(
                keys.span,
                "an empty list of keys",
                "name a key, or remove `key` to store without encryption",
            );
        }
        let keys = keys
            .map(|keys| {
                keys.0
                    .iter()
                    .filter_map(|key| self.state_key(key))
                    .collect()
            })
            .unwrap_or_default();
        match (&state.dir, &state.secret) {
            (Some(dir), _) => StateLocation::Directory {
                path: dir.0.clone(),
                keys,
            },
            (None, Some(secrets)) => StateLocation::Secrets {
                namespace: secrets.namespace.0.clone(),
                prefix: secrets.prefix.as_ref().map_or_else(
                    || defaults::STATE_PREFIX.to_owned(),
                    |prefix| prefix.0.clone(),
                ),
                keys,
            },
            // The parser has noted that one of them is missing.
            (None, None) => StateLocation::Memory,
        }
    }

    fn limits(&mut self) -> Limits {
        let raw = self.document.file.limits.as_ref();
        let mut limits = limits(raw);
        let compile = raw.and_then(|limits| limits.plugin.as_ref()?.compile.as_ref());
        limits.plugin.compile_time = self.period(compile, limits.plugin.compile_time);
        let state = self.document.file.state.as_ref();
        if state.is_none_or(|state| state.secret.is_none()) {
            return limits;
        }
        let plugin = raw.and_then(|limits| limits.plugin.as_ref());
        match plugin.and_then(|plugin| plugin.response.as_ref()) {
            None => limits.plugin.response_bytes = defaults::PLUGIN_RESPONSE_BYTES_IN_SECRETS,
            Some(size)
                if limits.plugin.response_bytes > defaults::PLUGIN_RESPONSE_BYTES_IN_SECRETS =>
            {
                self.diagnostics.note(
                    size.span,
                    "an answer of this size does not fit into a Secret of the state store",
                    "write at most 512KiB, or keep the state in a directory: `state: {dir: …}`",
                );
            }
            Some(_) => {}
        }
        limits
    }

    fn state_key(&mut self, key: &StateKeySpec) -> Option<SecretOrigin> {
        if let Some(path) = &key.file {
            Some(SecretOrigin::File(self.path(path)))
        } else if let Some(variable) = &key.env {
            Some(SecretOrigin::Env(variable.0.clone()))
        } else {
            let reference = key.secret.as_ref()?;
            if let Some(pointer) = &reference.pointer {
                self.diagnostics.note(
                    pointer.span,
                    "a key of the state store is all that is in the Secret's key",
                    "remove `pointer`, and give it a key of its own in the Secret",
                );
            }
            Some(secret_reference(reference))
        }
    }

    fn plugins(&mut self) -> BTreeMap<String, PluginFile> {
        let document = self.document;
        let mut plugins = BTreeMap::new();
        let Some(Named(named)) = &document.file.plugins else {
            return plugins;
        };
        for (name, plugin) in named {
            let built_in = SOURCE_PLUGINS.iter().chain(&FORMATTER_PLUGINS);
            if built_in.clone().any(|known| *known == name.0) {
                self.diagnostics.note(
                    name.span,
                    format!("the plugin `{}` is built in", name.0),
                    "choose another name for yours",
                );
            }
            if let Some(plugin) = plugin {
                plugins.insert(
                    name.0.clone(),
                    PluginFile {
                        path: self.path(&plugin.path),
                        sha256: plugin.sha256.0,
                    },
                );
            }
        }
        plugins
    }

    /// The path of a file that is read. A relative path counts from the directory of the configuration file that contains it.
    fn path(&mut self, path: &At<AnyPath>) -> PathBuf {
        let whole = match self.document.directories.get(path.span.source as usize) {
            Some(directory) => directory.join(&path.0),
            None => path.0.clone(),
        };
        self.read.entry(whole.clone()).or_insert(path.span);
        whole
    }

    fn names_once(&mut self) {
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for job in &self.document.jobs {
            let name = &job.name;
            match seen.get(name.0.as_str()) {
                Some(first) => self.diagnostics.clash(
                    name.span,
                    *first,
                    format!("two jobs are called `{}`", name.0),
                    "give one of them another name",
                ),
                None => {
                    seen.insert(&name.0, name.span);
                }
            }
        }
    }

    /// The issuer replaces a rotating secret at its use. Without a store, the new value would be lost with the process, and the spent one
    /// gets no more tokens.
    fn rotating_secrets_need_state(&mut self) {
        if self.document.file.state.is_some() {
            return;
        }
        for (_, name, secret) in secrets(&self.document.jobs) {
            if let Some(rotating) = on(&secret.rotating)
                && on(&secret.write_back).is_none()
                && !made_anew(secret)
            {
                self.diagnostics.note(
                    rotating.span,
                    format!(
                        "the rotating secret `{}` would be lost with this process, because there is no `state`",
                        name.0
                    ),
                    "add `state: {dir: /var/lib/evertoken}`, in a cluster on a persistent volume or `state: {secret: {namespace: …}}`; or add `write_back: true` to a `file` or `secret`",
                );
            }
        }
    }

    /// Jobs that use each other's tokens must not form a cycle.
    fn acyclic(&mut self) {
        let document = self.document;
        let mut needs: HashMap<&str, Vec<&At<JobName>>> = HashMap::new();
        for (job, _, secret) in secrets(&document.jobs) {
            if let Some(other) = &secret.job {
                needs.entry(&job.name.0).or_default().push(other);
            }
        }
        let mut done: HashSet<&str> = HashSet::new();
        for job in &document.jobs {
            let start = job.name.0.as_str();
            // A depth-first search without recursion, since a chain of ten thousand jobs would overflow the stack.
            let mut way: Vec<(&str, usize)> = vec![(start, 0)];
            let mut on_the_way: HashSet<&str> = HashSet::from([start]);
            while let Some((at, next)) = way.pop() {
                let needed = needs.get(at).and_then(|needs| needs.get(next));
                let Some(other) = needed.filter(|_| !done.contains(at)) else {
                    done.insert(at);
                    on_the_way.remove(at);
                    continue;
                };
                way.push((at, next + 1));
                let name = other.0.as_str();
                if on_the_way.insert(name) {
                    way.push((name, 0));
                } else {
                    self.diagnostics.note(
                        other.span,
                        format!("the job `{at}` needs its own token, by way of `{name}`"),
                        "let one of these jobs take its secret from elsewhere",
                    );
                }
            }
        }
    }

    /// An output must not overwrite a file or a secret that jobs read.
    fn no_output_is_a_source(&mut self) {
        for (path, read) in &self.read {
            if let Some(written) = self.files.get(path) {
                self.diagnostics.clash(
                    *read,
                    *written,
                    "this file is overwritten by an output",
                    "write the token to another path",
                );
            }
        }
        for (_, _, secret) in secrets(&self.document.jobs) {
            if let Some(reference) = &secret.secret
                && let Some(written) = self.keys.get(&place(reference))
            {
                self.diagnostics.clash(
                    reference.span,
                    *written,
                    "this key of a Secret is overwritten by an output",
                    "write the token to another key",
                );
            }
        }
    }

    /// An output must not overwrite the configuration, the control socket or a file in the state directory.
    fn no_output_is_our_own(&mut self) {
        let file = &self.document.file;
        let state = file.state.as_ref();
        let state = state.and_then(|state| state.dir.as_ref());
        let socket = file.control.as_ref().map(|control| &control.socket);
        let configuration = self.document.files.iter();
        let configuration: HashSet<PathBuf> = configuration
            .filter_map(|file| std::path::absolute(file).ok())
            .collect();
        for (path, written) in &self.files {
            let what = if configuration.contains(path) {
                "the configuration"
            } else if state.is_some_and(|state| path.starts_with(&state.0)) {
                "in the state directory"
            } else if socket.is_some_and(|socket| socket.0 == *path) {
                "the control socket"
            } else {
                continue;
            };
            self.diagnostics.note(
                *written,
                format!("this output is {what}"),
                "write the token to another path",
            );
        }
    }

    /// The places that artifacts named by formats must not overwrite.
    fn named_places(&self, state: &StateLocation, control: Option<&Path>) -> NamedPlaces {
        let configuration = self.document.files.iter();
        let configuration = configuration.filter_map(|file| std::path::absolute(file).ok());
        let named = self.files.keys().chain(self.read.keys()).cloned();
        let of_state = state.keys().iter().filter_map(|key| match key {
            SecretOrigin::KubernetesSecret {
                namespace,
                name,
                key,
                ..
            } => Some((namespace.clone(), name.clone(), key.clone())),
            _ => None,
        });
        let read = secrets(&self.document.jobs)
            .filter_map(|(_, _, secret)| Some(place(secret.secret.as_ref()?)));
        NamedPlaces {
            files: named
                .chain(configuration)
                .chain(control.map(Path::to_owned))
                .collect(),
            keys: self
                .keys
                .keys()
                .cloned()
                .chain(read)
                .chain(of_state)
                .collect(),
        }
    }

    /// Every job needs an output or a user. Only checked where there are no other mistakes, since a reference that has one does not
    /// count here.
    fn every_job_is_used(&mut self) {
        if !self.diagnostics.notes.is_empty() {
            return;
        }
        for job in &self.document.jobs {
            let name = &job.name;
            let writes = job.outputs.iter().flatten().next().is_some();
            if !writes && !self.used.contains(name.0.as_str()) {
                self.diagnostics.note(
                    name.span,
                    format!("nobody would get the token of the job `{}`", name.0),
                    "add `outputs`, or name the job in a shared output's `from` or in another job's secret",
                );
            }
        }
    }

    fn job(&mut self, raw: &'d JobSpec) -> Job {
        let outputs = raw.outputs.as_ref().map_or(&[][..], Vec::as_slice);
        // With no spare capacity, since there are many jobs.
        let mut checked = Vec::with_capacity(outputs.len());
        checked.extend(outputs.iter().filter_map(|output| {
            self.output(
                output.file.as_ref(),
                output.secret.as_ref(),
                output.format.as_ref(),
            )
        }));
        Job {
            id: JobId::file(raw.name.0.clone()),
            source: self.source(&raw.source),
            refresh: self.policy(raw.refresh.as_ref()),
            verify: self.period(raw.verify.as_ref(), defaults::VERIFY),
            outputs: checked,
            on_remove: raw.on_remove.map(|removal| removal.0).unwrap_or_default(),
            profile: None,
        }
    }

    fn source(&mut self, raw: &'d SourceSpec) -> Source {
        let defaults = self.source_defaults();
        self.plugin(&raw.plugin, PluginUse::Source);
        let secrets = raw.secrets.as_ref();
        let tls = raw
            .tls
            .as_ref()
            .or(defaults.and_then(|source| source.tls.as_ref()));
        let proxy = raw
            .proxy
            .as_ref()
            .or(defaults.and_then(|source| source.proxy.as_ref()));
        let timeout = raw
            .timeout
            .as_ref()
            .or(defaults.and_then(|source| source.timeout.as_ref()));
        Source {
            plugin: raw.plugin.0.clone(),
            config: raw
                .config
                .as_ref()
                .map_or_else(empty_object, |config| config.0.clone()),
            reveal: self.reveal(raw.reveal.as_ref(), secrets),
            secrets: secrets
                .map(|secrets| self.secrets(secrets))
                .unwrap_or_default(),
            allow: raw.allow.clone().unwrap_or_default(),
            allow_addresses: raw
                .allow_addresses
                .iter()
                .flatten()
                .map(|network| network.0)
                .collect(),
            tls: tls.map(|tls| self.tls(tls)).unwrap_or_default(),
            proxy: proxy.map(|proxy| Box::new(proxy.0.clone())),
            timeout: self.period(timeout, defaults::TIMEOUT),
        }
    }

    pub(super) fn source_defaults(&self) -> Option<&'d SourceDefaultsSpec> {
        let defaults = self.document.file.defaults.as_ref();
        defaults.and_then(|defaults| defaults.source.as_ref())
    }

    /// The plugin must exist and be of the kind that is needed here.
    pub(super) fn plugin(&mut self, name: &At<JobName>, wanted: PluginUse) {
        let (built_in, other, kind, place): (&[&str], &[&str], _, _) = match wanted {
            PluginUse::Source => (&SOURCE_PLUGINS, &FORMATTER_PLUGINS, "formatter", "format"),
            PluginUse::Formatter => (&FORMATTER_PLUGINS, &SOURCE_PLUGINS, "source", "source"),
        };
        let own = self.document.file.plugins.iter();
        let own = own.flat_map(|own| &own.0).map(|(own, _)| own.0.as_str());
        let known: Vec<&str> = built_in.iter().copied().chain(own).collect();
        let text = name.0.as_str();
        if known.contains(&text) {
            return;
        }
        if other.contains(&text) {
            return self.diagnostics.note(
                name.span,
                format!("the plugin `{text}` is a {kind}"),
                format!(
                    "it belongs under `{place}`; here you may use {}",
                    list(known.into_iter())
                ),
            );
        }
        let help = match nearest(text, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!(
                "use {}, or describe it: `plugins: {{{text}: {{path: …, sha256: …}}}}`",
                list(known.into_iter())
            ),
        };
        self.diagnostics
            .note(name.span, format!("there is no plugin `{text}`"), help);
    }

    pub(super) fn secrets(
        &mut self,
        named: &'d Named<SecretName, SecretSpec>,
    ) -> LiteMap<String, Secret> {
        let mut secrets = LiteMap::with_capacity(named.0.len());
        for (name, secret) in &named.0 {
            if let Some(secret) = secret
                && let Some(origin) = self.secret_origin(secret)
            {
                self.written_value(&name.0, secret);
                let secret = Secret {
                    origin,
                    rotating: self.rotating(secret),
                    retry_unanswered: self.retry_unanswered(secret),
                    write_back: self.write_back(secret),
                    to: secret.to.clone(),
                };
                secrets.insert(name.0.clone(), secret);
            }
        }
        secrets
    }

    /// A value that is written in the configuration must be one that can be sent.
    fn written_value(&mut self, name: &str, secret: &SecretSpec) {
        let Some(value) = &secret.value else {
            return;
        };
        let odd = match text::meant(value.0.expose_secret().as_bytes()) {
            Err(utf16) => Some(utf16.to_string()),
            Ok([]) => Some("it is empty".to_owned()),
            Ok(meant) => text::oddity(name, meant),
        };
        if let Some(odd) = odd {
            self.diagnostics.note(
                value.span,
                format!("this value cannot be sent: {odd}"),
                "write it as the issuer knows it, on one line",
            );
        }
    }

    fn rotating(&mut self, secret: &SecretSpec) -> bool {
        let Some(rotating) = on(&secret.rotating) else {
            return false;
        };
        if made_anew(secret) {
            self.diagnostics.note(
                rotating.span,
                "a token that is made anew for each call does not rotate",
                "remove `rotating`",
            );
        }
        true
    }

    fn retry_unanswered(&mut self, secret: &SecretSpec) -> RetryUnanswered {
        let Some(retry) = &secret.retry_unanswered else {
            return RetryUnanswered::default();
        };
        if !rotates(secret) {
            self.diagnostics.note(
                retry.span,
                "`retry_unanswered` is about rotating secrets, and this one is none",
                "remove it, or add `rotating: true`",
            );
        }
        retry_of(Some(retry))
    }

    fn write_back(&mut self, secret: &SecretSpec) -> bool {
        let Some(write_back) = on(&secret.write_back) else {
            return false;
        };
        if !rotates(secret) {
            self.diagnostics.note(
                write_back.span,
                "`write_back` is about rotating secrets, and this one is none",
                "remove it, or add `rotating: true`",
            );
        } else if secret.file.is_none() && secret.secret.is_none() {
            self.diagnostics.note(
                write_back.span,
                "only a `file` or a `secret` can be written back to",
                "remove it: `state`, which it needs then, keeps the newest value",
            );
        }
        true
    }

    fn secret_origin(&mut self, secret: &'d SecretSpec) -> Option<SecretOrigin> {
        if let (None, Some(pointer)) = (&secret.file, &secret.pointer) {
            self.diagnostics.note(
                pointer.span,
                "`pointer` without `file`",
                "it leads into the JSON in a `file`; for a Kubernetes Secret it stands beside the key: `secret: {…, pointer: …}`",
            );
        }
        if let Some(path) = &secret.file {
            let path = self.path(path);
            Some(match &secret.pointer {
                Some(pointer) => SecretOrigin::FileMember {
                    path,
                    pointer: pointer.0.clone(),
                },
                None => SecretOrigin::File(path),
            })
        } else if let Some(variable) = &secret.env {
            Some(SecretOrigin::Env(variable.0.clone()))
        } else if let Some(value) = &secret.value {
            Some(SecretOrigin::Value(value.0.clone().into()))
        } else if let Some(reference) = &secret.secret {
            Some(secret_reference(reference))
        } else if let Some(account) = &secret.service_account {
            Some(self.service_account(account))
        } else {
            let job = secret.job.as_ref()?;
            self.job_exists(job);
            Some(SecretOrigin::Job(job.0.clone()))
        }
    }

    fn service_account(&mut self, account: &ServiceAccountSpec) -> SecretOrigin {
        let lifetime = match &account.lifetime {
            None => defaults::SERVICE_ACCOUNT_LIFETIME,
            Some(lifetime) => {
                if lifetime.0 < defaults::SERVICE_ACCOUNT_LIFETIME_MIN {
                    self.diagnostics.note(
                        lifetime.span,
                        "the API server issues no token that lives shorter than 10 minutes",
                        "write `10m` or more",
                    );
                }
                lifetime.0
            }
        };
        SecretOrigin::ServiceAccount {
            namespace: account.namespace.0.clone(),
            name: account.name.0.clone(),
            audiences: account
                .audiences
                .iter()
                .flatten()
                .map(|text| text.0.clone())
                .collect(),
            lifetime,
        }
    }

    /// Counts the job as used, and notes it if it does not exist.
    fn job_exists(&mut self, job: &'d At<JobName>) {
        let name = job.0.as_str();
        self.used.insert(name);
        if self.document.job_names.contains(name) {
            return;
        }
        let meant = match self.diagnostics.notes.is_full() {
            // Comparing thousands of names with thousands of names, for a message that is not shown.
            true => None,
            false => nearest(name, self.document.job_names.iter().map(String::as_str)),
        };
        let help = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "name one of the jobs in this configuration".to_owned(),
        };
        self.diagnostics
            .note(job.span, format!("there is no job `{name}`"), help);
    }

    fn reveal(
        &mut self,
        reveal: Option<&Vec<At<SecretName>>>,
        secrets: Option<&Named<SecretName, SecretSpec>>,
    ) -> BTreeSet<String> {
        let known: Vec<&str> = secrets
            .map(|Named(secrets)| secrets.iter().map(|(name, _)| name.0.as_str()).collect())
            .unwrap_or_default();
        self.revealed(reveal, &known)
    }

    /// The names of revealed secrets, which must be among these.
    pub(super) fn revealed(
        &mut self,
        reveal: Option<&Vec<At<SecretName>>>,
        known: &[&str],
    ) -> BTreeSet<String> {
        let names = reveal.map_or(&[][..], Vec::as_slice);
        for name in names
            .iter()
            .filter(|name| !known.contains(&name.0.as_str()))
        {
            let help = match nearest(&name.0, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "name a secret of this source's `secrets`".to_owned(),
            };
            self.diagnostics.note(
                name.span,
                format!("this source has no secret `{}` to reveal", name.0),
                help,
            );
        }
        names.iter().map(|name| name.0.clone()).collect()
    }

    pub(super) fn tls(&mut self, tls: &At<TlsSpec>) -> Tls {
        let missing = match (&tls.cert_file, &tls.key_file) {
            (Some(_), None) => Some(("cert_file", "key_file")),
            (None, Some(_)) => Some(("key_file", "cert_file")),
            _ => None,
        };
        if let Some((given, missing)) = missing {
            self.diagnostics.note(
                tls.span,
                format!("`{given}` without `{missing}`"),
                "a client certificate needs both",
            );
        }
        Tls {
            ca_file: tls.ca_file.as_ref().map(|path| self.path(path)),
            cert_file: tls.cert_file.as_ref().map(|path| self.path(path)),
            key_file: tls.key_file.as_ref().map(|path| self.path(path)),
        }
    }

    pub(super) fn policy(&mut self, own: Option<&RefreshSpec>) -> Policy {
        let shared = self.document.file.defaults.as_ref();
        let shared = shared.and_then(|shared| shared.refresh.as_ref());
        let given = || own.into_iter().chain(shared);
        let time = |key: fn(&RefreshSpec) -> Option<Time>, default| {
            given().find_map(key).map_or(default, |time| time.0)
        };
        let every = given().find_map(|refresh| refresh.every.as_ref());
        let lifetime = given().find_map(|refresh| refresh.default_lifetime.as_ref());
        Policy {
            at: given()
                .find_map(|refresh| refresh.at)
                .map_or(defaults::AT, |at| at.0),
            before_expiry: time(|refresh| refresh.before_expiry, defaults::BEFORE_EXPIRY),
            jitter: time(|refresh| refresh.jitter, defaults::JITTER),
            every: self.period(every, defaults::EVERY),
            default_lifetime: self.period(lifetime, defaults::DEFAULT_LIFETIME),
        }
    }

    /// A time that must be at least a second.
    pub(super) fn period(&mut self, time: Option<&At<Time>>, default: Duration) -> Duration {
        let Some(time) = time else {
            return default;
        };
        // A default is checked once for each job and noted once.
        if time.0 < MIN_PERIOD && !self.diagnostics.notes.has(time.span) {
            self.diagnostics
                .note(time.span, "shorter than a second", "write `1s` or more");
        }
        time.0
    }

    fn shared_output(&mut self, raw: &'d SharedOutputSpec) -> Option<Arc<SharedOutput>> {
        if raw.from.is_empty() {
            self.diagnostics
                .note(raw.from.span, "an empty `from`", "name at least one job");
        }
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for job in raw.from.iter() {
            self.job_exists(job);
            if let Some(first) = seen.insert(&job.0, job.span) {
                self.diagnostics.clash(
                    job.span,
                    first,
                    format!("the job `{}` is named twice", job.0),
                    "name it once",
                );
            }
        }
        let output = self.output(raw.file.as_ref(), raw.secret.as_ref(), Some(&raw.format))?;
        Some(Arc::new(SharedOutput {
            from: raw
                .from
                .iter()
                .map(|job| JobId::file(job.0.clone()))
                .collect(),
            output,
            on_remove: raw.on_remove.map(|removal| removal.0).unwrap_or_default(),
        }))
    }

    fn output(
        &mut self,
        file: Option<&FileOutputSpec>,
        secret: Option<&At<SecretOutputSpec>>,
        format: Option<&FormatSpec>,
    ) -> Option<Output> {
        if let Some(format) = format {
            self.plugin(&format.plugin, PluginUse::Formatter);
        }
        if let (Some(file), None) = (file, format)
            && file.path.names_directory
        {
            let path = file.path.path.display();
            self.diagnostics.note(
                file.path.span,
                format!("`{path}/` names a directory, and without `format` there is one file"),
                format!(
                    "name the file, e.g. `{}`",
                    file.path.path.join("token").display()
                ),
            );
        }
        let destination = match (file, secret) {
            (Some(file), _) => Destination::File(self.file_destination(file)),
            (None, Some(secret)) => Destination::Secret(self.secret_destination(secret)),
            // The parser has noted it.
            (None, None) => return None,
        };
        let format = format.map(format_of);
        Some(Output {
            destination,
            format,
        })
    }

    fn file_destination(&mut self, raw: &FileOutputSpec) -> FileDestination {
        let path = raw.path.path.clone();
        match self.files.get(&path) {
            Some(first) => self.diagnostics.clash(
                raw.path.span,
                *first,
                format!("two outputs write the file `{}`", path.display()),
                "give one of them another path",
            ),
            None => {
                self.files.insert(path.clone(), raw.path.span);
            }
        }
        FileDestination {
            path,
            mode: raw.mode.map_or(defaults::FILE_MODE, |mode| mode.0),
            owner: raw.owner.map(|owner| owner.0),
            group: raw.group.map(|group| group.0),
            replace: raw.replace.map(|replace| replace.0).unwrap_or_default(),
        }
    }

    fn secret_destination(&mut self, raw: &At<SecretOutputSpec>) -> SecretDestination {
        let span = raw.span;
        let key = raw
            .key
            .as_ref()
            .map_or(defaults::SECRET_KEY, |key| &key.0)
            .to_owned();
        let place = (raw.namespace.0.clone(), raw.name.0.clone(), key.clone());
        match self.keys.get(&place) {
            Some(first) => self.diagnostics.clash(
                span,
                *first,
                format!(
                    "two outputs write the key `{key}` of the Secret `{}/{}`",
                    place.0, place.1
                ),
                "give one of them another key",
            ),
            None => {
                self.keys.insert(place, span);
            }
        }
        SecretDestination {
            namespace: raw.namespace.0.clone(),
            name: raw.name.0.clone(),
            key,
            create: raw.create.unwrap_or(true),
            secret_type: raw.r#type.as_ref().map(|text| text.0.clone()),
            labels: pairs(raw.labels.as_ref(), |key| &key.0, |value| &value.0),
            annotations: pairs(raw.annotations.as_ref(), |key| &key.0, |value| &value.0),
            write: SecretWrite::Patch,
            member: None,
        }
    }
}

/// All secrets of all jobs, with their names.
fn secrets(jobs: &[JobSpec]) -> impl Iterator<Item = (&JobSpec, &At<SecretName>, &SecretSpec)> {
    jobs.iter().flat_map(|job| {
        let named = job.source.secrets.as_ref();
        let named = named.map_or(&[][..], |named| &named.0);
        named
            .iter()
            .filter_map(move |(name, secret)| Some((job, name, secret.as_ref()?)))
    })
}

/// The key of a Secret: namespace, name, key.
fn place(reference: &SecretReferenceSpec) -> (String, String, String) {
    (
        reference.namespace.0.clone(),
        reference.name.0.clone(),
        reference.key.0.clone(),
    )
}

fn secret_reference(reference: &SecretReferenceSpec) -> SecretOrigin {
    SecretOrigin::KubernetesSecret {
        namespace: reference.namespace.0.clone(),
        name: reference.name.0.clone(),
        key: reference.key.0.clone(),
        pointer: reference.pointer.as_ref().map(|pointer| pointer.0.clone()),
    }
}

fn limits(raw: Option<&LimitsSpec>) -> Limits {
    let origin = raw.and_then(|limits| limits.per_origin.as_ref());
    let in_flight = origin.and_then(|origin| origin.in_flight.as_ref());
    let plugin = raw.and_then(|limits| limits.plugin.as_ref());
    let concurrency = raw.and_then(|limits| limits.concurrency.as_ref());
    Limits {
        concurrency: concurrency.map_or(defaults::CONCURRENCY, |count| count.0) as usize,
        in_flight_per_origin: in_flight.map_or(defaults::IN_FLIGHT_PER_ORIGIN, |count| count.0)
            as usize,
        plugin: plugin.map_or_else(defaults::plugin_limits, plugin_limits),
    }
}

fn plugin_limits(raw: &PluginLimitsSpec) -> PluginLimits {
    let bytes = |size: Option<&Size>, default| {
        size.map_or(default, |size| {
            usize::try_from(size.0).unwrap_or(usize::MAX)
        })
    };
    let defaults = defaults::plugin_limits();
    PluginLimits {
        memory_bytes: bytes(raw.memory.as_ref(), defaults.memory_bytes),
        requests: raw.requests.map_or(defaults.requests, |count| count.0),
        response_bytes: bytes(raw.response.as_deref(), defaults.response_bytes),
        artifact_bytes: bytes(raw.artifact.as_ref(), defaults.artifact_bytes),
        log_lines: raw.log_lines.map_or(defaults.log_lines, |count| count.0),
        compile_time: defaults.compile_time,
    }
}

fn pairs<K, V>(
    named: Option<&Named<K, V>>,
    key: fn(&K) -> &String,
    value: fn(&V) -> &String,
) -> BTreeMap<String, String> {
    let named = named.map_or(&[][..], |named| &named.0);
    named
        .iter()
        .filter_map(|(name, text)| Some((key(name).clone(), value(text.as_ref()?).clone())))
        .collect()
}

pub(super) fn format_of(format: &FormatSpec) -> Format {
    let config = format.config.as_ref();
    Format {
        plugin: format.plugin.0.clone(),
        config: config.map_or_else(empty_object, |config| config.0.clone()),
    }
}

/// When an unanswered request is repeated.
pub(super) fn retry_of(retry: Option<&At<Repetition>>) -> RetryUnanswered {
    match retry.map(|retry| retry.0) {
        None => RetryUnanswered::default(),
        Some(None) => RetryUnanswered::Never,
        Some(Some(Duration::ZERO)) => RetryUnanswered::AtOnce,
        Some(Some(after)) => RetryUnanswered::After(after),
    }
}

pub(super) fn empty_object() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

/// The switch, if it is on.
pub(super) fn on(switch: &Option<At<bool>>) -> Option<&At<bool>> {
    switch.as_ref().filter(|switch| ***switch)
}

fn rotates(secret: &SecretSpec) -> bool {
    on(&secret.rotating).is_some()
}

/// Whether the secret is a token that is obtained for each call.
fn made_anew(secret: &SecretSpec) -> bool {
    secret.service_account.is_some() || secret.job.is_some()
}
