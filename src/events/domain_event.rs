//! Domain events as JSON, and as the messages of a stream.

use super::line_safe::escape_separators;
use super::sse::named_event;
use crate::domain::collection::Registry;
use crate::domain::feed::push_member;
use crate::domain::revision::{Epoch, JournalPosition};
use crate::storage::journal::Entry;

/// The id of an event: the cursor of a consumer that has everything up to this position.
pub(crate) fn id(epoch: &Epoch, position: JournalPosition) -> String {
    format!("{epoch}.{position}")
}

/// Events as a stream sends them.
pub(crate) fn frames(registry: &Registry, epoch: &Epoch, entries: &[Entry]) -> String {
    let frame = |entry: &Entry| named_event(&entry.event.kind, &id(epoch, entry.position), &object(registry, entry));
    entries.iter().map(frame).collect()
}

/// `{"position":2,"collection":"carts","key":"…","version":2,"time":"…","kind":"ItemAdded","schema":1,"body":{…},"metadata":{…}}`
///
/// An erased one has an empty body, and `"erased":true`.
pub(crate) fn object(registry: &Registry, entry: &Entry) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let mut object = String::from("{");
    for (name, value) in [
        ("position", entry.position.to_string()),
        ("collection", text(registry.get(entry.collection).name())),
        ("key", text(entry.key.as_str())),
        ("version", entry.version.to_string()),
        ("time", text(&entry.time.to_string())),
        ("kind", text(&entry.event.kind)),
        ("schema", entry.schema.to_string()),
        ("body", entry.event.fields.clone()),
    ]
    .into_iter()
    .chain(entry.is_erased.then(|| ("erased", "true".to_owned())))
    {
        if object.len() > 1 {
            object.push(',');
        }
        push_member(&mut object, name, &value);
    }
    if let Some(metadata) = &entry.metadata {
        object.push(',');
        push_member(&mut object, "metadata", metadata.as_str());
    }
    object.push('}');
    escape_separators(&mut object, 0);
    object
}
