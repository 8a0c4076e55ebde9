//! A load generator: as little as it takes to keep a server busy and to know what came back, since on a machine of two
//! cores the client costs as much as the server. Plain tokio, one thread each.

pub mod connection;
pub mod events;
pub mod latency;
pub mod requests;
pub mod subscribers;
pub mod workers;

use std::future::Future;
use std::thread::JoinHandle;

/// Runs a part of the load on a thread of its own.
pub fn thread<T: Send + 'static, F: Future<Output = T>>(load: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, load())
    })
}
