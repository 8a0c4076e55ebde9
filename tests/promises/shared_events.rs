//! Replayed events are read once for all reconnecting clients, and match the table.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{App, DEADLINE, Event, Random, Stream, eventually};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// Writes this many revisions, occasionally with a long name.
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

/// What each feed replays from each of these revisions.
fn replayed(app: &App, from: &[i64]) -> Vec<Vec<Event>> {
    let epoch = app.load("/persons").1.split_once('.').unwrap().0.to_owned();
    // This event is on all feeds, so it marks the end of each.
    let end = app.patch("/persons/2", r#"{"city":"Bonn"}"#).revision();
    let mut all = Vec::new();
    for path in FEEDS {
        for after in from {
            let mut stream = app.follow(path, &[("Last-Event-ID", &format!("{epoch}.{after}"))]);
            let mut events = vec![stream.message().unwrap()];
            while events.last().unwrap().reached() != Some(end) {
                events.push(stream.message().unwrap());
            }
            // An id that does not name the epoch, which is another one after a restart.
            let ids = events.iter_mut().filter_map(|event| event.id.as_mut());
            ids.for_each(|id| *id = id.replace(&epoch, "epoch"));
            all.push(events);
        }
    }
    app.patch("/persons/2", r#"{"city":null}"#);
    all
}

/// Checks that the events are the same with every limit for shared events.
fn assert_same_events_with_limits(limits: &[u64], revisions: u64, longest: u64) -> Vec<Event> {
    let mut app = App::with(|settings| settings.shared_events = Some(duality::ByteSize(0)));
    let mut random = Random::new(revisions);
    write(&app, revisions, longest, &mut random);
    let revisions = i64::try_from(revisions).unwrap();
    let from = [0, 511, 512, 513, 1024, 1025, revisions - 1];
    let expected = replayed(&app, &from);
    // The last event is different each time.
    let without_the_last = |events: &[Event]| events[..events.len() - 1].to_vec();
    for limit in limits {
        app.change(|settings| settings.shared_events = Some(duality::ByteSize(*limit)));
        app.restart();
        // The second round finds the entries of the first.
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
fn reconnecting_clients_get_the_same_events_with_and_without_sharing() {
    assert_same_events_with_limits(&[32 << 20, 600_000, 300_000], 1700, 100);
}

#[test]
fn reconnecting_clients_get_the_same_events_when_they_are_too_long_to_share() {
    let events = assert_same_events_with_limits(&[32 << 20], 1700, 12_000);
    let of_one_segment = events.iter().filter(|event| event.reached().is_some_and(|at| (513..=1024).contains(&at)));
    assert!(
        of_one_segment.map(|event| event.data.len()).sum::<usize>() > 256 * 1024,
        "the events are too short for this test"
    );
}

#[test]
fn pruned_events_are_not_replayed_even_while_they_are_cached() {
    let app = App::start();
    write(&app, 1100, 10, &mut Random::new(1));
    let epoch = app.load("/persons").1.split_once('.').unwrap().0.to_owned();
    let from = |after: i64| app.follow("/person-events", &[("Last-Event-ID", &format!("{epoch}.{after}"))]);
    assert_eq!(from(512).next().revision(), 513);
    app.prune_everything();
    assert_eq!(from(512).message().unwrap().patch().as_object().unwrap().len(), 3, "a catch-up of all three");
}

const EVENTS: usize = 3000;

/// A service with events of 400 bytes each on the wire: more in all than the kernel and the service buffer for one client.
fn filled() -> App {
    let app = App::start();
    let mut client = app.client();
    let body = json!({"name": "x".repeat(320)}).to_string();
    for _ in 0..EVENTS {
        assert_eq!(client.request("POST", "/persons", &JSON, Some(body.as_bytes())).status, 201);
    }
    app
}

#[test]
fn consumers_that_come_at_once_get_every_event_in_order() {
    let app = filled();
    let last = app.post("/persons", r#"{"name":"last"}"#).revision();
    let consumers: Vec<_> = (0..8_i64)
        .map(|number| {
            // Some begin between two of those that share what is read, and two of them always at the same.
            let after = number / 2 * 300;
            (after, app.follow("/person-events?strict=true", &[("X-Revision", &(after + 1).to_string())]))
        })
        .collect();
    for (after, mut stream) in consumers {
        let revisions: Vec<_> = (after + 1..=last).map(|_| stream.next().revision()).collect();
        assert!(revisions.iter().copied().eq(after + 1..=last), "{after}: {revisions:?}");
    }
}

/// What a figure is when it has not changed at fifty looks. Each is answered by the service that changes it, so a busy
/// machine makes the looks rarer as well, and the deadline is a long one.
fn settled(figure: impl Fn() -> usize) -> usize {
    let start = Instant::now();
    let (mut last, mut looks) = (figure(), 0);
    while looks < 50 {
        assert!(start.elapsed() < 3 * DEADLINE, "{last} after {looks} looks");
        std::thread::sleep(Duration::from_millis(5));
        let now = figure();
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
    }
    last
}

/// The bytes that count for each of a hundred stalled subscribers that start from the beginning, after other stalled
/// subscribers have started from these revisions.
fn taken(app: &mut App, shared: u64, before: &[i64]) -> usize {
    const SUBSCRIBERS: usize = 100;
    app.change(|settings| settings.shared_events = Some(duality::ByteSize(shared)));
    app.restart();
    let counted = || app.memory_of(&["streams", "shared-events"]);
    let stalled = |next: i64| {
        Stream::open(app.address, "/person-events?strict=true", &[("X-Revision", next.to_string().as_str())])
    };
    let before: Vec<_> = before.iter().map(|next| stalled(*next)).collect();
    let stalled: Vec<_> = (0..SUBSCRIBERS).map(|_| stalled(1)).collect();
    let taken = settled(counted);
    drop((stalled, before));
    eventually("nothing counts for streams", || app.memory("streams") == 0);
    taken / SUBSCRIBERS
}

#[test]
fn reconnecting_clients_share_the_memory_for_replayed_events() {
    let mut app = filled();
    let (alone, shared) = (taken(&mut app, 0, &[]), taken(&mut app, 32 << 20, &[]));
    // There is room for three segments, and all of them are being sent to some subscriber.
    let elsewhere: Vec<_> = (1..6).map(|cut| cut * 512 + 1).collect();
    let crowded = taken(&mut app, 700 << 10, &[&[1], &elsewhere[..]].concat());
    eprintln!("a subscriber takes {alone} bytes unshared, {shared} bytes shared, {crowded} bytes with a small budget");
    // Almost none of a page of 128 KiB belongs to one subscriber alone.
    assert!(shared + 100_000 < alone, "{shared} bytes, and {alone} unshared");
    assert!(crowded < alone / 2, "{crowded} bytes, and {alone} unshared");
}
