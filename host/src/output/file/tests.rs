//! The file sink from the view of readers and attackers.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::IFlags;

use arc_swap::ArcSwap;

use super::*;
use crate::test_support::{BindMount, SmallDisk, is_root};

fn to(path: impl Into<PathBuf>) -> FileDestination {
    FileDestination {
        path: path.into(),
        mode: 0o400,
        owner: None,
        group: None,
        replace: Default::default(),
    }
}

fn in_place(path: impl Into<PathBuf>) -> FileDestination {
    FileDestination {
        replace: Replace::InPlace,
        ..to(path)
    }
}

fn one(content: &str) -> Vec<Artifact> {
    vec![Artifact {
        name: String::new(),
        content: content.as_bytes().to_vec().into(),
    }]
}

async fn write(destination: &FileDestination, content: &str) -> Result<Written, Failure> {
    Files::new(Arc::default())
        .write(destination, &one(content))
        .await
}

async fn code(destination: &FileDestination) -> String {
    let failure = write(destination, "secret-content").await.unwrap_err();
    let path = destination.path.display().to_string();
    assert!(failure.message.contains(&path), "{failure}");
    assert!(!failure.message.contains("secret-content"), "{failure}");
    failure.code.unwrap().into()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_has_exactly_the_content_and_the_mode_and_nothing_stays_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let target = to(folder.path().join("token"));
    assert_eq!(write(&target, "one").await.unwrap(), Written::Changed);
    assert_eq!(std::fs::read(&target.path).unwrap(), b"one");
    for mode in [0o400, 0o644, 0o666, 0o000, 0o640] {
        let target = FileDestination {
            mode,
            ..target.clone()
        };
        write(&target, "two").await.unwrap();
        let found = target.path.metadata().unwrap();
        assert_eq!(found.mode() & 0o7777, mode, "{mode:o}");
        assert_eq!(found.len(), 3);
    }
    assert_eq!(names(folder.path()), ["token"]);
}

#[tokio::test]
async fn an_empty_content_is_a_content() {
    let folder = tempfile::tempdir().unwrap();
    let target = to(folder.path().join("token"));
    assert_eq!(write(&target, "").await.unwrap(), Written::Changed);
    assert_eq!(write(&target, "").await.unwrap(), Written::Unchanged);
    assert_eq!(write(&target, "x").await.unwrap(), Written::Changed);
}

#[tokio::test]
async fn the_same_content_is_not_written_again_but_a_foreign_one_is_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let target = to(folder.path().join("token"));
    write(&target, "one").await.unwrap();
    let before = target.path.metadata().unwrap();
    assert_eq!(write(&target, "one").await.unwrap(), Written::Unchanged);
    let after = target.path.metadata().unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec(), before.ctime_nsec()),
        (after.ino(), after.mtime_nsec(), after.ctime_nsec())
    );
    let spoil: [fn(&Path); 4] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap(),
        |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, "two").unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o400)).unwrap();
        },
        |path| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
            std::fs::write(path, "one and more").unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o400)).unwrap();
        },
    ];
    for spoil in spoil {
        spoil(&target.path);
        assert_eq!(write(&target, "one").await.unwrap(), Written::Changed);
        assert_eq!(std::fs::read(&target.path).unwrap(), b"one");
        assert_eq!(target.path.metadata().unwrap().mode() & 0o7777, 0o400);
    }
}

#[tokio::test]
async fn a_polling_reader_sees_only_whole_contents() {
    const SIZE: usize = 64 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let target = to(folder.path().join("token"));
    let content = |letter: char| letter.to_string().repeat(SIZE);
    write(&target, &content('a')).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (path, done) = (target.path.clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut seen = HashSet::new();
            while !done.load(Ordering::Relaxed) {
                let found = std::fs::read(&path).unwrap();
                assert_eq!(found.len(), SIZE);
                assert!(found.iter().all(|byte| *byte == found[0]));
                seen.insert(found[0]);
            }
            seen.len()
        })
    };
    for letter in ('a'..='z').cycle().take(150) {
        write(&target, &content(letter)).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 1);
}

