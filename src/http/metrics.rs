//! All metrics with their current values. `docs/operations.md` describes each of them.

use std::fmt;
use std::path::Path;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::process::Process;
use super::readiness::obstacles;
use super::shared::Shared;
use crate::memory::budget::MemoryBudget;
use crate::memory::ledger::Usage;
use crate::metrics::Histogram;
use crate::projector::status::State;
use crate::publish::status::State as Output;
use crate::storage::database::with_suffix;
use crate::storage::health::{FileCheck, Health, Part};

/// All metrics. A help text is a sentence without its full stop, which the registry adds.
pub(super) fn registry(shared: &Shared) -> Registry {
    let mut registry = Registry::with_prefix("duality");
    of_process(&mut registry, shared);
    of_memory(&mut registry, shared);
    of_health(&mut registry, shared);
    of_writes(&mut registry, shared);
    of_idempotency(&mut registry, shared);
    of_relay(&mut registry, shared);
    of_streams(&mut registry, shared);
    of_reads(&mut registry, shared);
    of_requests(&mut registry, shared);
    of_disk(&mut registry, shared);
    of_projections(registry.sub_registry_with_prefix("projection"), shared);
    of_outputs(registry.sub_registry_with_prefix("publish"), shared);
    registry
}

fn of_process(registry: &mut Registry, shared: &Shared) {
    let build = Metric::family([(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], Value::Number(1))]);
    registry.register("build_info", "The version of the program", build);
    let seconds = shared.started.milliseconds() / 1000;
    registry.register("start_time_seconds", "When the service was started, in Unix time", Metric::number(seconds));
    // Other systems have no /proc.
    let Some(process) = Process::read() else { return };
    let registry = registry.sub_registry_with_prefix("process");
    let memory = Metric::size(process.resident_memory);
    registry.register("resident_memory_bytes", "Memory of the process that is in RAM", memory);
    registry.register("open_fds", "Open file descriptors", Metric::size(process.open_files));
    let limit = process.max_files.map(|limit| (Vec::new(), Value::number(limit)));
    registry.register("max_fds", "The limit of open file descriptors", Metric::family(limit));
    let time = Metric::single(Value::Time(process.cpu_seconds));
    registry.register("cpu_seconds", "CPU time of all threads, in user and in system mode", time);
}

fn of_memory(registry: &mut Registry, shared: &Shared) {
    let budgets = |value: fn(&MemoryBudget) -> usize| {
        let values = Usage::ALL
            .map(|usage| (vec![("what", usage.name().to_owned())], Value::size(value(shared.memory.of(usage)))));
        Metric::family(values)
    };
    registry.register("memory_bytes", "Memory that counts against a limit", budgets(MemoryBudget::used));
    registry.register("max_memory_bytes", "The limits of that", budgets(MemoryBudget::limit));
    registry.register("peak_memory_bytes", "The most of that since the start", budgets(MemoryBudget::peak));
}

fn of_health(registry: &mut Registry, shared: &Shared) {
    let health = shared.database.health();
    let parts = |value: fn(&Health, Part) -> Value| {
        Metric::family(Part::ALL.map(|part| (vec![("part", part.name().to_owned())], value(health, part))))
    };
    registry.register(
        "health",
        "1 while the part works, 0 while it fails",
        parts(|health, part| Value::Number(i64::from(!health.is_failing(part)))),
    );
    registry.register(
        "failures",
        "Failures of a part, repeated ones included",
        parts(|health, part| Value::Counter(health.failures(part))),
    );
    let check = health.file_check();
    let states = FileCheck::ALL
        .map(|state| (vec![("state", state.as_str().replace(' ', "-"))], Value::Number(i64::from(state == check))));
    registry.register(
        "file_check",
        "1 for the state of the check of the file after a service that did not stop in order",
        Metric::family(states),
    );
    let tokens = shared.tokens.as_ref();
    let is_readable = tokens.is_none_or(|tokens| tokens.failure().is_none());
    registry.register("token_file_readable", "0 while the token file cannot be read", Metric::truth(is_readable));
    registry.register("ready", "1 while /readyz is a 200", Metric::truth(obstacles(shared).is_empty()));
}

