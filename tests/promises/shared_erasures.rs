//! What was erased through one of several services is gone from all of them: from what they have in memory at once, and from
//! their files soon.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::erasure::{BACKGROUND, MARKER, add_once, directory, erase, key, marked_cart, other_carts};
use crate::erasure::{wait_until_live, watched_in_background};
use crate::harness::engine::psql;
use crate::harness::{App, Stream, eventually, files_with, shared_server};

const SECOND: Duration = Duration::from_secs(1);

fn service(url: &str, poll_interval: Duration) -> App {
    App::serving(watched_in_background, |settings| {
        settings.database = url.into();
        settings.poll_interval = poll_interval;
        // A feed that has nothing up to a revision says so soon.
        settings.heartbeat = Duration::from_millis(20);
    })
}

/// Everything that a service shows of a cart and its collection up to a revision, to those who begin now.
fn shown(service: &App, cart: &str, until: i64) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    for path in ["/carts", "/aggregates", cart, &format!("{cart}?version=3"), &format!("{cart}/journal"), "/journal"] {
        for accept in ["application/json", "application/x-ndjson"] {
            let headers = [("Accept", accept), ("Accept-Encoding", "identity")];
            let text = service.request("GET", path, &headers, None).text().to_owned();
            shown.push((format!("{path} as {accept}"), text));
        }
    }
    for feed in ["/cart-events", "/events", &format!("{cart}/events"), &format!("/cart-events?key={}", key(cart))] {
        for how in ["compact=true", "strict=true", "compact=false"] {
            let separator = if feed.contains('?') { '&' } else { '?' };
            let path = format!("{feed}{separator}{how}");
            let mut stream = service.follow(&path, &[]);
            stream.follow(&mut Value::Null, until);
            shown.push((path, stream.raw));
        }
    }
    shown.push(("a stream of the journal".to_owned(), past(service).raw));
    shown
}

/// A stream of the journal from its beginning, as far as the service knows it.
fn past(service: &App) -> Stream {
    let events = service.request("GET", "/journal?limit=1000", &[("Accept", "application/json")], None).json();
    let number = events["events"].as_array().unwrap().iter().filter(|event| event["kind"] != "Erased").count();
    let mut stream = service.follow("/journal", &[]);
    (0..number).for_each(|_| drop(stream.next()));
    stream
}

fn marked(shown: Vec<(String, String)>) -> Vec<String> {
    shown.into_iter().filter(|(_, text)| text.contains(MARKER)).map(|(what, _)| what).collect()
}

#[test]
fn what_was_erased_through_one_service_is_shown_by_no_other_one_from_then_on() {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    // The second one hears nothing of the first one by itself.
    let [first, second] = [service(&url, SECOND), service(&url, 60 * SECOND)];
    let cart = marked_cart(&second);
    other_carts(&second);
    let large = second.open_cart();
    for number in 0..10 {
        // Large enough to be kept decoded by its writer.
        second.add_item(&large, &format!("{MARKER} {number} {}", "pear ".repeat(200)));
    }
    let until = second.get("/carts").revision();
    // Everything is in its memory now.
    for _ in 0..2 {
        assert!(marked(shown(&second, &cart, until)).len() > 10);
    }
    for cart in [&cart, &large] {
        let erased = erase(&first, cart);
        assert_eq!((&erased["known"], &erased["pending"]), (&json!(true), &json!([])));
    }
    for service in [&second, &first] {
        assert_eq!(marked(shown(service, &cart, until)), Vec::<String>::new());
        assert_eq!(marked(shown(service, &large, until)), Vec::<String>::new());
        add_once(service, &cart).problem(409, "erased");
        service.add_item(&large, "apple").problem(409, "erased");
        assert_eq!(service.get(&cart).problem(404, "not-found")["erased"], true);
    }
    let verified = watched_in_background().verify(url.as_ref()).unwrap();
    assert!(verified.iter().all(duality::Verified::is_sound), "{verified:?}");
}

#[test]
fn what_was_erased_through_one_service_is_soon_in_no_file_of_any() {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    let mut services = [service(&url, SECOND / 50), service(&url, SECOND / 50)];
    let cart = marked_cart(&services[1]);
    other_carts(&services[0]);
    for service in &services {
        wait_until_live(service, &BACKGROUND);
        eventually("it is in the history and the projections", || files_with(directory(service), MARKER).len() >= 4);
    }
    let erased = erase(&services[0], &cart);
    assert_eq!(erased["pending"], json!([]));
    assert_eq!(files_with(directory(&services[0]), MARKER), Vec::<PathBuf>::new());
    eventually("it is in no file of the other one", || files_with(directory(&services[1]), MARKER).is_empty());
    for service in &mut services {
        wait_until_live(service, &BACKGROUND);
        let items = service.get("/reports/cart-items?limit=1000").json();
        assert!(!items["items"].as_array().unwrap().is_empty() && !items.to_string().contains(MARKER));
        service.stop();
        assert_eq!(files_with(directory(service), MARKER), Vec::<PathBuf>::new());
    }
}

#[test]
fn an_erasure_that_a_service_has_left_in_the_middle_is_finished_by_another_one() {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    let [mut first, second] = [service(&url, SECOND / 50), service(&url, SECOND / 50)];
    let cart = marked_cart(&first);
    erase(&first, &cart);
    first.stop();
    // As if it had been killed after the first step.
    psql(
        &url,
        &format!(
            r#"UPDATE erased SET stage = 'events', reached = 1; UPDATE journal SET erased = 0, body = '{{"item":"{MARKER}"}}' WHERE version = 2"#
        ),
    );
    let left = || psql(&url, &format!("SELECT count(*) FROM journal WHERE body LIKE '%{MARKER}%'"));
    assert_eq!(left(), "1");
    second.prune();
    eventually("nothing is left", || left() == "0");
    eventually("it is done", || psql(&url, "SELECT stage FROM erased") == "done");
    assert_eq!(crate::harness::Client::metric(second.address, "duality_erasures_in_progress"), 0.0);
}
