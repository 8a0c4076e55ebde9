//! Streams that follow one feed for a long time, and come back as an `EventSource` does: after the `retry:` of the stream that
//! was cut, with the id of its last event.
//!
//! They are sent without framing (HTTP/1.0), so that those which begin at the same revision get the same bytes.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

use super::events::Arrival;
use super::subscribers::last_id;

thread_local! {
    /// The read buffer, shared by all streams of a thread because its content is looked at immediately.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// The streams of one thread.
pub struct Crowd {
    followers: Vec<Rc<Follower>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Opens this many streams after a revision. Everything that the first `whole` ones get is kept.
    pub async fn open(address: SocketAddr, path: &'static str, count: usize, whole: usize, after: i64) -> Self {
        let (mut followers, mut tasks) = (Vec::new(), Vec::new());
        for number in 0..count {
            let source = source(u32::try_from(number).unwrap());
            let follower = Rc::new(Follower::new(address, source, path, after, number < whole));
            let stream = follower.connect().await.unwrap_or_else(|instead| panic!("{number}: {instead}"));
            tasks.push(spawn_local(Rc::clone(&follower).follow(stream)));
            followers.push(follower);
        }
        Self { followers, tasks }
    }

    /// Waits until every stream has this revision.
    pub async fn all_have(&self, revision: i64) {
        while self.followers.iter().any(|follower| follower.reached.get() < revision) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What arrived at those of which everything is kept.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.followers.iter().flat_map(|follower| follower.arrivals.borrow().clone()).collect()
    }

    /// How often streams came back.
    pub fn returns(&self) -> usize {
        self.followers.iter().map(|follower| follower.returns.get()).sum()
    }

    /// Fails unless all streams got equally many bytes.
    pub fn assert_same(&self) {
        let first = self.followers[0].bytes.get();
        assert!(first > 0 && self.followers.iter().all(|follower| follower.bytes.get() == first), "bytes are missing");
    }

    /// Fails unless the patches of those of which everything is kept make this state.
    pub fn assert_exact(&self, state: &Value) {
        for text in self.followers.iter().filter_map(|follower| follower.text.as_ref()) {
            assert_eq!(&Value::from(folded(&text.borrow())), state, "a copy is wrong");
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Follower {
    address: SocketAddr,
    source: Ipv4Addr,
    path: &'static str,
    /// The revision of the last event.
    reached: Cell<i64>,
    epoch: RefCell<String>,
    /// How long to wait before it comes back.
    retry: Cell<Duration>,
    returns: Cell<usize>,
    /// How much it got until it was cut, from the first event on.
    bytes: Cell<usize>,
    /// All that it got, if that is kept.
    text: Option<RefCell<Vec<u8>>>,
    arrivals: RefCell<Vec<Arrival>>,
}

impl Follower {
    fn new(address: SocketAddr, source: Ipv4Addr, path: &'static str, after: i64, is_whole: bool) -> Self {
        Self {
            address,
            source,
            path,
            reached: Cell::new(after),
            epoch: RefCell::default(),
            retry: Cell::new(Duration::from_secs(1)),
            returns: Cell::new(0),
            bytes: Cell::new(0),
            text: is_whole.then(RefCell::default),
            arrivals: RefCell::default(),
        }
    }

    /// Asks for what comes after the last event.
    ///
    /// # Errors
    /// What came instead of a stream.
    async fn connect(&self) -> Result<TcpStream, String> {
        let (path, reached) = (self.path, self.reached.get());
        let cursor = match self.epoch.borrow().as_str() {
            "" => format!("X-Revision: {}", reached + 1),
            epoch => format!("Last-Event-ID: {epoch}.{reached}"),
        };
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n{cursor}\r\n\r\n");
        let mut stream = self.socket().await.map_err(|error| error.to_string())?;
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let head = through(&mut stream, "\r\n\r\n").await?;
        let epoch = value(&head, "x-epoch: ")?.to_owned();
        // An event may follow without an empty line.
        through(&mut stream, "\nretry: ").await?;
        let retry = through(&mut stream, "\n").await?;
        let retry = retry.trim_end().parse().map_err(|_| retry)?;
        self.retry.set(Duration::from_millis(retry));
        self.epoch.replace(epoch);
        Ok(stream)
    }

    async fn socket(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.source, 0).into())?;
        socket.connect(self.address).await
    }

    async fn follow(self: Rc<Self>, mut stream: TcpStream) {
        loop {
            self.read(stream).await;
            stream = loop {
                tokio::time::sleep(self.retry.get()).await;
                if let Ok(stream) = self.connect().await {
                    break stream;
                }
            };
            self.returns.set(self.returns.get() + 1);
        }
    }

    /// Reads a stream to its end. What is incomplete there is thrown away.
    async fn read(&self, stream: TcpStream) {
        let mut unfinished = Vec::new();
        loop {
            if stream.readable().await.is_err() {
                return;
            }
            let read = READ.with_borrow_mut(|buffer| match stream.try_read(buffer) {
                Ok(read) => {
                    self.look_at(&buffer[..read], &mut unfinished);
                    Some(read)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(_) => Some(0),
            });
            if read == Some(0) {
                return;
            }
        }
    }

    fn look_at(&self, read: &[u8], unfinished: &mut Vec<u8>) {
        if unfinished.is_empty() {
            unfinished.extend_from_slice(&read[self.take(read)..]);
        } else {
            unfinished.extend_from_slice(read);
            unfinished.drain(..self.take(unfinished));
        }
    }

    /// Takes the complete events at the beginning of a text, and returns their length.
    fn take(&self, text: &[u8]) -> usize {
        let Some(end) = text.windows(2).rposition(|window| window == b"\n\n") else { return 0 };
        let events = &text[..end + 2];
        let Some(to) = last_id(events) else { return 0 };
        self.bytes.set(self.bytes.get() + events.len());
        if let Some(text) = &self.text {
            text.borrow_mut().extend_from_slice(events);
            self.arrivals.borrow_mut().push(Arrival { after: self.reached.get(), to, at: Instant::now() });
        }
        self.reached.set(to);
        events.len()
    }
}

/// The address of a stream. Fifty share one: no address gets all that a service has.
fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 1, 0).to_bits() + number / 50)
}

/// Reads until `end` has arrived, byte by byte.
async fn through(stream: &mut TcpStream, end: &str) -> Result<String, String> {
    let mut read = String::new();
    while !read.ends_with(end) {
        let byte = stream.read_u8().await.map_err(|error| format!("{error} after {read:?}"))?;
        read.push(char::from(byte));
    }
    Ok(read)
}

/// The rest of the line that begins with a name.
fn value<'a>(text: &'a str, name: &str) -> Result<&'a str, String> {
    text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| text.to_owned())
}

/// What merge patches make of nothing, if each of them replaces whole members.
fn folded(text: &[u8]) -> Map<String, Value> {
    let mut state = Map::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some(patch) = line.strip_prefix(b"data: ") else { continue };
        let patch: Map<String, Value> = serde_json::from_slice(patch).unwrap();
        state.extend(patch);
    }
    state
}
