//! What is compared: how each is started, written to and listened to.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::load::requests;
use super::process::{self, Process};

/// A program that takes writes and passes them on.
#[derive(Clone)]
pub struct Peer {
    pub name: &'static str,
    /// What it does for a write and for a listener.
    pub does: &'static str,
    pub dialect: Dialect,
    /// The words of its command in a directory, listening on an address.
    command: fn(&Path, SocketAddr) -> Vec<String>,
}

/// How a client speaks to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Duality,
    DurableStreams,
    Etcd,
    Nats,
}

/// What every write stores.
const STORED: &str = r#"{"name":"Ann","city":"Rome"}"#;

/// The same in base64, which is how etcd has values in JSON.
const STORED_IN_BASE64: &str = "eyJuYW1lIjoiQW5uIiwiY2l0eSI6IlJvbWUifQ==";

impl Dialect {
    /// A request that stores something. The number makes the keys differ, where the client chooses them.
    pub fn write(self, number: usize) -> Vec<u8> {
        match self {
            Self::Duality => requests::post(STORED),
            Self::DurableStreams => request("POST", "/persons", STORED),
            Self::Etcd => {
                // The key is base64 as well: eight digits of its alphabet are six bytes.
                request(
                    "POST",
                    "/v3/kv/put",
                    &format!(r#"{{"key":"{:08}","value":"{STORED_IN_BASE64}"}}"#, number % 100_000),
                )
            }
            Self::Nats => format!("PUB persons answers.{number} {}\r\n{STORED}\r\n", STORED.len()).into_bytes(),
        }
    }

    /// The status of an answer to it.
    pub fn written(self) -> u16 {
        match self {
            Self::Duality => 201,
            Self::DurableStreams => 204,
            Self::Etcd | Self::Nats => 200,
        }
    }

    /// A request that is answered with everything that is stored from now on.
    pub fn follow(self) -> Vec<u8> {
        match self {
            Self::Duality => {
                b"GET /person-events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nX-Revision: 1\r\n\r\n"
                    .into()
            }
            Self::DurableStreams => requests::get("/persons?offset=now&live=sse"),
            // From the first key on.
            Self::Etcd => request("POST", "/v3/watch", r#"{"create_request":{"key":"AA==","range_end":"AA=="}}"#),
            Self::Nats => b"CONNECT {\"verbose\":false}\r\nSUB persons 1\r\n".into(),
        }
    }

    /// What is once in what a listener gets for each write.
    pub fn mark(self) -> &'static [u8] {
        match self {
            Self::Etcd => STORED_IN_BASE64.as_bytes(),
            _ => br#""Ann""#,
        }
    }

    /// What has to be there before the first write.
    pub fn prepare(self) -> Option<Vec<u8>> {
        match self {
            Self::Duality | Self::Etcd => None,
            Self::DurableStreams => Some(request("PUT", "/persons", "")),
            Self::Nats => {
                let stream = r#"{"name":"persons","subjects":["persons"],"storage":"file"}"#;
                let length = stream.len();
                Some(format!("PUB $JS.API.STREAM.CREATE.persons answers.0 {length}\r\n{stream}\r\n").into_bytes())
            }
        }
    }
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// This service, and those of the others that are on the `PATH`.
pub fn installed() -> Vec<Peer> {
    let (others, missing): (Vec<Peer>, Vec<Peer>) = others().into_iter().partition(|peer| {
        let program = (peer.command)(Path::new("."), SocketAddr::from(([127, 0, 0, 1], 0))).swap_remove(0);
        Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    });
    for Peer { name, .. } in missing {
        eprintln!("{name} is not installed: NOT MEASURED");
    }
    std::iter::once(duality()).chain(others).collect()
}

fn duality() -> Peer {
    Peer {
        name: "duality",
        does: "a write is a person, a location that is derived from it, two change events and a revision, in one \
               transaction that is on the disk; a listener can go on from any revision",
        dialect: Dialect::Duality,
        command: |directory, address| {
            let (binary, database) = (process::release_binary(), directory.join("peers.db"));
            let (binary, database, listen) =
                (binary.display().to_string(), database.display().to_string(), address.to_string());
            [&binary, "--listen", &listen, "--database", &database, "--max-sessions-per-address", "20000"]
                .map(str::to_owned)
                .into()
        },
    }
}

fn others() -> [Peer; 3] {
    [
        Peer {
            name: "durable-streams",
            does: "a write is appended to one log that is on the disk; there is no state, and nothing is derived; a \
                   listener can go on from any offset",
            dialect: Dialect::DurableStreams,
            command: |directory, address| {
                let (port, directory) = (address.port().to_string(), directory.display().to_string());
                ["durable-streams-server", "--port", &port, "--data-dir", &directory].map(str::to_owned).into()
            },
        },
        Peer {
            name: "etcd",
            does: "a write is a key with its value and a revision, on the disk of one member, over its JSON gateway; \
                   nothing is derived; a listener can go on from any revision that is not compacted",
            dialect: Dialect::Etcd,
            command: |directory, address| {
                let (own, peer) = (format!("http://{address}"), format!("http://{}", free_address()));
                let directory = directory.display().to_string();
                let places = ["--listen-client-urls", &own, "--advertise-client-urls", &own];
                let peers = ["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer];
                let cluster = format!("default={peer}");
                ["etcd", "--data-dir", &directory, "--initial-cluster", &cluster]
                    .into_iter()
                    .chain(places)
                    .chain(peers)
                    .map(str::to_owned)
                    .collect()
            },
        },
        Peer {
            name: "NATS JetStream",
            does: "a write is appended to one log, and answered before it is on the disk; there is no state; a listener \
                   is a plain subscription, which cannot go on after a disconnect",
            dialect: Dialect::Nats,
            command: |directory, address| {
                let (port, directory) = (address.port().to_string(), directory.display().to_string());
                ["nats-server", "-a", "127.0.0.1", "-p", &port, "-js", "-sd", &directory].map(str::to_owned).into()
            },
        },
    ]
}

impl Peer {
    /// Starts it with empty data in a directory, and waits until it accepts connections.
    pub fn start(&self, directory: &Path) -> Process {
        let address = free_address();
        let words = (self.command)(directory, address);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let process = Process { child, address };
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        process
    }
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
