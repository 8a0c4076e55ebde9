//! Whatever happens to the service, to the broker and to their files: the streams of the broker become exact again, and so
//! does every copy that follows them.

use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::harness::nats::{Consumer, Copy, NatsServer, Writer, check, check_consumers};
use crate::harness::{Client, Process, Random, cases, kills, lasting_address};

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(service) = &self.service
        {
            eprintln!("the service: {}", service.log());
        }
    }
}

/// A service as a process, which restarts on the same port, and its broker.
struct Pair {
    directory: TempDir,
    broker: NatsServer,
    address: SocketAddr,
    service: Option<Process>,
    writer: Writer,
    consumers: Vec<Consumer>,
}

impl Pair {
    fn start(seed: u64) -> Option<Self> {
        let broker = NatsServer::start()?;
        let (directory, writer) = (crate::harness::directory(), Writer::new(seed));
        let mut pair =
            Self { directory, broker, address: lasting_address(), service: None, writer, consumers: Vec::new() };
        pair.resume();
        Some(pair)
    }

    fn database(&self) -> PathBuf {
        self.directory.path().join("test.db")
    }

    /// Starts what does not run.
    fn resume(&mut self) {
        if !self.broker.is_running() {
            self.broker.resume();
        }
        if self.service.is_none() {
            let flags = ["--publish", &self.broker.url(), "--poll-interval", "50ms"];
            self.service = Some(Process::start_on(self.address, &self.database(), &flags));
        }
    }

    fn write(&mut self, times: u32) {
        let mut client = Client::connect(self.address);
        for _ in 0..times {
            self.writer.write(&mut client).unwrap();
        }
    }

    /// Another consumer, of everything or of one collection.
    fn follow(&mut self) {
        let path = ["/aggregates", "/persons", "/locations", "/carts"][self.consumers.len() % 4];
        self.consumers.push(Consumer::start(path, self.address, self.broker.address, Copy::default()));
    }
}

#[test]
fn the_streams_and_their_consumers_are_exact_after_kills_of_the_service_and_of_the_broker() {
    let Some(mut pair) = Pair::start(1) else { return };
    let mut random = Random::new(1);
    for round in 0..kills() {
        let writes = cases(1000) / kills() + 1;
        let before = u32::try_from(random.below(writes.into())).unwrap();
        pair.write(before);
        if round < 8 {
            pair.follow();
        }
        if round % 3 != 0 {
            pair.broker.kill();
        }
        // Some are written while the broker is away.
        pair.write(writes - before);
        if round % 3 != 1 {
            pair.service.take().unwrap().kill();
        }
        pair.resume();
        check(&pair.broker, pair.address);
        check_consumers(&pair.consumers, pair.address);
    }
}
