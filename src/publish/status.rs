//! How far an output is, for those who operate the service.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::carrier::{CarrierError, Output};
use super::error::PublishError;
use super::source::Backlog;
use crate::domain::error_chain::ErrorChain;
use crate::domain::revision::Revision;
use crate::storage::page::Progress;

/// The status of an output. The publisher writes it, and HTTP handlers read it.
#[derive(Debug, Clone)]
pub(crate) struct Status(Arc<Mutex<State>>);

/// The state of an output.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) output: Output,
    backlog: Backlog,
    /// Since when something is not published.
    behind_since: Option<Instant>,
    is_catching_up: bool,
    failure: Option<Failure>,
    /// What the service that publishes instead says about itself.
    publisher: Option<String>,
    /// Why a step failed last, be it long ago.
    last_error: Option<String>,
    erased: Erased,
    /// Why messages about erased aggregates are still there.
    erasing_error: Option<String>,
    /// Messages that the broker has stored since the start.
    pub(crate) messages: u64,
    /// Steps that failed since the start.
    pub(crate) retries: u64,
    /// Catch-ups since the start.
    pub(crate) catch_ups: u64,
}

/// What the stream has no messages about any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Erased {
    /// What was erased up to this revision.
    UpTo(Revision),
    /// Messages stay: the carrier removes none.
    Never,
}

/// Why nothing is published.
#[derive(Debug)]
struct Failure {
    error: String,
    is_refused: bool,
    attempts: u32,
}

impl Status {
    pub(super) fn new(output: Output) -> Self {
        Self(Arc::new(Mutex::new(State {
            output,
            backlog: Backlog::default(),
            behind_since: None,
            is_catching_up: false,
            failure: None,
            publisher: None,
            last_error: None,
            erased: Erased::UpTo(Revision::ZERO),
            erasing_error: None,
            messages: 0,
            retries: 0,
            catch_ups: 0,
        })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while reading or writing a status")
    }

    pub(super) fn published(&self, messages: usize) {
        self.state().messages += messages as u64;
    }

    pub(super) fn catching_up(&self) {
        let mut state = self.state();
        state.catch_ups += 1;
        state.is_catching_up = true;
        log::info!("{}: the states of all aggregates replace what the stream had", state.name());
    }

    /// A step succeeded.
    pub(super) fn stepped(&self, progress: Progress, backlog: Backlog) {
        let mut state = self.state();
        if state.failure.take().is_some() {
            log::info!("{}: publishing again", state.name());
        }
        if state.publisher.take().is_some() {
            log::info!("{}: this service publishes now", state.name());
        }
        if progress == Progress::Done {
            state.is_catching_up = false;
        }
        state.set_backlog(backlog);
    }

    /// Another service with the same database publishes, which says this about itself.
    pub(super) fn stands_by(&self, other: &str, backlog: Backlog) {
        let mut state = self.state();
        if state.publisher.as_deref() != Some(other) {
            log::info!("{}: standing by, because {other} publishes", state.name());
        }
        state.failure = None;
        state.publisher = Some(other.to_owned());
        state.is_catching_up = false;
        // How far it is, only the other one knows.
        state.set_backlog(Backlog { published: backlog.last, ..backlog });
    }

    /// A step failed. The error is logged if it is another one than the last.
    pub(super) fn failed(&self, error: &PublishError, backlog: Backlog) {
        let is_refused = matches!(error, PublishError::Carrier(CarrierError::Taken(_)));
        let error = ErrorChain(error).to_string();
        let mut state = self.state();
        state.retries += 1;
        let known = state.failure.take().filter(|known| known.error == error);
        if known.is_none() {
            log::error!("{}: nothing is published: {error}", state.name());
        }
        let attempts = known.map_or(0, |known| known.attempts) + 1;
        state.publisher = None;
        state.last_error = Some(error.clone());
        state.failure = Some(Failure { error, is_refused, attempts });
        state.set_backlog(backlog);
    }

    /// Nothing is left in the stream of what was erased up to this revision.
    pub(super) fn erased(&self, up_to: Revision) {
        let mut state = self.state();
        if state.erasing_error.take().is_some() {
            log::info!("{}: messages about erased aggregates are removed again", state.name());
        }
        state.erased = Erased::UpTo(up_to);
    }

    /// The carrier removes no messages.
    pub(super) fn does_not_erase(&self) {
        let mut state = self.state();
        log::warn!("{}: messages about erased aggregates stay in the broker, if it keeps any", state.name());
        state.erased = Erased::Never;
    }

    /// Messages about erased aggregates could not be removed. The error is logged if it is another one than the last.
    pub(super) fn cannot_erase(&self, error: &PublishError) {
        let error = ErrorChain(error).to_string();
        let mut state = self.state();
        if state.erasing_error.as_ref() != Some(&error) {
            log::error!("{}: messages about erased aggregates are not removed: {error}", state.name());
        }
        state.erasing_error = Some(error);
    }

    /// `{"name":"publish changes","mode":"broker","state":"live","at":17,"lag":{…},…}`
    pub(crate) fn to_json(&self) -> Value {
        let state = self.state();
        let mut json = json!({
            "name": state.name(),
            "mode": "broker",
            "state": state.name_of_state(),
            "at": state.backlog.published,
            "lag": {"events": state.lag_events(), "seconds": state.lag_whole_seconds()},
            "messages": state.messages,
            "retries": state.retries,
            "catch_ups": state.catch_ups,
        });
        if let Some(error) = &state.last_error {
            json["last_error"] = error.as_str().into();
        }
        if let Some(error) = &state.erasing_error {
            json["erasing_error"] = error.as_str().into();
        }
        if let Some(publisher) = &state.publisher {
            json["publisher"] = publisher.as_str().into();
        }
        if let Some(Failure { error, attempts, .. }) = &state.failure {
            json["error"] = json!({"message": error, "attempts": attempts});
        }
        json
    }
}

/// How often it is looked whether streams have lost what they had.
const ERASURE_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until the streams have nothing left of an aggregate that was erased at this revision, but neither longer than
/// `patience`, nor for one that fails or that another service has. Returns the names of those that may still have something.
pub(crate) async fn wait_for_erasure(outputs: &[Status], revision: Revision, patience: Duration) -> Vec<&'static str> {
    let began = Instant::now();
    loop {
        let states = outputs.iter().map(Status::state).filter(|state| state.is_erasing(revision));
        let (mut pending, mut is_hopeless) = (Vec::new(), true);
        for state in states {
            pending.push(state.name());
            let is_others = state.publisher.is_some();
            is_hopeless &= is_others || state.failure.is_some() || state.erasing_error.is_some();
        }
        if is_hopeless || began.elapsed() >= patience {
            return pending;
        }
        actix::clock::sleep(ERASURE_INTERVAL).await;
    }
}

impl State {
    fn set_backlog(&mut self, backlog: Backlog) {
        self.backlog = backlog;
        self.behind_since = (backlog.published < backlog.last).then(|| self.behind_since.unwrap_or_else(Instant::now));
    }

