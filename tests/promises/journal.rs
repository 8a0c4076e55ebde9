//! The journal keeps every domain event, in order and permanently.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{App, Client, DEADLINE, Event, Response, Stream, eventually, sql};

const JSON: (&str, &str) = ("Accept", "application/json");
const LINES: (&str, &str) = ("Accept", "application/x-ndjson");
const SSE: (&str, &str) = ("Accept", "text/event-stream");

/// A cart with an apple, an account, and the cart closed: positions 1 to 4.
fn four_events() -> (App, String, String) {
    let app = App::start();
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    let account = app.command("/accounts").header("Location").unwrap().to_owned();
    app.command(&format!("{cart}/close"));
    (app, cart, account)
}

fn epoch(app: &App) -> String {
    app.get("/carts").header("X-Epoch").unwrap().to_owned()
}

#[track_caller]
fn page(app: &App, query: &str) -> Value {
    let response = app.request("GET", &format!("/journal{query}"), &[JSON], None);
    assert_eq!((response.status, response.header("Content-Type")), (200, Some("application/json")));
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    assert_eq!(response.cursor(), app.get("/carts").cursor());
    response.json()
}

fn positions(page: &Value) -> Vec<i64> {
    page["events"].as_array().unwrap().iter().map(|event| event["position"].as_i64().unwrap()).collect()
}

fn sent(event: &Event) -> (&str, &str) {
    (event.name.as_deref().unwrap_or_default(), event.id.as_deref().unwrap_or_default())
}

/// Waits until a request that was just sent has been read. Workers serve connections in turn, so it has been read once
/// these requests have been answered.
fn wait_until_read(app: &App) {
    for _ in 0..20 {
        Client::connect(app.address).request("GET", "/carts", &[], None);
    }
}

#[test]
fn the_journal_streams_every_domain_event_in_order() {
    let (app, cart, account) = four_events();
    let epoch = epoch(&app);
    let mut stream = app.follow("/journal", &[]);
    for (name, value) in [
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
        ("X-Revision", "4"),
        ("X-Epoch", &epoch),
    ] {
        assert_eq!(stream.head.header(name), Some(value));
    }
    let events: Vec<_> = (0..4).map(|_| stream.next()).collect();
    assert!(stream.raw.starts_with(":\nretry: "), "{:?}", stream.raw);
    let ids: Vec<_> = (1..=4).map(|position| format!("{epoch}.{position}")).collect();
    assert_eq!(
        events.iter().map(sent).collect::<Vec<_>>(),
        ["CartOpened", "ItemAdded", "AccountOpened", "CartClosed"]
            .into_iter()
            .zip(ids.iter().map(String::as_str))
            .collect::<Vec<_>>()
    );
    let added = events[1].patch();
    let time = added["time"].clone();
    assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
    let key = cart.strip_prefix("/carts/").unwrap();
    let metadata = added["metadata"].clone();
    assert_eq!(
        added,
        json!({"position": 2, "collection": "carts", "key": key, "version": 2, "time": time, "kind": "ItemAdded",
            "schema": 1, "body": {"item": "apple", "time": time}, "metadata": metadata})
    );
    let opened = events[2].patch();
    assert_eq!(
        (&opened["collection"], &opened["version"], &opened["body"]),
        (&json!("accounts"), &json!(1), &json!({}))
    );
    assert_eq!(opened["key"], account.strip_prefix("/accounts/").unwrap());

    app.open_cart();
    assert_eq!(sent(&stream.next()), ("CartOpened", format!("{epoch}.5").as_str()));
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.add_item(&cart, "pear").problem(409, "cart-already-closed");
    app.command("/accounts");
    assert_eq!(
        sent(&stream.next()),
        ("AccountOpened", format!("{epoch}.6").as_str()),
        "the journal has only domain events"
    );
}

