//! The time of day, in one place, so that tests can set it.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// Milliseconds since 1970, UTC. Stored with events, for people and for retention; it does not order anything.
///
/// Its text form, also in JSON, is an RFC 3339 timestamp: `2026-11-22T08:30:00.000Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// The last millisecond that RFC 3339 can express: the end of the year 9999.
const MAX_RFC3339_MILLISECONDS: i64 = 253_402_300_799_999;

impl Timestamp {
    /// The time that is `milliseconds` after the beginning of 1970, UTC.
    #[must_use]
    pub const fn from_milliseconds(milliseconds: i64) -> Self {
        Self(milliseconds)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn milliseconds(self) -> i64 {
        self.0
    }

    /// Later than any stored time.
    #[cfg(test)]
    pub(crate) fn after_all(self) -> Self {
        Self(i64::MAX)
    }

    /// The time that is `age` earlier.
    pub(crate) fn minus(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = Duration::from_millis(self.0.clamp(0, MAX_RFC3339_MILLISECONDS).unsigned_abs());
        humantime::format_rfc3339_millis(UNIX_EPOCH + since).fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A time in UTC, with milliseconds (RFC 3339).",
            "type": "string",
            "format": "date-time",
            "examples": ["2026-11-22T08:30:00.000Z"],
        })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&text).map_err(|error| {
            D::Error::custom(format!("expected a time such as 2026-11-22T08:30:00Z, got {text:?}: {error}"))
        })?;
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self(i64::try_from(since.as_millis()).unwrap_or(MAX_RFC3339_MILLISECONDS)))
    }
}

/// The system's clock; with the feature `test-hooks`, a test can shift it, or say what time it is.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// The milliseconds since 1970 of a clock that only a test sets.
    #[cfg(feature = "test-hooks")]
    face: Option<std::sync::Arc<std::sync::atomic::AtomicI64>>,
    #[cfg(feature = "test-hooks")]
    shift: std::sync::atomic::AtomicI64,
    /// How far it was moved forward in all, in milliseconds.
    #[cfg(feature = "test-hooks")]
    passed: std::sync::atomic::AtomicU64,
}

impl Clock {
    /// A clock that shows what a test sets.
    #[cfg(feature = "test-hooks")]
    pub(crate) fn of(face: Option<std::sync::Arc<std::sync::atomic::AtomicI64>>) -> Self {
        Self { face, ..Self::default() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        #[cfg(feature = "test-hooks")]
        if let Some(face) = &self.face {
            return Timestamp(face.load(std::sync::atomic::Ordering::Relaxed) + self.shift());
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX) + self.shift())
    }

    /// For what lasts a certain time: nobody sets this clock. It goes on when a test moves the clock of the day forward, and
    /// does not go back.
    pub(crate) fn monotonic(&self) -> Instant {
        Instant::now() + self.passed()
    }

    #[cfg(not(feature = "test-hooks"))]
    #[expect(clippy::unused_self, reason = "the signature is the same with and without hooks")]
    fn passed(&self) -> Duration {
        Duration::ZERO
    }

    #[cfg(feature = "test-hooks")]
    fn passed(&self) -> Duration {
        Duration::from_millis(self.passed.load(std::sync::atomic::Ordering::Relaxed))
    }

    #[cfg(not(feature = "test-hooks"))]
    #[expect(clippy::unused_self, reason = "the signature is the same with and without hooks")]
    fn shift(&self) -> i64 {
        0
    }

    #[cfg(feature = "test-hooks")]
    fn shift(&self) -> i64 {
        self.shift.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Moves the clock by this many milliseconds, back if negative.
    #[cfg(feature = "test-hooks")]
    pub(crate) fn turn(&self, milliseconds: i64) {
        self.shift.fetch_add(milliseconds, std::sync::atomic::Ordering::Relaxed);
        self.passed.fetch_add(u64::try_from(milliseconds).unwrap_or_default(), std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_a_round_trip_through_its_text_form() {
        let time = Timestamp::from_milliseconds(1_795_336_200_123);
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(text, r#""2026-11-22T08:30:00.123Z""#);
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), time);
        assert!(serde_json::from_str::<Timestamp>(r#""yesterday""#).is_err());
        assert_eq!(Timestamp::from_milliseconds(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_milliseconds(-1).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