#[tokio::test]
async fn a_target_that_is_no_regular_file_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("victim"), "old").unwrap();
    symlink("victim", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for (name, expected) in [
        ("link", "file.is-symlink"),
        ("dangling", "file.is-symlink"),
        ("directory", "file.is-directory"),
        ("socket", "file.not-regular"),
    ] {
        assert_eq!(code(&to(at(name))).await, expected, "{name}");
    }
    assert_eq!(std::fs::read(at("victim")).unwrap(), b"old");
    assert!(!at("nowhere").exists());
    assert_eq!(
        names(folder.path()),
        ["dangling", "directory", "link", "socket", "victim"]
    );
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_without_writing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink("nowhere", at("link")).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    std::fs::write(at("held"), "old").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let files = Files::new(Arc::default());
    for (name, expected) in [
        ("link", "file.is-symlink"),
        ("directory", "file.is-directory"),
        ("socket", "file.not-regular"),
        ("missing/token", "file.no-directory"),
    ] {
        let proved = files.prove(&to(at(name)), Some(&one("content"))).await;
        let failure = proved.unwrap_err();
        assert_eq!(failure.code(), Some(expected), "{failure}");
    }
    for name in ["token", "held"] {
        for destination in [to(at(name)), in_place(at(name))] {
            files
                .prove(&destination, Some(&one("content")))
                .await
                .unwrap();
            files.prove(&destination, None).await.unwrap();
        }
    }
    // A format may make several files, for which a directory is the right place.
    files.prove(&to(at("directory")), None).await.unwrap();
    assert_eq!(std::fs::read(at("held")).unwrap(), b"old");
    assert!(names(&at("directory")).is_empty());
    assert_eq!(
        names(folder.path()),
        ["directory", "held", "link", "socket"]
    );
}

#[tokio::test]
async fn a_disk_without_room_is_told_without_writing_and_its_content_stays() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path(), "64k") else {
        return;
    };
    let files = Files::new(Arc::default());
    for destination in [
        to(folder.path().join("token")),
        in_place(folder.path().join("token")),
    ] {
        write(&destination, "old").await.unwrap();
        files.prove(&destination, Some(&one("new"))).await.unwrap();
        let filler = folder.path().join("filler");
        std::fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
        for size in ["x".repeat(8 << 10), "x".repeat(1 << 20)] {
            let proved = files.prove(&destination, Some(&one(&size))).await;
            let failure = proved.unwrap_err();
            assert_eq!(failure.code(), Some("file.disk-full"), "{failure}");
            let failure = write(&destination, &size).await.unwrap_err();
            assert_eq!(failure.code(), Some("file.disk-full"), "{failure}");
        }
        assert_eq!(std::fs::read(&destination.path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["filler", "token"]);
        std::fs::remove_file(filler).unwrap();
        std::fs::remove_file(&destination.path).unwrap();
    }
}

#[tokio::test]
async fn a_mounted_file_is_written_in_place_if_the_user_allows_it_and_else_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("consumer")).unwrap();
    std::fs::write(at("host"), "old").unwrap();
    let path = at("consumer/token");
    let Some(_mount) = BindMount::of(&at("host"), &path) else {
        return;
    };
    let files = Files::new(Arc::default());
    for failure in [
        write(&to(&path), "new").await.unwrap_err(),
        files
            .prove(&to(&path), Some(&one("new")))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(failure.code(), Some("file.mount-point"));
        assert_eq!(failure.kind, FailureKind::InvalidConfig);
        assert!(failure.message.contains("replace: in_place"), "{failure}");
    }
    assert_eq!(std::fs::read(at("host")).unwrap(), b"old");

    let inode = at("host").metadata().unwrap().ino();
    files
        .prove(&in_place(&path), Some(&one("new")))
        .await
        .unwrap();
    for content in ["a longer content", "short", "", "again"] {
        let written = write(&in_place(&path), content).await.unwrap();
        assert_eq!(written, Written::Changed);
        let before = path.metadata().unwrap();
        let written = write(&in_place(&path), content).await.unwrap();
        assert_eq!(written, Written::Unchanged);
        for path in [&path, &at("host")] {
            assert_eq!(std::fs::read_to_string(path).unwrap(), content);
        }
        let found = path.metadata().unwrap();
        assert_eq!((found.ino(), found.mode() & 0o7777), (inode, 0o400));
        assert_eq!(found.ctime_nsec(), before.ctime_nsec());
    }
    assert_eq!(names(&at("consumer")), ["token"]);
}

