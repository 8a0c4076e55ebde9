//! A client that writes through whichever service answers, and knows what became of each of its commands.

use std::net::SocketAddr;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::harness::{Client, Random, Response, eventually};

/// What became of a command, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has this revision.
    Done(i64),
    NotDone,
    Unknown,
}

/// A command, and what became of it.
#[derive(Debug)]
pub(super) struct Sent {
    /// What is in it, and in no other one.
    pub(super) mark: String,
    pub(super) outcome: Outcome,
    /// The path of what it has created.
    pub(super) created: Option<String>,
}

/// A command.
struct Write<'a> {
    method: &'a str,
    path: &'a str,
    body: Value,
    /// Whether it can be repeated.
    key: Option<String>,
}

/// The cart of all writers, so that the place of a change depends on those of others.
pub(super) const CART: &str = "/carts/00000000-0000-4000-8000-000000000001";

/// Cities in which somebody lives now and then.
const TOWNS: [&str; 3] = ["Rome", "Oslo", "Łódź"];

/// It writes through one service, and reads through the next one.
pub(super) struct Writer<'a> {
    name: u64,
    random: Random,
    addresses: &'a [SocketAddr],
    here: Option<Client>,
    at: usize,
    /// What it has created, and is still its own.
    own: Vec<String>,
    /// What it has created and does not use any more. It may be erased.
    given: &'a Mutex<Vec<String>>,
    /// That of the last collection it has read.
    tag: String,
    pub(super) sent: Vec<Sent>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(name: u64, addresses: &'a [SocketAddr], given: &'a Mutex<Vec<String>>) -> Self {
        Self {
            name,
            random: Random::new(name),
            addresses,
            here: None,
            at: usize::try_from(name).unwrap() % addresses.len(),
            own: Vec::new(),
            given,
            tag: String::new(),
            sent: Vec::new(),
        }
    }

    /// Sends a command that nobody else sends, and checks that another service shows it at once.
    pub(super) fn write(&mut self) {
        let mark = format!("mark-{}-{}-", self.name, self.sent.len());
        let town = *self.random.one_of(&TOWNS);
        let own = if self.own.is_empty() { None } else { Some(self.random.one_of(&self.own).clone()) };
        let key = (self.random.below(2) == 0).then(|| format!("\"{mark}\""));
        let (method, path, body) = match (own, self.random.below(8)) {
            (Some(path), 0) => ("PATCH", path, json!({ "name": mark, "city": town })),
            (Some(path), 1) => ("PATCH", path, json!({ "name": mark, "city": null })),
            (Some(path), 2) => ("PUT", path, json!({ "name": mark, "city": mark })),
            (Some(path), 3) => return self.give(&path, &mark),
            (_, 4) => ("POST", format!("{CART}/add-item"), json!({ "item": mark })),
            (_, 5) => return self.fill_a_cart(&mark),
            _ => ("POST", "/persons".to_owned(), json!({ "name": mark, "city": town })),
        };
        self.send(&mark, &Write { method, path: &path, body, key });
    }

    /// Sends it until it is answered. Whatever became of it is noted.
    fn send(&mut self, mark: &str, write: &Write<'_>) -> bool {
        let (outcome, created) = self.outcome(write);
        self.sent.push(Sent { mark: mark.to_owned(), outcome, created: created.clone() });
        let Outcome::Done(revision) = outcome else { return false };
        if write.path.starts_with("/persons") {
            self.own.extend(created);
            self.see("/persons", revision, mark);
        } else {
            self.see(write.path.trim_end_matches("/add-item"), revision, mark);
        }
        true
    }

    fn outcome(&mut self, write: &Write<'_>) -> (Outcome, Option<String>) {
        let mut answer = self.try_send(write);
        if matches!(answer, Answer::Unknown) && write.key.is_some() {
            // A repeat tells, whichever service gets it.
            eventually("a repeat is answered", || {
                self.at = (self.at + 1) % self.addresses.len();
                answer = self.try_send(write);
                !matches!(answer, Answer::Unknown) && !matches!(&answer, Answer::Response(found) if found.status == 503)
            });
        }
        let Answer::Response(response) = answer else {
            return (if matches!(answer, Answer::NotSent) { Outcome::NotDone } else { Outcome::Unknown }, None);
        };
        let created = response.header("Location").filter(|_| write.path == "/persons").map(str::to_owned);
        match response.status {
            200 | 201 | 204 => (Outcome::Done(response.revision()), created),
            404 | 409 => (Outcome::NotDone, None),
            // Another service is for writes now.
            503 => {
                self.at = (self.at + 1) % self.addresses.len();
                self.here = None;
                (Outcome::NotDone, None)
            }
            // Only this error is allowed.
            500 if response.text().contains("it is unknown whether") => (Outcome::Unknown, None),
            status => panic!("{} {}: {status} {}", write.method, write.path, response.text()),
        }
    }

    /// Sends it once.
    fn try_send(&mut self, Write { method, path, body, key }: &Write<'_>) -> Answer {
        if self.here.is_none() {
            self.here = Client::try_connect(self.addresses[self.at]);
        }
        let Some(client) = &mut self.here else {
            // That service restarts.
            self.at = (self.at + 1) % self.addresses.len();
            return Answer::NotSent;
        };
        let key = key.as_ref().map(|key| ("Idempotency-Key", key.as_str()));
        let headers: Vec<_> = [("Content-Type", "application/json")].into_iter().chain(key).collect();
        let sent = client.try_send(method, path, &headers, Some(body.to_string().as_bytes()));
        match sent.and_then(|()| client.try_response(method)) {
            Ok(response) => Answer::Response(response),
            Err(_) => {
                self.here = None;
                Answer::Unknown
            }
        }
    }

    /// Another service shows a change at once, also to those who have the state before it.
    fn see(&mut self, path: &str, revision: i64, mark: &str) {
        let next = (self.at + 1) % self.addresses.len();
        let Some(mut there) = Client::try_connect(self.addresses[next]) else { return };
        let tag = if path == "/persons" { self.tag.clone() } else { String::new() };
        let headers = [("If-None-Match", tag.as_str())];
        let headers = if tag.is_empty() { &[][..] } else { &headers[..] };
        let read = there.try_send("GET", path, headers, None).and_then(|()| there.try_response("GET"));
        // It restarts.
        let Ok(read) = read else { return };
        if read.status == 503 {
            return;
        }
        assert_eq!(read.status, 200, "older than the answer: {path} {tag} {}", read.text());
        assert!(read.revision() >= revision && read.text().contains(mark), "{mark} is missing");
        if path == "/persons" {
            self.tag = read.header("ETag").unwrap().to_owned();
        }
    }

    /// Lets others erase a person, or deletes it.
    fn give(&mut self, path: &str, mark: &str) {
        self.own.retain(|own| own != path);
        if self.random.below(2) == 0 {
            self.given.lock().unwrap().push(path.to_owned());
            // It may be erased by then.
            let (outcome, _) = self.outcome(&Write { method: "PATCH", path, body: json!({ "name": mark }), key: None });
            self.sent.push(Sent { mark: mark.to_owned(), outcome, created: None });
        } else {
            self.outcome(&Write { method: "DELETE", path, body: Value::Null, key: None });
        }
    }

    /// Fills a cart of its own, which others may erase then.
    fn fill_a_cart(&mut self, mark: &str) {
        let number = self.sent.len();
        let cart = format!("/carts/00000000-0000-4000-8001-{:04}{number:08}", self.name);
        self.outcome(&Write { method: "PUT", path: &cart, body: json!({}), key: None });
        let path = format!("{cart}/add-item");
        if self.send(mark, &Write { method: "POST", path: &path, body: json!({ "item": mark }), key: None }) {
            self.given.lock().unwrap().push(cart);
        }
    }
}

enum Answer {
    Response(Response),
    /// The connection broke.
    Unknown,
    /// There was none.
    NotSent,
}
