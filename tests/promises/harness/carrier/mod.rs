//! A message broker in memory, everything that is in it, and whether that is what the service has.

mod broker;
mod changes;
mod consumer;
mod journal;

use std::time::Instant;

use serde_json::Value;

use super::{App, DEADLINE};

pub(crate) use broker::{Contents, Fault, Loss, MemoryBroker};
pub(crate) use consumer::Consumer;

/// Waits until the change events have passed all checks, and are up to date.
pub(crate) fn await_changes(app: &App, broker: &MemoryBroker) -> Result<Contents, String> {
    let fresh = app.get("/aggregates");
    passing(broker, |contents| changes::check(contents, &fresh.json(), fresh.revision()))
}

/// Waits until the domain events have passed all checks, and are up to date.
pub(crate) fn await_journal(app: &App, broker: &MemoryBroker) -> Result<Contents, String> {
    let events = domain_events(app);
    passing(broker, |contents| journal::check(contents, &events))
}

/// What the broker has, as soon as it passes a check.
fn passing(broker: &MemoryBroker, check: impl Fn(&Contents) -> Result<(), String>) -> Result<Contents, String> {
    let start = Instant::now();
    loop {
        let contents = broker.contents();
        match check(&contents) {
            Ok(()) => return Ok(contents),
            Err(wrong) if start.elapsed() > DEADLINE => return Err(format!("{wrong}: {contents:#?}")),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    }
}

/// All events of the journal, from all pages.
fn domain_events(app: &App) -> Vec<Value> {
    let (mut events, mut path) = (Vec::new(), "/journal".to_owned());
    loop {
        let page = app.request("GET", &path, &[("Accept", "application/json")], None).json();
        let more = page["events"].as_array().unwrap();
        if more.is_empty() {
            return events;
        }
        events.extend(more.iter().cloned());
        path = format!("/journal?lastEventId={}", page["cursor"].as_str().unwrap());
    }
}
