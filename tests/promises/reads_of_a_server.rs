//! How often a read waits for a `PostgreSQL` server: seen in the log of the server.

use std::collections::BTreeSet;

use crate::harness::App;
use crate::harness::engine::{PostgresServer, psql};

const LOGGED: [&str; 6] = ["-c", "fsync=off", "-c", "log_statement=all", "-c", "log_line_prefix=%a|%p|"];

/// What connections for reads have sent, each with the number of its process.
fn sent(server: &PostgresServer) -> Vec<(String, String)> {
    let statement = |line: &str| {
        let (process, rest) = line.strip_prefix("duality read|")?.split_once('|')?;
        let (kind, text) = rest.strip_prefix("LOG:  ")?.split_once(": ")?;
        (kind == "statement" || kind.starts_with("execute")).then(|| (process.to_owned(), text.to_owned()))
    };
    server.log().lines().filter_map(statement).collect()
}

#[test]
fn an_aggregate_is_read_by_one_statement() {
    let Some(server) = PostgresServer::start_for("the statements of a read are", &LOGGED) else { return };
    let url = server.new_database();
    let app = App::with(|settings| settings.database = url.clone().into());
    assert_eq!(app.post("/persons", r#"{"name":"Ann"}"#).status, 201);
    assert_eq!(app.get("/persons/1").status, 200);
    let before = sent(&server).len();
    for number in 0..10_i64 {
        let read = app.get("/persons/1");
        assert_eq!((read.status, read.revision()), (200, 1 + number));
        assert_eq!(read.json()["name"], if number == 0 { "Ann".to_owned() } else { format!("Ann {number}") });
        let changed = app.patch("/persons/1", &format!(r#"{{"name":"Ann {}"}}"#, number + 1));
        assert_eq!(changed.status, 200);
    }
    let sent = sent(&server).split_off(before);
    let is_read = |text: &str| text.starts_with("SELECT metadata.epoch, metadata.revision, ");
    let readers: BTreeSet<_> = sent.iter().filter(|(_, text)| is_read(text)).map(|(process, _)| process).collect();
    let is_of_a_read = |text: &str| is_read(text) || ["BEGIN", "COMMIT"].contains(&text) || text.contains("aggregates");
    // Another thread may have connected meanwhile.
    let all = sent.iter().filter(|(process, text)| readers.contains(process) && is_of_a_read(text));
    let all: Vec<_> = all.map(|(_, text)| text).collect();
    assert!(all.len() == 10 && all.iter().all(|text| is_read(text)), "{all:#?}");
}

#[test]
fn the_next_events_of_a_stream_are_read_by_few_statements() {
    const EVENTS: i64 = 20_000;
    let Some(server) = PostgresServer::start_for("the statements of a stream are", &LOGGED) else { return };
    let url = server.new_database();
    let mut app = App::with(|settings| settings.database = url.clone().into());
    app.stop();
    psql(
        &url,
        &format!(
            "INSERT INTO aggregates (collection, rank, key, revision, version, body)
                 SELECT 'persons', length(i::text), i::text, i, 0, '{{\"name\":\"Ann\"}}' FROM generate_series(1, {EVENTS}) AS i;
             INSERT INTO outbox (revision, collection, key, patch, time)
                 SELECT i, 'persons', i::text, '{{\"name\":\"Ann\"}}', extract(epoch FROM now()) * 1000
                 FROM generate_series(1, {EVENTS}) AS i;
             UPDATE metadata SET revision = {EVENTS};
             UPDATE collections SET next_key = {EVENTS} + 1, changed = {EVENTS} WHERE name = 'persons'"
        ),
    );
    app.resume();
    let before = sent(&server).len();
    let mut stream = app.follow("/person-events", &[]);
    let mut last = 0;
    while last < EVENTS {
        let revision = stream.next().reached().unwrap_or(last);
        assert!(revision == last || revision == last + 1, "{revision} after {last}");
        last = revision;
    }
    let pages = sent(&server).split_off(before);
    let of_the_feed = |text: &str| text.contains(r#"FROM "outbox""#) && text.contains("BETWEEN");
    let pages = pages.iter().filter(|(_, text)| of_the_feed(text)).count();
    // Ten pages with 2,000 of them. A thread that reads the first time knows nothing of their length.
    assert!((5..=24).contains(&pages), "{pages} statements");
}