    /// For people.
    pub(crate) fn name(&self) -> &'static str {
        match self.output {
            Output::Changes => "publish changes",
            Output::Journal => "publish journal",
        }
    }

    /// `refused`, `failing`, `standing-by`, `catching-up` or `live`.
    pub(crate) fn name_of_state(&self) -> &'static str {
        match &self.failure {
            Some(failure) if failure.is_refused => "refused",
            Some(_) => "failing",
            None if self.publisher.is_some() => "standing-by",
            None if self.is_catching_up => "catching-up",
            None => "live",
        }
    }

    /// Revisions, or domain events, that are not published.
    pub(crate) fn lag_events(&self) -> i64 {
        (self.backlog.last - self.backlog.published).max(0)
    }

    /// For how long something has not been published.
    pub(crate) fn lag_seconds(&self) -> f64 {
        self.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    fn lag_whole_seconds(&self) -> u64 {
        self.behind_since.map_or(0, |since| since.elapsed().as_secs())
    }

    /// Whether the stream may still have messages about an aggregate that was erased at this revision, and is to lose them.
    fn is_erasing(&self, revision: Revision) -> bool {
        matches!(self.erased, Erased::UpTo(done) if done < revision)
    }

    /// Why messages about erased aggregates are still there.
    pub(crate) fn erasing_error(&self) -> Option<&str> {
        self.erasing_error.as_deref()
    }

    /// Why nothing is published.
    pub(crate) fn error(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.error.as_str())
    }
}
