//! The end of a spool for the thread that makes the body.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix_web::web::Bytes;

use super::spool::{Cut, Outcome, Spool, SpoolError, State};
use super::spool_directory::{SpoolFile, SpoolRefusal};
use crate::memory::fair_shares::Network;
use crate::read::collection_cache::CollectionRevision;

/// The end for the thread. If it is dropped unfinished, the responses are cut.
pub(crate) struct SpoolWriter {
    pub(super) spool: Arc<Spool>,
    /// How long it may still wait for clients.
    patience: Duration,
}

/// How long a thread waits in all for the clients of a body that has no room. Meanwhile its read transaction prevents
/// checkpoints.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long it waits for a client that takes nothing.
const STALL: Duration = Duration::from_secs(1);

impl SpoolWriter {
    /// Notes at which revision the body will be exact. Returns whether anybody still waits for it.
    pub(super) fn begin(&self, shown: CollectionRevision) -> bool {
        let mut state = self.spool.state();
        state.shown = Some(shown);
        !self.is_abandoned(&mut state)
    }

    /// The end of this spool, which waits so long in all for clients when there is no room.
    pub(super) fn new(spool: &Arc<Spool>, patience: Duration) -> Self {
        Self { spool: Arc::clone(spool), patience }
    }

    pub(super) fn downgrade(&self) -> Weak<Spool> {
        Arc::downgrade(&self.spool)
    }

    /// Adds a chunk. Where there is no room, waits a short time for clients that read.
    pub(crate) fn push(&mut self, mut chunk: Vec<u8>) -> Result<(), SpoolError> {
        loop {
            let mut state = self.spool.state();
            if self.is_abandoned(&mut state) {
                return Err(SpoolError::Cut(Cut::Abandoned));
            }
            let kept = if state.files.is_empty() { self.keep(&mut state, chunk) } else { Err(chunk) };
            let begin = state.begin;
            drop(state);
            let Err(given_back) = kept else { return Ok(()) };
            chunk = given_back;
            let why = match self.store(&chunk) {
                Ok(()) => return Ok(()),
                Err(SpoolRefusal::NoRoom) if self.make_room(begin) => continue,
                Err(SpoolRefusal::NoRoom) => Cut::NoRoom,
                Err(SpoolRefusal::Failed) => Cut::Interrupted,
            };
            self.cut(why);
            return Err(SpoolError::Cut(why));
        }
    }

    /// Completes the body.
    pub(crate) fn finish(self) {
        if !self.spool.state().files.is_empty() {
            self.spool.directory.recover();
        }
        self.end(Outcome::Complete);
    }

    /// The body cannot be completed.
    pub(crate) fn cut(&self, why: Cut) {
        if why == Cut::NoRoom {
            self.spool.directory.refused.add(1);
        }
        self.end(Outcome::Cut(why));
    }

    /// Writes a chunk into a file, which gets the window first. Nobody else adds to what is kept meanwhile, and no lock is
    /// held while the disk may be slow.
    fn store(&self, chunk: &[u8]) -> Result<(), SpoolRefusal> {
        let mut state = self.spool.state();
        let last = state.files.back_mut().filter(|file| !file.is_full());
        let mut files = Vec::new();
        if let Some(Ok(gap)) = last.map(|file| file.extend(chunk.len())) {
            drop(state);
            gap.fill(chunk)?;
        } else {
            let window = state.window.clone();
            let mut addresses: Vec<_> = state.readers.values().map(|reader| reader.address).collect();
            drop(state);
            let mut seen = HashSet::new();
            addresses.retain(|address| seen.insert(*address));
            for bytes in window.iter().map(|bytes| &bytes[..]).chain([chunk]) {
                self.append(&mut files, bytes, &addresses)?;
            }
        }
        let mut state = self.spool.state();
        state.window.clear();
        state.files.extend(files);
        state.end += chunk.len() as u64;
        state.wake();
        Ok(())
    }

