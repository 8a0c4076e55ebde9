//! All settings: flag, environment variable, unit and default.

mod environment;
mod origin;
mod publishing;
mod range;
mod tasks;
mod tls;
mod unusual;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Command, CommandFactory as _, FromArgMatches as _, Parser};

use self::range::RANGES;
pub use self::tasks::{CollectionTask, EpochTask, ProjectionTask, Task, TokenTask};
use crate::http::forwarded::{AddressRange, TrustedProxies};
use crate::http::origin::check_host_name;
use crate::publish::address::BrokerUrl;
use crate::service::log_format::LogFormat;
use crate::storage::database::FILES;
use crate::storage::preparation::CopyBefore;

const ABOUT: &str = "Publishes aggregates and their change events as two views of one truth";

const LONG_ABOUT: &str = "Publishes aggregates and their change events as two views of one truth.

Durations are written like `200ms`, `15s` or `24h`, and sizes like `65536`, `64KiB` or `1MiB`; `KB` and `MB` are powers \
                          of 1000.";

const EXAMPLES: &str = "\
Examples:
  duality
          Serve http://127.0.0.1:3000 from the database duality.db of this directory, and create it if it is missing

  duality --database :memory: --listen 127.0.0.1:3001
          Try something out beside it: nothing stays

  duality backup shop-copy.db --database shop.db
          Copy a database while a service uses it";

/// The headings under which `--help` lists the settings, in its order.
const SERVING: &str = "Serving";
const STORAGE: &str = "Storage";
const LIMITS: &str = "Limits";
const SECURITY: &str = "Security";
const PUBLISHING: &str = "Publishing";
const TUNING: &str = "Tuning";

/// The settings of a service.
///
/// A program takes them from its command line and its environment with [`Settings::parse`], or changes the defaults:
///
/// ```
/// use duality::{ByteSize, Settings};
///
/// let mut settings = Settings::default();
/// settings.listen = "127.0.0.1:0".to_owned();
/// settings.max_body = ByteSize::kib(64);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "duality", version, max_term_width = 120, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
#[non_exhaustive]
pub struct Settings {
    /// A task to run instead of the service.
    #[command(subcommand)]
    pub task: Option<Task>,

    /// The address to listen on; port 0 selects a free port.
    #[arg(long, help_heading = SERVING, env = "DUALITY_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:3000")]
    pub listen: String,

    /// How long a stream is quiet before it gets a comment line.
    #[arg(long, help_heading = SERVING, env = "DUALITY_HEARTBEAT", value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub heartbeat: Duration,

    /// How long a connection may be quiet between two requests: longer than what a proxy keeps its connections for.
    #[arg(long, help_heading = SERVING, env = "DUALITY_KEEP_ALIVE", value_name = "DURATION", default_value = "75s", value_parser = duration)]
    pub keep_alive: Duration,

    /// A peer that acknowledges and takes nothing of what is sent for six times this is cut; one that reads slowly but
    /// steadily is kept.
    #[arg(long, help_heading = SERVING, env = "DUALITY_PEER_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub peer_timeout: Duration,

    /// The form of the log: `plain`, or `json`, which is an object in each line.
    #[arg(long, help_heading = SERVING, env = "DUALITY_LOG_FORMAT", value_name = "FORMAT", default_value_t = LogFormat::Plain, value_parser = LogFormat::parse, global = true)]
    pub log_format: LogFormat,

    /// The database file; `:memory:` is a private database that is removed at exit; `postgres://host/name` is a database on a
    /// server, which other services may use as well.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_DATABASE", value_name = "FILE", default_value = "duality.db", global = true, hide_env_values = true)]
    pub database: PathBuf,

    /// With a database on a server: the name with which the files of this service begin, such as those of its projections.
    /// Two services cannot have the same.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_FILES", value_name = "FILE", default_value = FILES, global = true)]
    pub files: PathBuf,

    /// With a database on a server: how long the service may not reach it before it cuts all streams and is not ready.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_RECORD_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub record_timeout: Duration,

    /// How long change events are kept for reconnecting clients.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_RETENTION", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub retention: Duration,

    /// The maximum number of revisions whose change events are kept; not limited by default.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_RETENTION_EVENTS", value_name = "REVISIONS", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(0..))]
    pub retention_events: Option<i64>,

