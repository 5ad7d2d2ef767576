//! Checks that a file could be written by all steps of a write that can be undone: a temporary file with the right owner and mode
//! is created beside the target, filled, flushed, renamed and removed.

use std::io::Write as _;

use super::failure::Problem;
use super::temporary::Temporary;
use super::{FileTarget, in_place, path_of};
use crate::model::failure::Failure;
use crate::model::{FileDestination, Replace};

/// The space for a token, in bytes: the block size of file systems, which also a smaller artifact takes.
const ROOM: usize = 4096;

/// A placeholder for an artifact's name where only its directory matters.
const ANY_NAME: &str = "artifact";

/// Checks that artifacts of these names and sizes could be written.
///
/// # Errors
/// The failure that the write would have.
pub(super) fn prove(
    destination: &FileDestination,
    artifacts: &[(String, usize)],
) -> Result<(), Failure> {
    for (name, bytes) in artifacts {
        let path = path_of(destination, name);
        let target = FileTarget::find(path, destination)?;
        prove_one(&target, (*bytes).max(ROOM)).map_err(|problem| problem.at(&target.path))?;
    }
    Ok(())
}

/// The same for an unknown artifact; one of several if the path is a directory.
///
/// # Errors
/// The failure that the write would have.
pub(super) fn prove_any(destination: &FileDestination) -> Result<(), Failure> {
    let is_directory = destination
        .path
        .symlink_metadata()
        .is_ok_and(|found| found.is_dir());
    let name = if is_directory { ANY_NAME } else { "" };
    prove(destination, &[(name.to_owned(), ROOM)])
}

fn prove_one(target: &FileTarget<'_>, bytes: usize) -> Result<(), Problem> {
    target.check_in_the_way()?;
    target.check_attributes()?;
    if target.wanted.replace == Replace::InPlace && in_place::prove(target, bytes)? {
        return Ok(());
    }
    target.check_replaceable()?;
    let mut temporary = Temporary::create(&target.directory, &target.name)?;
    target.give_away(temporary.file())?;
    temporary
        .file()
        .write_all(&vec![0; bytes])
        .map_err(|error| Problem::io("write", &error))?;
    temporary
        .file()
        .sync_all()
        .map_err(|error| Problem::io("flush to disk", &error))?;
    temporary.rename_away(&target.name)
}
