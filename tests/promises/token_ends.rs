//! What the end of a token ends: streams that nobody reads, and requests whose bodies are on their way.

use std::time::Duration;

use duality::Running;
use serde_json::json;

use crate::harness::{App, Authority, Client, Response, Stream, Token, TokenFile, eventually};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// More than the kernel takes for a client that does not read.
const BOOKINGS: usize = 100;
const TEXT: usize = 40_000;

/// A service with tokens, which may speak TLS.
struct Guarded {
    app: App,
    authority: Option<Authority>,
    _directory: tempfile::TempDir,
}

impl Guarded {
    fn start(file: &TokenFile, authority: Option<Authority>) -> Self {
        let directory = crate::harness::directory();
        let app = file.serve(|settings| {
            settings.heartbeat = Duration::from_millis(100);
            // A peer that takes nothing must not count as dead.
            settings.peer_timeout = Duration::from_secs(600);
            if let Some(authority) = &authority {
                authority.certify().write(directory.path(), settings);
            }
        });
        Self { app, authority, _directory: directory }
    }

    fn client(&self) -> Client {
        match &self.authority {
            Some(authority) => Client::connect_tls(self.app.address, authority),
            None => self.app.client(),
        }
    }

    fn send(&self, token: &Token, method: &str, path: &str, body: Option<&[u8]>) -> Response {
        let bearer = token.bearer();
        let headers = [JSON, ("Accept", "application/json, */*;q=0.1"), ("Authorization", bearer.as_str())];
        self.client().request(method, path, &headers, body)
    }

    fn follow(&self, token: &Token, path: &str) -> Stream {
        Stream::on(self.client(), path, &[("Authorization", &token.bearer())])
    }

    /// Writes events that are longer than what a stream can have waiting.
    fn book(&self, token: &Token) {
        let booking = json!({"amount": 1, "text": "x".repeat(TEXT)}).to_string();
        let (mut client, bearer) = (self.client(), token.bearer());
        let headers = [JSON, ("Authorization", bearer.as_str())];
        for _ in 0..BOOKINGS {
            let opened = client.request("POST", "/accounts", &headers, None);
            let path = format!("{}/book", opened.header("Location").unwrap());
            let booked = client.request("POST", &path, &headers, Some(booking.as_bytes()));
            assert_eq!(booked.status, 200, "{}", booked.text());
        }
    }

    fn open_streams(&self, operator: &Token) -> usize {
        let metrics = self.send(operator, "GET", "/metrics", None);
        let line = metrics.text().lines().find_map(|line| line.strip_prefix("duality_open_streams "));
        line.unwrap_or_else(|| panic!("{}", metrics.text())).parse().unwrap()
    }
}

#[test]
fn a_stream_that_nobody_reads_is_cut_when_its_token_is_taken_away() {
    for authority in [None, Some(Authority::new())] {
        let file = TokenFile::new();
        let (gone, stays) = (file.add("gone", "read"), file.add("stays", "read,write,operate"));
        let service = Guarded::start(&file, authority);
        let mut stalled = ["/account-events", "/journal"].map(|path| service.follow(&gone, path));
        let mut going_on = service.follow(&stays, "/person-events");
        service.book(&stays);
        eventually("the client does not take what the service has", || service.app.figure(Running::queued_bytes) > 0);
        assert_eq!(service.open_streams(&stays), 3);
        file.revoke("gone");
        eventually("both places are free", || service.open_streams(&stays) == 1);
        for stream in &mut stalled {
            while stream.message().is_some() {}
            assert!(stream.raw.matches(&"x".repeat(TEXT)).count() < BOOKINGS, "it was not stalled");
        }
        service.send(&stays, "POST", "/persons", Some(br#"{"name":"Ann"}"#));
        going_on.read_until(|text| text.contains("Ann"));
    }
}

#[test]
fn a_request_whose_token_ends_before_its_body_is_complete_does_nothing() {
    let file = TokenFile::new();
    let stays = file.add("stays", "read,write");
    let service = Guarded::start(&file, None);
    service.send(&stays, "POST", "/persons", Some(br#"{"name":"Ann"}"#));
    let cart = service.send(&stays, "POST", "/carts", None).header("Location").unwrap().to_owned();
    let before = service.send(&stays, "GET", "/aggregates", None);
    let requests = [
        ("POST", "/persons", r#"{"name":"Bob"}"#),
        ("PUT", "/persons/1", r#"{"name":"Bob"}"#),
        ("PATCH", "/persons/1", r#"{"name":"Bob"}"#),
        ("POST", &format!("{cart}/add-item"), r#"{"item":"apple"}"#),
        ("POST", "/-/tickets", r#"{"feed":"/person-events"}"#),
        ("POST", "/-/erase", r#"{"collection":"persons","key":"1"}"#),
        ("POST", "/projections/cart_items/skip", r#"{"at":1}"#),
    ];
    let mut attempts = 0;
    eventually("the service waited for the bodies when the token was taken away", || {
        attempts += 1;
        let name = format!("gone-{attempts}");
        let gone = file.add(&name, "read,write,operate");
        eventually("the token is known", || gone.is_in_force(&service.app));
        let mut clients = requests.map(|(method, path, body)| {
            let mut client = service.client();
            let (length, begin, bearer) = (body.len(), &body[..5], gone.bearer());
            let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {bearer}\r\n");
            let rest = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{begin}");
            client.send_raw(format!("{head}{rest}").as_bytes());
            client
        });
        file.revoke(&name);
        let problems = clients.each_mut().map(|client| client.response("POST").problem(401, "unauthorized"));
        problems.iter().all(|problem| problem["detail"] == "the token is no longer valid")
    });
    let after = service.send(&stays, "GET", "/aggregates", None);
    assert_eq!((after.revision(), after.text()), (before.revision(), before.text()));
}
