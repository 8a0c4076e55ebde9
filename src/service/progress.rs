//! The progress of a copy: a bar on a terminal, otherwise a line in the log every few seconds.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

use crate::service::descriptors::open_no_more;
use crate::service::signals::{Hangup, Signals};
use crate::storage::backup::CopyObserver;

/// Writes the progress to the log.
pub(super) struct LogProgress {
    /// When the last line was written, or the copy began.
    last: Mutex<Instant>,
}

/// How often the log has a line about a copy.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

impl LogProgress {
    pub(super) fn new() -> Self {
        Self { last: Mutex::new(Instant::now()) }
    }
}

impl CopyObserver for LogProgress {
    fn begin(&self, _: &Path) {}

    fn progress(&self, written: u64, total: u64) {
        let mut last = self.last.lock().expect("no thread panics while it holds this lock");
        if last.elapsed() >= LINE_INTERVAL {
            *last = Instant::now();
            log::info!("copied {} of about {}", ByteSize(written), ByteSize(total));
        }
    }

    fn end(&self) {}
}

/// Shows the progress to the person at the terminal, and removes incomplete copies if the process is asked to stop.
pub(super) struct CommandProgress {
    /// `None` if nobody looks at standard error.
    bar: Option<ProgressBar>,
    log: LogProgress,
    incomplete: Arc<Incomplete>,
}

impl CommandProgress {
    /// # Errors
    /// The process cannot handle signals.
    pub(super) fn new() -> std::io::Result<Self> {
        let incomplete = Arc::<Incomplete>::default();
        stop_on_signal(&incomplete, Scope::Process)?;
        let bar = std::io::stderr().is_terminal().then(new_bar);
        Ok(Self { bar, log: LogProgress::new(), incomplete })
    }
}

/// Writes the progress of the copy at the start of a service to the log, and ends the process if it is asked to stop
/// meanwhile. Before and after the copy, signals are the service's own business.
pub(super) struct StartProgress {
    log: LogProgress,
    incomplete: Arc<Incomplete>,
}

impl StartProgress {
    pub(super) fn new() -> Self {
        Self { log: LogProgress::new(), incomplete: Arc::default() }
    }
}

/// The incomplete copies of this process.
#[derive(Default)]
struct Incomplete {
    /// The last one is the one that is being written.
    files: Mutex<Vec<PathBuf>>,
}

/// When a signal ends the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// At any time.
    Process,
    /// While there is an incomplete copy.
    Copy,
}

/// The exit code of a process that was asked to stop, as shells have it.
const INTERRUPTED: i32 = 130;

impl Incomplete {
    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.files.lock().expect("no thread panics while it holds this lock")
    }

    fn push(&self, file: &Path) {
        self.lock().push(file.to_owned());
    }

    fn pop(&self) {
        self.lock().pop();
    }

    /// Removes the incomplete copies and ends the process. Without a copy, only a command ends. No copy can begin meanwhile.
    fn give_up(&self, signal: &str, scope: Scope) {
        let files = self.lock();
        let Some(last) = files.last() else {
            if scope == Scope::Process {
                log::error!("{signal}: given up");
                std::process::exit(INTERRUPTED);
            }
            return;
        };
        // SQLite creates the file of a copy, and its journal, when it needs them: on the other thread, perhaps after they are
        // removed here.
        open_no_more();
        // It may have got its name already; then it is complete.
        let is_removed = std::fs::remove_file(last).is_ok();
        files.iter().for_each(|file| remove_with_journal(file));
        let outcome = if is_removed { "nothing is left of the copy" } else { "the copy is complete" };
        log::error!("{signal}: given up; {outcome}");
        std::process::exit(INTERRUPTED);
    }
}

fn remove_with_journal(file: &Path) {
    let mut journal = file.as_os_str().to_owned();
    journal.push("-journal");
    for file in [file, Path::new(&journal)] {
        // Most of them are not there.
        let _ = std::fs::remove_file(file);
    }
}

/// Listens for signals on a thread of its own, because a copy blocks the one that makes it.
fn stop_on_signal(incomplete: &Arc<Incomplete>, scope: Scope) -> std::io::Result<()> {
    let incomplete = Arc::clone(incomplete);
    let (ready, readiness) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("duality-signals".to_owned()).spawn(move || {
        actix::System::new().block_on(async {
            let (mut signals, listening) = match Signals::new(Hangup::Stops) {
                Ok(signals) => (Some(signals), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Its receiver waits.
            let _ = ready.send(listening);
            while let Some(signals) = &mut signals {
                incomplete.give_up(signals.stop().await, scope);
            }
        });
    })?;
    readiness.recv().unwrap_or(Ok(()))
}

fn new_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(0);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl CopyObserver for CommandProgress {
    fn begin(&self, partial: &Path) {
        self.incomplete.push(partial);
    }

    fn progress(&self, written: u64, total: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(written);
            }
            None => self.log.progress(written, total),
        }
    }

    fn end(&self) {
        self.incomplete.pop();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl CopyObserver for StartProgress {
    fn begin(&self, partial: &Path) {
        self.incomplete.push(partial);
        // Most starts copy nothing, so the thread begins here.
        if let Err(error) = stop_on_signal(&self.incomplete, Scope::Copy) {
            log::warn!("signals do not end the copy: {error}");
        }
    }

    fn progress(&self, written: u64, total: u64) {
        self.log.progress(written, total);
    }

    fn end(&self) {
        self.incomplete.pop();
    }
}
