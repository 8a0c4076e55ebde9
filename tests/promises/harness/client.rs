//! A blocking HTTP/1.1 client on a bare socket, so that tests see the exact bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::DEADLINE;
use super::tls::{Authority, Encrypted};

/// The room for what a client has not read yet, in bytes. Some kernels take 32 MB otherwise, so that a client which does not
/// read makes nothing wait in the service.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// One keep-alive connection.
pub(crate) struct Client {
    socket: Socket,
    received: Vec<u8>,
}

/// A connection with or without TLS.
enum Socket {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

/// Both ways of a connection.
trait Bytes: Read + Write {}

impl<T: Read + Write> Bytes for T {}

impl Socket {
    fn bytes(&mut self) -> &mut dyn Bytes {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(socket) => &mut **socket,
        }
    }
}

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// All headers.
    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    #[track_caller]
    pub(crate) fn revision(&self) -> i64 {
        self.header("X-Revision").expect("X-Revision").parse().unwrap()
    }

    #[track_caller]
    pub(crate) fn cursor(&self) -> String {
        format!("{}.{}", self.header("X-Epoch").expect("X-Epoch"), self.revision())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The body of a problem, after checking its status and type.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("Content-Type"), Some("application/problem+json"));
        assert_eq!(self.header("Cache-Control"), Some("no-store"));
        let body = self.json();
        assert_eq!((&body["type"], &body["status"]), (&slug.into(), &status.into()), "{body}");
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        body
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).unwrap())
    }

    /// Connects, if anybody listens.
    pub(crate) fn try_connect(address: SocketAddr) -> Option<Self> {
        TcpStream::connect(address).ok().map(Self::on)
    }

    /// Connects from another address of this machine: 127.0.0.`host`.
    pub(crate) fn connect_from(host: u8, address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::on(socket.into())
    }

    /// Connects with TLS, to whoever has a certificate of this authority.
    pub(crate) fn connect_tls(address: SocketAddr, authority: &Authority) -> Self {
        Self::encrypt(TcpStream::connect(address).unwrap(), authority)
    }

    /// Speaks TLS on a connection.
    pub(crate) fn encrypt(socket: TcpStream, authority: &Authority) -> Self {
        let client = Self::on(socket);
        let Socket::Plain(socket) = client.socket else { unreachable!() };
        Self { socket: Socket::Tls(Box::new(authority.encrypt(socket))), received: Vec::new() }
    }

    fn on(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
        Self { socket: Socket::Plain(socket), received: Vec::new() }
    }

    /// A sample of `/metrics`; 0 if there is none.
    pub(crate) fn metric(address: SocketAddr, sample: &str) -> f64 {
        let metrics = Self::connect(address).request("GET", "/metrics", &[], None);
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The state at a path. `None` if nobody answers, or not with it.
    pub(crate) fn try_get(address: SocketAddr, path: &str) -> Option<Response> {
        let mut client = Self::on(TcpStream::connect(address).ok()?);
        client.try_send("GET", path, &[], None).ok()?;
        client.try_response("GET").ok().filter(|response| response.status == 200)
    }

    /// Sends a request; a body is sent with a `Content-Length`.
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) {
        self.try_send(method, path, headers, body).unwrap();
    }

    pub(crate) fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> std::io::Result<()> {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str("Host: localhost\r\n");
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        self.socket.bytes().write_all(&bytes)
    }

    /// Sends raw bytes.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.bytes().write_all(bytes).unwrap();
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Response {
        self.send(method, path, headers, body);
        self.response(method)
    }

    /// Reads the response to a request with this method.
    pub(crate) fn response(&mut self, method: &str) -> Response {
        self.try_response(method).unwrap()
    }

    pub(crate) fn try_response(&mut self, method: &str) -> std::io::Result<Response> {
        let response = self.head()?;
        if method == "HEAD" || response.status == 204 || response.status == 304 {
            return Ok(response);
        }
        self.try_rest(response)
    }

    /// Reads the body of a response whose head has been read.
    pub(crate) fn rest(&mut self, head: Response) -> Response {
        self.try_rest(head).unwrap()
    }

    fn try_rest(&mut self, mut response: Response) -> std::io::Result<Response> {
        if response.header("Transfer-Encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                response.body.extend_from_slice(&chunk);
            }
        } else {
            let length = response.header("Content-Length").map_or(0, |length| length.parse().unwrap());
            response.body = self.exactly(length)?;
        }
        Ok(response)
    }

    /// Reads the head of a response, but not its body.
    pub(crate) fn head(&mut self) -> std::io::Result<Response> {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.received, b"\r\n\r\n") {
                break end + 4;
            }
            self.receive()?;
        };
        let head = String::from_utf8(self.take(end)).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Response { status, headers, body: Vec::new() })
    }

    /// The next chunk of a chunked body; `None` at its end.
    pub(crate) fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let line = loop {
            if let Some(end) = self.received.windows(2).position(|window| window == b"\r\n") {
                break self.exactly(end + 2)?;
            }
            self.receive()?;
        };
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let mut chunk = self.exactly(size + 2)?;
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    /// Reads at most so many bytes, and keeps them for later.
    pub(crate) fn read_some(&mut self, bytes: usize) {
        let mut buffer = vec![0; bytes];
        let read = self.socket.bytes().read(&mut buffer).unwrap();
        assert!(read > 0, "the connection was cut");
        self.received.extend_from_slice(&buffer[..read]);
    }

    fn exactly(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        while self.received.len() < length {
            self.receive()?;
        }
        Ok(self.take(length))
    }

    /// The first bytes that were received. Copied at once: byte by byte, as an iterator does it in a debug build, large bodies
    /// would take longer here than in the service.
    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.received.split_off(length);
        std::mem::replace(&mut self.received, rest)
    }

    fn receive(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.socket.bytes().read(&mut buffer) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.received.extend_from_slice(&buffer[..read]);
                    return Ok(());
                }
                // A read with a timeout is not restarted automatically after the machine was suspended for a moment.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match &self.socket {
            Socket::Plain(socket) => socket,
            Socket::Tls(socket) => &socket.sock,
        }
    }

    /// The certificate that the service has shown; `None` without TLS.
    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        let Socket::Tls(socket) = &self.socket else { return None };
        socket.conn.peer_certificates().map(|chain| chain[0].to_vec())
    }
}
