//! Checks the whole stream of change events against the service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::message::Published;
use super::{get, pages};

/// Checks that the messages are complete, in order, without doubles, and what the service says.
pub(super) fn check(messages: &[Published], service: SocketAddr, revision: i64) -> Result<(), String> {
    let fresh = get(service, "/aggregates", &[]);
    let (document, epoch) = (fresh.json(), fresh.header("X-Epoch").unwrap().to_owned());
    let mut reading = Reading::of(&document);
    let mut rest = messages;
    while let Some(first) = rest.first() {
        let group = rest.chunk_by(|one, other| one.place() == other.place()).next().expect("there is a message");
        rest = &rest[group.len()..];
        reading.group(group).map_err(|wrong| format!("{wrong}, at {first:?}"))?;
    }
    if reading.catch_up.is_some() {
        return Err("the last catch-up has no end".to_owned());
    }
    let last = reading.last.unwrap_or(0);
    if last != revision || fresh.revision() != revision {
        return Err(format!("the last revision is {last} instead of {revision}"));
    }
    if reading.document != document {
        return Err(format!("all messages make {} instead of {document}", reading.document));
    }
    compare(&reading.patches, service, &epoch)
}

/// What the messages make, one group after another.
struct Reading {
    document: Value,
    /// The number of the last message.
    sequence: Option<u64>,
    /// The revisions that were there, within a catch-up or after it.
    places: BTreeSet<(i64, bool)>,
    /// The last revision that is complete.
    last: Option<i64>,
    /// The last revision of each collection that the stream has, and the one before it.
    heads: BTreeMap<String, (i64, Option<i64>)>,
    /// The number of the first message of the catch-up in which it is.
    catch_up: Option<u64>,
    /// What each revision after the catch-up changes.
    patches: BTreeMap<i64, Value>,
}

impl Reading {
    /// Without any event, a document has its collections.
    fn of(document: &Value) -> Self {
        let empty = document.as_object().unwrap().keys().map(|name| (name.clone(), json!({})));
        Self {
            document: Value::Object(empty.collect()),
            sequence: None,
            places: BTreeSet::new(),
            last: None,
            heads: BTreeMap::new(),
            catch_up: None,
            patches: BTreeMap::new(),
        }
    }

    /// Messages of one revision. If the service has stopped in between, the rest have another id.
    fn group(&mut self, group: &[Published]) -> Result<(), String> {
        let first = &group[0];
        let parts: Vec<_> = group.iter().map(|message| message.part).collect();
        let is_numbered = (1..).zip(&parts).all(|(number, part)| number == *part);
        let last = group.last().expect("there is a first one");
        // If the line breaks in the middle of a catch-up, what is missing of a revision may change before it goes on. Then it
        // comes later, as of that change: the document shows whether it does.
        let is_aggregate = first.is_partial && first.key.is_some();
        let is_whole = last.part == last.parts || (first.catch_up.is_some() && is_aggregate);
        if !is_numbered || !is_whole {
            return Err(format!("the parts are {parts:?} of {}", last.parts));
        }
        if group.windows(2).any(|pair| pair[0].id == pair[1].id && pair[0].parts != pair[1].parts) {
            return Err("the number of parts is different in the same id".to_owned());
        }
        if !self.places.insert(first.place()) {
            return Err("the revision was there before".to_owned());
        }
        for message in group {
            if self.sequence.is_some_and(|before| message.sequence != before + 1) {
                return Err(format!("messages are missing before {message:?}"));
            }
            if message.catch_up != first.catch_up {
                return Err(format!("only a part belongs to a catch-up: {message:?}"));
            }
            self.sequence = Some(message.sequence);
            json_patch::merge(&mut self.document, &message.patch());
        }
        match first.catch_up {
            Some(begin) => self.caught_up(group, begin),
            None => self.changed(group),
        }
    }

