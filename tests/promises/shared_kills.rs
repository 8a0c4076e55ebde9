//! Services that share a `PostgreSQL` database lose nothing that was answered, and do nothing twice, whatever ends: one of
//! them, the server, or the connections between them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::{Client, Cluster, Marked, Outcome, Process, assert_agrees, eventually, kills};

/// Posts through a service until it ends, or until all is over.
fn post_until(address: SocketAddr, name: &str, answered: &AtomicU64, over: &AtomicBool) -> Vec<Marked> {
    let (mut connection, mut all) = (Client::try_connect(address), Vec::new());
    while let Some(client) = &mut connection
        && !over.load(Ordering::Acquire)
    {
        let sent = Marked::post(client, &format!("mark-{name}-{}-", all.len()), &[]);
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
    for service in &services {
        assert_agrees(service.address, &all);
    }
}