#[test]
fn a_journal_stream_resumes_from_the_cursor() {
    let (app, cart, _) = four_events();
    let (two, four) = (format!("{}.2", epoch(&app)), format!("{}.4", epoch(&app)));
    let query = format!("/journal?lastEventId={two}");
    for (path, headers) in [
        ("/journal", vec![("Last-Event-ID", two.as_str())]),
        (query.as_str(), vec![]),
        (query.as_str(), vec![("Last-Event-ID", "")]),
        ("/journal?lastEventId=nonsense", vec![("Last-Event-ID", two.as_str())]),
    ] {
        let mut stream = app.follow(path, &headers);
        assert_eq!([3, 4].map(|_| stream.next().revision()), [3, 4], "{path} {headers:?}");
    }
    let mut stream = app.follow("/journal", &[("Last-Event-ID", &four)]);
    stream.read_until(|text| text.contains("retry"));
    app.open_cart();
    assert_eq!(stream.next().revision(), 5);
    let mut carts = app.follow("/journal?collection=carts", &[]);
    assert_eq!([0; 4].map(|_| carts.next().revision()), [1, 2, 4, 5]);
    let mut both = app.follow("/journal?collection=accounts&collection=persons", &[]);
    app.command("/accounts");
    assert_eq!([0; 2].map(|_| both.next().revision()), [3, 6]);
    assert_eq!(app.get(&cart).revision(), 6);
    let unknown = app.get("/journal?collection=cart").problem(400, "malformed-request");
    assert!(unknown["detail"].as_str().unwrap().contains("persons, locations, carts, accounts"), "{unknown}");
}

#[test]
fn an_id_foreign_to_the_journal_is_a_410_with_a_bootstrap_path() {
    let (app, ..) = four_events();
    let epoch = epoch(&app);
    let gone = |response: Response| {
        let problem = response.problem(410, "foreign-id");
        assert_eq!(
            [&problem["current"], &problem["epoch"], &problem["bootstrap"]],
            [&json!(4), &json!(epoch), &json!("/journal")]
        );
        assert_eq!(response.cursor(), format!("{epoch}.4"));
    };
    for id in ["other0epoch.2".to_owned(), format!("{epoch}.5"), format!("{epoch}.2.partial")] {
        gone(app.get(&format!("/journal?lastEventId={id}")));
        for accept in [SSE, JSON, LINES] {
            gone(app.request("GET", "/journal", &[accept, ("Last-Event-ID", &id)], None));
        }
    }
    let both = app.request("GET", "/journal?wait=301", &[JSON, ("Last-Event-ID", "other0epoch.2")], None);
    assert!(both.problem(400, "malformed-request")["detail"].as_str().unwrap().starts_with("wait: "));
    for id in ["nonsense", "4", "undefined.undefined", "łódź"] {
        gone(app.request("GET", "/journal", &[("Last-Event-ID", id)], None));
        gone(app.request(
            "GET",
            &format!("/journal?lastEventId={}", id.replace(|c: char| !c.is_ascii(), "%FF")),
            &[SSE],
            None,
        ));
    }
    for query in
        ["lastEventId=nonsense", "lastEventId=4", "revision=2", "limit=0", "limit=10001", "wait=301", "limit=x"]
    {
        let problem = app.request("GET", &format!("/journal?{query}"), &[JSON], None).problem(400, "malformed-request");
        assert!(problem["detail"].as_str().unwrap().contains(query.split('=').next().unwrap()), "{problem}");
    }
    app.request("GET", "/journal", &[("Accept", "text/html")], None).problem(406, "not-acceptable");
}

#[test]
fn an_id_read_before_its_commit_is_announced_is_valid() {
    let (app, ..) = four_events();
    let (four, five) = (format!("{}.4", epoch(&app)), format!("{}.5", epoch(&app)));
    // The state between a commit and its announcement by the aggregator.
    sql(
        app.database(),
        "INSERT INTO journal SELECT 5, collection, key, 4, kind, schema, body, time, metadata, erased FROM journal WHERE position = 4",
    );
    assert_eq!(page(&app, &format!("?lastEventId={four}"))["cursor"], five);
    assert_eq!(page(&app, &format!("?lastEventId={five}")), json!({"events": [], "cursor": five}));
    app.get(&format!("/journal?lastEventId={}", five.replace(".5", ".6"))).problem(410, "foreign-id");
}

#[test]
fn a_quiet_journal_sends_comment_lines() {
    let app = App::with(|settings| settings.heartbeat = Duration::from_millis(50));
    let mut stream = app.follow("/journal", &[]);
    stream.read_until(|text| text.matches(":\n").count() >= 4);
    assert!(!stream.raw.contains("\n\n"), "a comment has no blank line: {:?}", stream.raw);
    app.open_cart();
    assert_eq!(stream.next().revision(), 1);
}

