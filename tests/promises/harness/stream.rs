//! A subscriber: a connection, a third-party decoder, and a state to which patches are applied.

use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use actix_web::web::BytesMut;
use serde_json::Value;
use tokio_util::codec::Decoder as _;

use super::{Client, DEADLINE, Response};

/// An open stream of Server-Sent Events.
pub(crate) struct Stream {
    client: Client,
    pub(crate) head: Response,
    decoder: russe::Decoder,
    undecoded: BytesMut,
    /// Everything received, unparsed.
    pub(crate) raw: String,
    /// The beginning of a character.
    incomplete: Vec<u8>,
}

/// A Server-Sent Event message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

impl Event {
    pub(crate) fn patch(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }

    /// The revision whose state the client has after this message, unless its id is partial or missing.
    pub(crate) fn reached(&self) -> Option<i64> {
        self.id.as_ref()?.split_once('.')?.1.parse().ok()
    }

    /// The number in its id.
    #[track_caller]
    pub(crate) fn revision(&self) -> i64 {
        self.id.as_ref().unwrap().split_once('.').unwrap().1.parse().unwrap()
    }
}

impl Stream {
    pub(crate) fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::on(Client::connect(address), path, headers)
    }

    /// Opens a stream on a connection.
    pub(crate) fn on(mut client: Client, path: &str, headers: &[(&str, &str)]) -> Self {
        client.send("GET", path, headers, None);
        let head = client.head().unwrap();
        assert_eq!(head.status, 200, "{path} {headers:?}");
        Self::begun(client, head)
    }

    /// A stream whose head has been read.
    pub(crate) fn begun(client: Client, head: Response) -> Self {
        assert_eq!(head.header("Content-Type"), Some("text/event-stream"));
        let decoder = russe::Decoder::default();
        Self { client, head, decoder, undecoded: BytesMut::new(), raw: String::new(), incomplete: Vec::new() }
    }

    /// The next message with an id; `None` when the connection is cut.
    pub(crate) fn try_next(&mut self) -> Option<Event> {
        std::iter::from_fn(|| self.message()).find(|event| event.id.is_some())
    }

    /// The next message; `None` when the connection is cut.
    pub(crate) fn message(&mut self) -> Option<Event> {
        let start = Instant::now();
        loop {
            // The socket's timeout does not fire while comments keep arriving.
            assert!(start.elapsed() < DEADLINE, "no message in time");
            match self.decoder.decode(&mut self.undecoded).unwrap() {
                Some(russe::Event::Message(message)) => {
                    let (name, id) = (message.event.map(Into::into), message.id.map(Into::into));
                    return Some(Event { name, id, data: message.data.into() });
                }
                Some(_) => {}
                None => self.receive()?,
            }
        }
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> Event {
        self.try_next().expect("the stream continues")
    }

    /// Reads until a condition holds for the text received so far.
    #[track_caller]
    pub(crate) fn read_until(&mut self, holds: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !holds(&self.raw) {
            assert!(start.elapsed() < DEADLINE, "timed out after {:?}", self.raw);
            self.receive().expect("the stream continues");
        }
    }

    /// Applies messages up to the first one that reaches this revision or a later one.
    #[track_caller]
    pub(crate) fn follow(&mut self, state: &mut Value, until: i64) {
        loop {
            let event = self.message().expect("the stream continues");
            json_patch::merge(state, &event.patch());
            if event.reached().is_some_and(|reached| reached >= until) {
                return;
            }
        }
    }

    /// Whether no message arrives for a while. Waiting is the only way to show that something does not happen.
    pub(crate) fn is_quiet_for(&mut self, time: Duration) -> bool {
        if self
            .decoder
            .decode(&mut self.undecoded)
            .unwrap()
            .is_some_and(|event| matches!(event, russe::Event::Message(_)))
        {
            return false;
        }
        self.client.socket().set_read_timeout(Some(time)).unwrap();
        let quiet = match self.client.chunk() {
            Err(error) => matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
            Ok(_) => false,
        };
        self.client.socket().set_read_timeout(Some(DEADLINE)).unwrap();
        quiet
    }

    pub(crate) fn close(self) {
        self.client.socket().shutdown(Shutdown::Both).unwrap();
    }

    /// A chunk may end within a character.
    fn take_characters(&mut self) {
        let complete = match std::str::from_utf8(&self.incomplete) {
            Ok(text) => text.len(),
            Err(error) => {
                assert_eq!(error.error_len(), None, "the stream is UTF-8");
                error.valid_up_to()
            }
        };
        let characters = self.incomplete.drain(..complete).collect();
        self.raw.push_str(&String::from_utf8(characters).unwrap());
    }

    fn receive(&mut self) -> Option<()> {
        match self.client.chunk() {
            Ok(Some(chunk)) => {
                self.incomplete.extend_from_slice(&chunk);
                self.take_characters();
                self.undecoded.extend_from_slice(&chunk);
                Some(())
            }
            Ok(None) => panic!("the stream ended cleanly instead of being cut"),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error} after {:?}", &self.raw[self.raw.len().saturating_sub(200)..]),
        }
    }
}
