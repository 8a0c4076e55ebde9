//! Consumers that change the service now and then.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::{Client, Random, Stream, eventually};

/// The city of the last person only.
pub(super) const END: &str = "The End";

/// The item of the last event of the journal.
pub(super) const LAST_ITEM: &str = "The last item";

/// The services, one after the other.
pub(super) struct Hops<'a> {
    pub(super) addresses: &'a [SocketAddr],
    pub(super) at: usize,
    pub(super) random: Random,
}

impl Hops<'_> {
    fn next(&mut self) -> SocketAddr {
        self.at = (self.at + 1) % self.addresses.len();
        self.addresses[self.at]
    }

    /// Opens a stream at the next service that answers, and says how many messages to read there.
    fn follow(&mut self, path: &str) -> (Stream, u64) {
        let mut stream = None;
        eventually("a service opens a stream", || {
            stream = open(self.next(), path);
            stream.is_some()
        });
        (stream.unwrap(), 5 + self.random.below(100))
    }
}

fn open(address: SocketAddr, path: &str) -> Option<Stream> {
    let mut client = Client::try_connect(address)?;
    client.try_send("GET", path, &[], None).ok()?;
    let head = client.head().ok()?;
    (head.status == 200).then(|| Stream::begun(client, head))
}

/// Loads a state, and follows its feed until the end. Returns the state that this makes.
pub(super) fn follow_state(mut hops: Hops<'_>, (state, feed): (&str, &str)) -> Value {
    let mut loaded = None;
    eventually("a service answers", || {
        loaded = Client::try_get(hops.next(), state);
        loaded.is_some()
    });
    let loaded = loaded.unwrap();
    let (mut value, mut cursor, mut reached) = (loaded.json(), loaded.cursor(), loaded.revision());
    // What the end is in may be in a page of a catch-up, which has to be read to its end.
    let mut has_end = false;
    loop {
        let (mut stream, messages) = hops.follow(&format!("{feed}?lastEventId={cursor}"));
        for _ in 0..messages {
            let Some(event) = stream.message() else { break };
            json_patch::merge(&mut value, &event.patch());
            has_end |= event.data.contains(END);
            if let Some(now) = event.reached() {
                assert!(now >= reached, "{feed}: {now} after {reached}");
                reached = now;
                if has_end {
                    return value;
                }
            }
            cursor = event.id.unwrap_or(cursor);
        }
    }
}

/// Follows the journal from its beginning to its end. Returns its events.
pub(super) fn follow_journal(mut hops: Hops<'_>) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    let mut path = "/journal".to_owned();
    loop {
        let (mut stream, messages) = hops.follow(&path);
        for _ in 0..messages {
            let Some(event) = stream.try_next() else { break };
            let number = events.len() + 1;
            assert_eq!(event.revision(), i64::try_from(number).unwrap(), "positions are dense");
            let mut read = event.patch();
            read["kind"] = json!(event.name);
            events.push(read);
            path = format!("/journal?lastEventId={}", event.id.unwrap());
            if event.data.contains(LAST_ITEM) {
                return events;
            }
        }
    }
}

/// All events of the journal, from pages.
pub(super) fn journal(address: SocketAddr) -> Vec<Value> {
    let mut client = Client::connect(address);
    let (mut events, mut path) = (Vec::<Value>::new(), "/journal?limit=1000".to_owned());
    loop {
        let page = client.request("GET", &path, &[("Accept", "application/json")], None).json();
        let more = page["events"].as_array().unwrap();
        if more.is_empty() {
            return events;
        }
        events.extend(more.iter().cloned());
        path = format!("/journal?limit=1000&lastEventId={}", page["cursor"].as_str().unwrap());
    }
}
