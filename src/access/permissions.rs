//! What a token may do: its scopes, looked up in the collections of this service.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::need::{Need, Part, key_in, name_in};
use super::scope::{Extent, Scope};
use crate::domain::collection::Registry;
use crate::domain::key::{CollectionId, Key};

/// What a token may do.
#[derive(Debug)]
pub(crate) struct Permissions {
    read: Reach,
    write: Reach,
    reports: Reports,
    operate: Operation,
    readable: Readable,
}

/// Which collections a caller may read as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readable {
    All,
    /// These, in their order in the document. `tag` is the same for the same collections, and another one for others.
    These {
        collections: Arc<[CollectionId]>,
        tag: Arc<str>,
    },
}

/// Which aggregates a permission reaches.
#[derive(Debug, Default)]
struct Reach {
    everything: bool,
    collections: HashSet<CollectionId>,
    aggregates: BTreeMap<CollectionId, HashSet<Key>>,
}

#[derive(Debug)]
enum Reports {
    All,
    These(HashSet<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Allowed,
    Denied,
}

impl Permissions {
    /// What scopes permit. A scope for a collection that this program does not have permits nothing.
    pub(super) fn of(scopes: &[Scope], registry: &Registry) -> Self {
        let (mut read, mut write) = (Reach::default(), Reach::default());
        let (mut reports, mut operate) = (Reports::These(HashSet::new()), Operation::Denied);
        for scope in scopes {
            match scope {
                Scope::Read(Extent::Reports) => reports = Reports::All,
                Scope::Read(Extent::Report(name)) => reports.add(name),
                Scope::Read(extent) => {
                    read.add(extent, registry);
                    if *extent == Extent::All {
                        reports = Reports::All;
                    }
                }
                Scope::Write(extent) => write.add(extent, registry),
                Scope::Operate => operate = Operation::Allowed,
            }
        }
        let readable = read.readable(registry);
        Self { read, write, reports, operate, readable }
    }

    /// Whether they allow a request with this path.
    pub(super) fn allow(&self, need: Need, path: &str) -> bool {
        match need {
            Need::Open | Need::Token => true,
            Need::Read(Part::Document) => !self.readable.is_empty(),
            Need::Read(Part::Collection(id)) => self.read.has_part_of(id),
            Need::Read(Part::Report) => self.reports.has_in(path),
            Need::Read(Part::Aggregate(id)) => self.read.has_in(id, path),
            Need::Write(Part::Collection(id)) => self.write.has_all_of(id),
            Need::Write(Part::Aggregate(id)) => self.write.has_in(id, path),
            Need::Write(Part::Document | Part::Report) => false,
            Need::Operate => self.operate == Operation::Allowed,
        }
    }

    pub(super) fn may_read(&self, collection: CollectionId, key: &Key) -> bool {
        self.read.has(collection, key)
    }

    pub(super) fn readable(&self) -> &Readable {
        &self.readable
    }
}

impl Readable {
    /// No collection.
    pub(super) fn nothing() -> Self {
        Self::These { collections: Arc::default(), tag: tag(std::iter::empty()) }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::These { collections, .. } if collections.is_empty())
    }

    pub(crate) fn contains(&self, collection: CollectionId) -> bool {
        match self {
            Self::All => true,
            Self::These { collections, .. } => collections.contains(&collection),
        }
    }
}

impl Reach {
    fn add(&mut self, extent: &Extent, registry: &Registry) {
        match extent {
            Extent::All => self.everything = true,
            Extent::Collection(name) => self.collections.extend(registry.id(name)),
            Extent::Aggregate(name, key) => {
                if let Some(id) = registry.id(name) {
                    self.aggregates.entry(id).or_default().insert(key.clone());
                }
            }
            Extent::Reports | Extent::Report(_) => {}
        }
    }

    fn has_all_of(&self, id: CollectionId) -> bool {
        self.everything || self.collections.contains(&id)
    }

    fn has_part_of(&self, id: CollectionId) -> bool {
        self.has_all_of(id) || self.aggregates.contains_key(&id)
    }

    fn has(&self, id: CollectionId, key: &Key) -> bool {
        self.has_all_of(id) || self.aggregates.get(&id).is_some_and(|keys| keys.contains(key))
    }

