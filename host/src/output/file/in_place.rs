//! Writing a file in place, for a file that cannot be replaced. All checks are made before the first byte changes, but the write
//! is not atomic: a concurrent reader sees a mixture, and a process or machine that crashes in that moment leaves one. The next
//! write corrects it.

use std::fs::File;
use std::io::Write;

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::FileTarget;
use super::failure::Problem;

/// Writes `content` over the target and sets its owner and mode. False: the file does not exist.
pub(super) fn write(target: &FileTarget<'_>, content: &[u8]) -> Result<bool, Problem> {
    let Some(mut file) = open(target)? else {
        return Ok(false);
    };
    let stat = stat(&file)?;
    give_away(target, &file, &stat)?;
    make_room(&file, content.len())?;
    file.write_all(content)
        .map_err(|error| Problem::io("write", &error))?;
    // Last, so that the file is never shorter than either content.
    rustix::fs::ftruncate(&file, content.len() as u64)
        .map_err(|errno| Problem::os("cut off the rest", errno))?;
    file.sync_all()
        .map_err(|error| Problem::io("flush to disk", &error))?;
    Ok(true)
}

/// Checks that [`write`] could write so many bytes. False: the file does not exist.
pub(super) fn prove(target: &FileTarget<'_>, bytes: usize) -> Result<bool, Problem> {
    let Some(file) = open(target)? else {
        return Ok(false);
    };
    let stat = stat(&file)?;
    if stat.st_uid != target.owner() && !rustix::process::geteuid().is_root() {
        return Err(foreign(target, &stat));
    }
    make_room(&file, bytes)?;
    Ok(true)
}

/// The target, opened for writing and unchanged; none: it does not exist.
fn open(target: &FileTarget<'_>) -> Result<Option<File>, Problem> {
    let opened = match open_for(target, OFlags::WRONLY) {
        Err(Errno::ACCESS) => open_read_only(target),
        opened => opened,
    };
    let file = match opened {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(Problem::TargetIsSymlink),
        Err(Errno::ISDIR) => return Err(Problem::TargetIsDirectory),
        Err(Errno::NXIO) => return Err(Problem::TargetIsSpecial),
        Err(errno) => return Err(Problem::os("open it for writing", errno)),
    };
    let stat = stat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Problem::TargetIsSpecial);
    }
    // A user who may create links here could have linked to a file that is not ours to write. No link at all means a mounted file
    // that was replaced at its origin.
    if stat.st_nlink > 1 {
        return Err(Problem::HardLinks);
    }
    Ok(Some(file))
}

/// A file of our own without write permission (mode 0400) gets it while it is opened.
fn open_read_only(target: &FileTarget<'_>) -> Result<File, Errno> {
    let readable = open_for(target, OFlags::RDONLY).map_err(|_| Errno::ACCESS)?;
    let stat = rustix::fs::fstat(&readable)?;
    let mode = Mode::from_raw_mode(stat.st_mode & super::PERMISSION_BITS);
    if rustix::fs::fchmod(&readable, mode | Mode::WUSR).is_err() {
        return Err(Errno::ACCESS);
    }
    let opened = open_for(target, OFlags::WRONLY);
    rustix::fs::fchmod(&readable, mode)?;
    opened
}

fn open_for(target: &FileTarget<'_>, access: OFlags) -> Result<File, Errno> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(&target.directory, &target.name, flags, Mode::empty()).map(File::from)
}

fn stat(file: &File) -> Result<Stat, Problem> {
    rustix::fs::fstat(file).map_err(|errno| Problem::os("look at the file", errno))
}

/// Sets only what differs: on a file of another user we may not set anything.
fn give_away(target: &FileTarget<'_>, file: &File, stat: &Stat) -> Result<(), Problem> {
    if target.has_wanted_form(stat) {
        return Ok(());
    }
    if stat.st_uid != target.owner() {
        let owner = rustix::process::Uid::from_raw(target.owner());
        rustix::fs::fchown(file, Some(owner), None).map_err(|errno| match errno {
            Errno::PERM | Errno::INVAL => foreign(target, stat),
            other => Problem::os("set the owner", other),
        })?;
    }
    target.give_away(file)
}

fn foreign(target: &FileTarget<'_>, stat: &Stat) -> Problem {
    match target.wanted.owner {
        None => Problem::ForeignFile { owner: stat.st_uid },
        owner => Problem::Owner { owner, group: None },
    }
}

/// Allocates space before a byte is changed, so that a full disk leaves the old content intact. Where allocation is not
/// supported, the write may fail.
fn make_room(file: &File, bytes: usize) -> Result<(), Problem> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1) as u64) {
        Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
            Err(Problem::os("make room", errno))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
