//! `duality verify` checks everything that is stored, and says what it checked.

use serde_json::json;

use crate::harness::{App, Process, copy_of, eventually, is_postgres, lines, output_of, sql};

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
fn verify_says_what_it_checked_with_and_without_a_running_service() {
    let mut app = filled();
    for name in ["cart_items", "carts.csv", "city_history"] {
        eventually("it is built", || app.get(&format!("/projections/{name}")).json()["state"] == "live");
    }
    for _ in 0..2 {
        let (code, said) = verify(&app);
        let mut lines: Vec<_> = said.lines().collect();
        let expected = [
            "counters: revision 12, next keys and last changes: ok",
            "epochs: the beginnings of 1: ok",
            "journal: positions and versions of 11 events: ok",
            "erased: 0 aggregates with 0 events: ok",
            "change events: 13 after revision 0, 6 states compared with them: ok",
            "persons: 1 states, which follow from nothing else: ok",
            "locations: 1 states, compared with persons: ok",
            "carts: 3 states, compared with 9 events: ok",
            "accounts: 1 states, compared with 2 events: ok",
            "answers: 0 of commands with an idempotency key: ok",
            "history: 1 change events of 1 collections: ok",
            "projection cart_items: the files of generation 1 and its checkpoint: ok",
            "projection carts.csv: the files of generation 1 and its checkpoint: ok",
            "projection city_history: the files of generation 1 and its checkpoint: ok",
        ];
        if !is_postgres() {
            let file = lines.remove(0);
            assert!(
                file.starts_with("file: ") && file.contains("pages with all rows, indices and references"),
                "{said}"
            );
            lines.retain(|line| *line != "inline projections: the tables of 0: ok");
        }
        assert_eq!(lines, expected, "{said}");
        assert_eq!(code, 0);
        app.stop();
    }
}

/// Damages a copy of a database for each case, and expects the finding.
fn each_is_found(app: &App, cases: &[(&str, &str)]) {
    let damaged = app.files().with_file_name("damaged.db");
    for (damage, finding) in cases {
        let damaged = copy_of(app.database(), &damaged);
        sql(&damaged, damage);
        let (code, said) = output_of(&damaged, &["verify"]);
        assert!(code == 1 && said.contains(finding), "{damage}: {said}");
        // Everything else was looked at nevertheless.
        assert!(said.contains("answers: ") && said.contains("projection city_history: "), "{said}");
    }
}

