//! The tasks for the collections of a database: list them, and drop one.

use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::service::progress::LogProgress;
use crate::service::settings::{CollectionTask, Settings};
use crate::service::task::{TaskError, TaskOutcome, print_line};
use crate::storage::collections;
use crate::storage::database::Database;
use crate::storage::drop_collection;
use crate::storage::dropping::{Dropped, KeptJournal, Wanted};
use crate::storage::error::StoreError;
use crate::storage::location::{is_on_server, require_existing};
use crate::storage::ownership::require_owner;
use crate::storage::preparation;

/// `duality collection list` and `duality collection drop NAME`
pub(super) fn run(task: &CollectionTask, settings: &Settings, registry: &Registry) -> Result<TaskOutcome, TaskError> {
    require_existing(&settings.database)?;
    let (collection, journal) = match task {
        CollectionTask::List => return list(settings, registry),
        CollectionTask::Drop { name, keep_journal: true } => (name, KeptJournal::Kept),
        CollectionTask::Drop { name, keep_journal: false } => (name, KeptJournal::Erased),
    };
    if registry.id(collection).is_some() {
        return Err(TaskError::Drop(format!(
            "this program registers {collection}, so its next start would begin the collection again: drop it with a version \
             of the program that does not register it any more"
        )));
    }
    drop_one(settings, Wanted { collection, journal })
}

fn list(settings: &Settings, registry: &Registry) -> Result<TaskOutcome, TaskError> {
    let found = collections::list(&settings.database, registry)?;
    found.listed.iter().for_each(|collection| print_line(&collection.to_string()));
    for dropped in &found.dropped {
        let (name, revision) = (&dropped.collection, dropped.revision());
        print_line(&format!("{name:<20} dropped at revision {revision}; the next start removes what is left of it"));
    }
    Ok(TaskOutcome::Success)
}

fn drop_one(settings: &Settings, wanted: Wanted<'_>) -> Result<TaskOutcome, TaskError> {
    let now = Clock::default().now();
    let dropped = if is_on_server(&settings.database) {
        drop_collection::on_server(&settings.database, wanted, now)?
    } else {
        // A mistake in the name must not begin an epoch.
        collections::require(&settings.database, wanted.collection)?;
        let database = lock(settings, wanted.collection)?;
        let dropped = drop_collection::in_file(&database, wanted, now);
        database.release();
        dropped?
    };
    report(&dropped);
    Ok(TaskOutcome::Success)
}

/// Locks the file, which no service may be using: whichever that is, it registers all collections of its database.
fn lock(settings: &Settings, collection: &str) -> Result<Database, TaskError> {
    preparation::reject_foreign_file(&settings.database)?;
    let database = match Database::open(&settings.database) {
        Err(error @ StoreError::Locked { .. }) => {
            return Err(TaskError::Drop(format!(
                "{error}; the program that uses it registers {collection}: stop it, drop the collection, and start a version \
                 that does not register it"
            )));
        }
        opened => opened?,
    };
    require_owner(database.path())?;
    // What it registers is no matter: a drop leaves all other collections as they are.
    preparation::prepare(&database, &Registry::default(), settings.copy_before(), &LogProgress::new())?;
    Ok(database)
}

fn report(dropped: &Dropped) {
    let (name, revision) = (&dropped.collection, dropped.revision());
    print_line(&format!("{name} is dropped, as revision {revision}"));
    if dropped.journal() == KeptJournal::Kept {
        print_line("its events stay: a program that registers it again gets its aggregates back");
    }
}
