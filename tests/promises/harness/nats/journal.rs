//! Checks the whole stream of domain events against the journal.

use std::collections::BTreeMap;

use serde_json::Value;

use super::message::Published;

/// Checks that the messages are the journal, with what was abandoned on the way.
pub(super) fn check(messages: &[Published], events: &[Value]) -> Result<(), String> {
    let mut reading = Reading::default();
    for message in messages {
        reading.message(message).map_err(|wrong| format!("{wrong}, at {message:?}"))?;
    }
    for (message, event) in reading.valid.iter().zip(events) {
        compare(message, event)?;
    }
    if reading.valid.len() != events.len() {
        return Err(format!("the stream has {} events of {}", reading.valid.len(), events.len()));
    }
    Ok(())
}

#[derive(Default)]
struct Reading<'a> {
    sequence: Option<u64>,
    /// The events that count, by their positions from 1 on.
    valid: Vec<&'a Published>,
    /// The last position of each collection; `None` if it was abandoned, so that the one before it is not known.
    heads: BTreeMap<&'a str, Option<i64>>,
    /// How often a position with this epoch was there.
    ids: BTreeMap<(&'a str, i64), ()>,
}

impl<'a> Reading<'a> {
    fn message(&mut self, message: &'a Published) -> Result<(), String> {
        if self.sequence.is_some_and(|before| message.sequence != before + 1) {
            return Err("messages are missing before it".to_owned());
        }
        self.sequence = Some(message.sequence);
        if (message.part, message.parts) != (1, 1) || message.catch_up.is_some() || message.is_partial {
            return Err("an event is one message".to_owned());
        }
        let after = usize::try_from(message.number).map_err(|error| error.to_string())?;
        if message.is_fork() {
            return self.fork(message, after);
        }
        if after != self.valid.len() + 1 {
            return Err(format!("there are {} events before it", self.valid.len()));
        }
        if self.ids.insert((&message.epoch, message.number), ()).is_some() {
            return Err("its id was there before".to_owned());
        }
        let before = self.heads.insert(&message.collection, Some(message.number)).flatten();
        if message.previous != before {
            return Err(format!("the event before it was {before:?}"));
        }
        self.valid.push(message);
        Ok(())
    }

    /// Everything after a position counts no more.
    fn fork(&mut self, message: &Published, after: usize) -> Result<(), String> {
        if message.collection != "_" || message.key.is_some() {
            return Err("a fork is about everything".to_owned());
        }
        let Some(last) = self.valid.last().filter(|_| after < self.valid.len()) else {
            return Err("a fork abandons nothing".to_owned());
        };
        let body = &message.body;
        let expected = serde_json::json!({
            "epoch": message.epoch,
            "after": message.number,
            "abandoned": {"epoch": last.epoch, "from": message.number + 1, "to": last.number},
        });
        if *body != expected {
            return Err(format!("the body of the fork should be {expected}"));
        }
        for head in self.heads.values_mut() {
            *head = head.filter(|head| *head <= message.number);
        }
        self.valid.truncate(after);
        Ok(())
    }
}

/// A message is an event in the form of the journal.
fn compare(message: &Published, event: &Value) -> Result<(), String> {
    let text = |name: &str| event[name].as_str().map(str::to_owned).unwrap_or_else(|| event[name].to_string());
    let headers = [("Kind", "kind"), ("Schema", "schema"), ("Version", "version")];
    let agrees = message.body == *event
        && event["collection"] == *message.collection
        && event["key"] == *message.key.as_deref().unwrap_or_default()
        && headers.iter().all(|(header, member)| message.stored.header(header) == Some(&text(member)));
    if agrees { Ok(()) } else { Err(format!("{message:?} is not {event}")) }
}
