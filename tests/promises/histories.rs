//! Copies of a database are put back, under a running service too, or go on elsewhere. Whoever comes to any of them with
//! anything from any other ends exact, or gets an answer by which that is of another history.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Process, Random, Response, Stream, cases, eventually, output_of};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const PAGE: (&str, &str) = ("Accept", "application/json");

/// State and feed at all three levels.
const LEVELS: [(&str, &str); 5] = [
    ("/aggregates", "/events"),
    ("/persons", "/person-events"),
    ("/locations", "/location-events"),
    ("/carts", "/cart-events"),
    ("/persons/1", "/persons/1/events"),
];

/// A database and the service on it.
struct Site {
    database: PathBuf,
    process: Process,
}

/// A consumer of a feed in pages.
struct Consumer {
    level: (&'static str, &'static str),
    state: Value,
    cursor: String,
}

struct World {
    directory: TempDir,
    random: Random,
    sites: Vec<Site>,
    copies: Vec<PathBuf>,
    consumers: Vec<Consumer>,
    /// Consumers of the journal: the events that they have, and their cursor.
    journals: Vec<(Vec<Value>, String)>,
    /// What each tag of an aggregate named.
    tags: BTreeMap<(String, String), Value>,
    /// What each epoch and revision of the persons named.
    named: BTreeMap<String, Value>,
    files: usize,
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", path.display()).into()
}

fn remove_files(database: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(suffixed(database, suffix));
    }
}

/// Copies the file, and its log if there is one.
fn copy_files(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        if suffixed(from, suffix).exists() {
            std::fs::copy(suffixed(from, suffix), suffixed(to, suffix)).unwrap();
        }
    }
}

impl Site {
    fn start(database: PathBuf, random: &mut Random) -> Self {
        let mut flags = vec!["--heartbeat", "100ms", "--poll-interval", "20ms", "--prune-interval", "50ms"];
        if random.below(3) == 0 {
            flags.extend(["--retention-events", "2"]);
        }
        if random.below(4) == 0 {
            flags.extend(["--tombstone-retention", "0s"]);
        }
        Self { process: Process::start(&database, &flags), database }
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        Client::connect(self.process.address).request("GET", path, headers, None)
    }