    /// A part of a catch-up.
    fn caught_up(&mut self, group: &[Published], begin: u64) -> Result<(), String> {
        let first = &group[0];
        self.follows(group)?;
        let null_and_state = || {
            group.chunks(2).all(|pair| {
                // A deleted aggregate stays null.
                pair[0].key == pair.last().unwrap().key && pair[0].body.is_null()
            })
        };
        match self.catch_up {
            None => {
                if first.sequence != begin || self.places.len() > 1 {
                    return Err("a catch-up without its begin, or after other messages".to_owned());
                }
                if first.number != 0 || !first.is_partial || !group.iter().all(|message| message.key.is_none()) {
                    return Err("the begin of a catch-up is another".to_owned());
                }
                if !null_and_state() || !group.chunks(2).all(|pair| pair[1].body == json!({})) {
                    return Err("the begin of a catch-up is not null and {} of each collection".to_owned());
                }
                self.catch_up = Some(begin);
            }
            Some(known) if known != begin => return Err("it belongs to another catch-up".to_owned()),
            Some(_) if first.is_partial => {
                if group.iter().any(|message| message.key.is_none()) {
                    return Err("within a catch-up, messages are about aggregates".to_owned());
                }
            }
            Some(_) => {
                if group.iter().any(|message| message.key.is_some() || message.body != json!({})) {
                    return Err("the end of a catch-up is another".to_owned());
                }
                self.last = Some(first.number);
                self.catch_up = None;
            }
        }
        Ok(())
    }

    /// Each message names the revision before it about its collection.
    fn follows(&mut self, group: &[Published]) -> Result<(), String> {
        for message in group {
            let previous = match self.heads.get(&message.collection) {
                Some((number, previous)) if *number == message.number => *previous,
                head => head.map(|(number, _)| *number),
            };
            if message.previous != previous {
                return Err(format!("the message before it about its collection was {previous:?}: {message:?}"));
            }
            self.heads.insert(message.collection.clone(), (message.number, previous));
        }
        Ok(())
    }

    /// A revision.
    fn changed(&mut self, group: &[Published]) -> Result<(), String> {
        let first = &group[0];
        if self.catch_up.is_some() || first.is_partial {
            return Err("a catch-up was left".to_owned());
        }
        if first.number != self.last.unwrap_or(0) + 1 {
            return Err(format!("the revision before it was {:?}", self.last));
        }
        self.follows(group)?;
        let mut patch = json!({});
        let mut subjects = BTreeSet::new();
        for message in group {
            if !subjects.insert(&message.stored.subject) {
                return Err(format!("two messages of a revision have the same subject: {message:?}"));
            }
            insert(&mut patch, &message.patch());
        }
        self.patches.insert(first.number, patch);
        self.last = Some(first.number);
        Ok(())
    }
}

/// Adds the members of a patch, of which no two are the same, without applying the nulls among them.
fn insert(patch: &mut Value, more: &Value) {
    for (name, value) in more.as_object().unwrap() {
        match patch.get_mut(name) {
            Some(known) if known.is_object() && value.is_object() => insert(known, value),
            _ => patch[name] = value.clone(),
        }
    }
}

/// Checks that each revision changes what the feed of everything says.
fn compare(patches: &BTreeMap<i64, Value>, service: SocketAddr, epoch: &str) -> Result<(), String> {
    let Some(first) = patches.keys().next() else { return Ok(()) };
    // What was pruned is missing there.
    let strict = [("Accept", "application/json"), ("Prefer", "handling=strict")];
    let mut from = first - 1;
    let page = get(service, &format!("/events?limit=1&lastEventId={epoch}.{from}"), &strict);
    if page.status == 410 {
        from = page.json()["oldest"].as_i64().map_or(i64::MAX, |oldest| oldest - 1);
    }
    if from >= *patches.keys().last().expect("there is a first one") {
        return Ok(());
    }
    let events = pages(service, "/events", format!("{epoch}.{from}"));
    // The first one may be the document without any event, which has no revision.
    let events: BTreeMap<_, _> =
        events.iter().filter_map(|event| Some((event["revision"].as_i64()?, &event["patch"]))).collect();
    for (revision, patch) in patches.range(from + 1..) {
        if events.get(revision) != Some(&patch) {
            return Err(format!("revision {revision} is {patch} instead of {:?}", events.get(revision)));
        }
    }
    Ok(())
}
