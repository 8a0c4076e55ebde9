//! Services on one `PostgreSQL` database, at the moments at which one of them could take what the other one does for its own.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Integer;
use serde_json::json;

use crate::harness::engine::psql;
use crate::harness::{App, Response, eventually, shared_server};

fn service(url: &str) -> App {
    App::with(|settings| {
        settings.database = url.into();
        settings.tombstone_retention = Duration::ZERO;
    })
}

/// What happens on the server in a database.
struct Activity(PgConnection);

impl Activity {
    fn of(url: &str) -> Self {
        Self(PgConnection::establish(url).unwrap())
    }

    /// The processes of the server for which this holds.
    fn backends(&mut self, condition: &str) -> Vec<i32> {
        let query =
            diesel::dsl::sql::<Integer>("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND ");
        query.sql(condition).load(&mut self.0).unwrap()
    }

    /// Waits until so many statements of writers wait for others. Returns their processes.
    #[track_caller]
    fn wait_for_writers(&mut self, number: usize) -> Vec<i32> {
        let mut waiting = Vec::new();
        eventually(&format!("{number} wait"), || {
            waiting = self.backends("application_name = 'duality write' AND wait_event_type = 'Lock'");
            waiting.len() == number
        });
        waiting
    }

    /// Waits until a start waits for others. Returns its process.
    #[track_caller]
    fn wait_for_start(&mut self) -> i32 {
        let mut waiting = Vec::new();
        eventually("a start waits", || {
            waiting = self.backends("application_name = 'duality maintenance' AND wait_event_type = 'Lock'");
            !waiting.is_empty()
        });
        waiting[0]
    }

    /// Ends a process, as an operator does.
    fn end(&mut self, backend: i32) {
        execute(&mut self.0, &format!("SELECT pg_terminate_backend({backend})"));
        eventually("it is gone", || self.backends(&format!("pid = {backend}")).is_empty());
    }
}

fn execute(connection: &mut PgConnection, sql: &str) {
    connection.batch_execute(sql).unwrap();
}

const ANN: &str = r#"{"name":"Ann","city":"Rome"}"#;

/// Nothing is written before the return value ends its transaction.
fn hold(url: &str) -> PgConnection {
    let mut holder = PgConnection::establish(url).unwrap();
    execute(&mut holder, "BEGIN; SELECT 1 FROM metadata FOR UPDATE");
    holder
}

#[test]
fn two_services_that_get_the_same_post_at_the_same_moment_create_two_persons() {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    let services = [service(&url), service(&url)];
    let mut activity = Activity::of(&url);
    for round in 0..5 {
        let mut holder = hold(&url);
        let answers = std::thread::scope(|scope| {
            let posts: Vec<_> = services.iter().map(|app| scope.spawn(|| app.post("/persons", ANN))).collect();
            activity.wait_for_writers(2);
            execute(&mut holder, "COMMIT");
            posts.into_iter().map(|post| post.join().unwrap()).collect::<Vec<_>>()
        });
        let mut created: Vec<_> = answers.iter().map(|answer| (answer.revision(), answer.header("Location"))).collect();
        created.sort_unstable();
        let (first, second) = (2 * round + 1, 2 * round + 2);
        let paths = [first, second].map(|key| format!("/persons/{key}"));
        assert_eq!(created, [(first, Some(paths[0].as_str())), (second, Some(paths[1].as_str()))]);
        assert!(answers.iter().all(|answer| answer.status == 201));
    }
    assert_eq!(services[0].get("/locations").json(), json!({ "Rome": { "total": 10 } }));
}

#[test]
fn a_post_of_unknown_outcome_is_not_taken_for_the_same_one_of_another_service() {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    let services = [service(&url), service(&url)];
    let mut activity = Activity::of(&url);
    let mut holder = hold(&url);
    let [cut, other] = std::thread::scope(|scope| {
        let cut = scope.spawn(|| services[0].post("/persons", ANN));
        let its_writer = activity.wait_for_writers(1)[0];
        let other = scope.spawn(|| services[1].post("/persons", ANN));
        activity.wait_for_writers(2);
        activity.end(its_writer);
        // The first one asks what became of it, behind the other one.
        activity.wait_for_writers(2);
        execute(&mut holder, "COMMIT");
        [cut.join().unwrap(), other.join().unwrap()]
    });
    assert_eq!((other.status, other.header("Location")), (201, Some("/persons/1")), "{}", other.text());
    assert_eq!(cut.status, 503, "{}", cut.text());
    for service in &services {
        assert_eq!(service.get("/persons").json(), json!({ "1": { "name": "Ann", "city": "Rome" } }));
    }
    let next = services[0].post("/persons", ANN);
    assert_eq!((next.status, next.header("Location"), next.revision()), (201, Some("/persons/2"), 2));
}

