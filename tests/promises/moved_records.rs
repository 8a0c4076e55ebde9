//! A database on a server that is copied, restored, or on a standby that was promoted, goes on in an epoch of its own.
//! Nothing is ever written under the one before.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{App, Client, Cluster, Process, Response, Stream, eventually};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

fn service(url: &str) -> App {
    App::with(|settings| settings.database = url.into())
}

fn person(app: &App, name: &str) {
    let response = app.post("/persons", &json!({ "name": name }).to_string());
    assert_eq!(response.status, 201, "{}", response.text());
}

/// What a consumer has, and the cursor at which it goes on.
type Consumer = (Value, String);

/// The state of persons, with the cursor of their feed.
fn persons(app: &App) -> Consumer {
    app.load("/persons")
}

/// A consumer with this state goes on from this cursor, or is reset, and ends with the state of the service.
#[track_caller]
fn assert_converges(app: &App, (mut state, cursor): Consumer) {
    let fresh = app.get("/persons");
    app.follow("/person-events", &[("Last-Event-ID", &cursor)]).follow(&mut state, fresh.revision());
    assert_eq!(state, fresh.json());
}

/// Whether a consumer goes on from this cursor, without a reset.
fn goes_on(app: &App, cursor: &str) -> bool {
    let page =
        app.request("GET", &format!("/person-events?lastEventId={cursor}"), &[("Accept", "application/json")], None);
    assert_eq!(page.status, 200, "{}", page.text());
    !page.json()["events"].to_string().contains("\"name\":\"Ann\"")
}

/// Both databases go on from a fork, each in its epoch.
fn assert_forked(mut original: App, copy: &str, (before, after): (Consumer, Consumer)) {
    let copied = service(copy);
    original.resume();
    let epoch = |app: &App| app.get("/persons").header("X-Epoch").unwrap().to_owned();
    assert_ne!(epoch(&copied), epoch(&original));
    assert!(after.1.starts_with(&epoch(&original)), "a start begins no epoch where nothing has moved");
    person(&copied, "Cid");
    person(&original, "Dan");
    let (_, later) = persons(&original);
    for (app, consumer) in [(&copied, &before), (&copied, &after), (&original, &before), (&original, &after)] {
        assert!(goes_on(app, &consumer.1));
        assert_converges(app, consumer.clone());
    }
    assert!(!goes_on(&copied, &later), "that revision is another one here");
    assert_converges(&copied, persons(&original));
}

/// A service with two persons, which is stopped; and two consumers.
fn with_two_persons(url: &str) -> (App, (Consumer, Consumer)) {
    let mut app = service(url);
    person(&app, "Ann");
    let before = persons(&app);
    person(&app, "Bob");
    let after = persons(&app);
    app.stop();
    (app, (before, after))
}

#[test]
fn a_copy_of_a_database_by_its_server_goes_on_in_an_epoch_of_its_own() {
    let Some(cluster) = Cluster::start() else { return };
    let (app, consumers) = with_two_persons(&cluster.url("shop"));
    cluster.execute("postgres", "CREATE DATABASE copy TEMPLATE shop");
    assert_forked(app, &cluster.url("copy"), consumers);
}

#[test]
fn a_dump_that_is_restored_elsewhere_goes_on_in_an_epoch_of_its_own() {
    let Some(cluster) = Cluster::start() else { return };
    let (app, consumers) = with_two_persons(&cluster.url("shop"));
    cluster.execute("postgres", "CREATE DATABASE copy TEMPLATE template0");
    cluster.run(&format!("pg_dump '{}' | psql -v ON_ERROR_STOP=1 '{}'", cluster.url("shop"), cluster.url("copy")));
    assert_forked(app, &cluster.url("copy"), consumers);
}

fn post(process: &Process, name: &str) -> Response {
    let body = json!({ "name": name }).to_string();
    Client::connect(process.address).request("POST", "/persons", &JSON, Some(body.as_bytes()))
}

fn start(url: &str, directory: &Path) -> Process {
    let files = directory.join("node");
    Process::start(Path::new(url), &["--files", files.to_str().unwrap(), "--poll-interval", "20ms"])
}

/// The state of persons, and its cursor.
fn load(process: &Process) -> Consumer {
    let response = Client::connect(process.address).request("GET", "/persons", &[], None);
    (response.json(), response.cursor())
}

/// The service ends, because its database has moved back; the next one goes on in an epoch of its own.
#[track_caller]
fn assert_ends_and_begins_an_epoch(mut process: Process, url: &str, directory: &Path, kept: Consumer, lost: Consumer) {
    assert_eq!(process.wait().code(), Some(1), "{}", process.log());
    assert!(
        process.log().contains("is another database than the one that this process has opened"),
        "{}",
        process.log()
    );
    let process = start(url, directory);
    let epoch = |cursor: &str| cursor.split_once('.').unwrap().0.to_owned();
    let (state, cursor) = load(&process);
    assert_eq!(state, kept.0, "what was lost is lost");
    assert_ne!(epoch(&cursor), epoch(&kept.1));
    assert_eq!(post(&process, "Eve").status, 201);
    assert_eq!(post(&process, "Fay").status, 201);
    let fresh = Client::connect(process.address).request("GET", "/persons", &[], None);
    for (mut state, cursor) in [kept, lost] {
        let mut stream = Stream::open(process.address, "/person-events", &[("Last-Event-ID", &cursor)]);
        stream.follow(&mut state, fresh.revision());
        assert_eq!(state, fresh.json(), "after {cursor}");
    }
}

/// A service with two persons, and the consumer that knows them.
fn process_with_two_persons(url: &str, directory: &Path) -> (Process, Consumer) {
    let process = start(url, directory);
    for name in ["Ann", "Bob"] {
        assert_eq!(post(&process, name).status, 201);
    }
    let kept = load(&process);
    (process, kept)
}

#[test]
fn a_restore_into_the_same_database_ends_the_service_and_begins_an_epoch() {
    let Some(cluster) = Cluster::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let url = cluster.url("shop");
    let (process, kept) = process_with_two_persons(&url, directory.path());
    cluster.run(&format!("pg_dump -Fc -f dump '{url}'"));
    assert_eq!(post(&process, "Cid").status, 201);
    assert_eq!(post(&process, "Dan").status, 201);
    let lost = load(&process);
    cluster.run(&format!("pg_restore --clean --if-exists -d '{url}' dump"));
    assert_ends_and_begins_an_epoch(process, &url, directory.path(), kept, lost);
}

#[test]
fn a_promoted_standby_without_the_last_writes_begins_an_epoch() {
    let Some(cluster) = Cluster::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let url = cluster.url_of_both("shop");
    let (process, kept) = process_with_two_persons(&url, directory.path());
    cluster.add_standby();
    cluster.part();
    assert_eq!(post(&process, "Cid").status, 201);
    assert_eq!(post(&process, "Dan").status, 201);
    let lost = load(&process);
    cluster.fail_over();
    eventually("the service notices", || post_or_nothing(&process).is_none_or(|status| status == 503));
    assert_ends_and_begins_an_epoch(process, &url, directory.path(), kept, lost);
}

/// The status of an attempt to write, if the service still answers.
fn post_or_nothing(process: &Process) -> Option<u16> {
    let mut client = std::panic::catch_unwind(|| Client::connect(process.address)).ok()?;
    client.try_send("POST", "/persons", &JSON, Some(br#"{"name":"Gus"}"#)).ok()?;
    client.try_response("POST").ok().map(|response| response.status)
}
