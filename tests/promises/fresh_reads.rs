//! Readers of a record that others may write ask the server, and share the question.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::dsl::sql;
use diesel::sql_types::Bool;
use diesel::{Connection as _, PgConnection, RunQueryDsl as _};
use duality::Service;
use duality::aggregates::Person;

use crate::harness::engine::PostgresServer;
use crate::harness::{App, Client, eventually};

/// The number of transactions of readers so far.
fn reads(server: &PostgresServer) -> usize {
    let log = server.log();
    log.lines().filter(|line| line.starts_with("duality read|") && line.contains("BEGIN")).count()
}

#[test]
fn readers_that_come_while_a_question_is_under_way_share_the_next_one() {
    const READERS: usize = 64;
    let options = ["-c", "fsync=off", "-c", "log_statement=all", "-c", "log_line_prefix=%a|"];
    let Some(server) = PostgresServer::start_for("questions of many readers are", &options) else { return };
    let url = server.new_database();
    // The relay asks as well, and so would projections.
    let app = App::serving(
        || Service::new().document::<Person>(),
        |settings| {
            settings.database = url.clone().into();
            settings.poll_interval = Duration::from_secs(3600);
        },
    );
    app.post("/persons", r#"{"name":"Ann"}"#);
    let tag = app.get("/persons").header("ETag").unwrap().to_owned();
    let before = reads(&server);
    let [mut lock, mut look] = [(); 2].map(|()| PgConnection::establish(&url).unwrap());
    let mut waiting = || {
        let waiting = sql::<Bool>("EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')");
        diesel::select(waiting).get_result::<bool>(&mut look).unwrap()
    };
    // A reader waits two seconds for it.
    lock.batch_execute("BEGIN; LOCK TABLE metadata").unwrap();
    let mut clients: Vec<_> = (0..READERS).map(|_| app.client()).collect();
    clients.iter_mut().for_each(|client| client.send("GET", "/persons", &[("If-None-Match", &tag)], None));
    eventually("the first one asks", &mut waiting);
    // Each thread has taken up the requests before these.
    (0..4).for_each(|_| assert_eq!(app.get("/-/nothing").status, 404));
    lock.batch_execute("COMMIT").unwrap();
    for client in &mut clients {
        assert_eq!(client.response("GET").status, 304);
    }
    let asked = reads(&server) - before;
    assert!(asked <= 4, "{asked} questions");
    assert!(Client::connect(app.address).request("GET", "/persons", &[], None).status == 200);
}
