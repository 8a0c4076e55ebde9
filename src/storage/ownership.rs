//! Whose files lie beside a database: a command that another user runs must not leave files that the service cannot use.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use super::error::{StoreError, cannot_write};

/// Gives a new file to the owner of the database, or, if there is none, of its directory: the user of the service, even if
/// another one runs this command.
///
/// # Errors
/// Only root can do that.
pub(super) fn give_to_service(new: &Path, database: &Path) -> Result<(), StoreError> {
    // The lock has created an empty file where there was no database.
    let exists = fs::metadata(database).is_ok_and(|file| file.len() > 0);
    let like = if exists { database } else { database.parent().unwrap_or(Path::new("/")) };
    match give_to_owner(new, like) {
        Err(error) if exists => {
            Err(cannot_write(database, format!("it belongs to another user, who has to do this ({error})")))
        }
        _ => Ok(()),
    }
}

/// Gives a file to the owner of another one.
pub(super) fn give_to_owner(file: &Path, like: &Path) -> io::Result<()> {
    let (owner, file_owner) = (fs::metadata(like)?, fs::metadata(file)?);
    if owner.uid() == file_owner.uid() {
        return Ok(());
    }
    chown(file, Some(owner.uid()), Some(owner.gid()))
}

/// Fails for another user than the owner of the database: a task that writes many files, some of them through SQLite.
pub(crate) fn require_owner(database: &Path) -> Result<(), StoreError> {
    // A file that cannot be read is reported by the task itself.
    let Ok(file) = fs::metadata(database) else { return Ok(()) };
    if file.uid() == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(StoreError::OtherOwner { path: database.to_owned(), owner: file.uid() })
}
