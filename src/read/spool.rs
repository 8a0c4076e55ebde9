//! A body between the thread that makes it and the clients that read it, each at a speed of its own.
//!
//! The thread must not wait for the clients, because its read transaction prevents checkpoints of SQLite's log. And memory
//! must not grow with the body. So a body waits in memory only until a little of it is there. When that is full, and not
//! because everybody is about to read the rest anyway, all of it goes to unlinked files, from which each client is sent what
//! it has not got. A file is gone when all clients have passed it.

use crate::memory::fair_shares::Network;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
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
    /// Signalled when a client has taken something, or has gone.
    pub(super) taken: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    /// The revision at which the body is exact, when that is known.
    pub(super) shown: Option<CollectionRevision>,
    /// What is kept begins at this byte of the body.
    pub(super) begin: u64,
    /// The number of bytes that were made.
    pub(super) end: u64,
    /// What is kept, unless there are files.
    pub(super) window: VecDeque<Bytes>,
    /// What is kept, from `begin` on. The last one may have a part that is not written yet.
    pub(super) files: VecDeque<SpoolFile>,
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
        Arc::new(Self {
            directory: Arc::clone(directory),
            memory: Arc::clone(memory),
            state: Mutex::default(),
            taken: Condvar::new(),
        })
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
        if !state.readers.contains_key(&reader) {
            return Poll::Ready(Some(Outcome::Cut(Cut::NoRoom)));
        }
        state.wait(reader, context)
    }

    /// What a client gets next.
    pub(super) fn poll_next(&self, reader: u64, context: &Context<'_>) -> Poll<Next> {
        let mut state = self.state();
        let Some(at) = state.readers.get(&reader).map(|reader| reader.at) else {
            return Poll::Ready(Next::End(Outcome::Cut(Cut::Abandoned)));
        };
        let next = match state.outcome {
            // The rest of a body that will not be complete is of no use.
            Some(outcome @ Outcome::Cut(_)) => return Poll::Ready(Next::End(outcome)),
            Some(outcome) if at == state.end => return Poll::Ready(Next::End(outcome)),
            None if at == state.end => return state.wait(reader, context),
            _ => state.stored_at(at).unwrap_or_else(|| Next::Chunk(state.kept_at(at))),
        };
        let length = match &next {
            Next::Chunk(chunk) => chunk.len(),
            Next::Stored { length, .. } => *length,
            Next::End(_) => 0,
        };
        if let Some(reader) = state.readers.get_mut(&reader) {
            reader.at += length as u64;
        }
        let passed = state.take_passed();
        drop(state);
        self.taken.notify_one();
        // Removing a file may take the disk a while.
        drop(passed);
        Poll::Ready(next)
    }

    /// A client has disconnected, or has everything.
    pub(super) fn leave(&self, reader: u64) {
        let mut state = self.state();
        state.readers.remove(&reader);
        state.pass_on();
        let passed = state.take_passed();
        drop(state);
        self.taken.notify_one();
        drop(passed);
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

    /// What a client has begun must not count for it while only others read it.
    fn pass_on(&mut self) {
        let Self { files, readers, .. } = self;
        let Some(heir) = readers.values().map(|reader| reader.address).next() else { return };
        for file in files {
            if readers.values().all(|reader| reader.address != file.address()) {
                file.charge_to(heir);
            }
        }
    }

    /// The next piece of the files for a client that has everything before this byte.
    fn stored_at(&self, at: u64) -> Option<Next> {
        let mut begin = self.begin;
        for file in &self.files {
            let end = begin + file.length();
            if at < end {
                let rest = end.min(self.end) - at;
                let length = usize::try_from(rest).map_or(PIECE, |rest| rest.min(PIECE));
                return Some(Next::Stored { file: Arc::clone(file.file()), at: at - begin, length });
            }
            begin = end;
        }
        None
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

    /// What the slowest client has: everything before this byte.
    pub(super) fn taken_by_all(&self) -> Option<u64> {
        self.readers.values().map(|reader| reader.at).min()
    }

    /// Drops the chunks that all clients have taken, if all of them have taken much. Nobody can join from then on.
    pub(super) fn drop_taken(&mut self) -> bool {
        let is_much = self.taken_by_all().is_some_and(|taken| taken >= self.begin + LEAD);
        if is_much {
            self.drop_chunks();
        }
        is_much
    }

    /// Drops the chunks that all clients have taken.
    pub(super) fn drop_chunks(&mut self) {
        let Some(taken) = self.taken_by_all() else { return };
        while let Some(chunk) = self.window.front()
            && self.begin + chunk.len() as u64 <= taken
        {
            self.begin += chunk.len() as u64;
            self.window.pop_front();
        }
    }

    /// Removes the files that all clients have passed. Nobody can join from then on.
    fn take_passed(&mut self) -> Vec<SpoolFile> {
        let Some(taken) = self.taken_by_all() else { return Vec::new() };
        let mut passed = Vec::new();
        while self.files.front().is_some_and(|file| self.begin + file.length() <= taken)
            && let Some(file) = self.files.pop_front()
        {
            self.begin += file.length();
            passed.push(file);
        }
        passed
    }

    /// Disconnects the clients that need the first part of what is kept, if others do not. Returns how many.
    pub(super) fn cut_slowest(&mut self) -> usize {
        let first = self.files.front().map(SpoolFile::length).or(self.window.front().map(|chunk| chunk.len() as u64));
        let next = self.begin + first.unwrap_or(0);
        if self.readers.values().all(|reader| reader.at < next) {
            return 0;
        }
        let before = self.readers.len();
        self.readers.retain(|_, reader| {
            let is_slow = reader.at < next;
            if is_slow && let Some(waker) = reader.waker.take() {
                waker.wake();
            }
            !is_slow
        });
        self.pass_on();
        self.drop_chunks();
        drop(self.take_passed());
        before - self.readers.len()
    }
}

impl From<StoreError> for SpoolError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
