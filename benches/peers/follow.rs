//! The time from a write to those who listen, and what a listener takes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::LISTENERS;
use super::client::Client;
use super::load::latency::Latencies;
use super::load::thread;
use super::peer::Peer;
use super::process::Process;

/// Writes a second while listeners are measured.
const WRITES: u32 = 50;

/// Milliseconds until half of the listeners, and 99 of 100, have a write; bytes of the peer for each of them.
pub struct Followed {
    pub half: f64,
    pub most: f64,
    pub memory: f64,
}

pub fn measure(peer: &Peer, time: Duration) -> Followed {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let process = peer.start(directory.path());
    let (own, address) = (peer.clone(), process.address);
    // Whatever has to be there is there before somebody listens.
    let prepared = peer.clone();
    thread(move || async move { drop(Client::open(&prepared, address).await) }).join().unwrap();
    let before = process.memory();
    let (opened, open) = std::sync::mpsc::channel();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let load = thread(move || async move {
        let sent: Rc<RefCell<Vec<Instant>>> = Rc::default();
        let (latencies, arrived) = (Rc::new(RefCell::new(Latencies::default())), Rc::new(Cell::new(0)));
        for _ in 0..LISTENERS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&own.dialect.follow()).await.unwrap();
            let listener = Listener {
                stream,
                mark: own.dialect.mark(),
                sent: Rc::clone(&sent),
                latencies: Rc::clone(&latencies),
                arrived: Rc::clone(&arrived),
            };
            spawn_local(listener.listen());
        }
        opened.send(()).unwrap();
        drop(gone.await);
        let mut client = Client::open(&own, address).await;
        let (begun, mut number) = (Instant::now(), 0);
        while begun.elapsed() < time {
            tokio::time::sleep_until((begun + Duration::from_secs(1) / WRITES * number).into()).await;
            sent.borrow_mut().push(Instant::now());
            client.write(usize::try_from(number).unwrap()).await;
            number += 1;
        }
        while arrived.get() < LISTENERS * usize::try_from(number).unwrap() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{} of {number} writes have reached all",
                arrived.get() / LISTENERS
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        latencies.take()
    });
    open.recv().unwrap();
    let memory = settled(&process) - before;
    go.send(()).unwrap();
    let mut latencies = load.join().unwrap();
    Followed { half: latencies.percentile(50), most: latencies.percentile(99), memory: memory / LISTENERS as f64 }
}

/// The memory of a process once it does not grow any more.
fn settled(process: &Process) -> f64 {
    let (mut last, mut same) = (process.memory(), 0);
    while same < 20 {
        std::thread::sleep(Duration::from_millis(50));
        let now = process.memory();
        same = if now > last { 0 } else { same + 1 };
        last = now;
    }
    last
}

struct Listener {
    stream: TcpStream,
    mark: &'static [u8],
    /// When each write was sent.
    sent: Rc<RefCell<Vec<Instant>>>,
    latencies: Rc<RefCell<Latencies>>,
    /// How many writes have arrived, counted for all listeners together.
    arrived: Rc<Cell<usize>>,
}

impl Listener {
    /// Counts the marks: the writes arrive in order, each has one.
    async fn listen(mut self) {
        let (mut own, mut unread) = (0, Vec::with_capacity(4096));
        while self.stream.read_buf(&mut unread).await.is_ok_and(|read| read > 0) {
            let now = Instant::now();
            while let Some(at) = unread.windows(self.mark.len()).position(|window| window == self.mark) {
                unread.drain(..at + self.mark.len());
                self.latencies.borrow_mut().push(now - self.sent.borrow()[own]);
                own += 1;
                self.arrived.set(self.arrived.get() + 1);
            }
            // What may be the beginning of a mark stays.
            let rest = unread.len().saturating_sub(self.mark.len() - 1);
            unread.drain(..rest);
        }
    }
}
