//! From a path to an open directory, past nothing that somebody else could have put in the way: symbolic links count only
//! where root owns them in a place that nobody else can write, as with /var/run.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::failure::Problem;

/// As in the kernel: a way through more links than this is a loop.
const SYMLINKS_MAX: usize = 40;

/// A directory to start from or to go on from, not to read.
const DIRECTORY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens the directory at an absolute path. The kernel does it in one step if there is no link on the way; if there is one,
/// or on kernels and in sandboxes without `openat2`, each component is looked at.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Problem> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, DIRECTORY, Mode::empty(), resolve) {
        Ok(directory) => Ok(directory),
        Err(_) => step_by_step(path),
    }
}

/// Walks a path by descriptors. What is found decides, not what was there a moment ago.
fn step_by_step(path: &Path) -> Result<OwnedFd, Problem> {
    let mut way = Way::from_root()?;
    let mut ahead = components(path);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        match way.enter(&name)? {
            Found::Directory => {}
            Found::Link(target) => {
                links += 1;
                if links > SYMLINKS_MAX {
                    return Err(Problem::TooManySymlinks);
                }
                if target.is_absolute() {
                    way = Way::from_root()?;
                }
                ahead.extend(components(&target));
            }
        }
    }
    Ok(way.directory)
}

/// The names in a path, the first one last.
fn components(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| PathBuf::from(component.as_os_str()))
        .collect()
}

enum Found {
    Directory,
    Link(PathBuf),
}

/// How far we got.
struct Way {
    directory: OwnedFd,
    /// For messages.
    path: PathBuf,
    /// Whether only root can have put things here, and in every directory before.
    roots_own: bool,
}

impl Way {
    fn from_root() -> Result<Self, Problem> {
        let directory = rustix::fs::openat(CWD, "/", DIRECTORY, Mode::empty())
            .map_err(|errno| Problem::os("open /", errno))?;
        let roots_own = is_roots_own(&stat(&directory)?);
        Ok(Self {
            directory,
            path: PathBuf::from("/"),
            roots_own,
        })
    }

    /// Goes into a directory, or tells where a link leads that may be followed.
    fn enter(&mut self, name: &Path) -> Result<Found, Problem> {
        let path = self.path.join(name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(entry) => entry,
            Err(Errno::NOENT) => return Err(Problem::NoDirectory(path)),
            Err(errno) => return Err(Problem::os("enter the directory", errno)),
        };
        let stat = stat(&entry)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.roots_own &= is_roots_own(&stat);
                self.directory = entry;
                self.path = path;
                Ok(Found::Directory)
            }
            FileType::Symlink if self.roots_own && stat.st_uid == 0 => {
                let target = rustix::fs::readlinkat(&entry, "", Vec::new())
                    .map_err(|errno| Problem::os("read a symbolic link", errno))?;
                Ok(Found::Link(PathBuf::from(OsStr::from_bytes(
                    target.as_bytes(),
                ))))
            }
            FileType::Symlink => Err(Problem::ForeignSymlink(path)),
            _ => Err(Problem::NotADirectory(path)),
        }
    }
}

fn stat(fd: impl AsFd) -> Result<Stat, Problem> {
    rustix::fs::fstat(fd).map_err(|errno| Problem::os("look at a directory", errno))
}

/// Owned by root and writable by no group and nobody else. A sticky bit is no protection: it lets others create links.
fn is_roots_own(stat: &Stat) -> bool {
    stat.st_uid == 0 && stat.st_mode & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn same(fd: &OwnedFd, path: &Path) -> bool {
        let (a, b) = (stat(fd).unwrap(), rustix::fs::stat(path).unwrap());
        (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
    }

    #[test]
    fn the_step_by_step_walk_ends_where_the_kernels_does() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        assert!(same(&step_by_step(&deep).unwrap(), &deep));
        assert!(same(&open_directory(&deep).unwrap(), &deep));
        let back = folder.path().join("a/b/../../a");
        assert!(same(
            &step_by_step(&back).unwrap(),
            &folder.path().join("a")
        ));
    }

    #[test]
    fn a_link_in_a_place_that_others_can_write_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        symlink("real", folder.path().join("link")).unwrap();
        for walk in [open_directory, step_by_step] {
            let problem = walk(&folder.path().join("link")).unwrap_err();
            assert!(matches!(problem, Problem::ForeignSymlink(path) if path.ends_with("link")));
        }
    }

    #[test]
    fn roots_own_links_are_followed() {
        // Every Debian and most others have one of these.
        let Some(link) = ["/bin", "/var/run", "/var/lock", "/lib"]
            .map(Path::new)
            .into_iter()
            .find(|path| path.is_symlink() && path.is_dir())
        else {
            eprintln!("skipped: no symbolic link of root's to a directory on this machine");
            return;
        };
        assert!(same(&open_directory(link).unwrap(), link));
    }

    #[test]
    fn what_is_missing_or_no_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let missing = open_directory(&folder.path().join("no/where")).unwrap_err();
        assert!(matches!(missing, Problem::NoDirectory(path) if path == folder.path().join("no")));
        let file = open_directory(&folder.path().join("file/x")).unwrap_err();
        assert!(matches!(file, Problem::NotADirectory(path) if path == folder.path().join("file")));
    }
}
