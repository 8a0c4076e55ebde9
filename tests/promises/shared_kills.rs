//! Services that share a `PostgreSQL` database lose nothing that was answered, and do nothing twice, whatever ends: one of
//! them, the server, or the connections between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::harness::{
    Client, Cluster, Cut, Marked, Outcome, Process, Proxy, Random, Way, assert_agrees, eventually, kills, pause,
};

/// The services, which writers and readers reach through their place.
const SERVICES: usize = 3;

/// What ends in a round.
#[derive(Debug, Clone, Copy)]
enum End {
    /// As by `kill -9`.
    Service,
    /// As by a loss of power.
    Server,
    /// The connections of writers, after some message.
    Messages,
    /// The processes of the server for single connections.
    Backends,
}

const ENDS: [End; 4] = [End::Service, End::Server, End::Messages, End::Backends];

/// Services on one database, all behind one proxy.
struct Shop {
    cluster: Cluster,
    proxy: Proxy,
    directory: tempfile::TempDir,
    services: Vec<Process>,
    random: Random,
    /// Services that have been started, for the names of their files.
    started: usize,
}

/// What clients share in a round.
struct Round<'a> {
    number: u32,
    addresses: &'a [Mutex<SocketAddr>],
    /// How many commands were answered with what they have done.
    answered: AtomicU64,
    /// The last revision of an answer to a change of the first person.
    revision: AtomicI64,
    is_over: AtomicBool,
}

impl Shop {
    fn open(cluster: Cluster) -> Self {
        let (proxy, directory) = (Proxy::before(cluster.address()), crate::harness::directory());
        let random = Random::new(u64::from(kills()));
        let mut shop = Self { cluster, proxy, directory, services: Vec::new(), random, started: 0 };
        for _ in 0..SERVICES {
            let service = shop.start();
            shop.services.push(service);
        }
        shop
    }

    fn start(&mut self) -> Process {
        self.started += 1;
        let files: PathBuf = self.directory.path().join(format!("node-{}", self.started));
        let url = self.proxy.url("shop");
        Process::start(Path::new(&url), &["--files", files.to_str().unwrap(), "--poll-interval", "20ms"])
    }

    /// Ends something while clients write and read, several times if that is soon done.
    fn end(&mut self, end: End, round: &Round<'_>) {
        let times = if matches!(end, End::Service | End::Server) { 1 } else { 5 };
        for _ in 0..times {
            round.wait_for(1 + self.random.below(30), end);
            match end {
                End::Service => {
                    let place = usize::try_from(self.random.below(SERVICES as u64)).unwrap();
                    let next = self.start();
                    let killed = std::mem::replace(&mut self.services[place], next);
                    killed.kill();
                    *round.addresses[place].lock().unwrap() = self.services[place].address;
                }
                End::Server => {
                    self.cluster.stop_at_once();
                    self.cluster.resume();
                }
                End::Messages => {
                    let way = *self.random.one_of(&[Way::ToServer, Way::ToService]);
                    let cuts =
                        [10, 40].map(|limit| Cut { way, after: usize::try_from(self.random.below(limit)).unwrap() });
                    self.proxy.cut(&cuts);
                }
                End::Backends => {
                    let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                               WHERE application_name LIKE 'duality%'";
                    self.cluster.execute("shop", all);
                }
            }
        }
        round.wait_for(20, end);
        self.proxy.disarm();
    }
}

