//! The operators: they log in when a chain was rejected, rename jobs, install plugins, restore old Secrets.

use std::sync::Arc;
use std::time::Duration;

use evertoken::runner::{Handle, JobChange};

use super::jobs;
use super::scenario::Hand;
use super::world::{Facts, World};

/// The time until an operator who was called has logged in, in seconds.
const COMES_WITHIN_S: std::ops::Range<u64> = 30..600;

/// An operator is called because a job's chain is rejected, and logs in.
pub fn call(world: &Arc<World>, facts: &mut Facts, job: usize) {
    let Some(login) = facts.jobs.get(job).and_then(|job| job.plan.login) else {
        return;
    };
    let is_attended = facts
        .logins
        .get_mut(login)
        .is_none_or(|login| std::mem::replace(&mut login.is_attended, true));
    if is_attended {
        return;
    }
    let wait = Duration::from_secs(facts.rng.u64(COMES_WITHIN_S));
    let world = Arc::clone(world);
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        let now = world.time.now();
        let mut facts = world.facts();
        if facts.could_have_one(job) {
            // Another login, or the plugin, has resolved it.
            if let Some(login) = facts.logins.get_mut(login) {
                login.is_attended = false;
            }
        } else {
            facts.log_in(login, now);
        }
    });
}

/// An operator acts; running processes that read the configuration are updated.
pub async fn act(world: &World, hand: Hand, running: &[Handle]) {
    let changes = {
        let mut facts = world.facts();
        changes(world, &mut facts, hand)
    };
    let reloads = match hand {
        Hand::TakeOut(_) => changes.into_iter().map(|change| vec![change]).collect(),
        _ => vec![changes],
    };
    for reload in reloads.into_iter().filter(|reload| !reload.is_empty()) {
        for handle in running {
            // A process that has just ended reads the new configuration at its start.
            let _ = handle.apply(reload.clone()).await;
        }
    }
}

fn changes(world: &World, facts: &mut Facts, hand: Hand) -> Vec<JobChange> {
    let now = world.time.now();
    facts.count("hands on it");
    facts.note(now, format_args!("somebody does: {hand:?}"));
    match hand {
        Hand::Rename(index) => {
            let Some(job) = facts.jobs.get_mut(index) else {
                return Vec::new();
            };
            let before = jobs::id(index, job.renamed);
            job.renamed += 1;
            job.had_one = false;
            facts.hinder(index, now, now, "a new name");
            // Under another name it is a new job, which notices an outage anew.
            facts.pace.started(now);
            let mut changes = vec![JobChange::Remove(before)];
            changes.extend(put(facts, index));
            changes
        }
        Hand::Reconfigure(index) => {
            let Some(job) = facts.jobs.get_mut(index) else {
                return Vec::new();
            };
            job.reconfigured += 1;
            put(facts, index).into_iter().collect()
        }
        Hand::Retime(index) => {
            if let Some(job) = facts.jobs.get_mut(index) {
                job.is_retimed = !job.is_retimed;
            }
            put(facts, index).into_iter().collect()
        }
        Hand::Reorder(index) => {
            if let Some(job) = facts.jobs.get_mut(index) {
                job.is_reordered = !job.is_reordered;
            }
            put(facts, index).into_iter().collect()
        }
        Hand::TakeOut(index) => {
            let Some(job) = facts.jobs.get_mut(index) else {
                return Vec::new();
            };
            job.had_one = false;
            let remove = JobChange::Remove(jobs::id(index, job.renamed));
            // Another process may verify later what this one deleted.
            let end = now + jobs::verify(job);
            facts.hinder(index, now, end, "a job that was taken out for a moment");
            facts.pace.started(now);
            [remove].into_iter().chain(put(facts, index)).collect()
        }
        Hand::Upgrade => {
            facts.plugin_version += 1;
            Vec::new()
        }
        Hand::LogIn(index) => {
            if let Some(login) = facts.jobs.get(index).and_then(|job| job.plan.login) {
                facts.log_in(login, now);
            }
            Vec::new()
        }
        Hand::Restore(index) => {
            restore(facts, index, now);
            Vec::new()
        }
        Hand::Revoke(index) => {
            revoke(facts, index);
            Vec::new()
        }
    }
}

fn put(facts: &Facts, index: usize) -> Option<JobChange> {
    let job = jobs::one(facts, index)?;
    Some(JobChange::Put(Arc::new(job)))
}

fn restore(facts: &mut Facts, index: usize, now: Duration) {
    let login = facts.jobs.get(index).and_then(|job| job.plan.login);
    if let Some(login) = login.and_then(|login| facts.logins.get_mut(login)) {
        login.configured.clone_from(&login.first);
        login.changed = now;
    }
}

fn revoke(facts: &mut Facts, index: usize) {
    let login = facts.jobs.get(index).and_then(|job| job.plan.login);
    let Some(login) = login.and_then(|login| facts.logins.get(login)) else {
        return;
    };
    let (issuer, family) = (login.issuer, login.family);
    if let Some(issuer) = facts.issuers.get_mut(issuer) {
        issuer.revoke(family);
        facts.count("chains ended by the issuer");
    }
}