    /// Writes bytes at the end of the last one of some new files, or into one more, which counts for the first address that
    /// has room.
    fn append(
        &self,
        files: &mut Vec<SpoolFile>,
        bytes: &[u8],
        addresses: &[Option<Network>],
    ) -> Result<(), SpoolRefusal> {
        let last = files.last_mut().filter(|file| !file.is_full());
        if let Some(Ok(gap)) = last.map(|file| file.extend(bytes.len())) {
            return gap.fill(bytes);
        }
        let room = |address: &&Option<Network>| self.spool.directory.room(**address) >= bytes.len() as u64;
        for address in addresses.iter().filter(room) {
            let mut file = self.spool.directory.create(*address)?;
            if let Ok(gap) = file.extend(bytes.len()) {
                files.push(file);
                return gap.fill(bytes);
            }
        }
        Err(SpoolRefusal::NoRoom)
    }

    /// Waits until all clients have taken the first part of what was kept from `begin` on, or until some stall, who are
    /// disconnected then. Returns whether there is more room now.
    fn make_room(&mut self, begin: u64) -> bool {
        let mut state = self.spool.state();
        loop {
            state.drop_chunks();
            let Some(taken) = state.taken_by_all() else { return true };
            if state.begin > begin {
                return true;
            }
            if state.begin == state.end {
                return false;
            }
            let (limit, start) = (self.patience.min(STALL), Instant::now());
            let waited = self.spool.taken.wait_timeout_while(state, limit, |state| state.taken_by_all() == Some(taken));
            let timeout;
            (state, timeout) = waited.expect("nobody panics while holding it");
            self.patience = self.patience.saturating_sub(start.elapsed());
            if timeout.timed_out() {
                break;
            }
        }
        let cut = state.cut_slowest();
        self.spool.directory.refused.add(cut as u64);
        cut > 0
    }

    /// Whether nobody is left who reads it; nobody can join from then on.
    fn is_abandoned(&self, state: &mut State) -> bool {
        let is_abandoned = state.readers.is_empty();
        if is_abandoned {
            state.outcome.get_or_insert(Outcome::Cut(Cut::Abandoned));
        }
        is_abandoned
    }

    fn end(&self, outcome: Outcome) {
        let mut state = self.spool.state();
        if let Outcome::Cut(_) = state.outcome.get_or_insert(outcome) {
            // A client that does not read must not keep what is of no use to it.
            state.window.clear();
            state.files.clear();
        }
        state.wake();
    }

    /// Puts a chunk into the window. Gives it back if the window is full, or there is no memory for it.
    fn keep(&self, state: &mut State, chunk: Vec<u8>) -> Result<(), Vec<u8>> {
        let kept: usize = state.window.iter().map(Bytes::len).sum();
        if kept + chunk.len() > Spool::WINDOW && !state.drop_taken() {
            return Err(chunk);
        }
        // The other half is for what is made as a whole.
        if self.spool.memory.free() < self.spool.memory.limit() / 2 + chunk.len() {
            return Err(chunk);
        }
        let (mut reservation, length) = (self.spool.memory.reservation(), chunk.len());
        if reservation.resize(length).is_err() {
            return Err(chunk);
        }
        state.window.push_back(Arc::new(reservation.hold(chunk)).share());
        state.end += length as u64;
        state.wake();
        Ok(())
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        self.end(Outcome::Cut(Cut::Interrupted));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use actix_web::body::MessageBody as _;

    use super::*;
    use crate::domain::revision::Revision;
    use crate::memory::budget::MemoryBudget;
    use crate::memory::fair_shares::Network;
    use crate::read::spool_directory::SpoolDirectory;
    use crate::read::spool_directory::SpoolLimits;
    use crate::read::spooled_body::SpooledBody;
    use crate::storage::database::Database;

    const CHUNK: usize = 64 * 1024;
    const LIMITS: SpoolLimits = SpoolLimits { total: u64::MAX, per_address: u64::MAX, min_free: 0 };

    struct Bench {
        _directory: tempfile::TempDir,
        spools: Arc<SpoolDirectory>,
        memory: Arc<MemoryBudget>,
    }

    impl Bench {
        fn new(limits: SpoolLimits, memory: usize) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let database = Arc::new(Database::open(&directory.path().join("test.db")).unwrap());
            let spools = SpoolDirectory::new(None, limits, &database);
            Self { _directory: directory, spools, memory: MemoryBudget::new(memory) }
        }

        fn open(&self) -> (SpoolWriter, SpooledBody) {
            self.open_with(Duration::ZERO)
        }

        fn open_with(&self, patience: Duration) -> (SpoolWriter, SpooledBody) {
            let spool = Spool::new(&self.spools, &self.memory);
            let reader = spool.enter(address(1));
            (SpoolWriter::new(&spool, patience), SpooledBody::new(spool, reader))
        }
    }

