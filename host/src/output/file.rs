//! The file sink. Each file is replaced atomically by a rename, so that a reader sees the old content or the new, unless the user
//! configures writing in place. Owner and mode are set before there is content, symbolic links of other users are not followed,
//! and leftovers of a killed process are removed.
//!
//! Directories are never created: their owner and permissions are the user's decision.

mod failure;
mod in_place;
mod prove;
mod temporary;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use self::failure::Problem;
use self::temporary::Temporary;
use super::{CurrentPlaces, Withdrawn, Written, taken};
use crate::file::{self, walk};
use crate::model::failure::{Failure, FailureKind, HostCode};
use crate::model::token::Artifact;
use crate::model::{FileDestination, NamedPlaces, Replace};

/// The permission bits; set-user-ID and the like make no sense for a token.
const PERMISSION_BITS: RawMode = 0o777;

/// The most file names that formats may use in one directory during the process: four times what they may make at once.
const MAX_NAMES: usize = 1024;

/// The file sink.
#[derive(Debug)]
pub(super) struct Files {
    named: CurrentPlaces,
    seen: Arc<Mutex<Seen>>,
}

/// What this process has done so far.
#[derive(Debug, Default)]
struct Seen {
    /// Hashes of the paths whose leftovers it has removed: leftovers of a killed process exist only at start.
    cleaned: HashSet<u64>,
    /// The names that formats gave to files in a directory.
    names: HashMap<PathBuf, BTreeSet<String>>,
}

impl Seen {
    /// Whether a format keeps to a limited number of names in a directory, since files that it no longer makes are never removed.
    /// An artifact without a name is the output's path itself.
    fn takes(&mut self, directory: &Path, artifacts: &[Artifact]) -> bool {
        let named = artifacts.iter().map(|artifact| &artifact.name);
        let mut named = named.filter(|name| !name.is_empty()).peekable();
        if named.peek().is_none() {
            return true;
        }
        let names = self.names.entry(directory.to_owned()).or_default();
        let fresh: BTreeSet<_> = named.filter(|name| !names.contains(*name)).collect();
        if names.len() + fresh.len() > MAX_NAMES {
            return false;
        }
        let fresh: Vec<_> = fresh.into_iter().cloned().collect();
        names.extend(fresh);
        true
    }
}

impl Files {
    pub(super) fn new(named: CurrentPlaces) -> Self {
        Self {
            named,
            seen: Arc::default(),
        }
    }

    /// Writes the artifacts that are not in place: one without a name to the path itself, others into that directory.
    pub(super) async fn write(
        &self,
        destination: &FileDestination,
        artifacts: &[Artifact],
    ) -> Result<Written, Failure> {
        let (of_task, artifacts) = (destination.clone(), artifacts.to_vec());
        let (named, seen) = (self.named.load_full(), Arc::clone(&self.seen));
        self.at_the_disk(destination, move || {
            write_all(&of_task, &artifacts, &named, &seen)
        })
        .await
    }

    /// Checks that these artifacts, or any if none are known, could be written.
    pub(super) async fn prove(
        &self,
        destination: &FileDestination,
        artifacts: Option<&[Artifact]>,
    ) -> Result<(), Failure> {
        let of_task = destination.clone();
        let sizes = artifacts.map(|artifacts| {
            let size = |artifact: &Artifact| {
                let bytes = artifact.content.expose_secret().len();
                (artifact.name.clone(), bytes)
            };
            artifacts.iter().map(size).collect::<Vec<_>>()
        });
        let named = self.named.load_full();
        self.at_the_disk(destination, move || match sizes {
            Some(sizes) => {
                let names = sizes.iter().map(|(name, _)| name.as_str());
                keeps_off(&of_task, names, &named)?;
                prove::prove(&of_task, &sizes)
            }
            None => prove::prove_any(&of_task),
        })
        .await
    }

    /// Deletes the artifacts that are in place.
    pub(super) async fn withdraw(
        &self,
        destination: &FileDestination,
        artifacts: &[Artifact],
    ) -> Result<Withdrawn, Failure> {
        let (of_task, artifacts) = (destination.clone(), artifacts.to_vec());
        let named = self.named.load_full();
        self.at_the_disk(destination, move || {
            withdraw_all(&of_task, &artifacts, &named)
        })
        .await
    }

