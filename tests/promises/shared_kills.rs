//! Services that share a `PostgreSQL` database lose nothing that was answered, and do nothing twice, whatever ends: one of
//! them, the server, or the connections between them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{Client, Cluster, Process, eventually, kills};

/// What became of a command, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    NotDone,
    Unknown,
}

/// A command and its outcome.
#[derive(Debug)]
struct Sent {
    mark: String,
    outcome: Outcome,
    created: Option<String>,
}

/// Posts a person that nobody else posts. `None` for the rest of a connection that has ended.
fn post(client: &mut Client, mark: &str) -> Sent {
    let body = json!({"name": "Ann", "city": mark}).to_string();
    let sent = client.try_send("POST", "/persons", &[("Content-Type", "application/json")], Some(body.as_bytes()));
    let response = sent.and_then(|()| client.try_response("POST"));
    let mark = mark.to_owned();
    let Ok(response) = response else { return Sent { mark, outcome: Outcome::Unknown, created: None } };
    let outcome = match response.status {
        201 => Outcome::Done,
        503 => Outcome::NotDone,
        // Only this error is allowed.
        500 if response.text().contains("it is unknown whether") => Outcome::Unknown,
        status => panic!("{status}: {}", response.text()),
    };
    Sent { mark, outcome, created: response.header("Location").map(str::to_owned) }
}

/// Posts through a service until it ends, or until all is over.
fn post_until(address: SocketAddr, name: &str, answered: &AtomicU64, over: &AtomicBool) -> Vec<Sent> {
    let (mut connection, mut all) = (Client::try_connect(address), Vec::new());
    while let Some(client) = &mut connection
        && !over.load(Ordering::Acquire)
    {
        let sent = post(client, &format!("mark-{name}-{}-", all.len()));
        match sent.outcome {
            Outcome::Done => {
                answered.fetch_add(1, Ordering::AcqRel);
            }
            // The server is away: a moment for others on the processors.
            Outcome::NotDone => std::thread::yield_now(),
            Outcome::Unknown => connection = Client::try_connect(address),
        }
        all.push(sent);
    }
    all
}

/// The persons of each change event, from pages.
fn log(address: SocketAddr) -> Vec<String> {
    let mut client = Client::connect(address);
    let (mut events, mut path) = (Vec::<Value>::new(), "/events?limit=1000".to_owned());
    loop {
        let page = client.request("GET", &path, &[("Accept", "application/json")], None).json();
        let page_events = page["events"].as_array().unwrap();
        let more: Vec<_> = page_events.iter().filter(|event| event["revision"].is_i64()).cloned().collect();
        if more.is_empty() {
            assert!(
                events.iter().zip(1..).all(|(event, revision)| event["revision"] == revision),
                "revisions are dense"
            );
            return events.iter().map(|event| event["patch"]["persons"].to_string()).collect();
        }
        events.extend(more);
        path = format!("/events?limit=1000&lastEventId={}", page["cursor"].as_str().unwrap());
    }
}

/// The record agrees with what every client knows.
#[track_caller]
fn assert_agrees(address: SocketAddr, sent: &[Sent]) {
    let log = log(address).join("\n");
    for Sent { mark, outcome, .. } in sent {
        let times = log.matches(mark.as_str()).count();
        let agrees = match outcome {
            Outcome::Done => times == 1,
            Outcome::NotDone => times == 0,
            Outcome::Unknown => times <= 1,
        };
        assert!(agrees, "{mark} is {outcome:?}, and {times} times in the log");
    }
    let created: Vec<_> = sent.iter().filter_map(|sent| sent.created.as_ref()).collect();
    assert_eq!(created.iter().collect::<BTreeSet<_>>().len(), created.len(), "no two POSTs share a key");
}

fn start(url: &str, files: &Path) -> Process {
    Process::start(Path::new(url), &["--files", files.to_str().unwrap(), "--poll-interval", "20ms"])
}

/// What ends in a round.
#[derive(Debug, Clone, Copy)]
enum End {
    Service,
    Server,
    Connections,
}

#[test]
fn nothing_answered_is_lost_and_nothing_is_done_twice_whatever_ends() {
    let Some(cluster) = Cluster::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let url = cluster.url("shop");
    let files = |number: usize| directory.path().join(format!("node-{number}"));
    let mut services: Vec<_> = (0..2).map(|number| start(&url, &files(number))).collect();
    let mut all = Vec::new();
    for round in 0..kills() {
        let end = [End::Service, End::Server, End::Connections][usize::try_from(round % 3).unwrap()];
        let addresses: Vec<_> = services.iter().map(|service| service.address).collect();
        let (answered, over) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..6)
                .map(|writer| {
                    let (address, answered, over) = (addresses[writer % 2], &answered, &over);
                    scope.spawn(move || post_until(address, &format!("{round}-{writer}"), answered, over))
                })
                .collect();
            let more = |number: u64| {
                let before = answered.load(Ordering::Acquire);
                eventually(&format!("{number} more answers after {end:?}"), || {
                    answered.load(Ordering::Acquire) >= before + number
                });
            };
            more(30);
            match end {
                End::Service => services.remove(0).kill(),
                End::Server => {
                    cluster.stop_at_once();
                    cluster.resume();
                }
                End::Connections => (0..5).for_each(|_| {
                    let writing = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                                   WHERE application_name = 'duality write'";
                    cluster.execute("shop", writing);
                    more(5);
                }),
            }
            more(30);
            over.store(true, Ordering::Release);
            all.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
        });
        if services.len() < 2 {
            // The other one keeps its files.
            services.push(start(&url, &files(2 + usize::try_from(round).unwrap())));
        }
    }
    assert!(all.iter().filter(|sent| sent.outcome == Outcome::Done).count() > 100);
    services.iter().for_each(|service| assert_agrees(service.address, &all));
}
