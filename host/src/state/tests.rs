//! The storage of chains for the journal: found by value, changed by compare-and-swap, deleted with their last job. Memory and
//! directory are tested against one model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::records::Expected;
use super::*;
use crate::capability::chain::Chain;
use crate::capability::keep::{
    PLUGIN_KEY_MAX_BYTES, PLUGIN_VALUES_MAX, PLUGIN_VALUES_MAX_BYTES, Seed,
};
use crate::model::failure::FailureKind;

const SECRET: &str = "refresh_token";

fn job(name: &str) -> JobId {
    JobId::file(name)
}

fn memory() -> Store {
    Store::in_memory(MemoryState::new([7; 32]), Vec::new()).unwrap()
}

/// A directory store, and its directory.
fn directory() -> (Store, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), vec![StateKey::parse(&[1; 32]).unwrap()]).unwrap();
    (store, folder)
}

/// What is found for a job with this configured value: the newest value, and the role of the configured one.
async fn found(store: &Store, job: &JobId, seed: Option<&str>) -> Option<(String, Seed)> {
    let seed = seed.map(str::as_bytes);
    let found = store.find_chain(job, SECRET, seed).await.unwrap()?;
    let value = found.stored.chain.value.expose_secret().to_vec();
    Some((String::from_utf8(value).unwrap(), found.seed))
}

fn some(value: &str, seed: Seed) -> Option<(String, Seed)> {
    Some((value.to_owned(), seed))
}

/// A change of a found chain, as the journal makes it.
async fn change(
    store: &Store,
    job: &JobId,
    seed: Option<&str>,
    next: &Chain,
    expected: Option<&Revision>,
) -> Option<Revision> {
    let change = ChainChange {
        job,
        secret: SECRET,
        binds: true,
        seed: seed.map(str::as_bytes),
        next,
        expected,
    };
    store.swap_chain(change).await.unwrap()
}

/// The next value, as the journal would have it.
async fn rotate(store: &Store, job: &JobId, seed: Option<&str>, value: &str) -> bool {
    let bytes = seed.map(str::as_bytes);
    let found = store.find_chain(job, SECRET, bytes).await.unwrap();
    let (chain, expected) = match found {
        Some(found) => (found.stored.chain, Some(found.stored.revision)),
        None => {
            let first = bytes.unwrap_or(value.as_bytes()).to_vec();
            let id = store.chain_id(&JobId::file("job"), &first);
            match store.chain(id).await.unwrap() {
                Some(stored) => (stored.chain, Some(stored.revision)),
                None => (Chain::new(id, first.into()), None),
            }
        }
    };
    let next = chain.succeeded_by(value.as_bytes().to_vec().into(), None);
    change(store, job, seed, &next, expected.as_ref())
        .await
        .is_some()
}

