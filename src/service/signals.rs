//! The signals that ask a process to stop.

use std::task::Poll;

use actix_web::rt::signal::unix::{Signal, SignalKind, signal};

/// The requests to stop.
pub(super) struct Signals(Vec<(&'static str, Signal)>);

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        let mut signals =
            vec![("SIGTERM", signal(SignalKind::terminate())?), ("SIGINT", signal(SignalKind::interrupt())?)];
        // There is nothing to load again, so a closed terminal and a `reload` are requests to stop in order, as well.
        if !is_hangup_ignored() {
            signals.push(("SIGHUP", signal(SignalKind::hangup())?));
        }
        Ok(Self(signals))
    }

    /// Waits for one, and says which it was.
    pub(super) async fn next(&mut self) -> &'static str {
        std::future::poll_fn(|context| {
            let mut received = self.0.iter_mut().filter_map(|(name, signal)| match signal.poll_recv(context) {
                Poll::Ready(_) => Some(*name),
                Poll::Pending => None,
            });
            received.next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Whether `nohup` has started the process, which is to outlive its terminal. Only Linux shows that.
fn is_hangup_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

/// Reads the set of ignored signals, in hexadecimal digits. SIGHUP is 1, so it is the last bit
/// ([proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html)).
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::ignores_hangup;

    #[test]
    fn the_hangup_is_the_last_bit_of_the_ignored_signals() {
        for (status, ignored) in [
            ("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n", false),
            ("SigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n", true),
            ("Name:\tduality\n", false),
        ] {
            assert_eq!(ignores_hangup(status), ignored, "{status}");
        }
    }
}
