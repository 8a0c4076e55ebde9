//! A whole collection is read once for all clients, and matches the table.

use std::io::Read as _;

use serde_json::{Value, json};

use crate::harness::{App, Client, Random, Response, cases, eventually, long_cases, sql, undo_migrations};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// Whether a body is shared: a streamed body has no length.
fn is_shared(response: &Response) -> bool {
    assert_eq!(response.status, 200, "{}", response.text());
    response.header("Content-Length").is_some()
}

/// The JSON of a person with about this many bytes.
fn person(bytes: usize) -> String {
    json!({"name": "x".repeat(bytes), "city": "Rome"}).to_string()
}

fn fill(client: &mut Client, persons: usize, bytes: usize) {
    for _ in 0..persons {
        assert_eq!(client.request("POST", "/persons", &JSON, Some(person(bytes).as_bytes())).status, 201);
    }
}

/// Checks that the shared body of each collection equals the one streamed from the table, byte for byte.
#[track_caller]
fn assert_matches_table(app: &App) {
    for name in ["persons", "locations", "accounts"] {
        let (shared, streamed) = (app.get(&format!("/{name}")), app.get(&format!("/aggregates?collection={name}")));
        assert!(is_shared(&shared) && !is_shared(&streamed));
        assert_eq!(shared.revision(), streamed.revision());
        assert!(format!("{{\"{name}\":{}}}", shared.text()) == streamed.text(), "{name} at {}", shared.revision());
        assert_eq!(shared.header("ETag"), streamed.header("ETag"));
    }
}

#[test]
fn a_shared_body_matches_the_table_after_any_writes() {
    let mut random = Random::new(7);
    let mut app = App::start();
    let cities = ["Rome", "\"quoted\\\"", "Zürich", "10", "9", "{", "東京", "a/b"];
    let mut last: i64 = 0;
    for round in 0..cases(400).max(20) {
        let mut client = app.client();
        for _ in 0..random.below(40) {
            let key = 1 + random.below(last.unsigned_abs() + 1);
            let text = "x".repeat([1, 100, 3000][usize::try_from(random.below(3)).unwrap()]);
            let body = json!({"name": text, "city": random.one_of(&cities)}).to_string();
            match random.below(10) {
                0..4 => {
                    last += 1;
                    assert_eq!(client.request("POST", "/persons", &JSON, Some(body.as_bytes())).status, 201);
                }
                4..7 => {
                    client.request("PUT", &format!("/persons/{key}"), &JSON, Some(body.as_bytes()));
                }
                7 => {
                    client.request("POST", "/accounts", &[], None);
                }
                _ => {
                    client.request("DELETE", &format!("/persons/{key}"), &[], None);
                }
            }
        }
        match round % 20 {
            7 => app.restart(),
            // Tombstones are pruned, so no row has the deletions any more.
            13 => {
                app.turn_clock(91 * 24 * 3600 * 1000);
                app.prune();
            }
            17 => {
                for key in 1..=last {
                    client.request("DELETE", &format!("/persons/{key}"), &[], None);
                }
            }
            _ => {}
        }
        if random.below(3) > 0 {
            assert_matches_table(&app);
        }
    }
    assert_matches_table(&app);
}

#[test]
fn concurrent_writers_read_their_own_writes() {
    let app = App::start();
    fill(&mut app.client(), 50, 1000);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let mut client = app.client();
            scope.spawn(move || {
                for number in 1..=50 {
                    let patch = json!({ "spouse": number }).to_string();
                    let path = format!("/persons/{}", 1 + thread);
                    let written = client.request("PATCH", &path, &JSON, Some(patch.as_bytes())).revision();
                    let read = client.request("GET", "/persons", &[], None);
                    assert!(read.revision() >= written);
                    assert_eq!(read.json()[(1 + thread).to_string()]["spouse"], number);
                    let tag = read.header("ETag").unwrap().trim_matches('"').split_once('.').unwrap();
                    assert!(tag.1.parse::<i64>().unwrap() >= written);
                }
            });
        }
    });
}