/// An attribute of a file or directory as `chattr` sets it, until this is dropped.
struct Attribute(File, IFlags);

impl Attribute {
    /// None where it cannot be set.
    fn of(path: &Path, attribute: IFlags) -> Option<Self> {
        let file = File::open(path).unwrap();
        let before = rustix::fs::ioctl_getflags(&file);
        let set = before.and_then(|before| {
            rustix::fs::ioctl_setflags(&file, before | attribute)?;
            Ok(before)
        });
        match set {
            Ok(before) => Some(Self(file, before)),
            Err(errno) => {
                println!("skipped: attributes cannot be set here: {errno}");
                None
            }
        }
    }
}

impl Drop for Attribute {
    fn drop(&mut self) {
        let _ = rustix::fs::ioctl_setflags(&self.0, self.1);
    }
}

#[tokio::test]
async fn an_attribute_that_forbids_changes_is_named_also_to_root_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "old").unwrap();
    for (place, attribute, of_whom, in_place_goes) in [
        (&*path, IFlags::IMMUTABLE, "it is immutable", false),
        (&path, IFlags::APPEND, "it is append-only", false),
        (
            folder.path(),
            IFlags::IMMUTABLE,
            "its directory is immutable",
            true,
        ),
        (
            folder.path(),
            IFlags::APPEND,
            "its directory is append-only",
            true,
        ),
    ] {
        let Some(_attribute) = Attribute::of(place, attribute) else {
            return;
        };
        let files = Files::new(Arc::default());
        for (destination, goes) in [(to(&path), false), (in_place(&path), in_place_goes)] {
            let proved = files.prove(&destination, Some(&one(of_whom))).await;
            let written = write(&destination, of_whom).await.map(drop);
            for result in [proved, written] {
                let Err(failure) = result else {
                    assert!(goes, "{of_whom}");
                    continue;
                };
                assert!(!goes, "{failure}");
                assert_eq!(failure.code(), Some("file.attribute"), "{failure}");
                assert_eq!(failure.kind, FailureKind::InvalidConfig);
                assert!(failure.message.contains(of_whom), "{failure}");
                assert!(failure.message.contains("`chattr`"), "{failure}");
            }
        }
        assert_eq!(names(folder.path()), ["token"], "{of_whom}");
        let expected = if in_place_goes { of_whom } else { "old" };
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }
}

#[tokio::test]
async fn a_mount_that_cannot_be_written_is_named_as_such_in_place_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("consumer")).unwrap();
    std::fs::write(at("host"), "old").unwrap();
    let path = at("consumer/token");
    // As a key of a ConfigMap or a Secret that is mounted by `subPath`.
    let Some(mount) = BindMount::of(&at("host"), &path) else {
        return;
    };
    mount.make_read_only();
    for (destination, expected) in [
        (to(&path), "file.mount-point"),
        (in_place(&path), "file.read-only"),
    ] {
        let proved = Files::new(Arc::default())
            .prove(&destination, Some(&one("new")))
            .await;
        for failure in [
            proved.unwrap_err(),
            write(&destination, "new").await.unwrap_err(),
        ] {
            assert_eq!(failure.code(), Some(expected), "{failure}");
        }
    }
    assert_eq!(std::fs::read(at("host")).unwrap(), b"old");
    assert_eq!(names(&at("consumer")), ["token"]);
}

