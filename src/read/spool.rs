//! A body between the thread that makes it and the clients that read it, each at a speed of its own.
//!
//! The thread must not wait for the clients, because its read transaction prevents checkpoints of SQLite's log. And memory
//! must not grow with the body. So a body waits in memory only until a little of it is there. When that is full, and not
//! because everybody is about to read the rest anyway, all of it goes to one unlinked file, from which each client is sent
//! what it has not got. The file is gone with its last reader.

use crate::memory::fair_shares::Network;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use actix_web::web::Bytes;

use super::spool_directory::{SpoolDirectory, SpoolFile};
use crate::domain::revision::Revision;
use crate::memory::budget::MemoryBudget;
use crate::read::collection_cache::CollectionRevision;
use crate::storage::error::StoreError;

/// A client that has taken this much of a full window reads as fast as the thread, in bytes. It is more than the kernel
/// takes for a client that does not read.
const LEAD: u64 = 1 << 20;

/// The most that a client is given at a time, in bytes: the framework copies it.
const PIECE: usize = 64 * 1024;

/// A body, of which a part may not be made yet.
pub(crate) struct Spool {
    pub(super) directory: Arc<SpoolDirectory>,
    pub(super) memory: Arc<MemoryBudget>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// The revision at which the body is exact, when that is known.
    pub(super) shown: Option<CollectionRevision>,
    /// What is kept begins at this byte of the body.
    pub(super) begin: u64,
    /// The number of bytes that were made.
    pub(super) end: u64,
    /// What is kept, unless there is a file.
    pub(super) window: VecDeque<Bytes>,
    /// What is kept, from `begin` on.
    pub(super) file: Option<SpoolFile>,
    pub(super) outcome: Option<Outcome>,
    pub(super) readers: BTreeMap<u64, Reader>,
    pub(super) next_reader: u64,
}

/// A client.
pub(super) struct Reader {
    /// It has everything before this byte of the body.
    pub(super) at: u64,
    pub(super) address: Option<Network>,
    waker: Option<Waker>,
}

/// How the making of a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Complete,
    Cut(Cut),
}

/// Why a body is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All its clients had disconnected.
    Abandoned,
    /// The temporary file has no room for it at the moment.
    NoRoom,
    /// The temporary file failed, or the thread has stopped.
    Interrupted,
    /// The database failed.
    Unreadable,
    /// The database file is another one.
    Replaced,
}

/// Why a body was not completed.
#[derive(Debug)]
pub(crate) enum SpoolError {
    /// It is cut, and its clients find out.
    Cut(Cut),
    /// The database failed.
    Store(StoreError),
}

/// What a client gets next.
pub(super) enum Next {
    Chunk(Bytes),
    /// So many bytes of a file, from an offset on.
    Stored {
        file: Arc<File>,
        at: u64,
        length: usize,
    },
    End(Outcome),
}

impl Spool {
    /// How much of one body waits in memory, in bytes.
    pub(super) const WINDOW: usize = 2 << 20;

    /// A new body. The part that waits in memory counts against `memory`.
    pub(super) fn new(directory: &Arc<SpoolDirectory>, memory: &Arc<MemoryBudget>) -> Arc<Self> {
        Arc::new(Self { directory: Arc::clone(directory), memory: Arc::clone(memory), state: Mutex::default() })
    }

    /// The first client, at this address.
    pub(super) fn enter(&self, address: Option<Network>) -> u64 {
        self.state().add_reader(address)
    }

    /// One more client, if the body still begins at its beginning, and shows this change or will do so.
    pub(super) fn join(&self, changed: Revision, address: Option<Network>) -> Option<u64> {
        let mut state = self.state();
        let is_whole = state.begin == 0 && !matches!(state.outcome, Some(Outcome::Cut(_)));
        let is_current = state.shown.is_none_or(|shown| shown.document >= changed);
        (is_whole && is_current).then(|| state.add_reader(address))
    }