#[test]
fn the_etag_of_a_collection_changes_only_with_the_collection() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.post("/persons", r#"{"name":"Bob"}"#);
    app.open_cart();
    let epoch = |app: &App| app.get("/persons").header("X-Epoch").unwrap().to_owned();
    let first = epoch(&app);
    // A tag names the epoch in which its revision was made: the first one up to revision 3.
    let expect = |app: &App, later: &str, tags: [(&str, i64); 5]| {
        for (path, revision) in tags {
            for (accept, suffix) in [("application/json", ""), ("application/x-ndjson", "-ndjson")] {
                if path == "/aggregates" && !suffix.is_empty() {
                    continue;
                }
                for method in ["GET", "HEAD"] {
                    let response = app.request(method, path, &[("Accept", accept)], None);
                    let epoch = if revision <= 3 { &first } else { later };
                    let tag = format!("\"{epoch}.{revision}{suffix}\"");
                    assert_eq!(response.header("ETag"), Some(tag.as_str()), "{method} {path} {accept}");
                }
            }
        }
    };
    let tags = [("/persons", 2), ("/locations", 1), ("/carts", 3), ("/accounts", 0), ("/aggregates", 3)];
    expect(&app, &first, tags);
    app.restart();
    let second = epoch(&app);
    expect(&app, &second, tags);
    app.delete("/persons/1");
    let tags = [("/persons", 4), ("/locations", 4), ("/carts", 3), ("/accounts", 0), ("/aggregates", 4)];
    expect(&app, &second, tags);
    // No row is left of the last change.
    app.turn_clock(91 * 24 * 3600 * 1000);
    app.prune();
    app.restart();
    expect(&app, &second, tags);
}

#[test]
fn if_none_match_gives_304_for_an_unchanged_collection() {
    let app = App::start();
    let mut client = app.client();
    fill(&mut client, 3, 1000);
    app.open_cart();
    let lines = ("Accept", "application/x-ndjson");
    for (path, accept) in [
        ("/persons", None),
        ("/persons", Some(lines)),
        ("/aggregates", None),
        ("/locations", None),
        ("/persons?key=1&key=3", None),
        ("/persons?key=1&key=3", Some(lines)),
        ("/persons?key=999", None),
    ] {
        let headers: Vec<_> = accept.into_iter().collect();
        let tag = app.request("GET", path, &headers, None).header("ETag").unwrap().to_owned();
        let gzip = tag.replace("\"", "").to_owned() + "-gzip";
        for sent in [tag.clone(), format!("W/{tag}"), format!("\"other0epoch.1\", {tag}"), format!("\"{gzip}\"")] {
            for method in ["GET", "HEAD"] {
                let headers = [&headers[..], &[("If-None-Match", sent.as_str())]].concat();
                let response = client.request(method, path, &headers, None);
                assert_eq!((response.status, response.revision()), (304, 4), "{method} {path} {sent}");
                let expected = if sent.contains("gzip") { sent.clone() } else { tag.clone() };
                assert_eq!(response.header("ETag"), Some(expected.as_str()));
                assert_eq!(response.header("Vary"), Some("Accept, Accept-Encoding"));
                assert!(response.header("X-Epoch").is_some());
            }
        }
        let any = [&headers[..], &[("If-None-Match", "*")]].concat();
        assert_eq!(client.request("GET", path, &any, None).status, 304);
        for sent in ["\"other0epoch.1\"", "\"x\"", &tag.replace("\"", "").replace("-ndjson", "").replace('.', "x")] {
            let sent = format!("\"{}\"", sent.replace('"', ""));
            let headers = [&headers[..], &[("If-None-Match", sent.as_str())]].concat();
            assert_eq!(client.request("GET", path, &headers, None).status, 200, "{path} {sent}");
        }
    }
    let tag = app.get("/persons").header("ETag").unwrap().to_owned();
    let other = app.request("GET", "/persons", &[lines, ("If-None-Match", &tag)], None);
    assert_eq!(other.status, 200, "the tag of the object does not match the lines");
    assert_eq!(app.request("GET", "/persons", &[("If-Match", &tag)], None).status, 200);
    app.delete("/persons/1");
    assert_eq!(app.request("GET", "/persons", &[("If-None-Match", &tag)], None).status, 200);
    app.request("GET", "/persons", &[("If-Match", &tag)], None).problem(412, "unexpected-state");
}

#[test]
fn head_has_the_same_content_length_as_get() {
    let app = App::start();
    fill(&mut app.client(), 100, 1000);
    for encoding in ["identity", "gzip"] {
        let ask = |method| app.request(method, "/persons", &[("Accept-Encoding", encoding)], None);
        let (head, get) = (ask("HEAD"), ask("GET"));
        for name in ["Content-Length", "Content-Type", "Content-Encoding", "ETag", "Vary", "Cache-Control"] {
            assert_eq!(head.header(name), get.header(name), "{name}");
        }
        assert_eq!(get.header("Content-Length").unwrap(), get.body.len().to_string());
    }
}

