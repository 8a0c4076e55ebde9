//! A program that is killed while it converts its documents goes on with them at its next start.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::evolution::revision_of;
use crate::harness::{Client, Process, Random, Stream, eventually, example, kills, lines, sql};

/// The program of an example, in one of its versions. From the third on, that of its documents is one less.
fn start_buildings(program: &Path, version: i64, database: &Path) -> Process {
    Process::start_other(program, &[("BUILDINGS", &version.to_string())], database)
}

fn stop(mut process: Process) {
    process.signal("TERM");
    assert!(process.wait().success());
}

/// Starts a version, and kills it when it has converted a part of the documents.
fn kill_in_the_middle(program: &Path, version: i64, database: &Path, number: i64) {
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0", "--no-copy", "--database"]).arg(database);
    let mut child = command.env("BUILDINGS", version.to_string()).stderr(Stdio::null()).spawn().unwrap();
    let place = "SELECT place || '/' || converted AS line FROM upgrades";
    eventually("a part of the documents is converted", || match &*lines(database, place) {
        [line] => {
            let (place, converted) = line.split_once('/').unwrap();
            converted == "1" || place.parse().unwrap_or(0) >= number
        }
        // The shape is that of before, or all is done already.
        _ => child.try_wait().unwrap().is_some() || is_of(database, version - 1),
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Whether all documents have a version.
fn is_of(database: &Path, version: i64) -> bool {
    let done = "SELECT version || '' AS line FROM collections WHERE name = 'buildings' \
                AND NOT EXISTS (SELECT 1 FROM upgrades)";
    lines(database, done) == [version.to_string()]
}

#[test]
fn an_upgrade_that_is_killed_at_random_moments_converts_each_document_once() {
    const BUILDINGS: i64 = 30_000;
    let Some(program) = example("buildings") else { return };
    let directory = crate::harness::directory();
    let database = &directory.path().join("test.db");
    let mut random = Random::new(u64::from(std::process::id()));
    let first = start_buildings(&program, 1, database);
    stop(first);
    sql(
        database,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {BUILDINGS})
             INSERT INTO aggregates (collection, rank, key, revision, version, body)
             SELECT 'buildings', length(i), i, i, 0, '{{\"name\":\"house ' || i || '\",\"color\":\"red\"}}' FROM n;
             UPDATE metadata SET revision = {BUILDINGS}, pruned = {BUILDINGS};
             UPDATE collections SET changed = {BUILDINGS}, next_key = {BUILDINGS} + 1 WHERE name = 'buildings'"
        ),
    );
    let first = start_buildings(&program, 1, database);
    let load = |process: &Process, path: &str| Client::connect(process.address).request("GET", path, &[], None);
    let loaded = load(&first, "/buildings");
    let (mut state, mut cursor) = (loaded.json(), loaded.cursor());
    stop(first);
    for version in 3..=5 {
        for _ in 0..kills().min(5) {
            kill_in_the_middle(&program, version, database, i64::try_from(random.below(30_000)).unwrap());
        }
        let process = start_buildings(&program, version, database);
        let loaded = load(&process, "/buildings");
        let mut stream = Stream::open(process.address, "/building-events", &[("Last-Event-ID", &cursor)]);
        cursor = loaded.cursor();
        stream.follow(&mut state, revision_of(&cursor));
        assert_eq!(state, loaded.json());
        stop(process);
    }
    let house = &state["17"];
    assert_eq!((house, state.as_object().unwrap().len()), (&json!({"title": "house 17", "city": "Berlin"}), 30_000));
    assert!(is_of(database, 4));
}
