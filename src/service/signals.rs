//! The signals that ask a process to stop, or to read files again.

use std::task::Poll;

use actix_web::rt::signal::unix::{Signal, SignalKind, signal};

/// The signals that the process takes.
pub(super) struct Signals(Vec<(Request, Signal)>);

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// To stop, by the signal with this name.
    Stop(&'static str),
    /// To read again what can be read again.
    Reload,
}

/// What SIGHUP asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hangup {
    /// There is nothing to read again, so a closed terminal and a `reload` are requests to stop in order.
    Stops,
    /// There is a file to read again.
    Reloads,
}

impl Signals {
    pub(super) fn new(hangup: Hangup) -> std::io::Result<Self> {
        let stop = |name, kind| Ok::<_, std::io::Error>((Request::Stop(name), signal(kind)?));
        let mut signals = vec![stop("SIGTERM", SignalKind::terminate())?, stop("SIGINT", SignalKind::interrupt())?];
        if hangup == Hangup::Reloads {
            signals.push((Request::Reload, signal(SignalKind::hangup())?));
        } else if !is_hangup_ignored() {
            signals.push(stop("SIGHUP", SignalKind::hangup())?);
        }
        Ok(Self(signals))
    }

    /// Waits for a request to stop, and says by which signal it came.
    pub(super) async fn stop(&mut self) -> &'static str {
        loop {
            if let Request::Stop(name) = self.next().await {
                return name;
            }
        }
    }

    /// Waits for one.
    pub(super) async fn next(&mut self) -> Request {
        std::future::poll_fn(|context| {
            let mut received = self.0.iter_mut().filter_map(|(request, signal)| match signal.poll_recv(context) {
                Poll::Ready(_) => Some(*request),
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
