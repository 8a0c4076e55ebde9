//! The requests with an idempotency key that wait for their answers: a repeat of one of them must not be queued.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::domain::idempotency::RequestId;
use crate::metrics::Counter;

/// These requests, of all threads. There are no more than commands that wait, see `--queue`.
#[derive(Debug, Default)]
pub(crate) struct RequestsInFlight {
    requests: Mutex<HashSet<RequestId>>,
    /// Repeats of one of them.
    pub(crate) refused: Counter,
}

impl RequestsInFlight {
    /// Adds a request until the return value is dropped; `None` if it is in flight already. It has to be kept until the
    /// answer is stored or the command was not executed, whether its client still waits or not. So a repeat finds it here,
    /// or its answer in the database.
    pub(crate) fn enter(self: &Arc<Self>, request: RequestId) -> Option<InFlight> {
        if !self.lock().insert(request) {
            self.refused.add(1);
            return None;
        }
        Some(InFlight { all: Arc::clone(self), request })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<RequestId>> {
        self.requests.lock().expect("no thread panics while it holds this lock")
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    all: Arc<RequestsInFlight>,
    request: RequestId,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.all.lock().remove(&self.request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_flight_once_until_it_is_dropped() {
        let all = Arc::new(RequestsInFlight::default());
        let [one, other] = [&b"1"[..], b"2"].map(|part| RequestId::of(&[part]));
        let first = all.enter(one);
        assert!(first.is_some() && all.enter(other).is_some() && all.enter(one).is_none());
        assert_eq!(all.refused.get(), 1);
        drop(first);
        assert!(all.enter(one).is_some());
        assert!(all.lock().is_empty());
    }
}
