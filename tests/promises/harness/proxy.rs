//! Between a service and a `PostgreSQL` server: cuts the connection of the writer after a message of the protocol.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToService,
}

/// A message of a writer does not arrive, and its connection ends: after this many others this way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) way: Way,
    pub(crate) after: usize,
}

/// The cuts that are still to come, one after the other.
type Armed = Arc<Mutex<VecDeque<Cut>>>;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    armed: Armed,
}

impl Proxy {
    /// It runs until the process ends.
    pub(crate) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let armed = Armed::default();
        let proxy = Self { address, armed: Arc::clone(&armed) };
        std::thread::spawn(move || {
            for service in listener.incoming() {
                // The server may be away for a moment.
                let (Ok(service), Ok(server)) = (service, TcpStream::connect(server)) else { continue };
                let armed = Arc::clone(&armed);
                std::thread::spawn(move || carry(service, server, &armed));
            }
        });
        proxy
    }

    /// The database of a server, by way of this.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("postgres://duality@{}/{name}?sslmode=disable&gssencmode=disable", self.address)
    }

    /// Cuts connections from now on, whichever is the first one that carries so many messages: the first cut, and then those
    /// after it.
    pub(crate) fn cut(&self, cuts: &[Cut]) {
        *self.armed.lock().unwrap() = cuts.iter().copied().collect();
    }

    /// Cuts nothing any more. Returns the number of cuts that were still to come.
    pub(crate) fn disarm(&self) -> usize {
        std::mem::take(&mut *self.armed.lock().unwrap()).len()
    }
}

/// Carries the messages of a connection both ways, until it ends.
fn carry(mut service: TcpStream, mut server: TcpStream, armed: &Armed) {
    // Each message is sent on its own. Otherwise the second one would wait for the receipt of the first.
    [&service, &server].into_iter().for_each(|socket| socket.set_nodelay(true).unwrap());
    // The first message has no type: a length, and then what the session is for.
    let Some(first) = message(&mut service, 0) else { return };
    if server.write_all(&first).is_err() {
        return;
    }
    let writes = memchr::memmem::find(&first, b"duality write").is_some();
    let ways =
        [(service.try_clone().unwrap(), server.try_clone().unwrap(), Way::ToServer), (server, service, Way::ToService)];
    for (mut from, mut to, way) in ways {
        let armed = Arc::clone(armed);
        std::thread::spawn(move || {
            while let Some(message) = message(&mut from, 1) {
                if (writes && is_cut(&armed, way)) || to.write_all(&message).is_err() {
                    break;
                }
            }
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Counts a message; whether it is lost, and the connection with it.
fn is_cut(armed: &Armed, this_way: Way) -> bool {
    let mut armed = armed.lock().unwrap();
    match armed.front_mut() {
        Some(Cut { way, after: 0 }) if *way == this_way => armed.pop_front().is_some(),
        Some(Cut { way, after }) if *way == this_way => {
            *after -= 1;
            false
        }
        _ => false,
    }
}

/// The next message, whose length is after its type.
fn message(from: &mut TcpStream, type_bytes: usize) -> Option<Vec<u8>> {
    let mut message = vec![0; type_bytes + 4];
    from.read_exact(&mut message).ok()?;
    let length = u32::from_be_bytes(message[type_bytes..].try_into().unwrap());
    let head = message.len();
    message.resize(type_bytes + usize::try_from(length).unwrap(), 0);
    from.read_exact(&mut message[head..]).ok()?;
    Some(message)
}