    /// How long tombstones of deleted aggregates are kept; a client that reconnects later starts from nothing.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_TOMBSTONE_RETENTION", value_name = "DURATION", default_value = "90d", value_parser = duration)]
    pub tombstone_retention: Duration,

    /// How long the answers to writes with an `Idempotency-Key` are kept, for those that are repeated.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_IDEMPOTENCY_RETENTION", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub idempotency_retention: Duration,

    /// How much of the database these answers may take; when they take more, writes with an `Idempotency-Key` get a 507 until
    /// the oldest answers are not kept any more.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_IDEMPOTENCY_SIZE", value_name = "SIZE", default_value = "1GiB")]
    pub idempotency_size: ByteSize,

    /// Do not copy the database before a newer version changes its tables or recomputes its states.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_NO_COPY", global = true, value_parser = BoolishValueParser::new())]
    pub no_copy: bool,

    /// The free room on the disk of the database below which the service is not ready.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_MIN_FREE", value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub min_free: ByteSize,

    /// The directory of the temporary files in which long responses wait for slow clients; that of the database by
    /// default. No file has a name there.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_SPOOL", value_name = "DIR")]
    pub spool: Option<PathBuf>,

    /// How much of a disk these files may take; those for one address, a quarter of it. Nothing is written unless
    /// `--min-free` and 16 MiB stay free.
    #[arg(long, help_heading = STORAGE, env = "DUALITY_SPOOL_SIZE", value_name = "SIZE", default_value = "1GiB")]
    pub spool_size: ByteSize,

    /// The maximum number of open streams in total.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_MAX_SESSIONS", value_name = "STREAMS", default_value = "20000")]
    pub max_sessions: NonZeroUsize,

    /// The maximum number of open streams from one address.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_MAX_SESSIONS_PER_ADDRESS", value_name = "STREAMS", default_value = "5000")]
    pub max_sessions_per_address: NonZeroUsize,

    /// The maximum number of connections from one address, further ones are closed; three quarters of all by default, since
    /// all clients behind a proxy have its address.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_MAX_CONNECTIONS_PER_ADDRESS", value_name = "CONNECTIONS")]
    pub max_connections_per_address: Option<NonZeroUsize>,

    /// How much the service buffers for one stream whose client does not read.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_SESSION_BUFFER", value_name = "SIZE", default_value = "256KiB", value_parser = size)]
    pub session_buffer: ByteSize,

    /// The maximum size of a request body.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_MAX_BODY", value_name = "SIZE", default_value = "1MiB", value_parser = size)]
    pub max_body: ByteSize,

    /// The maximum size of the state of an aggregate, as JSON text; a command that would make one larger gets a 422.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_MAX_AGGREGATE", value_name = "SIZE", default_value = "1MiB", value_parser = size)]
    pub max_aggregate: ByteSize,

    /// How long a request body may take, to which each 16 KiB of it add a second, and how long it may pause.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_BODY_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub body_timeout: Duration,

    /// The maximum number of commands waiting for the database; further ones get a 503.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_QUEUE", value_name = "COMMANDS", default_value = "4096")]
    pub queue: NonZeroUsize,

    /// The maximum number of long reads that wait for a thread: whole collections, many keys, early versions; further
    /// requests for them get a 503.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_SCAN_QUEUE", value_name = "READS", default_value = "256")]
    pub scan_queue: NonZeroUsize,

    /// How much memory everything that clients can make large may take, and SQLite's page caches; the next eight are its
    /// parts.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_MEMORY", value_name = "SIZE", default_value = "512MiB", value_parser = size)]
    pub memory: ByteSize,

    /// How much memory request bodies may take, and the commands that wait for the database; an eighth of --memory by
    /// default.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_COMMAND_MEMORY", value_name = "SIZE", value_parser = size)]
    pub command_memory: Option<ByteSize>,

    /// How much memory the shared bodies of whole collections may take; an eighth of --memory by default. A collection
    /// that does not fit is streamed, and with 0 all are.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_SHARED_BODIES", value_name = "SIZE", value_parser = size)]
    pub shared_bodies: Option<ByteSize>,

