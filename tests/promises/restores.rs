//! `duality restore` puts a copy in the place of the database, as a whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{App, Client, Process, Random, SmallDisk, Snapshot, enlarge, kills, lines, output_of, sql};

fn restore(database: &Path, copy: &Path) -> (i32, String) {
    output_of(database, &["restore", copy.to_str().unwrap()])
}

fn back_up(app: &App, name: &str) -> PathBuf {
    let copy = app.database().with_file_name(name);
    let (code, said) = output_of(app.database(), &["backup", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    copy
}

/// The databases that restores have replaced, without their logs.
fn kept(database: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(database.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let is_kept = |path: &PathBuf| {
        let name = path.to_str().unwrap();
        name.contains(".before-restore-")
            && !name.ends_with("-wal")
            && !name.ends_with("-shm")
            && !name.contains(".partial-")
    };
    entries.filter(is_kept).collect()
}

fn persons(database: &Path) -> Vec<String> {
    lines(database, "SELECT body AS line FROM aggregates WHERE collection = 'persons' ORDER BY rank, key")
}

const ANN: &str = r#"{"name":"Ann"}"#;
const BOB: &str = r#"{"name":"Bob"}"#;

#[test]
fn a_restored_copy_is_served_and_the_database_before_can_be_restored_again() {
    let mut app = App::start();
    app.post("/persons", ANN);
    let copy = back_up(&app, "copy.db");
    app.post("/persons", BOB);
    let (code, said) = restore(app.database(), &copy);
    assert!(code == 1 && said.contains("another process uses it"), "{said}");
    app.stop();
    let (code, said) = restore(app.database(), &copy);
    assert_eq!(code, 0, "{said}");
    let [before] = kept(app.database()).try_into().unwrap();
    assert!(said.contains(&format!("to go back: duality restore --force {}", before.display())), "{said}");
    assert_eq!((persons(app.database()).len(), persons(&before).len()), (1, 2));
    assert_eq!(output_of(app.database(), &["verify"]).0, 0);
    app.resume();
    assert_eq!(app.get("/persons").json().as_object().unwrap().len(), 1);
    app.stop();
    let (code, said) = restore(app.database(), &before);
    assert_eq!(code, 0, "{said}");
    app.resume();
    assert_eq!(app.get("/persons").json().as_object().unwrap().len(), 2);
}

#[test]
fn a_log_of_the_database_before_is_not_applied_to_the_restored_one() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let json = [("Content-Type", "application/json")];
    let process = Process::start(&database, &[]);
    Client::connect(process.address).request("POST", "/persons", &json, Some(ANN.as_bytes()));
    let copy = directory.path().join("copy.db");
    assert_eq!(output_of(&database, &["backup", copy.to_str().unwrap()]).0, 0);
    Client::connect(process.address).request("POST", "/persons", &json, Some(BOB.as_bytes()));
    process.kill();
    let log = directory.path().join("test.db-wal");
    assert!(fs::metadata(&log).unwrap().len() > 0, "a kill leaves a log");
    let (code, said) = restore(&database, &copy);
    assert_eq!(code, 0, "{said}");
    assert!(!log.exists());
    assert_eq!(persons(&database), [ANN]);
    let [before] = kept(&database).try_into().unwrap();
    // It is kept with its log, through which it is restored.
    assert!(PathBuf::from(format!("{}-wal", before.display())).exists());
    let (code, said) = restore(&database, &before);
    assert_eq!(code, 0, "{said}");
    assert_eq!(persons(&database), [ANN, BOB]);
}

#[test]
fn a_copy_can_come_from_standard_input_and_to_where_there_is_no_database() {
    let app = App::start();
    app.post("/persons", ANN);
    let copy = back_up(&app, "copy.db");
    let new = app.database().with_file_name("new.db");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_duality"))
        .args(["restore", "-", "--database", new.to_str().unwrap()])
        .stdin(fs::File::open(copy).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(persons(&new), [ANN]);
    assert!(kept(&new).is_empty());
}

#[test]
fn what_is_no_sound_copy_is_refused_and_the_database_stays() {
    let mut app = App::start();
    app.post("/persons", ANN);
    let copy = back_up(&app, "copy.db");
    app.stop();
    let before = fs::read(app.database()).unwrap();
    let path = |name: &str| app.database().with_file_name(name);
    fs::write(path("text.db"), "no database at all, but a text that is long enough to be one".repeat(40)).unwrap();
    fs::write(path("empty.db"), "").unwrap();
    sql(&path("other.db"), "CREATE TABLE users (name TEXT)");
    fs::copy(&copy, path("newer.db")).unwrap();
    sql(&path("newer.db"), "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')");
    fs::copy(&copy, path("wrong.db")).unwrap();
    sql(&path("wrong.db"), r#"UPDATE aggregates SET body = '{"name":"Eve"}' WHERE collection = 'persons'"#);
    for (name, why) in [
        ("text.db", "is not an SQLite database"),
        ("empty.db", "it is empty"),
        ("other.db", "is a database of another program (it has the tables users)"),
        ("newer.db", "belongs to a newer version"),
        ("wrong.db", r#"stored is {"name":"Eve"}; its change events give {"name":"Ann"}"#),
        ("missing.db", "there is no database"),
        ("test.db", "it is the file to restore from"),
    ] {
        let (code, said) = restore(app.database(), &path(name));
        assert!(code == 1 && said.contains(why), "{name}: {said}");
        assert_eq!(fs::read(app.database()).unwrap(), before, "{name}");
    }
    assert!(kept(app.database()).is_empty());
}

#[test]
fn a_copy_takes_the_place_of_a_file_that_is_damaged_beyond_reading_with_its_log() {
    let mut app = App::start();
    app.post("/persons", ANN);
    let copy = back_up(&app, "copy.db");
    app.stop();
    for has_log in [false, true] {
        if has_log {
            Process::start(app.database(), &[]).kill();
        }
        let mut file = fs::read(app.database()).unwrap();
        file[..4096].fill(7);
        fs::write(app.database(), &file).unwrap();
        let kept_before = kept(app.database()).len();
        let (code, said) = restore(app.database(), &copy);
        assert_eq!(code, 0, "{said}");
        assert_eq!(persons(app.database()), [ANN]);
        assert_eq!(output_of(app.database(), &["verify"]).0, 0);
        assert_eq!(kept(app.database()).len(), kept_before + 1);
        assert!(said.contains("which cannot be restored") && !said.contains("to go back"), "{said}");
    }
}

#[test]
fn a_backup_from_before_other_rules_is_restored_and_the_next_start_computes_its_states() {
    let mut app = App::start();
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    let before = app.get("/carts").text().to_owned();
    let copy = back_up(&app, "copy.db");
    app.stop();
    sql(
        &copy,
        r#"UPDATE collections SET version = 99 WHERE name = 'carts';
           UPDATE aggregates SET body = '{"open":"otherwise"}' WHERE collection = 'carts';
           DELETE FROM outbox; UPDATE metadata SET pruned = revision;
           DELETE FROM collections WHERE name = 'accounts'"#,
    );
    let (code, said) = restore(app.database(), &copy);
    assert_eq!(code, 0, "{said}");
    app.resume();
    assert_eq!(app.get("/carts").text(), before);
    assert_eq!(app.get("/accounts").text(), "{}");
}

#[test]
fn the_way_back_works_for_a_database_with_findings_and_says_what_they_are() {
    let mut app = App::start();
    app.post("/persons", ANN);
    let copy = back_up(&app, "copy.db");
    app.stop();
    sql(app.database(), r#"UPDATE aggregates SET body = '{"name":"Eve"}' WHERE collection = 'persons'"#);
    let (code, said) = restore(app.database(), &copy);
    assert_eq!(code, 0, "{said}");
    assert_eq!(persons(app.database()), [ANN]);
    let [before] = kept(app.database()).try_into().unwrap();
    let (code, said) = restore(app.database(), &before);
    assert!(code == 1 && said.contains("duality restore --force"), "{said}");
    let (code, said) = output_of(app.database(), &["restore", "--force", before.to_str().unwrap()]);
    let finding = r#"stored is {"name":"Eve"}; its change events give {"name":"Ann"}"#;
    assert!(code == 0 && said.contains(finding), "{said}");
    assert_eq!(persons(app.database()), [r#"{"name":"Eve"}"#]);
}

/// A database of a killed service, with Ann in the file and Bob in the log.
fn killed(directory: &Path) -> PathBuf {
    let database = directory.join("test.db");
    let json = [("Content-Type", "application/json")];
    let mut process = Process::start(&database, &[]);
    Client::connect(process.address).request("POST", "/persons", &json, Some(ANN.as_bytes()));
    process.signal("TERM");
    assert!(process.wait().success());
    let process = Process::start(&database, &[]);
    Client::connect(process.address).request("POST", "/persons", &json, Some(BOB.as_bytes()));
    process.kill();
    database
}

#[test]
fn a_log_of_another_file_is_kept_and_applied_to_nothing() {
    let mut app = App::start();
    let copy = back_up(&app, "copy.db");
    app.stop();
    let directory = crate::harness::directory();
    let database = killed(directory.path());
    fs::copy(&copy, &database).unwrap();
    let log = fs::read(directory.path().join("test.db-wal")).unwrap();
    // Neither as a source …
    let (code, said) = restore(app.database(), &database);
    assert!(code == 1 && said.contains("does not belong to it"), "{said}");
    // … nor as what is replaced.
    let (code, said) = restore(&database, &copy);
    assert_eq!(code, 0, "{said}");
    assert!(!directory.path().join("test.db-wal").exists());
    let [before] = kept(&database).try_into().unwrap();
    let foreign = PathBuf::from(format!("{}.foreign-wal", before.display()));
    assert_eq!(fs::read(&foreign).unwrap(), log);
    assert!(said.contains(foreign.to_str().unwrap()), "{said}");
    let (code, said) = restore(&database, &before);
    assert_eq!(code, 0, "{said}");
    assert_eq!(persons(&database), Vec::<String>::new());
}

#[test]
fn a_restore_fails_while_the_log_cannot_be_moved_and_leaves_the_database_as_it_is() {
    let mut app = App::start();
    let copy = back_up(&app, "copy.db");
    app.stop();
    let directory = crate::harness::directory();
    let database = killed(directory.path());
    let reading = Snapshot::take(&database);
    let (code, said) = restore(&database, &copy);
    assert!(code == 1 && said.contains("another process is reading it"), "{said}");
    assert_eq!(kept(&database), Vec::<PathBuf>::new());
    drop(reading);
    assert_eq!(persons(&database), [ANN, BOB]);
    let (code, said) = restore(&database, &copy);
    assert_eq!(code, 0, "{said}");
    assert_eq!(persons(&database), Vec::<String>::new());
}

#[test]
fn a_restore_without_room_for_the_database_before_leaves_that_and_nothing_else() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let mut app = App::start();
    app.stop();
    enlarge(app.database());
    let database = disk.path().join("test.db");
    fs::copy(app.database(), &database).unwrap();
    Process::start(&database, &[]).kill();
    let size = fs::metadata(&database).unwrap().len();
    // For the copy, but not for the file before it as well.
    disk.fill(size + size / 2);
    let (code, said) = restore(&database, app.database());
    assert!(code == 1 && said.contains("No space left on device"), "{said}");
    let names = fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.contains("before") || name.contains("partial")).collect();
    assert_eq!(left, Vec::<String>::new());
    disk.make_room();
    let (code, said) = output_of(&database, &["verify"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(persons(&database).len(), 20_000);
}

#[test]
fn a_killed_restore_leaves_the_database_before_or_the_copy() {
    let mut app = App::start();
    app.stop();
    let copy = app.database().with_file_name("copy.db");
    fs::copy(app.database(), &copy).unwrap();
    enlarge(&copy);
    let mut random = Random::new(11);
    for round in 0..kills() {
        // Every other database has a log.
        if round % 2 == 1 {
            Process::start(app.database(), &[]).kill();
        }
        let before = persons(app.database()).len();
        let enough = random.below(9_000_000);
        let length = || {
            let entries = fs::read_dir(copy.parent().unwrap()).unwrap().filter_map(Result::ok);
            let partial = entries.filter(|entry| entry.file_name().to_str().unwrap().contains(".partial-"));
            partial.map(|entry| entry.metadata().map_or(0, |file| file.len())).sum::<u64>()
        };
        let replaced = kept(app.database()).len();
        let moment = || length() > enough || kept(app.database()).len() > replaced;
        Process::kill_task(app.database(), &["restore", copy.to_str().unwrap()], moment);
        let (code, said) = output_of(app.database(), &["verify"]);
        assert_eq!(code, 0, "{said}");
        let after = persons(app.database()).len();
        assert!(after == before || after == 20_000, "{before} before, {after} after");
    }
    let (code, said) = restore(app.database(), &copy);
    assert_eq!(code, 0, "{said}");
    app.resume();
    assert_eq!(app.get("/persons/20000").status, 200);
}
