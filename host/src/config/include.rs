//! The files that `include` names. Directories are walked by code of our own, since the number of entries needs a limit: `/**/**`
//! would walk every disk of the machine.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use glob::Pattern;

use crate::file::Stamp;

/// The most files of all patterns together; a pattern that matches more names the wrong directory.
const MAX_FILES: usize = 10_000;
/// The most directory entries that are read for all patterns together: some tenths of a second on a local disk.
const MAX_ENTRIES: usize = 50_000;
/// The most nested directories that `**` matches.
const MAX_DEPTH: usize = 16;
/// Any number of directories.
const ANY_DEPTH: &str = "**";

/// Why a pattern is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IncludeError {
    /// It is not a valid pattern, with the reason.
    Malformed(&'static str),
    /// It matches too many files.
    TooManyFiles,
    /// Too many directory entries would be read.
    TooWide,
}

impl IncludeError {
    /// The message and the correction.
    pub(super) fn words(&self, path: &Path) -> (String, &'static str) {
        let shown = path.display();
        match self {
            Self::Malformed(reason) => (
                format!("`{shown}` is not a pattern: {reason}"),
                "write it like `jobs.d/*.yaml`",
            ),
            Self::TooManyFiles => (
                format!("`include` names more than {MAX_FILES} files, with `{shown}`"),
                "name a directory that holds nothing else",
            ),
            Self::TooWide => (
                format!("`{shown}` looks at more than {MAX_ENTRIES} entries of directories"),
                "name the directory: `jobs.d/*.yaml`",
            ),
        }
    }
}

/// A search for files.
pub(super) struct Search<'d> {
    directory: &'d Path,
    /// The files, each once, in the order of the patterns and then of their names.
    pub(super) found: Vec<PathBuf>,
    /// The directories that were searched, as they were before.
    pub(super) searched: BTreeMap<PathBuf, Option<Stamp>>,
    known: HashSet<PathBuf>,
    /// The number of directory entries that may still be read.
    entries_left: usize,
    files_max: usize,
}

/// One step of a pattern.
enum Step {
    /// A name that needs no search.
    Named(PathBuf),
    /// Names that match.
    Matching(Pattern),
    /// Any number of directories.
    AnyDepth,
}

impl<'d> Search<'d> {
    /// Relative patterns count from `directory`.
    pub(super) fn new(directory: &'d Path) -> Self {
        Self {
            directory,
            found: Vec::new(),
            searched: BTreeMap::new(),
            known: HashSet::new(),
            entries_left: MAX_ENTRIES,
            files_max: MAX_FILES,
        }
    }

    /// Adds the files of one path or pattern. A path that is no pattern is added unchecked; reading it fails if it is missing.
    pub(super) fn add(&mut self, pattern: &Path) -> Result<(), IncludeError> {
        let steps = steps(pattern)?;
        if steps.iter().all(|step| matches!(step, Step::Named(_))) {
            return self.keep(self.directory.join(pattern));
        }
        self.walk(self.directory.to_owned(), &steps, MAX_DEPTH)
    }

    fn keep(&mut self, file: PathBuf) -> Result<(), IncludeError> {
        if self.known.insert(file.clone()) {
            self.found.push(file);
        }
        match self.found.len() > self.files_max {
            true => Err(IncludeError::TooManyFiles),
            false => Ok(()),
        }
    }