    /// Runs blocking work on a thread of its own, once one is free for its directory.
    async fn at_the_disk<T: Send + 'static>(
        &self,
        destination: &FileDestination,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let gone = |error: &dyn std::fmt::Display| {
            Failure::new(
                FailureKind::Internal,
                HostCode::FileInternal,
                format!(
                    "writing {} was cut off: {error}",
                    destination.path.display()
                ),
            )
        };
        // Awaited to its end, however long: an abandoned write could still replace newer content by its old one.
        let turn = file::turn(&destination.path)
            .await
            .map_err(|error| gone(&error))?;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        })
        .await
        .map_err(|error| gone(&error))?
    }
}

fn write_all(
    destination: &FileDestination,
    artifacts: &[Artifact],
    named: &NamedPlaces,
    seen: &Mutex<Seen>,
) -> Result<Written, Failure> {
    let names = artifacts.iter().map(|artifact| artifact.name.as_str());
    keeps_off(destination, names, named)?;
    if !lock(seen).takes(&destination.path, artifacts) {
        return Err(Problem::TooManyNames { most: MAX_NAMES }.at(&destination.path));
    }
    let mut written = Written::Unchanged;
    for artifact in artifacts {
        let target = FileTarget::find(path_of(destination, &artifact.name), destination)?;
        target.clean_once(seen);
        if target.replace(artifact.content.expose_secret())? == Written::Changed {
            written = Written::Changed;
        }
    }
    Ok(written)
}

/// Artifacts whose content is not known were not written by this process.
fn withdraw_all(
    destination: &FileDestination,
    artifacts: &[Artifact],
    named: &NamedPlaces,
) -> Result<Withdrawn, Failure> {
    let names = artifacts.iter().map(|artifact| artifact.name.as_str());
    keeps_off(destination, names, named)?;
    let mut withdrawn = Withdrawn::Foreign;
    for artifact in artifacts {
        let target = FileTarget::find(path_of(destination, &artifact.name), destination)?;
        match target.remove(artifact.content.expose_secret())? {
            Withdrawn::Deleted => withdrawn = Withdrawn::Deleted,
            Withdrawn::Gone if withdrawn == Withdrawn::Foreign => withdrawn = Withdrawn::Gone,
            Withdrawn::Gone | Withdrawn::Foreign => {}
        }
    }
    Ok(withdrawn)
}

/// Whether no artifact that a format named would overwrite a file that has another use, by whichever path its directory is
/// reached.
fn keeps_off<'a>(
    destination: &FileDestination,
    names: impl Iterator<Item = &'a str>,
    named: &NamedPlaces,
) -> Result<(), Failure> {
    for name in names.filter(|name| !name.is_empty()) {
        let mut of_this_name = named.files.iter().filter(|file| {
            file.file_name() == Some(OsStr::new(name))
                && file
                    .parent()
                    .is_some_and(|parent| is_same_directory(parent, &destination.path))
        });
        if let Some(file) = of_this_name.next() {
            return Err(taken(name, &file.display().to_string()));
        }
    }
    Ok(())
}

fn is_same_directory(one: &Path, other: &Path) -> bool {
    let identity = |path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    one == other || matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The path of an artifact of this name: the output's path for the empty name, else a file in that directory.
fn path_of(destination: &FileDestination, artifact: &str) -> PathBuf {
    if artifact.is_empty() {
        destination.path.clone()
    } else {
        destination.path.join(artifact)
    }
}

/// A file's place, with its directory held open, so that the directory cannot be exchanged.
struct FileTarget<'a> {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    wanted: &'a FileDestination,
}

