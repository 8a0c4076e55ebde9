//! Subscribers of Server-Sent Events that parse as little as possible: the last id of what arrived. On a feed where
//! every revision is an event, that is enough to count the events.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

use super::events::Arrival;

thread_local! {
    /// The read buffer, shared by all subscribers of a thread because its content is parsed immediately.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// The subscribers of one thread.
pub struct Subscribers {
    /// The arrivals since the last [`Subscribers::take`].
    arrivals: Rc<RefCell<Vec<Arrival>>>,
    /// Whether arrivals are recorded.
    watching: Rc<Cell<bool>>,
    /// The total number of events that arrived.
    pub events: Rc<Cell<i64>>,
    /// The total number of bytes that arrived.
    pub bytes: Rc<Cell<usize>>,
    /// The last revision of each subscriber.
    reached: Vec<Rc<Cell<i64>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Subscribers {
    /// Opens this many streams after a revision, and starts to read them immediately.
    pub async fn open(address: SocketAddr, path: &str, count: usize, after: i64) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nX-Revision: {}\r\n\r\n",
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

    /// Starts to record arrivals.
    pub fn watch(&self) {
        self.arrivals.borrow_mut().clear();
        self.watching.set(true);
    }

    /// Takes the arrivals since [`Subscribers::watch`].
    pub fn take(&self) -> Vec<Arrival> {
        self.watching.set(false);
        self.arrivals.take()
    }

    /// Waits until every subscriber has this revision.
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
    /// The beginning of an incomplete event.
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
        // The id is the last line of an event, and `..=end` has its line end.
        let to = last_id(&read[..=end]).or_else(|| last_id(&[&self.unfinished, &read[..=end]].concat()));
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

/// The revision of the last complete `id: <epoch>.<revision>` line.
pub(super) fn last_id(text: &[u8]) -> Option<i64> {
    let at = text.windows(4).rposition(|window| window == b"id: ")?;
    let line = text[at + 4..].split(|byte| *byte == b'\n').next()?;
    let revision = std::str::from_utf8(line).ok()?.split('.').nth(1)?;
    (at + 4 + line.len() < text.len()).then(|| revision.parse().ok()).flatten()
}
