//! `duality backup` copies the database at one moment, beside a service or without one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::{App, Process, Random, SmallDisk, enlarge, eventually, kills, lines, output_of, sql};

fn backup(database: &Path, copy: &Path) -> (i32, String) {
    output_of(database, &["backup", copy.to_str().unwrap()])
}

/// The files in the directory of a database that begin like an incomplete copy.
fn incomplete(database: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(database.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_str().unwrap().contains(".partial-")).collect()
}

#[test]
fn a_backup_beside_64_writing_connections_is_at_one_revision_verifies_and_restores() {
    let app = App::start();
    let (is_over, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let copy = app.database().with_file_name("copy.db");
    let before = std::thread::scope(|scope| {
        for writer in 0..64 {
            let (app, is_over, written) = (&app, &is_over, &written);
            scope.spawn(move || {
                let mut client = app.client();
                let person = format!(r#"{{"name":"{writer}","city":"Rome"}}"#);
                while !is_over.load(Ordering::Relaxed) {
                    let json = [("Content-Type", "application/json")];
                    let response = client.request("POST", "/persons", &json, Some(person.as_bytes()));
                    assert_eq!(response.status, 201, "{}", response.text());
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("there are enough persons", || written.load(Ordering::Relaxed) > 500);
        let before = written.load(Ordering::Relaxed);
        let (code, said) = backup(app.database(), &copy);
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("copy.db: revision "), "{said}");
        before
    });

    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, said) = output_of(&copy, &["verify"]);
    assert_eq!(code, 0, "{said}");
    let counts = lines(
        &copy,
        "SELECT (SELECT revision FROM metadata) || ' ' || (SELECT count(*) FROM aggregates WHERE collection = 'persons') \
         || ' ' || (SELECT max(revision) FROM outbox) AS line",
    );
    let numbers: Vec<usize> = counts[0].split(' ').map(|number| number.parse().unwrap()).collect();
    assert!(numbers[0] >= before && numbers.iter().all(|number| *number == numbers[0]), "{counts:?}, {before} before");

    let restored = app.database().with_file_name("restored.db");
    let (code, said) = output_of(&restored, &["restore", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    let process = Process::start(&restored, &[]);
    let persons = crate::harness::Client::connect(process.address).request("GET", "/persons", &[], None);
    assert_eq!(persons.json().as_object().unwrap().len(), numbers[0]);
}

#[test]
fn a_backup_without_a_service_leaves_nothing_but_the_copy() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.stop();
    let directory = app.database().parent().unwrap();
    let names = || {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut before = names();
    let copy = directory.join("copy.db");
    assert_eq!(backup(app.database(), &copy).0, 0);
    before.push("copy.db".to_owned());
    before.sort();
    assert_eq!(names(), before);
}

#[test]
fn a_backup_to_standard_output_is_the_copy() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    for _ in 0..2 {
        let output = Process::output(app.database(), &["backup", "-"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let copy = app.database().with_file_name("copy.db");
        fs::write(&copy, &output.stdout).unwrap();
        let names = lines(&copy, "SELECT body AS line FROM aggregates WHERE collection = 'persons'");
        assert_eq!(names, [r#"{"name":"Ann"}"#]);
        assert!(incomplete(app.database()).is_empty());
        app.stop();
    }
}

#[test]
fn a_backup_refuses_what_would_destroy_something() {
    let app = App::start();
    let directory = app.database().parent().unwrap();
    let copy = directory.join("copy.db");
    assert_eq!(backup(app.database(), &copy).0, 0);
    let first = fs::read(&copy).unwrap();
    app.post("/persons", r#"{"name":"Ann"}"#);

    let (code, said) = backup(app.database(), &copy);
    assert!(code == 1 && said.contains("copy.db exists; another name, or --force"), "{said}");
    assert_eq!(fs::read(&copy).unwrap(), first);
    let (code, said) = output_of(app.database(), &["backup", "--force", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(lines(&copy, "SELECT revision || '' AS line FROM metadata"), ["1"]);

    let (code, said) = output_of(app.database(), &["backup", "--force", app.database().to_str().unwrap()]);
    assert!(code == 1 && said.contains("it is the database itself"), "{said}");
    let other = App::start();
    let (code, said) = output_of(app.database(), &["backup", "--force", other.database().to_str().unwrap()]);
    assert!(code == 1 && said.contains("another process uses it"), "{said}");
    fs::write(directory.join("new.db-wal"), b"x").unwrap();
    let (code, said) = backup(app.database(), &directory.join("new.db"));
    assert!(code == 1 && said.contains("new.db-wal is the log of another database"), "{said}");
    let (code, said) = backup(app.database(), &directory.join("nowhere/new.db"));
    assert!(code == 1 && said.contains("nowhere does not exist; create it first: mkdir -p"), "{said}");
    let (code, said) = backup(&directory.join("nothing.db"), &directory.join("of-nothing.db"));
    assert!(code == 1 && said.contains("there is no database"), "{said}");
    assert!(!directory.join("new.db").exists() && incomplete(app.database()).is_empty());
}

#[test]
fn a_damaged_database_has_no_backup() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.stop();
    sql(app.database(), "UPDATE metadata SET revision = 0");
    let copy = app.database().with_file_name("copy.db");
    let (code, said) = backup(app.database(), &copy);
    assert!(code == 1 && said.contains("the last revision is 0, but a change event has 1"), "{said}");
    assert!(!copy.exists() && incomplete(app.database()).is_empty());
}

#[test]
fn copies_are_refused_without_room_for_them_and_nothing_is_left() {
    let Some(disk) = SmallDisk::mount(4) else { return };
    let mut app = App::start();
    app.stop();
    enlarge(app.database());
    let why = "and the disk has room for";
    let (code, said) = backup(app.database(), &disk.path().join("copy.db"));
    assert!(code == 1 && said.contains("it needs ") && said.contains(why), "{said}");
    let (code, said) = output_of(&disk.path().join("new.db"), &["restore", app.database().to_str().unwrap()]);
    assert!(code == 1 && said.contains(why), "{said}");
    let names = fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| !name.ends_with(".lock")).count(), 0);
}

#[test]
fn a_killed_backup_leaves_the_database_and_no_file_with_the_name_of_the_copy() {
    let mut app = App::start();
    app.stop();
    enlarge(app.database());
    let copy = app.database().with_file_name("copy.db");
    let mut random = Random::new(7);
    for _ in 0..kills() {
        let enough = random.below(8_000_000);
        let length =
            || incomplete(app.database()).iter().map(|path| fs::metadata(path).map_or(0, |file| file.len())).sum();
        let was_killed = Process::kill_task(app.database(), &["backup", copy.to_str().unwrap()], || {
            let length: u64 = length();
            length > enough
        });
        assert_eq!(copy.exists(), !was_killed);
        if copy.exists() {
            assert_eq!(output_of(&copy, &["verify"]).0, 0);
            fs::remove_file(&copy).unwrap();
        }
        incomplete(app.database()).iter().for_each(|path| fs::remove_file(path).unwrap());
    }
    assert_eq!(output_of(app.database(), &["verify"]).0, 0);
    assert_eq!(backup(app.database(), &copy).0, 0);
}

#[test]
fn a_backup_that_is_interrupted_removes_what_it_has_written() {
    let mut app = App::start();
    app.stop();
    enlarge(app.database());
    let copy = app.database().with_file_name("copy.db");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_duality"))
        .arg("--database")
        .arg(app.database())
        .arg("backup")
        .arg(&copy)
        .spawn()
        .unwrap();
    eventually("it has begun or ended", || !incomplete(app.database()).is_empty() || copy.exists());
    let pid = child.id().to_string();
    let _ = std::process::Command::new("kill").args(["-INT", &pid]).status();
    let status = child.wait().unwrap();
    assert_eq!(status.success(), copy.exists(), "{status}");
    assert!(incomplete(app.database()).is_empty());
}
