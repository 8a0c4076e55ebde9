//! The entrance to the framework: how many new connections of a worker thread are in it at a time.
//!
//! The framework gives each connection two buffers, and drops them when a stream leaves it. If thousands of streams came at
//! once, as after a restart, each would have its buffers at the same time, and the allocator keeps that memory. So only some
//! are let in, in the order in which they came, and the next one follows when one of them has been answered.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::time::{Instant, sleep_until};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many connections may be inside that were not answered yet.
const PLACES: usize = 64;

/// A connection that was not answered for this long no longer counts: it may be one that sends nothing, and nobody waits for
/// such a one.
const PATIENCE: Duration = Duration::from_millis(200);

/// The entrance of one worker thread.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    free: Arc<Semaphore>,
    /// Who came in when. Those in front may have left.
    inside: Rc<RefCell<VecDeque<(Instant, Permit)>>>,
}

/// `None` when the next connection may follow.
type Permit = Rc<RefCell<Option<OwnedSemaphorePermit>>>;

/// The place of a connection that is inside, until it is dropped or the connection has had it for long enough.
#[derive(Debug)]
pub(crate) struct Place(Permit);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.take();
    }
}

impl Default for Entrance {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(PLACES)), inside: Rc::default() }
    }
}

impl Entrance {
    /// Waits for a place.
    pub(crate) async fn enter(&self) -> Place {
        let mut turn = pin!(Arc::clone(&self.free).acquire_owned());
        let permit = loop {
            let until = self.forget(Instant::now());
            tokio::select! {
                biased;
                permit = &mut turn => break permit.ok(),
                () = sleep_until(until) => {}
            }
        };
        let permit = Rc::new(RefCell::new(permit));
        self.inside.borrow_mut().push_back((Instant::now(), Rc::clone(&permit)));
        Place(permit)
    }

    /// Forgets who has left, and who has been inside for long enough. Returns when to look again.
    fn forget(&self, now: Instant) -> Instant {
        let mut inside = self.inside.borrow_mut();
        while let Some((since, permit)) = inside.front() {
            let until = *since + PATIENCE;
            if until > now && permit.borrow().is_some() {
                return until;
            }
            permit.take();
            inside.pop_front();
        }
        now + PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use actix_web::rt::Runtime;

    use super::*;

    fn poll(entering: Pin<&mut impl Future<Output = Place>>) -> Option<Place> {
        match entering.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn connections_enter_in_their_order_as_others_leave_or_have_been_inside_for_long_enough() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let entrance = Entrance::default();
            let mut places: Vec<_> = (0..PLACES).map(|_| poll(pin!(entrance.enter())).unwrap()).collect();
            let (mut first, mut second) = (Box::pin(entrance.enter()), Box::pin(entrance.enter()));
            assert!(poll(first.as_mut()).is_none() && poll(second.as_mut()).is_none());
            drop(places.remove(7));
            assert!(poll(second.as_mut()).is_none(), "it came later");
            let _place = poll(first.as_mut()).unwrap();
            assert!(poll(second.as_mut()).is_none(), "all places are taken");
            let came = entrance.inside.borrow()[0].0;
            assert_eq!(entrance.forget(came), came + PATIENCE);
            entrance.forget(Instant::now() + PATIENCE);
            assert!(entrance.inside.borrow().is_empty());
            let _place = poll(second.as_mut()).unwrap();
            drop(places);
            assert_eq!(entrance.free.available_permits(), PLACES - 1, "nobody leaves twice");
        });
    }
}
