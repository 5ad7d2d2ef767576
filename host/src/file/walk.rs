//! Opens directories safely, protected against other users exchanging parts of a path: a symbolic link is followed only where
//! only root and this process's user could have put it, as with /var/run or a user's own link to another disk.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawMode, ResolveFlags, Stat, StatxAttributes, StatxFlags,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};

/// As in the kernel: more links count as a loop.
const SYMLINKS_MAX: usize = 40;

/// A directory as a base for further opening, not for reading.
const DIRECTORY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

const STICKY: RawMode = 0o1000;
const SET_GROUP_ID: RawMode = 0o2000;
const OTHERS_WRITE: RawMode = 0o002;
const GROUP_WRITES: RawMode = 0o020;

/// Why a directory cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    /// It, or one on the way, does not exist.
    #[error("directory {} does not exist", .0.display())]
    Missing(PathBuf),
    /// A component is not a directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A component is a symbolic link that another user could have put there.
    #[error(
        "{} is a symbolic link that others than root and user {us} could have put there; write the path without it",
        .0.display(),
        us = geteuid().as_raw()
    )]
    ForeignSymlink(PathBuf),
    /// Too many links, probably a loop.
    #[error("the path goes through too many symbolic links")]
    TooManySymlinks,
    /// Other users can exchange it.
    #[error(transparent)]
    Exposed(Exposed),
    /// A step failed.
    #[error("cannot {step}: {errno}")]
    Os {
        /// The step, as in "cannot …".
        step: &'static str,
        /// Why.
        errno: Errno,
    },
}

/// A directory to which users other than root and this process's user can add entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Exposed {
    path: PathBuf,
    to: Others,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Owner(u32),
    Writers(RawMode),
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.to {
            Others::Owner(owner) => write!(
                f,
                "{path} belongs to user {owner}, who could put anything there; give it to user {us} (`chown {us} {path}`), or run as its owner",
                us = geteuid().as_raw()
            ),
            Others::Writers(mode) => write!(
                f,
                "{path} can be written by others (mode {mode:04o}), who could put anything there; take that from them (`chmod go-w {path}`)"
            ),
        }
    }
}

/// What to do if the last component is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is an error.
    Refused,
    /// Create it for this process's user alone.
    Made,
}

/// A directory that only root and this process's user can change or move.
#[derive(Debug)]
pub(crate) struct OwnDirectory {
    /// As a base for opening, not for reading.
    pub(crate) directory: OwnedFd,
    /// Whether it is in a volume that a container runtime made for this process, where files are given to a group.
    pub(crate) in_volume: bool,
}

/// Opens the directory at an absolute path. The kernel does it in one step if there is no link in the path; otherwise, or on
/// kernels and in sandboxes without `openat2`, each component is checked.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, WalkError> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, DIRECTORY, Mode::empty(), resolve) {
        Ok(directory) => Ok(directory),
        Err(_) => Ok(step_by_step(path, Missing::Refused)?.directory),
    }
}

/// Opens the directory at an absolute path if it belongs to this process's user and no other user can exchange any part of the
/// path, as OpenSSH requires for keys.
pub(crate) fn open_own_directory(path: &Path, missing: Missing) -> Result<OwnDirectory, WalkError> {
    let way = step_by_step(path, missing)?;
    if let Some(exposed) = way.exposed() {
        return Err(WalkError::Exposed(exposed));
    }
    if !way.in_volume && way.owner != geteuid().as_raw() {
        return Err(WalkError::Exposed(Exposed {
            path: way.path,
            to: Others::Owner(way.owner),
        }));
    }
    Ok(OwnDirectory {
        directory: way.directory,
        in_volume: way.in_volume,
    })
}

/// Checks that a directory can be created in this one without another user being able to exchange it.
pub(crate) fn check_parent(path: &Path) -> Result<OwnedFd, WalkError> {
    let way = step_by_step(path, Missing::Refused)?;
    match way.exposed_for_a_child() {
        Some(exposed) => Err(WalkError::Exposed(exposed)),
        None => Ok(way.directory),
    }
}

