//! The same database through the diesel CLI. Where that is not installed, the tests say so and pass.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::App;

/// Runs the diesel CLI against a database; `None` where there is none.
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
            eprintln!("the diesel CLI is not installed: not tested");
            None
        }
    }
}

#[test]
fn the_schema_is_what_print_schema_prints() {
    let mut app = App::start();
    app.stop();
    let Some(output) = diesel(app.database(), &["print-schema"]) else { return };
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/src/storage/schema.rs");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), std::fs::read_to_string(schema).unwrap());
}

#[test]
fn a_database_that_the_cli_made_is_taken() {
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
fn redo_leaves_an_empty_database_of_another_epoch() {
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
    assert_ne!(persons.header("X-Epoch"), Some(epoch.as_str()), "or consumers would not notice");
}
