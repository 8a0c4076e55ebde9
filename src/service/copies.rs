//! The tasks that copy the database: backup, restore, migrate.

use std::io::{Write as _, stderr, stdin, stdout};
use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;

use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::projector::registry::ProjectionSet;
use crate::service::progress::CommandProgress;
use crate::service::settings::Settings;
use crate::service::task::{TaskError, TaskOutcome, print_line};
use crate::storage::backup::{self, Check, Copied, IfExists, Manner};
use crate::storage::database::{Database, with_suffix};
use crate::storage::dropping::Dropped;
use crate::storage::location::{existing, is_on_server, require_existing};
use crate::storage::pace::Pace;
use crate::storage::preparation::{self, Plan};
use crate::storage::restore::{Kept, Restored, restore, restore_from};
use crate::storage::upgrade::Preview;
use crate::storage::writer::{Writer, WriterConfig};

/// The name that means standard output or standard input.
const STANDARD: &str = "-";

/// `duality backup FILE|-`
pub(super) fn back_up(
    settings: &Settings,
    registry: &Registry,
    target: &Path,
    if_exists: IfExists,
) -> Result<TaskOutcome, TaskError> {
    if is_on_server(&settings.database) {
        return Err(TaskError::OfServer("pg_dump --format=custom --file=FILE URL"));
    }
    let progress = CommandProgress::new().map_err(TaskError::Signal)?;
    let manner = Manner { check: Check::Counters(registry), pace: pace_beside(&settings.database) };
    if target == Path::new(STANDARD) {
        let copied = backup::stream(&settings.database, &mut stdout().lock(), manner, &progress)?;
        // Standard output is the copy. A closed standard error is no error.
        let _ = writeln!(stderr(), "copied {}", describe(&copied));
        return Ok(TaskOutcome::Success);
    }
    let copied = backup::copy(&settings.database, target, if_exists, manner, &progress)?;
    print_line(&format!("{}: {}", target.display(), describe(&copied)));
    Ok(TaskOutcome::Success)
}

/// A database with a log is in use, or was not closed in order.
fn pace_beside(database: &Path) -> Pace {
    let is_in_use = existing(database).is_ok_and(|database| with_suffix(&database, "-wal").exists());
    if is_in_use { Pace::Background } else { Pace::Full }
}

/// `duality restore FILE|-`
pub(super) fn restore_copy(settings: &Settings, source: &Path, check: Check<'_>) -> Result<TaskOutcome, TaskError> {
    if is_on_server(&settings.database) {
        return Err(TaskError::OfServer(
            "pg_restore --clean --if-exists --single-transaction --dbname=URL FILE, with all services stopped",
        ));
    }
    let progress = CommandProgress::new().map_err(TaskError::Signal)?;
    if source != Path::new(STANDARD) {
        // Before the lock leaves its file.
        existing(source)?;
    }
    let is_new = !settings.database.exists();
    let database = Database::open(&settings.database)?;
    let now = Clock::default().now();
    let restored = if source == Path::new(STANDARD) {
        restore_from(&database, &mut stdin().lock(), now, check, &progress)
    } else {
        restore(&database, source, now, check, &progress)
    };
    if is_new && restored.is_err() {
        // The lock has created an empty file. One that stays does no harm.
        let _ = std::fs::remove_file(database.path());
    }
    database.release();
    let Restored { copied, before } = restored?;
    print_line(&format!("{}: {}", database.path().display(), describe(&copied)));
    for finding in &copied.findings {
        log::warn!("restored as it is: {finding}");
    }
    before.iter().for_each(print_way_back);
    Ok(TaskOutcome::Success)
}

/// Says where the database before a restore is. It may be one that its user would not take for sound.
fn print_way_back(before: &Kept) {
    let Kept { path, foreign_log, problem } = before;
    let path = path.display();
    print_line(&match problem {
        None => format!("the database before is {path}; to go back: duality restore --force {path}"),
        Some(problem) => format!("the file before is {path}, which cannot be restored: {problem}"),
    });
    if let Some(log) = foreign_log {
        print_line(&format!("the log beside it was that of another file; it is {}", log.display()));
    }
}

/// `revision 42 of epoch 1a2b3c4d, 1.2 MiB`
fn describe(copied: &Copied) -> String {
    let Copied { content, size, .. } = copied;
    format!("revision {} of epoch {}, {}", content.revision, content.epoch, ByteSize(*size))
}

/// `duality migrate`
pub(super) fn migrate(
    settings: &Settings,
    registry: Registry,
    projections: ProjectionSet,
) -> Result<TaskOutcome, TaskError> {
    require_existing(&settings.database)?;
    let progress = CommandProgress::new().map_err(TaskError::Signal)?;
    preparation::reject_foreign_file(&settings.database)?;
    let database = Database::open_beside(&settings.database, &settings.files)?;
    preparation::prepare(&database, &registry, settings.copy_before(), &progress)?;
    let writer = Writer::open(
        &database,
        WriterConfig::new(&Arc::new(registry), &projections.inline.into()),
        Clock::default().now(),
    )?;
    let revision = writer.revision();
    writer.close()?;
    database.release();
    print_line(&format!("{}: of this version, revision {revision}", database.name().display()));
    Ok(TaskOutcome::Success)
}

/// `duality migrate --check`
pub(super) fn check_migration(settings: &Settings, registry: &Registry) -> Result<TaskOutcome, TaskError> {
    let Plan { changes, upgrades, dropped, size, room } = preparation::plan(&settings.database, registry)?;
    for migration in &changes.migrations {
        print_line(&format!("migration {migration}: to run"));
    }
    for Preview { collection, from, to, documents, took } in &upgrades {
        let took = took.as_secs_f64();
        print_line(&format!(
            "{collection}: {documents} documents to convert from version {from} to version {to} ({took:.1} s without writing)"
        ));
    }
    let is_converted = |name: &str| upgrades.iter().any(|upgrade| upgrade.collection == name);
    for collection in changes.collections.iter().filter(|name| !is_converted(name)) {
        print_line(&format!("{collection}: to compute again, because they are new or follow another rule"));
    }
    for Dropped { collection, .. } in &dropped {
        print_line(&format!("{collection}: what is left of it is to be removed, because it was dropped"));
    }
    if changes.is_empty() && upgrades.is_empty() && dropped.is_empty() {
        print_line("nothing to do");
        return Ok(TaskOutcome::Success);
    }
    if changes.need_a_copy() && !settings.no_copy && !is_on_server(&settings.database) {
        let is_enough = if room < size { ": not enough; free some, or migrate with --no-copy" } else { "" };
        print_line(&format!("copy before: {}; room for {}{is_enough}", ByteSize(size), ByteSize(room)));
    }
    Ok(TaskOutcome::Pending)
}