/// Walks a path by descriptors, so that each check applies to the opened directory and not to an earlier state.
fn step_by_step(path: &Path, missing: Missing) -> Result<Walk, WalkError> {
    let mut way = Walk::from_root()?;
    let mut ahead = components(path);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        let found = match way.enter(&name) {
            Err(WalkError::Missing(_)) if missing == Missing::Made && ahead.is_empty() => {
                way.make(&name)?;
                way.enter(&name)?
            }
            found => found?,
        };
        match found {
            WalkStep::Directory => {}
            WalkStep::Link(target) => {
                links += 1;
                if links > SYMLINKS_MAX {
                    return Err(WalkError::TooManySymlinks);
                }
                if target.is_absolute() {
                    way = Walk::from_root()?;
                }
                ahead.extend(components(&target));
            }
        }
    }
    Ok(way)
}

/// The components of a path, the first one last.
fn components(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| PathBuf::from(component.as_os_str()))
        .collect()
}

enum WalkStep {
    Directory,
    Link(PathBuf),
}

/// The state of a walk.
struct Walk {
    directory: OwnedFd,
    /// For messages.
    path: PathBuf,
    owner: u32,
    device: u64,
    /// The other users who can add entries to this directory.
    here: Option<Others>,
    /// Whether it has the sticky bit, so that users cannot remove others' entries.
    sticky: bool,
    /// Where another user could have exchanged a directory above this one.
    before: Option<Exposed>,
    /// Whether the path has entered a volume of this process's own.
    in_volume: bool,
}

impl Walk {
    fn from_root() -> Result<Self, WalkError> {
        let directory = rustix::fs::openat(CWD, "/", DIRECTORY, Mode::empty())
            .map_err(|errno| os("open /", errno))?;
        let stat = stat(&directory)?;
        Ok(Self {
            directory,
            path: PathBuf::from("/"),
            owner: stat.st_uid,
            device: stat.st_dev,
            here: others(&stat, false),
            sticky: stat.st_mode & STICKY != 0,
            before: None,
            in_volume: false,
        })
    }

    /// The place by which another user could have put this directory here, or can add entries to it.
    fn exposed(&self) -> Option<Exposed> {
        self.before.clone().or_else(|| self.exposed_here())
    }

    fn exposed_here(&self) -> Option<Exposed> {
        let to = self.here?;
        Some(Exposed {
            path: self.path.clone(),
            to,
        })
    }

    /// The place by which another user could exchange an entry here that belongs to us or root.
    fn exposed_for_a_child(&self) -> Option<Exposed> {
        let others = match self.here {
            Some(Others::Writers(_)) if self.sticky => None,
            _ => self.exposed_here(),
        };
        self.before.clone().or(others)
    }

    /// Enters a directory, or returns the target of a link that may be followed.
    fn enter(&mut self, name: &Path) -> Result<WalkStep, WalkError> {
        let path = self.path.join(name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(entry) => entry,
            Err(Errno::NOENT) => return Err(WalkError::Missing(path)),
            Err(errno) => return Err(os("enter the directory", errno)),
        };
        let stat = stat(&entry)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.go_into(entry, path, &stat);
                Ok(WalkStep::Directory)
            }
            FileType::Symlink if self.exposed().is_none() && is_trusted(stat.st_uid) => {
                let target = rustix::fs::readlinkat(&entry, "", Vec::new())
                    .map_err(|errno| os("read a symbolic link", errno))?;
                Ok(WalkStep::Link(PathBuf::from(OsStr::from_bytes(
                    target.as_bytes(),
                ))))
            }
            FileType::Symlink => Err(WalkError::ForeignSymlink(path)),
            _ => Err(WalkError::NotADirectory(path)),
        }
    }

    fn go_into(&mut self, directory: OwnedFd, path: PathBuf, stat: &Stat) {
        let is_below = path.file_name().is_some();
        let is_volume =
            is_below && is_mount_point(&directory, stat, self.device) && is_own_volume(stat);
        self.before = self.exposed_for_a_child();
        self.in_volume = is_volume || (self.in_volume && is_below);
        self.here = if is_volume {
            None
        } else {
            others(stat, self.in_volume)
        };
        self.sticky = stat.st_mode & STICKY != 0;
        self.owner = stat.st_uid;
        self.device = stat.st_dev;
        self.directory = directory;
        self.path = path;
    }

    /// Creates a directory for us alone, where no other user can exchange it.
    fn make(&self, name: &Path) -> Result<(), WalkError> {
        if let Some(exposed) = self.exposed_for_a_child() {
            return Err(WalkError::Exposed(exposed));
        }
        match rustix::fs::mkdirat(&self.directory, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(os("make the directory", errno)),
        }
    }
}

