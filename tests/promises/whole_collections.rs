//! Reading a whole collection is exact and streamed, and slows nobody down.

use serde_json::json;

use crate::harness::{App, Client, Process, eventually};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

fn fill(client: &mut Client, persons: usize, bytes: usize) {
    let body = json!({"name": "x".repeat(bytes), "city": "Rome"}).to_string();
    for _ in 0..persons {
        assert_eq!(client.request("POST", "/persons", &JSON, Some(body.as_bytes())).status, 201);
    }
}

#[test]
fn a_body_is_exact_at_its_revision_during_concurrent_writes() {
    let app = App::start();
    fill(&mut app.client(), 300, 1000);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = app.client();
            for number in 0..650 {
                let path = format!("/persons/{}", 1 + number % 300);
                client.request("PATCH", &path, &JSON, Some(json!({"spouse": 1 + number / 300}).to_string().as_bytes()));
            }
        });
        let mut last = 0;
        while !writer.is_finished() {
            let response = app.get("/persons");
            let revision = response.revision();
            assert!(revision >= last);
            last = revision;
            // The writer's history is known: at revision r, exactly the first r - 300 patches have been applied.
            let patches = revision - 300;
            for (key, person) in response.json().as_object().unwrap() {
                let number = key.parse::<i64>().unwrap() - 1;
                let made = (patches - number + 299) / 300;
                let spouse = (made > 0).then_some(made);
                assert_eq!(person["spouse"].as_i64(), spouse, "person {key} at revision {revision}");
            }
        }
    });
}

#[test]
fn a_slow_reader_costs_no_memory_and_does_not_block_checkpoints() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &["--shared-bodies", "0"]);
    let mut writer = Client::connect(process.address);
    // 15 MB is more than the buffers of the kernel and of the service together.
    fill(&mut writer, 300, 50_000);
    let aggregate = writer.request("GET", "/persons/1", &[], None).body;
    let files = process.open_files();
    let mut slow: Vec<_> = (0..10).map(|_| Client::connect(process.address)).collect();
    let revisions: Vec<i64> = slow
        .iter_mut()
        .map(|client| {
            client.send("GET", "/persons", &[], None);
            client.head().unwrap().revision()
        })
        .collect();
    assert_eq!(revisions, [300; 10]);
    // It is on disk, once for all of them; a unit test of the spool shows how little is in memory.
    let length: usize = (1..=300).map(|key| format!("\"{key}\":,").len() + aggregate.len()).sum::<usize>() + 1;
    eventually("all bodies are in one temporary file", || {
        Client::metric(process.address, "duality_spool_bytes") >= length as f64
    });
    assert_eq!(Client::metric(process.address, "duality_spool_bytes"), length as f64);
    assert!(process.open_files() <= files + 20, "not one for each");
    // Write 25 MB more while ten clients have read no more than a head.
    fill(&mut writer, 500, 50_000);
    let log = std::fs::metadata(database.with_extension("db-wal")).unwrap().len();
    assert!(log < 16 * 1024 * 1024, "the write-ahead log was not checkpointed: {log} bytes");
    let mut bodies = slow.into_iter().map(|mut client| {
        let mut body = Vec::new();
        while let Some(chunk) = client.chunk().unwrap() {
            body.extend_from_slice(&chunk);
        }
        body
    });
    let first = bodies.next().unwrap();
    let persons: serde_json::Value = serde_json::from_slice(&first).unwrap();
    assert_eq!(persons.as_object().unwrap().len(), 300, "the body has the revision of its head");
    assert!(bodies.all(|body| body == first), "all have the same");
}

#[test]
fn a_client_that_disconnects_midway_leaves_nothing_behind() {
    let directory = crate::harness::directory();
    let process = Process::start(&directory.path().join("test.db"), &["--shared-bodies", "0"]);
    let connect = || Client::connect(process.address);
    fill(&mut connect(), 200, 50_000);
    connect().request("GET", "/persons", &[], None);
    eventually("the first connections are gone", || process.open_files() < 100);
    let before = process.open_files();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = connect();
            client.send("GET", "/persons", &[], None);
            client.head().unwrap();
            client
        })
        .collect();
    let stored = || Client::metric(process.address, "duality_spool_bytes");
    eventually("what they do not read is in a temporary file", || stored() > 0.0);
    drop(clients);
    eventually("all of them are closed", || process.open_files() < before + 10);
    eventually("the file is gone with them", || stored() < 1.0);
}
