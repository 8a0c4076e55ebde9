//! The law: the state at a revision plus the change events after it is the current state.

use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};

use crate::harness::{App, Client, Random, cases, eventually};

const WRITERS: u64 = 8;
const CONSUMERS: u64 = 8;
const CITIES: [&str; 5] = ["Rome", "Oslo", "Łódź", "a/b", "7"];

/// The number of writes: 2,000, and 20,000 in CI.
fn operations() -> u64 {
    cases(20_000).into()
}

/// A random write; some fail or change nothing.
fn operate(client: &mut Client, random: &mut Random) -> i64 {
    let path = format!("/persons/{}", 1 + random.below(400));
    let city = *random.one_of(&CITIES);
    let (method, path, body) = match random.below(10) {
        0..4 => ("POST", "/persons".to_owned(), json!({"name": format!("n{}", random.below(9)), "city": city})),
        4..6 => ("PATCH", path, json!({ "city": city })),
        6 => ("PATCH", path, json!({"city": null, "spouse": 1 + random.below(3)})),
        7 => ("PUT", path, json!({"name": "Ann", "spouse": 1})),
        _ => ("DELETE", path, Value::Null),
    };
    let body = body.to_string();
    let body = (method != "DELETE").then_some(body.as_bytes());
    let response = client.request(method, &path, &[("Content-Type", "application/json")], body);
    assert!(matches!(response.status, 200 | 201 | 204 | 404), "{}", response.text());
    response.revision()
}

/// The city of the last person only, so that consumers of both feeds know when they have everything.
const END: &str = "The End";

/// Loads the state at some point during the writes, and follows the feed from there to the end.
fn consume(app: &App, state: &str, events: &str, join_at: i64, revision: &AtomicI64) -> Value {
    eventually("enough revisions were written", || revision.load(Ordering::Relaxed) >= join_at);
    let response = app.get(state);
    let (mut value, from) = (response.json(), response.revision());
    let mut stream = app.follow(events, &[("X-Revision", &(from + 1).to_string())]);
    let mut before = from;
    loop {
        let event = stream.next();
        assert!(event.revision() > before, "in order and without duplicates");
        before = event.revision();
        json_patch::merge(&mut value, &event.patch());
        if event.data.contains(END) {
            break;
        }
    }
    value
}

#[test]
fn consumers_that_join_at_any_time_converge_to_a_fresh_get() {
    let app = App::start();
    let revision = AtomicI64::new(0);
    let barrier = Barrier::new(usize::try_from(WRITERS).unwrap());
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|seed| {
                let (app, revision, barrier) = (&app, &revision, &barrier);
                scope.spawn(move || {
                    let (mut client, mut random) = (app.client(), Random::new(seed));
                    barrier.wait();
                    for _ in 0..operations() / WRITERS {
                        revision.fetch_max(operate(&mut client, &mut random), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let mut random = Random::new(99);
        let consumers: Vec<_> = (0..CONSUMERS)
            .flat_map(|_| {
                let join_at = i64::try_from(random.below(operations() / 4)).unwrap();
                [("/persons", "/person-events"), ("/locations", "/location-events")].map(|(state, events)| {
                    let (app, revision) = (&app, &revision);
                    (state, scope.spawn(move || consume(app, state, events, join_at, revision)))
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        app.post("/persons", &json!({"name": "last", "city": END}).to_string());
        let fresh = [("/persons", app.get("/persons").json()), ("/locations", app.get("/locations").json())];
        for (path, consumer) in consumers {
            let expected = &fresh.iter().find(|(of, _)| *of == path).unwrap().1;
            assert_eq!(&consumer.join().unwrap(), expected, "{path}");
        }
    });
    let persons = app.get("/persons").json();
    let count = |city: &str| persons.as_object().unwrap().values().filter(|person| person["city"] == city).count();
    for (city, location) in app.get("/locations").json().as_object().unwrap() {
        assert_eq!(location["total"], count(city), "{city}");
    }
}
