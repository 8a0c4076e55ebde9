//! How the cities grew and shrank: a projection of change events that keeps its history.

use diesel::prelude::*;
use serde_json::{Value, json};

use crate::{
    Event, Feed, Many, Parameters, Projection, ProjectionError, Report, ReportError, Tables, Timestamp, ValidationError,
};

diesel::table! {
    /// One row for each time that the population of a city changed.
    city_history (city, revision) {
        city -> Text,
        revision -> BigInt,
        time -> BigInt,
        total -> BigInt,
    }
}

/// The populations of the cities over time: `GET /reports/city-history`.
///
/// Every row is a past change, so a rebuild needs all of them. The change events of locations have names of cities and
/// numbers of persons, but no data about a person.
pub struct CityHistory;

impl Projection for CityHistory {
    const NAME: &'static str = "city_history";
    const FEED: Feed = Feed::Changes;
    const KEEPS_HISTORY: bool = true;
    const COLLECTIONS: &'static [&'static str] = &["locations"];
    const SETUP: &'static str = "\
        CREATE TABLE city_history (city TEXT NOT NULL, revision BIGINT NOT NULL, time BIGINT NOT NULL, \
            total BIGINT NOT NULL, PRIMARY KEY (city, revision)) WITHOUT ROWID;";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        if let Some(row) = Row::of(event)? {
            diesel::insert_into(city_history::table).values(row).execute(tables)?;
        }
        Ok(())
    }

    fn apply_many(tables: &mut Tables, events: &[Event<'_>]) -> Result<Many, ProjectionError> {
        let rows = events.iter().filter_map(|event| Row::of(event).transpose()).collect::<Result<Vec<_>, _>>()?;
        let mut rows = rows.into_iter();
        loop {
            // Diesel prepares a statement for an array of rows once, if they borrow nothing and have all columns.
            match <[Row; 16]>::try_from(rows.by_ref().take(16).collect::<Vec<_>>()) {
                Ok(sixteen) => diesel::insert_into(city_history::table).values(sixteen).execute(tables)?,
                Err(rest) => {
                    for row in rest {
                        diesel::insert_into(city_history::table).values(row).execute(tables)?;
                    }
                    return Ok(Many::Applied);
                }
            };
        }
    }

    fn reports() -> Vec<Report> {
        vec![Report { name: "city-history", parameters: &["city", "after", "limit"], read: history }]
    }
}

#[derive(Insertable)]
#[diesel(table_name = city_history, treat_none_as_default_value = false)]
struct Row {
    city: String,
    revision: i64,
    time: i64,
    total: i64,
}

impl Row {
    /// `None` if the event does not change the population.
    fn of(event: &Event<'_>) -> Result<Option<Self>, ProjectionError> {
        let total = match event.patch()? {
            Some(Value::Null) => Some(0),
            Some(patch) => patch.get("total").and_then(Value::as_i64),
            None => None,
        };
        let (city, revision, time) = (event.key.as_str().to_owned(), event.at, event.time.milliseconds());
        Ok(total.map(|total| Self { city, revision, time, total }))
    }
}

/// `?city=Rome&limit=100&after=<revision>/<city>`: pages of the changes of one city or of all, in the order of their
/// revisions.
fn history(tables: &mut Tables, parameters: &Parameters) -> Result<Value, ReportError> {
    let limit = parameters.number("limit", 1..=1000)?.unwrap_or(100);
    let mut query =
        city_history::table.order((city_history::revision, city_history::city)).limit(limit + 1).into_boxed();
    if let Some(after) = parameters.get("after") {
        let invalid =
            || ReportError::Invalid(ValidationError::new("after", "expected the value of `next`, <revision>/<city>"));
        let (revision, city) = after.split_once('/').ok_or_else(invalid)?;
        let revision: i64 = revision.parse().map_err(|_| invalid())?;
        let same = city_history::revision.eq(revision).and(city_history::city.gt(city.to_owned()));
        query = query.filter(city_history::revision.gt(revision).or(same));
    }
    if let Some(city) = parameters.get("city") {
        query = query.filter(city_history::city.eq(city.to_owned()));
    }
    let mut rows: Vec<(String, i64, i64, i64)> = query.load(tables)?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > page;
    rows.truncate(page);
    let next = rows.last().filter(|_| has_more).map(|(city, revision, ..)| format!("{revision}/{city}"));
    let changes = rows.into_iter().map(|(city, revision, time, total)| {
        json!({"city": city, "revision": revision, "time": Timestamp::from_milliseconds(time), "total": total})
    });
    let mut page = json!({ "changes": changes.collect::<Vec<_>>() });
    if let Some(next) = next {
        page["next"] = next.into();
    }
    Ok(page)
}