    fn has_in(&self, id: CollectionId, path: &str) -> bool {
        self.has_all_of(id) || key_in(path).is_some_and(|key| self.has(id, &key))
    }

    fn readable(&self, registry: &Registry) -> Readable {
        let collections: Arc<[_]> = registry.ids().filter(|id| self.has_all_of(*id)).collect();
        if collections.len() == registry.ids().count() {
            return Readable::All;
        }
        let tag = tag(collections.iter().map(|id| registry.get(*id).name()));
        Readable::These { collections, tag }
    }
}

/// Names a set of collections: 8 hexadecimal digits.
fn tag<'a>(names: impl Iterator<Item = &'a str>) -> Arc<str> {
    let mut hash = Sha256::new();
    // No name has a comma in it.
    names.for_each(|name| hash.update(format!("{name},")));
    let digits: String = hash.finalize()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    digits.into()
}

impl Reports {
    fn add(&mut self, name: &str) {
        if let Self::These(names) = self {
            names.insert(name.to_owned());
        }
    }

    fn has_in(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => name_in(path).is_some_and(|name| names.contains(&*name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregates::{Location, Person};

    fn registry() -> Registry {
        let mut registry = Registry::default();
        registry.document::<Person>();
        registry.derived::<Location>();
        registry
    }

    fn permissions(scopes: &str) -> Permissions {
        let scopes: Vec<_> = scopes.split(',').map(|scope| scope.parse().unwrap()).collect();
        Permissions::of(&scopes, &registry())
    }

    #[test]
    fn scopes_allow_what_they_name_and_nothing_else() {
        let [persons, locations] = ["persons", "locations"].map(|name| registry().id(name).unwrap());
        let read = |part| Need::Read(part);
        let requests = [
            (read(Part::Document), "/events"),
            (read(Part::Collection(persons)), "/persons"),
            (read(Part::Aggregate(persons)), "/persons/1"),
            (read(Part::Aggregate(persons)), "/persons/2"),
            (read(Part::Aggregate(persons)), "/persons/%31/events"),
            (read(Part::Aggregate(persons)), "/persons/%ff"),
            (read(Part::Collection(locations)), "/locations"),
            (read(Part::Report), "/reports/a"),
            (read(Part::Report), "/reports/b"),
            (read(Part::Report), "/reports/%62"),
            (Need::Write(Part::Collection(persons)), "/persons"),
            (Need::Write(Part::Aggregate(persons)), "/persons/1"),
            (Need::Operate, "/metrics"),
        ];
        for (scopes, allowed) in [
            ("read", "1111111111000"),
            ("read:persons", "1111110000000"),
            ("read:persons/1", "0110100000000"),
            ("read:locations,read:persons/2", "1101001000000"),
            ("read:reports", "0000000111000"),
            ("read:reports/b", "0000000011000"),
            ("write", "0000000000110"),
            ("write:persons/1", "0000000000010"),
            ("write:locations", "0000000000000"),
            ("operate", "0000000000001"),
            ("read:carrots", "0000000000000"),
        ] {
            let permissions = permissions(scopes);
            let digit = |(need, path): &(Need, &str)| if permissions.allow(*need, path) { '1' } else { '0' };
            assert_eq!(requests.iter().map(digit).collect::<String>(), allowed, "{scopes}");
        }
    }

    #[test]
    fn the_tag_of_what_is_readable_is_the_same_for_the_same_collections_only() {
        let tag = |scopes| match permissions(scopes).readable {
            Readable::All => None,
            Readable::These { tag, .. } => Some(tag),
        };
        assert_eq!(tag("read"), None);
        assert_eq!(tag("read:locations,read:persons"), None, "there are no others");
        assert_eq!(tag("read:persons"), tag("operate,read:persons,read:locations/Rome"));
        assert_ne!(tag("read:persons"), tag("read:locations"));
        assert_eq!(
            tag("operate"),
            Some(match Readable::nothing() {
                Readable::These { tag, .. } => tag,
                Readable::All => unreachable!("nothing is not all"),
            })
        );
    }
}
