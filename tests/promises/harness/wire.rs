//! A client of a `PostgreSQL` server that sends single messages of its protocol, and stops wherever a test wants it to.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use socket2::Socket;

/// One connection.
pub(crate) struct Wire {
    socket: Socket,
}

impl Wire {
    /// Connects over the socket in the directory that the URL of a database names, with a name for this connection.
    pub(crate) fn connect(url: &str, name: &str) -> Self {
        let (place, parameters) = url.strip_prefix("postgres:///").unwrap().split_once('?').unwrap();
        let directory = parameters.split('&').find_map(|parameter| parameter.strip_prefix("host=")).unwrap();
        let socket = UnixStream::connect(format!("{directory}/.s.PGSQL.5432")).unwrap();
        Self::start(socket.into(), place, name)
    }

    /// Connects to a database of a server that listens at an address.
    pub(crate) fn connect_to(server: SocketAddr, database: &str, name: &str) -> Self {
        Self::start(TcpStream::connect(server).unwrap().into(), database, name)
    }

    fn start(socket: Socket, database: &str, name: &str) -> Self {
        socket.set_read_timeout(Some(super::DEADLINE)).unwrap();
        let mut wire = Self { socket };
        let parameters = format!("user\0duality\0database\0{database}\0application_name\0{name}\0\0");
        let version = 196_608_u32.to_be_bytes();
        wire.send(&[], &[&version[..], parameters.as_bytes()].concat());
        wire.read_until(b'Z');
        wire
    }

    /// Executes statements to their end.
    pub(crate) fn execute(&mut self, sql: &str) {
        self.send(b"Q", format!("{sql}\0").as_bytes());
        self.read_until(b'Z');
    }

    /// Executes a statement, and does not send the message that ends its transaction.
    pub(crate) fn execute_without_end(&mut self, sql: &str) {
        self.send(b"P", format!("\0{sql}\0\0\0").as_bytes());
        self.send(b"B", &[0; 8]);
        self.send(b"E", &[0; 5]);
        // Answers, but ends nothing.
        self.send(b"H", &[]);
        self.read_until(b'C');
    }

    /// Whether the server has ended the connection.
    pub(crate) fn has_ended(mut self) -> bool {
        // One that has not is ready for the next query.
        self.send(b"S", &[]);
        loop {
            match self.message() {
                Ok((b'Z', _)) => return false,
                Ok(_) => {}
                Err(error) => {
                    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the server says nothing");
                    return true;
                }
            }
        }
    }

    /// The next message: its kind and its content.
    fn message(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.socket.read_exact(&mut head)?;
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        self.socket.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    fn send(&mut self, kind: &[u8], body: &[u8]) {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        // The other side may be gone.
        let _ = self.socket.write_all(&[kind, &length[..], body].concat());
    }

    /// Reads messages up to one of this kind.
    #[track_caller]
    fn read_until(&mut self, kind: u8) {
        loop {
            let (found, body) = self.message().unwrap();
            assert_ne!(found, b'E', "{}", String::from_utf8_lossy(&body));
            if found == kind {
                return;
            }
        }
    }
}
