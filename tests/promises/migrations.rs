//! Migrations: the copy before them, and the diesel CLI. Where it is not installed, its tests print that and pass.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::{
    App, Process, Random, SmallDisk, enlarge, eventually, kills, lines, make_older, migrations, not_tested, output_of,
    sql,
};

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
    let all = migrations();
    let found = format!("another version of this program ({} of {} migrations)", all.len() - 1, all.len());
    assert!(code == 1 && said.contains(&found), "{said}");
    let before = std::fs::read(app.database()).unwrap();
    let (code, said) = output_of(app.database(), &["migrate", "--check"]);
    assert_eq!(code, 3, "{said}");
    let last = format!("migration {}: to run", all.last().unwrap());
    assert!(said.contains(&last) && said.contains("copy before: "), "{said}");
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
fn a_database_is_copied_before_other_rules_change_its_states() {
    let mut app = App::start();
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    for other_rules in
        ["UPDATE collections SET version = 99 WHERE name = 'carts'", "DELETE FROM collections WHERE name = 'accounts'"]
    {
        app.stop();
        sql(app.database(), other_rules);
        let known = copies(app.database()).len();
        let (code, said) = output_of(app.database(), &["migrate", "--check"]);
        assert!(code == 3 && said.contains("to compute again") && said.contains("copy before: "), "{said}");
        app.resume();
        let copies = copies(app.database());
        assert_eq!(copies.len(), known + 1);
        let versions = "SELECT name || ' ' || version AS line FROM collections ORDER BY name";
        assert!(copies.iter().any(|copy| lines(copy, versions) != lines(app.database(), versions)));
    }
    app.stop();
    assert_eq!(output_of(app.database(), &["migrate", "--check"]), (0, "nothing to do\n".to_owned()));
}

#[test]
fn an_earlier_copy_is_used_again_only_if_no_number_of_the_database_differs() {
    let mut app = App::start();
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    app.stop();
    sql(app.database(), "UPDATE collections SET version = 99 WHERE name = 'carts'");
    let before = std::fs::read(app.database()).unwrap();
    let back = |change: &str| {
        std::fs::write(app.database(), &before).unwrap();
        sql(app.database(), change);
        let (code, said) = output_of(app.database(), &["migrate"]);
        assert_eq!(code, 0, "{said}");
        copies(app.database()).len()
    };
    assert_eq!(back("SELECT 1"), 1);
    assert_eq!(back("SELECT 1"), 1, "nothing differs");
    assert_eq!(back("UPDATE collections SET next_key = next_key + 1 WHERE name = 'persons'"), 2);
    assert_eq!(back("DELETE FROM journal WHERE position = 2"), 3);
    assert_eq!(back("UPDATE metadata SET pruned = 1; DELETE FROM outbox WHERE revision = 1"), 4);
}

/// The incomplete copies beside a database.
fn incomplete(database: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(database.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_str().unwrap().contains(".partial-")).collect()
}

#[test]
fn a_signal_ends_the_copy_at_the_start_of_a_service_and_nothing_is_left_of_it() {
    let mut app = App::start();
    app.stop();
    enlarge(app.database());
    make_older(app.database());
    let child = Command::new(env!("CARGO_BIN_EXE_duality"))
        .args(["--listen", "127.0.0.1:0", "--database"])
        .arg(app.database())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it copies", || !incomplete(app.database()).is_empty() || !copies(app.database()).is_empty());
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.contains("nothing is left of the copy"), copies(app.database()).is_empty(), "{said}");
    assert!(output.status.success() || output.status.code() == Some(130), "{said}");
    assert_eq!(incomplete(app.database()), Vec::<PathBuf>::new());
}

#[test]
fn a_start_removes_what_a_killed_copy_has_left_but_not_what_a_backup_is_writing() {
    let mut app = App::start();
    app.stop();
    let killed = app.database().with_file_name(".test.db.before-0.1.0.partial-1a2b3c");
    let writing = app.database().with_file_name(".test.db.partial-1a2b3c");
    for file in [&killed, &writing] {
        std::fs::write(file, "half").unwrap();
    }
    app.resume();
    assert_eq!((killed.exists(), writing.exists()), (false, true));
}

#[test]
fn a_database_of_an_older_version_can_be_backed_up_and_the_backup_restored_and_migrated() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.stop();
    make_older(app.database());
    let copy = app.database().with_file_name("copy.db");
    let (code, said) = output_of(app.database(), &["backup", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = output_of(app.database(), &["restore", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
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
