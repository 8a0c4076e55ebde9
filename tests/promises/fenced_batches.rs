//! A batch on a `PostgreSQL` server is written by one statement, decided from what the service knows of the record. Whatever
//! other services write meanwhile, nothing is decided from what is not true any more.

use serde_json::json;

use crate::harness::engine::{PostgresServer, psql};
use crate::harness::{App, Response, eventually};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn server(options: &[&str]) -> Option<PostgresServer> {
    let options = [&["-c", "fsync=off"], options].concat();
    PostgresServer::start_for("a batch on a PostgreSQL server is", &options)
}

fn service(url: &str) -> App {
    App::with(|settings| settings.database = url.into())
}

/// A write with its own idempotency key, or none.
struct Write {
    method: &'static str,
    path: String,
    body: String,
    key: Option<String>,
}

/// Sends writes while nothing is executed, so that they are one batch.
#[track_caller]
fn in_one_batch(app: &App, writes: &[Write]) -> Vec<Response> {
    let commits = || crate::harness::Client::metric(app.address, "duality_commits_total");
    let before = commits();
    let hold = app.hold_writes();
    let send = |Write { method, path, body, key }: &Write| {
        let key = key.as_ref().map(|key| ("Idempotency-Key", key.as_str()));
        let headers: Vec<_> = [JSON].into_iter().chain(key).collect();
        // Only now: on a busy machine, one that has sent nothing for long is closed.
        let mut client = app.client();
        client.send(method, path, &headers, Some(body.as_bytes()));
        client
    };
    let mut clients: Vec<_> = writes.iter().map(send).collect();
    let waiting = || crate::harness::Client::metric(app.address, "duality_waiting_commands");
    eventually("all wait", || format!("{}", waiting()) == writes.len().to_string());
    drop(hold);
    let answers = clients.iter_mut().zip(writes).map(|(client, write)| client.response(write.method)).collect();
    assert_eq!(format!("{}", commits()), format!("{}", before + 1.0), "it is one batch");
    answers
}

/// The number of statements that the writers of a database have sent so far.
fn statements(server: &PostgresServer, url: &str) -> usize {
    let database = url.strip_prefix("postgres:///").unwrap().split('?').next().unwrap();
    let writer = format!("duality write|{database}|LOG:  ");
    let log = server.log();
    let lines = log.lines().filter_map(|line| line.strip_prefix(&writer));
    lines.filter(|line| line.starts_with("execute") || line.starts_with("statement")).count()
}

