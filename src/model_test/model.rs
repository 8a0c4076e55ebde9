//! The document, computed independently of the service.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::domain::collection::Registry;
use crate::domain::command::Verb;
use crate::domain::feed::Feed;
use crate::domain::key::CollectionId;

const CITIES: [&str; 3] = ["Rome", "Oslo", "7"];

#[derive(Debug, Clone)]
pub(super) enum Write {
    Create(Option<u8>),
    Move(u8, Option<u8>),
    Marry(u8, Option<u8>),
    Replace(u8),
    Delete(u8),
}

/// The expected document.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    persons: BTreeMap<i64, Map<String, Value>>,
    created: i64,
}

impl Model {
    pub(super) fn document(&self) -> Value {
        let mut locations: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for person in self.persons.values() {
            if let Some(city) = person.get("city").and_then(Value::as_str) {
                let (total, married) = locations.entry(city.to_owned()).or_default();
                *total += 1;
                *married += u64::from(person.contains_key("spouse"));
            }
        }
        let location = |(total, married)| match married {
            0 => json!({ "total": total }),
            married => json!({ "total": total, "married": married }),
        };
        let locations: Map<_, _> = locations.into_iter().map(|(city, counts)| (city, location(counts))).collect();
        let persons: Map<_, _> = self.persons.iter().map(|(id, person)| (id.to_string(), json!(person))).collect();
        json!({"persons": persons, "locations": locations})
    }

    /// Applies the write, and returns its verb, key and body; a deletion has no body.
    pub(super) fn write(&mut self, write: &Write) -> (Option<i64>, Option<(Verb<'_>, Value)>) {
        let city = |city: &Option<u8>| city.map(|city| CITIES[usize::from(city) % CITIES.len()]);
        let (key, verb, body) = match write {
            Write::Create(to) => {
                self.created += 1;
                let body = json!({"name": "x", "city": city(to)});
                self.put(self.created, &body);
                return (None, Some((Verb::Create, body)));
            }
            Write::Move(key, to) => (key, Verb::Patch, json!({ "city": city(to) })),
            Write::Marry(key, to) => (key, Verb::Patch, json!({"spouse": to.map(|to| to + 1)})),
            Write::Replace(key) => (key, Verb::Replace, json!({"name": "y"})),
            Write::Delete(key) => {
                self.persons.remove(&i64::from(*key));
                return (Some(i64::from(*key)), None);
            }
        };
        let key = i64::from(*key);
        if let Some(person) = self.persons.get(&key) {
            let mut state = if verb == Verb::Patch { json!(person) } else { json!({}) };
            json_patch::merge(&mut state, &body);
            self.put(key, &state);
        }
        (Some(key), Some((verb, body)))
    }

    fn put(&mut self, key: i64, body: &Value) {
        let members = body.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        self.persons.insert(key, members.map(|(name, value)| (name.clone(), value.clone())).collect());
    }
}

/// The document as a feed shows it.
pub(super) fn shown(document: &Value, feed: &Feed, registry: &Registry) -> Value {
    let name = |id: CollectionId| registry.get(id).name();
    match feed {
        Feed::Everything(None) => document.clone(),
        Feed::Everything(Some(only)) => {
            only.iter().map(|id| (name(*id).to_owned(), document[name(*id)].clone())).collect::<Map<_, _>>().into()
        }
        Feed::Collection(id, None) => document[name(*id)].clone(),
        Feed::Collection(id, Some(keys)) => {
            let aggregates = document[name(*id)].as_object().unwrap().iter();
            let picked = aggregates.filter(|(key, _)| keys.iter().any(|wanted| wanted == key.as_str()));
            picked.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into()
        }
        Feed::Aggregate(id, key) => document[name(*id)].get(key.as_str()).cloned().unwrap_or(Value::Null),
    }
}