impl<'a> FileTarget<'a> {
    fn find(path: PathBuf, wanted: &'a FileDestination) -> Result<Self, Failure> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Problem::NoFileName.at(&path));
        };
        let directory =
            walk::open_directory(parent).map_err(|error| Problem::Way(error).at(&path))?;
        Ok(Self {
            name: name.to_owned(),
            directory,
            wanted,
            path,
        })
    }

    /// Removes the leftovers of killed processes, at the first use of this path. A failure is ignored.
    fn clean_once(&self, seen: &Mutex<Seen>) {
        let mut hasher = DefaultHasher::new();
        self.path.hash(&mut hasher);
        let first = lock(seen).cleaned.insert(hasher.finish());
        if first {
            for name in temporary::remove_leftovers(&self.directory, &self.name) {
                tracing::info!(path = %self.path.display(), leftover = %name.display(), "removed what a killed writer left");
            }
        }
    }

    /// Writes `content`, unless it is in place with the right owner and mode.
    fn replace(&self, content: &[u8]) -> Result<Written, Failure> {
        self.check_in_the_way().map_err(|p| p.at(&self.path))?;
        if self.holds(content) {
            return Ok(Written::Unchanged);
        }
        self.put(content).map_err(|p| p.at(&self.path))?;
        Ok(Written::Changed)
    }

    /// Deletes the file if it has this `content`. One that is written over in place cannot be deleted where it is mounted, and is
    /// emptied.
    fn remove(&self, content: &[u8]) -> Result<Withdrawn, Failure> {
        let there = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if matches!(there, Err(Errno::NOENT)) {
            return Ok(Withdrawn::Gone);
        }
        if !self.holds(content) {
            return Ok(Withdrawn::Foreign);
        }
        self.remove_now().map_err(|p| p.at(&self.path))?;
        Ok(Withdrawn::Deleted)
    }

    fn remove_now(&self) -> Result<(), Problem> {
        self.check_attributes()?;
        if self.wanted.replace == Replace::InPlace && in_place::write(self, &[])? {
            return Ok(());
        }
        self.check_replaceable()?;
        match rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => sync_directory(&self.directory),
            Err(errno) => Err(Problem::os("delete the file", errno)),
        }
    }

    /// Writes `content` in the configured way.
    fn put(&self, content: &[u8]) -> Result<(), Problem> {
        self.check_attributes()?;
        if self.wanted.replace == Replace::InPlace && in_place::write(self, content)? {
            return Ok(());
        }
        self.check_replaceable()?;
        self.put_another(content)
    }

    /// Only a regular file is replaced: anything else was put there on purpose, perhaps as an attack.
    fn check_in_the_way(&self) -> Result<(), Problem> {
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Problem::os("look at the file", errno)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Ok(()),
                FileType::Symlink => Err(Problem::TargetIsSymlink),
                FileType::Directory => Err(Problem::TargetIsDirectory),
                _ => Err(Problem::TargetIsSpecial),
            },
        }
    }

    /// Whether the file has this `content` and the configured owner and mode. An unreadable file is written anew.
    fn holds(&self, content: &[u8]) -> bool {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty()) else {
            return false;
        };
        match rustix::fs::fstat(&fd) {
            Ok(stat) if self.has_wanted_form(&stat) && size_of(&stat) == Some(content.len()) => {}
            _ => return false,
        }
        let mut found = Zeroizing::new(vec![0; content.len()]);
        let mut file = File::from(fd);
        file.read_exact(&mut found).is_ok() && found[..] == *content
    }

    /// The configured owner, or ours.
    fn owner(&self) -> u32 {
        self.wanted
            .owner
            .unwrap_or_else(|| rustix::process::geteuid().as_raw())
    }

    /// Whether it is regular, with the right owner (ours, unless configured), group (any, unless configured) and mode.
    fn has_wanted_form(&self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_uid == self.owner()
            && self.wanted.group.is_none_or(|group| stat.st_gid == group)
            && stat.st_mode & 0o7777 == self.wanted.mode & PERMISSION_BITS
    }

    /// Replaces the file by a new one.
    fn put_another(&self, content: &[u8]) -> Result<(), Problem> {
        let temporary = Temporary::create(&self.directory, &self.name)?;
        self.give_away(temporary.file())?;
        temporary
            .file()
            .write_all(content)
            .map_err(|error| Problem::io("write", &error))?;
        temporary
            .file()
            .sync_all()
            .map_err(|error| Problem::io("flush to disk", &error))?;
        temporary.rename_to(&self.name)?;
        sync_directory(&self.directory)
    }

    /// Checks that the file may be changed: some attributes (`chattr`) apply to root, too.
    fn check_attributes(&self) -> Result<(), Problem> {
        match frozen(self.attributes()) {
            Some(attribute) => Err(Problem::Attribute(attribute)),
            None => Ok(()),
        }
    }

    /// Checks that the file can be replaced: not if something is mounted there, nor in an append-only directory.
    fn check_replaceable(&self) -> Result<(), Problem> {
        if self.attributes().contains(StatxAttributes::MOUNT_ROOT) {
            return Err(Problem::MountPoint);
        }
        if let Some(attribute) = frozen(attributes(&self.directory, OsStr::new("."))) {
            return Err(Problem::DirectoryAttribute(attribute));
        }
        self.check_sticky()
    }

    fn attributes(&self) -> StatxAttributes {
        attributes(&self.directory, &self.name)
    }

    /// In a directory with the sticky bit a file can only be replaced by its owner or the directory's (root nearly always can).
    fn check_sticky(&self) -> Result<(), Problem> {
        let uid = rustix::process::geteuid();
        let look = |errno| Problem::os("look at the file", errno);
        let directory = rustix::fs::fstat(&self.directory).map_err(look)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(&self.directory, &self.name, flags) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(look(errno)),
            Ok(file)
                if Mode::from_raw_mode(directory.st_mode).contains(Mode::SVTX)
                    && !uid.is_root()
                    && file.st_uid != uid.as_raw()
                    && directory.st_uid != uid.as_raw() =>
            {
                Err(Problem::Sticky { owner: file.st_uid })
            }
            Ok(_) => Ok(()),
        }
    }

    /// Mode first: the owner never has write permission unless that was configured. A file system that ignores either is noticed
    /// before the file contains a secret.
    fn give_away(&self, file: &File) -> Result<(), Problem> {
        let mode = self.wanted.mode & PERMISSION_BITS;
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
            .map_err(|errno| Problem::os("set the mode", errno))?;
        if self.wanted.owner.is_some() || self.wanted.group.is_some() {
            let owner = self.wanted.owner.map(rustix::process::Uid::from_raw);
            let group = self.wanted.group.map(rustix::process::Gid::from_raw);
            rustix::fs::fchown(file, owner, group).map_err(|errno| match errno {
                Errno::PERM | Errno::INVAL => Problem::Owner {
                    owner: self.wanted.owner,
                    group: self.wanted.group,
                },
                other => Problem::os("set the owner", other),
            })?;
        }
        let stat =
            rustix::fs::fstat(file).map_err(|errno| Problem::os("look at the file", errno))?;
        let kept = stat.st_mode & PERMISSION_BITS == mode
            && self.wanted.owner.is_none_or(|owner| owner == stat.st_uid)
            && self.wanted.group.is_none_or(|group| group == stat.st_gid);
        if kept {
            Ok(())
        } else {
            Err(Problem::ModeIgnored)
        }
    }
}