    /// How much memory replayed events may take that reconnecting clients share; a sixteenth of --memory by default. Below
    /// 257 KiB nothing is shared and every client reads from the database.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_SHARED_EVENTS", value_name = "SIZE", value_parser = size)]
    pub shared_events: Option<ByteSize>,

    /// How much memory may wait for the clients of streams; a quarter of --memory by default.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_STREAM_MEMORY", value_name = "SIZE", value_parser = size)]
    pub stream_memory: Option<ByteSize>,

    /// How much memory other responses may take; an eighth of --memory by default.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_ANSWER_MEMORY", value_name = "SIZE", value_parser = size)]
    pub answer_memory: Option<ByteSize>,

    /// How much memory the keys of filtered streams may take; a sixteenth of --memory by default.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_FILTER_MEMORY", value_name = "SIZE", value_parser = size)]
    pub filter_memory: Option<ByteSize>,

    /// How much memory the states of aggregates may take that the writer keeps; a sixteenth of --memory by default.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_AGGREGATE_MEMORY", value_name = "SIZE", value_parser = size)]
    pub aggregate_memory: Option<ByteSize>,

    /// How much memory SQLite may take for pages, in all connections; three sixteenths of --memory by default.
    #[arg(long, help_heading = LIMITS, env = "DUALITY_PAGE_CACHES", value_name = "SIZE", value_parser = size)]
    pub page_caches: Option<ByteSize>,

    /// The file of the tokens with which clients prove who they are, made by `duality token new`; without it, whoever
    /// reaches the service can read and write everything.
    #[arg(long, help_heading = SECURITY, env = "DUALITY_TOKENS", value_name = "FILE", global = true)]
    pub tokens: Option<PathBuf>,

    /// Let everybody who reaches an address of other machines read and write everything. Without this or `--tokens`, the
    /// service listens on loopback addresses only.
    #[arg(long, help_heading = SECURITY, env = "DUALITY_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// A name under which clients reach the service, in addition to IP addresses and `localhost`; separate several with
    /// commas. `*` is any, and switches off the defence against DNS rebinding.
    #[arg(long, help_heading = SECURITY, env = "DUALITY_HOST", value_name = "NAME", value_delimiter = ',', value_parser = host_name)]
    pub host: Vec<String>,

    /// An origin whose pages may read and write (CORS), as browsers send it: `https://app.example` or `null`; `*` lets
    /// those of any origin read; separate several with commas.
    #[arg(long, help_heading = SECURITY, env = "DUALITY_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = trimmed)]
    pub cors_origin: Vec<String>,

    /// A file in PEM with the certificate of the service and those between it and a root: clients then need https. It is read
    /// again when it changes, and after SIGHUP.
    #[arg(long, help_heading = SECURITY, env = "DUALITY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The file in PEM with the private key of that certificate, which may be the same.
    #[arg(long, help_heading = SECURITY, env = "DUALITY_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Another address to listen on, for operators: everything is there, and that of --listen no longer has metrics and
    /// projections.
    #[arg(long, help_heading = SECURITY, env = "DUALITY_OPERATE_ON", value_name = "HOST:PORT")]
    pub operate_on: Option<String>,

    /// Whether there is the page, on the address of --listen: `on` or `off`.
    #[arg(long, help_heading = SECURITY, env = "DUALITY_PAGE", value_name = "on|off", default_value = "on", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub page: bool,

    /// The address of a proxy, or a range such as 10.0.0.0/8, whose `X-Forwarded-For` or `Forwarded` says who its clients are;
    /// separate several with commas.
    #[arg(long, help_heading = SECURITY, env = "DUALITY_TRUSTED_PROXY", value_name = "ADDRESS", value_delimiter = ',', value_parser = trimmed)]
    pub trusted_proxy: Vec<String>,

    /// The servers of a NATS system with JetStream into which change events and domain events are published:
    /// `nats://host:4222`, or `tls://user:password@host:4222`; separate several with commas.
    #[arg(long, help_heading = PUBLISHING, env = "DUALITY_PUBLISH", hide_env_values = true, value_name = "URL", value_delimiter = ',', value_parser = broker_url)]
    pub publish: Vec<BrokerUrl>,

