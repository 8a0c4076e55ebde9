//! Every event and every change event keeps who caused it, and why, beside it.

use serde_json::{Value, json};

use crate::harness::{App, TokenFile, lines};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A request with its cause: `cause` is a correlation, and a causation.
fn write(app: &App, method: &str, path: &str, json: &str, cause: [&str; 2]) -> i64 {
    let [correlation, causation] = cause;
    let headers =
        [("Content-Type", "application/json"), ("X-Correlation-Id", correlation), ("X-Causation-Id", causation)];
    let response = app.request(method, path, &headers, Some(json.as_bytes()));
    assert!((200..300).contains(&response.status), "{method} {path}: {}", response.text());
    response.revision()
}

/// The metadata of all events in a journal.
fn of_journal(app: &App, path: &str) -> Vec<Value> {
    let response = app.request("GET", path, &[("Accept", "application/json")], None);
    let events = response.json()["events"].as_array().unwrap().clone();
    events.into_iter().map(|mut event| event["metadata"].take()).collect()
}

/// The metadata of all change events, as the database has it.
fn of_outbox(app: &App) -> Vec<Value> {
    let lines =
        lines(app.database(), "SELECT coalesce(metadata, 'null') AS line FROM outbox ORDER BY revision, collection");
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_event_and_a_change_event_have_the_correlation_and_the_causation_of_their_request() {
    let app = App::start();
    write(&app, "POST", "/persons", r#"{"name":"Ann","city":"Rome"}"#, ["order-7", "message-3"]);
    write(&app, "PATCH", "/persons/1", r#"{"city":null}"#, ["order-8", "message-4"]);
    let cart = "/carts/0193a5b0-7b2c-7def-8000-123456789abc";
    write(&app, "PUT", cart, "{}", ["order-9", "message-5"]);
    write(&app, "POST", &format!("{cart}/add-item"), r#"{"item":"apple"}"#, ["order-10", "\"quoted\\"]);
    let of = |correlation, causation| json!({"correlation": correlation, "causation": causation});
    let carts = vec![of("order-9", "message-5"), of("order-10", "\"quoted\\")];
    assert_eq!(of_journal(&app, "/journal"), carts);
    assert_eq!(of_journal(&app, &format!("{cart}/journal")), carts);
    let mut stream = app.follow("/journal", &[]);
    assert_eq!([0, 1].map(|_| stream.next().patch()["metadata"].take()).to_vec(), carts);
    // A location changes with its person.
    let (first, second) = (of("order-7", "message-3"), of("order-8", "message-4"));
    let mut expected = vec![first.clone(), first, second.clone(), second];
    expected.extend(carts);
    assert_eq!(of_outbox(&app), expected);
}

#[test]
fn the_actor_is_the_name_of_the_token() {
    let tokens = TokenFile::new();
    let token = tokens.add("till-3", "write,read");
    let app = tokens.serve(|_| {});
    let bearer = token.bearer();
    let sent = [("Authorization", bearer.as_str()), ("X-Correlation-Id", "order-7"), ("Accept", "application/json")];
    assert_eq!(app.request("POST", "/carts", &sent, None).status, 201);
    let journal = app.request("GET", "/journal", &sent, None).json();
    assert_eq!(journal["events"][0]["metadata"], json!({"actor": "till-3", "correlation": "order-7"}));
    let (code, _, log) = tokens.run(&["new", "duality", "--scope", "write"]);
    assert!(code == 1 && log.contains("the name of the service itself"), "{log}");
}

#[test]
fn a_trace_parent_counts_where_there_is_no_id_of_ours_and_a_malformed_one_does_not() {
    let app = App::start();
    let trace = format!("00-{TRACE}-{PARENT}-01");
    for headers in [
        &[("traceparent", trace.as_str())][..],
        &[("traceparent", &trace), ("X-Correlation-Id", "order-7")],
        &[("traceparent", &trace), ("X-Causation-Id", "message-3")],
        &[("traceparent", "00-nonsense-01"), ("X-Correlation-Id", "order-8"), ("X-Causation-Id", "")],
    ] {
        assert_eq!(app.request("POST", "/carts", headers, None).status, 201, "{headers:?}");
    }
    let expected = [
        json!({"correlation": TRACE, "causation": PARENT}),
        json!({"correlation": "order-7", "causation": PARENT}),
        json!({"correlation": TRACE, "causation": "message-3"}),
        json!({"correlation": "order-8"}),
    ];
    assert_eq!(of_journal(&app, "/journal"), expected);
}

#[test]
fn without_an_id_every_request_has_a_correlation_of_its_own() {
    let app = App::start();
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    app.post("/persons", r#"{"name":"Ann"}"#);
    let mut correlations: Vec<_> = of_outbox(&app).iter().map(|metadata| metadata["correlation"].to_string()).collect();
    assert!(correlations.iter().all(|id| id.len() == 38 && id.matches('-').count() == 4), "{correlations:?}");
    correlations.sort_unstable();
    correlations.dedup();
    assert_eq!(correlations.len(), 3);
}

#[test]
fn an_id_has_at_most_128_visible_characters_and_a_write_with_another_one_is_refused_with_its_name() {
    let app = App::start();
    let [longest, too_long] = [128, 129].map(|length| "~".repeat(length));
    write(&app, "POST", "/carts", "{}", [&longest, &longest]);
    assert_eq!(of_journal(&app, "/journal"), [json!({"correlation": longest, "causation": longest})]);
    for name in ["X-Correlation-Id", "X-Causation-Id"] {
        for sent in
            [&[(name, too_long.as_str())][..], &[(name, "two words")], &[(name, "é")], &[(name, "a"), (name, "a")]]
        {
            let problem = app.request("POST", "/carts", sent, None).problem(400, "malformed-request");
            let detail = problem["detail"].as_str().unwrap();
            assert_eq!(detail, format!("{name}: expected 1 to 128 visible ASCII characters"), "{sent:?}");
        }
        // It means nothing to a read.
        assert_eq!(app.request("GET", "/carts", &[(name, "two words")], None).status, 200);
    }
    assert_eq!(app.get("/carts").revision(), 1, "nothing was done");
}
