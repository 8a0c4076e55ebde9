//! Long responses wait for slow clients on a part of a disk that is bounded, and never look complete when they are not.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::{App, Client, Process, Response, SmallDisk, eventually};

/// On a busy machine, a client that does not read must not count as dead.
const PATIENT: [&str; 2] = ["--peer-timeout", "600s"];

/// Creates persons with names of so many bytes.
fn fill(address: SocketAddr, persons: usize, bytes: usize) {
    let mut client = Client::connect(address);
    let body = json!({"name": "x".repeat(bytes)}).to_string();
    for _ in 0..persons {
        let json = [("Content-Type", "application/json")];
        assert_eq!(client.request("POST", "/persons", &json, Some(body.as_bytes())).status, 201);
    }
}

/// A client at a local address that reads only the head of a response.
fn unread(host: u8, address: SocketAddr, path: &str) -> (Client, Response) {
    let mut client = Client::connect_from(host, address);
    client.send("GET", path, &[], None);
    let head = client.head().unwrap();
    (client, head)
}

fn stored(address: SocketAddr) -> f64 {
    Client::metric(address, "duality_spool_bytes")
}

/// How many persons the whole document has.
fn persons(response: &Response) -> usize {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["persons"].as_object().unwrap().len()
}

/// The last part of a local address.
const HERE: u8 = 1;
const ELSEWHERE: u8 = 2;

#[test]
fn slow_readers_of_one_revision_share_one_temporary_file() {
    let directory = crate::harness::directory();
    let process = Process::start(&directory.path().join("test.db"), &PATIENT);
    fill(process.address, 100, 100_000);
    let slow: Vec<_> = (0..20).map(|_| unread(HERE, process.address, "/aggregates")).collect();
    let body = Client::connect(process.address).request("GET", "/aggregates", &[], None).body;
    eventually("the body is in the file", || stored(process.address) >= body.len() as f64);
    assert_eq!(stored(process.address), body.len() as f64, "once for twenty clients");
    for (mut client, head) in slow {
        assert_eq!(head.revision(), 100);
        assert!(client.rest(head).body == body);
    }
    eventually("the file is gone with its last reader", || stored(process.address) < 1.0);
}

#[test]
fn a_response_without_room_is_a_503_and_those_of_other_addresses_have_room() {
    let directory = crate::harness::directory();
    // A quarter is for one address: 10 MB, and the body has 6 MB.
    let flags = [&PATIENT[..], &["--spool-size", "40MB"]].concat();
    let process = Process::start(&directory.path().join("test.db"), &flags);
    fill(process.address, 60, 100_000);
    let (client, head) = unread(HERE, process.address, "/aggregates");
    assert_eq!(head.status, 200);
    eventually("the body is in the file", || stored(process.address) > 6e6);
    // Another revision is another body.
    fill(process.address, 1, 10);
    // As long as it is not known how long the body is, one is tried.
    let mut refused = None;
    eventually("a response is refused", || {
        let answer = unread(HERE, process.address, "/aggregates");
        refused = Some(answer).filter(|(_, head)| head.status != 200);
        refused.is_some()
    });
    let (mut refused, head) = refused.unwrap();
    assert_eq!(head.header("Retry-After"), Some("5"));
    refused.rest(head).problem(503, "busy");
    let mut other = Client::connect_from(ELSEWHERE, process.address);
    assert_eq!(persons(&other.request("GET", "/aggregates", &[], None)), 61);
    assert!(Client::metric(process.address, "duality_spool_refused_total") >= 1.0);
    drop(client);
    eventually("the client has gone, so there is room", || {
        unread(HERE, process.address, "/aggregates").1.status == 200
    });
}

#[test]
fn a_response_that_outgrows_its_room_is_cut() {
    let directory = crate::harness::directory();
    let flags = [&PATIENT[..], &["--spool-size", "12MB"]].concat();
    let process = Process::start(&directory.path().join("test.db"), &flags);
    fill(process.address, 150, 100_000);
    // On a busy machine, the body may outgrow its room before its first byte is taken: then there is a 503 yet.
    let (mut refused, mut begun) = (0, None);
    eventually("a response has begun", || {
        let (mut client, head) = unread(HERE, process.address, "/aggregates");
        if head.status != 200 {
            refused += 1;
            client.rest(head).problem(503, "busy");
            return false;
        }
        begun = Some(client);
        true
    });
    let mut client = begun.unwrap();
    let refusals = || Client::metric(process.address, "duality_spool_refused_total");
    eventually("it has no room", || refusals() > f64::from(refused));
    let mut received = 0;
    let end = loop {
        match client.chunk() {
            Ok(Some(chunk)) => received += chunk.len(),
            Ok(None) => break "a complete body",
            Err(_) => break "a cut",
        }
    };
    assert_eq!(end, "a cut", "after {received} bytes");
    eventually("nothing of it is kept", || stored(process.address) < 1.0);
    fill(process.address, 1, 10);
}

