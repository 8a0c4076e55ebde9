//! A program that has a copy of the collections, or of one: it loads them once, follows the broker, and loads them again where
//! it sees that it cannot go on.

use std::collections::BTreeMap;

use duality::{Content, Message};
use serde_json::{Value, json};

use super::broker::MemoryBroker;
use crate::harness::App;

/// A revision, and the part of it.
type Place = (i64, u32);

/// A copy, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    /// One collection, or all.
    only: Option<&'static str>,
    pub(crate) document: Value,
    epoch: String,
    start: Place,
    at: BTreeMap<String, Place>,
    /// The number of the next message.
    next: u64,
    /// By which it knows that the stream is another one than that before.
    starts: usize,
}

/// Messages are missing, or the database was put back.
struct Gap;

impl Consumer {
    pub(crate) fn load(only: Option<&'static str>, app: &App, broker: &MemoryBroker) -> Self {
        let (starts, next) = (broker.starts(), broker.contents().last + 1);
        let response = app.get("/aggregates");
        let mut document = response.json();
        if let Some(name) = only {
            document = json!({ name: document[name] });
        }
        let epoch = response.header("X-Epoch").unwrap().to_owned();
        Self { only, document, epoch, start: (response.revision(), u32::MAX), at: BTreeMap::new(), next, starts }
    }

    /// Reads everything that the broker has. Returns how often the state was loaded.
    pub(crate) fn read(&mut self, app: &App, broker: &MemoryBroker) -> usize {
        let mut loads = 0;
        loop {
            let (starts, contents) = (broker.starts(), broker.contents());
            let next = self.next;
            let mut news = contents.messages.into_iter().filter(|stored| stored.number >= next);
            let outcome = news.try_for_each(|stored| {
                self.next = stored.number + 1;
                let message = stored.message.filter(|message| self.only.is_none_or(|only| message.collection == only));
                message.map_or(Ok(()), |message| self.apply(stored.number, &message))
            });
            if outcome.is_ok() && starts == self.starts {
                return loads;
            }
            *self = Self::load(self.only, app, broker);
            loads += 1;
        }
    }

    fn apply(&mut self, number: u64, message: &Message) -> Result<(), Gap> {
        let (epoch, revision) = epoch_and_number(message);
        if message.content == (Content::CatchUp { first: number }) {
            self.document = json!({});
            self.at.clear();
            epoch.clone_into(&mut self.epoch);
            self.start = (0, 0);
        }
        let at = self.at.get(&message.collection).copied().unwrap_or(self.start);
        if epoch != self.epoch || message.previous.is_some_and(|previous| previous > at.0) {
            return Err(Gap);
        }
        let place = (revision, message.part.number);
        if place > at {
            json_patch::merge(&mut self.document, &patch(message));
            self.at.insert(message.collection.clone(), place);
        }
        Ok(())
    }
}

/// The epoch and the revision, or position, in the id of a message.
pub(super) fn epoch_and_number(message: &Message) -> (&str, i64) {
    let mut parts = message.id.split('.');
    (parts.next().unwrap(), parts.next().unwrap().parse().unwrap())
}

/// What a message changes in the document.
pub(super) fn patch(message: &Message) -> Value {
    let body: Value = serde_json::from_str(&message.body).unwrap();
    let body = message.key.as_ref().map_or_else(|| body.clone(), |key| json!({ key.as_str(): body }));
    json!({ message.collection.as_str(): body })
}