#[test]
fn selected_aggregates_have_the_etag_of_their_collection() {
    let app = App::start();
    let mut client = app.client();
    fill(&mut client, 3, 1000);
    let path = "/persons?key=1&key=3";
    let before = client.request("GET", path, &[], None);
    let tag = before.header("ETag").unwrap().to_owned();
    assert_eq!(Some(tag.as_str()), app.get("/persons").header("ETag"));
    let head = client.request("HEAD", path, &[], None);
    for name in ["ETag", "X-Revision", "X-Epoch", "Content-Type", "Cache-Control", "Vary"] {
        assert_eq!(head.header(name), before.header(name), "{name}");
    }
    client.request("GET", path, &[("If-Match", "\"x\"")], None).problem(412, "unexpected-state");
    app.open_cart();
    assert_eq!(client.request("GET", path, &[("If-None-Match", &tag)], None).status, 304, "of another collection");
    app.patch("/persons/3", r#"{"city":"Oslo"}"#);
    let after = client.request("GET", path, &[("If-None-Match", &tag)], None);
    assert_eq!((after.status, after.json()["3"]["city"].as_str()), (200, Some("Oslo")));
    assert_ne!(after.header("ETag"), Some(tag.as_str()));
}

fn unzipped(response: &Response) -> String {
    assert_eq!(response.header("Content-Encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&response.body[..]).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn gzip_gives_the_same_text_compressed() {
    let app = App::start();
    let zipped = |path| app.request("GET", path, &[("Accept-Encoding", "gzip")], None);
    assert_eq!(zipped("/persons").text(), "{}", "it is too small to compress");
    fill(&mut app.client(), 200, 1000);
    for round in 0..5 {
        let (plain, gzip) = (app.get("/persons"), zipped("/persons"));
        assert_eq!(unzipped(&gzip), plain.text());
        assert!(gzip.body.len() * 10 < plain.body.len());
        assert_eq!((gzip.revision(), gzip.header("Vary")), (plain.revision(), Some("Accept, Accept-Encoding")));
        let tag = plain.header("ETag").unwrap().trim_matches('"');
        assert_eq!(gzip.header("ETag"), Some(format!("\"{tag}-gzip\"").as_str()));
        app.patch(&format!("/persons/{}", 40 * round + 1), r#"{"name":"Ann"}"#);
        app.delete(&format!("/persons/{}", 40 * round + 2));
    }
    let plain = [
        ("/persons", "gzip;q=0"),
        ("/persons", "br"),
        ("/persons", "*;q=0, identity"),
        ("/persons", "identity, gzip;q=0.5"),
    ];
    for (path, accepted) in
        [&plain[..], &[("/locations", "gzip"), ("/aggregates", "gzip"), ("/persons/5", "gzip")]].concat()
    {
        let response = app.request("GET", path, &[("Accept-Encoding", accepted)], None);
        assert_eq!((response.status, response.header("Content-Encoding")), (200, None), "{path} {accepted}");
        response.json();
    }
    // Browsers and proxies name several.
    let browser = app.request("GET", "/persons", &[("Accept-Encoding", "gzip, deflate, br, zstd")], None);
    assert_eq!(unzipped(&browser), app.get("/persons").text());
}

#[test]
fn a_collection_over_budget_is_streamed_until_it_fits() {
    let app = App::with(|settings| settings.shared_bodies = Some(duality::ByteSize(100_000)));
    let mut client = app.client();
    fill(&mut client, 50, 1000);
    assert!(is_shared(&app.get("/persons")));
    fill(&mut client, 100, 1000);
    let streamed = app.request("GET", "/persons", &[("Accept-Encoding", "gzip")], None);
    assert!(!is_shared(&streamed));
    assert_eq!((streamed.header("Content-Encoding"), streamed.json().as_object().unwrap().len()), (None, 150));
    assert!(is_shared(&app.get("/locations")), "other collections are not affected");
    for key in 1..=120 {
        assert_eq!(app.delete(&format!("/persons/{key}")).status, 204);
    }
    // Streaming measures the new size.
    eventually("it is shared again", || is_shared(&app.get("/persons")));
    assert_eq!(app.get("/persons").json().as_object().unwrap().len(), 30);
    let none = App::with(|settings| settings.shared_bodies = Some(duality::ByteSize(0)));
    assert!(!is_shared(&none.get("/persons")));
}

#[test]
fn slow_readers_of_many_revisions_stay_within_the_budget() {
    const BUDGET: usize = 16 * 1024 * 1024;
    // They are everywhere in the body, so that one with parts of two revisions is noticed.
    const CHANGED: [usize; 10] = [1, 20, 45, 70, 95, 120, 145, 170, 190, 200];
    let app = App::with(|settings| settings.shared_bodies = Some(duality::ByteSize(BUDGET as u64)));
    let mut writer = app.client();
    // 10 MB are more than the kernel's buffers for one client, and more than half of the budget.
    fill(&mut writer, 200, 50_000);
    let first = app.get("/persons");
    assert!(is_shared(&first));
    let length = first.body.len();
    let mut slow = Vec::new();
    for version in 1..=8 {
        for person in CHANGED {
            let patch = json!({ "spouse": version }).to_string();
            let path = format!("/persons/{person}");
            assert_eq!(writer.request("PATCH", &path, &JSON, Some(patch.as_bytes())).status, 200);
        }
        let mut client = app.client();
        client.send("GET", "/persons", &[], None);
        let head = client.head().unwrap();
        assert_eq!(head.revision(), 200 + 10 * version);
        slow.push((client, head, version));
        let used = app.shared_body_bytes();
        assert!(used <= BUDGET, "{used} bytes; eight revisions have 80 MB");
        assert!(used >= length, "{used} bytes; the first slow client still holds a body");
    }
    assert!(slow.iter().any(|(_, head, _)| is_shared(head)) && slow.iter().any(|(_, head, _)| !is_shared(head)));
    for (mut client, head, version) in slow {
        let persons = client.rest(head).json();
        assert_eq!(persons.as_object().unwrap().len(), 200);
        let has_revision = |key: &usize| persons[key.to_string()]["spouse"] == version;
        assert!(CHANGED.iter().all(has_revision), "the body has the revision of its head");
    }
    eventually("the slow clients have released their bodies", || app.shared_body_bytes() < 2 * length);
    eventually("the last revision is shared", || is_shared(&app.get("/persons")));
}

#[test]
fn a_collection_that_needs_room_evicts_one_that_nobody_reads() {
    const BUDGET: usize = 50_000;
    let app = App::with(|settings| settings.shared_bodies = Some(duality::ByteSize(BUDGET as u64)));
    for number in 0..60 {
        let person = json!({"name": "x".repeat(500), "city": format!("{number}{}", "x".repeat(200))}).to_string();
        assert_eq!(app.post("/persons", &person).status, 201);
    }
    let mut total = 0;
    for path in ["/persons", "/locations", "/persons", "/locations"] {
        let response = app.get(path);
        assert!(is_shared(&response), "{path}");
        assert!(app.shared_body_bytes() <= BUDGET);
        total += response.body.len();
    }
    assert!(total > 2 * BUDGET, "the budget has no room for both");
}

#[test]
fn a_failed_read_is_a_500_and_the_next_get_retries() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    sql(app.database(), "ALTER TABLE aggregates RENAME TO elsewhere");
    let clients: Vec<_> = (0..4).map(|_| app.get("/persons")).collect();
    for response in clients {
        response.problem(500, "internal");
    }
    sql(app.database(), "ALTER TABLE elsewhere RENAME TO aggregates");
    assert_eq!(app.get("/persons").json(), json!({"1": {"name": "Ann"}}));
}

#[test]
fn a_database_without_collection_etags_starts_with_its_last_revision() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.open_cart();
    app.stop();
    undo_migrations(app.database(), "2026-11-22-120000_last_changes");
    app.resume();
    for path in ["/persons", "/locations", "/carts"] {
        let response = app.get(path);
        assert_eq!((response.revision(), response.header("ETag").unwrap().ends_with(".2\"")), (2, true), "{path}");
    }
    app.patch("/persons/1", r#"{"name":"Anna"}"#);
    let tag = |path| Value::from(app.get(path).header("ETag").unwrap());
    assert_ne!(tag("/persons"), tag("/locations"));
}

#[test]
fn a_client_never_sees_an_older_revision_than_before() {
    let app = App::start();
    fill(&mut app.client(), 3, 10);
    let writing = |key: usize| {
        let mut client = app.client();
        for number in 0..long_cases(4000) {
            let name = json!({ "name": number.to_string() }).to_string();
            client.request("PATCH", &format!("/persons/{key}"), &JSON, Some(name.as_bytes()));
        }
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=3).map(|key| scope.spawn(move || writing(key))).collect();
        let (mut client, mut seen, mut tag) = (app.client(), 0, "\"none\"".to_owned());
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let one = client.request("GET", "/persons/1", &[], None);
            assert!(one.revision() >= seen, "one: {} after {seen}", one.revision());
            // A 304 for the previous tag is correct only if nothing has changed.
            let all = client.request("GET", "/persons", &[("If-None-Match", &tag)], None);
            assert!(all.revision() >= one.revision(), "all: {} after {}", all.revision(), one.revision());
            seen = all.revision();
            tag = all.header("ETag").unwrap().to_owned();
        }
    });
}
