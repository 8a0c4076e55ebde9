//! Change events and domain events in NATS JetStream.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::harness::nats::{CHANGES, CITIES, JOURNAL, NatsServer, Proxy, Writer, check, check_changes, check_journal};
use crate::harness::{App, Client, Process, Random, cases, eventually, kills, output_of};

/// A service in this process that publishes, and looks often whether the stream is as it left it.
fn publishing(url: &str) -> App {
    let url = url.to_owned();
    App::with(|settings| {
        settings.publish = vec![url.into()];
        settings.poll_interval = Duration::from_millis(50);
    })
}

fn process(database: &Path, url: &str) -> Process {
    Process::start(database, &["--publish", url, "--poll-interval", "50ms"])
}

fn write(address: SocketAddr, writer: &mut Writer, times: u32) {
    let mut client = Client::connect(address);
    for _ in 0..times {
        writer.write(&mut client).unwrap();
    }
}

/// A metric of an output.
fn metric(address: SocketAddr, name: &str, output: &str) -> f64 {
    Client::metric(address, &format!("duality_publish_{name}{{output=\"{output}\"}}"))
}

/// What the service says about itself while it is ready for requests and does not do all of its work.
fn degraded(address: SocketAddr) -> String {
    let mut client = Client::connect(address);
    assert_eq!(client.request("GET", "/readyz", &[], None).status, 200);
    let health = client.request("GET", "/healthz", &[], None);
    assert_eq!(health.json()["status"], "degraded");
    health.text().to_owned()
}

#[test]
fn every_key_comes_back_from_its_subject_and_a_restart_publishes_nothing_again() {
    let Some(broker) = NatsServer::start() else { return };
    let mut app = publishing(&broker.url());
    let long = ["x".repeat(512), "😀".repeat(128), ".".repeat(512)];
    let cities: BTreeSet<_> = CITIES.iter().copied().chain(long.iter().map(String::as_str)).collect();
    for city in &cities {
        assert_eq!(app.post("/persons", &json!({ "name": "Ann", "city": city }).to_string()).status, 201);
    }
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    let published = check_changes(&broker, app.address);
    assert!(published.is_original());
    let locations = published.messages.iter().filter(|message| message.collection == "locations");
    assert_eq!(locations.filter_map(|message| message.key.as_deref()).collect::<BTreeSet<_>>(), cities);
    assert_eq!(check_journal(&broker, app.address).messages.len(), 2);

    let ends = [CHANGES, JOURNAL].map(|stream| broker.last_sequence(stream));
    app.restart();
    app.add_item(&cart, "pear");
    assert_eq!(check_changes(&broker, app.address).messages.len(), published.messages.len() + 1);
    assert_eq!(check_journal(&broker, app.address).messages.len(), 3);
    assert_eq!(
        [CHANGES, JOURNAL].map(|stream| broker.last_sequence(stream)),
        ends.map(|(first, last)| (first, last + 1))
    );
}

#[test]
fn writers_do_not_wait_for_a_broker_that_is_away_and_the_service_says_what_is_wrong() {
    let Some(mut broker) = NatsServer::with_password("shop", "s3cret") else { return };
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let service = process(&database, &broker.url());
    let address = service.address;
    let person = |name: u32| {
        let body = json!({ "name": name.to_string() }).to_string();
        let json = [("Content-Type", "application/json")];
        assert_eq!(Client::connect(address).request("POST", "/persons", &json, Some(body.as_bytes())).status, 201);
    };
    person(0);
    check(&broker, address);
    broker.kill();
    (1..=50).for_each(person);
    for output in ["changes", "journal"] {
        eventually("it fails", || metric(address, "failing", output) == 1.0);
        eventually("it tries again", || metric(address, "retries_total", output) > 1.0);
    }
    eventually("an attempt knows of all of them", || metric(address, "lag_events", "changes") == 50.0);
    assert!(metric(address, "lag_seconds", "changes") > 0.0);
    assert_eq!(metric(address, "lag_events", "journal"), 0.0);

    let why = format!("no connection to nats://{}", broker.address);
    let health = degraded(address);
    assert!(health.contains("publish changes: 50 events behind: ") && health.contains(&why), "{health}");
    let (code, listed) = output_of(&database, &["projection", "list"]);
    assert_eq!(code, 0, "{listed}");
    let line = listed.lines().find(|line| line.starts_with("publish changes")).unwrap();
    for expected in ["failing", "50 events", "attempts that failed: ", &why] {
        assert!(line.contains(expected), "{expected} in {line}");
    }

    broker.resume();
    assert!(check_changes(&broker, address).is_original());
    eventually("it does not fail", || {
        metric(address, "failing", "changes") + metric(address, "failing", "journal") == 0.0
    });
    let log = service.log();
    for (expected, times) in [("publish changes: nothing is published: ", 1), ("publish changes: publishing again", 1)]
    {
        assert!(log.matches(expected).count() >= times, "{expected} in {log}");
    }
    assert!(![log, listed].concat().contains("s3cret"));
}

