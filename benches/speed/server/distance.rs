//! A server that is further away: each direction takes a while longer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How much longer each direction takes.
const ONE_WAY: Duration = Duration::from_micros(1500);

/// What a writer calls itself when it connects.
const WRITER: &[u8] = b"\0duality write\0";

/// A proxy in front of a socket. Its threads end with the program.
pub struct Distance {
    pub address: SocketAddr,
    round_trips: Arc<AtomicU64>,
}

impl Distance {
    pub fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, round_trips) = (listener.local_addr().unwrap(), Arc::<AtomicU64>::default());
        let counted = Arc::clone(&round_trips);
        thread::spawn(move || {
            for near in listener.incoming() {
                forward(near.unwrap(), &socket, &counted);
            }
        });
        Self { address, round_trips }
    }

    /// The URL of a database, from here.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://duality@{}/{name}", self.address)
    }

    /// How often a writer has sent something after the answer to what it sent before.
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }
}

fn forward(near: TcpStream, socket: &Path, round_trips: &Arc<AtomicU64>) {
    near.set_nodelay(true).unwrap();
    let far = UnixStream::connect(socket).unwrap();
    let (near_again, far_again) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let is_asking = Arc::new(AtomicBool::new(false));
    let (asked, round_trips) = (Arc::clone(&is_asking), Arc::clone(round_trips));
    let mut is_writer = false;
    let end_far = |far: &mut UnixStream| drop(far.shutdown(Shutdown::Both));
    pump(near, far, end_far, move |piece| {
        is_writer |= piece.windows(WRITER.len()).any(|name| name == WRITER);
        if is_writer && !asked.swap(true, Ordering::Relaxed) {
            round_trips.fetch_add(1, Ordering::Relaxed);
        }
    });
    let end_near = |near: &mut TcpStream| drop(near.shutdown(Shutdown::Both));
    pump(far_again, near_again, end_near, move |_| is_asking.store(false, Ordering::Relaxed));
}

/// Passes on what arrives, so much later, in its order, and calls `note` for each piece.
fn pump<From: Read + Send + 'static, To: Write + Send + 'static>(
    mut from: From,
    mut to: To,
    end: impl FnOnce(&mut To) + Send + 'static,
    mut note: impl FnMut(&[u8]) + Send + 'static,
) {
    let (sender, pieces) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            note(&buffer[..read]);
            if sender.send((Instant::now() + ONE_WAY, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, piece) in pieces {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        end(&mut to);
    });
}
