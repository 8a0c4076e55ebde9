//! Ends connections that have begun a request and do not finish its head. The framework waits only so long for the first
//! head of a connection, and for any length of time for each later one.

use std::cell::RefCell;
use std::net::Shutdown;
use std::rc::{Rc, Weak};
use std::time::Duration;

use actix_web::rt;

use crate::delivery::direct_write::DirectWriter;

/// How many looks at a connection a head may take.
const LOOKS: u32 = 8;

/// The connections of one worker thread.
#[derive(Debug, Clone, Default)]
pub(super) struct HalfHeads(Rc<RefCell<Vec<Weak<DirectWriter>>>>);

impl HalfHeads {
    /// Ends connections of the current thread on which a part of a request has waited for this time.
    pub(super) fn end_after(time: Duration) -> Self {
        let connections = Self::default();
        let watched = Rc::downgrade(&connections.0);
        rt::spawn(async move {
            loop {
                rt::time::sleep(time / LOOKS).await;
                let Some(connections) = watched.upgrade() else { return };
                connections.borrow_mut().retain(|connection| connection.upgrade().is_some_and(|open| look(&open)));
            }
        });
        connections
    }

    pub(super) fn add(&self, connection: &Rc<DirectWriter>) {
        self.0.borrow_mut().push(Rc::downgrade(connection));
    }
}

/// Looks at a connection, and returns whether it goes on. While a response is sent, the next request has to wait.
fn look(connection: &DirectWriter) -> bool {
    let goes_on = !connection.is_idle() || connection.intake().look() <= LOOKS;
    if !goes_on {
        connection.shut_down(Shutdown::Both);
    }
    goes_on
}
