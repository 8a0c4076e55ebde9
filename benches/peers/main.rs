//! The service beside others that pass on what is written to many listeners, measured with one client in one run.
//!
//!     cargo bench --bench peers                every peer that is installed, about three minutes
//!     cargo bench --bench peers -- --quick     the same with runs a quarter as long
//!
//! The peers are programs on the `PATH`: `durable-streams-server` (`cargo install durable-streams`), `etcd` (Debian's
//! `etcd-server`) and `nats-server` (Debian's package of that name). One that is not there is left out with a word. They do
//! different things for a write and for a listener; the table says what.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark that fails has no results"
)]
#![expect(clippy::cast_precision_loss, reason = "no figure needs that many digits")]
#![expect(unreachable_pub, reason = "nothing else uses this")]

#[path = "../load/mod.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod load;
#[path = "../speed/process.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod process;

mod client;
mod follow;
mod peer;

use std::time::{Duration, Instant};

use client::Client;
use load::thread;
use peer::Peer;
use process::Process;

/// Runs of each figure, one peer after another in each.
const RUNS: usize = 5;

/// Listeners while the time to them is measured.
const LISTENERS: usize = 1000;

/// What one run of a peer gives.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Writes a second with 64 connections.
    writes: f64,
    /// Microseconds of processor time of each of them, in all threads of the peer.
    cost: f64,
    /// Writes a second with one connection.
    lone: f64,
    /// Milliseconds from a write to a listener: half are there, and 99 of 100.
    half: f64,
    most: f64,
    /// The resident memory of the peer for each listener, in bytes.
    memory: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only checks that this compiles.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let time = Duration::from_millis(if arguments.iter().any(|argument| argument == "--quick") { 500 } else { 2000 });
    let peers = peer::installed();
    let mut runs = vec![Vec::new(); peers.len()];
    for number in 1..=RUNS {
        for (peer, runs) in peers.iter().zip(&mut runs) {
            eprintln!("{} {number} …", peer.name);
            runs.push(measure(peer, time));
        }
    }
    print(&peers, &runs);
}

fn measure(peer: &Peer, time: Duration) -> Figures {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let process = peer.start(directory.path());
    let (done, before) = (write(peer, &process, Writers { connections: 64, time }), process.exact_cpu());
    // The processor time of the second run: the first one has warmed it up.
    let second = write(peer, &process, Writers { connections: 64, time });
    let cost = (process.exact_cpu() - before) * 1e6 / second.0 as f64;
    let lone = write(peer, &process, Writers { connections: 1, time });
    let followed = follow::measure(peer, time);
    let rate = |(writes, seconds): (usize, f64)| writes as f64 / seconds;
    Figures {
        writes: rate(done).max(rate(second)),
        cost,
        lone: rate(lone),
        half: followed.half,
        most: followed.most,
        memory: followed.memory,
    }
}

/// Connections that write, each as soon as its last write is answered.
#[derive(Debug, Clone, Copy)]
struct Writers {
    connections: usize,
    time: Duration,
}

/// Returns how many writes were answered, and the seconds that they took.
fn write(peer: &Peer, process: &Process, Writers { connections, time }: Writers) -> (usize, f64) {
    let (peer, address) = (peer.clone(), process.address);
    let load = thread(move || async move {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(Client::open(&peer, address).await);
        }
        let begun = Instant::now();
        let tasks: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, mut client)| {
                tokio::task::spawn_local(async move {
                    let mut writes = 0;
                    while begun.elapsed() < time {
                        client.write(number + writes * connections).await;
                        writes += 1;
                    }
                    writes
                })
            })
            .collect();
        let mut writes = 0;
        for task in tasks {
            writes += task.await.unwrap();
        }
        (writes, begun.elapsed().as_secs_f64())
    });
    load.join().unwrap()
}

fn print(peers: &[Peer], runs: &[Vec<Figures>]) {
    println!(
        "| | writes/s, 64 connections | processor time of one | writes/s, 1 connection | write → 1,000 listeners, half | 99 of 100 | memory of a quiet listener |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (peer, runs) in peers.iter().zip(runs) {
        let median = |figure: fn(&Figures) -> f64| {
            let mut figures: Vec<f64> = runs.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        println!(
            "| {} | {:.1} k | {:.1} µs | {:.0} | {:.1} ms | {:.1} ms | {:.1} KiB |",
            peer.name,
            median(|run| run.writes) / 1000.0,
            median(|run| run.cost),
            median(|run| run.lone),
            median(|run| run.half),
            median(|run| run.most),
            median(|run| run.memory) / 1024.0,
        );
    }
    for Peer { name, does, .. } in peers {
        println!("\n{name}: {does}");
    }
}