#[test]
fn what_a_system_says_has_a_code_and_a_mend() {
    for (errno, code, kind, mend) in [
        (
            Errno::NOSPC,
            "file.disk-full",
            FailureKind::Unavailable,
            "make room",
        ),
        (
            Errno::DQUOT,
            "file.disk-full",
            FailureKind::Unavailable,
            "raise the quota of uid",
        ),
        (
            Errno::FBIG,
            "file.too-large",
            FailureKind::InvalidConfig,
            "raise the limit",
        ),
        (
            Errno::ROFS,
            "file.read-only",
            FailureKind::InvalidConfig,
            "mount its file system writable",
        ),
        (
            Errno::ACCESS,
            "file.permission",
            FailureKind::InvalidConfig,
            "enter the directory",
        ),
        (
            Errno::NAMETOOLONG,
            "file.path",
            FailureKind::InvalidConfig,
            "shorten the name",
        ),
        (
            Errno::TXTBSY,
            "file.busy",
            FailureKind::Unavailable,
            "a program that runs",
        ),
        (
            Errno::STALE,
            "file.io",
            FailureKind::Unavailable,
            "has gone away",
        ),
        (
            Errno::NOTCONN,
            "file.io",
            FailureKind::Unavailable,
            "has gone away",
        ),
        (
            Errno::IO,
            "file.io",
            FailureKind::Unavailable,
            "look at the file system",
        ),
    ] {
        let failure = Problem::os("write", errno).at(Path::new("/out/token"));
        assert_eq!(failure.code(), Some(code), "{failure}");
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(
            failure
                .message
                .starts_with("cannot write /out/token: cannot write: ")
        );
        assert!(failure.message.contains(mend), "{failure}");
    }
}

#[tokio::test]
async fn in_place_is_only_what_is_one_file_of_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("victim"), "old").unwrap();
    std::fs::hard_link(at("victim"), at("hard-link")).unwrap();
    symlink("victim", at("link")).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for (name, expected) in [
        ("hard-link", "file.hard-links"),
        ("link", "file.is-symlink"),
        ("directory", "file.is-directory"),
        ("socket", "file.not-regular"),
    ] {
        assert_eq!(code(&in_place(at(name))).await, expected, "{name}");
        let destination = in_place(at(name));
        let proved = Files::new(Arc::default())
            .prove(&destination, Some(&one("new")))
            .await;
        let failure = proved.unwrap_err();
        assert_eq!(failure.code(), Some(expected), "{name}");
    }
    assert_eq!(std::fs::read(at("victim")).unwrap(), b"old");
    // A missing file is created like any other.
    write(&in_place(at("token")), "new").await.unwrap();
    assert_eq!(std::fs::read(at("token")).unwrap(), b"new");
    assert_eq!(at("token").metadata().unwrap().mode() & 0o7777, 0o400);
}

