//! Writing: the responses, and the changes that follow.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{App, eventually};

#[test]
fn a_write_that_changes_nothing_creates_no_revision() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    for (method, body) in [
        ("PATCH", r#"{"city":"Rome"}"#),
        ("PATCH", "{}"),
        ("PATCH", r#"{"spouse":null}"#),
        ("PUT", r#"{"city":"Rome","name":"Ann"}"#),
    ] {
        let response = app.write(method, "/persons/1", body);
        assert_eq!((response.status, response.revision()), (200, 1), "{method} {body}");
        assert_eq!(response.text(), r#"{"name":"Ann","city":"Rome"}"#);
    }
    let mut events = app.follow("/person-events", &[]);
    assert_eq!(events.next().revision(), 1);
    assert!(events.is_quiet_for(Duration::from_millis(100)));
}

#[test]
fn a_move_between_cities_is_one_location_event() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.post("/persons", r#"{"name":"Bob","city":"Rome"}"#);
    let moved = app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    assert_eq!(moved.revision(), 3);
    let mut events = app.follow("/location-events", &[("X-Revision", "3")]);
    let event = events.next();
    assert_eq!((event.revision(), event.patch()), (3, json!({"Oslo":{"total":1},"Rome":{"total":1}})));
    assert!(events.is_quiet_for(Duration::from_millis(100)));
}

#[test]
fn an_answered_write_is_seen_by_the_next_read() {
    let app = App::start();
    for number in 1..=50 {
        let written = app.post("/persons", &json!({"name": format!("n{number}")}).to_string());
        let (persons, one) = (app.get("/persons"), app.get(&format!("/persons/{number}")));
        assert!(persons.revision() >= written.revision() && one.revision() >= written.revision());
        assert_eq!(persons.json()[number.to_string()], written.json());
        assert_eq!(one.json(), written.json());
    }
}

#[test]
fn post_returns_a_location_with_the_next_number() {
    let app = App::start();
    for number in 1..=3 {
        let response = app.post("/persons", r#"{"name":"Ann","city":null}"#);
        assert_eq!(response.status, 201);
        assert_eq!(response.text(), r#"{"name":"Ann"}"#);
        assert_eq!(response.header("Location"), Some(format!("/persons/{number}").as_str()));
    }
}

#[test]
fn put_replaces_the_whole_person() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome","spouse":7}"#);
    let response = app.write("PUT", "/persons/1", r#"{"name":"Anna","spouse":7}"#);
    assert_eq!((response.status, response.text()), (200, r#"{"name":"Anna","spouse":7}"#));
    let mut events = app.follow("/person-events", &[("X-Revision", "2")]);
    assert_eq!(events.next().patch(), json!({"1":{"name":"Anna","city":null}}));
}

#[test]
fn a_patch_can_be_sent_as_merge_patch_or_json() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    for (content_type, city) in [("application/merge-patch+json", "Rome"), ("application/json; charset=UTF-8", "Oslo")]
    {
        let body = json!({ "city": city }).to_string();
        let response = app.request("PATCH", "/persons/1", &[("Content-Type", content_type)], Some(body.as_bytes()));
        assert_eq!((response.status, response.json()["city"].clone()), (200, json!(city)));
    }
}

#[test]
fn a_change_does_not_create_a_missing_aggregate() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.delete("/persons/1");
    for path in ["/persons/1", "/persons/2", "/persons/x"] {
        for response in [app.patch(path, "{}"), app.write("PUT", path, r#"{"name":"Bob"}"#), app.delete(path)] {
            assert_eq!((response.status, response.revision()), (404, 2));
            assert_eq!(response.json()["type"], "not-found");
        }
        assert_eq!(app.get(path).status, 404);
        assert_eq!(app.get(path).revision(), 2);
    }
}

#[test]
fn a_null_member_of_a_new_state_is_an_absent_one() {
    let app = App::start();
    let created = app.post("/persons", r#"{"name":"Ann","city":null,"spouse":null}"#);
    assert_eq!((created.status, created.text()), (201, r#"{"name":"Ann"}"#));
    app.patch("/persons/1", r#"{"city":"Rome"}"#);
    let replaced = app.write("PUT", "/persons/1", r#"{"name":"Ann","city":null}"#);
    assert_eq!((replaced.status, replaced.text()), (200, r#"{"name":"Ann"}"#));
    for (method, path) in [("POST", "/persons"), ("PUT", "/persons/1")] {
        let problem = app.write(method, path, r#"{"name":null}"#).problem(422, "invalid");
        assert_eq!(problem["member"], "name", "{method}: the member is required");
    }
    assert_eq!(app.get("/persons").text(), r#"{"1":{"name":"Ann"}}"#);
}

#[test]
fn a_patch_is_an_object_with_known_members() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    for patch in ["[]", "null", "1", r#""Ann""#, r#"{"nmae":"Bob"}"#, r#"{"nmae":null}"#] {
        app.patch("/persons/1", patch).problem(422, "invalid");
    }
    assert_eq!(app.get("/persons/1").revision(), 1);
}

#[test]
fn every_answer_to_a_write_has_the_tag_of_what_it_wrote() {
    let app = App::start();
    let cart = "/carts/0193a5b0-7b2c-7def-8000-123456789abc";
    for (method, path, json, revision, changed) in [
        ("POST", "/persons", r#"{"name":"Ann"}"#, 1, 1),
        ("PATCH", "/persons/1", r#"{"city":"Rome"}"#, 2, 2),
        ("PATCH", "/persons/1", "{}", 2, 2),
        ("PUT", cart, "{}", 3, 3),
        ("PATCH", "/persons/1", "{}", 3, 2),
        ("PUT", "/persons/1", r#"{"name":"Ann"}"#, 4, 4),
        ("POST", &format!("{cart}/close"), "{}", 5, 5),
        ("DELETE", "/persons/1", "", 6, 6),
    ] {
        let written = app.write(method, path, json);
        let tag = format!("\"{}.{changed}\"", written.header("X-Epoch").unwrap());
        assert_eq!((written.revision(), written.header("ETag")), (revision, Some(tag.as_str())), "{method} {path}");
    }
}

#[test]
fn any_valid_city_name_works_in_a_path() {
    let app = App::start();
    for (city, path) in
        [("a/b", "a%2Fb"), ("a%2Fb", "a%252Fb"), ("Łódź 🍎", "%C5%81%C3%B3d%C5%BA%20%F0%9F%8D%8E"), ("+", "+")]
    {
        app.post("/persons", &json!({"name": "Ann", "city": city}).to_string());
        let response = app.get(&format!("/locations/{path}"));
        assert_eq!((response.status, response.text()), (200, r#"{"total":1}"#), "{city}");
    }
}

#[test]
fn persons_are_ordered_by_number() {
    let app = App::start();
    let mut client = app.client();
    for _ in 0..11 {
        client.request("POST", "/persons", &[("Content-Type", "application/json")], Some(br#"{"name":"x"}"#));
    }
    let persons = app.get("/persons").json();
    let numbers: Vec<_> = persons.as_object().unwrap().keys().map(|key| key.parse::<u32>().unwrap()).collect();
    assert_eq!(numbers, (1..=11).collect::<Vec<_>>());
}

#[test]
fn a_write_over_the_queue_limit_is_a_503_and_is_not_applied() {
    let app = App::with(|settings| settings.queue = crate::harness::count(1));
    let json = [("Content-Type", "application/json")];
    let (created, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let mut client = app.client();
                let enough = || refused.load(Ordering::Relaxed) > 0 && created.load(Ordering::Relaxed) > 0;
                eventually("some writes succeed and some are rejected", || {
                    let response = client.request("POST", "/persons", &json, Some(br#"{"name":"Ann"}"#));
                    match response.status {
                        201 => created.fetch_add(1, Ordering::Relaxed),
                        503 => {
                            assert_eq!(response.header("Retry-After"), Some("1"));
                            assert_eq!(response.json()["type"], "busy");
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        status => panic!("{status}: {}", response.text()),
                    };
                    enough()
                });
            });
        }
    });
    assert_eq!(app.get("/persons").json().as_object().unwrap().len(), created.into_inner());
}
