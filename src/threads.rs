//! The names of threads, for `top -H`, `perf` and debuggers.

use std::ffi::CString;

use actix::Arbiter;

/// Names the thread that calls this. Linux shows the first 15 bytes.
pub(crate) fn name_thread(name: &str) {
    let name =
        CString::new(name).expect("names of threads are literals, numbers and checked names, without a null byte");
    if let Err(error) = rustix::thread::set_name(&name) {
        log::debug!("cannot name a thread {name:?}: {error}");
    }
}

/// A thread for actors whose calls block.
pub(crate) fn named_arbiter(name: impl Into<String>) -> Arbiter {
    let name = name.into();
    let arbiter = Arbiter::new();
    arbiter.spawn_fn(move || name_thread(&name));
    arbiter
}
