//! Pages of other origins cannot write, and a request for another host is refused. In both cases nothing is done.

use crate::harness::{App, Process, Response};

const FOREIGN: [(&str, &str); 2] = [("Origin", "https://elsewhere.example"), ("Sec-Fetch-Site", "cross-site")];

/// Every request that changes something.
fn writes(cart: &str) -> Vec<(&'static str, String, Option<&'static [u8]>)> {
    let person = Some(&br#"{"name":"Ann"}"#[..]);
    vec![
        ("POST", "/persons".to_owned(), person),
        ("PUT", "/persons/1".to_owned(), person),
        ("PATCH", "/persons/1".to_owned(), person),
        ("DELETE", "/persons/1".to_owned(), None),
        ("POST", "/carts".to_owned(), None),
        ("POST", "/accounts".to_owned(), None),
        ("POST", format!("{cart}/close"), None),
        ("POST", "/projections/cart_items/rebuild".to_owned(), None),
        ("POST", "/projections/cart_items/skip".to_owned(), Some(br#"{"at":1}"#)),
        ("POST", "/nowhere".to_owned(), None),
        ("BREW", "/persons".to_owned(), None),
    ]
}

fn send(app: &App, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Response {
    let json = body.map(|_| ("Content-Type", "application/json"));
    app.request(method, path, &[headers, json.as_slice()].concat(), body)
}

#[test]
fn a_page_of_another_origin_cannot_write() {
    for allowed in [&[][..], &["*"], &["https://admin.example"]] {
        let app =
            App::with(|settings| settings.cors_origin = allowed.iter().map(|&origin| origin.to_owned()).collect());
        let cart = app.open_cart();
        let before = app.get("/aggregates");
        for (method, path, body) in writes(&cart) {
            for headers in [&FOREIGN[..], &FOREIGN[..1], &FOREIGN[1..], &[("Origin", "null")]] {
                let problem = send(&app, method, &path, headers, body).problem(403, "foreign-origin");
                let detail = problem["detail"].as_str().unwrap();
                assert!(detail.contains("--cors-origin") && detail.contains(headers[0].1), "{method} {path}: {detail}");
            }
        }
        let now = app.get("/aggregates");
        assert_eq!((now.revision(), now.text()), (before.revision(), before.text()));
        assert_eq!(app.request("GET", "/persons", &FOREIGN, None).status, 200, "it can ask for what it may not read");
    }
}

#[test]
fn the_service_itself_a_listed_origin_and_other_programs_can_write() {
    let app = App::with(|settings| settings.cors_origin = vec!["https://admin.example".to_owned()]);
    let host = app.address.to_string();
    let own = format!("http://{host}");
    for (number, headers) in [
        vec![],
        vec![("Host", host.as_str()), ("Origin", &own)],
        vec![("Sec-Fetch-Site", "same-origin")],
        vec![("Sec-Fetch-Site", "none")],
        vec![("Origin", "https://admin.example"), ("Sec-Fetch-Site", "cross-site")],
    ]
    .into_iter()
    .enumerate()
    {
        let answer = send(&app, "POST", "/persons", &headers, Some(br#"{"name":"Ann"}"#));
        assert_eq!(answer.header("Location"), Some(format!("/persons/{}", number + 1).as_str()), "{headers:?}");
    }
}

#[test]
fn a_request_for_another_host_is_refused() {
    let app = App::start();
    let cart = app.open_cart();
    let elsewhere = [("Host", "attacker.example:3000"), ("X-Forwarded-Host", "localhost")];
    let reads = ["/persons", "/person-events", "/events", "/metrics", "/nowhere", "/"];
    let reads = reads.map(|path| ("GET", path.to_owned(), None));
    for (method, path, body) in writes(&cart).into_iter().chain(reads) {
        let problem = send(&app, method, &path, &elsewhere, body).problem(421, "unknown-host");
        assert!(problem["detail"].as_str().unwrap().contains("--host attacker.example if"), "{problem}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(app.request("GET", path, &elsewhere, None).status, 200, "{path}");
    }
    assert_eq!(app.get("/persons").text(), "{}");
    assert_eq!(app.get("/carts").json().as_object().unwrap().len(), 1);
}

#[test]
fn a_request_for_a_named_host_is_answered() {
    let app = App::with(|settings| settings.host = vec!["shop.example".to_owned()]);
    let origin = ("Origin", "https://shop.example");
    let answer = send(&app, "POST", "/persons", &[("Host", "shop.example"), origin], Some(br#"{"name":"Ann"}"#));
    assert_eq!(answer.status, 201, "TLS ends at a proxy that keeps the host");
    assert_eq!(app.request("GET", "/persons", &[("Host", "other.example")], None).status, 421);
    let any = App::with(|settings| settings.host = vec!["*".to_owned()]);
    assert_eq!(any.request("GET", "/persons", &[("Host", "other.example")], None).status, 200);
}

#[test]
fn a_refusal_is_counted_with_its_route() {
    let app = App::start();
    send(&app, "POST", "/persons", &FOREIGN, Some(b"{}"));
    app.request("GET", "/persons", &[("Host", "attacker.example")], None);
    let metrics = app.get("/metrics");
    for (method, status) in [("POST", 403), ("GET", 421)] {
        let line = format!(r#"duality_requests_total{{route="/persons",method="{method}",status="{status}"}} 1"#);
        assert!(metrics.text().contains(&line), "{line}");
    }
}

#[test]
fn a_refused_preflight_is_a_problem() {
    let app = App::with(|settings| settings.cors_origin = vec!["https://admin.example".to_owned()]);
    let asked = ("Access-Control-Request-Method", "PATCH");
    let other = ("Origin", "https://elsewhere.example");
    let problem = app.request("OPTIONS", "/persons/1", &[other, asked], None).problem(403, "foreign-origin");
    assert!(problem["detail"].as_str().unwrap().contains("https://elsewhere.example"), "{problem}");
    let admin = ("Origin", "https://admin.example");
    let brew = ("Access-Control-Request-Method", "BREW");
    app.request("OPTIONS", "/persons/1", &[admin, brew], None).problem(400, "malformed-request");
    assert_eq!(app.request("OPTIONS", "/persons/1", &[admin, asked], None).status, 200);
}

#[test]
fn a_start_on_all_addresses_names_the_setting_for_hosts() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    for (listen, flags, lines) in [
        ("0.0.0.0:0", &["--insecure"][..], 1),
        ("[::]:0", &["--insecure"], 1),
        ("0.0.0.0:0", &["--insecure", "--host", "shop.example,other.example"], 0),
        ("127.0.0.1:0", &[], 0),
    ] {
        let process = Process::start_on(listen.parse().unwrap(), &database, flags);
        assert_eq!(process.log().matches("--host NAME").count(), lines, "{listen} {flags:?}");
    }
}
