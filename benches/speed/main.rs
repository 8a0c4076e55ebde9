//! How fast the service is, compared with how fast this machine could be: the real release binary with a database file,
//! driven over loopback, and limit programs measured alternately with it.
//!
//!     cargo bench --bench speed                      every figure, about ten minutes
//!     cargo bench --bench speed -- --quick           every figure, about five minutes
//!     cargo bench --bench speed -- post-64           one figure
//!     cargo bench --bench speed -- --json            for programs
//!     cargo bench --bench speed -- --growth          every figure again at ten times the size, with the exponents
//!     cargo bench --bench speed -- cost --against PATH   the processor time of requests, and that of another build
//!     cargo bench --bench speed -- --awake           with processors that never sleep (see below)
//!
//! A ratio is the median of five runs of a figure over the median of five runs of its limit. Only ratios can be
//! compared between machines.
//!
//! An idle virtual processor is returned to the host, and takes 50 to 100 µs to wake up, which is more than a request
//! takes. `--awake` runs a loop of the lowest priority (`chrt --idle`) on each processor, which yields to everything
//! else, for figures and limits alike.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark that fails has no results"
)]
#![expect(clippy::cast_precision_loss, reason = "no figure needs that many digits")]
#![expect(missing_docs, unreachable_pub, reason = "nothing else uses this")]

#[path = "../load/mod.rs"]
mod load;

mod commands;
mod cost;
mod crowd;
mod events;
mod following;
mod limits;
mod process;
mod publishing;
mod reads;
mod report;
mod server;
mod sql;
mod standing;
mod writes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use process::Process;
use report::Line;
use tempfile::TempDir;

/// How figures are measured.
pub struct Setup {
    pub binary: PathBuf,
    /// Another build of the service, with which `cost` compares.
    pub against: Option<PathBuf>,
    /// The duration of each run of a figure.
    pub seconds: f64,
    pub runs: usize,
    /// The factor for data or clients: ten for the growth, otherwise one.
    pub scale: usize,
}

impl Setup {
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// An empty directory for a database, on the disk of the project.
    pub fn directory() -> TempDir {
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
    }

    pub fn start(&self, database: &Path) -> Process {
        Process::service(&self.binary, database, &[])
    }

    /// A database with the empty tables of the service.
    pub fn empty(&self, directory: &TempDir) -> PathBuf {
        let database = directory.path().join("speed.db");
        drop(self.start(&database));
        database
    }

    /// Measures a figure and its limit alternately.
    pub fn measured(&self, mut figure: impl FnMut() -> f64, mut limit: impl FnMut() -> f64) -> (Vec<f64>, Vec<f64>) {
        (0..self.runs).map(|_| (figure(), limit())).unzip()
    }
}

/// A name, and the function that measures its lines.
type Figure = (&'static str, fn(&Setup) -> Vec<Line>);

const FIGURES: &[Figure] = &[
    ("post-64", writes::many),
    ("post-city", writes::with_a_city),
    ("post-1", writes::one),
    ("mixed", writes::mixed),
    ("backup", writes::beside_a_backup),
    ("cost", cost::of_requests),
    ("command", commands::by_size),
    ("beside", commands::beside_others),
    ("get-1k", reads::thousand),
    ("get-100k", reads::hundred_thousand),
    ("get-moving", reads::while_it_moves),
    ("deliver", events::latency),
    ("fan-out", events::throughput),
    ("catch-up", events::catch_up),
    ("filtered", following::filtered),
    ("journal", following::journal),
    ("publish", publishing::all),
    ("server", server::all),
    ("sessions", standing::sessions),
    ("crowd", crowd::all),
    ("start", standing::start),
    ("idle", standing::idle),
    ("disk", standing::disk),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(limit) = arguments.iter().position(|argument| argument == "--as-limit") {
        return limits::run(&arguments[limit + 1..]);
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // `cargo test --benches` only checks that this compiles.
    if !has("--bench") {
        return;
    }
    let at = arguments.iter().position(|argument| argument == "--against");
    let against = at.map(|at| arguments.get(at + 1).expect("--against needs the path of a binary"));
    let is_name = |argument: &&String| !argument.starts_with("--") && Some(*argument) != against;
    let names: Vec<&String> = arguments.iter().filter(is_name).collect();
    if let Some(unknown) = names.iter().find(|name| FIGURES.iter().all(|(known, _)| *known != name.as_str())) {
        eprintln!(
            "no figure {unknown}; there are {}",
            FIGURES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        );
        std::process::exit(2);
    }
    if std::env::var_os(RAISED).is_none() {
        return with_more_files(&arguments);
    }
    let _awake: Vec<Process> =
        if has("--awake") { (0..processors()).map(|_| Process::spinner()).collect() } else { vec![] };
    let seconds = if has("--quick") { 0.5 } else { 2.0 };
    let (binary, against) = (process::release_binary(), against.map(PathBuf::from));
    let mut setup = Setup { binary, against, seconds, runs: 5, scale: 1 };
    let lines = measure(&setup, &names);
    if has("--json") {
        report::print_json(&lines);
    } else {
        report::table(&lines);
    }
    if has("--growth") {
        setup.scale = 10;
        report::growth(&lines, &measure(&setup, &names));
    }
}

/// Set when the limit of open files has been raised.
const RAISED: &str = "DUALITY_BENCH_RAISED";

/// Runs this program again with the maximum number of open files, because ten thousand streams are ten thousand
/// sockets.
fn with_more_files(arguments: &[String]) {
    let mut again = std::process::Command::new("sh");
    again.args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#]).arg(std::env::current_exe().unwrap());
    let status = again.args(arguments).env(RAISED, "yes").status().unwrap();
    std::process::exit(status.code().unwrap_or(1));
}

fn processors() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// Measures the figures with these names, or all.
fn measure(setup: &Setup, names: &[&String]) -> Vec<Line> {
    let wanted =
        FIGURES.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted.as_str() == *name));
    wanted
        .flat_map(|(name, figure)| {
            eprintln!("{name} …");
            figure(setup)
        })
        .collect()
}
