//! Checks a whole stream of change events against the state.

use std::collections::{BTreeMap, BTreeSet};

use duality::{Content, Message};
use serde_json::{Value, json};

use super::broker::{Contents, Loss};
use super::consumer::{epoch_and_number, patch};

/// Checks that the messages are complete, in order, without doubles, and make this document.
pub(super) fn check(contents: &Contents, document: &Value, revision: i64) -> Result<(), String> {
    let mut reading = Reading::default();
    let mut before = None;
    for stored in &contents.messages {
        if before.is_some_and(|before| stored.number != before + 1) {
            return Err(format!("messages are missing before {stored:?}"));
        }
        before = Some(stored.number);
        if let Some(message) = &stored.message {
            reading.message(stored.number, message).map_err(|wrong| format!("{wrong}, at {stored:?}"))?;
        }
    }
    if reading.is_catching_up {
        return Err("the catch-up has no end".to_owned());
    }
    if reading.last.map_or(0, |last| last.revision) != revision {
        return Err(format!("the last message is {:?} instead of revision {revision}", reading.last));
    }
    if contents.loss != Loss::Unnoticeable && reading.document != *document {
        return Err(format!("all messages make {} instead of {document}", reading.document));
    }
    Ok(())
}

/// What the messages make, one after another.
#[derive(Default)]
struct Reading<'a> {
    document: Value,
    /// What was there since the begin of the last catch-up.
    parts: BTreeSet<(&'a str, u32)>,
    /// The last message that is not within a catch-up.
    last: Option<Last>,
    /// The last two revisions of each collection.
    heads: BTreeMap<&'a str, Head>,
    is_catching_up: bool,
    /// Whether it has the begin of the stream, or of a catch-up.
    knows_heads: bool,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    revision: i64,
    part: u32,
    of: u32,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    revision: i64,
    before: Option<i64>,
}

impl<'a> Reading<'a> {
    fn message(&mut self, number: u64, message: &'a Message) -> Result<(), String> {
        let (_, revision) = epoch_and_number(message);
        let is_begin = message.content == (Content::CatchUp { first: number });
        if is_begin {
            *self = Self { document: json!({}), is_catching_up: true, knows_heads: true, ..Self::default() };
        }
        if number == 1 {
            self.knows_heads = true;
        }
        if !self.parts.insert((&message.id, message.part.number)) {
            return Err("it was there before".to_owned());
        }
        if message.part.number == 0 || message.part.number > message.part.of {
            return Err("such a part cannot be".to_owned());
        }
        json_patch::merge(&mut self.document, &patch(message));
        match message.content {
            Content::CatchUp { .. } => self.caught_up(revision, message),
            Content::Change => self.changed(revision, message),
            _ => Err("it is no change".to_owned()),
        }
    }

    fn caught_up(&mut self, revision: i64, message: &'a Message) -> Result<(), String> {
        self.follow(revision, message)?;
        let is_end = !message.id.contains(".partial");
        if is_end && message.is_complete() {
            self.is_catching_up = false;
            self.last = Some(Last { revision, part: 1, of: 1 });
        }
        Ok(())
    }

    fn changed(&mut self, revision: i64, message: &'a Message) -> Result<(), String> {
        let part = message.part;
        if self.is_catching_up {
            return Err("a catch-up was left".to_owned());
        }
        let (wanted, of) = match self.last {
            Some(last) if last.part < last.of => ((last.revision, last.part + 1), last.of),
            Some(last) => ((last.revision + 1, 1), part.of),
            None => ((revision, part.number), part.of),
        };
        if (revision, part.number) != wanted || part.of != of {
            return Err(format!("it should be {wanted:?} of {of}"));
        }
        self.last = Some(Last { revision, part: part.number, of });
        self.follow(revision, message)
    }

    /// The message before it about the same collection is the one that it names.
    fn follow(&mut self, revision: i64, message: &'a Message) -> Result<(), String> {
        let head = self.heads.get(message.collection.as_str()).copied();
        let before = match head {
            Some(head) if head.revision == revision => head.before,
            Some(head) => Some(head.revision),
            // Of what was removed, nothing is known.
            None if self.knows_heads => None,
            None => message.previous,
        };
        if message.previous != before {
            return Err(format!("the one before it is {before:?}"));
        }
        self.heads.insert(&message.collection, Head { revision, before });
        Ok(())
    }
}
