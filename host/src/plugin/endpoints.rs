//! A cache of the endpoints' origins in validated configurations, since validation runs in a child process and concurrency keys
//! and calls need the origins at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::inspect::Digest;
use super::schema::Judgement;
use crate::model::Origin;

/// Configurations whose endpoints are cached: twice those of the largest supported configuration, so that those of before a
/// reload are included.
const MAX_KEPT: usize = 20_000;

/// Hash of a plugin and a configuration for it: there are many, and each may be long.
type ConfigHash = [u8; 16];

#[derive(Default)]
pub(super) struct Endpoints {
    kept: HashMap<ConfigHash, Arc<[Origin]>>,
    /// Interned: ten thousand jobs have a few issuers.
    lists: HashSet<Arc<[Origin]>>,
}

impl Endpoints {
    pub(super) fn get(&self, plugin: Digest, config: &Value) -> Option<Arc<[Origin]>> {
        self.kept.get(&config_hash(plugin, config)?).cloned()
    }

    /// Caches the endpoints of the valid configurations.
    pub(super) fn keep(&mut self, plugin: Digest, configs: &[&Value], judged: &[Judgement]) {
        let right = configs
            .iter()
            .zip(judged)
            .filter(|(_, judged)| judged.mistakes.is_empty());
        for (config, judged) in right {
            if self.kept.len() >= MAX_KEPT {
                *self = Self::default();
            }
            let list = match self.lists.get(judged.endpoints.as_slice()) {
                Some(known) => Arc::clone(known),
                None => Arc::from(judged.endpoints.as_slice()),
            };
            self.lists.insert(Arc::clone(&list));
            self.kept
                .extend(config_hash(plugin, config).map(|key| (key, list)));
        }
    }
}

fn config_hash(plugin: Digest, config: &Value) -> Option<ConfigHash> {
    let mut hash = Sha256::new_with_prefix(plugin.0);
    hash.update(serde_json::to_vec(config).ok()?);
    hash.finalize().first_chunk().copied()
}
