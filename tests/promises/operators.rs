//! With `--operate-on`, operators have a listener of their own: it has everything, and the public one nothing of theirs.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::harness::{App, Authority, Client, Process, Response, Stream, TokenFile, eventually};

/// What has no end is a page then.
const JSON: [(&str, &str); 1] = [("Accept", "application/json")];

const HTML: [(&str, &str); 1] = [("Accept", "text/html")];

/// The public listener and that for operators.
fn listeners(app: &App) -> [SocketAddr; 2] {
    app.addresses.as_slice().try_into().unwrap()
}

fn with_operators(change: impl FnOnce(&mut duality::Settings)) -> App {
    App::with(|settings| {
        settings.operate_on = Some("127.0.0.1:0".to_owned());
        change(settings);
    })
}

fn get(address: SocketAddr, path: &str) -> Response {
    Client::connect(address).request("GET", path, &[], None)
}

/// The paths that a listener names to those who ask for one that does not exist.
fn paths(address: SocketAddr) -> BTreeSet<String> {
    let problem = get(address, "/no-such-path").problem(404, "no-such-path");
    serde_json::from_value(problem["paths"].clone()).unwrap()
}

fn described(address: SocketAddr) -> BTreeSet<String> {
    get(address, "/openapi.json").json()["paths"].as_object().unwrap().keys().cloned().collect()
}

/// Whether a path is for operators.
fn is_theirs(path: &str) -> bool {
    ["/metrics", "/-/erase"].contains(&path) || path.starts_with("/projections")
}

/// Whether a path is a part of the page.
fn is_of_the_page(path: &str) -> bool {
    path == "/docs" || path.starts_with("/page/")
}

fn is_unknown(response: &Response) -> bool {
    response.status == 404 && response.json()["type"] == "no-such-path"
}

fn concrete(path: &str) -> String {
    let name = if path.starts_with("/reports") { "popular-items" } else { "cart_items" };
    let path = path.replace("{key}", "1").replace("{name}", name).replace("{command}", "add-item");
    path.replace("{file}", "page.js")
}

#[test]
fn every_route_is_on_the_listener_for_operators_and_theirs_nowhere_else() {
    let app = with_operators(|_| {});
    let [public, operators] = listeners(&app);
    let all = paths(operators);
    assert!(all.len() > 30 && all.iter().any(|path| is_theirs(path)), "{all:?}");
    let left: BTreeSet<_> = all.iter().filter(|path| !is_theirs(path)).cloned().collect();
    assert_eq!(paths(public), left);
    for path in &all {
        let path = concrete(path);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let [here, there] =
                [public, operators].map(|address| Client::connect(address).request(method, &path, &JSON, None));
            assert_eq!(is_unknown(&here), is_theirs(&path), "{method} {path}: {}", here.text());
            assert!(!is_unknown(&there), "{method} {path}: {}", there.text());
        }
    }
}