    /// The stream for change events, which is created if it is missing; that for domain events has `-journal` after it.
    #[arg(long, help_heading = PUBLISHING, env = "DUALITY_PUBLISH_STREAM", value_name = "NAME", default_value = "duality")]
    pub publish_stream: String,

    /// What the subjects of all messages begin with.
    #[arg(long, help_heading = PUBLISHING, env = "DUALITY_PUBLISH_PREFIX", value_name = "SUBJECT", default_value = "duality")]
    pub publish_prefix: String,

    /// How much a new stream for change events may take, which then drops the oldest; 0 is no limit. That for domain events
    /// has none.
    #[arg(long, help_heading = PUBLISHING, env = "DUALITY_PUBLISH_SIZE", value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    pub publish_size: ByteSize,

    /// A credentials file of NATS, with a JWT and a seed, instead of a user and a password in the URL.
    #[arg(long, help_heading = PUBLISHING, env = "DUALITY_PUBLISH_CREDENTIALS", value_name = "FILE")]
    pub publish_credentials: Option<PathBuf>,

    /// A file with the certificates that sign those of the NATS servers; those that the machine trusts by default.
    #[arg(long, help_heading = PUBLISHING, env = "DUALITY_PUBLISH_CA", value_name = "FILE")]
    pub publish_ca: Option<PathBuf>,

    /// The number of threads that serve connections; the number of processors by default.
    #[arg(long, help_heading = TUNING, env = "DUALITY_WORKERS", value_name = "THREADS")]
    pub workers: Option<NonZeroUsize>,

    /// The number of threads that read events and single aggregates; as many again read whole collections.
    #[arg(long, help_heading = TUNING, env = "DUALITY_READERS", value_name = "THREADS", default_value = "2")]
    pub readers: NonZeroUsize,

    /// How often the relay polls the outbox when it receives no notification.
    #[arg(long, help_heading = TUNING, env = "DUALITY_POLL_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub poll_interval: Duration,

    /// How often older change events are pruned.
    #[arg(long, help_heading = TUNING, env = "DUALITY_PRUNE_INTERVAL", value_name = "DURATION", default_value = "1min", value_parser = duration)]
    pub prune_interval: Duration,
}

impl Settings {
    /// Whether the database is copied before an upgrade changes it.
    pub(super) fn copy_before(&self) -> CopyBefore {
        if self.no_copy { CopyBefore::Never } else { CopyBefore::Upgrade }
    }

