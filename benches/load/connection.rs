//! One persistent HTTP/1.1 connection.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection, and the bytes that were read from it but not parsed yet.
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A response, of whose body only the length is kept.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// `X-Revision`, or 0 if it is missing.
    pub revision: i64,
    /// The last segment of `Location`, or an empty string.
    pub key: String,
    /// The length of the body in bytes.
    pub length: usize,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::with_capacity(256 * 1024) }
    }

    /// Sends a request and reads the whole response.
    pub async fn exchange(&mut self, request: &[u8]) -> Answer {
        self.stream.write_all(request).await.unwrap();
        let head = self.until(b"\r\n\r\n").await;
        let text = std::str::from_utf8(&self.unread[..head]).unwrap();
        let mut answer = Answer {
            status: text[9..12].parse().unwrap(),
            revision: header(text, "x-revision").map_or(0, |revision| revision.parse().unwrap()),
            key: header(text, "location").and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned(),
            length: 0,
        };
        let (length, chunked) = (header(text, "content-length"), header(text, "transfer-encoding").is_some());
        let length = length.map_or(0, |length| length.parse().unwrap());
        self.unread.drain(..head);
        if chunked {
            answer.length = self.chunks().await;
        } else {
            self.skip(length).await;
            answer.length = length;
        }
        answer
    }

    /// Reads until `end` has arrived, and returns the offset after it.
    async fn until(&mut self, end: &[u8]) -> usize {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return at + end.len();
            }
            self.more().await;
        }
    }

    async fn more(&mut self) {
        let read = self.stream.read_buf(&mut self.unread).await.unwrap();
        assert_ne!(read, 0, "the connection was closed within a response");
    }

    /// Skips this many bytes.
    async fn skip(&mut self, mut bytes: usize) {
        loop {
            let known = self.unread.len().min(bytes);
            self.unread.drain(..known);
            bytes -= known;
            if bytes == 0 {
                return;
            }
            self.more().await;
        }
    }

    /// Skips a chunked body, and returns its length.
    async fn chunks(&mut self) -> usize {
        let mut length = 0;
        loop {
            let line = self.until(b"\r\n").await;
            let size = std::str::from_utf8(&self.unread[..line - 2]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            self.skip(line + size + 2).await;
            length += size;
            if size == 0 {
                return length;
            }
        }
    }
}

/// The value of a header; names are case-insensitive.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
