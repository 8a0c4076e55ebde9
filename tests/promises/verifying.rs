//! `duality verify` compares the stored states with the events and sources they follow from.

use serde_json::json;

use crate::harness::{App, Process, lines, output_of, sql};

/// Runs it against the database of a service, and returns its exit code and output.
fn verify(app: &App) -> (i32, String) {
    output_of(app.database(), &["verify"])
}

/// A service with a little of everything.
fn filled() -> App {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    for _ in 0..3 {
        let cart = app.post("/carts", "{}").header("Location").unwrap().to_owned();
        app.post(&format!("{cart}/add-item"), r#"{"item":"apple"}"#);
        app.post(&format!("{cart}/add-item"), r#"{"item":"pear"}"#);
    }
    let account = app.post("/accounts", "{}").header("Location").unwrap().to_owned();
    app.post(&format!("{account}/book"), r#"{"amount":500,"text":"pay"}"#);
    app
}

#[test]
fn verify_works_with_and_without_a_running_service() {
    let mut app = filled();
    let all = "locations: 1 aggregates, 0 events, all as stored\ncarts: 3 aggregates, 9 events, all as stored\n\
               accounts: 1 aggregates, 2 events, all as stored\n";
    assert_eq!(verify(&app), (0, all.to_owned()));
    app.stop();
    assert_eq!(verify(&app), (0, all.to_owned()));
}

#[test]
fn verify_reports_every_row_that_differs_from_its_events() {
    let mut app = filled();
    app.stop();
    for (tampering, expected) in [
        (
            r#"UPDATE aggregates SET body = '{"total":7}' WHERE collection = 'locations'"#,
            r#"locations/Rome: stored is {"total":7}"#,
        ),
        (r#"UPDATE aggregates SET version = 1 WHERE collection = 'accounts'"#, "(version 1); it should be"),
        ("DELETE FROM journal WHERE collection = 'accounts'", "it should be nothing (version 0)"),
        (
            r#"UPDATE aggregates SET body = '{}' WHERE collection = 'carts'"#,
            "carts: 3 aggregates, 9 events, 3 not as stored",
        ),
    ] {
        sql(app.database(), tampering);
        let (code, said) = verify(&app);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn verify_ignores_the_order_of_members() {
    let mut app = App::start();
    app.open_cart();
    app.stop();
    sql(
        app.database(),
        r#"UPDATE aggregates SET body = '{"items":{},"status":"open"}' WHERE body = '{"status":"open","items":{}}'"#,
    );
    let stored = lines(app.database(), "SELECT body AS line FROM aggregates WHERE collection = 'carts'");
    assert_eq!(stored, [r#"{"items":{},"status":"open"}"#]);
    let (code, said) = verify(&app);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn verify_fails_at_an_unreadable_event_and_names_it() {
    let mut app = filled();
    app.stop();
    for (tampering, expected) in [
        (
            "UPDATE journal SET kind = 'ItemStolen' WHERE position = 2",
            r#"has an event "ItemStolen" that cannot be read: unknown variant"#,
        ),
        ("UPDATE journal SET body = '[' WHERE position = 2", "position 2 of the journal (carts/"),
        ("DELETE FROM journal WHERE position = 1", "version 1 is missing"),
    ] {
        sql(app.database(), tampering);
        let (code, said) = verify(&app);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn verify_rejects_a_missing_or_empty_file_and_creates_none() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.db");
    let (code, said) = output_of(&missing, &["verify"]);
    assert_eq!((code, missing.exists()), (1, false), "{said}");
    std::fs::write(&missing, b"").unwrap();
    let (code, said) = output_of(&missing, &["verify"]);
    assert!(code == 1 && said.contains("start the service once"), "{said}");
}

#[test]
fn verify_works_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("killed.db");
    let process = Process::start(&database, &[]);
    let cart = json!({}).to_string();
    for _ in 0..50 {
        let headers = [("Content-Type", "application/json")];
        crate::harness::Client::connect(process.address).request("POST", "/carts", &headers, Some(cart.as_bytes()));
    }
    process.kill();
    let (code, said) = output_of(&database, &["verify"]);
    assert!(code == 0 && said.contains("carts: 50 aggregates, 50 events"), "{said}");
}