    /// The length of the body in bytes, if it is complete.
    pub(super) fn complete_length(&self) -> Option<u64> {
        let state = self.state();
        (state.outcome == Some(Outcome::Complete)).then_some(state.end)
    }

    pub(super) fn shown(&self) -> Option<CollectionRevision> {
        self.state().shown
    }

    /// Waits until the body is complete or cut, or has at least so many bytes.
    pub(super) fn poll_begun(&self, reader: u64, bytes: u64, context: &Context<'_>) -> Poll<Option<Outcome>> {
        let mut state = self.state();
        if state.outcome.is_some() || state.end >= bytes {
            return Poll::Ready(state.outcome);
        }
        state.wait(reader, context)
    }

    /// What a client gets next.
    pub(super) fn poll_next(&self, reader: u64, context: &Context<'_>) -> Poll<Next> {
        let mut state = self.state();
        let Some(at) = state.readers.get(&reader).map(|reader| reader.at) else {
            return Poll::Ready(Next::End(Outcome::Cut(Cut::Abandoned)));
        };
        let next = match (&state.file, state.outcome) {
            // The rest of a body that will not be complete is of no use.
            (_, Some(outcome @ Outcome::Cut(_))) => return Poll::Ready(Next::End(outcome)),
            _ if at == state.end => match state.outcome {
                Some(outcome) => return Poll::Ready(Next::End(outcome)),
                None => return state.wait(reader, context),
            },
            (Some(file), _) => {
                let length = usize::try_from(state.end - at).map_or(PIECE, |rest| rest.min(PIECE));
                Next::Stored { file: Arc::clone(file.file()), at: at - state.begin, length }
            }
            (None, _) => Next::Chunk(state.kept_at(at)),
        };
        let length = match &next {
            Next::Chunk(chunk) => chunk.len(),
            Next::Stored { length, .. } => *length,
            Next::End(_) => 0,
        };
        if let Some(reader) = state.readers.get_mut(&reader) {
            reader.at += length as u64;
        }
        Poll::Ready(next)
    }

    /// A client has disconnected, or has everything.
    pub(super) fn leave(&self, reader: u64) {
        let mut state = self.state();
        state.readers.remove(&reader);
        let State { file: Some(file), readers, .. } = &mut *state else { return };
        // What a client has begun must not count for it while only others read it.
        let heir = readers.values().map(|reader| reader.address).next();
        if let Some(heir) = heir
            && readers.values().all(|reader| reader.address != file.address())
        {
            file.charge_to(heir);
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

impl State {
    fn add_reader(&mut self, address: Option<Network>) -> u64 {
        let reader = self.next_reader;
        self.next_reader += 1;
        self.readers.insert(reader, Reader { at: 0, address, waker: None });
        reader
    }

    fn wait<T>(&mut self, reader: u64, context: &Context<'_>) -> Poll<T> {
        if let Some(reader) = self.readers.get_mut(&reader) {
            reader.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn wake(&mut self) {
        self.readers.values_mut().filter_map(|reader| reader.waker.take()).for_each(Waker::wake);
    }

    /// The next piece of the window for a client that has everything before this byte.
    fn kept_at(&self, at: u64) -> Bytes {
        let mut begin = self.begin;
        for chunk in &self.window {
            let end = begin + chunk.len() as u64;
            if at < end {
                let from = usize::try_from(at - begin).unwrap_or(usize::MAX);
                return chunk.slice(from..chunk.len().min(from + PIECE));
            }
            begin = end;
        }
        Bytes::new()
    }

    /// Drops the chunks that all clients have taken, if all of them have taken much. Nobody can join from then on.
    pub(super) fn drop_taken(&mut self) -> bool {
        let Some(taken) = self.readers.values().map(|reader| reader.at).min() else { return false };
        if taken < self.begin + LEAD {
            return false;
        }
        while let Some(chunk) = self.window.front()
            && self.begin + chunk.len() as u64 <= taken
        {
            self.begin += chunk.len() as u64;
            self.window.pop_front();
        }
        true
    }
}

impl From<StoreError> for SpoolError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