const fn os(step: &'static str, errno: Errno) -> WalkError {
    WalkError::Os { step, errno }
}

fn stat(fd: impl AsFd) -> Result<Stat, WalkError> {
    rustix::fs::fstat(fd).map_err(|errno| os("look at a directory", errno))
}

fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == geteuid().as_raw()
}

/// The other users who can add entries to a directory, which a sticky bit does not prevent. In a volume the kubelet gives its
/// group write permission everywhere, and the group is the Pod's.
fn others(stat: &Stat, in_volume: bool) -> Option<Others> {
    let refused = if in_volume {
        OTHERS_WRITE
    } else {
        OTHERS_WRITE | GROUP_WRITES
    };
    if !is_trusted(stat.st_uid) {
        Some(Others::Owner(stat.st_uid))
    } else if stat.st_mode & refused != 0 {
        Some(Others::Writers(stat.st_mode & 0o7777))
    } else {
        None
    }
}

/// A bind mount may be on the same device as the directory that it is in; kernels before 5.8 do not reveal it.
fn is_mount_point(directory: &OwnedFd, stat: &Stat, device_above: u64) -> bool {
    let found = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    match found {
        Ok(found)
            if found
                .stx_attributes_mask
                .contains(StatxAttributes::MOUNT_ROOT) =>
        {
            found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        }
        _ => stat.st_dev != device_above,
    }
}

/// Whether a mount point is a volume that was made for this process: root's, and writable for the Pod's containers, all of them
/// (an `emptyDir`) or those with the Pod's `fsGroup`. No other process reaches it.
fn is_own_volume(stat: &Stat) -> bool {
    let is_our_group = |group: u32| {
        let groups = getgroups().unwrap_or_default();
        groups
            .iter()
            .chain([&getegid()])
            .any(|own| own.as_raw() == group)
    };
    let is_for_fs_group =
        stat.st_mode & SET_GROUP_ID != 0 && !geteuid().is_root() && is_our_group(stat.st_gid);
    stat.st_uid == 0 && (is_for_fs_group || is_pod())
}