async fn forget(store: &Store, job: &JobId) {
    store.forget(job, &|_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_chain_is_found_by_every_value_it_ever_had() {
    let (directory, _folder) = directory();
    for store in [&directory, &memory()] {
        let (a, unknown) = (job("a"), job("unknown"));
        assert_eq!(found(store, &a, Some("v0")).await, None);
        assert_eq!(found(store, &a, None).await, None);
        for value in ["v1", "v2"] {
            assert!(rotate(store, &a, Some("v0"), value).await);
        }
        for (seed, expected) in [
            (Some("v0"), some("v2", Seed::Unchanged)),
            (Some("v1"), some("v2", Seed::Restored)),
            (Some("v2"), some("v2", Seed::Newest)),
            (Some("login"), None),
            (None, some("v2", Seed::Unread)),
        ] {
            assert_eq!(found(store, &a, seed).await, expected, "{seed:?}");
        }
        assert_eq!(found(store, &unknown, None).await, None);
    }
}

#[tokio::test]
async fn a_value_that_was_written_back_to_its_home_and_was_overtaken_is_no_restored_one() {
    let store = memory();
    let a = job("a");
    assert!(rotate(&store, &a, Some("v0"), "v1").await);
    // v1 is in the job's own secret now; v2 is not yet.
    assert!(rotate(&store, &a, Some("v1"), "v2").await);
    assert_eq!(
        found(&store, &a, Some("v1")).await,
        some("v2", Seed::Unchanged)
    );
    assert_eq!(
        found(&store, &a, Some("v0")).await,
        some("v2", Seed::Restored)
    );
    // The seed could not be read once: its former value is still known.
    assert!(rotate(&store, &a, None, "v3").await);
    assert_eq!(
        found(&store, &a, Some("v1")).await,
        some("v3", Seed::Unchanged)
    );
}

#[tokio::test]
async fn two_jobs_with_one_value_share_a_chain_and_a_renamed_job_keeps_it() {
    let store = memory();
    let (a, renamed) = (job("a"), job("renamed"));
    assert!(rotate(&store, &a, Some("v0"), "v1").await);
    assert_eq!(
        found(&store, &renamed, Some("v0")).await,
        some("v1", Seed::Unchanged)
    );
    assert_eq!(
        found(&store, &renamed, Some("v1")).await,
        some("v1", Seed::Newest)
    );
    assert!(rotate(&store, &renamed, Some("v0"), "v2").await);
    assert_eq!(
        found(&store, &a, Some("v0")).await,
        some("v2", Seed::Unchanged)
    );
}

#[tokio::test]
async fn a_new_login_is_a_new_chain_and_the_old_seed_put_back_is_known_as_spent() {
    let store = memory();
    let a = job("a");
    assert!(rotate(&store, &a, Some("v0"), "v1").await);
    assert_eq!(found(&store, &a, Some("w0")).await, None);
    assert!(rotate(&store, &a, Some("w0"), "w1").await);
    assert_eq!(found(&store, &a, None).await, some("w1", Seed::Unread));
    assert_eq!(
        found(&store, &a, Some("v0")).await,
        some("v1", Seed::Restored)
    );
    assert_eq!(
        found(&store, &a, Some("w0")).await,
        some("w1", Seed::Unchanged)
    );
}

#[tokio::test]
async fn of_two_who_change_a_chain_in_one_state_one_succeeds() {
    let (directory, _folder) = directory();
    for store in [&directory, &memory()] {
        let a = job("a");
        let first = Chain::new(
            store.chain_id(&JobId::file("job"), b"v0"),
            b"v0".to_vec().into(),
        );
        let created = change(store, &a, Some("v0"), &first, None).await.unwrap();
        assert_eq!(change(store, &a, Some("v0"), &first, None).await, None);
        let next = |value: &str| first.succeeded_by(value.as_bytes().to_vec().into(), None);
        let (one, other) = (next("one"), next("other"));
        let (left, right) = tokio::join!(
            change(store, &a, None, &one, Some(&created)),
            change(store, &a, None, &other, Some(&created))
        );
        let winner = match (&left, &right) {
            (Some(_), None) => "one",
            (None, Some(_)) => "other",
            _ => panic!("{left:?} {right:?}"),
        };
        assert_eq!(found(store, &a, None).await, some(winner, Seed::Unread));
        // The value that lost the race belongs to no chain.
        let loser = if winner == "one" { "other" } else { "one" };
        assert_eq!(found(store, &a, Some(loser)).await, None);
        let stored = store.chain(first.id).await.unwrap().unwrap();
        assert_eq!(Some(stored.revision), left.or(right));
        assert_eq!(change(store, &a, None, &first, Some(&created)).await, None);
    }
}

#[tokio::test]
async fn the_same_chain_written_twice_is_two_states() {
    let store = memory();
    let first = Chain::new(
        store.chain_id(&JobId::file("job"), b"v0"),
        b"v0".to_vec().into(),
    );
    let one = change(&store, &job("a"), None, &first, None).await.unwrap();
    let two = change(&store, &job("a"), None, &first, Some(&one))
        .await
        .unwrap();
    assert_ne!(one, two);
}

#[tokio::test]
async fn a_chain_is_forgotten_with_the_last_job_that_it_is_kept_for() {
    let (directory, _folder) = directory();
    for store in [&directory, &memory()] {
        let (a, b) = (job("a"), job("b"));
        assert!(rotate(store, &a, Some("old"), "old-1").await);
        assert!(rotate(store, &a, Some("v0"), "v1").await);
        assert!(rotate(store, &b, Some("v0"), "v2").await);
        forget(store, &a).await;
        assert_eq!(found(store, &a, None).await, None);
        assert_eq!(
            found(store, &a, Some("old")).await,
            None,
            "an earlier login"
        );
        assert_eq!(
            found(store, &a, Some("v0")).await,
            some("v2", Seed::Unchanged)
        );
        forget(store, &b).await;
        for value in ["v0", "v1", "v2"] {
            assert_eq!(found(store, &a, Some(value)).await, None, "{value}");
        }
        assert_eq!(store.jobs().await.unwrap(), []);
    }
}

#[tokio::test]
async fn what_may_not_go_stays_whole() {
    let store = memory();
    let a = job("a");
    assert!(rotate(&store, &a, Some("v0"), "v1").await);
    let refusal = Failure::new(FailureKind::Denied, "test.in-use", "in use");
    let refused = store.forget(&a, &|_| Err(refusal.clone())).await;
    assert_eq!(refused, Err(refusal));
    assert_eq!(
        found(&store, &a, Some("v0")).await,
        some("v1", Seed::Unchanged)
    );
}

#[tokio::test]
async fn chains_are_found_after_a_restart_and_under_another_state_key() {
    let (store, folder) = directory();
    assert!(rotate(&store, &job("a"), Some("v0"), "v1").await);
    let id = store.chain_id(&JobId::file("job"), b"v0");
    drop(store);
    let key = |byte| StateKey::parse(&[byte; 32]).unwrap();
    for keys in [vec![key(1)], vec![key(2), key(1)], vec![key(2)]] {
        let store = Store::open(folder.path(), keys).unwrap();
        assert_eq!(store.chain_id(&JobId::file("job"), b"v0"), id);
        assert_eq!(
            found(&store, &job("b"), Some("v0")).await,
            some("v1", Seed::Unchanged)
        );
    }
    let (elsewhere, _folder) = directory();
    assert_ne!(
        elsewhere.chain_id(&JobId::file("job"), b"v0"),
        id,
        "each store has a key of its own"
    );
}

#[tokio::test]
async fn the_chains_of_a_job_are_listed_under_their_secrets() {
    let store = memory();
    let a = job("a");
    assert!(rotate(&store, &a, Some("v0"), "v1").await);
    assert!(rotate(&store, &job("b"), Some("w0"), "w1").await);
    let chains = store.chains(&a).await.unwrap();
    let names: Vec<_> = chains.iter().map(|held| held.secret.as_str()).collect();
    assert_eq!(names, [SECRET]);
    let stored = chains[0].chain.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(
        (stored.chain.id, stored.chain.generation),
        (store.chain_id(&JobId::file("job"), b"v0"), 1)
    );
}

/// Fails what is next.
#[derive(Default)]
struct Once(Mutex<Option<&'static str>>);

impl Once {
    fn due(&self, place: &str) -> Result<(), Failure> {
        let mut due = self.0.lock().unwrap();
        if due.is_some_and(|due| due == place) {
            *due = None;
            return Err(Failure::new(FailureKind::Unavailable, "test", place));
        }
        Ok(())
    }
}

impl Faults for Once {
    fn read(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { self.due("read") })
    }

    fn before<'a>(&'a self, _: &'a MemoryWrite) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { self.due("before") })
    }

    fn after<'a>(
        &'a self,
        write: &'a MemoryWrite,
        applied: bool,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            assert!(matches!(write, MemoryWrite::Put(RecordKey::Chain(_))) && applied);
            self.due("after")
        })
    }
}

