//! A response claims no more than is certain after a transaction that failed.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use diesel::Connection as _;
use diesel::connection::InstrumentationEvent;
use duality::{Event, Key, Projection, ProjectionError, ReadError, Report, StoreError, Tables};

use crate::harness::{App, count};
use crate::own_aggregates::Jar;
use crate::own_projections::{fill, jars};

/// Does harm in the middle of a transaction, after the command of a jar whose key says which.
struct Saboteur;

/// The database of the only test that removes it.
static DATABASE: Mutex<Option<PathBuf>> = Mutex::new(None);

impl Projection for Saboteur {
    const NAME: &'static str = "saboteur";
    const COLLECTIONS: &'static [&'static str] = &["jars"];
    const SETUP: &'static str = "CREATE TABLE sabotage (jar TEXT NOT NULL)";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        let jar = event.key.as_str().to_owned();
        tables.set_instrumentation(move |event: InstrumentationEvent<'_>| match event {
            InstrumentationEvent::StartQuery { query, .. } if query.to_string().contains("outbox") => {
                assert!(jar != "panics-before", "on purpose");
            }
            InstrumentationEvent::FinishQuery { query, .. } if query.to_string().starts_with("COMMIT") => {
                assert!(jar != "panics-after", "on purpose");
                if jar == "removed" {
                    fs::remove_file(DATABASE.lock().unwrap().as_ref().unwrap()).unwrap();
                }
            }
            _ => {}
        });
        Ok(())
    }

    fn reports() -> Vec<Report> {
        Vec::new()
    }
}

/// Tries to open a jar, and returns the detail of the problem.
#[track_caller]
fn failure(app: &App, jar: &str) -> String {
    let response = app.write("PUT", &format!("/jars/{jar}"), r#"{"marbles":1}"#);
    let problem = response.problem(500, "internal");
    assert!(response.header("Retry-After").is_none());
    problem["detail"].as_str().unwrap().to_owned()
}

#[test]
fn a_panic_is_certain_before_the_commit_and_unknown_after_it() {
    let app = App::serving(|| jars().inline::<Saboteur>(), |_| {});
    fill(&app, "a", 1);
    let certain = failure(&app, "panics-before");
    assert!(certain.starts_with("nothing was done"), "{certain}");
    assert_eq!(app.get("/jars/panics-before").status, 404);
    let unknown = failure(&app, "panics-after");
    assert!(unknown.starts_with("it is unknown"), "{unknown}");
    assert_eq!(app.get("/jars/panics-after").status, 200);
    fill(&app, "b", 1);
}

#[test]
fn a_repeat_with_its_idempotency_key_gets_the_certain_outcome() {
    let app = App::serving(|| jars().inline::<Saboteur>(), |_| {});
    fill(&app, "a", 1);
    let open = |jar: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "1")];
        app.request("PUT", &format!("/jars/{jar}"), &headers, Some(br#"{"marbles":1}"#))
    };
    let unknown = open("panics-after").problem(500, "internal");
    assert!(unknown["detail"].as_str().unwrap().starts_with("it is unknown"), "{unknown}");
    let repeat = open("panics-after");
    assert_eq!((repeat.status, repeat.text()), (201, r#"{"marbles":1}"#));
    assert_eq!(repeat.header("Idempotency-Replayed"), Some("true"), "it was executed");
    for _ in 0..2 {
        let certain = open("panics-before").problem(500, "internal");
        assert!(certain["detail"].as_str().unwrap().starts_with("nothing was done"), "{certain}");
    }
}

#[test]
fn a_stream_of_the_journal_continues_after_a_commit_of_unknown_outcome() {
    let app = App::serving(|| jars().inline::<Saboteur>(), |_| {});
    fill(&app, "a", 1);
    let mut stream = app.follow("/journal", &[]);
    failure(&app, "panics-after");
    // Opens the database again, and moves nothing by itself.
    failure(&app, "panics-before");
    stream.read_until(|text| text.contains("panics-after"));
}

#[test]
fn a_commit_into_a_file_that_is_gone_is_unknown_and_nothing_succeeds_after_it() {
    let mut app = App::serving(
        || jars().inline::<Saboteur>(),
        |settings| {
            settings.readers = count(1);
            // It would not notice that by itself.
            settings.poll_interval = Duration::from_secs(3600);
        },
    );
    *DATABASE.lock().unwrap() = Some(app.database().to_owned());
    fill(&app, "a", 1);
    // The reading thread has an open connection.
    assert_eq!(app.get("/jars/a").status, 200);
    let unknown = failure(&app, "removed");
    assert!(unknown.starts_with("it is unknown"), "{unknown}");
    app.write("PUT", "/jars/b", r#"{"marbles":1}"#).problem(503, "replaced");
    app.get("/jars/a").problem(503, "replaced");
    app.hook(|running| {
        Box::pin(async {
            let read = running.load::<Jar<false>>(&Key::parse("a").unwrap()).await;
            assert!(matches!(read, Err(ReadError::Store(StoreError::Replaced { .. }))));
        })
    });
    let refused = app.try_stop().unwrap_err();
    assert!(refused.contains("was replaced"), "{refused}");
}