fn of_writes(registry: &mut Registry, shared: &Shared) {
    let writes = &shared.writes;
    registry.register("commits", "Transactions that were committed", Metric::counter(writes.commits()));
    let failed = [("not-done", writes.refused.get()), ("unknown", writes.unknown.get())];
    registry.register(
        "failed_commits",
        "Transactions that failed: nothing was written, or COMMIT failed and the outcome is unknown",
        Metric::family(failed.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], Value::Counter(count)))),
    );
    registry.register(
        "commit_duration_seconds",
        "How long transactions took, failed ones included",
        Metric::single(Value::seconds(&writes.latency)),
    );
    registry.register(
        "batch_commands",
        "Commands in each committed transaction",
        Metric::single(Value::histogram(&writes.batch, 1.0)),
    );
    registry.register(
        "rejected_commands",
        "Commands that were rejected by a rule, a precondition or a validation",
        Metric::counter(writes.rejected.get()),
    );
    registry.register(
        "erasures_in_progress",
        "Erased aggregates of which the files of the database may still have something",
        Metric::number(writes.erasures.get()),
    );
    registry.register("waiting_commands", "Commands that wait for their reply", Metric::number(writes.waiting()));
    registry.register("max_waiting_commands", "The limit of waiting commands, --queue", Metric::size(shared.queue));
    registry.register(
        "waiting_command_bytes",
        "Request bodies of the commands that wait for their reply",
        Metric::number(writes.waiting_bytes()),
    );
    let committed = shared.committed.get();
    registry.register("revision", "The last committed revision", Metric::number(committed.number()));
    let position = shared.journal.borrow().last.number();
    registry.register("journal_position", "The position of the last domain event", Metric::number(position));
    registry.register(
        "pruned_tombstones",
        "Tombstones of deleted aggregates that were pruned",
        Metric::counter(writes.pruned_tombstones.get()),
    );
}

fn of_idempotency(registry: &mut Registry, shared: &Shared) {
    let writes = &shared.writes;
    let conflicts = [
        ("in-flight", shared.in_flight.refused.get()),
        ("other-body", writes.key_reused.get()),
        ("no-room", writes.answers_full.get()),
    ];
    registry.register(
        "idempotency_replays",
        "Commands that were sent again with their idempotency key, and got their first answer",
        Metric::counter(writes.repeated.get()),
    );
    registry.register(
        "idempotency_conflicts",
        "Commands that were refused because of their idempotency key: the first one was not answered, or had another \
         body, or there was no room for the answer",
        Metric::family(conflicts.map(|(reason, count)| (vec![("reason", reason.to_owned())], Value::Counter(count)))),
    );
    registry.register(
        "idempotency_answers",
        "Answers that are kept for commands with an idempotency key",
        Metric::number(writes.answers.get()),
    );
    registry.register(
        "idempotency_bytes",
        "What these answers take of the database",
        Metric::number(writes.answer_bytes.get()),
    );
    registry.register(
        "max_idempotency_bytes",
        "The limit of that, --idempotency-size",
        Metric::number(writes.max_answer_bytes.get()),
    );
}

fn of_relay(registry: &mut Registry, shared: &Shared) {
    let committed = shared.committed.get();
    let lag = shared.relay.lag(committed);
    registry.register(
        "relay_lag_revisions",
        "Committed revisions that are not published",
        Metric::number(lag.revisions),
    );
    registry.register(
        "relay_lag_seconds",
        "Time since the last publication, while committed revisions are not published",
        Metric::fraction(lag.time.as_secs_f64()),
    );
    let pruned = Metric::counter(shared.relay.pruned());
    registry.register("pruned_revisions", "Revisions whose change events were pruned", pruned);
    registry.register(
        "outbox_revisions",
        "Revisions whose change events are retained",
        Metric::number(shared.relay.retained(committed)),
    );
}

fn of_streams(registry: &mut Registry, shared: &Shared) {
    let limiter = &shared.stream_limiter;
    registry.register("open_streams", "Open streams", Metric::size(limiter.count()));
    registry.register("max_streams", "The limit of open streams, --max-sessions", Metric::size(limiter.max()));
    let refused = [("all", limiter.refused.get()), ("address", limiter.refused_to_address.get())];
    registry.register(
        "refused_streams",
        "Streams that were refused because of the limit for all of them or for those of an address",
        Metric::family(refused.map(|(limit, count)| (vec![("limit", limit.to_owned())], Value::Counter(count)))),
    );
    registry.register(
        "refused_connections",
        "Connections that were closed because their address had --max-connections-per-address",
        Metric::counter(shared.connection_limiter.refused.get()),
    );
    registry.register("parked_streams", "Streams whose clients are too slow", Metric::number(shared.parked.get()));
    let queued = Metric::size(shared.memory.of(Usage::Streams).used());
    registry.register("stream_queue_bytes", "Bytes that wait for the clients of all streams", queued);
    registry.register(
        "catch_ups",
        "Consumers that got the changed aggregates instead of the events",
        Metric::counter(shared.reads.catch_ups.get()),
    );
    registry.register(
        "journal_reads",
        "Pages of the journal that were read from the database",
        Metric::counter(shared.reads.journal_reads.get()),
    );
    let resets = Metric::counter(shared.reads.resets.get());
    registry.register("resets", "Consumers that had to drop what they had", resets);
}

