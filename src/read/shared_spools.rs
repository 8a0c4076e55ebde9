//! The bodies on their way to clients: those who ask for the same at the same time read one spool.

use crate::memory::fair_shares::Network;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lru::LruCache;

use super::spool::Spool;
use super::spool_directory::SpoolDirectory;
use super::spool_writer::{PATIENCE, SpoolWriter};
use super::spooled_body::SpooledBody;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Revision;
use crate::memory::budget::MemoryBudget;
use crate::read::collection_writer::Form;

/// The spools that are being written or read.
pub(crate) struct SharedSpools {
    pub(crate) directory: Arc<SpoolDirectory>,
    memory: Arc<MemoryBudget>,
    state: Mutex<State>,
}

struct State {
    open: HashMap<Content, Weak<Spool>>,
    /// `open` is searched for spools that are gone when it has so many.
    sweep_at: usize,
    /// How long bodies were when they were last made, in bytes.
    lengths: LruCache<Content, u64>,
}

/// What a body consists of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Content {
    pub(crate) collections: Vec<CollectionId>,
    /// Of the only collection; `None` for all aggregates.
    pub(crate) keys: Option<Arc<[Key]>>,
    pub(crate) form: Form,
}

/// A body for a client.
pub(crate) enum Opened {
    /// Somebody makes it already, or has made it.
    Shared(SpooledBody),
    /// It has to be made.
    New(SpoolWriter, SpooledBody),
    /// There will be no room for it, as far as is known.
    NoRoom,
}

/// The number of bodies whose lengths are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(64).expect("it is not zero");

impl SharedSpools {
    pub(crate) fn new(directory: Arc<SpoolDirectory>, memory: &Arc<MemoryBudget>) -> Self {
        let state = State { open: HashMap::new(), sweep_at: 64, lengths: LruCache::new(REMEMBERED) };
        Self { directory, memory: Arc::clone(memory), state: Mutex::new(state) }
    }

    /// The body with this content for a client at this address, exact at this change of it or at a later one.
    pub(crate) fn open(&self, content: &Content, changed: Revision, address: Option<Network>) -> Opened {
        let mut state = self.state.lock().expect("nobody panics while holding it");
        if let Some(open) = state.open.get(content).and_then(Weak::upgrade)
            && let Some(reader) = open.join(changed, address)
        {
            return Opened::Shared(SpooledBody::new(open, reader));
        }
        if let Some(length) = state.lengths.get(content)
            && !self.may_fit(*length, address)
        {
            self.directory.refused.add(1);
            return Opened::NoRoom;
        }
        let (writer, body) = self.begin(address, PATIENCE);
        if state.open.len() >= state.sweep_at {
            state.open.retain(|_, spool| spool.strong_count() > 0);
            state.sweep_at = 2 * state.open.len() + 64;
        }
        state.open.insert(content.clone(), writer.downgrade());
        Opened::New(writer, body)
    }

    /// A body for one client, who does not read before it is complete.
    pub(crate) fn private(&self, address: Option<Network>) -> (SpoolWriter, SpooledBody) {
        self.begin(address, Duration::ZERO)
    }

    fn begin(&self, address: Option<Network>, patience: Duration) -> (SpoolWriter, SpooledBody) {
        let spool = Spool::new(&self.directory, &self.memory);
        let reader = spool.enter(address);
        (SpoolWriter::new(&spool, patience), SpooledBody::new(spool, reader))
    }

    /// Remembers how long a body is, or that it is at least so long.
    pub(super) fn note(&self, content: Content, length: u64) {
        self.state.lock().expect("nobody panics while holding it").lengths.put(content, length);
    }

    /// Whether the temporary file of a body of this length has room now. What never has room is tried: a client that
    /// reads as fast as the body is made needs no file.
    fn may_fit(&self, length: u64, address: Option<Network>) -> bool {
        length <= Spool::WINDOW as u64
            || length > self.directory.limits().per_address
            || length <= self.directory.room(address)
    }
}