#[test]
fn the_journal_can_be_paged_to_the_end() {
    let (app, ..) = four_events();
    let epoch = epoch(&app);
    for limit in 1..=5 {
        let (mut cursor, mut seen) = (format!("{epoch}.0"), Vec::new());
        loop {
            let page = page(&app, &format!("?limit={limit}&lastEventId={cursor}"));
            let here = positions(&page);
            assert!(here.len() <= limit);
            cursor = page["cursor"].as_str().unwrap().to_owned();
            if here.is_empty() {
                break;
            }
            seen.extend(here);
        }
        assert_eq!((seen, cursor), (vec![1, 2, 3, 4], format!("{epoch}.4")), "by {limit}");
    }
    let carts = page(&app, "?collection=carts&limit=3");
    assert_eq!((positions(&carts), &carts["cursor"]), (vec![1, 2, 4], &json!(format!("{epoch}.4"))));
    let accounts = page(&app, "?collection=accounts");
    assert_eq!(
        (positions(&accounts), &accounts["cursor"]),
        (vec![3], &json!(format!("{epoch}.4"))),
        "the cursor is past the filtered events"
    );
    assert_eq!(page(&app, "?collection=persons"), json!({"events": [], "cursor": format!("{epoch}.4")}));

    let lines = app.request("GET", &format!("/journal?lastEventId={epoch}.1"), &[LINES], None);
    assert_eq!(lines.header("Content-Type"), Some("application/x-ndjson"));
    let lines: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut expected = page(&app, &format!("?lastEventId={epoch}.1"))["events"].as_array().unwrap().clone();
    expected.push(json!({"cursor": format!("{epoch}.4")}));
    assert_eq!(lines, expected);
}

#[test]
fn a_journal_long_poll_returns_on_a_new_event_or_a_timeout() {
    let (mut app, cart, _) = four_events();
    let epoch = epoch(&app);
    let mut client = app.client();
    client.send("GET", &format!("/journal?collection=carts&wait=60&lastEventId={epoch}.4"), &[JSON], None);
    wait_until_read(&app);
    let begin = Instant::now();
    app.command("/accounts");
    app.open_cart();
    let answer = client.response("GET").json();
    assert_eq!((positions(&answer), &answer["cursor"]), (vec![6], &json!(format!("{epoch}.6"))));
    assert!(begin.elapsed() < DEADLINE, "{:?}", begin.elapsed());

    let begin = Instant::now();
    assert_eq!(
        page(&app, &format!("?wait=1&lastEventId={epoch}.6")),
        json!({"events": [], "cursor": format!("{epoch}.6")})
    );
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(positions(&page(&app, &format!("?wait=60&lastEventId={epoch}.5"))), [6], "at once");

    let mut client = app.client();
    client.send("GET", &format!("/journal?wait=60&lastEventId={epoch}.6"), &[LINES], None);
    wait_until_read(&app);
    app.add_item(&cart, "pear").problem(409, "cart-already-closed");
    app.stop();
    assert_eq!(client.response("GET").text(), format!("{{\"cursor\":\"{epoch}.6\"}}\n"), "a stop ends the wait");
}

#[test]
fn shutdown_cuts_the_journal_and_positions_continue_after_a_restart() {
    let (mut app, cart, _) = four_events();
    let id = format!("{}.4", epoch(&app));
    let before = page(&app, "");
    let mut stream = app.follow("/journal", &[]);
    assert_eq!([0; 4].map(|_| stream.next().revision()), [1, 2, 3, 4]);
    app.stop();
    assert_eq!(stream.try_next(), None, "the stream is cut: after a clean end some clients never reconnect");
    app.resume();
    assert_eq!(page(&app, "")["events"], before["events"]);
    let mut stream = app.follow("/journal", &[("Last-Event-ID", &id)]);
    stream.read_until(|text| text.contains("retry"));
    app.open_cart();
    let next = format!("{}.5", epoch(&app));
    assert_eq!(stream.next().id, Some(next), "the id of the earlier epoch is good");
    assert_eq!(app.get(&format!("{cart}/journal")).json()["events"].as_array().unwrap().len(), 3);
}