fn of_reads(registry: &mut Registry, shared: &Shared) {
    let waiting = [("pages", shared.readers.waiting()), ("collections", shared.scanners.waiting())];
    registry.register(
        "waiting_reads",
        "Reads that wait for a thread",
        Metric::family(waiting.map(|(pool, count)| (vec![("pool", pool.to_owned())], Value::size(count)))),
    );
}

fn of_requests(registry: &mut Registry, shared: &Shared) {
    let routes = shared.requests.routes();
    let counts = routes.iter().flat_map(|(path, route)| {
        route.counts().map(|(method, status, count)| {
            let labels = vec![("route", path.clone()), ("method", method.to_owned()), ("status", status)];
            (labels, Value::Counter(count))
        })
    });
    registry.register("requests", "Requests by route, method and status", Metric::family(counts));
    let served = routes.iter().filter(|(_, route)| route.counts().next().is_some());
    let durations = served.map(|(path, route)| (vec![("route", path.clone())], Value::seconds(&route.duration)));
    registry.register(
        "request_duration_seconds",
        "Time from a request to the head of its response",
        Metric::family(durations),
    );
}

fn of_disk(registry: &mut Registry, shared: &Shared) {
    let database = shared.database.path();
    registry.register("database_bytes", "Size of the database file", Metric::number(size_of_file(database)));
    let log = size_of_file(&with_suffix(database, "-wal"));
    registry.register("wal_bytes", "Size of the write-ahead log", Metric::number(log));
    registry.register("disk_free_bytes", "Free room on the disk of the database", Metric::number(shared.disk.free()));
    registry.register(
        "min_free_bytes",
        "With less free room the service is not ready",
        Metric::number(shared.disk.min_free()),
    );
    let spools = &shared.spools.directory;
    let number = |bytes: u64| Metric::number(i64::try_from(bytes).unwrap_or(i64::MAX));
    registry.register("spool_bytes", "Temporary files of responses whose clients are slow", number(spools.bytes()));
    registry.register("max_spool_bytes", "The limit of that", number(spools.limits().total));
    let refused = Metric::counter(spools.refused.get());
    registry.register("spool_refused", "Responses that had no room in a temporary file", refused);
}

/// The size of a file in bytes; 0 if there is none. The file is not opened, which would drop SQLite's locks.
fn size_of_file(path: &Path) -> i64 {
    std::fs::metadata(path).map_or(0, |metadata| i64::try_from(metadata.len()).unwrap_or(i64::MAX))
}

fn of_projections(registry: &mut Registry, shared: &Shared) {
    let now = shared.projections.now();
    let states: Vec<_> = shared.projections.running.iter().map(|running| running.status.state().clone()).collect();
    let by_name = |value: &dyn Fn(&State) -> i64| {
        let values =
            states.iter().map(|state| (vec![("projection", state.name.to_owned())], Value::Number(value(state))));
        Metric::family(values)
    };
    let lag_events = by_name(&|state| state.lag(now).events);
    registry.register("lag_events", "Events that are not applied yet", lag_events);
    let lag_seconds = by_name(&|state| state.lag(now).seconds);
    registry.register("lag_seconds", "Age of the first event that is not applied yet", lag_seconds);
    let failing = by_name(&|state| i64::from(state.name_of_state() == "failing"));
    registry.register("failing", "1 while the projection is failing", failing);
    let building = by_name(&|state| i64::from(state.name_of_state() == "building"));
    registry.register("building", "1 while a generation of the projection is being built", building);
}

