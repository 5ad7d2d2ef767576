//! Temporary files, which are written beside the target and then renamed to it. The writer holds a lock on the file while it
//! runs, so a temporary file without a lock is the leftover of a killed process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::failure::Problem;

/// The prefix of temporary names.
const PREFIX: &[u8] = b".evertoken-";

/// Hexadecimal digits at the end of a temporary name: 64 random bits.
const RANDOM_DIGITS: usize = 16;

/// Hexadecimal digits of the digest of a shortened target name. Leftovers of earlier versions are found by it.
const DIGEST_DIGITS: usize = 16;

/// Bytes of the target's name in the temporary one: 255, the limit of Linux's file systems, minus the rest. A longer name is
/// shortened and gets a digest.
const NAME_MAX_BYTES: usize = 255 - PREFIX.len() - DIGEST_DIGITS - RANDOM_DIGITS - 2;

/// New names tried before giving up.
const ATTEMPTS: usize = 8;

/// A locked file with a unique name beside the target; removed with this value unless it was renamed.
pub(super) struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: OsString,
    file: File,
}

impl<'a> Temporary<'a> {
    /// Creates the file, readable by us alone.
    pub(super) fn create(directory: &'a OwnedFd, target: &OsStr) -> Result<Self, Problem> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..ATTEMPTS {
            let name = temporary_name(target, fastrand::u64(..));
            let fd = match rustix::fs::openat(directory, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => fd,
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(Problem::os("create a file in the directory", errno)),
            };
            let temporary = Self {
                directory,
                name,
                file: File::from(fd),
            };
            if temporary.lock() {
                return Ok(temporary);
            }
        }
        Err(Problem::os("create a file in the directory", Errno::EXIST))
    }

    /// If a clean-up ran between creation and lock, it has removed the file as a leftover. A file system without locks has no
    /// clean-up either.
    fn lock(&self) -> bool {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => is_entry(self.directory, &self.name, &self.file),
            Err(errno) => errno != Errno::WOULDBLOCK,
        }
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Renames it to the target, which is replaced atomically.
    pub(super) fn rename_to(mut self, target: &OsStr) -> Result<(), Problem> {
        rustix::fs::renameat(self.directory, &self.name, self.directory, target).map_err(
            |errno| match errno {
                Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => Problem::TargetIsDirectory,
                // Within one directory these errors only occur for a mount point.
                Errno::BUSY | Errno::XDEV => Problem::MountPoint,
                other => Problem::os("replace the old file", other),
            },
        )?;
        self.name.clear();
        Ok(())
    }
}

impl Temporary<'_> {
    /// Renames it to another temporary name, to check that renaming works here.
    pub(super) fn rename_away(&mut self, target: &OsStr) -> Result<(), Problem> {
        let name = temporary_name(target, fastrand::u64(..));
        rustix::fs::renameat(self.directory, &self.name, self.directory, &name)
            .map_err(|errno| Problem::os("rename a file in the directory", errno))?;
        self.name = name;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // A file that cannot be removed now is a leftover for the next start.
            let _ = rustix::fs::unlinkat(self.directory, &self.name, AtFlags::empty());
        }
    }
}

fn temporary_name(target: &OsStr, random: u64) -> OsString {
    let mut name = own_prefix(target);
    name.extend_from_slice(format!("{random:0width$x}", width = RANDOM_DIGITS).as_bytes());
    OsString::from_vec(name)
}

/// The common prefix of a target's temporary names, up to the random digits.
fn own_prefix(target: &OsStr) -> Vec<u8> {
    let mut prefix = PREFIX.to_vec();
    match target.as_bytes() {
        short if short.len() <= NAME_MAX_BYTES => prefix.extend_from_slice(short),
        long => {
            prefix.extend(long.iter().take(NAME_MAX_BYTES));
            prefix.push(b'-');
            let digest = HEXLOWER.encode(&Sha256::digest(long));
            prefix.extend(digest.bytes().take(DIGEST_DIGITS));
        }
    }
    prefix.push(b'-');
    prefix
}

/// Removes the temporary files of a target whose writers have ended, and returns their names.
pub(super) fn remove_leftovers(directory: &OwnedFd, target: &OsStr) -> Vec<OsString> {
    let prefix = own_prefix(target);
    let Some(entries) = super::open_readable(directory).and_then(|fd| Dir::new(fd).ok()) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
        .filter(|name| is_own_name(&prefix, name))
        .filter(|name| remove_if_dead(directory, name))
        .collect()
}

fn is_own_name(prefix: &[u8], name: &OsStr) -> bool {
    name.as_bytes().strip_prefix(prefix).is_some_and(|random| {
        random.len() == RANDOM_DIGITS && random.iter().all(u8::is_ascii_hexdigit)
    })
}

/// A leftover that we may not even open, because of its mode or owner, stays.
fn remove_if_dead(directory: &OwnedFd, name: &OsStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, name, flags, Mode::empty()) else {
        return false;
    };
    let ours = rustix::fs::fstat(&file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1
    });
    ours && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        && is_entry(directory, name, &file)
        && rustix::fs::unlinkat(directory, name, AtFlags::empty()).is_ok()
}

/// Whether the name still refers to this file.
fn is_entry(directory: &OwnedFd, name: &OsStr, file: impl AsFd) -> bool {
    let entry = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    match (entry, rustix::fs::fstat(file)) {
        (Ok(entry), Ok(file)) => (entry.st_dev, entry.st_ino) == (file.st_dev, file.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_is_the_targets_own_and_never_too_long() {
        for target in ["eos", "a-b", &"x".repeat(255), &"y".repeat(220)] {
            let target = OsStr::new(target);
            let name = temporary_name(target, 1);
            assert!(name.len() <= 255, "{}", name.len());
            assert!(is_own_name(&own_prefix(target), &name));
        }
        let of_long = temporary_name(OsStr::new(&"x".repeat(255)), 1);
        let every_release = format!(
            ".evertoken-{}-d22609da3ae3956c-0000000000000001",
            "x".repeat(210)
        );
        assert_eq!(of_long, OsStr::new(&every_release));
        let of_longer = temporary_name(OsStr::new("a-b"), 1);
        assert!(!is_own_name(&own_prefix(OsStr::new("a")), &of_longer));
    }
}