#[test]
fn the_number_of_statements_of_a_batch_does_not_depend_on_the_number_of_its_commands() {
    let logged = ["-c", "log_statement=all", "-c", "log_line_prefix=%a|%d|"];
    let Some(server) = server(&logged) else { return };
    for number in [1_usize, 64, 512] {
        let url = server.new_database();
        let app = service(&url);
        // What the start left to be known is known after this.
        assert_eq!(app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#).status, 201);
        let count = |writes: &[Write], status: u16| {
            let before = statements(&server, &url);
            for answer in in_one_batch(&app, writes) {
                assert_eq!(answer.status, status, "{}", answer.text());
            }
            statements(&server, &url) - before
        };
        let (post, patch) = (("POST", "/persons".to_owned()), |key: usize| ("PATCH", format!("/persons/{key}")));
        let write = |(method, path), body: serde_json::Value, key| Write { method, path, body: body.to_string(), key };
        let keyed: Vec<_> = (0..number)
            .map(|place| {
                let body = json!({ "name": "Bob", "city": format!("city {place}") });
                write(post.clone(), body, Some(format!("\"key {place}\"")))
            })
            .collect();
        assert_eq!(count(&keyed, 201), 3, "the stored answers, the derived rows, and the batch: {number}");
        let moves: Vec<_> = (0..number)
            .map(|place| write(patch(2 + place), json!({ "city": format!("town {place}") }), None))
            .collect();
        assert_eq!(count(&moves, 200), 2, "new derived rows, and the batch: {number}");
        let names: Vec<_> = (0..number).map(|place| write(patch(2 + place), json!({ "name": "Eve" }), None)).collect();
        assert_eq!(count(&names, 200), 1, "the batch: {number}");
        assert_eq!(count(&names, 200), 1, "nothing changes, as is certain after a look: {number}");
        let again = in_one_batch(&app, &keyed);
        assert!(again.iter().all(|answer| answer.header("Idempotency-Replayed") == Some("true")), "{number}");
        let rows = psql(&url, "SELECT count(*) || ' ' || max(revision) FROM outbox WHERE collection = 'persons'");
        assert_eq!(rows, format!("{0} {0}", 1 + 3 * number));
    }
}

#[test]
fn a_batch_that_misses_what_another_service_has_written_needs_as_many_statements_however_large_it_is() {
    let logged = ["-c", "log_statement=all", "-c", "log_line_prefix=%a|%d|"];
    let Some(server) = server(&logged) else { return };
    for number in [1_usize, 64, 512] {
        let url = server.new_database();
        let app = service(&url);
        let write =
            |method, path: String, body: serde_json::Value| Write { method, path, body: body.to_string(), key: None };
        let new: Vec<_> = (0..number).map(|_| write("POST", "/persons".to_owned(), json!({ "name": "Bob" }))).collect();
        in_one_batch(&app, &new);
        psql(&url, "UPDATE metadata SET token = substr(token, 2) || '?'");
        let moves: Vec<_> = (1..=number)
            .map(|key| write("PATCH", format!("/persons/{key}"), json!({ "name": format!("Eve {key}") })))
            .collect();
        let before = statements(&server, &url);
        for answer in in_one_batch(&app, &moves) {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let sent = statements(&server, &url) - before;
        assert_eq!(sent, 7, "one that misses; BEGIN, the row, its place, what is read, the batch, COMMIT: {number}");
        let rows = psql(&url, "SELECT count(*) || ' ' || max(revision) FROM outbox");
        assert_eq!(rows, format!("{0} {0}", 2 * number));
    }
}

#[test]
fn services_that_write_at_once_lose_nothing_and_leave_no_gap() {
    const WRITES: i64 = 40;
    let Some(server) = server(&[]) else { return };
    let url = server.new_database();
    let services = [service(&url), service(&url)];
    let mut revisions = std::thread::scope(|scope| {
        let writers = services.iter().flat_map(|app| [app; 3]).map(|app| {
            scope.spawn(|| {
                let mut client = app.client();
                let revisions = (0..WRITES).map(|_| {
                    let answer = client.request("POST", "/persons", &[JSON], Some(br#"{"name":"Ann","city":"Rome"}"#));
                    assert_eq!(answer.status, 201, "{}", answer.text());
                    answer.revision()
                });
                revisions.collect::<Vec<_>>()
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    revisions.sort_unstable();
    let all = 6 * WRITES;
    assert_eq!(revisions, (1..=all).collect::<Vec<_>>());
    let total = psql(&url, "SELECT body FROM aggregates WHERE collection = 'locations'");
    assert_eq!(total, format!(r#"{{"total":{all}}}"#));
    let known = psql(&url, "SELECT revision FROM metadata");
    assert_eq!(known, all.to_string());
    let rows = psql(&url, "SELECT count(*), max(key::integer) FROM aggregates WHERE collection = 'persons'");
    assert_eq!(rows, format!("{all}|{all}"), "each has a number of its own");
    let remembered = psql(&url, "SELECT sum(last - first + 1), min(first), max(last) FROM batches");
    assert_eq!(remembered, format!("{all}|1|{all}"), "each revision is of one batch");
}

#[test]
fn what_another_service_has_written_is_not_decided_from_a_row_that_is_out_of_date() {
    let Some(server) = server(&[]) else { return };
    let url = server.new_database();
    let [ours, theirs] = [service(&url), service(&url)];
    let created = ours.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    let before = created.header("ETag").unwrap();
    let changed = theirs.patch("/persons/1", r#"{"city":"Paris"}"#);
    assert_eq!(changed.status, 200, "{}", changed.text());
    let patch = |app: &App, tag: &str| {
        app.request("PATCH", "/persons/1", &[JSON, ("If-Match", tag)], Some(br#"{"name":"Eve"}"#))
    };
    assert_eq!(patch(&ours, before).status, 412);
    let patched = patch(&ours, changed.header("ETag").unwrap());
    assert_eq!((patched.status, patched.json()), (200, json!({ "name": "Eve", "city": "Paris" })));
    assert_eq!(theirs.delete("/persons/1").status, 204);
    assert_eq!(ours.patch("/persons/1", r#"{"name":"Zoe"}"#).status, 404);
    let locations = psql(&url, "SELECT count(*) FROM aggregates WHERE collection = 'locations' AND body IS NOT NULL");
    assert_eq!(locations, "0");
}

#[test]
fn a_write_that_is_repeated_at_another_service_gets_the_first_answer() {
    let Some(server) = server(&[]) else { return };
    let url = server.new_database();
    let [ours, theirs] = [service(&url), service(&url)];
    let headers = [JSON, ("Idempotency-Key", "\"1\"")];
    let send = |app: &App| app.request("POST", "/persons", &headers, Some(br#"{"name":"Ann"}"#));
    let [first, second, third] = [send(&ours), send(&theirs), send(&ours)];
    assert_eq!((first.status, first.header("Idempotency-Replayed")), (201, None));
    for again in [second, third] {
        assert_eq!((again.status, again.header("Idempotency-Replayed")), (201, Some("true")));
        assert_eq!(again.header("Location"), first.header("Location"));
    }
    assert_eq!(psql(&url, "SELECT count(*) FROM aggregates"), "1");
}

#[test]
fn maintenance_that_changes_nothing_makes_nothing_out_of_date_that_services_know() {
    let logged = ["-c", "log_statement=all", "-c", "log_line_prefix=%a|%d|"];
    let Some(server) = server(&logged) else { return };
    let url = server.new_database();
    let [ours, theirs] = [service(&url), service(&url)];
    assert_eq!(ours.post("/persons", r#"{"name":"Ann","city":"Rome"}"#).status, 201);
    let keyed = [JSON, ("Idempotency-Key", "\"one\"")];
    assert_eq!(ours.request("POST", "/persons", &keyed, Some(br#"{"name":"Bob","city":"Rome"}"#)).status, 201);
    assert_eq!(ours.delete("/persons/2").status, 204);
    let token = || psql(&url, "SELECT token FROM metadata");
    let before = token();
    for _ in 0..3 {
        ours.prune();
        theirs.prune();
        assert_eq!(token(), before, "nothing is old enough");
    }
    let sent = statements(&server, &url);
    assert_eq!(ours.patch("/persons/1", r#"{"name":"Eve"}"#).status, 200);
    assert_eq!(statements(&server, &url) - sent, 1, "the batch alone");
    let before = token();
    theirs.prune_everything();
    assert_ne!(token(), before, "what has changed is known by nobody else");
    assert_eq!(ours.patch("/persons/1", r#"{"name":"Zoe"}"#).status, 200);
}

#[test]
fn clients_that_write_one_command_after_another_get_into_the_same_batches() {
    const CLIENTS: usize = 8;
    const WRITES: usize = 5;
    let Some(server) = server(&[]) else { return };
    let url = server.new_database();
    let app = service(&url);
    // Long enough that a client is there again after a small part of it, however busy the machine is.
    psql(
        &url,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END';
         CREATE TRIGGER slow AFTER UPDATE ON collections FOR EACH STATEMENT EXECUTE FUNCTION wait()",
    );
    let commits = || crate::harness::Client::metric(app.address, "duality_commits_total");
    let batches = || {
        let before = commits();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = app.client();
                    for _ in 0..WRITES {
                        let answer = client.request("POST", "/persons", &[JSON], Some(br#"{"name":"Ann"}"#));
                        assert_eq!(answer.status, 201, "{}", answer.text());
                    }
                });
            }
        });
        commits() - before
    };
    // The first one has only who was first. With two groups that take turns there are twice as many as writes of a client.
    eventually("all are in the same batches", || batches() <= (WRITES + 2) as f64);
}