/// The kubelet sets it in every container.
fn is_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, create_dir_all, set_permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};

    use super::*;
    use crate::test_support::is_root;

    /// Another user than the one of this test.
    const SOMEBODY: Option<u32> = Some(4711);

    fn same(fd: &OwnedFd, path: &Path) -> bool {
        let (a, b) = (stat(fd).unwrap(), rustix::fs::stat(path).unwrap());
        (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
    }

    fn walked(path: &Path) -> Result<OwnedFd, WalkError> {
        Ok(step_by_step(path, Missing::Refused)?.directory)
    }

    fn chmod(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_step_by_step_walk_ends_where_the_kernels_does() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        assert!(same(&walked(&deep).unwrap(), &deep));
        assert!(same(&open_directory(&deep).unwrap(), &deep));
        let back = folder.path().join("a/b/../../a");
        assert!(same(&walked(&back).unwrap(), &folder.path().join("a")));
    }

    #[test]
    fn a_link_is_followed_where_only_root_or_we_could_have_put_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        create_dir_all(at("disk/tokens")).unwrap();
        create_dir_all(at("home/deep")).unwrap();
        symlink(at("disk"), at("home/absolute")).unwrap();
        symlink("../../disk", at("home/deep/relative")).unwrap();
        symlink("loop", at("home/loop")).unwrap();
        let paths = ["home/absolute/tokens", "home/deep/relative/tokens"];
        for path in paths {
            for walk in [open_directory, walked] {
                assert!(
                    same(&walk(&at(path)).unwrap(), &at("disk/tokens")),
                    "{path}"
                );
            }
            let own = open_own_directory(&at(path), Missing::Refused).unwrap();
            assert!(same(&own.directory, &at("disk/tokens")));
        }
        let loops = open_directory(&at("home/loop/x")).unwrap_err();
        assert!(matches!(loops, WalkError::TooManySymlinks));
        let refused = |path: &str, why: &str| {
            for walk in [open_directory, walked] {
                let problem = walk(&at(path)).unwrap_err();
                assert!(
                    matches!(problem, WalkError::ForeignSymlink(_)),
                    "{why}: {problem}"
                );
            }
        };
        for mode in [0o777, 0o1777, 0o775] {
            chmod(&at("home"), mode);
            refused(paths[0], "others can write beside the link");
        }
        for mode in [0o777, 0o775] {
            chmod(&at("home"), mode);
            refused(paths[1], "others can put another directory there");
        }
        chmod(&at("home"), 0o1777);
        assert!(
            open_directory(&at(paths[1])).is_ok(),
            "nobody can take ours away"
        );
        chmod(&at("home"), 0o755);
        if is_root() {
            chown(at("home"), SOMEBODY, None).unwrap();
            refused(paths[0], "somebody else's directory");
            chown(at("home"), Some(0), None).unwrap();
            lchown(at("home/absolute"), SOMEBODY, None).unwrap();
            refused(paths[0], "somebody else's link");
            // The owner of an output's directory is the user's decision.
            lchown(at("home/absolute"), Some(0), None).unwrap();
            chown(at("disk"), SOMEBODY, None).unwrap();
            assert!(open_directory(&at(paths[0])).is_ok());
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
        assert!(matches!(missing, WalkError::Missing(path) if path == folder.path().join("no")));
        let file = open_directory(&folder.path().join("file/x")).unwrap_err();
        assert!(
            matches!(file, WalkError::NotADirectory(path) if path == folder.path().join("file"))
        );
    }

    #[test]
    fn a_directory_is_our_own_if_from_the_root_to_it_nobody_else_can_put_something_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        create_dir_all(at("way/state")).unwrap();
        let found = || open_own_directory(&at("way/state"), Missing::Refused);
        for (way, state, expected) in [
            (0o755, 0o700, None),
            (0o755, 0o755, None),
            (0o1777, 0o700, None),
            (0o755, 0o770, Some("way/state")),
            (0o755, 0o1777, Some("way/state")),
            (0o755, 0o702, Some("way/state")),
            (0o775, 0o700, Some("way")),
            (0o777, 0o700, Some("way")),
        ] {
            chmod(&at("way"), way);
            chmod(&at("way/state"), state);
            let said = found().err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(said, None, "{way:o} {state:o}"),
                Some(place) => {
                    let mend = format!("`chmod go-w {}`", at(place).display());
                    assert!(said.unwrap().contains(&mend), "{way:o} {state:o}");
                }
            }
        }
        chmod(&at("way"), 0o755);
        chmod(&at("way/state"), 0o700);
        if is_root() {
            for place in ["way", "way/state"] {
                chown(at(place), SOMEBODY, None).unwrap();
                let said = found().unwrap_err().to_string();
                assert!(said.contains("belongs to user 4711"), "{said}");
                assert!(
                    said.contains(&format!("chown 0 {}", at(place).display())),
                    "{said}"
                );
                chown(at(place), Some(0), None).unwrap();
            }
        }
    }

    #[test]
    fn a_missing_directory_is_made_for_us_alone_and_only_where_it_stays_ours() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        open_own_directory(&at("state"), Missing::Made).unwrap();
        assert_eq!(at("state").metadata().unwrap().mode() & 0o7777, 0o700);
        let missing = open_own_directory(&at("no/state"), Missing::Made).unwrap_err();
        assert!(matches!(missing, WalkError::Missing(path) if path == at("no")));
        for (mode, is_made) in [
            (0o755, true),
            (0o1777, true),
            (0o777, false),
            (0o775, false),
        ] {
            let parent = at(&format!("parent-{mode:o}"));
            create_dir(&parent).unwrap();
            chmod(&parent, mode);
            let made = open_own_directory(&parent.join("state"), Missing::Made);
            assert_eq!(made.is_ok(), is_made, "{mode:o}");
            assert_eq!(check_parent(&parent).is_ok(), is_made, "{mode:o}");
            assert_eq!(parent.join("state").exists(), is_made, "{mode:o}");
        }
    }

    #[test]
    fn only_a_mount_point_of_roots_that_is_our_groups_or_the_pods_is_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let mut volume = stat(walked(folder.path()).unwrap()).unwrap();
        volume.st_uid = 0;
        volume.st_gid = getegid().as_raw();
        volume.st_mode = (volume.st_mode & !0o7777) | 0o2777;
        assert_eq!(is_own_volume(&volume), !geteuid().is_root());
        volume.st_mode &= !SET_GROUP_ID;
        assert!(!is_own_volume(&volume));
        // A folder that was just created contains no mount point.
        chmod(folder.path(), 0o2777);
        assert!(open_own_directory(folder.path(), Missing::Refused).is_err());
    }
}
