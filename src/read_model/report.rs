//! The queries of a projection, independent of HTTP.

use std::ops::RangeInclusive;

use diesel::sqlite::SqliteConnection;
use serde_json::Value;

use super::error::ProjectionError;
use crate::domain::json::ValidationError;

/// A query of the tables of a projection: `GET /reports/{name}`.
#[derive(Clone, Copy)]
pub struct Report {
    /// The last segment of its path. Lower-case letters, digits and hyphens.
    pub name: &'static str,
    /// The names of the allowed query parameters.
    pub parameters: &'static [&'static str],
    /// Reads the tables through a read-only connection, and returns the JSON of the response.
    pub read: fn(&mut SqliteConnection, &Parameters) -> Result<Value, ReportError>,
}

/// The query parameters of a request for a report.
#[derive(Debug, Clone, Default)]
pub struct Parameters(pub(crate) Vec<(String, String)>);

impl Parameters {
    /// The value of a parameter, if it is present and not empty; the last one, if there are several.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().rev().filter(|(known, value)| known == name && !value.is_empty());
        named.next().map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that is a number within a range.
    ///
    /// # Errors
    /// The value is not a number of this range.
    pub fn number(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ReportError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let detail = format!("expected a whole number from {} to {}, got {text:?}", range.start(), range.end());
            ReportError::Invalid(ValidationError::new(name, detail))
        })
    }

    /// The value of a parameter that is one of these.
    ///
    /// # Errors
    /// The value is another one.
    pub fn one_of(&self, name: &str, known: &[&str]) -> Result<Option<&str>, ReportError> {
        match self.get(name) {
            Some(text) if !known.contains(&text) => {
                Err(ReportError::Invalid(ValidationError::new(name, format!("expected one of {}", known.join(", ")))))
            }
            value => Ok(value),
        }
    }
}

/// Why a report cannot be produced.
#[derive(Debug)]
pub enum ReportError {
    /// A parameter has an invalid value.
    Invalid(ValidationError),
    /// The query failed.
    Failed(ProjectionError),
}

impl<E: std::error::Error> From<E> for ReportError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
