//! Entity tags: an unchanged aggregate is not sent again, and a write can require the state that the client has read.

use serde_json::{Value, json};

use crate::harness::{App, Response};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The path of a cart whose uuid the client chooses.
const CART: &str = "/carts/0193a5b0-7b2c-7def-8000-123456789abc";

fn tag(response: &Response) -> String {
    response.header("ETag").expect("ETag").to_owned()
}

fn with(app: &App, method: &str, path: &str, condition: (&str, &str), json: &str) -> Response {
    app.request(method, path, &[JSON, condition], Some(json.as_bytes()))
}

/// A service with Ann in Rome, and her tag.
fn ann() -> (App, String) {
    let app = App::start();
    let tag = tag(&app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#));
    (app, tag)
}

#[track_caller]
fn assert_unexpected_state(response: &Response, expected: &str, actual: Option<&str>) {
    let problem = response.problem(412, "unexpected-state");
    assert_eq!((&problem["expected"], &problem["actual"]), (&json!([expected]), &json!(actual)), "{problem}");
    assert_eq!(response.header("ETag"), actual);
    assert!(response.header("X-Revision").is_some() && response.header("X-Epoch").is_some());
}

#[test]
fn the_tags_of_a_failed_precondition_come_back_as_a_list() {
    let (app, tag) = ann();
    for (name, value, expected) in [
        ("If-Match", r#""a", W/"b,c" ,"d""#, json!([r#""a""#, r#"W/"b,c""#, r#""d""#])),
        ("If-None-Match", &*format!("{tag}, \"x\""), json!([format!("not {tag}"), r#"not "x""#])),
        ("If-None-Match", "*", json!(["not *"])),
    ] {
        let problem =
            with(&app, "PATCH", "/persons/1", (name, value), r#"{"city":"Oslo"}"#).problem(412, "unexpected-state");
        assert_eq!(problem["expected"], expected, "{name}: {value}");
    }
    let two = [("If-Match", r#""a""#), ("If-Match", r#""b", "c""#)];
    for path in ["/persons/1", "/persons"] {
        let problem = app.request("GET", path, &two, None).problem(412, "unexpected-state");
        assert_eq!(problem["expected"], json!([r#""a""#, r#""b""#, r#""c""#]), "{path}");
    }
}

#[test]
fn a_write_returns_the_same_etag_as_a_read() {
    let (app, created) = ann();
    assert_eq!(
        created,
        format!("\"{}\"", app.get("/persons").cursor()),
        "the tag is the epoch and the revision of the change"
    );
    assert_eq!(tag(&app.get("/persons/1")), created);
    assert_eq!(tag(&app.request("PUT", CART, &[], None)), tag(&app.get(CART)));
    for (method, path, json) in [
        ("PATCH", "/persons/1", r#"{"city":"Oslo"}"#),
        ("PUT", "/persons/1", r#"{"name":"Anna"}"#),
        ("PATCH", "/persons/1", "{}"),
        ("PUT", "/persons/1", r#"{"name":"Anna"}"#),
        ("POST", &format!("{CART}/add-item"), r#"{"item":"apple"}"#),
        ("POST", &format!("{CART}/add-item"), r#"{"item":"pear"}"#),
        ("POST", &format!("{CART}/close"), "{}"),
    ] {
        let written = app.write(method, path, json);
        let read = app.get(if path.starts_with(CART) { CART } else { path });
        assert_eq!((written.text(), tag(&written)), (read.text(), tag(&read)), "{method} {path} {json}");
    }
    let head = app.request("HEAD", CART, &[], None);
    assert_eq!(tag(&head), tag(&app.get(CART)));
}

#[test]
fn a_deletion_has_the_tag_of_its_revision_and_no_later_write_finds_what_it_names() {
    let (app, created) = ann();
    let deleted = app.delete("/persons/1");
    assert_eq!((deleted.status, tag(&deleted)), (204, format!("\"{}\"", deleted.cursor())));
    assert_ne!(tag(&deleted), created);
    with(&app, "PUT", "/persons/1", ("If-Match", &tag(&deleted)), r#"{"name":"Zoe"}"#).problem(404, "not-found");
    app.request("GET", "/persons/1", &[("If-None-Match", &tag(&deleted))], None).problem(404, "not-found");
}

#[test]
fn an_etag_is_unaffected_by_other_aggregates_and_no_ops() {
    let (app, created) = ann();
    app.post("/persons", r#"{"name":"Bob","city":"Rome"}"#);
    app.open_cart();
    app.delete("/persons/2");
    let read = app.get("/persons/1");
    assert_eq!((tag(&read), read.revision()), (created.clone(), 4));
    let kept = app.patch("/persons/1", r#"{"city":"Rome"}"#);
    assert_eq!((tag(&kept), kept.revision()), (created.clone(), 4));
    assert_eq!(tag(&app.write("PUT", "/persons/1", r#"{"city":"Rome","name":"Ann"}"#)), created);
    let same = with(&app, "PATCH", "/persons/1", ("If-Match", &created), "{}");
    assert_eq!((same.status, tag(&same)), (200, created));

    let location = tag(&app.get("/locations/Rome"));
    assert!(location.ends_with(".4\""), "Bob changed it by coming and going: {location}");
    app.patch("/persons/1", r#"{"name":"Anna"}"#);
    assert_eq!(tag(&app.get("/locations/Rome")), location);
    assert_ne!(tag(&app.get("/persons/1")), tag(&kept));
}

#[test]
fn if_none_match_gives_304_while_nothing_changed() {
    let (app, ann) = ann();
    app.request("PUT", CART, &[], None);
    let cart = tag(&app.get(CART));
    for (path, tag) in [("/persons/1", &ann), ("/locations/Rome", &ann), (CART, &cart)] {
        let (weak, list) = (format!("W/{tag}"), format!("\"other0epoch.1\", {tag}"));
        let gzip = tag.replacen("\"", "", 1).replace('"', "-gzip\"");
        for sent in [tag, &weak, &list, &format!("\"{gzip}"), "*"] {
            for method in ["GET", "HEAD"] {
                let response = app.request(method, path, &[("If-None-Match", sent)], None);
                assert_eq!((response.status, response.text()), (304, ""), "{method} {path} {sent}");
                assert_eq!((response.header("ETag"), response.revision()), (Some(tag.as_str()), 2));
                assert_eq!(response.cursor(), app.get(path).cursor());
            }
        }
        for sent in ["\"other0epoch.1\"", "\"\"", "\"1\"", "\"something-else\""] {
            let response = app.request("GET", path, &[("If-None-Match", sent)], None);
            assert_eq!((response.status, response.header("ETag")), (200, Some(tag.as_str())), "{path} {sent}");
        }
    }
    app.patch("/persons/1", r#"{"name":"Anna"}"#);
    let changed = app.request("GET", "/persons/1", &[("If-None-Match", &ann)], None);
    assert_eq!((changed.status, changed.json()["name"].clone()), (200, json!("Anna")));
    app.request("GET", "/persons/9", &[("If-None-Match", "*")], None).problem(404, "not-found");
}

#[test]
fn a_write_succeeds_with_the_current_etag_and_fails_with_a_stale_one() {
    let (app, first) = ann();
    for (method, json) in [("PATCH", r#"{"city":"Oslo"}"#), ("PUT", r#"{"name":"Anna"}"#)] {
        let before = app.get("/persons/1");
        let done = with(&app, method, "/persons/1", ("If-Match", &tag(&before)), json);
        assert_eq!(done.status, 200, "{}", done.text());
        let now = app.get("/persons/1");
        assert_ne!(tag(&now), tag(&before));
        for stale in [&first, &tag(&before)] {
            let refused = with(&app, method, "/persons/1", ("If-Match", stale), r#"{"name":"Zoe"}"#);
            assert_unexpected_state(&refused, stale, Some(&tag(&now)));
            assert_eq!(refused.cursor(), now.cursor());
        }
        let after = app.get("/persons/1");
        assert_eq!((after.text(), after.cursor(), tag(&after)), (now.text(), now.cursor(), tag(&now)));
    }
    let now = tag(&app.get("/persons/1"));
    assert_unexpected_state(&app.request("DELETE", "/persons/1", &[("If-Match", &first)], None), &first, Some(&now));
    assert_eq!(app.request("DELETE", "/persons/1", &[("If-Match", &now)], None).status, 204);
}

#[test]
fn a_command_succeeds_with_the_current_etag_and_fails_with_a_stale_one() {
    let app = App::start();
    let opened = app.request("PUT", CART, &[], None);
    let add = format!("{CART}/add-item");
    let done = with(&app, "POST", &add, ("If-Match", &tag(&opened)), r#"{"item":"apple"}"#);
    assert_eq!(done.status, 200);
    // The business rules run only if the state is the expected one.
    for item in ["pear", "apple"] {
        let refused = with(&app, "POST", &add, ("If-Match", &tag(&opened)), &json!({ "item": item }).to_string());
        assert_unexpected_state(&refused, &tag(&opened), Some(&tag(&done)));
    }
    assert_eq!(app.get(CART).cursor(), done.cursor());
    assert_eq!(app.get(&format!("{CART}/journal")).json()["events"].as_array().unwrap().len(), 2);
    let rule = with(&app, "POST", &add, ("If-Match", &tag(&done)), r#"{"item":"apple"}"#);
    rule.problem(409, "item-already-added");
    let closed = app.request("POST", &format!("{CART}/close"), &[("If-Match", "*")], None);
    assert_eq!((closed.status, closed.revision()), (200, 3));
}

#[test]
fn if_match_accepts_lists_and_ignores_suffixes() {
    let (app, mut now) = ann();
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    for number in 1..=5 {
        let bare = now.trim_matches('"').to_owned();
        let sent = match number {
            1 => "*".to_owned(),
            2 => format!("\"{epoch}.99\", {now}"),
            3 => format!("{now},\"a,b\" , \"\""),
            4 => format!("\"{bare}-gzip\""),
            _ => format!("W/{now}, \"{bare}-ndjson-br\""),
        };
        let city = json!({ "city": number.to_string() }).to_string();
        let done = with(&app, "PATCH", "/persons/1", ("If-Match", &sent), &city);
        assert_eq!(done.status, 200, "{sent}: {}", done.text());
        now = tag(&done);
    }
    let condition = [JSON, ("If-Match", "\"other0epoch.1\""), ("If-Match", &now)];
    let two_lines = app.request("PATCH", "/persons/1", &condition, Some(b"{}"));
    assert_eq!(two_lines.status, 200, "two lines are one list");
}

#[test]
fn a_foreign_weak_or_malformed_etag_never_matches() {
    let (app, now) = ann();
    let bare = now.trim_matches('"');
    let revision = bare.split_once('.').unwrap().1;
    for sent in [
        format!("W/{now}"),
        format!("\"other0epoch.{revision}\""),
        format!("\"{revision}\""),
        format!("\"{bare}.partial\""),
        format!("\"{bare}0\""),
        format!("\"gzip-{bare}\""),
        "\"\"".to_owned(),
    ] {
        for (method, json) in [("PATCH", "{}"), ("PUT", r#"{"name":"Zoe"}"#), ("DELETE", "")] {
            assert_unexpected_state(&with(&app, method, "/persons/1", ("If-Match", &sent), json), &sent, Some(&now));
        }
        let read = app.request("GET", "/persons/1", &[("If-Match", &sent)], None);
        assert_unexpected_state(&read, &sent, Some(&now));
    }
    assert_eq!(app.get("/persons/1").revision(), 1);
}

#[test]
fn a_missing_aggregate_is_a_404_whatever_the_precondition() {
    let (app, tag) = ann();
    app.delete("/persons/1");
    for condition in [("If-Match", tag.as_str()), ("If-Match", "*"), ("If-None-Match", "*")] {
        for path in ["/persons/1", "/persons/2"] {
            for (method, json) in [("PATCH", "{}"), ("PUT", r#"{"name":"Bob"}"#), ("DELETE", "")] {
                with(&app, method, path, condition, json).problem(404, "not-found");
            }
        }
        app.request("POST", &format!("{CART}/close"), &[condition], None).problem(404, "not-found");
        app.request("GET", "/persons/1", &[condition], None).problem(404, "not-found");
    }
}

#[test]
fn if_none_match_star_opens_a_cart_only_if_it_does_not_exist() {
    let app = App::start();
    assert_unexpected_state(&app.request("PUT", CART, &[("If-Match", "*")], None), "*", None);
    let opened = app.request("PUT", CART, &[("If-None-Match", "*")], None);
    assert_eq!(opened.status, 201);
    let again = app.request("PUT", CART, &[("If-None-Match", "*")], None);
    assert_unexpected_state(&again, "not *", Some(&tag(&opened)));
    app.request("PUT", CART, &[("If-Match", &tag(&opened))], None).problem(409, "cart-already-open");
    assert_eq!(app.get(CART).cursor(), opened.cursor());
    assert_eq!(app.request("POST", "/carts", &[("If-None-Match", "*")], None).status, 201);
}

#[test]
fn if_none_match_with_a_tag_rejects_only_that_state() {
    let (app, first) = ann();
    let refused = with(&app, "PATCH", "/persons/1", ("If-None-Match", &first), r#"{"name":"Zoe"}"#);
    assert_unexpected_state(&refused, &format!("not {first}"), Some(&first));
    assert_eq!(with(&app, "PATCH", "/persons/1", ("If-None-Match", "\"other0epoch.1\""), "{}").status, 200);
}

#[test]
fn a_malformed_condition_is_rejected() {
    let (app, tag) = ann();
    let half = &tag[..tag.len() - 1];
    let list = format!("{tag}, nonsense");
    for sent in ["nonsense", half, &list, "1", "w/\"1\"", "\"a\" \"b\"", "*, \"a\"", "\"a b\"", "**", ""] {
        for name in ["If-Match", "If-None-Match"] {
            for (method, path, json) in [
                ("PATCH", "/persons/1", r#"{"name":"Zoe"}"#),
                ("PUT", "/persons/1", r#"{"name":"Zoe"}"#),
                ("DELETE", "/persons/1", ""),
                ("PUT", CART, "{}"),
                ("GET", "/persons/1", ""),
                ("GET", "/persons", ""),
                ("GET", "/persons?key=1", ""),
                ("GET", &format!("{CART}?version=1"), ""),
                ("GET", "/aggregates", ""),
                ("GET", "/", ""),
            ] {
                let response = with(&app, method, path, (name, sent), json);
                let problem = response.problem(400, "malformed-request");
                assert!(problem["detail"].as_str().unwrap().to_lowercase().contains(&name.to_lowercase()), "{problem}");
                assert!(method == "GET" || response.revision() == 1, "{method} {path}");
            }
        }
    }
    assert_eq!(app.get("/persons/1").json()["name"], "Ann");
}

#[test]
fn exactly_one_of_many_concurrent_writes_with_the_same_etag_succeeds() {
    let (app, mut now) = ann();
    app.request("PUT", CART, &[], None);
    for round in 0..3 {
        let cart = tag(&app.get(CART));
        let outcomes: Vec<(Response, Response)> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..16)
                .map(|client| {
                    let (app, now, cart) = (&app, &now, &cart);
                    scope.spawn(move || {
                        let name = json!({ "name": format!("{round}-{client}") }).to_string();
                        let item = json!({ "item": format!("{round}-{client}") }).to_string();
                        let person = with(app, "PATCH", "/persons/1", ("If-Match", now), &name);
                        (person, with(app, "POST", &format!("{CART}/add-item"), ("If-Match", cart), &item))
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let (persons, carts): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
        for (path, answers) in [("/persons/1", persons), (CART, carts)] {
            let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
            assert_eq!((done.len(), refused.len()), (1, 15), "{path}");
            let read = app.get(path);
            assert_eq!((read.text(), tag(&read)), (done[0].text(), tag(&done[0])));
            for answer in refused {
                assert_eq!(answer.problem(412, "unexpected-state")["actual"], Value::from(tag(&read)));
            }
        }
        now = tag(&app.get("/persons/1"));
    }
    assert_eq!(app.get(CART).json()["items"].as_object().unwrap().len(), 3);
}

#[test]
fn an_etag_survives_pruning_and_a_restart() {
    let (mut app, person) = ann();
    let cart = tag(&app.request("PUT", CART, &[], None));
    app.prune_everything();
    app.restart();
    assert_eq!((tag(&app.get("/persons/1")), tag(&app.get(CART))), (person.clone(), cart.clone()));
    assert_eq!(with(&app, "PATCH", "/persons/1", ("If-Match", &person), r#"{"name":"Zoe"}"#).status, 200);
    assert_eq!(app.request("POST", &format!("{CART}/close"), &[("If-Match", &cart)], None).status, 200);
}
