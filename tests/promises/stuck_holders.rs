//! All writes of a database on a server take one row. A service that stops in the middle of a batch does not keep the others
//! from it for more than a few seconds; maintenance, and whoever waits for a standby, may.

use crate::harness::engine::{PostgresServer, psql};
use crate::harness::{App, Client, Marked, Outcome, Wire, assert_agrees, eventually, shared_server};

/// What a batch does, with a mark.
const BATCH: &str = "
    WITH fence AS (UPDATE metadata SET token = 'sixteen letters!', revision = revision + 1 RETURNING revision)
    INSERT INTO outbox (revision, collection, key, patch, time)
    SELECT revision, 'persons', '1', '{\"name\":\"of the one that stopped\"}', 0 FROM fence";

struct Stuck {
    url: String,
    app: App,
    client: Client,
    sent: Vec<Marked>,
}

impl Stuck {
    fn start(url: String) -> Self {
        let app = App::with(|settings| settings.database = url.clone().into());
        let client = app.client();
        let mut stuck = Self { url, app, client, sent: Vec::new() };
        assert_eq!(stuck.post(), Outcome::Done);
        stuck
    }

    fn post(&mut self) -> Outcome {
        let marked = Marked::post(&mut self.client, &format!("mark-{}-", self.sent.len()), &[]);
        let outcome = marked.outcome;
        self.sent.push(marked);
        outcome
    }

    /// Changes what the service knows: one statement, without a look at the record.
    fn patch(&mut self) -> Outcome {
        let marked = Marked::patch(&mut self.client, "/persons/1", &format!("mark-{}-", self.sent.len()));
        let outcome = marked.outcome;
        self.sent.push(marked);
        outcome
    }

    fn assert_agrees(&self) {
        let left = psql(&self.url, "SELECT count(*) FROM outbox WHERE patch LIKE '%stopped%'");
        assert_eq!(left, "0", "what did not end has done nothing");
        assert_agrees(self.app.address, &self.sent);
    }
}

#[test]
fn a_batch_that_stops_before_its_end_is_ended_by_those_who_wait_for_it() {
    let Some(server) = shared_server() else { return };
    let mut stuck = Stuck::start(server.new_database());
    for write in [Stuck::patch, Stuck::post] {
        let mut wire = Wire::connect(&stuck.url, "duality write");
        wire.execute_without_end(BATCH);
        assert_eq!(write(&mut stuck), Outcome::Done);
        assert!(wire.has_ended());
        // Under the lock, after another service has written.
        let mut wire = Wire::connect(&stuck.url, "duality write");
        psql(&stuck.url, "UPDATE metadata SET token = 'sixteen letters.'");
        wire.execute("BEGIN");
        wire.execute(BATCH);
        assert_eq!(write(&mut stuck), Outcome::Done);
        assert!(wire.has_ended());
    }
    stuck.assert_agrees();
}

#[test]
fn maintenance_that_takes_long_is_not_ended_and_others_are_told_to_come_back() {
    let Some(server) = shared_server() else { return };
    let mut stuck = Stuck::start(server.new_database());
    let mut wire = Wire::connect(&stuck.url, "duality maintenance");
    wire.execute("BEGIN");
    wire.execute("SELECT FROM metadata FOR UPDATE");
    for write in [Stuck::patch, Stuck::post] {
        assert_eq!(write(&mut stuck), Outcome::NotDone);
    }
    let refused = stuck.app.post("/persons", r#"{"name":"Eve"}"#);
    refused.problem(503, "locked");
    assert!(refused.header("Retry-After").is_some(), "{refused:?}");
    wire.execute("COMMIT");
    eventually("writes go on", || stuck.post() == Outcome::Done);
    assert!(!wire.has_ended());
    stuck.assert_agrees();
}

#[test]
fn what_a_service_does_beside_commands_is_called_maintenance() {
    let options = ["-c", "fsync=off", "-c", "log_statement=all", "-c", "log_line_prefix=%a|"];
    let Some(server) = PostgresServer::start_for("maintenance of a PostgreSQL database is", &options) else { return };
    let app = App::with(|settings| settings.database = server.new_database().into());
    assert_eq!(app.post("/persons", r#"{"name":"Ann"}"#).status, 201);
    app.prune();
    eventually("pruned", || {
        let log = server.log();
        let deletions = log.lines().filter(|line| line.contains("DELETE")).collect::<Vec<_>>();
        assert!(deletions.iter().all(|line| line.starts_with("duality maintenance|")), "{deletions:?}");
        !deletions.is_empty()
    });
    let batches = server.log();
    assert!(batches.lines().any(|line| line.starts_with("duality write|") && line.contains("WITH fence")));
}

#[test]
fn a_commit_that_waits_for_a_standby_is_not_ended_and_others_are_told_to_come_back() {
    let Some(server) = PostgresServer::start_for("a commit that waits for a standby is", &[]) else { return };
    let url = server.new_database();
    let mut stuck = Stuck::start(url.clone());
    let other = App::with(|settings| settings.database = url.clone().into());
    let stand_by = |names: &str| {
        psql(&url, &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        psql(&url, "SELECT pg_reload_conf()");
    };
    stand_by("nobody");
    let mut client = other.client();
    client.send("POST", "/persons", &[("Content-Type", "application/json")], Some(br#"{"name":"Eve"}"#));
    eventually("it waits for a standby", || {
        psql(&url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == "1"
    });
    for write in [Stuck::patch, Stuck::post] {
        assert_eq!(write(&mut stuck), Outcome::NotDone);
    }
    stand_by("");
    let done = client.response("POST");
    assert_eq!(done.status, 201, "{}", done.text());
    assert_eq!(stuck.post(), Outcome::Done);
    stuck.assert_agrees();
}