#[test]
fn what_describes_the_public_listener_names_nothing_of_operators() {
    let app = with_operators(|_| {});
    let [public, operators] = listeners(&app);
    for path in ["/", "/openapi.json", "/no-such-path", "/metric", "/projection", "/healthz"] {
        let text = get(public, path).text().to_ascii_lowercase();
        for word in ["/metrics", "/projections", "\"projections\"", "rebuild projection", "projectionskip"] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
    assert!(get(operators, "/").json()["metrics"].is_string());
    let theirs: BTreeSet<_> = described(operators).difference(&described(public)).cloned().collect();
    assert!(theirs.len() >= 4 && theirs.iter().all(|path| is_theirs(path)), "{theirs:?}");
    assert!(described(public).is_subset(&described(operators)));
}

#[test]
fn without_the_page_the_public_listener_answers_with_json_only() {
    let app = with_operators(|settings| settings.page = false);
    let [public, operators] = listeners(&app);
    for path in paths(operators).iter().filter(|path| is_of_the_page(path)) {
        get(public, &concrete(path)).problem(404, "no-such-path");
        assert_eq!(get(operators, &concrete(path)).status, 200);
    }
    assert!(paths(public).iter().chain(&described(public)).all(|path| !is_of_the_page(path)));
    let browser = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let index = Client::connect(public).request("GET", "/", &browser, None);
    assert_eq!(index.json()["name"], "duality");
    assert!(index.json().get("docs").is_none());
    assert_eq!(Client::connect(public).request("GET", "/", &HTML, None).status, 406);
    assert_eq!(get(public, "/follow.js").status, 200, "clients import it");
    let page = Client::connect(operators).request("GET", "/", &HTML, None);
    assert!(page.header("Content-Type").unwrap().starts_with("text/html"));
}

#[test]
fn the_only_listener_can_be_without_the_page_too() {
    let app = App::with(|settings| settings.page = false);
    app.get("/docs").problem(404, "no-such-path");
    assert_eq!(app.get("/metrics").status, 200);
}

#[test]
fn a_write_on_one_listener_is_an_event_on_the_other_and_both_stop() {
    let mut app = with_operators(|_| {});
    let [public, operators] = listeners(&app);
    let mut streams = [public, operators].map(|address| Stream::open(address, "/person-events", &[]));
    for address in [public, operators] {
        let json = [("Content-Type", "application/json")];
        let created = Client::connect(address).request("POST", "/persons", &json, Some(br#"{"name":"Ann"}"#));
        for stream in &mut streams {
            assert_eq!(stream.next().revision(), created.revision());
        }
    }
    assert_eq!(app.sessions(), 2);
    app.stop();
    for stream in &mut streams {
        assert_eq!(stream.try_next(), None);
    }
}

#[test]
fn operators_get_in_when_the_public_listener_is_full() {
    let app = with_operators(|settings| settings.max_connections_per_address = Some(crate::harness::count(2)));
    let [public, operators] = listeners(&app);
    let mut open: Vec<_> = (0..2).map(|_| Client::connect(public)).collect();
    open.iter_mut().for_each(|client| assert_eq!(client.request("GET", "/healthz", &[], None).status, 200));
    let mut refused = Client::connect(public);
    assert!(refused.try_send("GET", "/healthz", &[], None).is_err() || refused.try_response("GET").is_err());
    assert!(Client::metric(operators, "duality_refused_connections_total") >= 1.0);
}

#[test]
fn tokens_count_on_both_listeners() {
    let file = TokenFile::new();
    let (reader, operator) = (file.add("reader", "read"), file.add("operator", "operate"));
    let app = with_operators(|settings| settings.tokens = Some(file.path.clone()));
    let [public, operators] = listeners(&app);
    let status = |address, path: &str, token: Option<&str>| {
        let headers: Vec<_> = token.iter().map(|token| ("Authorization", *token)).collect();
        Client::connect(address).request("GET", path, &headers, None).status
    };
    let (reader, operator) = (reader.bearer(), operator.bearer());
    assert_eq!(status(operators, "/metrics", None), 401);
    assert_eq!(status(operators, "/metrics", Some(&reader)), 403);
    assert_eq!(status(operators, "/metrics", Some(&operator)), 200);
    assert_eq!(status(public, "/metrics", None), 404, "nobody learns that there is one");
    assert_eq!(status(public, "/metrics", Some(&operator)), 404);
    assert_eq!(status(operators, "/persons", Some(&reader)), 200);
}

#[test]
fn the_listener_for_operators_speaks_tls_unless_only_this_machine_reaches_it() {
    let (authority, directory) = (Authority::new(), crate::harness::directory());
    let certificate = authority.certify();
    let app = with_operators(|settings| certificate.write(directory.path(), settings));
    let [public, operators] = listeners(&app);
    assert_eq!(Client::connect_tls(public, &authority).request("GET", "/persons", &[], None).status, 200);
    assert_eq!(get(operators, "/metrics").status, 200);
    let app = with_operators(|settings| {
        certificate.write(directory.path(), settings);
        settings.operate_on = Some("0.0.0.0:0".to_owned());
        settings.insecure = true;
    });
    let operators = SocketAddr::from(([127, 0, 0, 1], listeners(&app)[1].port()));
    assert_eq!(Client::connect_tls(operators, &authority).request("GET", "/metrics", &[], None).status, 200);
    assert_eq!(Client::connect(operators).request("GET", "/metrics", &[], None).status, 400);
}

#[test]
fn the_listener_for_operators_is_refused_where_the_public_one_would_be() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let output = |flags: &[&str]| String::from_utf8(Process::output(&database, flags).stderr).unwrap();
    let exposed = output(&["--operate-on", "0.0.0.0:0"]);
    assert!(exposed.contains("0.0.0.0:0 can be reached from other machines"), "{exposed}");
    let nonsense = output(&["--operate-on", "3001"]);
    assert!(nonsense.contains("--operate-on (DUALITY_OPERATE_ON): expected a host and a port"), "{nonsense}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let in_use = output(&["--operate-on", &address]);
    assert!(in_use.contains(&format!("cannot listen on {address}: another program does")), "{in_use}");
    let process = Process::start(&database, &["--operate-on", "127.0.0.1:0", "--page", "off"]);
    eventually("both are in the log", || process.log().contains("operators are served on http://127.0.0.1:"));
}

#[test]
fn the_error_of_a_taken_port_names_the_setting_that_has_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = crate::harness::directory();
    let output = Process::output_on("127.0.0.1:0", &directory.path().join("test.db"), &["--operate-on", &address]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let begin = format!(
        "cannot listen on {address}: another program does; stop that one, or use another port: --operate-on 127.0.0.1:"
    );
    assert!(log.contains(&begin) && !log.contains("--listen"), "{log}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has opened the database");
}
