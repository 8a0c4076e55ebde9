//! Folding and deriving everything anew, to see whether what is stored and published is what it should be.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::domain::body::Body;
use crate::domain::collection::Registry;
use crate::domain::revision::Version;
use crate::storage::error::StoreError;
use crate::storage::reader::Reader;
use crate::storage::verification::{Checked, Difference};

/// What was found in one collection that follows from something else.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The collection's name.
    pub collection: &'static str,
    /// The aggregates that were looked at.
    pub aggregates: u64,
    /// The domain events that were folded.
    pub events: u64,
    differing: Vec<Difference>,
}

/// Differences that are told, of each collection.
const TOLD: usize = 20;

/// Characters of a state that are told.
const SHOWN: usize = 200;

/// Aggregates that are looked at in one read transaction.
const BATCH: usize = 1000;

impl Verified {
    /// Rows that are not what they follow from.
    #[must_use]
    pub fn differing(&self) -> usize {
        self.differing.len()
    }
}

/// A line for the collection, and one for each difference.
impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { collection, aggregates, events, differing } = self;
        write!(f, "{collection}: {aggregates} aggregates, {events} events, ")?;
        if differing.is_empty() {
            return f.write_str("all as stored");
        }
        write!(f, "{} not as stored", differing.len())?;
        for Difference { key, row, truth } in differing.iter().take(TOLD) {
            write!(f, "\n{collection}/{key}: stored is {}; it should be {}", state(row), state(truth))?;
        }
        if differing.len() > TOLD { write!(f, "\n… and {} more", differing.len() - TOLD) } else { Ok(()) }
    }
}

fn state((version, body): &(Version, Option<Body>)) -> String {
    let text = body.as_ref().map_or("nothing", Body::as_str);
    let shown: String = text.chars().take(SHOWN).collect();
    let cut = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown}{cut} (version {version})")
}

/// Looks at every collection that follows from something else, in a database that a service may be using.
pub(crate) fn verify(database: &Path, registry: &Arc<Registry>) -> Result<Vec<Verified>, StoreError> {
    let mut reader = Reader::open_foreign(database, Arc::clone(registry))?;
    let mut found = Vec::new();
    for id in registry.ids().filter(|id| registry.get(*id).rule() != 0) {
        let is_journaled = registry.get(id).journaled().is_some();
        let mut verified =
            Verified { collection: registry.get(id).name(), aggregates: 0, events: 0, differing: Vec::new() };
        let mut after = None;
        loop {
            let Checked { aggregates, events, differing, last } =
                reader.view(|view| view.check(id, after.as_ref(), BATCH))?;
            verified.aggregates += aggregates;
            verified.events += events;
            verified.differing.extend(differing);
            if !is_journaled || last.is_none() {
                break;
            }
            after = last;
        }
        found.push(verified);
    }
    Ok(found)
}
