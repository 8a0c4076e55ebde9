//! A write with an `Idempotency-Key` can be sent again: it is executed once, and every repeat gets the first answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use duality::ByteSize;
use serde_json::json;

use crate::harness::{
    App, Client, Lock, Process, Random, Response, Token, TokenFile, cases, copy_of, count, eventually, kills, lines,
    output_of, sql,
};

/// The path of a cart whose uuid the client chooses.
const CART: &str = "/carts/0193a5b0-7b2c-7def-8000-123456789abc";

pub(crate) const HOUR: i64 = 60 * 60 * 1000;

/// A write that may be sent several times.
pub(crate) struct Write<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) key: &'a str,
    pub(crate) body: &'a str,
}

impl Write<'_> {
    fn headers(&self) -> [(&str, &str); 2] {
        [("Content-Type", "application/json"), ("Idempotency-Key", self.key)]
    }

    fn body(&self) -> Option<&[u8]> {
        (!self.body.is_empty()).then_some(self.body.as_bytes())
    }

    pub(crate) fn send(&self, app: &App) -> Response {
        app.request(self.method, self.path, &self.headers(), self.body())
    }

    fn send_to(&self, client: &mut Client) {
        client.send(self.method, self.path, &self.headers(), self.body());
    }
}

/// Creates a person.
pub(crate) fn person<'a>(key: &'a str, body: &'a str) -> Write<'a> {
    Write { method: "POST", path: "/persons", key, body }
}

pub(crate) const ANN: &str = r#"{"name":"Ann","city":"Rome"}"#;

/// The headers of a response, without those that are different in each.
fn lasting(response: &Response) -> Vec<(String, String)> {
    let passing = ["date", "idempotency-replayed", "x-request-id", "x-correlation-id"];
    let headers = response.headers().iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut headers: Vec<_> = headers.filter(|(name, _)| !passing.contains(&name.as_str())).collect();
    headers.sort();
    headers
}

/// Checks that a response is the first answer, given again.
#[track_caller]
pub(crate) fn assert_repeats(first: &Response, repeat: &Response) {
    assert_eq!(first.header("Idempotency-Replayed"), None);
    assert_eq!(repeat.header("Idempotency-Replayed"), Some("true"), "{}", repeat.text());
    assert_eq!((repeat.status, repeat.text()), (first.status, first.text()));
    assert_eq!(lasting(repeat), lasting(first));
}

/// The last revision, and the number of persons.
pub(crate) fn state(app: &App) -> (i64, usize) {
    let persons = app.get("/persons");
    (persons.revision(), persons.json().as_object().unwrap().len())
}