fn of_outputs(registry: &mut Registry, shared: &Shared) {
    let by_output = |value: &dyn Fn(&Output) -> Value| {
        let values = shared.outputs.iter().map(|output| {
            let state = output.state();
            (vec![("output", state.output.name().to_owned())], value(&state))
        });
        Metric::family(values)
    };
    let lag_events = by_output(&|output| Value::Number(output.lag_events()));
    registry.register("lag_events", "Revisions, or domain events, that the broker does not have yet", lag_events);
    let lag_seconds = by_output(&|output| Value::Fraction(output.lag_seconds()));
    registry.register("lag_seconds", "For how long the broker has not had everything", lag_seconds);
    let messages = by_output(&|output| Value::Counter(output.messages));
    registry.register("messages", "Messages that the broker has stored", messages);
    let retries = by_output(&|output| Value::Counter(output.retries));
    registry.register("retries", "Attempts to publish that failed", retries);
    let catch_ups = by_output(&|output| Value::Counter(output.catch_ups));
    registry.register("catch_ups", "Catch-ups that replaced what the stream had", catch_ups);
    let failing = by_output(&|output| Value::Number(i64::from(output.name_of_state() == "failing")));
    registry.register("failing", "1 while nothing is published because of an error", failing);
    let refused = by_output(&|output| Value::Number(i64::from(output.name_of_state() == "refused")));
    registry.register("refused", "1 while a service with another database publishes into the stream", refused);
    let standing_by = by_output(&|output| Value::Number(i64::from(output.name_of_state() == "standing-by")));
    registry.register("standing_by", "1 while another service with the same database publishes", standing_by);
}

/// The names and values of some labels.
type Labels = Vec<(&'static str, String)>;

/// A metric with its current values.
#[derive(Debug)]
struct Metric {
    values: Vec<(Labels, Value)>,
    kind: MetricType,
}

#[derive(Debug)]
enum Value {
    Counter(u64),
    /// A counter of seconds.
    Time(f64),
    Number(i64),
    Fraction(f64),
    Histogram {
        sum: f64,
        count: u64,
        buckets: Vec<(f64, u64)>,
    },
}

impl Metric {
    fn family(values: impl IntoIterator<Item = (Labels, Value)>) -> Self {
        let values: Vec<_> = values.into_iter().collect();
        let kind = values.first().map_or(MetricType::Unknown, |(_, value)| value.kind());
        Self { values, kind }
    }

    fn single(value: Value) -> Self {
        Self::family([(Vec::new(), value)])
    }

    fn counter(count: u64) -> Self {
        Self::single(Value::Counter(count))
    }

    fn fraction(number: f64) -> Self {
        Self::single(Value::Fraction(number))
    }

    fn number(number: i64) -> Self {
        Self::single(Value::Number(number))
    }

    fn size(size: usize) -> Self {
        Self::single(Value::size(size))
    }

    /// 1 or 0.
    fn truth(holds: bool) -> Self {
        Self::number(i64::from(holds))
    }
}

impl Value {
    fn kind(&self) -> MetricType {
        match self {
            Self::Counter(_) | Self::Time(_) => MetricType::Counter,
            Self::Number(_) | Self::Fraction(_) => MetricType::Gauge,
            Self::Histogram { .. } => MetricType::Histogram,
        }
    }

    fn number(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn size(size: usize) -> Self {
        Self::Number(i64::try_from(size).unwrap_or(i64::MAX))
    }

    /// A histogram of microseconds.
    fn seconds(histogram: &Histogram) -> Self {
        Self::histogram(histogram, 1e6)
    }

    /// A histogram whose numbers are divided by `unit`.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus stores floating-point numbers")]
    fn histogram(histogram: &Histogram, unit: f64) -> Self {
        let buckets: Vec<_> = histogram
            .ranges()
            .map(|(bound, count)| (bound.map_or(f64::INFINITY, |bound| bound as f64 / unit), count))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Self::Histogram { sum: histogram.sum() as f64 / unit, count, buckets }
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(count) => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
            Self::Time(seconds) => encoder.encode_counter::<NoLabelSet, _, u64>(seconds, None),
            Self::Number(number) => encoder.encode_gauge(number),
            Self::Fraction(number) => encoder.encode_gauge(number),
            Self::Histogram { sum, count, buckets } => {
                encoder.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
            }
        }
    }
}

impl EncodeMetric for Metric {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match &self.values[..] {
            [(labels, value)] if labels.is_empty() => value.encode(encoder),
            values => values.iter().try_for_each(|(labels, value)| value.encode(encoder.encode_family(labels)?)),
        }
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}
