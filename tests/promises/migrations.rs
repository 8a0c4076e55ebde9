//! The database works with the diesel CLI. Where it is not installed, the tests print that and pass.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::App;

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
            eprintln!("the diesel CLI is not installed: not tested");
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
