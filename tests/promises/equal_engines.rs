//! The engine that keeps the record cannot be told from outside: the same requests get the same bytes from SQLite and from
//! `PostgreSQL`, and leave the same rows. What is random is compared by its place among what is random: epochs, and ids that
//! the service chooses.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use duality::aggregates;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{App, Client, Random, Response, lines, long_cases, shared_server};

/// A service, with what was random in its answers so far.
struct Side {
    app: App,
    client: Client,
    epochs: Vec<String>,
    ids: Vec<String>,
    /// The tags of texts, in the order in which they appeared.
    tags: Vec<String>,
    /// The last one.
    tag: String,
}

/// Two services on different engines, with one clock.
struct Pair {
    sides: [Side; 2],
    /// Milliseconds since 1970.
    time: Arc<AtomicI64>,
    _directory: TempDir,
}

/// What both services get. In its texts, `{epoch}` is the last epoch that a service has named, `{tag}` its last entity tag, and
/// `{id 3}` its fourth id.
#[derive(Debug)]
struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
}

impl Request {
    /// The same read, of what has changed since this answer. `None` if that has no tag.
    fn unless_changed(&self, answer: &Response) -> Option<Self> {
        answer.header("ETag").filter(|_| self.method == "GET" && answer.status == 200)?;
        let mut headers: Vec<_> = self.headers.iter().filter(|(name, _)| *name != "If-None-Match").cloned().collect();
        headers.push(("If-None-Match", "{tag}".to_owned()));
        Some(Self { method: self.method, path: self.path.clone(), headers, body: None })
    }
}

/// How long the services keep what can be pruned.
const RETENTION: Duration = Duration::from_secs(3600);

impl Side {
    fn start(database: &Path, time: &Arc<AtomicI64>) -> Self {
        let time = Arc::clone(time);
        let app = App::serving(
            move || aggregates::shipped().with_clock(Arc::clone(&time)),
            |settings| {
                settings.database = database.to_owned();
                // Every feed gets to the last revision soon.
                settings.heartbeat = Duration::from_millis(50);
                settings.retention = RETENTION;
                settings.tombstone_retention = RETENTION;
                settings.idempotency_retention = RETENTION;
            },
        );
        let client = app.client();
        Self { app, client, epochs: Vec::new(), ids: Vec::new(), tags: Vec::new(), tag: String::new() }
    }

    fn send(&mut self, request: &Request) -> Response {
        let path = self.expand(&request.path);
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (*name, self.expand(value))).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = request.body.as_ref().map(|body| self.expand(body).into_bytes());
        self.client.request(request.method, &path, &headers, body.as_deref())
    }

    fn expand(&self, text: &str) -> String {
        let mut text =
            text.replace("{epoch}", self.epochs.last().map_or("0", String::as_str)).replace("{tag}", &self.tag);
        while let Some((before, rest)) = text.split_once("{id ") {
            let (number, after) = rest.split_once('}').unwrap();
            text = format!("{before}{}{after}", self.ids[number.parse::<usize>().unwrap()]);
        }
        text
    }

    /// An answer as the other service has to give it.
    fn masked(&mut self, response: &Response) -> String {
        self.tag = response.header("ETag").map_or_else(|| self.tag.clone(), str::to_owned);
        let epoch = response.header("X-Epoch").map(str::to_owned);
        self.epochs.extend(epoch.filter(|epoch| !self.epochs.contains(epoch)));
        // They have no order.
        let mut headers: Vec<_> =
            response.headers().iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date")).collect();
        headers.sort();
        let mut text = format!("{}\n", response.status);
        for (name, value) in headers {
            // A tag that follows from a text with ids is as random as they are. Those of states have a revision.
            let is_of_text = name.eq_ignore_ascii_case("etag") && !value.contains('.');
            let value =
                if is_of_text { format!("{{tag {}}}", place(&mut self.tags, value)) } else { value.to_string() };
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push_str(response.text());
        self.mask(&text)
    }

    fn mask(&mut self, text: &str) -> String {
        let (mut masked, mut rest) = (String::new(), text);
        while let Some(start) = find_id(rest) {
            let (id, after) = rest[start..].split_at(ID_LENGTH);
            masked.push_str(&format!("{}{{id {}}}", &rest[..start], place(&mut self.ids, id)));
            rest = after;
        }
        masked.push_str(rest);
        self.epochs.iter().fold(masked, |masked, epoch| masked.replace(epoch.as_str(), "{epoch}"))
    }

    fn restart(&mut self) {
        self.app.restart();
        self.client = self.app.client();
    }
}

