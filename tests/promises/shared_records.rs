//! Several services on one `PostgreSQL` database are one service: every write has its place in one order, and every reader
//! of any of them sees it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{App, Client, Random, eventually, long_cases, shared_server};

/// Services with files of their own and this database.
fn services(url: &str, number: usize) -> Vec<App> {
    let start = |_| {
        App::with(|settings| {
            settings.database = url.into();
            settings.poll_interval = Duration::from_millis(20);
        })
    };
    (0..number).map(start).collect()
}

/// A write that was answered.
#[derive(Debug)]
struct Answered {
    revision: i64,
    /// A word that no other write has.
    mark: String,
    /// What a POST has created.
    created: Option<String>,
}

/// A client that writes through one service, and reads through another.
struct Writer<'a> {
    name: u64,
    random: Random,
    here: Client,
    other: &'a App,
    there: Client,
    /// What it has created.
    own: Vec<String>,
    /// That of the last collection it has read.
    tag: String,
    answered: Vec<Answered>,
}

impl<'a> Writer<'a> {
    fn new(name: u64, here: &App, other: &'a App) -> Self {
        let (own, tag, answered) = (Vec::new(), String::new(), Vec::new());
        Self { name, random: Random::new(name), here: here.client(), other, there: other.client(), own, tag, answered }
    }

    /// Writes something that no other write does, and checks that the other service shows it at once.
    fn write(&mut self) {
        let mark = format!("mark-{}-{}-", self.name, self.answered.len());
        let (method, path, body) = match (self.own.is_empty(), self.random.below(4)) {
            (false, 0) => ("PATCH", self.random.one_of(&self.own).clone(), json!({ "city": mark })),
            // All writers have this one, so that the place of a change depends on those of others.
            (_, 1) => ("PUT", "/carts/00000000-0000-4000-8000-000000000001".to_owned(), json!({})),
            (_, 2) => {
                let cart = "/carts/00000000-0000-4000-8000-000000000001/add-item";
                ("POST", cart.to_owned(), json!({ "item": mark }))
            }
            _ => ("POST", "/persons".to_owned(), json!({"name": "Ann", "city": mark})),
        };
        let headers = [("Content-Type", "application/json")];
        let response = self.here.request(method, &path, &headers, Some(body.to_string().as_bytes()));
        match response.status {
            // The cart is open already, or not yet.
            404 | 409 => return,
            200 | 201 | 204 => {}
            status => panic!("{method} {path}: {status} {}", response.text()),
        }
        let revision = response.revision();
        let created = response.header("Location").map(str::to_owned).filter(|_| path == "/persons");
        if path.starts_with("/persons") {
            self.own.extend(created.clone());
            self.see(revision, &mark);
        } else if path.ends_with("add-item") {
            self.see_cart(path.trim_end_matches("/add-item"), revision, &mark);
        } else {
            return;
        }
        self.answered.push(Answered { revision, mark, created });
    }

    /// The other service shows a change of persons at once, also to those who have the state before it.
    fn see(&mut self, revision: i64, mark: &str) {
        let tag = self.tag.clone();
        let headers = [("If-None-Match", tag.as_str())];
        let headers = if tag.is_empty() { &[][..] } else { &headers[..] };
        let read = self.there.request("GET", "/persons", headers, None);
        assert_eq!(read.status, 200, "older than the answer");
        assert!(read.revision() >= revision && read.text().contains(mark), "{mark} is missing");
        self.tag = read.header("ETag").unwrap().to_owned();
    }

    /// It shows a change of a cart, with and without its revision.
    fn see_cart(&mut self, cart: &str, revision: i64, mark: &str) {
        let text = revision.to_string();
        for headers in [&[][..], &[("X-Revision", text.as_str())]] {
            let read = self.there.request("GET", cart, headers, None);
            assert_eq!(read.status, 200, "{}", read.text());
            assert!(read.revision() >= revision && read.text().contains(mark), "{mark} is missing");
        }
        assert!(self.other.get("/aggregates").revision() >= revision);
    }
}

