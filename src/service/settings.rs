//! Every setting: a flag, an environment variable, a unit, a default.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Publishes aggregates and their change events as two views of one truth.
///
/// Durations are written `200ms`, `15s`, `24h`; sizes `65536`, `64KiB`, `1MiB`.
#[derive(Debug, Clone, Parser)]
#[command(name = "duality", version, max_term_width = 120)]
pub struct Settings {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub task: Option<Task>,

    /// The address to listen on; port 0 takes a free one.
    #[arg(long, env = "DUALITY_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:3000")]
    pub listen: String,

    /// The database file, created if it is not there; `:memory:` is a private one that is gone at exit.
    #[arg(long, env = "DUALITY_DATABASE", value_name = "FILE", default_value = "duality.db", global = true)]
    pub database: PathBuf,

    /// How often the outbox is looked at when nobody says that there is something in it.
    #[arg(long, env = "DUALITY_POLL_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub poll_interval: Duration,

    /// How long change events are kept for those who come back.
    #[arg(long, env = "DUALITY_RETENTION", value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    pub retention: Duration,

    /// Change events that are kept at most, counted in revisions; all that are young enough if not given.
    #[arg(long, env = "DUALITY_RETENTION_EVENTS", value_name = "REVISIONS", value_parser = clap::value_parser!(i64).range(0..))]
    pub retention_events: Option<i64>,

    /// How long it is known of a deleted aggregate that it was deleted; who comes back later starts from nothing.
    #[arg(long, env = "DUALITY_TOMBSTONE_RETENTION", value_name = "DURATION", default_value = "90d", value_parser = humantime::parse_duration)]
    pub tombstone_retention: Duration,

    /// Start another epoch: needed once for a copy of a database that was not made by this program.
    #[arg(long, env = "DUALITY_NEW_EPOCH")]
    pub new_epoch: bool,

    /// How often older change events are removed.
    #[arg(long, env = "DUALITY_PRUNE_INTERVAL", value_name = "DURATION", default_value = "1min", value_parser = interval)]
    pub prune_interval: Duration,

    /// After how much quiet a stream gets a comment line.
    #[arg(long, env = "DUALITY_HEARTBEAT", value_name = "DURATION", default_value = "15s", value_parser = interval)]
    pub heartbeat: Duration,

    /// Streams that may be open, in all.
    #[arg(long, env = "DUALITY_MAX_SESSIONS", value_name = "STREAMS", default_value_t = 20_000, value_parser = at_least_one)]
    pub max_sessions: usize,

    /// Streams that may be open from one address.
    #[arg(long, env = "DUALITY_MAX_SESSIONS_PER_ADDRESS", value_name = "STREAMS", default_value_t = 5_000, value_parser = at_least_one)]
    pub max_sessions_per_address: usize,

    /// What may wait in the service for one stream that is not read.
    #[arg(long, env = "DUALITY_SESSION_BUFFER", value_name = "SIZE", default_value = "256KiB", value_parser = at_least_a_byte)]
    pub session_buffer: usize,

    /// What whole collections may take in memory, so that all who read one share it; one for which there is no room is
    /// streamed, and with 0 all are.
    #[arg(long, env = "DUALITY_SHARED_BODIES", value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub shared_bodies: usize,

    /// What events that are replayed to subscribers who were away may take in memory, so that all who come back share them;
    /// with less than 257 KiB each has them read for itself.
    #[arg(long, env = "DUALITY_SHARED_EVENTS", value_name = "SIZE", default_value = "32MiB", value_parser = size)]
    pub shared_events: usize,

    /// An origin whose pages may read the answers (CORS), `*` for any; may be given several times.
    #[arg(long, env = "DUALITY_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,

    /// How long the peer of a connection may leave sent bytes unacknowledged, or its window closed, before it counts
    /// as dead.
    #[arg(long, env = "DUALITY_PEER_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = interval)]
    pub peer_timeout: Duration,

    /// The longest body of a request.
    #[arg(long, env = "DUALITY_MAX_BODY", value_name = "SIZE", default_value = "1MiB", value_parser = size)]
    pub max_body: usize,

    /// Commands that may wait for the database; more are answered with 503.
    #[arg(long, env = "DUALITY_QUEUE", value_name = "COMMANDS", default_value_t = 4096, value_parser = at_least_one)]
    pub queue: usize,

    /// Threads that serve connections; as many as there are processors if not given.
    #[arg(long, env = "DUALITY_WORKERS", value_name = "THREADS", value_parser = at_least_one)]
    pub workers: Option<usize>,

    /// Threads that read pages of events and single aggregates; as many again read whole collections.
    #[arg(long, env = "DUALITY_READERS", value_name = "THREADS", default_value_t = 2, value_parser = at_least_one)]
    pub readers: usize,
}

/// What the program can do instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Task {
    /// Fold all events and derive all groups anew, and compare that with what is stored; a service may be running
    /// meanwhile. Exit code 0 when all is as it should be, 1 otherwise.
    Verify,
    /// Look at the projections, or build one anew: by asking the service that runs on the database, or on the files if none
    /// does.
    Projection {
        /// What to do.
        #[command(subcommand)]
        task: ProjectionTask,
    },
}

/// What can be done about projections.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ProjectionTask {
    /// Name, version, state, lag and last error of each.
    List,
    /// Build one anew, beside the one that is read until then. Exit code 0 when it is read.
    Rebuild {
        /// Its name.
        name: String,
    },
    /// Leave out the event at which one stopped. That is logged.
    Skip {
        /// Its name.
        name: String,
        /// The position or the revision of the event.
        at: i64,
    },
}

impl Default for Settings {
    /// The defaults, and what the environment says.
    fn default() -> Self {
        Self::parse_from(["duality"])
    }
}

/// A duration after which something happens again: not zero.
fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: usize = match &text[digits.len()..] {
        "" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        other => return Err(format!("unknown unit {other:?}, expected KiB, MiB or GiB")),
    };
    let number: usize = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

fn at_least_a_byte(text: &str) -> Result<usize, String> {
    match size(text) {
        Ok(0) => Err("expected at least 1".to_owned()),
        other => other,
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Settings, clap::Error> {
        Settings::try_parse_from([&["duality"], flags].concat())
    }

    #[test]
    fn sizes_and_durations_have_units() {
        let settings = parse(&["--max-body", "64KiB", "--poll-interval", "200ms", "--retention", "0s"]).unwrap();
        assert_eq!(settings.max_body, 65536);
        assert_eq!(settings.poll_interval, Duration::from_millis(200));
        assert_eq!(settings.retention, Duration::ZERO);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for flags in [
            ["--poll-interval", "0s"],
            ["--poll-interval", "5"],
            ["--max-body", "1MB"],
            ["--max-body", "x"],
            ["--queue", "0"],
            ["--session-buffer", "0KiB"],
            ["--nonsense", "1"],
        ] {
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
    }
}
