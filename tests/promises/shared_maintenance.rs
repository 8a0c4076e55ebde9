//! Several services on one `PostgreSQL` database keep all promises while one of them prunes, erases and restarts, and while
//! the program is upgraded, one service after the other.

mod consumer;
mod every_change;
mod newer;
mod writer;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use self::consumer::{END, Hops, LAST_ITEM, follow_journal, follow_state, journal};
use self::every_change::EveryChange;
use self::newer::newer;
use self::writer::{CART, Outcome, Sent, Writer};
use crate::harness::{App, Random, eventually, has_time, lasting_address, long_cases, output_of, shared_server};

/// Services with files of their own and this database. They restart on the same ports. The first one keeps few change events,
/// and no tombstones.
fn services(url: &str, number: usize) -> Vec<App> {
    let start = |place| {
        App::with(|settings| {
            settings.database = url.into();
            settings.listen = lasting_address().to_string();
            settings.poll_interval = Duration::from_millis(20);
            if place == 0 {
                settings.retention_events = Some(30);
                settings.tombstone_retention = Duration::ZERO;
            }
        })
    };
    (0..number).map(start).collect()
}

/// What the writers and the one that maintains have in common.
struct Shop<'a> {
    url: &'a str,
    addresses: &'a [SocketAddr],
    /// The aggregates that may be erased.
    given: Mutex<Vec<String>>,
    /// Whether the maintenance is over.
    over: AtomicBool,
}

impl Shop<'_> {
    /// Writes as long as there is maintenance.
    fn write(&self, name: usize) -> Vec<Sent> {
        let mut writer = Writer::new(u64::try_from(name).unwrap(), self.addresses, &self.given);
        while !self.over.load(Ordering::Acquire) {
            writer.write();
        }
        writer.sent
    }

    /// Prunes, erases, restarts, and upgrades one service after the other. Returns what was erased.
    fn maintain(&self, services: &mut [App], steps: u32) -> Vec<String> {
        let (service, others) = services.split_first_mut().unwrap();
        let mut erased = Vec::new();
        for step in 0..steps {
            service.prune();
            if step == steps / 2 {
                upgrade(service);
            } else if step % 4 == 0 {
                service.restart();
            } else {
                let path = self.next_given();
                match step % 4 {
                    // By the command line, which asks the service that has these files.
                    2 => self.erase_by_command(&path, &service.directory().join("test.db")),
                    // These files nobody has. The program is the older one.
                    3 if step < steps / 2 => {
                        self.erase_by_command(&path, &service.directory().join(format!("task-{step}")));
                    }
                    _ => erase(service, &path),
                }
                erased.push(path);
            }
        }
        others.iter_mut().for_each(upgrade);
        self.over.store(true, Ordering::Release);
        erased
    }

    /// Something that may be erased.
    fn next_given(&self) -> String {
        let mut given = None;
        eventually("something may be erased", || {
            given = self.given.lock().unwrap().pop();
            given.is_some()
        });
        given.unwrap()
    }

    fn erase_by_command(&self, path: &str, files: &Path) {
        let (collection, key) = place(path);
        let command = ["erase", collection, key, "--files", files.to_str().unwrap()];
        let (code, said) = output_of(Path::new(self.url), &command);
        assert_eq!(code, 0, "{path}: {said}");
    }
}

fn upgrade(service: &mut App) {
    service.stop();
    service.resume_serving(newer);
}

/// `persons` and `1` of `/persons/1`.
fn place(path: &str) -> (&str, &str) {
    path.trim_start_matches('/').split_once('/').unwrap()
}

fn erase(service: &App, path: &str) {
    let (collection, key) = place(path);
    let erased = service.post("/-/erase", &json!({ "collection": collection, "key": key }).to_string());
    assert_eq!(erased.status, 200, "{}", erased.text());
    assert_eq!(erased.json()["pending"], json!([]), "{}", erased.text());
}