/// The place of a text among those that have appeared.
fn place(seen: &mut Vec<String>, text: &str) -> usize {
    seen.iter().position(|known| known == text).unwrap_or_else(|| {
        seen.push(text.to_owned());
        seen.len() - 1
    })
}

const ID_LENGTH: usize = 36;

/// Where the first uuid of a text begins.
fn find_id(text: &str) -> Option<usize> {
    let is_id = |start: &usize| {
        let bytes = text.as_bytes().get(*start..start + ID_LENGTH).unwrap_or_default();
        let mut bytes = bytes.iter().enumerate();
        bytes.len() == ID_LENGTH
            && bytes.all(|(place, byte)| match place {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
            })
    };
    text.match_indices('-').filter_map(|(dash, _)| dash.checked_sub(8)).find(is_id)
}

impl Pair {
    /// `None`, and a word about it, if this machine has no `PostgreSQL`.
    fn start() -> Option<Self> {
        let server = shared_server()?;
        let directory = crate::harness::directory();
        let time = Arc::new(AtomicI64::new(1_795_336_200_000));
        let file = directory.path().join("equal.db");
        let sides = [file.as_path(), Path::new(&server.new_database())].map(|database| Side::start(database, &time));
        Some(Self { sides, time, _directory: directory })
    }

    /// Sends a request to both. Both answers are the same, but for what is random.
    #[track_caller]
    fn send(&mut self, request: &Request) -> Response {
        let [sqlite, postgres] = &mut self.sides;
        let answers = [sqlite.send(request), postgres.send(request)];
        let masked = [sqlite.masked(&answers[0]), postgres.masked(&answers[1])];
        assert_eq!(masked[0], masked[1], "{request:?}");
        let [answer, _] = answers;
        answer
    }

    #[track_caller]
    fn get(&mut self, path: &str) -> Response {
        let headers = vec![named(0), ("Accept", "application/json".to_owned())];
        self.send(&Request { method: "GET", path: path.to_owned(), headers, body: None })
    }

    /// All states, and all feeds from the beginning, are the same.
    fn compare(&mut self) {
        let document = self.get("/aggregates");
        let mut revision = 0;
        for path in ["/persons", "/locations", "/carts", "/accounts"] {
            revision = revision.max(self.get(path).revision());
            let lines = vec![named(0), ("Accept", "application/x-ndjson".to_owned())];
            self.send(&Request { method: "GET", path: path.to_owned(), headers: lines, body: None });
        }
        assert_eq!(document.revision(), revision, "nobody writes meanwhile");
        for feed in ["/events", "/person-events", "/location-events", "/cart-events", "/account-events"] {
            self.compare_feed(feed, revision);
        }
        for feed in ["/events?strict=true", "/events?compact=true", "/location-events?compact=true"] {
            self.compare_feed(feed, revision);
        }
        self.compare_journal();
        self.compare_rows();
    }

    /// The bytes of a stream up to this revision.
    fn compare_feed(&mut self, path: &str, revision: i64) {
        let [sqlite, postgres] = &mut self.sides;
        let read = |side: &mut Side| {
            let mut client = side.app.client();
            client.send("GET", path, &[("Accept", "text/event-stream")], None);
            let head = client.head().unwrap();
            if head.status != 200 {
                let problem = client.rest(head);
                return side.masked(&problem);
            }
            let mut stream = crate::harness::Stream::begun(client, head);
            let mut events = String::new();
            loop {
                let event = stream.message().unwrap();
                events.push_str(&format!("{event:?}\n"));
                if event.reached().is_some_and(|reached| reached >= revision) {
                    return side.mask(&events);
                }
            }
        };
        assert_eq!(read(sqlite), read(postgres), "{path}");
    }

