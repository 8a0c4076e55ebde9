//! A load generator. It does only what it takes to keep a server busy and to check the responses, since on a machine
//! with two cores the client takes as much time as the server. It uses plain tokio, with one thread for each part.

pub mod connection;
pub mod crowd;
pub mod events;
pub mod latency;
pub mod requests;
pub mod subscribers;
pub mod workers;

use std::future::Future;
use std::thread::JoinHandle;

/// Runs a part of the load on its own thread.
pub fn thread<T: Send + 'static, F: Future<Output = T>>(load: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, load())
    })
}
