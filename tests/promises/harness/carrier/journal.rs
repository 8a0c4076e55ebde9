//! Checks a whole stream of domain events against the journal.

use std::collections::BTreeSet;

use duality::{Content, Message};
use serde_json::Value;

use super::broker::{Contents, Loss};
use super::consumer::epoch_and_number;

/// Checks that the messages are the journal, with what was abandoned on the way.
pub(super) fn check(contents: &Contents, events: &[Value]) -> Result<(), String> {
    let mut reading = Reading::default();
    for stored in &contents.messages {
        if let Some(message) = &stored.message {
            reading.message(message).map_err(|wrong| format!("{wrong}, at {stored:?}"))?;
        }
    }
    let first = reading.first.unwrap_or(1);
    if contents.loss == Loss::None && first != 1 {
        return Err(format!("it begins at {first}"));
    }
    let events = events.get(first - 1..).unwrap_or_default();
    for (message, event) in reading.valid.iter().zip(events) {
        let body: Value = serde_json::from_str(&message.body).unwrap();
        if body != *event {
            return Err(format!("{message:?} is not {event}"));
        }
    }
    // What was removed is not known to be missing.
    let is_complete = reading.valid.len() == events.len() || (reading.first.is_none() && contents.loss != Loss::None);
    if is_complete { Ok(()) } else { Err(format!("{} events instead of {}", reading.valid.len(), events.len())) }
}

#[derive(Default)]
struct Reading<'a> {
    /// The position of the first event that is there.
    first: Option<usize>,
    /// The events that count, from the first one on.
    valid: Vec<&'a Message>,
    ids: BTreeSet<&'a str>,
    has_fork: bool,
}

impl<'a> Reading<'a> {
    fn message(&mut self, message: &'a Message) -> Result<(), String> {
        let position = usize::try_from(epoch_and_number(message).1).unwrap();
        match message.content {
            Content::Event { .. } => self.event(position, message),
            Content::Fork => self.fork(position, message),
            _ => Err("it is no domain event".to_owned()),
        }
    }

    fn event(&mut self, position: usize, message: &'a Message) -> Result<(), String> {
        let wanted = *self.first.get_or_insert(position) + self.valid.len();
        if position != wanted {
            return Err(format!("it should be {wanted}"));
        }
        if !self.ids.insert(&message.id) {
            return Err("it was there before".to_owned());
        }
        let before = self.valid.iter().rev().find(|before| before.collection == message.collection);
        let before = before.map(|before| epoch_and_number(before).1);
        // What was removed, or was before a fork, is not named.
        let is_free = before.is_none() && self.first != Some(1) || message.previous.is_none() && self.has_fork;
        if message.previous != before && !is_free {
            return Err(format!("the one before it is {before:?}"));
        }
        self.valid.push(message);
        Ok(())
    }

    /// Everything after a position counts no more.
    fn fork(&mut self, after: usize, message: &'a Message) -> Result<(), String> {
        let body: Value = serde_json::from_str(&message.body).unwrap();
        let abandoned = &body["abandoned"];
        if body["after"] != after || abandoned["from"] != after + 1 || message.collection != "_" {
            return Err("such a fork cannot be".to_owned());
        }
        let first = *self.first.get_or_insert(after + 1);
        if after + 1 < first {
            self.first = Some(after + 1);
        }
        self.valid.truncate((after + 1).saturating_sub(first));
        self.has_fork = true;
        Ok(())
    }
}