    fn first_of(writer: &SpoolWriter) -> Arc<Spool> {
        Arc::clone(&writer.spool)
    }

    fn join(writer: &SpoolWriter, changed: i64, address: Option<Network>) -> Option<SpooledBody> {
        let reader = writer.spool.join(Revision::from_raw(changed), address)?;
        Some(SpooledBody::new(first_of(writer), reader))
    }

    fn address(last: u8) -> Option<Network> {
        Some(Network::from(std::net::IpAddr::from([127, 0, 0, last])))
    }

    fn chunk(number: usize) -> Vec<u8> {
        vec![u8::try_from(number % 251).unwrap(); CHUNK]
    }

    fn text(chunks: usize) -> Vec<u8> {
        (0..chunks).flat_map(chunk).collect()
    }

    fn shown(document: i64) -> CollectionRevision {
        let document = Revision::from_raw(document);
        CollectionRevision { document, changed: document }
    }

    /// Everything that is left of a body; `None` if it is cut.
    async fn rest(mut body: SpooledBody) -> Option<Vec<u8>> {
        let mut received = Vec::new();
        while let Some(bytes) = poll_fn(|context| Pin::new(&mut body).poll_next(context)).await {
            received.extend_from_slice(&bytes.ok()?);
        }
        Some(received)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        actix_web::rt::System::new().block_on(future)
    }

    #[test]
    fn a_body_that_is_cut_before_its_first_piece_is_an_error_that_can_be_answered() {
        let bench = Bench::new(LIMITS, 64 << 20);
        block_on(async {
            for why in [Cut::Interrupted, Cut::NoRoom, Cut::Unreadable] {
                let (mut writer, mut body) = bench.open();
                assert!(writer.begin(shown(1)));
                writer.push(chunk(0)).unwrap();
                assert!(body.begun().await.is_ok_and(|shown| shown.is_some()), "a part of it is there");
                writer.cut(why);
                assert_eq!(body.fetch_first().await, Err(why));
            }
        });
    }

    #[test]
    fn a_first_piece_that_was_fetched_is_sent_once() {
        let bench = Bench::new(LIMITS, 64 << 20);
        block_on(async {
            for chunks in 0..4 {
                let (mut writer, mut body) = bench.open();
                (0..chunks).for_each(|number| writer.push(chunk(number)).unwrap());
                if chunks < 2 {
                    writer.finish();
                    body.fetch_first().await.unwrap();
                } else {
                    body.fetch_first().await.unwrap();
                    writer.finish();
                }
                assert!(rest(body).await.unwrap() == text(chunks), "{chunks}");
            }
        });
    }

    #[test]
    fn clients_that_do_not_read_share_one_file_which_is_gone_with_the_last_of_them() {
        const CHUNKS: usize = 100;
        let bench = Bench::new(LIMITS, 64 << 20);
        let (mut writer, first) = bench.open();
        assert!(writer.begin(shown(5)));
        let mut second = None;
        for number in 0..CHUNKS {
            writer.push(chunk(number)).unwrap();
            let stored = if number < Spool::WINDOW / CHUNK { 0 } else { (number + 1) * CHUNK };
            assert_eq!(bench.spools.bytes(), stored as u64, "after {number}");
            if number == CHUNKS / 2 {
                second = join(&writer, 5, address(2));
            }
        }
        assert_eq!(bench.memory.used(), 0, "a file has all of it");
        writer.finish();
        assert!(block_on(rest(first)) == Some(text(CHUNKS)));
        assert_eq!(bench.spools.bytes(), (CHUNKS * CHUNK) as u64, "the other client has not read it");
        assert!(block_on(rest(second.unwrap())) == Some(text(CHUNKS)));
        assert_eq!(bench.spools.bytes(), 0);
    }

    #[test]
    fn a_client_that_reads_as_fast_as_the_body_is_made_needs_no_file_and_little_memory() {
        const CHUNKS: usize = 100;
        let bench = Bench::new(LIMITS, 64 << 20);
        let (mut writer, mut body) = bench.open();
        let spool = first_of(&writer);
        let received = block_on(async {
            let mut received = Vec::new();
            for number in 0..CHUNKS {
                writer.push(chunk(number)).unwrap();
                let piece = poll_fn(|context| Pin::new(&mut body).poll_next(context)).await;
                received.extend_from_slice(&piece.unwrap().unwrap());
                assert!(bench.memory.used() <= Spool::WINDOW && bench.spools.bytes() == 0, "{number}");
            }
            writer.finish();
            received.extend(rest(body).await.unwrap());
            received
        });
        assert!(received == text(CHUNKS));
        assert!(spool.join(Revision::ZERO, None).is_none(), "its beginning is gone");
    }

