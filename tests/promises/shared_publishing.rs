//! Services that share a `PostgreSQL` database and a stream of NATS JetStream: one of them publishes, and the others stand by.

use std::path::Path;

use crate::harness::nats::{NatsServer, Writer, check};
use crate::harness::{Client, Process, Random, eventually, kills, long_cases, shared_server};

const SERVICES: usize = 3;

/// Services with files of their own, which may be ended one by one.
struct Services {
    url: String,
    broker: String,
    directory: tempfile::TempDir,
    started: usize,
    running: Vec<Process>,
}

impl Drop for Services {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.running.iter().for_each(|service| eprintln!("a service: {}", service.log()));
        }
    }
}

impl Services {
    fn start(url: String, broker: &NatsServer) -> Self {
        let (directory, broker) = (crate::harness::directory(), broker.url());
        let mut services = Self { url, broker, directory, started: 0, running: Vec::new() };
        services.resume();
        services
    }

    /// Starts as many as are missing.
    fn resume(&mut self) {
        while self.running.len() < SERVICES {
            let files = self.directory.path().join(format!("node-{}", self.started));
            let flags = ["--publish", &self.broker, "--poll-interval", "50ms", "--files", files.to_str().unwrap()];
            self.running.push(Process::start(Path::new(&self.url), &flags));
            self.started += 1;
        }
    }

    fn write(&self, writer: &mut Writer, random: &mut Random, times: u32) {
        let mut clients: Vec<_> = self.running.iter().map(|service| Client::connect(service.address)).collect();
        for _ in 0..times {
            let at = usize::try_from(random.below(clients.len() as u64)).unwrap();
            writer.write(&mut clients[at]).unwrap();
        }
    }

    /// The one that publishes an output.
    fn publisher(&self, output: &str) -> usize {
        let mut publisher = None;
        eventually("one publishes, and the others stand by", || {
            let standing_by = format!("duality_publish_standing_by{{output=\"{output}\"}}");
            let is_standing_by = |service: &Process| Client::metric(service.address, &standing_by) == 1.0;
            let publishing: Vec<_> = (0..self.running.len()).filter(|at| !is_standing_by(&self.running[*at])).collect();
            publisher = publishing.first().copied();
            publishing.len() == 1
        });
        publisher.unwrap()
    }
}

#[test]
fn one_of_several_services_publishes_and_another_one_goes_on_when_it_is_killed_or_frozen() {
    let (Some(server), Some(broker)) = (shared_server(), NatsServer::start()) else { return };
    let mut services = Services::start(server.new_database(), &broker);
    let (mut writer, mut random) = (Writer::new(7), Random::new(7));
    let output = |round: u32| ["changes", "journal"][usize::try_from(round % 2).unwrap()];
    for round in 0..kills() + 1 {
        let writes = long_cases(200);
        services.write(&mut writer, &mut random, writes);
        let publisher = services.publisher(output(round));
        if round % 3 == 2 {
            services.running[publisher].signal("STOP");
            let frozen = services.running.remove(publisher);
            services.write(&mut writer, &mut random, writes);
            check(&broker, services.running[0].address);
            frozen.signal("CONT");
            services.running.push(frozen);
        } else {
            services.running.remove(publisher).kill();
        }
        services.write(&mut writer, &mut random, writes);
        services.resume();
        let (changes, journal) = check(&broker, services.running[0].address);
        assert!(changes.is_original() && journal.is_original(), "nothing was ever published again");
    }
    // Those that stand by do all of their work.
    let publisher = services.publisher("changes");
    for (at, service) in services.running.iter().enumerate().filter(|(at, _)| *at != publisher) {
        let health = Client::connect(service.address).request("GET", "/healthz", &[], None);
        assert_eq!(health.json()["reasons"], serde_json::json!([]), "{at}: {}", health.text());
    }
}