#[test]
fn verify_reports_every_state_that_differs_from_what_it_follows_from() {
    let mut app = filled();
    app.post("/persons", r#"{"name":"Bob"}"#);
    app.delete("/persons/2");
    app.stop();
    each_is_found(
        &app,
        &[
            (
                r#"UPDATE aggregates SET body = '{"total":7}' WHERE collection = 'locations'"#,
                r#"locations: Rome: stored is {"total":7}"#,
            ),
            ("UPDATE aggregates SET version = 1 WHERE collection = 'accounts'", "(version 1); it should be"),
            ("DELETE FROM journal WHERE collection = 'accounts'", "it should be nothing (version 0)"),
            (
                "UPDATE aggregates SET body = '{}' WHERE collection = 'carts'",
                "carts: 3 states, compared with 9 events: 6 findings",
            ),
            (
                r#"UPDATE aggregates SET body = '{"name":"Eve","city":"Rome"}' WHERE collection = 'persons' AND key = '1'"#,
                r#"persons/1: stored is {"name":"Eve","city":"Rome"}; its change events give {"name":"Ann","city":"Rome"}"#,
            ),
            ("UPDATE aggregates SET revision = 2 WHERE key = 'Rome'", "its last change event is of revision 1"),
            ("DELETE FROM aggregates WHERE key = '1'", "persons/1: it has a change event of revision 1, but no row"),
            ("DELETE FROM aggregates WHERE key = '2'", "persons/2: it has a change event of revision 14, but no row"),
            ("DELETE FROM outbox WHERE revision = 14", "persons/2: its last change event is of revision 13"),
            ("DELETE FROM outbox WHERE revision = 1", "it changed at revision 1, but that change event is missing"),
            ("UPDATE outbox SET patch = '{' WHERE revision = 1", "its change at revision 1 is not JSON"),
            ("UPDATE aggregates SET body = '[]' WHERE key = '1'", "persons: 1: its state is no JSON object"),
            (
                "UPDATE aggregates SET body = '{\"name\":1}' WHERE key = '1'",
                "is not a valid duality::aggregates::person",
            ),
            ("UPDATE aggregates SET rank = 9 WHERE key = '1'", "persons: 1: its rank is 9 instead of 1"),
        ],
    );
}

#[test]
fn verify_compares_states_with_their_changes_after_a_prune_too() {
    let mut app = filled();
    app.prune_everything();
    app.patch("/persons/1", r#"{"name":"Eve"}"#);
    app.stop();
    let (code, said) = verify(&app);
    assert!(code == 0 && said.contains("change events: 1 after revision 12, 1 states"), "{said}");
    each_is_found(
        &app,
        &[(
            r#"UPDATE aggregates SET body = '{"name":"Ann","city":"Rome"}' WHERE key = '1'"#,
            r#"its change events give {"name":"Eve","city":"Rome"}"#,
        )],
    );
}

#[test]
fn verify_compares_change_events_that_do_not_fit_into_one_page() {
    let mut app = App::start();
    // 3 MB of events, and an aggregate whose events are on several pages.
    for letter in ["a", "b", "c", "d", "e"] {
        let person = json!({ "name": letter.repeat(300_000) }).to_string();
        app.post("/persons", &person);
        app.patch("/persons/1", &person);
    }
    app.stop();
    let (code, said) = verify(&app);
    assert!(code == 0 && said.contains("change events: 9 after revision 0, 5 states compared"), "{said}");
    each_is_found(
        &app,
        &[
            ("DELETE FROM outbox WHERE revision = 9", "persons/1: its last change event is of revision 7"),
            (
                r#"UPDATE outbox SET patch = '{"name":"Eve"}' WHERE revision = 8"#,
                r#"persons/5: stored is {"name":"eeee"#,
            ),
        ],
    );
}

#[test]
fn verify_reports_counters_epochs_and_journals_that_contradict_the_rows() {
    let mut app = filled();
    app.stop();
    each_is_found(
        &app,
        &[
            ("UPDATE metadata SET revision = 11", "the last revision is 11, but a change event has 12"),
            ("UPDATE metadata SET revision = 11; DELETE FROM outbox", "the last revision is 11, but a state has 12"),
            ("UPDATE metadata SET pruned = 13", "the last revision is 12, but change events are pruned up to 13"),
            ("UPDATE metadata SET pruned = 5", "change events are pruned up to 5, but there is one of 1"),
            ("UPDATE metadata SET forgotten = 13", "but tombstones are pruned up to 13"),
            ("UPDATE collections SET changed = 13", "but persons changed at 13"),
            ("UPDATE collections SET changed = 2 WHERE name = 'carts'", "carts: it changed last at revision 2"),
            (
                "UPDATE collections SET next_key = 1 WHERE name = 'persons'",
                "persons: the next key is 1, but there is 1",
            ),
            (
                "INSERT INTO outbox VALUES (12, 'boxes', '1', '{}', 0, NULL)",
                "there are rows of boxes, which is no collection",
            ),
            ("UPDATE metadata SET epoch = 'otherone'", "the last epoch is not that of the database, otherone"),
            ("UPDATE epochs SET first_revision = 20", "begins at revision 20, but the last revision is 12"),
            ("UPDATE epochs SET first_position = 20", "begins at position 20, but the last position is 11"),
            ("INSERT INTO epochs VALUES (0, 'earlier0', 5, 5)", "begins before the one before it"),
            ("DELETE FROM journal WHERE position = 5", "it has 10 events, but its last position is 11"),
            ("UPDATE journal SET version = 7 WHERE position = 11", "it has 2 events, but its last version is 7"),
            ("UPDATE journal SET body = '[' WHERE position = 11", "the event at position 11 is no JSON object"),
            ("UPDATE journal SET metadata = '[]' WHERE position = 2", "the metadata of the event at position 2 is no"),
        ],
    );
}

#[test]
fn verify_reports_damage_below_the_rows() {
    let mut app = filled();
    app.stop();
    let number = |query: &str| lines(app.database(), query)[0].parse::<usize>().unwrap();
    let root = number("SELECT rootpage || '' AS line FROM sqlite_schema WHERE name = 'aggregates_by_revision'");
    let size = number("SELECT page_size || '' AS line FROM pragma_page_size");
    // Swaps the first two entries of an index, which no query of a state reads. Cell pointers follow the header of 8 bytes.
    let mut file = std::fs::read(app.database()).unwrap();
    let first = (root - 1) * size + 8;
    assert_eq!(file[first - 8], 10, "the index fits into one page");
    file[first..first + 4].rotate_left(2);
    std::fs::write(app.database(), file).unwrap();
    let (code, said) = verify(&app);
    assert!(code == 1 && said.contains("aggregates_by_revision"), "{said}");
}

#[test]
fn verify_reports_damaged_files_of_projections() {
    let mut app = filled();
    for name in ["cart_items", "carts.csv", "city_history"] {
        eventually("it is built", || app.get(&format!("/projections/{name}")).json()["lag"]["events"] == 0);
    }
    app.stop();
    let file = |name: &str| app.files().with_file_name("test.db.projections").join(name);
    let far = "UPDATE checkpoint SET place = 1000";
    let damages: [(&str, &dyn Fn(), &str); 5] = [
        ("carts.csv.1.csv", &|| std::fs::write(file("carts.csv.1.csv"), "car").unwrap(), "has 3 of its "),
        (
            "cart_items.1.db",
            &|| sql(&file("cart_items.1.db"), far),
            "it has applied events up to 1000, but the last one is 11",
        ),
        ("cart_items.1.db", &|| std::fs::remove_file(file("cart_items.1.db")).unwrap(), "cart_items.1.db is missing"),
        (
            "cart_items.1.db",
            &|| sql(&file("cart_items.1.db"), "DROP TABLE checkpoint"),
            "the generation has no checkpoint",
        ),
        (
            "city_history.json",
            &|| std::fs::write(file("city_history.json"), "{").unwrap(),
            "its manifest cannot be read",
        ),
    ];
    for (name, damage, finding) in damages {
        let sound = std::fs::read(file(name)).unwrap();
        damage();
        let (code, said) = verify(&app);
        assert!(code == 1 && said.contains(finding), "{name}: {said}");
        std::fs::write(file(name), sound).unwrap();
        let (code, said) = verify(&app);
        assert_eq!(code, 0, "{said}");
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
fn verify_names_an_unreadable_event() {
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
    let directory = crate::harness::directory();
    let missing = directory.path().join("missing.db");
    let (code, said) = output_of(&missing, &["verify"]);
    assert_eq!((code, missing.exists()), (1, false), "{said}");
    std::fs::write(&missing, b"").unwrap();
    let (code, said) = output_of(&missing, &["verify"]);
    assert!(code == 1 && said.contains("start the service once"), "{said}");
}

#[test]
fn verify_works_after_a_kill() {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let process = Process::start(&database, &[]);
    let cart = json!({}).to_string();
    for _ in 0..50 {
        let headers = [("Content-Type", "application/json")];
        crate::harness::Client::connect(process.address).request("POST", "/carts", &headers, Some(cart.as_bytes()));
    }
    process.kill();
    let (code, said) = output_of(&database, &["verify"]);
    assert!(code == 0 && said.contains("carts: 50 states, compared with 50 events"), "{said}");
}
