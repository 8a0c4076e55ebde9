//! How long a batch on a server waits for those who have just been answered.
//!
//! There a batch is a round trip, however many commands it has. A client that writes one command after another comes back
//! shortly after its answer. If the next batch began at once, with the commands that have waited meanwhile, it would come too
//! late, and wait for the batch after it. The clients would stay divided into two groups, each of which waits for the other's batch.

use std::time::{Duration, Instant};

/// A batch waits at most this part of the time that the one before it took. So a client that does not come back costs the
/// others little.
const SHARE: u32 = 4;

/// It never waits longer than this: a batch that took long may have waited for something else.
const LONGEST: Duration = Duration::from_millis(50);

/// After a batch that took less than this, nobody is waited for: the server is near, and a batch is shorter than the time in which
/// clients come back.
const WORTH_WAITING: Duration = Duration::from_millis(2);

/// How often it is looked who has come. A shorter time than the system's timers have would be longer as well.
const STEP: Duration = Duration::from_micros(50);

/// What the last batch tells about the next one.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// The commands that it answered, and those that waited then. 0 after none, so that nothing is waited for.
    expected: i64,
    until: Option<Instant>,
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
    pub(super) fn after(Ended { commands, took, at }: Ended) -> Self {
        Self { expected: commands, until: (took >= WORTH_WAITING).then(|| at + (took / SHARE).min(LONGEST)) }
    }

    /// How long the next batch waits before it looks again. `None` if it begins now: as many commands wait as are expected, or
    /// it has waited long enough.
    pub(super) fn pause(&self, waiting: i64, now: Instant) -> Option<Duration> {
        let rest = self.until?.checked_duration_since(now)?;
        (waiting < self.expected && !rest.is_zero()).then(|| rest.min(STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_waits_for_those_who_were_answered_for_a_part_of_the_time_that_the_last_one_took() {
        let at = Instant::now();
        let ms = Duration::from_millis;
        let after = |commands, took| Gathering::after(Ended { commands, took, at });
        for (gathering, waiting, now, expected) in [
            // The first one.
            (Gathering::default(), 1, at, None),
            // A lone client is there again.
            (after(1, ms(4)), 1, at, None),
            // Not all are there yet.
            (after(64, ms(4)), 63, at, Some(STEP)),
            (after(64, ms(4)), 63, at + ms(1) - STEP / 5, Some(STEP / 5)),
            (after(64, ms(4)), 63, at + ms(1), None),
            (after(64, ms(4)), 64, at, None),
            // The server is near.
            (after(64, ms(1)), 1, at, None),
            // They come much later.
            (after(64, ms(4)), 1, at + ms(60), None),
            // It took very long.
            (after(64, ms(5000)), 1, at + ms(49), Some(STEP)),
            (after(64, ms(5000)), 1, at + ms(50), None),
        ] {
            assert_eq!(gathering.pause(waiting, now), expected, "{gathering:?} {waiting}");
        }
    }
}
