//! A private message broker, everything that is in it, and whether that is what the service has.

mod changes;
mod consumer;
mod journal;
mod message;
mod proxy;
mod server;
mod writer;

use std::net::SocketAddr;

use serde_json::Value;

use super::{Client, DEADLINE, Response};

pub(crate) use consumer::{Consumer, Copy};
pub(crate) use message::Published;
pub(crate) use proxy::Proxy;
pub(crate) use server::{NatsServer, Saved};
pub(crate) use writer::{CITIES, Writer};

/// The stream of the change events.
pub(crate) const CHANGES: &str = "duality";

/// The stream of the domain events.
pub(crate) const JOURNAL: &str = "duality-journal";

/// What is in a stream that passed all checks.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) messages: Vec<Published>,
}

impl Checked {
    /// Whether the stream has everything from the first message on that was ever appended to it.
    pub(crate) fn is_original(&self) -> bool {
        self.messages.first().is_none_or(|first| first.sequence == 1)
    }

    pub(crate) fn catch_ups(&self) -> usize {
        self.messages.iter().filter(|message| message.begins_catch_up()).count()
    }
}

/// Waits until both streams have exactly what a service has to which nobody writes meanwhile.
#[track_caller]
pub(crate) fn check(server: &NatsServer, service: SocketAddr) -> (Checked, Checked) {
    (check_changes(server, service), check_journal(server, service))
}

/// Waits until the stream of the change events has passed all checks, and is up to date.
#[track_caller]
pub(crate) fn check_changes(server: &NatsServer, service: SocketAddr) -> Checked {
    let revision = get(service, "/persons", &[]).revision();
    passing(server, CHANGES, service, |messages| changes::check(messages, service, revision))
}

/// Waits until the journal's stream has passed all checks, and is up to date.
#[track_caller]
pub(crate) fn check_journal(server: &NatsServer, service: SocketAddr) -> Checked {
    let events = domain_events(service);
    passing(server, JOURNAL, service, |messages| journal::check(messages, &events))
}

/// What the check returns, as soon as it passes.
#[track_caller]
fn passing(
    server: &NatsServer,
    stream: &str,
    service: SocketAddr,
    check: impl Fn(&[Published]) -> Result<(), String>,
) -> Checked {
    let begin = std::time::Instant::now();
    let mut start = begin;
    let mut last = 0;
    let mut looked_at = None;
    let mut wrong = "nothing was read".to_owned();
    while start.elapsed() < DEADLINE && begin.elapsed() < 10 * DEADLINE {
        let end = server.last_sequence(stream);
        // A stream that has not changed is not read again.
        if looked_at != Some(end) {
            looked_at = Some(end);
            let Some(messages) = server.messages(stream) else {
                looked_at = None;
                wrong = "it has not what it says".to_owned();
                continue;
            };
            let messages: Result<Vec<_>, _> = messages.iter().map(Published::read).collect();
            match messages.and_then(|messages| check(&messages).map(|()| messages)) {
                Ok(messages) => return Checked { messages },
                Err(error) => wrong = error,
            }
            last = end.1;
            // To read and to check a long stream takes a while of its own.
            start = std::time::Instant::now();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let published = get(service, "/metrics", &[]);
    let published: Vec<_> = published.text().lines().filter(|line| line.starts_with("duality_publish")).collect();
    panic!(
        "the stream {stream} with {last} messages: {wrong}; {published:#?}; {}",
        get(service, "/healthz", &[]).text()
    );
}

fn get(service: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    Client::connect(service).request("GET", path, headers, None)
}

/// All events of the journal.
fn domain_events(service: SocketAddr) -> Vec<Value> {
    pages(service, "/journal", String::new())
}

/// All events of a feed after a cursor; an empty one is the beginning. `None` of them may be pruned.
fn pages(service: SocketAddr, feed: &str, mut cursor: String) -> Vec<Value> {
    let mut client = Client::connect(service);
    let mut events = Vec::new();
    loop {
        let path = format!("{feed}?limit=1000&lastEventId={cursor}");
        let page = client.request("GET", &path, &[("Accept", "application/json"), ("Prefer", "handling=strict")], None);
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        let page = page.json();
        let more = page["events"].as_array().unwrap();
        if more.is_empty() {
            return events;
        }
        events.extend(more.iter().cloned());
        cursor = page["cursor"].as_str().unwrap().to_owned();
    }
}

/// Waits until all consumers have what the service has, to which nobody writes meanwhile.
#[track_caller]
pub(crate) fn check_consumers(consumers: &[Consumer], service: SocketAddr) {
    for consumer in consumers {
        let fresh = get(service, consumer.path(), &[]).json();
        let start = std::time::Instant::now();
        while consumer.state() != fresh {
            let copy = consumer.copy();
            assert!(start.elapsed() < DEADLINE, "{} is {copy:?} instead of {fresh}", consumer.path());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}