/// Every change that was ever made agrees with what every client knows.
#[track_caller]
fn assert_recorded(url: &str, sent: &[Sent]) {
    let changes = EveryChange::of(url);
    for Sent { mark, outcome, .. } in sent {
        let revisions = changes.with(mark);
        let agrees = match outcome {
            Outcome::Done(revision) => revisions == BTreeSet::from([*revision]),
            Outcome::NotDone => revisions.is_empty(),
            Outcome::Unknown => revisions.len() <= 1,
        };
        assert!(agrees, "{mark} is {outcome:?}, and in the revisions {revisions:?}");
    }
    let created: Vec<_> = sent.iter().filter_map(|sent| sent.created.as_ref()).collect();
    assert_eq!(created.iter().collect::<BTreeSet<_>>().len(), created.len(), "no two POSTs share a key");
    let done = sent.iter().filter(|sent| matches!(sent.outcome, Outcome::Done(_))).count();
    assert!(10 * done > sent.len(), "many commands are executed: {done} of {}", sent.len());
}

/// The services show the same, it follows from itself, and what was erased is gone.
#[track_caller]
fn assert_shown(services: &[App], erased: &[String]) {
    let all = services[0].get("/aggregates").json();
    for service in services {
        assert_eq!(service.get("/aggregates").json(), all);
        erased.iter().for_each(|path| assert_eq!(service.get(path).status, 404, "{path}"));
    }
    let persons = all["persons"].as_object().unwrap();
    for (city, location) in all["locations"].as_object().unwrap() {
        let here = persons.values().filter(|person| person["city"] == **city).count();
        assert_eq!((&location["total"], &location["keys"]), (&json!(here), &json!(here)), "{city}");
    }
}

/// What a consumer has read of the journal is in there, unless it was erased since.
#[track_caller]
fn assert_in_journal(read: &[Value], events: &[Value]) {
    assert_eq!(read.len(), events.len());
    for (read, event) in read.iter().zip(events) {
        let members: &[&str] =
            if event["erased"] == true { &["position", "key", "kind"] } else { &["position", "key", "kind", "body"] };
        members.iter().for_each(|member| assert_eq!(read[member], event[member], "{read} is {event}"));
    }
}

/// Each step waits for all services, so many more would only take longer.
fn steps() -> u32 {
    long_cases(80).min(24)
}

fn maintain_one_of(number: usize, steps: u32) {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    let mut services = services(&url, number);
    EveryChange::keep(&url);
    assert_eq!(services[0].write("PUT", CART, "{}").status, 201);
    let addresses: Vec<_> = services.iter().map(|service| service.address).collect();
    let shop = Shop { url: &url, addresses: &addresses, given: Mutex::default(), over: AtomicBool::new(false) };
    let feeds = [("/persons", "/person-events"), ("/aggregates", "/events"), ("/locations", "/location-events")];
    let (sent, erased) = std::thread::scope(|scope| {
        let shop = &shop;
        let hops = |at: usize| {
            let random = Random::new(u64::try_from(at).unwrap());
            Hops { addresses: shop.addresses, at, random }
        };
        let writers: Vec<_> = (0..2 * number).map(|name| scope.spawn(move || shop.write(name))).collect();
        let consumers: Vec<_> = (0..number)
            .flat_map(|consumer| feeds.map(|feed| (consumer, feed)))
            .map(|(consumer, feed)| (feed.0, scope.spawn(move || follow_state(hops(consumer), feed))))
            .collect();
        let readers: Vec<_> = (0..number).map(|reader| scope.spawn(move || follow_journal(hops(reader)))).collect();
        let erased = shop.maintain(&mut services, steps);
        let sent: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        // The last change of all feeds, and the last event of the journal.
        assert_eq!(services[1].add_item(CART, LAST_ITEM).status, 200);
        assert_eq!(services[1].post("/persons", &json!({ "name": "last", "city": END }).to_string()).status, 201);
        for (path, consumer) in consumers {
            assert_eq!(consumer.join().unwrap(), services[0].get(path).json(), "{path}");
        }
        for reader in readers {
            assert_in_journal(&reader.join().unwrap(), &journal(services[1].address));
        }
        (sent, erased)
    });
    assert_recorded(&url, &sent);
    assert_shown(&services, &erased);
    let verified = newer().verify(Path::new(&url)).unwrap();
    assert!(verified.iter().all(duality::Verified::is_sound), "{verified:?}");
}

#[test]
fn of_two_services_one_prunes_erases_and_restarts() {
    maintain_one_of(2, steps());
}

#[test]
fn of_several_services_one_prunes_erases_and_restarts() {
    maintain_one_of(3, steps());
    // A fourth makes more of the same, and takes long.
    if has_time() {
        maintain_one_of(4, 8);
    }
}