#[tokio::test]
async fn a_way_that_is_missing_or_leads_through_a_foreign_link_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("real")).unwrap();
    std::fs::create_dir(at("open")).unwrap();
    symlink("../real", at("open/link")).unwrap();
    std::fs::set_permissions(at("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
    symlink("loop", at("loop")).unwrap();
    std::fs::write(at("file"), "old").unwrap();
    for (name, expected) in [
        ("missing/token", "file.no-directory"),
        ("file/token", "file.not-a-directory"),
        ("open/link/token", "file.symlink-in-path"),
        ("loop/token", "file.symlink-in-path"),
    ] {
        assert_eq!(code(&to(at(name))).await, expected, "{name}");
    }
    assert_eq!(code(&to("/")).await, "file.path");
    assert!(names(&at("real")).is_empty());
    symlink("real", at("own")).unwrap();
    write(&to(at("own/token")), "one").await.unwrap();
    assert_eq!(names(&at("real")), ["token"]);
}

#[tokio::test]
async fn what_a_killed_writer_left_goes_away_and_a_living_ones_file_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let target = to(folder.path().join("token"));
    let dead = ".evertoken-token-0123456789abcdef";
    let others = [
        ".evertoken-token-short",
        ".evertoken-other-0123456789abcdef",
        "token.0123456789abcdef",
    ];
    for name in others.iter().chain([&dead]) {
        std::fs::write(folder.path().join(name), "old secret").unwrap();
    }
    let directory = walk::open_directory(folder.path()).unwrap();
    let living = Temporary::create(&directory, OsStr::new("token")).unwrap();
    write(&target, "one").await.unwrap();
    let left = names(folder.path());
    assert!(!left.contains(&dead.to_owned()), "{left:?}");
    for name in others {
        assert!(left.contains(&name.to_owned()), "{name}");
    }
    assert_eq!(left.len(), others.len() + 2, "{left:?}");
    living.rename_to(OsStr::new("renamed")).unwrap();
    assert!(folder.path().join("renamed").exists());
}

#[tokio::test]
async fn several_artifacts_are_files_in_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts: Vec<Artifact> = [("tls.crt", "c"), ("tls.key", "k")]
        .map(|(name, content)| Artifact {
            name: name.into(),
            content: content.as_bytes().to_vec().into(),
        })
        .into();
    let files = Files::new(Arc::default());
    let target = to(folder.path());
    assert_eq!(
        files.write(&target, &artifacts).await.unwrap(),
        Written::Changed
    );
    assert_eq!(
        files.write(&target, &artifacts).await.unwrap(),
        Written::Unchanged
    );
    assert_eq!(std::fs::read(folder.path().join("tls.key")).unwrap(), b"k");
    assert_eq!(names(folder.path()), ["tls.crt", "tls.key"]);
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_file_and_no_leftover() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path(), "64k") else {
        return;
    };
    let target = to(folder.path().join("token"));
    write(&target, "old").await.unwrap();
    let failure = write(&target, &"x".repeat(1 << 20)).await.unwrap_err();
    assert_eq!(failure.code(), Some("file.disk-full"));
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert_eq!(std::fs::read(&target.path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["token"]);
}

#[tokio::test]
async fn a_read_only_file_system_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), "64k") else {
        return;
    };
    let target = to(folder.path().join("token"));
    write(&target, "old").await.unwrap();
    disk.make_read_only();
    assert_eq!(code(&target).await, "file.read-only");
    assert_eq!(write(&target, "old").await.unwrap(), Written::Unchanged);
}

#[tokio::test]
async fn root_gives_files_away_before_they_hold_anything() {
    if !is_root() {
        eprintln!("skipped: giving files away needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let target = FileDestination {
        owner: Some(12345),
        group: Some(54321),
        ..to(folder.path().join("token"))
    };
    assert_eq!(write(&target, "one").await.unwrap(), Written::Changed);
    assert_eq!(write(&target, "one").await.unwrap(), Written::Unchanged);
    let found = target.path.metadata().unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.mode() & 0o7777),
        (12345, 54321, 0o400)
    );
    std::os::unix::fs::chown(&target.path, Some(0), None).unwrap();
    assert_eq!(write(&target, "one").await.unwrap(), Written::Changed);
}

/// Tests of an unprivileged process run in one: this test binary again, as another user.
const UNPRIVILEGED: &str = "EVERTOKEN_TEST_UNPRIVILEGED";

