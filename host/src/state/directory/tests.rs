//! The directory store from the view of its users: durable, locked, encrypted, and without loss.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use redb::{ReadableDatabase as _, ReadableTableMetadata as _};
use secrecy::{ExposeSecret, SecretSlice};

use super::database::{META, META_SCHEMA, RECORDS, SCHEMA};
use super::*;
use crate::capability::chain::Chain;
use crate::capability::keep::{
    ChainChange, Keeper, PLUGIN_VALUES_MAX, PLUGIN_VALUES_MAX_BYTES, Seed,
};
use crate::model::JobId;
use crate::model::failure::{Failure, FailureKind};
use crate::model::time::Timestamp;
use crate::model::token::{Expiry, KeptToken, Token};
use crate::state::{StateKey, Store};

/// The database, opened as by another program.
fn build(file: &Path) -> Result<Database, redb::Error> {
    let file = File::options().read(true).write(true).open(file)?;
    database::build(file)
}

/// A record's value in the database of a directory that is not open.
fn record(directory: &Path, key: &RecordKey) -> Option<RecordBytes> {
    let database = build(&directory.join(DATABASE_FILE)).unwrap();
    let stored = database::get(&database, key).unwrap();
    stored.map(|stored| stored.value)
}

/// Overwrites it as another program would.
fn overwrite(directory: &Path, key: &RecordKey, value: RecordBytes) {
    let database = build(&directory.join(DATABASE_FILE)).unwrap();
    let change = RecordChange::put(key, Expected::Anything, value);
    database::apply(&database, [&change].into_iter()).unwrap();
}

fn key(byte: u8) -> StateKey {
    StateKey::parse(&[byte; 32]).unwrap()
}

fn kept(value: &str) -> KeptToken {
    KeptToken {
        token: Token {
            value: value.into(),
            token_type: "Bearer".into(),
            expiry: Expiry::At(Timestamp(2)),
            fields: Vec::new(),
        },
        obtained_at: Timestamp(1),
        expires_at: Some(Timestamp(2)),
        rotating_expires_at: None,
        source_hash: [3; 32],
    }
}

/// The chain's next value; the configured one stays what it is.
async fn rotate(store: &Store, job: &JobId, value: &str) -> Result<(), Failure> {
    let seed = format!("seed of {job}").into_bytes();
    let found = store.find_chain(job, "refresh_token", Some(&seed)).await?;
    let value = SecretSlice::from(value.as_bytes().to_vec());
    let (next, expected) = match found {
        Some(found) => {
            let next = found.stored.chain.succeeded_by(value, None);
            (next, Some(found.stored.revision))
        }
        None => (
            Chain::new(store.chain_id(&JobId::file("job"), &seed), value),
            None,
        ),
    };
    let change = ChainChange {
        job,
        secret: "refresh_token",
        binds: true,
        seed: Some(&seed),
        next: &next,
        expected: expected.as_ref(),
    };
    store.swap_chain(change).await?.map(drop).ok_or_else(|| {
        Failure::new(
            FailureKind::Unavailable,
            "test.conflict",
            "somebody else did",
        )
    })
}

async fn refresh_token(store: &Store, job: &JobId) -> Option<String> {
    let found = store
        .find_chain(job, "refresh_token", None)
        .await
        .unwrap()?;
    let value = found.stored.chain.value;
    Some(String::from_utf8(value.expose_secret().to_vec()).unwrap())
}

async fn forget(store: &Store, job: &JobId) {
    store.forget(job, &|_| Ok(())).await.unwrap();
}

fn is_on_disk(directory: &Path, text: &str) -> bool {
    let bytes = std::fs::read(directory.join(DATABASE_FILE)).unwrap();
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart_and_gone_after_forget() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("state");
    let (job, other) = (JobId::file("job"), JobId::file("job2"));
    {
        let store = Store::open(&directory, Vec::new()).unwrap();
        store.keep_token(&job, &kept("one")).await.unwrap();
        store.keep_token(&job, &kept("two")).await.unwrap();
        rotate(&store, &job, "rt").await.unwrap();
        store.set_plugin_value(&job, "k", b"v").await.unwrap();
        store.keep_token(&other, &kept("other")).await.unwrap();
    }
    let store = Store::open(&directory, Vec::new()).unwrap();
    assert_eq!(store.token(&job).await.unwrap(), Some(kept("two")));
    assert_eq!(refresh_token(&store, &job).await.as_deref(), Some("rt"));
    assert_eq!(
        store.plugin_value(&job, "k").await.unwrap().as_deref(),
        Some(&b"v"[..])
    );
    assert_eq!(store.jobs().await.unwrap(), [job.clone(), other.clone()]);
    forget(&store, &job).await;
    assert_eq!(store.token(&job).await.unwrap(), None);
    assert_eq!(refresh_token(&store, &job).await, None);
    assert_eq!(store.jobs().await.unwrap(), [other]);
}