    /// The number of threads that serve connections.
    pub(super) fn worker_threads(&self) -> usize {
        self.workers.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    /// The settings of this process: command line, environment, defaults. Exits the process for `--help` and for an
    /// invalid command line.
    #[must_use]
    pub fn parse() -> Self {
        Self::read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// All settings and tasks, with the range of each setting in its help.
    pub(super) fn described() -> Command {
        range::describe(Self::command())
    }

    /// The settings that are not the defaults, as on a command line: `--retention 1h`.
    pub(super) fn unusual(&self) -> Vec<String> {
        unusual::unusual(self)
    }

    /// The settings of a command line, and of the environment of this process.
    fn read(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let read = |command: &mut Command| {
            command.try_get_matches_from_mut(&arguments).and_then(|matches| Self::from_arg_matches(&matches))
        };
        let mut command = environment::ignore_empty(Self::described());
        read(&mut command).or_else(|error| {
            // A task that needs no settings does not fail because of one in the environment.
            let alone = read(&mut Self::described().mut_args(|argument| argument.env(None::<&'static str>))).ok();
            let is_enough = |settings: &Self| settings.task.as_ref().is_some_and(|task| !task.reads_settings());
            alone.filter(is_enough).ok_or_else(|| environment::explain(error, &mut command))
        })
    }

    /// The addresses to listen on, as they are written.
    pub(super) fn addresses(&self) -> Vec<&str> {
        std::iter::once(&self.listen).chain(&self.operate_on).map(String::as_str).collect()
    }

    /// The proxies that may say who their clients are: [`Self::check`] has refused what is no address.
    pub(super) fn trusted_proxies(&self) -> TrustedProxies {
        TrustedProxies::new(self.trusted_proxy.iter().filter_map(|proxy| proxy.parse().ok()))
    }

    /// Checks everything that can be checked before anything is opened.
    ///
    /// # Errors
    /// Names the setting, and what was expected.
    pub(super) fn check(&self) -> Result<(), InvalidSetting> {
        let invalid =
            |flag, expected: String, value: &str| Err(InvalidSetting { flag, expected, value: value.to_owned() });
        for range in RANGES {
            if let Some(value) = range.violation(self) {
                return invalid(range.flag, range.expected(), &value);
            }
        }
        let addresses = [("listen", Some(&self.listen)), ("operate-on", self.operate_on.as_ref())];
        for (flag, address) in addresses.into_iter().filter_map(|(flag, address)| Some((flag, address?))) {
            if !is_address(address) {
                return invalid(flag, "a host and a port, such as 127.0.0.1:3000".to_owned(), address);
            }
        }
        for proxy in &self.trusted_proxy {
            if let Err(why) = proxy.parse::<AddressRange>() {
                return invalid("trusted-proxy", format!("an address such as 10.0.0.7 or 10.0.0.0/8 ({why})"), proxy);
            }
        }
        if self.database.as_os_str().is_empty() {
            return invalid("database", "the name of a file, or :memory:".to_owned(), "");
        }
        for host in &self.host {
            if let Err(why) = check_host_name(host) {
                return invalid("host", format!("a host name such as shop.example, or * ({why})"), host);
            }
        }
        for origin in self.cors_origin.iter().filter(|origin| *origin != "*") {
            if let Err(why) = origin::check(origin) {
                let expected = format!("an origin such as https://app.example, null or * ({why})");
                return invalid("cors-origin", expected, origin);
            }
        }
        tls::check(self)?;
        publishing::check(self)
    }

    /// A line for each variable of the environment that looks like a setting and is none.
    pub(super) fn unknown_variables() -> Vec<String> {
        environment::unknown(&Self::command(), std::env::vars_os())
    }
}

/// A setting that the service cannot work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting {
    flag: &'static str,
    expected: String,
    value: String,
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flag, expected, value } = self;
        write!(f, "--{flag} (DUALITY_{}): expected {expected}, got {value:?}", flag.replace('-', "_").to_uppercase())
    }
}

impl std::error::Error for InvalidSetting {}

impl Default for Settings {
    /// The defaults. The environment is not read.
    fn default() -> Self {
        let command = Self::command().mut_args(|arg| arg.env(None::<&'static str>));
        let matches = command.try_get_matches_from(["duality"]).expect("every setting has a valid default");
        Self::from_arg_matches(&matches).expect("every setting has a valid default")
    }
}

/// A size in bytes as this machine counts memory.
pub(super) fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

/// A host name; a port is ignored.
fn host_name(text: &str) -> Result<String, String> {
    let text = text.trim();
    check_host_name(text).map_err(|why| format!("expected a host name such as shop.example, or * ({why})"))?;
    Ok(text.to_owned())
}

/// The URL of a message broker. It is checked later, so that no message about it shows a password.
fn broker_url(text: &str) -> Result<BrokerUrl, Infallible> {
    Ok(BrokerUrl::from(text))
}

/// An element of a list, without the spaces around it.
fn trimmed(text: &str) -> Result<String, Infallible> {
    Ok(text.trim().to_owned())
}

/// Whether a text has the form `HOST:PORT`. Whether there is such a host is another question.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_bare_ipv6 = host.contains(':') && !host.ends_with(']');
        !host.is_empty() && !is_bare_ipv6 && port.parse::<u16>().is_ok()
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a duration such as 200ms, 15s or 24h".to_owned())
}

fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "expected a size such as 65536, 64KiB or 1MiB".to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command as Program;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Settings, clap::Error> {
        Settings::read([&["duality"], flags].concat())
    }

    /// What a user sees of an invalid setting.
    fn rejection(flag: &str, value: &str) -> String {
        match parse(&[flag, value]) {
            Ok(settings) => settings.check().expect_err(value).to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn sizes_and_durations_have_units() {
        let settings = parse(&["--max-body", "64KiB", "--poll-interval", "200ms", "--retention", "0s"]).unwrap();
        assert_eq!(settings.max_body, ByteSize(65_536));
        assert_eq!(settings.poll_interval, Duration::from_millis(200));
        assert_eq!(settings.retention, Duration::ZERO);
        for (text, bytes) in [("65536", 65_536), ("1MiB", 1 << 20), ("1MB", 1_000_000), ("0", 0)] {
            assert_eq!(parse(&["--max-body", text]).unwrap().max_body, ByteSize(bytes), "{text}");
        }
    }

    #[test]
    fn an_invalid_value_is_rejected_with_what_was_expected() {
        for (flag, value, expected) in [
            ("--poll-interval", "0s", "10ms to 1h"),
            ("--poll-interval", "1ns", "10ms to 1h"),
            ("--poll-interval", "5", "10ms to 1h"),
            ("--retention", "292277026596y", "0s to 36500d"),
            ("--retention", "100000000d", "0s to 36500d"),
            ("--retention-events", "18446744073709551615", "0 to 1000000000000"),
            ("--retention-events", "9223372036854775807", "0 to 1000000000000"),
            ("--max-body", "1XB", "64B to 1GiB"),
            ("--max-body", "0", "64B to 1GiB"),
            ("--session-buffer", "16EiB", "4KiB to 1GiB"),
            ("--queue", "0", "1 to 1000000"),
            ("--workers", "513", "1 to 512"),
            ("--workers", "0", "1 to 512"),
            ("--readers", "100000", "1 to 256"),
            ("--listen", "3000", "a host and a port, such as 127.0.0.1:3000"),
            ("--listen", "::1:3000", "a host and a port"),
            ("--listen", ":3000", "a host and a port"),
            ("--listen", "localhost:99999", "a host and a port"),
            ("--host", "https://shop.example", "a host name such as shop.example"),
            ("--host", "shop.example,*.example", "no wildcards"),
            ("--database", "", "the name of a file, or :memory:"),
            ("--spool", "", "the name of a directory"),
            ("--cors-origin", "http://", "an origin such as https://app.example"),
            ("--cors-origin", "*,https://app.example/", "not even a slash at its end"),
        ] {
            let rejection = rejection(flag, value);
            assert!(rejection.contains(expected), "{flag} {value}: {rejection}");
            assert!(rejection.contains(flag.trim_start_matches('-')), "{rejection}");
        }
        assert!(parse(&["--nonsense", "1"]).is_err());
    }

    #[test]
    fn spaces_around_the_elements_of_a_list_do_not_count() {
        let origins = "https://a.example, https://b.example";
        let settings = parse(&["--cors-origin", origins, "--host", "a.example , b.example"]).unwrap();
        assert_eq!(settings.cors_origin, ["https://a.example", "https://b.example"]);
        assert_eq!(settings.host, ["a.example", "b.example"]);
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn every_form_of_an_address_and_of_an_origin_is_accepted() {
        for listen in ["127.0.0.1:0", "[::]:3000", "localhost:3000", "0.0.0.0:65535"] {
            assert_eq!(parse(&["--listen", listen]).unwrap().check(), Ok(()), "{listen}");
        }
        for origins in ["*", "null", "https://app.example,http://localhost:5173"] {
            assert_eq!(parse(&["--cors-origin", origins]).unwrap().check(), Ok(()), "{origins}");
        }
    }

    /// Runs as a test of its own, and below with variables set.
    #[test]
    fn the_defaults_are_those_of_an_empty_command_line() {
        let defaults = Settings::default();
        assert_eq!((defaults.listen.as_str(), defaults.queue.get()), ("127.0.0.1:3000", 4096));
        if std::env::vars().all(|(name, _)| !name.starts_with("DUALITY_")) {
            assert_eq!(defaults, parse(&[]).unwrap());
        }
    }

    #[test]
    fn the_defaults_do_not_read_the_environment() {
        for (name, value) in [("DUALITY_QUEUE", "7"), ("DUALITY_LISTEN", "x"), ("DUALITY_QUEUE", "nonsense")] {
            let test = "service::settings::tests::the_defaults_are_those_of_an_empty_command_line";
            let run = Program::new(std::env::current_exe().unwrap()).args(["--exact", test]).env(name, value).output();
            let output = run.unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{name}={value}: {text}");
        }
    }
}
