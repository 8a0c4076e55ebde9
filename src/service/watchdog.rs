//! Ends a process that does not manage to stop.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Ends the process unless it is dropped in time. Everything that was answered is on disk.
pub(super) struct Watchdog {
    _in_time: Sender<()>,
}

impl Watchdog {
    pub(super) fn start(patience: Duration) -> Self {
        let (in_time, waiting) = channel();
        std::thread::spawn(move || {
            if waiting.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                log::error!("stopping took too long");
                std::process::exit(1);
            }
        });
        Self { _in_time: in_time }
    }
}
