//! The folders of parts: what is built once and kept (`target/parts/…`), and what one run needs (`target/parts/run/…`, removed
//! with its process); and free ports.

use std::fs::{File, TryLockError};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, anyhow};

/// Below Linux's ephemeral ports (32768 and up), so that no outgoing connection takes a port between its choice and its use.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The folder of this package's sources: `tests/` of the workspace.
#[must_use]
pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The workspace's root folder.
///
/// # Errors
///
/// When the package has no parent folder.
pub fn workspace() -> Result<&'static Path> {
    package().parent().context("tests/ has no parent folder")
}

/// The target folder this very test was built into, known by the file in its root in which cargo remembers its compiler.
///
/// # Errors
///
/// When the test's own path cannot be read or lies in no target folder.
pub fn target() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find the test's own path")?;
    exe.ancestors()
        .find(|folder| folder.join(".rustc_info.json").is_file())
        .map(Path::to_path_buf)
        .ok_or_else(|| anyhow!("{} lies in no cargo target folder", exe.display()))
}

/// The folder of what is built once and used by every later run.
///
/// # Errors
///
/// When it cannot be created.
pub fn parts() -> Result<PathBuf> {
    let folder = target()?.join("parts");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Holds the exclusive lock `target/parts/<name>.lock` while `work` runs: test processes take turns.
///
/// # Errors
///
/// When the lock cannot be had, or what `work` returns.
pub fn locked<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let path = parts()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    work()
}

/// A folder for one running part. Removed on drop; leftovers of a killed process are removed when the next folder is created.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held while it exists: a folder whose lock is free is a leftover. Values in statics are not dropped, but the kernel frees
    /// their locks.
    _alive: File,
}

impl RunDir {
    /// Makes an empty folder whose name begins with `name`.
    ///
    /// # Errors
    ///
    /// When the folder or its lock cannot be created.
    pub fn new(name: &str) -> Result<Self> {
        let all = parts()?.join("run");
        std::fs::create_dir_all(&all)
            .with_context(|| format!("cannot create {}", all.display()))?;
        locked("run", || {
            sweep(&all);
            // Programs that run as another user read their files here.
            let open = std::fs::Permissions::from_mode(0o755);
            let path = tempfile::Builder::new()
                .permissions(open)
                .prefix(&format!("{name}-"))
                .tempdir_in(&all)
                .with_context(|| format!("cannot create a folder in {}", all.display()))?
                .keep();
            let alive =
                File::create(path.join(".alive")).context("cannot create the run folder's lock")?;
            alive.lock().context("cannot lock the run folder")?;
            Ok(Self {
                path,
                _alive: alive,
            })
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `content` to the file `name` and returns its path.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::write(&path, content)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of processes that have ended.
fn sweep(all: &Path) {
    let Ok(entries) = std::fs::read_dir(all) else {
        return;
    };
    for entry in entries.flatten() {
        let abandoned = match File::open(entry.path().join(".alive")) {
            Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
            Err(_) => true,
        };
        if abandoned {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A TCP port on 127.0.0.1 that is free. It is not reserved, but a process gets each only once in twelve thousand calls; two
/// processes that ask at the same moment get the same one with a probability of about one in ten thousand.
///
/// # Errors
///
/// When none of a hundred ports can be bound.
pub fn free_port() -> Result<u16> {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(PORTS)));
    let after = |port| {
        let next = port + 1;
        Some(if PORTS.contains(&next) {
            next
        } else {
            PORTS.start
        })
    };
    (0..100)
        .filter_map(|_| {
            NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after)
                .ok()
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| anyhow!("no free port on 127.0.0.1 in {PORTS:?}"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::free_port;

    /// The tests of one program run beside each other, and most listen a while after they asked.
    #[test]
    fn tests_that_ask_at_the_same_moment_get_ports_of_their_own() {
        let ask = || (0..500).map(|_| free_port().unwrap()).collect::<Vec<_>>();
        let ports: Vec<u16> = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            askers
                .into_iter()
                .flat_map(|asker| asker.join().unwrap())
                .collect()
        });
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 2000);
    }
}