#[tokio::test]
async fn a_simulated_memory_outlives_its_store_and_fails_where_it_is_told_to() {
    let faults = Arc::new(Once::default());
    let state = MemoryState::new([1; 32]);
    let store = Store::in_memory(state.clone().with_faults(faults.clone()), Vec::new()).unwrap();
    let a = job("a");
    let first = Chain::new(
        store.chain_id(&JobId::file("job"), b"v0"),
        b"v0".to_vec().into(),
    );
    for (place, is_written) in [("before", false), ("after", true)] {
        let change = ChainChange {
            job: &a,
            secret: SECRET,
            binds: true,
            seed: None,
            next: &first,
            expected: None,
        };
        *faults.0.lock().unwrap() = Some(place);
        assert_eq!(store.swap_chain(change).await.unwrap_err().message, place);
        let other = Store::in_memory(state.clone(), Vec::new()).unwrap();
        assert_eq!(other.chain(first.id).await.unwrap().is_some(), is_written);
    }
    *faults.0.lock().unwrap() = Some("read");
    assert!(store.chain(first.id).await.is_err());
    drop(store);
    let restarted = Store::in_memory(state.clone(), Vec::new()).unwrap();
    assert!(restarted.is_exclusive());
    assert_eq!(found(&restarted, &a, None).await, some("v0", Seed::Unread));
    assert!(
        !Store::in_memory(state.shared_by_processes(), Vec::new())
            .unwrap()
            .is_exclusive()
    );
}

/// Values that are configured; those of issuers are above, one for each step.
const SEEDS: u8 = 6;

/// The values by which a chain is found for unrelated jobs.
const RECENT: usize = 8;

