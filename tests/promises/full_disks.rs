//! A full disk: nothing that was answered is lost, refusals are certain, and the service recovers by itself.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Client, Process, SmallDisk, Snapshot, eventually, output_of};

/// The body of a person whose name has this many bytes.
fn person(bytes: usize) -> Vec<u8> {
    json!({"name": "x".repeat(bytes), "city": "Rome"}).to_string().into_bytes()
}

fn post(client: &mut Client, body: &[u8]) -> crate::harness::Response {
    client.request("POST", "/persons", &[("Content-Type", "application/json")], Some(body))
}

fn get(process: &Process, path: &str) -> crate::harness::Response {
    Client::connect(process.address).request("GET", path, &[], None)
}

/// The parts in the reasons of `/healthz`.
fn failing(process: &Process) -> Vec<String> {
    let health = get(process, "/healthz");
    assert_eq!(health.status, 200);
    let health = health.json();
    let reasons = health["reasons"].as_array().unwrap();
    assert_eq!(health["status"] == "ok", reasons.is_empty(), "{health}");
    reasons.iter().map(|reason| reason["part"].as_str().unwrap().to_owned()).collect()
}

/// The keys of all persons.
fn keys(process: &Process) -> BTreeSet<String> {
    let Value::Object(persons) = get(process, "/persons").json() else { panic!("no object") };
    persons.into_iter().map(|(key, _)| key).collect()
}

#[test]
fn with_a_full_disk_writes_are_refused_for_certain_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(16) else { return };
    let database = disk.path().join("test.db");
    let process = Process::start(&database, &["--min-free", "1MiB", "--poll-interval", "100ms"]);
    let mut client = Client::connect(process.address);
    let mut answered = BTreeSet::new();
    for _ in 0..20 {
        let created = post(&mut client, &person(3000));
        assert_eq!(created.status, 201);
        answered.insert(created.header("Location").unwrap().trim_start_matches("/persons/").to_owned());
    }
    disk.fill(300_000);
    let mut refused = 0;
    while refused < 20 {
        let response = post(&mut client, &person(3000));
        if response.status == 201 {
            answered.insert(response.header("Location").unwrap().trim_start_matches("/persons/").to_owned());
            continue;
        }
        let problem = response.problem(507, "no-space");
        assert_eq!(problem["detail"], "nothing was done: the disk of the database is full");
        assert!(response.header("Retry-After").is_some());
        refused += 1;
    }
    assert_eq!(keys(&process), answered, "what was refused was not done, and reads go on");
    // A transaction of the service itself may be small enough to succeed in between.
    eventually("health names the writer and the disk", || {
        let response = post(&mut client, &person(3000));
        if let (201, Some(location)) = (response.status, response.header("Location")) {
            answered.insert(location.trim_start_matches("/persons/").to_owned());
        }
        let failing = failing(&process);
        failing.iter().any(|part| part == "writer") && failing.iter().any(|part| part == "disk")
    });
    get(&process, "/readyz").problem(503, "not-ready");
    disk.make_room();
    eventually("the service is ready without a write", || get(&process, "/readyz").status == 200);
    let created = post(&mut client, &person(3000));
    assert_eq!(created.status, 201);
    answered.insert(created.header("Location").unwrap().trim_start_matches("/persons/").to_owned());
    let lines = process.log().lines().filter(|line| line.contains("the disk of the database is full")).count();
    assert_eq!(lines, 1, "{}", process.log());
    process.kill();
    let process = Process::start(&database, &["--min-free", "1MiB"]);
    assert_eq!(keys(&process), answered);
}

/// How often a transaction failed, or the log could not be moved into the file.
fn failures(process: &Process) -> u64 {
    let metrics = get(process, "/metrics");
    let count = |part: &str| {
        let name = format!("duality_failures_total{{part=\"{part}\"}} ");
        metrics.text().lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<u64>().unwrap()
    };
    count("writer") + count("checkpoint")
}

#[test]
fn a_checkpoint_without_room_beside_a_reader_is_not_taken_for_a_replaced_file() {
    let Some(disk) = SmallDisk::mount(16) else { return };
    let database = disk.path().join("test.db");
    let process = Process::start(&database, &["--min-free", "0", "--poll-interval", "100ms"]);
    let mut client = Client::connect(process.address);
    // Each is written twice, as a state and as a change event: less than the four megabytes after which the log is moved.
    let mut persons = 18;
    for _ in 0..persons {
        assert_eq!(post(&mut client, &person(90_000)).status, 201);
    }
    // Whoever reads this state keeps the later pages out of the file, the first page with the header among them.
    let snapshot = Snapshot::take(&database);
    disk.fill(2 << 20);
    let is_full = || failing(&process).contains(&"checkpoint".to_owned());
    eventually("the log cannot be moved into the file", || {
        persons += usize::from(post(&mut client, &person(90_000)).status == 201);
        is_full()
    });
    eventually("nothing can be written", || {
        let status = post(&mut client, &person(90_000)).status;
        persons += usize::from(status == 201);
        status == 507
    });
    // Longer than the checkpoint of another process may take.
    let failed = failures(&process);
    drop(client);
    eventually("it has been tried many times", || failures(&process) > failed + 30);
    assert!(is_full(), "a checkpoint that failed is tried until one succeeds");
    assert!(!process.log().contains("another program has written"), "{}", process.log());
    disk.make_room();
    eventually("the service recovers by itself", || get(&process, "/healthz").json()["status"] == "ok");
    drop(snapshot);
    let mut client = Client::connect(process.address);
    assert_eq!(post(&mut client, &person(90_000)).status, 201);
    assert_eq!(keys(&process).len(), persons + 1);
    process.kill();
    assert_eq!(output_of(&database, &["verify"]).0, 0);
}

#[test]
fn a_stop_after_a_transaction_that_failed_leaves_one_file() {
    let Some(disk) = SmallDisk::mount(16) else { return };
    let database = disk.path().join("test.db");
    let mut process = Process::start(&database, &["--min-free", "0", "--poll-interval", "1h"]);
    let mut client = Client::connect(process.address);
    assert_eq!(post(&mut client, &person(10)).status, 201);
    disk.fill(300_000);
    eventually("the disk is full", || post(&mut client, &person(90_000)).status == 507);
    disk.make_room();
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
    let log = database.with_extension("db-wal");
    assert!(!log.exists(), "the log is in the file");
}

#[test]
fn a_projection_whose_disk_is_full_continues_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(8) else { return };
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    std::os::unix::fs::symlink(disk.path(), directory.path().join("test.db.projections")).unwrap();
    let process = Process::start(&database, &["--poll-interval", "100ms"]);
    let mut client = Client::connect(process.address);
    eventually("the projection is live", || get(&process, "/projections/city_history").json()["state"] == "live");
    assert_eq!(post(&mut client, &person(10)).status, 201);
    disk.fill(0);
    let mut written = 1;
    eventually("the projection is failing", || {
        written += 1;
        assert_eq!(post(&mut client, &person(10)).status, 201, "writes go on");
        failing(&process).contains(&"projection".to_owned())
    });
    assert_eq!(get(&process, "/readyz").status, 200);
    disk.make_room();
    eventually("the projection continues", || failing(&process).is_empty());
    eventually("the projection has everything", || {
        let report = get(&process, "/reports/city-history?city=Rome&limit=1000").json();
        report.to_string().contains(&format!(":{written}"))
    });
}
