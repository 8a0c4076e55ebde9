//! The range of each setting: in one table, for the check at start, its messages, and `--help`.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Arg, Command};

use super::Settings;

/// The range of a setting, with both ends as a user would write them.
pub(super) struct Range {
    /// The long name of the flag, without its hyphens.
    pub(super) flag: &'static str,
    least: &'static str,
    most: &'static str,
    kind: Kind,
}

/// What a setting is, and how its value is read; `None` if it is not set.
enum Kind {
    Duration(fn(&Settings) -> Option<Duration>),
    Size(fn(&Settings) -> Option<ByteSize>),
    Count(fn(&Settings) -> Option<u64>),
}

/// Every setting that is a duration, a size or a number. A setting that is not limited by its type is limited by what
/// works: an interval that would occupy a processor, or a time that no clock reaches.
pub(super) const RANGES: &[Range] = &[
    duration("poll-interval", "10ms", "1h", |settings| Some(settings.poll_interval)),
    duration("record-timeout", "100ms", "1h", |settings| Some(settings.record_timeout)),
    duration("retention", "0s", "36500d", |settings| Some(settings.retention)),
    count("retention-events", "0", "1000000000000", |settings| settings.retention_events.map(i64::unsigned_abs)),
    duration("tombstone-retention", "0s", "36500d", |settings| Some(settings.tombstone_retention)),
    duration("idempotency-retention", "0s", "36500d", |settings| Some(settings.idempotency_retention)),
    size("idempotency-size", "64KiB", "1PiB", |settings| Some(settings.idempotency_size)),
    duration("prune-interval", "10ms", "1d", |settings| Some(settings.prune_interval)),
    size("min-free", "0", "1EiB", |settings| Some(settings.min_free)),
    size("spool-size", "0", "1PiB", |settings| Some(settings.spool_size)),
    duration("heartbeat", "10ms", "1h", |settings| Some(settings.heartbeat)),
    count("max-sessions", "1", "1000000", |settings| Some(settings.max_sessions.get() as u64)),
    count("max-sessions-per-address", "1", "1000000", |settings| Some(settings.max_sessions_per_address.get() as u64)),
    count("max-connections-per-address", "1", "1000000", |settings| {
        settings.max_connections_per_address.map(|connections| connections.get() as u64)
    }),
    size("session-buffer", "4KiB", "1GiB", |settings| Some(settings.session_buffer)),
    size("memory", "16MiB", "1TiB", |settings| Some(settings.memory)),
    size("command-memory", "64KiB", "1TiB", |settings| settings.command_memory),
    size("shared-bodies", "0", "1TiB", |settings| settings.shared_bodies),
    size("shared-events", "0", "1TiB", |settings| settings.shared_events),
    size("stream-memory", "64KiB", "1TiB", |settings| settings.stream_memory),
    size("answer-memory", "64KiB", "1TiB", |settings| settings.answer_memory),
    size("filter-memory", "0", "1TiB", |settings| settings.filter_memory),
    size("aggregate-memory", "0", "1TiB", |settings| settings.aggregate_memory),
    size("page-caches", "0", "1TiB", |settings| settings.page_caches),
    duration("peer-timeout", "100ms", "1d", |settings| Some(settings.peer_timeout)),
    // The clock of the framework stands still for half a second: what is due before its next tick would be missed.
    duration("keep-alive", "1s", "1d", |settings| Some(settings.keep_alive)),
    size("max-body", "64B", "1GiB", |settings| Some(settings.max_body)),
    duration("body-timeout", "100ms", "1d", |settings| Some(settings.body_timeout)),
    size("max-aggregate", "16B", "1GiB", |settings| Some(settings.max_aggregate)),
    count("queue", "1", "1000000", |settings| Some(settings.queue.get() as u64)),
    size("publish-size", "0", "1EiB", |settings| Some(settings.publish_size)),
    // The framework has no more.
    count("workers", "1", "512", |settings| settings.workers.map(|workers| workers.get() as u64)),
    count("readers", "1", "256", |settings| Some(settings.readers.get() as u64)),
    count("scan-queue", "1", "1000000", |settings| Some(settings.scan_queue.get() as u64)),
];