#[test]
fn every_write_gets_its_first_answer_again_whatever_has_happened_since() {
    for (write, status) in [
        (person("1", ANN), 201),
        (Write { method: "PUT", path: "/persons/1", key: "1", body: r#"{"name":"Eve"}"# }, 200),
        (Write { method: "PATCH", path: "/persons/1", key: "1", body: r#"{"city":null}"# }, 200),
        (Write { method: "PATCH", path: "/persons/1", key: "1", body: r#"{"city":"Rome"}"# }, 200),
        (Write { method: "DELETE", path: "/persons/1", key: "1", body: "" }, 204),
        (Write { method: "DELETE", path: "/persons/3", key: "1", body: "" }, 404),
        (Write { method: "PATCH", path: "/persons/3", key: "1", body: r#"{"city":"Rome"}"# }, 404),
        (Write { method: "POST", path: "/carts", key: "1", body: "" }, 201),
        (Write { method: "POST", path: "/carts", key: "1", body: "{}" }, 201),
        (Write { method: "PUT", path: "/carts/0193a5b0-7b2c-7def-8000-000000000001", key: "1", body: "" }, 201),
        (Write { method: "PUT", path: CART, key: "1", body: "" }, 409),
        (Write { method: "PUT", path: "/carts/not-a-uuid", key: "1", body: "" }, 422),
        (Write { method: "POST", path: &format!("{CART}/add-item"), key: "1", body: r#"{"item":"pear"}"# }, 200),
        (Write { method: "POST", path: &format!("{CART}/add-item"), key: "1", body: r#"{"item":"apple"}"# }, 409),
        (Write { method: "POST", path: &format!("{CART}/remove-item"), key: "1", body: r#"{"item":"plum"}"# }, 409),
        (Write { method: "POST", path: &format!("{CART}/close"), key: "1", body: "" }, 200),
    ] {
        let app = App::start();
        app.post("/persons", ANN);
        app.write("PUT", CART, "");
        app.add_item(CART, "apple");
        let first = write.send(&app);
        assert_eq!(first.status, status, "{} {}: {}", write.method, write.path, first.text());
        // Now each of them would have another answer.
        app.patch("/persons/1", r#"{"name":"Zoe","city":"Oslo"}"#);
        app.post("/persons", ANN);
        app.post("/persons", ANN);
        app.add_item(CART, "plum");
        app.post(&format!("{CART}/remove-item"), r#"{"item":"apple"}"#);
        app.command(&format!("{CART}/close"));
        let before = state(&app);
        for _ in 0..2 {
            assert_repeats(&first, &write.send(&app));
        }
        assert_eq!(state(&app), before, "a repeat changes nothing");
    }
}

#[test]
fn a_write_that_changed_nothing_is_not_executed_when_it_would_change_something() {
    let app = App::start();
    app.post("/persons", ANN);
    let write = Write { method: "PATCH", path: "/persons/1", key: "1", body: r#"{"city":"Rome"}"# };
    let first = write.send(&app);
    assert_eq!((first.status, first.revision()), (200, 1), "it changes nothing");
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    assert_repeats(&first, &write.send(&app));
    assert_eq!(app.get("/persons/1").json()["city"], "Oslo");
}

#[test]
fn a_broken_rule_stays_the_answer_when_the_rule_would_hold_and_a_state_that_is_too_large_does() {
    let mut app = App::with(|settings| settings.max_aggregate = ByteSize(100));
    app.write("PUT", CART, "");
    let path = format!("{CART}/remove-item");
    let rule = Write { method: "POST", path: &path, key: "1", body: r#"{"item":"apple"}"# };
    let long = json!({"name": "x".repeat(200)}).to_string();
    let large = person("1", &long);
    let (broken, refused) = (rule.send(&app), large.send(&app));
    assert_eq!(broken.problem(409, "item-not-in-cart")["item"], "apple");
    refused.problem(422, "aggregate-too-large");
    app.change(|settings| settings.max_aggregate = ByteSize(1000));
    app.restart();
    assert_eq!(app.add_item(CART, "apple").status, 200);
    assert_repeats(&broken, &rule.send(&app));
    assert_repeats(&refused, &large.send(&app));
    assert_eq!((app.get(CART).json()["items"]["apple"].is_object(), state(&app).1), (true, 0));
    assert_eq!(person("2", &long).send(&app).status, 201, "with another key, it is executed");
}

#[test]
fn a_repeat_gets_the_first_answer_before_its_precondition_is_looked_at() {
    let app = App::start();
    let tag = app.post("/persons", ANN).header("ETag").unwrap().to_owned();
    let send = |tag: &str, key: &str, city: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key), ("If-Match", tag)];
        app.request("PATCH", "/persons/1", &headers, Some(json!({ "city": city }).to_string().as_bytes()))
    };
    let first = send(&tag, "1", "Oslo");
    assert_eq!(first.status, 200);
    // The aggregate has moved on, by this very request.
    assert_repeats(&first, &send(&tag, "1", "Oslo"));
    let failed = send(&tag, "2", "Bonn");
    assert_eq!(failed.problem(412, "unexpected-state")["expected"], json!([tag]));
    let current = first.header("ETag").unwrap();
    assert_eq!(failed.header("ETag"), Some(current));
    // Even though it would hold now.
    assert_repeats(&failed, &send(current, "2", "Bonn"));
    assert_eq!(send(current, "3", "Bonn").status, 200);
}

#[test]
fn a_repeat_has_as_much_of_the_answer_as_it_prefers() {
    let app = App::start();
    let write = person("1", ANN);
    let send = |preference: &str| {
        let headers = [&write.headers()[..], &[("Prefer", preference)]].concat();
        app.request("POST", "/persons", &headers, Some(ANN.as_bytes()))
    };
    let first = send("return=minimal");
    assert_eq!((first.status, first.text()), (201, ""));
    assert_repeats(&first, &send("return=minimal"));
    let whole = send("return=representation");
    assert_eq!((whole.status, whole.text(), whole.header("Idempotency-Replayed")), (201, ANN, Some("true")));
    assert_eq!(whole.header("ETag"), first.header("ETag"));
    assert_eq!(state(&app), (1, 1));
}

#[test]
fn a_key_belongs_to_a_method_and_a_path() {
    let app = App::start();
    for path in ["/carts", "/accounts", "/persons"] {
        let write = Write { method: "POST", path, key: "1", body: if path == "/persons" { ANN } else { "" } };
        let opened = write.send(&app);
        assert_eq!((opened.status, opened.header("Idempotency-Replayed")), (201, None), "{path}");
    }
    for (method, body) in [("PATCH", ANN), ("PUT", ANN), ("DELETE", "")] {
        let response = Write { method, path: "/persons/1", key: "1", body }.send(&app);
        assert!(response.status < 300 && response.header("Idempotency-Replayed").is_none(), "{method}");
    }
    assert_eq!(state(&app).1, 0);
}

#[test]
fn another_spelling_of_the_path_is_the_same_request() {
    let app = App::start();
    let first = person("1", ANN).send(&app);
    let open = Write { method: "PUT", path: CART, key: "1", body: "" }.send(&app);
    assert_eq!((first.status, open.status), (201, 201));
    for (path, body, first) in [
        ("/%70ersons", ANN, &first),
        ("/p%65rson%73", ANN, &first),
        (&CART.replace('-', "%2D"), "", &open),
        (&CART.replace('-', "%2d").replace("carts", "%63arts"), "", &open),
    ] {
        let method = if body.is_empty() { "PUT" } else { "POST" };
        assert_repeats(first, &Write { method, path, key: "1", body }.send(&app));
    }
    assert_eq!(state(&app), (2, 1));
    // Also while the first request is in flight.
    let holding = app.hold_writes();
    let mut client = queue(&app, &Write { method: "PATCH", path: "/persons/1", key: "2", body: "{}" });
    let alias = Write { method: "PATCH", path: "/%70ersons/%31", key: "2", body: "{}" };
    alias.send(&app).problem(409, "request-in-flight");
    drop(holding);
    assert_repeats(&client.response("PATCH"), &alias.send(&app));
}

#[test]
fn the_same_key_with_another_body_is_a_422_and_the_first_answer_stays() {
    let app = App::start();
    let first = person("1", ANN).send(&app);
    // Also an equal value in other bytes: the service does not guess.
    for body in [r#"{"name":"Bob"}"#, r#"{"name":"Ann", "city":"Rome"}"#] {
        let problem = person("1", body).send(&app).problem(422, "idempotency-key-reused");
        assert!(problem["detail"].as_str().unwrap().starts_with("Idempotency-Key: "), "{problem}");
    }
    assert_repeats(&first, &person("1", ANN).send(&app));
    assert_eq!(state(&app), (1, 1));
    let sample = "duality_idempotency_conflicts_total{reason=\"other-body\"}";
    assert!((Client::metric(app.address, sample) - 2.0).abs() < 0.1);
    assert!((Client::metric(app.address, "duality_idempotency_replays_total") - 1.0).abs() < 0.1);
}

#[test]
fn the_media_type_belongs_to_the_body_and_its_parameters_do_not() {
    let app = App::start();
    app.post("/persons", ANN);
    let send = |media_type: &str| {
        let headers = [("Content-Type", media_type), ("Idempotency-Key", "1")];
        app.request("PATCH", "/persons/1", &headers, Some(br#"{"city":"Oslo"}"#))
    };
    let first = send("application/json");
    assert_repeats(&first, &send("Application/JSON; charset=utf-8"));
    send("application/merge-patch+json").problem(422, "idempotency-key-reused");
}

#[test]
fn a_request_about_which_nothing_was_decided_can_be_corrected_with_its_key() {
    let app = App::start();
    for (headers, body, status) in [
        (&[("Content-Type", "application/json")][..], "{", 400),
        (&[("Content-Type", "application/json"), ("If-Match", "x")], ANN, 400),
        (&[("Content-Type", "text/plain")], ANN, 415),
        (&[("Content-Type", "application/json")], r#"{"nam":"Ann"}"#, 422),
        (&[("Content-Type", "application/json"), ("Origin", "https://other.example")], ANN, 403),
        (&[("Content-Type", "application/json"), ("Host", "other.example")], ANN, 421),
    ] {
        let headers = [headers, &[("Idempotency-Key", "1")]].concat();
        for _ in 0..2 {
            let response = app.request("POST", "/persons", &headers, Some(body.as_bytes()));
            assert_eq!((response.status, response.header("Idempotency-Replayed")), (status, None), "{body}");
        }
    }
    assert_eq!(person("1", ANN).send(&app).status, 201);
    assert_eq!(state(&app), (1, 1));
}

#[test]
fn a_command_that_was_not_executed_for_want_of_a_lock_can_be_sent_again() {
    let app = App::start();
    let lock = Lock::take(app.database());
    person("1", ANN).send(&app).problem(503, "locked");
    drop(lock);
    let first = person("1", ANN).send(&app);
    assert_eq!((first.status, state(&app)), (201, (1, 1)));
    assert_repeats(&first, &person("1", ANN).send(&app));
}

#[test]
fn a_key_is_visible_ascii_or_a_quoted_string_and_anything_else_a_400_that_names_the_header() {
    let app = App::start();
    let long = "k".repeat(256);
    for key in ["", "\"\"", "a b", "\"a", "ä", &long, "\"a\";b=1"] {
        let problem = person(key, ANN).send(&app).problem(400, "malformed-request");
        assert!(problem["detail"].as_str().unwrap().starts_with("Idempotency-Key: expected"), "{key}: {problem}");
    }
    let twice = [("Content-Type", "application/json"), ("Idempotency-Key", "1"), ("Idempotency-Key", "2")];
    app.request("POST", "/persons", &twice, Some(ANN.as_bytes())).problem(400, "malformed-request");
    app.request("DELETE", "/persons/1", &[("Idempotency-Key", "")], None).problem(400, "malformed-request");
    assert_eq!(state(&app), (0, 0));
    // Both forms are the same key.
    let first = person("8e03978e-40d5", ANN).send(&app);
    assert_repeats(&first, &person("\"8e03978e-40d5\"", ANN).send(&app));
    assert_eq!(person("\"a \\\"b\\\"\"", ANN).send(&app).status, 201);
}

/// Sends a write while [`App::hold_writes`] keeps everything from being written, and returns when its command is in the queue.
pub(crate) fn queue(app: &App, write: &Write<'_>) -> Client {
    let waiting = || Client::metric(app.address, "duality_waiting_commands");
    let (mut client, before) = (app.client(), waiting());
    write.send_to(&mut client);
    eventually("its command waits", || waiting() > before);
    client
}

#[test]
fn a_repeat_while_the_first_request_is_in_flight_is_a_409_and_then_gets_the_answer() {
    let app = App::start();
    let write = person("1", ANN);
    let holding = app.hold_writes();
    let mut client = queue(&app, &write);
    for body in [ANN, r#"{"name":"Bob"}"#] {
        let conflict = person("1", body).send(&app);
        conflict.problem(409, "request-in-flight");
        assert_eq!(conflict.header("Retry-After"), Some("1"));
    }
    let sample = "duality_idempotency_conflicts_total{reason=\"in-flight\"}";
    assert!((Client::metric(app.address, sample) - 2.0).abs() < 0.1);
    // Other keys are not in the way.
    let mut other = queue(&app, &person("2", ANN));
    drop(holding);
    let first = client.response("POST");
    assert_eq!((first.status, other.response("POST").status), (201, 201));
    assert_repeats(&first, &write.send(&app));
    assert_eq!(state(&app), (2, 2));
}

#[test]
fn a_request_stays_in_flight_when_its_client_has_gone() {
    let app = App::start();
    let write = person("1", ANN);
    let holding = app.hold_writes();
    drop(queue(&app, &write));
    // Whenever the service notices that.
    for _ in 0..20 {
        write.send(&app).problem(409, "request-in-flight");
    }
    drop(holding);
    let mut answer = write.send(&app);
    eventually("the first answer is stored", || {
        answer = write.send(&app);
        answer.status != 409
    });
    assert_eq!((answer.status, answer.header("Idempotency-Replayed")), (201, Some("true")));
    assert_eq!(state(&app), (1, 1));
}

#[test]
fn an_answered_request_is_not_in_flight_any_more() {
    let app = App::start();
    let mut client = app.client();
    for number in 0..200 {
        let (key, body) = (number.to_string(), json!({"name": format!("n{number}")}).to_string());
        let write = person(&key, &body);
        write.send_to(&mut client);
        let first = client.response("POST");
        write.send_to(&mut client);
        assert_repeats(&first, &client.response("POST"));
    }
    assert_eq!(state(&app), (200, 200));
}

#[test]
fn a_write_that_is_repeated_after_a_kill_between_commit_and_answer_gets_the_first_answer() {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let write = person("1", ANN);
    let process = Process::start_in(&[("TEST_HOLD_ANSWERS", "1")], &database, &[]);
    let epoch = Client::connect(process.address).request("GET", "/persons", &[], None);
    let epoch = epoch.header("X-Epoch").unwrap().to_owned();
    let mut client = Client::connect(process.address);
    write.send_to(&mut client);
    // It is committed: another process sees it.
    eventually("it is committed", || lines(&database, "SELECT key AS line FROM aggregates") != Vec::<String>::new());
    process.kill();
    assert!(client.try_response("POST").is_err(), "it was not answered");

    let process = Process::start(&database, &[]);
    let mut client = Client::connect(process.address);
    let mut send = |write: &Write<'_>| {
        write.send_to(&mut client);
        client.response(write.method)
    };
    let repeat = send(&write);
    assert_eq!((repeat.status, repeat.text()), (201, ANN));
    assert_eq!(repeat.header("Idempotency-Replayed"), Some("true"));
    assert_eq!((repeat.header("Location"), repeat.revision()), (Some("/persons/1"), 1));
    assert_eq!(repeat.header("X-Epoch"), Some(&*epoch), "that of the first process");
    assert_eq!(repeat.header("ETag"), Some(&*format!("\"{epoch}.1\"")));
    let persons = send(&Write { method: "GET", path: "/persons", key: "1", body: "" });
    assert_eq!((persons.json(), persons.revision()), (json!({"1": {"name": "Ann", "city": "Rome"}}), 1));
    drop(process);
    let (code, said) = output_of(&database, &["verify"]);
    assert!(code == 0 && said.contains("answers: 1 of commands with an idempotency key: ok"), "{said}");
}

/// Sends writes of which each creates a person with a name of its own, until the connection breaks. Returns the last name,
/// if it has no answer.
fn write_until_killed(mut client: Client, writer: &str, answered: &Mutex<BTreeMap<String, String>>) -> Option<String> {
    for number in 0.. {
        let name = format!("{writer}-{number}");
        let body = json!({ "name": name }).to_string();
        let write = person(&name, &body);
        if client.try_send(write.method, write.path, &write.headers(), write.body()).is_err() {
            return Some(name);
        }
        let Ok(response) = client.try_response("POST") else { return Some(name) };
        assert_eq!(response.status, 201, "{}", response.text());
        answered.lock().unwrap().insert(name, response.header("Location").unwrap().to_owned());
    }
    None
}

#[test]
fn every_write_is_executed_once_when_those_without_an_answer_are_repeated_after_kills() {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let answered = Mutex::new(BTreeMap::new());
    for round in 0..kills() {
        let process = Process::start(&database, &[]);
        let enough = answered.lock().unwrap().len() + 50;
        let open: Vec<String> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (client, answered) = (Client::connect(process.address), &answered);
                    scope.spawn(move || write_until_killed(client, &format!("{round}-{writer}"), answered))
                })
                .collect();
            eventually("there are enough writes", || answered.lock().unwrap().len() > enough);
            process.kill();
            writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect()
        });
        let process = Process::start(&database, &[]);
        let mut client = Client::connect(process.address);
        for name in open {
            let body = json!({ "name": name }).to_string();
            person(&name, &body).send_to(&mut client);
            let response = client.response("POST");
            assert_eq!(response.status, 201);
            answered.lock().unwrap().insert(name, response.header("Location").unwrap().to_owned());
        }
        process.kill();
    }
    let process = Process::start(&database, &[]);
    let persons = Client::connect(process.address).request("GET", "/persons", &[], None).json();
    let found = persons.as_object().unwrap().iter();
    let found: BTreeMap<_, _> =
        found.map(|(key, person)| (person["name"].as_str().unwrap().to_owned(), format!("/persons/{key}"))).collect();
    assert_eq!(found.len(), persons.as_object().unwrap().len(), "no name is there twice");
    assert_eq!(found, answered.into_inner().unwrap(), "each person is where its answer says");
}

/// One of some writes that all clients send, each with a key of its own. Most can succeed only once.
fn random_write(random: &mut Random, number: u64) -> (&'static str, String, String) {
    match random.below(4) {
        0 => ("POST", "/persons".to_owned(), json!({"name": number.to_string()}).to_string()),
        1 => ("POST", format!("{CART}/add-item"), json!({"item": number.to_string()}).to_string()),
        2 => ("PATCH", "/persons/1".to_owned(), json!({"city": number.to_string()}).to_string()),
        _ => ("POST", "/carts".to_owned(), String::new()),
    }
}

/// Sends the writes in a random order, some of them again, and notes all answers by the number of the write.
fn repeat_at_random(app: &App, seed: u64, writes: &[(&str, String, String)]) -> Vec<(usize, Response)> {
    let (mut random, mut client, mut answers) = (Random::new(seed), app.client(), Vec::new());
    let mut open: Vec<usize> = (0..writes.len()).collect();
    while !open.is_empty() {
        let chosen = usize::try_from(random.below(open.len() as u64)).unwrap();
        let number = open[chosen];
        let (method, path, body) = &writes[number];
        let write = Write { method, path, key: &number.to_string(), body };
        // Some clients go away, and come back.
        if random.below(10) == 0 {
            write.send_to(&mut client);
            client = app.client();
            continue;
        }
        write.send_to(&mut client);
        let response = client.response(method);
        if response.status == 409 && response.json()["type"] == "request-in-flight" {
            continue;
        }
        answers.push((number, response));
        if random.below(3) > 0 {
            open.swap_remove(chosen);
        }
    }
    answers
}

#[test]
fn random_repeats_under_load_make_no_double() {
    let app = App::with(|settings| settings.workers = Some(count(2)));
    app.post("/persons", ANN);
    app.write("PUT", CART, "");
    let before = app.get("/persons").revision();
    let mut random = Random::new(7);
    let writes: Vec<_> = (0..u64::from(cases(1000))).map(|number| random_write(&mut random, number)).collect();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|seed| {
                let (app, writes) = (&app, &writes);
                scope.spawn(move || repeat_at_random(app, seed + 1, writes))
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let mut first: BTreeMap<usize, &Response> = BTreeMap::new();
    let mut executed = BTreeSet::new();
    for (number, answer) in &answers {
        let known = first.entry(*number).or_insert(answer);
        assert_eq!((answer.status, answer.text()), (known.status, known.text()), "{number}");
        assert_eq!(lasting(answer), lasting(known), "{number}");
        if answer.header("Idempotency-Replayed").is_none() {
            assert!(executed.insert(number), "write {number} was executed twice");
        }
    }
    assert_eq!(first.len(), writes.len());
    // Every one of them makes a revision, since none of them is sent with another key.
    let revisions: BTreeSet<_> = first.values().map(|answer| answer.revision()).collect();
    assert_eq!(revisions.len(), writes.len());
    assert_eq!(app.get("/persons").revision(), before + i64::try_from(writes.len()).unwrap());
    let of = |path: &str| writes.iter().filter(|(method, at, _)| *method == "POST" && at.starts_with(path)).count();
    assert_eq!(state(&app).1, 1 + of("/persons"));
    assert_eq!(app.get(CART).json()["items"].as_object().unwrap().len(), of(CART));
    assert_eq!(
        app.get("/carts").json().as_object().unwrap().len(),
        1 + writes.len() - of("/persons") - of(CART) - {
            writes.iter().filter(|(method, ..)| *method == "PATCH").count()
        }
    );
}

/// The number of answers that are kept, according to the metrics and to the database.
#[track_caller]
pub(crate) fn kept(app: &App) -> usize {
    let rows = lines(app.database(), "SELECT CAST(count(*) AS TEXT) AS line FROM idempotency");
    let metric = Client::metric(app.address, "duality_idempotency_answers");
    assert_eq!(format!("{metric}"), rows[0]);
    rows[0].parse().unwrap()
}

#[test]
fn answers_are_kept_for_the_retention_period() {
    let mut app = App::start();
    let first = person("1", ANN).send(&app);
    app.turn_clock(23 * HOUR);
    person("2", ANN).send(&app);
    app.prune();
    assert_eq!(kept(&app), 2);
    assert_repeats(&first, &person("1", ANN).send(&app));
    app.turn_clock(2 * HOUR);
    app.prune();
    assert_eq!(kept(&app), 1, "only the first one is older than a day");
    let again = person("1", ANN).send(&app);
    assert_eq!((again.header("Location"), again.header("Idempotency-Replayed")), (Some("/persons/3"), None));
    app.restart();
    assert_eq!(kept(&app), 2);
    // The clock of a service starts with the right time.
    app.turn_clock(50 * HOUR);
    app.change(|settings| settings.idempotency_retention = std::time::Duration::from_secs(100 * 3600));
    app.restart();
    app.turn_clock(50 * HOUR);
    app.prune();
    assert_eq!(kept(&app), 2, "as long as the setting says");
    app.turn_clock(80 * HOUR);
    app.prune();
    assert_eq!(kept(&app), 0);
}

#[test]
fn many_answers_are_pruned_in_steps() {
    let mut app = App::start();
    app.stop();
    sql(
        app.database(),
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
         INSERT INTO idempotency (request, fingerprint, collection, time, answer)
         SELECT randomblob(32), x'00', 'persons', i, NULL FROM n",
    );
    app.resume();
    let first = person("1", ANN).send(&app);
    assert_eq!(kept(&app), 2501);
    app.prune();
    assert_eq!(kept(&app), 1);
    assert_repeats(&first, &person("1", ANN).send(&app));
}

#[test]
fn an_answer_from_the_future_is_pruned_after_the_retention_period() {
    let year = 365 * 24 * HOUR;
    let app = App::start();
    app.turn_clock(year);
    person("1", ANN).send(&app);
    app.turn_clock(-year);
    let second = person("2", ANN).send(&app);
    app.prune();
    app.turn_clock(23 * HOUR);
    app.prune();
    assert_eq!(kept(&app), 2, "it counts as written when it is first seen");
    assert_repeats(&second, &person("2", ANN).send(&app));
    app.turn_clock(2 * HOUR);
    app.prune();
    assert_eq!(kept(&app), 0);
    // What was seen then says nothing about answers at the same positions.
    app.turn_clock(year);
    person("3", ANN).send(&app);
    app.turn_clock(HOUR - year);
    app.prune();
    assert_eq!(kept(&app), 1);
}

#[test]
fn a_clock_that_goes_back_loses_no_answer() {
    let app = App::start();
    let first = person("1", ANN).send(&app);
    app.turn_clock(-30 * HOUR);
    app.prune();
    app.turn_clock(31 * HOUR);
    app.prune();
    assert_repeats(&first, &person("1", ANN).send(&app));
}

#[test]
fn the_answer_of_an_erased_aggregate_is_a_409_and_the_command_is_not_executed_again() {
    let app = App::start();
    person("1", ANN).send(&app);
    assert_eq!(app.post("/-/erase", r#"{"collection":"persons","key":"1"}"#).status, 200);
    person("1", ANN).send(&app).problem(409, "erased");
    // The fingerprint of what was sent is gone as well.
    person("1", r#"{"name":"Bob"}"#).send(&app).problem(409, "erased");
    assert_eq!(lines(app.database(), "SELECT octet_length(fingerprint) || '' AS line FROM idempotency"), ["0"]);
    assert_eq!(state(&app), (2, 0));
}

#[test]
fn an_answer_that_cannot_be_read_fails_its_repeats_alone() {
    let mut app = App::start();
    person("1", ANN).send(&app);
    app.stop();
    sql(app.database(), "UPDATE idempotency SET answer = 'x'");
    app.resume();
    // Both are in one batch.
    let holding = app.hold_writes();
    let [mut repeat, mut other] = ["1", "2"].map(|key| queue(&app, &person(key, ANN)));
    drop(holding);
    repeat.response("POST").problem(500, "internal");
    assert_eq!(other.response("POST").status, 201);
    assert_eq!(state(&app), (2, 2));
}

#[test]
fn an_answer_names_the_aggregate_that_it_is_about() {
    let app = App::start();
    person("1", ANN).send(&app);
    Write { method: "DELETE", path: "/persons/7", key: "1", body: "" }.send(&app);
    let cart = Write { method: "POST", path: "/carts", key: "1", body: "" }.send(&app);
    let cart = cart.header("Location").unwrap().trim_start_matches("/carts/");
    let query = "SELECT collection || ' ' || coalesce(aggregate, '') AS line FROM idempotency ORDER BY position";
    assert_eq!(lines(app.database(), query), ["persons 1", "persons 7", &format!("carts {cart}")]);
}

#[test]
fn a_large_answer_is_given_again_byte_for_byte() {
    let app = App::start();
    let body = json!({"name": "ä\n".repeat(200_000)}).to_string();
    let write = person("1", &body);
    let first = write.send(&app);
    assert_eq!(first.body.len(), body.len());
    app.patch("/persons/1", r#"{"name":"Bob"}"#);
    assert_repeats(&first, &write.send(&app));
}

#[test]
fn writes_without_a_key_store_nothing() {
    let app = App::start();
    app.post("/persons", ANN);
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    app.delete("/persons/1");
    app.open_cart();
    // A read has no first answer.
    let read = app.request("GET", "/persons", &[("Idempotency-Key", "1")], None);
    assert_eq!((read.status, kept(&app)), (200, 0));
}

#[test]
fn verify_finds_answers_that_cannot_be_given() {
    let mut app = App::start();
    person("1", ANN).send(&app);
    app.stop();
    let (code, said) = output_of(app.database(), &["verify"]);
    assert!(code == 0 && said.contains("answers: 1 of commands with an idempotency key: ok"), "{said}");
    for (damage, finding) in [
        ("UPDATE idempotency SET answer = 'x'", "answers: 1: "),
        (
            "UPDATE idempotency SET answer = replace(answer, '\"revision\":1', '\"revision\":9')",
            "answers: 1: it is of revision 9, which is after the last one",
        ),
        ("UPDATE metadata SET answer_bytes = 7", "bytes, but 7 are counted"),
    ] {
        let damaged = copy_of(app.database(), &app.files().with_file_name("damaged.db"));
        sql(&damaged, damage);
        let (code, said) = output_of(&damaged, &["verify"]);
        assert!(code == 1 && said.contains(finding), "{damage}: {said}");
    }
}

#[test]
fn a_repeat_makes_no_event() {
    let app = App::start();
    let first = person("1", ANN).send(&app);
    let mut events = app.follow("/person-events", &[("X-Revision", "1")]);
    assert_eq!(events.next().patch(), json!({"1": {"name": "Ann", "city": "Rome"}}));
    for _ in 0..3 {
        assert_repeats(&first, &person("1", ANN).send(&app));
    }
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    let next = events.next();
    assert_eq!((next.revision(), next.patch()), (2, json!({"1": {"city": "Oslo"}})));
}

/// Sends a write with a token.
fn send_as(app: &App, token: &Token, write: &Write<'_>) -> Response {
    let bearer = token.bearer();
    let headers = [&write.headers()[..], &[("Authorization", &*bearer)]].concat();
    app.request(write.method, write.path, &headers, write.body())
}

#[test]
fn a_key_belongs_to_the_token_that_sends_it() {
    let file = TokenFile::new();
    let [ann, bob] = ["ann", "bob"].map(|name| file.add(name, "read,write"));
    let app = App::with(|settings| settings.tokens = Some(file.path.clone()));
    let write = person("1", ANN);
    let [first, other] = [&ann, &bob].map(|token| send_as(&app, token, &write));
    let location = |response: &Response| response.header("Location").unwrap().to_owned();
    assert_eq!([location(&first), location(&other)], ["/persons/1", "/persons/2"]);
    assert_repeats(&first, &send_as(&app, &ann, &write));
    assert_repeats(&other, &send_as(&app, &bob, &write));
    write.send(&app).problem(401, "unauthorized");
}

#[test]
fn a_repeat_shows_no_more_than_the_caller_may_read_now() {
    let file = TokenFile::new();
    let both = file.add("shop", "read:carts,write:carts");
    let app = App::with(|settings| settings.tokens = Some(file.path.clone()));
    let open = Write { method: "PUT", path: CART, key: "1", body: "" };
    let path = format!("{CART}/add-item");
    let add = Write { method: "POST", path: &path, key: "1", body: r#"{"item":"apple"}"# };
    let again = Write { key: "2", ..add };
    let stale = |token: &Token| {
        let bearer = token.bearer();
        let headers = [&add.headers()[..1], &[("Idempotency-Key", "3"), ("If-Match", "\"x\"")]].concat();
        let headers = [&headers[..], &[("Authorization", &*bearer)]].concat();
        app.request("POST", &path, &headers, Some(add.body.as_bytes()))
    };
    assert_eq!(send_as(&app, &both, &open).status, 201);
    assert_eq!(send_as(&app, &both, &add).status, 200);
    assert_eq!(send_as(&app, &both, &again).problem(409, "item-already-added")["item"], "apple");
    assert!(stale(&both).problem(412, "unexpected-state")["actual"].is_string());
    // The same caller, who may only write from now on.
    file.revoke("shop");
    let writer = file.add("shop", "write:carts");
    eventually("the token is known", || send_as(&app, &writer, &add).status != 401);
    let written = send_as(&app, &writer, &add);
    assert_eq!((written.status, written.text()), (204, ""));
    let refused = send_as(&app, &writer, &again).problem(409, "item-already-added");
    assert_eq!((&refused["item"], refused.as_object().unwrap().len()), (&json!(null), 4), "{refused}");
    let stale = stale(&writer);
    assert_eq!((stale.problem(412, "unexpected-state").as_object().unwrap().len(), stale.header("ETag")), (4, None));
    for response in [&written, &stale] {
        assert_eq!(response.header("Idempotency-Replayed"), Some("true"));
    }
}