#[tokio::test]
async fn memory_keeps_and_forgets_like_the_directory() {
    let store = Store::memory().unwrap();
    let (job, other) = (JobId::file("job"), JobId::file("job2"));
    store.keep_token(&job, &kept("one")).await.unwrap();
    store.keep_token(&other, &kept("other")).await.unwrap();
    rotate(&store, &job, "rt").await.unwrap();
    assert_eq!(store.token(&job).await.unwrap(), Some(kept("one")));
    assert_eq!(store.jobs().await.unwrap(), [job.clone(), other.clone()]);
    forget(&store, &job).await;
    assert_eq!(refresh_token(&store, &job).await, None);
    assert_eq!(store.token(&other).await.unwrap(), Some(kept("other")));
}

#[tokio::test]
async fn the_directory_and_its_files_are_ours_alone() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("state");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    drop(Store::open(&directory, Vec::new()).unwrap());
    assert_eq!(mode(&directory), 0o700);
    let file = directory.join(DATABASE_FILE);
    assert_eq!(mode(&file), 0o600);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(Store::open(&directory, Vec::new()).unwrap());
    assert_eq!(mode(&file), 0o600, "a copy with a wider mode is narrowed");
}

#[tokio::test]
async fn a_second_process_is_told_who_holds_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Vec::new()).unwrap();
    let error = Store::open(folder.path(), Vec::new()).unwrap_err();
    assert_eq!(error.code().as_str(), "state.locked");
    let holder = format!("process {} on host", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    drop(store);
    Store::open(folder.path(), Vec::new()).unwrap();
}

#[tokio::test]
async fn with_a_key_no_value_is_readable_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobId::file("job");
    let store = Store::open(folder.path(), vec![key(1)]).unwrap();
    store.keep_token(&job, &kept("plain-token")).await.unwrap();
    rotate(&store, &job, "plain-refresh").await.unwrap();
    store
        .set_plugin_value(&job, "k", b"plain-value")
        .await
        .unwrap();
    for text in ["plain-token", "plain-refresh", "plain-value", "Bearer"] {
        assert!(!is_on_disk(folder.path(), text), "{text}");
    }
    assert_eq!(store.token(&job).await.unwrap(), Some(kept("plain-token")));
}

#[tokio::test]
async fn a_missing_key_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobId::file("job");
    {
        let store = Store::open(folder.path(), vec![key(1)]).unwrap();
        store.keep_token(&job, &kept("one")).await.unwrap();
    }
    let token = || record(folder.path(), &RecordKey::Token(job.clone()));
    let before = token();
    for keys in [Vec::new(), vec![key(2)]] {
        let error = Store::open(folder.path(), keys).unwrap_err();
        assert_eq!(error.code().as_str(), "state.key-missing");
        assert!(error.to_string().contains("2 record(s)"), "{error}");
    }
    assert_eq!(token(), before);
    let store = Store::open(folder.path(), vec![key(1)]).unwrap();
    assert_eq!(store.token(&job).await.unwrap(), Some(kept("one")));
}

#[tokio::test]
async fn a_new_first_key_takes_over_all_records_so_that_the_old_one_can_go() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobId::file("job");
    for keys in [Vec::new(), vec![key(1)], vec![key(2), key(1)], vec![key(2)]] {
        let store = Store::open(folder.path(), keys).unwrap();
        if store.token(&job).await.unwrap().is_none() {
            store.keep_token(&job, &kept("one")).await.unwrap();
        }
        assert_eq!(store.token(&job).await.unwrap(), Some(kept("one")));
    }
    assert_eq!(
        Store::open(folder.path(), vec![key(1)])
            .unwrap_err()
            .code()
            .as_str(),
        "state.key-missing"
    );
}

#[tokio::test]
async fn a_damaged_record_is_never_overwritten_only_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (job, other) = (JobId::file("job"), JobId::file("other"));
    {
        let store = Store::open(folder.path(), vec![key(1)]).unwrap();
        for job in [&job, &other] {
            rotate(&store, job, "rt").await.unwrap();
        }
    }
    let id = {
        let store = Store::open(folder.path(), vec![key(1)]).unwrap();
        store.chain_id(&JobId::file("job"), b"seed of job")
    };
    let chain = RecordKey::Chain(id);
    let mut damaged = record(folder.path(), &chain).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    overwrite(folder.path(), &chain, damaged.clone());

    let store = Store::open(folder.path(), vec![key(1)]).unwrap();
    let read = store
        .find_chain(&job, "refresh_token", Some(b"seed of job"))
        .await;
    let failure = read.unwrap_err();
    assert_eq!(failure.code(), Some("state.undecryptable"));
    for said in [
        "chain of secret `refresh_token` of job job",
        &format!("`evertoken state forget {id}`"),
    ] {
        assert!(failure.message.contains(said), "{failure}");
    }
    // The job of such a chain is unknown, too.
    let unread = store.find_chain(&job, "refresh_token", None).await;
    assert!(unread.unwrap().is_none());
    let change = ChainChange {
        job: &job,
        secret: "refresh_token",
        binds: true,
        seed: None,
        next: &Chain::new(
            store.chain_id(&JobId::file("job"), b"seed of job"),
            b"new".to_vec().into(),
        ),
        expected: None,
    };
    let written = store.swap_chain(change).await.unwrap_err();
    assert_eq!(written.code(), Some("state.undecryptable"));
    assert_eq!(refresh_token(&store, &other).await.as_deref(), Some("rt"));
    drop(store);
    assert_eq!(record(folder.path(), &chain), Some(damaged));

    let store = Store::open(folder.path(), vec![key(1)]).unwrap();
    assert!(store.is_unreadable_chain(&id.to_string()));
    store.forget_unreadable(&id.to_string()).await.unwrap();
    assert!(!store.is_unreadable_chain(&id.to_string()));
    rotate(&store, &job, "new").await.unwrap();
    assert_eq!(refresh_token(&store, &job).await.as_deref(), Some("new"));
}