const fn duration(
    flag: &'static str,
    least: &'static str,
    most: &'static str,
    value: fn(&Settings) -> Option<Duration>,
) -> Range {
    Range { flag, least, most, kind: Kind::Duration(value) }
}

const fn size(
    flag: &'static str,
    least: &'static str,
    most: &'static str,
    value: fn(&Settings) -> Option<ByteSize>,
) -> Range {
    Range { flag, least, most, kind: Kind::Size(value) }
}

const fn count(
    flag: &'static str,
    least: &'static str,
    most: &'static str,
    value: fn(&Settings) -> Option<u64>,
) -> Range {
    Range { flag, least, most, kind: Kind::Count(value) }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.least, self.most)
    }
}

impl Range {
    /// The range of the setting with this flag.
    pub(super) fn of(flag: &str) -> Option<&'static Self> {
        RANGES.iter().find(|range| range.flag == flag)
    }

    /// What a message expects: `a whole number from 1 to 512`.
    pub(super) fn expected(&self) -> String {
        let kind = match self.kind {
            Kind::Duration(_) => "a duration",
            Kind::Size(_) => "a size",
            Kind::Count(_) => "a whole number",
        };
        format!("{kind} from {} to {}", self.least, self.most)
    }

    /// The value of the setting as text, if it is set.
    pub(super) fn value(&self, settings: &Settings) -> Option<String> {
        match self.kind {
            Kind::Duration(value) => Some(humantime::format_duration(value(settings)?).to_string()),
            Kind::Size(value) => Some(value(settings)?.to_string()),
            Kind::Count(value) => Some(value(settings)?.to_string()),
        }
    }

    /// The value of the setting as text, if it is outside the range.
    pub(super) fn violation(&self, settings: &Settings) -> Option<String> {
        let is_valid = match self.kind {
            Kind::Duration(value) => self.has(&value(settings)?, humantime::parse_duration),
            Kind::Size(value) => self.has(&value(settings)?, str::parse),
            Kind::Count(value) => self.has(&value(settings)?, str::parse),
        };
        if is_valid { None } else { self.value(settings) }
    }

    fn has<T: PartialOrd, E: fmt::Debug>(&self, value: &T, parse: impl Fn(&str) -> Result<T, E>) -> bool {
        (parsed(self.least, &parse)..=parsed(self.most, &parse)).contains(value)
    }
}

/// An end of a range of the table.
fn parsed<T, E: fmt::Debug>(end: &str, parse: impl Fn(&str) -> Result<T, E>) -> T {
    parse(end).expect("the ends of all ranges are valid values")
}

/// Adds the range of each setting to its help.
pub(super) fn describe(command: Command) -> Command {
    command.mut_args(|arg| {
        let Some(range) = arg.get_long().and_then(Range::of) else { return arg };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        Arg::help(arg, format!("{help} [{range}]"))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_number_duration_and_size_has_a_range_that_is_in_the_help() {
        let help = describe(Settings::command()).render_help().to_string();
        for arg in Settings::command().get_arguments() {
            let Some(flag) = arg.get_long().filter(|flag| arg.get_action().takes_values() && *flag != "help") else {
                continue;
            };
            let names =
                ["listen", "database", "host", "cors-origin", "spool", "publish", "publish-stream", "publish-prefix"];
            let files = [
                "files",
                "publish-credentials",
                "publish-ca",
                "tokens",
                "tls-cert",
                "tls-key",
                "operate-on",
                "page",
                "trusted-proxy",
                "log-format",
            ];
            if names.contains(&flag) || files.contains(&flag) {
                continue;
            }
            let range = Range::of(flag).unwrap_or_else(|| panic!("--{flag} has no range"));
            assert!(help.contains(&format!("[{range}]")), "{range} of --{flag} is not in the help");
        }
    }

    #[test]
    fn the_defaults_are_within_their_ranges() {
        for range in RANGES {
            assert_eq!(range.violation(&Settings::default()), None, "--{}", range.flag);
            assert!(
                Settings::command().get_arguments().any(|arg| arg.get_long() == Some(range.flag)),
                "{}",
                range.flag
            );
        }
    }
}