/// All change events, from pages.
fn log(app: &App) -> Vec<Value> {
    let (mut events, mut path) = (Vec::new(), "/events?limit=1000".to_owned());
    loop {
        let page = app.request("GET", &path, &[("Accept", "application/json")], None).json();
        let more: Vec<_> =
            page["events"].as_array().unwrap().iter().filter(|event| event["revision"].is_i64()).cloned().collect();
        if more.is_empty() {
            return events;
        }
        events.extend(more);
        path = format!("/events?limit=1000&lastEventId={}", page["cursor"].as_str().unwrap());
    }
}

/// The record has every answered write once, and no revision is missing.
#[track_caller]
fn assert_recorded(app: &App, answered: &[Answered]) {
    let events = log(app);
    assert!(events.iter().zip(1..).all(|(event, revision)| event["revision"] == revision), "revisions are dense");
    let texts: Vec<_> = events.iter().map(ToString::to_string).collect();
    for Answered { revision, mark, .. } in answered {
        let text = &texts[usize::try_from(*revision).unwrap() - 1];
        assert!(text.contains(mark.as_str()), "{mark} is not at revision {revision}: {text}");
    }
    // A city is a key of the locations as well, and an item stays in its cart.
    let persons: Vec<_> = events.iter().map(|event| event["patch"]["persons"].to_string()).collect();
    for Answered { mark, .. } in answered.iter().filter(|answered| answered.created.is_some()) {
        let times = persons.iter().filter(|patch| patch.contains(mark.as_str())).count();
        assert_eq!(times, 1, "{mark}");
    }
    let created: Vec<_> = answered.iter().filter_map(|answered| answered.created.as_ref()).collect();
    assert_eq!(created.iter().collect::<BTreeSet<_>>().len(), created.len(), "no two POSTs share a key");
}

const END: &str = "The End";

/// Follows a feed from the state at some point to the end, and compares the result with the state at another service.
fn consume(app: &App, other: &App, (state, feed): (&str, &str), over: &AtomicBool) {
    let response = app.get(state);
    let (mut value, from) = (response.json(), response.cursor());
    let mut stream = app.follow(&format!("{feed}?lastEventId={from}"), &[]);
    let mut before = response.revision();
    loop {
        let event = stream.next();
        if let Some(reached) = event.reached() {
            assert!(reached >= before, "in order");
            before = reached;
        }
        json_patch::merge(&mut value, &event.patch());
        if event.data.contains(END) {
            break;
        }
    }
    eventually("all writers have ended", || over.load(Ordering::Acquire));
    assert_eq!(value, other.get(state).json(), "{state}");
}

fn write_through(number: usize) {
    let Some(server) = shared_server() else { return };
    let services = services(&server.new_database(), number);
    let over = AtomicBool::new(false);
    let feeds = [("/persons", "/person-events"), ("/aggregates", "/events"), ("/locations", "/location-events")];
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3 * number)
            .map(|writer| {
                let (here, other) = (&services[writer % number], &services[(writer + 1) % number]);
                scope.spawn(move || {
                    let mut writer = Writer::new(u64::try_from(writer).unwrap(), here, other);
                    (0..long_cases(400)).for_each(|_| writer.write());
                    writer.answered
                })
            })
            .collect();
        let consumers: Vec<_> = (0..2 * number)
            .flat_map(|consumer| feeds.map(|feed| (consumer, feed)))
            .map(|(consumer, feed)| {
                let (here, other) = (&services[consumer % number], &services[(consumer + 1) % number]);
                let over = &over;
                scope.spawn(move || consume(here, other, feed, over))
            })
            .collect();
        let answered: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        services[0].post("/persons", &json!({"name": "last", "city": END}).to_string());
        over.store(true, Ordering::Release);
        consumers.into_iter().for_each(|consumer| consumer.join().unwrap());
        for service in &services {
            assert_recorded(service, &answered);
            assert_eq!(service.get("/aggregates").text(), services[0].get("/aggregates").text());
        }
    });
}

#[test]
fn two_services_write_one_database() {
    write_through(2);
}

#[test]
fn three_services_write_one_database() {
    write_through(3);
}

#[test]
fn a_stream_of_the_journal_shows_what_another_service_has_written() {
    let Some(server) = shared_server() else { return };
    let services = services(&server.new_database(), 2);
    let mut stream = services[1].follow("/journal", &[]);
    let cart = services[0].open_cart();
    for number in 0..3 {
        let item = format!("item-{number}");
        assert_eq!(services[0].add_item(&cart, &item).status, 200);
        stream.read_until(|text| text.contains(&item));
    }
}
