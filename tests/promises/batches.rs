//! Commands that wait together become one transaction, unless it would take too much memory: then they are several.

use duality::ByteSize;
use serde_json::{Value, json};

use crate::harness::{App, Lock, eventually};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The memory of bodies, commands and batches, of which a batch may take an eighth.
const MEMORY: usize = 8 * 1024 * 1024;

/// The size of an aggregate. A command reads one and answers with one, so six commands have more than a batch may take.
const LARGE: usize = 100_000;

fn app() -> App {
    App::with(|settings| settings.command_memory = Some(ByteSize(MEMORY as u64)))
}

fn sample(app: &App, sample: &str) -> usize {
    let metrics = app.get("/metrics");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

/// Sends these requests while nothing can be committed, so that all but the first wait together, and reads the answers.
fn send_together(app: &App, requests: &[(&str, String, String)]) -> Vec<Value> {
    let lock = Lock::take(app.database());
    let mut clients: Vec<_> = requests.iter().map(|_| app.client()).collect();
    for (client, (method, path, body)) in clients.iter_mut().zip(requests) {
        client.send(method, path, &[JSON], Some(body.as_bytes()));
    }
    eventually("all wait", || sample(app, "duality_waiting_commands") == requests.len());
    drop(lock);
    let answers = clients.iter_mut().zip(requests).map(|(client, (method, path, _))| {
        let response = client.response(method);
        assert_eq!(response.status, 200, "{method} {path}: {}", response.text());
        response.json()
    });
    answers.collect()
}

#[test]
fn small_commands_on_large_aggregates_are_several_transactions_within_the_limit() {
    let app = app();
    let name = |key: usize| format!("{key}{}", "x".repeat(LARGE));
    let keys = 1..=65;
    for key in keys.clone() {
        assert_eq!(app.post("/persons", &json!({ "name": name(key) }).to_string()).status, 201);
    }
    let created = sample(&app, "duality_commits_total");
    let patches: Vec<_> =
        keys.clone().map(|key| ("PATCH", format!("/persons/{key}"), r#"{"city":"Rome"}"#.to_owned())).collect();
    let answers = send_together(&app, &patches);
    for (key, answer) in keys.zip(answers) {
        let patched = json!({ "name": name(key), "city": "Rome" });
        assert!(answer == patched && app.get(&format!("/persons/{key}")).json() == patched, "{key}");
    }
    assert_eq!(app.get("/locations/Rome").json(), json!({ "total": 65 }));
    assert_eq!(app.get("/persons").revision(), 130);
    let commits = sample(&app, "duality_commits_total");
    assert!(commits - created >= 65 / 6, "{created} {commits}");
    assert_eq!(sample(&app, r#"duality_batch_commands_bucket{le="8.0"}"#), commits, "none has more commands than that");
    let peak = sample(&app, r#"duality_peak_memory_bytes{what="commands"}"#);
    assert!((MEMORY / 8..=MEMORY).contains(&peak), "{peak}");
    eventually("nothing counts", || app.memory("commands") == 0);
}

#[test]
fn decoded_states_count_within_their_limit_while_their_batch_is_executed() {
    const BUDGET: usize = 1 << 20;
    let app = App::with(|settings| settings.aggregate_memory = Some(ByteSize(BUDGET as u64)));
    // Ten times this is the room of five of them.
    let long = json!({"amount": 5, "text": "x".repeat(20_000)}).to_string();
    let accounts: Vec<_> = (0..30).map(|_| app.command("/accounts").header("Location").unwrap().to_owned()).collect();
    let bookings: Vec<_> =
        accounts.iter().chain(&accounts).map(|account| ("POST", format!("{account}/book"), long.clone())).collect();
    // Two of an account may arrive in any order.
    let mut balances: Vec<_> =
        send_together(&app, &bookings).iter().map(|answer| answer["balance"].as_i64().unwrap()).collect();
    balances.sort_unstable();
    assert_eq!(balances, [[5; 30], [10; 30]].concat());
    let peak = sample(&app, r#"duality_peak_memory_bytes{what="aggregates"}"#);
    assert!((BUDGET / 2..=BUDGET).contains(&peak), "{peak}");
    for account in &accounts {
        assert_eq!(app.get(account).json()["balance"], 10);
    }
}
