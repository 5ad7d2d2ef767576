//! The failures of a file output, each with its code and its correction. The old file is in place in every case.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::file::walk::WalkError;
use crate::model::failure::{Failure, FailureKind, HostCode};

/// Why a file was not written.
#[derive(Debug)]
pub(super) enum Problem {
    /// The path ends in `/` or `..`.
    NoFileName,
    /// The directory cannot be reached.
    Way(WalkError),
    /// The target is a symbolic link.
    TargetIsSymlink,
    /// The target is a directory.
    TargetIsDirectory,
    /// The target is a device, socket or pipe.
    TargetIsSpecial,
    /// Something is mounted at the target.
    MountPoint,
    /// An attribute of the target (`chattr`) forbids to replace it.
    Attribute(&'static str),
    /// An attribute of the target's directory forbids to make or to replace files there.
    DirectoryAttribute(&'static str),
    /// The target has other hard links, and writing in place would change them all.
    HardLinks,
    /// The target belongs to another user and would keep its owner when it is written in place.
    ForeignFile {
        /// That user.
        owner: u32,
    },
    /// The target's directory has the sticky bit, so only their owners may replace files.
    Sticky {
        /// The target's owner.
        owner: u32,
    },
    /// This process may not change a file's owner.
    Owner {
        /// The wanted owner.
        owner: Option<u32>,
        /// The wanted group.
        group: Option<u32>,
    },
    /// The file system accepts modes and owners and does not store them.
    ModeIgnored,
    /// A format used too many different file names.
    TooManyNames {
        /// How many it may name.
        most: usize,
    },
    /// A step failed.
    Os {
        /// The step, as in "cannot …".
        step: &'static str,
        /// Why.
        errno: Errno,
    },
}

impl Problem {
    pub(super) const fn os(step: &'static str, errno: Errno) -> Self {
        Self::Os { step, errno }
    }

    pub(super) fn io(step: &'static str, error: &io::Error) -> Self {
        Self::os(step, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// The failure for the output at `path`.
    pub(super) fn at(self, path: &Path) -> Failure {
        let (kind, code, why) = self.judge();
        Failure::new(
            kind,
            code,
            format!("cannot write {}: {why}", path.display()),
        )
    }

    fn judge(self) -> (FailureKind, HostCode, String) {
        use FailureKind::InvalidConfig;
        match self {
            Self::NoFileName => (
                InvalidConfig,
                HostCode::FilePath,
                "the path does not end in a file name".to_owned(),
            ),
            Self::Way(error) => judge_way(error),
            Self::TooManyNames { most } => (
                InvalidConfig,
                HostCode::FileTooManyNames,
                format!("the format has named more than {most} different files there; each stays, so it must use the same names again"),
            ),
            Self::TargetIsSymlink => (
                InvalidConfig,
                HostCode::FileIsSymlink,
                "it is a symbolic link, which is never followed nor replaced; remove it or name the file it points to".to_owned(),
            ),
            Self::TargetIsDirectory => (
                InvalidConfig,
                HostCode::FileIsDirectory,
                "it is a directory; name a file in it".to_owned(),
            ),
            Self::TargetIsSpecial => (
                InvalidConfig,
                HostCode::FileNotRegular,
                "it is a device, socket or pipe; name a regular file".to_owned(),
            ),
            Self::MountPoint => (
                InvalidConfig,
                HostCode::FileMountPoint,
                "it is a mount point (a single file that is bind-mounted), whose place no other file can take; mount its directory instead, or set `replace: in_place` on the output".to_owned(),
            ),
            Self::Attribute(attribute) => (
                InvalidConfig,
                HostCode::FileAttribute,
                format!("it is {attribute}; remove that attribute with `chattr`"),
            ),
            Self::DirectoryAttribute(attribute) => (
                InvalidConfig,
                HostCode::FileAttribute,
                format!(
                    "its directory is {attribute}, so that no file can take another's place there; remove that attribute with `chattr`"
                ),
            ),
            Self::HardLinks => (
                InvalidConfig,
                HostCode::FileHardLinks,
                "it has other names (hard links), which would be written in place with it; remove them, or drop `replace: in_place`".to_owned(),
            ),
            Self::ForeignFile { owner } => (
                InvalidConfig,
                HostCode::FileOwner,
                format!(
                    "it belongs to uid {owner}, and written in place it stays so; set `owner: {owner}` on the output if that user shall read the token, or give the file to uid {}",
                    rustix::process::geteuid().as_raw()
                ),
            ),
            Self::Sticky { owner } => (
                InvalidConfig,
                HostCode::FilePermission,
                format!(
                    "it belongs to uid {owner}, and its directory has the sticky bit, so that only the owner may replace it; remove it, or write to a directory of uid {}",
                    rustix::process::geteuid().as_raw()
                ),
            ),
            Self::Owner { owner, group } => (
                InvalidConfig,
                HostCode::FileOwner,
                format!(
                    "this process (uid {}) may not give it to {}; run as root or with CAP_CHOWN, or drop `owner` and `group`",
                    rustix::process::geteuid().as_raw(),
                    describe_owner(owner, group)
                ),
            ),
            Self::ModeIgnored => (
                InvalidConfig,
                HostCode::FileMode,
                "its file system does not keep owner and mode, so others might read the token; choose another, such as a tmpfs".to_owned(),
            ),
            Self::Os { step, errno } => judge_errno(step, errno),
        }
    }
}

fn judge_way(error: WalkError) -> (FailureKind, HostCode, String) {
    let said = error.to_string();
    let (code, why) = match error {
        WalkError::Missing(_) => (
            HostCode::FileNoDirectory,
            format!("{said}; create it for the users who shall read there"),
        ),
        WalkError::NotADirectory(_) => (HostCode::FileNotADirectory, said),
        WalkError::ForeignSymlink(_) | WalkError::TooManySymlinks | WalkError::Exposed(_) => {
            (HostCode::FileSymlinkInPath, said)
        }
        WalkError::Os { step, errno } => return judge_errno(step, errno),
    };
    (FailureKind::InvalidConfig, code, why)
}

fn judge_errno(step: &'static str, errno: Errno) -> (FailureKind, HostCode, String) {
    use FailureKind::{InvalidConfig, Unavailable};
    let uid = rustix::process::geteuid().as_raw();
    let (kind, code, mend) = match errno {
        Errno::NOSPC => (Unavailable, HostCode::FileDiskFull, "make room".to_owned()),
        Errno::DQUOT => (
            Unavailable,
            HostCode::FileDiskFull,
            format!("raise the quota of uid {uid}"),
        ),
        Errno::FBIG => (
            InvalidConfig,
            HostCode::FileTooLarge,
            "raise the limit on file sizes".to_owned(),
        ),
        Errno::ROFS => (
            InvalidConfig,
            HostCode::FileReadOnly,
            "mount its file system writable".to_owned(),
        ),
        Errno::ACCESS | Errno::PERM => (
            InvalidConfig,
            HostCode::FilePermission,
            format!(
                "let uid {uid} enter the directory, create files and replace the old one there"
            ),
        ),
        Errno::TXTBSY => (
            Unavailable,
            HostCode::FileBusy,
            "it is a program that runs; name another file, or end it".to_owned(),
        ),
        Errno::STALE | Errno::NOTCONN | Errno::NODEV | Errno::NXIO => (
            Unavailable,
            HostCode::FileIo,
            "its file system has gone away; mount it again".to_owned(),
        ),
        Errno::NAMETOOLONG => (
            InvalidConfig,
            HostCode::FilePath,
            "shorten the name".to_owned(),
        ),
        _ => (
            Unavailable,
            HostCode::FileIo,
            "look at the file system".to_owned(),
        ),
    };
    let error = io::Error::from(errno);
    (kind, code, format!("cannot {step}: {error}; {mend}"))
}

fn describe_owner(owner: Option<u32>, group: Option<u32>) -> String {
    match (owner, group) {
        (Some(owner), Some(group)) => format!("uid {owner}, gid {group}"),
        (Some(owner), None) => format!("uid {owner}"),
        (None, Some(group)) => format!("gid {group}"),
        (None, None) => "anybody".to_owned(),
    }
}
