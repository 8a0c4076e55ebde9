//! The row of an event-sourced aggregate is a cache: if it is lost, the state is rebuilt from the journal.

use serde_json::{Value, json};

use crate::harness::{App, Client, Process, Response, sql};
use crate::own_aggregates::jars_and_crates;

const CART: &str = "/carts/00000000-0000-4000-8000-000000000001";
const OTHER: &str = "/carts/00000000-0000-4000-8000-000000000002";

/// Deletes the rows of the aggregates, as a mistaken cleanup might.
fn lose_rows(app: &mut App) {
    app.stop();
    sql(app.database(), "DELETE FROM aggregates");
    app.resume();
}

fn item(name: &str) -> String {
    json!({ "item": name }).to_string()
}

#[test]
fn commands_rehydrate_an_aggregate_whose_row_was_lost() {
    let mut app = App::start();
    app.write("PUT", CART, "{}");
    app.post(&format!("{CART}/add-item"), &item("apple"));
    lose_rows(&mut app);
    let revision = app.get("/carts").revision();
    for (response, slug) in [
        (app.post(&format!("{CART}/add-item"), &item("apple")), "item-already-added"),
        (app.write("PUT", CART, "{}"), "cart-already-open"),
        (app.post(&format!("{CART}/remove-item"), &item("pear")), "item-not-in-cart"),
        (app.post(&format!("{OTHER}/close"), "{}"), "not-found"),
    ] {
        assert_eq!((response.json()["type"].clone(), response.revision()), (json!(slug), revision));
    }
    assert_eq!(app.get(CART).status, 404, "a rejected command does not restore the row");

    let added = app.post(&format!("{CART}/add-item"), &item("pear"));
    let items = added.json()["items"].as_object().unwrap().clone();
    assert_eq!(added.status, 200);
    assert!(items.keys().eq(["apple", "pear"]), "{items:?}");
    assert_eq!(app.get(CART).text(), added.text());
    assert_eq!(app.get(&format!("{CART}?version=3")).text(), added.text());
    let journal = app.get(&format!("{CART}/journal")).json();
    let versions: Vec<_> = journal["events"].as_array().unwrap().iter().map(|event| event["version"].clone()).collect();
    assert_eq!(versions, [1, 2, 3]);
}

#[test]
fn consumers_stay_exact_when_a_row_is_lost_and_rehydrated() {
    for (command, body) in [("remove-item", item("apple")), ("add-item", item("pear")), ("close", "{}".to_owned())] {
        let mut app = App::start();
        app.write("PUT", CART, "{}");
        app.write("PUT", OTHER, "{}");
        app.post(&format!("{CART}/add-item"), &item("apple"));
        let before = app.load("/carts");
        lose_rows(&mut app);
        let after = app.load("/carts");
        assert_eq!(after.0, json!({}));
        assert_eq!(app.post(&format!("{CART}/{command}"), &body).status, 200);
        assert_eq!(app.post(&format!("{OTHER}/close"), "{}").status, 200);

        let fresh = app.get("/carts");
        for (mut state, cursor) in [before, after] {
            app.follow("/cart-events", &[("Last-Event-ID", &cursor)]).follow(&mut state, fresh.revision());
            assert_eq!(state, fresh.json(), "{command}");
        }
        let mut state = Value::Null;
        app.follow("/cart-events", &[]).follow(&mut state, fresh.revision());
        assert_eq!(state, fresh.json(), "{command}");
    }
}

