//! How a projection is: for those who operate the service.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde_json::{Value, json};

use crate::domain::clock::Timestamp;

/// How a projection is, shared by who runs it and who tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Status(Arc<Mutex<State>>);

/// How a projection is now.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) name: &'static str,
    pub(crate) version: i64,
    /// Inline, or in the background.
    pub(crate) is_inline: bool,
    /// The generation that is read, and its files.
    pub(crate) current: Option<Current>,
    pub(crate) building: Option<Building>,
    /// The first event that waits, if any, and how many do.
    pub(crate) behind: Option<Behind>,
    pub(crate) failure: Option<Failure>,
}

/// The generation that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) generation: i64,
    pub(crate) version: i64,
    pub(crate) place: i64,
    pub(crate) tables: PathBuf,
    pub(crate) output: PathBuf,
}

/// The generation that is built.
#[derive(Debug, Clone)]
pub(crate) struct Building {
    pub(crate) generation: i64,
    pub(crate) done: i64,
    pub(crate) total: i64,
    /// When it went on, and from where: what it does in a second.
    pub(crate) since: (Instant, i64),
}

/// What has not been taken yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behind {
    pub(crate) events: i64,
    pub(crate) since: Timestamp,
}

/// Why a projection does not go on.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The event that it cannot take, if it is one: its place in the log, and its position or revision, which it may share
    /// with others.
    pub(crate) event: Option<(i64, i64)>,
    /// The generation that cannot take it, if it is an event.
    pub(crate) generation: Option<i64>,
    pub(crate) error: String,
    pub(crate) attempts: u32,
}

impl Status {
    pub(crate) fn new(name: &'static str, version: i64, is_inline: bool) -> Self {
        let state = State { name, version, is_inline, current: None, building: None, behind: None, failure: None };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while noting how a projection is")
    }

    /// `{"name":"cart_items","version":1,"mode":"background","state":"live","generation":3,"at":17,"lag":{…},…}`
    pub(crate) fn told(&self, now: Timestamp) -> Value {
        let state = self.state();
        let lag = state.behind.map_or((0, 0), |behind| {
            (behind.events, now.milliseconds().saturating_sub(behind.since.milliseconds()).max(0) / 1000)
        });
        let mut told = json!({
            "name": state.name,
            "version": state.version,
            "mode": if state.is_inline { "inline" } else { "background" },
            "state": state.word(),
            "lag": {"events": lag.0, "seconds": lag.1},
        });
        if let Some(current) = &state.current {
            told["generation"] = current.generation.into();
            told["at"] = current.place.into();
            if current.version != state.version {
                told["current_version"] = current.version.into();
            }
        }
        if let Some(building) = &state.building {
            told["building"] = building.told();
        }
        if let Some(Failure { event, generation, error, attempts }) = &state.failure {
            told["error"] = json!({"at": event.map(|(_, at)| at), "message": error, "attempts": attempts});
            if let Some(generation) = generation {
                told["error"]["generation"] = (*generation).into();
            }
        }
        told
    }
}

impl State {
    /// The state in a word.
    pub(crate) fn word(&self) -> &'static str {
        match (&self.failure, &self.building) {
            (Some(_), _) => "failing",
            (None, Some(_)) => "building",
            // Nothing can be read yet.
            (None, None) if self.current.is_none() && !self.is_inline => "building",
            (None, None) => "live",
        }
    }
}

impl Building {
    fn told(&self) -> Value {
        let seconds = self.since.0.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let per_second = ((self.done - self.since.1) as f64 / seconds).max(0.0);
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