#[test]
fn the_journal_of_one_aggregate_can_be_paged_to_the_end() {
    let (app, cart, account) = four_events();
    let open = app.open_cart();
    (0..5).for_each(|number| drop(app.add_item(&open, &number.to_string())));
    for (limit, pages) in [(1, 6), (2, 3), (4, 2), (6, 1), (7, 1)] {
        let (mut versions, mut seen) = (Vec::new(), 0);
        let mut next = Some(format!("{open}/journal?limit={limit}"));
        while let Some(path) = next {
            let response = app.get(&path);
            assert_eq!((response.status, response.header("Cache-Control")), (200, Some("no-store")));
            let page = response.json();
            versions.extend(page["events"].as_array().unwrap().iter().map(|event| event["version"].as_i64().unwrap()));
            next = page.get("next").map(|next| next.as_str().unwrap().to_owned());
            seen += 1;
        }
        assert_eq!((versions, seen), (vec![1, 2, 3, 4, 5, 6], pages), "by {limit}");
    }
    let all = page(&app, "?collection=carts")["events"].as_array().unwrap().clone();
    assert_eq!(app.get(&format!("{cart}/journal")).json(), json!({"events": [all[0], all[1], all[2]]}));
    assert_eq!(app.get(&format!("{account}/journal")).json()["events"].as_array().unwrap().len(), 1);
    assert_eq!(app.get(&format!("{open}/journal?after=6")).json(), json!({"events": []}));
    for path in [
        "/carts/1/journal",
        "/carts/1/journal?after=6",
        "/accounts/1/journal",
        &format!("/accounts{}/journal", &cart[6..]),
    ] {
        let missing = app.get(path);
        missing.problem(404, "not-found");
        assert_eq!(missing.cursor(), app.get("/carts").cursor());
    }
    app.get("/persons/1/journal").problem(404, "no-such-path");
    app.get(&format!("{cart}/journal?after=x")).problem(400, "malformed-request");
    app.get(&format!("{cart}/journal?limit=0")).problem(400, "malformed-request");
}

#[test]
fn a_journal_stream_counts_towards_the_limit_until_it_closes() {
    let app = App::with(|settings| settings.max_sessions = crate::harness::count(1));
    let mut stream = app.follow("/journal", &[SSE]);
    stream.read_until(|text| text.contains("retry"));
    assert_eq!(app.sessions(), 1);
    for path in ["/journal", "/cart-events"] {
        let response = app.get(path);
        response.problem(503, "busy");
        assert!(response.header("Retry-After").is_some());
        let mut refused = app.follow(path, &[SSE]);
        assert_eq!(refused.message(), None, "the stream is cut with a retry time");
        assert!(refused.raw.starts_with(":\nretry: "), "{:?}", refused.raw);
    }
    assert_eq!(app.request("GET", "/journal", &[JSON], None).status, 200, "a page does not count towards the limit");
    let head = app.request("HEAD", "/journal", &[], None);
    assert_eq!((head.status, head.header("Content-Type"), head.text()), (200, SSE.1.into(), ""));
    app.open_cart();
    assert_eq!(stream.next().revision(), 1, "the open stream is unaffected");
    stream.close();
    eventually("the stream has closed", || app.sessions() == 0);
    assert_eq!(app.follow("/journal", &[SSE]).next().revision(), 1);
}

#[test]
fn head_on_the_journal_matches_get() {
    let (app, cart, _) = four_events();
    let mut client = app.client();
    for (path, status) in [
        ("/journal", 200),
        (&format!("{cart}/journal"), 200),
        ("/carts/1/journal", 404),
        ("/journal?lastEventId=other0epoch.1", 410),
    ] {
        for accept in [SSE, JSON, ("Accept", "*/*")] {
            if accept == SSE && path.starts_with("/carts") {
                continue;
            }
            let head = client.request("HEAD", path, &[accept], None);
            assert_eq!((head.status, head.revision()), (status, 4), "{path} {accept:?}");
        }
    }
    assert_eq!(client.request("GET", &cart, &[], None).status, 200, "the connection is still usable");
}