#[test]
fn an_aggregate_whose_row_was_lost_can_be_ended() {
    let mut app = App::serving(jars_and_crates, |_| {});
    app.write("PUT", "/jars/a", r#"{"marbles":1}"#);
    app.write("PUT", "/jars/b", r#"{"marbles":1}"#);
    let (mut state, cursor) = app.load("/jars");
    lose_rows(&mut app);
    // Other commands in the same batch see that it has ended.
    let mut answers: Vec<_> = std::thread::scope(|scope| {
        let smashing: Vec<_> = (0..8).map(|_| scope.spawn(|| app.post("/jars/a/smash", "{}").status)).collect();
        smashing.into_iter().map(|one| one.join().unwrap()).collect()
    });
    answers.sort_unstable();
    assert_eq!(answers, [204, 404, 404, 404, 404, 404, 404, 404]);
    assert_eq!(app.post("/jars/b/look", "{}").text(), r#"{"marbles":1}"#);
    let fresh = app.get("/jars");
    assert_eq!(fresh.text(), r#"{"b":{"marbles":1}}"#, "an event that changes nothing restores the row");
    app.follow("/jar-events", &[("Last-Event-ID", &cursor)]).follow(&mut state, fresh.revision());
    assert_eq!(state, fresh.json());
    assert_eq!(app.post("/jars/a/add", r#"{"marbles":1}"#).status, 404);
    assert_eq!(app.write("PUT", "/jars/a", r#"{"marbles":2}"#).status, 201);
    let versions = |path: &str| app.get(path).json()["events"].as_array().unwrap().len();
    assert_eq!((versions("/jars/a/journal"), versions("/jars/b/journal")), (3, 2));
}

fn request(process: &Process, method: &str, path: &str, body: &str) -> Response {
    let headers = [("Content-Type", "application/json"), ("Accept", "application/json")];
    Client::connect(process.address).request(method, path, &headers, Some(body.as_bytes()))
}

fn get(process: &Process, path: &str) -> Response {
    Client::connect(process.address).request("GET", path, &[("Accept", "application/json")], None)
}

#[test]
fn a_command_that_needs_an_unreadable_event_fails_alone_and_is_logged() {
    for (mistake, why) in
        [("kind = 'CartMelted'", "`CartMelted`"), ("schema = 7", "its schema 7 was written by a newer program")]
    {
        let directory = crate::harness::directory();
        let database = directory.path().join("test.db");
        let mut process = Process::start(&database, &[]);
        for cart in [CART, OTHER] {
            assert_eq!(request(&process, "PUT", cart, "{}").status, 201);
        }
        assert_eq!(request(&process, "POST", &format!("{CART}/add-item"), &item("apple")).status, 200);
        process.signal("TERM");
        assert!(process.wait().success());
        sql(&database, &format!("UPDATE journal SET {mistake} WHERE position = 3"));
        sql(&database, "DELETE FROM aggregates");

        let process = Process::start(&database, &[]);
        let before = (get(&process, "/journal").json(), get(&process, "/carts").revision());
        let refused = request(&process, "POST", &format!("{CART}/close"), "{}");
        assert_eq!((refused.status, refused.json()["type"].clone()), (500, json!("internal")));
        assert!(
            !refused.text().contains("Cart"),
            "the error is in the log but not in the response: {}",
            refused.text()
        );
        assert_eq!(request(&process, "PUT", CART, "{}").status, 500, "it cannot be opened as a new cart");
        assert_eq!((get(&process, "/journal").json(), get(&process, "/carts").revision()), before);
        let log = process.log();
        let place = "position 3 of the journal (carts/00000000-0000-4000-8000-000000000001, version 2)";
        assert!(log.contains(place) && log.contains(why), "{log}");
        assert_eq!(get(&process, &format!("{CART}?version=2")).status, 500);
        assert_eq!(get(&process, &format!("{CART}?version=1")).json()["status"], "open");

        std::thread::scope(|scope| {
            let work: Vec<_> = (0..24)
                .map(|number| {
                    let (process, broken) = (&process, number % 3 == 0);
                    let path = format!("{}/add-item", if broken { CART } else { OTHER });
                    let body = item(&format!("item-{number}"));
                    scope.spawn(move || (broken, request(process, "POST", &path, &body).status))
                })
                .collect();
            for one in work {
                let (broken, status) = one.join().unwrap();
                assert_eq!(status, if broken { 500 } else { 200 });
            }
        });
        assert_eq!(get(&process, OTHER).json()["items"].as_object().unwrap().len(), 16);
        assert_eq!(get(&process, &format!("{CART}/journal")).json()["events"].as_array().unwrap().len(), 2);
    }
}
