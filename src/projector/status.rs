//! The status of a projection, for those who operate the service.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde_json::{Value, json};

use super::event_page::EventId;
use crate::domain::clock::Timestamp;
use crate::read_model::error::ProjectionError;

/// The status of a projection. The projector writes it, and HTTP handlers read it.
#[derive(Debug, Clone)]
pub(crate) struct Status(Arc<Mutex<State>>);

/// The state of a projection.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) name: &'static str,
    pub(crate) version: i64,
    pub(crate) mode: Mode,
    /// The generation that is served.
    pub(crate) current: Option<Current>,
    pub(crate) building: Option<Building>,
    /// The events that are not applied yet, if there are any.
    pub(crate) behind: Option<Behind>,
    pub(crate) failure: Option<Failure>,
    /// Whether its files may have something that was erased.
    pub(crate) is_erasing: bool,
    /// Of so many times that something of the past was overwritten, nothing is left in its files.
    pub(crate) erasures: i64,
}

/// How a projection is kept up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Inline,
    Background,
}

/// The generation that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) generation: i64,
    pub(crate) version: i64,
    pub(crate) offset: i64,
    pub(crate) tables: PathBuf,
    pub(crate) output: PathBuf,
}

/// The generation that is being built.
#[derive(Debug, Clone)]
pub(crate) struct Building {
    pub(crate) generation: i64,
    /// The offset of the last applied event …
    pub(crate) done: i64,
    /// … and that of the last event.
    pub(crate) total: i64,
    /// When this process started or continued the build, and at which offset.
    pub(crate) started: Instant,
    pub(crate) started_at: i64,
}

/// The events that are not applied yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behind {
    pub(crate) events: i64,
    /// The time of the first of them.
    pub(crate) since: Timestamp,
}

/// Why a projection is failing.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) event: Option<FailedEvent>,
    /// The generation to which the event cannot be applied.
    pub(crate) generation: Option<i64>,
    pub(crate) error: String,
    pub(crate) attempts: u32,
}

/// An event that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedEvent {
    pub(crate) id: EventId,
    /// Its position or revision; events of one revision share it.
    pub(crate) at: i64,
}

/// Why a step of a projection failed.
pub(super) struct StepError {
    /// `None` if the cause is not one event, but for example a full disk.
    pub(super) event: Option<FailedEvent>,
    /// The generation to which the event cannot be applied.
    pub(super) generation: Option<i64>,
    pub(super) error: ProjectionError,
}

impl<E: Into<ProjectionError>> From<E> for StepError {
    fn from(error: E) -> Self {
        Self { event: None, generation: None, error: error.into() }
    }
}

impl Status {
    pub(crate) fn new(name: &'static str, version: i64, mode: Mode) -> Self {
        let state = State {
            name,
            version,
            mode,
            current: None,
            building: None,
            behind: None,
            failure: None,
            is_erasing: false,
            erasures: -1,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while reading or writing a status")
    }

    /// Logs the error if it is another one than the last, and counts the attempts that failed for the same reason.
    pub(super) fn record_failure(&self, StepError { event, generation, error }: StepError) {
        let mut state = self.state();
        let known = state.failure.as_ref().filter(|known| known.event == event && known.generation == generation);
        let attempts = known.map_or(0, |known| known.attempts) + 1;
        if known.is_none_or(|known| known.error != error.0) {
            log::error!("projection {} is failing: {error}", state.name);
        }
        state.failure = Some(Failure { event, generation, error: error.0, attempts });
    }

    /// `{"name":"cart_items","version":1,"mode":"background","state":"live","generation":3,"at":17,"lag":{…},…}`
    pub(crate) fn to_json(&self, now: Timestamp) -> Value {
        let state = self.state();
        let lag = state.lag(now);
        let mut json = json!({
            "name": state.name,
            "version": state.version,
            "mode": match state.mode {
                Mode::Inline => "inline",
                Mode::Background => "background",
            },
            "state": state.name_of_state(),
            "lag": {"events": lag.events, "seconds": lag.seconds},
        });
        if let Some(current) = &state.current {
            json["generation"] = current.generation.into();
            json["at"] = current.offset.into();
            if current.version != state.version {
                json["current_version"] = current.version.into();
            }
        }
        if let Some(building) = &state.building {
            json["building"] = building.to_json();
        }
        if state.is_erasing {
            json["erasing"] = true.into();
        }
        if let Some(Failure { event, generation, error, attempts }) = &state.failure {
            let at = event.as_ref().map(|event| event.at);
            json["error"] = json!({"at": at, "message": error, "attempts": attempts});
            if let Some(generation) = generation {
                json["error"]["generation"] = (*generation).into();
            }
        }
        json
    }
}

/// How far a projection is behind the last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lag {
    pub(crate) events: i64,
    pub(crate) seconds: i64,
}

impl State {
    /// `failing`, `building` or `live`.
    pub(crate) fn name_of_state(&self) -> &'static str {
        match (&self.failure, &self.building) {
            (Some(_), _) => "failing",
            (None, Some(_)) => "building",
            // There is no first generation yet.
            (None, None) if self.current.is_none() && self.mode == Mode::Background => "building",
            (None, None) => "live",
        }
    }

    pub(crate) fn lag(&self, now: Timestamp) -> Lag {
        let Some(behind) = self.behind else { return Lag { events: 0, seconds: 0 } };
        let milliseconds = now.milliseconds().saturating_sub(behind.since.milliseconds()).max(0);
        Lag { events: behind.events, seconds: milliseconds / 1000 }
    }
}

impl Building {
    fn to_json(&self) -> Value {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let per_second = ((self.done - self.started_at) as f64 / seconds).max(0.0);
        #[expect(clippy::cast_precision_loss, reason = "a time for people")]
        let left = if per_second > 0.0 { Some((self.total - self.done).max(0) as f64 / per_second) } else { None };
        json!({
            "generation": self.generation,
            "done": self.done,
            "total": self.total,
            "events_per_second": per_second.round(),
            "seconds_left": left.map(|left| (left * 10.0).round() / 10.0),
        })
    }
}