/// Jobs, values and chains, without records.
#[derive(Default)]
struct Model {
    /// By first value: all values, the newest last.
    chains: BTreeMap<u8, Vec<u8>>,
    /// By job: its current chain.
    bindings: BTreeMap<u8, u8>,
    /// By chain and job: the configured value when the job last changed the chain.
    seeds: BTreeMap<(u8, u8), Option<u8>>,
}

impl Model {
    /// The chains that a value may belong to: those of the job, current or former, then the one that began with it, then any with
    /// it among its last values. More than one only if another chain was begun with a value that a chain had long ago; which of
    /// them counts is open.
    fn led_to(&self, job: u8, value: u8) -> Vec<u8> {
        let knows = |first: u8, among: usize| {
            let is_seed = |((chain, _), seed): (&(u8, u8), &Option<u8>)| {
                *chain == first && *seed == Some(value)
            };
            let mut values = self.chains[&first].iter().rev().take(among);
            first == value || values.any(|known| *known == value) || self.seeds.iter().any(is_seed)
        };
        let all = || self.chains.keys().copied();
        let own: Vec<u8> = all()
            .filter(|first| self.seeds.contains_key(&(*first, job)) && knows(*first, usize::MAX))
            .collect();
        match (own.is_empty(), self.chains.contains_key(&value)) {
            (false, _) => own,
            (true, true) => vec![value],
            (true, false) => all().filter(|first| knows(*first, RECENT)).collect(),
        }
    }

    fn is_open(&self, job: u8, seed: Option<u8>) -> bool {
        seed.is_some_and(|value| self.led_to(job, value).len() > 1)
    }

    fn find(&self, job: u8, seed: Option<u8>) -> Option<(u8, u8, Seed)> {
        let binding = self.bindings.get(&job);
        let Some(value) = seed else {
            let first = *binding?;
            return Some((first, *self.chains.get(&first)?.last()?, Seed::Unread));
        };
        let first = *self.led_to(job, value).first()?;
        let newest = *self.chains[&first].last()?;
        let untouched = match binding {
            Some(bound) => self.seeds.get(&(*bound, job)) == Some(&Some(value)),
            None => self
                .seeds
                .iter()
                .any(|((chain, _), seed)| *chain == first && *seed == Some(value)),
        };
        let seed = match (newest == value, untouched) {
            (true, _) => Seed::Newest,
            (false, true) => Seed::Unchanged,
            (false, false) => Seed::Restored,
        };
        Some((first, newest, seed))
    }

    fn rotate(&mut self, job: u8, seed: Option<u8>, value: u8) {
        let first = match self.find(job, seed) {
            Some((first, ..)) => first,
            None => seed.unwrap_or(value),
        };
        self.chains.entry(first).or_default().push(value);
        let last_seed = self.bindings.get(&job).copied();
        let last_seed = last_seed.and_then(|bound| self.seeds[&(bound, job)]);
        self.seeds.insert((first, job), seed.or(last_seed));
        self.bindings.insert(job, first);
    }

