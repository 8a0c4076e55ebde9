//! What the log has about requests, and its form in JSON.

use serde_json::Value;

use crate::harness::{Client, Process, Stream, eventually, sql};

/// A process whose log has everything from this level on, and its database.
fn start(level: &str, flags: &[&str]) -> (tempfile::TempDir, Process) {
    let directory = crate::harness::directory();
    let process = Process::start_in(&[("RUST_LOG", level)], &directory.path().join("test.db"), flags);
    (directory, process)
}

fn request(process: &Process, method: &str, path: &str, id: &str) {
    let headers = [("X-Request-Id", id), ("Content-Type", "application/json")];
    let body = (method != "GET").then_some(&b"{\"name\":\"Ann\"}"[..]);
    Client::connect(process.address).request(method, path, &headers, body);
}

/// The lines of the log about requests that contain a text.
fn lines(process: &Process, text: &str) -> Vec<String> {
    let log = process.log();
    log.lines().filter(|line| line.contains("duality::access") && line.contains(text)).map(str::to_owned).collect()
}

#[test]
fn with_debug_every_request_is_one_line() {
    let (_directory, process) = start("debug", &[]);
    request(&process, "POST", "/persons", "first");
    request(&process, "GET", "/persons?key=1", "second");
    request(&process, "GET", "/nowhere", "third");
    for (id, expected) in [
        ("first", "answered method=POST path=/persons status=201 bytes=14 microseconds="),
        ("second", "answered method=GET path=/persons?key=1 status=200 "),
        ("third", "answered method=GET path=/nowhere status=404 bytes="),
    ] {
        let id = format!(" request={id}");
        eventually("the request is in the log", || !lines(&process, &id).is_empty());
        let [line] = &lines(&process, &id)[..] else { panic!("{}", process.log()) };
        assert!(line.contains(expected) && line.ends_with(&id), "{line}");
    }
}

#[test]
fn a_stream_has_a_line_for_its_begin_and_one_for_its_end() {
    let (_directory, process) = start("debug", &[]);
    for path in ["/person-events", "/journal"] {
        let id = format!(" request=of{}", path.replace('/', "-"));
        let sent = id.trim_start_matches(" request=");
        let stream = Stream::open(process.address, path, &[("X-Request-Id", sent)]);
        eventually("the begin is in the log", || lines(&process, &id).len() == 1);
        let begin = format!("a stream begins method=GET path={path} status=200 microseconds=");
        assert!(lines(&process, &id)[0].contains(&begin), "{}", process.log());
        drop(stream);
        eventually("the end is in the log", || lines(&process, &id).len() == 2);
        let end = format!("a stream ends path={path} microseconds=");
        assert!(lines(&process, &id)[1].contains(&end), "{}", process.log());
    }
}

#[test]
fn a_ticket_is_in_no_line() {
    let (_directory, process) = start("trace", &[]);
    let head = [("X-Request-Id", "with-ticket"), ("Accept", "application/json")];
    for path in ["/person-events?ticket=SECRET&limit=1", "/person-events?limit=1&%74icket=SECRET", "/x?ticket=SECRET"] {
        Client::connect(process.address).request("GET", path, &head, None);
    }
    eventually("the requests are in the log", || lines(&process, "with-ticket").len() == 3);
    let of_ours: Vec<_> = process.log().lines().filter(|line| line.contains(" duality")).map(str::to_owned).collect();
    assert!(of_ours.iter().all(|line| !line.contains("SECRET")), "{of_ours:#?}");
}

#[test]
fn without_debug_requests_are_not_in_the_log() {
    let (_directory, process) = start("info,duality::access=info", &[]);
    request(&process, "POST", "/persons", "first");
    let mut stopped = process;
    stopped.signal("TERM");
    assert!(stopped.wait().success());
    eventually("the log is complete", || stopped.log().contains("stopped"));
    assert!(!stopped.log().contains("duality::access") && !stopped.log().contains("request="), "{}", stopped.log());
}

#[test]
fn what_is_logged_while_a_request_is_answered_has_its_id() {
    for flags in [&[][..], &["--log-format", "json"]] {
        let (directory, process) = start("info", flags);
        request(&process, "POST", "/persons", "first");
        sql(&directory.path().join("test.db"), "UPDATE aggregates SET body = '{' WHERE collection = 'persons'");
        request(&process, "PATCH", "/persons/1", "second");
        eventually("the failure is in the log", || process.log().contains("second"));
        let log = process.log();
        let line = log.lines().find(|line| line.contains("second")).unwrap();
        if flags.is_empty() {
            assert!(line.contains(" ERROR ") && line.ends_with(" request=second"), "{line}");
        } else {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&line["level"], &line["request"]), (&"error".into(), &"second".into()), "{line}");
        }
    }
}

#[test]
fn in_json_every_line_is_an_object_with_its_fields() {
    let (directory, mut process) = start("debug", &["--log-format", "json"]);
    request(&process, "POST", "/persons", "a\"b");
    process.signal("TERM");
    assert!(process.wait().success());
    eventually("the log is complete", || process.log().contains("\"stopped\""));
    let log: Vec<Value> = process.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &log {
        assert!(line["time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{line}");
        let level = line["level"].as_str().unwrap();
        assert!(["error", "warn", "info", "debug", "trace"].contains(&level), "{line}");
        assert!(line["target"].is_string() && line["message"].is_string(), "{line}");
    }
    let of_request: Vec<_> = log.iter().filter(|line| line["target"] == "duality::access").collect();
    let [line] = of_request[..] else { panic!("{of_request:?}") };
    let values = ["message", "method", "path", "status", "bytes", "request"].map(|name| line[name].clone());
    assert_eq!(Value::from(values.to_vec()), serde_json::json!(["answered", "POST", "/persons", 201, 14, "a\"b"]));
    assert!(line["microseconds"].is_u64(), "{line}");
    // A task of the command line has a log as well.
    let missing = directory.path().join("missing.db");
    let output = Process::output(&missing, &["verify", "--log-format", "json"]);
    let line: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(line["level"], "error", "{line}");
}
