//! Projections match the events, whatever happens while they are built.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{App, Client, Process, Random, eventually, lines};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];
pub(crate) const ITEMS: [&str; 8] = ["apple", "a, \"b\"", "Äpfel; süß", "日本", "x,y", "\"", "50 %", "a/b"];
const CITIES: [&str; 4] = ["Rome", "Oslo", "São Paulo", "Bonn"];
const NAMES: [&str; 3] = ["cart_items", "carts.csv", "city_history"];

fn get(address: SocketAddr, path: &str) -> Value {
    let answer = Client::connect(address).request("GET", path, &[("Accept", "application/json")], None);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// Percent-encodes text for a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// The rows of a report, from all its pages.
fn paged(address: SocketAddr, report: &str, rows: &str, limit: u64) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = get(address, &format!("/reports/{report}?limit={limit}{after}"));
        all.extend(page[rows].as_array().unwrap().iter().cloned());
        let Some(next) = page.get("next") else { return all };
        after = format!("&after={}", encoded(next.as_str().unwrap()));
    }
}

/// A random command for a new cart or for one of the carts that all writers share.
fn cart_command(random: &mut Random) -> (&'static str, String, Value) {
    let cart = format!("/carts/00000000-0000-4000-8000-0000000000{:02}", random.below(30));
    let item = json!({ "item": random.one_of(&ITEMS) });
    match random.below(12) {
        0 => ("POST", "/carts".to_owned(), json!({})),
        1..=3 => ("PUT", cart, json!({})),
        4..=8 => ("POST", format!("{cart}/add-item"), item),
        9 | 10 => ("POST", format!("{cart}/remove-item"), item),
        _ => ("POST", format!("{cart}/close"), json!({})),
    }
}