#[test]
fn in_one_commit_each_change_sees_those_before_and_one_that_is_late_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), Vec::new()).unwrap());
    let database = build(&folder.path().join(DATABASE_FILE)).unwrap();
    let chain = RecordKey::Chain(ChainId([1; 16]));
    let [one, two] = ["one", "two"].map(|name| RecordKey::Token(JobId::file(name)));
    let put = |key: &RecordKey, expected: Expected, value: &[u8]| {
        RecordChange::put(key, expected, Zeroizing::new(value.to_vec()))
    };
    let at = |number: u64| Expected::At(Revision(number.to_string()));
    // The first change was that of the store's own record.
    let changes = [
        put(&one, Expected::Anything, b"v"),
        put(&chain, Expected::Nothing, b"1"),
        put(&chain, Expected::Nothing, b"2"),
        put(&chain, at(3), b"3"),
        put(&chain, at(3), b"4"),
        RecordChange::delete(&one, at(9)),
        RecordChange::delete(&two, at(9)),
        put(&two, Expected::Anything, b"v"),
    ];
    let applied = database::apply(&database, changes.iter()).unwrap();
    let applied: Vec<_> = applied
        .into_iter()
        .map(|revision| revision.is_some())
        .collect();
    assert_eq!(applied, [true, true, false, true, false, false, true, true]);
    for (key, value) in [(&chain, b"3"), (&one, b"v"), (&two, b"v")] {
        let stored = database::get(&database, key).unwrap().unwrap();
        assert_eq!(stored.value.as_slice(), value, "{key}");
    }
}

#[tokio::test]
async fn a_store_whose_fingerprint_key_is_damaged_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), vec![key(1)]).unwrap());
    let mut damaged = record(folder.path(), &RecordKey::Own).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    overwrite(folder.path(), &RecordKey::Own, damaged.clone());
    let error = Store::open(folder.path(), vec![key(1)]).unwrap_err();
    assert_eq!(error.code().as_str(), "state.damaged");
    assert!(error.to_string().contains("fingerprint key"), "{error}");
    assert_eq!(record(folder.path(), &RecordKey::Own), Some(damaged));
}

#[tokio::test]
async fn another_schema_is_refused_and_left_alone() {
    for (schema, code, words) in [
        (
            SCHEMA + 1,
            "state.newer-schema",
            "schema 3, this version knows 2",
        ),
        (
            SCHEMA - 1,
            "state.older-form",
            "choose a new place for the store",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path(), Vec::new()).unwrap());
        let database = build(&folder.path().join(DATABASE_FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(META)
            .unwrap()
            .insert(META_SCHEMA, schema)
            .unwrap();
        transaction.commit().unwrap();
        drop(database);
        let before = record(folder.path(), &RecordKey::Own);
        let error = Store::open(folder.path(), Vec::new()).unwrap_err();
        assert_eq!(error.code().as_str(), code);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(record(folder.path(), &RecordKey::Own), before, "{code}");
    }
}

#[tokio::test]
async fn files_that_are_removed_under_a_process_are_made_anew_with_all_that_was_in_them() {
    let job = JobId::file("job");
    let remove_directory: fn(&Path) = |path| std::fs::remove_dir_all(path).unwrap();
    let remove_files: fn(&Path) = |path| {
        for entry in std::fs::read_dir(path).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    };
    let remove_database: fn(&Path) = |path| std::fs::remove_file(path.join(DATABASE_FILE)).unwrap();
    for remove in [remove_directory, remove_files, remove_database] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        {
            let store = Store::open(&path, vec![key(1)]).unwrap();
            rotate(&store, &job, "rt-1").await.unwrap();
            store.keep_token(&job, &kept("token")).await.unwrap();
            remove(&path);
            rotate(&store, &job, "rt-2").await.unwrap();
            rotate(&store, &job, "rt-3").await.unwrap();
            let second = Store::open(&path, vec![key(1)]).unwrap_err();
            assert_eq!(second.code().as_str(), "state.locked", "{second}");
        }
        let store = Store::open(&path, vec![key(1)]).unwrap();
        assert_eq!(refresh_token(&store, &job).await.unwrap(), "rt-3");
        assert!(store.token(&job).await.unwrap().is_some());
        let seed = format!("seed of {job}").into_bytes();
        let found = store.find_chain(&job, "refresh_token", Some(&seed)).await;
        let found = found.unwrap().unwrap();
        assert_eq!(found.seed, Seed::Unchanged);
        assert!(
            store
                .find_chain_to_replace(&job, "refresh_token", Some(b"rt-1"))
                .await
                .unwrap()
                .is_some()
        );
    }
}

