//! An erasure that cannot be finished for now: the answer says so, commands go on, and it is finished by itself.

use std::path::Path;

use serde_json::{Value, json};

use crate::erasure::{MARKER, key};
use crate::harness::{Client, Process, Response, SmallDisk, Snapshot, eventually, files_with, lines, sql};

fn request(process: &Process, method: &str, path: &str, body: &Value) -> Response {
    let body = body.to_string();
    let sent = [("Content-Type", "application/json")];
    Client::connect(process.address).request(method, path, &sent, Some(body.as_bytes()))
}

fn get(process: &Process, path: &str) -> Value {
    Client::connect(process.address).request("GET", path, &[], None).json()
}

fn open_cart(process: &Process) -> String {
    let opened = request(process, "POST", "/carts", &json!({}));
    assert_eq!(opened.status, 201);
    opened.header("Location").unwrap().to_owned()
}

/// Asks for an erasure that cannot be finished.
#[track_caller]
fn begin_to_erase(process: &Process, cart: &str) {
    let begun = request(process, "POST", "/-/erase", &json!({"collection": "carts", "key": key(cart)}));
    assert_eq!((begun.status, &begun.json()["pending"]), (202, &json!(["database"])), "{}", begun.text());
    assert_eq!(get(process, cart)["erased"], true);
}

/// Why an erasure is not finished.
fn reason(process: &Process) -> Option<String> {
    let health = get(process, "/healthz");
    let reasons = health["reasons"].as_array().unwrap();
    let found = reasons.iter().find(|reason| reason["part"] == "erasure")?;
    Some(found["reason"].as_str().unwrap().to_owned())
}

fn in_progress(process: &Process) -> f64 {
    Client::metric(process.address, "duality_erasures_in_progress")
}

fn stages(database: &Path) -> Vec<String> {
    lines(database, "SELECT DISTINCT stage AS line FROM erased")
}

/// Stops the service, and makes its database one of an earlier version, with something that was deleted.
fn age(mut process: Process, database: &Path) {
    process.signal("TERM");
    assert!(process.wait().success());
    sql(
        database,
        &format!(
            "PRAGMA secure_delete = OFF; UPDATE metadata SET overwritten = 0; CREATE TABLE before (text TEXT);
             INSERT INTO before VALUES ('{MARKER}' || hex(zeroblob(500))); DROP TABLE before"
        ),
    );
    assert_eq!(files_with(database.parent().unwrap(), MARKER), [database]);
}

#[test]
fn without_room_to_write_the_file_again_nothing_is_tried_and_nobody_waits() {
    let Some(disk) = SmallDisk::mount(16) else { return };
    let database = disk.path().join("test.db");
    let flags = ["--min-free", "0", "--poll-interval", "100ms"];
    let process = Process::start(&database, &flags);
    let carts = [open_cart(&process), open_cart(&process)];
    for _ in 0..10 {
        assert_eq!(request(&process, "POST", "/persons", &json!({"name": "x".repeat(50_000)})).status, 201);
    }
    age(process, &database);
    disk.fill(1_000_000);
    let process = Process::start_in(&[("SQLITE_TMPDIR", disk.path().to_str().unwrap())], &database, &flags);
    for cart in &carts {
        begin_to_erase(&process, cart);
        assert!(reason(&process).unwrap().contains("there is not enough room"), "{}", process.log());
    }
    assert_eq!((stages(&database), in_progress(&process)), (vec!["file".to_owned()], 2.0));
    assert_eq!(get(&process, "/readyz")["status"], "ready");
    open_cart(&process);
    disk.make_room();
    eventually("it is finished", || stages(&database) == ["done"]);
    eventually("no file has anything", || files_with(disk.path(), MARKER).is_empty());
    eventually("the figure follows", || in_progress(&process) == 0.0);
    assert_eq!(reason(&process), None);
    assert!(!process.log().contains("attempt"), "{}", process.log());
    let mentions = process.log().lines().filter(|line| line.contains("there is not enough room")).count();
    assert_eq!(mentions, 1, "{}", process.log());
}

#[test]
fn a_failure_to_write_the_file_again_is_a_part_of_its_own_and_tried_later() {
    let directory = crate::harness::directory();
    let (database, failing) = (directory.path().join("test.db"), directory.path().join("fail"));
    let process = Process::start(&database, &[]);
    let carts = [open_cart(&process), open_cart(&process)];
    age(process, &database);
    std::fs::write(&failing, "").unwrap();
    let environment = [("TEST_FAIL_VACUUM", failing.to_str().unwrap())];
    let process = Process::start_in(&environment, &database, &["--poll-interval", "100ms"]);
    for cart in &carts {
        begin_to_erase(&process, cart);
        // The second one does not make it try again, and its rows are overwritten nevertheless.
        let reason = reason(&process).unwrap();
        assert!(reason.contains("`VACUUM` failed: the disk of the database is full; that was attempt 1"), "{reason}");
        assert_eq!(get(&process, "/readyz")["status"], "ready");
        open_cart(&process);
    }
    assert_eq!((stages(&database), in_progress(&process)), (vec!["file".to_owned()], 2.0));
    eventually("each failure is in the log", || {
        process.log().contains("that was attempt 2, and the next one is in 2 s")
    });
    std::fs::remove_file(&failing).unwrap();
    eventually("it is finished", || stages(&database) == ["done"] && reason(&process).is_none());
    eventually("no file has anything", || files_with(directory.path(), MARKER).is_empty());
    assert!(!process.log().contains("the writer:"), "{}", process.log());
}

#[test]
fn an_answer_does_not_wait_for_whoever_reads_one_moment_for_long() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &[]);
    let cart = open_cart(&process);
    let reading = Snapshot::take(&database);
    begin_to_erase(&process, &cart);
    assert_eq!((reason(&process), in_progress(&process)), (None, 1.0));
    drop(reading);
    eventually("it is finished", || stages(&database) == ["done"] && in_progress(&process) == 0.0);
}
