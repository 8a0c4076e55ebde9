//! Who has to learn of a commit at once. While nobody follows and the relay rests, a commit wakes no other thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Whether anybody follows, and whether the relay rests. Shared by the aggregator, the relay and all who follow.
///
/// All of it is sequentially consistent. So if a commit finds no follower, each one that begins after that finds the commit in
/// the database.
#[derive(Debug, Default)]
pub(crate) struct Attention {
    followers: AtomicUsize,
    relay: AtomicU8,
}

/// The relay learns of every commit.
const AWAKE: u8 = 0;
/// It looks again before long anyway.
const RESTING: u8 = 1;
/// It has missed something since.
const MISSING: u8 = 2;

impl Attention {
    /// Begins to follow, until what this returns is dropped. To be called before the first look at what was committed.
    pub(crate) fn follow(self: &Arc<Self>) -> Following {
        self.followers.fetch_add(1, Ordering::SeqCst);
        Following(Arc::clone(self))
    }

    /// Whether anybody follows.
    pub(crate) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::SeqCst) > 0
    }

    /// Whether nobody has to learn of a commit at once. The relay sees later that it has missed one.
    pub(super) fn passes_over(&self) -> bool {
        let rests = |relay| if relay == AWAKE { None } else { Some(MISSING) };
        !self.is_followed() && self.relay.fetch_update(Ordering::SeqCst, Ordering::SeqCst, rests).is_ok()
    }

    /// Lets the relay rest. It has to [wake up](Self::wake_up) before long.
    pub(crate) fn rest(&self) {
        self.relay.store(RESTING, Ordering::SeqCst);
    }

    /// Ends the rest of the relay. Returns whether it has missed a commit.
    pub(crate) fn wake_up(&self) -> bool {
        self.relay.swap(AWAKE, Ordering::SeqCst) == MISSING
    }
}

/// Somebody follows what is committed.
#[derive(Debug)]
pub(crate) struct Following(Arc<Attention>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_passed_over_only_while_the_relay_rests_and_nobody_follows() {
        let attention = Arc::new(Attention::default());
        assert!(!attention.passes_over(), "awake");
        attention.rest();
        let following = attention.follow();
        assert!(!attention.passes_over(), "somebody follows");
        assert!(!attention.wake_up(), "it knows");
        attention.rest();
        drop(following);
        assert!(attention.passes_over() && attention.passes_over());
        assert!(attention.wake_up(), "it has missed two");
        assert!(!attention.passes_over() && !attention.wake_up());
    }
}
