//! The task that erases an aggregate.

use std::time::Duration;

use crate::domain::collection::Registry;
use crate::domain::command::{Change, Command, Rejection};
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::Metadata;
use crate::domain::precondition::Precondition;
use crate::projector::registry::ProjectionSet;
use crate::service::control::{ControlClient, ControlRequest};
use crate::service::offline::Offline;
use crate::service::progress::LogProgress;
use crate::service::settings::Settings;
use crate::service::task::{TaskError, TaskOutcome, print_line};
use crate::storage::database::Database;
use crate::storage::erasing::{ErasingStep, Extent};
use crate::storage::error::StoreError;
use crate::storage::location::require_existing;
use crate::storage::ownership::require_owner;
use crate::storage::page::Progress;
use crate::storage::preparation;
use crate::storage::transaction::WriteError;

/// The aggregate that is to be erased.
pub(super) struct Erasing<'a> {
    pub(super) collection: &'a str,
    pub(super) key: &'a str,
}

/// `duality erase COLLECTION KEY`
pub(super) fn erase(
    settings: &Settings,
    registry: Registry,
    projections: ProjectionSet,
    erasing: &Erasing<'_>,
) -> Result<TaskOutcome, TaskError> {
    require_existing(&settings.database)?;
    preparation::reject_foreign_file(&settings.database)?;
    match Database::open_beside(&settings.database, &settings.files) {
        Ok(database) => {
            require_owner(database.path())?;
            preparation::prepare(&database, &registry, settings.copy_before(), &LogProgress::new())?;
            let wanted = erasing.read(&registry)?;
            let mut offline = Offline::open(database, registry, projections)?;
            let outcome = erase_at_rest(&mut offline, wanted, erasing);
            offline.close()?;
            outcome
        }
        Err(StoreError::Locked { path, holder }) => match ControlClient::connect(&path) {
            Ok(mut service) => erase_online(&mut service, erasing),
            Err(_) => Err(StoreError::Locked { path, holder }.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Asks the running service.
fn erase_online(service: &mut ControlClient, erasing: &Erasing<'_>) -> Result<TaskOutcome, TaskError> {
    let Erasing { collection, key } = *erasing;
    let request = ControlRequest::Erase { collection: collection.to_owned(), key: key.to_owned() };
    let erased = service.send(&request)?;
    if erased["known"] == false {
        erasing.warn_of_unknown();
    }
    let pending = erased["pending"].as_array().into_iter().flatten();
    let pending: Vec<_> = pending.filter_map(|name| name.as_str().map(ToOwned::to_owned)).collect();
    Ok(erasing.report(&pending))
}

/// Erases in the files, which no service uses.
fn erase_at_rest(
    offline: &mut Offline,
    (collection, key): (CollectionId, Key),
    erasing: &Erasing<'_>,
) -> Result<TaskOutcome, TaskError> {
    let now = offline.clock.now();
    let (change, precondition, metadata) = (Change::Erase, Precondition::default(), Metadata::of_service());
    let command = Command { collection, key: Some(key), precondition, change, metadata, idempotency: None };
    let committed = offline.writer.commit(&mut vec![command].into_iter(), now).map_err(WriteError::into_cause)?;
    for answer in committed.answers {
        if answer.map_err(|why| erasing.rejected(&why))?.is_new {
            erasing.warn_of_unknown();
        }
    }
    loop {
        match offline.writer.continue_erasing(now, Extent::Everything).map_err(WriteError::into_cause)? {
            ErasingStep::Nothing | ErasingStep::Postponed => break,
            ErasingStep::NoRoom(why) => return Err(TaskError::Erase(why)),
            ErasingStep::More | ErasingStep::Finished(_) => {}
            // Another process reads the database.
            ErasingStep::Hindered => std::thread::sleep(PAUSE_FOR_READERS),
        }
    }
    let mut pending = Vec::new();
    for runner in offline.background.iter_mut().filter(|runner| runner.reads(erasing.collection)) {
        while runner.step() == Ok(Progress::More) {}
        let state = runner.status().state();
        if state.failure.is_some() || state.is_erasing || state.building.is_some() {
            pending.push(state.name.to_owned());
        }
    }
    Ok(erasing.report(&pending))
}

/// The pause while another process needs what is to be overwritten.
const PAUSE_FOR_READERS: Duration = Duration::from_millis(100);

impl Erasing<'_> {
    fn read(&self, registry: &Registry) -> Result<(CollectionId, Key), TaskError> {
        let Self { collection, key } = self;
        let id = registry.id(collection).ok_or_else(|| {
            let known: Vec<_> = registry.ids().map(|id| registry.get(id).name()).collect();
            TaskError::Erase(format!("there is no collection {collection:?}; expected one of {}", known.join(", ")))
        })?;
        let key = Key::parse(key).map_err(|invalid| TaskError::Erase(invalid.to_string()))?;
        Ok((id, key))
    }

    fn rejected(&self, why: &Rejection) -> TaskError {
        let Self { collection, key } = self;
        TaskError::Erase(match why {
            Rejection::NotFound => format!("/{collection}/{key} does not exist"),
            Rejection::Derived => {
                format!("{collection} are computed from another collection; erase what they are computed from")
            }
            other => format!("/{collection}/{key}: {other:?}"),
        })
    }

    /// A mistake in the key would look like a success.
    fn warn_of_unknown(&self) {
        let Self { collection, key } = self;
        print_line(&format!("the database had neither a state nor events of {collection}/{key}: is this the key?"));
    }

    /// Prints what was erased, and what may still have something of it.
    fn report(&self, pending: &[String]) -> TaskOutcome {
        let Self { collection, key } = self;
        print_line(&format!("{collection}/{key} is erased"));
        if pending.is_empty() {
            return TaskOutcome::Success;
        }
        if pending == ["database"] {
            print_line("the files of the database may still have something of it; the log of the service says why");
            return TaskOutcome::Pending;
        }
        let names = pending.join(", ");
        print_line(&format!("these may still have something of it: {names}; see `duality projection list`"));
        TaskOutcome::Pending
    }
}
