//! Event-sourced aggregates: carts and accounts change by commands only.

use duality::Key;
use serde_json::{Value, json};

use crate::harness::{App, Response};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// A uuid chosen by the client.
const MINE: &str = "0193a5b0-7b2c-4def-8000-123456789abc";

/// The key in the path of an aggregate.
fn key(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// The domain events of an aggregate.
fn journal(app: &App, path: &str) -> Vec<Value> {
    app.get(&format!("{path}/journal")).json()["events"].as_array().unwrap().clone()
}

#[track_caller]
fn assert_current_cursor(response: &Response, app: &App) {
    let now = app.get("/carts");
    assert_eq!((response.revision(), response.cursor()), (now.revision(), now.cursor()), "{}", response.text());
}

#[test]
fn a_cart_is_opened_filled_and_closed_and_its_journal_has_every_step() {
    let app = App::start();
    let opened = app.command("/carts");
    assert_eq!((opened.status, opened.text()), (201, r#"{"status":"open","items":{}}"#));
    let cart = opened.header("Location").unwrap();
    let key = cart.strip_prefix("/carts/").unwrap();
    assert!(Key::parse(key).unwrap().is_uuid() && key.as_bytes()[14] == b'7', "{key}");

    let apple = app.add_item(cart, "apple");
    assert_eq!((apple.status, apple.revision()), (200, 2));
    let added = apple.json()["items"]["apple"]["added"].clone();
    assert_eq!(apple.json(), json!({"status": "open", "items": {"apple": {"added": added}}}));
    assert_eq!(app.add_item(cart, "pear").json()["items"].as_object().unwrap().len(), 2);

    let again = app.add_item(cart, "apple").problem(409, "item-already-added");
    let sentence = format!("apple has already been added to cart {key}!");
    assert_eq!(
        again,
        json!({"type": "item-already-added", "title": "Item already added", "status": 409, "detail": sentence,
            "item": "apple", "cart": key, "request": again["request"]})
    );

    let closed = app.command(&format!("{cart}/close"));
    assert_eq!((closed.status, closed.json()["status"].clone(), closed.revision()), (200, json!("closed"), 4));
    assert_eq!(closed.json(), app.get(cart).json());
    let late = app.add_item(cart, "plum").problem(409, "cart-already-closed");
    assert_eq!((&late["title"], &late["cart"]), (&json!("Cart already closed"), &json!(key)));

    let events = journal(&app, cart);
    let recorded: Vec<_> = events.iter().map(|event| (&event["version"], event["kind"].as_str().unwrap())).collect();
    let (one, two, three, four) = (&json!(1), &json!(2), &json!(3), &json!(4));
    assert_eq!(recorded, [(one, "CartOpened"), (two, "ItemAdded"), (three, "ItemAdded"), (four, "CartClosed")]);
    assert_eq!((&events[0]["body"], &events[3]["body"]), (&json!({}), &json!({})));
    assert_eq!(events[1]["body"], json!({"item": "apple", "time": added}));
    assert!(events.iter().all(|event| event["collection"] == "carts" && event["key"] == key));
}

#[test]
fn a_generic_client_follows_carts_by_merge_patches_alone() {
    let app = App::start();
    let (mut early, mut everything) = (app.follow("/cart-events", &[]), app.follow("/events", &[]));
    let carts: Vec<_> = (0..3).map(|_| app.open_cart()).collect();
    let (mut late, cursor) = app.load("/carts");
    for cart in &carts {
        app.add_item(cart, "apple");
        app.add_item(cart, "pear/plum");
        app.add_item(cart, "apple");
        app.post(&format!("{cart}/remove-item"), r#"{"item":"apple"}"#);
    }
    app.command(&format!("{}/close", carts[1]));
    let now = app.get("/carts");
    let (mut state, mut document, mut one) = (Value::Null, Value::Null, Value::Null);
    early.follow(&mut state, now.revision());
    assert_eq!(state, now.json());
    everything.follow(&mut document, now.revision());
    assert_eq!(document["carts"], now.json());
    app.follow("/cart-events", &[("Last-Event-ID", &cursor)]).follow(&mut late, now.revision());
    assert_eq!(late, now.json());
    app.follow(&format!("{}/events", carts[1]), &[]).follow(&mut one, now.revision());
    assert_eq!(one, app.get(&carts[1]).json());
    assert_eq!(
        app.follow("/cart-events", &[("X-Revision", "4")]).next().patch()[key(&carts[0])]["items"]["pear/plum"],
        Value::Null
    );
}

#[test]
fn a_client_can_choose_the_uuid_of_a_new_cart() {
    let app = App::start();
    let cart = format!("/carts/{MINE}");
    let opened = app.request("PUT", &cart, &[], None);
    assert_eq!((opened.status, opened.text()), (201, r#"{"status":"open","items":{}}"#));
    assert_eq!(opened.header("Location"), Some(cart.as_str()));
    for again in [app.request("PUT", &cart, &[], None), app.write("PUT", &cart, "{}")] {
        assert_eq!(again.problem(409, "cart-already-open")["cart"], MINE);
    }
    app.command(&format!("{cart}/close"));
    app.request("PUT", &cart, &[], None).problem(409, "cart-already-open");
    assert_eq!(journal(&app, &cart).len(), 2);

    let upper = MINE.to_uppercase();
    let bare = MINE.replace('-', "");
    for key in ["1", &upper, &bare, &MINE[1..], "%7B0193a5b0-7b2c-4def-8000-123456789abc%7D", "a%2Fb", "__proto__"] {
        let refused = app.request("PUT", &format!("/carts/{key}"), &[], None);
        refused.problem(422, "invalid");
        assert_current_cursor(&refused, &app);
    }
    assert_eq!(app.get("/carts").json().as_object().unwrap().len(), 1);
}

#[test]
fn a_command_for_a_missing_aggregate_is_a_404() {
    let app = App::start();
    for cart in [format!("/carts/{MINE}"), "/carts/1".to_owned()] {
        let added = app.add_item(&cart, "apple");
        assert!(added.problem(404, "not-found")["detail"].as_str().unwrap().starts_with(&format!("{cart} ")));
        for response in
            [added, app.command(&format!("{cart}/close")), app.get(&cart), app.get(&format!("{cart}?version=1"))]
        {
            response.problem(404, "not-found");
            assert_eq!(response.revision(), 0);
        }
    }
    assert_eq!(app.get("/carts").text(), "{}");
}

#[test]
fn an_unknown_command_is_rejected_with_the_known_ones() {
    let app = App::start();
    let cart = app.open_cart();
    // The command that opens a cart has its own path, and command names have only one spelling.
    for command in ["fill", "open", "AddItem", "add_item", "add-item%20", "ADD-ITEM"] {
        let response = app.command(&format!("{cart}/{command}"));
        let problem = response.problem(404, "unknown-command");
        assert_eq!(problem["expected"], json!(["add-item", "remove-item", "close"]));
        assert!(problem["detail"].as_str().unwrap().contains("add-item, remove-item, close"));
        assert_current_cursor(&response, &app);
    }
    let account = app.command("/accounts");
    let path = account.header("Location").unwrap();
    let problem = app.command(&format!("{path}/bookings")).problem(404, "unknown-command");
    assert_eq!(problem["expected"], json!(["book", "revert-booking", "close-period"]));
}

#[test]
fn an_unsupported_method_is_rejected_with_the_allowed_ones() {
    let app = App::start();
    let cart = app.open_cart();
    for (path, methods, allowed) in [
        ("/carts".to_owned(), &["PUT", "PATCH", "DELETE"][..], "GET, HEAD, POST, OPTIONS"),
        (cart.clone(), &["POST", "PATCH", "DELETE"], "GET, HEAD, PUT, OPTIONS"),
        (format!("{cart}/add-item"), &["GET", "HEAD", "PUT", "PATCH", "DELETE"], "POST, OPTIONS"),
        (format!("{cart}/events"), &["POST", "PUT", "DELETE"], "GET, HEAD, OPTIONS"),
        (format!("{cart}/journal"), &["POST", "PUT", "DELETE"], "GET, HEAD, OPTIONS"),
        ("/journal".to_owned(), &["POST", "DELETE"], "GET, HEAD, OPTIONS"),
        ("/cart-events".to_owned(), &["POST", "DELETE"], "GET, HEAD, OPTIONS"),
    ] {
        for method in methods {
            let response = app.write(method, &path, "{}");
            assert_eq!((response.status, response.header("Allow")), (405, Some(allowed)), "{method} {path}");
        }
    }
    assert_eq!((app.get(&cart).revision(), journal(&app, &cart).len()), (1, 1));
}

#[test]
fn a_command_without_fields_needs_no_body() {
    let app = App::start();
    for body in [None, Some(&b""[..]), Some(b"{}")] {
        let headers = if body.is_some() { &JSON[..] } else { &[] };
        let opened = app.request("POST", "/carts", headers, body);
        assert_eq!(opened.status, 201, "{}", opened.text());
        let cart = opened.header("Location").unwrap();
        assert_eq!(app.request("POST", &format!("{cart}/close"), headers, body).status, 200);
    }
    assert_eq!(app.request("POST", "/carts", &[], Some(b"")).status, 201, "an empty body counts as none");
    let mut client = app.client();
    client.send_raw(b"POST /carts HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(client.response("POST").status, 201, "so does an empty chunked body");
}

#[test]
fn an_invalid_command_body_is_rejected_with_the_member() {
    let app = App::start();
    let cart = app.open_cart();
    let long = json!({"item": "x".repeat(513)}).to_string();
    let before = app.get(&cart);
    for (command, body, member, named) in [
        ("add-item", "{}", Some("item"), "item: is missing"),
        ("add-item", r#"{"item":null}"#, Some("item"), "item: is missing"),
        ("add-item", r#"{"item":"apple","colour":"red"}"#, Some("colour"), "unknown member; expected item"),
        ("add-item", r#"{"item":5}"#, Some("item"), "expected a string"),
        ("add-item", r#"{"item":{"name":"apple"}}"#, Some("item"), "expected a string"),
        ("add-item", r#"{"item":"apple","item":"pear"}"#, Some("item"), "duplicate member"),
        ("add-item", r#"{"item":"__proto__"}"#, Some("item"), "__proto__"),
        ("add-item", r#"{"item":"constructor"}"#, Some("item"), "JavaScript"),
        ("add-item", r#"{"item":""}"#, Some("item"), "is empty"),
        ("add-item", r#"{"item":".."}"#, Some("item"), "`..`"),
        ("add-item", r#"{"item":"a\u0000b"}"#, Some("item"), "control character"),
        ("add-item", r#"{"item":"a\nb"}"#, Some("item"), "control character"),
        ("add-item", &long, Some("item"), "512 bytes"),
        ("remove-item", r#"{"item":"__proto__"}"#, Some("item"), "__proto__"),
        ("add-item", r#"["apple"]"#, None, "got an array"),
        ("add-item", r#""apple""#, None, "got a string"),
        ("add-item", "null", None, "got null"),
        ("close", "[]", None, "got an array"),
        ("close", r#"{"at":"once"}"#, Some("at"), "unknown member; expected none"),
        ("close", r#"{"at":null}"#, Some("at"), "unknown member; expected none"),
        ("add-item", r#"{"item":"apple","colour":null}"#, Some("colour"), "unknown member; expected item"),
    ] {
        let response = app.post(&format!("{cart}/{command}"), body);
        let problem = response.problem(422, "invalid");
        assert_eq!(problem.get("member").and_then(Value::as_str), member, "{command} {body} {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{named:?} in {problem}");
        assert_current_cursor(&response, &app);
    }
    app.command(&format!("{cart}/add-item")).problem(422, "invalid");
    app.post(&format!("{cart}/add-item"), "{").problem(400, "malformed-json");
    assert_eq!(app.post("/carts", r#"{"items":{}}"#).problem(422, "invalid")["member"], "items");
    app.post(&format!("{cart}/close?dry=true"), "{}").problem(400, "malformed-request");
    for headers in [&[][..], &[("Content-Type", "text/plain")], &[("Content-Type", "application/merge-patch+json")]] {
        let response = app.request("POST", &format!("{cart}/add-item"), headers, Some(br#"{"item":"apple"}"#));
        response.problem(415, "unsupported-type");
        assert_current_cursor(&response, &app);
    }
    let after = app.get(&cart);
    assert_eq!((before.text(), before.cursor()), (after.text(), after.cursor()));
}

#[test]
fn a_rejected_command_leaves_no_revision_version_or_event() {
    let app = App::start();
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    let before = app.get(&cart);
    for (response, slug) in [
        (app.add_item(&cart, "apple"), "item-already-added"),
        (app.post(&format!("{cart}/remove-item"), r#"{"item":"pear"}"#), "item-not-in-cart"),
        (app.request("PUT", &cart, &[], None), "cart-already-open"),
    ] {
        response.problem(409, slug);
        assert_eq!((response.revision(), response.cursor()), (2, before.cursor()));
    }
    let after = app.get(&cart);
    assert_eq!(
        (after.text(), after.cursor(), after.header("ETag")),
        (before.text(), before.cursor(), before.header("ETag"))
    );
    assert_eq!(app.add_item(&cart, "pear").revision(), 3);
    let mut feed = app.follow("/cart-events", &[]);
    assert_eq!([1, 2, 3].map(|_| feed.next().revision()), [1, 2, 3]);
    let events = journal(&app, &cart);
    assert_eq!(events.iter().map(|event| event["version"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(events.iter().map(|event| event["position"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn exactly_one_of_many_concurrent_additions_of_an_item_succeeds() {
    let app = App::start();
    let cart = app.open_cart();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16).map(|_| scope.spawn(|| app.add_item(&cart, "apple").status)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 15, "{statuses:?}");
    assert_eq!(journal(&app, &cart).len(), 2);
}

#[test]
fn time_travel_shows_every_version_as_it_was_answered() {
    let mut app = App::start();
    let opened = app.command("/carts");
    let cart = opened.header("Location").unwrap().to_owned();
    let mut answered = vec![opened];
    answered.extend(["apple", "pear", "plum"].map(|item| app.add_item(&cart, item)));
    answered.push(app.post(&format!("{cart}/remove-item"), r#"{"item":"pear"}"#));
    app.add_item(&cart, "plum").problem(409, "item-already-added");
    answered.push(app.command(&format!("{cart}/close")));
    for when in ["at once", "later"] {
        for (version, then) in (1..).zip(&answered) {
            let seen = app.get(&format!("{cart}?version={version}"));
            assert_eq!((seen.status, seen.text()), (200, then.text()), "version {version} {when}");
            assert_eq!(seen.revision(), answered[5].revision(), "the headers have the current revision");
        }
        for version in ["0", "7", "9223372036854775807"] {
            let response = app.get(&format!("{cart}?version={version}"));
            response.problem(404, "not-found");
            assert_current_cursor(&response, &app);
        }
        app.prune_everything();
        app.restart();
    }
    for nonsense in ["two", "-1", "1.5", "+1", "9223372036854775808", "%20"] {
        let problem = app.get(&format!("{cart}?version={nonsense}")).problem(400, "malformed-request");
        assert!(problem["detail"].as_str().unwrap().contains("version"), "{problem}");
    }
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    for path in ["/persons/1?version=1", "/locations/Rome?version=1", "/carts?version=1"] {
        app.get(path).problem(400, "malformed-request");
    }
}

#[test]
fn a_closed_period_leaves_the_state_and_stays_in_the_journal() {
    let app = App::start();
    let account = app.command("/accounts").header("Location").unwrap().to_owned();
    let mut feed = app.follow(&format!("{account}/events"), &[]);
    let book = |amount: i64| {
        app.post(&format!("{account}/book"), &json!({"amount": amount, "text": "rent"}).to_string()).json()
    };
    let empty = app.command(&format!("{account}/close-period")).problem(409, "period-empty");
    assert_eq!(empty["account"], key(&account));
    book(700);
    let before = book(-200);
    let closed = app.command(&format!("{account}/close-period"));
    assert_eq!((closed.status, closed.text()), (200, r#"{"balance":500,"carried_over":500,"bookings":{}}"#));
    let booking = before["bookings"].as_object().unwrap().keys().next().unwrap();
    let revert = app.post(&format!("{account}/revert-booking"), &json!({ "booking": booking }).to_string());
    assert_eq!(revert.problem(409, "booking-not-found")["booking"], *booking);
    let after = book(-100);
    assert_eq!((&after["balance"], after["bookings"].as_object().unwrap().len()), (&json!(400), 1));

    let kinds: Vec<_> = journal(&app, &account).into_iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["AccountOpened", "AmountBooked", "AmountBooked", "PeriodClosed", "AmountBooked"]);
    assert_eq!(app.get(&format!("{account}?version=3")).json(), before, "the bookings that have left the state");
    let mut state = Value::Null;
    feed.follow(&mut state, app.get(&account).revision());
    assert_eq!(state, after);
}

#[test]
fn an_account_adds_up_its_bookings_and_never_goes_below_zero() {
    let app = App::start();
    let opened = app.command("/accounts");
    assert_eq!((opened.status, opened.text()), (201, r#"{"balance":0,"bookings":{}}"#));
    let account = opened.header("Location").unwrap();
    let book =
        |amount: i64| app.post(&format!("{account}/book"), &json!({"amount": amount, "text": "rent"}).to_string());
    let revert =
        |booking: &str| app.post(&format!("{account}/revert-booking"), &json!({"booking": booking}).to_string());
    let booked = book(700);
    assert_eq!((booked.status, booked.json()["balance"].clone()), (200, json!(700)));
    let booking = booked.json()["bookings"].as_object().unwrap().keys().next().unwrap().clone();
    assert!(Key::parse(&booking).unwrap().is_uuid());
    assert_eq!(booked.json()["bookings"][&booking], json!({"amount": 700, "text": "rent"}));

    let poor = book(-701).problem(409, "insufficient-funds");
    assert_eq!(poor["title"], "Insufficient funds");
    assert_eq!(
        [&poor["account"], &poor["balance"], &poor["amount"]],
        [&json!(key(account)), &json!(700), &json!(-701)]
    );
    assert_eq!(book(-200).json()["balance"], 500);
    revert(&booking).problem(409, "insufficient-funds");
    book(200);
    let reverted = revert(&booking);
    assert_eq!((reverted.status, reverted.json()["balance"].clone()), (200, json!(0)));
    assert_eq!(reverted.json()["bookings"][&booking]["reverted"], true);
    let again = revert(&booking).problem(409, "already-reverted");
    assert_eq!((&again["account"], &again["booking"]), (&json!(key(account)), &json!(booking)));
    assert_eq!(revert("other").problem(409, "booking-not-found")["booking"], "other");

    let fraction = app.post(&format!("{account}/book"), r#"{"amount":1.5,"text":"rent"}"#).problem(422, "invalid");
    assert_eq!(fraction["member"], "amount");
    assert_eq!((app.get(account).revision(), journal(&app, account).len()), (5, 5));

    let mut state = Value::Null;
    app.follow("/account-events", &[]).follow(&mut state, 5);
    assert_eq!(state, app.get("/accounts").json());

    assert_eq!(book((1 << 53) - 1).status, 200);
    let large = book(1).problem(422, "amount-too-large");
    assert_eq!((&large["title"], &large["amount"]), (&json!("Amount too large"), &json!(1)));

    let mine = format!("/accounts/{MINE}");
    let opened = app.request("PUT", &mine, &[], None);
    assert_eq!((opened.status, opened.header("Location")), (201, Some(mine.as_str())));
    assert_eq!(app.request("PUT", &mine, &[], None).problem(409, "account-already-open")["account"], MINE);
}

#[test]
fn a_booking_has_no_path_of_its_own() {
    let app = App::start();
    let opened = app.command("/accounts");
    let account = opened.header("Location").unwrap();
    let booked = app.post(&format!("{account}/book"), r#"{"amount":700,"text":"rent"}"#);
    let booking = booked.json()["bookings"].as_object().unwrap().keys().next().unwrap().clone();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let response = app.write(method, &format!("{account}/bookings/{booking}"), "{}");
        response.problem(404, "no-such-path");
        assert_ne!(app.write(method, &format!("{account}/bookings"), "{}").status / 100, 2);
    }
    assert_eq!(app.get(account).json(), booked.json());
}

#[test]
fn an_item_can_have_a_name_that_json_libraries_use_internally() {
    // With the features `raw_value` or `arbitrary_precision`, serde_json could not read the state of such a cart again.
    let app = App::start();
    let cart = app.open_cart();
    for item in ["$serde_json::private::RawValue", "$serde_json::private::Number"] {
        assert_eq!(app.post(&format!("{cart}/add-item"), &json!({ "item": item }).to_string()).status, 200);
        assert!(app.get(&cart).json()["items"][item]["added"].is_string());
    }
    assert_eq!(app.post(&format!("{cart}/add-item"), r#"{"item":"apple"}"#).status, 200);
}
