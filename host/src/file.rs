//! Reading of files that a configuration or a command names. A file that another user can replace must not block or crash the
//! process: nothing here waits for the other end of a pipe, opens a device or takes more memory than the file may have, and a
//! hanging file system takes a limited number of threads.

pub(crate) mod walk;

use std::fs::{File, FileType, Metadata};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

/// The timeout for a file system. A disk that spins up takes ten seconds; one that takes longer is an unreachable server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Threads per directory: enough that one fsync serves several, and no more than a hanging mount may take.
const PER_DIRECTORY: usize = 8;

/// The number of queues that directories share, so that a thousand hanging ones take no more threads than these have places.
const LINES: usize = 8;

/// The most threads for file access, whatever hangs.
pub(crate) const THREADS_MAX: usize = PER_DIRECTORY * LINES;

static WAITING: [Semaphore; LINES] = [const { Semaphore::const_new(PER_DIRECTORY) }; LINES];

/// Metadata of a file that differs once it was written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Stamp {
    /// The stamp of the file at a path; none: it cannot be looked at.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self::from(&metadata))
    }
}

/// Why a file is not read. The message follows the file's name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// It does not exist.
    #[error("it does not exist")]
    Missing,
    /// A symbolic link leads nowhere.
    #[error("it is a symbolic link to {}, which does not exist", .0.display())]
    Dangling(PathBuf),
    /// A directory.
    #[error("it is a directory; name a file in it")]
    Directory,
    /// Not a regular file: opening or reading it could block, never end, or have a side effect.
    #[error("it is a {0}, and only regular files are read; put what it would give into a file")]
    Special(&'static str),
    /// It is longer than allowed for its kind.
    #[error("it has more than {0} bytes, the most that it may have")]
    TooLong(usize),
    /// It belongs to another user.
    #[error("it belongs to user {owner}, who could change it at any time; give it to user {us} or to root with `chown`", us = rustix::process::geteuid().as_raw())]
    Foreign {
        /// That user.
        owner: u32,
    },
    /// Other users may change it.
    #[error("it can be written by others (mode {mode:04o}); take that from them with `chmod go-w`")]
    Writable {
        /// Its permission bits.
        mode: u32,
    },
    /// The system's error.
    #[error("{0}")]
    System(io::Error),
    /// Its file system does not answer.
    #[error("its file system does not answer within {} s", PATIENCE.as_secs())]
    Stuck,
}

impl From<Unreadable> for io::Error {
    fn from(unreadable: Unreadable) -> Self {
        let kind = match &unreadable {
            Unreadable::Missing | Unreadable::Dangling(_) => io::ErrorKind::NotFound,
            Unreadable::Directory => io::ErrorKind::IsADirectory,
            Unreadable::Special(_) => io::ErrorKind::InvalidInput,
            Unreadable::TooLong(_) => io::ErrorKind::FileTooLarge,
            Unreadable::Foreign { .. } | Unreadable::Writable { .. } => {
                io::ErrorKind::PermissionDenied
            }
            Unreadable::System(error) => error.kind(),
            Unreadable::Stuck => io::ErrorKind::TimedOut,
        };
        Self::new(kind, unreadable)
    }
}

/// The content of a regular file of at most `max_bytes` bytes. Symbolic links are followed: a mounted Kubernetes Secret consists
/// of them.
pub(crate) fn read(path: &Path, max_bytes: usize) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let (file, metadata) = open(path)?;
    content(file, &metadata, max_bytes)
}

/// The same for a file whose content other users must not choose: it must belong to root or to us, and no other user may write
/// it. Read permission is not checked: a mounted Kubernetes Secret is readable for all in its container.
pub(crate) fn read_own(path: &Path, max_bytes: usize) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let (file, metadata) = open(path)?;
    check_owner(&metadata)?;
    content(file, &metadata, max_bytes)
}

/// [`read`] for async callers.
pub(crate) async fn read_aside(
    path: &Path,
    max_bytes: usize,
) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let to_read = path.to_owned();
    aside(path, move || read(&to_read, max_bytes)).await?
}

/// Opens a regular file for reading, at once or not at all.
pub(crate) fn open(path: &Path) -> Result<(File, Metadata), Unreadable> {
    // Opening a device can have an effect (rewind a tape, arm a watchdog), so the file is checked first; if it is replaced by a
    // pipe in between, opening does not block, and the pipe is detected afterwards.
    let found = std::fs::metadata(path).map_err(|error| why_not(path, error))?;
    check_type(found.file_type())?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::options()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
        .map_err(|error| why_not(path, error))?;
    let metadata = file.metadata().map_err(Unreadable::System)?;
    check_type(metadata.file_type())?;
    Ok((file, metadata))
}

/// The whole content of an open file.
pub(crate) fn content(
    file: File,
    metadata: &Metadata,
    max_bytes: usize,
) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if length > max_bytes {
        return Err(Unreadable::TooLong(max_bytes));
    }
    // At its full capacity from the start: growing would leave unwiped copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    // Files of /proc have no length, and others may grow.
    file.take(
        u64::try_from(max_bytes)
            .unwrap_or(u64::MAX)
            .saturating_add(1),
    )
    .read_to_end(&mut bytes)
    .map_err(Unreadable::System)?;
    if bytes.len() > max_bytes {
        return Err(Unreadable::TooLong(max_bytes));
    }
    Ok(bytes)
}

fn check_type(found: FileType) -> Result<(), Unreadable> {
    if found.is_file() {
        Ok(())
    } else if found.is_dir() {
        Err(Unreadable::Directory)
    } else if found.is_fifo() {
        Err(Unreadable::Special("pipe"))
    } else if found.is_socket() {
        Err(Unreadable::Special("socket"))
    } else {
        Err(Unreadable::Special("device"))
    }
}