impl Round<'_> {
    /// Waits for this many answers.
    #[track_caller]
    fn wait_for(&self, number: u64, end: End) {
        let before = self.answered.load(Ordering::Acquire);
        eventually(&format!("{number} more answers in round {} of {end:?}", self.number), || {
            self.answered.load(Ordering::Acquire) >= before + number
        });
    }

    /// A client of the service in this place, as soon as there is one.
    fn client(&self, place: usize) -> Option<Client> {
        while !self.is_over.load(Ordering::Acquire) {
            let address = *self.addresses[place].lock().unwrap();
            if let Some(client) = Client::try_connect(address) {
                return Some(client);
            }
            pause();
        }
        None
    }

    /// Counts what was done, and leaves the processors to others after anything else.
    fn count(&self, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.answered.fetch_add(1, Ordering::AcqRel);
            }
            Outcome::NotDone | Outcome::Unknown => pause(),
        }
    }

    /// Sends commands to one service, one after the other, each once.
    fn send_once(&self, place: usize, send: impl Fn(&mut Client, &str) -> Marked) -> Vec<Marked> {
        let (mut connection, mut all) = (self.client(place), Vec::new());
        while let Some(client) = &mut connection
            && !self.is_over.load(Ordering::Acquire)
        {
            let marked = send(client, &format!("mark-{}-{place}-{}-", self.number, all.len()));
            self.count(marked.outcome);
            if marked.outcome == Outcome::Unknown {
                connection = self.client(place);
            }
            all.push(marked);
        }
        all
    }

    /// Sends commands with a key, each to one service after the other until one has done it.
    fn send_until_done(&self, first: usize) -> Vec<Marked> {
        let (mut place, mut connection, mut all) = (first, self.client(first), Vec::<Marked>::new());
        let mut before = None;
        while let Some(client) = &mut connection {
            let mark = format!("mark-{}-key-{first}-{}-", self.number, all.len());
            let mut marked = Marked::post(client, &mark, &[("Idempotency-Key", &format!("\"{mark}\""))]);
            self.count(marked.outcome);
            // Whoever was not certain before is not certain after a refusal.
            if marked.outcome == Outcome::NotDone && before == Some(Outcome::Unknown) {
                marked.outcome = Outcome::Unknown;
            }
            let is_over = self.is_over.load(Ordering::Acquire);
            if marked.outcome == Outcome::Done || is_over {
                before = None;
                all.push(marked);
                if is_over {
                    break;
                }
                continue;
            }
            before = Some(marked.outcome);
            place = (place + 1) % SERVICES;
            let next = self.client(place);
            if next.is_none() {
                all.push(marked);
            }
            connection = next;
        }
        all
    }

    /// Reads what one writer changes: a read that begins after an answer shows at least that. Returns the number of reads that
    /// had it already.
    fn read(&self, place: usize) -> usize {
        let (mut tag, mut known) = ("\"0\"".to_owned(), 0);
        let mut connection = self.client(place);
        while let Some(client) = &mut connection
            && !self.is_over.load(Ordering::Acquire)
        {
            let answered = self.revision.load(Ordering::Acquire);
            let sent = client.try_send("GET", "/persons/1", &[("If-None-Match", &tag)], None);
            let Ok(read) = sent.and_then(|()| client.try_response("GET")) else {
                connection = self.client(place);
                continue;
            };
            match read.status {
                200 | 304 => {
                    assert!(read.revision() >= answered, "{} after {answered}: {read:?}", read.revision());
                    known += usize::from(read.status == 304);
                    read.header("ETag").unwrap().clone_into(&mut tag);
                }
                503 => pause(),
                status => panic!("{status}: {} of {place}", read.text()),
            }
        }
        known
    }

    /// Changes what readers read.
    fn change(&self, client: &mut Client, mark: &str) -> Marked {
        let marked = Marked::patch(client, "/persons/1", mark);
        if let Some(revision) = marked.revision {
            self.revision.fetch_max(revision, Ordering::AcqRel);
        }
        marked
    }
}

#[test]
fn nothing_answered_is_lost_and_nothing_is_done_twice_whatever_ends() {
    let Some(cluster) = Cluster::start() else { return };
    let mut shop = Shop::open(cluster);
    let first = Marked::post(&mut Client::connect(shop.services[0].address), "mark-first-", &[]);
    let (mut all, mut known) = (vec![first], 0);
    for number in 0..kills() {
        let end = ENDS[usize::try_from(number).unwrap() % ENDS.len()];
        let addresses: Vec<_> = shop.services.iter().map(|service| Mutex::new(service.address)).collect();
        let (answered, revision, is_over) = (AtomicU64::new(0), AtomicI64::new(0), AtomicBool::new(false));
        let round = Round { number, addresses: &addresses, answered, revision, is_over };
        std::thread::scope(|scope| {
            let round = &round;
            let mut writers: Vec<_> = (0..SERVICES)
                .map(|place| {
                    scope.spawn(move || round.send_once(place, |client, mark| Marked::post(client, mark, &[])))
                })
                .collect();
            writers.extend((0..2).map(|place| scope.spawn(move || round.send_until_done(place))));
            // Whatever ends, one of them goes on.
            let change = |client: &mut Client, mark: &str| round.change(client, &mark.replace("mark", "change"));
            writers.push(scope.spawn(move || round.send_once(2, change)));
            let readers: Vec<_> = (0..2).map(|place| scope.spawn(move || round.read(place))).collect();
            shop.end(end, round);
            round.is_over.store(true, Ordering::Release);
            all.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
            for (reader, service) in readers.into_iter().zip(&shop.services) {
                known += reader.join().unwrap_or_else(|_| panic!("{}", service.log()));
            }
        });
    }
    let outcomes = |outcome| all.iter().filter(|marked| marked.outcome == outcome).count();
    let (done, not_done, unknown) = (outcomes(Outcome::Done), outcomes(Outcome::NotDone), outcomes(Outcome::Unknown));
    println!("{done} done, {not_done} not done, {unknown} unknown, {known} times 304");
    assert!(done > 100 && known > 0);
    for service in &shop.services {
        let revisions = assert_agrees(service.address, &all);
        let batches = shop.cluster.execute("shop", "SELECT sum(last - first + 1) FROM batches WHERE last >= first");
        assert_eq!(batches, revisions.to_string(), "each revision is of one batch");
    }
}
