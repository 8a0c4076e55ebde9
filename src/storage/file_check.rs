//! After a service that did not stop in order: SQLite compares the file with itself, while the service works.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::connection::open_read_only;
use super::database::Database;
use super::error::{StoreError, cannot_open};
use super::health::{FileCheck, Health, Part};
use super::integrity::quick_check;
use crate::domain::error_chain::ErrorChain;

/// Begins the comparison if it is due. For a large file it takes a while, so it has a thread of its own, for which nobody
/// waits: a stop leaves the log beside the file, so that the next start compares it again.
pub(crate) fn begin(database: &Arc<Database>) {
    if database.health().file_check() != FileCheck::Due {
        return;
    }
    log::info!(
        "the last service on {} did not stop in order: checking the file in the background",
        database.path().display()
    );
    let ours = Arc::clone(database);
    let work = move || {
        let findings = catch_unwind(AssertUnwindSafe(|| check(&ours)));
        note(&ours, findings.unwrap_or(Err(StoreError::Panicked)));
    };
    if let Err(error) = thread::Builder::new().name("duality-check".to_owned()).spawn(work) {
        note(database, Err(cannot_open(database.path(), error)));
    }
}

fn check(database: &Database) -> Result<Vec<String>, StoreError> {
    // SQLite removes the log of a file that was emptied when it opens that.
    database.examine()?;
    quick_check(&mut open_read_only(database.path())?)
}

/// Notes what the comparison came to.
fn note(database: &Database, findings: Result<Vec<String>, StoreError>) {
    let (health, path): (&Health, _) = (database.health(), database.path().display());
    match findings {
        Ok(findings) => match findings.first() {
            None => {
                health.set_file_check(FileCheck::Sound);
                log::info!("{path} is sound");
            }
            Some(first) => {
                health.set_file_check(FileCheck::Damaged);
                let count = findings.len();
                health
                    .fail(Part::File, &format!("{path} is damaged ({count} findings, see `duality verify`): {first}"));
            }
        },
        Err(error) => {
            health.set_file_check(FileCheck::Failed);
            log::warn!("{path} could not be checked, see `duality verify`: {}", ErrorChain(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_cannot_run_has_failed_and_does_not_run_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = Database::open(&path).unwrap();
        database.health().set_file_check(FileCheck::Due);
        std::fs::remove_file(&path).unwrap();
        note(&database, check(&database));
        assert_eq!(database.health().file_check(), FileCheck::Failed);
    }
}