    fn write(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Response {
        let headers = [&[JSON], headers].concat();
        let body = (method != "DELETE").then(|| body.to_string());
        Client::connect(self.process.address).request(method, path, &headers, body.as_ref().map(String::as_bytes))
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let directory = crate::harness::directory();
        let mut random = Random::new(seed);
        let site = Site::start(directory.path().join("0.db"), &mut random);
        let consumers = LEVELS.map(|level| Consumer { level, state: Value::Null, cursor: String::new() }).into();
        let journals = vec![(Vec::new(), String::new()); 2];
        Self {
            directory,
            random,
            sites: vec![site],
            copies: Vec::new(),
            consumers,
            journals,
            tags: BTreeMap::new(),
            named: BTreeMap::new(),
            files: 0,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random.below(limit as u64)).unwrap()
    }

    fn file(&mut self) -> PathBuf {
        self.files += 1;
        self.directory.path().join(format!("{}.db", self.files))
    }

    fn act(&mut self) {
        let site = self.below(self.sites.len());
        match self.random.below(24) {
            0..8 => self.write(site),
            8..11 => self.shop(site),
            11 => self.restart(site),
            12..14 => self.copy(site),
            14..16 if !self.copies.is_empty() => self.put_back(site),
            16 if !self.copies.is_empty() && self.sites.len() < 3 => self.go_on(),
            17..20 => {
                let consumer = self.below(LEVELS.len());
                self.follow(consumer, site);
            }
            20 => self.load(site),
            21 => {
                let consumer = self.below(self.journals.len());
                self.read_journal(consumer, site);
            }
            _ => self.remember(site),
        }
    }

    fn write(&mut self, site: usize) {
        let city = *self.random.one_of(&["Rome", "Oslo"]);
        let path = format!("/persons/{}", 1 + self.random.below(5));
        let name = format!("n{}", self.random.below(1000));
        let (method, path, body) = match self.random.below(6) {
            0..3 => ("POST", "/persons".to_owned(), json!({"name": name, "city": city})),
            3..5 => ("PATCH", path, json!({"name": name})),
            _ => ("DELETE", path, Value::Null),
        };
        let response = self.sites[site].write(method, &path, &[], &body);
        assert!(matches!(response.status, 200 | 201 | 204 | 404), "{}", response.text());
    }

    /// A cart with an item of its own is opened and closed.
    fn shop(&mut self, site: usize) {
        let item = format!("i{}", self.random.below(1000));
        let site = &self.sites[site];
        let opened = site.write("POST", "/carts", &[], &json!({}));
        let cart = opened.header("Location").unwrap();
        assert_eq!(site.write("POST", &format!("{cart}/add-item"), &[], &json!({ "item": item })).status, 200);
        assert_eq!(site.write("POST", &format!("{cart}/close"), &[], &json!({})).status, 200);
    }

    /// Stops the service, or kills it.
    fn end(&mut self, site: usize) {
        let is_killed = self.random.below(2) == 0;
        let site = &mut self.sites[site];
        site.process.signal(if is_killed { "KILL" } else { "TERM" });
        site.process.wait();
    }

    fn start(&mut self, site: usize) {
        self.sites[site] = Site::start(self.sites[site].database.clone(), &mut self.random);
    }

    fn restart(&mut self, site: usize) {
        self.end(site);
        self.start(site);
    }

    fn copy(&mut self, site: usize) {
        let (from, to) = (self.sites[site].database.clone(), self.file());
        match self.random.below(3) {
            0 => drop(std::fs::copy(from, &to).unwrap()),
            1 => copy_files(&from, &to),
            _ => {
                let (code, text) = output_of(&from, &["backup", to.to_str().unwrap()]);
                assert_eq!(code, 0, "{text}");
            }
        }
        self.copies.push(to);
    }

    fn put_back(&mut self, site: usize) {
        let (copy, database) = (self.below(self.copies.len()), self.sites[site].database.clone());
        let copy = self.copies[copy].clone();
        match self.random.below(3) {
            0 => {
                self.end(site);
                remove_files(&database);
                copy_files(&copy, &database);
            }
            // Under the running service, which ends by itself.
            1 => {
                let beside = suffixed(&database, ".beside");
                std::fs::copy(&copy, &beside).unwrap();
                std::fs::rename(beside, &database).unwrap();
                self.expect_its_end(site, &copy);
            }
            // The file that is there already changes nothing.
            _ if std::fs::read(&copy).unwrap() == std::fs::read(&database).unwrap() => return,
            _ => {
                std::fs::copy(&copy, &database).unwrap();
                self.expect_its_end(site, &copy);
            }
        }
        self.start(site);
    }

    fn expect_its_end(&mut self, site: usize, copy: &Path) {
        let Site { process, database } = &mut self.sites[site];
        assert_eq!(process.wait().code(), Some(1), "{}", process.log());
        // What the service may have written into it is undone, as an operator would.
        remove_files(database);
        copy_files(copy, database);
    }

    fn go_on(&mut self) {
        let (copy, database) = (self.below(self.copies.len()), self.file());
        copy_files(&self.copies[copy], &database);
        let site = Site::start(database, &mut self.random);
        self.sites.push(site);
    }

    /// A consumer reads a page after its cursor.
    fn follow(&mut self, consumer: usize, site: usize) -> bool {
        let limit = 1 + self.random.below(3);
        let Consumer { level: (_, feed), state, cursor } = &mut self.consumers[consumer];
        let page = self.sites[site].get(&format!("{feed}?limit={limit}&lastEventId={cursor}"), &[PAGE]);
        assert_eq!(page.status, 200, "{}", page.text());
        let (now, page) = (page.cursor(), page.json());
        page["events"].as_array().unwrap().iter().for_each(|event| json_patch::merge(state, &event["patch"]));
        page["cursor"].as_str().unwrap().clone_into(cursor);
        *cursor == now
    }

    fn load(&mut self, site: usize) {
        let consumer = self.below(LEVELS.len());
        let response = self.sites[site].get(LEVELS[consumer].0, &[]);
        let state = if response.status == 404 { Value::Null } else { response.json() };
        let cursor = response.cursor();
        if LEVELS[consumer].0 == "/persons" {
            let named = self.named.entry(cursor.clone()).or_insert_with(|| state.clone());
            assert_eq!(*named, state, "{cursor} names two contents");
        }
        self.consumers[consumer] = Consumer { level: LEVELS[consumer], state, cursor };
    }

    /// A consumer of the journal reads a page after its cursor, or starts over if its position is of another history.
    fn read_journal(&mut self, consumer: usize, site: usize) -> bool {
        let (events, cursor) = &mut self.journals[consumer];
        let page = self.sites[site].get(&format!("/journal?limit=2&lastEventId={cursor}"), &[PAGE]);
        if page.status == 410 {
            events.clear();
            cursor.clear();
            return false;
        }
        let page = page.json();
        let more = page["events"].as_array().unwrap();
        events.extend(more.iter().cloned());
        page["cursor"].as_str().unwrap().clone_into(cursor);
        more.is_empty()
    }

    /// A client remembers an aggregate with its tag.
    fn remember(&mut self, site: usize) {
        let paths = ["/persons/1", "/persons/2", "/persons", "/locations"];
        let path = paths[self.below(paths.len())];
        let response = self.sites[site].get(path, &[]);
        if let Some(tag) = response.header("ETag") {
            let named = self.tags.entry((path.to_owned(), tag.to_owned())).or_insert_with(|| response.json());
            assert_eq!(*named, response.json(), "{tag} of {path} names two contents");
        }
    }

    /// Everybody comes to every database with everything.
    fn converge(&mut self) {
        for site in 0..self.sites.len() {
            for consumer in 0..LEVELS.len() {
                // By pages, or by a stream.
                if self.random.below(2) == 0 {
                    while !self.follow(consumer, site) {}
                } else {
                    self.stream(consumer, site);
                }
                let Consumer { level: (path, _), state, cursor } = &self.consumers[consumer];
                let now = self.sites[site].get(path, &[]);
                let expected = if now.status == 404 { Value::Null } else { now.json() };
                assert_eq!(*state, expected, "{path} at {cursor}");
            }
            self.compare_journals(site);
            self.compare_tags(site);
        }
    }

    fn stream(&mut self, consumer: usize, site: usize) {
        let Consumer { level: (_, feed), state, cursor } = &mut self.consumers[consumer];
        let Site { process, .. } = &self.sites[site];
        // A write that changes every level, so that every stream has an end.
        let person = json!({"name": "last", "city": "The End"});
        let created = self.sites[site].write("POST", "/persons", &[], &person);
        let until = match *feed {
            "/persons/1/events" | "/cart-events" => None,
            _ => Some(created.revision()),
        };
        let mut stream = Stream::open(process.address, feed, &[("Last-Event-ID", cursor)]);
        // A quiet feed gets a bookmark within a heartbeat.
        let until = until.unwrap_or_else(|| created.revision());
        loop {
            let message = stream.message().expect("the stream goes on");
            json_patch::merge(state, &message.patch());
            let reached = message.reached();
            if let Some(id) = message.id {
                *cursor = id;
            }
            if reached.is_some_and(|reached| reached >= until) {
                return;
            }
        }
    }

    fn compare_journals(&mut self, site: usize) {
        let mut fresh = (Vec::new(), String::new());
        std::mem::swap(&mut fresh, &mut self.journals[0]);
        for consumer in 0..self.journals.len() {
            while !self.read_journal(consumer, site) {}
        }
        let (whole, _) = &self.journals[0];
        assert_eq!(*whole, self.journals[1].0, "who was there before has what a new one gets");
        let closed: Vec<_> = whole.iter().filter(|event| event["kind"] == "CartClosed").collect();
        let mut carts = BTreeMap::<&str, u64>::new();
        for event in whole.iter().filter(|event| event["kind"] == "ItemAdded") {
            if closed.iter().any(|closed| closed["key"] == event["key"]) {
                *carts.entry(event["body"]["item"].as_str().unwrap()).or_default() += 1;
            }
        }
        let expected: BTreeMap<String, u64> = carts.iter().map(|(item, carts)| ((*item).to_owned(), *carts)).collect();
        eventually("the report follows from the journal that is there", || {
            let report = self.sites[site].get("/reports/popular-items?limit=1000", &[]);
            report.status == 200 && popular(&report.json()) == expected
        });
    }

    fn compare_tags(&mut self, site: usize) {
        for ((path, tag), body) in &self.tags {
            let now = self.sites[site].get(path, &[]);
            let conditional = self.sites[site].get(path, &[("If-None-Match", tag)]);
            if conditional.status == 304 {
                assert_eq!(*body, now.json(), "{tag} of {path} gives a 304");
            }
            if path.starts_with("/persons/") {
                let named = json!({"name": "by its tag"});
                let written = self.sites[site].write("PATCH", path, &[("If-Match", tag)], &named);
                if written.status == 200 {
                    assert_eq!(*body, now.json(), "{tag} of {path} lets a write happen");
                }
            }
        }
    }
}

fn popular(report: &Value) -> BTreeMap<String, u64> {
    let items = report["items"].as_array().into_iter().flatten();
    items.map(|row| (row["item"].as_str().unwrap().to_owned(), row["carts"].as_u64().unwrap())).collect()
}

#[test]
fn nobody_is_wrong_over_sockets_whatever_is_copied_put_back_or_goes_on_elsewhere() {
    for seed in 1..=u64::from(cases(5)) {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.act();
        }
        world.converge();
    }
}
