//! How long a batch on a server waits for those who have just been answered.
//!
//! There a batch is a round trip, however many commands it has. A client that writes one command after another comes back
//! shortly after its answer. If the next batch began at once, with the commands that have waited meanwhile, it would come too
//! late, and wait for the batch after it. The clients would stay divided into two groups, each of which waits for the other's batch.

use std::time::{Duration, Instant};

/// A batch waits at most this part of the time that the one before it took, as long as all come back in time.
const PATIENT: u32 = 2;

/// It waits only this part once somebody did not. So clients that do not come back cost the others little.
const IMPATIENT: u32 = 4;

/// How often it is patient nevertheless: after so many batches for which not all came. Without it, clients that need a little longer
/// than the shorter time would never be seen together.
const TRY_EVERY: u32 = 16;

/// It never waits longer than this: a batch that took long may have waited for something else.
const LONGEST: Duration = Duration::from_millis(50);

/// After a batch that took less than this, nobody is waited for: the server is near, and a batch is shorter than the time in which
/// clients come back.
const WORTH_WAITING: Duration = Duration::from_millis(2);

/// How often it is looked who has come. A shorter time than the system's timers have would be longer as well.
const STEP: Duration = Duration::from_micros(50);

/// What the last batches tell about the next one.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// The commands that the last one answered, and those that waited then. 0 after none, so that nothing is waited for.
    expected: i64,
    until: Option<Instant>,
    /// The batches in a row for which not all came in time.
    in_vain: u32,
}

/// A batch that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// The commands that it answered, and those that wait now.
    pub(super) commands: i64,
    pub(super) took: Duration,
    pub(super) at: Instant,
}

impl Gathering {
    /// Nobody is waited for until a batch has answered.
    pub(super) fn end(&mut self) {
        self.until = None;
    }

    /// A batch has answered.
    pub(super) fn after(&mut self, Ended { commands, took, at }: Ended) {
        let share = if self.in_vain.is_multiple_of(TRY_EVERY) { PATIENT } else { IMPATIENT };
        self.expected = commands;
        self.until = (took >= WORTH_WAITING).then(|| at + (took / share).min(LONGEST));
    }

    /// How long the next batch waits before it looks again. `None` if it begins now: as many commands wait as are expected, or
    /// it has waited long enough.
    pub(super) fn pause(&mut self, waiting: i64, now: Instant) -> Option<Duration> {
        let until = self.until?;
        if waiting >= self.expected {
            self.in_vain = 0;
            return None;
        }
        let rest = until.saturating_duration_since(now);
        if rest.is_zero() {
            self.in_vain = self.in_vain.saturating_add(1);
            return None;
        }
        Some(rest.min(STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_batch_waits_for_those_who_were_answered_for_a_part_of_the_time_that_the_last_one_took() {
        let at = Instant::now();
        let after = |commands, took| {
            let mut gathering = Gathering::default();
            gathering.after(Ended { commands, took, at });
            gathering
        };
        for (mut gathering, waiting, now, expected) in [
            // The first one.
            (Gathering::default(), 1, at, None),
            // A lone client is there again.
            (after(1, MS * 4), 1, at, None),
            // Not all are there yet.
            (after(64, MS * 4), 63, at, Some(STEP)),
            (after(64, MS * 4), 63, at + MS * 2 - STEP / 5, Some(STEP / 5)),
            (after(64, MS * 4), 63, at + MS * 2, None),
            (after(64, MS * 4), 64, at, None),
            // The server is near.
            (after(64, MS), 1, at, None),
            // They come much later.
            (after(64, MS * 4), 1, at + MS * 60, None),
            // It took very long.
            (after(64, MS * 5000), 1, at + MS * 49, Some(STEP)),
            (after(64, MS * 5000), 1, at + MS * 50, None),
        ] {
            assert_eq!(gathering.pause(waiting, now), expected, "{gathering:?} {waiting}");
        }
    }

    #[test]
    fn a_batch_waits_half_as_long_once_not_all_came_until_they_come_again() {
        let (at, mut gathering) = (Instant::now(), Gathering::default());
        let mut waits = |came: i64| {
            gathering.after(Ended { commands: 64, took: MS * 4, at });
            let waits = [MS, MS * 2].into_iter().find(|time| gathering.pause(came, at + *time).is_none());
            gathering.end();
            waits
        };
        let all_but_one: Vec<_> = (0..18).map(|_| waits(63)).collect();
        let mut expected = vec![Some(MS); 18];
        // Each sixteenth time it is tried whether they come a little later.
        (expected[0], expected[16]) = (Some(MS * 2), Some(MS * 2));
        assert_eq!(all_but_one, expected);
        assert_eq!([waits(64), waits(63), waits(63)], [MS, MS * 2, MS].map(Some));
    }
}