#[test]
fn the_journal_survives_pruning_and_consumers_of_change_events_converge() {
    let (mut app, cart, account) = four_events();
    let (mut carts, cursor) = app.load("/carts");
    let open = app.open_cart();
    ["apple", "pear"].iter().for_each(|item| drop(app.add_item(&open, item)));
    app.post(&format!("{open}/remove-item"), r#"{"item":"apple"}"#);
    let journal = page(&app, "");
    assert_eq!(positions(&journal), (1..=8).collect::<Vec<_>>());
    for _ in 0..2 {
        app.prune_everything();
        app.get("/cart-events?strict=true&revision=1").problem(410, "not-retained");
        assert_eq!(page(&app, "")["events"], journal["events"]);
        let mut stream = app.follow("/journal", &[]);
        assert_eq!([0; 8].map(|_| stream.next().revision()), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(app.get(&format!("{account}/journal")).json()["events"], json!([journal["events"][2]]));
        assert_eq!(app.get(&format!("{open}?version=3")).json()["items"].as_object().unwrap().len(), 2);

        let mut late = carts.clone();
        app.follow("/cart-events", &[("Last-Event-ID", &cursor)]).follow(&mut late, 8);
        assert_eq!(late, app.get("/carts").json());
        let mut new = Value::Null;
        app.follow("/cart-events", &[]).follow(&mut new, 8);
        assert_eq!(new, late);
        app.restart();
    }
    app.add_item(&open, "plum");
    app.add_item(&cart, "plum").problem(409, "cart-already-closed");
    app.follow("/cart-events", &[("Last-Event-ID", &cursor)]).follow(&mut carts, 9);
    assert_eq!(carts, app.get("/carts").json());
    assert_eq!(positions(&page(&app, "?limit=1&lastEventId=")), [1]);
}

/// The pages of the journal that were read from the database so far.
fn reads(app: &App) -> u64 {
    let metrics = app.get("/metrics");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix("duality_journal_reads_total "));
    line.unwrap().parse().unwrap()
}

/// Streams of the journal that have everything.
fn following(app: &App, path: &str, count: usize) -> Vec<Stream> {
    let last = page(app, "?limit=10000")["cursor"].as_str().unwrap().to_owned();
    let mut streams: Vec<_> = (0..count).map(|_| app.follow(path, &[("Last-Event-ID", &last)])).collect();
    streams.iter_mut().for_each(|stream| stream.read_until(|text| text.contains("retry")));
    streams
}

#[test]
fn an_event_is_read_once_however_many_streams_follow_the_journal() {
    for count in [1, 30] {
        let (app, cart, _) = four_events();
        let all = following(&app, "/journal", count);
        let accounts = following(&app, "/journal?collection=accounts", count);
        let before = reads(&app);
        let mut streams: Vec<_> = all.into_iter().chain(accounts).collect();
        for position in 5..15 {
            app.command("/accounts");
            let events: Vec<_> = streams.iter_mut().map(Stream::next).collect();
            assert_eq!(events[0].revision(), position);
            assert!(events.iter().all(|event| *event == events[0]), "{events:?}");
        }
        assert_eq!(reads(&app) - before, 2 * 10, "one for each of the two filters, for {count} streams");
        // What is filtered out is read once as well.
        app.add_item(&cart, "pear").problem(409, "cart-already-closed");
        app.open_cart();
        app.command("/accounts");
        let seen: Vec<_> = streams.iter_mut().map(|stream| stream.next().revision()).collect();
        assert_eq!(seen, [vec![15; count], vec![16; count]].concat());
        let at_most = 2 * 12;
        assert!(reads(&app) - before <= at_most, "{} reads for {count} streams", reads(&app) - before);
    }
}

#[test]
fn streams_of_the_journal_that_come_from_different_positions_meet() {
    const EVENTS: i64 = 1100;
    let app = App::start();
    let mut client = app.client();
    for _ in 0..EVENTS {
        assert_eq!(client.request("POST", "/accounts", &[], None).status, 201);
    }
    let (epoch, before) = (epoch(&app), reads(&app));
    let follow = |after: i64| app.follow("/journal", &[("Last-Event-ID", &format!("{epoch}.{after}"))]);
    let mut streams: Vec<_> = (0..10).map(|after| (after, follow(after))).collect();
    for (after, stream) in &mut streams {
        for position in *after + 1..=EVENTS {
            assert_eq!(stream.next().revision(), position);
        }
    }
    // Each of them up to the first cut, and then two pages for all.
    assert_eq!(reads(&app) - before, 10 + 2);
}

#[test]
fn streams_of_the_journal_get_every_event_without_memory_to_share() {
    let mut app = App::with(|settings| settings.shared_events = Some(duality::ByteSize(0)));
    for restarts in 0..2 {
        let mut streams: Vec<_> = (0..10).map(|_| app.follow("/journal", &[])).collect();
        for position in 1..=20 + 20 * restarts {
            if position > 20 * restarts {
                app.command("/accounts");
            }
            assert!(streams.iter_mut().all(|stream| stream.next().revision() == position));
        }
        drop(streams);
        app.restart();
    }
}
