//! A database on a server that is copied, restored, or on a standby that was promoted, goes on in an epoch of its own,
//! and so do the services that were connected to it. Nothing is ever written under the one before.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::engine::psql;
use crate::harness::{App, Client, Cluster, Process, Response, Stream, eventually, output_of};

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

fn epoch_of(cursor: &str) -> &str {
    cursor.split_once('.').unwrap().0
}

/// The epoch in which a service answers, if it does.
fn epoch(process: &Process) -> Option<String> {
    let response = Client::try_get(process.address, "/persons").filter(|response| response.status == 200)?;
    response.header("X-Epoch").map(str::to_owned)
}

/// The same process goes on in another epoch, because its record has lost what the second consumer has seen.
#[track_caller]
fn assert_goes_on(process: &Process, kept: Consumer, lost: Consumer) {
    let before = epoch_of(&kept.1).to_owned();
    eventually("the service goes on", || epoch(process).is_some_and(|epoch| epoch != before));
    let log = process.log();
    for line in ["is another database than the one that this process has opened", "starts again in this process"] {
        assert!(log.contains(line), "{log}");
    }
    let (state, cursor) = load(process);
    assert_eq!(state, kept.0, "what was lost is lost");
    assert_ne!(epoch_of(&cursor), before);
    assert_eq!(post(process, "Eve").status, 201);
    assert_eq!(post(process, "Fay").status, 201);
    let fresh = Client::connect(process.address).request("GET", "/persons", &[], None);
    for (mut state, cursor) in [kept, lost] {
        let mut stream = Stream::open(process.address, "/person-events", &[("Last-Event-ID", &cursor)]);
        stream.follow(&mut state, fresh.revision());
        assert_eq!(state, fresh.json(), "after {cursor}");
    }
}

/// A stream that a service cuts.
struct Cut(Stream);

impl Cut {
    fn of(process: &Process) -> Self {
        let mut stream = Stream::open(process.address, "/person-events", &[]);
        stream.next();
        Self(stream)
    }

    /// Waits for its end, which has no message of another epoch before it.
    #[track_caller]
    fn assert_cut(mut self, before: &str) {
        while let Some(event) = self.0.try_next() {
            assert_eq!(epoch_of(&event.id.unwrap()), before);
        }
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
fn a_service_goes_on_by_itself_after_a_restore_into_its_database() {
    let Some(cluster) = Cluster::start() else { return };
    let directory = crate::harness::directory();
    let url = cluster.url("shop");
    let (process, kept) = process_with_two_persons(&url, directory.path());
    cluster.run(&format!("pg_dump -Fc -f dump '{url}'"));
    assert_eq!(post(&process, "Cid").status, 201);
    assert_eq!(post(&process, "Dan").status, 201);
    let lost = load(&process);
    let (stream, before) = (Cut::of(&process), epoch_of(&kept.1).to_owned());
    // Table by table, while the service looks.
    cluster.run(&format!("pg_restore --clean --if-exists -d '{url}' dump"));
    assert_goes_on(&process, kept, lost);
    stream.assert_cut(&before);
    assert_eq!(cluster.execute("shop", "SELECT count(*) FROM epochs"), "2");
}

#[test]
fn services_go_on_by_themselves_where_the_storage_of_their_server_was_put_back() {
    let Some(cluster) = Cluster::start() else { return };
    let directory = crate::harness::directory();
    let url = cluster.url("shop");
    let (process, kept) = process_with_two_persons(&url, directory.path());
    cluster.run("pg_ctl -D first -m fast -w stop && cp -a first snapshot");
    cluster.resume();
    for name in ["Cid", "Dan"] {
        eventually("the service writes again", || post(&process, name).status == 201);
    }
    let lost = load(&process);
    cluster.stop_at_once();
    cluster.run("rm -rf first && mv snapshot first");
    cluster.resume();
    assert_goes_on(&process, kept, lost);
}

#[test]
fn an_epoch_begins_where_nothing_shows_that_a_server_was_put_back_while_no_service_ran() {
    let Some(cluster) = Cluster::start() else { return };
    let directory = crate::harness::directory();
    let url = cluster.url("shop");
    let (mut process, kept) = process_with_two_persons(&url, directory.path());
    cluster.run("pg_ctl -D first -m fast -w stop && cp -a first snapshot");
    cluster.resume();
    for name in ["Cid", "Dan"] {
        eventually("the service writes again", || post(&process, name).status == 201);
    }
    let lost = load(&process);
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0), "{}", process.log());
    cluster.stop_at_once();
    cluster.run("rm -rf first && mv snapshot first");
    cluster.resume();
    let process = start(&url, directory.path());
    assert_eq!(epoch(&process).as_deref(), Some(epoch_of(&kept.1)), "nothing shows it");
    let (code, said) = output_of(Path::new(&url), &["epoch", "new"]);
    assert!(code == 0 && said.contains(" begins after revision 2; "), "{said}");
    assert_goes_on(&process, kept, lost);
    assert_eq!(cluster.execute("shop", "SELECT count(*) FROM epochs"), "2");
}

#[test]
fn no_epoch_is_begun_by_hand_in_a_file() {
    let directory = crate::harness::directory();
    let file = directory.path().join("shop.db");
    let (code, said) = output_of(&file, &["epoch", "new"]);
    assert!(code == 1 && said.contains("each start of a service begins an epoch"), "{said}");
    assert!(!file.exists());
}

#[test]
fn services_go_on_by_themselves_on_a_promoted_standby_without_the_last_writes() {
    let Some(cluster) = Cluster::start() else { return };
    let [directory, elsewhere] = [crate::harness::directory(), crate::harness::directory()];
    let url = cluster.url_of_both("shop");
    let (process, kept) = process_with_two_persons(&url, directory.path());
    let other = start(&url, elsewhere.path());
    cluster.add_standby();
    cluster.part();
    assert_eq!(post(&process, "Cid").status, 201);
    assert_eq!(post(&other, "Dan").status, 201);
    let lost = load(&other);
    let (streams, before) = ([&process, &other].map(Cut::of), epoch_of(&kept.1).to_owned());
    cluster.fail_over();
    assert_goes_on(&process, kept, lost);
    eventually("both go on in one epoch", || epoch(&other) == epoch(&process));
    streams.into_iter().for_each(|stream| stream.assert_cut(&before));
    assert_eq!(psql(&url, "SELECT count(*) FROM epochs"), "2");
    assert_eq!(post(&other, "Hal").revision(), post(&process, "Ida").revision() - 1);
}