/// Sends cart commands until the connection breaks or the flag is set.
fn fill_carts(mut client: Client, seed: u64, answered: &AtomicU64, enough: &AtomicBool) {
    let mut random = Random::new(seed);
    while !enough.load(Ordering::Relaxed) {
        let (method, path, body) = cart_command(&mut random);
        let sent = client.try_send(method, &path, &JSON, Some(body.to_string().as_bytes()));
        let Ok(response) = sent.and_then(|()| client.try_response(method)) else { return };
        assert!([200, 201, 404, 409].contains(&response.status), "{}", response.text());
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Rebuilds random projections until the connection breaks or the flag is set.
fn rebuild_often(mut client: Client, seed: u64, enough: &AtomicBool) {
    let mut random = Random::new(seed);
    while !enough.load(Ordering::Relaxed) {
        let path = format!("/projections/{}/rebuild", random.one_of(&NAMES));
        let sent = client.try_send("POST", &path, &[], None);
        let Ok(response) = sent.and_then(|()| client.try_response("POST")) else { return };
        assert_eq!(response.status, 202, "{}", response.text());
        // Give the rebuild a chance to complete.
        for _ in 0..random.below(20) {
            let sent = client.try_send("GET", "/reports/popular-items", &[], None);
            if sent.and_then(|()| client.try_response("GET")).is_err() {
                return;
            }
        }
    }
}

/// The expected populations of cities; only one client changes them.
#[derive(Default)]
struct Cities {
    totals: BTreeMap<String, i64>,
    /// City, revision, total.
    rows: Vec<(String, i64, i64)>,
    homes: Vec<usize>,
}

impl Cities {
    fn count(&mut self, city: &str, change: i64, revision: i64) {
        let total = self.totals.entry(city.to_owned()).or_default();
        *total += change;
        self.rows.push((city.to_owned(), revision, *total));
    }

    /// Moves persons until the connection breaks or the flag is set. At least one person stays in every city.
    fn move_persons(&mut self, mut client: Client, seed: u64, enough: &AtomicBool) {
        let mut random = Random::new(seed);
        while !enough.load(Ordering::Relaxed) {
            let city = usize::try_from(random.below(CITIES.len() as u64)).unwrap();
            let newcomer = self.homes.len() < 8;
            let person = if newcomer { self.homes.len() } else { 4 + usize::try_from(random.below(4)).unwrap() };
            let city = if newcomer { person % 4 } else { city };
            let body = json!({"name": "Ann", "city": CITIES[city], "spouse": null}).to_string();
            let (method, path) =
                if newcomer { ("POST", "/persons".to_owned()) } else { ("PUT", format!("/persons/{}", person + 1)) };
            let sent = client.try_send(method, &path, &JSON, Some(body.as_bytes()));
            let Ok(response) = sent.and_then(|()| client.try_response(method)) else { return };
            assert!(response.status < 300, "{}", response.text());
            let before = if newcomer { None } else { Some(std::mem::replace(&mut self.homes[person], city)) };
            if newcomer {
                self.homes.push(city);
            }
            if before != Some(city) {
                before.into_iter().for_each(|before| self.count(CITIES[before], -1, response.revision()));
                self.count(CITIES[city], 1, response.revision());
            }
        }
    }

    /// Checks whether the last command, which got no response, was applied.
    fn refresh(&mut self, address: SocketAddr) {
        let persons = get(address, "/persons");
        let person = |number: usize| persons.get((number + 1).to_string());
        let homes =
            (0..).map_while(person).map(|person| CITIES.iter().position(|city| person["city"] == *city).unwrap());
        self.homes = homes.collect();
        for city in CITIES {
            let answer = Client::connect(address).request("GET", &format!("/locations/{}", encoded(city)), &[], None);
            if answer.status == 404 {
                continue;
            }
            let change = answer.json()["total"].as_i64().unwrap() - self.totals.get(city).copied().unwrap_or(0);
            if change != 0 {
                let tag = answer.header("ETag").unwrap().trim_matches('"');
                let revision = tag.rsplit_once('.').unwrap().1.parse().unwrap();
                self.count(city, change, revision);
            }
        }
        self.rows.sort_by_key(|(city, revision, _)| (*revision, city.clone()));
    }

    /// Whether a history is complete; or, if pruning was faster than the projection, whether it has the totals at some
    /// revision and everything after it.
    fn matches(&self, history: &[(String, i64, i64)]) -> bool {
        if history == self.rows {
            return true;
        }
        let Some((_, first, _)) = history.first() else { return false };
        let (head, since) = history.split_at(history.iter().take_while(|(_, revision, _)| revision == first).count());
        let Some(before) = self.rows.len().checked_sub(since.len()).map(|number| &self.rows[..number]) else {
            return false;
        };
        let totals: BTreeMap<_, _> = before.iter().map(|(city, _, total)| (city, total)).collect();
        let head: Vec<_> = head.iter().map(|(city, _, total)| (city, total)).collect();
        self.rows.ends_with(since) && totals.into_iter().collect::<Vec<_>>() == head
    }
}

/// The rows that follow from the journal.
#[derive(Default)]
struct Carts {
    items: BTreeMap<(String, String), Value>,
    lines: Vec<Vec<String>>,
}

impl Carts {
    fn of(address: SocketAddr) -> Self {
        let mut carts = Self::default();
        let mut after = String::new();
        let mut open = BTreeMap::<String, (String, Vec<String>)>::new();
        loop {
            let page = get(address, &format!("/journal?limit=500{after}"));
            let events = page["events"].as_array().unwrap();
            if events.is_empty() {
                return carts;
            }
            after = format!("&lastEventId={}", page["cursor"].as_str().unwrap());
            for event in events {
                let [cart, time, kind] = ["key", "time", "kind"].map(|name| event[name].as_str().unwrap().to_owned());
                let item = event["body"]["item"].as_str().unwrap_or_default().to_owned();
                let (opened, items) = open.entry(cart.clone()).or_insert_with(|| (time.clone(), Vec::new()));
                match kind.as_str() {
                    "ItemAdded" => {
                        let row = json!({"cart": cart, "item": item, "added": event["body"]["time"]});
                        carts.items.insert((cart, item.clone()), row);
                        items.push(item);
                    }
                    "ItemRemoved" => {
                        items.retain(|known| *known != item);
                        carts.items.get_mut(&(cart, item)).unwrap()["removed"] = event["body"]["time"].clone();
                    }
                    "CartClosed" => {
                        carts.lines.push(vec![cart, opened.clone(), time, items.join("; "), "0".to_owned()]);
                    }
                    _ => {}
                }
            }
        }
    }

    fn popular(&self) -> Vec<Value> {
        let mut counts = BTreeMap::<&str, i64>::new();
        for row in self.items.values().filter(|row| row.get("removed").is_none()) {
            *counts.entry(row["item"].as_str().unwrap()).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(item, carts)| (-carts, *item));
        counts.into_iter().map(|(item, carts)| json!({"item": item, "carts": carts})).collect()
    }
}

fn file(address: SocketAddr) -> String {
    Client::connect(address).request("GET", "/reports/carts.csv", &[], None).text().to_owned()
}

/// The fields of an RFC 4180 file; checks that every line is complete.
fn fields(text: &str) -> Vec<Vec<String>> {
    assert!(text.ends_with("\r\n"), "a torn line: {text:?}");
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '"' if quoted && rest.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => line.push(std::mem::take(&mut field)),
            '\r' if !quoted => {
                assert_eq!(rest.next(), Some('\n'));
                line.push(std::mem::take(&mut field));
                lines.push(std::mem::take(&mut line));
            }
            other => field.push(other),
        }
    }
    lines
}