#[tokio::test]
async fn a_store_that_is_moved_takes_its_process_along_and_one_put_in_its_place_is_left_alone() {
    let job = JobId::file("job");
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("state"), folder.path().join("moved"));
    {
        let store = Store::open(&path, Vec::new()).unwrap();
        rotate(&store, &job, "rt-1").await.unwrap();
        std::fs::rename(&path, &moved).unwrap();
        rotate(&store, &job, "rt-2").await.unwrap();
        assert!(!path.exists());
    }
    let store = Store::open(&moved, Vec::new()).unwrap();
    assert_eq!(refresh_token(&store, &job).await.unwrap(), "rt-2");
    let copy = folder.path().join("copy");
    std::fs::copy(moved.join(DATABASE_FILE), &copy).unwrap();
    std::fs::remove_file(moved.join(DATABASE_FILE)).unwrap();
    std::fs::rename(&copy, moved.join(DATABASE_FILE)).unwrap();
    let held = std::fs::read(moved.join(DATABASE_FILE)).unwrap();
    let failure = rotate(&store, &job, "rt-3").await.unwrap_err();
    assert_eq!(failure.code(), Some("state.damaged"), "{failure}");
    assert_eq!(std::fs::read(moved.join(DATABASE_FILE)).unwrap(), held);
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(DATABASE_FILE);
    std::fs::write(&file, "no database at all, but somebody's notes").unwrap();
    let error = Store::open(folder.path(), Vec::new()).unwrap_err();
    assert_eq!(error.code().as_str(), "state.damaged", "{error}");
    assert_eq!(
        std::fs::read(&file).unwrap(),
        b"no database at all, but somebody's notes"
    );
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("elsewhere", &file).unwrap();
    let error = Store::open(folder.path(), Vec::new()).unwrap_err();
    assert_eq!(error.code().as_str(), "state.open", "{error}");
    let missing = Store::open(&folder.path().join("a/b"), Vec::new()).unwrap_err();
    assert!(
        missing
            .to_string()
            .contains("make the state directory for the user of this process"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_file_that_was_altered_is_refused_or_read_right_but_never_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobId::file("job");
    {
        let store = Store::open(folder.path(), vec![key(1)]).unwrap();
        for n in 0..50 {
            store
                .keep_token(&JobId::file(format!("job{n}")), &kept("other"))
                .await
                .unwrap();
        }
        store.keep_token(&job, &kept("one")).await.unwrap();
    }
    let file = folder.path().join(DATABASE_FILE);
    let good = std::fs::read(&file).unwrap();
    let mut refused = 0;
    for offset in (4096..good.len()).step_by(good.len() / 60) {
        let mut altered = good.clone();
        for byte in altered.iter_mut().skip(offset).take(64) {
            *byte ^= 0x5a;
        }
        std::fs::write(&file, &altered).unwrap();
        match Store::open(folder.path(), vec![key(1)]) {
            Ok(store) => assert_eq!(store.token(&job).await.unwrap(), Some(kept("one"))),
            Err(error) => {
                assert_eq!(error.code().as_str(), "state.damaged", "{error}");
                assert!(error.to_string().contains("restore it"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    assert_eq!(
        Store::open(folder.path(), vec![key(1)])
            .unwrap_err()
            .code()
            .as_str(),
        "state.damaged"
    );
}

#[tokio::test]
async fn writers_that_wait_together_share_a_commit_and_all_are_durable() {
    const WRITERS: usize = 2000;
    let folder = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(Store::open(folder.path(), vec![key(1)]).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..WRITERS {
        let store = std::sync::Arc::clone(&store);
        tasks.spawn(async move {
            let job = JobId::file(format!("job-{n}"));
            store.keep_token(&job, &kept("token")).await
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
    drop(store);
    let database = build(&folder.path().join(DATABASE_FILE)).unwrap();
    let table = database.begin_read().unwrap().open_table(RECORDS).unwrap();
    assert_eq!(
        table.len().unwrap(),
        WRITERS as u64 + 1,
        "and the fingerprint key"
    );
}

#[tokio::test]
async fn a_plugin_keeps_no_more_than_its_quota() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Store::open(folder.path(), Vec::new()).unwrap();
    for store in [&directory, &Store::memory().unwrap()] {
        let job = JobId::file("job");
        for n in 0..PLUGIN_VALUES_MAX {
            store
                .set_plugin_value(&job, &format!("k{n}"), b"v")
                .await
                .unwrap();
        }
        store.set_plugin_value(&job, "k0", b"new").await.unwrap();
        let large = vec![0; PLUGIN_VALUES_MAX_BYTES];
        for (key, value) in [("one more", &b"v"[..]), ("k0", &large)] {
            let failure = store.set_plugin_value(&job, key, value).await.unwrap_err();
            assert_eq!(failure.code(), Some("state.too-large"));
        }
        assert_eq!(
            store.plugin_value(&job, "k0").await.unwrap().as_deref(),
            Some(&b"new"[..])
        );
        store
            .set_plugin_value(&JobId::file("other"), "k", b"v")
            .await
            .unwrap();
    }
}

/// The writer of the crash test: a process of its own, which says what is durable until it is killed.
const CRASH_DIRECTORY: &str = "EVERTOKEN_TEST_CRASH_DIRECTORY";

#[tokio::test]
async fn crash_writer() {
    let Some(directory) = std::env::var_os(CRASH_DIRECTORY) else {
        return;
    };
    let store = Store::open(Path::new(&directory), vec![key(1)]).unwrap();
    for n in 0u64.. {
        rotate(&store, &JobId::file("job"), &n.to_string())
            .await
            .unwrap();
        let said = Path::new(&directory).join("said");
        std::fs::write(said.with_extension("new"), n.to_string()).unwrap();
        std::fs::rename(said.with_extension("new"), said).unwrap();
    }
}

#[tokio::test]
async fn a_killed_process_has_lost_nothing_that_it_called_durable() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = None;
    for round in 0..5u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "state::directory::tests::crash_writer"])
            .env(CRASH_DIRECTORY, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let said = folder.path().join("said");
        while !said.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the writer ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50 + 17 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let said: u64 = std::fs::read_to_string(&said).unwrap().parse().unwrap();
        std::fs::remove_file(folder.path().join("said")).unwrap();
        let store = Store::open(folder.path(), vec![key(1)]).unwrap();
        let found: u64 = refresh_token(&store, &JobId::file("job"))
            .await
            .unwrap()
            .parse()
            .unwrap();
        assert!(
            found == said || found == said + 1,
            "said {said}, found {found}"
        );
        last = Some(found);
    }
    assert!(last.is_some_and(|found| found > 0));
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_heals_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = crate::test_support::SmallDisk::mount(folder.path(), "4m") else {
        return;
    };
    let directory = folder.path().join("state");
    let store = Store::open(&directory, vec![key(1)]).unwrap();
    let job = JobId::file("job");
    store.keep_token(&job, &kept("before")).await.unwrap();
    let filler = folder.path().join("filler");
    // All free space is taken; the write is meant to fail.
    let _ = std::fs::write(&filler, vec![0; 8 << 20]);
    let big = kept(&"x".repeat(1 << 20));
    let mut failure = None;
    for n in 0..8 {
        if let Err(error) = store
            .keep_token(&JobId::file(format!("big{n}")), &big)
            .await
        {
            failure = Some(error);
            break;
        }
    }
    assert_eq!(failure.unwrap().code(), Some("state.disk-full"));
    assert_eq!(store.token(&job).await.unwrap(), Some(kept("before")));
    std::fs::remove_file(&filler).unwrap();
    store.keep_token(&job, &kept("after")).await.unwrap();
    assert_eq!(store.token(&job).await.unwrap(), Some(kept("after")));
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Why neither `check` nor a start takes the directory.
fn refusals(directory: &Path) -> [StateError; 2] {
    [
        super::look(directory).unwrap_err(),
        Store::open(directory, Vec::new()).unwrap_err(),
    ]
}

#[test]
fn a_directory_or_file_that_others_own_or_may_write_is_refused_with_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let state = at("way/state");
    std::fs::create_dir(at("way")).unwrap();
    drop(Store::open(&state, Vec::new()).unwrap());
    for (place, good, bad) in [("way", 0o755, 0o777), ("way/state", 0o700, 0o770)] {
        chmod(&at(place), bad);
        for error in refusals(&state) {
            assert_eq!(error.code().as_str(), "state.exposed", "{place}: {error}");
            let mend = format!("`chmod go-w {}`", at(place).display());
            assert!(error.to_string().contains(&mend), "{error}");
        }
        chmod(&at(place), good);
    }
    let files = [DATABASE_FILE, "lock", "generation", "reserve", OWN_FILE];
    for name in files {
        chmod(&state.join(name), 0o660);
        let error = Store::open(&state, Vec::new()).unwrap_err();
        assert_eq!(error.code().as_str(), "state.exposed", "{name}: {error}");
        assert!(error.to_string().contains("chmod go= "), "{error}");
        chmod(&state.join(name), 0o600);
    }
    if crate::test_support::is_root() {
        let places = ["way", "way/state"].map(str::to_owned);
        let files = files.map(|name| format!("way/state/{name}"));
        for place in places.iter().chain(&files) {
            std::os::unix::fs::chown(at(place), Some(4711), None).unwrap();
            let error = Store::open(&state, Vec::new()).unwrap_err();
            assert_eq!(error.code().as_str(), "state.exposed", "{place}: {error}");
            assert!(
                error.to_string().contains("belongs to user 4711"),
                "{error}"
            );
            assert!(error.to_string().contains("`chown 0 "), "{error}");
            std::os::unix::fs::chown(at(place), Some(0), None).unwrap();
        }
    }
    drop(Store::open(&state, Vec::new()).unwrap());
    super::look(&state).unwrap();
}

#[test]
fn what_is_no_regular_file_in_the_directory_is_refused_at_once() {
    for name in [DATABASE_FILE, "lock", "generation", "reserve", OWN_FILE] {
        let folder = tempfile::tempdir().unwrap();
        crate::test_support::make_fifo(&folder.path().join(name));
        let error = Store::open(folder.path(), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("is no regular file"), "{error}");
        std::fs::remove_file(folder.path().join(name)).unwrap();
        std::os::unix::fs::symlink("elsewhere", folder.path().join(name)).unwrap();
        let error = Store::open(folder.path(), Vec::new()).unwrap_err();
        assert_eq!(error.code().as_str(), "state.open", "{error}");
        assert!(!folder.path().join("elsewhere").exists());
    }
}

#[tokio::test]
async fn a_users_own_link_leads_to_the_state_directory() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("disk")).unwrap();
    std::os::unix::fs::symlink("disk", at("link")).unwrap();
    drop(Store::open(&at("link/state"), Vec::new()).unwrap());
    assert!(at("disk/state").join(DATABASE_FILE).exists());
    super::look(&at("link/state")).unwrap();
}

/// A record of a job as written without the key.
fn plain_token(key: &RecordKey, value: &str) -> RecordBytes {
    let bytes = record::encode("kept token", &kept(value)).unwrap();
    Keyring::default().seal(key, &bytes).unwrap()
}

#[tokio::test]
async fn records_are_taken_over_unencrypted_once_and_what_is_put_there_later_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let (job, victim) = (JobId::file("job"), JobId::file("victim"));
    {
        let store = Store::open(folder.path(), Vec::new()).unwrap();
        store.keep_token(&job, &kept("before")).await.unwrap();
    }
    {
        let store = Store::open(folder.path(), vec![key(1)]).unwrap();
        assert_eq!(store.token(&job).await.unwrap(), Some(kept("before")));
        store.keep_token(&victim, &kept("own")).await.unwrap();
    }
    let token = RecordKey::Token(victim.clone());
    overwrite(folder.path(), &token, plain_token(&token, "attacker's"));
    // Also after more than one start, and under a new key.
    for keys in [vec![key(1)], vec![key(1)], vec![key(2), key(1)]] {
        let store = Store::open(folder.path(), keys).unwrap();
        assert_eq!(store.token(&job).await.unwrap(), Some(kept("before")));
        for failure in [
            store.token(&victim).await.unwrap_err(),
            store.keep_token(&victim, &kept("new")).await.unwrap_err(),
        ] {
            assert_eq!(failure.code(), Some("state.plaintext"));
            for said in [
                "kept token of job victim",
                "`evertoken state forget victim`",
            ] {
                assert!(failure.message.contains(said), "{failure}");
            }
        }
    }
    let store = Store::open(folder.path(), vec![key(2)]).unwrap();
    forget(&store, &victim).await;
    store.keep_token(&victim, &kept("new")).await.unwrap();
}

#[tokio::test]
async fn an_unencrypted_database_in_the_place_of_an_encrypted_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    drop(Store::open(&at("state"), vec![key(1)]).unwrap());
    {
        let store = Store::open(&at("foreign"), Vec::new()).unwrap();
        rotate(&store, &JobId::file("job"), "attacker's")
            .await
            .unwrap();
    }
    std::fs::copy(
        at("foreign").join(DATABASE_FILE),
        at("state").join(DATABASE_FILE),
    )
    .unwrap();
    let error = Store::open(&at("state"), vec![key(1)]).unwrap_err();
    assert_eq!(error.code().as_str(), "state.damaged");
    assert!(error.to_string().contains("is not encrypted"), "{error}");
}

#[tokio::test]
async fn no_value_of_an_older_copy_is_used_before_somebody_gives_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (
        folder.path().join(DATABASE_FILE),
        folder.path().join("copy"),
    );
    let jobs = ["rotated", "replaced", "forgotten", "untouched"].map(JobId::file);
    let [rotated, replaced, forgotten, untouched] = &jobs;
    let open = || std::sync::Arc::new(Store::open(folder.path(), vec![key(1)]).unwrap());
    {
        let store = open();
        for job in &jobs {
            rotate(&store, job, &format!("v0 of {job}")).await.unwrap();
        }
        store.keep_token(rotated, &kept("token")).await.unwrap();
    }
    std::fs::copy(&file, &copy).unwrap();
    // A copy of the same state, or one with only newer records that are not chains, is not an older copy.
    {
        let store = open();
        store.keep_token(rotated, &kept("newer")).await.unwrap();
    }
    std::fs::copy(&copy, &file).unwrap();
    {
        let store = open();
        assert_eq!(
            refresh_token(&store, rotated).await.as_deref(),
            Some("v0 of rotated")
        );
        rotate(&store, rotated, "v1").await.unwrap();
    }
    std::fs::copy(&copy, &file).unwrap();
    // Also after another start.
    drop(open());
    let store = open();
    for job in &jobs {
        let seed = format!("seed of {job}").into_bytes();
        for seed in [None, Some(&seed[..])] {
            let found = store.find_chain(job, "refresh_token", seed).await;
            let failure = found.unwrap_err();
            assert_eq!(failure.code(), Some("chain.restored"));
            for said in ["refresh_token", "evertoken state set"] {
                assert!(failure.message.contains(said), "{failure}");
            }
        }
        // A person logged in again and configured the new value: a new chain.
        let login = store.find_chain(job, "refresh_token", Some(b"a new login"));
        assert!(login.await.unwrap().is_none());
    }
    // Other records are unaffected.
    assert_eq!(store.token(rotated).await.unwrap(), Some(kept("token")));
    let clock = std::sync::Arc::new(crate::model::time::SystemClock);
    let manual = crate::state::manual::Manual::new(store.clone(), None, clock);
    let shown = manual.show(&["replaced".to_owned()]).await.unwrap();
    let state = shown[0].chains[0].state;
    assert_eq!(state, crate::state::manual::StoredChainState::Restored);
    manual
        .set("replaced", "refresh_token", b"logged in")
        .await
        .unwrap();
    manual.forget("forgotten").await.unwrap();
    drop(manual);
    drop(store);
    let store = open();
    assert_eq!(
        refresh_token(&store, replaced).await.as_deref(),
        Some("logged in")
    );
    assert_eq!(refresh_token(&store, forgotten).await, None);
    let failure = store.find_chain(untouched, "refresh_token", None).await;
    assert_eq!(failure.unwrap_err().code(), Some("chain.restored"));
}

#[tokio::test]
async fn a_login_that_an_older_copy_does_not_know_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let restore = || std::fs::copy(at("copy"), at(DATABASE_FILE)).unwrap();
    let open = || Store::open(folder.path(), vec![key(1)]).unwrap();
    let jobs = ["known", "later", "forgotten"].map(JobId::file);
    let [known, later, forgotten] = &jobs;
    let seed = |job: &JobId| format!("seed of {job}").into_bytes();
    {
        let store = open();
        rotate(&store, forgotten, "v1").await.unwrap();
        forget(&store, forgotten).await;
        rotate(&store, known, "v1").await.unwrap();
    }
    // At the next start it is deleted.
    drop(open());
    std::fs::copy(at(DATABASE_FILE), at("copy")).unwrap();
    rotate(&open(), later, "v1").await.unwrap();
    // Also after another start, and if it is put back once more.
    for again in [true, false, true] {
        if again {
            restore();
        }
        let store = open();
        let sent = seed(later);
        let failure = store.find_chain(later, "refresh_token", Some(&sent)).await;
        let failure = failure.unwrap_err();
        assert_eq!(failure.code(), Some("chain.restored"));
        for said in ["`refresh_token`", "job later", "Log in again"] {
            assert!(failure.message.contains(said), "{failure}");
        }
        for new in [seed(forgotten), b"a new login".to_vec()] {
            let found = store.find_chain(later, "refresh_token", Some(&new)).await;
            assert!(found.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn where_the_database_is_lost_no_spent_login_is_sent_and_a_new_one_is() {
    let removed: fn(&Path) = |database| std::fs::remove_file(database).unwrap();
    let emptied: fn(&Path) = |database| std::fs::write(database, []).unwrap();
    for lose in [removed, emptied] {
        for keys in [&[][..], &[1]] {
            let folder = tempfile::tempdir().unwrap();
            let keys = || keys.iter().copied().map(key).collect();
            let open = || Store::open(folder.path(), keys());
            let job = JobId::file("a");
            rotate(&open().unwrap(), &job, "v1").await.unwrap();
            // Also if it is lost once more.
            for _ in 0..2 {
                lose(&folder.path().join(DATABASE_FILE));
                let store = open().unwrap();
                let find = async |seed: &str| {
                    let seed = seed.as_bytes().to_vec();
                    store.find_chain(&job, "refresh_token", Some(&seed)).await
                };
                let failure = find("seed of a").await.unwrap_err();
                assert_eq!(failure.code(), Some("chain.restored"));
                assert!(find("a new login").await.unwrap().is_none());
            }
        }
    }
}

#[tokio::test]
async fn a_fingerprint_key_that_another_state_key_encrypted_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), vec![key(1)]).unwrap());
    std::fs::remove_file(folder.path().join(DATABASE_FILE)).unwrap();
    let error = Store::open(folder.path(), vec![key(2)]).unwrap_err();
    assert!(error.to_string().contains(OWN_FILE), "{error}");
    // A change of the key while the database exists is not a change of records.
    let folder = tempfile::tempdir().unwrap();
    for keys in [vec![], vec![key(1)], vec![key(2), key(1)], vec![key(2)]] {
        drop(Store::open(folder.path(), keys).unwrap());
    }
    std::fs::remove_file(folder.path().join(DATABASE_FILE)).unwrap();
    Store::open(folder.path(), vec![key(2)]).unwrap();
}

