//! The law over sockets: random writes, pruning and restarts, with consumers that start at any cursor and are
//! disconnected at any message. (The model test in `src` runs more cases of it in process.)

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use crate::harness::{App, Stream, cases};

/// A state, its feed, and a query for both.
const LEVELS: [(&str, &str, &str); 6] = [
    ("/aggregates", "/events", ""),
    ("/aggregates", "/events", "?collection=locations"),
    ("/persons", "/person-events", ""),
    ("/persons", "/person-events", "?key=1&key=3"),
    ("/locations", "/location-events", ""),
    ("/persons/2", "/persons/2/events", ""),
];

#[derive(Debug, Clone)]
enum Op {
    Create(u8),
    Move(u8, u8),
    Delete(u8),
    Prune,
    Restart,
    /// Starts from the current state, from the id of another service, or from a future id.
    Begin(u8),
    /// Reconnects with the last id, reads up to this many messages, and disconnects.
    Read(u8),
}

struct Consumer {
    state: Value,
    last_id: Option<String>,
}

fn city(number: u8) -> Value {
    [json!("Rome"), json!("Oslo"), Value::Null][usize::from(number % 3)].clone()
}

/// The state at a level; null for an aggregate that does not exist.
fn fresh(app: &App, path: &str) -> (Value, i64, String) {
    let response = app.get(path);
    let state = if response.status == 404 { Value::Null } else { response.json() };
    (state, response.revision(), response.cursor())
}

/// Reads up to this revision, or up to this many messages.
fn read(app: &App, feed: &str, consumer: &mut Consumer, revision: i64, most: usize) {
    let headers: Vec<_> = consumer.last_id.iter().map(|id| ("Last-Event-ID", id.as_str())).collect();
    let mut stream: Stream = app.follow(feed, &headers);
    let known = consumer.last_id.as_ref().and_then(|id| id.split_once('.')?.1.parse::<i64>().ok());
    // An id of an earlier epoch of this database is as good as one of the current.
    let mut before = known.filter(|_| consumer.last_id.as_ref().is_some_and(|id| !id.starts_with("0therepoch")));
    // Without any revision, there is only the empty state.
    let most = if revision == 0 && consumer.last_id.is_none() { 1 } else { most };
    for _ in 0..most {
        if before.is_some_and(|reached| reached == revision) {
            return;
        }
        let message = stream.message().expect("the stream continues");
        json_patch::merge(&mut consumer.state, &message.patch());
        if let Some(reached) = message.reached() {
            assert!(
                before.is_none_or(|before| before > revision || reached > before),
                "in order and without duplicates"
            );
            before = Some(reached);
        }
        consumer.last_id = message.id.or(consumer.last_id.take());
    }
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<u8>().prop_map(Op::Create),
        3 => (1..6_u8, any::<u8>()).prop_map(|(key, city)| Op::Move(key, city)),
        2 => (1..6_u8).prop_map(Op::Delete),
        2 => Just(Op::Prune),
        1 => Just(Op::Restart),
        2 => (0..3_u8).prop_map(Op::Begin),
        4 => (1..5_u8).prop_map(Op::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(50), failure_persistence: None, rng_seed: RngSeed::Fixed(2026), max_shrink_time: 30_000, ..ProptestConfig::default() })]
    #[test]
    fn merge_patches_alone_bring_any_consumer_to_the_current_state(
        level in 0..LEVELS.len(),
        ops in prop::collection::vec(ops(), 1..16),
    ) {
        // Frequent bookmarks make every feed reach every revision.
        let mut app = App::with(|settings| settings.heartbeat = Duration::from_millis(20));
        let (state, events, query) = LEVELS[level];
        let (state, events) = (format!("{state}{query}"), format!("{events}{query}"));
        let mut consumer = Consumer { state: Value::Null, last_id: None };
        for op in &ops {
            match op {
                Op::Create(to) => drop(app.post("/persons", &json!({"name": "x", "city": city(*to)}).to_string())),
                Op::Move(key, to) => drop(app.patch(&format!("/persons/{key}"), &json!({"city": city(*to)}).to_string())),
                Op::Delete(key) => drop(app.delete(&format!("/persons/{key}"))),
                Op::Prune => app.prune_everything(),
                Op::Restart => app.restart(),
                Op::Begin(how) => {
                    let (now, revision, cursor) = fresh(&app, &state);
                    let epoch = cursor.split('.').next().unwrap();
                    consumer = match how {
                        0 => Consumer { state: now, last_id: Some(cursor) },
                        1 => Consumer { state: json!({"1": 1}), last_id: Some("0therepoch.2".to_owned()) },
                        _ => Consumer { state: json!({"1": 1}), last_id: Some(format!("{epoch}.{}", revision + 2)) },
                    };
                    // A consumer with a future id has to connect before that revision exists.
                    read(&app, &events, &mut consumer, revision, 1);
                }
                Op::Read(most) => {
                    let (_, revision, _) = fresh(&app, &state);
                    read(&app, &events, &mut consumer, revision, usize::from(*most));
                }
            }
        }
        let (now, revision, _) = fresh(&app, &state);
        read(&app, &events, &mut consumer, revision, usize::MAX);
        prop_assert_eq!(consumer.state, now);
    }
}