    /// All pages of the journal.
    fn compare_journal(&mut self) {
        let mut path = "/journal?limit=100".to_owned();
        loop {
            let page = self.get(&path).json();
            if page["events"].as_array().unwrap().is_empty() {
                return;
            }
            let position = page["cursor"].as_str().unwrap().split_once('.').unwrap().1.to_owned();
            path = format!("/journal?limit=100&lastEventId={{epoch}}.{position}");
        }
    }

    /// What is stored, but for what only one engine has, and the digests of random paths.
    fn compare_rows(&mut self) {
        for query in ROWS {
            let [sqlite, postgres] = &mut self.sides;
            let read = |side: &mut Side| side.mask(&lines(side.app.database(), query).join("\n"));
            assert_eq!(read(sqlite), read(postgres), "{query}");
        }
    }

    fn pass(&self, time: Duration) {
        self.time.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Prunes what is older than some time.
    fn prune(&mut self) {
        self.sides.iter().for_each(|side| side.app.prune());
    }
}

const ROWS: [&str; 7] = [
    "SELECT collection || '|' || rank || '|' || key || '|' || revision || '|' || version || '|' || COALESCE(body, '-')
        || '|' || COALESCE(deleted, 0) AS line FROM aggregates ORDER BY collection, rank, key",
    "SELECT revision || '|' || collection || '|' || key || '|' || patch || '|' || time || '|' || COALESCE(metadata, '-')
        AS line FROM outbox ORDER BY revision, collection, key",
    "SELECT position || '|' || collection || '|' || key || '|' || version || '|' || kind || '|' || schema || '|' || body
        || '|' || time || '|' || COALESCE(metadata, '-') || '|' || erased AS line FROM journal ORDER BY position",
    "SELECT collection || '|' || COALESCE(aggregate, '-') || '|' || time || '|' || COALESCE(answer, '-')
        AS line FROM idempotency ORDER BY position",
    "SELECT collection || '|' || key || '|' || revision || '|' || COALESCE(position, 0) || '|' || stage
        AS line FROM erased ORDER BY collection, key",
    "SELECT name || '|' || version || '|' || next_key || '|' || changed AS line FROM collections ORDER BY name",
    "SELECT revision || '|' || pruned || '|' || forgotten || '|' || future_events_revision || '|' || erasures || '|'
        || answer_bytes AS line FROM metadata",
];

/// The id of a request: without it, each service would make one.
fn named(number: u32) -> (&'static str, String) {
    ("X-Request-Id", format!("request-{number}"))
}

/// What a client may write, and what it may not: in the order of no alphabet, composed and not, longer than a page of the
/// database, with characters that engines treat as something else.
const TEXTS: [&str; 18] = [
    "Rome",
    "rome",
    "\u{c5}land",
    "A\u{30a}land",
    "\u{e4}",
    "z",
    "Z",
    "_x",
    "a/b",
    "a b",
    "007",
    "7",
    "10",
    "\u{1f600}\u{200d}\u{1f9b0}",
    "\u{fffd}\u{10fffd}",
    "%25 ' \" \\ ; -- $1 ?",
    "NULL",
    "\u{2028}\u{5d0}",
];

const WRONG: [&str; 10] = [
    "",
    "[1]",
    "{",
    r#"{"name":""}"#,
    r#"{"name":"a","name":"b"}"#,
    r#"{"name":7}"#,
    r#"{"name":"x","age":1}"#,
    r#"{"name":"x","city":"\u0000"}"#,
    r#"{"amount":9007199254740993,"text":""}"#,
    "{\"name\":\"\u{0}\"}",
];

/// An aggregate whose key a client has chosen.
const CHOSEN: [&str; 3] = [
    "0193a5b0-7b2c-7def-8000-123456789abc",
    "00000000-0000-4000-8000-000000000001",
    "ffffffff-ffff-4fff-bfff-ffffffffffff",
];

/// Random requests.
struct Requests {
    random: Random,
    number: u32,
}

impl Requests {
    fn percent(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn text(&mut self) -> String {
        let text = (*self.random.one_of(&TEXTS)).to_owned();
        match self.random.below(40) {
            0 => text.repeat(3000),
            1 => format!("{text}\u{0}{text}"),
            2..6 => format!("{text}{}", self.random.below(30)),
            _ => text,
        }
    }

    /// The key of an aggregate that may be there.
    fn key(&mut self, ids: usize) -> String {
        if ids == 0 || self.percent(40) {
            (*self.random.one_of(&CHOSEN)).to_owned()
        } else {
            format!("{{id {}}}", self.random.below(ids as u64))
        }
    }

    fn person(&mut self) -> String {
        let mut person = json!({ "name": self.text() });
        if self.percent(70) {
            person["city"] = self.text().into();
        }
        if self.percent(30) {
            person["spouse"] = (1 + self.random.below(9_007_199_254_740_991)).into();
        }
        person.to_string()
    }

    fn patch(&mut self) -> String {
        match self.random.below(4) {
            0 => json!({ "city": null }),
            1 => json!({ "city": self.text(), "spouse": null }),
            2 => json!({ "name": self.text() }),
            _ => json!({}),
        }
        .to_string()
    }

    /// A command for an aggregate with events: its path, and its body.
    fn command(&mut self, ids: usize) -> (String, Option<String>) {
        let (key, text) = (self.key(ids), self.text());
        match self.random.below(8) {
            0..3 => (format!("/carts/{key}/add-item"), Some(json!({ "item": text }).to_string())),
            3 => (format!("/carts/{key}/remove-item"), Some(json!({ "item": text }).to_string())),
            4 if self.percent(20) => (format!("/carts/{key}/close"), None),
            4 | 5 => {
                let amount = *self.random.one_of(&[0, 1, -1, 500, 9_007_199_254_740_991, -9_007_199_254_740_991_i64]);
                (format!("/accounts/{key}/book"), Some(json!({ "amount": amount, "text": text }).to_string()))
            }
            6 => {
                let booking = self.key(ids);
                (format!("/accounts/{key}/revert-booking"), Some(json!({ "booking": booking }).to_string()))
            }
            _ => (format!("/accounts/{key}/close-period"), None),
        }
    }

    fn next(&mut self, ids: usize, revision: i64) -> Request {
        self.number += 1;
        let person = format!("/persons/{}", 1 + self.random.below(30));
        let (method, path, mut body) = match self.random.below(20) {
            0..5 => ("POST", "/persons".to_owned(), Some(self.person())),
            5 => ("PUT", person, Some(self.person())),
            6..9 => ("PATCH", person, Some(self.patch())),
            9 => ("DELETE", person, None),
            10 => ("POST", (*self.random.one_of(&["/carts", "/accounts"])).to_owned(), None),
            11 => {
                let collection = *self.random.one_of(&["carts", "accounts"]);
                ("PUT", format!("/{collection}/{}", self.random.one_of(&CHOSEN)), Some("{}".to_owned()))
            }
            12..16 => {
                let (path, body) = self.command(ids);
                ("POST", path, body)
            }
            _ => ("GET", self.read(ids, revision), None),
        };
        if body.is_some() && self.percent(4) {
            body = Some((*self.random.one_of(&WRONG)).to_owned());
        }
        let headers = self.headers(method, revision);
        Request { method, path, headers, body }
    }

    fn read(&mut self, ids: usize, revision: i64) -> String {
        let before = self.random.below(u64::try_from(revision).unwrap() + 2);
        let key = self.key(ids);
        match self.random.below(9) {
            0 => format!("/persons/{}", 1 + self.random.below(30)),
            1 => format!("/carts/{key}"),
            2 => format!("/accounts/{key}?version={}", 1 + self.random.below(4)),
            3 => format!("/carts/{key}/journal?after={}", self.random.below(4)),
            4 => format!("/events?wait=0&limit=5&lastEventId={{epoch}}.{before}"),
            5 => format!("/person-events?wait=0&limit=2&compact=true&lastEventId={{epoch}}.{before}"),
            6 => format!("/persons?key={}&key={}", self.random.below(30), self.random.below(30)),
            7 => "/locations".to_owned(),
            _ => format!("/journal?limit=3&lastEventId={{epoch}}.{}", before / 3),
        }
    }

    fn headers(&mut self, method: &str, revision: i64) -> Vec<(&'static str, String)> {
        let mut headers = vec![named(self.number)];
        let tag = format!("\"{{epoch}}.{}\"", self.random.below(u64::try_from(revision).unwrap() + 1));
        if method == "GET" {
            if self.percent(30) {
                headers.push(("If-None-Match", "\"4f9c21aa.1\", {tag}".to_owned()));
            }
            if self.percent(10) {
                headers.push(("X-Revision", revision.to_string()));
            }
            let accepted = ["application/json", "application/json, text/event-stream;q=0.1"];
            headers.push(("Accept", (*self.random.one_of(&accepted)).to_owned()));
            return headers;
        }
        headers.push(("Content-Type", "application/json".to_owned()));
        match self.random.below(10) {
            0 => headers.push(("If-Match", tag)),
            1 => headers.push(("If-Match", "*".to_owned())),
            2 => headers.push(("If-None-Match", "*".to_owned())),
            _ => {}
        }
        if self.percent(25) {
            headers.push(("Idempotency-Key", format!("\"key {}\"", self.random.below(60))));
        }
        if self.percent(10) {
            headers.push(("X-Correlation-Id", format!("'{}\\", self.number)));
        }
        if self.percent(10) {
            headers.push(("Prefer", "return=minimal".to_owned()));
        }
        headers
    }
}

#[test]
fn the_same_commands_get_the_same_bytes_from_both_engines_and_leave_the_same_rows() {
    /// How often everything is compared, then pruned in part, and the services are started again.
    const ROUNDS: u32 = 4;
    let Some(mut pair) = Pair::start() else { return };
    let mut requests = Requests { random: Random::new(17), number: 0 };
    let (mut revision, mut statuses) = (pair.get("/aggregates").revision(), std::collections::BTreeMap::new());
    for round in 0..ROUNDS {
        for _ in 0..long_cases(10_000) / ROUNDS {
            let ids = pair.sides[0].ids.len();
            let request = requests.next(ids, revision);
            let answer = pair.send(&request);
            *statuses.entry(answer.status).or_insert(0) += 1;
            if let Some(again) = request.unless_changed(&answer) {
                assert_eq!(pair.send(&again).status, 304);
            }
            revision = answer.header("X-Revision").map_or(revision, |at| at.parse::<i64>().unwrap().max(revision));
            pair.pass(Duration::from_millis(1 + requests.random.below(50)));
        }
        pair.compare();
        pair.pass(RETENTION / 2);
        pair.prune();
        if round % 2 == 1 {
            let erase = json!({ "collection": "accounts", "key": CHOSEN[0] }).to_string();
            let headers = vec![named(1), ("Content-Type", "application/json".to_owned())];
            pair.send(&Request { method: "POST", path: "/-/erase".to_owned(), headers, body: Some(erase) });
        }
        pair.sides.iter_mut().for_each(Side::restart);
        pair.compare();
    }
    for status in [200, 201, 204, 400, 404, 409, 412, 422] {
        assert!(statuses.contains_key(&status), "no {status}: {statuses:?}");
    }
}