#[test]
fn an_unprivileged_process_is_told_what_it_may_not() {
    let folder = tempfile::tempdir().unwrap();
    let run = |uid: Option<u32>| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "output::file::tests::unprivileged_writer"])
            .env(UNPRIVILEGED, folder.path());
        if let Some(uid) = uid {
            std::os::unix::process::CommandExt::uid(&mut child, uid);
            std::os::unix::process::CommandExt::gid(&mut child, uid);
        }
        let output = child.output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    };
    std::fs::create_dir(folder.path().join("shared")).unwrap();
    std::fs::create_dir(folder.path().join("closed")).unwrap();
    let set = |name: &str, mode| {
        std::fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(mode))
            .unwrap();
    };
    set(".", 0o755);
    set("shared", 0o777);
    set("closed", 0o555);
    if is_root() {
        std::fs::create_dir(folder.path().join("sticky")).unwrap();
        std::fs::write(folder.path().join("sticky/token"), "root's").unwrap();
        set("sticky", 0o1777);
        set("sticky/token", 0o666);
        if !is_runnable_by_all(&std::env::current_exe().unwrap()) {
            eprintln!("skipped: another user cannot run this test binary");
            return;
        }
        run(Some(65534));
    } else {
        run(None);
    }
    set("closed", 0o755);
}

/// Whether any user may reach and run a program.
fn is_runnable_by_all(program: &Path) -> bool {
    program
        .ancestors()
        .all(|path| path.metadata().is_ok_and(|found| found.mode() & 0o001 != 0))
}

#[tokio::test]
async fn unprivileged_writer() {
    let Some(folder) = std::env::var_os(UNPRIVILEGED).map(PathBuf::from) else {
        return;
    };
    let shared = to(folder.join("shared/token"));
    write(&shared, "one").await.unwrap();
    assert_eq!(write(&shared, "one").await.unwrap(), Written::Unchanged);
    assert_eq!(
        code(&to(folder.join("closed/token"))).await,
        "file.permission"
    );
    let given = FileDestination {
        owner: Some(0),
        ..shared.clone()
    };
    assert_eq!(code(&given).await, "file.owner");
    let group = FileDestination {
        group: Some(0),
        ..shared.clone()
    };
    assert_eq!(code(&group).await, "file.owner");
    assert_eq!(std::fs::read(&shared.path).unwrap(), b"one");
    for wanted in [&given, &group] {
        let failure = Files::new(Arc::default())
            .prove(wanted, None)
            .await
            .unwrap_err();
        assert_eq!(failure.code(), Some("file.owner"), "{failure}");
    }
    let closed = to(folder.join("closed/token"));
    let failure = Files::new(Arc::default())
        .prove(&closed, None)
        .await
        .unwrap_err();
    assert_eq!(failure.code(), Some("file.permission"));

    // Mode 0400 does not prevent its owner from writing.
    for content in ["in place", "and again"] {
        let destination = in_place(&shared.path);
        write(&destination, content).await.unwrap();
        let found = std::fs::read_to_string(&shared.path).unwrap();
        assert_eq!(found, content);
        assert_eq!(shared.path.metadata().unwrap().mode() & 0o7777, 0o400);
    }
    assert_eq!(names(&folder.join("shared")), ["token"]);

    // Another user's file, which only that user may replace here, or give to us.
    let roots = folder.join("sticky/token");
    if roots.exists() {
        let failure = Files::new(Arc::default())
            .prove(&to(&roots), None)
            .await
            .unwrap_err();
        assert_eq!(failure.code(), Some("file.permission"));
        assert!(failure.message.contains("sticky"), "{failure}");
        assert_eq!(write(&to(&roots), "x").await.unwrap_err(), failure);
        assert_eq!(names(&folder.join("sticky")), ["token"]);
        assert_eq!(code(&in_place(&roots)).await, "file.owner");
        assert_eq!(std::fs::read(&roots).unwrap(), b"root's");
    }
}

