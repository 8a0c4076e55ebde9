//! Subscribers of Server-Sent Events that look at as little as they can: the last id of what arrived. A feed whose every
//! revision is an event needs no more to know how many came.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

use super::events::Arrival;

thread_local! {
    /// What is read is looked at once and forgotten, so all subscribers of a thread share the place for it.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// Some subscribers of one thread.
pub struct Subscribers {
    /// What arrived since the last [`Subscribers::take`].
    arrivals: Rc<RefCell<Vec<Arrival>>>,
    /// Whether arrivals are kept.
    watching: Rc<Cell<bool>>,
    /// Events that arrived, in all.
    pub events: Rc<Cell<i64>>,
    /// Bytes that arrived, in all.
    pub bytes: Rc<Cell<usize>>,
    /// The last revision of each.
    reached: Vec<Rc<Cell<i64>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Subscribers {
    /// Opens so many streams after a revision; they are read as soon as they are open.
    pub async fn open(address: SocketAddr, path: &str, count: usize, after: i64) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\nX-Revision: {}\r\n\r\n",
            after + 1
        );
        let mut subscribers = Self {
            arrivals: Rc::default(),
            watching: Rc::default(),
            events: Rc::default(),
            bytes: Rc::default(),
            reached: Vec::new(),
            tasks: Vec::new(),
        };
        for _ in 0..count {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert_eq!(&head[9..], b"200", "a stream was refused");
            let reached = Rc::new(Cell::new(after));
            subscribers.reached.push(Rc::clone(&reached));
            let subscriber = Subscriber {
                stream,
                unfinished: Vec::new(),
                reached,
                arrivals: Rc::clone(&subscribers.arrivals),
                watching: Rc::clone(&subscribers.watching),
                events: Rc::clone(&subscribers.events),
                bytes: Rc::clone(&subscribers.bytes),
            };
            subscribers.tasks.push(spawn_local(subscriber.read()));
        }
        subscribers
    }

    /// Keeps arrivals from now on.
    pub fn watch(&self) {
        self.arrivals.borrow_mut().clear();
        self.watching.set(true);
    }

    /// What arrived since [`Subscribers::watch`].
    pub fn take(&self) -> Vec<Arrival> {
        self.watching.set(false);
        self.arrivals.take()
    }

    /// Waits until every one has this revision.
    pub async fn all_have(&self, revision: i64) {
        while self.reached.iter().any(|reached| reached.get() < revision) {
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a stream was cut");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Subscriber {
    stream: TcpStream,
    /// The beginning of an event whose end has not come yet.
    unfinished: Vec<u8>,
    reached: Rc<Cell<i64>>,
    arrivals: Rc<RefCell<Vec<Arrival>>>,
    watching: Rc<Cell<bool>>,
    events: Rc<Cell<i64>>,
    bytes: Rc<Cell<usize>>,
}

impl Subscriber {
    async fn read(mut self) {
        loop {
            self.stream.readable().await.unwrap();
            let read = READ.with_borrow_mut(|buffer| match self.stream.try_read(buffer) {
                Ok(read) => {
                    self.look_at(&buffer[..read]);
                    Some(read)
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
                Err(_) => Some(0),
            });
            if read == Some(0) {
                return;
            }
        }
    }

    fn look_at(&mut self, read: &[u8]) {
        self.bytes.set(self.bytes.get() + read.len());
        let end = read.windows(2).rposition(|window| window == b"\n\n");
        let Some(end) = end else { return self.unfinished.extend_from_slice(read) };
        let to = last_id(&read[..end]).or_else(|| last_id(&[&self.unfinished, &read[..end]].concat()));
        self.unfinished.clear();
        self.unfinished.extend_from_slice(&read[end..]);
        let Some(to) = to else { return };
        let after = self.reached.replace(to);
        self.events.set(self.events.get() + to - after);
        if self.watching.get() {
            self.arrivals.borrow_mut().push(Arrival { after, to, at: Instant::now() });
        }
    }
}

/// The revision of the last `id: <epoch>.<revision>` line that is whole.
fn last_id(text: &[u8]) -> Option<i64> {
    let at = text.windows(4).rposition(|window| window == b"id: ")?;
    let line = text[at + 4..].split(|byte| *byte == b'\n').next()?;
    let revision = std::str::from_utf8(line).ok()?.split('.').nth(1)?;
    (at + 4 + line.len() < text.len()).then(|| revision.parse().ok()).flatten()
}
