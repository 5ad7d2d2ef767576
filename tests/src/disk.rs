//! A disk that fills up soon.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// A small tmpfs, gone with this value.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `size` (as mount takes it, e.g. `64k`) at a folder; none where that is not allowed, with a line on stderr
    /// that the test runner does not capture.
    #[must_use]
    pub fn mount(folder: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {test} mounts a tmpfs, which needs root with CAP_SYS_ADMIN"
            );
        }
        mounted.then(|| Self(folder.to_owned()))
    }

    /// Fills it to the last byte and returns the file that does so.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        while file.write_all(&[0; 512]).is_ok() {}
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