/// None: the file is missing, or a kernel or a sandbox does not support it; then the rename will fail if need be.
fn attributes(directory: &OwnedFd, name: &OsStr) -> StatxAttributes {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(directory, name, flags, StatxFlags::empty());
    found.map_or(StatxAttributes::empty(), |found| found.stx_attributes)
}

/// The name of the attribute that forbids changes.
fn frozen(attributes: StatxAttributes) -> Option<&'static str> {
    if attributes.contains(StatxAttributes::IMMUTABLE) {
        Some("immutable")
    } else if attributes.contains(StatxAttributes::APPEND) {
        Some("append-only")
    } else {
        None
    }
}

fn size_of(stat: &Stat) -> Option<usize> {
    usize::try_from(stat.st_size).ok()
}

/// Makes the rename durable. That is not possible for a directory that we may write but not read, or on some file systems; the
/// content is in place all the same.
fn sync_directory(directory: impl AsFd) -> Result<(), Problem> {
    let Some(readable) = open_readable(directory) else {
        return Ok(());
    };
    match rustix::fs::fsync(readable) {
        Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::ROFS) => Ok(()),
        Err(errno) => Err(Problem::os("flush the directory to disk", errno)),
    }
}

fn open_readable(directory: impl AsFd) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, OsStr::new("."), flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests;
