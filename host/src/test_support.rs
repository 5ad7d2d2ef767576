//! Fixtures of the machine for tests of several modules.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a few megabytes, gone with this value.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a tmpfs of `size` at `path`; none, and the reason printed, where that is not allowed.
    pub(crate) fn mount(path: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(path)
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: mounting a tmpfs needs root with CAP_SYS_ADMIN");
        }
        mounted.then(|| Self(path.to_owned()))
    }

    /// Remounts it read-only.
    pub(crate) fn make_read_only(&self) {
        let status = Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Makes a named pipe, whose reader waits for a writer.
pub(crate) fn make_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// A single file mounted over another, gone with this value.
pub(crate) struct BindMount(PathBuf);

impl BindMount {
    /// Mounts `source` at `target`, which is made for it; none, and the reason printed, where that is not allowed.
    pub(crate) fn of(source: &Path, target: &Path) -> Option<Self> {
        std::fs::write(target, "").unwrap();
        let mounted = Command::new("mount")
            .arg("--bind")
            .args([source, target])
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: mounting a file needs root with CAP_SYS_ADMIN");
        }
        mounted.then(|| Self(target.to_owned()))
    }

    /// Makes the mount read-only.
    pub(crate) fn make_read_only(&self) {
        let options = ["-o", "remount,bind,ro"];
        let status = Command::new("mount").args(options).arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether this process has root's rights.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
