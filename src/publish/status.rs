//! How far an output is, for those who operate the service.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde_json::{Value, json};

use super::carrier::{CarrierError, Output};
use super::error::PublishError;
use super::source::Backlog;
use crate::domain::error_chain::ErrorChain;
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
    /// Why a step failed last, be it long ago.
    last_error: Option<String>,
    /// Messages that the broker has stored since the start.
    pub(crate) messages: u64,
    /// Steps that failed since the start.
    pub(crate) retries: u64,
    /// Catch-ups since the start.
    pub(crate) catch_ups: u64,
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
            last_error: None,
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
        if progress == Progress::Done {
            state.is_catching_up = false;
        }
        state.set_backlog(backlog);
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
        state.last_error = Some(error.clone());
        state.failure = Some(Failure { error, is_refused, attempts });
        state.set_backlog(backlog);
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
        if let Some(Failure { error, attempts, .. }) = &state.failure {
            json["error"] = json!({"message": error, "attempts": attempts});
        }
        json
    }
}

impl State {
    fn set_backlog(&mut self, backlog: Backlog) {
        self.backlog = backlog;
        self.behind_since = (backlog.published < backlog.last).then(|| self.behind_since.unwrap_or_else(Instant::now));
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        format!("publish {}", self.output.name())
    }

    /// `refused`, `failing`, `catching-up` or `live`.
    pub(crate) fn name_of_state(&self) -> &'static str {
        match &self.failure {
            Some(failure) if failure.is_refused => "refused",
            Some(_) => "failing",
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

    /// Why nothing is published.
    pub(crate) fn error(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.error.as_str())
    }
}