    fn forget(&mut self, job: u8) {
        self.bindings.remove(&job);
        self.seeds.retain(|(_, bound), _| *bound != job);
        let kept: BTreeSet<u8> = self.seeds.keys().map(|(chain, _)| *chain).collect();
        self.chains.retain(|first, _| kept.contains(first));
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A job with this configured value gets a new value.
    Rotate(u8, Option<u8>),
    Forget(u8),
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let rotate = (0..3_u8, proptest::option::of(0..SEEDS + 25));
    prop_oneof![
        8 => rotate.prop_map(|(job, seed)| Step::Rotate(job, seed)),
        1 => (0..3_u8).prop_map(Step::Forget),
        1 => Just(Step::Restart),
    ]
}

fn text(value: u8) -> String {
    format!("value {value}")
}

async fn assert_is(store: &Store, model: &Model) {
    for number in 0..3 {
        let job = job(&text(number));
        let seeds = (0..SEEDS + 25).map(Some).chain([None]);
        for seed in seeds.filter(|seed| !model.is_open(number, *seed)) {
            let seen = found(store, &job, seed.map(text).as_deref()).await;
            let expected = model.find(number, seed);
            let expected = expected.map(|(_, newest, seed)| (text(newest), seed));
            assert_eq!(seen, expected, "job {number}, seed {seed:?}");
        }
    }
}

async fn step(store: &Store, step: &Step, value: u8) {
    match step {
        Step::Rotate(number, seed) => {
            let seed = seed.map(text);
            let job = job(&text(*number));
            assert!(rotate(store, &job, seed.as_deref(), &text(value)).await);
        }
        Step::Forget(number) => forget(store, &job(&text(*number))).await,
        Step::Restart => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_and_directory_keep_what_the_model_keeps(steps in proptest::collection::vec(any_step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let state = MemoryState::new([3; 32]);
            let (mut on_disk, folder) = directory();
            let mut in_memory = Store::in_memory(state.clone(), Vec::new()).unwrap();
            let mut model = Model::default();
            for (mut taken, value) in steps.into_iter().zip(SEEDS..) {
                if let Step::Rotate(job, seed) = &mut taken {
                    // No job is configured with a value that no issuer has issued yet.
                    *seed = seed.map(|seed| if seed < value { seed } else { seed % SEEDS });
                    *seed = seed.filter(|seed| !model.is_open(*job, Some(*seed)));
                }
                let taken = &taken;
                match taken {
                    Step::Rotate(job, seed) => model.rotate(*job, *seed, value),
                    Step::Forget(job) => model.forget(*job),
                    Step::Restart => {
                        drop(on_disk);
                        let key = StateKey::parse(&[1; 32]).unwrap();
                        on_disk = Store::open(folder.path(), vec![key]).unwrap();
                        in_memory = Store::in_memory(state.clone(), Vec::new()).unwrap();
                    }
                }
                step(&on_disk, taken, value).await;
                step(&in_memory, taken, value).await;
            }
            assert_is(&on_disk, &model).await;
            assert_is(&in_memory, &model).await;
        });
    }
}

/// The operations of each place on one record after the other: all that a new place must support.
#[tokio::test]
async fn each_place_for_records_reads_lists_and_compares_and_swaps() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = seal::Keyring::default();
    let (on_disk, _) = directory::open(folder.path(), &keyring).unwrap();
    let places: [&dyn Records; 2] = [&MemoryState::new([1; 32]), &on_disk];
    let bytes = |text: &str| zeroize::Zeroizing::new(text.as_bytes().to_vec());
    for place in places {
        let key = RecordKey::Token(job("a"));
        let put = async |expected: Expected, text: &str| {
            let written = place.put_if(&key, expected, bytes(text)).await.unwrap();
            written.map(|written| written.revision)
        };
        let read = async || {
            let stored = place.get(&key).await.unwrap()?;
            Some((
                stored.revision.clone(),
                String::from_utf8(stored.value.to_vec()).unwrap(),
            ))
        };
        assert_eq!(read().await, None);
        let first = put(Expected::Nothing, "one").await.unwrap();
        assert_eq!(put(Expected::Nothing, "lost").await, None);
        let second = put(Expected::At(first.clone()), "two").await.unwrap();
        assert_eq!(put(Expected::At(first.clone()), "lost").await, None);
        assert_eq!(read().await, Some((second.clone(), "two".to_owned())));
        let third = put(Expected::Anything, "two").await.unwrap();
        assert_ne!(second, third, "the same bytes are another state");
        let listed = place.list().await.unwrap();
        let listed = listed.iter().filter(|(found, _)| *found == key);
        let listed: Vec<_> = listed.map(|(_, stored)| stored.revision.clone()).collect();
        assert_eq!(listed, std::slice::from_ref(&third));
        assert!(place.keys().await.unwrap().contains(&key));
        assert!(!place.delete_if(&key, Expected::At(second)).await.unwrap());
        assert!(place.delete_if(&key, Expected::At(third)).await.unwrap());
        assert_eq!(read().await, None);
        for expected in [Expected::At(first), Expected::Anything] {
            assert!(place.delete_if(&key, expected).await.unwrap(), "it is gone");
        }
    }
}

/// A plugin's cached values are one record, which must fit into a Secret.
#[tokio::test]
async fn all_that_a_plugin_may_cache_fits_a_secret() {
    let store = memory();
    let a = job("a");
    let each = PLUGIN_VALUES_MAX_BYTES / PLUGIN_VALUES_MAX - PLUGIN_KEY_MAX_BYTES;
    for n in 0..PLUGIN_VALUES_MAX {
        let key = format!("{n:0>width$}", width = PLUGIN_KEY_MAX_BYTES);
        store
            .set_plugin_value(&a, &key, &vec![b'x'; each])
            .await
            .unwrap();
    }
    let stored = store
        .records
        .get(&RecordKey::Values(a))
        .await
        .unwrap()
        .unwrap();
    assert!(stored.value.len() > PLUGIN_VALUES_MAX_BYTES * 9 / 10);
    assert!(stored.value.len() < secrets::SECRET_MAX_BYTES / 2);
}
