//! When events were written, and when they arrived.

use std::time::Instant;

use super::latency::Latencies;

/// Events that arrived together at one subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The revisions after this one …
    pub after: i64,
    /// … up to this one.
    pub to: i64,
    pub at: Instant,
}

/// The time from each write to the arrival of its event. For events that arrived together, the time of the oldest
/// counts for all. `written` has the revisions of the writes and the time at which each was sent, in any order.
pub fn delivery(written: &[(i64, Instant)], arrivals: &[Arrival]) -> Latencies {
    let mut sent: Vec<Option<Instant>> = Vec::new();
    let first = written.iter().map(|(revision, _)| *revision).min().unwrap_or(0);
    for (revision, at) in written {
        let index = usize::try_from(revision - first).unwrap();
        if sent.len() <= index {
            sent.resize(index + 1, None);
        }
        sent[index] = Some(*at);
    }
    let mut latencies = Latencies::default();
    for Arrival { after, to, at } in arrivals {
        let oldest = usize::try_from(after + 1 - first).ok().and_then(|index| sent.get(index).copied().flatten());
        let Some(oldest) = oldest else { continue };
        for _ in *after..*to {
            latencies.push(at.saturating_duration_since(oldest));
        }
    }
    latencies
}