    #[test]
    fn a_body_is_shared_if_it_shows_the_last_change_or_has_not_begun() {
        let bench = Bench::new(LIMITS, 64 << 20);
        let (mut writer, _body) = bench.open();
        let spool = first_of(&writer);
        let joins = |changed| spool.join(Revision::from_raw(changed), None).is_some();
        assert!(joins(7), "its read has not begun");
        assert!(writer.begin(shown(5)));
        assert!(joins(5) && !joins(6));
        writer.push(chunk(0)).unwrap();
        writer.cut(Cut::Unreadable);
        assert!(!joins(5));
    }

    #[test]
    fn a_body_that_nobody_reads_any_more_is_not_made() {
        let bench = Bench::new(LIMITS, 64 << 20);
        let (mut writer, body) = bench.open();
        writer.push(chunk(0)).unwrap();
        drop(body);
        assert!(matches!(writer.push(chunk(1)), Err(SpoolError::Cut(Cut::Abandoned))));
        assert!(first_of(&writer).join(Revision::ZERO, None).is_none());
        assert!(!writer.begin(shown(1)));
    }

    #[test]
    fn without_memory_a_body_is_in_a_file_from_its_first_byte() {
        let bench = Bench::new(LIMITS, CHUNK);
        let (mut writer, body) = bench.open();
        writer.push(chunk(0)).unwrap();
        assert_eq!((bench.memory.used(), bench.spools.bytes()), (0, CHUNK as u64));
        writer.finish();
        assert!(block_on(rest(body)) == Some(text(1)));
    }

    #[test]
    fn a_body_without_room_is_cut_and_counts_for_whoever_still_reads_it() {
        let per_address = 40 * CHUNK as u64;
        let bench = Bench::new(SpoolLimits { per_address, ..LIMITS }, 0);
        let (mut writer, first) = bench.open();
        (0..40).for_each(|number| writer.push(chunk(number)).unwrap());
        // The share of the first client is used up, but the second one has its own.
        let (mut other, other_body) = bench.open();
        assert!(matches!(other.push(chunk(0)), Err(SpoolError::Cut(Cut::NoRoom))));
        assert_eq!(block_on(rest(other_body)), None);
        let second = join(&writer, 0, address(2));
        drop(first);
        assert_eq!((bench.spools.room(address(1)), bench.spools.room(address(2))), (per_address, 0));
        assert!(matches!(writer.push(chunk(40)), Err(SpoolError::Cut(Cut::NoRoom))));
        assert_eq!(block_on(rest(second.unwrap())), None, "what is not complete does not look like it");
        assert_eq!((bench.spools.bytes(), bench.spools.refused.get()), (0, 2));
    }

    #[test]
    fn a_client_that_keeps_up_gets_more_than_there_is_room_for_and_one_that_stalls_does_not_prevent_that() {
        const CHUNKS: usize = 400;
        let per_address = 40 * CHUNK as u64;
        let bench = Bench::new(SpoolLimits { per_address, total: per_address, ..LIMITS }, 0);
        let (mut writer, first) = bench.open_with(Duration::from_secs(600));
        let stalled = join(&writer, 0, address(2)).unwrap();
        let making = std::thread::spawn(move || {
            (0..CHUNKS).for_each(|number| writer.push(chunk(number)).unwrap());
            writer.finish();
        });
        assert!(block_on(rest(first)) == Some(text(CHUNKS)));
        making.join().unwrap();
        assert_eq!(block_on(rest(stalled)), None);
        assert_eq!((bench.spools.bytes(), bench.spools.refused.get()), (0, 1));
    }

    #[test]
    fn a_body_that_was_not_finished_is_cut() {
        let bench = Bench::new(LIMITS, 64 << 20);
        let (mut writer, body) = bench.open();
        writer.push(chunk(0)).unwrap();
        drop(writer);
        assert_eq!(block_on(rest(body)), None);
    }
}
