//! Connections that send one request after another: each as soon as the previous one is answered, or at a given rate.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::connection::{Answer, Connection};
use super::latency::Latencies;
use super::requests;

/// The results of some connections.
#[derive(Debug, Default)]
pub struct Done {
    /// The number of requests with the expected response.
    pub answers: usize,
    /// The time from the first request to the last response.
    pub seconds: f64,
    pub latencies: Latencies,
    /// The revisions of writes, and the time at which each was sent.
    pub written: Vec<(i64, Instant)>,
    /// The length of the last body in bytes.
    pub length: usize,
}

impl Done {
    /// Responses a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.seconds
    }

    fn note(&mut self, sent: Instant, answer: &Answer, expected: u16) {
        assert_eq!(answer.status, expected, "{answer:?}");
        self.answers += 1;
        self.length = answer.length;
        self.latencies.push(sent.elapsed());
        if answer.revision > 0 {
            self.written.push((answer.revision, sent));
        }
    }

    fn join(all: Vec<Self>, begun: Instant) -> Self {
        let mut joined = Self { seconds: begun.elapsed().as_secs_f64(), ..Self::default() };
        for done in all {
            joined.answers += done.answers;
            joined.latencies.extend(&done.latencies);
            joined.written.extend(&done.written);
            joined.length = done.length;
        }
        joined
    }
}

/// Runs this many connections that cycle through these requests, each as soon as the previous one is answered.
pub async fn closed(
    address: SocketAddr,
    connections: usize,
    time: Duration,
    requests: &[Vec<u8>],
    expected: u16,
) -> Done {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(address).await);
    }
    let begun = Instant::now();
    let tasks: Vec<_> = open
        .into_iter()
        .enumerate()
        .map(|(number, mut connection)| {
            let requests = requests.to_vec();
            spawn_local(async move {
                let mut done = Done::default();
                for request in requests.iter().cycle().skip(number) {
                    let sent = Instant::now();
                    if sent - begun > time {
                        break;
                    }
                    let answer = connection.exchange(request).await;
                    done.note(sent, &answer, expected);
                }
                done
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    Done::join(all, begun)
}

/// Runs this many connections that together send `rate` requests a second on a schedule. The latency of a delayed
/// request counts from its scheduled time.
pub async fn paced(
    address: SocketAddr,
    connections: usize,
    rate: u32,
    time: Duration,
    request: Vec<u8>,
    expected: u16,
) -> Done {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(address).await);
    }
    let begun = Instant::now();
    let interval = Duration::from_secs(u64::try_from(connections).unwrap()) / rate;
    let tasks: Vec<_> = open
        .into_iter()
        .zip(0u32..)
        .map(|(mut connection, number)| {
            let request = request.clone();
            let mut due = begun + interval / u32::try_from(connections).unwrap() * number;
            spawn_local(async move {
                let mut done = Done::default();
                while due - begun < time {
                    tokio::time::sleep_until(due.into()).await;
                    let answer = connection.exchange(&request).await;
                    done.note(due, &answer, expected);
                    due += interval;
                }
                done
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    Done::join(all, begun)
}

/// Runs this many connections that create (50 %), change (40 %) and delete (10 %) their own persons.
pub async fn mixed(address: SocketAddr, connections: usize, time: Duration, body: &str) -> Done {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(address).await);
    }
    let begun = Instant::now();
    let tasks: Vec<_> = open
        .into_iter()
        .zip(1u64..)
        .map(|(mut connection, mut random)| {
            let post = requests::post(body);
            spawn_local(async move {
                let (mut done, mut keys) = (Done::default(), Vec::<String>::new());
                loop {
                    let sent = Instant::now();
                    if sent - begun > time {
                        return done;
                    }
                    // xorshift64 (Marsaglia, 2003)
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let (choice, which) = (random % 10, usize::try_from(random >> 32).unwrap());
                    if choice < 5 || keys.is_empty() {
                        let answer = connection.exchange(&post).await;
                        done.note(sent, &answer, 201);
                        keys.push(answer.key);
                    } else if choice < 9 {
                        let key = &keys[which % keys.len()];
                        let request = requests::patch(key, &format!(r#"{{"name":"Ann {random}"}}"#));
                        done.note(sent, &connection.exchange(&request).await, 200);
                    } else {
                        let key = keys.swap_remove(which % keys.len());
                        done.note(sent, &connection.exchange(&requests::delete(&key)).await, 204);
                    }
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    Done::join(all, begun)
}
