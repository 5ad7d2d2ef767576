//! A released folder of the plugin interface does not change: plugins in the field were built against it. `wit/README.md` says how to change the
//! interface all the same.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may fail as plainly as the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Digests by path below `wit/`.
type Digests = BTreeMap<String, String>;

#[test]
fn released_folders_of_the_interface_are_as_they_were_released() {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let frozen = frozen(&fs::read_to_string(wit.join("frozen.sha256")).unwrap());
    assert!(!frozen.is_empty(), "wit/frozen.sha256 lists nothing");
    let found = found(&wit, &frozen);
    let complaints = complaints(&frozen, &found);
    assert!(
        complaints.is_empty(),
        "{}\nsee wit/README.md for how the interface is changed",
        complaints.join("\n")
    );
}

#[test]
fn a_changed_a_new_and_a_missing_file_are_each_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let release = folder.path().join("v0.1");
    fs::create_dir(&release).unwrap();
    for name in ["kept.wit", "changed.wit", "missing.wit"] {
        fs::write(release.join(name), name).unwrap();
    }
    let list: String = files(&release)
        .iter()
        .map(|path| format!("{}  {}\n", digest(path), relative(folder.path(), path)))
        .collect();
    let frozen = frozen(&list);
    assert!(complaints(&frozen, &found(folder.path(), &frozen)).is_empty());

    fs::write(release.join("changed.wit"), "changed.wit ").unwrap();
    fs::remove_file(release.join("missing.wit")).unwrap();
    fs::create_dir(release.join("deeper")).unwrap();
    fs::write(release.join("deeper/new.wit"), "").unwrap();
    fs::create_dir(folder.path().join("v0.2")).unwrap();
    fs::write(folder.path().join("v0.2/draft.wit"), "").unwrap();
    assert_eq!(
        complaints(&frozen, &found(folder.path(), &frozen)),
        [
            "v0.1/changed.wit changed",
            "v0.1/deeper/new.wit appeared",
            "v0.1/missing.wit is gone"
        ]
    );
}

/// Lines as sha256sum writes them.
fn frozen(list: &str) -> Digests {
    list.lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(digest, path)| (path.to_owned(), digest.to_owned()))
        .collect()
}

/// What is in the folders that the list names; a folder that is not released yet is not among them.
fn found(wit: &Path, frozen: &Digests) -> Digests {
    let folders: BTreeSet<_> = frozen
        .keys()
        .map(|path| path.split('/').next().unwrap())
        .collect();
    folders
        .iter()
        .flat_map(|folder| files(&wit.join(folder)))
        .map(|path| (relative(wit, &path), digest(&path)))
        .collect()
}

fn complaints(frozen: &Digests, found: &Digests) -> Vec<String> {
    let paths: BTreeSet<_> = frozen.keys().chain(found.keys()).collect();
    let complaint = |path: &&String| match (frozen.get(*path), found.get(*path)) {
        (Some(was), Some(is)) => (was != is).then(|| format!("{path} changed")),
        (Some(_), None) => Some(format!("{path} is gone")),
        (None, _) => Some(format!("{path} appeared")),
    };
    paths.iter().filter_map(complaint).collect()
}

/// All files below a folder; none if it is gone.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap()
        .to_str()
        .unwrap()
        .replace(std::path::MAIN_SEPARATOR, "/")
}

fn digest(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
