//! What was erased is in no message of NATS JetStream any more, and in no file of its server; consumers go on exactly.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::nats::{
    CHANGES, Consumer, Copy, JOURNAL, NatsServer, Published, check, check_changes, check_consumers,
};
use crate::harness::{App, Client, DEADLINE, Process, eventually, output_of};

/// What is in the data of what is erased, and nowhere else.
const MARKER: &str = "Zanzibar-7319";

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A service in this process that publishes.
fn publishing(broker: &NatsServer) -> App {
    let url = broker.url();
    App::with(|settings| {
        settings.publish = vec![url.into()];
        settings.poll_interval = Duration::from_millis(50);
    })
}

/// Writes with who caused it, which is a part of the past as well.
fn send(service: SocketAddr, method: &str, path: &str, body: &Value) -> String {
    let headers = [JSON, ("X-Correlation-Id", MARKER)];
    let response = Client::connect(service).request(method, path, &headers, Some(body.to_string().as_bytes()));
    assert!(response.status < 300, "{method} {path}: {}", response.text());
    response.header("Location").unwrap_or(path).to_owned()
}

/// A cart and a person with the marker in everything that happened to them, between others.
fn fill(service: SocketAddr) -> [String; 2] {
    let cart = send(service, "POST", "/carts", &json!({}));
    let person = send(service, "POST", "/persons", &json!({"name": MARKER, "city": "Rome"}));
    let others = [
        Client::connect(service).request("POST", "/carts", &[JSON], Some(b"{}")),
        Client::connect(service).request("POST", "/persons", &[JSON], Some(br#"{"name":"Ann","city":"Rome"}"#)),
    ];
    let [other_cart, other_person] = others.map(|other| other.header("Location").unwrap().to_owned());
    for number in 0..30 {
        let item = |text: &str| json!({"item": format!("{text} {number}")});
        send(service, "POST", &format!("{cart}/add-item"), &item(MARKER));
        send(service, "PATCH", &person, &json!({"name": format!("{MARKER} {number}")}));
        for (method, path, body) in [
            ("POST", format!("{other_cart}/add-item"), item("apple")),
            ("PATCH", other_person.clone(), json!({"name": format!("Ann {number}")})),
        ] {
            let body = body.to_string();
            Client::connect(service).request(method, &path, &[JSON], Some(body.as_bytes()));
        }
    }
    [cart, person]
}

fn parts(path: &str) -> (&str, &str) {
    path[1..].split_once('/').unwrap()
}

/// Erases an aggregate. Returns what is pending.
#[track_caller]
fn erase(service: SocketAddr, path: &str) -> Value {
    let (collection, key) = parts(path);
    let body = json!({"collection": collection, "key": key}).to_string();
    let response = Client::connect(service).request("POST", "/-/erase", &[JSON], Some(body.as_bytes()));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["pending"].clone()
}

fn messages(broker: &NatsServer, stream: &str) -> Vec<Published> {
    let mut read = None;
    eventually("the stream is read", || {
        read = broker.messages(stream);
        read.is_some()
    });
    read.unwrap().iter().map(|message| Published::read(message).unwrap()).collect()
}

/// The messages of both streams with the marker.
fn marked(broker: &NatsServer) -> Vec<Published> {
    let all = [CHANGES, JOURNAL].into_iter().flat_map(|stream| messages(broker, stream));
    all.filter(|message| format!("{:?}{}", message.stored.headers, message.body).contains(MARKER)).collect()
}

/// Neither a message nor a file of the server has the marker.
#[track_caller]
fn assert_clean(broker: &NatsServer) {
    assert_eq!((marked(broker), broker.files_with(MARKER)), (Vec::new(), Vec::<PathBuf>::new()));
}

/// The same, at some time soon.
#[track_caller]
fn assert_clean_soon(broker: &NatsServer) {
    // Each message is on the disk of the broker before the next one goes, which takes long while others write there.
    let start = Instant::now();
    while !broker.files_with(MARKER).is_empty() {
        let left = || marked(broker).len();
        assert!(
            start.elapsed() < 3 * DEADLINE,
            "{} messages are left, and files have it: {:?}",
            left(),
            broker.files_with(MARKER)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_clean(broker);
}

/// What all messages make, for whoever had nothing before.
fn replayed(broker: &NatsServer) -> Value {
    let mut document = json!({});
    messages(broker, CHANGES).iter().for_each(|message| json_patch::merge(&mut document, &message.patch()));
    document
}

fn document(service: SocketAddr) -> Value {
    Client::connect(service).request("GET", "/aggregates", &[], None).json()
}

#[test]
fn no_message_and_no_file_of_the_broker_has_anything_of_what_was_erased() {
    let Some(mut broker) = NatsServer::start() else { return };
    let mut app = publishing(&broker);
    let erased = fill(app.address);
    check(&broker, app.address);
    assert!(marked(&broker).len() > 30);
    let paths = ["/aggregates", "/carts", "/persons"];
    let consumers = paths.map(|path| Consumer::start(path, app.address, broker.address, Copy::default()));
    check_consumers(&consumers, app.address);
    for path in &erased {
        assert_eq!(erase(app.address, path), json!([]));
    }
    assert_clean(&broker);
    // Those who had everything do not notice it.
    app.post("/persons", r#"{"name":"Bob"}"#);
    app.command("/carts");
    check_consumers(&consumers, app.address);
    assert_eq!(consumers.each_ref().map(|consumer| consumer.copy().loads), [1; 3]);
    assert_eq!(replayed(&broker), document(app.address));

    // The last messages stay, and the service goes on after them.
    let [changes, journal] = [CHANGES, JOURNAL].map(|stream| messages(&broker, stream));
    for path in &erased {
        let (collection, key) = parts(path);
        let about = |message: &&Published| message.collection == collection && message.key.as_deref() == Some(key);
        let left: Vec<_> = changes.iter().filter(about).map(|message| &message.body).collect();
        assert_eq!(left, [&Value::Null], "{path}");
        let kinds: Vec<_> =
            journal.iter().filter(about).map(|message| message.body["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Erased"].into_iter().filter(|_| collection == "carts").collect::<Vec<_>>());
    }
    let ends = [CHANGES, JOURNAL].map(|stream| broker.last_sequence(stream));
    app.restart();
    app.command("/carts");
    eventually("it is published", || broker.last_sequence(JOURNAL).1 == ends[1].1 + 1);
    eventually("it is published", || broker.last_sequence(CHANGES).1 == ends[0].1 + 1);
    let [before, after] = [changes, messages(&broker, CHANGES)];
    assert_eq!(after[..before.len()], before);
    // What the broker has not written yet, it writes now.
    broker.stop();
    assert_eq!(broker.files_with(MARKER), Vec::<PathBuf>::new());
}

#[test]
fn who_is_behind_sees_that_messages_are_missing_and_becomes_exact() {
    let Some(broker) = NatsServer::start() else { return };
    let app = publishing(&broker);
    let [cart, person] = fill(app.address);
    let paths = ["/aggregates", "/carts", "/persons", "/locations"];
    let copies = paths.map(|path| {
        let consumer = Consumer::start(path, app.address, broker.address, Copy::default());
        check_consumers(std::slice::from_ref(&consumer), app.address);
        consumer.copy()
    });
    // Messages that they will never see.
    app.add_item(&cart, MARKER);
    app.patch(&person, &json!({"name": MARKER, "city": "Zürich"}).to_string());
    app.command("/carts");
    app.post("/persons", r#"{"name":"Bob","city":"Zürich"}"#);
    check(&broker, app.address);
    for path in [&cart, &person] {
        assert_eq!(erase(app.address, path), json!([]));
    }
    let consumers: Vec<_> = (paths.iter().zip(copies))
        .map(|(path, copy)| Consumer::start(path, app.address, broker.address, copy))
        .collect();
    check_consumers(&consumers, app.address);
    let loads: Vec<_> = consumers.iter().map(|consumer| consumer.copy().loads).collect();
    // Nothing is missing about the cities, which follow from persons as after a deletion.
    assert_eq!(loads, [2, 2, 2, 1]);

    // Whoever reads the journal sees it in the same way.
    let journal = messages(&broker, JOURNAL);
    let erased = journal.iter().find(|message| message.body["kind"] == "Erased").unwrap();
    let before = journal.iter().rfind(|message| message.number < erased.number).unwrap();
    assert!(erased.previous.unwrap() >= before.number);
    let first = &journal[0];
    assert!(first.previous.is_some() && first.key.as_deref() != Some(parts(&cart).1), "{first:?}");
}

#[test]
fn what_was_erased_while_the_broker_was_away_goes_when_it_is_back() {
    let Some(mut broker) = NatsServer::start() else { return };
    let app = publishing(&broker);
    let erased = fill(app.address);
    check(&broker, app.address);
    broker.kill();
    for path in &erased {
        assert_eq!(erase(app.address, path), json!(["publish changes", "publish journal"]));
    }
    assert!(!broker.files_with(MARKER).is_empty());
    broker.resume();
    assert_clean_soon(&broker);
    app.post("/persons", r#"{"name":"Bob"}"#);
    eventually("everything is published", || replayed(&broker) == document(app.address));
}

#[test]
fn a_catch_up_replaces_nothing_that_was_erased_before_it_is_overwritten() {
    let Some(mut broker) = NatsServer::start() else { return };
    let app = publishing(&broker);
    let [cart, person] = fill(app.address);
    check(&broker, app.address);
    let consumers =
        ["/aggregates", "/carts"].map(|path| Consumer::start(path, app.address, broker.address, Copy::default()));
    check_consumers(&consumers, app.address);
    broker.kill();
    for path in [&cart, &person] {
        erase(app.address, path);
    }
    app.prune_everything();
    broker.resume();
    eventually("the stream is another one", || {
        broker.last_sequence(CHANGES).0 > 1 && messages(&broker, CHANGES)[0].begins_catch_up()
    });
    assert_eq!(check_changes(&broker, app.address).catch_ups(), 1);
    assert_clean_soon(&broker);
    check_consumers(&consumers, app.address);
}

fn process(database: &Path, broker: &NatsServer) -> Process {
    Process::start(database, &["--publish", &broker.url(), "--poll-interval", "50ms"])
}

#[test]
fn what_a_killed_service_has_not_removed_the_next_one_removes() {
    let Some(mut broker) = NatsServer::start() else { return };
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let service = process(&database, &broker);
    let erased = fill(service.address);
    check(&broker, service.address);
    // The messages that say so are stored, and none of the others can be removed.
    broker.stop();
    broker.resume_without("$JS.API.STREAM.MSG.DELETE.>");
    for path in &erased {
        assert_eq!(erase(service.address, path), json!(["publish changes", "publish journal"]));
    }
    eventually("they are published", || replayed(&broker) == document(service.address));
    assert!(marked(&broker).len() > 30);
    let why = "erased aggregates are not removed: ";
    eventually("the health says why", || {
        let health = Client::connect(service.address).request("GET", "/healthz", &[], None);
        health.text().contains(&format!("publish changes: {why}"))
    });
    eventually("the list says why", || {
        let (_, listed) = output_of(&database, &["projection", "list"]);
        listed.lines().any(|line| line.starts_with("publish journal") && line.contains(why))
    });
    // Other publishing goes on.
    send(service.address, "POST", "/persons", &json!({"name": "Bob"}));
    eventually("it is published", || replayed(&broker) == document(service.address));
    service.kill();
    broker.stop();
    broker.resume();

    let service = process(&database, &broker);
    eventually("nothing is left", || marked(&broker).is_empty());
    assert_clean_soon(&broker);
    assert_eq!(replayed(&broker), document(service.address));
}

#[test]
fn what_was_erased_while_no_service_ran_goes_at_the_next_start() {
    let Some(broker) = NatsServer::start() else { return };
    let mut app = publishing(&broker);
    let erased = fill(app.address);
    check(&broker, app.address);
    app.stop();
    for path in &erased {
        let (collection, key) = parts(path);
        let (code, said) = output_of(app.database(), &["erase", collection, key]);
        assert_eq!(code, 0, "{said}");
    }
    assert!(marked(&broker).len() > 30);
    app.resume();
    assert_clean_soon(&broker);
    assert_eq!(replayed(&broker), document(app.address));
}