#[test]
fn a_body_of_several_times_its_room_reaches_a_client_that_reads() {
    let directory = crate::harness::directory();
    // A quarter is for one address: 4 MiB, and the body has 30 MB.
    let flags = [&PATIENT[..], &["--spool-size", "16MiB"]].concat();
    let process = Process::start(&directory.path().join("test.db"), &flags);
    fill(process.address, 30, 1_000_000);
    for _ in 0..3 {
        let whole = Client::connect(process.address).request("GET", "/aggregates", &[], None);
        assert_eq!(persons(&whole), 30);
    }
    eventually("nothing is kept", || stored(process.address) < 1.0);
}

#[test]
fn the_room_that_the_writer_needs_stays_free() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    // With the margin of 16 MiB, there is no room for a body of 7 MB.
    let flags = [&PATIENT[..], &["--min-free", "24MiB"]].concat();
    let process = Process::start(&disk.path().join("test.db"), &flags);
    fill(process.address, 70, 100_000);
    disk.fill(42 << 20);
    let slow: Vec<_> = (0..10).map(|_| unread(HERE, process.address, "/aggregates")).collect();
    eventually("one has no room", || Client::metric(process.address, "duality_spool_refused_total") > 0.0);
    assert!(disk.free() >= 40 << 20, "{} bytes are free", disk.free());
    fill(process.address, 70, 100_000);
    drop(slow);
}

#[test]
fn temporary_files_can_be_on_another_disk_whose_failure_concerns_only_them() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let directory = crate::harness::directory();
    let spool = disk.path().to_str().unwrap().to_owned();
    let flags = [&PATIENT[..], &["--min-free", "0", "--poll-interval", "100ms", "--spool", &spool]].concat();
    let process = Process::start(&directory.path().join("test.db"), &flags);
    fill(process.address, 150, 100_000);
    let before = disk.free();
    let (client, _) = unread(HERE, process.address, "/aggregates");
    eventually("the file is there", || stored(process.address) > 15e6 && disk.free() + (14 << 20) <= before);
    drop(client);
    eventually("the file is gone", || disk.free() == before);
    disk.forbid_writing();
    let failing = || {
        let health = Client::connect(process.address).request("GET", "/healthz", &[], None).json();
        health["reasons"].as_array().unwrap().iter().any(|reason| reason["part"] == "spool")
    };
    let slow = unread(HERE, process.address, "/aggregates");
    eventually("health names it", failing);
    fill(process.address, 1, 10);
    drop(slow);
    disk.allow_writing();
    eventually("it recovers without a request", || !failing());
    let whole = Client::connect(process.address).request("GET", "/aggregates", &[], None);
    assert_eq!(persons(&whole), 151);
}

#[test]
fn a_directory_that_cannot_be_written_is_named_at_the_start() {
    let directory = crate::harness::directory();
    let output = Process::output(&directory.path().join("test.db"), &["--spool", "/nowhere/at/all"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("temporary files cannot be written into /nowhere/at/all: the directory /nowhere/at/all does not exist; create it"), "{text}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was opened");
}

/// `?key=` of all keys up to a number.
fn selection(keys: usize) -> String {
    let keys: Vec<_> = (1..=keys).map(|key| format!("key={key}")).collect();
    format!("/persons?{}", keys.join("&"))
}

#[test]
fn many_large_aggregates_by_key_take_no_more_memory_than_there_is_for_answers() {
    let directory = crate::harness::directory();
    let flags = [&PATIENT[..], &["--answer-memory", "4MiB"]].concat();
    let process = Process::start(&directory.path().join("test.db"), &flags);
    fill(process.address, 100, 100_000);
    // At different lengths, so that they do not share a body: 10 MB each.
    let slow: Vec<_> = (91..=100).map(|keys| (keys, unread(HERE, process.address, &selection(keys)))).collect();
    let sample = |what: &str| Client::metric(process.address, &format!("{what}{{what=\"answers\"}}"));
    eventually("what has no memory is in files", || stored(process.address) > 9.0 * 90.0 * 100_000.0);
    assert!(sample("duality_memory_bytes") <= sample("duality_max_memory_bytes"));
    for (keys, (mut client, head)) in slow {
        let Value::Object(persons) = client.rest(head).json() else { panic!("no object") };
        assert_eq!(persons.len(), keys);
        assert!(persons.values().all(|person| person["name"].as_str().unwrap().len() == 100_000));
    }
    eventually("nothing is held", || sample("duality_memory_bytes") < 1.0 && stored(process.address) < 1.0);
}

#[test]
fn a_long_answer_without_memory_is_sent_from_a_file() {
    let app = App::with(|settings| settings.answer_memory = Some(duality::ByteSize::kib(100)));
    fill(app.address, 1, 900_000);
    let expected = app.get("/persons?key=1").json()["1"].clone();
    let person = app.get("/persons/1");
    assert_eq!(person.header("Content-Length"), Some(person.body.len().to_string().as_str()));
    assert_eq!(person.json(), expected);
    let page = app.request("GET", "/person-events?lastEventId=", &[("Accept", "application/json")], None);
    assert_eq!(page.json()["events"].as_array().unwrap().len(), 2, "{}", page.body.len());
}
