//! After a stop, and after each task of the command line, the database is one file; a file of another program is left as it
//! is.

use std::fs;
use std::path::Path;

use crate::harness::{App, Process, Stream, eventually, output_of, sql};

/// The names of the files of a database apart from the lock, which may stay.
fn files(database: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(database.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_stopped_service_leaves_one_file_and_its_projections() {
    let mut app = App::start();
    let mut streams: Vec<Stream> = (0..20).map(|_| app.follow("/person-events", &[])).collect();
    for _ in 0..20 {
        let cart = app.open_cart();
        app.add_item(&cart, "apple");
        app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    }
    streams.iter_mut().for_each(|stream| assert!(stream.try_next().is_some()));
    eventually("a report has been read", || app.get("/reports/cart-items").status == 200);
    for path in ["/persons", "/aggregates", "/journal"] {
        assert_eq!(app.request("GET", path, &[("Accept", "application/json")], None).status, 200);
    }
    app.stop();
    assert_eq!(files(app.database()), ["test.db", "test.db.projections"]);
    let projections = fs::read_dir(app.files().with_file_name("test.db.projections")).unwrap();
    for entry in projections {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with("-wal") && !name.ends_with("-shm"), "{name}");
    }
}

#[test]
fn tasks_of_the_command_line_leave_no_log_behind() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.stop();
    let before = files(app.database());
    for task in [&["verify"][..], &["projection", "list"], &["projection", "rebuild", "cart_items"], &["migrate"]] {
        let (code, said) = output_of(app.database(), task);
        assert_eq!(code, 0, "{task:?}: {said}");
        assert_eq!(files(app.database()), before, "{task:?}");
    }
    let missing = app.files().with_file_name("nothing.db");
    for task in [&["verify"][..], &["projection", "list"], &["migrate"], &["migrate", "--check"], &["backup", "x"]] {
        let (code, said) = output_of(&missing, task);
        assert!(code == 1 && said.contains("there is no database"), "{task:?}: {said}");
        assert!(!app.files().with_file_name("nothing.db.lock").exists(), "{task:?}");
    }
    assert_eq!(files(app.database()), before);
}

#[test]
fn files_of_other_programs_are_refused_and_stay_as_they_are() {
    let directory = crate::harness::directory();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("text"), "a text that is longer than the header of a database\n".repeat(10)).unwrap();
    sql(&path("other.db"), "CREATE TABLE users (name TEXT); CREATE TABLE metadata (id INTEGER)");
    sql(&path("app.db"), "PRAGMA application_id = 252006673; CREATE TABLE t (x)");
    for (name, why) in [
        ("text", "is not an SQLite database"),
        ("other.db", "it has the tables users, metadata"),
        ("app.db", "its application_id is 252006673"),
    ] {
        let before = fs::read(path(name)).unwrap();
        for task in [&[][..], &["verify"], &["backup", "copy.db"], &["migrate"], &["projection", "list"]] {
            let output = Process::output(&path(name), task);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && said.contains(why), "{name} {task:?}: {said}");
            assert_eq!(fs::read(path(name)).unwrap(), before, "{name} {task:?}");
        }
    }
    let entries = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["app.db", "other.db", "text"], "not even a lock");
}

#[test]
fn an_empty_file_becomes_a_database_with_our_mark() {
    let directory = crate::harness::directory();
    let database = directory.path().join("empty.db");
    fs::write(&database, "").unwrap();
    let mut process = Process::start(&database, &[]);
    process.signal("TERM");
    assert!(process.wait().success());
    assert_eq!(&fs::read(&database).unwrap()[68..72], b"dual");
}