/// While the gate is closed, deletions of rows of aggregates wait there, before they look for the rows.
const GATE: &str = "
    CREATE SCHEMA gate;
    CREATE TABLE gate.closed ();
    INSERT INTO gate.closed DEFAULT VALUES;
    CREATE FUNCTION gate.pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        WHILE EXISTS (SELECT FROM gate.closed) LOOP PERFORM pg_sleep(0.005); END LOOP; RETURN NULL; END $$;
    CREATE TRIGGER gate BEFORE DELETE ON aggregates FOR EACH STATEMENT EXECUTE FUNCTION gate.pass()";

#[test]
fn an_aggregate_that_is_created_again_stays_while_its_tombstone_is_forgotten() {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    let [pruning, writing] = [service(&url), service(&url)];
    assert_eq!(pruning.post("/persons", ANN).status, 201);
    assert_eq!(pruning.patch("/persons/1", r#"{"city":null}"#).status, 200);
    psql(&url, GATE);
    std::thread::scope(|scope| {
        let prune = scope.spawn(|| pruning.prune());
        let mut activity = Activity::of(&url);
        eventually("a tombstone is about to be deleted", || activity.backends("wait_event = 'PgSleep'").len() == 1);
        let create = scope.spawn(|| created(&writing));
        // Everything that changes the record begins with the same row, so the city waits for its turn.
        activity.wait_for_writers(1);
        psql(&url, "DELETE FROM gate.closed");
        prune.join().unwrap();
        assert_eq!(create.join().unwrap().json(), json!({ "name": "Ann", "city": "Rome" }));
    });
    for service in [&pruning, &writing] {
        assert_eq!(service.get("/locations").json(), json!({ "Rome": { "total": 1 } }));
    }
    assert_eq!(writing.patch("/persons/1", r#"{"city":null}"#).status, 200);
    assert_eq!(pruning.get("/locations").json(), json!({}));
}

/// Moves the person back to Rome. Who had to wait for too long tries again.
fn created(service: &App) -> Response {
    let mut created = None;
    eventually("it is written", || {
        let response = service.patch("/persons/1", r#"{"city":"Rome"}"#);
        assert!(matches!(response.status, 200 | 503), "{}", response.text());
        created = Some(response).filter(|response| response.status == 200);
        created.is_some()
    });
    created.unwrap()
}

#[test]
fn whatever_changes_the_record_leaves_another_token() {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    let mut app = service(&url);
    let cart = app.open_cart();
    let once = [("Content-Type", "application/json"), ("Idempotency-Key", "once")];
    let mut known = vec![psql(&url, "SELECT token FROM metadata")];
    let mut changes = |what: &str| {
        let token = psql(&url, "SELECT token FROM metadata");
        assert!(!known.contains(&token), "{what}");
        known.push(token);
    };
    app.post("/persons", ANN);
    changes("a write");
    app.request("POST", "/persons", &once, Some(b"{}")).problem(422, "invalid");
    app.request("PATCH", "/persons/1", &once, Some(br#"{"name":"Ann"}"#));
    changes("a write that changes nothing, with an answer that is kept");
    app.add_item(&cart, "apple");
    changes("a command");
    app.delete("/persons/1");
    changes("a deletion");
    app.prune();
    changes("forgetting a tombstone");
    let erased = json!({"collection": "carts", "key": cart.rsplit_once('/').unwrap().1});
    assert_eq!(app.post("/-/erase", &erased.to_string()).status, 200);
    changes("an erasure");
    app.prune_everything();
    changes("pruning");
    app.restart();
    changes("a start");
    let steps = psql(&url, "SELECT count(*) FROM metadata WHERE pruned > 0 AND forgotten > 0 AND erasures > 0");
    assert_eq!((steps.as_str(), psql(&url, "SELECT count(*) FROM idempotency").as_str()), ("1", "0"));
}

#[test]
fn a_start_whose_connection_is_ended_begins_again() {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    let first = service(&url);
    assert_eq!(first.post("/persons", ANN).status, 201);
    let mut activity = Activity::of(&url);
    let mut holder = hold(&url);
    let second = std::thread::scope(|scope| {
        let start = scope.spawn(|| service(&url));
        for _ in 0..2 {
            let waiting = activity.wait_for_start();
            activity.end(waiting);
        }
        activity.wait_for_start();
        execute(&mut holder, "ROLLBACK");
        start.join().unwrap()
    });
    assert_eq!(second.post("/persons", ANN).revision(), 2);
    assert_eq!(first.get("/persons").text(), second.get("/persons").text());
}
