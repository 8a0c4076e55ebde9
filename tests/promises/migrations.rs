//! Migrations: the copy before them, and the diesel CLI. Where it is not installed, its tests print that and pass.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::{App, Process, Random, SmallDisk, enlarge, kills, lines, not_tested, output_of, sql};

/// Runs the diesel CLI against a database; `None` if it is not installed.
fn diesel(database: &Path, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("diesel");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("--database-url").arg(database).arg("--locked-schema");
    match command.args(arguments).output() {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "diesel {arguments:?}: {errors}");
            Some(output)
        }
        Err(_) => {
            not_tested("the diesel CLI is", "it is not installed");
            None
        }
    }
}

#[test]
fn the_schema_matches_diesel_print_schema() {
    let mut app = App::start();
    app.stop();
    let Some(output) = diesel(app.database(), &["print-schema"]) else { return };
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/src/storage/schema.rs");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), std::fs::read_to_string(schema).unwrap());
}

#[test]
fn a_database_created_by_the_diesel_cli_is_accepted() {
    let mut app = App::start();
    app.stop();
    for suffix in ["", "-wal", "-shm"] {
        let mut file = app.database().as_os_str().to_owned();
        file.push(suffix);
        let _ = std::fs::remove_file(file);
    }
    if diesel(app.database(), &["migration", "run"]).is_none() {
        return;
    }
    app.resume();
    assert_eq!(app.post("/persons", r#"{"name":"Ann"}"#).revision(), 1);
}

#[test]
fn redoing_the_migrations_leaves_an_empty_database_with_a_new_epoch() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    app.stop();
    if diesel(app.database(), &["migration", "redo", "--all"]).is_none() {
        return;
    }
    app.resume();
    let persons = app.get("/persons");
    assert_eq!((persons.text(), persons.revision()), ("{}", 0));
    assert_ne!(persons.header("X-Epoch"), Some(epoch.as_str()), "otherwise consumers would not notice");
}

/// Makes a database one of the version before the last migration.
fn make_older(database: &Path) {
    let down = include_str!("../../migrations/2026-11-25-000000_epochs/down.sql");
    sql(database, &format!("{down}; DELETE FROM __diesel_schema_migrations WHERE version = '20261125000000'"));
}

fn copies(database: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(database.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut copies: Vec<_> = entries.filter(|path| path.to_str().unwrap().contains(".before-")).collect();
    // A killed process leaves an incomplete copy under another name.
    copies.retain(|path| !path.to_str().unwrap().contains(".partial-"));
    copies.sort();
    copies
}

#[test]
fn a_database_is_copied_before_it_is_migrated_and_the_copy_can_be_restored() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.stop();
    make_older(app.database());
    let (code, said) = output_of(app.database(), &["verify"]);
    assert!(code == 1 && said.contains("another version of this program (5 of 6 migrations)"), "{said}");
    let before = std::fs::read(app.database()).unwrap();
    let (code, said) = output_of(app.database(), &["migrate", "--check"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("migration 2026-11-25-000000_epochs: to run") && said.contains("copy before: "), "{said}");
    assert_eq!(std::fs::read(app.database()).unwrap(), before, "a check changes nothing");

    app.resume();
    app.post("/persons", r#"{"name":"Bob"}"#);
    app.stop();
    let expected = format!("{}.before-{}", app.database().display(), env!("CARGO_PKG_VERSION"));
    let [copy] = copies(app.database()).try_into().unwrap();
    assert_eq!(copy, PathBuf::from(expected));
    assert_eq!(output_of(app.database(), &["migrate", "--check"]), (0, "nothing to do\n".to_owned()));

    let (code, said) = output_of(app.database(), &["restore", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = output_of(app.database(), &["migrate"]);
    assert_eq!(code, 0, "{said}");
    // The copy of the same content was there.
    assert_eq!(copies(app.database()).iter().filter(|path| !path.to_str().unwrap().contains("restore")).count(), 1);
    app.resume();
    assert_eq!(app.get("/persons").text(), r#"{"1":{"name":"Ann"}}"#);
}

#[test]
fn a_database_is_migrated_without_a_copy_on_request() {
    let mut app = App::start();
    app.stop();
    make_older(app.database());
    let (code, said) = output_of(app.database(), &["migrate", "--no-copy"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(copies(app.database()), Vec::<PathBuf>::new());
}

#[test]
fn a_migration_is_refused_without_room_for_a_copy() {
    let Some(disk) = SmallDisk::mount(16) else { return };
    let mut app = App::start();
    app.stop();
    enlarge(app.database());
    make_older(app.database());
    let database = disk.path().join("test.db");
    std::fs::copy(app.database(), &database).unwrap();
    disk.fill(2 * 1024 * 1024);
    let (code, said) = output_of(&database, &["migrate", "--check"]);
    assert!(code == 3 && said.contains("not enough; free some, or migrate with --no-copy"), "{said}");
    let (code, said) = output_of(&database, &[]);
    assert!(code == 1 && said.contains("and the disk has room for"), "{said}");
    assert_eq!(copies(&database), Vec::<PathBuf>::new());
    disk.make_room();
    let (code, said) = output_of(&database, &["migrate"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_killed_migration_leaves_a_whole_database() {
    let mut app = App::start();
    app.stop();
    enlarge(app.database());
    make_older(app.database());
    let mut random = Random::new(5);
    for _ in 0..kills() {
        let enough = random.below(9_000_000);
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let moment = || {
            let entries = std::fs::read_dir(app.database().parent().unwrap()).unwrap().filter_map(Result::ok);
            let partial = entries.filter(|entry| entry.file_name().to_str().unwrap().contains(".partial-"));
            let written: u64 = partial.map(|entry| size(&entry.path())).sum();
            written > enough || !copies(app.database()).is_empty()
        };
        Process::kill_task(app.database(), &["migrate"], moment);
        for copy in copies(app.database()) {
            let count = lines(&copy, "SELECT count(*) || '' AS line FROM aggregates");
            assert_eq!(count, ["20000"]);
        }
    }
    let (code, said) = output_of(app.database(), &["migrate"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = output_of(app.database(), &["verify"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(copies(app.database()).len(), 1);
}
