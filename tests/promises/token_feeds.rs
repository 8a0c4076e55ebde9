//! What a token shows of bodies and feeds of everything, and of what it may write without reading it.

use serde_json::{Value, json};

use crate::harness::{App, Response, Stream, Token, TokenFile, eventually};

/// Persons, a location and a cart, by a token that may write.
struct Shop {
    file: TokenFile,
    app: App,
    writer: Token,
    cart: String,
}

impl Shop {
    fn open() -> Self {
        let file = TokenFile::new();
        let writer = file.add("writer", "read,write");
        let app = file.serve(|settings| settings.heartbeat = std::time::Duration::from_millis(100));
        let mut shop = Self { file, app, writer, cart: String::new() };
        shop.write("POST", "/persons", r#"{"name":"Ann","city":"Rome"}"#);
        let opened = shop.write("POST", "/carts", "{}");
        shop.cart = opened.header("Location").unwrap().to_owned();
        shop.add_item("apple");
        shop.write("POST", "/persons", r#"{"name":"Bob","city":"Oslo"}"#);
        shop
    }

    #[track_caller]
    fn write(&self, method: &str, path: &str, json: &str) -> Response {
        let response = request(&self.app, &self.writer, method, path, &[], Some(json));
        assert!(response.status < 300, "{method} {path}: {}", response.text());
        response
    }

    fn add_item(&self, item: &str) -> Response {
        self.write("POST", &format!("{}/add-item", self.cart), &json!({ "item": item }).to_string())
    }

    /// Waits until the service knows a token.
    #[track_caller]
    fn known(&self, token: &Token) {
        eventually("the token is known", || token.is_in_force(&self.app));
    }

    fn get(&self, token: &Token, path: &str) -> Response {
        request(&self.app, token, "GET", path, &[("Accept", "application/json")], None)
    }

    fn follow(&self, token: &Token, path: &str, headers: &[(&str, &str)]) -> Stream {
        let bearer = token.bearer();
        self.app.follow(path, &[&[("Authorization", bearer.as_str())], headers].concat())
    }
}

fn request(
    app: &App,
    token: &Token,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    json: Option<&str>,
) -> Response {
    let bearer = token.bearer();
    let mut all = vec![("Authorization", bearer.as_str())];
    all.extend(headers);
    if json.is_some() && !headers.iter().any(|(name, _)| *name == "Content-Type") {
        all.push(("Content-Type", "application/json"));
    }
    app.request(method, path, &all, json.map(str::as_bytes))
}

#[test]
fn a_feed_of_everything_has_what_a_token_may_read_and_bookmarks_for_the_rest() {
    let shop = Shop::open();
    let reader = shop.file.add("reader", "read:persons");
    shop.known(&reader);
    let page = shop.get(&reader, "/events");
    let events = page.json()["events"].clone();
    let revisions = |events: &Value| -> Vec<i64> {
        events.as_array().unwrap().iter().filter_map(|event| event["revision"].as_i64()).collect()
    };
    let all = shop.get(&shop.writer, "/events").json();
    assert_eq!(revisions(&all["events"]).len(), 4, "{all}");
    assert_eq!(events.as_array().unwrap().len(), 3, "the frame, and two persons: {events}");
    assert!(!page.text().contains("carts") && !page.text().contains("locations"), "{}", page.text());
    assert_eq!(page.json()["cursor"], all["cursor"], "a page goes past what it does not show");
    assert!(revisions(&events).iter().all(|revision| revisions(&all["events"]).contains(revision)));

    // A stream gets no event for a cart, and a bookmark that names its revision.
    let mut stream = shop.follow(&reader, "/events", &[("Last-Event-ID", &page.cursor())]);
    let written = shop.add_item("pear").revision();
    let bookmark = stream.next();
    assert_eq!((bookmark.data.as_str(), bookmark.revision()), ("{}", written));
    let written = shop.write("PATCH", "/persons/1", r#"{"city":"Oslo"}"#).revision();
    let event = stream.next();
    assert_eq!((event.patch(), event.revision()), (json!({"persons": {"1": {"city": "Oslo"}}}), written));
    assert!(!stream.raw.contains("pear") && !stream.raw.contains("locations"), "{}", stream.raw);
}

#[test]
fn the_document_has_the_collections_that_a_token_may_read_and_a_tag_of_its_own() {
    let shop = Shop::open();
    let reader = shop.file.add("reader", "read:persons,read:locations");
    let same = shop.file.add("same", "read:locations,read:persons,write");
    let other = shop.file.add("other", "read:carts");
    shop.known(&other);
    let full = shop.get(&shop.writer, "/aggregates");
    let some = shop.get(&reader, "/aggregates");
    let names = |response: &Response| response.json().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&full), ["persons", "locations", "carts", "accounts"]);
    assert_eq!(names(&some), ["persons", "locations"]);
    assert_eq!(some.revision(), full.revision());
    let tag = |response: &Response| response.header("ETag").unwrap().to_owned();
    assert_ne!(tag(&some), tag(&full));
    assert_eq!(tag(&shop.get(&same, "/aggregates")), tag(&some), "the same collections, the same body");
    assert_ne!(tag(&shop.get(&other, "/aggregates")), tag(&some));
    let conditional = |token: &Token, header: &str, tag: &str| {
        request(&shop.app, token, "GET", "/aggregates", &[(header, tag)], None).status
    };
    assert_eq!(conditional(&reader, "If-None-Match", &tag(&some)), 304);
    assert_eq!(conditional(&reader, "If-None-Match", &tag(&full)), 200, "the body of another one");
    assert_eq!(conditional(&shop.writer, "If-None-Match", &tag(&some)), 200);
    assert_eq!(conditional(&shop.writer, "If-Match", &tag(&some)), 200, "the suffix does not count");
    // By name: what it may read, and nothing else.
    assert_eq!(names(&shop.get(&reader, "/aggregates?collection=persons")), ["persons"]);
    shop.get(&reader, "/aggregates?collection=persons&collection=carts").problem(403, "missing-scope");
    shop.get(&reader, "/events?collection=carts").problem(403, "missing-scope");
    shop.get(&reader, "/journal?collection=carts").problem(403, "missing-scope");
}

#[test]
fn no_shared_cache_keeps_what_depends_on_a_token() {
    let shop = Shop::open();
    for path in ["/persons", "/persons/1", "/persons?key=1", "/aggregates", "/", "/carts"] {
        let response = shop.get(&shop.writer, path);
        assert_eq!(response.header("Cache-Control"), Some("private, no-cache"), "{path}");
        let vary = response.header("Vary").unwrap();
        assert!(vary.split(", ").any(|name| name == "Authorization"), "{path}: {vary}");
    }
    let stream = shop.follow(&shop.writer, "/events", &[]);
    assert_eq!(stream.head.header("Cache-Control"), Some("private, no-cache, no-transform"));
    let open = App::start();
    let response = open.get("/persons");
    assert_eq!(response.header("Cache-Control"), Some("no-cache"), "as before without tokens");
    assert_eq!(response.header("Vary"), Some("Accept, Accept-Encoding"));
}

#[test]
fn the_journal_has_the_events_of_what_a_token_may_read() {
    let shop = Shop::open();
    let account = shop.write("POST", "/accounts", "{}").header("Location").unwrap().to_owned();
    shop.write("POST", &format!("{account}/book"), r#"{"amount":5,"text":"lunch"}"#);
    let (carts, persons) = (shop.file.add("carts", "read:carts"), shop.file.add("persons", "read:persons"));
    shop.known(&persons);
    let page = shop.get(&carts, "/journal");
    assert_eq!(page.json()["events"].as_array().unwrap().len(), 2, "{}", page.text());
    assert!(!page.text().contains("lunch"));
    assert_eq!(page.json()["cursor"], shop.get(&shop.writer, "/journal").json()["cursor"]);
    assert_eq!(shop.get(&persons, "/journal").json()["events"], json!([]));
    let mut stream = shop.follow(&carts, "/journal", &[]);
    shop.write("POST", &format!("{account}/book"), r#"{"amount":7,"text":"dinner"}"#);
    shop.add_item("plum");
    stream.read_until(|text| text.contains("plum"));
    assert!(!stream.raw.contains("lunch") && !stream.raw.contains("dinner"), "{}", stream.raw);
}

#[test]
fn a_token_for_single_aggregates_names_them() {
    let shop = Shop::open();
    let two = shop.file.add("two", "read:persons/1,read:persons/2,read:carts");
    shop.known(&two);
    for path in ["/persons/1", "/persons?key=1", "/persons?key=2&key=1", "/person-events?key=1", "/persons/2/events"] {
        assert_eq!(shop.get(&two, path).status, 200, "{path}");
    }
    for path in ["/persons", "/person-events", "/events/persons", "/persons?key=1&key=3", "/person-events?key=3"] {
        shop.get(&two, path).problem(403, "missing-scope");
    }
    let all = shop.get(&two, "/aggregates").json();
    assert!(all.get("persons").is_none() && all.get("carts").is_some(), "{all}");
    let mut stream = shop.follow(&two, "/person-events?key=1", &[]);
    shop.write("PATCH", "/persons/2", r#"{"name":"Zoe"}"#);
    let written = shop.write("PATCH", "/persons/1", r#"{"name":"Eve"}"#).revision();
    let mut state = Value::Null;
    stream.follow(&mut state, written);
    assert_eq!(state["1"]["name"], "Eve");
    assert!(!stream.raw.contains("Zoe") && !stream.raw.contains("Bob"));
}

#[test]
fn a_writer_that_may_not_read_learns_nothing_of_the_state() {
    let shop = Shop::open();
    let blind = shop.file.add("blind", "write:persons,write:carts,write:accounts");
    shop.known(&shop.file.add("last", "read"));
    let write = |method: &str, path: &str, headers: &[(&str, &str)], json: &str| {
        request(&shop.app, &blind, method, path, headers, Some(json))
    };
    let created = write("POST", "/persons", &[], r#"{"name":"Ida"}"#);
    assert_eq!((created.status, created.text()), (201, ""));
    let path = created.header("Location").unwrap();
    let changed = write("PATCH", path, &[], r#"{"city":"Rome"}"#);
    assert_eq!((changed.status, changed.text()), (204, ""));
    assert_eq!(shop.get(&shop.writer, path).json(), json!({"name": "Ida", "city": "Rome"}));
    // The tag is there, so that a conditional write is possible, and a failed one does not tell the actual state.
    let tag = changed.header("ETag").unwrap().to_owned();
    assert_eq!(write("PATCH", path, &[("If-Match", &tag)], r#"{"city":"Oslo"}"#).status, 204);
    let failed = write("PATCH", path, &[("If-Match", &tag)], r#"{"city":"Bern"}"#);
    let problem = failed.problem(412, "unexpected-state");
    assert!(problem.get("actual").is_none() && failed.header("ETag").is_none(), "{problem}");
    // A broken rule has its name, and nothing of what broke it.
    let account = write("POST", "/accounts", &[], "{}").header("Location").unwrap().to_owned();
    assert_eq!(write("POST", &format!("{account}/book"), &[], r#"{"amount":4711,"text":"x"}"#).status, 204);
    let broken = write("POST", &format!("{account}/book"), &[], r#"{"amount":-9999,"text":"x"}"#);
    assert_eq!(broken.status, 409, "{}", broken.text());
    assert!(!broken.text().contains("4711"), "{}", broken.text());
    let mut members: Vec<_> = broken.json().as_object().unwrap().keys().cloned().collect();
    members.sort();
    assert_eq!(members, ["detail", "request", "status", "title", "type"]);
    for path in ["/persons", path, &format!("{path}/events"), "/aggregates", "/events", "/journal"] {
        shop.get(&blind, path).problem(403, "missing-scope");
    }
}

#[test]
fn a_valid_token_in_a_header_skips_the_check_of_the_host_but_not_of_the_origin() {
    let shop = Shop::open();
    let host = ("Host", "shop.example");
    let foreign = ("Origin", "https://elsewhere.example");
    let send = |token: Option<&Token>, method: &str, headers: &[(&str, &str)]| {
        let bearer = token.map(Token::bearer);
        let mut all = headers.to_vec();
        all.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        all.push(("Content-Type", "application/json"));
        shop.app.request(method, "/persons/1", &all, (method == "PATCH").then_some(br#"{"city":"Rome"}"#))
    };
    assert_eq!(send(Some(&shop.writer), "GET", &[host]).status, 200);
    assert_eq!(send(Some(&shop.writer), "PATCH", &[host]).status, 200);
    send(None, "GET", &[host]).problem(421, "unknown-host");
    let unknown = Token(format!("duality_{}", "2".repeat(64)));
    send(Some(&unknown), "GET", &[host]).problem(421, "unknown-host");
    send(Some(&shop.writer), "PATCH", &[foreign]).problem(403, "foreign-origin");
    send(Some(&shop.writer), "PATCH", &[host, foreign]).problem(403, "foreign-origin");
    send(Some(&shop.writer), "PATCH", &[("Sec-Fetch-Site", "cross-site")]).problem(403, "foreign-origin");
    assert_eq!(send(Some(&shop.writer), "GET", &[foreign]).status, 200, "reading is what CORS decides");
}