#[tokio::test]
async fn on_a_full_disk_chains_still_change_and_what_fills_it_can_be_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = crate::test_support::SmallDisk::mount(folder.path(), "16m") else {
        return;
    };
    let directory = folder.path().join("state");
    let (victim, flooder) = (JobId::file("victim"), JobId::file("flooder"));
    let mut store = Store::open(&directory, vec![key(1)]).unwrap();
    rotate(&store, &victim, "v0").await.unwrap();
    store.keep_token(&victim, &kept("before")).await.unwrap();
    // Plugins' cached values of as many jobs as it takes; then other programs take the rest of the disk.
    let value = vec![b'x'; PLUGIN_VALUES_MAX_BYTES - 1];
    let mut full = None;
    for n in 0..100 {
        let job = JobId::file(format!("flooder{n}"));
        if let Err(failure) = store.set_plugin_value(&job, "k", &value).await {
            full = Some(failure);
            break;
        }
    }
    assert_eq!(full.unwrap().code(), Some("state.disk-full"));
    let _ = std::fs::write(folder.path().join("filler"), vec![0; 16 << 20]);
    rotate(&store, &flooder, "f0").await.unwrap();
    // An answer of the largest size, and some rotations, also after a restart.
    let large = "a".repeat(1024 * 1024);
    for (n, value) in ["v1", &large, "v2", "v3", "v4"].into_iter().enumerate() {
        rotate(&store, &victim, value)
            .await
            .unwrap_or_else(|failure| panic!("rotation {n}: {failure}"));
        drop(store);
        store = Store::open(&directory, vec![key(1)]).unwrap();
    }
    assert_eq!(refresh_token(&store, &victim).await.as_deref(), Some("v4"));
    forget(&store, &flooder).await;
    for n in 0..16 {
        forget(&store, &JobId::file(format!("flooder{n}"))).await;
    }
    std::fs::remove_file(folder.path().join("filler")).unwrap();
    // With space again, the reserve is restored and everything is accepted.
    store.keep_token(&victim, &kept("after")).await.unwrap();
    assert_eq!(store.token(&victim).await.unwrap(), Some(kept("after")));
}