#[test]
fn a_hostile_umask_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "umask 0777; exec \"$0\" --exact output::file::tests::writer_under_umask",
        ])
        .arg(std::env::current_exe().unwrap())
        .env(UMASKED, folder.path().join("token"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let found = folder.path().join("token").metadata().unwrap();
    assert_eq!(found.mode() & 0o7777, 0o644);
    assert_eq!(found.len(), 3);
}

const UMASKED: &str = "EVERTOKEN_TEST_UMASKED";

#[tokio::test]
async fn writer_under_umask() {
    let Some(path) = std::env::var_os(UMASKED) else {
        return;
    };
    let target = FileDestination {
        mode: 0o644,
        ..to(PathBuf::from(path))
    };
    assert_eq!(write(&target, "one").await.unwrap(), Written::Changed);
}

fn named(names: &[&str]) -> Vec<Artifact> {
    let artifact = |name: &&str| Artifact {
        name: (*name).to_owned(),
        content: b"of the format's".to_vec().into(),
    };
    names.iter().map(artifact).collect()
}

#[tokio::test]
async fn a_format_puts_nothing_where_the_configuration_has_another_use() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, other) = (folder.path().join("tokens"), folder.path().join("other"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::create_dir(&other).unwrap();
    symlink(&tokens, folder.path().join("link")).unwrap();
    std::fs::write(tokens.join("theirs"), "theirs").unwrap();
    let files = Files::new(Arc::new(ArcSwap::from_pointee(NamedPlaces {
        files: [
            tokens.join("theirs"),
            tokens.join("not-there-yet"),
            folder.path().join("link/by-a-link"),
            other.join("free"),
        ]
        .into(),
        ..NamedPlaces::default()
    })));
    for (directory, name, is_taken) in [
        (&tokens, "theirs", true),
        (&tokens, "not-there-yet", true),
        (&tokens, "by-a-link", true),
        (&folder.path().join("link"), "theirs", true),
        (&tokens, "free", false),
        (&other, "theirs", false),
    ] {
        let artifacts = named(&["first", name]);
        let written = files.write(&to(directory), &artifacts).await;
        let proved = files.prove(&to(directory), Some(&artifacts)).await;
        if is_taken {
            for failure in [written.unwrap_err(), proved.unwrap_err()] {
                assert_eq!(failure.code(), Some("output.taken"), "{failure}");
                assert!(failure.message.contains(name), "{failure}");
            }
            assert!(!directory.join("first").exists() || directory.ends_with("link"));
        } else {
            assert_eq!(written, Ok(Written::Changed), "{name}");
            assert_eq!(proved, Ok(()), "{name}");
            std::fs::remove_file(directory.join("first")).unwrap();
        }
    }
    assert_eq!(std::fs::read(tokens.join("theirs")).unwrap(), b"theirs");
    // The output with this path writes there.
    let own = files.write(&to(tokens.join("theirs")), &one("own")).await;
    assert_eq!(own, Ok(Written::Changed));
}

#[tokio::test]
async fn of_outputs_that_are_one_file_no_names_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(Arc::default());
    for (path, artifacts, remembered, what) in [
        ("file", one("token"), 0, "a file"),
        ("", named(&["first"]), 1, "a format's file in a directory"),
    ] {
        let target = to(folder.path().join(path));
        files.write(&target, &artifacts).await.unwrap();
        assert_eq!(lock(&files.seen).names.len(), remembered, "{what}");
    }
}

#[tokio::test]
async fn a_format_with_ever_new_names_is_stopped_and_one_with_the_same_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(Arc::default());
    let target = to(folder.path());
    for round in 0..5 {
        let names: Vec<String> = (0..256).map(|n| format!("{round}-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let written = files.write(&target, &named(&names)).await;
        match round {
            4 => {
                let code = written.unwrap_err().code;
                assert_eq!(
                    code.as_ref().map(crate::model::failure::Code::as_str),
                    Some("file.too-many-names")
                );
            }
            _ => assert_eq!(written, Ok(Written::Changed)),
        }
    }
    assert_eq!(names(folder.path()).len(), MAX_NAMES);
    let again = files.write(&target, &named(&["0-0", "3-255"])).await;
    assert_eq!(again, Ok(Written::Unchanged));
}
