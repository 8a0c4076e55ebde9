//! A bad line to a broker.

use std::io::{Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::lasting_address;

/// Forwards connections, and cuts the one that has sent a certain number of bytes.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// How many bytes are forwarded until the next cut.
    left: Arc<AtomicUsize>,
}

/// No cut.
const NEVER: usize = usize::MAX;

/// So many bytes are forwarded at once, so that a cut can be anywhere, and the line is slow.
const PIECE: usize = 256;

impl Proxy {
    pub(crate) fn start(broker: SocketAddr) -> Self {
        let (address, left) = (lasting_address(), Arc::new(AtomicUsize::new(NEVER)));
        let listener = TcpListener::bind(address).unwrap();
        let shared = Arc::clone(&left);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok((client, server)) = client.and_then(|client| Ok((client, TcpStream::connect(broker)?))) else {
                    continue;
                };
                let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || forward(from, to, |_| true));
                let left = Arc::clone(&shared);
                std::thread::spawn(move || forward(client, server, |bytes| take(&left, bytes)));
            }
        });
        Self { address, left }
    }

    /// Cuts the connection that has the byte after so many more.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// Whether the cut has happened.
    pub(crate) fn has_cut(&self) -> bool {
        self.left.load(Ordering::SeqCst) == NEVER
    }
}

/// Counts bytes that are to be forwarded. `false` if it is time for the cut.
fn take(left: &AtomicUsize, bytes: usize) -> bool {
    let counted = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
        NEVER => Some(NEVER),
        left => left.checked_sub(bytes),
    });
    if counted.is_err() {
        left.store(NEVER, Ordering::SeqCst);
    }
    counted.is_ok()
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut may_pass: impl FnMut(usize) -> bool) {
    let mut piece = [0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        let passes = may_pass(read);
        // A part of the last piece arrives.
        let passed = if passes { read } else { read / 2 };
        if to.write_all(&piece[..passed]).is_err() || !passes {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
