//! File descriptors: each connection takes one, and whatever has none left can neither accept nor open anything.

use super::settings::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of this process to the hard one. Many systems have a soft limit of 1,024 for programs that use
/// `select(2)`, which this one does not.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::debug!("the limit of file descriptors stays {:?}: {error}", limit.current);
    }
}

/// From now on, nothing of this process opens or creates a file. For a process that is about to end and cannot stop its threads.
pub(super) fn open_no_more() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }) {
        log::debug!("the limit of file descriptors stays {:?}: {error}", limit.current);
    }
}

/// How many connections there may be, and how many of them may be streams: in all, and from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) connections: usize,
    pub(super) streams: usize,
    pub(super) connections_per_address: usize,
    pub(super) streams_per_address: usize,
}

/// Descriptors for what comes and goes: backups, connections to the database that are opened again, spool files.
const SPARE: usize = 12;

/// What each background projection opens after the start, with a second generation.
const PER_PROJECTION: usize = 5;

/// What each thread that serves connections opens when it starts: its event loops and what wakes them.
const PER_WORKER: usize = 5;

/// The connections of operators who have a listener of their own.
pub(super) const OPERATORS: usize = 64;

/// What the process has open after its start, where it cannot be counted.
const ESTIMATE: usize = 100;

/// More than there can be in practice, for a process without a limit.
const UNLIMITED: usize = 1 << 24;

/// The limit leaves no connection for each thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the system allows {limit} file descriptors, and with --workers {workers} at least {needed} are needed; raise the \
     limit (ulimit -n, LimitNOFILE) or start with fewer --workers"
)]
pub(super) struct TooFewDescriptors {
    limit: usize,
    workers: usize,
    needed: usize,
}

impl Capacity {
    /// What the limit of this process leaves for connections, before its worker threads run. Warns if that is less than the
    /// settings say.
    ///
    /// # Errors
    /// It leaves too little to serve anybody.
    pub(super) fn of_process(projections: usize, settings: &Settings) -> Result<Self, TooFewDescriptors> {
        let Some(limit) = getrlimit(Resource::Nofile).current else { return Self::divide(UNLIMITED, 0, settings) };
        let open = std::fs::read_dir("/proc/self/fd").map_or(ESTIMATE, Iterator::count);
        let own = open + PER_PROJECTION * projections + PER_WORKER * settings.worker_threads() + SPARE;
        // Their listener is accepted by a thread of its own.
        let own = own + settings.operate_on.as_ref().map_or(0, |_| 2 * PER_WORKER + OPERATORS);
        let capacity = Self::divide(usize::try_from(limit).unwrap_or(usize::MAX), own, settings)?;
        let max_sessions = settings.max_sessions.get();
        if capacity.streams < max_sessions {
            log::warn!(
                "the system allows {limit} file descriptors, which is enough for {} streams and not for \
                 --max-sessions {max_sessions}; raise the limit (ulimit -n, LimitNOFILE)",
                capacity.streams
            );
        }
        Ok(capacity)
    }

    /// Keeps an eighth of the connections for what is no stream, so that streams cannot shut everybody else out. Each
    /// thread gets the same number of connections.
    fn divide(limit: usize, own: usize, settings: &Settings) -> Result<Self, TooFewDescriptors> {
        let workers = settings.worker_threads();
        let least = 2_usize.next_multiple_of(workers);
        let connections = limit.saturating_sub(own) / workers * workers;
        if connections < least {
            return Err(TooFewDescriptors { limit, workers, needed: own + least });
        }
        let connections_per_address =
            settings.max_connections_per_address.map_or(connections - connections.div_ceil(4), usize::from).max(1);
        Ok(Self {
            connections,
            streams: streams(connections).min(settings.max_sessions.get()),
            connections_per_address,
            streams_per_address: streams(connections_per_address).min(settings.max_sessions_per_address.get()),
        })
    }
}

/// How many of so many connections may be streams.
fn streams(connections: usize) -> usize {
    connections.saturating_sub((connections / 8).clamp(1, 1024)).max(1)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn settings(workers: usize, max_sessions: usize) -> Settings {
        Settings {
            workers: NonZeroUsize::new(workers),
            max_sessions: NonZeroUsize::new(max_sessions).unwrap(),
            ..Settings::default()
        }
    }

    #[test]
    fn some_connections_are_never_streams() {
        for (limit, own, workers, max_sessions, connections, streams) in [
            (1_048_576, 100, 1, 20_000, 1_048_476, 20_000),
            (20_100, 100, 1, 20_000, 20_000, 18_976),
            (1024, 100, 1, 20_000, 924, 809),
            (1024, 100, 128, 20_000, 896, 784),
            (128, 100, 1, 20_000, 28, 25),
            (128, 100, 16, 20_000, 16, 14),
            (102, 100, 1, 20_000, 2, 1),
            (1024, 100, 1, 5, 924, 5),
            (UNLIMITED, 0, 1, 7, UNLIMITED, 7),
        ] {
            let capacity = Capacity::divide(limit, own, &settings(workers, max_sessions)).unwrap();
            assert_eq!((capacity.connections, capacity.streams), (connections, streams), "{limit} {workers}");
        }
    }

    #[test]
    fn a_limit_without_a_connection_for_each_thread_is_refused_with_what_is_needed() {
        for (limit, own, workers, needed) in [(96, 100, 1, 102), (101, 100, 1, 102), (227, 100, 128, 228)] {
            let settings = settings(workers, 20_000);
            assert_eq!(Capacity::divide(limit, own, &settings), Err(TooFewDescriptors { limit, workers, needed }));
            assert!(Capacity::divide(needed, own, &settings).is_ok());
        }
    }

    #[test]
    fn one_address_leaves_connections_to_others_and_has_some_that_are_no_streams() {
        for (limit, own, set, connections, streams) in [
            (20_100, 100, None, 15_000, 5_000),
            (1024, 100, None, 693, 607),
            (128, 100, None, 21, 19),
            (102, 100, None, 1, 1),
            (20_100, 100, NonZeroUsize::new(16), 16, 14),
        ] {
            let settings = Settings { max_connections_per_address: set, ..settings(1, 20_000) };
            let capacity = Capacity::divide(limit, own, &settings).unwrap();
            let here = (capacity.connections_per_address, capacity.streams_per_address);
            assert_eq!(here, (connections, streams), "{limit}");
        }
    }
}
