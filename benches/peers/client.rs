//! One connection that writes: HTTP, or the text protocol of NATS.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::load::connection::Connection;
use super::peer::{Dialect, Peer};

pub struct Client {
    dialect: Dialect,
    connection: Either,
}

enum Either {
    Http(Connection),
    Nats(Nats),
}

impl Client {
    /// Opens a connection, and makes what has to be there before the first write.
    pub async fn open(peer: &Peer, address: SocketAddr) -> Self {
        let connection = match peer.dialect {
            Dialect::Nats => Either::Nats(Nats::open(address).await),
            _ => Either::Http(Connection::open(address).await),
        };
        let mut client = Self { dialect: peer.dialect, connection };
        if let Some(first) = peer.dialect.prepare() {
            client.exchange(&first).await;
        }
        client
    }

    /// Writes once, and waits until that is answered.
    pub async fn write(&mut self, number: usize) {
        let status = self.exchange(&self.dialect.write(number)).await;
        assert_eq!(status, self.dialect.written(), "a write was refused");
    }

    async fn exchange(&mut self, request: &[u8]) -> u16 {
        match &mut self.connection {
            Either::Http(connection) => connection.exchange(request).await.status,
            Either::Nats(nats) => nats.exchange(request).await,
        }
    }
}

/// A connection whose requests name a subject for the answer, to which it has subscribed.
struct Nats {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Nats {
    async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"CONNECT {\"verbose\":false}\r\n").await.unwrap();
        Self { stream, unread: Vec::new() }
    }

    /// Returns 200 for an acknowledgement, 500 for an error.
    async fn exchange(&mut self, request: &[u8]) -> u16 {
        let words: Vec<&str> = std::str::from_utf8(request).unwrap().split([' ', '\r']).collect();
        // Once each: the subscription ends with the first message.
        let subscribed = format!("SUB {} 7\r\nUNSUB 7 1\r\n", words[2]);
        self.stream.write_all(&[subscribed.as_bytes(), request].concat()).await.unwrap();
        loop {
            let text = String::from_utf8_lossy(&self.unread).into_owned();
            // `MSG <subject> 7 <bytes>`, and that many bytes.
            if let Some(at) = text.find("MSG ")
                && let Some((head, rest)) = text[at..].split_once("\r\n")
                && let Some(length) = head.rsplit(' ').next().and_then(|length| length.parse::<usize>().ok())
                && rest.len() >= length + 2
            {
                self.unread.clear();
                return if rest[..length].contains(r#""error""#) { 500 } else { 200 };
            }
            let read = self.stream.read_buf(&mut self.unread).await.unwrap();
            assert_ne!(read, 0, "the connection was closed");
        }
    }
}
