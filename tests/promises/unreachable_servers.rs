//! A service that does not reach its record says so: it is not ready, and its streams end instead of looking quiet. As soon as
//! it reaches the record again, everything goes on.

use std::time::Duration;

use serde_json::json;

use crate::harness::nats::{self, NatsServer};
use crate::harness::{App, Client, Cluster, Stream, eventually};

const RECORD_TIMEOUT: Duration = Duration::from_millis(500);

fn service(cluster: &Cluster) -> App {
    App::with(|settings| {
        settings.database = cluster.url("shop").into();
        settings.record_timeout = RECORD_TIMEOUT;
        settings.poll_interval = Duration::from_millis(100);
    })
}

/// Reads a stream until it is cut.
fn read_to_the_end(mut stream: Stream) {
    while stream.message().is_some() {}
}

/// The status of `/readyz`, with what it says.
fn readiness(app: &App) -> (u16, String) {
    let response = app.get("/readyz");
    (response.status, response.text().to_owned())
}

/// Everything works, also for a client that was cut.
#[track_caller]
fn assert_goes_on(app: &App, cursor: &str, name: &str) {
    let body = json!({ "name": name }).to_string();
    // On a busy machine, the server may again be silent for longer than it may.
    eventually("it is ready, and writes", || readiness(app).0 == 200 && app.post("/persons", &body).status == 201);
    let mut stream = app.follow(&format!("/person-events?lastEventId={cursor}"), &[]);
    stream.read_until(|text| text.contains(name));
    eventually("it reads", || app.get("/persons").text().contains(name));
}

#[test]
fn while_its_server_is_down_a_service_is_not_ready_and_its_streams_end() {
    let Some(cluster) = Cluster::start() else { return };
    let app = service(&cluster);
    let cursor = app.post("/persons", r#"{"name":"Ann"}"#).cursor();
    let streams = ["/events", "/person-events?key=1", "/journal"].map(|path| app.follow(path, &[]));
    cluster.stop_at_once();
    eventually("it is not ready", || readiness(&app).0 == 503);
    streams.into_iter().for_each(read_to_the_end);
    let (_, reasons) = readiness(&app);
    assert!(reasons.contains("the database server has not answered for too long"), "{reasons}");
    for path in ["/persons", "/persons/1", "/aggregates", "/persons?key=1", "/journal?limit=1", "/events?limit=1"] {
        let answer = app.request("GET", path, &[("Accept", "application/json")], None);
        assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")), "{path}: {}", answer.text());
    }
    // The first one is sent over a connection that was there, and nobody can say what has become of it.
    let unknown = app.post("/persons", r#"{"name":"Zoe"}"#);
    assert!([500, 503].contains(&unknown.status), "{}", unknown.text());
    let refused = app.post("/persons", r#"{"name":"Bob"}"#);
    assert!(refused.status == 503 && refused.header("Retry-After").is_some(), "{}", refused.text());
    cluster.resume();
    assert_goes_on(&app, &cursor, "Eve");
    assert!(!app.get("/persons").text().contains("Bob"), "a 503 says that nothing was done");
}

#[test]
fn a_server_that_only_hangs_is_noticed_as_well() {
    let Some(cluster) = Cluster::start() else { return };
    let app = service(&cluster);
    let cursor = app.post("/persons", r#"{"name":"Ann"}"#).cursor();
    let stream = app.follow("/events", &[]);
    let journal = app.follow("/journal", &[]);
    // Connections stay, and can be made, and nothing comes over them.
    let signal = |name: &str| {
        cluster.run(&format!("server=$(head -1 first/postmaster.pid); kill -{name} $server; pkill -{name} -P $server"));
    };
    signal("STOP");
    [stream, journal].into_iter().for_each(read_to_the_end);
    assert_eq!(readiness(&app).0, 503);
    let mut late = Client::connect(app.address);
    late.send("GET", "/persons", &[], None);
    signal("CONT");
    assert!([200, 503].contains(&late.response("GET").status));
    assert_goes_on(&app, &cursor, "Eve");
}

#[test]
fn a_service_whose_server_was_away_publishes_again() {
    let (Some(cluster), Some(broker)) = (Cluster::start(), NatsServer::start()) else { return };
    let app = App::with(|settings| {
        settings.database = cluster.url("shop").into();
        settings.record_timeout = RECORD_TIMEOUT;
        settings.publish = vec![broker.url().into()];
    });
    let cart = "/carts/00000000-0000-4000-8000-000000000001";
    assert_eq!(app.request("PUT", cart, &[("Content-Type", "application/json")], Some(b"{}")).status, 201);
    nats::check(&broker, app.address);
    for item in ["a book", "a pen"] {
        cluster.stop_at_once();
        eventually("it is not ready", || readiness(&app).0 == 503);
        cluster.resume();
        eventually("it is ready", || readiness(&app).0 == 200);
        let body = json!({ "item": item }).to_string();
        // The first write may find the connection of before.
        eventually("it is written", || app.post(&format!("{cart}/add-item"), &body).status == 200);
        let (changes, journal) = nats::check(&broker, app.address);
        assert!(changes.is_original() && journal.is_original(), "nothing was published again");
    }
}
