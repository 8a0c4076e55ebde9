//! Random tokens, scopes, expiries, revocations and feeds: nobody gets a byte of what he may not read, and those who may
//! read something converge.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{App, Random, Response, Stream, Token, TokenFile, cases, eventually};

const CARTS: [&str; 3] = [
    "0193b2c4-1f6e-7000-8000-000000000000",
    "0193b2c4-1f6e-7000-8000-000000000001",
    "0193b2c4-1f6e-7000-8000-000000000002",
];

const PERSONS: [&str; 4] = ["1", "2", "3", "4"];

const COLLECTIONS: [&str; 4] = ["persons", "locations", "carts", "accounts"];

/// The holder of a token, with what this test knows of it.
struct Holder {
    name: String,
    token: Token,
    scopes: Vec<String>,
    /// After how many hours it expires.
    expires: Option<u64>,
    is_over: bool,
}

impl Holder {
    fn has(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }

    fn reads(&self, collection: &str) -> bool {
        self.has("read") || self.has(&format!("read:{collection}"))
    }

    fn reads_one(&self, collection: &str, key: &str) -> bool {
        self.reads(collection) || self.has(&format!("read:{collection}/{key}"))
    }
}

/// A resource, or a feed.
#[derive(Debug, Clone)]
enum Subject {
    Everything,
    Some(&'static str),
    Collection(&'static str),
    Keys(&'static str, Vec<&'static str>),
    One(&'static str, &'static str),
}

impl Subject {
    fn any(random: &mut Random) -> Self {
        let collection = *random.one_of(&COLLECTIONS);
        let (keyed, keys) = if random.below(2) == 0 { ("persons", &PERSONS[..]) } else { ("carts", &CARTS[..]) };
        match random.below(6) {
            0 | 1 => Self::Everything,
            2 => Self::Some(collection),
            3 => Self::Collection(collection),
            4 => Self::Keys(keyed, vec![*random.one_of(keys), *random.one_of(keys)]),
            _ => Self::One(keyed, random.one_of::<&'static str>(keys)),
        }
    }

    fn is_for(&self, holder: &Holder) -> bool {
        match self {
            Self::Everything => COLLECTIONS.iter().any(|collection| holder.reads(collection)),
            Self::Some(collection) | Self::Collection(collection) => holder.reads(collection),
            Self::Keys(collection, keys) => keys.iter().all(|key| holder.reads_one(collection, key)),
            Self::One(collection, key) => holder.reads_one(collection, key),
        }
    }

    fn state(&self) -> String {
        match self {
            Self::Everything => "/aggregates".to_owned(),
            Self::Some(collection) => format!("/aggregates?collection={collection}"),
            Self::Collection(collection) => format!("/{collection}"),
            Self::Keys(collection, keys) => format!("/{collection}?key={}", keys.join("&key=")),
            Self::One(collection, key) => format!("/{collection}/{key}"),
        }
    }

    fn feed(&self) -> String {
        match self {
            Self::Everything => "/events".to_owned(),
            Self::Some(collection) => format!("/events?collection={collection}"),
            Self::Collection(collection) => format!("/events/{collection}"),
            Self::Keys(collection, keys) => format!("/events/{collection}?key={}", keys.join("&key=")),
            Self::One(collection, key) => format!("/{collection}/{key}/events"),
        }
    }
}

/// A consumer that keeps a copy.
struct Consumer {
    holder: usize,
    subject: Subject,
    stream: Stream,
    copy: Value,
    last: Option<(String, i64)>,
}

impl Consumer {
    fn take(&mut self) -> bool {
        let Some(event) = self.stream.message() else { return false };
        json_patch::merge(&mut self.copy, &event.patch());
        if let (Some(reached), Some(id)) = (event.reached(), &event.id) {
            self.last = Some((id.clone(), reached));
        }
        true
    }

    fn catch_up(&mut self, until: i64) {
        while self.last.as_ref().is_none_or(|(_, reached)| *reached < until) {
            assert!(self.take(), "the stream of {:?} continues", self.subject);
        }
    }
}

/// A service, its tokens, and which text may be where.
struct World {
    file: TokenFile,
    app: App,
    random: Random,
    admin: Token,
    holders: Vec<Holder>,
    consumers: Vec<Consumer>,
    /// What is unique in each write, and the aggregates and reports in which it may be seen.
    markers: BTreeMap<String, Vec<(&'static str, String)>>,
    hours: u64,
    revision: i64,
    checked: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let file = TokenFile::new();
        let admin = file.add("admin", "read,write,operate");
        let app = file.serve(|settings| {
            settings.heartbeat = Duration::from_millis(50);
            // Pruning turns the clock by this.
            settings.retention = Duration::from_secs(60 * 60);
        });
        // Tokens end at full hours, and the clock is always between two.
        app.turn_clock(30 * 60 * 1000);
        let (holders, consumers, markers) = (Vec::new(), Vec::new(), BTreeMap::new());
        let random = Random::new(seed);
        let mut world =
            Self { file, app, random, admin, holders, consumers, markers, hours: 0, revision: 0, checked: 0 };
        for _ in PERSONS {
            world.write("POST", "/persons", r#"{"name":"x"}"#);
        }
        for cart in CARTS {
            world.write("PUT", &format!("/carts/{cart}"), "{}");
        }
        world
    }

    fn write(&mut self, method: &str, path: &str, json: &str) {
        let response = self.send(&self.admin, method, path, Some(json), &[]);
        assert!(response.status < 300, "{method} {path}: {}", response.text());
        self.revision = response.revision();
    }

    fn send(&self, token: &Token, method: &str, path: &str, json: Option<&str>, headers: &[(&str, &str)]) -> Response {
        let bearer = token.bearer();
        let mut all = vec![("Authorization", bearer.as_str()), ("Accept", "application/json")];
        all.extend(json.map(|_| ("Content-Type", "application/json")));
        all.extend(headers);
        self.app.request(method, path, &all, json.map(str::as_bytes))
    }

    /// A text that no other write has.
    fn marker(&mut self, places: Vec<(&'static str, String)>) -> String {
        let marker = format!("mkr{}q", self.markers.len());
        self.markers.insert(marker.clone(), places);
        marker
    }

    /// Asserts that a holder may read everything in a text that some write has put there.
    fn check(&mut self, holder: usize, what: &str, text: &str) {
        let holder = &self.holders[holder];
        for (at, _) in text.match_indices("mkr") {
            let end = text[at..].find('q').unwrap();
            let marker = &text[at..=at + end];
            let may = self.markers[marker].iter().any(|(collection, key)| holder.reads_one(collection, key));
            assert!(may, "{what} shows {marker} to {:?}: {text}", holder.scopes);
            self.checked += 1;
        }
    }

    fn new_holder(&mut self) {
        let mut choices: Vec<String> = COLLECTIONS.iter().map(|collection| format!("read:{collection}")).collect();
        choices.extend(PERSONS.iter().map(|key| format!("read:persons/{key}")));
        choices.extend(CARTS.iter().map(|key| format!("read:carts/{key}")));
        choices.extend(
            ["read", "operate", "write:persons", "write:carts", "read:reports/popular-items"].map(str::to_owned),
        );
        let count = 1 + self.random.below(3);
        let scopes: Vec<String> = (0..count).map(|_| self.random.one_of(&choices).clone()).collect();
        let expires = (self.random.below(2) == 0).then(|| self.hours + 1 + self.random.below(3));
        let name = format!("holder-{}", self.holders.len());
        let text = scopes.join(",");
        let after = expires.map(|hours| format!("{hours}h"));
        let mut flags = vec!["--scope", &text];
        flags.extend(after.iter().flat_map(|after| ["--expires", after]));
        let token = self.file.add_with(&name, &flags);
        eventually("the token is known", || token.is_in_force(&self.app));
        self.holders.push(Holder { name, token, scopes, expires, is_over: false });
    }

    fn write_something(&mut self) {
        let number = self.random.below(4);
        if number < 2 {
            let key = (*self.random.one_of(&PERSONS)).to_owned();
            let name = self.marker(vec![("persons", key.clone())]);
            let city = self.marker(vec![("persons", key.clone()), ("locations", String::new())]);
            self.write("PATCH", &format!("/persons/{key}"), &json!({"name": name, "city": city}).to_string());
        } else {
            let key = *self.random.one_of(&CARTS);
            let places = vec![("carts", key.to_owned()), ("reports", "popular-items".to_owned())];
            let item = self.marker(places);
            self.write("POST", &format!("/carts/{key}/add-item"), &json!({ "item": item }).to_string());
        }
    }

    /// A write by a holder: it gets the state back if it may read it.
    fn write_by_holder(&mut self) {
        let Some(holder) = self.any_holder() else { return };
        let key = (*self.random.one_of(&PERSONS)).to_owned();
        let name = self.marker(vec![("persons", key.clone())]);
        let token = self.holders[holder].token.clone();
        let body = json!({ "name": name }).to_string();
        let response = self.send(&token, "PATCH", &format!("/persons/{key}"), Some(&body), &[]);
        let (holder_, over) = (&self.holders[holder], self.holders[holder].is_over);
        let expected = match (over, holder_.has("write:persons"), holder_.reads_one("persons", &key)) {
            (true, ..) => 401,
            (_, false, _) => 403,
            (.., true) => 200,
            (.., false) => 204,
        };
        assert_eq!(response.status, expected, "{:?}: {}", holder_.scopes, response.text());
        self.check(holder, "a write", response.text());
        if response.status < 300 {
            self.revision = response.revision();
        }
    }

    fn any_holder(&mut self) -> Option<usize> {
        let count = self.holders.len() as u64;
        let any = |random: &mut Random| usize::try_from(random.below(count)).unwrap();
        // Those whose token has ended come as well, but less often.
        (0..3).map(|_| any(&mut self.random)).find(|holder| !self.holders[*holder].is_over).or(Some(0))
    }

    fn read_something(&mut self) {
        let Some(holder) = self.any_holder() else { return };
        let subject = Subject::any(&mut self.random);
        let is_journaled = matches!(subject, Subject::One("carts", _));
        let (path, may) = match self.random.below(5) {
            0 => ("/journal".to_owned(), Subject::Everything.is_for(&self.holders[holder])),
            1 => ("/reports/popular-items".to_owned(), self.holders[holder].reads_one("reports", "popular-items")),
            2 if is_journaled => (subject.state() + "/journal", subject.is_for(&self.holders[holder])),
            3 => (subject.feed(), subject.is_for(&self.holders[holder])),
            _ => (subject.state(), subject.is_for(&self.holders[holder])),
        };
        let token = self.holders[holder].token.clone();
        let response = self.send(&token, "GET", &path, None, &[]);
        let expected = match (self.holders[holder].is_over, may) {
            (true, _) => [401, 401],
            (false, true) => [200, 503],
            (false, false) => [403, 403],
        };
        assert!(
            expected.contains(&response.status),
            "{path} with {:?}: {}",
            self.holders[holder].scopes,
            response.text()
        );
        self.check(holder, &path, response.text());
    }

    fn follow_something(&mut self) {
        let Some(holder) = self.any_holder() else { return };
        let subject = Subject::any(&mut self.random);
        if self.holders[holder].is_over || !subject.is_for(&self.holders[holder]) {
            return;
        }
        let stream = self.open(holder, &subject, None);
        self.consumers.push(Consumer { holder, subject, stream, copy: Value::Null, last: None });
    }

    /// Opens a stream with the token, or with a ticket for it.
    fn open(&mut self, holder: usize, subject: &Subject, last: Option<&str>) -> Stream {
        let token = self.holders[holder].token.clone();
        let bearer = token.bearer();
        let mut headers = Vec::from_iter(last.map(|last| ("Last-Event-ID", last)));
        if self.random.below(3) > 0 {
            headers.push(("Authorization", bearer.as_str()));
            return self.app.follow(&subject.feed(), &headers);
        }
        let body = json!({ "feed": subject.feed() }).to_string();
        let ticket = self.send(&token, "POST", "/-/tickets", Some(&body), &[]);
        assert_eq!(ticket.status, 201, "{}", ticket.text());
        self.app.follow(ticket.json()["url"].as_str().unwrap(), &headers)
    }

    fn reconnect(&mut self) {
        let count = self.consumers.len() as u64;
        if count == 0 {
            return;
        }
        let mut consumer = self.consumers.swap_remove(usize::try_from(self.random.below(count)).unwrap());
        consumer.catch_up(self.revision);
        self.check(consumer.holder, &consumer.subject.feed(), &consumer.stream.raw.clone());
        let last = consumer.last.as_ref().map(|(id, _)| id.as_str());
        consumer.stream = self.open(consumer.holder, &consumer.subject, last);
        self.consumers.push(consumer);
    }

    /// Takes tokens away: all streams of their holders end.
    fn end(&mut self, is_ending: impl Fn(&Holder) -> bool) {
        for holder in 0..self.holders.len() {
            if self.holders[holder].is_over || !is_ending(&self.holders[holder]) {
                continue;
            }
            let token = self.holders[holder].token.clone();
            eventually("the token is over", || !token.is_in_force(&self.app));
            self.holders[holder].is_over = true;
            let (ending, going_on) =
                std::mem::take(&mut self.consumers).into_iter().partition(|consumer| consumer.holder == holder);
            self.consumers = going_on;
            let ending: Vec<Consumer> = ending;
            for mut consumer in ending {
                while consumer.take() {}
                self.check(holder, &consumer.subject.feed(), &consumer.stream.raw.clone());
            }
        }
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..=13 => self.write_something(),
            14 | 15 => self.write_by_holder(),
            16..=23 => self.read_something(),
            24..=29 => self.follow_something(),
            30..=33 => self.reconnect(),
            34..=36 => self.new_holder(),
            37 => {
                if let Some(holder) = self.any_holder().filter(|holder| !self.holders[*holder].is_over) {
                    let name = self.holders[holder].name.clone();
                    self.file.revoke(&name);
                    self.end(|holder| holder.name == name);
                }
            }
            38 => {
                self.app.turn_clock(60 * 60 * 1000);
                self.an_hour_later();
            }
            _ => {
                self.app.prune_everything();
                self.an_hour_later();
            }
        }
    }

    fn an_hour_later(&mut self) {
        self.hours += 1;
        let hours = self.hours;
        self.end(|holder| holder.expires.is_some_and(|expires| expires <= hours));
    }

    /// All that still follow have what they may read, and nothing else.
    fn converge(&mut self) {
        let revision = self.revision;
        for mut consumer in std::mem::take(&mut self.consumers) {
            consumer.catch_up(revision);
            self.check(consumer.holder, &consumer.subject.feed(), &consumer.stream.raw.clone());
            let token = self.holders[consumer.holder].token.clone();
            let response = self.send(&token, "GET", &consumer.subject.state(), None, &[]);
            let state = if response.status == 404 { Value::Null } else { response.json() };
            assert_eq!(consumer.copy, state, "{:?} of {:?}", consumer.subject, self.holders[consumer.holder].scopes);
        }
    }
}

#[test]
fn nobody_gets_what_he_may_not_read_and_all_others_converge() {
    let mut checked = 0;
    for seed in 1..=u64::from(cases(30)) {
        let mut world = World::new(seed);
        for _ in 0..4 {
            world.new_holder();
        }
        for _ in 0..150 {
            world.step();
        }
        world.converge();
        checked += world.checked;
    }
    assert!(checked > 100, "only {checked} texts came to somebody");
}