#[tokio::test]
async fn other_keys_are_taken_into_use_while_it_is_open_if_they_open_every_record() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("state");
    let keys = |bytes: &[u8]| -> Vec<StateKey> {
        let all = bytes.iter();
        all.map(|byte| StateKey::parse(&[*byte; 32]).unwrap())
            .collect()
    };
    let job = JobId::file("job");
    let store = Store::open(&directory, keys(&[1])).unwrap();
    store.keep_token(&job, &kept("one")).await.unwrap();
    for (new, expected, what) in [
        (&[2][..], Err("state.key-missing"), "the old one is missing"),
        (&[], Ok(false), "the end of encryption"),
        (&[1], Ok(true), "the same"),
        (&[2, 1], Ok(true), "another one in front"),
        (&[2], Err("state.key-missing"), "the start encrypts anew"),
    ] {
        let set = store.set_keys(keys(new)).await;
        let set = set.map_err(|failure| failure.code().map(str::to_owned));
        assert_eq!(
            set,
            expected.map_err(|code| Some(code.to_owned())),
            "{what}"
        );
        assert_eq!(
            store.token(&job).await.unwrap(),
            Some(kept("one")),
            "{what}"
        );
    }
    store.keep_token(&job, &kept("two")).await.unwrap();
    drop(store);
    let restarted = Store::open(&directory, keys(&[2, 1])).unwrap();
    assert_eq!(restarted.token(&job).await.unwrap(), Some(kept("two")));
    assert_eq!(restarted.set_keys(keys(&[2])).await, Ok(true));
}