/// Waits until all reports match the events.
#[track_caller]
fn assert_reports_match_events(address: SocketAddr, cities: &Cities, random: &mut Random) {
    let carts = Carts::of(address);
    let at = get(address, "/healthz")["position"].clone();
    for name in &NAMES[..2] {
        eventually("it is up to date", || {
            let status = get(address, &format!("/projections/{name}"));
            status["at"] == at && status["state"] == "live"
        });
    }
    let items = paged(address, "cart-items", "items", 1 + random.below(50));
    assert_eq!(items, carts.items.values().cloned().collect::<Vec<_>>());
    assert_eq!(paged(address, "popular-items", "items", 1000), carts.popular());
    let file = fields(&file(address));
    assert_eq!(file[0], ["cart", "opened", "closed", "items", "minutes_open"]);
    assert_eq!(file[1..], carts.lines);
    let mut history = Vec::new();
    eventually("the history is complete", || {
        // During the first build there is no report.
        if get(address, "/projections/city_history").get("generation").is_none() {
            return false;
        }
        let rows = paged(address, "city-history", "changes", 37);
        let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
        history = rows
            .iter()
            .map(|row| (row["city"].as_str().unwrap().to_owned(), number(row, "revision"), number(row, "total")))
            .collect();
        cities.matches(&history)
    });
}

/// The bodies of all reports.
fn everything(address: SocketAddr) -> [String; 4] {
    ["cart-items?limit=1000", "popular-items?limit=1000", "city-history?limit=1000", "carts.csv"].map(|report| {
        Client::connect(address).request("GET", &format!("/reports/{report}"), &[], None).text().to_owned()
    })
}

/// Rebuilds all projections, and checks that no report changes.
#[track_caller]
fn assert_rebuild_changes_nothing(address: SocketAddr) {
    let before = everything(address);
    for name in NAMES {
        let path = format!("/projections/{name}");
        let status = Client::connect(address).request("POST", &format!("{path}/rebuild"), &[], None).json();
        let wanted = status["building"]["generation"].as_i64().unwrap();
        eventually("it is built", || get(address, &path)["generation"].as_i64() >= Some(wanted));
    }
    assert_eq!(everything(address), before);
}

/// Writes and rebuilds concurrently until this many commands were answered, and then calls `end`.
fn run_load(address: SocketAddr, seed: u64, cities: &mut Cities, commands: u64, end: impl FnOnce(&AtomicBool)) {
    let answered = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    // All clients connect before the load can end.
    let [mover, rebuilder] = [(); 2].map(|()| Client::connect(address));
    let writers = [(); 3].map(|()| Client::connect(address));
    std::thread::scope(|scope| {
        let answered = &answered;
        let enough = &enough;
        for (client, writer) in writers.into_iter().zip(1..) {
            scope.spawn(move || fill_carts(client, seed + writer, answered, enough));
        }
        scope.spawn(move || cities.move_persons(mover, seed, enough));
        scope.spawn(move || rebuild_often(rebuilder, seed + 7, enough));
        eventually("there are enough commands", || answered.load(Ordering::Relaxed) > commands);
        end(enough);
    });
}

