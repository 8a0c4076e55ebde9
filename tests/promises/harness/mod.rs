//! What every test uses: its own service, and a client that exposes everything it receives.

mod app;
pub(crate) mod carrier;
mod client;
mod cluster;
mod data_directory;
mod database;
pub(crate) mod engine;
pub(crate) mod exchange;
mod marked;
pub(crate) mod mosquitto;
pub(crate) mod nats;
mod process;
mod proxy;
mod search;
mod services;
mod small_disk;
mod stream;
mod tls;
mod tokens;
mod wire;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) use app::{App, count};
pub(crate) use client::{Client, Response};
pub(crate) use cluster::Cluster;
pub(crate) use database::{Lock, Snapshot, enlarge, lines, make_older, migrations, sql, sql_in_log, undo_migrations};
pub(crate) use engine::{copy_of, files_of, is_postgres, shared_server};
pub(crate) use marked::{Marked, Outcome, assert_agrees};
pub(crate) use process::{Process, example, lasting_address, output_of};
pub(crate) use proxy::{Cut, Proxy, Way};
pub(crate) use search::files_with;
pub(crate) use services::{NoRule, with_inline};
pub(crate) use small_disk::SmallDisk;
pub(crate) use stream::{Event, Stream};
pub(crate) use tls::{Authority, Certificate};
pub(crate) use tokens::{Token, TokenFile};
pub(crate) use wire::Wire;

/// How long an expected event may take. It is long so that no test fails on a busy machine; a passing test never waits
/// that long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Where the files of tests are: in memory where that has room for them, or in `TMPDIR`. What a kill leaves is the same on a
/// disk, but a test would wait for the disk most of its time.
pub(crate) fn place() -> &'static Path {
    const ROOM: u64 = 2 << 30;
    static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
        let memory = Path::new("/dev/shm");
        let has_room = rustix::fs::statvfs(memory).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > ROOM);
        let is_chosen = std::env::var_os("TMPDIR").is_some();
        if has_room && !is_chosen { memory.to_owned() } else { std::env::temp_dir() }
    });
    &PLACE
}

/// A directory of its own for a test.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(place()).unwrap()
}

/// Leaves the processors to whoever is waited for, before something is tried again.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        let waited = start.elapsed();
        assert!(waited < DEADLINE, "not in time: {what}");
        // The longer it takes, the less often it is looked at: a look may be a request.
        std::thread::sleep((waited / 10).clamp(Duration::from_millis(2), Duration::from_millis(50)));
    }
}

/// Prints that something is not tested, because of what this machine lacks. Fails where it must have everything
/// (`DUALITY_REQUIRE_CLIENTS=1`, as in CI).
#[track_caller]
pub(crate) fn not_tested(what: &str, why: &str) {
    let required = std::env::var_os("DUALITY_REQUIRE_CLIENTS").is_some_and(|value| value == "1");
    assert!(!required, "{what}: {why}");
    // The output of eprintln! is not shown when a test passes.
    let mut terminal = std::io::stderr();
    writeln!(terminal, "{what} NOT TESTED: {why}").unwrap();
}

/// The number of cases of a property test: `DUALITY_CASES` thousandths of `all`, by default a tenth.
pub(crate) fn cases(all: u32) -> u32 {
    (all * number_from_environment("DUALITY_CASES", 100) / 1000).max(1)
}

/// The same for a test whose cases are long: where CI runs ten times the default of others (`DUALITY_CASES=1000`), it runs three
/// times as many, and takes less than a minute. More than that is taken as it is.
pub(crate) fn long_cases(all: u32) -> u32 {
    let cases = number_from_environment("DUALITY_CASES", 100);
    let cases = if (100..=1000).contains(&cases) { 100 + (cases - 100) * 2 / 9 } else { cases };
    (all * cases / 1000).max(1)
}

/// Whether this is CI or the long run, which have time for what a developer does not wait for.
pub(crate) fn has_time() -> bool {
    number_from_environment("DUALITY_CASES", 100) >= 1000
}

/// How often a test kills the service: `DUALITY_KILLS`, by default 3.
pub(crate) fn kills() -> u32 {
    number_from_environment("DUALITY_KILLS", 3)
}

/// How long hostile clients come at least: `DUALITY_HOSTILE_SECONDS`, by default 2.
pub(crate) fn hostile_time() -> Duration {
    Duration::from_secs(number_from_environment("DUALITY_HOSTILE_SECONDS", 2).into())
}

fn number_from_environment(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// A random number generator with a seed, so that a failure can be repeated: an xorshift of 64 bits.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub(crate) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}