#[test]
fn of_two_services_on_one_stream_the_second_is_refused_until_the_first_is_gone() {
    let Some(broker) = NatsServer::start() else { return };
    let directory = crate::harness::directory();
    let [one, two] = ["one.db", "two.db"].map(|name| directory.path().join(name));
    let mut writer = Writer::new(4);
    let first = process(&one, &broker.url());
    write(first.address, &mut writer, 20);
    check(&broker, first.address);

    let second = process(&two, &broker.url());
    write(second.address, &mut writer, 20);
    for output in ["changes", "journal"] {
        eventually("it is refused", || metric(second.address, "refused", output) == 1.0);
        eventually("it asks again", || metric(second.address, "retries_total", output) > 1.0);
    }
    write(first.address, &mut writer, 20);
    let (changes, journal) = check(&broker, first.address);
    assert!(changes.is_original() && journal.is_original());
    let refusal =
        format!("another service publishes into this stream: the database {}", one.canonicalize().unwrap().display());
    assert!(second.log().contains(&refusal), "{refusal} in {}", second.log());
    let (_, listed) = output_of(&two, &["projection", "list"]);
    let refused = listed.lines().filter(|line| line.starts_with("publish ") && line.contains("refused"));
    assert_eq!(refused.count(), 2, "{listed}");

    first.kill();
    let (changes, _) = check(&broker, second.address);
    assert_eq!(changes.catch_ups(), 1);
    let first = process(&one, &broker.url());
    write(second.address, &mut writer, 20);
    eventually("it is refused", || metric(first.address, "refused", "changes") == 1.0);
    assert_eq!(check(&broker, second.address).0.messages.first(), changes.messages.first());
}

#[test]
fn a_broker_that_is_full_or_frozen_gets_everything_later() {
    let Some(mut broker) = NatsServer::with_limit(64 * 1024) else { return };
    let url = broker.url();
    let app = App::with(|settings| {
        settings.publish = vec![url.into()];
        settings.publish_size = duality::ByteSize::b(0);
        settings.poll_interval = Duration::from_millis(50);
    });
    let mut writer = Writer::new(5);
    eventually("the broker is full", || {
        write(app.address, &mut writer, 20);
        metric(app.address, "failing", "changes") == 1.0
    });
    let health = degraded(app.address);
    assert!(health.contains("publish changes: "), "{health}");
    write(app.address, &mut writer, 20);
    broker.stop();
    broker.resume_with_limit(1 << 30);
    assert!(check(&broker, app.address).0.is_original());

    broker.freeze();
    write(app.address, &mut writer, 20);
    if cases(10) > 1 {
        eventually("it does not answer", || metric(app.address, "failing", "changes") == 1.0);
        write(app.address, &mut writer, 20);
    }
    broker.thaw();
    assert!(check(&broker, app.address).0.is_original());
}

#[test]
fn a_line_that_breaks_in_the_middle_of_messages_loses_none_and_doubles_none() {
    let Some(broker) = NatsServer::start() else { return };
    let proxy = Proxy::start(broker.address);
    let mut app = publishing(&format!("nats://{}", proxy.address));
    let (mut writer, mut random) = (Writer::new(6), Random::new(6));
    for round in 0..kills() {
        proxy.cut_after(usize::try_from(random.below(30_000)).unwrap());
        eventually("it is cut", || {
            write(app.address, &mut writer, 10);
            proxy.has_cut()
        });
        check(&broker, app.address);
        // A catch-up is cut as well.
        app.stop();
        proxy.cut_after(usize::try_from(random.below(10_000)).unwrap());
        broker.purge(CHANGES);
        if round % 2 == 0 {
            broker.purge(JOURNAL);
        }
        app.resume();
        eventually("it is cut", || {
            write(app.address, &mut writer, 1);
            proxy.has_cut()
        });
        assert_eq!(check(&broker, app.address).0.catch_ups(), 1);
    }
}