fn check_owner(metadata: &Metadata) -> Result<(), Unreadable> {
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(Unreadable::Foreign { owner });
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(Unreadable::Writable {
            mode: metadata.mode() & 0o7777,
        });
    }
    Ok(())
}

fn why_not(path: &Path, error: io::Error) -> Unreadable {
    if error.kind() != io::ErrorKind::NotFound {
        return Unreadable::System(error);
    }
    match std::fs::read_link(path) {
        Ok(target) => Unreadable::Dangling(target),
        Err(_) => Unreadable::Missing,
    }
}

/// Runs file access on a thread of its own, and stops waiting when the file system hangs. Only for work that may still happen
/// after that.
pub(crate) async fn aside<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unreadable> {
    within(PATIENCE, path, work).await
}

async fn within<T: Send + 'static>(
    patience: Duration,
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unreadable> {
    let done = async {
        let turn = turn(path).await?;
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Unreadable::System(io::Error::other(error)))
    };
    tokio::time::timeout(patience, done)
        .await
        .unwrap_or(Err(Unreadable::Stuck))
}

/// Waits until a thread may access this file.
pub(crate) async fn turn(path: &Path) -> Result<SemaphorePermit<'static>, Unreadable> {
    let mut hasher = DefaultHasher::new();
    path.parent().hash(&mut hasher);
    let line = usize::try_from(hasher.finish() % LINES as u64).unwrap_or_default();
    let closed = || Unreadable::System(io::Error::other("nobody is served any more"));
    let line = WAITING.get(line).ok_or_else(closed)?;
    line.acquire().await.map_err(|_| closed())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use super::*;
    use crate::test_support::{is_root, make_fifo};

    const MAX: usize = 1000;

    fn message(read: Result<Zeroizing<Vec<u8>>, Unreadable>) -> String {
        read.unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_file_of_a_fair_size_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        make_fifo(&at("pipe"));
        let _listener = UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("long"), vec![b'a'; MAX + 1]).unwrap();
        File::create(at("sparse"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink(at("pipe"), at("link-to-pipe")).unwrap();
        std::fs::write(at("locked"), "value").unwrap();
        std::fs::set_permissions(at("locked"), PermissionsExt::from_mode(0o000)).unwrap();
        let mut table = vec![
            (at("pipe"), "is a pipe, and only regular files are read"),
            (at("link-to-pipe"), "is a pipe"),
            (at("socket"), "is a socket"),
            ("/dev/zero".into(), "is a device"),
            ("/dev/tty".into(), "is a device"),
            (at(""), "is a directory; name a file in it"),
            (
                at("dangling"),
                "is a symbolic link to nowhere, which does not exist",
            ),
            (at("loop"), "symbolic links"),
            (at("missing"), "does not exist"),
            (at("long/x"), "Not a directory"),
            (at("long"), "has more than 1000 bytes"),
            (at("sparse"), "has more than 1000 bytes"),
            // It reports no length, and has many bytes.
            ("/proc/self/smaps".into(), "has more than 1000 bytes"),
        ];
        if !is_root() {
            table.push((at("locked"), "Permission denied"));
        }
        let begun = Instant::now();
        for (path, expected) in table {
            for found in [message(read(&path, MAX)), message(read_own(&path, MAX))] {
                assert!(found.contains(expected), "{}: {found}", path.display());
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_regular_file_is_read_whole_also_through_links_as_in_a_mounted_secret() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("..2026")).unwrap();
        std::fs::write(at("..2026/key"), vec![b'a'; MAX]).unwrap();
        symlink("..2026", at("..data")).unwrap();
        symlink("..data/key", at("key")).unwrap();
        assert_eq!(read(&at("key"), MAX).unwrap().len(), MAX);
        assert_eq!(read_own(&at("key"), MAX).unwrap().len(), MAX);
        assert_ne!(read(Path::new("/proc/self/comm"), MAX).unwrap().len(), 0);
    }

    #[test]
    fn what_others_own_or_may_write_is_not_read_as_our_own() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "k").unwrap();
        for (mode, expected) in [
            (0o600, None),
            (0o444, None),
            (0o620, Some("mode 0620")),
            (0o602, Some("`chmod go-w`")),
        ] {
            std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
            let found = read_own(&key, MAX).err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(found, None, "{mode:o}"),
                Some(expected) => assert!(found.unwrap().contains(expected), "{mode:o}"),
            }
        }
        if is_root() {
            std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
            chown(&key, Some(4711), None).unwrap();
            assert!(message(read_own(&key, MAX)).contains("belongs to user 4711"));
            assert!(read(&key, MAX).is_ok());
        }
    }

    #[tokio::test]
    async fn a_file_system_that_hangs_keeps_few_threads_and_stops_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let hanging = folder.path().join("mount/file");
        let mut held = Vec::new();
        while held.len() < PER_DIRECTORY {
            held.push(turn(&hanging).await.unwrap());
        }
        let stuck = within(Duration::from_millis(50), &hanging, || ());
        let stuck = stuck.await.unwrap_err();
        assert!(matches!(stuck, Unreadable::Stuck));
        // Some share the queue, most do not.
        let mut served = 0;
        for number in 0..LINES * 4 {
            let other = PathBuf::from(format!("/other/{number}/file"));
            let done = within(Duration::from_millis(50), &other, || ());
            served += usize::from(done.await.is_ok());
        }
        assert!(served > LINES, "{served}");
        drop(held);
        assert!(aside(&hanging, || ()).await.is_ok());
    }
}
