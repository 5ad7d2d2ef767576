//! A cache of what validation found in configurations: the origins of their endpoints, or that they are wrong. Validation runs in
//! a child process, and concurrency keys and calls need its result at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::inspect::Digest;
use super::schema::Judgement;
use crate::model::Origin;
use crate::model::failure::{Failure, FailureKind, HostCode};

/// Validated configurations in the cache: twice those of ten thousand jobs.
const MAX_KEPT: usize = 20_000;

/// Hash of a plugin and a configuration for it: there are many, and each may be long.
type ConfigHash = [u8; 16];

/// A configuration that its plugin's schema refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrongConfig {
    mistakes: usize,
}

impl WrongConfig {
    pub(super) fn of(judged: &Judgement) -> Option<Self> {
        let mistakes = judged.mistakes.len();
        (mistakes > 0).then_some(Self { mistakes })
    }

    /// The failure of its job. The mistakes themselves may quote the configuration, so they are left to `evertoken check`.
    pub(super) fn to_failure(self, plugin: &str) -> Failure {
        let mistakes = match self.mistakes {
            1 => "1 mistake".to_owned(),
            many => format!("{many} mistakes"),
        };
        Failure::new(
            FailureKind::InvalidConfig,
            HostCode::PluginInvalidConfig,
            format!(
                "plugin `{plugin}` finds {mistakes} in the job's `source.config`; `evertoken check` shows each with its mend"
            ),
        )
    }
}

#[derive(Default)]
pub(super) struct Endpoints {
    kept: HashMap<ConfigHash, Result<Arc<[Origin]>, WrongConfig>>,
    /// Interned: ten thousand jobs have a few issuers.
    lists: HashSet<Arc<[Origin]>>,
}

impl Endpoints {
    pub(super) fn get(
        &self,
        plugin: Digest,
        config: &Value,
    ) -> Option<Result<Arc<[Origin]>, WrongConfig>> {
        self.kept.get(&config_hash(plugin, config)?).cloned()
    }

    pub(super) fn keep(&mut self, plugin: Digest, configs: &[&Value], judged: &[Judgement]) {
        for (config, judged) in configs.iter().zip(judged) {
            if self.kept.len() >= MAX_KEPT {
                *self = Self::default();
            }
            let found = self.result(judged);
            self.kept
                .extend(config_hash(plugin, config).map(|key| (key, found)));
        }
    }

    fn result(&mut self, judged: &Judgement) -> Result<Arc<[Origin]>, WrongConfig> {
        if let Some(wrong) = WrongConfig::of(judged) {
            return Err(wrong);
        }
        let list = match self.lists.get(judged.endpoints.as_slice()) {
            Some(known) => Arc::clone(known),
            None => Arc::from(judged.endpoints.as_slice()),
        };
        self.lists.insert(Arc::clone(&list));
        Ok(list)
    }
}

fn config_hash(plugin: Digest, config: &Value) -> Option<ConfigHash> {
    let mut hash = Sha256::new_with_prefix(plugin.0);
    hash.update(serde_json::to_vec(config).ok()?);
    hash.finalize().first_chunk().copied()
}