#[test]
fn projections_match_the_events_after_kills_and_rebuilds() {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let forgetful = ["--retention-events", "20", "--prune-interval", "30ms"];
    let mut cities = Cities::default();
    let mut random = Random::new(5);
    for round in 0..4 {
        let process = Process::start(&database, &forgetful);
        cities.refresh(process.address);
        run_load(process.address, 1 + round * 100, &mut cities, 50 + random.below(300), |_| process.kill());
    }
    let process = Process::start(&database, &forgetful);
    cities.refresh(process.address);
    assert_reports_match_events(process.address, &cities, &mut random);
    assert_rebuild_changes_nothing(process.address);
}

#[test]
fn projections_match_the_events_after_pruning_and_restarts() {
    let mut app = App::with(|settings| settings.retention_events = Some(15));
    let mut cities = Cities::default();
    let mut random = Random::new(6);
    for round in 0..3 {
        let prunings = random.below(4);
        run_load(app.address, 1000 + round * 100, &mut cities, 200, |enough| {
            (0..prunings).for_each(|_| app.prune());
            enough.store(true, Ordering::Relaxed);
        });
        cities.refresh(app.address);
        assert_reports_match_events(app.address, &cities, &mut random);
        app.restart();
    }
    assert_reports_match_events(app.address, &cities, &mut random);
    assert_rebuild_changes_nothing(app.address);
}

/// Opens and closes a cart, and waits until the file has its line.
fn close_cart(app: &App, item: &str) {
    let lines = fields(&file(app.address)).len();
    let cart = app.open_cart();
    assert_eq!(app.add_item(&cart, item).status, 200);
    assert_eq!(app.command(&format!("{cart}/close")).status, 200);
    eventually("the line is written", || fields(&file(app.address)).len() == lines + 1);
}

/// Whether the file of the first generation is longer than the length in its checkpoint.
fn has_bytes_beyond_the_checkpoint(tables: &Path, file: &Path) -> bool {
    let length = lines(tables, "SELECT CAST(length AS TEXT) AS line FROM checkpoint");
    std::fs::metadata(file).unwrap().len() > length[0].parse().unwrap()
}

#[test]
fn a_crash_between_a_line_and_its_checkpoint_leaves_no_duplicate_or_torn_lines() {
    let mut app = App::start();
    eventually("it is built", || app.get("/reports/carts.csv").status == 200);
    close_cart(&app, "apple");
    app.stop();
    let path = |name: &str| app.files().with_file_name(format!("test.db.projections/{name}"));
    let tables = path("carts.csv.1.db");
    let csv = path("carts.csv.1.csv");
    let checkpoint = std::fs::read(&tables).unwrap();
    app.resume();
    eventually("it is running", || app.get("/reports/carts.csv").status == 200);
    close_cart(&app, "a, \"b\"");
    close_cart(&app, "pear");
    let expected = file(app.address);
    app.stop();

    // A crash leaves the lines of a transaction, or a part of them, and the database before that transaction.
    let written = std::fs::read(&csv).unwrap();
    assert_eq!(written, expected.as_bytes());
    let twice = [&written[..], &written].concat();
    let lost_after = |bytes: usize| written[..written.len() - bytes].to_vec();
    for left in
        [written.clone(), lost_after(1), lost_after(2), lost_after(9), twice, [&written[..], b"\"torn"].concat()]
    {
        std::fs::write(&tables, &checkpoint).unwrap();
        std::fs::write(&csv, &left).unwrap();
        assert!(has_bytes_beyond_the_checkpoint(&tables, &csv));
        app.resume();
        eventually("it is running", || app.get("/reports/carts.csv").status == 200);
        eventually("it is up to date", || get(app.address, "/projections/carts.csv")["at"] == 9);
        assert_eq!(file(app.address), expected, "{:?}", String::from_utf8_lossy(&left));
        assert_eq!(get(app.address, "/projections/carts.csv")["generation"], 1);
        app.stop();
    }

    // A file that lost checkpointed bytes cannot be continued.
    std::fs::write(&csv, lost_after(1)).unwrap();
    app.resume();
    eventually("it is rebuilt", || get(app.address, "/projections/carts.csv")["generation"] == 2);
    assert_eq!(file(app.address), expected);
}
