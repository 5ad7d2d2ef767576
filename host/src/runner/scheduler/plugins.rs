//! Loading of plugins: work that needs a plugin that is not loaded waits in its queue until loading has ended, however long that
//! takes. Meanwhile it takes no place, no call has begun, and nothing is concluded about its issuer.

use std::sync::Arc;

use super::{EntryKey, RunPhase, Scheduler, Work};
use crate::model::time::Timestamp;
use crate::model::{Job, Output};
use crate::refresh::job::JobEvent;
use crate::runner::ports::ConcurrencyKey;
use crate::runner::status::Compiling;
use crate::runner::work::Task;

/// A plugin that is being loaded, or is about to be.
#[derive(Debug)]
pub(super) struct Loading {
    plugin: Arc<str>,
    since: Timestamp,
    is_begun: bool,
}

impl Scheduler {
    /// Closes this queue until the plugin that it needs is loaded.
    pub(super) fn await_plugin(&mut self, concurrency_key: &ConcurrencyKey) {
        if let Some(plugin) = concurrency_key.plugin()
            && !self.world.ports.acquirer.is_loaded(plugin)
        {
            self.load_plugin(plugin);
        }
    }

    fn load_plugin(&mut self, plugin: &Arc<str>) {
        if self.compiling(plugin).is_some() {
            return;
        }
        self.admission.close(plugin, true);
        let loading = Loading {
            plugin: Arc::clone(plugin),
            since: self.world.now().wall,
            is_begun: false,
        };
        let key = self.next_key();
        self.loading.insert(key, loading);
    }

    /// Loads the plugins of a job long before it is due: after a restart with an empty cache its token may expire before a compiler is done.
    pub(super) fn load_plugins_of(&mut self, job: &Job) {
        let formats = job
            .outputs
            .iter()
            .filter_map(|output| output.format.as_ref());
        let formats = formats.map(|format| &format.plugin);
        let source = &job.source.plugin;
        for plugin in formats.chain([source]) {
            self.await_plugin(&ConcurrencyKey::Local.behind(plugin));
        }
        if !self.world.ports.acquirer.is_judged(job) {
            self.load_plugin(&source.as_str().into());
        }
    }

    /// Other plugins are behind these names.
    pub(super) fn plugins_changed(&mut self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let is_changed = |output: &Output| {
            let format = output.format.as_ref();
            format.is_some_and(|format| names.contains(&format.plugin))
        };
        let jobs: Vec<_> = self
            .jobs
            .iter()
            .map(|(key, entry)| (*key, Arc::clone(&entry.config)))
            .collect();
        for (key, job) in jobs {
            let outputs = job.outputs.iter().enumerate();
            let outputs: Vec<usize> = outputs
                .filter(|(_, output)| is_changed(output))
                .map(|(index, _)| index)
                .collect();
            let is_source = names.contains(&job.source.plugin);
            if is_source || !outputs.is_empty() {
                self.load_plugins_of(&job);
            }
            for index in outputs {
                self.output_changed(key, index);
            }
            if is_source {
                self.tell(key, JobEvent::SecretsChanged);
                self.client_changed(key);
            }
        }
        let shared = self
            .shared
            .iter()
            .filter(|(_, shared)| is_changed(&shared.config.output));
        for key in shared.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.shared_changed(key);
        }
    }

    /// The next plugin to load; none while stopping. It takes no place: it sends no request, and the number of compilers is
    /// limited elsewhere.
    pub(super) fn begin_loading(&mut self) -> Option<(Work, Task)> {
        let is_running = matches!(self.phase, RunPhase::Running);
        let mut loading = self.loading.iter_mut().filter(|_| is_running);
        let (key, loading) = loading.find(|(_, it)| !it.is_begun)?;
        loading.is_begun = true;
        let jobs = self.jobs.values().map(|entry| &entry.config);
        let jobs = jobs.filter(|job| *job.source.plugin == *loading.plugin);
        let task = Task::LoadPlugin(Arc::clone(&loading.plugin), jobs.cloned().collect());
        Some((Work::LoadPlugin(*key), task))
    }

    /// Opens the queues that waited for a plugin, also if it cannot be loaded: then each call fails with that error, and the next
    /// one requests the plugin again.
    pub(super) fn plugin_loaded(&mut self, key: EntryKey) {
        if let Some(loading) = self.loading.remove(&key) {
            self.admission.close(&loading.plugin, false);
        }
    }

    /// The plugin that a job waits for, its source's or a format's; none: it waits for none.
    pub(super) fn waits_for_plugin(&self, key: EntryKey) -> Option<Compiling> {
        let entry = self.jobs.get(&key)?;
        let source = Some(&entry.config.source.plugin).filter(|_| entry.machine.waits_for_turn());
        let shared = self.shared_of.get(&entry.config.id).into_iter().flatten();
        let shared = shared.filter_map(|key| Some(&self.shared.get(key)?.config.output));
        let outputs = entry.config.outputs.iter().chain(shared);
        let formats = outputs.filter_map(|output| Some(&output.format.as_ref()?.plugin));
        let mut plugins = source.into_iter().chain(formats);
        plugins.find_map(|plugin| self.compiling(plugin))
    }

    fn compiling(&self, plugin: &str) -> Option<Compiling> {
        let loading = self.loading.values().find(|it| &*it.plugin == plugin)?;
        Some(Compiling {
            plugin: plugin.to_owned(),
            since: loading.since,
        })
    }
}
