//! Events that are replayed are read once for all who come back, and are what the table would give.

use std::path::Path;

use serde_json::json;

use crate::harness::{App, Client, Event, Process, Random, Stream, eventually};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// Writes so many revisions; now and then a long one, if they are to be.
fn write(app: &App, revisions: u64, longest: u64, random: &mut Random) {
    let mut client = app.client();
    for _ in 0..3 {
        client.request("POST", "/persons", &JSON, Some(br#"{"name":"Ann"}"#));
    }
    for number in 3..revisions {
        let length = if random.below(10) == 0 { random.below(longest + 1) } else { 0 };
        let name = format!("{number} {}", "x".repeat(usize::try_from(length).unwrap()));
        let mut body = json!({ "name": name });
        // Most revisions concern no location.
        if random.below(20) == 0 {
            body["city"] = (*random.one_of(&["Rome", "Oslo"])).into();
        }
        let path = format!("/persons/{}", 1 + random.below(3));
        assert_eq!(client.request("PATCH", &path, &JSON, Some(body.to_string().as_bytes())).status, 200);
    }
}

const FEEDS: [&str; 5] =
    ["/person-events", "/events", "/location-events", "/persons/2/events", "/events?collection=locations"];

/// What each feed gives from each of these revisions.
fn replayed(app: &App, from: &[i64]) -> Vec<Vec<Event>> {
    let epoch = app.load("/persons").1.split_once('.').unwrap().0.to_owned();
    // Concerns all feeds, so that each has an end.
    let end = app.patch("/persons/2", r#"{"city":"Bonn"}"#).revision();
    let mut all = Vec::new();
    for path in FEEDS {
        for after in from {
            let mut stream = app.follow(path, &[("Last-Event-ID", &format!("{epoch}.{after}"))]);
            let mut events = vec![stream.message().unwrap()];
            while events.last().unwrap().reached() != Some(end) {
                events.push(stream.message().unwrap());
            }
            all.push(events);
        }
    }
    app.patch("/persons/2", r#"{"city":null}"#);
    all
}

/// Whatever is shared, everybody gets the same events.
fn is_the_same_whatever_is_shared(limits: &[usize], revisions: u64, longest: u64) -> Vec<Event> {
    let mut app = App::with(|settings| settings.shared_events = 0);
    let mut random = Random::new(revisions);
    write(&app, revisions, longest, &mut random);
    let revisions = i64::try_from(revisions).unwrap();
    let from = [0, 1, 511, 512, 513, 1023, 1024, 1025, 1500, revisions - 1];
    let expected = replayed(&app, &from);
    // Its city is of its time only.
    let without_the_last = |events: &[Event]| events[..events.len() - 1].to_vec();
    for limit in limits {
        app.change(|settings| settings.shared_events = *limit);
        app.restart();
        // The second time finds what the first has left.
        for _ in 0..2 {
            for (events, expected) in replayed(&app, &from).iter().zip(&expected) {
                let expected = without_the_last(expected);
                assert!(events.starts_with(&expected), "with {limit}: {events:?}, not {expected:?}");
            }
        }
    }
    expected[0].clone()
}

#[test]
fn who_comes_back_gets_the_same_events_whether_they_are_shared_or_not() {
    is_the_same_whatever_is_shared(&[32 << 20, 600_000, 300_000], 1700, 100);
}

#[test]
fn who_comes_back_gets_the_same_events_where_they_are_too_long_to_be_shared() {
    let events = is_the_same_whatever_is_shared(&[32 << 20], 1700, 12_000);
    let between_two_cuts = events.iter().filter(|event| event.reached().is_some_and(|at| (513..=1024).contains(&at)));
    assert!(between_two_cuts.map(|event| event.data.len()).sum::<usize>() > 256 * 1024, "they are not so long");
}

#[test]
fn who_was_away_for_too_long_gets_no_events_that_were_pruned_though_they_are_still_shared() {
    let app = App::start();
    write(&app, 1100, 10, &mut Random::new(1));
    let epoch = app.load("/persons").1.split_once('.').unwrap().0.to_owned();
    let from = |after: i64| app.follow("/person-events", &[("Last-Event-ID", &format!("{epoch}.{after}"))]);
    assert_eq!(from(512).next().revision(), 513);
    app.prune_everything();
    assert_eq!(from(512).message().unwrap().patch().as_object().unwrap().len(), 3, "a catch-up of all three");
}

const EVENTS: i64 = 3000;

/// A database with events of 400 bytes each, as they are sent: more than the kernel and the service buffer for one client.
fn fill(database: &Path) {
    let process = Process::start(database, &[]);
    let mut client = Client::connect(process.address);
    let body = json!({"name": "x".repeat(320)}).to_string();
    for _ in 0..EVENTS {
        assert_eq!(client.request("POST", "/persons", &JSON, Some(body.as_bytes())).status, 201);
    }
}

/// The memory that each of a hundred subscribers takes who come with nothing and read nothing, after others who come with
/// these revisions and read nothing.
fn taken(database: &Path, flags: &[&str], before: &[i64]) -> i64 {
    const SUBSCRIBERS: i64 = 100;
    let process = Process::start(database, flags);
    let stalled = |next: i64| {
        Stream::open(process.address, "/person-events?strict=true", &[("X-Revision", next.to_string().as_str())])
    };
    let before: Vec<_> = before.iter().map(|next| stalled(*next)).collect();
    let memory = process.memory();
    let stalled: Vec<_> = (0..SUBSCRIBERS).map(|_| stalled(1)).collect();
    // Until as much is on its way to each of them as there may be.
    let (mut taken, mut looks) = (0, 0);
    eventually("they take no more", || {
        let last = std::mem::replace(&mut taken, process.memory() - memory);
        looks = if (taken - last).abs() < 100_000 { looks + 1 } else { 0 };
        looks == 30
    });
    drop((stalled, before));
    taken / SUBSCRIBERS
}

#[test]
fn many_who_come_back_at_once_share_the_memory_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("test.db");
    fill(&database);
    let (alone, shared) = (taken(&database, &["--shared-events", "0"], &[]), taken(&database, &[], &[]));
    // Room for three segments, which are all on their way to somebody.
    let elsewhere: Vec<_> = (1..6).map(|cut| cut * 512 + 1).collect();
    let crowded = taken(&database, &["--shared-events", "700KiB"], &[&[1], &elsewhere[..]].concat());
    eprintln!("each takes {alone} bytes alone, {shared} bytes shared, {crowded} bytes where there is little room");
    // Of a page of 128 KiB, next to nothing is its own.
    assert!(shared + 100_000 < alone, "{shared} bytes, where each for itself takes {alone}");
    assert!(crowded < alone / 2, "{crowded} bytes, where each for itself takes {alone}");
}
