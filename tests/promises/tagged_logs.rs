//! Every log says on which file it follows, whoever moved the one before it into the file: an older copy of the file does not
//! get it.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Client, Process, Response, eventually, lines, output_of, sql};

/// It looks at its files by itself only while it is written to.
const UNHURRIED: [&str; 2] = ["--poll-interval", "1h"];

fn post(process: &Process, name: &str) -> Response {
    let body = serde_json::json!({ "name": name }).to_string();
    let json = [("Content-Type", "application/json")];
    Client::connect(process.address).request("POST", "/persons", &json, Some(body.as_bytes()))
}

/// A running service, and a copy of its file from before its start.
struct Site {
    _directory: tempfile::TempDir,
    database: PathBuf,
    copy: PathBuf,
    process: Process,
}

impl Site {
    fn start(flags: &[&str]) -> Self {
        let directory = crate::harness::directory();
        let database = directory.path().join("test.db");
        let copy = directory.path().join("copy.db");
        let mut process = Process::start(&database, flags);
        assert_eq!(post(&process, "Ann").status, 201);
        process.signal("TERM");
        assert!(process.wait().success());
        fs::copy(&database, &copy).unwrap();
        let process = Process::start(&database, flags);
        for name in ["Bob", "Cid", "Dan"] {
            assert_eq!(post(&process, name).status, 201);
        }
        Self { _directory: directory, database, copy, process }
    }

    /// Kills the service, and puts the copy back alone, which a start must refuse. With its own file, the log is fine.
    #[track_caller]
    fn assert_copy_is_refused(self, persons: usize) {
        let Self { _directory, database, copy, process } = self;
        process.kill();
        let own = fs::read(&database).unwrap();
        fs::copy(copy, &database).unwrap();
        let (code, log) = output_of(&database, &[]);
        assert!(code == 1 && log.contains("test.db-wal does not belong to it"), "{log}");
        fs::write(&database, own).unwrap();
        let process = Process::start(&database, &[]);
        let found = Client::connect(process.address).request("GET", "/persons", &[], None);
        assert_eq!(found.json().as_object().unwrap().len(), persons);
        assert_eq!(output_of(&database, &["verify"]).0, 0);
    }
}

#[test]
fn a_log_that_begins_after_another_process_moved_the_one_before_it_has_a_tag() {
    for checkpoint in ["TRUNCATE", "RESTART", "PASSIVE"] {
        let site = Site::start(&UNHURRIED);
        sql(&site.database, &format!("PRAGMA wal_checkpoint({checkpoint})"));
        assert_eq!(post(&site.process, "Eve").status, 201);
        site.assert_copy_is_refused(5);
    }
}

#[test]
fn a_log_that_begins_after_a_transaction_that_failed_has_a_tag() {
    let site = Site::start(&UNHURRIED);
    sql(&site.database, "CREATE TRIGGER fail BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'on purpose'); END");
    post(&site.process, "Eve").problem(503, "unavailable");
    sql(&site.database, "DROP TRIGGER fail; PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(post(&site.process, "Eve").status, 201);
    site.assert_copy_is_refused(5);
}

#[test]
fn a_log_that_another_process_began_gets_a_tag_without_a_write() {
    let site = Site::start(&["--poll-interval", "20ms"]);
    let tag = || lines(&site.database, "SELECT user_version || '' AS line FROM pragma_user_version");
    let before = tag();
    let write = "UPDATE metadata SET pruned = pruned + 1; UPDATE metadata SET pruned = pruned - 1";
    sql(&site.database, &format!("PRAGMA wal_checkpoint(TRUNCATE); {write}"));
    eventually("the log has a tag", || tag() != before);
    site.assert_copy_is_refused(4);
}