    fn walk(&mut self, at: PathBuf, steps: &[Step], depth: usize) -> Result<(), IncludeError> {
        match steps.split_first() {
            None if at.is_file() => self.keep(at),
            None => Ok(()),
            Some((Step::Named(name), rest)) => self.walk(at.join(name), rest, depth),
            Some((Step::Matching(pattern), rest)) => {
                for entry in self.entries(&at)? {
                    if matches(pattern, &entry.name) {
                        self.walk(at.join(&entry.name), rest, depth)?;
                    }
                }
                Ok(())
            }
            Some((Step::AnyDepth, rest)) => {
                self.walk(at.clone(), rest, depth)?;
                let Some(depth) = depth.checked_sub(1) else {
                    return Ok(());
                };
                for entry in self.entries(&at)? {
                    if entry.is_directory && !is_hidden(&entry.name) {
                        self.walk(at.join(&entry.name), steps, depth)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// The entries, sorted by name; empty where there is no readable directory.
    fn entries(&mut self, directory: &Path) -> Result<Vec<DirectoryEntry>, IncludeError> {
        let mut entries = Vec::new();
        self.searched
            .entry(directory.to_owned())
            .or_insert_with(|| Stamp::of(directory));
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            self.entries_left = self
                .entries_left
                .checked_sub(1)
                .ok_or(IncludeError::TooWide)?;
            entries.push(DirectoryEntry {
                name: entry.file_name().into(),
                // A symbolic link does not count: it may lead back up.
                is_directory: entry.file_type().is_ok_and(|kind| kind.is_dir()),
            });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

struct DirectoryEntry {
    name: PathBuf,
    is_directory: bool,
}

/// As in a shell, only a pattern that begins with a dot matches a name that does.
fn matches(pattern: &Pattern, name: &Path) -> bool {
    name.to_str().is_some_and(|text| {
        pattern.matches(text) && (pattern.as_str().starts_with('.') || !is_hidden(name))
    })
}

fn is_hidden(name: &Path) -> bool {
    name.as_os_str().as_encoded_bytes().starts_with(b".")
}

fn steps(pattern: &Path) -> Result<Vec<Step>, IncludeError> {
    let mut steps: Vec<Step> = Vec::new();
    for part in pattern.components() {
        match (step(part)?, steps.last_mut()) {
            // `**/**` is the same as `**`.
            (Step::AnyDepth, Some(Step::AnyDepth)) => {}
            (Step::Named(name), Some(Step::Named(before))) => before.push(name),
            (step, _) => steps.push(step),
        }
    }
    // `jobs/**` means all files below `jobs`.
    if matches!(steps.last(), Some(Step::AnyDepth)) {
        steps.push(Step::Matching(Pattern::new("*").map_err(malformed)?));
    }
    Ok(steps)
}

fn step(part: Component<'_>) -> Result<Step, IncludeError> {
    let Component::Normal(name) = part else {
        return Ok(Step::Named(part.as_os_str().into()));
    };
    match name.to_str() {
        Some(ANY_DEPTH) => Ok(Step::AnyDepth),
        Some(text) if text.contains(['*', '?', '[']) => {
            Ok(Step::Matching(Pattern::new(text).map_err(malformed)?))
        }
        Some(_) | None => Ok(Step::Named(OsStr::new(name).into())),
    }
}

fn malformed(error: glob::PatternError) -> IncludeError {
    IncludeError::Malformed(error.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(directory: &Path, patterns: &[&str]) -> Result<Vec<String>, IncludeError> {
        let mut search = Search::new(directory);
        for pattern in patterns {
            search.add(Path::new(pattern))?;
        }
        let shown = |path: &PathBuf| path.strip_prefix(directory).unwrap().display().to_string();
        Ok(search.found.iter().map(shown).collect())
    }

    #[test]
    fn patterns_name_files_as_in_a_shell_each_once() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        for file in [
            "a.yaml",
            "b.yml",
            ".h.yaml",
            "d/c.yaml",
            "d/e/f.yaml",
            "d[1]/g.yaml",
        ] {
            let path = directory.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("..", directory.join("d/loop")).unwrap();
        for (patterns, expected) in [
            (&["*.yaml"][..], &["a.yaml"][..]),
            (&["*"], &["a.yaml", "b.yml"]),
            (&[".*.yaml"], &[".h.yaml"]),
            (&["?.y*ml", "a.yaml"], &["a.yaml", "b.yml"]),
            (&["*/*.yaml"], &["d/c.yaml", "d[1]/g.yaml"]),
            (&["d/**"], &["d/c.yaml", "d/e/f.yaml"]),
            (
                &["**/*.yaml", "**/**"],
                &["a.yaml", "d/c.yaml", "d/e/f.yaml", "d[1]/g.yaml", "b.yml"],
            ),
            (&["no/*.yaml"], &[]),
            (&["no.yaml"], &["no.yaml"]),
        ] {
            assert_eq!(
                found(directory, patterns).unwrap(),
                expected,
                "{patterns:?}"
            );
        }
        assert!(matches!(
            found(directory, &["a[.yaml"]),
            Err(IncludeError::Malformed(_))
        ));
        assert!(matches!(
            found(directory, &["a***b"]),
            Err(IncludeError::Malformed(_))
        ));
    }

    #[test]
    fn what_would_walk_the_machine_ends_soon() {
        let started = std::time::Instant::now();
        let _ = Search::new(Path::new("/")).add(Path::new("/**/**"));
        assert!(started.elapsed() < std::time::Duration::from_secs(20));
    }

    #[test]
    fn files_and_what_is_looked_at_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..20 {
            std::fs::write(directory.path().join(number.to_string()), "").unwrap();
        }
        for (pattern, files_max, entries_left, expected) in [
            ("*", 20, 20, Ok(())),
            ("*", 19, 20, Err(IncludeError::TooManyFiles)),
            ("*", 20, 19, Err(IncludeError::TooWide)),
            ("none*", 20, 19, Err(IncludeError::TooWide)),
            // The entries are read twice: for the names, and for directories.
            ("**/none*", 20, 40, Ok(())),
            ("**/none*", 20, 39, Err(IncludeError::TooWide)),
        ] {
            let mut search = Search::new(directory.path());
            (search.files_max, search.entries_left) = (files_max, entries_left);
            assert_eq!(
                search.add(Path::new(pattern)),
                expected,
                "{pattern} {files_max} {entries_left}"
            );
        }
    }
}
