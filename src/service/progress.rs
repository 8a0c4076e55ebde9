//! The progress of a copy: a bar on a terminal, otherwise a line in the log every few seconds.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

use crate::service::signals::Signals;
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
    incomplete: Arc<Mutex<Vec<PathBuf>>>,
}

impl CommandProgress {
    /// # Errors
    /// The process cannot handle signals.
    pub(super) fn new() -> std::io::Result<Self> {
        let incomplete = Arc::<Mutex<Vec<PathBuf>>>::default();
        let on_stop = Arc::clone(&incomplete);
        let (ready, readiness) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("duality-signals".to_owned()).spawn(move || {
            actix::System::new().block_on(async {
                match Signals::new() {
                    Ok(signals) => {
                        // Its receiver waits.
                        let _ = ready.send(Ok(()));
                        stop_on_signal(signals, &on_stop).await;
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            });
        })?;
        readiness.recv().unwrap_or(Ok(()))?;
        let bar = std::io::stderr().is_terminal().then(new_bar);
        Ok(Self { bar, log: LogProgress::new(), incomplete })
    }
}

/// The exit code of a process that was asked to stop, as shells have it.
const INTERRUPTED: i32 = 130;

async fn stop_on_signal(mut signals: Signals, incomplete: &Mutex<Vec<PathBuf>>) {
    let name = signals.next().await;
    let incomplete = incomplete.lock().expect("no thread panics while it holds this lock");
    for file in incomplete.iter() {
        // It may have got its name already.
        let _ = std::fs::remove_file(file);
        let mut journal = file.clone().into_os_string();
        journal.push("-journal");
        let _ = std::fs::remove_file(journal);
    }
    log::error!("{name}: given up; nothing is left of the copy");
    std::process::exit(INTERRUPTED);
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
        self.incomplete.lock().expect("no thread panics while it holds this lock").push(partial.to_owned());
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
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
