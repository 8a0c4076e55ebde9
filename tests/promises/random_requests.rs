//! Whatever a client sends, it gets HTTP back, and everything stays consistent.

use std::time::Duration;

use duality::aggregates::shipped;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::Value;

use crate::harness::{App, cases, exchange};

const METHODS: [&str; 12] =
    ["GET", "GET", "GET", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW", "get"];

const SEGMENTS: [&str; 26] = [
    "persons",
    "persons",
    "persons",
    "carts",
    "accounts",
    "locations",
    "aggregates",
    "events",
    "person-events",
    "cart-events",
    "journal",
    "projections",
    "reports",
    "carts.csv",
    "cart_items",
    "rebuild",
    "1",
    "2",
    "Rome",
    "0193a5b0-7b2c-7def-8000-123456789abc",
    "add-item",
    "book",
    "%2F",
    "%ff",
    "..",
    "",
];

const QUERIES: [&str; 18] = [
    "limit=1",
    "limit=0",
    "wait=0",
    "key=1",
    "key=",
    "lastEventId=4f9c21aa.1",
    "lastEventId=x",
    "compact=true",
    "strict=true",
    "revision=1",
    "epoch=4f9c21aa",
    "version=1",
    "version=99",
    "after=1",
    "collection=persons",
    "nonsense",
    "%",
    "a=%ff",
];

const HEADERS: [&str; 28] = [
    "Content-Type: application/json",
    "Content-Type: application/json",
    "Content-Type: application/merge-patch+json",
    "Content-Type: text/plain",
    "Accept: application/json",
    "Accept: application/x-ndjson",
    "Accept: text/event-stream",
    "Accept: */*;q=0",
    "Accept-Encoding: gzip",
    "Last-Event-ID: 4f9c21aa.1",
    "Last-Event-ID: \u{e9}",
    "X-Revision: 1",
    "X-Revision: -1",
    "X-Epoch: 4f9c21aa",
    "If-Match: *",
    "If-Match: \"4f9c21aa.1\"",
    "If-None-Match: *",
    "Idempotency-Key: 1",
    "Idempotency-Key: \"",
    "Prefer: handling=strict",
    "Origin: https://elsewhere.example",
    "Origin: null",
    "Connection: close",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "Broken",
];

const BODIES: [&str; 16] = [
    r#"{"name":"Ann","city":"Rome"}"#,
    r#"{"name":"Bob","spouse":1}"#,
    r#"{"city":null}"#,
    r#"{"name":""}"#,
    "{}",
    "null",
    "[",
    r#"{"item":"apple"}"#,
    r#"{"amount":5,"text":"rent"}"#,
    r#"{"amount":9007199254740993,"text":""}"#,
    "\u{0}",
    r#"{"name":"a","name":"b"}"#,
    "5\r\n{\"a\":\r\n",
    "0\r\n\r\n",
    "{\"name\":\"\u{2028}\"}",
    "",
];

/// One request, mostly with a head that can be read.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let path =
        prop::collection::vec(select(&SEGMENTS[..]), 1..5).prop_map(|segments| format!("/{}", segments.join("/")));
    let query = prop::collection::vec(select(&QUERIES[..]), 0..3).prop_map(|query| match query.join("&") {
        query if query.is_empty() => query,
        query => format!("?{query}"),
    });
    let target = (path, query).prop_map(|(path, query)| path + &query);
    let headers = prop::collection::vec(select(&HEADERS[..]), 0..5);
    let version = select(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", ""][..]);
    let host =
        select(&["Host: localhost", "Host: localhost", "Host: localhost", "Host: elsewhere.example", "Host:"][..]);
    let length = prop_oneof![8 => Just(None), 1 => (0..40_usize).prop_map(Some)];
    (select(&METHODS[..]), target, version, host, headers, select(&BODIES[..]), length).prop_map(
        |(method, target, version, host, headers, body, length)| {
            let mut text = format!("{method} {target} {version}\r\n{host}\r\n");
            headers.iter().for_each(|header| text.push_str(&format!("{header}\r\n")));
            if !body.is_empty() || length.is_some() {
                text.push_str(&format!("Content-Length: {}\r\n", length.unwrap_or(body.len())));
            }
            (text + "\r\n" + body).into_bytes()
        },
    )
}

const WRITES: [(&str, &str, &str); 10] = [
    ("POST", "/persons", r#"{"name":"Ann","city":"Rome"}"#),
    ("POST", "/persons", r#"{"name":"Bob","spouse":1}"#),
    ("PATCH", "/persons/1", r#"{"city":"Oslo"}"#),
    ("PATCH", "/persons/2", r#"{"city":null,"name":"\u2028"}"#),
    ("PUT", "/persons/1", r#"{"name":"Anna"}"#),
    ("DELETE", "/persons/2", ""),
    ("PUT", "/carts/0193a5b0-7b2c-7def-8000-123456789abc", "{}"),
    ("POST", "/carts/0193a5b0-7b2c-7def-8000-123456789abc/add-item", r#"{"item":"apple"}"#),
    ("PUT", "/accounts/0193a5b0-7b2c-7def-8000-123456789abc", "{}"),
    ("POST", "/accounts/0193a5b0-7b2c-7def-8000-123456789abc/book", r#"{"amount":5,"text":"rent"}"#),
];

/// A request that a client would send, perhaps with another header.
fn write() -> impl Strategy<Value = Vec<u8>> {
    (select(&WRITES[..]), prop::option::of(select(&HEADERS[..]))).prop_map(|((method, path, body), header)| {
        let header = header.map(|header| format!("{header}\r\n")).unwrap_or_default();
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{header}\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    })
}

/// After its response, the service closes the connection.
const LAST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// What one client sends: requests, perhaps with a wrong byte or without an end, or nothing that is HTTP.
fn sent() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(prop_oneof![request(), write()], 1..4).prop_map(|requests| [requests.concat(), LAST.to_vec()].concat()),
        2 => (request(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        1 => (request(), any::<prop::sample::Index>()).prop_map(|(bytes, at)| bytes[..at.index(bytes.len())].to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..80),
    ]
}

#[test]
fn any_bytes_are_answered_as_http_and_leave_everything_consistent() {
    // A request for a later revision waits no longer than usual, and every feed reaches every revision soon.
    let mut app = App::with(|settings| settings.heartbeat = Duration::from_millis(50));
    let config =
        Config { cases: cases(2000), failure_persistence: None, rng_seed: RngSeed::Fixed(2026), ..Config::default() };
    let address = app.address;
    TestRunner::new(config)
        .run(&sent(), |bytes| {
            let answer = exchange::exchange(address, &bytes);
            let answer = answer.map_err(|error| TestCaseError::fail(format!("no answer: {error}")))?;
            exchange::check(&answer).map_err(TestCaseError::fail)
        })
        .unwrap();

    let document = app.get("/aggregates");
    assert!(document.revision() > 10, "too few requests were writes");
    let mut copy = Value::Null;
    app.follow("/events", &[]).follow(&mut copy, document.revision());
    assert_eq!(copy, document.json());
    app.stop();
    let results = shipped().verify(app.database()).unwrap();
    for verified in &results {
        assert!(verified.is_sound(), "{verified}");
    }
}
