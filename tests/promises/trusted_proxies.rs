//! Behind a proxy that the service trusts, the addresses of clients are counted, and whatever others say does not count.

use crate::harness::{App, Client, Process, Stream, count};

const TRUSTED: u8 = 2;
const OTHER: u8 = 3;

fn app(proxies: &[&str]) -> App {
    App::with(|settings| {
        settings.max_sessions_per_address = count(1);
        settings.trusted_proxy = proxies.iter().map(|proxy| (*proxy).to_owned()).collect();
    })
}

/// Opens a stream from an address of this machine, with headers of a proxy.
fn follow(app: &App, host: u8, headers: &[(&str, &str)]) -> Option<Stream> {
    let mut client = Client::connect_from(host, app.address);
    client.send("GET", "/person-events", headers, None);
    let head = client.head().unwrap();
    assert!(matches!(head.status, 200 | 503), "{head:?}");
    (head.status == 200).then(|| Stream::begun(client, head))
}

#[test]
fn the_clients_of_a_trusted_proxy_are_counted_by_their_own_addresses() {
    let app = app(&["::ffff:127.0.0.2", "10.0.0.0/8"]);
    let x = |value| [("X-Forwarded-For", value)];
    let one = follow(&app, TRUSTED, &x("192.0.2.1"));
    assert!(one.is_some());
    assert!(follow(&app, TRUSTED, &x("192.0.2.1")).is_none(), "it has its stream");
    assert!(follow(&app, TRUSTED, &x("198.51.100.9, 192.0.2.1")).is_none(), "whatever it says before");
    assert!(follow(&app, TRUSTED, &x("198.51.100.9, 192.0.2.1, 10.0.0.7")).is_none(), "through another proxy");
    assert!(follow(&app, TRUSTED, &[("Forwarded", "for=\"192.0.2.1:4711\";proto=https")]).is_none());
    let others = ["192.0.2.2", "198.51.100.9", "[2001:db8::1]:4711"].map(|client| follow(&app, TRUSTED, &x(client)));
    assert!(others.iter().all(Option::is_some));
    assert!(follow(&app, TRUSTED, &x("2001:db8::2")).is_none(), "of the same network as the one before");
}

#[test]
fn headers_of_others_and_what_is_no_address_do_not_count() {
    let app = app(&["127.0.0.2"]);
    let x = |value| [("X-Forwarded-For", value)];
    let stranger = follow(&app, OTHER, &x("192.0.2.1"));
    assert!(stranger.is_some());
    assert!(follow(&app, OTHER, &x("192.0.2.2")).is_none(), "its own address counts");
    assert!(follow(&app, TRUSTED, &x("127.0.0.3")).is_none(), "its own address, as the proxy says it");
    let client = follow(&app, TRUSTED, &x("192.0.2.1"));
    assert!(client.is_some(), "the stranger has not taken the place of the one it named");
    let proxy = follow(&app, TRUSTED, &x("nonsense"));
    assert!(proxy.is_some());
    for headers in [
        &[][..],
        &[("X-Forwarded-For", "unknown")],
        &[("X-Forwarded-For", "192.0.2.9, _hidden")],
        &[("Forwarded", "proto=https")],
        &[("X-Forwarded-For", "192.0.2.9"), ("Forwarded", "for=192.0.2.9")],
    ] {
        assert!(follow(&app, TRUSTED, headers).is_none(), "{headers:?} counts as the proxy");
    }
}

#[test]
fn without_the_setting_no_header_counts() {
    let app = app(&[]);
    let stream = follow(&app, TRUSTED, &[("X-Forwarded-For", "192.0.2.1")]);
    assert!(stream.is_some());
    assert!(follow(&app, TRUSTED, &[("X-Forwarded-For", "192.0.2.2")]).is_none());
}

#[test]
fn a_proxy_that_is_no_address_is_refused() {
    let directory = crate::harness::directory();
    for value in ["proxy.example", "10.0.0.0/33", "10.0.0.1,nonsense"] {
        let output = Process::output(&directory.path().join("test.db"), &["--trusted-proxy", value]);
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains("--trusted-proxy") && log.contains("an address such as 10.0.0.7 or 10.0.0.0/8"), "{log}");
    }
}
