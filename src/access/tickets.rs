//! Tickets: what an `EventSource`, which cannot send a header, has in its URL instead of a token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::grant::Grant;
use super::token::{Secret, TokenDigest};
use crate::domain::clock::Clock;

/// The query parameter of a feed that has a ticket.
pub(crate) const TICKET: &str = "ticket";

/// How long a ticket is valid.
pub(crate) const VALID: Duration = Duration::from_secs(30);

/// The most tickets at once, and of one token: each takes less than 256 bytes, so that all take less than 512 KiB.
const MAX_TICKETS: usize = 2_000;
const MAX_TICKETS_OF_ONE: usize = MAX_TICKETS / 2;

/// The query parameters that select what a feed shows. All others say from where on, and how.
const SELECTING: [&str; 2] = ["key", "collection"];

/// The tickets that nobody has used so far, by the index of their digest.
pub(crate) struct Tickets {
    clock: Arc<Clock>,
    unused: Mutex<HashMap<[u8; 8], Ticket>>,
}

/// What is kept of a ticket. Its secret is not.
struct Ticket {
    digest: TokenDigest,
    feed: TicketFeed,
    grant: Arc<Grant>,
    issued: Instant,
}

/// What a ticket is for: a path with the parameters that select something, whatever their order. Only the SHA-256 of them is
/// kept, so that a long filter takes no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TicketFeed([u8; 32]);

/// There are too many tickets that nobody has used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyTickets;

impl TicketFeed {
    /// The feed with this path, as the client writes it, and these parameters, which are decoded.
    pub(crate) fn new(path: &str, params: &[(String, String)]) -> Self {
        let mut selecting: Vec<_> = params.iter().filter(|(name, _)| SELECTING.contains(&name.as_str())).collect();
        selecting.sort();
        selecting.dedup();
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        };
        // A client may encode what it need not.
        add(&percent_encoding::percent_decode_str(path).collect::<Vec<_>>());
        for (name, value) in selecting {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        Self(hash.finalize().into())
    }
}

impl Tickets {
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        Self { clock, unused: Mutex::default() }
    }

    /// Lets whoever has this secret open the feed once, with what the grant permits.
    ///
    /// # Errors
    /// There are too many tickets. The first of them ends within [`VALID`].
    pub(crate) fn issue(&self, secret: &Secret, feed: TicketFeed, grant: &Arc<Grant>) -> Result<(), TooManyTickets> {
        let issued = self.clock.monotonic();
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        unused.retain(|_, ticket| ticket.is_valid(issued));
        let of_one = unused.values().filter(|ticket| Arc::ptr_eq(&ticket.grant, grant)).count();
        if unused.len() >= MAX_TICKETS || of_one >= MAX_TICKETS_OF_ONE {
            return Err(TooManyTickets);
        }
        let digest = secret.digest();
        unused.insert(digest.index(), Ticket { digest, feed, grant: Arc::clone(grant), issued });
        Ok(())
    }

    /// What the holder of a ticket may do with this feed; `None` if the ticket is not valid for it. The ticket is used up in
    /// any case.
    pub(crate) fn redeem(&self, secret: &Secret, feed: TicketFeed) -> Option<Arc<Grant>> {
        let (digest, now) = (secret.digest(), self.clock.monotonic());
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = unused.remove(&digest.index()).filter(|ticket| ticket.digest.is(&digest))?;
        (ticket.feed == feed && ticket.is_valid(now)).then_some(ticket.grant)
    }
}

impl Ticket {
    /// Whether its time and its token have not ended.
    fn is_valid(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.issued) <= VALID && !self.grant.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(path: &str, params: &[(&str, &str)]) -> TicketFeed {
        let params: Vec<_> = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        TicketFeed::new(path, &params)
    }

    #[test]
    fn a_feed_is_its_path_and_what_selects() {
        let two = feed("/person-events", &[("key", "1"), ("key", "2")]);
        let same = [
            feed("/person-events", &[("key", "2"), ("key", "1"), ("key", "1")]),
            feed("/person-events", &[("lastEventId", "4f9c21aa.8"), ("key", "1"), ("compact", "true"), ("key", "2")]),
            feed("/person%2Devents", &[("key", "1"), ("key", "2")]),
        ];
        let others = [
            feed("/person-events", &[]),
            feed("/person-events", &[("key", "1")]),
            feed("/person-events", &[("key", "12")]),
            feed("/person-events", &[("key", "1"), ("collection", "2")]),
            feed("/cart-events", &[("key", "1"), ("key", "2")]),
            feed("/person-eventskey", &[("key", "1"), ("key", "2")]),
        ];
        assert!(same.iter().all(|other| *other == two) && others.iter().all(|other| *other != two));
    }
}
